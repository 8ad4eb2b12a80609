//! Objects that remember how they were called, and lists of them without two of the same name.

use std::collections::HashMap;
use std::fmt;

use regex::Regex;
use serde_json::{Map, Value};
use skiff_api::selector::LabelSelector;
use skiff_api::yaml;

use crate::{Failure, Result};

/// Where objects that have no namespace are.
const NOWHERE: &str = "_non_namespaceable_";

/// What upstream calls a file that is no YAML.
pub const MALFORMED: &str = "MalformedYAMLError";

/// Kinds that have no namespace, by group. What is not known here may have one.
const CLUSTER: [(&str, &str); 16] = [
    ("", "ComponentStatus Namespace Node PersistentVolume"),
    (
        "admissionregistration.k8s.io",
        "MutatingWebhookConfiguration ValidatingWebhookConfiguration ValidatingAdmissionPolicy \
         ValidatingAdmissionPolicyBinding MutatingAdmissionPolicy MutatingAdmissionPolicyBinding",
    ),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("apiregistration.k8s.io", "APIService"),
    ("authentication.k8s.io", "TokenReview SelfSubjectReview"),
    ("authorization.k8s.io", "SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview"),
    ("certificates.k8s.io", "CertificateSigningRequest ClusterTrustBundle"),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema PriorityLevelConfiguration"),
    ("internal.apiserver.k8s.io", "StorageVersion"),
    ("networking.k8s.io", "IngressClass IPAddress ServiceCIDR"),
    ("node.k8s.io", "RuntimeClass"),
    ("policy", "PodSecurityPolicy"),
    ("rbac.authorization.k8s.io", "ClusterRole ClusterRoleBinding"),
    ("resource.k8s.io", "DeviceClass ResourceSlice"),
    ("scheduling.k8s.io", "PriorityClass"),
    ("storage.k8s.io", "CSIDriver CSINode StorageClass VolumeAttachment VolumeAttributesClass"),
];

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Id {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub name: String,
    pub namespace: String,
}

impl Id {
    pub fn is_cluster_scoped(&self) -> bool {
        let kinds = CLUSTER.iter().find(|(group, _)| *group == self.group).map_or("", |(_, kinds)| kinds);
        kinds.split_whitespace().any(|kind| kind == self.kind)
    }

    pub fn effective_namespace(&self) -> &str {
        match self.namespace.as_str() {
            _ if self.is_cluster_scoped() => NOWHERE,
            "" => "default",
            namespace => namespace,
        }
    }

    /// Whether both name the same object.
    pub fn is(&self, other: &Self) -> bool {
        self.name == other.name
            && (&self.group, &self.version, &self.kind) == (&other.group, &other.version, &other.kind)
            && self.effective_namespace() == other.effective_namespace()
    }

    /// Empty words fit all.
    pub fn has_type(&self, group: &str, version: &str, kind: &str) -> bool {
        let fits = |wanted: &str, own: &str| wanted.is_empty() || wanted == own;
        fits(group, &self.group) && fits(version, &self.version) && fits(kind, &self.kind)
    }
}

/// `Deployment.v1.apps/web.[noNs]`
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or = |text: &str, missing: &'static str| if text.is_empty() { missing.to_owned() } else { text.to_owned() };
        let (kind, version, group) =
            (or(&self.kind, "[noKind]"), or(&self.version, "[noVer]"), or(&self.group, "[noGrp]"));
        write!(f, "{kind}.{version}.{group}/{}.{}", or(&self.name, "[noName]"), or(&self.namespace, "[noNs]"))
    }
}

/// What a generated object does with one that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Behavior {
    #[default]
    Create,
    Merge,
    Replace,
}

#[derive(Debug, Clone, Default)]
pub struct Resource {
    pub object: Value,
    pub previous: Vec<Id>,
    pub prefixes: Vec<String>,
    pub suffixes: Vec<String>,
    /// It was generated, and its name shall tell what is in it.
    pub wants_hash: bool,
    pub behavior: Behavior,
}

impl Resource {
    pub fn of(object: Value) -> Self {
        Self { object, ..Self::default() }
    }

    pub fn id(&self) -> Id {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let api_version = text(&self.object["apiVersion"]);
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        Id {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: text(&self.object["kind"]),
            name: text(&self.object["metadata"]["name"]),
            namespace: text(&self.object["metadata"]["namespace"]),
        }
    }

    /// The one it had in its file.
    pub fn first_id(&self) -> Id {
        self.previous.first().cloned().unwrap_or_else(|| self.id())
    }

