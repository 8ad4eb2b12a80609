//! `pods/log`: passed on from the kubelet of the pod's node as it arrives.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, BodyStream, Empty};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::crypto::ring::default_provider;
use serde_json::Value;
use skiff_api::ApiError;
use skiff_base::chain;
use skiff_pki::ClusterPki;
use tokio_rustls::TlsConnector;

use crate::call::{Call, Target, encode};
use crate::error::Error;
use crate::http::tls;
use crate::meta;
use crate::path::create::key_of;
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const KUBELET_PORT: u64 = 10_250;

/// The API server as a client of kubelets.
#[derive(Default)]
pub(crate) struct Kubelets(OnceLock<Arc<ClientConfig>>);

impl Kubelets {
    fn config(&self, pki: &ClusterPki) -> Result<Arc<ClientConfig>, Error> {
        if let Some(config) = self.0.get() {
            return Ok(config.clone());
        }
        let pair = pki.client("kube-apiserver", &["system:masters"])?;
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?
            .with_root_certificates(tls::roots(pki.ca_pem())?)
            .with_client_auth_cert(tls::certificates(&pair.certificate)?, tls::private_key(&pair.key)?)
            .map_err(Error::Tls)?;
        Ok(self.0.get_or_init(|| Arc::new(config)).clone())
    }
}

impl Server {
    pub(crate) async fn pod_log(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let pod = self.current(row, &key_of(target)).await?.value();
        let container = choose_container(&pod, call.query.get("container"))?;
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        if node.is_empty() {
            return Ok(Reply::new(200, "text/plain", Bytes::new()));
        }
        let nodes = self.resource("nodes");
        let node = nodes.find("", node).ok_or_else(|| ApiError::not_found("", "nodes", node))?.value();
        let (host, port) = kubelet_address(&node).ok_or_else(|| {
            ApiError::internal(format!("no preferred addresses found for node {:?}", meta::text(&node, "name")))
        })?;
        let mut path = format!("/containerLogs/{}/{}/{container}", target.namespace, target.name);
        let passed = call.query.pairs().iter().filter(|(key, _)| {
            matches!(
                key.as_str(),
                "follow"
                    | "previous"
                    | "sinceSeconds"
                    | "sinceTime"
                    | "timestamps"
                    | "tailLines"
                    | "limitBytes"
                    | "stream"
            )
        });
        let query: Vec<String> = passed.map(|(key, value)| format!("{key}={}", encode(value))).collect();
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        self.ask_kubelet(&host, port, &path).await
    }

    async fn ask_kubelet(&self, host: &str, port: u16, path: &str) -> Result<Reply, ApiError> {
        let url = format!("https://{host}:{port}{path}");
        let fail = |error: &dyn std::fmt::Display| ApiError::internal(format!("Get {url:?}: {error}"));
        let config = self.kubelets.config(&self.options.pki).map_err(|e| fail(&chain(&e)))?;
        let connect = async {
            let stream = skiff_resolver::connect(host, port).await?;
            let name = rustls_pki_types::ServerName::try_from(host.to_owned())
                .map_err(|_| std::io::Error::other("the node's address is no host name"))?;
            TlsConnector::from(config).connect(name, stream).await
        };
        let stream = tokio::time::timeout(CONNECT_LIMIT, connect)
            .await
            .map_err(|_| fail(&"dial: i/o timeout"))?
            .map_err(|e| fail(&chain(&e)))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| fail(&chain(&e)))?;
        let stop = self.scope.token().clone();
        self.scope.spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(error = %chain(&error), "connection to a kubelet");
                },
                () = stop.cancelled() => {}
            }
        });
        let request = http::Request::get(path)
            .header(http::header::HOST, format!("{host}:{port}"))
            .body(Empty::<Bytes>::new())
            .map_err(|e| fail(&e))?;
        let response = sender.send_request(request).await.map_err(|e| fail(&chain(&e)))?;
        let status = response.status();
        if !status.is_success() {
            let body = response.into_body().collect().await.map(http_body_util::Collected::to_bytes);
            let text = body.map(|b| String::from_utf8_lossy(&b).trim().to_owned()).unwrap_or_default();
            let reason = if status.as_u16() == 404 { "NotFound" } else { "BadRequest" };
            let code = if status.is_client_error() { status.as_u16() } else { 500 };
            return Err(ApiError::new(code, if code == 500 { "InternalError" } else { reason }, text));
        }
        // The sender lives as long as the pieces: dropping it early would end the connection.
        let pieces = BodyStream::new(response.into_body()).filter_map(move |frame| {
            let _sender = &sender;
            let piece = match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(error) => Some(Err(std::io::Error::other(error))),
            };
            async move { piece }
        });
        Ok(Reply::pieces("text/plain", pieces))
    }
}

/// The container whose log is meant, as upstream chooses.
fn choose_container(pod: &Value, asked: Option<&str>) -> Result<String, ApiError> {
    let names = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers.filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    };
    let (containers, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let name = meta::text(pod, "name");
    if let Some(asked) = asked {
        let known = [&containers, &init, &ephemeral].into_iter().flatten().any(|n| n == asked);
        return match known {
            true => Ok(asked.to_owned()),
            false => Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}"))),
        };
    }
    if let [only] = containers.as_slice() {
        return Ok(only.clone());
    }
    let mut message =
        format!("a container name must be specified for pod {name}, choose one of: [{}]", containers.join(" "));
    if !init.is_empty() {
        message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
    }
    Err(ApiError::bad_request(message))
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
    fn chooses_as_upstream() {
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}],
            "initContainers": [{"name": "i"}]}});
        assert_eq!(choose_container(&one, None).as_deref(), Ok("a"));
        assert_eq!(choose_container(&two, Some("i")).as_deref(), Ok("i"));
        for (asked, expect) in [
            (
                None,
                "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]",
            ),
            (Some("x"), "container x is not valid for pod p"),
        ] {
            assert_eq!(choose_container(&two, asked).expect_err("refused").message, expect);
        }
    }

    #[test]
    fn finds_the_kubelet() {
        let node = json!({"status": {"addresses": [
            {"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.1"},
        ]}});
        assert_eq!(kubelet_address(&node), Some(("10.0.0.1".to_owned(), 10_250)));
        assert_eq!(kubelet_address(&json!({})), None);
    }
}
