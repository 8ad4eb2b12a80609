//! From a node over its pods to what those refer to.
//!
//! There is no graph that is kept: a question walks the pods of one namespace, and what a pod refers to is remembered
//! by its uid and generation, so that status changes cost nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use skiff_api::Object;

use crate::cache::{Caches, ResourceCache};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Pod,
    Secret,
    ConfigMap,
    ServiceAccount,
    Claim,
    Volume,
    ResourceClaim,
    Attachment,
    Slice,
}

/// What one pod refers to, all in its own namespace.
#[derive(Debug, Default, PartialEq, Eq)]
struct References {
    node: String,
    service_account: String,
    secrets: BTreeSet<String>,
    config_maps: BTreeSet<String>,
    claims: BTreeSet<String>,
}

/// Pods that are gone are forgotten when there are more than twice as many as there were at the last look.
struct Known {
    pods: HashMap<Arc<str>, Remembered>,
    sweep_above: usize,
}

struct Remembered {
    revision: u64,
    generation: Option<i64>,
    references: Arc<References>,
}

impl Remembered {
    /// A generation has one set of references; but the pod gets its node without a new one.
    fn is_of(&self, pod: &Object) -> bool {
        self.revision == pod.revision || (self.generation == pod.meta.generation && !self.references.node.is_empty())
    }
}

const SWEEP_ABOVE: usize = 256;

pub(super) struct Relations {
    pods: Arc<ResourceCache>,
    claims: Arc<ResourceCache>,
    volumes: Arc<ResourceCache>,
    attachments: Arc<ResourceCache>,
    resource_claims: Arc<ResourceCache>,
    slices: Arc<ResourceCache>,
    known: Mutex<Known>,
}

impl Relations {
    pub fn new(caches: Caches<'_>) -> Self {
        Self {
            pods: caches("pods"),
            claims: caches("persistentvolumeclaims"),
            volumes: caches("persistentvolumes"),
            attachments: caches("storage.k8s.io/volumeattachments"),
            resource_claims: caches("resource.k8s.io/resourceclaims"),
            slices: caches("resource.k8s.io/resourceslices"),
            known: Mutex::new(Known { pods: HashMap::new(), sweep_above: SWEEP_ABOVE }),
        }
    }

    /// Whether the object belongs to the node.
    pub fn has(&self, node: &str, what: What, namespace: &str, name: &str) -> bool {
        match what {
            What::Pod => self.pods.find(namespace, name).is_some_and(|pod| self.references(&pod).node == node),
            What::Secret => {
                self.any(node, namespace, |pod| pod.secrets.contains(name)) || self.volume_secret(node, namespace, name)
            }
            What::ConfigMap => self.any(node, namespace, |pod| pod.config_maps.contains(name)),
            What::ServiceAccount => self.any(node, namespace, |pod| pod.service_account == name),
            What::Claim => self.any(node, namespace, |pod| pod.claims.contains(name)),
            What::Volume => self.volumes.find("", name).is_some_and(|volume| self.has_volume(node, &volume.value())),
            What::ResourceClaim => self.has_resource_claim(node, namespace, name),
            What::Attachment => names_node(&self.attachments, name, node),
            What::Slice => names_node(&self.slices, name, node),
        }
    }

    /// Whether a pod of the node, in the namespace, is such.
    fn any(&self, node: &str, namespace: &str, mut is: impl FnMut(&References) -> bool) -> bool {
        self.pods.of_namespace(namespace).iter().any(|pod| {
            let references = self.references(pod);
            references.node == node && is(&references)
        })
    }

    fn has_volume(&self, node: &str, volume: &Value) -> bool {
        let claim = &volume["spec"]["claimRef"];
        let text = |field: &str| claim[field].as_str().unwrap_or_default();
        !text("name").is_empty() && self.has(node, What::Claim, text("namespace"), text("name"))
    }

    /// A secret that the driver of a volume of the node needs.
    fn volume_secret(&self, node: &str, namespace: &str, name: &str) -> bool {
        let claims = self.claims.of_namespace(namespace);
        let all = self.volumes.all();
        if all.is_empty() && claims.is_empty() {
            return false;
        }
        all.iter().map(|volume| volume.value()).any(|volume| {
            volume_secrets(&volume).iter().any(|(n, s)| n == namespace && s == name) && self.has_volume(node, &volume)
        })
    }

    fn has_resource_claim(&self, node: &str, namespace: &str, name: &str) -> bool {
        let Some(claim) = self.resource_claims.find(namespace, name) else { return false };
        let claim = claim.value();
        let users = claim["status"]["reservedFor"].as_array().map(Vec::as_slice).unwrap_or_default();
        let pods = users.iter().filter(|user| user["resource"] == "pods").filter_map(|user| user["name"].as_str());
        pods.into_iter().any(|pod| self.has(node, What::Pod, namespace, pod))
    }

    fn references(&self, pod: &Object) -> Arc<References> {
        let mut known = self.known.lock().expect("nothing panics while it holds the references");
        if let Some(found) = known.pods.get(&pod.meta.uid).filter(|known| known.is_of(pod)) {
            return found.references.clone();
        }
        let references = Arc::new(references_of(&pod.value()));
        let (revision, generation) = (pod.revision, pod.meta.generation);
        let remembered = Remembered { revision, generation, references: references.clone() };
        known.pods.insert(pod.meta.uid.clone(), remembered);
        if known.pods.len() > known.sweep_above {
            let alive: BTreeSet<Arc<str>> = self.pods.all().iter().map(|pod| pod.meta.uid.clone()).collect();
            known.pods.retain(|uid, _| alive.contains(uid));
            known.sweep_above = SWEEP_ABOVE.max(known.pods.len() * 2);
        }
        references
    }
}

