//! What holds for any input, however wrong: nothing panics, and defaults are stable.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::builtin;

/// Names of fields that the code looks at, so that random objects get deep.
const FIELDS: &[&str] = &[
    "metadata",
    "spec",
    "status",
    "name",
    "namespace",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "template",
    "containers",
    "initContainers",
    "ephemeralContainers",
    "image",
    "ports",
    "containerPort",
    "hostPort",
    "protocol",
    "env",
    "valueFrom",
    "fieldRef",
    "fieldPath",
    "resourceFieldRef",
    "divisor",
    "resources",
    "limits",
    "requests",
    "cpu",
    "memory",
    "volumes",
    "emptyDir",
    "sizeLimit",
    "configMap",
    "secret",
    "projected",
    "sources",
    "hostPath",
    "path",
    "items",
    "mode",
    "volumeMounts",
    "mountPath",
    "livenessProbe",
    "httpGet",
    "grpc",
    "lifecycle",
    "preStop",
    "tolerations",
    "affinity",
    "nodeAffinity",
    "topologySpreadConstraints",
    "securityContext",
    "selector",
    "matchLabels",
    "matchExpressions",
    "replicas",
    "strategy",
    "rollingUpdate",
    "maxSurge",
    "type",
    "clusterIP",
    "clusterIPs",
    "nodePort",
    "targetPort",
    "port",
    "externalIPs",
    "sessionAffinity",
    "subsets",
    "addresses",
    "ip",
    "endpoints",
    "addressType",
    "conditions",
    "phase",
    "containerStatuses",
    "state",
    "terminated",
    "exitCode",
    "data",
    "stringData",
    "binaryData",
    "immutable",
    "taints",
    "capacity",
    "allocatable",
    "podCIDRs",
    "involvedObject",
    "regarding",
    "eventTime",
    "series",
    "deletionTimestamp",
    "creationTimestamp",
    "generation",
    "hostNetwork",
    "restartPolicy",
    "imagePullPolicy",
    "overhead",
    "schedulingGates",
];

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![Just(-1_i64), Just(0), Just(1), Just(80), any::<i64>()].prop_map(Value::from),
        prop_oneof![
            Just(""),
            Just("a"),
            Just("1Gi"),
            Just("-5m"),
            Just("0.00001"),
            Just("10.0.0.1"),
            Just("25%"),
            Just("LoadBalancer"),
            Just("ClientIP"),
            Just("RollingUpdate"),
            Just("Always"),
            Just("2024-01-01T00:00:00Z"),
            Just("None"),
            Just("é/.."),
        ]
        .prop_map(Value::from),
    ]
}

fn tree() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(6, 60, 6, |inner| {
        let field = proptest::sample::select(FIELDS).prop_map(str::to_owned);
        prop_oneof![
            1 => proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            3 => proptest::collection::vec((field, inner), 0..6).prop_map(|m| Value::Object(m.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn any_object_is_survived(metadata in tree(), spec in tree(), status in tree(), more in tree(), key in proptest::sample::select(FIELDS)) {
        let now = "2024-01-02T00:00:00Z".parse().expect("a time");
        let mut object = json!({"metadata": metadata, "spec": spec, "status": status});
        object[key] = more;
        for descriptor in builtin() {
            let strategy = &descriptor.strategy;
            let mut once = object.clone();
            strategy.default(&mut once);
            let mut twice = once.clone();
            strategy.default(&mut twice);
            prop_assert_eq!(&once, &twice, "{}", descriptor.gvr);
            strategy.prepare_create(&mut twice);
            strategy.validate(&twice);
            strategy.validate_update(&twice, &object);
            strategy.validate_status_update(&object, &twice);
            strategy.warnings(&twice, Some(&object));
            strategy.prepare_update(&mut twice, &object);
            strategy.prepare_status_update(&mut twice, &object);
            prop_assert_eq!(strategy.cells(&object, now).len(), descriptor.columns.len());
            for label in strategy.field_labels() {
                strategy.field(&object, label);
            }
        }
    }
}
