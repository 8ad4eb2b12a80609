//! RuntimeClass: there is none, so a pod that asks for one would run with less isolation than it wants.

use serde_json::Value;
use skiff_api::ApiError;

use crate::meta;

pub(super) fn create(pod: &Value) -> Result<(), ApiError> {
    match pod["spec"]["runtimeClassName"].as_str() {
        None | Some("") => Ok(()),
        Some(class) => {
            let why = format!("pod rejected: RuntimeClass {class:?} not found");
            Err(ApiError::forbidden("", "pods", meta::text(pod, "name"), &why))
        }
    }
}
