//! Puts pods on nodes.
//!
//! Must not know: the store, the API server.

/* Contract: pub fn start(informers: &skiff_client::Informers, scope: &skiff_base::Scope);  spawns everything in the scope */
