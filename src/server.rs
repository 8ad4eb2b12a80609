//! `skiff server`: what is started in which order, and stopped in which.
//!
//! Order: keys, then the store and the runtime side by side, the API server on the store, control
//! loops on the API server, the kubelet on both, then the node's proxy and DNS on the kubelet's network.
//! Stopping goes the other way round. Pods are not stopped: they belong to the supervisor.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use skiff_api::k8s::api::core::v1::{Node, Service, ServicePort, ServiceSpec, Taint};
use skiff_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_apiserver::{ApiServer, ApiServerOptions, AuditOptions};
use skiff_base::{CancellationToken, Scope};
use skiff_client::{Client, Informers, PatchKind};
use skiff_kubelet::Kubelet;
use skiff_pki::{ClusterPki, ServerNames};
use skiff_runtime::{Runtime, RuntimeOptions};
use skiff_store::Store;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::cli::{PlaceArgs, ServerArgs};
use crate::{local_storage, log};

/// On the DNS service: the domain that it serves, for `skiff wait`.
pub const DOMAIN_ANNOTATION: &str = "skiff.dev/cluster-domain";

/// What makes the role that `kubectl get nodes` shows.
const ROLE_LABEL: &str = "node-role.kubernetes.io/control-plane";

const KUBELET_PORT: u16 = 10250;
/// The longest that a container may take to end when the machine goes down.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
const NODE_CIDR_MASK: u8 = 24;

pub fn require_root(what: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("{what} has to run as root: it makes namespaces, mounts and network links (try `sudo {what}`)");
    }
    Ok(())
}

pub fn runtime_options(place: &PlaceArgs, registries: Option<PathBuf>) -> RuntimeOptions {
    RuntimeOptions {
        data_directory: place.data_dir.join("agent"),
        run_directory: place.run_dir.clone(),
        cgroup_root: place.cgroup_root.clone(),
        registries_file: registries,
        kill_timeout: KILL_TIMEOUT,
    }
}

pub fn run(arguments: ServerArgs) -> Result<ExitCode> {
    require_root("skiff server")?;
    skiff_linux::memory::set_up();
    log::start(arguments.log_level, arguments.log_format);
    raise_file_limit();
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start tokio")?;
    tokio.block_on(serve(arguments))?;
    Ok(ExitCode::SUCCESS)
}

/// Each watch, container and connection is a descriptor.
fn raise_file_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "the limit of open files stays as it is");
    }
}

/// What the arguments leave open, found out.
struct Facts {
    node_name: String,
    node_ip: Ipv4Addr,
    advertise_ip: Ipv4Addr,
    cluster_dns: Ipv4Addr,
}

impl Facts {
    fn find(arguments: &ServerArgs) -> Result<Self> {
        let node_ip = match arguments.node.node_ip {
            Some(ip) => ip,
            None => own_address().context("find this node's address (give one with --node-ip)")?,
        };
        let node_name = match &arguments.node.node_name {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname().context("read the host's name")?.to_string_lossy().to_lowercase(),
        };
        if let Some(why) = skiff_api::names::dns_subdomain(&node_name).first() {
            bail!("{node_name:?} can't be the name of a node: {why} (give one with --node-name)");
        }
        let cluster_dns = arguments.cluster_dns.unwrap_or_else(|| arguments.service_cidr.nth(10));
        Ok(Self { node_name, node_ip, advertise_ip: arguments.advertise_address.unwrap_or(node_ip), cluster_dns })
    }

    fn server_names(&self, arguments: &ServerArgs) -> ServerNames {
        let mut dns = vec!["localhost".to_owned(), self.node_name.clone()];
        let kubernetes = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
        dns.extend(kubernetes);
        dns.push(format!("kubernetes.default.svc.{}", arguments.cluster_domain));
        let mut ips: Vec<IpAddr> =
            [Ipv4Addr::LOCALHOST, self.node_ip, self.advertise_ip, arguments.service_cidr.nth(1)]
                .map(IpAddr::V4)
                .to_vec();
        for san in &arguments.tls_san {
            match san.parse::<IpAddr>() {
                Ok(ip) => ips.push(ip),
                Err(_) => dns.push(san.clone()),
            }
        }
        ips.sort();
        ips.dedup();
        ServerNames { dns, ips }
    }
}

