//! OpenAPI documents, made on demand from the schema facts and the descriptors.
//!
//! Written piece by piece as text, since a whole document as a tree would take more memory than the rest of an idle server.
//! `kubectl explain` and client-side validation read them: they want the kinds on definitions and operations, merge keys
//! on lists, and the parameters `dryRun` and `fieldValidation` on PATCH.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use crate::resource::root_path;
use crate::strategy::Descriptor;

mod custom;
mod gnostic;
mod paths;
mod schemas;

/// The two forms of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flavour {
    Swagger2,
    OpenApi3,
}

/// Seen by clients as the version of the API.
const VERSION: &str = "v1.36.0";

/// `/openapi/v3`: each path (`api/v1`, `apis/apps/v1`) with the [`hash`] of its document.
pub fn v3_index(documents: &[(String, String)]) -> Value {
    let paths: serde_json::Map<String, Value> = documents
        .iter()
        .map(|(path, hash)| (path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")})))
        .collect();
    json!({ "paths": paths })
}

/// The OpenAPI v3 document of one group version, as JSON; `descriptors` are those of the group version.
pub fn v3_document(group: &str, version: &str, descriptors: &[&Descriptor]) -> Vec<u8> {
    let mut out = Document::open(json!({"openapi": "3.0.0", "info": info()}));
    out.section(
        "paths",
        [root(group, version, Flavour::OpenApi3)].into_iter().chain(paths_of(descriptors, Flavour::OpenApi3)),
    );
    out.text.push_str(",\"components\":{\"securitySchemes\":");
    out.text.push_str(&bearer().to_string());
    schemas::each(descriptors, Flavour::OpenApi3, &mut |definitions| out.section("schemas", definitions));
    out.text.push_str("}}");
    out.text.into_bytes()
}

/// What other servers add to the Swagger document: names and values.
#[derive(Debug, Default)]
pub struct Others {
    pub paths: Vec<(String, Value)>,
    pub definitions: Vec<(String, Value)>,
}

/// The Swagger 2.0 document of everything that is served, as JSON.
pub fn v2_document(descriptors: &[&Descriptor], others: &[&Others]) -> Vec<u8> {
    let mut out = Document::open(swagger());
    out.section("paths", all_paths(descriptors, others));
    schemas::each(descriptors, Flavour::Swagger2, &mut |definitions| {
        out.section("definitions", &mut with_definitions(definitions, others));
    });
    out.text.push('}');
    out.text.into_bytes()
}

/// The same as `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`, without which kubectl <= 1.28 validates nothing.
pub fn v2_protobuf(descriptors: &[&Descriptor], others: &[&Others]) -> Vec<u8> {
    let mut out = gnostic::document(&swagger());
    gnostic::paths(&mut out, all_paths(descriptors, others));
    schemas::each(descriptors, Flavour::Swagger2, &mut |definitions| {
        gnostic::definitions(&mut out, &mut with_definitions(definitions, others));
    });
    out
}

fn all_paths(descriptors: &[&Descriptor], others: &[&Others]) -> impl Iterator<Item = (String, Value)> {
    let theirs = others.iter().flat_map(|others| others.paths.iter().cloned());
    roots(descriptors).into_iter().chain(paths_of(descriptors, Flavour::Swagger2)).chain(theirs)
}

/// Of definitions with the same name the first one counts: those that servers share are the ones of Kubernetes' libraries.
fn with_definitions<'a>(
    ours: &'a mut schemas::Definitions<'_>,
    others: &'a [&Others],
) -> impl Iterator<Item = (String, Value)> + 'a {
    let mut seen = BTreeSet::new();
    let theirs = others.iter().flat_map(|others| others.definitions.iter().cloned());
    ours.chain(theirs).filter(move |(name, _)| others.is_empty() || seen.insert(name.clone()))
}

/// Identifies the documents about these descriptors, for `ETag` and `?hash=`, without making them.
pub fn hash(descriptors: &[&Descriptor]) -> String {
    let mut digest = Sha512::new();
    digest.update(crate::schema::fingerprint());
    for descriptor in descriptors {
        let Descriptor { gvr, gvk, list_kind, namespaced, subresources, verbs, .. } = descriptor;
        let identity = descriptor.strategy.identity();
        digest.update(format!("{gvr:?}{gvk:?}{list_kind}{namespaced}{subresources:?}{verbs:?}{identity}\n"));
    }
    digest.finalize().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02X}").expect("writing to memory");
        hex
    })
}

/// An object that is written member by member.
struct Document {
    text: String,
}

impl Document {
    fn open(head: Value) -> Self {
        let mut text = head.to_string();
        text.pop();
        Self { text }
    }

    fn section(&mut self, name: &str, members: impl Iterator<Item = (String, Value)>) {
        write!(self.text, ",\"{name}\":{{").expect("writing to memory");
        for (nth, (name, value)) in members.enumerate() {
            let comma = if nth > 0 { "," } else { "" };
            write!(self.text, "{comma}{}:{value}", Value::String(name)).expect("writing to memory");
        }
        self.text.push('}');
    }
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": VERSION})
}

fn bearer() -> Value {
    let description = "Bearer Token authentication";
    json!({"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header", "description": description}})
}

fn swagger() -> Value {
    json!({"swagger": "2.0", "info": info(), "securityDefinitions": bearer(), "security": [{"BearerToken": []}]})
}

fn paths_of(descriptors: &[&Descriptor], flavour: Flavour) -> impl Iterator<Item = (String, Value)> {
    descriptors.iter().flat_map(move |descriptor| paths::of(descriptor, flavour))
}

fn roots(descriptors: &[&Descriptor]) -> Vec<(String, Value)> {
    let versions: BTreeSet<_> = descriptors.iter().map(|d| (&*d.gvr.group, &*d.gvr.version)).collect();
    versions.into_iter().map(|(group, version)| root(group, version, Flavour::Swagger2)).collect()
}

/// The discovery document of a group version.
fn root(group: &str, version: &str, flavour: Flavour) -> (String, Value) {
    (format!("{}/", root_path(group, version)), paths::discovery(group, version, flavour))
}

#[cfg(test)]
mod tests;
