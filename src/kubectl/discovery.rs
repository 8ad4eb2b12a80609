//! The resource types that the server has, under all the names that people call them by.

use std::borrow::Cow;

use serde_json::Value;

use crate::server::Server;
use crate::{Failure, Result};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resource {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    /// Plural.
    pub name: String,
    pub kind: String,
    pub singular: String,
    pub namespaced: bool,
    pub short_names: Vec<String>,
    pub verbs: Vec<String>,
    pub categories: Vec<String>,
    /// `status`, `scale` ...
    pub subresources: Vec<String>,
}

impl Resource {
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    pub fn root_path(&self) -> String {
        if self.group.is_empty() { format!("/api/{}", self.version) } else { format!("/apis/{}", self.api_version()) }
    }

    /// `deployments.apps`; plain `pods` in the core group.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.name.clone() } else { format!("{}.{}", self.name, self.group) }
    }

    /// `deployment.apps/x`, as output names objects.
    pub fn label(&self, name: &str) -> String {
        format!("{}/{name}", self.qualified_singular())
    }

    pub fn qualified_singular(&self) -> String {
        let singular = self.kind.to_ascii_lowercase();
        if self.group.is_empty() { singular } else { format!("{singular}.{}", self.group) }
    }

    /// `apps/v1, Kind=Deployment`, as Go prints a kind.
    pub fn gvk_text(&self) -> String {
        format!("{}/{}, Kind={}", self.group, self.version, self.kind)
    }

    /// What an object says of itself, for work without a server.
    pub fn of_object(object: &Value) -> Self {
        let api_version = object["apiVersion"].as_str().unwrap_or_default();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = text(object, "kind");
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            name: kind.to_ascii_lowercase(),
            kind,
            ..Self::default()
        }
    }

    /// What an answer for an object of this type is of: a subresource may have a kind of its own.
    pub fn in_answer(&self, object: &Value) -> Cow<'_, Self> {
        match object["kind"].as_str() {
            Some(kind) if kind != self.kind => Cow::Owned(Self::of_object(object)),
            _ => Cow::Borrowed(self),
        }
    }

    pub fn gvk(&self) -> skiff_api::Gvk {
        skiff_api::Gvk::new(&self.group, &self.version, &self.kind)
    }
}

/// All resource types, preferred versions first.
#[derive(Debug, Default)]
pub struct Discovery {
    pub resources: Vec<Resource>,
    /// `v1`, `apps/v1` ...
    pub versions: Vec<String>,
}

impl Discovery {
    pub async fn ask(server: &Server) -> Result<Self> {
        let mut discovery = Self::default();
        for root in ["/api", "/apis"] {
            let document = server.get_as(root, AGGREGATED).await?;
            if document["kind"] == "APIGroupDiscoveryList" {
                discovery.aggregated(&document);
            } else {
                discovery.plain(server, root, &document).await?;
            }
        }
        Ok(discovery)
    }

    fn aggregated(&mut self, document: &Value) {
        for group in items(document, "items") {
            let name = text(&group["metadata"], "name");
            for version in items(group, "versions") {
                let at = Resource { group: name.clone(), version: text(version, "version"), ..Resource::default() };
                self.versions.push(at.api_version());
                for resource in items(version, "resources") {
                    self.resources.push(Resource {
                        name: text(resource, "resource"),
                        kind: text(&resource["responseKind"], "kind"),
                        singular: text(resource, "singularResource"),
                        namespaced: resource["scope"] == "Namespaced",
                        short_names: texts(resource, "shortNames"),
                        verbs: texts(resource, "verbs"),
                        categories: texts(resource, "categories"),
                        subresources: items(resource, "subresources").map(|s| text(s, "subresource")).collect(),
                        ..at.clone()
                    });
                }
            }
        }
    }

    /// One document per group version: servers before 1.26.
    async fn plain(&mut self, server: &Server, root: &str, document: &Value) -> Result {
        let versions: Vec<(String, String)> = match root {
            "/api" => texts(document, "versions").into_iter().map(|version| (String::new(), version)).collect(),
            _ => items(document, "groups")
                .flat_map(|group| items(group, "versions").map(|v| (text(group, "name"), text(v, "version"))))
                .collect(),
        };
        for (group, version) in versions {
            let at = Resource { group, version, ..Resource::default() };
            self.versions.push(at.api_version());
            let list = server.get(&at.root_path()).await?;
            for resource in items(&list, "resources") {
                let name = text(resource, "name");
                if let Some((of, subresource)) = name.split_once('/') {
                    let owner = self.resources.iter_mut().rev().find(|r| r.name == of && r.group == at.group);
                    owner.into_iter().for_each(|owner| owner.subresources.push(subresource.to_owned()));
                    continue;
                }
                self.resources.push(Resource {
                    kind: text(resource, "kind"),
                    singular: text(resource, "singularName"),
                    namespaced: resource["namespaced"] == true,
                    short_names: texts(resource, "shortNames"),
                    verbs: texts(resource, "verbs"),
                    categories: texts(resource, "categories"),
                    name,
                    ..at.clone()
                });
            }
        }
        Ok(())
    }

