//! Kubeconfig files, and the flags above them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use skiff_api::yaml;
use skiff_client::{Auth, Kubeconfig};

use super::has;
use crate::{Failure, Result};

/// What the server writes for the administrator of its machine.
const OURS: &str = "/etc/skiff/skiff.yaml";

#[derive(Args, Debug, Default)]
pub struct Global {
    /// Path to the kubeconfig file to use
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The name of the kubeconfig context to use
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// The namespace scope of this request
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// The address and port of the Kubernetes API server
    #[arg(short, long, global = true)]
    pub server: Option<String>,
    /// Bearer token for authentication to the API server
    #[arg(long, global = true, hide_env_values = true)]
    pub token: Option<String>,
    /// Do not check the server's certificate
    #[arg(long, global = true)]
    pub insecure_skip_tls_verify: bool,
    /// The name of the kubeconfig user to use
    #[arg(long, global = true)]
    pub user: Option<String>,
    /// The name of the kubeconfig cluster to use
    #[arg(long, global = true)]
    pub cluster: Option<String>,
    /// Path to a client certificate file for TLS
    #[arg(long, global = true, value_name = "FILE", requires = "client_key")]
    pub client_certificate: Option<PathBuf>,
    /// Path to a client key file for TLS
    #[arg(long, global = true, value_name = "FILE", requires = "client_certificate")]
    pub client_key: Option<PathBuf>,
    /// Path to a cert file for the certificate authority
    #[arg(long, global = true, value_name = "FILE")]
    pub certificate_authority: Option<PathBuf>,
    /// Server name to use for server certificate validation
    #[arg(long, global = true)]
    pub tls_server_name: Option<String>,
    /// Username to impersonate for the operation
    #[arg(long = "as", global = true, value_name = "USER")]
    pub impersonate: Option<String>,
    /// Group to impersonate for the operation; may be repeated
    #[arg(long, global = true, value_name = "GROUP")]
    pub as_group: Vec<String>,
    /// UID to impersonate for the operation
    #[arg(long, global = true, value_name = "UID")]
    pub as_uid: Option<String>,
    /// User extra to impersonate for the operation, KEY=VALUE; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub as_user_extra: Vec<String>,
    /// The length of time to wait before giving up on a single server request, e.g. 1s, 2m, 3h; zero is for ever
    #[arg(long, global = true, default_value = "0", hide_default_value = true)]
    pub request_timeout: String,
    /// Nothing is kept between commands: taken for upstream's sake
    #[arg(long, global = true, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Answers are never asked for compressed: taken for upstream's sake
    #[arg(long, global = true)]
    pub disable_compression: bool,
    /// Treat warnings received from the server as errors and exit with a non-zero exit code
    #[arg(long, global = true)]
    pub warnings_as_errors: bool,
    /// Number for the log level verbosity; 6 and more print the requests, 8 and more their bodies
    #[arg(short, long = "v", global = true, default_value_t, hide_default_value = true, value_name = "LEVEL")]
    pub verbosity: u8,
}

