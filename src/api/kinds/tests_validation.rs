//! What upstream says of wrong manifests, for every kind.

use serde_json::{Value, json};

use super::tests::{created, kind};

/// Puts `values` at their JSON pointers; null removes.
pub(super) fn with(mut object: Value, changes: &[(&str, Value)]) -> Value {
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}"));
        match (parent, value) {
            (Value::Object(map), Value::Null) => {
                map.remove(key);
            }
            (Value::Object(map), value) => {
                map.insert(key.to_owned(), value.clone());
            }
            (Value::Array(list), value) => list[key.parse::<usize>().expect("an index")] = value.clone(),
            _ => panic!("{pointer}"),
        }
    }
    object
}

pub(super) fn texts(causes: Vec<crate::status::Cause>) -> Vec<String> {
    causes.into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
}

pub(super) fn validate(group: &str, of: &str, object: Value) -> Vec<String> {
    texts(kind(group, of).strategy.validate(&created(group, of, object)))
}

pub(super) fn validate_update(group: &str, of: &str, old: Value, changes: &[(&str, Value)]) -> Vec<String> {
    let strategy = &kind(group, of).strategy;
    let old = created(group, of, old);
    let mut new = with(old.clone(), changes);
    strategy.default(&mut new);
    strategy.prepare_update(&mut new, &old);
    texts(strategy.validate_update(&new, &old))
}

fn pod() -> Value {
    json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "ports": [{"containerPort": 80, "name": "web"}],
            "livenessProbe": {"httpGet": {"port": "web"}},
            "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]}]}})
}

