//! Reading a CustomResourceDefinition.

use std::cmp::Ordering;
use std::sync::{Arc, OnceLock, RwLock};

use serde_json::Value;

use super::columns::columns;
use super::strategy::{Custom, DefinitionBytes, Source};
use crate::object::Object;
use crate::resource::{Gvk, Gvr};
use crate::strategy::{Descriptor, ScalePaths, Subresource};

pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// A definition as rows of the registry.
pub struct Definition {
    pub name: String,
    pub group: String,
    /// Where its objects are stored: `<group>/<plural>`.
    pub storage: String,
    /// All versions, the preferred one first.
    pub versions: Vec<Version>,
    pub conversion: Conversion,
    /// No object can be made any more.
    pub terminating: bool,
    bytes: DefinitionBytes,
}

/// One version of a definition.
pub struct Version {
    pub descriptor: Arc<Descriptor>,
    pub served: bool,
    /// The version that objects are stored in; it may be one that is not served.
    pub stored: bool,
}

/// `spec.conversion`.
#[derive(Debug, Clone, PartialEq)]
pub enum Conversion {
    /// Only `apiVersion` differs.
    None,
    Webhook(Webhook),
}

/// `spec.conversion.webhook`.
#[derive(Debug, Clone, PartialEq)]
pub struct Webhook {
    pub review_versions: Vec<String>,
    pub url: Option<String>,
    /// Namespace, name, path and port.
    pub service: Option<(String, String, String, u16)>,
    /// PEM.
    pub ca_bundle: Vec<u8>,
}

