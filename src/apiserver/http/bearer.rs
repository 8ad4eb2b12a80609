//! Bearer tokens: of the header `Authorization`; and of browsers, which can't set that on a WebSocket, among the subprotocols.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderValue};

use crate::proxy::forward::upgrade_of;

const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// What a request shows beside a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shown {
    Nothing,
    Token(String),
    /// Something that is no token.
    Nonsense(&'static str),
}

/// Takes the token out of the request. A subprotocol that is one is removed in any case: nobody else is to see it.
pub(super) fn take(headers: &mut HeaderMap) -> Shown {
    let in_protocols = take_protocol(headers);
    let Some(value) = headers.get(AUTHORIZATION) else { return in_protocols };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    token.map_or(Shown::Nonsense("no bearer token"), |token| Shown::Token(token.to_owned()))
}

fn take_protocol(headers: &mut HeaderMap) -> Shown {
    let all = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let all = all.flat_map(|value| value.split(',')).map(|one| one.trim().to_owned());
    let (tokens, rest): (Vec<String>, Vec<String>) = all.partition(|one| one.starts_with(PREFIX));
    if tokens.is_empty() {
        return Shown::Nothing;
    }
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if !rest.is_empty()
        && let Ok(value) = HeaderValue::from_str(&rest.join(","))
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    let is_socket = upgrade_of(headers).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let [token] = tokens.as_slice() else {
        return Shown::Nonsense("multiple base64.bearer.authorization tokens specified");
    };
    let encoded = token.strip_prefix(PREFIX).unwrap_or_default();
    let Ok(bytes) = URL_SAFE_NO_PAD.decode(encoded) else {
        return Shown::Nonsense("invalid base64.bearer.authorization token encoding");
    };
    match String::from_utf8(bytes) {
        // Without an upgrade it is a header like any other.
        Ok(token) if token.is_empty() || !is_socket => Shown::Nothing,
        // The answer must name one that is no secret.
        Ok(_) if rest.is_empty() => Shown::Nonsense("missing additional subprotocol"),
        Ok(token) => Shown::Token(token),
        Err(_) => Shown::Nonsense("invalid base64.bearer.authorization token"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_taken_out() {
        let check = |upgrade: bool, headers: &[(&str, &str)], expect: Shown, left: Option<&str>| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                let name: http::HeaderName = name.parse().expect("a name");
                map.append(name, HeaderValue::from_str(value).expect("a value"));
            }
            if upgrade {
                map.insert("connection", HeaderValue::from_static("Upgrade"));
                map.insert("upgrade", HeaderValue::from_static("WebSocket"));
            }
            assert_eq!(take(&mut map), expect, "{headers:?}");
            let rest = map.get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
            assert_eq!(rest, left, "{headers:?}");
        };
        const PROTOCOL: &str = "sec-websocket-protocol";
        let of = |token: &str| format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(token));
        let token = |text: &str| Shown::Token(text.to_owned());
        check(true, &[], Shown::Nothing, None);
        check(true, &[("authorization", "bearer  a ")], token("a"), None);
        check(true, &[("authorization", "Basic a")], Shown::Nonsense("no bearer token"), None);
        check(true, &[(PROTOCOL, &format!("{}, v5.channel.k8s.io", of("a")))], token("a"), Some("v5.channel.k8s.io"));
        check(true, &[(PROTOCOL, "x, y"), (PROTOCOL, &of("a"))], token("a"), Some("x,y"));
        check(true, &[(PROTOCOL, "x,y")], Shown::Nothing, Some("x,y"));
        check(true, &[("authorization", "Bearer b"), (PROTOCOL, &format!("{},x", of("a")))], token("b"), Some("x"));
        check(false, &[(PROTOCOL, &format!("{},x", of("a")))], Shown::Nothing, Some("x"));
        check(true, &[(PROTOCOL, &of("a"))], Shown::Nonsense("missing additional subprotocol"), None);
        let two = format!("{},{},x", of("a"), of("b"));
        check(
            true,
            &[(PROTOCOL, &two)],
            Shown::Nonsense("multiple base64.bearer.authorization tokens specified"),
            Some("x"),
        );
        let encoding = Shown::Nonsense("invalid base64.bearer.authorization token encoding");
        check(true, &[(PROTOCOL, &format!("{PREFIX}*,x"))], encoding, Some("x"));
    }
}
