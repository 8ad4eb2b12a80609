//! What kinds say of objects that are allowed and still hardly meant.

use serde_json::{Value, json};

use super::tests::kind;

fn warnings(of: (&str, &str), object: Value, old: Option<&Value>) -> Vec<String> {
    kind(of.0, of.1).strategy.warnings(&object, old)
}

fn status_warnings(of: (&str, &str), object: &Value) -> Vec<String> {
    kind(of.0, of.1).strategy.status_warnings(object)
}

#[test]
fn of_pods_and_workloads() {
    let odd = json!({"terminationGracePeriodSeconds": -1, "nodeSelector": {"beta.kubernetes.io/os": "linux"},
        "imagePullSecrets": [{"name": "a"}, {"name": "a"}],
        "containers": [{"env": [{"name": "A"}, {"name": "A"}, {"name": "A", "value": "x:$(A)"}],
            "resources": {"limits": {"memory": "100m"}},
            "ports": [{"name": "p", "containerPort": 1}, {"name": "p", "containerPort": 1}]}]});
    let expect = |prefix: &str| {
        [
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            "spec.imagePullSecrets[1].name: duplicate name \"a\"",
            "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
            "spec.containers[0].ports[1]: duplicate port name \"p\" with spec.containers[0].ports[0], services and probes \
             that select ports by name will use spec.containers[0].ports[0]",
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
        ]
        .map(|text| text.replace("spec.", &format!("{prefix}spec.")))
        .to_vec()
    };
    let pod = json!({"metadata": {"name": "p"}, "spec": odd});
    assert_eq!(warnings(("", "Pod"), pod.clone(), None), expect(""));
    assert_eq!(warnings(("", "Pod"), pod.clone(), Some(&pod)), Vec::<String>::new());
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"template": {"spec": odd}}});
    assert_eq!(warnings(("apps", "Deployment"), deployment.clone(), None), expect("spec.template."));
    assert_eq!(warnings(("apps", "Deployment"), deployment.clone(), Some(&deployment)), Vec::<String>::new());
    assert_eq!(
        warnings(("", "Pod"), json!({"metadata": {"name": "a.b"}}), None),
        ["metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is \
          recommended: [must not contain dots]"]
    );
}

