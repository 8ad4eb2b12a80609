//! Who controls an object, and which objects a controller may claim.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::{Metadata, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use skiff_api::selector::LabelSelector;
use skiff_client::{Client, Error, PatchKind, Result};

/// The reference to the one owner that controls an object.
pub fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|reference| reference.controller == Some(true))
}

/// The reference that makes `owner` the controller of what carries it.
pub fn reference_to<K: Resource + Metadata<Ty = ObjectMeta>>(owner: &K) -> OwnerReference {
    let meta = owner.metadata();
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The uid of the controller, for indexes.
pub fn controller_uid<K: Metadata<Ty = ObjectMeta>>(object: &K) -> Vec<String> {
    controller(object.metadata()).map(|reference| reference.uid.clone()).into_iter().collect()
}

/// The namespace of an object without a controller, for indexes.
pub fn orphan_namespace<K: Metadata<Ty = ObjectMeta>>(object: &K) -> Vec<String> {
    let meta = object.metadata();
    if controller(meta).is_some() { Vec::new() } else { meta.namespace.clone().into_iter().collect() }
}

/// What to do with an object that may belong to an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is ours, and stays so.
    Keep,
    /// It is nobody's, and matches.
    Adopt,
    /// It is ours, and no longer matches.
    Release,
    /// It is none of our business.
    Ignore,
}

/// `leaving`: the owner is being deleted, and neither adopts nor releases.
pub fn plan_claim(owner_uid: &str, leaving: bool, selector: &LabelSelector, object: &ObjectMeta) -> Claim {
    let matches = match &object.labels {
        Some(labels) => selector.matches(labels),
        None => selector.matches_with(|_| None),
    };
    match controller(object) {
        Some(reference) if reference.uid != owner_uid => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if leaving => Claim::Ignore,
        Some(_) => Claim::Release,
        None if leaving || !matches || object.deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// Claims what belongs to the owner of all the candidates: those that carry its reference, and orphans.
pub async fn claim<O, K>(
    client: &Client,
    owner: &O,
    selector: &LabelSelector,
    candidates: Vec<Arc<K>>,
) -> Result<Vec<Arc<K>>>
where
    O: Resource + Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned,
    K: Resource + Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned,
{
    let meta = owner.metadata();
    let uid = meta.uid.as_deref().unwrap_or_default();
    let leaving = meta.deletion_timestamp.is_some();
    let mut mine = Vec::with_capacity(candidates.len());
    let mut may_adopt = None;
    for object in candidates {
        match plan_claim(uid, leaving, selector, object.metadata()) {
            Claim::Keep => mine.push(object),
            Claim::Ignore => {}
            Claim::Release => release::<K>(client, uid, object.metadata()).await?,
            Claim::Adopt => {
                if may_adopt.is_none() {
                    may_adopt = Some(is_still_there(client, owner).await?);
                }
                if may_adopt == Some(true)
                    && let Some(adopted) = adopt::<O, K>(client, owner, object.metadata()).await?
                {
                    mine.push(Arc::new(adopted));
                }
            }
        }
    }
    Ok(mine)
}

/// The cache may lag: an owner that is gone, or being deleted, must adopt nothing.
async fn is_still_there<O>(client: &Client, owner: &O) -> Result<bool>
where
    O: Resource + Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned,
{
    let meta = owner.metadata();
    let owners = client.namespaced::<O>(meta.namespace.as_deref().unwrap_or_default());
    match owners.get(meta.name.as_deref().unwrap_or_default()).await {
        Ok(fresh) => Ok(fresh.metadata().uid == meta.uid && fresh.metadata().deletion_timestamp.is_none()),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

async fn adopt<O, K>(client: &Client, owner: &O, meta: &ObjectMeta) -> Result<Option<K>>
where
    O: Resource + Metadata<Ty = ObjectMeta>,
    K: Resource + Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned,
{
    let patch = json!({"metadata": {"uid": meta.uid, "ownerReferences": [reference_to(owner)]}});
    let objects = client.namespaced::<K>(meta.namespace.as_deref().unwrap_or_default());
    match objects.patch(meta.name.as_deref().unwrap_or_default(), PatchKind::Strategic, &patch).await {
        Ok(adopted) => Ok(Some(adopted)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn release<K>(client: &Client, owner_uid: &str, meta: &ObjectMeta) -> Result<()>
where
    K: Resource + Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned,
{
    let patch = json!({"metadata": {"uid": meta.uid, "ownerReferences": [{"$patch": "delete", "uid": owner_uid}]}});
    let objects = client.namespaced::<K>(meta.namespace.as_deref().unwrap_or_default());
    match objects.patch(meta.name.as_deref().unwrap_or_default(), PatchKind::Strategic, &patch).await {
        Ok(_) => Ok(()),
        // It is gone, or another object has taken its name.
        Err(error) if error.is_not_found() || is_invalid(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_invalid(error: &Error) -> bool {
    matches!(error, Error::Api(error) if error.reason == "Invalid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_what_matches_and_is_nobody_elses() {
        let selector = LabelSelector::parse("app=a").expect("a selector");
        let check = |owner: Option<&str>, app: &str, deleted: bool, leaving: bool, expect: Claim| {
            let mut object = json!({"labels": {"app": app}});
            if let Some(uid) = owner {
                object["ownerReferences"] =
                    json!([{"apiVersion": "v1", "kind": "K", "name": "n", "uid": uid, "controller": true}]);
            }
            if deleted {
                object["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
            }
            let meta: ObjectMeta = serde_json::from_value(object.clone()).expect("metadata");
            assert_eq!(plan_claim("me", leaving, &selector, &meta), expect, "{object}");
        };
        check(Some("me"), "a", false, false, Claim::Keep);
        check(Some("me"), "b", false, false, Claim::Release);
        check(Some("me"), "b", false, true, Claim::Ignore);
        check(Some("other"), "a", false, false, Claim::Ignore);
        check(None, "a", false, false, Claim::Adopt);
        check(None, "a", true, false, Claim::Ignore);
        check(None, "a", false, true, Claim::Ignore);
        check(None, "b", false, false, Claim::Ignore);
    }
}
