//! What a server behind the proxy says about its own addresses, as its clients have to read it: the `Location` of
//! redirects, and links in HTML.

use bytes::{Bytes, BytesMut};

/// A tag that is longer passes as it is.
const MAX_TAG: usize = 64 * 1024;

/// Where a server's root is for its clients.
#[derive(Debug, Clone)]
pub(super) struct Rewriter {
    /// What stands before its paths, without a slash at the end.
    pub prepend: String,
    /// Its own address, and the one that the client asked: links to both are links to it.
    pub hosts: [String; 2],
}

impl Rewriter {
    /// Links to others, and relative ones, stay as they are.
    pub fn url(&self, url: &str) -> String {
        let (host, rest) = match url.split_once("//") {
            Some((scheme, rest)) if scheme.is_empty() || scheme.strip_suffix(':').is_some_and(is_scheme) => {
                rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
            }
            _ => ("", url),
        };
        let others = !host.is_empty() && !self.hosts.iter().any(|own| own == host);
        if others || !rest.starts_with('/') {
            return url.to_owned();
        }
        if rest.strip_prefix(&self.prepend).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#'])) {
            return rest.to_owned();
        }
        format!("{}{rest}", self.prepend)
    }
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// Which attributes of which elements are links.
const LINKS: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];
/// Elements whose content is no HTML.
const RAW: [&str; 5] = ["script", "style", "textarea", "title", "xmp"];

/// Rewrites HTML as it passes; holds back a tag at most.
pub(super) struct Html {
    rewriter: Rewriter,
    rest: BytesMut,
    /// The element whose end is looked for.
    raw: Option<&'static str>,
}

impl Html {
    pub fn new(rewriter: Rewriter) -> Self {
        Self { rewriter, rest: BytesMut::new(), raw: None }
    }

    /// Takes what has arrived; gives what can be passed on.
    pub fn push(&mut self, bytes: &[u8]) -> Bytes {
        self.rest.extend_from_slice(bytes);
        let mut out = BytesMut::new();
        while let Some(at) = self.rest.iter().position(|byte| *byte == b'<') {
            out.extend_from_slice(&self.rest.split_to(at));
            let Some(length) = token(&self.rest) else {
                if self.rest.len() > MAX_TAG {
                    break;
                }
                return out.freeze();
            };
            let token = self.rest.split_to(length);
            self.pass(&token, &mut out);
        }
        out.extend_from_slice(&self.rest.split());
        out.freeze()
    }

    /// What was held back.
    pub fn finish(mut self) -> Bytes {
        self.rest.split().freeze()
    }

    fn pass(&mut self, token: &[u8], out: &mut BytesMut) {
        let name = |token: &[u8], from: usize| -> String {
            let name = token[from.min(token.len())..].iter().take_while(|byte| byte.is_ascii_alphanumeric());
            name.map(|byte| byte.to_ascii_lowercase() as char).collect()
        };
        if let Some(raw) = self.raw {
            if token.starts_with(b"</") && name(token, 2) == raw {
                self.raw = None;
            }
            return out.extend_from_slice(token);
        }
        let name = name(token, 1);
        match LINKS.iter().find(|(element, _)| *element == name) {
            Some((_, attributes)) => self.rewriter.tag(token, name.len() + 1, attributes, out),
            None => out.extend_from_slice(token),
        }
        self.raw = RAW.iter().copied().find(|raw| *raw == name).filter(|_| !token.ends_with(b"/>"));
    }
}

/// The length of the tag or comment at the beginning; `None`: its end has not come.
fn token(text: &[u8]) -> Option<usize> {
    if text.starts_with(b"<!--") {
        return text.windows(3).skip(4).position(|three| three == b"-->").map(|at| at + 4 + 3);
    }
    match text.get(1)? {
        byte if byte.is_ascii_alphabetic() || matches!(byte, b'/' | b'!' | b'?') => {}
        // A `<` in a text.
        _ => return Some(1),
    }
    let mut quote = None;
    for (at, byte) in text.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at + 1),
            // Quotes count as such behind an equals sign only.
            (None, b'"' | b'\'') if text[..at].trim_ascii_end().ends_with(b"=") => quote = Some(*byte),
            (Some(open), byte) if open == *byte => quote = None,
            _ => {}
        }
    }
    None
}

