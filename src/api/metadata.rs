//! The rules for `metadata` that all kinds share.

use serde_json::{Map, Value};

use crate::field::{Errors, Path};
use crate::names::{self, NameRule};

const ANNOTATIONS_MAX_B: usize = 256 * 1024;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const IMMUTABLE: &str = "field is immutable";
const META: Path<'static> = Path::new("metadata");

/// Drops what only the server may set. Name, uid and time are the server's to fill in.
pub fn prepare_create(object: &mut Value) {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
            meta.remove(key);
        }
    }
}

/// Takes over what an update may leave out, and what it can't take back: identity, deletion, generation.
pub fn prepare_update(object: &mut Value, old: &Value) {
    let (Some(meta), Some(old)) =
        (object.get_mut("metadata").and_then(Value::as_object_mut), old.get("metadata").and_then(Value::as_object))
    else {
        return;
    };
    let lacks = |meta: &Map<String, Value>, key: &str| {
        meta.get(key).is_none_or(|v| v.is_null() || v.as_str().is_some_and(str::is_empty))
    };
    for key in ["uid", "creationTimestamp", "deletionGracePeriodSeconds"] {
        if let (true, Some(value)) = (lacks(meta, key), old.get(key)) {
            meta.insert(key.to_owned(), value.clone());
        }
    }
    if let Some(value) = old.get("deletionTimestamp") {
        meta.insert("deletionTimestamp".to_owned(), value.clone());
    }
    meta.remove("selfLink");
    match old.get("generation") {
        Some(generation) => meta.insert("generation".to_owned(), generation.clone()),
        None => meta.remove("generation"),
    };
}

/// The metadata of a new object.
pub fn validate(meta: &Value, namespaced: bool, name_rule: NameRule, errors: &mut Errors) {
    let text = |key: &str| meta.get(key).and_then(Value::as_str).unwrap_or("");
    let (name, generate_name, namespace) = (text("name"), text("generateName"), text("namespace"));
    if !generate_name.is_empty() {
        errors.invalid_each(&META.child("generateName"), generate_name, name_rule(generate_name, true));
    }
    if name.is_empty() {
        errors.required(&META.child("name"), "name or generateName is required");
    } else {
        errors.invalid_each(&META.child("name"), name, name_rule(name, false));
    }
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.required(&META.child("namespace"), ""),
        (true, false) => errors.invalid_each(&META.child("namespace"), namespace, names::dns_label(namespace)),
        (false, false) => errors.forbidden(&META.child("namespace"), "not allowed on this type"),
        (false, true) => {}
    }
    validate_common(meta, errors);
    validate_finalizers(meta, errors);
}

/// The metadata of a changed object.
pub fn validate_update(meta: &Value, old: &Value, errors: &mut Errors) {
    let get = |value: &Value, key: &str| value.get(key).filter(|v| !v.is_null()).cloned();
    if get(old, "deletionTimestamp").is_some() {
        let before = texts(old.get("finalizers"));
        let mut added: Vec<&str> = texts(meta.get("finalizers")).into_iter().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            added.sort_unstable();
            let shown: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            errors.forbidden(
                &META.child("finalizers"),
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    shown.join(", ")
                ),
            );
        }
    }
    for key in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (new, old) = (get(meta, key), get(old, key));
        if new != old {
            errors.invalid(&META.child(key), new, IMMUTABLE);
        }
    }
    validate_common(meta, errors);
    validate_finalizers(meta, errors);
}

fn validate_common(meta: &Value, errors: &mut Errors) {
    if let Some(generation) = meta.get("generation").and_then(Value::as_i64).filter(|g| *g < 0) {
        errors.invalid(&META.child("generation"), generation, "must be greater than or equal to 0");
    }
    if let Some(labels) = meta.get("labels").and_then(Value::as_object) {
        validate_labels(
            labels.iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap_or(""))),
            &META.child("labels"),
            errors,
        );
    }
    if let Some(annotations) = meta.get("annotations").and_then(Value::as_object) {
        let pairs = annotations.iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap_or("")));
        validate_annotations(pairs, &META.child("annotations"), errors);
    }
    if let Some(owners) = meta.get("ownerReferences").and_then(Value::as_array) {
        validate_owners(owners, &META.child("ownerReferences"), errors);
    }
}

pub fn validate_labels<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>, path: &Path<'_>, errors: &mut Errors) {
    for (key, value) in labels {
        errors.invalid_each(path, key, names::qualified_name(key));
        errors.invalid_each(path, value, names::label_value(value));
    }
}

pub fn validate_annotations<'a>(
    annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut size = 0;
    for (key, value) in annotations {
        size += key.len() + value.len();
        errors.invalid_each(path, key, names::qualified_name(&key.to_lowercase()));
    }
    if size > ANNOTATIONS_MAX_B {
        errors.too_long(path, ANNOTATIONS_MAX_B);
    }
}

