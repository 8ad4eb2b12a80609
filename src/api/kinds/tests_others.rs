//! Webhooks, API services, certificates, flow control and devices: defaults, mistakes, rows.

use serde_json::{Value, json};

use super::tests::{cells, created, kind};
use super::tests_validation::{texts, validate, with};

const WEBHOOKS: &str = "admissionregistration.k8s.io";
const FLOWS: &str = "flowcontrol.apiserver.k8s.io";
const DEVICES: &str = "resource.k8s.io";
const CERTIFICATES: &str = "certificates.k8s.io";

fn webhooks() -> Value {
    json!({"metadata": {"name": "w"}, "webhooks": [{"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"namespace": "n", "name": "s"}},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]})
}

#[test]
fn webhook_configurations() {
    let made = created(WEBHOOKS, "MutatingWebhookConfiguration", webhooks());
    let webhook = &made["webhooks"][0];
    assert_eq!(
        ["failurePolicy", "matchPolicy", "timeoutSeconds", "reinvocationPolicy", "objectSelector"].map(|f| &webhook[f]),
        [&json!("Fail"), &json!("Equivalent"), &json!(10), &json!("Never"), &json!({})]
    );
    assert_eq!(
        (&webhook["rules"][0]["scope"], &webhook["clientConfig"]["service"]["port"]),
        (&json!("*"), &json!(443))
    );
    let at = "webhooks[0]";
    for (changes, expect) in [
        (vec![], vec![]),
        (
            vec![("/webhooks/0/name", json!("a.b"))],
            vec![r#".name: Invalid value: "a.b": should be a domain with at least three segments separated by dots"#],
        ),
        (
            vec![("/webhooks/0/sideEffects", json!("Some"))],
            vec![r#".sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun""#],
        ),
        (
            vec![("/webhooks/0/admissionReviewVersions", json!(["v7"]))],
            vec![r#".admissionReviewVersions: Invalid value: ["v7"]: must include at least one of v1, v1beta1"#],
        ),
        (
            vec![("/webhooks/0/timeoutSeconds", json!(31))],
            vec![".timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds"],
        ),
        (
            vec![("/webhooks/0/clientConfig", json!({}))],
            vec![".clientConfig: Required value: exactly one of url or service is required"],
        ),
        (
            vec![("/webhooks/0/clientConfig", json!({"url": "http://u@h/p?q"}))],
            vec![
                r#".clientConfig.url: Invalid value: "http": 'https' is the only allowed URL scheme; desired format: https://host[/path]"#,
                r#".clientConfig.url: Invalid value: "u": user information is not permitted in the URL; desired format: https://host[/path]"#,
                r#".clientConfig.url: Invalid value: "q": query parameters are not permitted in the URL; desired format: https://host[/path]"#,
            ],
        ),
        (
            vec![("/webhooks/0/rules/0/operations", json!(["*", "CREATE"]))],
            vec![
                r#".rules[0].operations: Invalid value: ["*","CREATE"]: if '*' is present, must not specify other operations"#,
            ],
        ),
        (
            vec![("/webhooks/0/matchConditions", json!([{"name": "n", "expression": "true"}]))],
            vec![".matchConditions: Forbidden: CEL expressions are not available yet"],
        ),
    ] {
        let expect: Vec<String> = expect.into_iter().map(|e| format!("{at}{e}")).collect();
        assert_eq!(
            validate(WEBHOOKS, "ValidatingWebhookConfiguration", with(webhooks(), &changes)),
            expect,
            "{changes:?}"
        );
    }
}

#[test]
fn wrong_api_services() {
    const GROUP: &str = "apiregistration.k8s.io";
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let spec = json!({"group": "a.b", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1});
    for (object, expect) in [
        (service("v1.a.b", spec.clone()), vec![]),
        (
            service("v2.a.b", spec.clone()),
            vec![r#"metadata.name: Invalid value: "v2.a.b": must be `spec.version+"."+spec.group`: "v1.a.b""#],
        ),
        (
            with(service("v1.a.b", spec.clone()), &[("/spec/groupPriorityMinimum", json!(0))]),
            vec!["spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000"],
        ),
        (
            with(service("v1.a.b", spec), &[("/spec/service", json!({"name": "s"}))]),
            vec!["spec.service.namespace: Required value"],
        ),
    ] {
        assert_eq!(validate(GROUP, "APIService", object.clone()), expect, "{object}");
    }
}

#[test]
fn trust_bundles() {
    let bundle = |name: &str, signer: Value| json!({"metadata": {"name": name}, "spec": {"signerName": signer, "trustBundle": "x"}});
    for (object, expect) in [
        (bundle("plain", json!(null)), vec![]),
        (bundle("a.b:c:one", json!("a.b/c")), vec![]),
        (
            bundle("a:b", json!("")),
            vec![
                r#"metadata.name: Invalid value: "a:b": ClusterTrustBundle without signer name must not have ":" in its name"#,
            ],
        ),
        (
            bundle("one", json!("a.b/c")),
            vec![
                r#"metadata.name: Invalid value: "one": ClusterTrustBundle for signerName a.b/c must be named with prefix a.b:c:"#,
            ],
        ),
        (
            bundle("abc:one", json!("abc")),
            vec![
                r#"spec.signerName: Invalid value: "abc": must be a fully qualified domain and path of the form 'example.com/signer-name'"#,
            ],
        ),
    ] {
        assert_eq!(validate(CERTIFICATES, "ClusterTrustBundle", object.clone()), expect, "{object}");
    }
}

fn signing_request() -> Value {
    let pem = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KCi0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=";
    json!({"metadata": {"name": "r"}, "spec": {"request": pem, "signerName": "a.b/c", "usages": ["client auth"]}})
}

#[test]
fn signing_requests() {
    for (changes, expect) in [
        (vec![], vec![]),
        (vec![("/spec/usages", json!([]))], vec!["spec.usages: Required value"]),
        (
            vec![("/spec/signerName", json!("abc"))],
            vec![
                r#"spec.signerName: Invalid value: "abc": must be a fully qualified domain and path of the form 'example.com/signer-name'"#,
            ],
        ),
        (
            vec![("/spec/expirationSeconds", json!(10))],
            vec![
                "spec.expirationSeconds: Invalid value: 10: may not specify a duration less than 600 seconds (10 minutes)",
            ],
        ),
    ] {
        let object = with(signing_request(), &changes);
        assert_eq!(validate(CERTIFICATES, "CertificateSigningRequest", object), expect, "{changes:?}");
    }
    // Who signs can't change a verdict; one that is added stays, to be refused.
    let strategy = &kind(CERTIFICATES, "CertificateSigningRequest").strategy;
    let old = created(CERTIFICATES, "CertificateSigningRequest", signing_request());
    let verdict = |message: &str| json!({"type": "Approved", "status": "True", "message": message});
    let failed = json!({"type": "Failed", "status": "True"});
    let approved = with(old.clone(), &[("/status", json!({"conditions": [verdict("a")]}))]);
    for (before, wanted, expect) in [
        (&approved, json!([failed, verdict("b")]), json!([failed, verdict("a")])),
        (&old, json!([verdict("b")]), json!([verdict("b")])),
        (&approved, json!([failed]), json!([failed])),
    ] {
        let mut new = with(before.clone(), &[("/status", json!({"conditions": wanted}))]);
        strategy.prepare_status_update(&mut new, before);
        assert_eq!(new["status"]["conditions"], expect);
    }
    let new = with(old.clone(), &[("/status", json!({"conditions": [failed]}))]);
    assert_eq!(
        texts(strategy.validate_status_update(&new, &approved)),
        [r#"status.conditions: Forbidden: updates may not remove a condition of type "Approved""#]
    );
    let both = json!({"conditions": [{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]});
    let new = with(old.clone(), &[("/status", both)]);
    assert_eq!(
        texts(strategy.validate_status_update(&new, &old)),
        [
            r#"status.conditions[1].type: Invalid value: "Denied": Approved and Denied conditions are mutually exclusive"#
        ]
    );
}

#[test]
fn flow_control() {
    let level = |spec: Value| json!({"metadata": {"name": "l"}, "spec": spec});
    let made = created(
        FLOWS,
        "PriorityLevelConfiguration",
        level(json!({"type": "Limited", "limited":
        {"limitResponse": {"type": "Queue", "queuing": {}}}})),
    );
    assert_eq!(
        made["spec"]["limited"],
        json!({"nominalConcurrencyShares": 30, "lendablePercent": 0,
            "limitResponse": {"type": "Queue", "queuing": {"queues": 64, "handSize": 8, "queueLengthLimit": 50}}})
    );
    let subject = json!({"kind": "User", "user": {"name": "u"}});
    let rules = json!([{"subjects": [subject], "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}]);
    let schema = |spec: Value| json!({"metadata": {"name": "s"}, "spec": spec});
    for (of, object, expect) in [
        (
            "PriorityLevelConfiguration",
            level(json!({"type": "Exempt"})),
            vec![r#"spec.type: Invalid value: "Exempt": type must be 'Exempt' if and only if name is 'exempt'"#],
        ),
        (
            "PriorityLevelConfiguration",
            level(json!({"type": "Limited"})),
            vec!["spec.limited: Required value: must not be empty when type is Limited"],
        ),
        ("FlowSchema", schema(json!({"priorityLevelConfiguration": {"name": "l"}, "rules": rules})), vec![]),
        (
            "FlowSchema",
            schema(json!({"priorityLevelConfiguration": {"name": ""}, "matchingPrecedence": 10_001})),
            vec![
                "spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
            ],
        ),
        (
            "FlowSchema",
            schema(json!({"priorityLevelConfiguration": {"name": "l"}, "rules": [{"subjects": [subject]}]})),
            vec![
                "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
            ],
        ),
    ] {
        assert_eq!(validate(FLOWS, of, object.clone()), expect, "{object}");
    }
}

#[test]
fn devices() {
    let claim = |request: Value| json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {"devices": {"requests": [request]}}});
    let made = created(DEVICES, "ResourceClaim", claim(json!({"name": "r", "exactly": {"deviceClassName": "d"}})));
    let exactly = &made["spec"]["devices"]["requests"][0]["exactly"];
    assert_eq!(*exactly, json!({"deviceClassName": "d", "allocationMode": "ExactCount", "count": 1}));
    for (request, expect) in [
        (json!({"name": "r", "exactly": {"deviceClassName": "d"}}), vec![]),
        (
            json!({"name": "r"}),
            vec!["spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required"],
        ),
        (json!({"name": "r", "exactly": {}}), vec!["spec.devices.requests[0].exactly.deviceClassName: Required value"]),
        (
            json!({"name": "r", "exactly": {"deviceClassName": "d", "allocationMode": "All", "count": 2}}),
            vec![
                "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
            ],
        ),
    ] {
        assert_eq!(validate(DEVICES, "ResourceClaim", claim(request.clone())), expect, "{request}");
    }
}

#[test]
fn rows_of_the_others() {
    let meta = json!({"name": "x", "creationTimestamp": "2024-01-01T23:59:00Z"});
    for (group, of, object, expect) in [
        (
            WEBHOOKS,
            "ValidatingWebhookConfiguration",
            json!({"metadata": meta, "webhooks": [{}, {}]}),
            json!(["x", 2, "60s"]),
        ),
        (
            WEBHOOKS,
            "ValidatingAdmissionPolicy",
            json!({"metadata": meta, "spec": {"validations": [{}]}}),
            json!(["x", 1, "<unset>", "60s"]),
        ),
        (
            "apiregistration.k8s.io",
            "APIService",
            json!({"metadata": meta, "status": {"conditions": [{"type": "Available", "status": "True"}]}}),
            json!(["x", "Local", "True", "60s"]),
        ),
        (
            CERTIFICATES,
            "CertificateSigningRequest",
            json!({"metadata": meta, "spec": {"signerName": "s/n", "username": "u", "expirationSeconds": 3600},
                "status": {"conditions": [{"type": "Approved"}], "certificate": "Yw=="}}),
            json!(["x", "60s", "s/n", "u", "60m", "Approved,Issued"]),
        ),
        (
            FLOWS,
            "FlowSchema",
            json!({"metadata": meta, "spec": {"priorityLevelConfiguration": {"name": "l"}, "matchingPrecedence": 7}}),
            json!(["x", "l", 7, "<none>", "60s", "?"]),
        ),
        (
            FLOWS,
            "PriorityLevelConfiguration",
            json!({"metadata": meta, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 5,
                "limitResponse": {"queuing": {"queues": 64, "handSize": 6, "queueLengthLimit": 50}}}}}),
            json!(["x", "Limited", 5, "64", "6", "50", "60s"]),
        ),
        (
            DEVICES,
            "ResourceClaim",
            json!({"metadata": meta, "status": {"allocation": {}, "reservedFor": [{}]}}),
            json!(["x", "allocated,reserved", "60s"]),
        ),
        (
            DEVICES,
            "ResourceSlice",
            json!({"metadata": meta, "spec": {"driver": "d", "pool": {"name": "p"}}}),
            json!(["x", "", "d", "p", "60s"]),
        ),
    ] {
        assert_eq!(Value::from(cells(group, of, object)), expect, "{of}");
    }
}

#[test]
fn what_is_read_only_or_only_a_name_does_not_stay() {
    let secrets =
        json!({"metadata": {"name": "a"}, "secrets": [{"name": "s", "namespace": "other", "kind": "Secret"}]});
    assert_eq!(created("", "ServiceAccount", secrets)["secrets"], json!([{"name": "s"}]));

    let slices = &kind("discovery.k8s.io", "EndpointSlice").strategy;
    let hosts = |host: &str| json!({"kubernetes.io/hostname": host});
    let old = json!({"metadata": {"generation": 1}, "endpoints": [{"deprecatedTopology": hosts("a")}]});
    assert_eq!(created("discovery.k8s.io", "EndpointSlice", old.clone())["endpoints"], json!([{}]));
    let mut same = old.clone();
    slices.prepare_update(&mut same, &old);
    assert_eq!(same["endpoints"], old["endpoints"]);
    let mut new = json!({"metadata": {"generation": 1}, "endpoints": [
        {"deprecatedTopology": hosts("a"), "hostname": "x"}, {"deprecatedTopology": hosts("b")}]});
    slices.prepare_update(&mut new, &old);
    assert_eq!(new["endpoints"], json!([{"nodeName": "a", "hostname": "x"}, {}]));
}
