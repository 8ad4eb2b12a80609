//! Objects that say what the server is, as upstream's shows them: an APIService for each group and version.

use serde_json::{Value, json};

use crate::aggregation::Priority;

/// Where an object belongs, and the object.
pub(crate) struct Default {
    pub path: &'static str,
    pub name: String,
    pub object: Value,
}

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// Groups in upstream's order: name, priority.
const PRIORITIES: &[(&str, i64)] = &[
    ("", 18_000),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("admissionregistration.k8s.io", 16_700),
    ("apiextensions.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("resource.k8s.io", 16_200),
    ("flowcontrol.apiserver.k8s.io", 16_100),
];

/// How a built-in group version is sorted; `None`: it is none.
pub(crate) fn priority(group: &str, version: &str) -> Option<Priority> {
    if group == "apiregistration.k8s.io" {
        // Before all others: it has no APIService.
        return Some(Priority { group: i64::MAX, version: 0 });
    }
    let (_, priority) = PRIORITIES.iter().find(|(known, _)| *known == group)?;
    let version = match (group, version) {
        ("", _) => 1,
        (_, "v2") => 30,
        ("flowcontrol.apiserver.k8s.io", _) => 21,
        ("resource.k8s.io", _) => 20,
        _ => 15,
    };
    Some(Priority { group: *priority, version })
}

/// The APIServices of built-in groups that are among these; that they are available is told by who looks after them.
pub(crate) fn api_services<'a>(served: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<Default> {
    let own = |(group, version): (&str, &str)| {
        let priority = priority(group, version).filter(|priority| priority.version > 0)?;
        let name = format!("{version}.{group}");
        let mut spec =
            json!({"version": version, "groupPriorityMinimum": priority.group, "versionPriority": priority.version});
        if !group.is_empty() {
            spec["group"] = group.into();
        }
        let object = json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": name, "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"}},
            "spec": spec,
        });
        Some(Default { path: SERVICES, name, object })
    };
    served.filter_map(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_others_are_left_to_them() {
        let services = api_services([("", "v1"), ("autoscaling", "v2"), ("example.com", "v1")].into_iter());
        let names: Vec<&str> = services.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["v1.", "v2.autoscaling"]);
        assert_eq!(services[0].object["spec"].get("group"), None);
    }
}
