//! AdmissionReview: the question, and what an answer means.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skiff_api::{ApiError, kind_text};

/// What a webhook says.
#[derive(Debug, PartialEq)]
pub(super) struct Verdict {
    pub allowed: bool,
    /// JSON patch.
    pub patch: Option<Value>,
    pub warnings: Vec<String>,
    /// For the audit log.
    pub annotations: Vec<(String, String)>,
    /// A `Status`, for refusals.
    pub result: Value,
}

/// Reads an answer; the error is what is wrong with it.
pub(super) fn read(answer: &Value, version: &str, uid: &str, may_patch: bool) -> Result<Verdict, String> {
    let (kind, api_version) = (answer["kind"].as_str().unwrap_or_default(), answer["apiVersion"].as_str());
    let wanted = format!("admission.k8s.io/{version}");
    // The old version's answers needed none of it.
    if version == "v1" && (kind != "AdmissionReview" || api_version != Some(wanted.as_str())) {
        let got = kind_text(api_version.unwrap_or_default(), kind);
        return Err(format!("expected webhook response of {wanted}, Kind=AdmissionReview, got {got}"));
    }
    let response = &answer["response"];
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let got = response["uid"].as_str().unwrap_or_default();
    if version == "v1" && got != uid {
        return Err(format!("expected response.uid={uid:?}, got {got:?}"));
    }
    let patch = match response["patch"].as_str().filter(|patch| !patch.is_empty()) {
        Some(patch) => Some(read_patch(patch, response["patchType"].as_str(), version, may_patch)?),
        None => None,
    };
    let warnings = response["warnings"].as_array().into_iter().flatten();
    let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
    Ok(Verdict {
        annotations: annotations.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
        allowed: response["allowed"] == true,
        patch,
        warnings: warnings.filter_map(|text| text.as_str().map(str::to_owned)).collect(),
        result: response["status"].clone(),
    })
}

fn read_patch(patch: &str, kind: Option<&str>, version: &str, may_patch: bool) -> Result<Value, String> {
    if !may_patch {
        return Err("validating webhook may not return response.patch".to_owned());
    }
    match kind {
        Some("JSONPatch") => {}
        None if version != "v1" => {}
        None => return Err("webhook returned response.patch but not response.patchType".to_owned()),
        Some(other) => return Err(format!("invalid response.patchType of {other:?}")),
    }
    let bytes = STANDARD.decode(patch).map_err(|e| format!("response.patch: {e}"))?;
    serde_json::from_slice(&bytes).map_err(|e| format!("response.patch: {e}"))
}

/// The refusal that the client gets.
pub(super) fn denied(webhook: &str, result: &Value) -> ApiError {
    let text = |field: &str| result[field].as_str().filter(|text| !text.is_empty());
    let by = format!("admission webhook {webhook:?} denied the request");
    let message = match text("message").or(text("reason")) {
        Some(why) => format!("{by}: {why}"),
        None => format!("{by} without explanation"),
    };
    let mut status = if result.is_object() { result.clone() } else { json!({}) };
    let code = result["code"].as_u64().filter(|code| (400..=599).contains(code)).unwrap_or(400);
    status["kind"] = "Status".into();
    status["code"] = code.into();
    status["message"] = message.as_str().into();
    let reason = text("reason").unwrap_or_default().to_owned();
    status["reason"] = reason.as_str().into();
    ApiError::from_value(&status).unwrap_or_else(|| ApiError::new(u16::try_from(code).unwrap_or(400), &reason, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> Value {
        json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response})
    }

    #[test]
    fn answers_are_read_strictly() {
        let check = |answer: Value, may_patch: bool, expect: Result<Option<Value>, &str>| {
            let verdict = read(&answer, "v1", "u", may_patch).map(|verdict| verdict.patch);
            assert_eq!(verdict, expect.map_err(str::to_owned), "{answer}");
        };
        check(answer(json!({"uid": "u", "allowed": true})), true, Ok(None));
        check(
            json!({}),
            true,
            Err("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind="),
        );
        check(answer(json!(null)), true, Err("webhook response was absent"));
        check(answer(json!({"uid": "x"})), true, Err("expected response.uid=\"u\", got \"x\""));
        let patch = STANDARD.encode("[]");
        let with = |kind: Value| answer(json!({"uid": "u", "allowed": true, "patch": patch, "patchType": kind}));
        check(with(json!("JSONPatch")), true, Ok(Some(json!([]))));
        check(with(json!("JSONPatch")), false, Err("validating webhook may not return response.patch"));
        check(with(json!(null)), true, Err("webhook returned response.patch but not response.patchType"));
        check(with(json!("Merge")), true, Err("invalid response.patchType of \"Merge\""));
        let old = json!({"response": {"allowed": true}});
        assert_eq!(read(&old, "v1beta1", "u", true).map(|verdict| verdict.allowed), Ok(true));
    }

    #[test]
    fn refusals_say_why() {
        let check = |result: Value, code: u16, message: &str| {
            let error = denied("h.example.org", &result);
            assert_eq!((error.code, error.message.as_str()), (code, message));
        };
        check(json!(null), 400, "admission webhook \"h.example.org\" denied the request without explanation");
        check(json!({"message": "no", "code": 418}), 418, "admission webhook \"h.example.org\" denied the request: no");
        check(
            json!({"reason": "Because", "code": 200}),
            400,
            "admission webhook \"h.example.org\" denied the request: Because",
        );
    }
}
