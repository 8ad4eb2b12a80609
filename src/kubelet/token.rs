//! Service-account tokens for pods, asked of the API server and renewed before they end.

use std::collections::HashMap;
use std::sync::Mutex;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use serde_json::json;
use skiff_client::Client;

use crate::pod::{self, PodUid};

/// Upstream's: a token is renewed after four fifths of its life, and at least daily.
const RENEW_AT_LATEST: SignedDuration = SignedDuration::from_hours(24);
const DEFAULT_LIFE_S: i64 = 3600;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    pod: PodUid,
    audience: String,
    life_s: i64,
}

/// A token and when to ask for the next one.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) renew: Timestamp,
    pub(crate) ends: Timestamp,
}

pub(crate) struct Tokens {
    client: Client,
    cache: Mutex<HashMap<Key, Token>>,
}

impl Tokens {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, cache: Mutex::default() }
    }

    /// A token for the pod's service account, bound to the pod; `None` for the API server's own audience.
    pub(crate) async fn get(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        life_s: Option<i64>,
    ) -> Result<Token, skiff_client::Error> {
        let key = Key {
            pod: pod::uid(pod),
            audience: audience.unwrap_or_default().to_owned(),
            life_s: life_s.unwrap_or(DEFAULT_LIFE_S),
        };
        let now = skiff_base::time::now();
        let cached = self.cache.lock().expect("no holder of this lock panics").get(&key).cloned();
        if let Some(token) = cached.filter(|t| t.renew > now) {
            return Ok(token);
        }
        let account = pod::spec(pod).service_account_name.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
        let audiences: Vec<&str> = audience.filter(|a| !a.is_empty()).into_iter().collect();
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
            "spec": {"audiences": audiences, "expirationSeconds": key.life_s,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod::name(pod), "uid": key.pod.0}}});
        let accounts = self.client.namespaced::<ServiceAccount>(pod::namespace(pod));
        let answer = accounts.create_subresource(account, "token", &request).await?;
        let ends = answer["status"]["expirationTimestamp"]
            .as_str()
            .and_then(|t| t.parse::<Timestamp>().ok())
            .unwrap_or(now + SignedDuration::from_secs(key.life_s));
        let token = Token {
            text: answer["status"]["token"].as_str().unwrap_or_default().to_owned(),
            renew: renewal(now, ends),
            ends,
        };
        self.cache.lock().expect("no holder of this lock panics").insert(key, token.clone());
        Ok(token)
    }

    /// Drops the tokens of a pod that is gone.
    pub(crate) fn forget(&self, pod: &PodUid) {
        self.cache.lock().expect("no holder of this lock panics").retain(|key, _| key.pod != *pod);
    }
}

fn renewal(now: Timestamp, ends: Timestamp) -> Timestamp {
    let life = ends.duration_since(now);
    now + (life * 4 / 5).min(RENEW_AT_LATEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renews_before_the_end() {
        let now = Timestamp::from_second(1_000).expect("in range");
        for (life_s, expected_s) in [(3600, 2880), (3607, 2885), (600, 480), (31_536_000, 86_400)] {
            let renew = renewal(now, now + SignedDuration::from_secs(life_s));
            assert_eq!(renew.duration_since(now).as_secs(), expected_s, "{life_s}");
        }
    }
}
