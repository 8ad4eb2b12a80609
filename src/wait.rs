//! `skiff wait`: one truth of readiness, for scripts and CI.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use skiff_api::k8s::api::core::v1::{Node, Service};
use skiff_base::Scope;
use skiff_client::{Client, HttpTransport, Informers};
use tokio::sync::Notify;

use crate::cli::WaitArgs;

/// Between two looks at what tells nobody that it began: the API server before it listens, and the DNS server.
const PAUSE: Duration = Duration::from_millis(50);
const DNS_TIMEOUT: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// The API answers /readyz
    Api,
    /// Every node is Ready, and there is one
    Node,
    /// The cluster's DNS server answers for `kubernetes.default`
    Dns,
    /// All of these
    All,
}

pub fn run(arguments: WaitArgs) -> Result<ExitCode> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    let missing = Missing::default();
    tokio.block_on(async {
        let ready = ready(&arguments.kubeconfig, arguments.target, &missing);
        match tokio::time::timeout(arguments.timeout, ready).await {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(_) => bail!("not ready after {} s: {}", arguments.timeout.as_secs(), missing.borrow()),
        }
    })
}

/// What was missing when it was looked for last.
type Missing = RefCell<String>;

async fn ready(kubeconfig: &Path, target: Target, missing: &Missing) {
    let client = until(missing, || api_answers(kubeconfig)).await;
    if matches!(target, Target::Node | Target::All) {
        nodes_ready(&client, missing).await;
    }
    if matches!(target, Target::Dns | Target::All) {
        until(missing, || dns_answers(&client)).await;
    }
}

/// Looks again and again.
async fn until<T, F: Future<Output = Result<T>>>(missing: &Missing, mut look: impl FnMut() -> F) -> T {
    loop {
        match look().await {
            Ok(found) => return found,
            Err(error) => *missing.borrow_mut() = format!("{error:#}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn api_answers(kubeconfig: &Path) -> Result<Client> {
    let text = std::fs::read_to_string(kubeconfig).with_context(|| {
        format!("read {} (does `skiff server` run here? is it yours to read?)", kubeconfig.display())
    })?;
    let client = Client::new(Arc::new(HttpTransport::from_kubeconfig(&text, None)?));
    let request = http::Request::get("/readyz").body(bytes::Bytes::new()).context("build the request")?;
    let answer = client.transport().send(request).await.context("ask the API server")?;
    if !answer.status().is_success() {
        bail!("the API server is not ready: {}", String::from_utf8_lossy(answer.body()));
    }
    Ok(client)
}

/// Told by a watch.
async fn nodes_ready(client: &Client, missing: &Missing) {
    let scope = Scope::new();
    let nodes = Informers::new(client.clone(), scope.clone()).lister::<Node>();
    let changed = Arc::new(Notify::new());
    let tell = changed.clone();
    nodes.subscribe(move |_| tell.notify_one());
    loop {
        match unready(&nodes.list()) {
            None => break,
            Some(why) => *missing.borrow_mut() = why,
        }
        changed.notified().await;
    }
    scope.stop().await;
}

/// Why the nodes are not ready.
fn unready(nodes: &[Arc<Node>]) -> Option<String> {
    if nodes.is_empty() {
        return Some("no node has registered".to_owned());
    }
    nodes.iter().find_map(|node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        (!ready).then(|| format!("node {} is not Ready", node.metadata.name.as_deref().unwrap_or_default()))
    })
}

async fn dns_answers(client: &Client) -> Result<()> {
    let service = client.namespaced::<Service>("kube-system").get("kube-dns").await.context("find the DNS service")?;
    let address = service.spec.and_then(|s| s.cluster_ip).unwrap_or_default();
    let address: Ipv4Addr = address.parse().with_context(|| format!("the DNS service has the address {address:?}"))?;
    let domain = service
        .metadata
        .annotations
        .and_then(|mut a| a.remove(crate::server::DOMAIN_ANNOTATION))
        .unwrap_or_else(|| "cluster.local".to_owned());
    let answer = tokio::task::spawn_blocking(move || ask(address, &format!("kubernetes.default.svc.{domain}")));
    answer.await.context("ask the DNS server")?.with_context(|| format!("the DNS server {address} does not answer"))
}

/// One query for an A record; any answer without an error will do.
fn ask(server: Ipv4Addr, name: &str) -> Result<()> {
    let mut query = vec![0x5b, 0x1f, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).context("a label of the domain is too long")?);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(DNS_TIMEOUT))?;
    socket.connect(SocketAddr::from((server, 53)))?;
    socket.send(&query)?;
    let mut answer = [0; 512];
    let count = socket.recv(&mut answer)?;
    let records = u16::from_be_bytes([answer[6], answer[7]]);
    if count < 12 || answer[..2] != query[..2] || answer[3] & 0xf != 0 || records == 0 {
        bail!("it does not know {name}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_ready_when_there_is_one_and_all_are() {
        let node = |name: &str, ready: &str| -> Arc<Node> {
            let value = serde_json::json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]}});
            Arc::new(serde_json::from_value(value).expect("a node"))
        };
        assert_eq!(unready(&[]).as_deref(), Some("no node has registered"));
        assert_eq!(unready(&[node("a", "True"), node("b", "Unknown")]).as_deref(), Some("node b is not Ready"));
        assert_eq!(unready(&[node("a", "True")]), None);
    }
}
