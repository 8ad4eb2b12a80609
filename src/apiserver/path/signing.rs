//! What CertificateSigningRequests have of their own: verdicts and their times, and contents that are X.509.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use skiff_api::status::Cause;

use super::part::Part;
use crate::registry::Row;

pub(super) fn is_request(row: &Row) -> bool {
    row.is("certificates.k8s.io", "certificatesigningrequests")
}

/// The old request with the new one's conditions: all that the subresource `approval` changes.
pub(super) fn decide(new: &mut Value, old: &Value) {
    let conditions = new["status"]["conditions"].take();
    let metadata = new["metadata"].take();
    *new = old.clone();
    new["metadata"] = metadata;
    match conditions.as_array().is_some_and(|list| !list.is_empty()) {
        true => new["status"]["conditions"] = conditions,
        false => {
            if let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) {
                status.remove("conditions");
            }
        }
    }
}

/// Conditions get the times that they lack; what was so before has been so since then.
pub(super) fn fill_times(new: &mut Value, old: &Value, now: &str) {
    for condition in new.pointer_mut("/status/conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        let same = |c: &&Value| c["type"] == condition["type"] && c["status"] == condition["status"];
        let before = old["status"]["conditions"].as_array().into_iter().flatten().find(same);
        let since = before.map(|c| c["lastTransitionTime"].clone()).filter(Value::is_string);
        for (field, value) in
            [("lastTransitionTime", since.unwrap_or_else(|| json!(now))), ("lastUpdateTime", json!(now))]
        {
            if condition[field].is_null() {
                condition[field] = value;
            }
        }
    }
}

/// What is wrong with a new request.
pub(super) fn check_new(request: &Value) -> Option<Cause> {
    let error = skiff_pki::Request::parse(&bytes(&request["spec"]["request"])).err()?;
    let given = request["spec"]["request"].as_str().unwrap_or_default();
    Some(Cause {
        reason: "FieldValueInvalid".into(),
        message: format!("Invalid value: {given:?}: {error}"),
        field: "spec.request".into(),
    })
}

/// What a change of the status may not do, beyond what the kind itself refuses.
pub(super) fn check_change(part: Part, new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let count = |request: &Value, kind: &str| {
        let conditions = request["status"]["conditions"].as_array();
        conditions.into_iter().flatten().filter(|condition| condition["type"] == kind).count()
    };
    for kind in ["Approved", "Denied"] {
        if part == Part::Status && count(new, kind) > count(old, kind) {
            causes.push(Cause {
                reason: "FieldValueForbidden".into(),
                message: format!("Forbidden: updates may not add a condition of type {kind:?}"),
                field: "status.conditions".into(),
            });
        }
    }
    let certificate = |request: &Value| bytes(&request["status"]["certificate"]);
    let (now, before) = (certificate(new), certificate(old));
    if now != before
        && let Err(why) = skiff_pki::check_certificates(&now)
    {
        causes.push(Cause {
            reason: "FieldValueInvalid".into(),
            message: format!("Invalid value: \"<certificate data>\": {why}"),
            field: "status.certificate".into(),
        });
    }
    causes
}

/// What is no base64 is refused as a value of a wrong type.
fn bytes(value: &Value) -> Vec<u8> {
    BASE64.decode(value.as_str().unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_conditions_are_taken() {
        let old = json!({"metadata": {"name": "r"}, "spec": {"a": 1}, "status": {"certificate": "c"}});
        let mut new = json!({"metadata": {"name": "r"}, "spec": {"a": 2}, "status": {"certificate": "d",
            "conditions": [{"type": "Approved", "status": "True", "reason": "R"}]}});
        decide(&mut new, &old);
        fill_times(&mut new, &old, "now");
        assert_eq!(
            new,
            json!({"metadata": {"name": "r"}, "spec": {"a": 1}, "status": {"certificate": "c",
                "conditions": [{"type": "Approved", "status": "True", "reason": "R", "lastTransitionTime": "now",
                    "lastUpdateTime": "now"}]}})
        );
        let mut again = new.clone();
        decide(&mut again, &new);
        fill_times(&mut again, &new, "later");
        assert_eq!(again, new);
        again["status"]["conditions"][0].as_object_mut().expect("one").retain(|key, _| !key.starts_with("last"));
        fill_times(&mut again, &new, "later");
        assert_eq!(again["status"]["conditions"][0]["lastTransitionTime"], "now");
        assert_eq!(again["status"]["conditions"][0]["lastUpdateTime"], "later");
    }
}
