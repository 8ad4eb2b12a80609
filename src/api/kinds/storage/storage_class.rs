//! StorageClass.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::storage::v1 as storage;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{immutable, one_of_if_set, qualified_name};
use crate::kinds::facts::{AGE, Facts, NAME, text};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::Row;
use crate::kinds::warnings;

const IS_DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

pub(super) struct StorageClasses;

impl Kind for StorageClasses {
    type Typed = storage::StorageClass;
    const FACTS: Facts = Facts {
        short_names: &["sc"],
        namespaced: false,
        columns: &[
            NAME,
            text("Provisioner", "Who makes its volumes."),
            text("ReclaimPolicy", "What becomes of a volume whose claim is gone."),
            text("VolumeBindingMode", "When volumes are made and bound."),
            text("AllowVolumeExpansion", "Whether its volumes can grow."),
            AGE,
        ],
        ..Facts::new("storage.k8s.io", "v1", "storageclasses", "StorageClass")
    };

    fn default(class: &mut Value) {
        let Some(map) = class.as_object_mut() else { return };
        map.fill("reclaimPolicy", "Delete");
        map.fill("volumeBindingMode", "Immediate");
    }

    fn validate(class: &storage::StorageClass, errors: &mut Errors) {
        super::provisioner(&class.provisioner, &Path::new("provisioner"), errors);
        if let Some(parameters) = &class.parameters {
            super::parameters(parameters, &Path::new("parameters"), errors);
        }
        one_of_if_set(&class.reclaim_policy, &["Delete", "Retain"], &Path::new("reclaimPolicy"), errors);
        let modes = &["Immediate", "WaitForFirstConsumer"];
        one_of_if_set(&class.volume_binding_mode, modes, &Path::new("volumeBindingMode"), errors);
        topologies(class.allowed_topologies.as_deref().unwrap_or_default(), &Path::new("allowedTopologies"), errors);
    }

    fn validate_update(class: &storage::StorageClass, old: &storage::StorageClass, errors: &mut Errors) {
        immutable(&class.parameters, &old.parameters, &Path::new("parameters"), errors);
        immutable(&class.provisioner, &old.provisioner, &Path::new("provisioner"), errors);
        immutable(&class.reclaim_policy, &old.reclaim_policy, &Path::new("reclaimPolicy"), errors);
        immutable(&class.volume_binding_mode, &old.volume_binding_mode, &Path::new("volumeBindingMode"), errors);
    }

    fn warnings(class: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        for (i, topology) in class.list("allowedTopologies").iter().enumerate() {
            for (j, expression) in topology.list("matchLabelExpressions").iter().enumerate() {
                if let Some(what) = warnings::old_label(expression.text("key")) {
                    out.push(format!("allowedTopologies[{i}].matchLabelExpressions[{j}].key: {what}"));
                }
            }
        }
        out
    }

    fn cells(class: &Value, row: &mut Row) {
        let annotations = class.at("metadata.annotations");
        let is_default = IS_DEFAULT.iter().any(|key| annotations.get(*key).is_some_and(|value| value == "true"));
        row.push(format!("{}{}", class.text("metadata.name"), if is_default { " (default)" } else { "" }));
        row.push(class.text("provisioner"));
        row.or(class.text("reclaimPolicy"), "Delete");
        row.or(class.text("volumeBindingMode"), "Immediate");
        row.push(class.flag("allowVolumeExpansion"));
        row.age(class);
    }
}

fn topologies(terms: &[core::TopologySelectorTerm], list: &Path<'_>, errors: &mut Errors) {
    let mut seen: Vec<BTreeMap<&str, BTreeSet<&str>>> = Vec::new();
    for (i, term) in terms.iter().enumerate() {
        let path = list.index(i);
        let expressions = path.child("matchLabelExpressions");
        let mut keys = BTreeMap::new();
        for (j, requirement) in term.match_label_expressions.iter().flatten().enumerate() {
            let path = expressions.index(j);
            let values = path.child("values");
            let mut set = BTreeSet::new();
            if requirement.values.is_empty() {
                errors.required(&values, "");
            }
            for (k, value) in requirement.values.iter().enumerate() {
                if !set.insert(value.as_str()) {
                    errors.duplicate(&values.index(k), value);
                }
            }
            qualified_name(&requirement.key, &path.child("key"), errors);
            if keys.insert(requirement.key.as_str(), set).is_some() {
                errors.duplicate(&path.child("key"), &requirement.key);
            }
        }
        if seen.contains(&keys) {
            errors.duplicate(&expressions, "");
        }
        seen.push(keys);
    }
}
