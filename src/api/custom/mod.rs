//! Custom resources: from a CustomResourceDefinition to the rows that the request path serves.
//!
//! Bottom-up: [`pattern`] and [`formats`] (texts), [`schema`] (the structural schema, read once and shared), then what is
//! done with it: [`prune`] (unknown fields, nulls, defaults), [`check`] (values, with upstream's sentences),
//! [`invariants`] (sets, maps, embedded objects), [`types`] (the facts for merging), [`columns`] (tables). [`strategy`] is
//! the hooks made of all that, [`definition`] reads a definition, [`conditions`] decides its names and conditions.
//!
//! Invariants: what a definition means follows from its bytes alone; a schema is read when the first object needs it and
//! no second time; a definition that was accepted never panics here, whatever its values are.
//!
//! Must not know: which other definitions there are (but for their names), requests, the store.

mod check;
mod columns;
pub mod conditions;
pub mod definition;
mod formats;
mod invariants;
pub(crate) mod pattern;
mod prune;
pub(crate) mod schema;
mod strategy;
#[cfg(test)]
mod tests_laws;
mod types;

pub(crate) use check::check;
pub(crate) use formats::is_known as is_known_format;
pub(crate) use invariants::embedded as check_embedded;
pub(crate) use prune::prune;
