//! What a cluster's own roles and bindings lack is given back to them at every start; what was added stays. Those whose
//! `autoupdate` annotation is `false` are left alone.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, Method, Uri};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use skiff_api::ApiError;

use super::defaults::{self, AUTOUPDATE};
use super::rule::missing;
use crate::auth::User;
use crate::call::Call;
use crate::error::Error;
use crate::server::Server;

/// Writes under way at a time: they share the log's flushes.
const AT_ONCE: usize = 64;

/// What becomes of an object that should be so.
#[derive(Debug, PartialEq)]
enum Action<K> {
    Nothing,
    Update(K),
    /// A binding's role can't be changed.
    Replace(K),
}

impl Server {
    /// Gives the cluster's own roles and bindings what they lack.
    pub(crate) async fn reconcile_roles(&self) -> Result<(), Error> {
        self.reconcile_all("clusterroles", defaults::cluster_roles(), plan_cluster_role).await?;
        self.reconcile_all("roles", defaults::roles(), |old, new| {
            let mut made = old.clone();
            let added = add_metadata(&mut made.metadata, &new.metadata) | add_rules(&mut made.rules, &new.rules);
            if added { Action::Update(made) } else { Action::Nothing }
        })
        .await?;
        self.reconcile_all("clusterrolebindings", defaults::cluster_role_bindings(), |old, new| {
            let mut made = old.clone();
            let added = add_metadata(&mut made.metadata, &new.metadata)
                | add_subjects(&mut made.subjects, new.subjects.as_deref().unwrap_or_default());
            bind(old.role_ref == new.role_ref, added, made, new)
        })
        .await?;
        self.reconcile_all("rolebindings", defaults::role_bindings(), |old, new| {
            let mut made = old.clone();
            let added = add_metadata(&mut made.metadata, &new.metadata)
                | add_subjects(&mut made.subjects, new.subjects.as_deref().unwrap_or_default());
            bind(old.role_ref == new.role_ref, added, made, new)
        })
        .await
    }

    async fn reconcile_all<K>(
        &self,
        resource: &str,
        wanted: Vec<K>,
        plan: impl Fn(&K, &K) -> Action<K>,
    ) -> Result<(), Error>
    where
        K: Resource + Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
    {
        let cache = self.resource(&format!("{}/{resource}", defaults::GROUP));
        let mut writes = Vec::new();
        for new in wanted {
            let meta = new.metadata();
            let (namespace, name) = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref());
            let name = name.unwrap_or_default();
            let base = format!("/apis/{}/v1", defaults::GROUP);
            let list = match namespace {
                "" => format!("{base}/{resource}"),
                namespace => format!("{base}/namespaces/{namespace}/{resource}"),
            };
            let one = format!("{list}/{name}");
            let old = cache.find(namespace, name).and_then(|object| object.typed::<K>().ok());
            let protected = |old: &K| {
                let annotations = old.metadata().annotations.as_ref();
                annotations.and_then(|a| a.get(AUTOUPDATE)).is_some_and(|value| value == "false")
            };
            match old {
                None => writes.push((one, vec![(Method::POST, list, encode(&new))])),
                Some(old) if protected(&old) => {}
                Some(old) => match plan(&old, &new) {
                    Action::Nothing => {}
                    Action::Update(made) => writes.push((one.clone(), vec![(Method::PUT, one, encode(&made))])),
                    Action::Replace(made) => writes
                        .push((one.clone(), vec![(Method::DELETE, one, None), (Method::POST, list, encode(&made))])),
                },
            }
        }
        stream::iter(writes)
            .map(|(what, steps)| async move {
                for (method, path, body) in steps {
                    match self.ask_as_itself(method, &path, body.as_ref()).await {
                        Err(error) if !error.is_already_exists() && !error.is_not_found() => {
                            return Err(Error::Bootstrap { what, error });
                        }
                        _ => {}
                    }
                }
                Ok(())
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await
    }

    /// A request by the API server to itself.
    pub(crate) async fn ask_as_itself(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(), ApiError> {
        let user = Arc::new(User::new("system:apiserver", &["system:masters", "system:authenticated"]));
        let uri: Uri = path.parse().expect("the paths here are constants with names in them");
        let body = body.map(|b| b.to_string().into()).unwrap_or_default();
        let agent = (http::header::USER_AGENT, http::HeaderValue::from_static("kube-apiserver"));
        let reply = self.handle(&Call::new(method, &uri, HeaderMap::from_iter([agent]), body, user)).await;
        if reply.status.is_success() {
            return Ok(());
        }
        let (status, _, body) = reply.into_whole().await.map_err(ApiError::internal)?;
        let error = serde_json::from_slice(&body).ok().as_ref().and_then(ApiError::from_value);
        Err(error.unwrap_or_else(|| ApiError::internal(format!("status {status}"))))
    }
}

fn encode<K: Resource + Serialize>(object: &K) -> Option<Value> {
    Some(serde_json::to_value(object).expect("an object of ours always encodes"))
}

fn plan_cluster_role(old: &ClusterRole, new: &ClusterRole) -> Action<ClusterRole> {
    let mut made = old.clone();
    let mut added = add_metadata(&mut made.metadata, &new.metadata);
    match &new.aggregation_rule {
        None => added |= add_rules(&mut made.rules, &new.rules),
        Some(rule) => {
            let selectors = &mut made.aggregation_rule.get_or_insert_default().cluster_role_selectors;
            let selectors = selectors.get_or_insert_default();
            for selector in rule.cluster_role_selectors.iter().flatten() {
                if !selectors.contains(selector) {
                    selectors.push(selector.clone());
                    added = true;
                }
            }
        }
    }
    if added { Action::Update(made) } else { Action::Nothing }
}

fn bind<K: Clone>(same_role: bool, added: bool, made: K, new: &K) -> Action<K> {
    match (same_role, added) {
        (false, _) => Action::Replace(new.clone()),
        (true, true) => Action::Update(made),
        (true, false) => Action::Nothing,
    }
}

/// Labels and annotations that are not there; those that are there stay.
fn add_metadata(made: &mut ObjectMeta, wanted: &ObjectMeta) -> bool {
    let mut added = false;
    for (made, wanted) in [(&mut made.labels, &wanted.labels), (&mut made.annotations, &wanted.annotations)] {
        for (key, value) in wanted.iter().flatten() {
            let made = made.get_or_insert_default();
            if !made.contains_key(key) {
                made.insert(key.clone(), value.clone());
                added = true;
            }
        }
    }
    added
}

fn add_rules(made: &mut Option<Vec<PolicyRule>>, wanted: &Option<Vec<PolicyRule>>) -> bool {
    let made = made.get_or_insert_default();
    let lacking = missing(&made.iter().collect::<Vec<_>>(), &wanted.iter().flatten().collect::<Vec<_>>());
    let added = !lacking.is_empty();
    made.extend(super::rule::compact(lacking));
    added
}

fn add_subjects(made: &mut Option<Vec<Subject>>, wanted: &[Subject]) -> bool {
    let lacking: Vec<Subject> =
        wanted.iter().filter(|s| !made.iter().flatten().any(|have| have == *s)).cloned().collect();
    let added = !lacking.is_empty();
    if added {
        made.get_or_insert_default().extend(lacking);
    }
    added
}
