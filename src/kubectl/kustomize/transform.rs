//! Changes to all objects of a directory: namespace, names, labels, annotations, replicas, images.

use serde_json::{Map, Value};

use super::field::{Missing, Spec, change};
use super::resource::{Resource, Resources, regex};
use super::settings::{Settings, pairs};
use crate::{Failure, Result};

const fn of(group: &'static str, version: &'static str, kind: &'static str, path: &'static str) -> Spec {
    Spec { group, version, kind, path, create: true }
}

const fn there(group: &'static str, kind: &'static str, path: &'static str) -> Spec {
    Spec { group, version: "", kind, path, create: false }
}

const NAMESPACES: [Spec; 3] = [
    of("", "v1", "Namespace", "metadata/name"),
    of("apiregistration.k8s.io", "", "APIService", "spec/service/namespace"),
    there("apiextensions.k8s.io", "CustomResourceDefinition", "spec/conversion/webhook/clientConfig/service/namespace"),
];

/// Objects whose name is part of something else.
const FIXED_NAMES: [(&str, &str); 3] =
    [("", "CustomResourceDefinition"), ("apiregistration.k8s.io", "APIService"), ("", "Namespace")];

/// Templates of pods.
const TEMPLATES: [Spec; 9] = [
    of("", "v1", "ReplicationController", "spec/template/metadata/"),
    of("", "", "Deployment", "spec/template/metadata/"),
    of("", "", "ReplicaSet", "spec/template/metadata/"),
    of("", "", "DaemonSet", "spec/template/metadata/"),
    of("apps", "", "StatefulSet", "spec/template/metadata/"),
    of("batch", "", "Job", "spec/template/metadata/"),
    of("batch", "", "CronJob", "spec/jobTemplate/metadata/"),
    of("batch", "", "CronJob", "spec/jobTemplate/spec/template/metadata/"),
    of("apps", "", "StatefulSet", "spec/volumeClaimTemplates[]/metadata/"),
];
/// Of them, those that only labels go to: the last.
const WITHOUT_CLAIMS: usize = TEMPLATES.len() - 1;

const SELECTORS: [Spec; 11] = [
    of("", "v1", "Service", "spec/selector"),
    of("", "v1", "ReplicationController", "spec/selector"),
    of("", "", "Deployment", "spec/selector/matchLabels"),
    of("", "", "ReplicaSet", "spec/selector/matchLabels"),
    of("", "", "DaemonSet", "spec/selector/matchLabels"),
    of("apps", "", "StatefulSet", "spec/selector/matchLabels"),
    there("batch", "Job", "spec/selector/matchLabels"),
    there("batch", "CronJob", "spec/jobTemplate/spec/selector/matchLabels"),
    there("policy", "PodDisruptionBudget", "spec/selector/matchLabels"),
    there("networking.k8s.io", "NetworkPolicy", "spec/podSelector/matchLabels"),
    there("networking.k8s.io", "NetworkPolicy", "spec/ingress/from/podSelector/matchLabels"),
];
const MORE_SELECTORS: [Spec; 1] =
    [there("networking.k8s.io", "NetworkPolicy", "spec/egress/to/podSelector/matchLabels")];
/// Selectors within the templates of these kinds.
const WITHIN: [&str; 5] = [
    "spec/template/spec/affinity/podAffinity/preferredDuringSchedulingIgnoredDuringExecution/podAffinityTerm/labelSelector/matchLabels",
    "spec/template/spec/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution/labelSelector/matchLabels",
    "spec/template/spec/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution/podAffinityTerm/labelSelector/matchLabels",
    "spec/template/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/labelSelector/matchLabels",
    "spec/template/spec/topologySpreadConstraints/labelSelector/matchLabels",
];

const IMAGES: [&str; 6] = [
    "spec/containers[]/image",
    "spec/initContainers[]/image",
    "spec/volumes[]/image/reference",
    "spec/template/spec/containers[]/image",
    "spec/template/spec/initContainers[]/image",
    "spec/template/spec/volumes[]/image/reference",
];

const SCALED: [&str; 4] = ["Deployment", "ReplicationController", "ReplicaSet", "StatefulSet"];

