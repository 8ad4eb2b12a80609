//! What the headers of a request say about the protocol that is to follow HTTP.

use http::{HeaderMap, HeaderName, header};

use crate::websocket;

/// Protocols in SPDY's upgrade: several headers, of several names each.
pub const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
pub const SPDY: &str = "SPDY/3.1";
/// SPDY in a WebSocket, for port-forward (KEP 4006).
pub const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upgrade {
    /// With the offered subprotocols.
    WebSocket {
        key: String,
        offered: Vec<String>,
    },
    Spdy {
        offered: Vec<String>,
    },
}

fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

/// `None`: none that we know. `Err`: one that lacks something.
pub fn asked(headers: &HeaderMap) -> Result<Option<Upgrade>, &'static str> {
    if !words(headers, &header::CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade")) {
        return Ok(None);
    }
    let is = |protocol: &str| words(headers, &header::UPGRADE).any(|word| word.eq_ignore_ascii_case(protocol));
    let own = |name: &HeaderName| words(headers, name).map(str::to_owned).collect();
    if is("websocket") {
        if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err("missing or bad WebSocket Version");
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
        let key = key.ok_or("challenge-response is missing")?.trim().to_owned();
        return Ok(Some(Upgrade::WebSocket { key, offered: own(&header::SEC_WEBSOCKET_PROTOCOL) }));
    }
    Ok(is(SPDY).then(|| Upgrade::Spdy { offered: own(&STREAM_PROTOCOL) }))
}

/// The first of what we know that the client knows too.
pub fn choose<'a>(offered: &[String], known: &[&'a str]) -> Option<&'a str> {
    known.iter().copied().find(|name| offered.iter().any(|offer| offer == name))
}

/// The headers of the answer `101 Switching Protocols`; no protocol where `chosen` is empty.
pub fn accepted(upgrade: &Upgrade, chosen: &str) -> Vec<(HeaderName, String)> {
    let mut headers = vec![(header::CONNECTION, "Upgrade".to_owned())];
    let named = match upgrade {
        Upgrade::WebSocket { key, .. } => {
            headers.push((header::UPGRADE, "websocket".to_owned()));
            headers.push((header::SEC_WEBSOCKET_ACCEPT, websocket::accept_key(key)));
            header::SEC_WEBSOCKET_PROTOCOL
        }
        Upgrade::Spdy { .. } => {
            headers.push((header::UPGRADE, SPDY.to_owned()));
            STREAM_PROTOCOL
        }
    };
    if !chosen.is_empty() {
        headers.push((named, chosen.to_owned()));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"))
        };
        pairs.iter().map(pair).collect::<Vec<_>>().into_iter().fold(HeaderMap::new(), |mut all, (name, value)| {
            all.append(name, value);
            all
        })
    }

    #[test]
    fn what_clients_ask() {
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
        let check = |pairs: &[(&str, &str)], expect: Result<Option<Upgrade>, &'static str>| {
            assert_eq!(asked(&headers(pairs)), expect, "{pairs:?}");
        };
        check(&[("upgrade", "websocket")], Ok(None));
        check(&[("connection", "keep-alive, Upgrade"), ("upgrade", "h2c")], Ok(None));
        let spdy = [
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ("x-stream-protocol-version", "channel.k8s.io"),
        ];
        check(&spdy, Ok(Some(Upgrade::Spdy { offered: own(&["v4.channel.k8s.io", "channel.k8s.io"]) })));
        let mut socket = vec![("connection", "upgrade"), ("upgrade", "WebSocket"), ("sec-websocket-version", "13")];
        check(&socket, Err("challenge-response is missing"));
        socket.extend([("sec-websocket-key", "abc"), ("sec-websocket-protocol", "v5.channel.k8s.io, x")]);
        let offered = own(&["v5.channel.k8s.io", "x"]);
        assert_eq!(choose(&offered, &["v6", "v5.channel.k8s.io"]), Some("v5.channel.k8s.io"));
        check(&socket, Ok(Some(Upgrade::WebSocket { key: "abc".to_owned(), offered })));
        socket[2].1 = "8";
        check(&socket, Err("missing or bad WebSocket Version"));
    }

    #[test]
    fn answers() {
        let socket = Upgrade::WebSocket { key: "dGhlIHNhbXBsZSBub25jZQ==".to_owned(), offered: Vec::new() };
        let names = |upgrade: &Upgrade, chosen| {
            accepted(upgrade, chosen).iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
        };
        assert_eq!(
            names(&socket, "v5.channel.k8s.io"),
            [
                "connection: Upgrade",
                "upgrade: websocket",
                "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
                "sec-websocket-protocol: v5.channel.k8s.io",
            ]
        );
        assert_eq!(names(&Upgrade::Spdy { offered: Vec::new() }, "").len(), 2);
    }
}
