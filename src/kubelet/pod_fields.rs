//! Every field of a pod's spec, and what becomes of it on the node: nothing is accepted and passed over in silence.
//!
//! The fields come from the OpenAPI facts, so a new one of a new version fails the test until somebody has decided. What
//! is refused is refused here, with its words. `UPDATE_GOLDEN=1` writes the page for operators.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use skiff_api::schema::{Type, definition};

use crate::admit::{self, Host};
use crate::unsupported::unsupported;

enum Verdict {
    /// The node acts on it; where not by the obvious, how.
    Honoured(&'static str),
    /// Somebody else acts on it.
    Elsewhere(&'static str),
    /// With this spec it says that.
    Refused(&'static str, &'static str),
}

use Verdict::{Elsewhere, Honoured, Refused};

const PREFIX: &str = "io.k8s.api.core.v1.";
const PAGE: &str = "../../docs/operate/pod-fields.md";
const SCHEDULER: Verdict = Elsewhere("the scheduler");
const API: Verdict = Elsewhere("the API server");
const H: Verdict = Honoured("");

/// Type, field (`*`: all that have no row of their own), verdict.
const ROWS: &[(&str, &str, Verdict)] = &[
    ("PodSpec", "activeDeadlineSeconds", H),
    ("PodSpec", "affinity", SCHEDULER),
    ("PodSpec", "automountServiceAccountToken", API),
    ("PodSpec", "ephemeralContainers", Honoured("started once, beside all others")),
    ("EphemeralContainer", "lifecycle", API),
    ("EphemeralContainer", "livenessProbe", API),
    ("EphemeralContainer", "ports", API),
    ("EphemeralContainer", "readinessProbe", API),
    ("EphemeralContainer", "resizePolicy", API),
    ("EphemeralContainer", "resources", API),
    ("EphemeralContainer", "restartPolicy", API),
    ("EphemeralContainer", "restartPolicyRules", API),
    ("EphemeralContainer", "startupProbe", API),
    ("EphemeralContainer", "volumeDevices", Elsewhere("refused when it is started, as a container's")),
    ("EphemeralContainer", "*", H),
    ("PodSpec", "hostNetwork", Honoured("the pod has the node's name, too")),
    (
        "PodSpec",
        "hostUsers",
        Honoured(
            "with false, the pod's files and volumes are shown by idmapped mounts, which not every file system has",
        ),
    ),
    ("PodSpec", "nodeName", Honoured("by it the node knows its pods")),
    ("PodSpec", "nodeSelector", SCHEDULER),
    (
        "PodSpec",
        "os",
        Refused(r#"{"os": {"name": "windows"}}"#, "Failed to admit pod as the OS field doesn't match node OS"),
    ),
    ("PodSpec", "overhead", Honoured("added to the limits of the pod's cgroup")),
    ("PodSpec", "preemptionPolicy", SCHEDULER),
    ("PodSpec", "priority", Honoured("critical pods are the last to be killed when memory runs out")),
    ("PodSpec", "priorityClassName", API),
    (
        "PodSpec",
        "resourceClaims",
        Refused(
            r#"{"resourceClaims": [{"name": "gpu"}]}"#,
            "dynamic resource allocation (resourceClaims) is not supported by this node",
        ),
    ),
    ("PodSpec", "resources", Honoured("a container without a limit of its own has the pod's")),
    (
        "PodSpec",
        "runtimeClassName",
        Honoured("the handlers `runc` and `skiff`, which are the same; others are refused"),
    ),
    ("PodSpec", "schedulerName", SCHEDULER),
    ("PodSpec", "schedulingGates", SCHEDULER),
    ("PodSpec", "schedulingGroup", SCHEDULER),
    ("PodSpec", "serviceAccount", Elsewhere("the API server: an old name of serviceAccountName")),
    ("PodSpec", "tolerations", Elsewhere("the scheduler and the node life cycle controller")),
    ("PodSpec", "topologySpreadConstraints", SCHEDULER),
    ("PodSpec", "*", H),
    (
        "PodSecurityContext",
        "fsGroupChangePolicy",
        Honoured("for volumes of claims; others that take an fsGroup are new with each pod"),
    ),
    ("PodSecurityContext", "seLinuxChangePolicy", Honoured("volumes are always relabelled file by file")),
    ("PodSecurityContext", "windowsOptions", Elsewhere("Windows")),
    ("PodSecurityContext", "*", H),
    ("SecurityContext", "windowsOptions", Elsewhere("Windows")),
    ("SecurityContext", "*", H),
    ("SELinuxOptions", "*", Honoured("where SELinux is in force; elsewhere without effect, as upstream")),
    ("AppArmorProfile", "*", Honoured("where AppArmor is not in force, the pod is rejected")),
    ("Sysctl", "*", Honoured("one that is neither safe nor allowed by --allowed-unsafe-sysctls rejects the pod")),
    ("Container", "*", H),
    ("ResourceRequirements", "claims", Elsewhere("resourceClaims of the pod, which are refused")),
    (
        "ResourceRequirements",
        "*",
        Honoured(
            "cpu, memory, ephemeral-storage, huge pages, and whatever else the node is said to have, by plugins or by hand",
        ),
    ),
    ("FileKeySelector", "*", H),
    ("LifecycleHandler", "tcpSocket", Elsewhere("nobody, nor upstream: the API server lets none pass")),
    ("Volume", "name", H),
    ("Volume", "configMap", H),
    ("Volume", "csi", Honoured("by a driver that is registered on the node and takes ephemeral volumes")),
    ("CSIVolumeSource", "*", H),
    ("Volume", "downwardAPI", H),
    ("Volume", "emptyDir", H),
    ("Volume", "ephemeral", H),
    ("EphemeralVolumeSource", "*", Elsewhere("the ephemeral volume controller, which makes the claim")),
    ("Volume", "hostPath", H),
    ("Volume", "image", Honoured("read-only, nothing in it can be executed")),
    ("ImageVolumeSource", "*", H),
    ("Volume", "nfs", Honoured("by the kernel's own client")),
    ("NFSVolumeSource", "*", H),
    (
        "Volume",
        "persistentVolumeClaim",
        Honoured(
            "bound to a volume of the kinds csi, hostPath, local and nfs; a device must have its file system already",
        ),
    ),
    ("PersistentVolumeClaimVolumeSource", "*", H),
    ("VolumeDevice", "*", H),
    ("Volume", "projected", H),
    ("Volume", "secret", H),
    ("EmptyDirVolumeSource", "sizeLimit", H),
    ("VolumeProjection", "clusterTrustBundle", Honoured("looked up anew every minute")),
    ("ClusterTrustBundleProjection", "*", H),
    (
        "VolumeProjection",
        "podCertificate",
        Refused(
            r#"{"volumes": [{"name": "v", "projected": {"sources": [{"podCertificate": {"keyType": "ED25519"}}]}}]}"#,
            "podCertificate projections are not supported by this node",
        ),
    ),
    // Types whose fields are all taken as they are.
    ("Capabilities", "*", H),
    ("ConfigMapEnvSource", "*", H),
    ("ConfigMapKeySelector", "*", H),
    ("ConfigMapProjection", "*", H),
    ("ConfigMapVolumeSource", "*", H),
    ("ContainerPort", "*", Honoured("hostPort and hostIP; the port itself is information")),
    ("ContainerResizePolicy", "*", H),
    ("ContainerRestartRule", "*", H),
    ("ContainerRestartRuleOnExitCodes", "*", H),
    ("DownwardAPIProjection", "*", H),
    ("DownwardAPIVolumeFile", "*", H),
    ("DownwardAPIVolumeSource", "*", H),
    ("EmptyDirVolumeSource", "*", H),
    ("EnvFromSource", "*", H),
    ("EnvVar", "*", H),
    ("EnvVarSource", "*", H),
    ("ExecAction", "*", H),
    ("GRPCAction", "*", H),
    ("HTTPGetAction", "*", H),
    ("HTTPHeader", "*", H),
    ("HostAlias", "*", H),
    ("HostPathVolumeSource", "*", H),
    ("KeyToPath", "*", H),
    ("Lifecycle", "*", H),
    ("LifecycleHandler", "*", H),
    ("LocalObjectReference", "*", H),
    ("ObjectFieldSelector", "apiVersion", API),
    ("ObjectFieldSelector", "*", H),
    ("PodDNSConfig", "*", H),
    ("PodDNSConfigOption", "*", H),
    ("PodReadinessGate", "*", H),
    ("Probe", "*", H),
    ("ProjectedVolumeSource", "*", H),
    ("ResourceFieldSelector", "*", H),
    ("SeccompProfile", "*", H),
    ("SecretEnvSource", "*", H),
    ("SecretKeySelector", "*", H),
    ("SecretProjection", "*", H),
    ("SecretVolumeSource", "*", H),
    ("ServiceAccountTokenProjection", "*", H),
    ("SleepAction", "*", H),
    ("TCPSocketAction", "*", H),
    (
        "VolumeMount",
        "mountPropagation",
        Refused(
            r#"{"hostUsers": false, "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}]}]}"#,
            "mountPropagation Bidirectional (with hostUsers: false) of the container \"c\" not supported by this node",
        ),
    ),
    ("VolumeMount", "*", H),
    ("VolumeProjection", "*", H),
];

/// A field of `Volume` without a row names a source that is refused by its name.
fn verdict(ty: &str, field: &str) -> Option<&'static Verdict> {
    let row = |name: &str| ROWS.iter().find(|(of, f, _)| *of == ty && *f == name);
    row(field).or_else(|| row("*")).map(|(_, _, verdict)| verdict)
}

fn is_refused_volume(ty: &str, field: &str) -> bool {
    ty == "Volume" && verdict(ty, field).is_none()
}

fn element(ty: &Type) -> Option<String> {
    match ty {
        Type::List(list) => element(&list.item),
        Type::Map(values) => element(values),
        other => other.object().and_then(|object| object.name.strip_prefix(PREFIX).map(str::to_owned)),
    }
}

/// (type, field) of everything that a pod's spec may say, but for what is below fields that the node doesn't look at.
fn walk() -> Vec<(String, String)> {
    let (mut queue, mut seen, mut found) = (vec!["PodSpec".to_owned()], BTreeSet::new(), Vec::new());
    while let Some(ty) = queue.pop() {
        if !seen.insert(ty.clone()) {
            continue;
        }
        let known = definition(&format!("{PREFIX}{ty}")).expect("a type of the facts");
        for field in &known.object().expect("an object").fields {
            found.push((ty.clone(), field.name.to_string()));
            if matches!(verdict(&ty, &field.name), Some(Honoured(_))) {
                queue.extend(element(&field.ty));
            }
        }
    }
    found
}

fn what_is_said(spec: &str) -> Option<String> {
    let mut spec: Value = serde_json::from_str(spec).expect("JSON");
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a pod");
    let rejected = admit::admit(&pod, &Host::default(), &Default::default()).err().map(|rejection| rejection.message);
    rejected.or_else(|| unsupported(&pod))
}

#[test]
fn every_field_is_decided_on() {
    let fields = walk();
    let undecided: Vec<_> =
        fields.iter().filter(|(ty, field)| verdict(ty, field).is_none() && !is_refused_volume(ty, field)).collect();
    assert!(undecided.is_empty(), "nobody has decided what becomes of {undecided:?}");
    for (ty, field, _) in ROWS {
        let there = fields.iter().any(|(t, f)| t == ty && (f == field || *field == "*"));
        assert!(there, "{ty}.{field} is no field that a pod may have");
    }
}

#[test]
fn what_is_refused_says_so() {
    for (ty, field, verdict) in ROWS {
        if let Refused(spec, message) = verdict {
            assert_eq!(what_is_said(spec).as_deref(), Some(*message), "{ty}.{field}");
        }
    }
    for (_, field) in walk().iter().filter(|(ty, field)| is_refused_volume(ty, field)) {
        let spec = json!({"volumes": [{"name": "v", (field.as_str()): {}}]}).to_string();
        assert_eq!(what_is_said(&spec), Some(format!("{field} volumes are not supported by this node")));
    }
    assert_eq!(what_is_said("{}"), None);
}

fn page() -> String {
    let mut text = "# The fields of a pod, on the node\n\n\
        Generated from the table that the kubelet's tests hold against the API's schema (`src/kubelet/pod_fields.rs`).\n\
        A field without a remark does what Kubernetes documents. A pod that asks for something refused waits, with the\n\
        message in an event, or is rejected with it. What lies below a field that is refused or that somebody else acts on\n\
        is not listed.\n"
        .to_owned();
    let fields = walk();
    let types: BTreeSet<&String> = fields.iter().map(|(ty, _)| ty).collect();
    let first = ["PodSpec", "Container", "PodSecurityContext", "SecurityContext", "Volume", "VolumeMount"];
    let rest = types.iter().filter(|ty| !first.contains(&ty.as_str())).map(|ty| ty.as_str());
    for ty in first.into_iter().chain(rest) {
        write!(text, "\n## {ty}\n\n| field | on the node |\n|---|---|\n").expect("a string");
        for (_, field) in fields.iter().filter(|(of, _)| of == ty) {
            let remark = match verdict(ty, field) {
                Some(Honoured("")) => "honoured".to_owned(),
                Some(Honoured(how)) => format!("honoured: {how}"),
                Some(Elsewhere(who)) => format!("not the node's: {who}"),
                Some(Refused(_, message)) => format!("refused: `{message}`"),
                None => format!("refused: `{field} volumes are not supported by this node`"),
            };
            writeln!(text, "| `{field}` | {remark} |").expect("a string");
        }
    }
    text
}

#[test]
fn the_page_is_true() {
    let (file, page) = (std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE), page());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &page).expect("written");
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == page, "docs/operate/pod-fields.md is out of date; run the test with UPDATE_GOLDEN=1");
}
