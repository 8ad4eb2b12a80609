//! Signs what strangers read of the cluster (`kube-public/cluster-info`) with the bootstrap tokens that may: who holds one
//! of them knows that it is true.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use skiff_api::ObjectKey;
use skiff_client::{Client, Lister, Next, Queue, Reconciler, Result, Selector};

use crate::token_cleaner::{self, time_left};
use crate::{Context, drive};

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
/// What is signed.
const TEXT: &str = "kubeconfig";
/// Of the keys of signatures; the token's id follows.
const PREFIX: &str = "jws-kubeconfig-";

pub fn start(context: &Context) {
    let secrets = context.informers.selected::<Secret>(token_cleaner::selector());
    let fields = format!("metadata.name={NAME}");
    let selector = Selector { namespace: NAMESPACE.to_owned(), fields, ..Selector::default() };
    let maps = context.informers.selected::<ConfigMap>(selector);
    let queue = Queue::new(Signer::NAME);
    let adding = queue.clone();
    secrets.subscribe(move |_| adding.add(()));
    let adding = queue.clone();
    maps.subscribe(move |_| adding.add(()));
    let controller =
        Arc::new(Signer { client: context.client("bootstrap-signer"), secrets: secrets.clone(), maps: maps.clone() });
    drive(context, controller, queue, 1, async move {
        secrets.synced().await;
        maps.synced().await;
    });
}

struct Signer {
    client: Client,
    secrets: Lister<Secret>,
    maps: Lister<ConfigMap>,
}

impl Reconciler for Signer {
    const NAME: &'static str = "bootstrap-signer-controller";
    /// There is one map.
    type Key = ();

    async fn reconcile(&self, (): &()) -> Result<Next> {
        let Some(map) = self.maps.get(&ObjectKey::new(NAMESPACE, NAME)) else { return Ok(Next::Done) };
        let now = skiff_base::time::now();
        let secrets = self.secrets.list();
        if let Some(signed) = plan_signatures(&map, &secrets, now) {
            match self.client.namespaced::<ConfigMap>(NAMESPACE).update(&signed).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
        let ends = secrets.iter().filter_map(|secret| time_left(secret, now)).filter(|left| !left.is_zero());
        Ok(ends.min().map_or(Next::Done, Next::After))
    }
}

/// The map with the signatures of these tokens, if it has others.
fn plan_signatures(map: &ConfigMap, secrets: &[Arc<Secret>], now: Timestamp) -> Option<ConfigMap> {
    let data = map.data.as_ref()?;
    let text = data.get(TEXT)?;
    let mut wanted: BTreeMap<String, String> = data
        .iter()
        .filter(|(key, _)| !key.starts_with(PREFIX))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    for (id, secret) in secrets.iter().filter_map(|secret| signing_token(secret, now)) {
        wanted.insert(format!("{PREFIX}{id}"), skiff_pki::detached_signature(text, &id, &secret));
    }
    (wanted != *data).then(|| ConfigMap { data: Some(wanted), ..map.clone() })
}

/// Id and secret of a token that signs.
fn signing_token(secret: &Secret, now: Timestamp) -> Option<(String, String)> {
    let text = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.clone());
        String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default()
    };
    let (id, token) = (text("token-id"), text("token-secret"));
    let named = secret.metadata.name.as_deref().and_then(|name| name.strip_prefix("bootstrap-token-"));
    let good = named == Some(id.as_str())
        && !id.is_empty()
        && !token.is_empty()
        && text("usage-bootstrap-signing") == "true"
        && time_left(secret, now).is_none_or(|left| !left.is_zero());
    good.then_some((id, token))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::Stage;

    fn token(id: &str, changes: &[(&str, &str)]) -> Value {
        let mut data = json!({"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true"});
        for (key, value) in changes {
            data[*key] = json!(value);
        }
        for value in data.as_object_mut().expect("an object").values_mut() {
            *value = base64::engine::general_purpose::STANDARD.encode(value.as_str().expect("text")).into();
        }
        json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token", "data": data,
            "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"}})
    }

    #[test]
    fn tokens_that_sign() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        for (id, changes, expect) in [
            ("abcdef", &[][..], true),
            ("abcdef", &[("expiration", "2026-01-02T00:00:00Z")], true),
            ("abcdef", &[("expiration", "2025-01-02T00:00:00Z")], false),
            ("abcdef", &[("usage-bootstrap-signing", "false")], false),
            ("abcdef", &[("token-id", "ghijkl")], false),
            ("abcdef", &[("token-secret", "")], false),
        ] {
            let secret = serde_json::from_value(token(id, changes)).expect("a secret");
            assert_eq!(signing_token(&secret, now).is_some(), expect, "{changes:?}");
        }
    }

    #[tokio::test]
    async fn the_map_has_the_signatures_of_the_tokens() {
        let stage = Stage::new();
        stage.put(token("abcdef", &[]));
        stage.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": NAMESPACE},
            "data": {"kubeconfig": "text", "jws-kubeconfig-ghijkl": "old", "other": "x"}}));
        super::start(&stage.context());
        let expect = |ids: &[&str]| {
            let mut data = json!({"kubeconfig": "text", "other": "x"});
            for id in ids {
                data[format!("{PREFIX}{id}")] = skiff_pki::detached_signature("text", id, "0123456789abcdef").into();
            }
            data
        };
        let has = |ids: &[&str]| {
            let wanted = expect(ids);
            move |fake: &skiff_client::fake::FakeTransport| fake.objects("/api/v1/configmaps")[0]["data"] == wanted
        };
        stage.until("it is signed", has(&["abcdef"])).await;
        stage.put(token("mnopqr", &[]));
        stage.until("it is signed by both", has(&["abcdef", "mnopqr"])).await;
        stage.delete("/api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef").await;
        stage.until("a signature goes", has(&["mnopqr"])).await;
        stage.end().await;
    }
}
