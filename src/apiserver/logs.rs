//! `pods/log`: passed on from the kubelet of the pod's node as it arrives, over a WebSocket too.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, StatusCode, header};
use skiff_api::ApiError;
use skiff_api::field::{Errors, Path};
use skiff_base::chain;

use crate::call::{Call, Query, Target, encode};
use crate::path::socket;
use crate::proxy::choose_container;
use crate::proxy::forward::{outbound, text_of};
use crate::proxy::upstream::Upstream;
use crate::registry::Row;
use crate::reply::{Payload, Reply};
use crate::server::Server;

const STREAMS: [&str; 3] = ["All", "Stderr", "Stdout"];

/// Those of a client's request for another protocol.
const SOCKET_HEADERS: [header::HeaderName; 6] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
];

/// Upstream's `ValidatePodLogOptions`.
fn check_options(query: &Query, pod: &str) -> Result<(), ApiError> {
    let mut errors = Errors::new();
    let tail = query.integer("tailLines")?;
    if let Some(lines) = tail.filter(|lines| *lines < 0) {
        errors.invalid(&Path::new("tailLines"), lines, "must be greater than or equal to 0");
    }
    if let Some(bytes) = query.integer("limitBytes")?.filter(|bytes| *bytes < 1) {
        errors.invalid(&Path::new("limitBytes"), bytes, "must be greater than 0");
    }
    match query.integer("sinceSeconds")? {
        Some(_) if query.get("sinceTime").is_some() => {
            errors.forbidden(&Path::new(""), "at most one of `sinceTime` or `sinceSeconds` may be specified");
        }
        Some(seconds) if seconds < 1 => {
            errors.invalid(&Path::new("sinceSeconds"), seconds, "must be greater than 0");
        }
        _ => {}
    }
    if let Some(stream) = query.get("stream") {
        if !STREAMS.contains(&stream) {
            errors.not_supported(&Path::new("stream"), stream, &STREAMS);
        }
        if stream != "All" && tail.is_some() {
            errors.forbidden(&Path::new(""), "`tailLines` and specific `stream` are mutually exclusive for now");
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid("", "PodLogOptions", pod, errors.into_causes())) }
}

impl Server {
    pub(crate) async fn pod_log(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let pod = self.current(row, &target.key()).await?.value();
        check_options(&call.query, &target.name)?;
        let container = choose_container(&pod, call.query.get("container"))?;
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        if node.is_empty() {
            return Ok(Reply::new(204, "text/plain", Bytes::new()));
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
        let asked = socket::asked(call)?;
        let mut request = outbound(call, Method::GET, path, kubelet).map_err(|e| fail(&e))?;
        // Whatever the client wants to go on with, it is with us; a kubelet gives plain bytes.
        for name in SOCKET_HEADERS {
            request.headers_mut().remove(name);
        }
        let (response, sender) = self.send_upstream(kubelet, request).await.map_err(|e| fail(&chain(&e)))?;
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS || !status.is_success() {
            let text = text_of(response).await;
            let reason = if status.as_u16() == 404 { "NotFound" } else { "BadRequest" };
            let code = if status.is_client_error() { status.as_u16() } else { 500 };
            return Err(ApiError::new(code, if code == 500 { "InternalError" } else { reason }, text));
        }
        let reply = self.pass_back(call, response, sender);
        let Some(upgrade) = asked else { return Ok(reply) };
        let pieces = match reply.body {
            Payload::Pieces(pieces) => pieces,
            Payload::Whole(bytes) => futures::stream::iter([Ok(bytes)]).boxed(),
        };
        Ok(socket::reply_bytes(self, call, &upgrade, pieces))
    }
}
