//! Ingresses, network policies, addresses, and scalers with their two versions: defaults, mistakes, rows.

use serde_json::{Value, json};

use super::tests::{cells, created};
use super::tests_validation::{validate, validate_update, with};
use crate::strategy::Strategy;

const GROUP: &str = "networking.k8s.io";

fn ingress() -> Value {
    json!({"metadata": {"name": "i", "namespace": "n"}, "spec": {"rules": [{"host": "a.b", "http": {"paths": [
        {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}})
}

#[test]
fn wrong_ingresses() {
    let at = "spec.rules[0].http.paths[0]";
    let path = "/spec/rules/0/http/paths/0";
    let backend = format!("{path}/backend");
    for (changes, expect) in [
        (vec![], vec![]),
        (
            vec![("/spec", json!({}))],
            vec!["spec: Invalid value: []: either `defaultBackend` or `rules` must be specified".to_owned()],
        ),
        (
            vec![("/spec/rules/0/host", json!("1.2.3.4"))],
            vec![r#"spec.rules[0].host: Invalid value: "1.2.3.4": must be a DNS name, not an IP address"#.to_owned()],
        ),
        (
            vec![("/spec/rules/0/http", json!({"paths": []}))],
            vec!["spec.rules[0].http.paths: Required value".to_owned()],
        ),
        (
            vec![(&*format!("{path}/pathType"), Value::Null)],
            vec![format!("{at}.pathType: Required value: pathType must be specified")],
        ),
        (
            vec![(&*format!("{path}/path"), json!("a//b"))],
            vec![
                format!(r#"{at}.path: Invalid value: "a//b": must be an absolute path"#),
                format!(r#"{at}.path: Invalid value: "a//b": must not contain '//'"#),
            ],
        ),
        (
            vec![(&*backend, json!({}))],
            vec![format!(r#"{at}.backend: Invalid value: "": resource or service backend is required"#)],
        ),
        (
            vec![(&*backend, json!({"service": {"name": "s", "port": {}}}))],
            vec![format!("{at}.backend: Required value: port name or number is required")],
        ),
        (
            vec![(&*backend, json!({"service": {"name": "s", "port": {"name": "http", "number": 1}}}))],
            vec![format!(r#"{at}.backend: Invalid value: "": cannot set both port name & port number"#)],
        ),
    ] {
        assert_eq!(validate(GROUP, "Ingress", with(ingress(), &changes)), expect, "{changes:?}");
    }
}

#[test]
fn wrong_ingress_classes_and_addresses() {
    let class = |spec: Value| json!({"metadata": {"name": "c"}, "spec": spec});
    let parent = json!({"resource": "services", "name": "s", "namespace": "n"});
    for (of, object, expect) in [
        ("IngressClass", class(json!({"controller": "a.b/c"})), vec![]),
        (
            "IngressClass",
            class(json!({"controller": "abc"})),
            vec![r#"spec.controller: Invalid value: "abc": must be a domain-prefixed path (such as "acme.io/foo")"#],
        ),
        (
            "IngressClass",
            class(json!({"controller": "a.b/c", "parameters": {"kind": "K", "name": "n", "scope": "Namespace"}})),
            vec!["spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"],
        ),
        ("IPAddress", json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": parent}}), vec![]),
        ("IPAddress", json!({"metadata": {"name": "10.0.0.1"}}), vec!["spec.parentRef: Required value"]),
        (
            "IPAddress",
            json!({"metadata": {"name": "::0:1"}, "spec": {"parentRef": parent}}),
            vec![r#"metadata.name: Invalid value: "::0:1": must be in canonical form ("::1")"#],
        ),
        (
            "ServiceCIDR",
            class(json!({"cidrs": ["10.0.0.0/24", "10.0.1.0/24"]})),
            vec![
                r#"spec.cidrs: Invalid value: ["10.0.0.0/24","10.0.1.0/24"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"#,
            ],
        ),
        ("ServiceCIDR", class(json!({})), vec!["spec.cidrs: Required value: at least one CIDR required"]),
    ] {
        assert_eq!(validate(GROUP, of, object.clone()), expect, "{object}");
    }
    assert_eq!(
        validate_update(
            GROUP,
            "ServiceCIDR",
            class(json!({"cidrs": ["10.0.0.0/24"]})),
            &[("/spec/cidrs", json!(["10.0.1.0/24"]))]
        ),
        [r#"spec.cidrs[0]: Invalid value: "10.0.1.0/24": field is immutable"#]
    );
}

#[test]
fn network_policies() {
    let policy = |spec: Value| json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec});
    let made = created(GROUP, "NetworkPolicy", policy(json!({"egress": [{"ports": [{"port": 53}]}]})));
    assert_eq!(
        made["spec"],
        json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{"ports": [{"port": 53, "protocol": "TCP"}]}]})
    );
    let block =
        |cidr: &str, except: &str| json!({"ingress": [{"from": [{"ipBlock": {"cidr": cidr, "except": [except]}}]}]});
    for (spec, expect) in [
        (json!({}), vec![]),
        (block("10.0.0.0/8", "10.1.0.0/16"), vec![]),
        (
            block("10.0.0.0/8", "11.0.0.0/16"),
            vec![
                r#"spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: "11.0.0.0/16": must be a strict subset of `cidr`"#,
            ],
        ),
        (
            block("10.0.0.0/8", "10.0.0.0/8"),
            vec![
                r#"spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: "10.0.0.0/8": must be a strict subset of `cidr`"#,
            ],
        ),
        (json!({"ingress": [{"from": [{}]}]}), vec!["spec.ingress[0].from[0]: Required value: must specify a peer"]),
        (
            json!({"egress": [{"to": [{"podSelector": {}, "ipBlock": {"cidr": "::/0"}}]}]}),
            vec!["spec.egress[0].to[0]: Forbidden: may not specify both ipBlock and another peer"],
        ),
        (
            json!({"ingress": [{"ports": [{"port": 90, "endPort": 80}, {"port": "web", "endPort": 80}, {"endPort": 80}]}]}),
            vec![
                "spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`",
                "spec.ingress[0].ports[1].endPort: Invalid value: 80: may not be specified when `port` is non-numeric",
                "spec.ingress[0].ports[2].endPort: Invalid value: 80: may not be specified when `port` is not specified",
            ],
        ),
        (
            json!({"policyTypes": ["Sideways"]}),
            vec![r#"spec.policyTypes[0]: Unsupported value: "Sideways": supported values: "Egress", "Ingress""#],
        ),
    ] {
        assert_eq!(validate(GROUP, "NetworkPolicy", policy(spec.clone())), expect, "{spec}");
    }
}

fn scaler(version: &str) -> std::sync::Arc<dyn Strategy> {
    let all = super::builtin();
    let row = all.iter().find(|d| &*d.gvk.kind == "HorizontalPodAutoscaler" && &*d.gvk.version == version);
    row.expect("a built-in kind").strategy.clone()
}

#[test]
fn scalers_have_two_shapes() {
    let annotations = json!({"autoscaling.alpha.kubernetes.io/metrics":
            r#"[{"pods":{"metricName":"m","targetAverageValue":"10"},"type":"Pods"}]"#,
        "autoscaling.alpha.kubernetes.io/current-metrics":
            r#"[{"resource":{"currentAverageUtilization":20,"name":"cpu"},"type":"Resource"}]"#,
        "autoscaling.alpha.kubernetes.io/behavior": r#"{"scaleDown":{"selectPolicy":"Min"}}"#});
    let reference = json!({"kind": "Deployment", "name": "d"});
    let old = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h", "annotations": annotations},
        "spec": {"scaleTargetRef": reference, "maxReplicas": 3, "minReplicas": 1, "targetCPUUtilizationPercentage": 50},
        "status": {"currentReplicas": 2, "desiredReplicas": 3, "currentCPUUtilizationPercentage": 20}});
    let doubled = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let new = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"scaleTargetRef": reference, "maxReplicas": 3, "minReplicas": 1,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "10"}}}],
            "behavior": {"scaleDown": {"selectPolicy": "Min", "policies": [doubled]},
                "scaleUp": {"selectPolicy": "Max", "stabilizationWindowSeconds": 0,
                    "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}, doubled]}}},
        "status": {"currentReplicas": 2, "desiredReplicas": 3,
            "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 20}}}]}});
    let strategy = scaler("v1");
    let mut object = old.clone();
    for _ in 0..2 {
        strategy.encode_stored(&mut object);
        assert_eq!(object, new);
    }
    strategy.decode_stored(&mut object);
    assert_eq!((&object["spec"], &object["status"]), (&old["spec"], &old["status"]));
    strategy.encode_stored(&mut object);
    assert_eq!(object, new, "nothing is lost on the way");
    // Without any metric it is the processor's.
    let mut plain = json!({"apiVersion": "autoscaling/v1", "spec": {"scaleTargetRef": reference, "maxReplicas": 3}});
    strategy.encode_stored(&mut plain);
    assert_eq!(plain["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
}

#[test]
fn wrong_scalers() {
    let object = |spec: Value| {
        let mut object = json!({"metadata": {"name": "h", "namespace": "n"},
            "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 3}});
        object["spec"].as_object_mut().expect("a map").extend(spec.as_object().expect("a map").clone());
        object
    };
    for (spec, expect) in [
        (json!({}), vec![]),
        (
            json!({"minReplicas": 0, "maxReplicas": 0}),
            vec![
                "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                "spec.maxReplicas: Required value: must be set and greater than 0",
                "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas",
            ],
        ),
        (
            json!({"minReplicas": 5}),
            vec!["spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"],
        ),
        (
            json!({"scaleTargetRef": {"kind": "", "name": "d"}}),
            vec![
                "spec.scaleTargetRef.kind: Required value",
                r#"spec.scaleTargetRef.apiVersion: Invalid value: "": apiVersion must specify API group"#,
            ],
        ),
        (json!({"scaleTargetRef": {"apiVersion": "v1", "kind": "ReplicationController", "name": "d"}}), vec![]),
        (
            json!({"scaleTargetRef": {"apiVersion": "a/b/c", "kind": "K", "name": "d"}, "maxReplicas": -1}),
            vec![
                "spec.maxReplicas: Invalid value: -1: must be greater than or equal to 1",
                "spec.maxReplicas: Invalid value: -1: must be greater than or equal to `minReplicas`",
                r#"spec.scaleTargetRef.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c"#,
            ],
        ),
        (
            json!({"metrics": [{"type": "ContainerResource", "containerResource": {"name": "x", "container": "A",
                "target": {"type": "AverageValue", "averageValue": "1"}}}]}),
            vec![
                r#"spec.metrics[0].containerResource.name: Invalid value: "x": must be a standard resource type or fully qualified"#,
                r#"spec.metrics[0].containerResource.name: Invalid value: "x": must be a standard resource for containers"#,
                r#"spec.metrics[0].containerResource.container: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#,
            ],
        ),
        (
            json!({"metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}}]}),
            vec![
                "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a \
                 target utilization",
            ],
        ),
        (
            json!({"metrics": [{"type": "Pods", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 5}}}]}),
            vec!["spec.metrics[0].pods: Required value: must populate information for the given metric source"],
        ),
        (
            json!({"metrics": [{"type": "Resource", "external": {"metric": {"name": "m"}, "target": {"type": "Value", "value": "1"}},
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 5}}}]}),
            vec!["spec.metrics[0].external: Forbidden: must populate the given metric source only"],
        ),
        (
            json!({"behavior": {"scaleUp": {"stabilizationWindowSeconds": 4000, "policies": [{"type": "Pods", "value": 0, "periodSeconds": 1}]}}}),
            vec![
                "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 4000: must be less than or equal to 3600",
                "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
            ],
        ),
    ] {
        let strategy = scaler("v2");
        let mut object = object(spec.clone());
        strategy.default(&mut object);
        strategy.prepare_create(&mut object);
        assert_eq!(super::tests_validation::texts(strategy.validate(&object)), expect, "{spec}");
    }
}

#[test]
fn rows_of_networking() {
    let meta = json!({"name": "x", "creationTimestamp": "2024-01-01T23:59:00Z"});
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    for (group, of, object, expect) in [
        (
            GROUP,
            "Ingress",
            json!({"metadata": meta, "spec": {"ingressClassName": "c", "tls": [{}], "rules": [{"host": "a"}, {"host": "b"},
                {"host": "c"}, {"host": "d"}]}, "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}),
            json!(["x", "c", "a,b,c + 1 more...", "1.2.3.4", "80, 443", "60s"]),
        ),
        (GROUP, "Ingress", json!({"metadata": meta}), json!(["x", "<none>", "*", "", "80", "60s"])),
        (
            GROUP,
            "IngressClass",
            json!({"metadata": meta, "spec": {"controller": "a/b", "parameters": {"apiGroup": "g", "kind": "K", "name": "n"}}}),
            json!(["x", "a/b", "K.g/n", "60s"]),
        ),
        (
            GROUP,
            "NetworkPolicy",
            json!({"metadata": meta, "spec": {"podSelector": {"matchLabels": {"a": "b"}}}}),
            json!(["x", "a=b", "60s"]),
        ),
        (
            GROUP,
            "IPAddress",
            json!({"metadata": meta, "spec": {"parentRef": {"resource": "services", "namespace": "n", "name": "s"}}}),
            json!(["x", "services/n/s"]),
        ),
        (
            GROUP,
            "ServiceCIDR",
            json!({"metadata": meta, "spec": {"cidrs": ["10.0.0.0/24", "::/64"]}}),
            json!(["x", "10.0.0.0/24,::/64", "60s"]),
        ),
        (
            "autoscaling",
            "HorizontalPodAutoscaler",
            json!({"metadata": meta, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "minReplicas": 1,
                "maxReplicas": 4, "metrics": [cpu, cpu, cpu]}, "status": {"currentReplicas": 2,
                "currentMetrics": [{"resource": {"current": {"averageUtilization": 30}}}]}}),
            json!(["x", "Deployment/d", "cpu: 30%/50%, cpu: <unknown>/50% + 1 more...", "1", "4", 2, "60s"]),
        ),
    ] {
        assert_eq!(Value::from(cells(group, of, object)), expect, "{of}");
    }
}
