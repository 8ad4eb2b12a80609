//! Objects made from flags.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use skiff_api::names;

use crate::kustomize::short_hash;
use crate::print::{compact, os_error};
use crate::writing::Writing;
use crate::{Failure, Result};

#[derive(Args)]
pub struct Named {
    name: String,
    #[command(flatten)]
    writing: Writing,
}

impl Named {
    pub fn object(self, kind: &str) -> (Value, Writing) {
        (json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": self.name}}), self.writing)
    }
}

#[derive(Args)]
pub struct Deployment {
    name: String,
    /// Image names to run
    #[arg(long, required = true, value_delimiter = ',')]
    image: Vec<String>,
    /// Number of replicas to create
    #[arg(short, long, default_value = "1")]
    replicas: i32,
    /// The port that the container exposes
    #[arg(long)]
    port: Option<u16>,
    /// The command of the container
    #[arg(last = true)]
    command: Vec<String>,
    #[command(flatten)]
    writing: Writing,
}

impl Deployment {
    pub fn object(self) -> Result<(Value, Writing)> {
        if self.image.len() > 1 && !self.command.is_empty() {
            return Err(Failure::text("cannot specify multiple --image options and command"));
        }
        let containers: Vec<Value> = self
            .image
            .iter()
            .map(|image| {
                let mut container = json!({"name": container_name(image), "image": image, "resources": {}});
                if !self.command.is_empty() {
                    container["command"] = json!(self.command);
                }
                if let Some(port) = self.port {
                    container["ports"] = json!([{"containerPort": port}]);
                }
                container
            })
            .collect();
        let labels = json!({"app": self.name});
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": self.name, "labels": labels},
            "spec": {"replicas": self.replicas, "selector": {"matchLabels": labels}, "strategy": {},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}}},
        });
        Ok((object, self.writing))
    }
}

/// `registry/x/busybox:1.2@sha256:...` to `busybox`.
fn container_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    let name = last.split(['@', ':']).next().unwrap_or(last);
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

#[derive(Args)]
pub struct Data {
    name: String,
    /// A key and a literal value: mykey=somevalue
    #[arg(long)]
    from_literal: Vec<String>,
    /// A file, a directory, or key=file
    #[arg(long)]
    from_file: Vec<String>,
    /// A file of lines of key=value
    #[arg(long)]
    from_env_file: Vec<String>,
    /// Append a hash of what it holds to its name
    #[arg(long)]
    append_hash: bool,
    #[command(flatten)]
    writing: Writing,
}

/// Puts a hash of what the object holds behind its name.
fn with_hash(object: &mut Value) {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut counted = json!({"kind": object["kind"], "name": name, "data": object.get("data").unwrap_or(&json!({}))});
    if object["kind"] == "Secret" {
        counted["type"] = object.get("type").cloned().unwrap_or_else(|| "".into());
    }
    if let Some(binary) = object.get("binaryData") {
        counted["binaryData"] = binary.clone();
    }
    object["metadata"]["name"] = format!("{name}-{}", short_hash(&counted)).into();
}

impl Data {
    /// `encode_all`: the field for texts takes base64, too.
    pub fn object(self, kind: &str, texts: &str, binaries: &str, ty: Option<&str>) -> Result<(Value, Writing)> {
        let mut entries: Vec<(String, Vec<u8>)> = Vec::new();
        for literal in &self.from_literal {
            let (key, value) = literal
                .split_once('=')
                .filter(|(key, _)| !key.is_empty())
                .ok_or_else(|| Failure::text(format!("invalid literal source {literal}, expected key=value")))?;
            entries.push((key.to_owned(), value.trim_matches(['"', '\'']).as_bytes().to_vec()));
        }
        for source in &self.from_file {
            read_files(source, &mut entries)?;
        }
        for file in &self.from_env_file {
            read_env(file, &mut entries)?;
        }
        let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": self.name}});
        if let Some(ty) = ty {
            object["type"] = ty.into();
        }
        let (mut plain, mut encoded) = (Map::new(), Map::new());
        for (key, bytes) in entries {
            if plain.contains_key(&key) || encoded.contains_key(&key) {
                return Err(Failure::text(format!(
                    "cannot add key {key:?}, another key by that name already exists in Data for {kind} {:?}",
                    self.name
                )));
            }
            match String::from_utf8(bytes) {
                Ok(text) if kind == "ConfigMap" => drop(plain.insert(key, text.into())),
                Ok(text) => drop(encoded.insert(key, STANDARD.encode(text).into())),
                Err(e) => drop(encoded.insert(key, STANDARD.encode(e.into_bytes()).into())),
            }
        }
        for (field, map) in [(texts, plain), (binaries, encoded)] {
            if !map.is_empty() {
                object[field] = Value::Object(map);
            }
        }
        if self.append_hash {
            with_hash(&mut object);
        }
        Ok((object, self.writing))
    }
}

