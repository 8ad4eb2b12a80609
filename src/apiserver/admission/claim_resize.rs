//! PersistentVolumeClaimResize: only what its class lets grow may ask for more.

use serde_json::Value;
use skiff_api::ApiError;
use skiff_api::quantity::Quantity;

use super::request::{Operation, Request};

pub(super) fn check(request: &Request<'_>, object: &Value) -> Result<(), ApiError> {
    let (Some(old), true) = (request.old, request.is(Operation::Update, "", "persistentvolumeclaims")) else {
        return Ok(());
    };
    if size(object) <= size(old) {
        return Ok(());
    }
    if old["status"]["phase"] != "Bound" {
        return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
    }
    let class = object["spec"]["storageClassName"].as_str().unwrap_or_default();
    let class = request.server.resource("storage.k8s.io/storageclasses").find("", class);
    if class.is_some_and(|class| class.value()["allowVolumeExpansion"] == true) {
        return Ok(());
    }
    Err(request.forbidden(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    ))
}

fn size(claim: &Value) -> Quantity {
    let text = claim["spec"]["resources"]["requests"]["storage"].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or(Quantity::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_of_claims() {
        let claim = |text: Value| json!({"spec": {"resources": {"requests": {"storage": text}}}});
        assert!(size(&claim(json!("1Gi"))) > size(&claim(json!("1000Mi"))));
        assert_eq!(size(&claim(json!("1024Mi"))), size(&claim(json!("1Gi"))));
        assert_eq!(size(&claim(json!(null))), Quantity::ZERO);
    }
}