fn names_node(cache: &ResourceCache, name: &str, node: &str) -> bool {
    cache.find("", name).is_some_and(|object| object.value()["spec"]["nodeName"] == node)
}

fn references_of(pod: &Value) -> References {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let spec = &pod["spec"];
    let mut found = References { node: text(&spec["nodeName"]), ..References::default() };
    // A node makes mirrors of its static pods itself: they must not open anything to it.
    if pod["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some() {
        return found;
    }
    add_references(pod, &mut found);
    found
}

/// The secrets and the config maps that a pod names, whatever it is.
pub(crate) fn names_in(pod: &Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut found = References::default();
    add_references(pod, &mut found);
    (found.secrets, found.config_maps)
}

fn add_references(pod: &Value, found: &mut References) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let spec = &pod["spec"];
    found.service_account = text(&spec["serviceAccountName"]);
    found.secrets.extend(items(&spec["imagePullSecrets"]).map(|s| text(&s["name"])));
    for containers in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items(&spec[containers]) {
            for from in items(&container["envFrom"]) {
                found.secrets.insert(text(&from["secretRef"]["name"]));
                found.config_maps.insert(text(&from["configMapRef"]["name"]));
            }
            for variable in items(&container["env"]) {
                found.secrets.insert(text(&variable["valueFrom"]["secretKeyRef"]["name"]));
                found.config_maps.insert(text(&variable["valueFrom"]["configMapKeyRef"]["name"]));
            }
        }
    }
    for volume in items(&spec["volumes"]) {
        of_volume(volume, pod["metadata"]["name"].as_str().unwrap_or_default(), found);
    }
    for names in [&mut found.secrets, &mut found.config_maps, &mut found.claims] {
        names.remove("");
    }
}

fn of_volume(volume: &Value, pod: &str, found: &mut References) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    found.secrets.insert(text(&volume["secret"]["secretName"]));
    found.config_maps.insert(text(&volume["configMap"]["name"]));
    found.claims.insert(text(&volume["persistentVolumeClaim"]["claimName"]));
    if volume["ephemeral"].is_object() {
        found.claims.insert(format!("{pod}-{}", text(&volume["name"])));
    }
    for source in items(&volume["projected"]["sources"]) {
        found.secrets.insert(text(&source["secret"]["name"]));
        found.config_maps.insert(text(&source["configMap"]["name"]));
    }
    found.secrets.insert(text(&volume["azureFile"]["secretName"]));
    for driver in ["cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"] {
        found.secrets.insert(text(&volume[driver]["secretRef"]["name"]));
    }
    found.secrets.insert(text(&volume["csi"]["nodePublishSecretRef"]["name"]));
}

/// Namespaces and names of the secrets that a persistent volume refers to.
fn volume_secrets(volume: &Value) -> Vec<(String, String)> {
    let spec = &volume["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let claimed = text(&spec["claimRef"]["namespace"]);
    let mut found = Vec::new();
    let mut add = |reference: &Value, key: &str| {
        let namespace = reference[if key == "name" { "namespace" } else { "secretNamespace" }].as_str();
        let namespace = namespace.filter(|n| !n.is_empty()).unwrap_or(&claimed).to_owned();
        found.push((namespace, text(&reference[key])));
    };
    for driver in ["cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"] {
        add(&spec[driver]["secretRef"], "name");
    }
    add(&spec["azureFile"], "secretName");
    let csi = ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef", "controllerPublishSecretRef"];
    for reference in csi {
        add(&spec["csi"][reference], "name");
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_pod_refers_to() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "nodeName": "n", "serviceAccountName": "sa", "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"envFrom": [{"secretRef": {"name": "s1"}}, {"configMapRef": {"name": "c1"}}]}],
            "containers": [{"env": [{"name": "A", "value": "x"},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}},
                {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "c2", "key": "k"}}}]}],
            "volumes": [{"name": "v1", "secret": {"secretName": "s3"}}, {"name": "v2", "configMap": {"name": "c3"}},
                {"name": "v3", "projected": {"sources": [{"secret": {"name": "s4"}}, {"configMap": {"name": "c4"}}]}},
                {"name": "v4", "persistentVolumeClaim": {"claimName": "d"}}, {"name": "v5", "ephemeral": {}},
                {"name": "v6", "csi": {"nodePublishSecretRef": {"name": "s5"}}}],
        }});
        let found = references_of(&pod);
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(found.secrets, set(&["pull", "s1", "s2", "s3", "s4", "s5"]));
        assert_eq!(found.config_maps, set(&["c1", "c2", "c3", "c4"]));
        assert_eq!(found.claims, set(&["d", "p-v5"]));
        assert_eq!((found.node.as_str(), found.service_account.as_str()), ("n", "sa"));
        let mut mirror = pod;
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        assert_eq!(references_of(&mirror), References { node: "n".into(), ..References::default() });
    }

    #[test]
    fn secrets_of_volumes() {
        let volume = json!({"spec": {"claimRef": {"namespace": "a"}, "csi": {
            "nodeStageSecretRef": {"name": "s", "namespace": "b"}, "nodePublishSecretRef": {"name": "t"}}}});
        let expect = [("a".to_owned(), "t".to_owned()), ("b".to_owned(), "s".to_owned())];
        assert_eq!(volume_secrets(&volume), expect);
    }
}
