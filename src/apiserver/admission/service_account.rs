//! ServiceAccount: every pod runs as one, and finds its token where client libraries look for it.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use serde_json::{Value, json};
use skiff_api::{ApiError, Object};

use super::request::{Operation, Request};
use crate::auth::{User, names_in};
use crate::meta;
use crate::server::Server;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// The lifetime that upstream's volumes ask for: an hour and the seconds that mark such a token.
const TOKEN_SECONDS: i64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";
/// On an account: its pods use no secrets but those that it names.
const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";
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
    let account = existing(server, &namespace, &account_name, &name).await?;
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

/// Refuses a pod that uses secrets that are not its account's, where the account says that this is to be so. Webhooks had
/// their say by then.
pub(super) async fn check(request: &Request<'_>, pod: &Value) -> Result<(), ApiError> {
    let of_new = request.is(Operation::Create, "", "pods") && pod["metadata"]["annotations"].get(MIRROR).is_none();
    let of_ephemeral = request.operation == Operation::Update
        && request.row.is("", "pods")
        && request.subresource == "ephemeralcontainers";
    if !of_new && !of_ephemeral {
        return Ok(());
    }
    let namespace = &*request.key.namespace;
    let name = meta::text(pod, "name");
    let account = match pod["spec"]["serviceAccountName"].as_str().unwrap_or_default() {
        "" => return Err(request.forbidden(&format!("no service account specified for pod {namespace}/{name}"))),
        account => existing(request.server, namespace, account, name).await?,
    };
    let enforced = account["metadata"]["annotations"][ENFORCE].as_str().is_some_and(is_true);
    match if enforced { unmountable(&account, pod, of_ephemeral) } else { None } {
        Some(why) => Err(request.forbidden(&why)),
        None => Ok(()),
    }
}

/// Go's `ParseBool`.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "TRUE" | "true" | "True")
}

/// The first secret that the pod may not use.
fn unmountable(account: &Value, pod: &Value, ephemeral: bool) -> Option<String> {
    fn items(list: &Value) -> impl Iterator<Item = &Value> {
        list.as_array().into_iter().flatten()
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let among = |list: &str, name: &str| items(&account[list]).any(|known| known["name"] == name);
    let of = text(&account["metadata"]["name"]);
    let no_secret = format!("is not allowed because service account {of} does not reference that secret");
    let spec = &pod["spec"];
    let lists: &[(&str, &str)] = match ephemeral {
        true => &[("ephemeralContainers", "ephemeral container")],
        false => &[("initContainers", "init container"), ("containers", "container")],
    };
    let in_containers = || {
        lists.iter().flat_map(|(list, what)| items(&spec[*list]).map(move |container| (*what, container))).find_map(
            |(what, container)| {
                let named = format!("{what} {}", text(&container["name"]));
                let unknown = |reference: &Value| {
                    let name = text(&reference["name"]);
                    (reference.is_object() && !among("secrets", &name)).then_some(name)
                };
                let in_env = items(&container["env"]).find_map(|variable| {
                    let secret = unknown(&variable["valueFrom"]["secretKeyRef"])?;
                    let variable = text(&variable["name"]);
                    Some(format!(
                        "{named} with envVar {variable} referencing secret.secretName=\"{secret}\" {no_secret}"
                    ))
                });
                in_env.or_else(|| {
                    let secret = items(&container["envFrom"]).find_map(|from| unknown(&from["secretRef"]))?;
                    Some(format!("{named} with envFrom referencing secret.secretName=\"{secret}\" {no_secret}"))
                })
            },
        )
    };
    if ephemeral {
        return in_containers();
    }
    let mut volumes = items(&spec["volumes"]).map(|volume| &volume["secret"]).filter(|secret| secret.is_object());
    let in_volumes = volumes.find_map(|secret| {
        let name = text(&secret["secretName"]);
        (!among("secrets", &name)).then(|| format!("volume with secret.secretName=\"{name}\" {no_secret}"))
    });
    in_volumes.or_else(in_containers).or_else(|| {
        items(&spec["imagePullSecrets"]).enumerate().find_map(|(at, secret)| {
            let name = text(&secret["name"]);
            (!among("imagePullSecrets", &name)).then(|| {
                format!(
                    "imagePullSecrets[{at}].name=\"{name}\" is not allowed because service account {of} does not \
                     reference that imagePullSecret"
                )
            })
        })
    })
}

/// The account of a pod.
async fn existing(server: &Server, namespace: &str, name: &str, pod: &str) -> Result<Value, ApiError> {
    match find(server, namespace, name).await? {
        Some(account) => Ok(account.value()),
        None => {
            let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
            Err(ApiError::forbidden("", "pods", pod, &why))
        }
    }
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
    if !names_in(pod).0.is_empty() {
        return forbid("a mirror pod may not reference secrets");
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
    fn secrets_that_are_not_the_accounts() {
        let account =
            json!({"metadata": {"name": "a"}, "secrets": [{"name": "own"}], "imagePullSecrets": [{"name": "pull"}]});
        let env = |secret: &str| json!([{"name": "E", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}]);
        let check = |spec: Value, ephemeral: bool, expect: &str| {
            let told = unmountable(&account, &json!({"spec": spec}), ephemeral).unwrap_or_default();
            assert_eq!(told, expect, "{spec}");
        };
        let tail = "is not allowed because service account a does not reference that secret";
        check(
            json!({"volumes": [{"name": "v", "secret": {"secretName": "own"}}, {"name": "e", "emptyDir": {}}],
                "containers": [{"name": "c", "env": env("own"), "envFrom": [{"configMapRef": {"name": "m"}}]}],
                "imagePullSecrets": [{"name": "pull"}]}),
            false,
            "",
        );
        check(
            json!({"volumes": [{"name": "v", "secret": {"secretName": "x"}}]}),
            false,
            &format!("volume with secret.secretName=\"x\" {tail}"),
        );
        check(
            json!({"initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "x"}}]}]}),
            false,
            &format!("init container i with envFrom referencing secret.secretName=\"x\" {tail}"),
        );
        check(
            json!({"containers": [{"name": "c", "env": env("x")}]}),
            false,
            &format!("container c with envVar E referencing secret.secretName=\"x\" {tail}"),
        );
        check(
            json!({"imagePullSecrets": [{"name": "pull"}, {"name": "x"}]}),
            false,
            "imagePullSecrets[1].name=\"x\" is not allowed because service account a does not reference that imagePullSecret",
        );
        let both = json!({"containers": [{"name": "c", "env": env("x")}], "ephemeralContainers": [{"name": "d", "env": env("x")}]});
        check(both, true, &format!("ephemeral container d with envVar E referencing secret.secretName=\"x\" {tail}"));
        assert_eq!(["true", "1", "T", "yes", "false", ""].map(is_true), [true, true, true, false, false, false]);
    }

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
