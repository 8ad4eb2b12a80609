//! Pods: files of variables, resources of the whole, what a status may say.

use serde_json::{Value, json};

use super::tests::{created, kind};
use super::tests_validation::{texts, validate, with};

fn pod() -> Value {
    json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"serviceAccountName": "default",
        "containers": [{"name": "c", "image": "i"}]}})
}

#[test]
fn files_of_variables_and_names_of_hosts() {
    let env = |file: Value| json!([{"name": "A", "valueFrom": {"fileKeyRef": file}}]);
    let at = "spec.containers[0].env[0].valueFrom.fileKeyRef";
    let volumes = json!([{"name": "v", "emptyDir": {}}, {"name": "w", "hostPath": {"path": "/x"}}]);
    for (file, expect) in [
        (json!({"key": "K", "volumeName": "v", "path": "a/b"}), vec![]),
        (json!({"key": "K", "volumeName": "v", "path": "/a"}), vec![]),
        (
            json!({"key": "", "volumeName": "v", "path": "../a"}),
            vec![".key: Required value", r#".path: Invalid value: "../a": must not contain '..'"#],
        ),
        (
            json!({"key": "K", "volumeName": "w", "path": "a"}),
            vec![r#".volumeName: Invalid value: "w": referenced volume must be of type emptyDir"#],
        ),
        (json!({"key": "K", "volumeName": "x", "path": "a"}), vec![r#".volumeName: Not found: "x""#]),
    ] {
        let object = with(pod(), &[("/spec/volumes", volumes.clone()), ("/spec/containers/0/env", env(file.clone()))]);
        let expect: Vec<String> = expect.iter().map(|rest| format!("{at}{rest}")).collect();
        assert_eq!(validate("", "Pod", object), expect, "{file}");
    }
    let named = with(pod(), &[("/spec/hostnameOverride", json!("a")), ("/spec/hostNetwork", json!(true))]);
    assert_eq!(
        validate("", "Pod", named),
        ["spec.hostnameOverride: Forbidden: may not be specified when hostNetwork is true"]
    );
}

#[test]
fn resources_of_the_whole_pod() {
    let cpu = |amount: &str| json!({"requests": {"cpu": amount}, "limits": {"cpu": amount}});
    for (resources, expect) in [
        (json!({"requests": {"cpu": "3"}, "limits": {"cpu": "4"}}), vec![]),
        (
            json!({"requests": {"cpu": "2500m"}}),
            // Two that stay and the one that starts beside the one that stays: 1 + 1 and 1 + 2.
            vec![
                "spec.resources.requests[cpu]: Invalid value: \"2500m\": must be greater than or equal to aggregate container \
                 requests of 3",
            ],
        ),
        (
            json!({"requests": {"cpu": "3"}, "limits": {"cpu": "900m"}}),
            vec![
                "spec.resources.requests: Invalid value: \"3\": must be less than or equal to cpu limit of 900m",
                "spec.resources.containers[0][cpu].limits: Invalid value: \"1\": must be less than or equal to pod limits of 900m",
            ],
        ),
        (
            json!({"requests": {"ephemeral-storage": "1Gi"}}),
            vec![
                "spec.resources.requests[ephemeral-storage]: Unsupported value: \"ephemeral-storage\": supported values: \
                 \"cpu\", \"hugepages-\", \"memory\"",
            ],
        ),
        (
            json!({"requests": {"cpu": "3"}, "claims": [{"name": "x"}]}),
            vec![
                "spec.resources.claims: Forbidden: claims may not be set for Resources at pod-level",
                "spec.resources.claims[0]: Not found: \"x\": must be one of the names in pod.spec.resourceClaims which is empty",
            ],
        ),
    ] {
        let init = json!([{"name": "s", "image": "i", "restartPolicy": "Always", "resources": cpu("1")},
            {"name": "i", "image": "i", "resources": cpu("2")}]);
        let changes = [
            ("/spec/resources", resources.clone()),
            ("/spec/initContainers", init),
            ("/spec/containers/0/resources", cpu("1")),
        ];
        assert_eq!(validate("", "Pod", with(pod(), &changes)), expect, "{resources}");
    }
}

#[test]
fn wrong_statuses() {
    let old = with(
        created("", "Pod", pod()),
        &[
            ("/spec/nodeName", json!("n")),
            ("/spec/restartPolicy", json!("OnFailure")),
            ("/status/containerStatuses", json!([{"name": "c", "state": {"terminated": {"exitCode": 0}}}])),
            ("/status/ephemeralContainerStatuses", json!([{"name": "e", "state": {"terminated": {"exitCode": 1}}}])),
        ],
    );
    let status = |rest: &str| format!("/status/{rest}");
    for (changes, expect) in [
        (vec![], vec![]),
        (
            vec![(status("containerStatuses/0/state"), json!({"running": {}}))],
            vec!["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"],
        ),
        (vec![(status("containerStatuses/0/state"), json!({"terminated": {"exitCode": 7}}))], vec![]),
        (
            vec![(status("ephemeralContainerStatuses/0/state"), json!({"running": {}}))],
            vec![
                "status.ephemeralContainerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state",
            ],
        ),
        (
            vec![(status("qosClass"), json!("Guaranteed"))],
            vec![r#"status.qosClass: Invalid value: "Guaranteed": field is immutable"#],
        ),
        (
            vec![(status("nominatedNodeName"), json!("m"))],
            vec!["status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node"],
        ),
        (
            vec![(status("hostIP"), json!("10.0.0.1")), (status("hostIPs"), json!([{"ip": "10.0.0.2"}]))],
            vec![r#"status.hostIPs[0].ip: Invalid value: "10.0.0.2": must be equal to `hostIP`"#],
        ),
        (
            vec![(status("podIPs"), json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]))],
            vec![
                r#"status.podIPs: Invalid value: ["10.0.0.1","10.0.0.2"]: may specify no more than one IP for each IP family"#,
            ],
        ),
        (
            vec![(status("resourceClaimStatuses"), json!([{"name": "x"}]))],
            vec![
                r#"status.resourceClaimStatuses[0].name: Invalid value: "x": must match the name of an entry in `spec.resourceClaims`"#,
            ],
        ),
    ] {
        let changes: Vec<(&str, Value)> = changes.iter().map(|(path, value)| (path.as_str(), value.clone())).collect();
        let strategy = kind("", "Pod").strategy.clone();
        assert_eq!(texts(strategy.validate_status_update(&with(old.clone(), &changes), &old)), expect, "{changes:?}");
    }
}