/// What each argument alone can't tell, before anything is made of it; gives what is to be recorded of requests.
fn check(arguments: &ServerArgs, facts: &Facts) -> Result<Option<AuditOptions>> {
    let audit = crate::apiserver_args::audit(&arguments.kube_apiserver_arg)?;
    let (pods, services) = (arguments.cluster_cidr, arguments.service_cidr);
    if pods.contains(services.address) || services.contains(pods.address) {
        bail!(
            "the addresses of pods ({pods}) and of services ({services}) overlap; change --cluster-cidr or --service-cidr"
        );
    }
    if !services.contains(facts.cluster_dns) {
        bail!("--cluster-dns {} is not one of the service addresses {services}", facts.cluster_dns);
    }
    if arguments.disable_agent {
        return Ok(audit);
    }
    kubelet_settings(arguments)?;
    if arguments.node.node_ip.is_some_and(|ip| !is_own(ip)) {
        bail!("--node-ip {} is no address of this machine", facts.node_ip);
    }
    for (flag, file, default) in [
        ("resolv-conf", &arguments.node.resolv_conf, crate::cli::RESOLV_CONF),
        ("private-registry", &arguments.node.private_registry, crate::cli::REGISTRIES),
    ] {
        // Those that nobody asked for may be missing.
        if file != Path::new(default) && !file.exists() {
            bail!("--{flag} {}: there is no such file", file.display());
        }
    }
    Ok(audit)
}

fn is_own(ip: Ipv4Addr) -> bool {
    // Without the list there is nothing to hold against it.
    let Ok(mut interfaces) = nix::ifaddrs::getifaddrs() else { return true };
    interfaces
        .any(|interface| interface.address.as_ref().and_then(|a| a.as_sockaddr_in()).is_some_and(|a| a.ip() == ip))
}

/// The source address of packets to elsewhere; without a default route, the first address that is not
/// this machine's alone. Nothing is sent.
fn own_address() -> Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    if socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).is_ok()
        && let SocketAddr::V4(address) = socket.local_addr()?
    {
        return Ok(*address.ip());
    }
    nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()))
        .find(|ip| !ip.is_loopback() && !ip.is_link_local())
        .context("no network interface has an IPv4 address")
}

async fn serve(arguments: ServerArgs) -> Result<()> {
    let started = Instant::now();
    let facts = Facts::find(&arguments)?;
    let audit = check(&arguments, &facts)?;
    let _pid_file = PidFile::write(&arguments.place.run_dir)?;
    let stop = stop_signal()?;

    let server_directory = arguments.place.data_dir.join("server");
    std::fs::create_dir_all(&server_directory).with_context(|| format!("create {}", server_directory.display()))?;
    let names = facts.server_names(&arguments);
    let tls = server_directory.join("tls");
    let pki = tokio::task::spawn_blocking(move || ClusterPki::ensure(&tls, &names)).await??;
    let pki = Arc::new(pki);

    let store_options = skiff_store::Options {
        volatile: skiff_apiserver::volatile_keys(),
        ..skiff_store::Options::new(server_directory.join("db"))
    };
    let (store, runtime) = tokio::join!(Store::open(store_options), open_runtime(&arguments));
    let (store, runtime) = (store?, runtime?);

    let api_scope = Scope::new();
    let api = ApiServer::start(api_options(&arguments, &facts, pki.clone(), audit), store.clone(), &api_scope)
        .await
        .with_context(|| format!("serve the API on {}:{}", arguments.bind_address, arguments.https_listen_port))?;
    info!(address = %api.local_addr(), after_ms = started.elapsed().as_millis() as u64, "the API server listens");
    write_kubeconfig(&arguments, &pki)?;

    let control = Scope::new();
    start_control(&arguments, &api, &pki, &control);
    ensure_dns_service(&api, &arguments, facts.cluster_dns).await.context("create the DNS service")?;
    local_storage::ensure_class(&api, &arguments).await.context("create the storage class local-path")?;

    let node = Scope::new();
    let containers = runtime.clone();
    let mut kubelet = None;
    if let Some(runtime) = runtime {
        let node_ready = start_node(&arguments, &facts, &api, &pki, runtime, &node);
        tokio::select! {
            result = node_ready => kubelet = Some(result?),
            () = stop.cancelled() => {}
        }
    }
    if !stop.is_cancelled() {
        info!(after_ms = started.elapsed().as_millis() as u64, "ready");
        announce(&arguments);
        crate::notify::ready();
    }
    stop.cancelled().await;
    let machine_stops = tokio::task::spawn_blocking(crate::systemd::machine_goes_down).await.unwrap_or(false);
    info!("stopping; {}", if machine_stops { "the machine goes down" } else { "pods keep running" });
    crate::notify::stopping();
    if let Some(kubelet) = kubelet.filter(|_| machine_stops) {
        kubelet.end_pods().await;
    }
    node.stop().await;
    if let Some(runtime) = containers.filter(|_| machine_stops) {
        // systemd would wait for each that does not end at its word.
        skiff_kubelet::end_containers(&runtime, SHUTDOWN_GRACE).await;
    }
    control.stop().await;
    api_scope.stop().await;
    store.close().await;
    Ok(())
}

