use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::leases::{Lease, Leases};
use crate::links::{self, Links};
use crate::rules::{self, Features, Owner, Table};
use crate::worker::Worker;
use crate::{Error, HostPort, NetworkOptions, ServiceRules, keeper, sysctl};

/// The network of this node; a cheap handle.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    options: NetworkOptions,
    pods: Worker<Pods>,
    table: Worker<Table>,
}

/// What the thread for pods has.
struct Pods {
    links: Links,
    leases: Leases,
}

impl Network {
    /// Makes the node's link `skiff0` with the gateway's and the DNS server's address, the routes, sysctls and our
    /// nf_tables table; all of it in the network namespace of the calling thread. Idempotent: what an earlier
    /// process left is taken over, its service rules serve until the first [`Network::apply_services`].
    pub async fn open(options: NetworkOptions) -> Result<Network, Error> {
        Self::open_with(options, Features::default()).await
    }

    /// The same without some features of the kernel, for tests.
    pub(crate) async fn open_with(options: NetworkOptions, features: Features) -> Result<Network, Error> {
        check(&options)?;
        let for_pods = options.clone();
        let pods = Worker::start("network-pods", move || {
            sysctl::ensure_forwarding()?;
            let leases = Leases::open(&for_pods.data_directory, for_pods.pod_cidr)?;
            Ok(Pods { links: Links::open(&for_pods)?, leases })
        })
        .await?;
        let leases: Vec<Lease> = pods.call(|pods| Ok(pods.leases.iter().cloned().collect())).await?;
        let for_table = options.clone();
        let table = Worker::start("network-rules", move || {
            let fragments = leases.iter().map(|l| (Owner::Pod(l.sandbox_id.clone()), rules::plan_pod(l)));
            let table = Table::open(&for_table, features, fragments.collect())?;
            sysctl::ensure_connections();
            Ok(table)
        })
        .await?;
        Ok(Self { inner: Arc::new(Inner { options, pods, table }) })
    }

    pub fn options(&self) -> &NetworkOptions {
        &self.inner.options
    }

    /// Gives a sandbox an address of the node's pod network, and its namespace the link, routes and host ports.
    /// Idempotent: a sandbox keeps its address. The namespace is a file that `skiff_linux::net::netns::create` made.
    pub async fn attach(&self, sandbox_id: &str, netns: &Path, host_ports: &[HostPort]) -> Result<Vec<IpAddr>, Error> {
        let (id, netns, host_ports) = (sandbox_id.to_owned(), netns.to_owned(), host_ports.to_vec());
        let lease = self.inner.pods.call(move |pods| pods.attach(&id, &netns, &host_ports)).await?;
        let fragment = rules::plan_pod(&lease);
        self.change(BTreeMap::from([(Owner::Pod(sandbox_id.to_owned()), Some(fragment))])).await?;
        Ok(vec![lease.address.into()])
    }

    /// Frees the address and the host ports. The links go with the sandbox's namespace. Idempotent.
    pub async fn detach(&self, sandbox_id: &str) -> Result<(), Error> {
        let id = sandbox_id.to_owned();
        self.change(BTreeMap::from([(Owner::Pod(id.clone()), None)])).await?;
        self.inner.pods.call(move |pods| pods.detach(&id)).await
    }

    /// Frees what belongs to sandboxes that are not in `live`, and their links.
    pub async fn retain(&self, live: &[String]) -> Result<(), Error> {
        let live = live.to_vec();
        let gone = self.inner.pods.call(move |pods| pods.retain(&live)).await?;
        self.change(gone.into_iter().map(|id| (Owner::Pod(id), None)).collect()).await
    }

    /// Makes the rule set show exactly these services; sends the difference only.
    pub async fn apply_services(&self, services: ServiceRules) -> Result<(), Error> {
        let (services, lost) = rules::without_conflicts(services, &self.inner.options);
        if !lost.is_empty() {
            tracing::warn!(?lost, "these are another service's already");
        }
        self.inner.table.call(move |table| table.show_services(services)).await
    }

