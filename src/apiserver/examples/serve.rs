//! A bare API server for trying things out: `cargo run -p skiff-apiserver --example serve -- <directory> [port]`.
//! It writes `<directory>/admin.kubeconfig`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use skiff_apiserver::{ApiServer, ApiServerOptions, volatile_keys};
use skiff_base::Scope;
use skiff_pki::{ClusterPki, ServerNames, write_kubeconfig};
use skiff_store::{Options, Store};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("which directory?")?);
    let port: u16 = arguments.next().unwrap_or_else(|| "6443".into()).parse()?;
    let names = ServerNames { dns: vec!["localhost".into()], ips: vec![Ipv4Addr::LOCALHOST.into()] };
    let pki = Arc::new(ClusterPki::ensure(&directory.join("tls"), &names)?);
    let store = Store::open(Options { volatile: volatile_keys(), ..Options::new(directory.join("db")) }).await?;
    let scope = Scope::new();
    let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let options = ApiServerOptions::new(bind, Ipv4Addr::LOCALHOST, pki.clone());
    let server = ApiServer::start(options, store.clone(), &scope).await?;
    let admin = pki.client("admin", &["system:masters"])?;
    let url = format!("https://{}", server.local_addr());
    write_kubeconfig(&directory.join("admin.kubeconfig"), &url, pki.ca_pem(), &admin)?;
    println!("serving {url}");
    tokio::signal::ctrl_c().await?;
    scope.stop().await;
    store.close().await;
    Ok(())
}
