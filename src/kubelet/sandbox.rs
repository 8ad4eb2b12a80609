//! The frame of a pod: its namespaces, its network, and the files that are the same for all of its containers.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use skiff_base::chain;
use skiff_client::EventKind;
use skiff_network::{HostPort, Protocol};
use skiff_runtime::{Error, IdRange, Sandbox, SandboxConfig, SandboxState};

use crate::context::Context;
use crate::etc_files::{self, Resolver};
use crate::leftovers;
use crate::node::HANDLERS;
use crate::pod::{self, PodUid, annotation, label};
use crate::resources;
use crate::unsupported::unsupported;
use crate::userns;

pub(crate) const HOSTS_FILE: &str = "etc-hosts";
pub(crate) const RESOLV_FILE: &str = "resolv.conf";
pub(crate) const HOSTNAME_FILE: &str = "hostname";

/// A sandbox that is up, with its addresses.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) sandbox: Sandbox,
    pub(crate) pod_ips: Vec<IpAddr>,
}

/// Why a pod has no sandbox: reason and message of the event.
#[derive(Debug)]
pub(crate) struct FrameError {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Without a reason of its own it is about making one.
impl From<String> for FrameError {
    fn from(message: String) -> Self {
        Self { reason: "FailedCreatePodSandBox", message }
    }
}

fn host_network(pod: &Pod) -> bool {
    pod::spec(pod).host_network == Some(true)
}

fn plan_config(ctx: &Context, pod: &Pod, attempt: u32, ids: Option<IdRange>) -> SandboxConfig {
    let spec = pod::spec(pod);
    let uid = pod::uid(pod);
    let hostname = if host_network(pod) {
        ctx.options.node_name.clone()
    } else {
        match etc_files::hostname(pod, &ctx.options.cluster_domain) {
            (_, Some(full)) if spec.set_hostname_as_fqdn == Some(true) => full,
            (name, _) => name,
        }
    };
    let labels = [
        (label::POD_NAME, pod::name(pod).to_owned()),
        (label::POD_NAMESPACE, pod::namespace(pod).to_owned()),
        (label::POD_UID, uid.0.clone()),
    ];
    let mut resources = resources::pod(pod);
    ctx.cpus.limit_pod(&uid, &mut resources);
    SandboxConfig {
        pod_name: pod::name(pod).to_owned(),
        pod_namespace: pod::namespace(pod).to_owned(),
        pod_uid: uid.0.clone(),
        attempt,
        hostname,
        cgroup_parent: resources::cgroup_parent(resources::qos(pod), &uid),
        resources,
        log_directory: ctx.options.pod_log_directory(pod),
        host_network: host_network(pod),
        host_ipc: spec.host_ipc == Some(true),
        host_pid: spec.host_pid == Some(true),
        share_process_namespace: spec.share_process_namespace == Some(true),
        ids,
        sysctls: plan_sysctls(pod),
        labels: labels.map(|(k, v)| (k.to_owned(), v)).into(),
        annotations: BTreeMap::from([(annotation::GRACE.to_owned(), pod::grace_s(pod).to_string())]),
    }
}

/// As containerd and Docker set them: a program without root's rights may listen on any port of its pod and may ping.
/// What the pod asks for wins.
fn plan_sysctls(pod: &Pod) -> BTreeMap<String, String> {
    let mut sysctls = BTreeMap::new();
    if !host_network(pod) {
        sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        sysctls.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
    }
    let asked = pod::spec(pod).security_context.as_ref().and_then(|c| c.sysctls.as_ref());
    // One may be written with slashes; it must not stand beside the default.
    sysctls.extend(asked.into_iter().flatten().map(|s| (plain_name(&s.name), s.value.clone())));
    sysctls
}

/// With dots, but for names that themselves hold some (of VLAN devices): those keep slashes between their parts.
fn plain_name(name: &str) -> String {
    let dotted = crate::admit::dotted(name);
    if dotted.contains('/') { name.to_owned() } else { dotted }
}

/// The ports that containers ask for on the node.
pub(crate) fn plan_host_ports(pod: &Pod) -> Vec<HostPort> {
    if host_network(pod) {
        return Vec::new();
    }
    let ports = pod::containers(pod).flat_map(|(_, c)| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
                host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()).unwrap_or(Ipv4Addr::UNSPECIFIED),
                host_port: u16::try_from(port.host_port?).ok().filter(|p| *p > 0)?,
                container_port: u16::try_from(port.container_port).ok()?,
            })
        })
        .collect()
}

