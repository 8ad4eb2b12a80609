//! Objects that say what the server is, as upstream's shows them: an APIService for each group and version, and the mandatory
//! and suggested objects of flow control.

use serde_json::{Value, json};

use crate::aggregation::Priority;

/// Where an object belongs, and the object.
pub(crate) struct Default {
    pub path: &'static str,
    pub name: String,
    pub object: Value,
}

const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";
const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const GROUP_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";

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

/// Name, shares, percentage that others may borrow, and queues: how many, how many a flow uses, how long.
const LIMITED: &[(&str, i64, i64, Option<[i64; 3]>)] = &[
    ("catch-all", 5, 0, None),
    ("system", 30, 33, Some([64, 6, 50])),
    ("node-high", 40, 25, Some([64, 6, 50])),
    ("leader-election", 10, 0, Some([16, 4, 50])),
    ("workload-high", 40, 50, Some([128, 6, 50])),
    ("workload-low", 100, 90, Some([128, 6, 50])),
    ("global-default", 20, 50, Some([128, 6, 50])),
];

pub(crate) fn flow_control(now: &str) -> Vec<Default> {
    let meta = |name: &str| json!({"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}});
    let level = |name: &str, spec: Value| Default {
        path: LEVELS,
        name: name.to_owned(),
        object: json!({"apiVersion": GROUP_VERSION, "kind": "PriorityLevelConfiguration", "metadata": meta(name), "spec": spec}),
    };
    let mut all = vec![level("exempt", json!({"type": "Exempt"}))];
    for (name, shares, lendable, queues) in LIMITED {
        let response = match queues {
            None => json!({"type": "Reject"}),
            Some([queues, hand, length]) => json!({"type": "Queue",
                "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}}),
        };
        let limited =
            json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        all.push(level(name, json!({"type": "Limited", "limited": limited})));
    }
    for (name, level, precedence, distinguisher, rules) in schemas() {
        let mut spec =
            json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": rules});
        if !distinguisher.is_empty() {
            spec["distinguisherMethod"] = json!({"type": distinguisher});
        }
        let found = json!({"type": "Dangling", "status": "False", "lastTransitionTime": now, "reason": "Found",
            "message": format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists")});
        let object = json!({"apiVersion": GROUP_VERSION, "kind": "FlowSchema", "metadata": meta(name), "spec": spec,
            "status": {"conditions": [found]}});
        all.push(Default { path: SCHEMAS, name: name.to_owned(), object });
    }
    all
}

type Schema = (&'static str, &'static str, i64, &'static str, Value);

fn schemas() -> Vec<Schema> {
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    let user = |name: &str| json!({"kind": "User", "user": {"name": name}});
    let account =
        |name: &str| json!({"kind": "ServiceAccount", "serviceAccount": {"name": name, "namespace": "kube-system"}});
    let anyone = json!([group("system:unauthenticated"), group("system:authenticated")]);
    let everything =
        json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}]);
    let paths = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    let all = |subjects: Value| json!([{"subjects": subjects, "resourceRules": everything, "nonResourceRules": paths}]);
    let resources = |subjects: Value, rules: Value| json!([{"subjects": subjects, "resourceRules": rules}]);
    let write = ["get", "create", "update"];
    let of = |group: &str, names: &[&str]| json!({"verbs": write, "apiGroups": [group], "resources": names, "namespaces": ["*"]});
    let leases = of("coordination.k8s.io", &["leases"]);
    let manager = user("system:kube-controller-manager");
    let scheduler = user("system:kube-scheduler");
    vec![
        ("exempt", "exempt", 1, "", all(json!([group("system:masters")]))),
        (
            "probes",
            "exempt",
            2,
            "",
            json!([{"subjects": anyone,
                "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]}]),
        ),
        (
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            resources(json!([manager, scheduler]), json!([leases])),
        ),
        (
            "endpoint-controller",
            "workload-high",
            150,
            "ByUser",
            resources(json!([manager, account("endpoint-controller")]), json!([of("", &["endpoints"])])),
        ),
        (
            "workload-leader-election",
            "leader-election",
            200,
            "ByUser",
            resources(json!([account("*")]), json!([leases])),
        ),
        (
            "system-node-high",
            "node-high",
            400,
            "ByUser",
            resources(
                json!([group("system:nodes")]),
                json!([
                    {"verbs": ["*"], "apiGroups": [""], "resources": ["nodes", "nodes/status"], "clusterScope": true},
                    {"verbs": ["*"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["*"]},
                ]),
            ),
        ),
        ("system-nodes", "system", 500, "ByUser", all(json!([group("system:nodes")]))),
        ("kube-controller-manager", "workload-high", 800, "ByNamespace", all(json!([manager]))),
        ("kube-scheduler", "workload-high", 800, "ByNamespace", all(json!([scheduler]))),
        ("kube-system-service-accounts", "workload-high", 900, "ByNamespace", all(json!([account("*")]))),
        ("service-accounts", "workload-low", 9000, "ByUser", all(json!([group("system:serviceaccounts")]))),
        ("global-default", "global-default", 9900, "ByUser", all(anyone.clone())),
        ("catch-all", "catch-all", 10_000, "ByUser", all(anyone.clone())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_has_its_level() {
        let all = flow_control("2024-01-01T00:00:00Z");
        let levels: Vec<&str> = all.iter().filter(|d| d.path == LEVELS).map(|d| d.name.as_str()).collect();
        assert_eq!(levels.len(), 8);
        for schema in all.iter().filter(|d| d.path == SCHEMAS) {
            let level = schema.object["spec"]["priorityLevelConfiguration"]["name"].as_str().expect("a name");
            assert!(levels.contains(&level), "{}", schema.name);
        }
    }

    #[test]
    fn groups_of_others_are_left_to_them() {
        let services = api_services([("", "v1"), ("autoscaling", "v2"), ("example.com", "v1")].into_iter());
        let names: Vec<&str> = services.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["v1.", "v2.autoscaling"]);
        assert_eq!(services[0].object["spec"].get("group"), None);
    }
}
