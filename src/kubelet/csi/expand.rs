//! Volumes that have grown: their file systems follow, on the node that has them. Who made the volume has made it larger, and
//! says on the claim that the node is to go on.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::{Value, json};
use skiff_api::quantity::Quantity;
use skiff_api::volume as rules;
use skiff_base::{chain, time};
use skiff_client::{EventKind, EventRecorder, PatchKind};

use super::Driver;
use super::request::{self, Places};
use super::volume::{Wanted, secrets};
use crate::context::Context;
use crate::grpc::{FAILED_PRECONDITION, Failure, INVALID_ARGUMENT, NOT_FOUND, OUT_OF_RANGE};
use crate::volume::claim::Claimed;

const PENDING: &str = "NodeResizePending";
const IN_PROGRESS: &str = "NodeResizeInProgress";
const INFEASIBLE: &str = "NodeResizeInfeasible";
/// The conditions of a claim that tell of a change of its size.
const CONDITIONS: [&str; 4] = ["FileSystemResizePending", "Resizing", "ControllerResizeError", "NodeResizeError"];
const ERROR: &str = "NodeResizeError";

/// The size that a volume has got, where the node is to do its part.
fn plan(claimed: &Claimed) -> Option<Quantity> {
    let status = claimed.claim.status.as_ref()?;
    let resize = status.allocated_resource_statuses.as_ref()?.get("storage")?;
    let told = status.capacity.as_ref().and_then(|capacity| capacity.get("storage")?.0.parse().ok());
    let size = rules::capacity(&claimed.volume);
    let asked = [PENDING, IN_PROGRESS].contains(&resize.as_str()) && !claimed.read_only;
    (asked && told.unwrap_or(Quantity::ZERO) < size).then_some(size)
}

/// Whether the claim tells of a try that failed.
pub(super) fn has_failed(claimed: &Claimed) -> bool {
    let conditions = claimed.claim.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == ERROR)
}

/// What a status says from now on: `resize` of the claim's state, `None` where it is done.
fn plan_patch(claimed: &Claimed, resize: Option<&str>, failure: Option<&Failure>) -> Value {
    let claim = &claimed.claim;
    let mut status = json!({"allocatedResourceStatuses": {"storage": resize}});
    let conditions = claim.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut conditions: Vec<Value> = conditions
        .filter(|condition| match failure {
            Some(_) => condition.type_ != ERROR,
            None => !CONDITIONS.contains(&condition.type_.as_str()),
        })
        .map(|condition| json!(condition))
        .collect();
    match failure {
        Some(failure) => conditions.push(json!({"type": ERROR, "status": "True",
            "lastTransitionTime": time::now_rfc3339(), "message": format!("failed to expand pvc with {failure}")})),
        None if resize.is_none() => {
            let capacity = claimed.volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
            status["capacity"] = json!({"storage": capacity.and_then(|capacity| capacity.get("storage"))});
        }
        None => {}
    }
    if failure.is_some() || resize.is_none() {
        status["conditions"] = json!(conditions);
    }
    json!({"status": status})
}

async fn tell(ctx: &Context, claimed: &Claimed, patch: &Value) -> Result<(), String> {
    let meta = &claimed.claim.metadata;
    let (namespace, name) = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    let claims = ctx.client.namespaced::<PersistentVolumeClaim>(namespace);
    let told = claims.patch_status(name, PatchKind::Merge, patch).await;
    told.map(drop).map_err(|e| format!("MountVolume.NodeExpandVolume update pvc status failed: {}", chain(&e)))
}