async fn open_runtime(arguments: &ServerArgs) -> Result<Option<Runtime>> {
    if arguments.disable_agent {
        return Ok(None);
    }
    let options = runtime_options(&arguments.place, Some(arguments.node.private_registry.clone()));
    Ok(Some(Runtime::open(options).await.context("start the container runtime")?))
}

fn api_options(
    arguments: &ServerArgs,
    facts: &Facts,
    pki: Arc<ClusterPki>,
    audit: Option<AuditOptions>,
) -> ApiServerOptions {
    let range = arguments.service_node_port_range;
    ApiServerOptions {
        bind: SocketAddr::new(arguments.bind_address, arguments.https_listen_port),
        advertise_ip: facts.advertise_ip,
        service_cidr: (arguments.service_cidr.address, arguments.service_cidr.prefix_len),
        dns_ip: facts.cluster_dns,
        node_port_range: range.first..=range.last,
        pki,
        audit,
    }
}

fn start_control(arguments: &ServerArgs, api: &ApiServer, pki: &Arc<ClusterPki>, scope: &Scope) {
    let controllers = Client::new(api.transport("system:kube-controller-manager", &[]));
    let options = skiff_controllers::Options {
        cluster_cidr: (arguments.cluster_cidr.address, arguments.cluster_cidr.prefix_len),
        node_cidr_mask: NODE_CIDR_MASK,
        ca_pem: pki.ca_pem().to_owned(),
        pki: pki.clone(),
    };
    let accounts = api.clone();
    let clients = Arc::new(move |account: &str| Client::new(accounts.as_account("kube-system", account)));
    skiff_controllers::start(&Informers::new(controllers, scope.clone()), clients, options, scope);
    let scheduler = Client::new(api.transport("system:kube-scheduler", &[]));
    skiff_scheduler::start(&Informers::new(scheduler, scope.clone()), scope);
}

async fn start_node(
    arguments: &ServerArgs,
    facts: &Facts,
    api: &ApiServer,
    pki: &ClusterPki,
    runtime: Runtime,
    scope: &Scope,
) -> Result<Kubelet> {
    let user = format!("system:node:{}", facts.node_name);
    let informers = Informers::new(Client::new(api.transport(&user, &["system:nodes"])), scope.clone());
    // Before the node says Ready, so that no pod asks a registry for what lies here.
    if let Err(error) = runtime.import_directory().await {
        warn!(error = %skiff_base::chain(&error), "could not import the image archives of this node");
    }
    let options = kubelet_options(arguments, facts, pki)?;
    local_storage::start(arguments, &facts.node_name, api, scope);
    let kubelet = skiff_kubelet::start(options, &informers, runtime, scope).await.context("start the kubelet")?;
    if let Err(error) = label_role(api, &facts.node_name).await {
        // A store without room refuses it, and the node is one all the same.
        warn!(error = %skiff_base::chain(error.as_ref()), "the node is not labelled as a server");
    }
    let network = kubelet.network();
    let proxy = Client::new(api.transport("system:kube-proxy", &[]));
    skiff_proxy::start(&Informers::new(proxy, scope.clone()), network.clone(), &facts.node_name, scope);
    let dns = skiff_dns::Options {
        listen: SocketAddr::from((facts.cluster_dns, 53)),
        domain: arguments.cluster_domain.clone(),
        upstream: arguments.node.resolv_conf.clone(),
        networks: vec![network_cidr(arguments.service_cidr), network_cidr(arguments.cluster_cidr)],
        network: Some(network),
    };
    let names = Client::new(api.as_account("kube-system", "coredns"));
    skiff_dns::start(&Informers::new(names, scope.clone()), dns, scope).await.context("start the DNS server")?;
    Ok(kubelet)
}

