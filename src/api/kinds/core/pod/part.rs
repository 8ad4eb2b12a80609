//! The subresources by which some of a pod's spec may change while it runs: `ephemeralcontainers` and `resize`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;
#[cfg(test)]
use serde_json::json;

use super::{qos, validate};
use crate::field::{Errors, Path};
use crate::kinds::checks::text;
use crate::kinds::peek::{Fill, Peek, spec_of};

pub(super) const EPHEMERAL: &str = "ephemeralcontainers";
pub(super) const RESIZE: &str = "resize";
/// What may be resized.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// Takes over into `object` what the part of `wanted` may change.
pub(super) fn take(part: &str, object: &mut Value, wanted: &Value) {
    let wanted = wanted.at("spec");
    let Some(spec) = spec_of(object) else { return };
    match part {
        EPHEMERAL => match wanted.get("ephemeralContainers") {
            Some(list) => {
                spec.insert("ephemeralContainers".to_owned(), list.clone());
            }
            None => {
                spec.remove("ephemeralContainers");
            }
        },
        RESIZE => {
            match wanted.get("resources") {
                Some(whole) => spec.insert("resources".to_owned(), whole.clone()),
                None => spec.remove("resources"),
            };
            for list in ["containers", "initContainers"] {
                for container in spec.items(list) {
                    let name = container.get("name").cloned();
                    let Some(new) = wanted.list(list).iter().find(|c| c.get("name") == name.as_ref()) else { continue };
                    for field in ["resources", "resizePolicy"] {
                        match new.get(field) {
                            Some(value) => container.insert(field.to_owned(), value.clone()),
                            None => container.remove(field),
                        };
                    }
                }
            }
        }
        _ => {}
    }
}

pub(super) fn validate(part: &str, new: &core::Pod, old: &core::Pod, errors: &mut Errors) {
    let (Some(spec), Some(old_spec)) = (&new.spec, &old.spec) else { return };
    match part {
        EPHEMERAL => only_added(spec, old_spec, errors),
        RESIZE => resized(new, spec, old, old_spec, errors),
        _ => {}
    }
}

