//! Where a Service of the cluster is reached from this server: at one of its endpoints, since cluster addresses are
//! for those behind the node's rules.

use rand::seq::IndexedRandom as _;
use serde_json::Value;

use crate::server::Server;

const OF_SERVICE: &str = "kubernetes.io/service-name";

impl Server {
    /// Host and port that serve the port of a service now. The error is a sentence as upstream's.
    pub(crate) fn address_of(&self, namespace: &str, service: &str, port: u16) -> Result<(String, u16), String> {
        let found = self.resource("services").find(namespace, service);
        let found = found.ok_or_else(|| format!("service {service:?} not found"))?.value();
        let name =
            port_name(&found, port).ok_or_else(|| format!("no service port {port} found for service {service:?}"))?;
        if found["spec"]["type"] == "ExternalName" {
            return Ok((found["spec"]["externalName"].as_str().unwrap_or_default().to_owned(), port));
        }
        let all: Vec<(String, u16)> =
            self.slices_of(namespace, service).iter().flat_map(|slice| ready(slice, name)).collect();
        all.choose(&mut rand::rng()).cloned().ok_or_else(|| format!("no endpoints available for service {service:?}"))
    }

    /// The EndpointSlices of a service.
    pub(crate) fn slices_of(&self, namespace: &str, service: &str) -> Vec<Value> {
        let all = self.resource("discovery.k8s.io/endpointslices").of_namespace(namespace);
        let own = all.iter().filter(|slice| slice.meta.labels.get(OF_SERVICE).is_some_and(|of| **of == *service));
        own.map(|slice| slice.value()).collect()
    }
}

/// The name of a service's port; `None`: there is no such port.
pub(crate) fn port_name(service: &Value, port: u16) -> Option<&str> {
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let found = ports.find(|known| known["port"].as_u64() == Some(u64::from(port)))?;
    Some(found["name"].as_str().unwrap_or_default())
}

/// The ready addresses of a slice with its port of that name.
pub(crate) fn ready(slice: &Value, port: &str) -> Vec<(String, u16)> {
    let mut ports = slice["ports"].as_array().into_iter().flatten();
    let number = ports.find(|known| known["name"].as_str().unwrap_or_default() == port);
    let number = number.and_then(|known| u16::try_from(known["port"].as_u64()?).ok());
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false);
    let addresses = ready.filter_map(|endpoint| endpoint["addresses"][0].as_str());
    addresses.filter_map(|address| Some((address.to_owned(), number?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_and_addresses() {
        let service = json!({"spec": {"ports": [{"port": 443, "name": "https"}, {"port": 80}]}});
        assert_eq!([443, 80, 1].map(|port| port_name(&service, port)), [Some("https"), Some(""), None]);
        let slice = json!({"ports": [{"name": "https", "port": 8443}], "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": true}}, {"addresses": ["10.0.0.2"]},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
        ]});
        let two = ["10.0.0.1", "10.0.0.2"].map(|address| (address.to_owned(), 8443));
        assert_eq!((ready(&slice, "https"), ready(&slice, "http")), (two.to_vec(), Vec::new()));
    }
}
