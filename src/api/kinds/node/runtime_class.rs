//! RuntimeClass.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::node::v1 as node;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{dns_label, immutable, labels_of};
use crate::kinds::core::pod;
use crate::kinds::facts::{AGE, Facts, NAME, text};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::Row;
use crate::kinds::warnings;

pub(super) struct RuntimeClasses;

impl Kind for RuntimeClasses {
    type Typed = node::RuntimeClass;
    const FACTS: Facts = Facts {
        namespaced: false,
        columns: &[NAME, text("Handler", "What of the node runs pods of this class."), AGE],
        unconditional_update: false,
        ..Facts::new("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass")
    };

    fn default(class: &mut Value) {
        let overhead = class.as_object_mut().and_then(|c| c.existing("overhead"));
        if let Some(fixed) = overhead.and_then(|o| o.existing("podFixed")) {
            pod::defaults::resource_list(fixed);
        }
    }

    fn validate(class: &node::RuntimeClass, errors: &mut Errors) {
        if class.handler.is_empty() {
            errors.required(&Path::new("handler"), "");
        } else {
            dns_label(&class.handler, &Path::new("handler"), errors);
        }
        if let Some(overhead) = &class.overhead {
            let limits = core::ResourceRequirements {
                limits: overhead.pod_fixed.clone(),
                ..core::ResourceRequirements::default()
            };
            pod::validate::requirements(&limits, &BTreeSet::new(), &Path::new("overhead"), errors);
        }
        if let Some(scheduling) = &class.scheduling {
            let path = Path::new("scheduling");
            if let Some(labels) = &scheduling.node_selector {
                labels_of(labels, &path.child("nodeSelector"), errors);
            }
            let tolerations = scheduling.tolerations.as_deref().unwrap_or_default();
            let list = path.child("tolerations");
            pod::validate::tolerations(tolerations, &list, errors);
            let key = |t: &core::Toleration| (t.key.clone(), t.operator.clone(), t.value.clone(), t.effect.clone());
            for (i, toleration) in tolerations.iter().enumerate() {
                if tolerations[..i].iter().any(|before| key(before) == key(toleration)) {
                    errors.duplicate(&list.index(i), toleration);
                }
            }
        }
    }

    fn validate_update(class: &node::RuntimeClass, old: &node::RuntimeClass, errors: &mut Errors) {
        immutable(&class.handler, &old.handler, &Path::new("handler"), errors);
    }

    fn warnings(class: &Value, _old: Option<&Value>) -> Vec<String> {
        let labels = class.map("scheduling.nodeSelector").into_iter().flatten();
        let old = labels.filter_map(|(label, _)| warnings::old_label(label));
        old.map(|what| format!("scheduling.nodeSelector: {what}")).collect()
    }

    fn cells(class: &Value, row: &mut Row) {
        row.name(class);
        row.push(class.text("handler"));
        row.age(class);
    }
}