impl Rewriter {
    /// Passes a tag, with its links rewritten. Attributes begin at `from`.
    fn tag(&self, tag: &[u8], from: usize, links: &[&str], out: &mut BytesMut) {
        let mut at = from.min(tag.len());
        out.extend_from_slice(&tag[..at]);
        while at < tag.len() {
            let begin = at;
            let skip = |mut at: usize, test: fn(u8) -> bool| {
                while tag.get(at).is_some_and(|byte| test(*byte)) {
                    at += 1;
                }
                at
            };
            let name_at = skip(at, |byte| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>' | b'"' | b'\''));
            let name_end = skip(name_at, |byte| !byte.is_ascii_whitespace() && !matches!(byte, b'=' | b'>' | b'/'));
            let equals = skip(name_end, |byte| byte.is_ascii_whitespace());
            if tag.get(equals) != Some(&b'=') {
                at = name_end.max(begin + 1);
                out.extend_from_slice(&tag[begin..at]);
                continue;
            }
            let value_at = skip(equals + 1, |byte| byte.is_ascii_whitespace());
            let (value_at, value_end) = match tag.get(value_at) {
                Some(quote @ (b'"' | b'\'')) => {
                    let length = tag[value_at + 1..].iter().position(|byte| byte == quote);
                    (value_at + 1, value_at + 1 + length.unwrap_or(tag.len() - value_at - 1))
                }
                _ => (value_at, skip(value_at, |byte| !byte.is_ascii_whitespace() && byte != b'>')),
            };
            out.extend_from_slice(&tag[begin..value_at]);
            let name = String::from_utf8_lossy(&tag[name_at..name_end]).to_lowercase();
            let value = &tag[value_at..value_end];
            match std::str::from_utf8(value) {
                // An ampersand that is escaped is in the query, which stays.
                Ok(text) if links.contains(&name.as_str()) => out.extend_from_slice(self.url(text.trim()).as_bytes()),
                _ => out.extend_from_slice(value),
            }
            at = value_end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewriter() -> Rewriter {
        Rewriter { prepend: "/api/proxy".to_owned(), hosts: ["10.0.0.1:80".to_owned(), "api:6443".to_owned()] }
    }

    #[test]
    fn urls() {
        for (url, expect) in [
            ("/a?b#c", "/api/proxy/a?b#c"),
            ("/", "/api/proxy/"),
            ("http://10.0.0.1:80/a/", "/api/proxy/a/"),
            ("//api:6443/a", "/api/proxy/a"),
            ("https://example.com/a", "https://example.com/a"),
            ("a/b", "a/b"),
            ("?x=http://10.0.0.1:80/", "?x=http://10.0.0.1:80/"),
            ("#top", "#top"),
            ("/api/proxy/a", "/api/proxy/a"),
            ("/api/proxying", "/api/proxy/api/proxying"),
            ("mailto:a@b", "mailto:a@b"),
            ("", ""),
        ] {
            assert_eq!(rewriter().url(url), expect, "{url}");
        }
    }

    #[test]
    fn html_in_any_pieces() {
        let page = "<!DOCTYPE html><html><!-- <a href=\"/no\"> --><head><script src='/s.js'>if (a < b) '<a href=\"/no\">'</script>\
                    </head><body>1 < 2 <A title=\"a > b\" HREF = \"/x?a=1&amp;b=2\">x</A><img src=/i.png><a href=\"rel\">\
                    <p data=\"/no\"><form action='/f'/></body></html><a href=\"/cut";
        let expect = page
            .replace("'/s.js'", "'/api/proxy/s.js'")
            .replace("\"/x?", "\"/api/proxy/x?")
            .replace("=/i.png", "=/api/proxy/i.png")
            .replace("'/f'", "'/api/proxy/f'");
        for size in [1, 2, 3, 7, 50, 1000] {
            let mut html = Html::new(rewriter());
            let mut got = Vec::new();
            for piece in page.as_bytes().chunks(size) {
                got.extend_from_slice(&html.push(piece));
            }
            got.extend_from_slice(&html.finish());
            assert_eq!(String::from_utf8_lossy(&got), expect, "in pieces of {size}");
        }
    }

    #[test]
    fn a_tag_without_end_passes() {
        let mut html = Html::new(rewriter());
        let long = format!("<a {}", "x ".repeat(MAX_TAG));
        assert_eq!(html.push(long.as_bytes()).len(), long.len());
    }
}
