//! What is served, for clients that find it out at run time.

use std::cmp::Ordering;
use std::sync::Arc;

use http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use skiff_api::ApiError;
use skiff_api::custom::definition::compare_versions;
use skiff_api::strategy::{Descriptor, Subresource};

use crate::aggregation::register::{GROUP_PRIORITY, VERSION_PRIORITY};
use crate::aggregation::{Priority, Remote, Table};
use crate::call::Call;
use crate::defaults;
use crate::error::{method_not_allowed, path_not_found};
use crate::negotiate::{aggregated_discovery, negotiate};
use crate::registry::{Registry, Row};
use crate::reply::Reply;
use crate::reviews;
use crate::server::Server;
use crate::usage;

/// One line of a resource list that is no row of the registry: a subresource, or a review.
struct Extra {
    name: String,
    group: &'static str,
    version: &'static str,
    kind: String,
    verbs: Vec<&'static str>,
}

impl Server {
    /// `None` where the path is no discovery document.
    pub(crate) fn discovery(&self, call: &Call) -> Option<Result<Reply, ApiError>> {
        let segments: Vec<&str> = call.segments.iter().map(String::as_str).collect();
        if !matches!(segments.as_slice(), ["api"] | ["apis"] | ["api", _] | ["apis", _] | ["apis", _, _]) {
            return None;
        }
        if call.method != http::Method::GET && call.method != http::Method::HEAD {
            return Some(Err(method_not_allowed()));
        }
        let registry = self.registry.load();
        let groups = self.groups();
        if let (["api"] | ["apis"], Some(version)) =
            (segments.as_slice(), aggregated_discovery(call.header(http::header::ACCEPT)))
        {
            return Some(Ok(aggregated_reply(call, &registry, &groups, segments[0] == "api", version)));
        }
        Some(negotiate(call.header(http::header::ACCEPT), false).and_then(|_| {
            let document = match segments.as_slice() {
                ["api"] => Some(self.core_versions()),
                ["apis"] => Some(group_list(&groups)),
                ["api", version] => resources(&registry, "", version),
                ["apis", name] => group(&groups, name),
                ["apis", group, version] => resources(&registry, group, version),
                _ => None,
            };
            document.map(|d| Reply::value(200, &d)).ok_or_else(path_not_found)
        }))
    }

    fn core_versions(&self) -> Value {
        let address = format!("{}:{}", self.options.advertise_ip, self.local.port());
        json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
        })
    }
}

/// A group with its versions, the preferred one first.
pub(crate) struct Group {
    pub name: String,
    pub versions: Vec<Version>,
}

pub(crate) struct Version {
    pub name: String,
    /// Who serves it, where that is not this server.
    remote: Option<Arc<Remote>>,
}

impl Server {
    /// Everything that is served here and behind this server, by the priorities of the APIServices.
    pub(crate) fn groups(&self) -> Vec<Group> {
        all_groups(&self.registry.load(), &self.aggregation.table())
    }
}

/// The built-in ones, those that hold only reviews, those that definitions and other servers make.
fn all_groups(registry: &Registry, table: &Table) -> Vec<Group> {
    let own = |version: &str| Version { name: version.to_owned(), remote: None };
    let mut all: Vec<Group> = Vec::new();
    for (name, versions) in registry.groups() {
        all.push(Group { name: name.to_owned(), versions: versions.into_iter().map(own).collect() });
    }
    for review in reviews::ALL {
        if !all.iter().any(|group| group.name == review.group) {
            all.push(Group { name: review.group.to_owned(), versions: vec![own("v1")] });
        }
    }
    // Another server for it takes its place.
    all.push(Group { name: usage::GROUP.to_owned(), versions: vec![own(usage::VERSION)] });
    for remote in &table.remotes {
        let at = all.iter().position(|group| group.name == remote.group).unwrap_or_else(|| {
            all.push(Group { name: remote.group.clone(), versions: Vec::new() });
            all.len() - 1
        });
        let versions = &mut all[at].versions;
        versions.retain(|version| version.name != remote.version);
        versions.push(Version { name: remote.version.clone(), remote: Some(remote.clone()) });
    }
    let priority = |group: &str, version: &str| {
        let known = table.priority(group, version).or_else(|| defaults::priority(group, version));
        known.unwrap_or(Priority { group: GROUP_PRIORITY, version: VERSION_PRIORITY })
    };
    for Group { name, versions } in &mut all {
        let of = |version: &Version| priority(name, &version.name).version;
        let by_name = registry.is_custom_group(name) && !reviews::ALL.iter().any(|review| review.group == name);
        versions.sort_by(|a, b| {
            let by_priority = of(b).cmp(&of(a));
            // The order of built-in versions is the registry's.
            by_priority.then_with(|| if by_name { compare_versions(&b.name, &a.name) } else { Ordering::Equal })
        });
    }
    let highest = |group: &Group| group.versions.iter().map(|version| priority(&group.name, &version.name).group).max();
    all.sort_by_key(|group| std::cmp::Reverse(highest(group)));
    all
}

