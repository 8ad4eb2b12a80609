//! Files of a volume in each other's way.

use std::fmt;

use serde_json::Value;

use crate::field::go_quote;
use crate::kinds::peek::Peek;

/// A file, and where it comes from.
#[derive(Clone, PartialEq)]
struct File {
    path: String,
    source: String,
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&go_quote(&self.path))?;
        if self.source.is_empty() { Ok(()) } else { write!(f, " ({})", self.source) }
    }
}

impl File {
    /// Whether one is the other, or a directory that the other needs.
    fn collides(&self, other: &Self) -> bool {
        let holds = |a: &str, b: &str| format!("{b}/").starts_with(&format!("{a}/"));
        !self.path.is_empty()
            && !other.path.is_empty()
            && (holds(&self.path, &other.path) || holds(&other.path, &self.path))
    }
}

/// Of all volumes that are made of keys.
pub(super) fn overlapping(volumes: &[Value], out: &mut Vec<String>) {
    for volume in volumes {
        let name = go_quote(volume.text("name"));
        let mut warn = |what: &str, sources: Vec<Vec<File>>| {
            for overlap in overlaps(sources) {
                out.push(format!("volume {name} ({what}): overlapping paths: {overlap}"));
            }
        };
        let map = volume.at("configMap");
        warn(&format!("ConfigMap {}", go_quote(map.text("name"))), vec![items(map, "")]);
        let secret = volume.at("secret");
        warn(&format!("Secret {}", go_quote(secret.text("secretName"))), vec![items(secret, "")]);
        warn("DownwardAPI", vec![items(volume.at("downwardAPI"), "")]);
        let sources = volume.list("projected.sources");
        warn("Projected", sources.iter().map(projected).collect());
        for _ in sources.iter().filter(|source| source.as_object().is_none_or(serde_json::Map::is_empty)) {
            out.push(format!("volume {name} (Projected) has no sources provided"));
        }
    }
}

fn items(holder: &Value, source: &str) -> Vec<File> {
    holder.list("items").iter().map(|item| file(item.text("path"), source)).collect()
}

fn file(path: &str, source: &str) -> File {
    File { path: path.trim_end_matches('/').to_owned(), source: source.to_owned() }
}

/// The files of one source of a projected volume, as far as they are named.
fn projected(source: &Value) -> Vec<File> {
    let named = |kind: &str, name: &str| format!("{kind} {}", go_quote(name));
    let (map, secret) = (source.at("configMap"), source.at("secret"));
    let bundle = source.at("clusterTrustBundle");
    let bundle_name = if bundle.at("name").is_null() { "signerName" } else { "name" };
    let certificate = source.at("podCertificate");
    if map.count("items") > 0 {
        items(map, &named("ConfigMap", map.text("name")))
    } else if secret.count("items") > 0 {
        items(secret, &named("Secret", secret.text("name")))
    } else if source.count("downwardAPI.items") > 0 {
        items(source.at("downwardAPI"), "DownwardAPI")
    } else if source.at("serviceAccountToken").is_object() {
        vec![file(source.text("serviceAccountToken.path"), "ServiceAccountToken")]
    } else if bundle.is_object() {
        vec![file(bundle.text("path"), &named("ClusterTrustBundle", bundle.text(bundle_name)))]
    } else {
        [
            ("certificateChainPath", "PodCertificate chain"),
            ("keyPath", "PodCertificate key"),
            ("credentialBundlePath", "PodCertificate credential bundle"),
        ]
        .into_iter()
        .filter(|(key, _)| !certificate.text(key).is_empty())
        .map(|(key, source)| file(certificate.text(key), source))
        .collect()
    }
}

fn overlaps(sources: Vec<Vec<File>>) -> Vec<String> {
    let mut seen: Vec<File> = Vec::new();
    let mut out = Vec::new();
    for file in sources.into_iter().flatten() {
        out.extend(seen.iter().filter(|other| file.collides(other)).map(|other| format!("{file} with {other}")));
        seen.push(file);
    }
    out
}