#[test]
fn wrong_pods() {
    assert_eq!(validate("", "Pod", pod()), Vec::<String>::new());
    let c = "/spec/containers/0";
    let at = |path: &str| format!("{c}{path}");
    for (changes, expect) in [
        (vec![("/spec/containers".to_owned(), json!([]))], vec!["spec.containers: Required value"]),
        (vec![(at("/image"), json!(""))], vec!["spec.containers[0].image: Required value"]),
        (
            vec![(at("/image"), json!(" i"))],
            vec!["spec.containers[0].image: Invalid value: \" i\": must not have leading or trailing whitespace"],
        ),
        (
            vec![(at("/name"), json!("a.b"))],
            vec!["spec.containers[0].name: Invalid value: \"a.b\": must not contain dots"],
        ),
        (
            vec![(at("/imagePullPolicy"), json!("Sometimes"))],
            vec![
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
                  \"IfNotPresent\", \"Never\"",
            ],
        ),
        (
            vec![("/spec/restartPolicy".to_owned(), json!("Maybe"))],
            vec![
                "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            ],
        ),
        (
            vec![(at("/ports/0/containerPort"), json!(70000)), (at("/ports/0/protocol"), json!("QUIC"))],
            vec![
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "spec.containers[0].ports[0].protocol: Unsupported value: \"QUIC\": supported values: \"SCTP\", \"TCP\", \
                 \"UDP\"",
            ],
        ),
        (
            vec![(at("/ports"), json!([{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}, {}]))],
            vec![
                "spec.containers[0].ports[1].name: Duplicate value: \"a\"",
                "spec.containers[0].ports[2].containerPort: Required value",
            ],
        ),
        (
            vec![(at("/ports"), json!([{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}]))],
            vec!["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//9\""],
        ),
        (
            vec![(
                at("/volumeMounts"),
                json!([{"name": "w", "mountPath": "/v"}, {"name": "v", "mountPath": "/v", "subPath": "../x"}]),
            )],
            vec![
                "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
                "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/v\": must be unique",
                "spec.containers[0].volumeMounts.subPath: Invalid value: \"../x\": must not contain '..'",
            ],
        ),
        (
            vec![(
                at("/env"),
                json!([{"name": ""}, {"name": "A=B"}, {"name": "C", "value": "x", "valueFrom": {}},
                {"name": "D", "valueFrom": {"fieldRef": {"fieldPath": "spec.nope"}}},
                {"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels"}}}]),
            )],
            vec![
                "spec.containers[0].env[0].name: Required value",
                "spec.containers[0].env[1].name: Invalid value: \"A=B\": a valid environment variable name must consist only \
                 of printable ASCII characters other than '='",
                "spec.containers[0].env[2].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, \
                 `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
                "spec.containers[0].env[3].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nope\": error converting \
                 fieldPath: field label not supported: spec.nope",
                "spec.containers[0].env[4].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported \
                 values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \
                 \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            ],
        ),
        (
            vec![(
                at("/resources"),
                json!({"requests": {"cpu": "2", "memory": "-1"}, "limits": {"cpu": "1", "foo": "1"}}),
            )],
            vec![
                "spec.containers[0].resources.limits[foo]: Invalid value: \"foo\": must be a standard resource type or fully \
                 qualified",
                "spec.containers[0].resources.limits[foo]: Invalid value: \"foo\": must be a standard resource for \
                 containers",
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
                "spec.containers[0].resources.requests[foo]: Invalid value: \"foo\": must be a standard resource type or \
                 fully qualified",
                "spec.containers[0].resources.requests[foo]: Invalid value: \"foo\": must be a standard resource for \
                 containers",
                "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
            ],
        ),
        (
            vec![(at("/livenessProbe"), json!({"successThreshold": 2, "exec": {}, "tcpSocket": {"port": 1}}))],
            vec![
                "spec.containers[0].livenessProbe.exec.command: Required value",
                "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ],
        ),
        (
            vec![(
                at("/securityContext"),
                json!({"privileged": true, "allowPrivilegeEscalation": false, "runAsUser": -1}),
            )],
            vec![
                "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 4294967295, \
                 inclusive",
                "spec.containers[0].securityContext: Invalid value: \
                 {\"allowPrivilegeEscalation\":false,\"privileged\":true,\"runAsUser\":-1}: cannot set \
                 `allowPrivilegeEscalation` to false and `privileged` to true",
            ],
        ),
        (
            vec![("/spec/initContainers".to_owned(), json!([{"name": "c", "image": "i", "lifecycle": {}}]))],
            vec![
                "spec.initContainers[0].name: Duplicate value: \"c\"",
                "spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without \
                 restartPolicy=Always",
            ],
        ),
        (
            vec![(
                "/spec/volumes".to_owned(),
                json!([{"name": "v", "hostPath": {"path": "/a/../b"}, "secret": {"secretName": "s"}},
                {"name": "w", "configMap": {}}]),
            )],
            vec![
                "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
                "spec.volumes[1].configMap.name: Required value",
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            ],
        ),
        (
            vec![("/spec/tolerations".to_owned(), json!([{"operator": "Equal"}, {"key": "a", "operator": "Is"}]))],
            vec![
                "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which \
                 means \"match all values and all keys\"",
                "spec.tolerations[1].operator: Unsupported value: \"Is\": supported values: \"Equal\", \"Exists\"",
            ],
        ),
        (
            vec![(
                "/spec/topologySpreadConstraints".to_owned(),
                json!([{"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "X"}]),
            )],
            vec![
                "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
                "spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
                "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"X\": supported values: \
                 \"DoNotSchedule\", \"ScheduleAnyway\"",
            ],
        ),
        (
            vec![(
                "/spec/affinity".to_owned(),
                json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]}}}),
            )],
            vec![
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].\
                  matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            ],
        ),
        (
            vec![("/spec/dnsPolicy".to_owned(), json!("None"))],
            vec!["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
        ),
        (
            vec![("/spec/hostNetwork".to_owned(), json!(true)), (at("/ports/0/hostPort"), json!(81))],
            vec![
                "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is \
                  true",
            ],
        ),
        (
            vec![
                ("/spec/schedulingGates".to_owned(), json!([{"name": "a/b"}])),
                ("/spec/nodeName".to_owned(), json!("n")),
            ],
            vec!["spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"],
        ),
        (
            vec![("/metadata/name".to_owned(), json!("A"))],
            vec![
                "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case \
                  alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
                  'example.com', regex used for validation is \
                  '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            ],
        ),
    ] {
        let changes: Vec<(&str, Value)> = changes.iter().map(|(p, v)| (p.as_str(), v.clone())).collect();
        assert_eq!(validate("", "Pod", with(pod(), &changes)), expect, "{changes:?}");
    }
}

