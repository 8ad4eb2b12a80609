//! `pods/log`: passed on from the kubelet of the pod's node as it arrives.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use skiff_api::ApiError;
use skiff_base::chain;

use crate::call::{Call, Target, encode};
use crate::path::create::key_of;
use crate::proxy::choose_container;
use crate::proxy::forward::{Upstream, outbound, text_of};
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;

impl Server {
    pub(crate) async fn pod_log(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let pod = self.current(row, &key_of(target)).await?.value();
        let container = choose_container(&pod, call.query.get("container"))?;
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        if node.is_empty() {
            return Ok(Reply::new(200, "text/plain", Bytes::new()));
        }
        let kubelet = self.kubelet(node)?;
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
        self.ask_kubelet(call, &kubelet, &path).await
    }

    async fn ask_kubelet(&self, call: &Call, kubelet: &Upstream, path: &str) -> Result<Reply, ApiError> {
        let url = format!("https://{}{path}", kubelet.address());
        let fail = |error: &dyn std::fmt::Display| ApiError::internal(format!("Get {url:?}: {error}"));
        let request = outbound(call, Method::GET, path, kubelet).map_err(|e| fail(&e))?;
        let (response, sender) = self.send_upstream(kubelet, request).await.map_err(|e| fail(&chain(&e)))?;
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS || !status.is_success() {
            let text = text_of(response).await;
            let reason = if status.as_u16() == 404 { "NotFound" } else { "BadRequest" };
            let code = if status.is_client_error() { status.as_u16() } else { 500 };
            return Err(ApiError::new(code, if code == 500 { "InternalError" } else { reason }, text));
        }
        Ok(self.pass_back(call, response, sender))
    }
}
