//! Services on every node: Services + EndpointSlices -> the plain model of `skiff-network`.
//!
//! Must not know: the store, the API server.

/* Contract: pub fn start(informers: &Informers, network: skiff_network::Network, node_name: &str, scope: &Scope); */
