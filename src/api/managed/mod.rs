//! Server-side apply: who owns which field of an object (`metadata.managedFields`), and how configurations merge.
//!
//! Bottom-up: [`element`] is a step of a path, [`set`] a tree of them in the form `fieldsV1`; [`shape`] says of a value at
//! its type whether it is owned as one or by its parts; [`fields`] gives the fields of a value and the difference of two;
//! [`merge`] puts a configuration into an object and takes fields out; [`check`] says what does not fit the type;
//! [`owners`] is the list in the metadata; [`write`] what a write does to it, [`entries`] the same for the most of them, which
//! leave most of the list as it is; [`manager`] the requests' rules around that
//! (resets, `before-first-apply`, kubectl's annotation), [`scale`] the view of the subresource.
//!
//! The semantics are those of upstream's structured-merge-diff; the types are [`crate::schema::Type`], so custom
//! resources differ from built-in kinds in nothing but their type.
//!
//! Invariants: applying twice is applying once; no field is owned that was not written; all walks are linear in the
//! object, but for the sorting of keyed lists; nothing here panics.
//!
//! Must not know: HTTP, strategies, the store.

mod check;
mod element;
mod entries;
mod fields;
mod manager;
mod merge;
mod owners;
mod scale;
mod set;
mod shape;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tests_laws;
#[cfg(test)]
mod tests_lists;
mod write;

pub use element::Element;
pub use fields::{Comparison, fields_of};
pub use manager::{Applying, Refused, apply, track};
pub use merge::merge;
pub use owners::{Operation, Owner, Owners, only_times_differ};
pub use scale::{to_parent, to_scale};
pub use set::{Set, path_text};
pub use shape::Typed;
pub use write::{Conflict, Versions, Writer};
