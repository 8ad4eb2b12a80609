//! What a webhook is asked: the request of an AdmissionReview.

use serde_json::{Value, json};
use skiff_api::Gvk;

use super::operation;
use crate::admission::request::Request;
use crate::registry::Row;

/// `row` is that in whose version the webhook sees the objects.
pub(super) fn question(request: &Request<'_>, row: &Row, uid: &str, object: &Value, old: &Value) -> Value {
    let kind = |gvk: &Gvk| json!({"group": &*gvk.group, "version": &*gvk.version, "kind": &*gvk.kind});
    let resource = |row: &Row| {
        let gvr = &row.descriptor.gvr;
        json!({"group": &*gvr.group, "version": &*gvr.version, "resource": &*gvr.resource})
    };
    let user = request.user;
    let mut who = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        who["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        who["extra"] = user
            .extra
            .iter()
            .map(|(key, values)| (key.clone(), json!(values)))
            .collect::<serde_json::Map<_, _>>()
            .into();
    }
    // What is no object of the row's kind is the same in all versions.
    let kinds = match &request.of {
        Some(of) => [kind(of), kind(of)],
        None => [kind(&row.descriptor.gvk), kind(&request.row.descriptor.gvk)],
    };
    let mut question = json!({
        "uid": uid, "kind": kinds[0], "resource": resource(row),
        "requestKind": kinds[1], "requestResource": resource(request.row),
        "operation": operation(request), "userInfo": who, "object": object, "oldObject": old,
        "dryRun": request.dry_run, "options": request.options,
    });
    let name = &*request.key.name;
    let namespace = if request.row.is("", "namespaces") { name } else { &*request.key.namespace };
    for (field, text) in [
        ("subResource", request.subresource),
        ("requestSubResource", request.subresource),
        ("name", name),
        ("namespace", namespace),
    ] {
        if !text.is_empty() {
            question[field] = text.into();
        }
    }
    question
}
