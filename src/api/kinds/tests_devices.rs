//! Claims of devices and what is offered: every mistake that upstream tells.

use serde_json::{Value, json};

use super::tests::{created, kind};
use super::tests_validation::{texts, validate, validate_update, with};

const GROUP: &str = "resource.k8s.io";

fn claim() -> Value {
    json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {"devices": {
        "requests": [{"name": "r", "exactly": {"deviceClassName": "d"}},
            {"name": "s", "firstAvailable": [{"name": "a", "deviceClassName": "d"}, {"name": "b", "deviceClassName": "d"}]}],
    }}})
}

#[test]
fn wrong_claims() {
    let exactly = "/spec/devices/requests/0/exactly";
    let at = |rest: &str| format!("{exactly}{rest}");
    for (changes, expect) in [
        (vec![], vec![]),
        (
            vec![("/spec/devices/requests/1/name".to_owned(), json!("r"))],
            vec![r#"spec.devices.requests[1]: Duplicate value: "r""#],
        ),
        (
            vec![(
                "/spec/devices/requests/0/firstAvailable".to_owned(),
                json!([{"name": "a", "deviceClassName": "d"}]),
            )],
            vec![
                "spec.devices.requests[0]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but \
                 multiple fields are set",
            ],
        ),
        (
            vec![("/spec/devices/requests/1/firstAvailable/1/name".to_owned(), json!("a"))],
            vec![r#"spec.devices.requests[1].firstAvailable[1]: Duplicate value: "a""#],
        ),
        (
            vec![(
                at("/tolerations"),
                json!([{"key": "k", "operator": "Exists", "value": "v", "effect": "E"}, {"key": "k"}, {"operator": "In"}]),
            )],
            vec![
                r#"spec.devices.requests[0].exactly.tolerations[0].value: Invalid value: "v": must be empty for operator `Exists`"#,
                r#"spec.devices.requests[0].exactly.tolerations[0].effect: Unsupported value: "E": supported values: "NoExecute", "NoSchedule", "None""#,
                r#"spec.devices.requests[0].exactly.tolerations[2].operator: Unsupported value: "In": supported values: "Equal", "Exists""#,
            ],
        ),
        (
            vec![(at("/selectors"), json!([{}, {"cel": {"expression": "x".repeat(10 * 1024 + 1)}}]))],
            vec![
                "spec.devices.requests[0].exactly.selectors[0].cel: Required value",
                "spec.devices.requests[0].exactly.selectors[1].cel.expression: Too long: may not be more than 10240 bytes",
            ],
        ),
        (
            vec![(
                "/spec/devices/constraints".to_owned(),
                json!([{"requests": ["s/a", "s/c", "q", "a/b/c", "s/a"], "matchAttribute": "d.io/x"}, {}, {"distinctAttribute": "9"}]),
            )],
            vec![
                r#"spec.devices.constraints[0].requests[1]: Invalid value: "s/c": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"#,
                r#"spec.devices.constraints[0].requests[2]: Invalid value: "q": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"#,
                r#"spec.devices.constraints[0].requests[3]: Invalid value: "a/b/c": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"#,
                r#"spec.devices.constraints[0].requests[4]: Duplicate value: "s/a""#,
                r#"spec.devices.constraints[1]: Required value: exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set"#,
                r#"spec.devices.constraints[2].distinctAttribute: Invalid value: "9": a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')"#,
                r#"spec.devices.constraints[2].distinctAttribute: Invalid value: "9": a fully qualified name must be a domain and a name separated by a slash"#,
            ],
        ),
        (
            vec![(
                "/spec/devices/config".to_owned(),
                json!([{}, {"opaque": {"driver": "d.io", "parameters": {"a": 1}}}, {"opaque": {"driver": "", "parameters": [1]}}]),
            )],
            vec![
                "spec.devices.config[0].opaque: Required value",
                "spec.devices.config[2].opaque.driver: Required value",
                r#"spec.devices.config[2].opaque.parameters: Invalid value: "<value omitted>": must be a valid JSON object"#,
            ],
        ),
    ] {
        let changes: Vec<(&str, Value)> = changes.iter().map(|(path, value)| (path.as_str(), value.clone())).collect();
        let object = created(GROUP, "ResourceClaim", with(claim(), &changes));
        assert_eq!(texts(kind(GROUP, "ResourceClaim").strategy.validate(&object)), expect, "{changes:?}");
    }
    let template = json!({"metadata": {"name": "t", "namespace": "n"}, "spec": {"metadata": {"name": "x", "labels": {"a": "b"}},
        "spec": claim()["spec"]}});
    let made = created(GROUP, "ResourceClaimTemplate", template);
    assert_eq!(
        texts(kind(GROUP, "ResourceClaimTemplate").strategy.validate(&made)),
        ["spec.metadata.Name: Forbidden: cannot be set"]
    );
}

fn allocation() -> Value {
    json!({"devices": {"results": [{"request": "r", "driver": "d.io", "pool": "p/q", "device": "x"}]}})
}

fn status_errors(old: &Value, new: &Value) -> Vec<String> {
    let mut old_claim = created(GROUP, "ResourceClaim", claim());
    old_claim["status"] = old.clone();
    let mut wanted = old_claim.clone();
    wanted["status"] = new.clone();
    let strategy = kind(GROUP, "ResourceClaim").strategy.clone();
    strategy.prepare_status_update(&mut wanted, &old_claim);
    texts(strategy.validate_status_update(&wanted, &old_claim))
}

#[test]
fn wrong_statuses_of_claims() {
    let user = |uid: &str| json!({"resource": "pods", "name": "p", "uid": uid});
    let device = json!({"driver": "d.io", "pool": "p/q", "device": "x"});
    let mut share = device.clone();
    share["shareID"] = json!("A");
    let mut wrong = allocation();
    wrong["devices"]["results"][0]["request"] = json!("nobody");
    wrong["devices"]["results"][0]["bindingConditions"] = json!(["a.io/b", "a.io/b"]);
    wrong["devices"]["config"] = json!([{"source": "FromSomewhere", "opaque": {"driver": "d.io", "parameters": {}}}]);
    for (old, new, expect) in [
        (json!({}), json!({"allocation": allocation(), "reservedFor": [user("1")], "devices": [device]}), vec![]),
        (
            json!({}),
            json!({"reservedFor": [user("1"), user("1"), {}]}),
            vec![
                "status.reservedFor[2].resource: Required value",
                "status.reservedFor[2].name: Required value",
                "status.reservedFor[2].uid: Required value",
                r#"status.reservedFor[1]: Duplicate value: "1""#,
                "status.reservedFor: Forbidden: may not be specified when `allocated` is not set",
            ],
        ),
        (
            json!({}),
            json!({"allocation": allocation(), "devices": [share]}),
            vec![
                r#"status.devices[0].shareID: Invalid value: "A": error validating uid: invalid UUID length: 1"#,
                r#"status.devices[0]: Invalid value: "d.io/p/q/x/A": must be an allocated device in the claim"#,
            ],
        ),
        (
            json!({}),
            json!({"allocation": allocation(), "devices": [{"driver": "d.io", "pool": "p/q", "device": "x",
                "networkData": {"ips": ["10.0.0.1/8", "10.0.0.1", "10.0.0.01/8", "::ffff:10.0.0.1/104"], "interfaceName": "x".repeat(257)}}]}),
            vec![
                "status.devices[0].networkData.interfaceName: Too long: may not be more than 256 bytes",
                r#"status.devices[0].networkData.ips[1]: Invalid value: "10.0.0.1": must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)"#,
                r#"status.devices[0].networkData.ips[2]: Invalid value: "10.0.0.01/8": must be in canonical form ("10.0.0.1/8")"#,
                r#"status.devices[0].networkData.ips[3]: Invalid value: "::ffff:10.0.0.1/104": must be in canonical form ("10.0.0.1/8")"#,
            ],
        ),
        (
            json!({}),
            json!({"allocation": wrong}),
            vec![
                r#"status.allocation.devices.results[0].request: Invalid value: "nobody": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"#,
                r#"status.allocation.devices.results[0].bindingConditions[1]: Duplicate value: "a.io/b""#,
                r#"status.allocation.devices.results[0].bindingFailureConditions: Invalid value: []: bindingFailureConditions are required to use bindingConditions"#,
                r#"status.allocation.devices.config[0].source: Unsupported value: "FromSomewhere": supported values: "FromClaim", "FromClass""#,
            ],
        ),
        // What was told of devices that are given back goes.
        (json!({"allocation": allocation(), "devices": [device]}), json!({"devices": [device]}), vec![]),
    ] {
        assert_eq!(status_errors(&old, &new), expect, "{new}");
    }
    let mut other = allocation();
    other["devices"]["results"][0]["device"] = json!("y");
    let errors = status_errors(&json!({"allocation": allocation()}), &json!({"allocation": other}));
    assert!(errors.len() == 1 && errors[0].starts_with("status.allocation: Invalid value: {"), "{errors:?}");
}

fn slice() -> Value {
    json!({"metadata": {"name": "s"}, "spec": {"driver": "d.io", "nodeName": "n",
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "a"}]}})
}

