//! PodDisruptionBudget.

use k8s_openapi::api::policy::v1 as policy;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{at_most_all, conditions, int_or_percent, label_selector, nonnegative, one_of_if_set};
use crate::kinds::facts::{AGE, Facts, NAME, integer, text};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;
use crate::strategy::Subresource;

const EVICTION_POLICIES: &[&str] = &["AlwaysAllow", "IfHealthyBudget"];

pub(super) struct PodDisruptionBudgets;

impl Kind for PodDisruptionBudgets {
    type Typed = policy::PodDisruptionBudget;
    const FACTS: Facts = Facts {
        short_names: &["pdb"],
        subresources: &[Subresource::Status],
        columns: &[
            NAME,
            text("Min Available", "How many pods must stay available."),
            text("Max Unavailable", "How many pods may be unavailable."),
            integer("Allowed Disruptions", "How many pods may be evicted now."),
            AGE,
        ],
        generation: true,
        unconditional_update: false,
        ..Facts::new("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
    };

    /// Upstream always writes these numbers.
    fn prepare_create(budget: &mut Value) {
        if let Some(map) = budget.as_object_mut() {
            let status = json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0});
            map.insert("status".to_owned(), status);
        }
    }

    fn validate(budget: &policy::PodDisruptionBudget, errors: &mut Errors) {
        let Some(spec) = &budget.spec else { return };
        let path = Path::new("spec");
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            errors.invalid(&path, spec, "minAvailable and maxUnavailable cannot be both set");
        }
        for (field, value) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)] {
            if let Some(value) = value {
                int_or_percent(value, &path.child(field), errors);
                at_most_all(value, &path.child(field), errors);
            }
        }
        if let Some(selector) = &spec.selector {
            label_selector(selector, &path.child("selector"), errors);
        }
        let policy = &spec.unhealthy_pod_eviction_policy;
        one_of_if_set(policy, EVICTION_POLICIES, &path.child("unhealthyPodEvictionPolicy"), errors);
    }

    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(
        budget: &policy::PodDisruptionBudget,
        _old: &policy::PodDisruptionBudget,
        errors: &mut Errors,
    ) {
        let Some(status) = &budget.status else { return };
        let path = Path::new("status");
        conditions(status.conditions.as_deref().unwrap_or_default(), &path.child("conditions"), errors);
        for (field, count) in [
            ("disruptionsAllowed", status.disruptions_allowed),
            ("currentHealthy", status.current_healthy),
            ("desiredHealthy", status.desired_healthy),
            ("expectedPods", status.expected_pods),
        ] {
            nonnegative(count.unwrap_or(0), &path.child(field), errors);
        }
    }

    fn cells(budget: &Value, row: &mut Row) {
        let bound = |field: &str| match budget.at(field) {
            Value::Null => Value::from("N/A"),
            Value::Number(number) => number.to_string().into(),
            text => text.clone(),
        };
        row.name(budget);
        row.push(bound("spec.minAvailable"));
        row.push(bound("spec.maxUnavailable"));
        row.push(budget.int("status.disruptionsAllowed"));
        row.age(budget);
    }
}