/// What a pod asks of its sandbox that this node can't give.
fn refusal(ctx: &Context, pod: &Pod) -> Option<String> {
    if let Some(why) = unsupported(pod) {
        return Some(why);
    }
    let name = pod::spec(pod).runtime_class_name.as_deref().filter(|name| !name.is_empty())?;
    match ctx.runtime_classes.get(&skiff_api::ObjectKey::cluster(name)) {
        None => Some(format!("failed to get RuntimeClass {name}: runtimeclass.node.k8s.io {name:?} not found")),
        Some(class) if HANDLERS.contains(&&*class.handler) => None,
        Some(class) => Some(format!("no runtime for {:?} is configured", class.handler)),
    }
}

/// The host's ids of a pod that wants a user namespace.
async fn user_namespace(ctx: &Arc<Context>, pod: &Pod) -> Result<Option<IdRange>, String> {
    if !pod::has_user_namespace(pod) {
        return Ok(None);
    }
    if !userns::is_supported() {
        return Err("can't set `spec.hostUsers: false`, runtime does not support user namespaces".to_owned());
    }
    let (ctx, uid) = (ctx.clone(), pod::uid(pod));
    let given = tokio::task::spawn_blocking(move || ctx.user_namespaces.ensure(&uid)).await;
    given.unwrap_or_else(|e| Err(e.to_string())).map(Some)
}

/// Makes a new sandbox with network and files.
pub(crate) async fn create(ctx: &Arc<Context>, pod: &Arc<Pod>, attempt: u32) -> Result<Frame, FrameError> {
    if let Some(why) = refusal(ctx, pod) {
        return Err(format!("Failed to create pod sandbox: {why}").into());
    }
    let uid = pod::uid(pod);
    let ids = user_namespace(ctx, pod).await.map_err(|e| format!("Failed to create pod sandbox: {e}"))?;
    let config = plan_config(ctx, pod, attempt, ids);
    let logs = config.log_directory.clone();
    let marked = tokio::task::spawn_blocking(move || leftovers::ensure_ours(&logs, 0o755)).await;
    marked
        .unwrap_or_else(|e| Err(io::Error::other(e)))
        .map_err(|e| format!("Failed to create pod sandbox: make its log directory: {e}"))?;
    let sandbox =
        ctx.engine.run_sandbox(config).await.map_err(|e| format!("Failed to create pod sandbox: {}", chain(&e)))?;
    match connect(ctx, pod, &sandbox).await {
        Ok(pod_ips) => Ok(Frame { sandbox, pod_ips }),
        Err(why) => {
            tracing::warn!(pod = %pod::format(pod), %uid, error = why.message, "the sandbox is given up");
            // What is left of it goes before the next try.
            discard(ctx, &sandbox).await.ok();
            Err(why)
        }
    }
}

/// Takes down earlier sandboxes of a pod, so that nothing of them keeps an address; with `more`, those too that the
/// runtime alone knows of. Nobody gets another one before.
pub(crate) async fn free(ctx: &Context, uid: &PodUid, known: &[Sandbox], more: bool) -> Result<(), FrameError> {
    let mut wrong = Vec::new();
    let mut all = known.to_vec();
    if more {
        wrong.extend(of_runtime(ctx, uid, &mut all).await.err());
    }
    for sandbox in &all {
        wrong.extend(discard(ctx, sandbox).await.err());
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let message = format!(
        "error killing pod: failed to \"KillPodSandbox\" for {:?} with KillPodSandboxError: {:?}",
        uid.0,
        wrong.join("; ")
    );
    Err(FrameError { reason: "FailedKillPod", message })
}

/// Adds those sandboxes of a pod that are not known yet.
pub(crate) async fn of_runtime(ctx: &Context, uid: &PodUid, known: &mut Vec<Sandbox>) -> Result<(), String> {
    let found = ctx.engine.sandboxes().await.map_err(|e| {
        let why = chain(&e).to_string();
        tracing::warn!(pod = %uid, error = why, "the sandboxes of a pod can't be listed");
        why
    })?;
    let missing: Vec<Sandbox> =
        found.into_iter().filter(|s| s.pod_uid == uid.0 && !known.iter().any(|o| o.id == s.id)).collect();
    known.extend(missing);
    Ok(())
}

/// Gives a sandbox its network (again), and writes the files that name its addresses.
pub(crate) async fn connect(ctx: &Arc<Context>, pod: &Arc<Pod>, sandbox: &Sandbox) -> Result<Vec<IpAddr>, FrameError> {
    let pod_ips = match &sandbox.netns {
        Some(netns) => {
            let attached = ctx.engine.attach_network(&sandbox.id, netns, &plan_host_ports(pod)).await;
            attached.map_err(|e| {
                format!(
                    "Failed to create pod sandbox: failed to setup network for sandbox {:?}: {}",
                    sandbox.id.0,
                    chain(&e)
                )
            })?
        }
        None => vec![ctx.options.node_ip.into()],
    };
    let (own_ctx, own_pod, ips) = (ctx.clone(), pod.clone(), pod_ips.clone());
    let written = tokio::task::spawn_blocking(move || write_files(&own_ctx, &own_pod, &ips)).await;
    match written.unwrap_or_else(|e| Err(io::Error::other(e))) {
        Ok(None) => {}
        Ok(Some(warning)) => ctx.event(pod, EventKind::Warning, "DNSConfigForming", warning),
        Err(e) => return Err(format!("Failed to create pod sandbox: write its files: {e}").into()),
    }
    Ok(pod_ips)
}

fn write_files(ctx: &Context, pod: &Pod, pod_ips: &[IpAddr]) -> io::Result<Option<String>> {
    let options = &ctx.options;
    let directory = options.pod_directory(&pod::uid(pod));
    leftovers::ensure_ours(&directory, 0o750)?;
    // That of an adopted pod may have been made by a version that set no marks.
    leftovers::ensure_ours(&options.pod_log_directory(pod), 0o755)?;
    let host_hosts = if host_network(pod) { Some(read_text(Path::new("/etc/hosts"))?) } else { None };
    let hosts = etc_files::hosts(pod, pod_ips, &options.cluster_domain, host_hosts.as_deref());
    let host_resolver = Resolver::parse(&read_text(&options.resolv_conf)?);
    let (resolver, warning) =
        etc_files::resolver(pod, &host_resolver, options.cluster_dns.into(), &options.cluster_domain);
    let (name, _) = etc_files::hostname(pod, &options.cluster_domain);
    let name = if host_network(pod) { options.node_name.clone() } else { name };
    for (file, text) in [(HOSTS_FILE, hosts), (RESOLV_FILE, resolver.render()), (HOSTNAME_FILE, format!("{name}\n"))] {
        let path = directory.join(file);
        // Containers have it mounted: the file stays, its content changes.
        if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            fs::write(&path, text)?;
        }
    }
    Ok(warning)
}

