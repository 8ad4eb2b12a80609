//! Upstream's mandatory and suggested objects.

use serde_json::{Value, json};

pub(super) const LEVEL: &str = "PriorityLevelConfiguration";
pub(super) const SCHEMA: &str = "FlowSchema";

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

/// The mandatory ones first: their spec is always this.
pub(super) const MANDATORY: [&str; 2] = ["exempt", "catch-all"];
pub(super) const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
pub(super) const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const GROUP_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    let metadata = json!({"name": name, "annotations": {AUTOUPDATE: "true"}});
    json!({"apiVersion": GROUP_VERSION, "kind": kind, "metadata": metadata, "spec": spec})
}

pub(super) fn levels() -> Vec<Value> {
    let shares = json!({"nominalConcurrencyShares": 0, "lendablePercent": 0});
    let mut all = vec![object(LEVEL, "exempt", &json!({"type": "Exempt", "exempt": shares}))];
    for (name, shares, lendable, queues) in LIMITED {
        let response = match queues {
            None => json!({"type": "Reject"}),
            Some([queues, hand, length]) => json!({"type": "Queue",
                "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}}),
        };
        let limited =
            json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        all.push(object(LEVEL, name, &json!({"type": "Limited", "limited": limited})));
    }
    all
}

pub(super) fn schemas() -> Vec<Value> {
    let schema = |(name, level, precedence, distinguisher, rules): Schema| {
        let mut spec =
            json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": rules});
        if !distinguisher.is_empty() {
            spec["distinguisherMethod"] = json!({"type": distinguisher});
        }
        object(SCHEMA, name, &spec)
    };
    facts().into_iter().map(schema).collect()
}

type Schema = (&'static str, &'static str, i64, &'static str, Value);

fn facts() -> Vec<Schema> {
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
            resources(json!([manager, scheduler, account("*")]), json!([leases])),
        ),
        (
            "system-node-high",
            "node-high",
            400,
            "ByUser",
            resources(
                json!([group("system:nodes")]),
                json!([
                    {"verbs": ["*"], "apiGroups": [""], "resources": ["nodes", "nodes/status"], "clusterScope": true,
                        "namespaces": ["*"]},
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
        let levels = levels();
        assert_eq!(levels.len(), 8);
        for schema in schemas() {
            let level = &schema["spec"]["priorityLevelConfiguration"]["name"];
            assert!(levels.iter().any(|l| l["metadata"]["name"] == *level), "{schema}");
        }
    }
}