fn group_value(group: &Group) -> Value {
    let version = |v: &Version| json!({"groupVersion": format!("{}/{}", group.name, v.name), "version": v.name});
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    json!({"name": group.name, "preferredVersion": versions[0], "versions": versions})
}

fn group_list(groups: &[Group]) -> Value {
    let groups: Vec<Value> = groups.iter().filter(|group| !group.name.is_empty()).map(group_value).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group(groups: &[Group], name: &str) -> Option<Value> {
    let mut value = group_value(groups.iter().find(|group| group.name == name && !name.is_empty())?);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

fn in_version<'a>(registry: &'a Registry, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Row> {
    let rows = registry.rows().iter().map(|row| &**row);
    rows.filter(move |row| row.group() == group && &*row.descriptor.gvr.version == version)
}

fn extras(descriptor: &Descriptor) -> Vec<Extra> {
    let one = |subresource: &Subresource| {
        let own = descriptor.gvk.kind.to_string();
        let (name, group, version, kind, verbs) = match subresource {
            Subresource::Status => ("status", "", "", own, vec!["get", "patch", "update"]),
            Subresource::Scale => ("scale", "autoscaling", "v1", "Scale".to_owned(), vec!["get", "patch", "update"]),
            Subresource::Special(name) => match *name {
                "approval" => ("approval", "", "", own, vec!["get", "patch", "update"]),
                "attach" => ("attach", "", "", "PodAttachOptions".to_owned(), vec!["create", "get"]),
                "binding" => ("binding", "", "", "Binding".to_owned(), vec!["create"]),
                "ephemeralcontainers" => ("ephemeralcontainers", "", "", own, vec!["get", "patch", "update"]),
                "resize" => ("resize", "", "", own, vec!["get", "patch", "update"]),
                "eviction" => ("eviction", "policy", "v1", "Eviction".to_owned(), vec!["create"]),
                "exec" => ("exec", "", "", "PodExecOptions".to_owned(), vec!["create", "get"]),
                "finalize" => ("finalize", "", "", own, vec!["update"]),
                "log" => ("log", "", "", own, vec!["get"]),
                "portforward" => ("portforward", "", "", "PodPortForwardOptions".to_owned(), vec!["create", "get"]),
                "proxy" => {
                    let kind = format!("{own}ProxyOptions");
                    ("proxy", "", "", kind, vec!["create", "delete", "get", "patch", "update"])
                }
                "token" => ("token", "authentication.k8s.io", "v1", "TokenRequest".to_owned(), vec!["create"]),
                // Not served: not listed.
                _ => return None,
            },
        };
        Some(Extra { name: name.to_owned(), group, version, kind, verbs })
    };
    let mut all: Vec<Extra> = descriptor.subresources.iter().filter_map(one).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for row in in_version(registry, group, version) {
        let descriptor = &row.descriptor;
        list.push(resource(row));
        for extra in extras(descriptor) {
            let mut line = json!({
                "name": format!("{}/{}", descriptor.gvr.resource, extra.name), "singularName": "",
                "namespaced": descriptor.namespaced, "kind": extra.kind, "verbs": extra.verbs,
            });
            if !extra.version.is_empty() {
                line["group"] = extra.group.into();
                line["version"] = extra.version.into();
            }
            list.push(line);
        }
    }
    for review in reviews::ALL.iter().filter(|r| r.group == group && version == "v1") {
        list.push(json!({
            "name": review.resource, "singularName": review.kind.to_lowercase(), "namespaced": review.namespaced,
            "kind": review.kind, "verbs": ["create"],
        }));
    }
    for measured in usage::of(group, version) {
        list.push(json!({
            "name": measured.resource, "singularName": "", "namespaced": measured.namespaced,
            "kind": measured.kind, "verbs": usage::VERBS,
        }));
    }
    if list.is_empty() {
        return None;
    }
    list.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": list}))
}

fn resource(row: &Row) -> Value {
    let descriptor = &row.descriptor;
    let mut line = json!({
        "name": &*descriptor.gvr.resource, "singularName": descriptor.singular, "namespaced": descriptor.namespaced,
        "kind": &*descriptor.gvk.kind, "verbs": descriptor.verbs,
    });
    // All versions tell the version that is stored. What is never stored can not be watched either.
    if row.allows("watch") {
        line["storageVersionHash"] = storage_hash(&row.home().descriptor).into();
    }
    names(&mut line, descriptor);
    line
}

fn names(line: &mut Value, descriptor: &Descriptor) {
    if !descriptor.short_names.is_empty() {
        line["shortNames"] = json!(descriptor.short_names);
    }
    if !descriptor.categories.is_empty() {
        line["categories"] = json!(descriptor.categories);
    }
}

fn storage_hash(descriptor: &Descriptor) -> String {
    use base64::Engine as _;
    let gvk = &descriptor.gvk;
    let digest = Sha256::digest(format!("{}/{}/{}", gvk.group, gvk.version, gvk.kind));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

fn aggregated_reply(call: &Call, registry: &Registry, groups: &[Group], core: bool, version: &str) -> Reply {
    let body = aggregated(registry, groups, core, version).to_string();
    let tag = format!("\"{}\"", hex(&Sha256::digest(&body)));
    let known = call.header(IF_NONE_MATCH).is_some_and(|tags| tags.split(',').any(|t| t.trim() == tag));
    let mut reply = if known { Reply::json(304, "") } else { Reply::json(200, body) };
    let content_type = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    reply.set(CONTENT_TYPE, &content_type);
    reply.set(ETAG, &tag);
    reply.set(VARY, "Accept");
    reply
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect()
}

/// `APIGroupDiscoveryList`.
fn aggregated(registry: &Registry, groups: &[Group], core: bool, version: &str) -> Value {
    let items: Vec<Value> = groups
        .iter()
        .filter(|group| group.name.is_empty() == core)
        .map(|Group { name: group, versions }| {
            let versions: Vec<Value> =
                versions.iter().map(|version| aggregated_version(registry, group, version)).collect();
            let mut metadata = Map::new();
            if !group.is_empty() {
                metadata.insert("name".to_owned(), group.as_str().into());
            }
            metadata.insert("creationTimestamp".to_owned(), Value::Null);
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {},
        "items": items,
    })
}

fn aggregated_version(registry: &Registry, group: &str, version: &Version) -> Value {
    let Some(remote) = &version.remote else {
        let resources = aggregated_resources(registry, group, &version.name);
        return json!({"version": version.name, "freshness": "Current", "resources": resources});
    };
    // A server that is away keeps its place, so that clients know that something is missing.
    let freshness = if remote.found.fresh { "Current" } else { "Stale" };
    let mut value = json!({"version": version.name, "freshness": freshness});
    if !remote.found.resources.is_empty() {
        value["resources"] = remote.found.resources.clone().into();
    }
    value
}

fn aggregated_resources(registry: &Registry, group: &str, version: &str) -> Vec<Value> {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut list = Vec::new();
    for row in in_version(registry, group, version) {
        let descriptor = &row.descriptor;
        let gvk = &descriptor.gvk;
        // As upstream: built-in kinds of the resource's own group and version do not repeat them, custom ones do.
        let own = if row.custom.is_some() { (&*gvk.group, &*gvk.version) } else { ("", "") };
        let mut line = json!({
            "resource": &*descriptor.gvr.resource, "responseKind": kind(own.0, own.1, &gvk.kind),
            "scope": if descriptor.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": descriptor.singular, "verbs": descriptor.verbs,
        });
        names(&mut line, descriptor);
        let subresources: Vec<Value> = extras(descriptor)
            .iter()
            .map(|extra| {
                let (g, v) = if extra.version.is_empty() { own } else { (extra.group, extra.version) };
                json!({"subresource": extra.name, "responseKind": kind(g, v, &extra.kind), "verbs": extra.verbs})
            })
            .collect();
        if !subresources.is_empty() {
            line["subresources"] = subresources.into();
        }
        list.push(line);
    }
    for review in reviews::ALL.iter().filter(|r| r.group == group && version == "v1") {
        list.push(json!({
            "resource": review.resource, "responseKind": kind("", "", review.kind),
            "scope": if review.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": review.kind.to_lowercase(), "verbs": ["create"],
        }));
    }
    for measured in usage::of(group, version) {
        list.push(json!({
            "resource": measured.resource, "responseKind": kind("", "", measured.kind),
            "scope": if measured.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": "", "verbs": usage::VERBS,
        }));
    }
    list.sort_by(|a, b| a["resource"].as_str().cmp(&b["resource"].as_str()));
    list
}
