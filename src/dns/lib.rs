//! The cluster's names on every node.
//!
//! Must not know: the store, the API server.

/* Contract: pub async fn start(informers: &Informers, options: Options{ listen: SocketAddr /* 10.43.0.10:53 on skiff0 */, domain: "cluster.local", upstream: PathBuf /* resolv.conf */, service_cidr, .. }, scope: &Scope) -> Result<(), Error>;  udp + tcp */
