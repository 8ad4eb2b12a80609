//! Puts the agent together, in the order that makes the node ready soonest.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use skiff_base::{Backoff, Scope, chain};
use skiff_client::{EventKind, EventRecorder, Informers, Lister, Selector};
use skiff_linux::security_module::SecurityModules;
use skiff_network::{Cidr, Network, NetworkOptions};
use skiff_runtime::{Image, Runtime};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::admit;
use crate::context::Context;
use crate::cpus::{self, Cpus};
use crate::devices::{self, Devices};
use crate::engine::Machine;
use crate::heartbeat;
use crate::machine::MachineFacts;
use crate::node;
use crate::options::{Error, Options};
use crate::plugins;
use crate::pods::Pods;
use crate::preempt;
use crate::pressure;
use crate::pulled::Pulled;
use crate::reserved;
use crate::server;
use crate::shutdown;
use crate::source::Sources;
use crate::static_pods;
use crate::stream::Streams;
use crate::token::Tokens;
use crate::userns::UserNamespaces;
use crate::volume::tree;

/// Pulls that run at once.
const PARALLEL_PULLS: usize = 4;

/// A running agent; it ends with its scope, the pods go on.
pub struct Kubelet {
    ctx: Arc<Context>,
    pods: Arc<Pods>,
    network: Network,
}

impl Kubelet {
    /// For what else makes the node's network: services and names.
    pub fn network(&self) -> Network {
        self.network.clone()
    }

    /// Ends the pods since the machine goes down, where the settings say how long that may take; else nothing.
    pub async fn end_pods(&self) {
        shutdown::end_pods(&self.ctx, &self.pods).await;
    }
}

/// Registers the node, waits for its podCIDR, opens the network, runs pods until the scope is stopped. Pods keep
/// running then.
pub async fn start(options: Options, informers: &Informers, runtime: Runtime, scope: &Scope) -> Result<Kubelet, Error> {
    for directory in
        [&options.root_directory, &options.log_directory, &options.containers_log_directory, &options.data_directory]
    {
        tree::ensure_directory(directory, 0o755)
            .map_err(|source| Error::Directory { path: directory.clone(), source })?;
    }
    let facts = MachineFacts::read(&options.root_directory);
    reserved::check(&facts, &options.settings).map_err(Error::Reserved)?;
    match runtime.limit_pods(&reserved::limits_of_pods(&facts, &options.settings)).await {
        Err(error) if !reserved::is_anything(&options.settings) => {
            tracing::warn!(error = %chain(&error), "the limits of all pods together stay as they are");
        }
        limited => limited.map_err(Error::Limits)?,
    }
    let tls = server::tls(&options)?;
    let listener = TcpListener::bind(options.listen).await.map_err(|source| listen_error(options.listen, source))?;
    let mut options = options;
    // A port of 0 is for tests: what was given is what is told.
    if let Ok(address) = listener.local_addr() {
        options.listen = address;
    }

    // The caches fill while the node registers.
    let select = |fields: String| Selector { fields, ..Selector::default() };
    let pods: Lister<Pod> = informers.selected(select(format!("spec.nodeName={}", options.node_name)));
    let services: Lister<Service> = informers.lister();
    let nodes: Lister<Node> = informers.selected(select(format!("metadata.name={}", options.node_name)));

    let client = informers.client().clone();
    let images = runtime.images().await.map_err(Error::Runtime)?;
    let status_changed = Arc::new(Notify::new());
    let devices = Devices::open(&options.root_directory, status_changed.clone());
    let cpus = Cpus::open(&options.root_directory, options.settings.exclusive_cpus_but.as_ref())
        .map_err(|source| Error::Directory { path: options.root_directory.clone(), source })?;
    let recorder = EventRecorder::new(client.clone(), scope, "kubelet", &options.node_name);
    let node = register(scope, informers, &recorder, &options, &facts, &images, &devices).await?;
    let pod_cidr = pod_cidr(scope, &options, node.clone(), &nodes).await?;
    let network = Network::open(NetworkOptions {
        pod_cidr,
        cluster_cidr: options.cluster_cidr,
        service_cidr: options.service_cidr,
        node_ip: options.node_ip,
        dns_ip: options.cluster_dns,
        data_directory: options.data_directory.join("network"),
    })
    .await
    .map_err(Error::Network)?;

    let records = Pulled::open(&options.data_directory, &images)
        .map_err(|source| Error::Directory { path: options.data_directory.clone(), source })?;
    let user_namespaces = UserNamespaces::open(&options, Path::new("/etc")).map_err(Error::UserNamespaces)?;
    let streams = Streams::new(runtime.clone());
    heal_status(&nodes, &devices, status_changed.clone());
    let (preemptions, wishes) = mpsc::channel(preempt::WAITING);
    let ctx = Arc::new(Context {
        engine: Arc::new(Machine { runtime, network: network.clone() }),
        recorder,
        services,
        runtime_classes: informers.lister(),
        config_maps: Sources::new(client.clone(), scope.clone()),
        secrets: Sources::new(client.clone(), scope.clone()),
        tokens: Tokens::new(client.clone()),
        csi: Default::default(),
        devices,
        cpus,
        csi_drivers: informers.lister(),
        shares: Default::default(),
        allocatable: reserved::allocatable(&facts, &options.settings),
        memory_capacity: facts.memory_bytes,
        host: admit::Host {
            app_armor: SecurityModules::detect().app_armor,
            allowed_unsafe_sysctls: options.allowed_unsafe_sysctls.clone(),
        },
        routes: Default::default(),
        pulls: Semaphore::new(PARALLEL_PULLS),
        pulled: records,
        user_namespaces,
        counters: Default::default(),
        pressure: Default::default(),
        goes_down: Default::default(),
        nodes,
        ports: Default::default(),
        status_changed: status_changed.clone(),
        preemptions,
        scope: scope.clone(),
        client,
        options,
    });
    let pods = run(&ctx, &network, &pods, streams, node, facts, listener, tls, images, wishes).await?;
    Ok(Kubelet { ctx, pods, network })
}

