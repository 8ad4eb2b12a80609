//! ServiceAccount: every pod runs as one, and finds its token where client libraries look for it.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use serde_json::{Value, json};
use skiff_api::{ApiError, Object};

use crate::auth::User;
use crate::meta;
use crate::server::Server;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// The lifetime that upstream's volumes ask for: an hour and the seconds that mark such a token.
const TOKEN_SECONDS: i64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";
/// A namespace's default account is made by a controller, a moment after the namespace.
const DEFAULT_ACCOUNT_TRIES: u32 = 20;
const DEFAULT_ACCOUNT_WAIT: Duration = Duration::from_millis(50);

pub(super) async fn create(server: &Server, user: &User, pod: &mut Value) -> Result<(), ApiError> {
    let name = meta::text(pod, "name").to_owned();
    if pod["metadata"]["annotations"].get(MIRROR).is_some() {
        return check_mirror(user, pod, &name);
    }
    let account_name = match pod["spec"]["serviceAccountName"].as_str() {
        None | Some("") => "default".to_owned(),
        Some(given) => given.to_owned(),
    };
    pod["spec"]["serviceAccountName"] = account_name.as_str().into();
    pod["spec"]["serviceAccount"] = account_name.as_str().into();
    let namespace = meta::text(pod, "namespace").to_owned();
    let Some(account) = find(server, &namespace, &account_name).await? else {
        let why = format!(
            "error looking up service account {namespace}/{account_name}: serviceaccount {account_name:?} not found"
        );
        return Err(ApiError::forbidden("", "pods", &name, &why));
    };
    let account = account.value();
    if pod["spec"]["imagePullSecrets"].as_array().is_none_or(Vec::is_empty)
        && account["imagePullSecrets"].as_array().is_some_and(|s| !s.is_empty())
    {
        pod["spec"]["imagePullSecrets"] = account["imagePullSecrets"].clone();
    }
    let wanted = pod["spec"]["automountServiceAccountToken"].as_bool();
    if wanted.or(account["automountServiceAccountToken"].as_bool()).unwrap_or(true) {
        mount_token(pod);
    }
    Ok(())
}

async fn find(server: &Server, namespace: &str, name: &str) -> Result<Option<Arc<Object>>, ApiError> {
    let accounts = server.resource("serviceaccounts");
    if let Some(found) = accounts.find(namespace, name) {
        return Ok(Some(found));
    }
    server.cache.fresh().await?;
    let tries = if name == "default" { DEFAULT_ACCOUNT_TRIES } else { 1 };
    for attempt in 0..tries {
        if let Some(found) = accounts.find(namespace, name) {
            return Ok(Some(found));
        }
        if attempt + 1 < tries {
            tokio::time::sleep(DEFAULT_ACCOUNT_WAIT).await;
        }
    }
    Ok(None)
}

/// A mirror of a static pod has no account: its kubelet ran it before it asked anyone.
fn check_mirror(user: &User, pod: &Value, name: &str) -> Result<(), ApiError> {
    let forbid = |why: &str| Err(ApiError::forbidden("", "pods", name, why));
    if !user.is_in("system:nodes") && !user.is_in("system:masters") {
        return forbid("only nodes may create mirror pods");
    }
    if pod["spec"]["serviceAccountName"].as_str().is_some_and(|s| !s.is_empty()) {
        return forbid("a mirror pod may not reference service accounts");
    }
    let projects_token = |volume: &Value| {
        volume["projected"]["sources"].as_array().into_iter().flatten().any(|s| s.get("serviceAccountToken").is_some())
    };
    if pod["spec"]["volumes"].as_array().into_iter().flatten().any(projects_token) {
        return forbid("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

fn mount_token(pod: &mut Value) {
    let has_volume = |name: &str, pod: &Value| {
        pod["spec"]["volumes"].as_array().into_iter().flatten().any(|v| v["name"].as_str() == Some(name))
    };
    let existing = pod["spec"]["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| v["name"].as_str())
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let volume = existing.unwrap_or_else(|| {
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        let mut random = rand::rng();
        let tail = (0..5).map(|_| LETTERS[random.random_range(0..LETTERS.len())] as char);
        VOLUME_PREFIX.chars().chain(tail).collect()
    });
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
            if mounts.iter().any(|m| m["mountPath"] == MOUNT_PATH) {
                continue;
            }
            let mut mounts = mounts;
            mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
            container["volumeMounts"] = mounts.into();
            mounted = true;
        }
    }
    if mounted && !has_volume(&volume, pod) {
        let mut volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
        volumes.push(token_volume(&volume));
        pod["spec"]["volumes"] = volumes.into();
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_the_token_where_nothing_is() {
        let mut pod = json!({"spec": {"containers": [
            {"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]},
        ]}});
        mount_token(&mut pod);
        let volume = pod["spec"]["volumes"][0]["name"].as_str().expect("a volume").to_owned();
        assert!(volume.starts_with(VOLUME_PREFIX) && volume.len() == VOLUME_PREFIX.len() + 5);
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], volume.as_str());
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().map(Vec::len), Some(1));
        assert!(pod["spec"].get("initContainers").is_none());
        let once = pod.clone();
        mount_token(&mut pod);
        assert_eq!(pod, once);

        let mut own = json!({"spec": {"containers": [{"volumeMounts": [{"name": "o", "mountPath": MOUNT_PATH}]}]}});
        mount_token(&mut own);
        assert!(own["spec"].get("volumes").is_none());
    }
}
