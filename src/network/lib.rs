//! Pod links, routes, addresses, and the nf_tables rules of services, from a plain model.
//!
//! Must not know: the Kubernetes API.

mod types;

pub use types::*;

/* Contract. `Network` is a cheap clonable handle.

impl Network {
    /// Makes `skiff0` (an empty bridge) with the gateway address, sysctls, service-CIDR route, base nf_tables table. Idempotent.
    pub async fn open(options: NetworkOptions) -> Result<Network, Error>;
    /// veth + routes + address from the node's pod CIDR (leases kept on disk by sandbox id). Idempotent per sandbox.
    pub async fn attach(&self, sandbox_id: &str, netns: &Path, host_ports: &[HostPort]) -> Result<Vec<IpAddr>, Error>;
    pub async fn detach(&self, sandbox_id: &str) -> Result<(), Error>;      // idempotent
    /// Frees the leases and links of sandboxes that are not in `live`.
    pub async fn retain(&self, live: &[String]) -> Result<(), Error>;
    /// Makes the rule set show exactly this; sends the difference only.
    pub async fn apply_services(&self, services: ServiceRules) -> Result<(), Error>;
    /// Watches for a stranger's flush and puts our rules back; runs until cancelled.
    pub async fn keep(&self, stop: CancellationToken);
    /// Removes tables, links, routes that are ours.
    pub async fn remove_all(run_directory: &Path, data_directory: &Path) -> Result<(), Error>;
}
*/
