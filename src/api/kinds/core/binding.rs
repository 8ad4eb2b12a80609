//! Binding: a pod's assignment to a node, created only, stored never.

use k8s_openapi::api::core::v1 as core;

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::facts::Facts;

pub(super) struct Bindings;

impl Kind for Bindings {
    type Typed = core::Binding;
    const FACTS: Facts = Facts { verbs: &["create"], ..Facts::new("", "v1", "bindings", "Binding") };

    fn validate(binding: &core::Binding, errors: &mut Errors) {
        let target = Path::new("target");
        if let Some(kind) = binding.target.kind.as_deref().filter(|k| !k.is_empty() && *k != "Node") {
            errors.not_supported(&target.child("kind"), kind, &["Node", "<empty>"]);
        }
        if binding.target.name.as_deref().unwrap_or("").is_empty() {
            errors.required(&target.child("name"), "");
        }
    }
}
