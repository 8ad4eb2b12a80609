//! A tiny API server in memory, for tests of what stands on a [`Transport`].
//!
//! It knows paths, revisions, uids, finalizers, propagation policies, the subresources status, binding
//! and finalize, merge patches, and as much discovery as it is told; nothing of kinds, defaults or validation.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use skiff_api::{ApiError, Gvr, Object, ObjectKey};
use tokio::sync::mpsc;

use crate::{Body, Feed, Result, Selector, Transport, Update};

/// See the module.
#[derive(Default)]
pub struct FakeTransport {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    revision: u64,
    /// By `<root path>/<resource>`, e.g. `/api/v1/pods`.
    collections: HashMap<String, Collection>,
    requests: Vec<String>,
    failures: Vec<(String, ApiError)>,
    /// Bodies of discovery documents by path.
    documents: HashMap<String, Value>,
}

/// One resource in discovery.
#[derive(Debug, Clone, Copy)]
pub struct Served {
    pub group: &'static str,
    pub version: &'static str,
    pub resource: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
}

#[derive(Default)]
struct Collection {
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    observers: Vec<mpsc::UnboundedSender<Update>>,
}

struct Target {
    collection: String,
    namespace: String,
    name: String,
    subresource: String,
}

impl FakeTransport {
    pub fn new() -> Self {
        Self::default()
    }

    /// The requests so far, as `METHOD path`.
    pub fn requests(&self) -> Vec<String> {
        self.lock().requests.clone()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.lock().requests.clear();
    }

    /// The next request that starts with `METHOD path` fails.
    pub fn fail_next(&self, request: &str, error: ApiError) {
        self.lock().failures.push((request.to_owned(), error));
    }

    /// Creates an object or takes the place of it, as if someone else had done it.
    pub fn put(&self, object: Value) {
        let collection = collection_of(&object);
        let mut state = self.lock();
        state.store(&collection, object);
    }