fn text(value: &Value, path: &str) -> String {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn texts(value: &Value, path: &str) -> Vec<String> {
    let all = value.pointer(path).and_then(Value::as_array).into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Definition {
    /// What to serve for a definition whose names were accepted (`names` is `status.acceptedNames`).
    pub fn read(object: &Object, names: &Value, terminating: bool) -> Option<Self> {
        let crd: Value = serde_json::from_slice(object.raw()).ok()?;
        let (group, plural) = (text(&crd, "/spec/group"), text(&crd, "/spec/names/plural"));
        let storage = format!("{group}/{plural}");
        let versions = crd.pointer("/spec/versions")?.as_array()?;
        let mut fields: Vec<String> = versions.iter().flat_map(selectable).collect();
        fields.sort();
        fields.dedup();
        let fields: Arc<[String]> = fields.into();
        let bytes = Arc::new(RwLock::new(object.raw().clone()));
        let version = |(index, version): (usize, &Value)| Version {
            descriptor: Arc::new(describe(object, &crd, index, names, &fields, &bytes, terminating)),
            served: version["served"] == true,
            stored: version["storage"] == true,
        };
        let mut versions: Vec<Version> = versions.iter().enumerate().map(version).collect();
        versions.sort_by(|a, b| compare_versions(&b.descriptor.gvr.version, &a.descriptor.gvr.version));
        let name = object.meta.name.to_string();
        Some(Self { name, group, storage, versions, conversion: conversion(&crd), terminating, bytes })
    }

    /// Takes over the bytes of a later revision with the same spec, so that those of the earlier one can go.
    pub fn renew(&self, object: &Object) {
        *self.bytes.write().expect("nothing panics with the bytes") = object.raw().clone();
    }

    /// The descriptor of a version, by `apiVersion`.
    pub fn version(&self, api_version: &str) -> Option<&Arc<Descriptor>> {
        let name = api_version.strip_prefix(&*self.group)?.strip_prefix('/')?;
        self.versions.iter().map(|version| &version.descriptor).find(|descriptor| &*descriptor.gvr.version == name)
    }
}

/// The paths of `selectableFields`, without the leading dot.
fn selectable(version: &Value) -> Vec<String> {
    let fields = version["selectableFields"].as_array().into_iter().flatten();
    let paths = fields.filter_map(|field| field["jsonPath"].as_str());
    paths.map(|path| path.trim_start_matches('.').to_owned()).collect()
}

fn conversion(crd: &Value) -> Conversion {
    if text(crd, "/spec/conversion/strategy") != "Webhook" {
        return Conversion::None;
    }
    let config = crd.pointer("/spec/conversion/webhook/clientConfig").cloned().unwrap_or_default();
    let service = config.get("service").filter(|service| service.is_object()).map(|service| {
        let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
        (text(service, "/namespace"), text(service, "/name"), text(service, "/path"), port)
    });
    use base64::Engine as _;
    let ca_bundle = base64::engine::general_purpose::STANDARD.decode(text(&config, "/caBundle")).unwrap_or_default();
    Conversion::Webhook(Webhook {
        review_versions: texts(crd, "/spec/conversion/webhook/conversionReviewVersions"),
        url: config.get("url").and_then(Value::as_str).map(str::to_owned),
        service,
        ca_bundle: if ca_bundle.trim_ascii().is_empty() { Vec::new() } else { ca_bundle },
    })
}

/// Whether the authority of the conversion webhook can be read; without a webhook there is nothing to read.
pub fn authority_is_valid(crd: &Value) -> bool {
    let bundle = text(crd, "/spec/conversion/webhook/clientConfig/caBundle");
    bundle.is_empty() || crate::kinds::apiextensions::ca_bundle_is_valid(&bundle)
}

fn describe(
    object: &Object,
    crd: &Value,
    index: usize,
    names: &Value,
    fields: &Arc<[String]>,
    bytes: &DefinitionBytes,
    terminating: bool,
) -> Descriptor {
    let version = &crd["spec"]["versions"][index];
    let (group, version_name) = (text(crd, "/spec/group"), text(version, "/name"));
    let kind = text(names, "/kind");
    let gvk = Gvk::new(&group, &version_name, &kind);
    let namespaced = text(crd, "/spec/scope") == "Namespaced";
    let has_status = version.pointer("/subresources/status").is_some();
    let scale = version.pointer("/subresources/scale").map(|scale| ScalePaths {
        spec: text(scale, "/specReplicasPath"),
        status: text(scale, "/statusReplicasPath"),
        selector: Some(text(scale, "/labelSelectorPath")).filter(|path| !path.is_empty()),
    });
    let mut subresources = Vec::new();
    subresources.extend(has_status.then_some(Subresource::Status));
    subresources.extend(scale.is_some().then_some(Subresource::Scale));
    let declared = version["additionalPrinterColumns"].as_array().cloned().unwrap_or_default();
    let (columns, printers) = columns(&declared);
    let custom = Custom {
        gvk: gvk.clone(),
        namespaced,
        has_status,
        scale,
        printers,
        fields: fields.clone(),
        selectable: selectable(version),
        deprecation: deprecation(crd, version),
        identity: format!("{} {}", object.meta.uid, object.meta.generation.unwrap_or(0)),
        source: Source { definition: bytes.clone(), version: index },
        schema: OnceLock::new(),
        merge_type: OnceLock::new(),
    };
    let verbs: &[&str] = match terminating {
        true => &["delete", "deletecollection", "get", "list", "watch"],
        false => &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"],
    };
    Descriptor {
        gvr: Gvr::new(&group, &version_name, &text(names, "/plural")),
        gvk,
        list_kind: text(names, "/listKind"),
        singular: text(names, "/singular"),
        short_names: texts(names, "/shortNames"),
        categories: texts(names, "/categories"),
        namespaced,
        subresources,
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        columns,
        strategy: Arc::new(custom),
        storage: format!("{group}/{}", text(names, "/plural")),
    }
}

/// What clients of a deprecated version are told.
fn deprecation(crd: &Value, version: &Value) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    if let Some(warning) = version["deprecationWarning"].as_str() {
        return Some(warning.to_owned());
    }
    let (group, kind, name) = (text(crd, "/spec/group"), text(crd, "/spec/names/kind"), text(version, "/name"));
    let all = crd["spec"]["versions"].as_array().into_iter().flatten();
    let better = all.filter(|v| v["served"] == true && v["deprecated"] != true).map(|v| text(v, "/name"));
    let newest =
        better.filter(|other| compare_versions(&name, other) == Ordering::Less).max_by(|a, b| compare_versions(a, b));
    let instead = newest.map(|newest| format!("; use {group}/{newest} {kind}")).unwrap_or_default();
    Some(format!("{group}/{name} {kind} is deprecated{instead}"))
}

/// Kubernetes' order of versions: `v2` over `v1` over `v1beta2` over `v1alpha1` over everything else, which goes by name.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    match (version_parts(a), version_parts(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        // The first name is the newest.
        (None, None) => b.cmp(a),
    }
}

/// Stability, major number, minor number.
fn version_parts(version: &str) -> Option<(u8, u64, u64)> {
    let rest = version.strip_prefix('v')?;
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (major, rest) = rest.split_at(digits(rest));
    let number = |text: &str| text.parse().ok().filter(|_| !text.starts_with('0'));
    let major = number(major)?;
    if rest.is_empty() {
        return Some((3, major, 0));
    }
    let (stability, minor) = match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
        (Some(minor), _) => (2, minor),
        (_, Some(minor)) => (1, minor),
        _ => return None,
    };
    Some((stability, major, number(minor)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_an_order() {
        let mut versions =
            ["v1alpha1", "foo10", "v1", "v10", "v2beta1", "foo1", "v2", "v1beta2", "v3beta1", "v11alpha2"];
        versions.sort_by(|a, b| compare_versions(b, a));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v3beta1", "v2beta1", "v1beta2", "v11alpha2", "v1alpha1", "foo1", "foo10"]
        );
    }
}