#[test]
fn of_what_pods_hold() {
    let pod = json!({"metadata": {"name": "p", "annotations": {
            "container.apparmor.security.beta.kubernetes.io/a": "runtime/default",
            "container.apparmor.security.beta.kubernetes.io/none": "runtime/default",
            "seccomp.security.alpha.kubernetes.io/pod": "x", "security.alpha.kubernetes.io/sysctls": "x"}},
        "spec": {
            "affinity": {"podAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "a"}],
                "preferredDuringSchedulingIgnoredDuringExecution": [{"podAffinityTerm": {"topologyKey": "a"}}]},
                "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"preference": {"matchExpressions": [
                    {"key": "node-role.kubernetes.io/master", "values": ["a b"]}]}}]}},
            "topologySpreadConstraints": [{"topologyKey": "beta.kubernetes.io/arch", "labelSelector": {}}],
            "overhead": {"memory": "0.5"},
            "hostAliases": [{"ip": "::0001"}, {"ip": "::0001"}],
            "dnsConfig": {"nameservers": ["010.0.0.1"]},
            "volumes": [
                {"name": "s", "storageos": {}},
                {"name": "c", "configMap": {"name": "m", "items": [{"path": "a/"}, {"path": "a/b"}, {"path": "ab"}]}},
                {"name": "p", "projected": {"sources": [{}, {"serviceAccountToken": {"path": "t"}},
                    {"secret": {"name": "x", "items": [{"path": "t"}]}}]}},
                {"name": "e", "ephemeral": {"volumeClaimTemplate": {"spec": {"resources":
                    {"requests": {"storage": "1500m"}}}}}}],
            "containers": [{"name": "a", "ports": [
                {"containerPort": 1, "protocol": "TCP", "hostIP": "1.2.3.4"},
                {"containerPort": 1, "protocol": "TCP", "hostPort": 5},
                {"containerPort": 1, "protocol": "TCP", "hostPort": 5, "hostIP": "1.2.3.4"}]}]}});
    let affinity = "spec.affinity.podAffinity";
    assert_eq!(
        warnings(("", "Pod"), pod.clone(), None),
        [
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0]\
             .key: node-role.kubernetes.io/master is use \"node-role.kubernetes.io/control-plane\" instead",
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0]\
             .values[0]: a b is invalid, a valid label must be an empty string or consist of alphanumeric characters, '-', \
             '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or \
             '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            "spec.topologySpreadConstraints[0].topologyKey: beta.kubernetes.io/arch is deprecated since v1.14; use \
             \"kubernetes.io/arch\" instead",
            "metadata.annotations[security.alpha.kubernetes.io/sysctls]: non-functional in v1.11+; use the \"sysctls\" field \
             instead",
            "spec.volumes[0].storageOS: deprecated in v1.22, non-functional in v1.25+",
            "spec.volumes[3].ephemeral.volumeClaimTemplate.spec.resources.requests[storage]: fractional byte value \
             \"1500m\" is invalid, must be an integer",
            "volume \"c\" (ConfigMap \"m\"): overlapping paths: \"a/b\" with \"a\"",
            "volume \"p\" (Projected): overlapping paths: \"t\" (Secret \"x\") with \"t\" (ServiceAccountToken)",
            "volume \"p\" (Projected) has no sources provided",
            "spec.hostAliases[1].ip: duplicate ip \"::0001\"",
            "spec.overhead[memory]: fractional byte value \"500m\" is invalid, must be an integer",
            "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the \
             \"seccompProfile\" field instead",
            "metadata.annotations[container.apparmor.security.beta.kubernetes.io/a]: deprecated since v1.30; use the \
             \"appArmorProfile\" field instead",
            "spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:1 Protocol:TCP \
             HostIP:1.2.3.4}",
            "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
            "spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[0]",
            "spec.containers[0].ports[2]: dangerously ambiguous port definition with spec.containers[0].ports[1]",
            &format!(
                "{affinity}.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: a null labelSelector results \
                 in matching no pod"
            ),
            &format!(
                "{affinity}.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector: a null \
                 labelSelector results in matching no pod"
            ),
            "spec.dnsConfig.nameservers[0]: non-standard IP address \"010.0.0.1\" is invalid: use \"10.0.0.1\"",
            "spec.hostAliases[0].ip: IPv6 address \"::0001\" should be in RFC 5952 canonical format (\"::1\")",
            "spec.hostAliases[1].ip: IPv6 address \"::0001\" should be in RFC 5952 canonical format (\"::1\")",
        ]
    );
    assert_eq!(warnings(("", "Pod"), json!({"metadata": {"name": "A"}}), Some(&pod)), Vec::<String>::new());
    assert_eq!(
        status_warnings(("", "Pod"), &json!({"status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "::01"}]}})),
        ["status.podIPs[1].ip: IPv6 address \"::01\" should be in RFC 5952 canonical format (\"::1\")"]
    );
}

#[test]
fn of_services() {
    let of = |spec: Value| warnings(("", "Service"), json!({"spec": spec}), None);
    let mut annotated = json!({"spec": {"type": "ClusterIP", "sessionAffinity": "None"}});
    annotated["metadata"] = json!({"annotations": {"service.kubernetes.io/topology-aware-hints": "auto"}});
    assert_eq!(
        warnings(("", "Service"), annotated, None),
        ["annotation service.kubernetes.io/topology-aware-hints is deprecated, please use \
          service.kubernetes.io/topology-mode instead"]
    );
    assert_eq!(
        of(json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "sessionAffinity": "ClientIP",
            "loadBalancerIP": "1.2.3.4", "externalIPs": ["1.2.3.4"]})),
        [
            "spec.loadBalancerIP is ignored for headless services",
            "spec.externalIPs is ignored for headless services",
            "spec.SessionAffinity is ignored for headless services"
        ]
    );
    assert_eq!(
        of(json!({"type": "LoadBalancer", "clusterIP": "fd00::0001", "clusterIPs": ["fd00::0001"],
            "externalIPs": ["1.2.3.4"], "loadBalancerSourceRanges": ["10.0.0.1/8", "::ffff:10.0.0.0/104", "fd00:0::/16"],
            "externalName": "x", "trafficDistribution": "PreferClose"})),
        [
            "spec.clusterIPs[0]: IPv6 address \"fd00::0001\" should be in RFC 5952 canonical format (\"fd00::1\")",
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
            "spec.loadBalancerSourceRanges[0]: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \
             \"10.0.0.0/8\" or \"10.0.0.1/32\"?)",
            "spec.loadBalancerSourceRanges[1]: non-standard CIDR value \"::ffff:10.0.0.0/104\" is invalid: use \
             \"10.0.0.0/8\"",
            "spec.loadBalancerSourceRanges[2]: IPv6 CIDR value \"fd00:0::/16\" should be in RFC 5952 canonical format \
             (\"fd00::/16\")",
            "spec.externalName is ignored when spec.type is not \"ExternalName\"",
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
        ]
    );
    let balancer = json!({"status": {"loadBalancer": {"ingress": [{"hostname": "a"}, {"ip": "::01"}]}}});
    let told =
        ["status.loadBalancer.ingress[1]: IPv6 address \"::01\" should be in RFC 5952 canonical format (\"::1\")"];
    assert_eq!(status_warnings(("", "Service"), &balancer), told);
    assert_eq!(status_warnings(("networking.k8s.io", "Ingress"), &balancer), told);
}

