//! `skiff wait`: one truth of readiness, for scripts and CI.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use skiff_api::k8s::api::core::v1::{Node, Service};
use skiff_client::{Client, HttpTransport, ListOptions};

use crate::cli::WaitArgs;

/// Between two looks; each look is a few requests to a server that is starting.
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
    let deadline = Instant::now() + arguments.timeout;
    tokio.block_on(async {
        loop {
            let Err(error) = look(&arguments.kubeconfig, arguments.target).await else {
                return Ok(ExitCode::SUCCESS);
            };
            if Instant::now() > deadline {
                bail!("not ready after {} s: {error:#}", arguments.timeout.as_secs());
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
}

/// Fails with what is missing.
async fn look(kubeconfig: &Path, target: Target) -> Result<()> {
    let text = std::fs::read_to_string(kubeconfig).with_context(|| {
        format!("read {} (does `skiff server` run here? is it yours to read?)", kubeconfig.display())
    })?;
    let client = Client::new(Arc::new(HttpTransport::from_kubeconfig(&text, None)?));
    let request = http::Request::get("/readyz").body(bytes::Bytes::new()).context("build the request")?;
    let answer = client.transport().send(request).await.context("ask the API server")?;
    if !answer.status().is_success() {
        bail!("the API server is not ready: {}", String::from_utf8_lossy(answer.body()));
    }
    if matches!(target, Target::Node | Target::All) {
        nodes_ready(&client).await?;
    }
    if matches!(target, Target::Dns | Target::All) {
        dns_answers(&client).await?;
    }
    Ok(())
}

async fn nodes_ready(client: &Client) -> Result<()> {
    let nodes = client.all::<Node>().list(&ListOptions::default()).await.context("list nodes")?;
    if nodes.is_empty() {
        bail!("no node has registered");
    }
    for node in nodes {
        let conditions = node.status.and_then(|s| s.conditions).unwrap_or_default();
        if !conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True") {
            bail!("node {} is not Ready", node.metadata.name.unwrap_or_default());
        }
    }
    Ok(())
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