fn kubelet_options(arguments: &ServerArgs, facts: &Facts, pki: &ClusterPki) -> Result<skiff_kubelet::Options> {
    let taint = |t: &crate::cli::Taint| Taint {
        key: t.key.clone(),
        value: Some(t.value.clone()).filter(|v| !v.is_empty()),
        effect: t.effect.clone(),
        ..Taint::default()
    };
    let kubelet_dir = &arguments.place.kubelet_dir;
    std::fs::create_dir_all(kubelet_dir).with_context(|| format!("create {}", kubelet_dir.display()))?;
    Ok(skiff_kubelet::Options {
        node_name: facts.node_name.clone(),
        node_ip: facts.node_ip,
        root_directory: arguments.place.real_kubelet_dir()?,
        log_directory: PathBuf::from("/var/log/pods"),
        containers_log_directory: PathBuf::from("/var/log/containers"),
        data_directory: arguments.place.data_dir.join("agent"),
        cluster_dns: facts.cluster_dns,
        cluster_domain: arguments.cluster_domain.clone(),
        resolv_conf: arguments.node.resolv_conf.clone(),
        labels: arguments.node.node_label.iter().cloned().collect::<BTreeMap<_, _>>(),
        taints: arguments.node.node_taint.iter().map(taint).collect(),
        listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, KUBELET_PORT)),
        serving: pki.kubelet_serving(&facts.node_name, &[IpAddr::V4(facts.node_ip)])?,
        client_ca_pem: pki.client_ca_pem().to_owned(),
        settings: kubelet_settings(arguments)?,
        allowed_unsafe_sysctls: arguments.node.allowed_unsafe_sysctls.clone(),
        cluster_cidr: network_cidr(arguments.cluster_cidr),
        service_cidr: network_cidr(arguments.service_cidr),
    })
}

/// Static pods are looked for where k3s has them, beside the images.
fn kubelet_settings(arguments: &ServerArgs) -> Result<skiff_kubelet::Settings> {
    let place = arguments.place.data_dir.join("agent/pod-manifests");
    let given = std::iter::once(format!("pod-manifest-path={}", place.display()));
    let all: Vec<String> = given.chain(arguments.node.kubelet_arg.iter().cloned()).collect();
    skiff_kubelet::Settings::parse(&all).map_err(|why| anyhow::anyhow!("--kubelet-arg {why}"))
}

fn network_cidr(cidr: crate::cli::Cidr) -> skiff_network::Cidr {
    skiff_network::Cidr { address: cidr.address, prefix_len: cidr.prefix_len }
}

fn write_kubeconfig(arguments: &ServerArgs, pki: &ClusterPki) -> Result<()> {
    let path = &arguments.place.write_kubeconfig;
    let host = match arguments.bind_address {
        IpAddr::V4(ip) if !ip.is_unspecified() => ip.to_string(),
        _ => "127.0.0.1".to_owned(),
    };
    let admin = pki.client("system:admin", &["system:masters"])?;
    let server = format!("https://{host}:{}", arguments.https_listen_port);
    let text = skiff_pki::kubeconfig(&server, pki.ca_pem(), &admin);
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    skiff_base::file::replace(path, text.as_bytes(), arguments.write_kubeconfig_mode)
        .with_context(|| format!("write the kubeconfig {}", path.display()))
}