fn only_added(new: &core::PodSpec, old: &core::PodSpec, errors: &mut Errors) {
    let path = Path::new("spec");
    let path = path.child("ephemeralContainers");
    for container in old.ephemeral_containers.iter().flatten() {
        let name = &container.name;
        match new.ephemeral_containers.iter().flatten().find(|c| c.name == *name) {
            None => errors.forbidden(&path, &format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(same) if same == container => {}
            Some(changed) => {
                let value = |c: &core::EphemeralContainer| serde_json::to_value(c).unwrap_or_default();
                let mut differences = Vec::new();
                validate::update::diff(name, &value(container), &value(changed), &mut differences);
                let differences = differences.join("\n");
                let message = format!("existing ephemeral containers {name:?} may not be changed\n{differences}");
                errors.forbidden(&path, &message);
            }
        }
    }
}

fn resized(new: &core::Pod, spec: &core::PodSpec, old: &core::Pod, old_spec: &core::PodSpec, errors: &mut Errors) {
    let path = Path::new("spec");
    if old.metadata.annotations.as_ref().is_some_and(|a| a.contains_key("kubernetes.io/config.mirror")) {
        return errors.forbidden(&path, "static pods cannot be resized");
    }
    let class = |pod: &core::Pod| qos::class(&serde_json::to_value(pod).unwrap_or_default());
    if class(new) != class(old) {
        let told = new.status.as_ref().and_then(|s| s.qos_class.clone()).unwrap_or_default();
        errors.invalid(&path, told, "Pod QOS Class may not change as a result of resizing");
    }
    let mut rest = spec.clone();
    whole(&mut rest, old_spec, &path, errors);
    for (i, (new, old)) in rest.containers.iter_mut().zip(&old_spec.containers).enumerate() {
        container(new, old, &path.child("containers").index(i), errors);
    }
    let inits = rest.init_containers.iter_mut().flatten().zip(old_spec.init_containers.iter().flatten());
    let list = path.child("initContainers");
    for (i, (new, old)) in inits.enumerate() {
        let path = list.index(i);
        let changed = *new != *old;
        container(new, old, &path, errors);
        if new.resources != old.resources {
            errors.forbidden(&path, "only cpu and memory resources for init or sidecar containers are mutable");
            new.resources.clone_from(&old.resources);
        }
        // They run to their end, and only once.
        let restarts = new.resize_policy.iter().flatten().any(|policy| policy.restart_policy == "RestartContainer");
        if changed && restarts && text(&old.restart_policy) != "Always" {
            let message = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
            errors.forbidden(&path, message);
        }
    }
    if rest != *old_spec {
        let value = |spec: &core::PodSpec| serde_json::to_value(spec).unwrap_or_default();
        let mut differences = Vec::new();
        validate::update::diff("spec", &value(old_spec), &value(&rest), &mut differences);
        let message = format!("only cpu and memory resources are mutable\n{}\n", differences.join("\n"));
        errors.forbidden(&path, &message);
    }
}

/// Judges the new resources of the pod as a whole, and takes what may change in them back.
fn whole(new: &mut core::PodSpec, old: &core::PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("resources");
    let Some(after) = &new.resources else {
        if old.resources.is_some() {
            errors.forbidden(&at, "pod-level resources cannot be removed");
            new.resources.clone_from(&old.resources);
        }
        return;
    };
    let before = old.resources.clone().unwrap_or_default();
    for (field, after, before) in
        [("requests", &after.requests, &before.requests), ("limits", &after.limits, &before.limits)]
    {
        let lost = before.iter().flatten().any(|(name, _)| after.as_ref().is_none_or(|list| !list.contains_key(name)));
        if lost {
            errors.forbidden(&at.child(field), &format!("pod-level resource {field} cannot be removed"));
        }
    }
    if restored(after, &before) != before {
        errors.forbidden(path, "only cpu and memory resources are mutable at pod-level");
    }
    new.resources.clone_from(&old.resources);
}

/// With the old amounts of what may change.
fn restored(after: &core::ResourceRequirements, before: &core::ResourceRequirements) -> core::ResourceRequirements {
    core::ResourceRequirements {
        claims: after.claims.clone(),
        limits: restore(after.limits.as_ref(), before.limits.as_ref()),
        requests: restore(after.requests.as_ref(), before.requests.as_ref()),
    }
}

/// Judges the new resources of a container, and takes what may change in them back.
fn container(new: &mut core::Container, old: &core::Container, path: &Path<'_>, errors: &mut Errors) {
    let empty = core::ResourceRequirements::default();
    let before = old.resources.clone().unwrap_or_default();
    let after = new.resources.as_ref().unwrap_or(&empty);
    let resources = path.child("resources");
    for (field, after, before) in
        [("limits", &after.limits, &before.limits), ("requests", &after.requests, &before.requests)]
    {
        let lost = before.iter().flatten().any(|(name, _)| after.as_ref().is_none_or(|list| !list.contains_key(name)));
        if lost {
            errors.forbidden(&resources.child(field), &format!("resource {field} cannot be removed"));
        }
    }
    let restored = restored(after, &before);
    // Nothing and an empty object are the same.
    new.resources = if restored == before { old.resources.clone() } else { Some(restored) };
}

type List = BTreeMap<String, Quantity>;

fn restore(new: Option<&List>, old: Option<&List>) -> Option<List> {
    let mut list: List = new.into_iter().flatten().map(|(name, amount)| (name.clone(), amount.clone())).collect();
    for name in RESIZABLE {
        match old.and_then(|old| old.get(name)) {
            Some(amount) => list.insert(name.to_owned(), amount.clone()),
            None => list.remove(name),
        };
    }
    if list.is_empty() && old.is_none_or(BTreeMap::is_empty) { old.cloned() } else { Some(list) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::adapter::describe;
    use crate::kinds::core::pod::Pods;

    fn sample() -> Value {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "default", "generation": 1},
            "spec": {"serviceAccountName": "default",
                "containers": [{"name": "c", "image": "i:1", "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}}],
                "initContainers": [{"name": "i", "image": "i:1", "resources": {"requests": {"cpu": "1"}}}]}});
        describe::<Pods>().strategy.default(&mut pod);
        pod
    }

    /// The generation after the update, or the messages.
    fn update(part: &str, old: &Value, change: impl FnOnce(&mut Value)) -> Result<Value, Vec<String>> {
        let strategy = describe::<Pods>().strategy;
        let mut new = old.clone();
        change(&mut new);
        strategy.default(&mut new);
        strategy.prepare_part_update(part, &mut new, old);
        let causes = strategy.validate_part_update(part, &new, old);
        if causes.is_empty() {
            Ok(new)
        } else {
            Err(causes.into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect())
        }
    }

    #[test]
    fn ephemeral_containers_are_only_added() {
        let debug = json!({"name": "debug", "image": "busybox:1", "targetContainerName": "c"});
        let added = update(EPHEMERAL, &sample(), |pod| {
            pod["spec"]["ephemeralContainers"] = json!([debug]);
            // Not what this subresource is for.
            pod["spec"]["containers"][0]["image"] = json!("other:1");
            pod["metadata"]["labels"] = json!({"a": "b"});
        })
        .expect("added");
        assert_eq!(added["metadata"]["generation"], 2);
        assert_eq!(
            (&added["spec"]["containers"][0]["image"], &added["metadata"]["labels"]),
            (&json!("i:1"), &Value::Null)
        );
        assert_eq!(added["spec"]["ephemeralContainers"][0]["imagePullPolicy"], "IfNotPresent");
        let told =
            update(EPHEMERAL, &added, |pod| pod["spec"]["ephemeralContainers"] = json!([])).expect_err("refused");
        let path = "spec.ephemeralContainers: Forbidden: existing ephemeral containers";
        assert_eq!(told, [format!("{path} \"debug\" may not be removed\n")]);
        let told = update(EPHEMERAL, &added, |pod| pod["spec"]["ephemeralContainers"][0]["image"] = json!("x:1"));
        assert!(told.expect_err("refused")[0].starts_with(&format!("{path} \"debug\" may not be changed")));
        let again = update(EPHEMERAL, &added, |_| {}).expect("nothing changed");
        assert_eq!(again["metadata"]["generation"], 2);
    }

    #[test]
    fn only_cpu_and_memory_are_resized() {
        let set = |list: &'static str, at: usize, value: Value| {
            move |pod: &mut Value| pod["spec"][list][at]["resources"] = value
        };
        let larger = json!({"limits": {"memory": "2Gi"}, "requests": {"cpu": "2", "memory": "2Gi"}});
        let resized = update(RESIZE, &sample(), set("containers", 0, larger)).expect("resized");
        assert_eq!(resized["spec"]["containers"][0]["resources"]["requests"]["cpu"], "2");
        assert_eq!(resized["metadata"]["generation"], 2);
        let moved =
            update(RESIZE, &sample(), |pod| pod["spec"]["containers"][0]["image"] = json!("x:1")).expect("ignored");
        assert_eq!(moved["spec"]["containers"][0]["image"], "i:1");
        for (list, value, expected) in [
            ("containers", json!({"requests": {"cpu": "1", "memory": "1Gi"}}), "resource limits cannot be removed"),
            (
                "containers",
                json!({"limits": {"memory": "1Gi", "cpu": "1"}, "requests": {"cpu": "1", "memory": "1Gi"}}),
                "",
            ),
            (
                "containers",
                json!({"limits": {"memory": "1Gi", "ephemeral-storage": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}),
                "only cpu and memory resources are mutable",
            ),
            ("initContainers", json!({"requests": {"cpu": "2"}, "limits": {"cpu": "2"}}), ""),
            ("initContainers", json!({}), "resource requests cannot be removed"),
            (
                "initContainers",
                json!({"requests": {"cpu": "1", "ephemeral-storage": "1Gi"}}),
                "only cpu and memory resources for init or sidecar containers are mutable",
            ),
        ] {
            let told = update(RESIZE, &sample(), set(list, 0, value.clone())).err().unwrap_or_default().join("; ");
            assert!(if expected.is_empty() { told.is_empty() } else { told.contains(expected) }, "{value}: {told}");
        }
        let mut with_whole = sample();
        with_whole["spec"]["resources"] =
            json!({"limits": {"cpu": "4", "memory": "4Gi"}, "requests": {"cpu": "3", "memory": "3Gi"}});
        for (value, expected) in [
            (json!({"limits": {"cpu": "5", "memory": "5Gi"}, "requests": {"cpu": "3", "memory": "4Gi"}}), ""),
            (Value::Null, "pod-level resources cannot be removed"),
            (json!({"requests": {"cpu": "3", "memory": "3Gi"}}), "pod-level resource limits cannot be removed"),
            (
                json!({"limits": {"cpu": "4", "memory": "4Gi", "hugepages-2Mi": "2Mi"}, "requests": {"cpu": "3", "memory": "3Gi"}}),
                "only cpu and memory resources are mutable at pod-level",
            ),
        ] {
            let told = update(RESIZE, &with_whole, |pod| match value.is_null() {
                true => drop(pod["spec"].as_object_mut().and_then(|spec| spec.remove("resources"))),
                false => pod["spec"]["resources"] = value.clone(),
            });
            let told = told.err().unwrap_or_default().join("; ");
            assert!(if expected.is_empty() { told.is_empty() } else { told.contains(expected) }, "{value}: {told}");
        }
        let mut guaranteed = sample();
        guaranteed["spec"]["initContainers"] = json!([]);
        guaranteed["spec"]["containers"][0]["resources"] =
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}});
        let value = json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}});
        let told = update(RESIZE, &guaranteed, set("containers", 0, value)).expect_err("refused").join("; ");
        assert!(told.contains("Pod QOS Class may not change as a result of resizing"), "{told}");
    }
}
