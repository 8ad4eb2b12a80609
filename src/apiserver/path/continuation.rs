//! Where the next chunk of a list begins: a token in upstream's form, since clients keep them over an upgrade.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::Deserialize;
use serde_json::json;
use skiff_api::{ApiError, ObjectKey};

const VERSION: &str = "meta.k8s.io/v1";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Continuation {
    /// `None`: no longer a consistent list; what there is now.
    pub revision: Option<u64>,
    /// The first key that may come. A name with a NUL behind it is what comes right after that name.
    pub from: ObjectKey,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

impl Continuation {
    /// From right behind a key.
    pub fn behind(key: &ObjectKey, revision: Option<u64>) -> Self {
        Self { revision, from: ObjectKey::new(&key.namespace, &format!("{}\0", key.name)) }
    }

    /// `namespace`: the one that is listed, or empty.
    pub fn encode(&self, namespace: &str) -> String {
        // Upstream takes -1 for "whatever there is now".
        let rv = self.revision.map_or(-1, |r| i64::try_from(r).unwrap_or(i64::MAX));
        let ObjectKey { namespace: of, name } = &self.from;
        let start = if of.is_empty() || !namespace.is_empty() { name.to_string() } else { format!("{of}/{name}") };
        BASE64.encode(json!({"v": VERSION, "rv": rv, "start": start}).to_string())
    }

    /// What a client sends is taken as the place in the listed namespace that it names, whatever it is.
    pub fn decode(token: &str, namespaced: bool, namespace: &str) -> Result<Self, ApiError> {
        let invalid = |why: &str| {
            ApiError::bad_request(format!(
                "invalid continue token: continue key is not valid: {why} (version {VERSION})"
            ))
        };
        let unreadable =
            |why: String| ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = BASE64.decode(token).map_err(|e| unreadable(e.to_string()))?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?;
        if token.v != VERSION {
            return Err(unreadable(format!("server does not recognize this encoded version {}", token.v)));
        }
        if token.rv == 0 {
            return Err(invalid("incorrect encoded start resourceVersion"));
        }
        if token.start.is_empty() {
            return Err(invalid("encoded start key empty"));
        }
        let start = token.start.strip_prefix('/').unwrap_or(&token.start);
        if start.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(unreadable(token.start.clone()));
        }
        let from = match (namespaced && namespace.is_empty(), start.split_once('/')) {
            (true, Some((namespace, name))) => ObjectKey::new(namespace, name),
            (true, None) => ObjectKey::new(start, ""),
            (false, _) => ObjectKey::new(namespace, start),
        };
        Ok(Self { revision: u64::try_from(token.rv).ok(), from })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_return() {
        for (key, namespaced, namespace) in [
            (ObjectKey::new("a", "b"), true, ""),
            (ObjectKey::new("a", "b"), true, "a"),
            (ObjectKey::cluster("b"), false, ""),
        ] {
            for revision in [Some(7), None] {
                let place = Continuation::behind(&key, revision);
                let got = Continuation::decode(&place.encode(namespace), namespaced, namespace);
                assert_eq!(got.expect("its own token"), place);
            }
        }
    }

    #[test]
    fn what_clients_may_send() {
        let check = |token: serde_json::Value, expect: Result<ObjectKey, &str>| {
            let token = match token.as_str() {
                Some(text) => text.to_owned(),
                None => BASE64.encode(token.to_string()),
            };
            match (Continuation::decode(&token, true, "a"), expect) {
                (Ok(got), Ok(expect)) => assert_eq!(got.from, expect, "{token}"),
                (Err(got), Err(expect)) => assert!(got.code == 400 && got.message.contains(expect), "{}", got.message),
                (got, expect) => panic!("{token}: {got:?}, expected {expect:?}"),
            }
        };
        check(json!({"v": VERSION, "rv": 5, "start": "b\0"}), Ok(ObjectKey::new("a", "b\0")));
        check(json!({"v": VERSION, "rv": 5, "start": "b"}), Ok(ObjectKey::new("a", "b")));
        // Of another namespace than the one that is asked for nothing is shown.
        check(json!({"v": VERSION, "rv": 5, "start": "b/c\0"}), Ok(ObjectKey::new("a", "b/c\0")));
        check(json!({"v": VERSION, "rv": 5, "start": "../b"}), Err("continue key is not valid: ../b"));
        check(json!({"v": VERSION, "rv": 5, "start": "b//c"}), Err("continue key is not valid: b//c"));
        check(json!({"v": VERSION, "rv": 5}), Err("encoded start key empty (version meta.k8s.io/v1)"));
        check(
            json!({"v": VERSION, "start": "b"}),
            Err("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"),
        );
        check(json!({"v": "v2", "rv": 5, "start": "b"}), Err("does not recognize this encoded version v2"));
        check(json!([]), Err("invalid continue token: continue key is not valid: "));
        check("%%%".into(), Err("invalid continue token: continue key is not valid: "));
        check("e30=".into(), Err("invalid continue token: continue key is not valid: "));
    }
}
