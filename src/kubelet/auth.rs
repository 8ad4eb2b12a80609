//! Who asks on port 10250, and what they may: as the API server says (TokenReview, SubjectAccessReview), remembered for
//! as long as upstream's kubelet remembers it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::Duration;

use http::{HeaderMap, Method, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use skiff_base::chain;
use skiff_client::Client;
use tokio::time::Instant;

/// May everything, as the API server would say itself: the identity of that server, too.
const MASTERS: &str = "system:masters";
const TOKEN_KNOWN: Duration = Duration::from_secs(2 * 60);
const ALLOWED_KNOWN: Duration = Duration::from_secs(5 * 60);
const DENIED_KNOWN: Duration = Duration::from_secs(30);
/// Answers that are remembered, of each kind.
const MAX_KNOWN: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Caller {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    /// As JSON, by key.
    pub(crate) extra: Vec<(String, String)>,
}

impl Caller {
    pub(crate) fn of_certificate(name: String, mut groups: Vec<String>) -> Self {
        groups.push("system:authenticated".to_owned());
        Self { name, uid: String::new(), groups, extra: Vec::new() }
    }

    fn of_review(user: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let groups = user["groups"].as_array().into_iter().flatten().map(text).collect();
        let extra = user["extra"].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.to_string())).collect();
        let name = user["username"].as_str().filter(|name| !name.is_empty())?.to_owned();
        Some(Self { name, uid: text(&user["uid"]), groups, extra })
    }
}

/// What a request is about: its verb, and the subresources of the node of which one has to be allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) verb: &'static str,
    pub(crate) subresources: Vec<&'static str>,
}

pub(crate) fn plan_attributes(method: &Method, path: &str) -> Attributes {
    let verb = match method.as_str() {
        "POST" => "create",
        "GET" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    };
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let subresources = match first {
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        "checkpoint" => vec!["checkpoint"],
        "pods" | "runningpods" => vec!["pods", "proxy"],
        "healthz" | "livez" => vec!["healthz", "proxy"],
        "configz" => vec!["configz", "proxy"],
        _ => vec!["proxy"],
    };
    Attributes { verb, subresources }
}

/// Answers with the moment until which they hold.
struct Known<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K: Eq + Hash, V: Clone> Known<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let known = self.0.lock().expect("no holder of this lock panics");
        known.get(key).filter(|(_, until)| *until > Instant::now()).map(|(answer, _)| answer.clone())
    }

    fn put(&self, key: K, answer: V, hold: Duration) {
        let mut known = self.0.lock().expect("no holder of this lock panics");
        let now = Instant::now();
        if known.len() >= MAX_KNOWN {
            known.retain(|_, (_, until)| *until > now);
        }
        // Who asks with ever new tokens makes nobody else's forgotten.
        if known.len() < MAX_KNOWN {
            known.insert(key, (answer, now + hold));
        }
    }
}

pub(crate) struct Auth {
    client: Client,
    node_name: String,
    tokens: Known<[u8; 32], Caller>,
    decisions: Known<(Caller, &'static str, &'static str), bool>,
}

impl Auth {
    pub(crate) fn new(client: Client, node_name: &str) -> Self {
        Self {
            client,
            node_name: node_name.to_owned(),
            tokens: Known(Mutex::default()),
            decisions: Known(Mutex::default()),
        }
    }