/// The text in base64 of a secret.
pub fn decoded(text: &str) -> String {
    STANDARD.decode(text).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| {
        let path = path.display();
        Failure::text(format!("Cannot read file {path}, open {path}: {}", os_error(&e)))
    })
}

fn read_files(source: &str, entries: &mut Vec<(String, Vec<u8>)>) -> Result {
    if let Some((key, file)) = source.split_once('=') {
        entries.push((key.to_owned(), read(Path::new(file))?));
        return Ok(());
    }
    let path = Path::new(source);
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if !path.is_dir() {
        entries.push((name(path), read(path)?));
        return Ok(());
    }
    let failed = |e: std::io::Error| Failure::text(format!("error reading {source}: {e}"));
    let mut files: Vec<_> = std::fs::read_dir(path)
        .map_err(failed)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()
        .map_err(failed)?;
    files.sort();
    for file in files.iter().filter(|file| file.is_file()) {
        entries.push((name(file), read(file)?));
    }
    Ok(())
}

fn read_env(file: &str, entries: &mut Vec<(String, Vec<u8>)>) -> Result {
    let text = String::from_utf8_lossy(&read(Path::new(file))?).into_owned();
    for line in text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        // A name alone takes its value from the environment, as upstream.
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key, value.to_owned()),
            None => (line, std::env::var(line).unwrap_or_default()),
        };
        let wrong = names::env_var_name(key);
        if !wrong.is_empty() {
            return Err(Failure::text(format!("{key:?} is not a valid key name: {}", wrong.join(";"))));
        }
        entries.push((key.to_owned(), value.into_bytes()));
    }
    Ok(())
}

#[derive(Subcommand)]
pub enum Secret {
    /// Create a secret from files, directories, or literal values
    Generic(Generic),
    /// Create a TLS secret
    Tls(Tls),
    /// Create a secret for use with a registry
    DockerRegistry(DockerRegistry),
}

#[derive(Args)]
pub struct Generic {
    #[command(flatten)]
    data: Data,
    /// The type of secret to create
    #[arg(long = "type")]
    ty: Option<String>,
}

#[derive(Args)]
pub struct Tls {
    name: String,
    /// Path to the PEM encoded certificate
    #[arg(long)]
    cert: String,
    /// Path to the private key of the certificate
    #[arg(long)]
    key: String,
    /// Append a hash of what it holds to its name
    #[arg(long)]
    append_hash: bool,
    #[command(flatten)]
    writing: Writing,
}

#[derive(Args)]
pub struct DockerRegistry {
    name: String,
    /// Server location of the registry
    #[arg(long, default_value = "https://index.docker.io/v1/")]
    docker_server: String,
    #[arg(long)]
    docker_username: String,
    #[arg(long)]
    docker_password: String,
    #[arg(long)]
    docker_email: Option<String>,
    /// Append a hash of what it holds to its name
    #[arg(long)]
    append_hash: bool,
    #[command(flatten)]
    writing: Writing,
}

