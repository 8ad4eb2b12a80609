//! DefaultStorageClass and DefaultIngressClass: the class of what names none.

use std::cmp::Reverse;

use serde_json::Value;
use skiff_api::ApiError;

use super::request::{Operation, Request};

struct Defaulted {
    group: &'static str,
    resource: &'static str,
    /// The classes' prefix in the store.
    classes: &'static str,
    field: &'static str,
    /// An annotation that names the class in place of the field.
    old_annotation: &'static str,
    /// Annotations that mark the default class.
    marks: &'static [&'static str],
}

const KINDS: [Defaulted; 2] = [
    Defaulted {
        group: "",
        resource: "persistentvolumeclaims",
        classes: "storage.k8s.io/storageclasses",
        field: "storageClassName",
        old_annotation: "volume.beta.kubernetes.io/storage-class",
        marks: &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"],
    },
    Defaulted {
        group: "networking.k8s.io",
        resource: "ingresses",
        classes: "networking.k8s.io/ingressclasses",
        field: "ingressClassName",
        old_annotation: "kubernetes.io/ingress.class",
        marks: &["ingressclass.kubernetes.io/is-default-class"],
    },
];

/// Says whether it has filled in a class.
pub(super) async fn fill(request: &Request<'_>, object: &mut Value) -> Result<bool, ApiError> {
    let concerns = |kind: &&Defaulted| request.is(Operation::Create, kind.group, kind.resource);
    let Some(kind) = KINDS.iter().find(concerns) else { return Ok(false) };
    if !names_none(kind, object) {
        return Ok(false);
    }
    request.server.cache.fresh().await?;
    let classes: Vec<Value> = request.server.resource(kind.classes).all().iter().map(|class| class.value()).collect();
    let Some(class) = default_of(kind, &classes) else { return Ok(false) };
    object["spec"][kind.field] = class.into();
    Ok(true)
}

/// An empty class is one, too: it asks for no class at all.
fn names_none(kind: &Defaulted, object: &Value) -> bool {
    object["spec"].get(kind.field).is_none_or(Value::is_null)
        && object["metadata"]["annotations"].get(kind.old_annotation).is_none()
}

/// The newest of the default classes; of equally old ones the first by name.
fn default_of<'a>(kind: &Defaulted, classes: &'a [Value]) -> Option<&'a str> {
    let is_default =
        |class: &&Value| kind.marks.iter().any(|mark| class["metadata"]["annotations"][*mark].as_str() == Some("true"));
    let text = |class: &'a Value, field: &str| class["metadata"][field].as_str().unwrap_or_default();
    let defaults = classes.iter().filter(is_default);
    let newest = defaults.min_by_key(|class| (Reverse(text(class, "creationTimestamp")), text(class, "name")))?;
    Some(text(newest, "name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_newest_default_is_taken() {
        let class = |name: &str, at: &str, annotation: &str, value: &str| json!({"metadata": {"name": name, "creationTimestamp": at, "annotations": {annotation: value}}});
        let [storage, ingress] = &KINDS;
        let (mark, beta) = (storage.marks[0], storage.marks[1]);
        let check = |classes: &[Value], expect: Option<&str>| assert_eq!(default_of(storage, classes), expect);
        check(&[], None);
        check(&[class("a", "2024-01-01T00:00:00Z", mark, "false")], None);
        let old = class("a", "2024-01-01T00:00:00Z", mark, "true");
        check(
            &[
                old.clone(),
                class("c", "2024-01-02T00:00:00Z", beta, "true"),
                class("b", "2024-01-02T00:00:00Z", mark, "true"),
            ],
            Some("b"),
        );
        assert_eq!(default_of(ingress, &[old]), None);
    }

    #[test]
    fn what_names_a_class_keeps_it() {
        let [storage, _] = &KINDS;
        for (claim, expect) in [
            (json!({"spec": {}}), true),
            (json!({"spec": {"storageClassName": null}}), true),
            (json!({"spec": {"storageClassName": ""}}), false),
            (json!({"spec": {"storageClassName": "x"}}), false),
            (json!({"metadata": {"annotations": {storage.old_annotation: "x"}}, "spec": {}}), false),
        ] {
            assert_eq!(names_none(storage, &claim), expect, "{claim}");
        }
    }
}
