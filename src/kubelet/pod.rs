//! What the agent asks a Pod object, and the names that it gives to things of a pod.

use std::fmt;
use std::sync::LazyLock;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, ObjectReference, Pod, PodSpec, VolumeMount};
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
    /// Added to a pod that runs: runs once, and nobody waits for it.
    Ephemeral,
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

/// The containers that were added to look into the pod. Converted each time: hardly any pod has some.
pub(crate) fn ephemeral(pod: &Pod) -> Vec<Container> {
    let one = |e: &EphemeralContainer| Container {
        args: e.args.clone(),
        command: e.command.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        image: e.image.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        name: e.name.clone(),
        security_context: e.security_context.clone(),
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        tty: e.tty,
        volume_devices: e.volume_devices.clone(),
        volume_mounts: e.volume_mounts.clone(),
        working_dir: e.working_dir.clone(),
        ..Container::default()
    };
    spec(pod).ephemeral_containers.iter().flatten().map(one).collect()
}

/// The container of any sort with that name.
pub(crate) fn find(pod: &Pod, name: &str) -> Option<(Role, Container)> {
    let main = container(pod, name).map(|(role, container)| (role, container.clone()));
    main.or_else(|| ephemeral(pod).into_iter().find(|c| c.name == name).map(|c| (Role::Ephemeral, c)))
}

/// The container into whose processes an ephemeral one looks.
pub(crate) fn target<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let found = spec(pod).ephemeral_containers.iter().flatten().find(|e| e.name == name)?;
    found.target_container_name.as_deref().filter(|target| !target.is_empty())
}

pub(crate) fn container<'a>(pod: &'a Pod, name: &str) -> Option<(Role, &'a Container)> {
    containers(pod).find(|(_, c)| c.name == name)
}

/// Whether what is mounted below a read-only mount is read-only, too: this node always can.
pub(crate) fn is_recursive(mount: &VolumeMount) -> bool {
    mount.read_only == Some(true) && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"))
}

/// Whether its root is to be nobody on the host.
pub(crate) fn has_user_namespace(pod: &Pod) -> bool {
    spec(pod).host_users == Some(false)
}

/// Seconds between the stop signal and SIGKILL for a pod that nobody deletes.
pub(crate) fn grace_s(pod: &Pod) -> i64 {
    spec(pod).termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_S)
}

/// The same for one that is being deleted; at least one second, as upstream.
pub(crate) fn deletion_grace_s(pod: &Pod) -> i64 {
    pod.metadata.deletion_grace_period_seconds.unwrap_or_else(|| grace_s(pod)).max(1)
}

/// Nothing of it has been seen to run.
pub(crate) fn is_pending(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), None | Some("Pending"))
}

pub(crate) fn is_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the API already says that the pod has ended for good.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

pub(crate) const CONFIG_HASH: &str = "kubernetes.io/config.hash";
pub(crate) const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
pub(crate) const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
pub(crate) const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Whether it is made from a file on the node, not from the API.
pub(crate) fn is_static(pod: &Pod) -> bool {
    annotation(pod, CONFIG_SOURCE).is_some_and(|source| source != "api") && mirror_of(pod).is_none()
}

/// The uid of the static pod that an object of the API only shows.
pub(crate) fn mirror_of(pod: &Pod) -> Option<&str> {
    annotation(pod, CONFIG_MIRROR)
}

/// Whether the node can't do without it.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || mirror_of(pod).is_some() || crate::resources::has_critical_priority(pod)
}

/// The object of an event about one container.
pub(crate) fn container_reference(pod: &Pod, role: Role, container: &str) -> ObjectReference {
    let list = match role {
        Role::Main => "containers",
        Role::Init | Role::Sidecar => "initContainers",
        Role::Ephemeral => "ephemeralContainers",
    };
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
