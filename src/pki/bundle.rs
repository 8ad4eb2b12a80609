//! Trust anchors: certificates of authorities, as text (RFC 7468).

use std::collections::BTreeSet;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x509_parser::prelude::{FromDer, X509Certificate};

pub(crate) const CERTIFICATE: &str = "CERTIFICATE";
/// Of a line of base64.
const WIDTH_B: usize = 64;

/// One block of a text, between `BEGIN` and `END`.
pub(crate) struct Block<'a> {
    pub label: &'a str,
    has_headers: bool,
    pub contents: Vec<u8>,
}

/// What stands between the blocks, and what is none, is passed over.
pub(crate) fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim_end);
    while let Some(line) = lines.next() {
        let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) else {
            continue;
        };
        let end = format!("-----END {label}-----");
        let (mut body, mut has_headers, mut ended) = (String::new(), false, false);
        for line in lines.by_ref() {
            if line == end {
                ended = true;
                break;
            }
            if line.contains(':') {
                has_headers = true;
            } else {
                body.push_str(line.trim());
            }
        }
        if let (true, Ok(contents)) = (ended, STANDARD.decode(body)) {
            blocks.push(Block { label, has_headers, contents });
        }
    }
    blocks
}

/// What is wrong with a text that should be trust anchors, in Kubernetes' words: at least one, each the certificate of an
/// authority, none twice.
pub fn check_anchors(text: &str) -> Vec<String> {
    let (mut wrong, mut seen) = (Vec::new(), Vec::<(Vec<u8>, Vec<usize>)>::new());
    for (nth, block) in blocks(text).into_iter().enumerate() {
        let certificate = || X509Certificate::from_der(&block.contents).ok().map(|(_, certificate)| certificate);
        let constraints = || Some(certificate()?.basic_constraints().ok()??.value.ca);
        let why = if block.label != CERTIFICATE {
            format!("has bad block type: {}", block.label)
        } else if block.has_headers {
            "has PEM block headers".to_owned()
        } else if certificate().is_none() {
            "does not parse as X.509".to_owned()
        } else if constraints() != Some(true) {
            "does not have the CA bit set".to_owned()
        } else {
            match seen.iter_mut().find(|(contents, _)| *contents == block.contents) {
                Some((_, places)) => places.push(nth),
                None => seen.push((block.contents, vec![nth])),
            }
            continue;
        };
        wrong.push(format!("entry {nth} {why}"));
    }
    if !wrong.is_empty() {
        return wrong;
    }
    if seen.is_empty() {
        return vec!["at least one trust anchor must be provided".to_owned()];
    }
    let twice = seen.into_iter().filter(|(_, places)| places.len() > 1);
    twice
        .map(|(_, places)| {
            let places: Vec<String> = places.iter().map(usize::to_string).collect();
            format!("duplicate trust anchor (indices [{}])", places.join(" "))
        })
        .collect()
}

/// The anchors of all texts, each once, and nothing else: the same for the same anchors, wherever they come from.
pub fn anchors<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let all: BTreeSet<Vec<u8>> = texts.into_iter().flat_map(blocks).map(|block| block.contents).collect();
    let mut out = String::new();
    for contents in all {
        let text = STANDARD.encode(contents);
        writeln!(out, "-----BEGIN {CERTIFICATE}-----").expect("writing to memory");
        for at in (0..text.len()).step_by(WIDTH_B) {
            writeln!(out, "{}", &text[at..text.len().min(at + WIDTH_B)]).expect("writing to memory");
        }
        writeln!(out, "-----END {CERTIFICATE}-----").expect("writing to memory");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_checked_and_written_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let names = crate::ServerNames { dns: Vec::new(), ips: Vec::new() };
        let pki = crate::ClusterPki::ensure(directory.path(), &names).expect("keys");
        let ca = pki.ca_pem();
        let block = |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        let body = ca.lines().filter(|line| !line.starts_with('-')).collect::<Vec<_>>().join("\n");
        for (text, expect) in [
            (ca.to_owned(), vec![]),
            (format!("of this cluster\r\n{}", ca.replace('\n', "\r\n")), vec![]),
            (String::new(), vec!["at least one trust anchor must be provided"]),
            (block("CERTIFICATE", "no base64!"), vec!["at least one trust anchor must be provided"]),
            (format!("{ca}{ca}"), vec!["duplicate trust anchor (indices [0 1])"]),
            (
                format!("{}{}", block("PRIVATE KEY", "AAAA"), block("CERTIFICATE", "AAAA")),
                vec!["entry 0 has bad block type: PRIVATE KEY", "entry 1 does not parse as X.509"],
            ),
            (block("CERTIFICATE", &format!("a: b\n\n{body}")), vec!["entry 0 has PEM block headers"]),
        ] {
            assert_eq!(check_anchors(&text), expect, "{text}");
        }
        let other = block("CERTIFICATE", "AAAA");
        let joined = anchors([ca, &format!("# comment\n{other}"), ca]);
        assert_eq!(joined, anchors([format!("{other}{ca}").as_str()]));
        assert_eq!(joined.matches("BEGIN").count(), 2);
        assert!(joined.contains(ca.trim()) && !joined.contains('#'));
        assert_eq!(anchors([]), "");
    }
}
