//! Which server, as whom, in which namespace: kubeconfig files and the flags above them; and `kubectl config`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use skiff_api::yaml;
use skiff_client::{Auth, Kubeconfig};

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
}

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Display merged kubeconfig settings
    View {
        /// Display raw byte data and sensitive data
        #[arg(long)]
        raw: bool,
        /// Only the current context and what it uses
        #[arg(long)]
        minify: bool,
        /// yaml or json
        #[arg(short, long, default_value = "yaml")]
        output: String,
    },
    /// Display the current-context
    CurrentContext,
    /// Set the current-context in a kubeconfig file
    UseContext { name: String },
    /// Describe one or many contexts
    GetContexts,
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

    /// All files as one.
    fn merged(&self) -> Result<Value> {
        let files = self.files();
        let mut merged = json!({"apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": ""});
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
        let merged = self.merged()?;
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
        Ok(config)
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

pub fn run(global: &Global, arguments: Arguments) -> Result {
    let mut config = global.merged()?;
    if let Some(context) = &global.context {
        config["current-context"] = context.as_str().into();
    }
    let current = config["current-context"].as_str().unwrap_or_default().to_owned();
    match arguments.command {
        Command::View { raw, minify, output } => {
            if minify {
                keep_current(&mut config, &current);
            }
            if !raw {
                redact(&mut config);
            }
            print!("{}", crate::print::structured(&config, &output)?);
            Ok(())
        }
        Command::CurrentContext => {
            if current.is_empty() {
                return Err(Failure::text("current-context is not set"));
            }
            println!("{current}");
            Ok(())
        }
        Command::UseContext { name } => use_context(global, &config, &name),
        Command::GetContexts => {
            let mut table = crate::print::Table::new(&["CURRENT", "NAME", "CLUSTER", "AUTHINFO", "NAMESPACE"]);
            for context in config["contexts"].as_array().into_iter().flatten() {
                let text = |field: &str| context["context"][field].as_str().unwrap_or_default().to_owned();
                let name = context["name"].as_str().unwrap_or_default().to_owned();
                let star = if name == current { "*" } else { "" };
                table.row([star.to_owned(), name, text("cluster"), text("user"), text("namespace")]);
            }
            print!("{table}");
            Ok(())
        }
    }
}

fn use_context(global: &Global, config: &Value, name: &str) -> Result {
    if !config["contexts"].as_array().into_iter().flatten().any(|context| context["name"] == name) {
        return Err(Failure::text(format!("no context exists with the name: {name:?}")));
    }
    let Some(file) = global.files().into_iter().find(|file| file.exists()) else {
        return Err(Failure::text("there is no kubeconfig file to write to"));
    };
    let failed = |e: &dyn std::fmt::Display| Failure::text(format!("write {}: {e}", file.display()));
    let text = std::fs::read_to_string(&file).map_err(|e| failed(&e))?;
    let mut own = yaml::document(&text).map_err(|e| failed(&e))?.value;
    own["current-context"] = name.into();
    // Beside it and then in its place, readable by its owner alone: it holds keys.
    let beside = file.with_extension("lock");
    let write = || -> std::io::Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        out.write_all(yaml::to_string(&own).as_bytes())?;
        out.sync_all()?;
        std::fs::rename(&beside, &file)
    };
    write().map_err(|e| failed(&e))?;
    println!("Switched to context {name:?}.");
    Ok(())
}

fn keep_current(config: &mut Value, current: &str) {
    let context = config["contexts"].as_array().into_iter().flatten().find(|c| c["name"] == current).cloned();
    let uses = |field: &str| context.as_ref().map(|c| c["context"][field].clone()).unwrap_or_default();
    for (list, name) in [("contexts", Value::from(current)), ("clusters", uses("cluster")), ("users", uses("user"))] {
        if let Some(entries) = config[list].as_array_mut() {
            entries.retain(|entry| entry["name"] == name);
        }
    }
}

fn redact(config: &mut Value) {
    for cluster in config["clusters"].as_array_mut().into_iter().flatten() {
        if let Some(data) = cluster["cluster"].get_mut("certificate-authority-data") {
            *data = "DATA+OMITTED".into();
        }
    }
    for user in config["users"].as_array_mut().into_iter().flatten() {
        for (field, text) in [
            ("client-certificate-data", "DATA+OMITTED"),
            ("client-key-data", "DATA+OMITTED"),
            ("token", "REDACTED"),
            ("password", "REDACTED"),
        ] {
            if let Some(data) = user["user"].get_mut(field) {
                *data = text.into();
            }
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

    #[test]
    fn a_view_shows_no_secret() {
        let mut config = json!({"clusters": [{"name": "c", "cluster": {"certificate-authority-data": "x"}}],
            "users": [{"name": "u", "user": {"client-key-data": "secret", "token": "secret"}}]});
        redact(&mut config);
        assert!(!config.to_string().contains("secret"));
    }
}
