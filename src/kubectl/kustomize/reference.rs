//! Names in other objects, brought up to date after names changed.

use serde_json::Value;

use super::field::{Missing, change};
use super::resource::{Id, Resource, Resources};
use crate::{Failure, Result};

/// Kinds that hold pods, and where.
const PODS: [(&str, &str); 9] = [
    ("Pod", "spec/"),
    ("PodTemplate", "template/spec/"),
    ("Deployment", "spec/template/spec/"),
    ("ReplicaSet", "spec/template/spec/"),
    ("DaemonSet", "spec/template/spec/"),
    ("StatefulSet", "spec/template/spec/"),
    ("Job", "spec/template/spec/"),
    ("CronJob", "spec/jobTemplate/spec/template/spec/"),
    ("ReplicationController", "spec/template/spec/"),
];
/// Those that refer to ConfigMaps and Secrets, and those that refer to accounts, claims and priorities.
const OF_DATA: &str = "Pod PodTemplate Deployment ReplicaSet DaemonSet StatefulSet Job CronJob";
const OF_OTHERS: &str = "Pod Deployment DaemonSet StatefulSet Job CronJob ReplicationController";

const RBAC: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";

/// Who may name an object of a type.
struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    /// Paths in pods, and the kinds whose pods they are in.
    in_pods: &'static [&'static str],
    holders: &'static str,
    /// Group, kind and path of the others.
    others: &'static [(&'static str, &'static str, &'static str)],
}

const fn row(group: &'static str, version: &'static str, kind: &'static str) -> Row {
    Row { group, version, kind, in_pods: &[], holders: "", others: &[] }
}

const SCALER: &[(&str, &str, &str)] = &[("", "HorizontalPodAutoscaler", "spec/scaleTargetRef/name")];

const ROWS: [Row; 14] = [
    Row { others: SCALER, ..row("", "", "Deployment") },
    Row { others: SCALER, ..row("", "", "ReplicationController") },
    Row { others: SCALER, ..row("", "", "ReplicaSet") },
    Row { others: SCALER, ..row("", "", "StatefulSet") },
    Row {
        in_pods: &[
            "volumes/configMap/name",
            "containers/env/valueFrom/configMapKeyRef/name",
            "initContainers/env/valueFrom/configMapKeyRef/name",
            "containers/envFrom/configMapRef/name",
            "initContainers/envFrom/configMapRef/name",
            "volumes/projected/sources/configMap/name",
        ],
        holders: OF_DATA,
        others: &[
            ("", "Node", "spec/configSource/configMap"),
            ("", "Role", "rules/resourceNames"),
            ("", "ClusterRole", "rules/resourceNames"),
            ("", "Ingress", "metadata/annotations/nginx.ingress.kubernetes.io\\/fastcgi-params-configmap"),
        ],
        ..row("", "v1", "ConfigMap")
    },
    Row {
        in_pods: &[
            "volumes/secret/secretName",
            "containers/env/valueFrom/secretKeyRef/name",
            "initContainers/env/valueFrom/secretKeyRef/name",
            "containers/envFrom/secretRef/name",
            "initContainers/envFrom/secretRef/name",
            "imagePullSecrets/name",
            "volumes/projected/sources/secret/name",
        ],
        holders: OF_DATA,
        others: &[
            ("", "Ingress", "spec/tls/secretName"),
            ("", "Ingress", "metadata/annotations/ingress.kubernetes.io\\/auth-secret"),
            ("", "Ingress", "metadata/annotations/nginx.ingress.kubernetes.io\\/auth-secret"),
            ("", "Ingress", "metadata/annotations/nginx.ingress.kubernetes.io\\/auth-tls-secret"),
            ("", "ServiceAccount", "imagePullSecrets/name"),
            ("", "StorageClass", "parameters/secretName"),
            ("", "StorageClass", "parameters/adminSecretName"),
            ("", "StorageClass", "parameters/userSecretName"),
            ("", "StorageClass", "parameters/secretRef"),
            ("", "Role", "rules/resourceNames"),
            ("", "ClusterRole", "rules/resourceNames"),
            ("serving.knative.dev", "Service", "spec/template/spec/containers/env/valueFrom/secretKeyRef/name"),
            ("", "PersistentVolume", "spec/azureFile/secretName"),
        ],
        ..row("", "v1", "Secret")
    },
    Row {
        others: &[
            ("apps", "StatefulSet", "spec/serviceName"),
            ("", "Ingress", "spec/rules/http/paths/backend/serviceName"),
            ("", "Ingress", "spec/backend/serviceName"),
            ("", "Ingress", "spec/rules/http/paths/backend/service/name"),
            ("", "Ingress", "spec/defaultBackend/service/name"),
            ("apiregistration.k8s.io", "APIService", "spec/service/name"),
            (ADMISSION, "ValidatingWebhookConfiguration", "webhooks/clientConfig/service"),
            (ADMISSION, "MutatingWebhookConfiguration", "webhooks/clientConfig/service"),
        ],
        ..row("", "v1", "Service")
    },
    Row { others: &[(RBAC, "RoleBinding", ROLE)], ..row(RBAC, "", "Role") },
    Row { others: &[(RBAC, "RoleBinding", ROLE), (RBAC, "ClusterRoleBinding", ROLE)], ..row(RBAC, "", "ClusterRole") },
    Row {
        in_pods: &["serviceAccountName"],
        holders: OF_OTHERS,
        others: &[(RBAC, "RoleBinding", "subjects"), (RBAC, "ClusterRoleBinding", "subjects")],
        ..row("", "v1", "ServiceAccount")
    },
    Row {
        in_pods: &["volumes/persistentVolumeClaim/claimName"],
        holders: OF_OTHERS,
        ..row("", "v1", "PersistentVolumeClaim")
    },
    Row {
        others: &[("", "PersistentVolumeClaim", "spec/volumeName"), ("", "ClusterRole", "rules/resourceNames")],
        ..row("", "v1", "PersistentVolume")
    },
    Row {
        others: &[
            ("", "PersistentVolume", "spec/storageClassName"),
            ("", "PersistentVolumeClaim", "spec/storageClassName"),
            ("", "StatefulSet", "spec/volumeClaimTemplates/spec/storageClassName"),
        ],
        ..row("storage.k8s.io", "v1", "StorageClass")
    },
    Row { in_pods: &["priorityClassName"], holders: OF_OTHERS, ..row("scheduling.k8s.io", "v1", "PriorityClass") },
];
const POLICY: Row = Row {
    others: &[(ADMISSION, "ValidatingAdmissionPolicyBinding", "spec/policyName")],
    ..row(ADMISSION, "", "ValidatingAdmissionPolicy")
};
const ROLE: &str = "roleRef/name";