    /// All that it had, and the one that it has.
    pub fn ids(&self) -> Vec<Id> {
        self.previous.iter().cloned().chain([self.id()]).collect()
    }

    /// Before its name or namespace changes.
    pub fn remember(&mut self) {
        let mut id = self.id();
        id.namespace = id.effective_namespace().to_owned();
        self.previous.push(id);
    }

    pub fn set_name(&mut self, name: &str) {
        self.object["metadata"]["name"] = name.into();
    }

    /// Nothing is left of it.
    pub fn is_empty(&self) -> bool {
        self.object.as_object().is_none_or(Map::is_empty)
    }

    /// The object alone. Annotations are texts; a map of them that is empty goes.
    pub fn finished(mut self) -> Value {
        if let Some(metadata) = self.object["metadata"].as_object_mut()
            && let Some(annotations) = metadata.get_mut("annotations")
        {
            match annotations.as_object_mut().filter(|all| !all.is_empty()) {
                Some(all) => all.values_mut().for_each(|value| *value = super::field::text(value).into()),
                None => drop(metadata.remove("annotations")),
            }
        }
        self.object
    }
}

/// The objects of a text; lists give their items.
pub fn parse(text: &str) -> Result<Vec<Resource>> {
    let documents =
        yaml::documents_with(text, yaml::Booleans::Two).map_err(|e| Failure::text(format!("{MALFORMED}: {e}")))?;
    let mut waiting: std::collections::VecDeque<Value> = documents.into_iter().map(|document| document.value).collect();
    let mut resources = Vec::new();
    while let Some(mut value) = waiting.pop_front() {
        if value.as_object().is_some_and(Map::is_empty) {
            continue;
        }
        let kind = value["kind"].as_str().unwrap_or_default();
        if kind.is_empty() {
            return Err(Failure::text(format!("missing kind in object {value}")));
        }
        if kind.ends_with("List") {
            if let Some(items) = value.get_mut("items") {
                waiting.extend(items.as_array_mut().map(std::mem::take).unwrap_or_default());
                continue;
            }
        } else if value["metadata"]["name"].as_str().is_none_or(str::is_empty) {
            return Err(Failure::text(format!("missing metadata.name in object {value}")));
        }
        resources.push(Resource::of(value));
    }
    Ok(resources)
}

#[derive(Debug, Default)]
pub struct Resources {
    pub list: Vec<Resource>,
}

impl Resources {
    pub fn append(&mut self, resource: Resource) -> Result {
        let id = resource.id();
        if self.list.iter().any(|known| known.id().is(&id)) {
            return Err(Failure::text(format!("may not add resource with an already registered id: {id}")));
        }
        self.list.push(resource);
        Ok(())
    }

    /// Those that have or had an id.
    pub fn with_any_id(&self, fits: impl Fn(&Id) -> bool) -> Vec<usize> {
        (0..self.list.len()).filter(|nth| self.list[*nth].ids().iter().any(&fits)).collect()
    }

    /// The one that a patch names.
    pub fn named(&self, id: &Id) -> Result<usize> {
        match self.with_any_id(|known| known.is(id)).as_slice() {
            [one] => Ok(*one),
            [] => Err(Failure::text(format!("no matches for Id {id}; failed to find unique target for patch {id}"))),
            _ => {
                Err(Failure::text(format!("multiple matches for Id {id}; failed to find unique target for patch {id}")))
            }
        }
    }

    /// Those that a target selects.
    pub fn selected(&self, target: &Value) -> Result<Vec<usize>> {
        let target = Target::parse(target)?;
        let mut found = Vec::new();
        for (nth, resource) in self.list.iter().enumerate() {
            let (now, first) = (resource.id(), resource.first_id());
            let either =
                |field: usize, of: fn(&Id) -> &str| target.fits(field, of(&now)) || target.fits(field, of(&first));
            if either(4, |id| id.effective_namespace())
                && either(3, |id| &id.name)
                && target.has_type(&now)
                && target.selects(&resource.object)?
            {
                found.push(nth);
            }
        }
        Ok(found)
    }
}

/// `target` of a patch, `select` and `reject` of a replacement: regular expressions.
pub struct Target {
    /// Group, version, kind, name, namespace.
    words: [Option<Regex>; 5],
    labels: String,
    annotations: String,
}

