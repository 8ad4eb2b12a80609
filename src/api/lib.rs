//! The vocabulary of Kubernetes: what its resources are called, look like, default to and allow.
//! Pure: no I/O, no clock, no knowledge of who calls.
//!
//! Must not know: HTTP connections, the store, the API server, controllers.

pub mod decode;
pub mod duration;
pub mod field;
pub mod kinds;
pub mod metadata;
pub mod names;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod resource;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strategy;
pub mod taint;
pub mod yaml;

/// The typed Kubernetes API of the target version.
pub use k8s_openapi as k8s;
pub use object::{Meta, Object, ObjectKey};
pub use resource::{Gvk, Gvr};
pub use status::ApiError;