impl Secret {
    pub fn object(self) -> Result<(Value, Writing)> {
        match self {
            Self::Generic(generic) => generic.data.object("Secret", "data", "data", generic.ty.as_deref()),
            Self::Tls(tls) => {
                let files = [read(Path::new(&tls.cert))?, read(Path::new(&tls.key))?];
                skiff_pki::check_pair(&files[0], &files[1]).map_err(|why| Failure::text(format!("tls: {why}")))?;
                let [certificate, key] = files.map(|bytes| STANDARD.encode(bytes));
                let mut object = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
                    "metadata": {"name": tls.name}, "data": {"tls.crt": certificate, "tls.key": key}});
                if tls.append_hash {
                    with_hash(&mut object);
                }
                Ok((object, tls.writing))
            }
            Self::DockerRegistry(registry) => {
                let (user, password) = (&registry.docker_username, &registry.docker_password);
                // The fields in upstream's order, so that the same flags give the same secret.
                let text = |text: &str| compact(&Value::from(text));
                let mut entry = format!("\"username\":{},\"password\":{}", text(user), text(password));
                if let Some(email) = &registry.docker_email {
                    entry += &format!(",\"email\":{}", text(email));
                }
                entry += &format!(",\"auth\":{}", text(&STANDARD.encode(format!("{user}:{password}"))));
                let config = format!("{{\"auths\":{{{}:{{{entry}}}}}}}", text(&registry.docker_server));
                let mut object = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
                    "metadata": {"name": registry.name}, "data": {".dockerconfigjson": STANDARD.encode(config)}});
                if registry.append_hash {
                    with_hash(&mut object);
                }
                Ok((object, registry.writing))
            }
        }
    }
}

#[derive(Subcommand)]
pub enum Service {
    /// Create a ClusterIP service
    #[command(name = "clusterip")]
    ClusterIp(Ports),
    /// Create a NodePort service
    #[command(name = "nodeport")]
    NodePort(Ports),
    /// Create a LoadBalancer service
    #[command(name = "loadbalancer")]
    LoadBalancer(Ports),
    /// Create an ExternalName service
    #[command(name = "externalname")]
    ExternalName(External),
}

#[derive(Args)]
pub struct Ports {
    name: String,
    /// Ports as '<port>' or '<port>:<targetPort>'
    #[arg(long, value_delimiter = ',')]
    tcp: Vec<String>,
    /// The address of the service, or 'None' for a headless one
    #[arg(long)]
    clusterip: Option<String>,
    /// The port on every node
    #[arg(long)]
    node_port: Option<u16>,
    #[command(flatten)]
    writing: Writing,
}

#[derive(Args)]
pub struct External {
    name: String,
    /// The name that the service stands for
    #[arg(long)]
    external_name: String,
    #[command(flatten)]
    writing: Writing,
}

impl Service {
    pub fn object(self) -> Result<(Value, Writing)> {
        let (ty, ports) = match self {
            Self::ClusterIp(ports) => ("ClusterIP", ports),
            Self::NodePort(ports) => ("NodePort", ports),
            Self::LoadBalancer(ports) => ("LoadBalancer", ports),
            Self::ExternalName(external) => {
                let labels = json!({"app": external.name});
                let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": external.name, "labels": labels},
                    "spec": {"type": "ExternalName", "externalName": external.external_name, "selector": labels}});
                return Ok((object, external.writing));
            }
        };
        if ports.tcp.is_empty() && ports.clusterip.as_deref() != Some("None") {
            return Err(Failure::text("at least one tcp port specifier must be provided"));
        }
        let mut list = Vec::new();
        for text in &ports.tcp {
            let (port, target) = text.split_once(':').unwrap_or((text, text));
            let number: u16 = port.parse().map_err(|_| Failure::text(format!("unable to parse port {port:?}")))?;
            let target = target.parse::<u16>().map_or_else(|_| Value::from(target), Value::from);
            let mut entry =
                json!({"name": text.replace(':', "-"), "protocol": "TCP", "port": number, "targetPort": target});
            if let Some(node_port) = ports.node_port {
                entry["nodePort"] = node_port.into();
            }
            list.push(entry);
        }
        let labels = json!({"app": ports.name});
        let mut object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": ports.name, "labels": labels},
            "spec": {"type": ty, "selector": labels}});
        if !list.is_empty() {
            object["spec"]["ports"] = Value::Array(list);
        }
        if let Some(address) = &ports.clusterip {
            object["spec"]["clusterIP"] = address.as_str().into();
        }
        Ok((object, ports.writing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_named_after_their_image() {
        for (image, name) in [("nginx", "nginx"), ("r:5000/a/Busy_box:1.2", "busy-box"), ("x@sha256:00", "x")] {
            assert_eq!(container_name(image), name);
        }
    }
}
