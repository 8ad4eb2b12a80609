//! `registries.yaml`, in k3s' form: mirrors, rewrites, credentials and TLS per registry.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use regex_lite::Regex;
use serde::Deserialize;

use crate::{Error, RegistryAuth};

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registries {
    mirrors: BTreeMap<String, Mirror>,
    configs: BTreeMap<String, HostConfig>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Mirror {
    endpoint: Vec<String>,
    rewrite: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HostConfig {
    auth: Option<Auth>,
    tls: Option<TlsFiles>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Auth {
    username: String,
    password: String,
    auth: String,
    identity_token: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth(..)")
    }
}

/// Where TLS to a registry differs from the system's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsFiles {
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub insecure_skip_verify: bool,
}

/// One place to ask for an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// `https://host:port` or `http://host:port`, without a path.
    pub base: String,
    /// A path that goes before `/v2`'s repository (mirrors such as `https://harbor/v2/proxy`).
    pub path: String,
    pub repository: String,
    pub tls: TlsFiles,
    /// Credentials of the configuration; those of the pull go first.
    pub auth: Option<(String, String)>,
}

impl Registries {
    /// Reads the file; one that is not there configures nothing.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(Error::Io { operation: "read registries.yaml", source }),
        };
        Self::parse(&text).map_err(|why| Error::Failed { operation: "read registries.yaml", why })
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let read: Self = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
        for (registry, mirror) in &read.mirrors {
            for pattern in mirror.rewrite.keys() {
                Regex::new(pattern).map_err(|e| format!("mirrors.{registry:?}.rewrite {pattern:?}: {e}"))?;
            }
            for endpoint in &mirror.endpoint {
                split_url(endpoint)
                    .ok_or_else(|| format!("mirrors.{registry:?}.endpoint {endpoint:?}: not an http or https URL"))?;
            }
        }
        Ok(read)
    }

    /// Where to ask for a repository of a registry, best first; the registry itself comes last.
    pub fn endpoints(&self, registry: &str, repository: &str) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        if let Some(mirror) = self.mirrors.get(registry).or_else(|| self.mirrors.get("*")) {
            let rewritten = rewrite(&mirror.rewrite, repository);
            for url in &mirror.endpoint {
                let (scheme, host, path) = split_url(url).expect("parse() looked at every endpoint");
                endpoints.push(self.endpoint(&format!("{scheme}://{host}"), host, path, &rewritten));
            }
        }
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let scheme = if is_loopback(host) && !host.ends_with(":443") { "http" } else { "https" };
        let mut own = self.endpoint(&format!("{scheme}://{host}"), registry, "", repository);
        if own.auth.is_none() && registry != host {
            own = self.endpoint(&own.base.clone(), host, "", repository);
        }
        if !endpoints.iter().any(|e| e.base == own.base && e.repository == own.repository) {
            endpoints.push(own);
        }
        endpoints
    }

    fn endpoint(&self, base: &str, host: &str, path: &str, repository: &str) -> Endpoint {
        let config = self.configs.get(host).or_else(|| self.configs.get(base));
        Endpoint {
            base: base.to_owned(),
            path: path.to_owned(),
            repository: repository.to_owned(),
            tls: config.and_then(|c| c.tls.clone()).unwrap_or_default(),
            auth: config.and_then(|c| c.auth.as_ref()).and_then(credentials),
        }
    }
}

/// User and password of an imagePullSecret or of the command line.
pub fn pull_credentials(auth: &RegistryAuth) -> Option<(String, String)> {
    credentials(&Auth {
        username: auth.username.clone(),
        password: auth.password.clone(),
        identity_token: auth.identity_token.clone(),
        auth: String::new(),
    })
}

fn credentials(auth: &Auth) -> Option<(String, String)> {
    if !auth.identity_token.is_empty() {
        return Some(("<token>".to_owned(), auth.identity_token.clone()));
    }
    if !auth.username.is_empty() || !auth.password.is_empty() {
        return Some((auth.username.clone(), auth.password.clone()));
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(&auth.auth).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

fn rewrite(rules: &BTreeMap<String, String>, repository: &str) -> String {
    for (pattern, replacement) in rules {
        let regex = Regex::new(pattern).expect("parse() looked at every pattern");
        if regex.is_match(repository) {
            return regex.replace_all(repository, replacement.as_str()).into_owned();
        }
    }
    repository.to_owned()
}

/// Scheme, host and path (without the slash at its end, and without a leading `/v2`).
fn split_url(url: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = path.trim_end_matches('/');
    let path = path.strip_prefix("/v2").unwrap_or(path);
    (matches!(scheme, "http" | "https") && !host.is_empty()).then_some((scheme, host, path))
}

/// Registries on this machine speak plain HTTP unless configured otherwise, as containerd has it.
fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(endpoints: &[Endpoint]) -> Vec<String> {
        endpoints.iter().map(|e| format!("{}{} {}", e.base, e.path, e.repository)).collect()
    }

    #[test]
    fn mirrors_go_first_and_the_registry_itself_last() {
        let registries = Registries::parse(
            "mirrors:\n  docker.io:\n    endpoint: [\"http://m:5000/v2/proxy\"]\n    rewrite:\n      \"^library/(.*)\": \"hub/$1\"\n\
             configs:\n  \"m:5000\":\n    auth: {username: u, password: p}\n",
        )
        .expect("valid");
        let endpoints = registries.endpoints("docker.io", "library/busybox");
        assert_eq!(
            bases(&endpoints),
            ["http://m:5000/proxy hub/busybox", "https://registry-1.docker.io library/busybox"]
        );
        assert_eq!(endpoints[0].auth, Some(("u".into(), "p".into())));
        assert_eq!(endpoints[1].auth, None);
    }

    #[test]
    fn defaults() {
        let none = Registries::default();
        assert_eq!(bases(&none.endpoints("quay.io", "a/b")), ["https://quay.io a/b"]);
        assert_eq!(bases(&none.endpoints("127.0.0.1:5000", "a")), ["http://127.0.0.1:5000 a"]);
        assert_eq!(bases(&none.endpoints("10.0.0.1:5000", "a")), ["https://10.0.0.1:5000 a"]);
    }

    #[test]
    fn wrong_files_are_refused_with_their_place() {
        for (text, expect) in [
            ("mirors: {}", "mirors"),
            ("mirrors: {x: {endpoint: [\"ftp://y\"]}}", "ftp://y"),
            ("mirrors: {x: {rewrite: {\"(\": \"a\"}}}", "rewrite"),
        ] {
            let error = Registries::parse(text).expect_err(text);
            assert!(error.contains(expect), "{error}");
        }
    }
}