/// Namespace, prefix, suffix.
pub fn names(settings: &Settings, all: &mut Resources) -> Result {
    if let Some(namespace) = settings.text("namespace") {
        for nth in 0..all.list.len() {
            let resource = &mut all.list[nth];
            resource.remember();
            set_namespace(resource, namespace)?;
            let id = resource.id();
            if all.list.iter().filter(|other| other.id().is(&id)).count() != 1 {
                return Err(Failure::text(format!("namespace transformation produces ID conflict: {id}")));
            }
        }
    }
    for resource in &mut all.list {
        let first = resource.first_id();
        if FIXED_NAMES.iter().any(|(group, kind)| first.has_type(group, "", kind)) {
            continue;
        }
        for (affix, before) in [(settings.text("namePrefix"), true), (settings.text("nameSuffix"), false)] {
            let Some(affix) = affix else { continue };
            resource.remember();
            let name = resource.id().name;
            if before {
                resource.prefixes.push(affix.to_owned());
                resource.set_name(&format!("{affix}{name}"));
            } else {
                resource.suffixes.push(affix.to_owned());
                resource.set_name(&format!("{name}{affix}"));
            }
        }
    }
    Ok(())
}

fn set_namespace(resource: &mut Resource, namespace: &str) -> Result {
    let id = resource.id();
    let object = &mut resource.object;
    let set = &mut |place: &mut Value| {
        *place = namespace.into();
        Ok(())
    };
    if !id.is_cluster_scoped() {
        change(object, "metadata/namespace", Missing::Scalar, set)?;
    }
    if matches!(id.kind.as_str(), "RoleBinding" | "ClusterRoleBinding") {
        let subjects = object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten();
        subjects.filter(|subject| subject["name"] == "default").for_each(|s| s["namespace"] = namespace.into());
    }
    for spec in NAMESPACES.iter().filter(|spec| spec.fits(&id)) {
        change(object, spec.path, if spec.create { Missing::Scalar } else { Missing::Stays }, set)?;
    }
    Ok(())
}

/// Labels, in selectors and templates where that is asked for, and annotations.
pub fn labels(settings: &Settings, all: &mut Resources) -> Result {
    let label = Spec::everywhere("metadata/", true);
    for entry in settings.list("labels") {
        if !entry["fields"].is_null() {
            return Err(Failure::text("`fields` of labels is not part of this kubectl; use `patches`"));
        }
        let labels = pairs(&entry["pairs"], "labels.pairs")?;
        let (selectors, templates) = (entry["includeSelectors"] == true, entry["includeTemplates"] == true);
        put_labels(all, &labels, label, selectors, selectors || templates)?;
    }
    put_labels(all, &pairs(settings.get("commonLabels"), "commonLabels")?, label, true, true)?;
    for (key, value) in pairs(settings.get("commonAnnotations"), "commonAnnotations")? {
        put(all, &[label], "annotations", &key, &value)?;
        put(all, &TEMPLATES[..WITHOUT_CLAIMS], "annotations", &key, &value)?;
    }
    Ok(())
}

fn put_labels(all: &mut Resources, labels: &[(String, String)], own: Spec, selectors: bool, templates: bool) -> Result {
    for (key, value) in labels {
        if selectors {
            put(all, &SELECTORS, "", key, value)?;
            put(all, &MORE_SELECTORS, "", key, value)?;
            for kind in ["Deployment", "StatefulSet"] {
                put(all, &WITHIN.map(|path| there("apps", kind, path)), "", key, value)?;
            }
        }
        put(all, &[own], "labels", key, value)?;
        if templates {
            put(all, &TEMPLATES, "labels", key, value)?;
        }
    }
    Ok(())
}

/// Sets an entry of the maps at the paths, with `last` behind each.
fn put(all: &mut Resources, specs: &[Spec], last: &str, key: &str, value: &str) -> Result {
    for resource in &mut all.list {
        let id = resource.id();
        for spec in specs.iter().filter(|spec| spec.fits(&id)) {
            let missing = if spec.create { Missing::Map } else { Missing::Stays };
            change(&mut resource.object, &format!("{}{last}", spec.path), missing, &mut |place| {
                if place.is_null() {
                    *place = Map::new().into();
                }
                match place {
                    Value::Object(entries) => drop(entries.insert(key.to_owned(), value.into())),
                    _ => return Err(Failure::text("wrong Node Kind: expected MappingNode")),
                }
                Ok(())
            })?;
        }
    }
    Ok(())
}

