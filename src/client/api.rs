use std::fmt::Write as _;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skiff_api::{ApiError, Gvr};

use crate::{Error, Result, Transport};

/// A handle on an API server; cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
}

/// The body's type of a PATCH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchKind {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    pub label_selector: String,
    pub field_selector: String,
}

impl ListOptions {
    /// `?labelSelector=...`, or nothing.
    fn query(&self) -> String {
        query(&[("labelSelector", &self.label_selector), ("fieldSelector", &self.field_selector)])
    }
}

#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub grace_period_s: Option<i64>,
    /// `Background`, `Foreground`, `Orphan`.
    pub propagation: Option<&'static str>,
    /// Delete only the object with this uid.
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    pub fn to_value(&self) -> Value {
        let mut value = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(seconds) = self.grace_period_s {
            value["gracePeriodSeconds"] = json!(seconds);
        }
        if let Some(policy) = self.propagation {
            value["propagationPolicy"] = json!(policy);
        }
        if let Some(uid) = &self.uid {
            value["preconditions"]["uid"] = json!(uid);
        }
        if let Some(version) = &self.resource_version {
            value["preconditions"]["resourceVersion"] = json!(version);
        }
        value
    }
}

impl Client {
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport }
    }

    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// All namespaces, or a cluster-scoped kind.
    pub fn all<K: Resource>(&self) -> Api<K> {
        self.namespaced("")
    }

    pub fn namespaced<K: Resource>(&self, namespace: &str) -> Api<K> {
        Api { client: self.clone(), namespace: namespace.to_owned(), kind: PhantomData }
    }

    /// Sends `body` as JSON to any path (with query), and decodes the answer; `None` sends no body.
    pub async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<&Value>) -> Result<T> {
        let body = body.map(|value| Bytes::from(serde_json::to_vec(value).expect("a JSON value always encodes")));
        self.call_raw(method, path, "application/json", body).await
    }

    /// The same with the body's bytes and type.
    pub async fn call_raw<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Option<Bytes>,
    ) -> Result<T> {
        let answer = self.send(method, path, content_type, body).await?;
        serde_json::from_slice(&answer).map_err(|e| Error::Decode(e.into()))
    }

    /// The bytes of a successful answer.
    async fn send(&self, method: Method, path: &str, content_type: &str, body: Option<Bytes>) -> Result<Bytes> {
        let mut request = Request::builder().method(method).uri(path).header(header::ACCEPT, "application/json");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request
            .body(body.unwrap_or_default())
            .map_err(|e| Error::Config(format!("{path:?} can't be asked for: {e}")))?;
        let answer = self.transport.send(request).await?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        Err(Error::Api(failure(answer.status(), answer.body())))
    }

    /// An answer that is read as it arrives, such as a log that is followed.
    pub async fn stream(&self, path: &str) -> Result<crate::Body> {
        use futures::StreamExt as _;
        let request = Request::get(path)
            .body(Bytes::new())
            .map_err(|e| Error::Config(format!("{path:?} can't be asked for: {e}")))?;
        let answer = self.transport.stream(request).await?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let status = answer.status();
        let mut text = Vec::new();
        let mut body = answer.into_body();
        while let Some(chunk) = body.next().await {
            text.extend_from_slice(&chunk?);
        }
        Err(Error::Api(failure(status, &text)))
    }
}

/// The error of an unsuccessful answer: its `Status`, or the best that can be said without one.
pub fn failure(status: http::StatusCode, body: &[u8]) -> ApiError {
    if let Some(error) = serde_json::from_slice(body).ok().as_ref().and_then(ApiError::from_value) {
        return error;
    }
    let reason = match status.as_u16() {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        _ => "Unknown",
    };
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    let message = match (status.as_u16(), text) {
        (404, "404 page not found") => "the server could not find the requested resource".to_owned(),
        (_, "") => format!("the server answered {status}"),
        (_, text) => text.to_owned(),
    };
    ApiError::new(status.as_u16(), reason, message)
}