/// The Service by which clusters find their DNS server. It has no endpoints: every node answers at its
/// address itself.
async fn ensure_dns_service(api: &ApiServer, arguments: &ServerArgs, address: Ipv4Addr) -> Result<()> {
    let services = Client::new(api.transport("system:skiff", &["system:masters"])).namespaced::<Service>("kube-system");
    match services.get("kube-dns").await {
        Err(error) if error.is_not_found() => {}
        found => return Ok(found.map(drop)?),
    }
    let port = |name: &str, protocol: &str| ServicePort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: 53,
        ..ServicePort::default()
    };
    let labels =
        [("k8s-app", "kube-dns"), ("kubernetes.io/name", "CoreDNS"), ("kubernetes.io/cluster-service", "true")];
    let service = Service {
        metadata: ObjectMeta {
            name: Some("kube-dns".to_owned()),
            labels: Some(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
            annotations: Some([(DOMAIN_ANNOTATION.to_owned(), arguments.cluster_domain.clone())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some(address.to_string()),
            ports: Some(vec![port("dns", "UDP"), port("dns-tcp", "TCP")]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    };
    services.create(&service).await?;
    Ok(())
}

/// A node may not say of itself what role it has.
async fn label_role(api: &ApiServer, node: &str) -> Result<()> {
    let nodes = Client::new(api.transport("system:skiff", &["system:masters"])).all::<Node>();
    if nodes.get(node).await?.metadata.labels.is_some_and(|labels| labels.contains_key(ROLE_LABEL)) {
        return Ok(());
    }
    let patch = serde_json::json!({"metadata": {"labels": {ROLE_LABEL: "true"}}});
    nodes.patch(node, PatchKind::Merge, &patch).await?;
    Ok(())
}

/// Says, once, what to do next.
fn announce(arguments: &ServerArgs) {
    let kubeconfig = arguments.place.write_kubeconfig.display();
    eprintln!(
        "\nSkiff is ready. The kubeconfig is {kubeconfig}:\n\n    export KUBECONFIG={kubeconfig}\n    skiff kubectl get nodes\n"
    );
}

/// Cancelled at SIGTERM or SIGINT.
fn stop_signal() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        told.cancel();
    });
    Ok(token)
}

/// Names the running server for `skiff killall`. It is locked as long as that runs: a number alone may be anybody's.
struct PidFile {
    path: PathBuf,
    _locked: Flock<File>,
}

impl PidFile {
    fn write(run_directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(run_directory).with_context(|| format!("create {}", run_directory.display()))?;
        let path = run_directory.join("server.pid");
        let open = File::options().create(true).write(true).truncate(false).open(&path);
        let file = open.with_context(|| format!("write {}", path.display()))?;
        let Ok(locked) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            bail!(
                "skiff server runs already in {} (another one needs a --run-dir of its own)",
                run_directory.display()
            );
        };
        locked
            .set_len(0)
            .and_then(|()| writeln!(&*locked, "{}", std::process::id()))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(Self { path, _locked: locked })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            warn!(%error, "could not remove the pid file");
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn checked(flags: &[&str]) -> Result<()> {
        let cli = crate::cli::Cli::try_parse_from(["skiff", "server", "--node-ip=127.0.0.1"].iter().chain(flags))?;
        let crate::cli::Command::Server(arguments) = cli.command else { bail!("another command") };
        check(&arguments, &Facts::find(&arguments)?).map(drop)
    }

    #[test]
    fn arguments_fit_together() {
        checked(&["--node-name=a"]).expect("the defaults fit");
        checked(&["--node-name=a", "--service-cidr=10.96.0.0/12", "--cluster-dns=10.96.0.10"]).expect("valid");
        for (flag, expect) in [
            ("--cluster-cidr=10.43.0.0/17", "overlap"),
            ("--service-cidr=10.0.0.0/8", "overlap"),
            ("--cluster-dns=10.99.0.10", "not one of the service addresses 10.43.0.0/16"),
            ("--resolv-conf=/no/such", "--resolv-conf /no/such: there is no such file"),
            ("--private-registry=/no/such", "--private-registry /no/such"),
            ("--kubelet-arg=eviction-hard=memory<1Gi", "--kubelet-arg eviction-hard: \"memory\" is not known"),
        ] {
            let error = checked(&["--node-name=a", flag]).expect_err(flag).to_string();
            assert!(error.contains(expect), "{flag}: {error}");
        }
        assert!(!is_own(Ipv4Addr::new(192, 0, 2, 77)));
    }

    #[test]
    fn one_server_per_run_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = PidFile::write(directory.path()).expect("the first");
        let error = PidFile::write(directory.path()).map(drop).expect_err("the second").to_string();
        assert!(error.contains("runs already"), "{error}");
        let text = std::fs::read_to_string(directory.path().join("server.pid")).expect("the file");
        assert_eq!(text, format!("{}\n", std::process::id()));
        drop(first);
        drop(PidFile::write(directory.path()).expect("the next"));
    }
}