pub fn counts_and_images(settings: &Settings, all: &mut Resources) -> Result {
    for entry in settings.list("replicas") {
        let name = entry["name"].as_str().unwrap_or_default();
        let mut any = false;
        for kind in SCALED {
            for nth in all.with_any_id(|id| id.name == name && id.kind == kind) {
                any = true;
                change(&mut all.list[nth].object, "spec/replicas", Missing::Scalar, &mut |place| {
                    *place = entry["count"].as_i64().unwrap_or_default().into();
                    Ok(())
                })?;
            }
        }
        if !any {
            let kinds = SCALED.map(|kind| format!("{kind}.[noVer].[noGrp]")).join(" ");
            return Err(Failure::text(format!(
                "resource with name {name} does not match a config with the following GVK [{kinds}]"
            )));
        }
    }
    for entry in settings.list("images") {
        let image = NewImage::of(entry)?;
        for resource in all.list.iter_mut().filter(|resource| resource.object["kind"] != "CustomResourceDefinition") {
            let mut set = |place: &mut Value| {
                if let Some(changed) = place.as_str().and_then(|old| image.of_old(old)) {
                    *place = changed.into();
                }
                Ok(())
            };
            // Upstream passes twice over the containers of the kinds it knows, which a suffix shows.
            containers(&mut resource.object, &mut set)?;
            IMAGES.iter().try_for_each(|path| change(&mut resource.object, path, Missing::Stays, &mut set))?;
        }
    }
    Ok(())
}

/// The images of all lists of containers, wherever they are.
fn containers(value: &mut Value, set: &mut dyn FnMut(&mut Value) -> Result) -> Result {
    match value {
        Value::Array(items) => items.iter_mut().try_for_each(|item| containers(item, set)),
        Value::Object(entries) => entries.iter_mut().try_for_each(|(name, field)| {
            containers(field, set)?;
            let list = field.as_array_mut().filter(|_| matches!(name.as_str(), "containers" | "initContainers"));
            list.into_iter().flatten().filter_map(|item| item.get_mut("image")).try_for_each(&mut *set)
        }),
        _ => Ok(()),
    }
}

struct NewImage<'a> {
    fits: regex::Regex,
    /// `newName`, `newTag`, `digest`, `tagSuffix`; empty where not given.
    words: [&'a str; 4],
}

impl<'a> NewImage<'a> {
    fn of(entry: &'a Value) -> Result<Self> {
        let text = |field: &str| entry[field].as_str().unwrap_or_default();
        let tag = "(:[a-zA-Z0-9_.{}-]*)?(@[a-zA-Z0-9]+([.+_-][a-zA-Z0-9]+)*:[a-zA-Z0-9_.{}-]*)?";
        Ok(Self {
            fits: regex(&format!("^{}{tag}$", text("name")))?,
            words: ["newName", "newTag", "digest", "tagSuffix"].map(text),
        })
    }

    fn of_old(&self, old: &str) -> Option<String> {
        if !self.fits.is_match(old) {
            return None;
        }
        let (mut name, mut tag, mut digest) = parts(old);
        let [new_name, new_tag, new_digest, suffix] = self.words;
        if !new_name.is_empty() {
            name = new_name.to_owned();
        }
        if !new_tag.is_empty() || !new_digest.is_empty() {
            (tag, digest) = (new_tag.to_owned(), new_digest.to_owned());
        } else if !suffix.is_empty() {
            tag.push_str(suffix);
            digest.clear();
        }
        let behind = |sign: char, text: &str| if text.is_empty() { String::new() } else { format!("{sign}{text}") };
        Some(format!("{name}{}{}", behind(':', &tag), behind('@', &digest)))
    }
}

/// Name, tag and digest of an image. A colon before the first slash is a port.
fn parts(image: &str) -> (String, String, String) {
    let from = image.find('/').unwrap_or(0);
    let (rest, digest) = match image[from..].find('@') {
        Some(at) => (&image[..from + at], &image[from + at + 1..]),
        None => (image, ""),
    };
    let (name, tag) = match rest[from..].find(':') {
        Some(colon) => (&rest[..from + colon], &rest[from + colon + 1..]),
        None => (rest, ""),
    };
    (name.to_owned(), tag.to_owned(), digest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn images_change_by_part() {
        let check = |entry: Value, old: &str, expect: Option<&str>| {
            assert_eq!(NewImage::of(&entry).expect("parsed").of_old(old).as_deref(), expect, "{entry} {old}");
        };
        check(json!({"name": "a", "newTag": "2"}), "a:1@sha256:abc", Some("a:2"));
        check(json!({"name": "a", "newTag": "2"}), "b/a:1", None);
        check(json!({"name": "h:5000/a", "newName": "x"}), "h:5000/a:1", Some("x:1"));
        check(json!({"name": "a", "digest": "sha256:1"}), "a:1", Some("a@sha256:1"));
        check(json!({"name": "a", "tagSuffix": "-x"}), "a:1", Some("a:1-x"));
    }
}
