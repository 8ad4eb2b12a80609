//! The events of one request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use futures::stream::BoxStream;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use skiff_api::decode::{Media, decode, protobuf_kind};
use skiff_api::schema;
use tokio::sync::mpsc;

use super::notes::Notes;
use super::policy::{Config, Level, Stage};
use crate::auth::{Decision, User};
use crate::call::Call;
use crate::reply::{Payload, Reply};
use crate::request::RequestInfo;

/// The responses of lists are recorded up to this size, where the policy asks for them.
const MAX_RESPONSE_B: usize = 16 << 20;

/// Tells what becomes of one request. What is dropped before its end tells that, too.
pub(crate) struct Recorder {
    config: Config,
    /// All but the stage and its time.
    event: Map<String, Value>,
    lines: mpsc::Sender<Vec<u8>>,
    notes: Arc<Notes>,
    complete: bool,
}

impl Recorder {
    pub(super) fn new(config: Config, call: &Call, info: &RequestInfo, lines: mpsc::Sender<Vec<u8>>) -> Self {
        let mut event = Map::new();
        let mut set = |key: &str, value: Value| drop(event.insert(key.to_owned(), value));
        set("kind", "Event".into());
        set("apiVersion", "audit.k8s.io/v1".into());
        set("level", format!("{:?}", config.level).into());
        set("auditID", call.audit_id().into());
        set("requestURI", call.uri().into());
        set("verb", info.verb.into());
        match &call.impersonator {
            Some(caller) => {
                set("user", user(caller));
                set("impersonatedUser", user(&call.user));
            }
            None => set("user", user(&call.user)),
        }
        let source = call.source.map_or_else(|| "::1".to_owned(), |ip| ip.to_string());
        set("sourceIPs", json!([source]));
        if let Some(agent) = call.header(USER_AGENT) {
            set("userAgent", agent.into());
        }
        if let Some(target) = &info.target {
            let asked = info.attributes();
            let fields = [
                ("resource", asked.resource),
                ("namespace", asked.namespace),
                ("name", asked.name),
                ("apiGroup", asked.group),
                ("apiVersion", target.version.as_str()),
                ("subresource", asked.subresource),
            ];
            let reference: Map<String, Value> =
                fields.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
            set("objectRef", reference.into());
        }
        set("requestReceivedTimestamp", now());
        Self { notes: Notes::new(config.level), config, event, lines, complete: false }
    }

    /// What is to be known of the request while it is answered.
    pub fn notes(&self) -> Arc<Notes> {
        self.notes.clone()
    }

    pub async fn received(&self) {
        if let Some(line) = self.line(Stage::RequestReceived) {
            self.send(line).await;
        }
    }

    /// Records what there is to say of a reply, or sees to it that it is said when the reply has been read to its end.
    pub async fn responded(mut self, call: &Call, mut reply: Reply) -> Reply {
        self.annotate(call);
        let brings = matches!(call.method, Method::POST | Method::PUT);
        let request = (brings || self.config.level >= Level::Request).then(|| request_object(call)).flatten();
        if let Some(object) = request.as_ref().filter(|_| brings) {
            self.name_object(object);
        }
        if self.config.level >= Level::Request {
            self.set_body("requestObject", request);
        }
        let failure = match &reply.body {
            Payload::Whole(body) if !reply.status.is_success() => serde_json::from_slice(body).ok(),
            _ => None,
        };
        self.set_status(reply.status.as_u16(), failure.as_ref());
        if reply.status == StatusCode::SWITCHING_PROTOCOLS {
            if let Some(line) = self.line(Stage::ResponseStarted) {
                self.send(line).await;
            }
            call.wire.hold(Box::new(self));
            return reply;
        }
        match std::mem::replace(&mut reply.body, Payload::Whole(Bytes::new())) {
            Payload::Whole(body) => {
                if self.config.level == Level::RequestResponse {
                    self.set_body("responseObject", serde_json::from_slice(&body).ok());
                }
                self.finish().await;
                reply.body = Payload::Whole(body);
            }
            Payload::Pieces(pieces) => {
                if !reply.list
                    && let Some(line) = self.line(Stage::ResponseStarted)
                {
                    self.send(line).await;
                }
                let keeps = reply.list && self.config.level == Level::RequestResponse;
                let collected = keeps.then(Vec::new);
                reply.body = Payload::Pieces(Box::pin(Recorded { pieces, recorder: self, collected }));
            }
        }
        reply
    }