/// What a reference may mean: an object as it is and was.
struct Known {
    now: Id,
    previous: Vec<Id>,
    prefixes: Vec<String>,
    suffixes: Vec<String>,
}

impl Known {
    fn of(resource: &Resource) -> Self {
        Self {
            now: resource.id(),
            previous: resource.previous.clone(),
            prefixes: resource.prefixes.clone(),
            suffixes: resource.suffixes.clone(),
        }
    }

    /// Whether both got their names in the same directories. `open`: as far as both got any.
    fn is_akin(&self, other: &Self, open: bool) -> bool {
        let alike = |a: &[String], b: &[String]| match (a, b) {
            ([], []) => true,
            ([], _) | (_, []) => open,
            _ => a.ends_with(b) || b.ends_with(a),
        };
        alike(&self.prefixes, &other.prefixes) && alike(&self.suffixes, &other.suffixes)
    }
}

pub fn update(all: &mut Resources) -> Result {
    let known: Vec<Known> = all.list.iter().map(Known::of).collect();
    for (resource, own) in all.list.iter_mut().zip(&known) {
        let seen = Seen { own, near: near(&resource.object, own, &known), roles: resource.object["roleRef"].clone() };
        for row in ROWS.iter().chain([&POLICY]) {
            for path in paths(row, &resource.first_id()) {
                change(&mut resource.object, &path, Missing::Stays, &mut |place| seen.update(place, row, &path))
                    .map_err(|e| {
                        Failure::text(format!("updating name reference in '{path}' field of '{}': {e}", own.now))
                    })?;
            }
        }
    }
    Ok(())
}

/// Where an object may name objects of a row.
fn paths(row: &Row, id: &Id) -> Vec<String> {
    let holder = PODS.iter().find(|(kind, _)| *kind == id.kind && row.holders.split(' ').any(|holder| holder == *kind));
    let version_fits = id.kind != "Pod" || id.version == "v1";
    let in_pods = holder
        .filter(|_| version_fits)
        .into_iter()
        .flat_map(|(_, at)| row.in_pods.iter().map(move |path| format!("{at}{path}")));
    let others = row.others.iter().filter(|(group, kind, _)| id.has_type(group, "", kind));
    in_pods.chain(others.map(|(_, _, path)| (*path).to_owned())).collect()
}