impl Target {
    pub fn parse(value: &Value) -> Result<Self> {
        let mut words = [const { None }; 5];
        for (word, field) in words.iter_mut().zip(["group", "version", "kind", "name", "namespace"]) {
            if let Some(text) = value[field].as_str().filter(|text| !text.is_empty()) {
                *word = Some(regex(&format!("^(?:{text})$"))?);
            }
        }
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        Ok(Self { words, labels: text("labelSelector"), annotations: text("annotationSelector") })
    }

    fn fits(&self, field: usize, text: &str) -> bool {
        self.words[field].as_ref().is_none_or(|word| word.is_match(text))
    }

    fn has_type(&self, id: &Id) -> bool {
        self.fits(0, &id.group) && self.fits(1, &id.version) && self.fits(2, &id.kind)
    }

    pub fn fits_id(&self, id: &Id) -> bool {
        self.has_type(id) && self.fits(3, &id.name) && self.fits(4, &id.namespace)
    }

    /// It names no object.
    pub fn is_wordless(&self) -> bool {
        self.words.iter().all(Option::is_none)
    }

    pub fn is_selective(&self) -> bool {
        !self.labels.is_empty() || !self.annotations.is_empty()
    }

    /// By labels and annotations.
    pub fn selects(&self, object: &Value) -> Result<bool> {
        for (selector, field) in [(&self.labels, "labels"), (&self.annotations, "annotations")] {
            let selector = LabelSelector::parse(selector)
                .map_err(|e| Failure::text(format!("unable to parse selector {selector:?}: {e}")))?;
            if !selector.matches_with(|key| object["metadata"][field][key].as_str()) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

pub fn regex(text: &str) -> Result<Regex> {
    Regex::new(text).map_err(|e| Failure::text(format!("error parsing regexp: {e}")))
}

/// An order of kinds.
#[derive(Default)]
pub struct Sorting {
    /// `None`: as they come.
    places: Option<HashMap<String, i64>>,
}

const FIRST: &str = "Namespace ResourceQuota StorageClass CustomResourceDefinition ServiceAccount PodSecurityPolicy Role \
     ClusterRole RoleBinding ClusterRoleBinding ConfigMap Secret Endpoints Service LimitRange PriorityClass PersistentVolume \
     PersistentVolumeClaim Deployment StatefulSet CronJob PodDisruptionBudget";
const LAST: &str = "MutatingWebhookConfiguration ValidatingWebhookConfiguration";

impl Sorting {
    pub fn legacy() -> Self {
        let kinds = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        Self::of(&kinds(FIRST), &kinds(LAST))
    }

    pub fn of(first: &[String], last: &[String]) -> Self {
        let (mut places, mut place) = (HashMap::new(), -i64::try_from(first.len()).unwrap_or_default());
        for kind in first {
            places.insert(kind.clone(), place);
            place += 1;
        }
        for kind in last {
            place += 1;
            places.insert(kind.clone(), place);
        }
        Self { places: Some(places) }
    }

    pub fn sort(&self, all: &mut Resources) {
        let Some(places) = &self.places else { return };
        all.list.sort_by_cached_key(|resource| {
            let id = resource.id();
            let or = |text: &str, missing: &str| if text.is_empty() { missing.to_owned() } else { text.to_owned() };
            let ty = format!("{}_{}_{}", or(&id.group, "~G"), or(&id.version, "~V"), or(&id.kind, "~K"));
            let name = format!("{}|{}", or(&id.namespace, "~X"), or(&id.name, "~N"));
            (places.get(&id.kind).copied().unwrap_or_default(), ty, name)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_as_upstream_tells_them() {
        let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n---\nkind: Namespace\napiVersion: v1\nmetadata: {name: n}";
        let mut found = parse(text).expect("read");
        assert_eq!(found[0].id().to_string(), "Deployment.v1.apps/web.[noNs]");
        assert_eq!(found[0].id().effective_namespace(), "default");
        assert_eq!(found[1].id().effective_namespace(), NOWHERE);
        found[0].remember();
        found[0].set_name("new");
        assert_eq!(found[0].first_id().name, "web");
        let mut all = Resources::default();
        found.into_iter().for_each(|resource| all.append(resource).expect("new"));
        Sorting::legacy().sort(&mut all);
        let kinds: Vec<String> = all.list.iter().map(|resource| resource.id().kind).collect();
        assert_eq!(kinds, ["Namespace", "Deployment"]);
        assert!(parse("kind: Pod").expect_err("nameless").to_string().starts_with("missing metadata.name in object"));
    }
}
