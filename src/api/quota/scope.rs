//! The scopes of a quota: which objects it is about.

use serde_json::Value;

/// One requirement, of `scopes` or of `scopeSelector`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    scope: String,
    operator: String,
    values: Vec<String>,
}

/// All must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scopes(Vec<Requirement>);

impl Scopes {
    pub fn of(quota: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let spec = &quota["spec"];
        let plain = spec["scopes"].as_array().into_iter().flatten().map(|scope| Requirement {
            scope: text(scope),
            operator: "Exists".to_owned(),
            values: Vec::new(),
        });
        let selected = spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
        let selected = selected.map(|requirement| Requirement {
            scope: text(&requirement["scopeName"]),
            operator: text(&requirement["operator"]),
            values: requirement["values"].as_array().into_iter().flatten().map(text).collect(),
        });
        Self(plain.chain(selected).collect())
    }

    /// Whether the quota is about the object.
    pub fn match_(&self, group: &str, resource: &str, object: &Value) -> bool {
        self.0.iter().all(|requirement| match (group, resource) {
            ("", "pods") => requirement.matches_pod(object),
            ("", "persistentvolumeclaims") => requirement.matches_claim(object),
            _ => false,
        })
    }
}

impl Requirement {
    fn matches_pod(&self, pod: &Value) -> bool {
        let spec = &pod["spec"];
        let ends = spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
        match self.scope.as_str() {
            "Terminating" => ends,
            "NotTerminating" => !ends,
            "BestEffort" => is_best_effort(pod),
            "NotBestEffort" => !is_best_effort(pod),
            "PriorityClass" => self.selects(spec["priorityClassName"].as_str().unwrap_or_default()),
            "CrossNamespacePodAffinity" => reaches_out(&spec["affinity"]),
            _ => false,
        }
    }

    fn matches_claim(&self, claim: &Value) -> bool {
        let class = claim["spec"]["volumeAttributesClassName"].as_str().unwrap_or_default();
        self.scope == "VolumeAttributesClass" && self.selects(class)
    }

    fn selects(&self, value: &str) -> bool {
        let listed = self.values.iter().any(|v| v == value);
        match self.operator.as_str() {
            "Exists" => !value.is_empty(),
            "DoesNotExist" => value.is_empty(),
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    }
}

fn is_best_effort(pod: &Value) -> bool {
    pod["status"]["qosClass"] == "BestEffort"
}

/// Whether a term names other namespaces than the pod's own.
fn reaches_out(affinity: &Value) -> bool {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let foreign = |term: &Value| {
        !term["namespaceSelector"].is_null() || term["namespaces"].as_array().is_some_and(|n| !n.is_empty())
    };
    ["podAffinity", "podAntiAffinity"].into_iter().any(|kind| {
        let affinity = &affinity[kind];
        list(&affinity["requiredDuringSchedulingIgnoredDuringExecution"]).iter().any(foreign)
            || list(&affinity["preferredDuringSchedulingIgnoredDuringExecution"])
                .iter()
                .any(|weighted| foreign(&weighted["podAffinityTerm"]))
    })
}
