//! Names of images, as Docker and containerd read them.
//!
//! Parsed by hand: the grammar is small, and a compiled regular expression of it would stay in
//! memory for good.

use std::fmt;

use crate::Error;

const DEFAULT_REGISTRY: &str = "docker.io";
const NAME_LIMIT: usize = 255;

/// `registry/repository[:tag][@digest]`, completed: a registry always, and a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Host and optional port.
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    /// `sha256:<64 hex digits>`.
    pub digest: Option<String>,
}

impl Reference {
    /// Reads what a manifest or a person writes; `busybox` is `docker.io/library/busybox:latest`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|why| Error::InvalidReference { reference: text.to_owned(), why: why.to_owned() })
    }

    /// What a registry's API is asked for: the digest, or else the tag.
    pub fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// `registry/repository`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // A colon behind the last slash begins the tag; one before it belongs to the registry's port.
    let (name, tag) = match rest.rfind(':').filter(|at| !rest[*at..].contains('/')) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    if let Some(digest) = digest {
        let hex = digest.strip_prefix("sha256:").ok_or("unsupported digest algorithm")?;
        if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err("invalid checksum digest format");
        }
    }
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("invalid reference format");
    }
    let (registry, mut repository) = match name.split_once('/') {
        Some((first, others)) if first.contains(['.', ':']) || first == "localhost" || has_upper(first) => {
            (first, others.to_owned())
        }
        _ => (DEFAULT_REGISTRY, name.to_owned()),
    };
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        repository = format!("library/{repository}");
    }
    if has_upper(&repository) {
        return Err("repository name must be lowercase");
    }
    if !is_host(registry) || !repository.split('/').all(is_component) {
        return Err("invalid reference format");
    }
    if repository.len() > NAME_LIMIT {
        return Err("repository name must not be more than 255 characters");
    }
    let tag = match (tag, digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference { registry: registry.to_owned(), repository, tag, digest: digest.map(str::to_owned) })
}

fn has_upper(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_tag(tag: &str) -> bool {
    let bytes = tag.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= 128
        && (bytes[0].is_ascii_alphanumeric() || bytes[0] == b'_')
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(b))
}

/// Lower-case letters and digits, between them one `.`, one or two `_`, or any number of `-`.
fn is_component(component: &str) -> bool {
    let ends_well = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = component.as_bytes();
    ends_well(bytes.first())
        && ends_well(bytes.last())
        && bytes
            .split(u8::is_ascii_alphanumeric)
            .all(|between| matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|b| *b == b'-'))
}

fn is_host(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (registry, None),
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label) && port.is_none_or(|p| p.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completes_names() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, expect) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("bitnami/redis", "docker.io/bitnami/redis:latest".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("10.0.0.1:5000/a/b-c__d.e:v1", "10.0.0.1:5000/a/b-c__d.e:v1".to_owned()),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10".to_owned()),
            (&format!("quay.io/x@{digest}"), format!("quay.io/x@{digest}")),
            (&format!("quay.io/x:1@{digest}"), format!("quay.io/x:1@{digest}")),
        ] {
            assert_eq!(Reference::parse(text).expect(text).to_string(), expect);
        }
    }

    #[test]
    fn refuses_what_is_no_name() {
        for text in [
            "",
            "Busybox",
            "a b",
            "x:",
            "x@sha256:abc",
            "x@md5:00",
            "a//b",
            "a..b/c",
            "-a/b",
            "host:port/x",
            "x:-a",
            "a/_b",
        ] {
            let error = Reference::parse(text).expect_err(text);
            assert!(matches!(error, Error::InvalidReference { .. }), "{text}: {error}");
        }
    }
}
