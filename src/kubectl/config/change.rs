//! `kubectl config set-...`, `delete-...`, `rename-context`, `set`, `unset`: changes of kubeconfig files.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Map, Value, json};
use skiff_api::yaml;

use super::Global;
use crate::{Failure, Result};

#[derive(Args)]
pub struct SetContext {
    #[arg(default_value = "")]
    name: String,
    /// Change the current context
    #[arg(long)]
    current: bool,
    #[arg(long)]
    cluster: Option<String>,
    #[arg(long)]
    user: Option<String>,
}

#[derive(Args)]
pub struct SetCluster {
    name: String,
    /// The file with the certificate authority
    #[arg(long)]
    certificate_authority: Option<PathBuf>,
    /// Put the file's content into the kubeconfig
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    embed_certs: String,
    #[arg(long)]
    tls_server_name: Option<String>,
    #[arg(long)]
    proxy_url: Option<String>,
}

#[derive(Args)]
pub struct SetCredentials {
    name: String,
    #[arg(long)]
    client_certificate: Option<PathBuf>,
    #[arg(long)]
    client_key: Option<PathBuf>,
    /// Put the files' contents into the kubeconfig
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    embed_certs: String,
    #[arg(long)]
    username: Option<String>,
    #[arg(long)]
    password: Option<String>,
}

/// A kubeconfig file of its own, not merged with others.
struct File {
    path: PathBuf,
    content: Value,
}

impl File {
    fn read(path: PathBuf) -> Result<Self> {
        let content = match std::fs::read_to_string(&path) {
            Ok(text) => {
                let failed = |e| Failure::text(format!("error loading config file {:?}: {e}", path.display()));
                yaml::document(&text).map_err(failed)?.value
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Value::Null,
            Err(e) => return Err(Failure::text(format!("open {}: {e}", path.display()))),
        };
        let content = if content.is_object() { content } else { json!({"apiVersion": "v1", "kind": "Config"}) };
        Ok(Self { path, content })
    }

    /// Beside it and then in its place, readable by its owner alone: it holds keys.
    fn write(&self) -> Result {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let beside = self.path.with_extension("lock");
        let write = || -> std::io::Result<()> {
            if let Some(directory) = self.path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
                std::fs::create_dir_all(directory)?;
            }
            let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            out.write_all(yaml::to_string(&self.content).as_bytes())?;
            out.sync_all()?;
            std::fs::rename(&beside, &self.path)
        };
        write().map_err(|e| Failure::text(format!("write {}: {e}", self.path.display())))
    }

    fn entries(&mut self, list: &str) -> &mut Vec<Value> {
        if !self.content[list].is_array() {
            self.content[list] = json!([]);
        }
        self.content[list].as_array_mut().expect("it was made a list")
    }

    fn has(&self, list: &str, name: &str) -> bool {
        self.content[list].as_array().into_iter().flatten().any(|entry| entry["name"] == name)
    }
}

/// The file that has the entry, or else the first that may be written to.
fn file_of(global: &Global, list: &str, name: &str) -> Result<File> {
    let files = global.files();
    for path in files.iter().filter(|path| path.exists()) {
        let file = File::read(path.clone())?;
        if file.has(list, name) {
            return Ok(file);
        }
    }
    match global.new_file().or_else(|| files.into_iter().next()) {
        Some(path) => File::read(path),
        None => Err(Failure::text("there is no kubeconfig file to write to")),
    }
}

/// Changes the entry of a name, which is made where there is none. Tells whether it was there.
fn change(
    global: &Global,
    list: &str,
    section: &str,
    name: &str,
    edit: impl FnOnce(&mut Map<String, Value>) -> Result,
) -> Result<bool> {
    let mut file = file_of(global, list, name)?;
    let entries = file.entries(list);
    let found = entries.iter().position(|entry| entry["name"] == name);
    let at = found.unwrap_or_else(|| {
        entries.push(json!({"name": name, (section): {}}));
        entries.len() - 1
    });
    if !entries[at][section].is_object() {
        entries[at][section] = json!({});
    }
    edit(entries[at][section].as_object_mut().expect("it was made an object"))?;
    file.write()?;
    Ok(found.is_some())
}

