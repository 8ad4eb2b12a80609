//! Binding: a pod's assignment to a node, created only, stored never.

use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::facts::{CREATED_AT, Facts, NAME};
use crate::kinds::row::Row;

pub(super) struct Bindings;

impl Kind for Bindings {
    type Typed = core::Binding;
    const FACTS: Facts =
        Facts { verbs: &["create"], columns: &[NAME, CREATED_AT], ..Facts::new("", "v1", "bindings", "Binding") };

    fn validate(binding: &core::Binding, errors: &mut Errors) {
        let target = Path::new("target");
        if let Some(kind) = binding.target.kind.as_deref().filter(|k| !k.is_empty() && *k != "Node") {
            errors.not_supported(&target.child("kind"), kind, &["Node", "<empty>"]);
        }
        if binding.target.name.as_deref().unwrap_or("").is_empty() {
            errors.required(&target.child("name"), "");
        }
    }

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.created_at(object);
    }
}
