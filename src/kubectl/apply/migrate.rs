//! From client-side to server-side apply: what the one owned becomes the other's, so that fields which are no longer
//! applied go, as they would have gone before.
//!
//! Done after an apply on the server, from what it answers: only objects that need it cost further requests.

use serde_json::{Map, Value, json};
use skiff_client::PatchKind;

use super::{CLIENT_SIDE, LAST_APPLIED};
use crate::Result;
use crate::server::{MANAGER, Server, with_query};

/// Owns the annotation of client-side apply from then on: a downgrade still finds it.
const KEEPER: &str = "kubectl-last-applied";

/// Migrates an object at its path; tells whether it has to be applied once more.
pub async fn migrate(server: &Server, at: &str, object: &Value) -> Result<bool> {
    if let Some(annotation) = orphan(object) {
        let body = json!({"apiVersion": object["apiVersion"], "kind": object["kind"],
            "metadata": {"name": object["metadata"]["name"], "annotations": {LAST_APPLIED: annotation}}});
        let path = with_query(at, &[("fieldManager", KEEPER), ("force", "true")]);
        let after = server.patch(&path, PatchKind::Apply, &body).await?;
        return take_over(server, at, &after).await;
    }
    take_over(server, at, object).await
}

async fn take_over(server: &Server, at: &str, object: &Value) -> Result<bool> {
    let Some(entries) = united(object) else { return Ok(false) };
    let patch = json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": entries},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": object["metadata"]["resourceVersion"]},
    ]);
    server.patch(at, PatchKind::Json, &patch).await?;
    Ok(true)
}

fn entries(object: &Value) -> &[Value] {
    object["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The annotation, where nobody keeps it who outlives the migration.
fn orphan(object: &Value) -> Option<&Value> {
    let annotation = object["metadata"]["annotations"].get(LAST_APPLIED)?;
    let kept = entries(object).iter().any(|entry| entry["manager"] == KEEPER && entry["operation"] == "Apply");
    (!kept && entries(object).iter().any(is_client_side)).then_some(annotation)
}

fn is_client_side(entry: &Value) -> bool {
    entry["manager"] == CLIENT_SIDE
        && entry["operation"] == "Update"
        && entry["subresource"].as_str().unwrap_or_default().is_empty()
}

/// The owners after the migration; nothing where client-side apply owns nothing.
fn united(object: &Value) -> Option<Vec<Value>> {
    let (old, mut kept): (Vec<Value>, Vec<Value>) = entries(object).iter().cloned().partition(is_client_side);
    let first = old.first()?.clone();
    let is_ours = |entry: &Value| {
        entry["manager"] == MANAGER && entry["operation"] == "Apply" && entry["apiVersion"] == first["apiVersion"]
    };
    let mut fields = json!({});
    old.iter().for_each(|entry| unite(&mut fields, &entry["fieldsV1"]));
    // The annotation is the keeper's.
    if let Some(annotations) = fields["f:metadata"]["f:annotations"].as_object_mut() {
        annotations.remove(&format!("f:{LAST_APPLIED}"));
    }
    match kept.iter_mut().find(|entry| is_ours(entry)) {
        Some(ours) => unite(&mut ours["fieldsV1"], &fields),
        None => {
            let mut ours = first;
            (ours["manager"], ours["operation"], ours["fieldsV1"]) = (MANAGER.into(), "Apply".into(), fields);
            kept.push(ours);
        }
    }
    Some(kept)
}

/// Sets of fields are maps of maps: their union has the keys of both.
fn unite(into: &mut Value, more: &Value) {
    let Some(more) = more.as_object() else { return };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    for (key, inner) in more {
        unite(&mut into[key], inner);
        if into[key].is_null() {
            into[key] = inner.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_sides_fields_become_the_servers() {
        let entry = |manager: &str, operation: &str, fields: Value| json!({"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsV1": fields});
        let annotation = format!("f:{LAST_APPLIED}");
        let object = json!({"metadata": {"annotations": {LAST_APPLIED: "{}"}, "managedFields": [
            entry(CLIENT_SIDE, "Update", json!({"f:data": {".": {}, "f:old": {}, "f:both": {}}, "f:metadata": {"f:annotations": {".": {}, (annotation): {}}}})),
            entry(MANAGER, "Apply", json!({"f:data": {"f:both": {}, "f:new": {}}})),
            entry("other", "Update", json!({"f:data": {"f:theirs": {}}}))]}});
        assert!(orphan(&object).is_some());
        let after = united(&object).expect("something to do");
        assert_eq!(after.len(), 2);
        assert_eq!(
            after[0]["fieldsV1"],
            json!({"f:data": {".": {}, "f:old": {}, "f:both": {}, "f:new": {}}, "f:metadata": {"f:annotations": {".": {}}}})
        );
        let done = json!({"metadata": {"annotations": {LAST_APPLIED: "{}"}, "managedFields": after}});
        assert!(orphan(&done).is_none() && united(&done).is_none());
    }
}