/// The objects that another one can name: of its namespace, of none, and of those of its subjects.
fn near<'a>(object: &Value, own: &Known, known: &'a [Known]) -> Vec<&'a Known> {
    let subjects = object["subjects"].as_array().filter(|_| own.now.kind == "RoleBinding");
    let of_subjects: Vec<&str> = subjects
        .into_iter()
        .flatten()
        .filter(|subject| subject["kind"] == "ServiceAccount")
        .filter_map(|subject| subject["namespace"].as_str())
        .collect();
    let fits = |other: &&Known| {
        own.now.is_cluster_scoped()
            || other.now.is_cluster_scoped()
            || other.now.effective_namespace() == own.now.effective_namespace()
            || of_subjects.contains(&other.now.namespace.as_str())
    };
    known.iter().filter(fits).collect()
}

struct Seen<'a> {
    own: &'a Known,
    near: Vec<&'a Known>,
    roles: Value,
}

impl Seen<'_> {
    fn update(&self, place: &mut Value, row: &Row, path: &str) -> Result {
        match place {
            Value::Null => Ok(()),
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.update(item, row, path)),
            Value::Object(_) => {
                let Some(name) = place["name"].as_str().map(str::to_owned) else {
                    return Err(Failure::text("path config error; no 'name' field in node"));
                };
                let candidates = match place["namespace"].as_str() {
                    None => self.near.clone(),
                    Some(namespace) => self.in_namespace(namespace),
                };
                if let Some(found) = self.select(&name, candidates, row, path, true)? {
                    place["name"] = found.name.as_str().into();
                    if !found.namespace.is_empty() {
                        place["namespace"] = found.namespace.as_str().into();
                    }
                }
                Ok(())
            }
            scalar => {
                let name = super::field::text(scalar);
                if let Some(found) = self.select(&name, self.near.clone(), row, path, false)? {
                    *scalar = found.name.as_str().into();
                }
                Ok(())
            }
        }
    }

    /// Those that were in a namespace, or else those that are.
    fn in_namespace(&self, namespace: &str) -> Vec<&Known> {
        let first = |known: &Known| known.previous.first().unwrap_or(&known.now).effective_namespace() == namespace;
        let before: Vec<&Known> = self.near.iter().copied().filter(|known| first(known)).collect();
        if !before.is_empty() {
            return before;
        }
        self.near.iter().copied().filter(|known| known.now.effective_namespace() == namespace).collect()
    }

    fn select<'a>(
        &self,
        name: &str,
        mut candidates: Vec<&'a Known>,
        row: &Row,
        path: &str,
        placed: bool,
    ) -> Result<Option<&'a Id>> {
        let role = |field: &str| self.roles[field].as_str().unwrap_or_default();
        candidates.retain(|known| {
            let is_role = !path.ends_with(ROLE)
                || self.roles.is_null()
                || known.previous.iter().any(|id| id.has_type(role("apiGroup"), "", role("kind")));
            known.previous.iter().any(|id| id.name == name)
                && known.previous.iter().any(|id| id.has_type(row.group, row.version, row.kind))
                && is_role
                && (self.own.now.is_cluster_scoped()
                    || known.now.is_cluster_scoped()
                    || known.now.kind == "ServiceAccount"
                    || known.now.effective_namespace() == self.own.now.effective_namespace())
        });
        if let [one] = candidates.as_slice() {
            return Ok(Some(&one.now));
        }
        candidates.retain(|known| known.is_akin(self.own, true));
        if candidates.len() > 1 {
            candidates.retain(|known| known.is_akin(self.own, false));
        }
        let Some(first) = candidates.first() else { return Ok(None) };
        let same = |known: &&&Known| {
            known.now.name == first.now.name && (!placed || known.now.namespace == first.now.namespace)
        };
        if candidates.iter().all(|known| same(&known)) {
            return Ok(Some(&first.now));
        }
        let ids: Vec<String> = candidates.iter().map(|known| known.now.to_string()).collect();
        Err(Failure::text(format!("found multiple possible referrals: {}", ids.join(", "))))
    }
}