fn validate_owners(owners: &[Value], path: &Path<'_>, errors: &mut Errors) {
    let mut controller: Option<String> = None;
    for owner in owners {
        let text = |key: &str| owner.get(key).and_then(Value::as_str).unwrap_or("");
        let version = text("apiVersion");
        if version.is_empty() || version.ends_with('/') {
            errors.invalid(&path.child("apiVersion"), version, "version must not be empty");
        }
        for key in ["kind", "name", "uid"] {
            if text(key).is_empty() {
                errors.invalid(&path.child(key), "", "must not be empty");
            }
        }
        if version == "v1" && text("kind") == "Event" {
            errors.invalid(path, owner, "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                Some(first) => errors.invalid(
                    path,
                    owners,
                    &format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {this}"
                    ),
                ),
                None => controller = Some(this),
            }
        }
    }
}

fn texts(list: Option<&Value>) -> Vec<&str> {
    list.and_then(Value::as_array).map(|l| l.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

fn validate_finalizers(meta: &Value, errors: &mut Errors) {
    let finalizers = texts(meta.get("finalizers"));
    let path = META.child("finalizers");
    for finalizer in &finalizers {
        errors.invalid_each(&path, *finalizer, names::qualified_name(finalizer));
    }
    if finalizers.contains(&ORPHAN) && finalizers.contains(&FOREGROUND) {
        let message = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        errors.invalid(&path, &finalizers, &message);
    }
}

/// Finalizers of built-in kinds must be known or carry a domain.
pub fn validate_builtin_finalizers(meta: &Value, errors: &mut Errors) {
    for (i, finalizer) in texts(meta.get("finalizers")).into_iter().enumerate() {
        if !finalizer.contains('/') && !matches!(finalizer, "kubernetes" | ORPHAN | FOREGROUND) {
            errors.invalid(
                &META.child("finalizers").index(i),
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts_of(errors: Errors) -> Vec<String> {
        errors.into_causes().iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    #[test]
    fn new_metadata() {
        let owner =
            |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "u", "controller": true});
        for (meta, expect) in [
            (json!({"name": "a", "namespace": "b", "labels": {"a": "b"}}), vec![]),
            (json!({"namespace": "b"}), vec!["metadata.name: Required value: name or generateName is required"]),
            (json!({"name": "a"}), vec!["metadata.namespace: Required value"]),
            (json!({"name": "a", "generateName": "a-", "namespace": "b"}), vec![]),
            (
                json!({"name": "a", "namespace": "b", "annotations": {"A/B": ""}, "labels": {"/": ""}}),
                vec![
                    "metadata.labels: Invalid value: \"/\": prefix part must be non-empty",
                    "metadata.labels: Invalid value: \"/\": name part must be non-empty",
                    "metadata.labels: Invalid value: \"/\": name part must consist of alphanumeric characters, '-', '_' or \
                     '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
                     '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                ],
            ),
            (
                json!({"name": "a", "namespace": "b", "annotations": {"a": "x".repeat(262144)}}),
                vec!["metadata.annotations: Too long: may not be more than 262144 bytes"],
            ),
            (
                json!({"name": "a", "namespace": "b", "finalizers": ["orphan", "foregroundDeletion"]}),
                vec![
                    "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and \
                      foregroundDeletion cannot be both set",
                ],
            ),
            (
                json!({"name": "a", "namespace": "b", "ownerReferences": [{"apiVersion": "", "kind": "K", "name": ""}]}),
                vec![
                    "metadata.ownerReferences.apiVersion: Invalid value: \"\": version must not be empty",
                    "metadata.ownerReferences.name: Invalid value: \"\": must not be empty",
                    "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty",
                ],
            ),
        ] {
            let mut errors = Errors::new();
            validate(&meta, true, names::name_is_subdomain, &mut errors);
            assert_eq!(texts_of(errors), expect, "{meta}");
        }
        let mut errors = Errors::new();
        let meta = json!({"name": "a", "namespace": "b", "ownerReferences": [owner("x"), owner("y")]});
        validate(&meta, false, names::name_is_subdomain, &mut errors);
        let texts = texts_of(errors);
        assert_eq!(texts[0], "metadata.namespace: Forbidden: not allowed on this type");
        assert!(texts[1].ends_with("Found \"true\" in references for Pod/x and Pod/y"), "{}", texts[1]);
    }

    #[test]
    fn changed_metadata() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "creationTimestamp": "t", "deletionTimestamp": "d",
            "generation": 3, "finalizers": ["a/b"]}});
        let mut new = json!({"metadata": {"name": "a", "generation": 9, "finalizers": ["a/c", "a/b"]}});
        prepare_update(&mut new, &old);
        assert_eq!(
            new["metadata"],
            json!({"name": "a", "uid": "1", "creationTimestamp": "t", "deletionTimestamp": "d", "generation": 3,
                "finalizers": ["a/c", "a/b"]})
        );
        new["metadata"]["uid"] = json!("2");
        let mut errors = Errors::new();
        validate_update(&new["metadata"], &old["metadata"], &mut errors);
        assert_eq!(
            texts_of(errors),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{\"a/c\"}",
                "metadata.uid: Invalid value: \"2\": field is immutable",
            ]
        );
    }
}