#[test]
fn pod_updates() {
    for (changes, expect) in [
        (vec![("/spec/containers/0/image", json!("j"))], vec![]),
        (vec![("/spec/activeDeadlineSeconds", json!(5))], vec![]),
        (vec![("/spec/tolerations", json!([{"operator": "Exists"}]))], vec![]),
        (vec![("/metadata/labels", json!({"a": "b"}))], vec![]),
        (
            vec![("/spec/containers/0/command", json!(["x"])), ("/spec/hostname", json!("h"))],
            vec![
                "spec: Forbidden: pod updates may not change fields other than \
                  `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                  `spec.tolerations` (only additions to existing tolerations),\
                  `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n  \
                  spec.containers[0].command: null -> [\"x\"]\n  spec.hostname: null -> \"h\"\n",
            ],
        ),
        (
            vec![("/spec/containers", json!([{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]))],
            vec!["spec.containers: Forbidden: pod updates may not add or remove containers"],
        ),
        (vec![("/metadata/uid", json!("x"))], vec!["metadata.uid: Invalid value: \"x\": field is immutable"]),
    ] {
        let old = with(pod(), &[("/metadata/uid", json!("u"))]);
        assert_eq!(validate_update("", "Pod", old, &changes), expect, "{changes:?}");
    }
    // Nothing that has ended for good comes back to life.
    let strategy = &kind("", "Pod").strategy;
    let mut old = with(created("", "Pod", pod()), &[("/spec/restartPolicy", json!("Never"))]);
    old["status"] = json!({"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 0}}}]});
    let new = with(old.clone(), &[("/status/containerStatuses/0/state", json!({"running": {}}))]);
    assert_eq!(
        texts(strategy.validate_status_update(&new, &old)),
        ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
    );
}

#[test]
fn wrong_services() {
    let service = || json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"ports": [{"port": 80}]}});
    for (changes, expect) in [
        (vec![], vec![]),
        (vec![("/spec/ports", json!([]))], vec!["spec.ports: Required value"]),
        (vec![("/spec/ports", Value::Null), ("/spec/clusterIP", json!("None"))], vec![]),
        (
            vec![("/spec/ports", json!([{"port": 80}, {"port": 80, "name": "A"}]))],
            vec![
                "spec.ports[0].name: Required value",
                "spec.ports[1].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric \
                 characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', \
                 regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
            ],
        ),
        (
            vec![("/spec/ports/0/nodePort", json!(30000))],
            vec!["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (
            vec![("/spec/type", json!("Magic"))],
            vec![
                "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \
                 \"LoadBalancer\", \"NodePort\"",
            ],
        ),
        (vec![("/spec/type", json!("ExternalName"))], vec!["spec.externalName: Required value"]),
        (
            vec![("/spec/clusterIP", json!("1.2.3"))],
            vec![
                "spec.clusterIPs[0]: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or \
                  2001:db8::ffff)",
            ],
        ),
        (
            vec![("/spec/externalIPs", json!(["127.0.0.1"]))],
            vec![
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, \
                  ::1/128)",
            ],
        ),
        (vec![("/metadata/name", json!("a.b"))], vec!["metadata.name: Invalid value: \"a.b\": must not contain dots"]),
    ] {
        assert_eq!(validate("", "Service", with(service(), &changes)), expect, "{changes:?}");
    }
    let old = with(service(), &[("/spec/clusterIP", json!("10.0.0.1"))]);
    let changes = [("/spec/clusterIP", json!("10.0.0.2"))];
    assert_eq!(
        validate_update("", "Service", old, &changes),
        ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
    );
}

