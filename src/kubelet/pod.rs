//! What the agent asks a Pod object, and the names that it gives to things of a pod.

use std::fmt;
use std::sync::LazyLock;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Never given to another pod, not even to one of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PodUid(pub(crate) String);

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// What a container is in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before the next one.
    Init,
    /// An init container with `restartPolicy: Always`: runs beside the later ones.
    Sidecar,
    Main,
}

/// The seconds that a pod has to end when it doesn't say (the API server's default).
const DEFAULT_GRACE_S: i64 = 30;

pub(crate) fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

pub(crate) fn uid(pod: &Pod) -> PodUid {
    PodUid(pod.metadata.uid.clone().unwrap_or_default())
}

pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`, as upstream writes a pod in messages.
pub(crate) fn format(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

pub(crate) fn restart_policy(pod: &Pod) -> RestartPolicy {
    match spec(pod).restart_policy.as_deref() {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Init containers, then main ones, in the order of the manifest.
pub(crate) fn containers(pod: &Pod) -> impl Iterator<Item = (Role, &Container)> {
    let spec = spec(pod);
    let inits = spec.init_containers.iter().flatten();
    inits
        .map(|c| (if is_sidecar(c) { Role::Sidecar } else { Role::Init }, c))
        .chain(spec.containers.iter().map(|c| (Role::Main, c)))
}

pub(crate) fn container<'a>(pod: &'a Pod, name: &str) -> Option<(Role, &'a Container)> {
    containers(pod).find(|(_, c)| c.name == name)
}

/// Seconds between the stop signal and SIGKILL for a pod that nobody deletes.
pub(crate) fn grace_s(pod: &Pod) -> i64 {
    spec(pod).termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_S)
}

/// The same for one that is being deleted; at least one second, as upstream.
pub(crate) fn deletion_grace_s(pod: &Pod) -> i64 {
    pod.metadata.deletion_grace_period_seconds.unwrap_or_else(|| grace_s(pod)).max(1)
}

pub(crate) fn is_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the API already says that the pod has ended for good.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// The object of an event about one container.
pub(crate) fn container_reference(pod: &Pod, role: Role, container: &str) -> ObjectReference {
    let list = if role == Role::Main { "containers" } else { "initContainers" };
    ObjectReference {
        field_path: Some(format!("spec.{list}{{{container}}}")),
        ..skiff_client::EventRecorder::reference(pod)
    }
}

/// Whole seconds, as the API keeps them: what comes back compares equal.
pub(crate) fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).expect("the seconds of a timestamp are in range"))
}

pub(crate) mod label {
    pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
    pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
}

pub(crate) mod annotation {
    pub(crate) const HASH: &str = "io.kubernetes.container.hash";
    pub(crate) const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub(crate) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    /// The image as the manifest names it.
    pub(crate) const IMAGE: &str = "skiff.io/image";
    /// What the status shows as the image's id: a digest reference, or the image id.
    pub(crate) const IMAGE_ID: &str = "skiff.io/image-id";
}
