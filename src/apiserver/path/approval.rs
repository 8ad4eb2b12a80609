//! The `approval` subresource of CertificateSigningRequests: conditions, and nothing else.

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_api::ApiError;

use super::create::key_of;
use crate::auth::Attributes;
use crate::call::{Call, Target};
use crate::registry::Row;
use crate::server::Server;

impl Server {
    /// Who approves or denies needs the verb `approve` on the request's signer, or on all of the signer's domain.
    pub(crate) async fn check_approver(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<(), ApiError> {
        let request = self.current(row, &key_of(target)).await?.value();
        let signer = request["spec"]["signerName"].as_str().unwrap_or_default();
        let domain = format!("{}/*", signer.split_once('/').map_or(signer, |(domain, _)| domain));
        for name in [signer, &domain] {
            let asked = Attributes {
                verb: "approve",
                group: "certificates.k8s.io",
                resource: "signers",
                name,
                ..Attributes::default()
            };
            if self.authorize(call, &asked).await.is_ok() {
                return Ok(());
            }
        }
        let why = format!("user not permitted to approve requests with signerName {signer:?}");
        Err(ApiError::forbidden(row.group(), row.resource(), &target.name, &why))
    }
}

/// The old request with the new one's conditions. A new condition gets the times that it lacks.
pub(super) fn decide(new: &mut Value, old: &Value, now: &str) {
    let mut conditions = new["status"]["conditions"].as_array().cloned().unwrap_or_default();
    for condition in &mut conditions {
        let same = |c: &&Value| c["type"] == condition["type"] && c["status"] == condition["status"];
        let before = old["status"]["conditions"].as_array().into_iter().flatten().find(same);
        let since = before.map_or_else(|| json!(now), |c| c["lastTransitionTime"].clone());
        for (field, value) in [("lastTransitionTime", since), ("lastUpdateTime", json!(now))] {
            if condition[field].is_null() {
                condition[field] = value;
            }
        }
    }
    let metadata = new["metadata"].take();
    *new = old.clone();
    new["metadata"] = metadata;
    if !conditions.is_empty() {
        new["status"]["conditions"] = conditions.into();
    } else if let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("conditions");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_conditions_are_taken() {
        let old = json!({"metadata": {"name": "r"}, "spec": {"a": 1}, "status": {"certificate": "c"}});
        let mut new = json!({"metadata": {"name": "r"}, "spec": {"a": 2}, "status": {"certificate": "d",
            "conditions": [{"type": "Approved", "status": "True", "reason": "R"}]}});
        decide(&mut new, &old, "now");
        assert_eq!(
            new,
            json!({"metadata": {"name": "r"}, "spec": {"a": 1}, "status": {"certificate": "c",
                "conditions": [{"type": "Approved", "status": "True", "reason": "R", "lastTransitionTime": "now",
                    "lastUpdateTime": "now"}]}})
        );
        let mut again = new.clone();
        decide(&mut again, &new, "later");
        assert_eq!(again, new);
    }
}