    /// Tells where the DNS server listens on its address: with a port other than 53, port 53 leads there.
    pub async fn set_dns_port(&self, port: u16) -> Result<(), Error> {
        let fragment = (port != 53).then(|| rules::plan_dns(self.inner.options.dns_ip, port));
        self.change(BTreeMap::from([(Owner::Dns, fragment)])).await
    }

    /// Puts our rules back when a stranger removes or changes them; runs until `stop`.
    pub async fn keep(&self, stop: CancellationToken) {
        keeper::run(&self.inner.table, &self.inner.options, stop).await;
    }

    /// Removes every table, rule, link, route and lease that is ours in the calling thread's network namespace.
    /// Goes on after failures and gives the first.
    pub async fn remove_all(data_directory: &Path) -> Result<(), Error> {
        let leases: PathBuf = data_directory.join("leases");
        let worker = Worker::start("network-remove", || Ok(())).await?;
        let remove = move |(): &mut ()| {
            let mut errors = keeper::remove_foreign();
            errors.extend(rules::remove_all());
            errors.extend(links::remove_all());
            match std::fs::remove_dir_all(&leases) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    errors.push(Error::io(format!("remove {}", leases.display()))(error));
                }
                _ => {}
            }
            match errors.into_iter().next() {
                Some(first) => Err(first),
                None => Ok(()),
            }
        };
        worker.call(remove).await
    }

    async fn change(&self, changes: BTreeMap<Owner, Option<rules::Fragment>>) -> Result<(), Error> {
        self.inner.table.call(move |table| table.change(changes, false)).await
    }
}

impl Pods {
    fn attach(&mut self, sandbox_id: &str, netns: &Path, host_ports: &[HostPort]) -> Result<Lease, Error> {
        let had = self.leases.get(sandbox_id).is_some();
        let lease = self.leases.take(sandbox_id, host_ports)?;
        let attached = self.links.attach(&lease, netns);
        if attached.is_err() && !had {
            self.leases.release(sandbox_id)?;
        }
        attached.map(|()| lease)
    }

    fn detach(&mut self, sandbox_id: &str) -> Result<(), Error> {
        if let Some(lease) = self.leases.get(sandbox_id) {
            self.links.detach(lease)?;
        }
        self.leases.release(sandbox_id)
    }

    /// Gives the sandboxes that lost their lease.
    fn retain(&mut self, live: &[String]) -> Result<Vec<String>, Error> {
        let all = self.leases.iter().map(|lease| lease.sandbox_id.clone());
        let gone: Vec<String> = all.filter(|id| !live.contains(id)).collect();
        for sandbox_id in &gone {
            self.leases.release(sandbox_id)?;
        }
        let left: Vec<Lease> = self.leases.iter().cloned().collect();
        self.links.retain(&left)?;
        Ok(gone)
    }
}

fn check(options: &NetworkOptions) -> Result<(), Error> {
    let contains = |outer: &crate::Cidr, inner: &crate::Cidr| {
        outer.prefix_len <= inner.prefix_len && outer.contains(inner.address)
    };
    if !contains(&options.cluster_cidr, &options.pod_cidr) {
        let (pods, cluster) = (options.pod_cidr, options.cluster_cidr);
        return Err(Error::Invalid(format!("the node's pod network {pods} is not in the cluster's {cluster}")));
    }
    if !options.service_cidr.contains(options.dns_ip) {
        let (dns, services) = (options.dns_ip, options.service_cidr);
        return Err(Error::Invalid(format!(
            "the DNS server's address {dns} is not in the services' network {services}"
        )));
    }
    if contains(&options.cluster_cidr, &options.service_cidr) || contains(&options.service_cidr, &options.cluster_cidr)
    {
        let (cluster, services) = (options.cluster_cidr, options.service_cidr);
        return Err(Error::Invalid(format!("the networks of pods {cluster} and of services {services} overlap")));
    }
    Ok(())
}
