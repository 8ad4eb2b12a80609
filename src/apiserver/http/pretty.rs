//! JSON as people read it: for `?pretty=true`, and for programs that are people's (curl, wget, browsers).

use http::Request;
use http::header::{CONTENT_TYPE, USER_AGENT};
use skiff_api::ApiError;

use crate::call::{Query, is_watch};
use crate::reply::{JSON, Payload, Reply};

/// Programs whose answers a person looks at.
const READERS: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];

pub(super) fn is_wanted<B>(request: &Request<B>) -> bool {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let asked = match query.has("pretty") {
        true => query.flag("pretty"),
        false => {
            let agent = request.headers().get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
            READERS.iter().any(|reader| agent.starts_with(reader))
        }
    };
    // The documents of the API are read by programs, and large.
    asked && !request.uri().path().starts_with("/openapi") && !is_watch(request.method(), request.uri())
}

/// Only what this server says itself: answers of others are passed on as they are.
pub(super) async fn pretty(reply: Reply) -> Reply {
    let is_json = reply.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(JSON.as_bytes()));
    if !is_json || matches!(reply.body, Payload::Pieces(_)) && !reply.list {
        return reply;
    }
    match reply.into_whole().await {
        Ok((status, headers, body)) => {
            let mut reply = Reply::json(status.as_u16(), indented(&body));
            reply.headers = headers;
            reply
        }
        Err(error) => ApiError::internal(format!("the list broke off: {error}")).into(),
    }
}

/// The same values in the same order, two spaces a level.
fn indented(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 3 / 2);
    let (mut depth, mut in_text, mut escaped) = (0, false, false);
    let mut bytes = json.iter().copied().peekable();
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    while let Some(byte) = bytes.next() {
        if in_text {
            out.push(byte);
            (in_text, escaped) = (escaped || byte != b'"', !escaped && byte == b'\\');
            continue;
        }
        match byte {
            b'"' => {
                in_text = true;
                out.push(byte);
            }
            b'{' | b'[' => {
                out.push(byte);
                while bytes.next_if(u8::is_ascii_whitespace).is_some() {}
                match bytes.next_if(|next| matches!(next, b'}' | b']')) {
                    Some(end) => out.push(end),
                    None => {
                        depth += 1;
                        line(&mut out, depth);
                    }
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            _ if byte.is_ascii_whitespace() => {}
            _ => out.push(byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn texts_stay_and_structure_is_shown() {
        let value = json!({"a": [1, {"b": "x{,:\\\"}"}, [], {}], "c": null, "d": -1.5e3, "e": "\\"});
        let text = String::from_utf8(indented(value.to_string().as_bytes())).expect("UTF-8");
        assert_eq!(text, serde_json::to_string_pretty(&value).expect("JSON"));
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), value);
        // Spaces that were there are no second ones.
        assert_eq!(indented(text.as_bytes()), text.as_bytes());
    }

    #[test]
    fn people_are_asked_for_by_name() {
        let wanted = |uri: &str, agent: &str| {
            let request = Request::get(uri).header(USER_AGENT, agent).body(()).expect("a request");
            is_wanted(&request)
        };
        assert!(wanted("/api/v1/pods", "curl/8.1") && wanted("/api/v1/pods?pretty=1", "kubectl"));
        assert!(!wanted("/api/v1/pods?pretty=false", "curl/8.1") && !wanted("/api/v1/pods", "kubectl"));
        assert!(!wanted("/openapi/v2", "curl/8.1") && !wanted("/api/v1/pods?watch=1", "curl/8.1"));
        assert!(!wanted("/apis/apps/v1/watch/deployments", "curl/8.1"));
        assert!(wanted("/api/v1/namespaces/watch/pods", "curl/8.1"));
    }
}
