//! The kubelets of the nodes: where they listen.

use serde_json::Value;
use skiff_api::ApiError;

use super::upstream::{Security, Upstream};
use crate::meta;
use crate::server::Server;

const KUBELET_PORT: u64 = 10_250;
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
}
