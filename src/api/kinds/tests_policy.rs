//! Budgets, limits, quotas, priorities and runtime classes: defaults, mistakes, rows.

use serde_json::{Value, json};

use super::tests::{cells, created};
use super::tests_validation::{validate, validate_update};

fn limit_range(limit: Value) -> Value {
    json!({"metadata": {"name": "l", "namespace": "n"}, "spec": {"limits": [limit]}})
}

fn quota(spec: Value) -> Value {
    json!({"metadata": {"name": "q", "namespace": "n"}, "spec": spec})
}

#[test]
fn container_limits_follow_each_other() {
    let range = created(
        "",
        "LimitRange",
        limit_range(json!({"type": "Container", "max": {"cpu": "2000m"}, "min": {"memory": "1024Ki"}})),
    );
    assert_eq!(
        range["spec"]["limits"][0],
        json!({"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}, "default": {"cpu": "2"},
            "defaultRequest": {"cpu": "2", "memory": "1Mi"}})
    );
    let range = created("", "LimitRange", limit_range(json!({"type": "Pod", "max": {"cpu": "2"}})));
    assert_eq!(range["spec"]["limits"][0], json!({"type": "Pod", "max": {"cpu": "2"}}));
}

#[test]
fn wrong_limit_ranges() {
    let at = "spec.limits[0]";
    for (limit, expect) in [
        (json!({"type": "Container", "max": {"cpu": "1"}}), vec![]),
        (
            json!({"type": "Frob"}),
            vec![r#".type: Invalid value: "Frob": must be a standard limit type or fully qualified"#],
        ),
        (
            json!({"type": "Pod", "default": {"cpu": "1"}}),
            vec![".default: Forbidden: may not be specified when `type` is 'Pod'"],
        ),
        (
            json!({"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "2"}}),
            vec![r#".min[cpu]: Invalid value: "2": min value 2 is greater than max value 1"#],
        ),
        (
            json!({"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "2"}, "defaultRequest": {"cpu": "1"}}),
            vec![r#".default[cpu]: Invalid value: "1": default value 2 is greater than max value 1"#],
        ),
        (
            json!({"type": "PersistentVolumeClaim", "max": {"cpu": "1"}}),
            vec![
                ".limits: Required value: either minimum or maximum storage value is required, but neither was provided",
            ],
        ),
        (
            json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "500m"}}),
            vec![r#".maxLimitRequestRatio[cpu]: Invalid value: "500m": ratio 500m is less than 1"#],
        ),
        (
            json!({"type": "Pod", "max": {"cpu": "2"}, "min": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "3"}}),
            vec![r#".maxLimitRequestRatio[cpu]: Invalid value: "3": ratio 3 is greater than max/min = 2.000000"#],
        ),
    ] {
        let expect: Vec<String> = expect.into_iter().map(|e| format!("{at}{e}")).collect();
        assert_eq!(validate("", "LimitRange", limit_range(limit.clone())), expect, "{limit}");
    }
}

#[test]
fn wrong_quotas() {
    for (spec, expect) in [
        (json!({"hard": {"pods": "10", "requests.cpu": "1", "count/jobs.batch": "2", "limits.memory": "1Gi"}}), vec![]),
        (
            json!({"hard": {"frobs": "1"}}),
            vec![r#"spec.hard[frobs]: Invalid value: "frobs": must be a standard resource type or fully qualified"#],
        ),
        (
            json!({"hard": {"storage": "1"}}),
            vec![r#"spec.hard[storage]: Invalid value: "storage": must be a standard resource for quota"#],
        ),
        (
            json!({"hard": {"pods": "-1"}}),
            vec![r#"spec.hard[pods]: Invalid value: "-1": must be greater than or equal to 0"#],
        ),
        (json!({"hard": {"pods": "1500m"}}), vec![r#"spec.hard[pods]: Invalid value: "1500m": must be an integer"#]),
        (
            json!({"hard": {"pods": "1"}, "scopes": ["BestEffort", "NotBestEffort"]}),
            vec![r#"spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: conflicting scopes"#],
        ),
        (
            json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort"]}),
            vec![r#"spec.scopes: Invalid value: ["BestEffort"]: unsupported scope applied to resource"#],
        ),
        (json!({"scopes": ["Frob"]}), vec![r#"spec.scopes: Invalid value: ["Frob"]: unsupported scope"#]),
        (
            json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}}),
            vec![
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is \
                 'In' or 'NotIn' for scope selector",
            ],
        ),
    ] {
        assert_eq!(validate("", "ResourceQuota", quota(spec.clone())), expect, "{spec}");
    }
    let old = quota(json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]}));
    assert_eq!(
        validate_update("", "ResourceQuota", old, &[("/spec/scopes", json!(["NotTerminating"]))]),
        [r#"spec.scopes: Invalid value: ["NotTerminating"]: field is immutable"#]
    );
}

#[test]
fn wrong_budgets() {
    let budget = |spec: Value| json!({"metadata": {"name": "b", "namespace": "n"}, "spec": spec});
    for (spec, expect) in [
        (json!({"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}), vec![]),
        (
            json!({"minAvailable": 1, "maxUnavailable": "10%"}),
            vec![
                r#"spec: Invalid value: {"maxUnavailable":"10%","minAvailable":1}: minAvailable and maxUnavailable cannot be both set"#,
            ],
        ),
        (json!({"minAvailable": -1}), vec!["spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"]),
        (
            json!({"maxUnavailable": "101%"}),
            vec![r#"spec.maxUnavailable: Invalid value: "101%": must not be greater than 100%"#],
        ),
        (
            json!({"unhealthyPodEvictionPolicy": "Never"}),
            vec![
                r#"spec.unhealthyPodEvictionPolicy: Unsupported value: "Never": supported values: "AlwaysAllow", "IfHealthyBudget""#,
            ],
        ),
    ] {
        assert_eq!(validate("policy", "PodDisruptionBudget", budget(spec.clone())), expect, "{spec}");
    }
    let fresh = created("policy", "PodDisruptionBudget", budget(json!({"minAvailable": 1})));
    assert_eq!(
        fresh["status"],
        json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
    );
}

#[test]
fn wrong_classes() {
    let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
    const HEAD: &str = "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: ";
    for (object, expect) in [
        (class("c", 7), vec![]),
        (class("system-node-critical", 2_000_001_000), vec![]),
        (
            class("c", 1_000_000_001),
            vec!["value: Forbidden: maximum allowed value of a user defined priority is 1000000000".to_owned()],
        ),
        (class("system-x", 1), vec![format!("{HEAD}system-x is not a known system priority class")]),
        (
            class("system-node-critical", 1),
            vec![format!("{HEAD}value of system-node-critical PriorityClass must be 2000001000")],
        ),
    ] {
        assert_eq!(validate("scheduling.k8s.io", "PriorityClass", object.clone()), expect, "{object}");
    }
    assert_eq!(
        validate_update(
            "scheduling.k8s.io",
            "PriorityClass",
            class("c", 7),
            &[("/value", json!(8)), ("/preemptionPolicy", json!("Never"))]
        ),
        [
            "value: Forbidden: may not be changed in an update.",
            r#"preemptionPolicy: Invalid value: "Never": field is immutable"#
        ]
    );
    let runtime = json!({"metadata": {"name": "r"}, "handler": "Kata", "scheduling": {"nodeSelector": {"a b": "c"}}});
    let wrong = validate("node.k8s.io", "RuntimeClass", runtime.clone());
    assert!(wrong[0].starts_with(r#"handler: Invalid value: "Kata": a lowercase RFC 1123 label"#), "{wrong:?}");
    assert!(wrong[1].starts_with(r#"scheduling.nodeSelector: Invalid value: "a b": name part must"#), "{wrong:?}");
    assert_eq!(
        validate_update("node.k8s.io", "RuntimeClass", runtime, &[("/handler", json!("runc"))]),
        [r#"handler: Invalid value: "runc": field is immutable"#]
    );
}

#[test]
fn rows_of_limits_and_quotas() {
    let meta = json!({"name": "x", "creationTimestamp": "2024-01-01T23:59:00Z"});
    for (group, of, object, expect) in [
        (
            "",
            "ResourceQuota",
            json!({"metadata": meta, "status": {"hard": {"pods": "10", "limits.cpu": "2", "cpu": "1"}, "used": {"pods": "3"}}}),
            json!(["x", "cpu: 0/1, pods: 3/10", "limits.cpu: 0/2", "60s"]),
        ),
        ("", "LimitRange", json!({"metadata": meta}), json!(["x", "2024-01-01T23:59:00Z"])),
        (
            "policy",
            "PodDisruptionBudget",
            json!({"metadata": meta, "spec": {"minAvailable": 2}, "status": {"disruptionsAllowed": 1}}),
            json!(["x", "2", "N/A", 1, "60s"]),
        ),
        (
            "scheduling.k8s.io",
            "PriorityClass",
            json!({"metadata": meta, "value": 7, "preemptionPolicy": "Never"}),
            json!(["x", 7, false, "60s", "Never"]),
        ),
        ("node.k8s.io", "RuntimeClass", json!({"metadata": meta, "handler": "runc"}), json!(["x", "runc", "60s"])),
        (
            "",
            "PodTemplate",
            json!({"metadata": meta, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}),
            json!(["x", "c", "i", "a=b"]),
        ),
    ] {
        assert_eq!(Value::from(cells(group, of, object)), expect, "{of}");
    }
}
