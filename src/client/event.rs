use k8s_openapi::Resource;
use k8s_openapi::api::core::v1::ObjectReference;

use crate::Client;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Normal,
    Warning,
}

/// Writes core/v1 Events as client-go's recorder does: in the background, equal ones counted up on one
/// object, spam limited per source and object. Losing one is logged, and fails nothing.
#[derive(Clone)]
pub struct EventRecorder {}

impl EventRecorder {
    /// `component` and `host` are the event's source, e.g. `kubelet` and the node's name.
    pub fn new(client: Client, scope: &skiff_base::Scope, component: &'static str, host: &str) -> Self {
        let _ = (client, scope, component, host);
        todo!("client helper")
    }

    /// About any object.
    pub fn record(&self, about: ObjectReference, kind: EventKind, reason: &str, message: impl Into<String>) {
        let _ = (about, kind, reason, message.into());
        todo!("client helper")
    }

    /// The reference to an object, for `record`.
    pub fn reference<K>(object: &K) -> ObjectReference
    where
        K: Resource + k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
    {
        let meta = object.metadata();
        ObjectReference {
            api_version: Some(K::API_VERSION.to_owned()),
            kind: Some(K::KIND.to_owned()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            ..ObjectReference::default()
        }
    }
}