    /// What the path does not say of the object, it says itself.
    fn name_object(&mut self, object: &Value) {
        let Some(reference) = self.event.get_mut("objectRef").and_then(Value::as_object_mut) else { return };
        for field in ["namespace", "name", "uid", "resourceVersion"] {
            if let Some(text) = object["metadata"][field].as_str().filter(|text| !text.is_empty()) {
                reference.entry(field).or_insert_with(|| text.into());
            }
        }
    }

    fn annotate(&mut self, call: &Call) {
        let mut annotations = self.notes.take();
        let decision = match call.decision.get() {
            Some(Decision::Allow(reason)) => Some(("allow", reason)),
            Some(Decision::NoOpinion(reason)) => Some(("forbid", reason)),
            None => None,
        };
        if let Some((decision, reason)) = decision {
            annotations.insert("authorization.k8s.io/decision".to_owned(), decision.into());
            let reason = reason.as_deref().unwrap_or_default();
            annotations.insert("authorization.k8s.io/reason".to_owned(), reason.into());
        }
        if !annotations.is_empty() {
            self.event.insert("annotations".to_owned(), annotations.into());
        }
    }

    fn set_status(&mut self, code: u16, failure: Option<&Value>) {
        let mut status = json!({"metadata": {}, "code": code});
        for field in ["status", "message", "reason", "details"] {
            if let Some(value) = failure.and_then(|failure| failure.get(field)) {
                status[field] = value.clone();
            }
        }
        self.event.insert("responseStatus".to_owned(), status);
    }

    fn set_body(&mut self, field: &str, body: Option<Value>) {
        let Some(mut body) = body else { return };
        if self.config.omit_managed_fields {
            omit_managed_fields(&mut body);
        }
        self.event.insert(field.to_owned(), body);
    }

    async fn finish(mut self) {
        self.complete = true;
        if let Some(line) = self.line(Stage::ResponseComplete) {
            self.send(line).await;
        }
    }

    fn line(&self, stage: Stage) -> Option<Vec<u8>> {
        if self.config.omit_stages.contains(&stage) {
            return None;
        }
        let mut event = self.event.clone();
        event.insert("stage".to_owned(), format!("{stage:?}").into());
        event.insert("stageTimestamp".to_owned(), now());
        let mut line = serde_json::to_vec(&event).expect("a JSON value always encodes");
        line.push(b'\n');
        Some(line)
    }

    async fn send(&self, line: Vec<u8>) {
        // The writer ends after all who send.
        let _ = self.lines.send(line).await;
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if self.complete {
            return;
        }
        if !self.event.contains_key("responseStatus") {
            // Its client went away, or its time was over.
            self.set_status(504, None);
        }
        if let Some(line) = self.line(Stage::ResponseComplete)
            && self.lines.try_send(line).is_err()
        {
            tracing::error!("the audit log is behind: the end of a request is not in it");
        }
    }
}

/// A reply in pieces, which is complete when it is dropped.
struct Recorded {
    pieces: BoxStream<'static, Result<Bytes, std::io::Error>>,
    recorder: Recorder,
    collected: Option<Vec<u8>>,
}

impl Stream for Recorded {
    type Item = Result<Bytes, std::io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.pieces.as_mut().poll_next(context);
        if let (Poll::Ready(Some(Ok(piece))), Some(all)) = (&polled, &mut self.collected) {
            if all.len() + piece.len() > MAX_RESPONSE_B {
                self.collected = None;
            } else {
                all.extend_from_slice(piece);
            }
        }
        polled
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if let Some(all) = self.collected.take() {
            self.recorder.set_body("responseObject", serde_json::from_slice(&all).ok());
        }
    }
}

fn now() -> Value {
    skiff_base::time::rfc3339_micro(skiff_base::time::now()).into()
}

fn user(user: &User) -> Value {
    let mut value = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        value["uid"] = user.uid.as_str().into();
    }
    for (key, values) in &user.extra {
        value["extra"][key] = json!(values);
    }
    value
}

/// The body as JSON, where it can be read.
fn request_object(call: &Call) -> Option<Value> {
    if call.body.is_empty() {
        return None;
    }
    if Media::of(call.header(CONTENT_TYPE)) != Some(Media::Protobuf) {
        // A patch, too; YAML holds JSON.
        let text = std::str::from_utf8(&call.body).ok()?;
        let json = serde_json::from_str(text).ok();
        return json.or_else(|| skiff_api::yaml::document(text).ok().map(|document| document.value));
    }
    let kind = protobuf_kind(&call.body)?;
    let schema = schema::lookup(&kind);
    decode(&call.body, Media::Protobuf, &kind, schema.as_ref()).ok().map(|decoded| decoded.value)
}

fn omit_managed_fields(object: &mut Value) {
    for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        omit_managed_fields(item);
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}
