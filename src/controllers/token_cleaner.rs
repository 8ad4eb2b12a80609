//! Takes away the bootstrap tokens whose time is over.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use skiff_api::ObjectKey;
use skiff_client::{Change, Client, DeleteOptions, Lister, Next, Queue, Reconciler, Result, Selector};

use crate::{Context, drive};

const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAMESPACE: &str = "kube-system";

/// All bootstrap tokens.
pub fn selector() -> Selector {
    Selector { namespace: NAMESPACE.to_owned(), fields: format!("type={TYPE}"), ..Selector::default() }
}

pub fn start(context: &Context) {
    let secrets = context.informers.selected::<Secret>(selector());
    let queue = Queue::new(Cleaner::NAME);
    let adding = queue.clone();
    secrets.subscribe(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            adding.add(ObjectKey::of(&**change.object()));
        }
    });
    let controller = Arc::new(Cleaner { client: context.client("token-cleaner"), secrets: secrets.clone() });
    drive(context, controller, queue, 1, async move { secrets.synced().await });
}

struct Cleaner {
    client: Client,
    secrets: Lister<Secret>,
}

impl Reconciler for Cleaner {
    const NAME: &'static str = "token-cleaner-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(secret) = self.secrets.get(key) else { return Ok(Next::Done) };
        match time_left(&secret, skiff_base::time::now()) {
            None => Ok(Next::Done),
            Some(left) if !left.is_zero() => Ok(Next::After(left)),
            Some(_) => {
                let options = DeleteOptions { uid: secret.metadata.uid.clone(), ..DeleteOptions::default() };
                match self.client.namespaced::<Secret>(NAMESPACE).delete(&key.name, &options).await {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
                    _ => Ok(Next::Done),
                }
            }
        }
    }
}

/// `None`: it has no end. What is no time has passed.
pub fn time_left(secret: &Secret, now: Timestamp) -> Option<Duration> {
    let end = &secret.data.as_ref()?.get("expiration")?.0;
    if end.is_empty() {
        return None;
    }
    let end = std::str::from_utf8(end).ok().and_then(|text| text.parse::<Timestamp>().ok()).unwrap_or(now);
    Some(Duration::try_from(end.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use serde_json::json;

    use super::*;
    use crate::testing::Stage;

    fn secret(name: &str, expiration: &str) -> serde_json::Value {
        let expiration = base64::engine::general_purpose::STANDARD.encode(expiration);
        json!({"apiVersion": "v1", "kind": "Secret", "type": TYPE, "metadata": {"name": name, "namespace": NAMESPACE},
            "data": {"expiration": expiration}})
    }

    #[test]
    fn how_long_tokens_live() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        for (text, expect) in [
            ("", None),
            ("2026-01-01T00:01:00Z", Some(60)),
            ("2026-01-01T00:01:00+00:01", Some(0)),
            ("2025-01-01T00:00:00Z", Some(0)),
            ("soon", Some(0)),
        ] {
            let secret = serde_json::from_value(secret("x", text)).expect("a secret");
            assert_eq!(time_left(&secret, now), expect.map(Duration::from_secs), "{text}");
        }
    }

    #[tokio::test]
    async fn what_is_over_goes() {
        let stage = Stage::new();
        stage.put(secret("bootstrap-token-aaaaaa", "2020-01-01T00:00:00Z"));
        stage.put(secret("bootstrap-token-bbbbbb", "9999-01-01T00:00:00Z"));
        super::start(&stage.context());
        stage.until("one is left", |fake| fake.objects("/api/v1/secrets").len() == 1).await;
        assert_eq!(stage.fake.objects("/api/v1/secrets")[0]["metadata"]["name"], "bootstrap-token-bbbbbb");
        stage.end().await;
    }
}
