//! Which server, as whom, in which namespace ([`Global`]); and `kubectl config`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::discovery::Resource;
use crate::print::Output;
use crate::{Failure, Result};

mod change;
mod global;

pub use global::Global;

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
        /// Put the contents of files in place of their names
        #[arg(long)]
        flatten: bool,
        /// All files as one; without it, only the one of --kubeconfig
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
        merge: Option<bool>,
        /// Output format: yaml, json, name, go-template=..., jsonpath=... and their -file forms
        #[arg(short, long, default_value = "", hide_default_value = true)]
        output: String,
        /// The template, or its file, of -o go-template and -o jsonpath
        #[arg(long, default_value = "", hide_default_value = true)]
        template: String,
    },
    /// Display the current-context
    CurrentContext,
    /// Set the current-context in a kubeconfig file
    #[command(visible_alias = "use")]
    UseContext { name: String },
    /// Describe one or many contexts
    GetContexts {
        names: Vec<String>,
        /// name
        #[arg(short, long, default_value = "")]
        output: String,
        /// Don't print headers
        #[arg(long)]
        no_headers: bool,
    },
    /// Display clusters defined in the kubeconfig
    GetClusters,
    /// Display users defined in the kubeconfig
    GetUsers,
    /// Set a context entry in kubeconfig
    SetContext(change::SetContext),
    /// Set a cluster entry in kubeconfig
    SetCluster(change::SetCluster),
    /// Set a user entry in kubeconfig
    SetCredentials(change::SetCredentials),
    /// Rename a context from the kubeconfig file
    RenameContext { old: String, new: String },
    /// Delete the specified context from the kubeconfig
    DeleteContext { name: String },
    /// Delete the specified cluster from the kubeconfig
    DeleteCluster { name: String },
    /// Delete the specified user from the kubeconfig
    DeleteUser { name: String },
    /// Set an individual value in a kubeconfig file
    Set { property: String, value: String },
    /// Unset an individual value in a kubeconfig file
    Unset { property: String },
}

pub fn run(global: &Global, arguments: Arguments) -> Result {
    let changes = matches!(
        arguments.command,
        Command::SetContext(_)
            | Command::SetCluster(_)
            | Command::SetCredentials(_)
            | Command::Set { .. }
            | Command::Unset { .. }
    );
    let mut config = match global.merged() {
        // What is set may be the first there is.
        Err(_) if changes => json!({"current-context": ""}),
        merged => merged?,
    };
    canonical(&mut config);
    let current = config["current-context"].as_str().unwrap_or_default().to_owned();
    match arguments.command {
        Command::View { raw, minify, flatten, merge, output, template } => {
            let format = if output.is_empty() && template.is_empty() { "yaml" } else { &output };
            let shown = Output::parse(format, &template, false)?;
            if merge == Some(false) && global.kubeconfig.is_none() {
                return Err(Failure::text("if merge==false a precise file must be specified"));
            }
            if minify {
                keep_current(&mut config, global.context.as_deref().unwrap_or(&current))?;
            }
            if flatten {
                self::flatten(&mut config)?;
            }
            if !raw && !flatten {
                redact(&mut config);
            }
            canonical(&mut config);
            print!("{}", shown.show(&config, Some(&Resource::of_object(&config)))?);
            Ok(())
        }
        Command::CurrentContext => {
            if current.is_empty() {
                return Err(Failure::text("current-context is not set"));
            }
            println!("{current}");
            Ok(())
        }
        Command::UseContext { name } => change::use_context(global, has(&config, "contexts", &name), &name),
        Command::GetContexts { names, output, no_headers } => contexts(&config, &current, &names, &output, no_headers),
        Command::GetClusters => names_of(&config, "clusters"),
        Command::GetUsers => names_of(&config, "users"),
        Command::SetContext(context) => change::set_context(global, &current, &context),
        Command::SetCluster(cluster) => change::set_cluster(global, &cluster),
        Command::SetCredentials(user) => change::set_credentials(global, &user),
        Command::RenameContext { old, new } => change::rename_context(global, &current, &old, &new),
        Command::DeleteContext { name } => change::delete(global, "context", &current, &name),
        Command::DeleteCluster { name } => change::delete(global, "cluster", &current, &name),
        Command::DeleteUser { name } => change::delete(global, "user", &current, &name),
        Command::Set { property, value } => change::property(global, &property, Some(&value)),
        Command::Unset { property } => change::property(global, &property, None),
    }
}

fn has(config: &Value, list: &str, name: &str) -> bool {
    config[list].as_array().into_iter().flatten().any(|entry| entry["name"] == name)
}

fn names_of(config: &Value, list: &str) -> Result {
    println!("NAME");
    for entry in config[list].as_array().into_iter().flatten() {
        println!("{}", entry["name"].as_str().unwrap_or_default());
    }
    Ok(())
}

