//! Objects from files, directories and stdin.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;
use skiff_api::{decode, yaml};

use crate::discovery::Resource;
use crate::kustomize;
use crate::server::Server;
use crate::targets::Found;
use crate::{Failure, Result};

#[derive(Args, Debug, Default, Clone)]
pub struct Files {
    /// File or directory that contains the configuration; `-` is stdin
    #[arg(short, long = "filename", value_name = "FILE", value_delimiter = ',')]
    pub filename: Vec<String>,
    /// Process the directory used in -f recursively
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Process a kustomization directory
    #[arg(short = 'k', long, value_name = "DIR")]
    pub kustomize: Option<PathBuf>,
}

/// One object, and where it came from.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub object: Value,
    /// A path, or `STDIN`.
    pub source: String,
}

impl Files {
    pub fn is_empty(&self) -> bool {
        self.filename.is_empty() && self.kustomize.is_none()
    }

    pub fn read(&self) -> Result<Vec<Manifest>> {
        let mut manifests = Vec::new();
        if let Some(directory) = &self.kustomize {
            if !self.filename.is_empty() {
                return Err(Failure::text("only one of -f or -k can be specified"));
            }
            let objects = kustomize::build(directory, false, kustomize::Order::Legacy)?;
            let source = directory.display().to_string();
            manifests.extend(objects.into_iter().map(|object| Manifest { object, source: source.clone() }));
        }
        for name in &self.filename {
            if name == "-" {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).map_err(|e| Failure::text(format!("read stdin: {e}")))?;
                parse(&text, "STDIN", &mut manifests)?;
            } else if name.starts_with("http://") || name.starts_with("https://") {
                return Err(Failure::text(format!(
                    "{name}: this kubectl reads no URLs; pipe the file into it: curl -sfL {name} | kubectl ... -f -"
                )));
            } else {
                for path in self.expand(Path::new(name))? {
                    let text = std::fs::read_to_string(&path)
                        .map_err(|e| Failure::text(format!("read {}: {e}", path.display())))?;
                    parse(&text, &path.display().to_string(), &mut manifests)?;
                }
            }
        }
        // What has no name or namespace that can be read would be made under another one.
        for manifest in &manifests {
            decode::check_metadata(&manifest.object)
                .map_err(|why| Failure::text(format!("unable to decode {:?}: {why}", manifest.source)))?;
        }
        Ok(manifests)
    }

    /// The objects as they are in the files, for work without a server.
    pub fn found(&self) -> Result<Vec<Found>> {
        let manifests = self.read()?.into_iter();
        Ok(manifests.map(|m| Found { resource: Resource::of_object(&m.object), object: m.object }).collect())
    }

    fn expand(&self, path: &Path) -> Result<Vec<PathBuf>> {
        if !path.exists() {
            return Err(Failure::text(format!("the path {:?} does not exist", path.display().to_string())));
        }
        if !path.is_dir() {
            return Ok(vec![path.to_owned()]);
        }
        let failed = |e: std::io::Error| Failure::text(format!("read {}: {e}", path.display()));
        let mut entries: Vec<PathBuf> = std::fs::read_dir(path)
            .map_err(failed)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<_>>()
            .map_err(failed)?;
        entries.sort();
        let mut files = Vec::new();
        for entry in entries {
            if entry.is_dir() {
                if self.recursive {
                    files.extend(self.expand(&entry)?);
                }
            } else if entry.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
                files.push(entry);
            }
        }
        Ok(files)
    }
}

/// Adds the objects of a text; lists give their items.
fn parse(text: &str, source: &str, manifests: &mut Vec<Manifest>) -> Result {
    for value in documents(text, source)? {
        let kind = value["kind"].as_str().unwrap_or_default();
        if kind.is_empty() {
            return Err(Failure::text(format!(
                "error validating {source:?}: error validating data: kind not set; every object needs apiVersion and kind"
            )));
        }
        if value["apiVersion"].as_str().unwrap_or_default().is_empty() {
            return Err(Failure::text(format!(
                "error validating {source:?}: error validating data: apiVersion not set"
            )));
        }
        match value.get("items").and_then(Value::as_array).filter(|_| kind.ends_with("List")) {
            Some(items) => {
                manifests.extend(items.iter().map(|item| Manifest { object: item.clone(), source: source.to_owned() }));
            }
            None => manifests.push(Manifest { object: value, source: source.to_owned() }),
        }
    }
    Ok(())
}

fn documents(text: &str, source: &str) -> Result<Vec<Value>> {
    // JSON may be indented by tabs, which YAML forbids.
    if text.trim_start().starts_with('{') {
        let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
        if let Ok(values) = values {
            return Ok(values);
        }
    }
    let documents = yaml::documents(text)
        .map_err(|e| Failure::text(format!("error parsing {source}: error converting YAML to JSON: {e}")))?;
    Ok(documents.into_iter().map(|document| document.value).collect())
}

impl Manifest {
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// The resource type; and sets the namespace where the object needs one and has none.
    pub async fn place<'a>(&mut self, server: &'a Server) -> Result<&'a Resource> {
        let api_version = self.object["apiVersion"].as_str().unwrap_or_default().to_owned();
        let kind = self.object["kind"].as_str().unwrap_or_default().to_owned();
        let Some(resource) = server.discovery().await?.of_kind(&api_version, &kind) else {
            return Err(Failure::text(format!(
                "resource mapping not found for name: {:?} namespace: {:?} from {:?}: no matches for kind {kind:?} in version {api_version:?}\nensure CRDs are installed first",
                self.name(),
                self.namespace(),
                self.source
            )));
        };
        if !resource.namespaced {
            return Ok(resource);
        }
        let own = self.namespace().to_owned();
        if own.is_empty() {
            self.object["metadata"]["namespace"] = server.namespace.as_str().into();
        } else if server.namespace_given && own != server.namespace {
            return Err(Failure::text(format!(
                "the namespace from the provided object {own:?} does not match the namespace {:?}. You must pass '--namespace={own}' to perform this operation.",
                server.namespace
            )));
        }
        Ok(resource)
    }

    pub fn namespace(&self) -> &str {
        self.object["metadata"]["namespace"].as_str().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_streams_lists_and_directories() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("written");
        write(
            "b.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: List\nitems:\n- {kind: Pod, apiVersion: v1, metadata: {name: b}}\n",
        );
        write("a.json", "{\n\t\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"j\"}}");
        write("c.txt", "not read");
        let files = |name: &str| Files { filename: vec![name.to_owned()], ..Files::default() };
        let found = files(&directory.path().display().to_string()).read().expect("read");
        let names: Vec<_> = found.iter().map(Manifest::name).collect();
        assert_eq!(names, ["j", "a", "b"]);
        let error = |name: &str| files(name).read().expect_err("refused").to_string();
        assert_eq!(error("/no/such"), "the path \"/no/such\" does not exist");
        assert!(error("https://x/y.yaml").contains("curl -sfL https://x/y.yaml"));
        write(
            "on.yaml",
            "kind: List\napiVersion: v1\nitems: [{kind: Pod, apiVersion: v1, metadata: {name: a, namespace: on}}]",
        );
        assert!(error(&directory.path().join("on.yaml").display().to_string()).ends_with(
            "on.yaml\": json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.namespace of type string"
        ));
        write("bad.yaml", "a: [");
        assert!(
            error(&directory.path().join("bad.yaml").display().to_string())
                .contains("error converting YAML to JSON: yaml: line")
        );
    }
}
