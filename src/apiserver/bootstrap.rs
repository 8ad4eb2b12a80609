//! What a cluster has before anyone asks: the system namespaces, the service `kubernetes`, the system's priority classes.

use futures::{StreamExt, stream};
use http::Method;
use serde_json::{Value, json};
use skiff_api::kinds::scheduling::SYSTEM_CLASSES;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tracing::warn;

use crate::defaults;
use crate::error::Error;
use crate::server::Server;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// So many of them are made at the same time: they share the store's syncs.
const DEFAULTS_PARALLEL: usize = 32;

/// How often it is looked after, as upstream: `kubectl delete all --all` takes the service `kubernetes` with it.
pub(crate) const REPAIR_INTERVAL: Duration = Duration::from_secs(10);

/// Makes again what somebody removed, until the server stops.
pub(crate) async fn keep_system_objects(server: Arc<Server>, interval: Duration) {
    let stop = server.scope.token().clone();
    if let Err(error) = server.ensure_defaults().await {
        warn!(error = %skiff_base::chain(&error), "what says what the server is could not be made");
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = stop.cancelled() => return,
        }
        if let Err(error) = server.ensure_system_objects().await {
            warn!(error = %skiff_base::chain(&error), "the system's own objects could not be looked after");
        }
    }
}

impl Server {
    /// Makes what is missing; idempotent.
    pub(crate) async fn ensure_system_objects(&self) -> Result<(), Error> {
        for name in NAMESPACES {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            self.ensure(&format!("namespace {name}"), "/api/v1/namespaces", name, namespace).await?;
        }
        let address = self.first_address();
        let labels = json!({"component": "apiserver", "provider": "kubernetes"});
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
            "spec": {"type": "ClusterIP", "clusterIP": address, "sessionAffinity": "None", "ports": [
                {"name": "https", "protocol": "TCP", "port": 443, "targetPort": self.local.port()},
            ]},
        });
        self.ensure("service kubernetes", "/api/v1/namespaces/default/services", "kubernetes", service).await?;
        for (name, value, description) in SYSTEM_CLASSES {
            let class = json!({
                "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
                "value": value, "description": description,
            });
            let path = "/apis/scheduling.k8s.io/v1/priorityclasses";
            self.ensure(&format!("priority class {name}"), path, name, class).await?;
        }
        self.ensure_service_cidr().await?;
        self.ensure_authentication().await?;
        self.ensure_endpoints().await
    }

    /// What nobody waits for at the start: it is only there to be read.
    async fn ensure_defaults(&self) -> Result<(), Error> {
        let registry = self.registry.load();
        let groups = registry.groups();
        let served = groups.iter().flat_map(|(group, versions)| versions.iter().map(|version| (*group, *version)));
        let reviews = [("authentication.k8s.io", "v1"), ("authorization.k8s.io", "v1")];
        let services = defaults::api_services(served.chain(reviews));
        let made: Vec<Result<(), Error>> = stream::iter(services.into_iter().map(|one| self.ensure_with_status(one)))
            .buffer_unordered(DEFAULTS_PARALLEL)
            .collect()
            .await;
        made.into_iter().collect()
    }

    async fn ensure_with_status(&self, default: defaults::Default) -> Result<(), Error> {
        let defaults::Default { path, name, object } = default;
        let what = format!("{} {name}", object["kind"].as_str().unwrap_or_default());
        let one = format!("{path}/{name}");
        match self.ask_as_itself(Method::GET, &one, None).await {
            Err(error) if error.is_not_found() => {}
            _ => return Ok(()),
        }
        self.ensure(&what, path, &name, object.clone()).await?;
        if object.get("status").is_none() {
            return Ok(());
        }
        match self.ask_as_itself(Method::PUT, &format!("{one}/status"), Some(&object)).await {
            Err(error) => Err(Error::Bootstrap { what, error }),
            Ok(()) => Ok(()),
        }
    }

    /// The range that addresses of services come from, as an object.
    async fn ensure_service_cidr(&self) -> Result<(), Error> {
        let path = "/apis/networking.k8s.io/v1/servicecidrs";
        let what = "service CIDR kubernetes";
        let (network, prefix) = self.options.service_cidr;
        let network = u32::from(network) & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        let cidr = format!("{}/{prefix}", std::net::Ipv4Addr::from(network));
        let mut object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": [cidr]},
        });
        self.ensure(what, path, "kubernetes", object.clone()).await?;
        self.cache.fresh().await.map_err(|error| Error::Bootstrap { what: what.to_owned(), error })?;
        let found = self.resource("networking.k8s.io/servicecidrs").find("", "kubernetes");
        if found.is_some_and(|found| found.value()["status"]["conditions"].is_array()) {
            return Ok(());
        }
        object["status"] = json!({"conditions": [{
            "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready",
            "lastTransitionTime": skiff_base::time::now_rfc3339(),
        }]});
        match self.ask_as_itself(Method::PUT, &format!("{path}/kubernetes/status"), Some(&object)).await {
            Err(error) => Err(Error::Bootstrap { what: what.to_owned(), error }),
            Ok(()) => Ok(()),
        }
    }

    /// How extension API servers know who passes requests on to them, and who shows a client certificate of this cluster.
    async fn ensure_authentication(&self) -> Result<(), Error> {
        let pki = &self.options.pki;
        let name = "extension-apiserver-authentication";
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "kube-system"},
            "data": {
                "client-ca-file": pki.client_ca_pem(),
                "requestheader-allowed-names": json!([skiff_pki::ClusterPki::FRONT_PROXY]).to_string(),
                "requestheader-client-ca-file": pki.request_header_ca_pem(),
                "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
                "requestheader-group-headers": "[\"X-Remote-Group\"]",
                "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
                "requestheader-username-headers": "[\"X-Remote-User\"]",
            },
        });
        let found = self.resource("configmaps").find("kube-system", name);
        if found.is_some_and(|found| found.value()["data"] == object["data"]) {
            return Ok(());
        }
        self.ensure_as_is(&format!("config map {name}"), "/api/v1/namespaces/kube-system/configmaps", name, object)
            .await
    }

    /// The address of the service `kubernetes`: the first of the network.
    pub(crate) fn first_address(&self) -> String {
        first_address(self.options.service_cidr).to_string()
    }

    /// Where this server is reached; a new address replaces the old one.
    async fn ensure_endpoints(&self) -> Result<(), Error> {
        if self.options.advertise_ip.is_loopback() {
            if !self.ready.load(Ordering::Acquire) {
                warn!(ip = %self.options.advertise_ip, "pods can't reach the API at a loopback address: no endpoints for it");
            }
            return Ok(());
        }
        let (ip, port) = (self.options.advertise_ip.to_string(), self.local.port());
        let endpoints = json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": [{"ip": ip}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
        });
        let path = "/api/v1/namespaces/default/endpoints";
        self.ensure_as_is("endpoints kubernetes", path, "kubernetes", endpoints).await?;
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        });
        let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        self.ensure_as_is("endpointslice kubernetes", path, "kubernetes", slice).await
    }

    async fn ensure(&self, what: &str, path: &str, name: &str, object: Value) -> Result<(), Error> {
        match self.ask_as_itself(Method::GET, &format!("{path}/{name}"), None).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(Error::Bootstrap { what: what.to_owned(), error }),
        }
        match self.ask_as_itself(Method::POST, path, Some(&object)).await {
            Err(error) if !error.is_already_exists() => Err(Error::Bootstrap { what: what.to_owned(), error }),
            _ => Ok(()),
        }
    }

    /// The same, and what is there already is made to be so. An unchanged object is not written.
    async fn ensure_as_is(&self, what: &str, path: &str, name: &str, object: Value) -> Result<(), Error> {
        match self.ask_as_itself(Method::PUT, &format!("{path}/{name}"), Some(&object)).await {
            Err(error) if error.is_not_found() => self.ensure(what, path, name, object).await,
            Err(error) => Err(Error::Bootstrap { what: what.to_owned(), error }),
            Ok(()) => Ok(()),
        }
    }
}

pub(crate) fn first_address((network, prefix): (std::net::Ipv4Addr, u8)) -> std::net::Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    std::net::Ipv4Addr::from((u32::from(network) & mask) + 1)
}