#[test]
fn wrong_slices() {
    let policy = |policy: Value| json!([{"name": "a", "allowMultipleAllocations": true, "capacity": {"m": {"value": "10", "requestPolicy": policy}}}]);
    for (changes, expect) in [
        (vec![], vec![]),
        (
            vec![("/spec/devices", json!([{"name": "a"}, {"name": "a"}]))],
            vec![r#"spec.devices[1]: Duplicate value: "a""#],
        ),
        (
            vec![("/spec/nodeName", json!("")), ("/spec/allNodes", json!(false))],
            vec![
                r#"spec.nodeName: Invalid value: "": must be either unset or set to a non-empty string"#,
                "spec.allNodes: Invalid value: false: must be either unset or set to true",
                "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
            ],
        ),
        (
            vec![(
                "/spec/nodeSelector",
                json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}),
            )],
            vec![
                r#"spec: Invalid value: "{`nodeName`, `nodeSelector`}": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set"#,
            ],
        ),
        (
            vec![("/spec/devices/0/nodeName", json!("m"))],
            vec![
                "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if \
                 `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
            ],
        ),
        (
            vec![(
                "/spec/devices/0/attributes",
                json!({"x": {"version": "1.2"}, "y": {}, "z": {"int": 1, "bool": true}, "d.io/": {"int": 1}}),
            )],
            vec![
                r#"spec.devices[0].attributes: Invalid value: "": the name must not be empty"#,
                r#"spec.devices[0].attributes[x].version: Invalid value: "1.2": must be a string compatible with semver.org spec 2.0.0"#,
                r#"spec.devices[0].attributes[y]: Invalid value: "": exactly one value must be specified"#,
                r#"spec.devices[0].attributes[z]: Invalid value: {"bool":true,"int":1}: exactly one value must be specified"#,
            ],
        ),
        (
            vec![("/spec/devices/0/taints", json!([{"key": "", "effect": "NoSchedule"}, {"key": "k", "effect": ""}]))],
            vec![
                r#"spec.devices[0].taints[0].key: Invalid value: "": name part must be non-empty"#,
                r#"spec.devices[0].taints[0].key: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"#,
                "spec.devices[0].taints[1].effect: Required value",
            ],
        ),
        (
            vec![("/spec/devices/0/consumesCounters", json!([{"counterSet": "", "counters": {}}]))],
            vec![
                "spec.devices[0].consumesCounters[0].counterSet: Required value",
                "spec.devices[0].consumesCounters[0].counters: Required value",
            ],
        ),
        (
            vec![("/spec/sharedCounters", json!([{"name": "s", "counters": {"c": {"value": "1"}}}]))],
            vec![r#"spec: Invalid value: "": only one of `sharedCounters` or `devices` is allowed"#],
        ),
        (
            vec![("/spec/devices", policy(json!({"default": "3", "validValues": ["4", "2", "11"]})))],
            vec![
                r#"spec.devices[0].capacity[m].requestPolicy.validValues[1]: Invalid value: "2": values must be sorted in ascending order"#,
                r#"spec.devices[0].capacity[m].requestPolicy.validValues[2]: Invalid value: "11": option is larger than capacity value: 10"#,
                r#"spec.devices[0].capacity[m].requestPolicy.validValues: Invalid value: "3": default value is not valid according to the requestPolicy"#,
            ],
        ),
        (
            vec![(
                "/spec/devices",
                policy(json!({"default": "3", "validRange": {"min": "2", "max": "11", "step": "2"}})),
            )],
            vec![
                r#"spec.devices[0].capacity[m].requestPolicy.validRange.max: Invalid value: "11": max is larger than capacity value: 10"#,
                r#"spec.devices[0].capacity[m].requestPolicy.validRange.step: Invalid value: "3": value is not a multiple of a given step (2) from (2)"#,
                r#"spec.devices[0].capacity[m].requestPolicy.validRange.step: Invalid value: "11": value is not a multiple of a given step (2) from (2)"#,
            ],
        ),
        (
            vec![("/spec/devices/0/capacity", json!({"m": {"value": "1", "requestPolicy": {}}}))],
            vec!["spec.devices[0].capacity[m].requestPolicy: Forbidden: allowMultipleAllocations must be true"],
        ),
        (
            vec![("/spec/pool/name", json!("a//b")), ("/spec/pool/resourceSliceCount", json!(0))],
            vec![
                r#"spec.pool.name: Invalid value: "": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#,
                "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
            ],
        ),
    ] {
        assert_eq!(validate(GROUP, "ResourceSlice", with(slice(), &changes)), expect, "{changes:?}");
    }
    let many: Vec<Value> = (0..65).map(|i| json!({"name": format!("d{i}")})).collect();
    assert_eq!(
        validate(GROUP, "ResourceSlice", with(slice(), &[("/spec/devices", json!(many))])),
        Vec::<String>::new()
    );
    let mut tainted = many;
    tainted[3]["taints"] = json!([{"key": "k", "effect": "None"}]);
    assert_eq!(
        validate(GROUP, "ResourceSlice", with(slice(), &[("/spec/devices", json!(tainted))])),
        ["spec.devices: Too many: 65: must have at most 64 items"]
    );
    assert_eq!(
        validate_update(GROUP, "ResourceSlice", slice(), &[("/spec/driver", json!("e.io"))]),
        [r#"spec.driver: Invalid value: "e.io": field is immutable"#]
    );
    let upper = with(slice(), &[("/spec/driver", json!("D.io"))]);
    assert_eq!(
        kind(GROUP, "ResourceSlice").strategy.warnings(&upper, None),
        [r#"spec.driver: driver names should be lowercase; "D.io" contains uppercase characters"#]
    );
}

#[test]
fn wrong_classes() {
    let class = |spec: Value| json!({"metadata": {"name": "c"}, "spec": spec});
    for (spec, expect) in [
        (json!({"extendedResourceName": "a.io/gpu", "selectors": [{"cel": {"expression": "true"}}]}), vec![]),
        (
            json!({"extendedResourceName": "cpu", "config": [{}]}),
            vec![
                "spec.config[0].opaque: Required value",
                r#"spec.extendedResourceName: Invalid value: "cpu": must be a valid extended resource name"#,
            ],
        ),
    ] {
        assert_eq!(validate(GROUP, "DeviceClass", class(spec.clone())), expect, "{spec}");
    }
}