#[test]
fn wrong_workloads() {
    let object = || {
        json!({"metadata": {"name": "d", "namespace": "n"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    for (of, changes, expect) in [
        ("Deployment", vec![], vec![]),
        ("ReplicaSet", vec![], vec![]),
        (
            "Deployment",
            vec![("/spec/replicas", json!(-1))],
            vec!["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
        ),
        (
            "Deployment",
            vec![("/spec/selector/matchLabels/a", json!("c"))],
            vec![
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
            ],
        ),
        (
            "Deployment",
            vec![("/spec/selector", json!({}))],
            vec!["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
        ),
        (
            "Deployment",
            vec![("/spec/selector", Value::Null)],
            vec![
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
            ],
        ),
        (
            "ReplicaSet",
            vec![("/spec/selector", Value::Null)],
            vec![
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
            ],
        ),
        (
            "Deployment",
            vec![("/spec/template/spec/restartPolicy", json!("Never"))],
            vec!["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
        ),
        (
            "Deployment",
            vec![("/spec/strategy", json!({"type": "Recreate", "rollingUpdate": {}}))],
            vec!["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
        ),
        (
            "Deployment",
            vec![("/spec/strategy", json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}))],
            vec![
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
            ],
        ),
        (
            "Deployment",
            vec![("/spec/template/spec/containers/0/image", json!(""))],
            vec!["spec.template.spec.containers[0].image: Required value"],
        ),
        (
            "Deployment",
            vec![("/spec/progressDeadlineSeconds", json!(5)), ("/spec/minReadySeconds", json!(5))],
            vec!["spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"],
        ),
    ] {
        assert_eq!(validate("apps", of, with(object(), &changes)), expect, "{of} {changes:?}");
    }
    let changes = [("/spec/selector/matchLabels/a", json!("c")), ("/spec/template/metadata/labels/a", json!("c"))];
    assert_eq!(
        validate_update("apps", "Deployment", object(), &changes),
        ["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"c\"}}: field is immutable"]
    );
    let controller = json!({"metadata": {"name": "r", "namespace": "n"}, "spec": {"template": {"spec": {
        "containers": [{"name": "c", "image": "i"}]}}}});
    assert_eq!(validate("", "ReplicationController", controller), ["spec.selector: Required value"]);
}

#[test]
fn wrong_others() {
    let meta = json!({"name": "x", "namespace": "n"});
    for (group, of, object, expect) in [
        (
            "",
            "ConfigMap",
            json!({"metadata": meta, "data": {"a/b": "", "c": ""}, "binaryData": {"c": ""}}),
            vec![
                "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or \
                 '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                "data[c]: Invalid value: \"c\": duplicate of key present in binaryData",
            ],
        ),
        (
            "",
            "ConfigMap",
            json!({"metadata": meta, "data": {"a": "x".repeat(1024 * 1024 + 1)}}),
            vec![": Too long: may not be more than 1048576 bytes"],
        ),
        (
            "",
            "Secret",
            json!({"metadata": meta, "type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
            vec!["data[tls.key]: Required value"],
        ),
        (
            "",
            "Secret",
            json!({"metadata": meta, "type": "kubernetes.io/service-account-token"}),
            vec!["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
        ),
        (
            "",
            "Namespace",
            json!({"metadata": {"name": "a.b"}}),
            vec!["metadata.name: Invalid value: \"a.b\": must not contain dots"],
        ),
        (
            "",
            "Node",
            json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"taints": [{"key": "a", "effect": "X"}]}}),
            vec![
                "metadata.namespace: Forbidden: not allowed on this type",
                "metadata.taints[0].effect: Unsupported value: \"X\": supported values: \"NoExecute\", \"NoSchedule\", \
                 \"PreferNoSchedule\"",
            ],
        ),
        (
            "",
            "Endpoints",
            json!({"metadata": meta, "subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 0}]}, {}]}),
            vec![
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, \
                 ::1/128)",
                "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`",
            ],
        ),
        (
            "discovery.k8s.io",
            "EndpointSlice",
            json!({"metadata": meta, "addressType": "IPv4", "endpoints": [{"addresses": ["::1"]}], "ports": [{}, {}]}),
            vec![
                "ports[1].name: Duplicate value: \"\"",
                "endpoints[0].addresses: Invalid value: \"::1\": must be an IPv4 address",
                "endpoints[0].addresses[0]: Invalid value: \"::1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ],
        ),
        (
            "discovery.k8s.io",
            "EndpointSlice",
            json!({"metadata": meta, "addressType": "IPv6", "endpoints": [
                {"addresses": ["fd00::01"], "hints": {"forZones": [{"name": "a"}, {"name": "a"}, {"name": ""}],
                    "forNodes": [{"name": "-"}]}},
                {"addresses": ["10.0.0.1"]}]}),
            vec![
                "endpoints[0].addresses[0]: Invalid value: \"fd00::01\": must be in canonical form (\"fd00::1\")",
                "endpoints[0].hints.forZones[1].name: Duplicate value: \"a\"",
                "endpoints[0].hints.forNodes[0].name: Invalid value: \"-\": a lowercase RFC 1123 subdomain must consist of \
                 lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character \
                 (e.g. 'example.com', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                "endpoints[1].addresses: Invalid value: \"10.0.0.1\": must be an IPv6 address",
            ],
        ),
        (
            "discovery.k8s.io",
            "EndpointSlice",
            json!({"metadata": meta, "addressType": "FQDN", "endpoints": [{"addresses": ["", "a.", "a.b."]}],
                "ports": [{"port": 0}]}),
            vec![
                "endpoints[0].addresses[0]: Required value",
                "endpoints[0].addresses[1]: Invalid value: \"a\": should be a domain with at least two segments separated by \
                 dots",
            ],
        ),
        (
            "",
            "Event",
            json!({"metadata": meta, "involvedObject": {"namespace": "other"}}),
            vec!["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"],
        ),
        (
            "events.k8s.io",
            "Event",
            json!({"metadata": meta, "regarding": {"namespace": "n"}, "type": "Odd", "reportingController": "c",
                "reportingInstance": "i", "action": "a", "reason": "r", "deprecatedCount": 1}),
            vec![
                "eventTime: Required value",
                "type: Invalid value: \"\": has invalid value: Odd",
                "count: Invalid value: \"\": needs to be unset",
            ],
        ),
        (
            "coordination.k8s.io",
            "Lease",
            json!({"metadata": meta, "spec": {"leaseDurationSeconds": 0}}),
            vec!["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"],
        ),
        (
            "apps",
            "ControllerRevision",
            json!({"metadata": meta, "revision": -1}),
            vec![
                "data: Required value: data is mandatory",
                "revision: Invalid value: -1: must be greater than or equal to 0",
            ],
        ),
        ("", "Binding", json!({"metadata": meta, "target": {}}), vec!["target.name: Required value"]),
        (
            "",
            "Namespace",
            json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["mine", "a.io/b"]}}),
            vec![
                "spec.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
            ],
        ),
        (
            "",
            "Node",
            json!({"metadata": {"name": "a"}, "spec": {"podCIDRs": ["10.0.0.1/24"]}, "status": {"capacity": {"pods": "1500m"},
                "declaredFeatures": ["Beta", "alpha", "alpha"]}}),
            vec![
                "spec.podCIDRs[0]: Invalid value: \"10.0.0.1/24\": must not have bits set beyond the prefix length",
                "status.capacity.pods: Invalid value: \"1500m\": must be an integer",
                "status.allocatable.pods: Invalid value: \"1500m\": must be an integer",
                "status.declaredFeatures[1]: Invalid value: \"alpha\": invalid feature name \"alpha\": must start with an \
                 UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or \
                 MyFeature/mySubFeature), and contain only alphanumeric characters and slashes",
                "status.declaredFeatures[2]: Duplicate value: \"alpha\"",
                "status.declaredFeatures[2]: Invalid value: \"alpha\": invalid feature name \"alpha\": must start with an \
                 UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or \
                 MyFeature/mySubFeature), and contain only alphanumeric characters and slashes",
            ],
        ),
        (
            "",
            "Endpoints",
            json!({"metadata": meta, "subsets": [{"addresses": [{"ip": "010.1.2.3"}, {"ip": "::ffff:10.0.0.1"}, {"ip": "x"}]}]}),
            vec![
                "subsets[0].addresses[0].ip: Invalid value: \"010.1.2.3\": must not have leading 0s",
                "subsets[0].addresses[1].ip: Invalid value: \"::ffff:10.0.0.1\": must not be an IPv4-mapped IPv6 address",
                "subsets[0].addresses[2].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "subsets[0].addresses[2].ip: Invalid value: \"x\": must be a valid IP address",
            ],
        ),
        (
            "networking.k8s.io",
            "ServiceCIDR",
            json!({"metadata": {"name": "a"}, "spec": {"cidrs": ["10.0.0.0/08", "FD00::/64"]}}),
            vec![
                "spec.cidrs[0]: Invalid value: \"10.0.0.0/08\": must not have leading 0s in IP or prefix length",
                "spec.cidrs[1]: Invalid value: \"FD00::/64\": must be in canonical form (\"fd00::/64\")",
            ],
        ),
        (
            "events.k8s.io",
            "Event",
            json!({"metadata": meta, "regarding": {"namespace": "n"}, "type": "Normal", "reportingController": "c",
                "eventTime": "2026-01-01T00:00:00.000000Z", "reportingInstance": "i", "action": "a", "reason": "r",
                "series": {"count": 1, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}}),
            vec!["series.count: Invalid value: \"\": should be at least 2"],
        ),
        (
            "",
            "ServiceAccount",
            json!({"metadata": {"name": "x", "namespace": "n", "finalizers": ["mine"]}}),
            vec![
                "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully \
                  qualified",
            ],
        ),
    ] {
        assert_eq!(validate(group, of, object), expect, "{of}");
    }
    let sealed = json!({"metadata": meta, "immutable": true, "data": {"a": "Yg=="}});
    for of in ["ConfigMap", "Secret"] {
        assert_eq!(
            validate_update("", of, sealed.clone(), &[("/data/a", json!("Yw==")), ("/immutable", Value::Null)]),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ],
            "{of}"
        );
    }
    let event = json!({"metadata": meta, "regarding": {"namespace": "n"}, "type": "Normal", "reportingController": "c", "note": "m",
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingInstance": "i", "action": "a", "reason": "r"});
    let series = json!({"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000000Z"});
    assert_eq!(
        validate_update("events.k8s.io", "Event", event, &[("/note", json!("n")), ("/series", series)]),
        ["message: Invalid value: \"n\": field is immutable"]
    );
    let node = json!({"metadata": {"name": "x"}, "spec": {"podCIDRs": ["10.0.0.0/24"]}});
    assert_eq!(
        validate_update("", "Node", node, &[("/spec/podCIDRs", json!(["10.0.1.0/24"]))]),
        ["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"]
    );
}

#[test]
fn match_label_keys_join_the_selectors() {
    let constraint = |selector: Value| {
        json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "matchLabelKeys": ["hash", "none"],
            "labelSelector": selector}])
    };
    let changes = [
        ("/metadata/labels", json!({"hash": "1", "app": "a"})),
        ("/spec/topologySpreadConstraints", constraint(json!({"matchLabels": {"app": "a"}}))),
    ];
    let spread = with(pod(), &changes);
    assert_eq!(
        created("", "Pod", spread.clone())["spec"]["topologySpreadConstraints"],
        constraint(json!({"matchLabels": {"app": "a"},
            "matchExpressions": [{"key": "hash", "operator": "In", "values": ["1"]}]}))
    );
    assert_eq!(validate("", "Pod", spread.clone()), Vec::<String>::new());
    let twice = [("/spec/topologySpreadConstraints", constraint(json!({"matchLabels": {"hash": "1"}})))];
    assert_eq!(
        validate("", "Pod", with(spread, &twice)),
        [
            "spec.topologySpreadConstraints[0].matchLabelKeys[0]: Invalid value: \"hash\": exists in both matchLabelKeys and \
          labelSelector"
        ]
    );
}