#[test]
fn of_others() {
    let old_label = json!([{"key": "beta.kubernetes.io/os"}]);
    let deprecated = "deprecated since v1.14; use \"kubernetes.io/os\" instead";
    let old_class = "metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use \
                     \"storageClassName\" attribute instead";
    let annotated = json!({"annotations": {"volume.beta.kubernetes.io/storage-class": "a",
        "kubernetes.io/enforce-mountable-secrets": "true"}});
    let table: &[(&str, &str, Value, &[&str])] = &[
        (
            "",
            "Node",
            json!({"spec": {"configSource": {}, "externalID": "x", "podCIDRs": ["fd00:0::/16"]}}),
            &[
                "spec.configSource: the feature is removed",
                "spec.externalID: this field is deprecated, and is unused by Kubernetes",
                "spec.podCIDRs[0]: IPv6 CIDR value \"fd00:0::/16\" should be in RFC 5952 canonical format (\"fd00::/16\")",
            ],
        ),
        (
            "",
            "Endpoints",
            json!({"subsets": [{"notReadyAddresses": [{"ip": "::01"}]}]}),
            &[
                "subsets[0].notReadyAddresses[0].ip: IPv6 address \"::01\" should be in RFC 5952 canonical format (\"::1\")",
            ],
        ),
        (
            "",
            "PersistentVolume",
            json!({"metadata": annotated, "spec": {"persistentVolumeReclaimPolicy": "Recycle", "storageos": {},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": old_label}]}}}}),
            &[
                old_class,
                "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended \
                 approach is to use dynamic provisioning.",
                "spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/os is \
                 deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.storageOS: deprecated in v1.22, non-functional in v1.25+",
            ],
        ),
        (
            "",
            "PersistentVolumeClaim",
            json!({"metadata": annotated, "spec": {"resources": {"limits": {"storage": "0.1"}}}}),
            &[
                old_class,
                "spec.resources.limits[storage]: fractional byte value \"100m\" is invalid, must be an integer",
            ],
        ),
        (
            "",
            "ServiceAccount",
            json!({"metadata": annotated}),
            &["metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated in v1.32+; prefer separate \
               namespaces to isolate access to mounted secrets"],
        ),
        (
            "",
            "ResourceQuota",
            json!({"spec": {"hard": {"cpu": "2", "limits.cpu": "1", "requests.storage": "1", "limits.storage": "1"}}}),
            &["ResourceQuota cpu (2) should be less than limits.cpu (1)"],
        ),
        (
            "",
            "PodTemplate",
            json!({"template": {"spec": {"nodeSelector": {"beta.kubernetes.io/os": "linux"}}}}),
            &[&format!("template.spec.nodeSelector[beta.kubernetes.io/os]: {deprecated}")],
        ),
        (
            "apps",
            "StatefulSet",
            json!({"metadata": {"name": "a.b"}, "spec": {"revisionHistoryLimit": -1,
                "volumeClaimTemplates": [{"spec": {"resources": {"requests": {"storage": "0.1"}}}}]}}),
            &[
                "spec.volumeClaimTemplates[0].resources.requests[storage]: fractional byte value \"100m\" is invalid, must be \
                 an integer",
                "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended",
            ],
        ),
        (
            "batch",
            "CronJob",
            json!({"metadata": {"name": "c"}, "spec": {"jobTemplate": {"spec": {"completionMode": "Indexed",
                "completions": 100_001, "parallelism": 10_001}}}}),
            &[
                "spec.jobTemplate.spec: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher \
               than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail",
            ],
        ),
        (
            "networking.k8s.io",
            "NetworkPolicy",
            json!({"spec": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.1/9"]}}]}]}}),
            &[
                "spec.egress[0].to[0].ipBlock.except[0]: CIDR value \"10.0.0.1/9\" is ambiguous in this context (should be \
               \"10.0.0.0/9\" or \"10.0.0.1/32\"?)",
            ],
        ),
        (
            "networking.k8s.io",
            "Ingress",
            json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "a"}}, "spec": {"ingressClassName": "a"}}),
            &[],
        ),
        (
            "storage.k8s.io",
            "CSIDriver",
            json!({"spec": {"tokenRequests": [{"audience": ""}]}}),
            &[
                "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible \
               logging of tokens in volume attributes",
            ],
        ),
        (
            "storage.k8s.io",
            "StorageClass",
            json!({"allowedTopologies": [{"matchLabelExpressions": old_label}]}),
            &[&format!("allowedTopologies[0].matchLabelExpressions[0].key: {deprecated}")],
        ),
        (
            "storage.k8s.io",
            "CSIStorageCapacity",
            json!({"nodeTopology": {"matchExpressions": old_label, "matchLabels": {"beta.kubernetes.io/os": "a"}}}),
            &[
                &format!("nodeTopology.matchExpressions[0].key: beta.kubernetes.io/os is {deprecated}"),
                &format!("nodeTopology.matchLabels.beta.kubernetes.io/os: {deprecated}"),
            ],
        ),
        (
            "node.k8s.io",
            "RuntimeClass",
            json!({"scheduling": {"nodeSelector": {"beta.kubernetes.io/os": "a"}}}),
            &[&format!("scheduling.nodeSelector: {deprecated}")],
        ),
        (
            "discovery.k8s.io",
            "EndpointSlice",
            json!({"addressType": "FQDN"}),
            &["spec.addressType: FQDN endpoints are deprecated"],
        ),
    ];
    for (group, name, object, expected) in table {
        assert_eq!(warnings((group, name), object.clone(), None), *expected, "{name}");
    }
}