fn listen_error(address: SocketAddr, source: std::io::Error) -> Error {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => Error::Taken { address },
        _ => Error::Listen { address, source },
    }
}

/// Everything that goes on in the background from here.
#[allow(clippy::too_many_arguments, reason = "called once, by the function above")]
async fn run(
    ctx: &Arc<Context>,
    network: &Network,
    pods: &Lister<Pod>,
    streams: Streams,
    node: Node,
    facts: MachineFacts,
    listener: TcpListener,
    tls: tokio_rustls::TlsAcceptor,
    images: Vec<Image>,
    wishes: mpsc::Receiver<preempt::Request>,
) -> Result<Arc<Pods>, Error> {
    let live: Vec<String> = ctx.engine.sandboxes().await.map_err(Error::Runtime)?.into_iter().map(|s| s.id.0).collect();
    network.retain(&live).await.map_err(Error::Network)?;
    let about = node::reference(&ctx.options.node_name);
    ctx.recorder.record(about, EventKind::Normal, "Starting", "Starting kubelet.");
    let node_uid = node.metadata.uid.clone().unwrap_or_default();
    let (own_ctx, own_facts) = (ctx.clone(), facts.clone());
    ctx.scope.spawn(async move { tell_ready(&own_ctx, node, &own_facts, &images).await });
    ctx.scope.spawn(heartbeat::follow_status(ctx.clone(), facts));
    let (own_ctx, stop) = (ctx.clone(), ctx.scope.token().clone());
    // A plugin that hangs holds up its registration, not the end of the node.
    ctx.scope.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = plugins::follow(own_ctx) => {}
        }
    });
    let keeper = network.clone();
    let stop = ctx.scope.token().clone();
    ctx.scope.spawn(async move { keeper.keep(stop).await });

    let stop = ctx.scope.token().clone();
    tokio::select! {
        () = stop.cancelled() => return Err(Error::Stopped),
        ((), (), ()) = async { tokio::join!(ctx.services.synced(), ctx.csi_drivers.synced(), ctx.nodes.synced()) } => {}
    }
    let manifests = ctx.options.settings.pod_manifest_path.clone();
    if let Some(directory) = &manifests {
        tree::ensure_directory(directory, 0o700)
            .map_err(|source| Error::Directory { path: directory.clone(), source })?;
    }
    let statics = manifests.as_deref().map(|directory| static_pods::read(directory, &ctx.options.node_name));
    let statics = statics.transpose().unwrap_or_else(|error| {
        tracing::error!(%error, "the manifests of static pods can't be read yet");
        None
    });
    let all = Pods::start(ctx, pods, statics.unwrap_or_default().0).await?;
    if let Some(directory) = manifests {
        ctx.scope.spawn(static_pods::keep(ctx.clone(), all.clone(), directory, node_uid));
    }
    // Who has which devices is settled before others are asked for any.
    devices::serve(ctx).await;
    devices::serve_pod_resources(ctx, all.clone());
    ctx.scope.spawn(cpus::keep::keep(ctx.clone()));
    ctx.scope.spawn(preempt::keep::keep(ctx.clone(), all.clone(), wishes));
    ctx.scope.spawn(pressure::keep(ctx.clone(), all.clone()));
    ctx.scope.spawn(shutdown::follow(ctx.clone(), all.clone(), shutdown::Places::default()));
    server::spawn(ctx, all.clone(), streams, listener, tls);
    Ok(all)
}