/// `?a=b&c=d` of the pairs that have a value.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        out.push(if out.is_empty() { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        encode(&mut out, value);
    }
    out
}

/// `text` with everything percent-encoded but what RFC 3986 calls unreserved.
pub fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    encode(&mut out, text);
    out
}

fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte.into());
        } else {
            write!(out, "%{byte:02X}").expect("a String takes everything");
        }
    }
}

/// The path of a resource, in a namespace where there is one.
pub(crate) fn resource_path(resource: &Gvr, namespace: &str) -> String {
    let mut path = resource.root_path();
    if !namespace.is_empty() {
        path.push_str("/namespaces/");
        encode(&mut path, namespace);
    }
    path.push('/');
    path.push_str(&resource.resource);
    path
}

/// One kind, in one namespace or in all. Failures of the server are [`crate::Error::Api`].
pub struct Api<K> {
    client: Client,
    namespace: String,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Api<K> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), namespace: self.namespace.clone(), kind: PhantomData }
    }
}

#[derive(Deserialize)]
struct Items<K> {
    #[serde(default = "Vec::new")]
    items: Vec<K>,
}

impl<K> Api<K>
where
    K: Resource + Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned,
{
    fn collection(&self, namespace: &str) -> String {
        resource_path(&Gvr::of::<K>(), namespace)
    }

    /// The path of one object; `subresource` may be empty.
    fn path(&self, namespace: &str, name: &str, subresource: &str) -> Result<String> {
        if name.is_empty() {
            return Err(Error::Config(format!("a {} without a name can't be asked for", K::KIND)));
        }
        let mut path = self.collection(namespace);
        path.push('/');
        encode(&mut path, name);
        if !subresource.is_empty() {
            path.push('/');
            path.push_str(subresource);
        }
        Ok(path)
    }

    /// Where an object belongs: in the namespace of this handle, or its own where this one is for all.
    fn namespace_of<'a>(&'a self, object: &'a K) -> &'a str {
        if self.namespace.is_empty() {
            object.metadata().namespace.as_deref().unwrap_or_default()
        } else {
            &self.namespace
        }
    }

    fn encode(object: &K) -> Result<Option<Bytes>> {
        let bytes = serde_json::to_vec(object).map_err(|e| Error::Config(format!("encode {}: {e}", K::KIND)))?;
        Ok(Some(bytes.into()))
    }

    pub async fn get(&self, name: &str) -> Result<K> {
        self.client.call(Method::GET, &self.path(&self.namespace, name, "")?, None).await
    }

    pub async fn list(&self, options: &ListOptions) -> Result<Vec<K>> {
        let path = self.collection(&self.namespace) + &options.query();
        let items: Items<K> = self.client.call(Method::GET, &path, None).await?;
        Ok(items.items)
    }

    pub async fn create(&self, object: &K) -> Result<K> {
        let path = self.collection(self.namespace_of(object));
        self.client.call_raw(Method::POST, &path, "application/json", Self::encode(object)?).await
    }

    pub async fn update(&self, object: &K) -> Result<K> {
        self.put(object, "").await
    }

    /// PUT on the `status` subresource.
    pub async fn update_status(&self, object: &K) -> Result<K> {
        self.put(object, "status").await
    }

    async fn put(&self, object: &K, subresource: &str) -> Result<K> {
        let name = object.metadata().name.as_deref().unwrap_or_default();
        let path = self.path(self.namespace_of(object), name, subresource)?;
        self.client.call_raw(Method::PUT, &path, "application/json", Self::encode(object)?).await
    }

    pub async fn patch(&self, name: &str, kind: PatchKind, patch: &Value) -> Result<K> {
        self.patch_subresource(name, "", kind, patch).await
    }

    pub async fn patch_status(&self, name: &str, kind: PatchKind, patch: &Value) -> Result<K> {
        self.patch_subresource(name, "status", kind, patch).await
    }

    /// PATCH of the object, or of a subresource where `subresource` is not empty. An apply patch names
    /// `skiff` as its field manager.
    pub async fn patch_subresource(&self, name: &str, subresource: &str, kind: PatchKind, patch: &Value) -> Result<K> {
        let mut path = self.path(&self.namespace, name, subresource)?;
        if kind == PatchKind::Apply {
            path.push_str("?fieldManager=skiff&force=true");
        }
        let body = serde_json::to_vec(patch).expect("a JSON value always encodes");
        self.client.call_raw(Method::PATCH, &path, kind.content_type(), Some(body.into())).await
    }

    pub async fn delete(&self, name: &str, options: &DeleteOptions) -> Result<()> {
        let path = self.path(&self.namespace, name, "")?;
        let body = serde_json::to_vec(&options.to_value()).expect("a JSON value always encodes");
        self.client.send(Method::DELETE, &path, "application/json", Some(body.into())).await.map(drop)
    }

    /// Deletes all the selected objects.
    pub async fn delete_collection(&self, selected: &ListOptions, options: &DeleteOptions) -> Result<()> {
        let path = self.collection(&self.namespace) + &selected.query();
        let body = serde_json::to_vec(&options.to_value()).expect("a JSON value always encodes");
        self.client.send(Method::DELETE, &path, "application/json", Some(body.into())).await.map(drop)
    }

    /// POST to a subresource such as `binding`.
    pub async fn create_subresource(&self, name: &str, subresource: &str, body: &Value) -> Result<Value> {
        self.client.call(Method::POST, &self.path(&self.namespace, name, subresource)?, Some(body)).await
    }

    /// GET of a subresource such as `scale`.
    pub async fn get_subresource(&self, name: &str, subresource: &str) -> Result<Value> {
        self.client.call(Method::GET, &self.path(&self.namespace, name, subresource)?, None).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeTransport;
    use k8s_openapi::api::core::v1::{Node, Pod};

    #[test]
    fn queries_hold_what_is_asked_encoded() {
        let check = |labels: &str, fields: &str, expect: &str| {
            let options = ListOptions { label_selector: labels.into(), field_selector: fields.into() };
            assert_eq!(options.query(), expect);
        };
        check("", "", "");
        check("a=b,c in (d, e)", "", "?labelSelector=a%3Db%2Cc%20in%20%28d%2C%20e%29");
        check("a", "spec.nodeName=n", "?labelSelector=a&fieldSelector=spec.nodeName%3Dn");
    }

    #[tokio::test]
    async fn asks_for_the_paths_of_upstream() {
        let fake = Arc::new(FakeTransport::new());
        let client = Client::new(fake.clone());
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "x"}, "spec": {"containers": []}}))
                .expect("a pod");
        let pods = client.all::<Pod>();
        pods.create(&pod).await.expect("created");
        client.namespaced::<Pod>("x").get("a").await.expect("found");
        pods.list(&ListOptions::default()).await.expect("listed");
        assert!(client.all::<Node>().get("n").await.expect_err("no such node").is_not_found());
        client.namespaced::<Pod>("x").delete("a", &DeleteOptions::default()).await.expect("deleted");
        assert_eq!(
            fake.requests(),
            [
                "POST /api/v1/namespaces/x/pods",
                "GET /api/v1/namespaces/x/pods/a",
                "GET /api/v1/pods",
                "GET /api/v1/nodes/n",
                "DELETE /api/v1/namespaces/x/pods/a",
            ]
        );
        assert!(client.all::<Node>().get("").await.is_err());
    }

    #[test]
    fn an_answer_without_a_status_still_tells_something() {
        let error = failure(http::StatusCode::BAD_GATEWAY, b"upstream is down\n");
        assert_eq!((error.code, error.message.as_str()), (502, "upstream is down"));
        let error = failure(http::StatusCode::NOT_FOUND, b"");
        assert!(error.is_not_found());
    }
}