impl Global {
    /// The files, the first of which wins.
    pub fn files(&self) -> Vec<PathBuf> {
        if let Some(file) = &self.kubeconfig {
            return vec![file.clone()];
        }
        if let Some(list) = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
            return std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect();
        }
        let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
        home.into_iter().filter(|path| path.exists()).chain([PathBuf::from(OURS)]).take(1).collect()
    }

    /// The file that new entries go to.
    pub(super) fn new_file(&self) -> Option<PathBuf> {
        if self.kubeconfig.is_some() || std::env::var_os("KUBECONFIG").is_some_and(|list| !list.is_empty()) {
            return None;
        }
        std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"))
    }

    /// All files as one.
    pub(super) fn merged(&self) -> Result<Value> {
        let files = self.files();
        let mut merged = json!({"apiVersion": "v1", "kind": "Config", "current-context": ""});
        let mut any = false;
        for file in &files {
            let text = match std::fs::read_to_string(file) {
                Ok(text) => text,
                // Upstream, too, passes over missing files of a list.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound && self.kubeconfig.is_none() => continue,
                Err(e) => return Err(Failure::text(format!("stat {}: {e}", file.display()))),
            };
            any = true;
            let document = yaml::document(&text)
                .map_err(|e| Failure::text(format!("error loading config file {:?}: {e}", file.display())))?;
            merge(&mut merged, document.value, file.parent().unwrap_or(Path::new("")));
        }
        if !any && self.server.is_none() {
            let tried: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
            return Err(Failure::text(format!(
                "no kubeconfig found (tried {}): start `skiff server` on this machine, or name one with --kubeconfig or KUBECONFIG",
                tried.join(", ")
            )));
        }
        Ok(merged)
    }

    /// Whom to ask, with the flags applied.
    pub fn resolve(&self) -> Result<Kubeconfig> {
        let mut merged = self.merged()?;
        self.choose(&mut merged)?;
        let mut config = match Kubeconfig::parse(&merged.to_string(), self.context.as_deref()) {
            Ok(config) => config,
            Err(_) if self.server.is_some() && self.context.is_none() => Kubeconfig {
                server: String::new(),
                namespace: "default".into(),
                ca_pem: None,
                insecure: false,
                tls_server_name: None,
                client_certificate: None,
                auth: Auth::None,
            },
            Err(e) => return Err(Failure::text(e.to_string())),
        };
        if let Some(server) = &self.server {
            config.server = if server.contains("://") { server.clone() } else { format!("http://{server}") };
        }
        if let Some(token) = &self.token {
            config.auth = Auth::Token(token.clone());
        }
        if let Some(namespace) = self.namespace.as_ref().filter(|namespace| !namespace.is_empty()) {
            config.namespace = namespace.clone();
        }
        config.insecure |= self.insecure_skip_tls_verify;
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|e| Failure::text(format!("unable to read {}: {e}", path.display())))
        };
        if let (Some(certificate), Some(key)) = (&self.client_certificate, &self.client_key) {
            config.client_certificate = Some((read(certificate)?, read(key)?));
        }
        if let Some(path) = &self.certificate_authority {
            config.ca_pem = Some(read(path)?);
        }
        if self.tls_server_name.is_some() {
            config.tls_server_name = self.tls_server_name.clone();
        }
        Ok(config)
    }

    /// Puts another user or cluster into the context that is used.
    fn choose(&self, merged: &mut Value) -> Result {
        let context = self.context.as_deref().or_else(|| merged["current-context"].as_str()).unwrap_or_default();
        let context = context.to_owned();
        for (list, what, chosen) in [("users", "auth info", &self.user), ("clusters", "cluster", &self.cluster)] {
            let Some(chosen) = chosen else { continue };
            if !has(merged, list, chosen) {
                return Err(Failure::text(format!("{what} {chosen:?} does not exist")));
            }
            let contexts = merged["contexts"].as_array_mut().into_iter().flatten();
            let field = list.trim_end_matches('s');
            contexts
                .filter(|entry| entry["name"] == *context)
                .for_each(|entry| entry["context"][field] = chosen.as_str().into());
        }
        Ok(())
    }

    /// How long one request may take; `None`: for ever.
    pub fn timeout(&self) -> Result<Option<Duration>> {
        let timeout = crate::wait::duration(&self.request_timeout).map_err(|_| {
            Failure::text(
                "Invalid timeout value. Timeout must be a single integer in seconds, or an integer followed by a corresponding time unit (e.g. 1s | 2m | 3h)",
            )
        })?;
        Ok(timeout.filter(|timeout| !timeout.is_zero()))
    }

    /// The headers that say whom this client acts for.
    pub fn impersonation(&self) -> Result<Vec<(HeaderName, HeaderValue)>> {
        let mut headers = Vec::new();
        let mut add = |name: &str, value: &str| -> Result {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| Failure::text(format!("{name:?}: {e}")))?;
            let value = HeaderValue::from_str(value).map_err(|e| Failure::text(format!("{value:?}: {e}")))?;
            headers.push((name, value));
            Ok(())
        };
        if self.impersonate.is_none()
            && (!self.as_group.is_empty() || self.as_uid.is_some() || !self.as_user_extra.is_empty())
        {
            return Err(Failure::text(
                "requesting uid, groups or user-extra for a user without impersonating a user is not allowed",
            ));
        }
        if let Some(user) = &self.impersonate {
            add("impersonate-user", user)?;
        }
        self.as_group.iter().try_for_each(|group| add("impersonate-group", group))?;
        if let Some(uid) = &self.as_uid {
            add("impersonate-uid", uid)?;
        }
        for pair in &self.as_user_extra {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| Failure::text(format!("{pair} must be formatted as key=value")))?;
            add(&format!("impersonate-extra-{}", skiff_client::percent_encoded(key)), value)?;
        }
        Ok(headers)
    }
}

/// Adds what `more` has and `into` lacks. Relative paths are relative to their file.
fn merge(into: &mut Value, more: Value, directory: &Path) {
    for list in ["clusters", "contexts", "users"] {
        let found = more.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
        let mut entries = into.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
        for mut entry in found {
            absolute(&mut entry, directory);
            if !entries.iter().any(|known| known["name"] == entry["name"]) {
                entries.push(entry);
            }
        }
        into[list] = Value::Array(entries);
    }
    let current = more.get("current-context").and_then(Value::as_str).unwrap_or_default();
    if into["current-context"] == "" {
        into["current-context"] = current.into();
    }
}

fn absolute(entry: &mut Value, directory: &Path) {
    for (section, field) in [
        ("cluster", "certificate-authority"),
        ("user", "client-certificate"),
        ("user", "client-key"),
        ("user", "tokenFile"),
    ] {
        if let Some(path) = entry.get_mut(section).and_then(|s| s.get_mut(field))
            && let Some(text) = path.as_str().filter(|text| !text.is_empty())
        {
            *path = directory.join(text).to_string_lossy().into_owned().into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_files_are_one_and_the_first_wins() {
        let mut merged = json!({"current-context": ""});
        let first = json!({"current-context": "a", "clusters": [{"name": "c", "cluster": {"server": "1", "certificate-authority": "ca.pem"}}]});
        let second =
            json!({"current-context": "b", "clusters": [{"name": "c", "cluster": {"server": "2"}}, {"name": "d"}]});
        merge(&mut merged, first, Path::new("/x"));
        merge(&mut merged, second, Path::new("/y"));
        assert_eq!(merged["current-context"], "a");
        assert_eq!(
            merged["clusters"],
            json!([{"name": "c", "cluster": {"server": "1", "certificate-authority": "/x/ca.pem"}}, {"name": "d"}])
        );
    }
}