/// Tries until the API server takes the node.
async fn register(
    scope: &Scope,
    informers: &Informers,
    recorder: &EventRecorder,
    options: &Options,
    facts: &MachineFacts,
    images: &[Image],
    devices: &Devices,
) -> Result<Node, Error> {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
    let counts = devices.counts();
    let seen = node::Seen { facts, images, ready: node::BEGINS, pressure: &Default::default(), devices: &counts };
    loop {
        match node::ensure(informers.client(), recorder, options, &seen, devices.are_fresh()).await {
            Ok(node) => return Ok(node),
            Err(e) => tracing::warn!(error = %chain(&e), "the node can't be registered yet, trying again"),
        }
        tokio::select! {
            () = scope.token().cancelled() => return Err(Error::Stopped),
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
}

/// The node's share of the pods' addresses, once a controller has given it one.
async fn pod_cidr(scope: &Scope, options: &Options, node: Node, nodes: &Lister<Node>) -> Result<Cidr, Error> {
    let of = |node: &Node| node.spec.as_ref().and_then(|s| s.pod_cidr.clone()).filter(|c| !c.is_empty());
    let changed = Arc::new(Notify::new());
    let tell = changed.clone();
    nodes.subscribe(move |_| tell.notify_one());
    let key = skiff_api::ObjectKey::cluster(&options.node_name);
    let mut text = of(&node);
    while text.is_none() {
        tokio::select! {
            () = scope.token().cancelled() => return Err(Error::Stopped),
            () = changed.notified() => {}
        }
        text = nodes.get(&key).and_then(|n| of(&n));
    }
    let text = text.unwrap_or_default();
    let parse = || {
        let (address, length) = text.split_once('/')?;
        let (address, prefix_len) = (address.parse::<Ipv4Addr>().ok()?, length.parse().ok()?);
        (prefix_len <= 32).then_some(Cidr { address, prefix_len })
    };
    parse().ok_or_else(|| Error::PodCidr(text.clone()))
}

/// Has the status written again when the node was taken for lost: after a while without heartbeats the
/// node controller writes `Unknown`, and only the node itself can take that back. And when somebody has told of resources
/// of the node.
fn heal_status(nodes: &Lister<Node>, devices: &Arc<Devices>, tell: Arc<Notify>) {
    let devices = devices.clone();
    nodes.subscribe(move |change| {
        let Some(status) = &change.object().status else { return };
        let lost = status.conditions.iter().flatten().any(|condition| condition.status == "Unknown");
        if lost || node::is_unsettled(status, |name| devices.knows(name)) {
            tell.notify_one();
        }
    });
}

/// Says Ready, then keeps the lease.
async fn tell_ready(ctx: &Arc<Context>, node: Node, facts: &MachineFacts, images: &[Image]) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
    let stop = ctx.scope.token().clone();
    loop {
        let (pressure, devices) = (ctx.pressure.now(), ctx.devices.counts());
        let seen = node::Seen { facts, images, ready: ctx.ready(), pressure: &pressure, devices: &devices };
        match node::write_status(&ctx.client, &ctx.options, &node, &seen).await {
            Ok(_) => break,
            Err(e) => tracing::warn!(error = %chain(&e), "the node's status can't be written, trying again"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
    let name = &ctx.options.node_name;
    tracing::info!(node = name, "node is ready");
    if !node::is_ready(&node) {
        let message = format!("Node {name} status is now: NodeReady");
        ctx.recorder.record(node::reference(name), EventKind::Normal, "NodeReady", message);
    }
    heartbeat::heartbeat(ctx.clone(), node).await;
}
