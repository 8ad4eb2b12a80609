//! PriorityClass.

use k8s_openapi::api::scheduling::v1 as scheduling;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{immutable, one_of, text};
use crate::kinds::facts::{AGE, Facts, NAME, boolean, integer};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::Row;

/// The classes of the cluster's own: name, value, what they are for.
pub const SYSTEM_CLASSES: [(&str, i32, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];
const HIGHEST_OF_USERS: i32 = 1_000_000_000;
const POLICIES: &[&str] = &["Never", "PreemptLowerPriority"];

pub(super) struct PriorityClasses;

impl Kind for PriorityClasses {
    type Typed = scheduling::PriorityClass;
    const FACTS: Facts = Facts {
        short_names: &["pc"],
        namespaced: false,
        columns: &[
            NAME,
            integer("Value", "The priority of pods of this class."),
            boolean("Global-Default", "Whether pods that name no class are of this one."),
            AGE,
            crate::kinds::facts::text("PreemptionPolicy", "Whether its pods make room for themselves."),
        ],
        generation: true,
        ..Facts::new("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass")
    };

    fn default(class: &mut Value) {
        let Some(map) = class.as_object_mut() else { return };
        map.fill("value", 0);
        map.fill("preemptionPolicy", "PreemptLowerPriority");
    }

    fn validate(class: &scheduling::PriorityClass, errors: &mut Errors) {
        let (name, value) = (text(&class.metadata.name), class.value.unwrap_or(0));
        if name.starts_with("system-") {
            if let Some(why) = not_systems(class) {
                let message = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
                );
                errors.forbidden(&Path::new("metadata").child("name"), &message);
            }
        } else if value > HIGHEST_OF_USERS {
            let message = format!("maximum allowed value of a user defined priority is {HIGHEST_OF_USERS}");
            errors.forbidden(&Path::new("value"), &message);
        }
        if let Some(policy) = &class.preemption_policy {
            one_of(policy, POLICIES, &Path::new("preemptionPolicy"), errors);
        }
    }

    fn validate_update(class: &scheduling::PriorityClass, old: &scheduling::PriorityClass, errors: &mut Errors) {
        if class.value != old.value {
            errors.forbidden(&Path::new("value"), "may not be changed in an update.");
        }
        immutable(&class.preemption_policy, &old.preemption_policy, &Path::new("preemptionPolicy"), errors);
    }

    fn cells(class: &Value, row: &mut Row) {
        row.name(class);
        row.push(class.int("value"));
        row.push(class.flag("globalDefault"));
        row.age(class);
        row.push(class.text("preemptionPolicy"));
    }
}

/// Why a class is not the system's of that name.
fn not_systems(class: &scheduling::PriorityClass) -> Option<String> {
    let name = text(&class.metadata.name);
    let Some((_, value, _)) = SYSTEM_CLASSES.iter().find(|(system, ..)| *system == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if class.value != Some(*value) {
        return Some(format!("value of {name} PriorityClass must be {value}"));
    }
    (class.global_default == Some(true)).then(|| format!("globalDefault of {name} PriorityClass must be false"))
}