fn contexts(config: &Value, current: &str, names: &[String], output: &str, no_headers: bool) -> Result {
    if !matches!(output, "" | "name") {
        return Err(Failure::text(format!("output must be one of '' or 'name': {output:?}")));
    }
    let mut table = crate::print::Table::default();
    if !no_headers {
        table.row(["CURRENT", "NAME", "CLUSTER", "AUTHINFO", "NAMESPACE"].map(str::to_owned));
    }
    for context in config["contexts"].as_array().into_iter().flatten() {
        let text = |field: &str| context["context"][field].as_str().unwrap_or_default().to_owned();
        let name = context["name"].as_str().unwrap_or_default().to_owned();
        if !names.is_empty() && !names.contains(&name) {
            continue;
        }
        if output == "name" {
            println!("{name}");
            continue;
        }
        let star = if name == current { "*" } else { "" };
        table.row([star.to_owned(), name, text("cluster"), text("user"), text("namespace")]);
    }
    if output.is_empty() {
        print!("{table}");
    }
    match names.iter().find(|name| !has(config, "contexts", name)) {
        Some(missing) => Err(Failure::text(format!("context {missing} not found"))),
        None => Ok(()),
    }
}

/// Puts the contents of files in place of their names.
fn flatten(config: &mut Value) -> Result {
    for (list, section, fields) in [
        ("clusters", "cluster", ["certificate-authority"].as_slice()),
        ("users", "user", ["client-certificate", "client-key"].as_slice()),
    ] {
        for entry in config[list].as_array_mut().into_iter().flatten() {
            for field in fields {
                let Some(map) = entry.get_mut(section).and_then(Value::as_object_mut) else { continue };
                let Some(path) = map.get(*field).and_then(Value::as_str).filter(|path| !path.is_empty()) else {
                    continue;
                };
                let bytes = std::fs::read(path).map_err(|e| Failure::text(format!("open {path}: {e}")))?;
                map.insert(format!("{field}-data"), STANDARD.encode(bytes).into());
                map.remove(*field);
            }
        }
    }
    Ok(())
}

/// Leaves a context, and what it uses.
fn keep_current(config: &mut Value, current: &str) -> Result {
    if current.is_empty() {
        return Err(Failure::text("current-context must exist in order to minify"));
    }
    config["current-context"] = current.into();
    let context = config["contexts"].as_array().into_iter().flatten().find(|c| c["name"] == current);
    let uses = |field: &str| context.and_then(|c| c["context"][field].as_str()).unwrap_or_default().to_owned();
    let kept = [
        ("context", "contexts", current.to_owned()),
        ("cluster", "clusters", uses("cluster")),
        ("user", "users", uses("user")),
    ];
    for (what, list, name) in kept {
        if !name.is_empty() && !has(config, list, &name) {
            return Err(Failure::text(format!("cannot locate {what} {name}")));
        }
        if let Some(entries) = config[list].as_array_mut() {
            entries.retain(|entry| entry["name"] == *name);
        }
    }
    Ok(())
}

/// As upstream writes it: in the order of the names, nothing where a list has no entry or a field no value.
fn canonical(config: &mut Value) {
    for (list, section) in [("clusters", "cluster"), ("contexts", "context"), ("users", "user")] {
        let Some(entries) = config[list].as_array_mut().filter(|entries| !entries.is_empty()) else {
            config[list] = Value::Null;
            continue;
        };
        entries.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
        for fields in entries.iter_mut().filter_map(|entry| entry.get_mut(section)?.as_object_mut()) {
            let empty = |value: &Value| matches!(value, Value::Null | Value::Bool(false)) || *value == "";
            fields.retain(|name, value| matches!(name.as_str(), "server" | "cluster" | "user") || !empty(value));
            if let Some(exec) = fields.get_mut("exec").and_then(Value::as_object_mut) {
                // Of these upstream writes each.
                for (name, default) in
                    [("args", Value::Null), ("env", Value::Null), ("provideClusterInfo", false.into())]
                {
                    exec.entry(name).or_insert(default);
                }
            }
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
    fn a_view_shows_no_secret() {
        let mut config = json!({"clusters": [{"name": "c", "cluster": {"certificate-authority-data": "x"}}],
            "users": [{"name": "u", "user": {"client-key-data": "secret", "token": "secret"}}]});
        redact(&mut config);
        assert!(!config.to_string().contains("secret"));
    }

    #[test]
    fn a_context_is_kept_with_what_it_uses() {
        let named = |list: &str, names: &[&str]| -> Value {
            names
                .iter()
                .map(|name| json!({"name": name, list: {"insecure-skip-tls-verify": false, "server": ""}}))
                .collect()
        };
        let context = |name: &str, cluster: &str| json!({"name": name, "context": {"cluster": cluster, "user": "u"}});
        let whole = json!({"current-context": "a", "clusters": named("cluster", &["z", "c"]), "users": named("user", &["u", "v"]),
            "contexts": [context("a", "c"), context("broken", "nope")]});
        let kept = |current: &str| {
            let mut config = whole.clone();
            keep_current(&mut config, current).map_err(|e| e.to_string())?;
            let names = |list: &str| config[list].as_array().map_or(0, Vec::len);
            Ok::<_, String>((names("clusters"), names("contexts"), names("users")))
        };
        assert_eq!(kept("a"), Ok((1, 1, 1)));
        assert_eq!(kept(""), Err("current-context must exist in order to minify".to_owned()));
        assert_eq!(kept("no"), Err("cannot locate context no".to_owned()));
        assert_eq!(kept("broken"), Err("cannot locate cluster nope".to_owned()));
        let mut config = whole.clone();
        config["users"] = json!([]);
        canonical(&mut config);
        assert_eq!(
            config["clusters"],
            json!([{"name": "c", "cluster": {"server": ""}}, {"name": "z", "cluster": {"server": ""}}])
        );
        assert_eq!(config["users"], Value::Null);
    }
}