/// Lets a volume that is published grow, where that is to be.
pub(super) async fn ensure(
    ctx: &Context,
    pod: &Pod,
    driver: &Driver,
    wanted: &Wanted,
    claimed: &Claimed,
    places: &Places<'_>,
) -> Result<(), String> {
    let Some(size) = plan(claimed).filter(|_| driver.expands) else { return Ok(()) };
    tell(ctx, claimed, &plan_patch(claimed, Some(IN_PROGRESS), None)).await?;
    let secrets = secrets(ctx, wanted.expand_secret.as_ref()).await?;
    let request = request::expand(driver, wanted, places, size.value(), &secrets);
    let about = |message: String, kind: EventKind, reason: &str| {
        ctx.event(pod, kind, reason, message.clone());
        ctx.recorder.record(EventRecorder::reference(&claimed.claim), kind, reason, message);
    };
    let name = claimed.name();
    match driver.call("NodeExpandVolume", request).await {
        Ok(_) => {
            let message =
                format!("MountVolume.NodeExpandVolume succeeded for volume {name:?} {}", ctx.options.node_name);
            about(message, EventKind::Normal, "FileSystemResizeSuccessful");
            tell(ctx, claimed, &plan_patch(claimed, None, None)).await
        }
        // Not while it is in use: the next time that it is mounted.
        Err(failure) if failure.code == FAILED_PRECONDITION => {
            tracing::info!(volume = name, %failure, "a volume does not grow while it is in use");
            Ok(())
        }
        Err(failure) => {
            let never = [INVALID_ARGUMENT, OUT_OF_RANGE, NOT_FOUND].contains(&failure.code);
            let resize = if never { INFEASIBLE } else { IN_PROGRESS };
            tell(ctx, claimed, &plan_patch(claimed, Some(resize), Some(&failure))).await?;
            let message = format!("NodeExpandVolume.NodeExpandVolume failed for volume {name:?} : {failure}");
            about(message.clone(), EventKind::Warning, "VolumeResizeFailed");
            if never { Ok(()) } else { Err(message) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(size: &str, told: &str, resize: Value) -> Claimed {
        let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": size}}});
        let conditions = json!([{"type": "FileSystemResizePending", "status": "True"}, {"type": "ModifyingVolume", "status": "True"}]);
        let claim = json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {}, "status": {"capacity": {"storage": told},
            "allocatedResourceStatuses": {"storage": resize}, "conditions": conditions}});
        Claimed {
            volume: serde_json::from_value(volume).expect("a volume"),
            claim: serde_json::from_value(claim).expect("a claim"),
            read_only: false,
        }
    }

    #[test]
    fn what_is_to_grow() {
        for (size, told, resize, expect) in [
            ("2Gi", "1Gi", "NodeResizePending", Some(2 << 30)),
            ("2Gi", "1Gi", "NodeResizeInProgress", Some(2 << 30)),
            ("2Gi", "1Gi", "NodeResizeInfeasible", None),
            ("2Gi", "1Gi", "ControllerResizeInProgress", None),
            ("2Gi", "2048Mi", "NodeResizePending", None),
        ] {
            let claimed = claimed(size, told, json!(resize));
            assert_eq!(plan(&claimed).map(|size| size.value()), expect, "{size} {told} {resize}");
        }
        let read_only = Claimed { read_only: true, ..claimed("2Gi", "1Gi", json!(PENDING)) };
        assert_eq!(plan(&read_only), None);
    }

    #[test]
    fn what_the_claim_says() {
        let claimed = claimed("2Gi", "1Gi", json!(PENDING));
        let begun = json!({"status": {"allocatedResourceStatuses": {"storage": "NodeResizeInProgress"}}});
        assert_eq!(plan_patch(&claimed, Some(IN_PROGRESS), None), begun);
        let done = plan_patch(&claimed, None, None);
        assert_eq!(done["status"]["capacity"], json!({"storage": "2Gi"}));
        assert_eq!(done["status"]["allocatedResourceStatuses"], json!({"storage": null}));
        let types = |patch: &Value| -> Vec<String> {
            let list = patch["status"]["conditions"].as_array().expect("a list").iter();
            list.map(|condition| condition["type"].as_str().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(types(&done), ["ModifyingVolume"]);
        let failure = Failure { code: OUT_OF_RANGE, message: "too big".to_owned() };
        let failed = plan_patch(&claimed, Some(INFEASIBLE), Some(&failure));
        assert_eq!(types(&failed), ["FileSystemResizePending", "ModifyingVolume", "NodeResizeError"]);
        let said = &failed["status"]["conditions"][2]["message"];
        assert_eq!(said, "failed to expand pvc with rpc error: code = OutOfRange desc = too big");
    }
}
