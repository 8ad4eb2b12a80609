//! The vocabulary of Kubernetes: what its resources are called, look like, default to and allow.
//! Pure: no I/O, no clock, no knowledge of who calls.
//!
//! Bottom-up:
//! - words: [`names`], [`quantity`], [`duration`], [`cron`], [`selector`], [`taint`]: one small grammar each, with upstream's
//!   sentences;
//! - [`downward`]: what a container may ask about its pod, as far as the object says it; [`node_selector`]: which nodes are meant;
//!   [`host_port`]: the ports of a node that a pod takes; [`volume`]: which persistent volumes and claims belong together;
//! - answers: [`status`] (what a failed request says), [`field`] (where in an object something is wrong, and how it is told);
//! - objects: [`resource`] (names of kinds), [`object`] (bytes at one revision, shared), [`metadata`] (rules all kinds share);
//! - facts: [`schema`] (fields of every type, made at build time), and what is read from it: [`decode`] and [`yaml`] (bytes to
//!   canonical values), [`patch`], [`openapi`], [`managed`] (server-side apply);
//! - kinds: [`strategy`] (one row of facts and hooks: the contract), [`kinds`] (the rows of the built-in ones), [`custom`] (those
//!   that a CustomResourceDefinition makes, with [`jsonpath`] for their columns).
//!
//! Invariants: a kind is a row plus hooks, so the request path knows none by name; hooks see dynamic values, and parse the
//! typed form at most once per check; defaults are idempotent; no input panics.
//!
//! Must not know: HTTP connections, the store, the API server, controllers.

pub mod cron;
pub mod custom;
pub mod decode;
pub mod downward;
pub mod duration;
pub mod field;
pub mod host_port;
pub mod jsonpath;
pub mod kinds;
pub mod managed;
pub mod metadata;
pub mod names;
pub mod node_selector;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod quota;
pub mod resource;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strategy;
pub mod taint;
pub mod volume;
pub mod yaml;

/// The typed Kubernetes API of the target version.
pub use k8s_openapi as k8s;
pub use object::{DecodeError, Meta, Object, ObjectKey};
pub use resource::{Gvk, Gvr, kind_text};
pub use status::ApiError;
