//! Kubernetes' own control loops.
//!
//! Must not know: the store, the API server.

/* Contract: pub fn start(informers: &skiff_client::Informers, options: Options, scope: &skiff_base::Scope);  spawns all of them in the scope
pub struct Options { pub cluster_cidr: (Ipv4Addr, u8), pub node_cidr_mask: u8 /* 24 */, pub ca_pem: String } */