    /// What discovery tells from now on.
    pub fn serve(&self, served: &[Served]) {
        let mut documents = HashMap::new();
        let mut groups: BTreeMap<&str, &str> = BTreeMap::new();
        documents.insert("/api".to_owned(), json!({"kind": "APIVersions", "versions": ["v1"]}));
        for one in served {
            let gvr = Gvr::new(one.group, one.version, one.resource);
            let document =
                documents.entry(gvr.root_path()).or_insert_with(|| json!({"kind": "APIResourceList", "resources": []}));
            let resource = json!({"name": one.resource, "kind": one.kind, "namespaced": one.namespaced,
                "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]});
            document["resources"].as_array_mut().expect("made as a list").push(resource);
            if !one.group.is_empty() {
                groups.insert(one.group, one.version);
            }
        }
        let groups: Vec<Value> = groups
            .into_iter()
            .map(|(group, version)| {
                let version = json!({"groupVersion": format!("{group}/{version}"), "version": version});
                json!({"name": group, "versions": [version], "preferredVersion": version})
            })
            .collect();
        documents.insert("/apis".to_owned(), json!({"kind": "APIGroupList", "groups": groups}));
        self.lock().documents = documents;
    }

    /// Everything there is in a collection such as `/api/v1/pods`.
    pub fn objects(&self, collection: &str) -> Vec<Value> {
        let state = self.lock();
        let collection = state.collections.get(collection);
        collection.map(|c| c.objects.values().map(|object| object.value()).collect()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the fake")
    }
}

impl State {
    fn store(&mut self, collection: &str, mut object: Value) -> Value {
        self.revision += 1;
        let revision = self.revision;
        let meta = object["metadata"].as_object_mut().expect("an object has metadata");
        meta.remove("resourceVersion");
        meta.entry("uid").or_insert_with(|| json!(format!("uid-{revision}")));
        meta.entry("creationTimestamp").or_insert_with(|| json!("2024-01-01T00:00:00Z"));
        let object = Object::parse(Object::canonical(&object), revision).expect("a test gives whole objects");
        let object = Arc::new(object);
        let value = object.value();
        let collection = self.collections.entry(collection.to_owned()).or_default();
        collection.objects.insert(object.key(), object.clone());
        collection.tell(&Update::Put(object));
        value
    }

    fn remove(&mut self, collection: &str, key: &ObjectKey) {
        if let Some(collection) = self.collections.get_mut(collection)
            && let Some(object) = collection.objects.remove(key)
        {
            collection.tell(&Update::Delete(object));
        }
    }

    fn answer(&mut self, method: &Method, target: &Target, body: &Value) -> Result<Value, ApiError> {
        let key = ObjectKey::new(&target.namespace, &target.name);
        let resource = target.collection.rsplit('/').next().unwrap_or_default();
        let missing = || ApiError::not_found("", resource, &target.name);
        let old = self.collections.get(&target.collection).and_then(|c| c.objects.get(&key)).map(|o| o.value());
        match (method.as_str(), target.name.is_empty(), target.subresource.as_str()) {
            ("GET", true, _) => {
                let objects = self.collections.get(&target.collection).map(|c| &c.objects);
                let items: Vec<Value> = objects
                    .into_iter()
                    .flatten()
                    .filter(|(key, _)| target.namespace.is_empty() || *key.namespace == *target.namespace)
                    .map(|(_, object)| object.value())
                    .collect();
                Ok(json!({"kind": "List", "metadata": {"resourceVersion": self.revision.to_string()}, "items": items}))
            }
            ("GET", false, _) => old.ok_or_else(missing),
            ("POST", true, _) => self.create(target, resource, body.clone()),
            ("POST", false, "binding") => {
                let mut pod = old.ok_or_else(missing)?;
                pod["spec"]["nodeName"] = body["target"]["name"].clone();
                self.store(&target.collection, pod);
                Ok(json!({"kind": "Status", "status": "Success"}))
            }
            ("PUT" | "PATCH", false, subresource) => {
                let old = old.ok_or_else(missing)?;
                let asked = &body["metadata"]["resourceVersion"];
                if asked.is_string() && *asked != old["metadata"]["resourceVersion"] {
                    return Err(ApiError::conflict("", resource, &target.name, "the object has been modified"));
                }
                let mut new = if method == Method::PUT { body.clone() } else { merged(&old, body) };
                if subresource == "finalize" {
                    let finalizers = new["spec"]["finalizers"].take();
                    new = old;
                    new["spec"]["finalizers"] = finalizers;
                } else if subresource == "status" {
                    let status = new["status"].take();
                    new = old;
                    new["status"] = status;
                }
                Ok(self.settle(&target.collection, &key, new))
            }
            ("DELETE", false, _) => {
                let mut old = old.ok_or_else(missing)?;
                let uid = &body["preconditions"]["uid"];
                if uid.is_string() && *uid != old["metadata"]["uid"] {
                    return Err(ApiError::conflict("", resource, &target.name, "the UID is another"));
                }
                let finalizer = match body["propagationPolicy"].as_str() {
                    Some("Foreground") => Some("foregroundDeletion"),
                    Some("Orphan") => Some("orphan"),
                    _ => None,
                };
                if let Some(finalizer) = finalizer {
                    let mut finalizers = old["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
                    finalizers.push(json!(finalizer));
                    old["metadata"]["finalizers"] = json!(finalizers);
                }
                old["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
                Ok(self.settle(&target.collection, &key, old))
            }
            ("DELETE", true, _) => {
                let objects = self.collections.get(&target.collection).map(|c| &c.objects);
                let keys: Vec<ObjectKey> = objects
                    .into_iter()
                    .flat_map(BTreeMap::keys)
                    .filter(|key| *key.namespace == *target.namespace)
                    .cloned()
                    .collect();
                for key in keys {
                    let target = Target {
                        collection: target.collection.clone(),
                        namespace: key.namespace.to_string(),
                        name: key.name.to_string(),
                        subresource: String::new(),
                    };
                    self.answer(method, &target, body)?;
                }
                Ok(json!({"kind": "Status", "status": "Success"}))
            }
            _ => Err(ApiError::new(405, "MethodNotAllowed", format!("the fake knows no {method} here"))),
        }
    }

    fn create(&mut self, target: &Target, resource: &str, mut object: Value) -> Result<Value, ApiError> {
        if !target.namespace.is_empty() {
            object["metadata"]["namespace"] = json!(target.namespace);
        }
        if object["metadata"]["name"].as_str().unwrap_or_default().is_empty() {
            let prefix = object["metadata"]["generateName"].as_str().unwrap_or_default();
            object["metadata"]["name"] = json!(format!("{prefix}{:05}", self.revision + 1));
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = ObjectKey::new(&target.namespace, &name);
        if self.collections.get(&target.collection).is_some_and(|c| c.objects.contains_key(&key)) {
            return Err(ApiError::already_exists("", resource, &name));
        }
        Ok(self.store(&target.collection, object))
    }

    /// Stores what is left of an object, or removes one that is deleted and has no finalizer.
    fn settle(&mut self, collection: &str, key: &ObjectKey, object: Value) -> Value {
        let count = |list: &Value| list.as_array().map_or(0, Vec::len);
        let finalizers = count(&object["metadata"]["finalizers"]) + count(&object["spec"]["finalizers"]);
        if object["metadata"]["deletionTimestamp"].is_string() && finalizers == 0 {
            self.remove(collection, key);
            return object;
        }
        self.store(collection, object)
    }
}

impl Collection {
    fn tell(&mut self, update: &Update) {
        self.observers.retain(|observer| observer.send(update.clone()).is_ok());
    }
}

#[async_trait]
impl Transport for FakeTransport {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let line = format!("{} {}", request.method(), request.uri().path());
        let mut state = self.lock();
        state.requests.push(line.clone());
        let failing = state.failures.iter().position(|(start, _)| line.starts_with(start));
        let answer = match failing {
            Some(at) => Err(state.failures.remove(at).1),
            None => {
                let path = request.uri().path();
                let body = serde_json::from_slice(request.body()).unwrap_or(Value::Null);
                match state.documents.get(path) {
                    Some(document) => Ok(document.clone()),
                    None => state.answer(request.method(), &target(path), &body),
                }
            }
        };
        let (status, body) = match answer {
            Ok(value) => (StatusCode::OK, value),
            Err(error) => (StatusCode::from_u16(error.code).expect("a valid code"), error.to_value()),
        };
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = status;
        Ok(response)
    }

    async fn stream(&self, request: Request<Bytes>) -> Result<Response<Body>> {
        let answer = self.send(request).await?;
        Ok(answer.map(|body| futures::stream::once(async move { Ok(body) }).boxed()))
    }

    fn observe(&self, resource: &Gvr, selector: &Selector) -> Feed {
        let (tell, mut told) = mpsc::unbounded_channel();
        let mut state = self.lock();
        let collection =
            state.collections.entry(format!("{}/{}", resource.root_path(), resource.resource)).or_default();
        let namespace = selector.namespace.clone();
        let chosen = move |object: &Arc<Object>| namespace.is_empty() || *object.meta.namespace == *namespace;
        let now = collection.objects.values().filter(|object| chosen(object)).cloned().collect();
        tell.send(Update::Replace(now)).expect("the receiver is held here");
        collection.observers.push(tell);
        let updates = futures::stream::poll_fn(move |context| told.poll_recv(context));
        updates
            .filter(move |update| {
                std::future::ready(match update {
                    Update::Replace(_) => true,
                    Update::Put(object) | Update::Delete(object) => chosen(object),
                })
            })
            .boxed()
    }
}

fn collection_of(object: &Value) -> String {
    let api_version = object["apiVersion"].as_str().expect("an object has an apiVersion");
    let kind = object["kind"].as_str().expect("an object has a kind").to_lowercase();
    let plural = match kind.as_str() {
        "endpoints" => kind,
        k if k.ends_with('s') => format!("{k}es"),
        k if k.ends_with('y') => format!("{}ies", &k[..k.len() - 1]),
        k => format!("{k}s"),
    };
    let root = if api_version.contains('/') { "/apis" } else { "/api" };
    format!("{root}/{api_version}/{plural}")
}

fn target(path: &str) -> Target {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let root_len = if parts[0] == "api" { 2 } else { 3 };
    let (root, mut rest) = parts.split_at(root_len.min(parts.len()));
    let mut namespace = String::new();
    let of_namespace = matches!(rest.get(2), None | Some(&"status" | &"finalize"));
    if rest.first() == Some(&"namespaces") && !of_namespace {
        rest[1].clone_into(&mut namespace);
        rest = &rest[2..];
    }
    let part = |at: usize| rest.get(at).map(|part| (*part).to_owned()).unwrap_or_default();
    Target { collection: format!("/{}/{}", root.join("/"), part(0)), namespace, name: part(1), subresource: part(2) }
}

/// RFC 7386.
fn merged(old: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut new = old.as_object().cloned().unwrap_or_default();
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().cloned().unwrap_or_default();
            if let Some(list) = new.get_mut(list).and_then(Value::as_array_mut) {
                list.retain(|value| !gone.contains(value));
            }
        } else if value.is_null() {
            new.remove(name);
        } else {
            let old = new.get(name).unwrap_or(&Value::Null);
            let value = merged(old, value);
            new.insert(name.clone(), value);
        }
    }
    Value::Object(new)
}
