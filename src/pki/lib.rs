//! Certificate authorities, certificates, service-account keys, kubeconfig files.
//!
//! Must not know: HTTP.

/* Contract.

/// Everything under `/var/lib/skiff/server/tls`, made at first start, renewed when near its end.
pub struct ClusterPki { ... }
impl ClusterPki {
    pub fn ensure(directory: &Path, names: &ServerNames) -> Result<ClusterPki, Error>;   // idempotent; adds new SANs
    pub fn ca_pem(&self) -> &str;
    pub fn server(&self) -> KeyPairPem;                                   // API server: SANs kubernetes, kubernetes.default.svc..., IPs
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<KeyPairPem, Error>;      // signed by the client CA
    pub fn service_account_key(&self) -> ...                              // ES256 signing key (ring)
    pub fn kubelet_serving(&self, node: &str, ips: &[IpAddr]) -> Result<KeyPairPem, Error>;
}
pub struct ServerNames { pub dns: Vec<String>, pub ips: Vec<IpAddr> }
pub struct KeyPairPem { pub certificate: String, pub key: String }
pub fn kubeconfig(server: &str, ca_pem: &str, client: &KeyPairPem) -> String;           // YAML, cluster/context/user all named `default`
*/