fn set(map: &mut Map<String, Value>, field: &str, value: Option<&str>) {
    match value {
        Some("") => drop(map.remove(field)),
        Some(value) => drop(map.insert(field.to_owned(), value.into())),
        None => {}
    }
}

/// A file by its path or its content; the other form goes.
fn set_file(map: &mut Map<String, Value>, field: &str, path: Option<&Path>, embed: bool) -> Result {
    let Some(path) = path else { return Ok(()) };
    let data = format!("{field}-data");
    if embed {
        let bytes = std::fs::read(path)
            .map_err(|e| Failure::text(format!("could not read {field} data from {}: {e}", path.display())))?;
        map.insert(data, STANDARD.encode(bytes).into());
        map.remove(field);
    } else {
        let whole = std::path::absolute(path).map_err(|e| Failure::text(format!("{}: {e}", path.display())))?;
        map.insert(field.to_owned(), whole.to_string_lossy().into_owned().into());
        map.remove(&data);
    }
    Ok(())
}

pub fn set_context(global: &Global, current: &str, arguments: &SetContext) -> Result {
    let name = match (arguments.current, arguments.name.as_str()) {
        (true, "") if current.is_empty() => return Err(Failure::text("no current context is set")),
        (true, "") => current,
        (true, _) => return Err(Failure::text("you cannot specify both a context name and --current")),
        (false, "") => return Err(Failure::text("you must specify a non-empty context name or --current")),
        (false, name) => name,
    };
    let there = change(global, "contexts", "context", name, |context| {
        set(context, "cluster", arguments.cluster.as_deref());
        set(context, "user", arguments.user.as_deref());
        set(context, "namespace", global.namespace.as_deref());
        Ok(())
    })?;
    println!("Context {name:?} {}.", if there { "modified" } else { "created" });
    Ok(())
}

pub fn set_cluster(global: &Global, arguments: &SetCluster) -> Result {
    let name = &arguments.name;
    change(global, "clusters", "cluster", name, |cluster| {
        set(cluster, "server", global.server.as_deref());
        set(cluster, "tls-server-name", arguments.tls_server_name.as_deref());
        set(cluster, "proxy-url", arguments.proxy_url.as_deref());
        if global.insecure_skip_tls_verify {
            cluster.insert("insecure-skip-tls-verify".into(), true.into());
            cluster.remove("certificate-authority");
            cluster.remove("certificate-authority-data");
        }
        let embed = arguments.embed_certs == "true";
        set_file(cluster, "certificate-authority", arguments.certificate_authority.as_deref(), embed)
    })?;
    println!("Cluster {name:?} set.");
    Ok(())
}

pub fn set_credentials(global: &Global, arguments: &SetCredentials) -> Result {
    let name = &arguments.name;
    if global.token.is_some() && (arguments.username.is_some() || arguments.password.is_some()) {
        return Err(Failure::text(
            "you cannot specify more than one authentication method at the same time: --token or --username/--password",
        ));
    }
    change(global, "users", "user", name, |user| {
        set(user, "token", global.token.as_deref());
        set(user, "username", arguments.username.as_deref());
        set(user, "password", arguments.password.as_deref());
        let embed = arguments.embed_certs == "true";
        set_file(user, "client-certificate", arguments.client_certificate.as_deref(), embed)?;
        set_file(user, "client-key", arguments.client_key.as_deref(), embed)
    })?;
    println!("User {name:?} set.");
    Ok(())
}

/// `what` is `context`, `cluster` or `user`.
pub fn delete(global: &Global, what: &str, current: &str, name: &str) -> Result {
    let list = format!("{what}s");
    let mut file = file_of(global, &list, name)?;
    if !file.has(&list, name) {
        return Err(Failure::text(format!("cannot delete {what} {name}, not in {}", file.path.display())));
    }
    file.entries(&list).retain(|entry| entry["name"] != name);
    file.write()?;
    if what == "context" && current == name {
        eprintln!(
            "warning: this removed your active context, use \"kubectl config use-context\" to select a different one"
        );
    }
    println!("deleted {what} {name} from {}", file.path.display());
    Ok(())
}