    /// By plural, singular, kind or short name, perhaps with `.group` or `.version.group`.
    pub fn find(&self, word: &str) -> Result<&Resource> {
        let word = word.to_ascii_lowercase();
        let (name, rest) = word.split_once('.').map_or((word.as_str(), None), |(name, rest)| (name, Some(rest)));
        let group_fits = |resource: &Resource| match rest {
            None => true,
            Some(rest) => {
                rest == resource.group
                    || rest
                        .split_once('.')
                        .is_some_and(|(version, group)| version == resource.version && group == resource.group)
                    || (resource.group.is_empty() && rest.trim_end_matches('.') == resource.version)
            }
        };
        let named = |resource: &&Resource| {
            resource.name == name || resource.singular == name || resource.kind.eq_ignore_ascii_case(name)
        };
        let short = |resource: &&Resource| resource.short_names.iter().any(|short| short == name);
        let candidates = || self.resources.iter().filter(|resource| group_fits(resource));
        candidates()
            .find(named)
            .or_else(|| candidates().find(short))
            .ok_or_else(|| Failure::text(format!("the server doesn't have a resource type {name:?}")))
    }

    pub fn of_kind(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        self.resources.iter().find(|resource| resource.kind == kind && resource.api_version() == api_version)
    }

    /// Those of a category such as `all`, each once.
    pub fn in_category(&self, category: &str) -> Vec<&Resource> {
        let mut found: Vec<&Resource> = Vec::new();
        for resource in self.resources.iter().filter(|r| r.categories.iter().any(|c| c == category)) {
            if !found.iter().any(|known| known.name == resource.name && known.group == resource.group) {
                found.push(resource);
            }
        }
        found
    }
}

fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[field].as_array().into_iter().flatten()
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    items(value, field).filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    pub fn sample() -> Discovery {
        let resource = |name: &str, singular: &str, kind: &str, short: &[&str], scope: &str| {
            json!({"resource": name, "singularResource": singular, "responseKind": {"kind": kind}, "scope": scope,
                "shortNames": short, "verbs": ["get", "list", "watch"], "categories": ["all"]})
        };
        let mut discovery = Discovery::default();
        discovery.aggregated(&json!({"items": [
            {"metadata": {}, "versions": [{"version": "v1", "resources": [
                resource("pods", "pod", "Pod", &["po"], "Namespaced"), resource("nodes", "node", "Node", &["no"], "Cluster"),
                resource("events", "event", "Event", &["ev"], "Namespaced"), resource("services", "service", "Service", &["svc"], "Namespaced")]}]},
            {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [
                resource("deployments", "deployment", "Deployment", &["deploy"], "Namespaced")]}]},
            {"metadata": {"name": "events.k8s.io"}, "versions": [{"version": "v1", "resources": [
                resource("events", "event", "Event", &["ev"], "Namespaced")]}]}]}));
        discovery
    }

    #[test]
    fn people_have_many_names_for_a_type() {
        let discovery = sample();
        for (word, expect) in [
            ("po", "pods"),
            ("Pod", "pods"),
            ("pods.v1", "pods"),
            ("deploy", "deployments.apps"),
            ("deployments.apps", "deployments.apps"),
            ("deployment.v1.apps", "deployments.apps"),
            ("ev", "events"),
            ("events.events.k8s.io", "events.events.k8s.io"),
        ] {
            assert_eq!(discovery.find(word).map(Resource::qualified).ok().as_deref(), Some(expect), "{word}");
        }
        let error = discovery.find("boats").expect_err("unknown").to_string();
        assert_eq!(error, "the server doesn't have a resource type \"boats\"");
        let error = discovery.find("boats.sea.io").expect_err("unknown").to_string();
        assert_eq!(error, "the server doesn't have a resource type \"boats\"");
        assert_eq!(discovery.find("deploy").expect("known").label("x"), "deployment.apps/x");
    }
}
