//! The kubelets of the nodes: where they listen, and who this server is to them.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use rustls::ClientConfig;
use rustls::crypto::ring::default_provider;
use serde_json::Value;
use skiff_api::ApiError;
use skiff_pki::ClusterPki;

use super::forward::{Security, Upstream};
use crate::error::Error;
use crate::http::tls;
use crate::meta;
use crate::server::Server;

const KUBELET_PORT: u64 = 10_250;
/// The certificate lives for a year; a new one is signed long before.
const RENEW_AFTER_S: i64 = 30 * 24 * 3600;

/// The API server as a client of kubelets.
#[derive(Default)]
pub(crate) struct Kubelets(Mutex<Option<Identity>>);

struct Identity {
    config: Arc<ClientConfig>,
    signed: Timestamp,
}

/// Also when the clock was set back: it had been wrong before.
pub(crate) fn is_old(signed: Timestamp, now: Timestamp) -> bool {
    !(0..RENEW_AFTER_S).contains(&now.duration_since(signed).as_secs())
}

impl Kubelets {
    pub fn config(&self, pki: &ClusterPki) -> Result<Arc<ClientConfig>, Error> {
        let now = skiff_base::time::now();
        let mut identity = self.0.lock().expect("nobody panics while holding it");
        if let Some(identity) = identity.as_ref().filter(|identity| !is_old(identity.signed, now)) {
            return Ok(identity.config.clone());
        }
        let pair = pki.client("kube-apiserver", &["system:masters"])?;
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?
            .with_root_certificates(tls::roots(pki.ca_pem())?)
            .with_client_auth_cert(tls::certificates(&pair.certificate)?, tls::private_key(&pair.key)?)
            .map_err(Error::Tls)?;
        let config = Arc::new(config);
        *identity = Some(Identity { config: config.clone(), signed: now });
        Ok(config)
    }
}

impl Server {
    /// The kubelet of a node, by the node's name.
    pub(crate) fn kubelet(&self, node: &str) -> Result<Upstream, ApiError> {
        let nodes = self.resource("nodes");
        let node = nodes.find("", node).ok_or_else(|| ApiError::not_found("", "nodes", node))?.value();
        let (host, port) = kubelet_address(&node).ok_or_else(|| {
            ApiError::internal(format!("no preferred addresses found for node {:?}", meta::text(&node, "name")))
        })?;
        let config = self.kubelets.config(&self.options.pki);
        let config = config.map_err(|e| ApiError::internal(skiff_base::chain(&e)))?;
        Ok(Upstream { host, port, name: None, security: Security::Tls(config) })
    }
}

/// Where the node's kubelet listens.
fn kubelet_address(node: &Value) -> Option<(String, u16)> {
    let addresses = node["status"]["addresses"].as_array()?;
    let of_type = |kind: &str| addresses.iter().find(|a| a["type"] == kind).and_then(|a| a["address"].as_str());
    let host = of_type("InternalIP").or_else(|| of_type("ExternalIP")).or_else(|| of_type("Hostname"))?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap_or(KUBELET_PORT);
    Some((host.to_owned(), u16::try_from(port).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds_the_kubelet() {
        let node = json!({"status": {"addresses": [
            {"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.1"},
        ]}});
        assert_eq!(kubelet_address(&node), Some(("10.0.0.1".to_owned(), 10_250)));
        assert_eq!(kubelet_address(&json!({})), None);
    }

    #[test]
    fn certificates_are_renewed() {
        let at = |s: i64| Timestamp::from_second(s).expect("a time");
        assert!(!is_old(at(1000), at(1000)) && !is_old(at(1000), at(1000 + RENEW_AFTER_S - 1)));
        assert!(is_old(at(1000), at(1000 + RENEW_AFTER_S)) && is_old(at(1000), at(0)));
    }
}
