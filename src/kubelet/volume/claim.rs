//! From a claim to its volume: what must be true before a pod may have it.

use k8s_openapi::api::core::v1::{Container, PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use skiff_api::volume as rules;
use skiff_base::chain;

use crate::context::Context;
use crate::pod;

/// A claim's volume, which a pod may use.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Claimed {
    pub(crate) volume: PersistentVolume,
    pub(crate) claim: PersistentVolumeClaim,
    pub(crate) read_only: bool,
}

impl Claimed {
    pub(crate) fn name(&self) -> &str {
        self.volume.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn is_block(&self) -> bool {
        rules::mode_of_volume(&self.volume) == "Block"
    }
}

/// The volume behind a claim, `None` for a volume of another kind. The error is the text of `FailedMount`.
pub(crate) async fn resolve(ctx: &Context, pod: &Pod, volume: &Volume) -> Result<Option<Claimed>, String> {
    let Some(one) = rules::claims_of(pod).find(|one| one.volume == volume.name) else { return Ok(None) };
    let namespace = pod::namespace(pod);
    let failed = |why: String| {
        let name = &volume.name;
        format!(
            "Unable to attach or mount volumes: unmounted volumes=[{name}], unattached volumes=[], \
             failed to process volumes=[{name}]: error processing PVC {namespace}/{}: {why}",
            one.claim
        )
    };
    let claims = ctx.client.namespaced::<PersistentVolumeClaim>(namespace);
    let claim = claims.get(&one.claim).await;
    let claim = claim.map_err(|e| failed(format!("failed to fetch PVC from API server: {}", chain(&e))))?;
    let name = check_claim(pod, &claim, &one).map_err(failed)?;
    let found = ctx.client.all::<PersistentVolume>().get(name).await;
    let found = found.map_err(|e| failed(format!("failed to fetch PV {name} from API server: {}", chain(&e))))?;
    check_volume(&found, &claim).map_err(failed)?;
    check_uses(pod, &volume.name, rules::mode_of_volume(&found)).map_err(failed)?;
    Ok(Some(Claimed { volume: found, claim, read_only: one.read_only }))
}

/// The name of the claim's volume.
fn check_claim<'a>(pod: &Pod, claim: &'a PersistentVolumeClaim, one: &rules::PodClaim) -> Result<&'a str, String> {
    if one.ephemeral {
        rules::is_for_pod(pod, claim)?;
    }
    // Who runs with it already goes on, also under an agent that has just begun.
    let runs = pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
    if claim.metadata.deletion_timestamp.is_some() && !runs {
        return Err("PVC is being deleted".to_owned());
    }
    // The phase is told last: the scheduler binds a pod whose claim is bound, whether that is told already or not.
    let bound = match claim.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Bound") => !rules::volume_name(claim).is_empty(),
        None | Some("Pending") => rules::is_fully_bound(claim),
        Some(_) => false,
    };
    if bound { Ok(rules::volume_name(claim)) } else { Err("PVC is not bound".to_owned()) }
}

/// Both must say that they belong together.
fn check_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let reference = reference.ok_or_else(|| {
        format!("found PV object {name} with nil pv.Spec.ClaimRef indicating it is not yet bound to the claim")
    })?;
    let (uid, expected) =
        (reference.uid.as_deref().unwrap_or_default(), claim.metadata.uid.as_deref().unwrap_or_default());
    if uid == expected {
        return Ok(());
    }
    Err(format!(
        "found PV object {name} with a pv.Spec.ClaimRef.UID {uid} that does not point to the expected claim UID {expected}"
    ))
}

/// A volume with a file system is mounted, one without is given as a device.
fn check_uses(pod: &Pod, name: &str, mode: &str) -> Result<(), String> {
    let ephemeral = pod::ephemeral(pod);
    let any = |uses: fn(&Container, &str) -> bool| {
        pod::containers(pod).map(|(_, c)| c).chain(&ephemeral).any(|container| uses(container, name))
    };
    let mounted = any(|c, name| c.volume_mounts.iter().flatten().any(|mount| mount.name == name));
    let given = any(|c, name| c.volume_devices.iter().flatten().any(|device| device.name == name));
    if mode == "Block" && mounted {
        return Err(format!("volume {name} has volumeMode {mode}, but is specified in volumeMounts"));
    }
    if mode != "Block" && given {
        return Err(format!("volume {name} has volumeMode {mode}, but is specified in volumeDevices"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn both_must_agree() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "p"},
            "spec": {"volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "c"}}], "containers": [
                {"name": "c", "volumeMounts": [{"name": "a", "mountPath": "/a"}], "volumeDevices": [{"name": "b", "devicePath": "/b"}]}]}}))
        .expect("a pod");
        let one = rules::claims_of(&pod).next().expect("a claim");
        let claim = |more: Value, phase: &str| -> PersistentVolumeClaim {
            let mut meta = json!({"name": "c", "namespace": "n", "uid": "u"});
            meta.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            serde_json::from_value(json!({"metadata": meta, "spec": {"volumeName": "v"}, "status": {"phase": phase}}))
                .expect("a claim")
        };
        let bound = claim(json!({}), "Bound");
        assert_eq!(check_claim(&pod, &bound, &one), Ok("v"));
        assert_eq!(check_claim(&pod, &claim(json!({}), "Pending"), &one), Err("PVC is not bound".to_owned()));
        let marked = json!({"annotations": {"pv.kubernetes.io/bind-completed": "yes"}});
        assert_eq!(check_claim(&pod, &claim(marked.clone(), "Pending"), &one), Ok("v"));
        assert_eq!(check_claim(&pod, &claim(marked, "Lost"), &one), Err("PVC is not bound".to_owned()));
        let going = claim(json!({"deletionTimestamp": "2024-01-01T00:00:00Z"}), "Bound");
        assert_eq!(check_claim(&pod, &going, &one), Err("PVC is being deleted".to_owned()));
        let mut running = pod.clone();
        running.status = serde_json::from_value(json!({"phase": "Running"})).expect("a status");
        assert_eq!(check_claim(&running, &going, &one), Ok("v"));
        let ephemeral = rules::PodClaim { ephemeral: true, ..one };
        assert!(check_claim(&pod, &bound, &ephemeral).is_err_and(|why| why.contains("(pod is not owner)")));
        let volume = |reference: Value| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {"claimRef": reference}}))
                .expect("a volume")
        };
        assert_eq!(check_volume(&volume(json!({"uid": "u"})), &bound), Ok(()));
        assert!(check_volume(&volume(json!({"uid": "w"})), &bound).is_err_and(|why| why.contains("UID w that")));
        assert!(check_volume(&volume(json!(null)), &bound).is_err_and(|why| why.contains("nil pv.Spec.ClaimRef")));
        for (name, mode, expect) in [
            ("a", "Filesystem", Ok(())),
            ("b", "Block", Ok(())),
            ("a", "Block", Err("volume a has volumeMode Block, but is specified in volumeMounts")),
            ("b", "Filesystem", Err("volume b has volumeMode Filesystem, but is specified in volumeDevices")),
        ] {
            assert_eq!(check_uses(&pod, name, mode), expect.map_err(str::to_owned));
        }
    }
}