    /// Who the bearer of the token is; `None` where there is no good one.
    pub(crate) async fn bearer(&self, headers: &HeaderMap) -> Option<Caller> {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.trim().split_once(' ')?;
        let token = token.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
            return None;
        }
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.tokens.get(&key) {
            return Some(known);
        }
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let answer: Value = match self.client.call(Method::POST, path, Some(&review)).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "a token can't be reviewed");
                return None;
            }
        };
        if answer["status"]["authenticated"] != true {
            return None;
        }
        let caller = Caller::of_review(&answer["status"]["user"])?;
        self.tokens.put(key, caller.clone(), TOKEN_KNOWN);
        Some(caller)
    }

    /// Whether one of the subresources is allowed.
    pub(crate) async fn allows(&self, caller: &Caller, asked: &Attributes) -> Result<bool, skiff_client::Error> {
        if caller.groups.iter().any(|group| group == MASTERS) {
            return Ok(true);
        }
        for subresource in &asked.subresources {
            if self.allows_one(caller, asked.verb, subresource).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn allows_one(
        &self,
        caller: &Caller,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<bool, skiff_client::Error> {
        let key = (caller.clone(), verb, subresource);
        if let Some(known) = self.decisions.get(&key) {
            return Ok(known);
        }
        let review = review(caller, &self.node_name, verb, subresource);
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let answer: Value = self.client.call(Method::POST, path, Some(&review)).await?;
        let allowed = answer["status"]["allowed"] == true;
        self.decisions.put(key, allowed, if allowed { ALLOWED_KNOWN } else { DENIED_KNOWN });
        Ok(allowed)
    }
}

fn review(caller: &Caller, node: &str, verb: &str, subresource: &str) -> Value {
    let mut extra = serde_json::Map::new();
    for (key, values) in &caller.extra {
        extra.insert(key.clone(), serde_json::from_str(values).unwrap_or(Value::Null));
    }
    json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
        "user": caller.name, "uid": caller.uid, "groups": caller.groups, "extra": extra,
        "resourceAttributes": {"verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": node}}})
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use skiff_client::fake::FakeTransport;

    #[test]
    fn what_is_asked_for() {
        for (method, path, verb, subresources) in [
            (Method::GET, "/metrics", "get", vec!["metrics"]),
            (Method::GET, "/metrics/cadvisor", "get", vec!["metrics"]),
            (Method::GET, "/metricsx", "get", vec!["proxy"]),
            (Method::GET, "/stats/summary", "get", vec!["stats"]),
            (Method::GET, "/logs/", "get", vec!["log"]),
            (Method::GET, "/pods", "get", vec!["pods", "proxy"]),
            (Method::GET, "/runningpods/", "get", vec!["pods", "proxy"]),
            (Method::GET, "/healthz/ping", "get", vec!["healthz", "proxy"]),
            (Method::GET, "/configz", "get", vec!["configz", "proxy"]),
            (Method::POST, "/exec/a/b/c", "create", vec!["proxy"]),
            (Method::GET, "/containerLogs/a/b/c", "get", vec!["proxy"]),
            (Method::OPTIONS, "/", "", vec!["proxy"]),
        ] {
            assert_eq!(plan_attributes(&method, path), Attributes { verb, subresources }, "{path}");
        }
    }

    #[test]
    fn reviews_name_the_caller_whole() {
        let user = json!({"username": "u", "uid": "1", "groups": ["g"], "extra": {"k": ["v"]}});
        let caller = Caller::of_review(&user).expect("a user");
        let review = review(&caller, "node-1", "get", "metrics");
        assert_eq!(review["spec"]["extra"], json!({"k": ["v"]}));
        assert_eq!((&review["spec"]["user"], &review["spec"]["uid"]), (&json!("u"), &json!("1")));
        assert_eq!(review["spec"]["resourceAttributes"]["name"], "node-1");
        assert_eq!(Caller::of_review(&json!({"username": ""})), None);
    }

    #[tokio::test]
    async fn masters_are_not_asked_about_and_no_token_is_nobody() {
        let api = Arc::new(FakeTransport::new());
        let auth = Auth::new(Client::new(api.clone()), "node-1");
        let master = Caller::of_certificate("kube-apiserver".into(), vec![MASTERS.into()]);
        let asked = plan_attributes(&Method::POST, "/exec/a/b/c");
        assert!(auth.allows(&master, &asked).await.expect("decided"));
        let mut headers = HeaderMap::new();
        assert_eq!(auth.bearer(&headers).await, None);
        for wrong in ["Basic eDp5", "Bearer ", "token"] {
            headers.insert(header::AUTHORIZATION, wrong.parse().expect("a header"));
            assert_eq!(auth.bearer(&headers).await, None, "{wrong}");
        }
        assert!(api.requests().is_empty(), "{:?}", api.requests());
    }
}