pub fn rename_context(global: &Global, current: &str, old: &str, new: &str) -> Result {
    let mut file = file_of(global, "contexts", old)?;
    if !file.has("contexts", old) {
        return Err(Failure::text(format!("cannot rename the context {old:?}, it's not in {}", file.path.display())));
    }
    if file.has("contexts", new) {
        return Err(Failure::text(format!(
            "cannot rename the context {old:?}, the context {new:?} already exists in {}",
            file.path.display()
        )));
    }
    for entry in file.entries("contexts").iter_mut().filter(|entry| entry["name"] == old) {
        entry["name"] = new.into();
    }
    if current == old {
        file.content["current-context"] = new.into();
    }
    file.write()?;
    println!("Context {old:?} renamed to {new:?}.");
    Ok(())
}

/// `current-context`, or `users.NAME.FIELD` and the like. `value: None` removes it.
pub fn property(global: &Global, name: &str, value: Option<&str>) -> Result {
    let done = if value.is_some() { "set" } else { "unset" };
    let told = || {
        println!("Property {name:?} {done}.");
        Ok(())
    };
    if name == "current-context" {
        let mut file = file_of(global, "contexts", value.unwrap_or_default())?;
        file.content["current-context"] = value.unwrap_or_default().into();
        file.write()?;
        return told();
    }
    let (list, rest) = name.split_once('.').unwrap_or((name, ""));
    let section = match list {
        "clusters" => "cluster",
        "contexts" => "context",
        "users" => "user",
        _ => return Err(Failure::text(format!("unable to locate path: {name}"))),
    };
    // The name of an entry may hold dots; its fields don't.
    let (entry, field) = match rest.rsplit_once('.') {
        Some((entry, field)) => (entry, field),
        None if value.is_none() && !rest.is_empty() => (rest, ""),
        None => return Err(Failure::text(format!("unable to locate path: {name}"))),
    };
    if field.is_empty() {
        let mut file = file_of(global, list, entry)?;
        file.entries(list).retain(|known| known["name"] != entry);
        file.write()?;
        return told();
    }
    change(global, list, section, entry, |map| {
        match value {
            Some(text) => {
                let parsed =
                    if field == "insecure-skip-tls-verify" { Value::from(text == "true") } else { text.into() };
                map.insert(field.to_owned(), parsed);
            }
            None => drop(map.remove(field)),
        }
        Ok(())
    })?;
    told()
}

pub fn use_context(global: &Global, known: bool, name: &str) -> Result {
    if !known {
        return Err(Failure::text(format!("no context exists with the name: {name:?}")));
    }
    let Some(path) = global.files().into_iter().find(|file| file.exists()) else {
        return Err(Failure::text("there is no kubeconfig file to write to"));
    };
    let mut file = File::read(path)?;
    file.content["current-context"] = name.into();
    file.write()?;
    println!("Switched to context {name:?}.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_made_changed_renamed_and_deleted() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config");
        let global = Global { kubeconfig: Some(path.clone()), server: Some("https://x".into()), ..Global::default() };
        let read = || File::read(path.clone()).expect("a file").content;
        let certificate = directory.path().join("ca.pem");
        std::fs::write(&certificate, "pem").expect("written");
        let cluster = SetCluster {
            name: "c".into(),
            certificate_authority: Some(certificate),
            embed_certs: "true".into(),
            tls_server_name: None,
            proxy_url: None,
        };
        set_cluster(&global, &cluster).expect("set");
        assert_eq!(
            read()["clusters"],
            json!([{"name": "c", "cluster": {"server": "https://x", "certificate-authority-data": "cGVt"}}])
        );
        let context =
            SetContext { name: "a".into(), current: false, cluster: Some("c".into()), user: Some("u".into()) };
        set_context(&global, "", &context).expect("made");
        property(&global, "users.u.token", Some("t")).expect("set");
        use_context(&global, true, "a").expect("used");
        rename_context(&global, "a", "a", "b").expect("renamed");
        assert_eq!(read()["current-context"], "b");
        assert_eq!(read()["contexts"], json!([{"name": "b", "context": {"cluster": "c", "user": "u"}}]));
        assert_eq!(read()["users"], json!([{"name": "u", "user": {"token": "t"}}]));
        property(&global, "users.u.token", None).expect("unset");
        assert_eq!(read()["users"][0]["user"], json!({}));
        delete(&global, "context", "b", "b").expect("deleted");
        assert_eq!(read()["contexts"], json!([]));
        assert!(delete(&global, "context", "", "b").is_err());
        assert!(use_context(&global, false, "z").is_err());
    }
}