fn read_text(path: &Path) -> io::Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(e),
    }
}

pub(crate) fn is_ready(sandbox: &Sandbox) -> bool {
    sandbox.state == SandboxState::Ready
}

/// Stops a sandbox, then frees its network: until its last process has ended, nobody else may get its address. Its
/// containers' records stay. What went wrong is in the log.
pub(crate) async fn stop(ctx: &Context, sandbox: &Sandbox) -> Result<(), String> {
    gone(sandbox, "a sandbox can't be stopped", ctx.engine.stop_sandbox(&sandbox.id).await)?;
    let detached = ctx.engine.detach_network(&sandbox.id).await;
    detached.map_err(|e| told(sandbox, "the network of a sandbox can't be taken down", chain(&e).to_string()))
}

/// Stops and removes a sandbox with its containers.
pub(crate) async fn discard(ctx: &Context, sandbox: &Sandbox) -> Result<(), String> {
    stop(ctx, sandbox).await?;
    gone(sandbox, "a sandbox can't be removed", ctx.engine.remove_sandbox(&sandbox.id).await)
}

fn gone(sandbox: &Sandbox, what: &str, result: Result<(), Error>) -> Result<(), String> {
    match result {
        Ok(()) | Err(Error::SandboxNotFound(_)) => Ok(()),
        Err(e) => Err(told(sandbox, what, chain(&e).to_string())),
    }
}

fn told(sandbox: &Sandbox, what: &str, why: String) -> String {
    tracing::warn!(sandbox = sandbox.id.0, error = why, "{what}");
    why
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sysctls() {
        let planned = |spec: serde_json::Value| {
            let pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a pod");
            plan_sysctls(&pod).into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        let (port, ping) = ("net.ipv4.ip_unprivileged_port_start=0", "net.ipv4.ping_group_range=0 2147483647");
        assert_eq!(planned(json!({"containers": []})), [port, ping]);
        assert!(planned(json!({"containers": [], "hostNetwork": true})).is_empty());
        let asked = json!([{"name": "net/ipv4/ip_unprivileged_port_start", "value": "80"}, {"name": "kernel.shm_rmid_forced", "value": "1"}]);
        assert_eq!(
            planned(json!({"containers": [], "securityContext": {"sysctls": asked}})),
            ["kernel.shm_rmid_forced=1", "net.ipv4.ip_unprivileged_port_start=80", ping]
        );
    }

    #[test]
    fn host_ports() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [
            {"name": "a", "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}]},
            {"name": "b", "ports": [{"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1"}]}]}}))
        .expect("a pod");
        let found: Vec<String> = plan_host_ports(&pod)
            .iter()
            .map(|p| format!("{:?} {}:{} -> {}", p.protocol, p.host_ip, p.host_port, p.container_port))
            .collect();
        assert_eq!(found, ["Tcp 0.0.0.0:8080 -> 80", "Udp 192.0.2.1:53 -> 53"]);
    }
}
