//! Roles and bindings: defaults, mistakes, rows.

use serde_json::{Value, json};

use super::tests::{cells, created};
use super::tests_validation::{validate, validate_update};

const GROUP: &str = "rbac.authorization.k8s.io";

fn binding(kind: &str, role: Value, subjects: Value) -> Value {
    let namespace = if kind == "RoleBinding" { json!("n") } else { Value::Null };
    let object =
        json!({"metadata": {"name": "system:b", "namespace": namespace}, "roleRef": role, "subjects": subjects});
    created(GROUP, kind, object)
}

#[test]
fn wrong_roles() {
    let rule = |rule: Value| json!([rule]);
    for (kind, rules, expect) in [
        ("Role", rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]})), vec![]),
        ("ClusterRole", rule(json!({"verbs": ["get"], "nonResourceURLs": ["/metrics"]})), vec![]),
        (
            "Role",
            rule(json!({"verbs": [], "apiGroups": []})),
            vec![
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
            ],
        ),
        (
            "Role",
            rule(json!({"verbs": ["get"], "nonResourceURLs": ["/a"]})),
            vec![
                r#"rules[0].nonResourceURLs: Invalid value: ["/a"]: namespaced rules cannot apply to non-resource URLs"#,
            ],
        ),
        (
            "ClusterRole",
            rule(json!({"verbs": ["get"], "nonResourceURLs": ["/a"], "apiGroups": [""]})),
            vec![
                r#"rules[0].nonResourceURLs: Invalid value: ["/a"]: rules cannot apply to both regular resources and non-resource URLs"#,
            ],
        ),
    ] {
        let namespace = if kind == "Role" { json!("n") } else { Value::Null };
        let object = json!({"metadata": {"name": "a:b", "namespace": namespace}, "rules": rules});
        assert_eq!(validate(GROUP, kind, object), expect, "{kind} {rules}");
    }
    assert_eq!(
        validate(GROUP, "ClusterRole", json!({"metadata": {"name": "a"}, "aggregationRule": {}})),
        ["aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if \
          aggregationRule is non-nil"]
    );
    assert_eq!(
        validate(GROUP, "ClusterRole", json!({"metadata": {"name": "a/b"}})),
        [r#"metadata.name: Invalid value: "a/b": may not contain '/'"#]
    );
}

#[test]
fn bindings() {
    let role = json!({"kind": "ClusterRole", "name": "view"});
    let subjects = json!([{"kind": "User", "name": "u"}, {"kind": "Group", "name": "g"},
        {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]);
    let made = binding("RoleBinding", role.clone(), subjects.clone());
    assert_eq!(made["roleRef"]["apiGroup"], GROUP);
    assert_eq!(made["subjects"][0]["apiGroup"], GROUP);
    assert_eq!(made["subjects"][2].get("apiGroup"), None);
    assert_eq!(validate(GROUP, "RoleBinding", made.clone()), Vec::<String>::new());
    let row = cells(GROUP, "RoleBinding", made.clone());
    assert_eq!((&row[1], &row[3..]), (&json!("ClusterRole/view"), &[json!("u"), json!("g"), json!("n/s")][..]));
    assert_eq!(
        validate_update(GROUP, "RoleBinding", made, &[("/roleRef/name", json!("edit"))]),
        [
            r#"roleRef: Invalid value: {"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"edit"}: cannot change roleRef"#
        ]
    );
    let wrong = binding(
        "ClusterRoleBinding",
        json!({"kind": "Role", "name": "", "apiGroup": "x"}),
        json!([{"kind": "ServiceAccount", "name": "S", "apiGroup": GROUP}, {"kind": "Robot", "name": ""}]),
    );
    let found = validate(GROUP, "ClusterRoleBinding", wrong);
    for (at, expect) in [
        r#"roleRef.apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io""#,
        r#"roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole""#,
        "roleRef.name: Required value",
        r#"subjects[0].name: Invalid value: "S": a lowercase RFC 1123 subdomain"#,
        r#"subjects[0].apiGroup: Unsupported value: "rbac.authorization.k8s.io": supported values: """#,
        "subjects[0].namespace: Required value",
        "subjects[1].name: Required value",
        r#"subjects[1].kind: Unsupported value: "Robot": supported values: "Group", "ServiceAccount", "User""#,
    ]
    .iter()
    .enumerate()
    {
        assert!(found[at].starts_with(expect), "{found:#?}");
    }
}
