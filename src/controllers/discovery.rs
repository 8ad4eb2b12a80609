//! What resources the API server has.

use http::Method;
use serde::Deserialize;
use skiff_api::{Gvk, Gvr};
use skiff_base::chain;
use skiff_client::{Client, Result};

/// One resource, in the version that the server prefers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    pub gvr: Gvr,
    pub gvk: Gvk,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Served {
    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|has| has == verb))
    }

    /// The path of its objects, or of one of them.
    pub fn path(&self, namespace: &str, name: &str) -> String {
        let mut path = self.gvr.root_path();
        if self.namespaced && !namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(&self.gvr.resource);
        if !name.is_empty() {
            path.push('/');
            path.push_str(name);
        }
        path
    }
}

/// All of them, and the groups that could not be asked (their servers may be away).
#[derive(Debug, Clone, Default)]
pub struct Discovered {
    pub resources: Vec<Served>,
    pub failed: Vec<String>,
}

#[derive(Deserialize)]
struct Groups {
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    preferred_version: GroupVersion,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupVersion {
    group_version: String,
}

#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    kind: String,
    #[serde(default)]
    namespaced: bool,
    #[serde(default)]
    verbs: Vec<String>,
}

pub async fn discover(client: &Client) -> Result<Discovered> {
    let groups: Groups = client.call(Method::GET, "/apis", None).await?;
    let mut discovered = Discovered::default();
    let versions = groups.groups.into_iter().map(|group| group.preferred_version.group_version);
    for group_version in std::iter::once("v1".to_owned()).chain(versions) {
        let (group, version) = group_version.split_once('/').unwrap_or(("", &group_version));
        let path = Gvr::new(group, version, "").root_path();
        match client.call::<Resources>(Method::GET, &path, None).await {
            Ok(answer) => {
                // Those with a slash are subresources.
                let plain = answer.resources.into_iter().filter(|resource| !resource.name.contains('/'));
                discovered.resources.extend(plain.map(|resource| Served {
                    gvr: Gvr::new(group, version, &resource.name),
                    gvk: Gvk::new(group, version, &resource.kind),
                    namespaced: resource.namespaced,
                    verbs: resource.verbs,
                }));
            }
            Err(error) => {
                tracing::warn!(%group_version, error = %chain(&error), "resources not discovered");
                discovered.failed.push(group_version);
            }
        }
    }
    Ok(discovered)
}
