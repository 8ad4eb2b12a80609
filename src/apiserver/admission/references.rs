//! What a pod needs of the API to run: a static pod may need nothing.

use serde_json::Value;

use crate::auth::names_in;

/// Volumes that are what they are without the API.
const FREE_VOLUMES: [&str; 23] = [
    "awsElasticBlockStore",
    "azureDisk",
    "cephfs",
    "cinder",
    "downwardAPI",
    "emptyDir",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
    "name",
];
const VOLUMES: [(&str, &str); 7] = [
    ("configMap", "configmaps (via configmap volumes)"),
    ("secret", "secrets (via secret volumes)"),
    ("csi", "csidrivers (via CSI volumes)"),
    ("glusterfs", "endpoints (via glusterFS volumes)"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
    ("azureFile", "secrets (via azureFile volumes)"),
];
const SOURCES: [(&str, &str); 5] = [
    ("configMap", "configmaps (via projected volumes)"),
    ("secret", "secrets (via projected volumes)"),
    ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
    ("clusterTrustBundle", "clustertrustbundles"),
    ("podCertificate", "podcertificates"),
];

/// The first kind of object that the pod refers to. An error: something that nobody knows may refer to anything.
pub(super) fn api_reference(pod: &Value) -> Result<Option<&'static str>, String> {
    let spec = &pod["spec"];
    if spec["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Ok(Some("serviceaccounts"));
    }
    let (secrets, config_maps) = names_in(pod);
    let claims = spec["resourceClaims"].as_array().is_some_and(|claims| !claims.is_empty());
    for (refers, what) in
        [(!secrets.is_empty(), "secrets"), (!config_maps.is_empty(), "configmaps"), (claims, "resourceclaims")]
    {
        if refers {
            return Ok(Some(what));
        }
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        if let Some(what) = of_volume(volume)? {
            return Ok(Some(what));
        }
    }
    Ok(None)
}

fn of_volume(volume: &Value) -> Result<Option<&'static str>, String> {
    let name = volume["name"].as_str().unwrap_or_default();
    let has = |object: &Value, field: &str| object.get(field).is_some_and(|value| !value.is_null());
    if let Some((_, what)) = VOLUMES.iter().find(|(field, _)| has(volume, field)) {
        return Ok(Some(what));
    }
    if !has(volume, "projected") {
        let unknown =
            volume.as_object().into_iter().flatten().any(|(field, _)| !FREE_VOLUMES.contains(&field.as_str()));
        return if unknown { Err(format!("unknown volume type for volume {name:?}")) } else { Ok(None) };
    }
    for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
        if let Some((_, what)) = SOURCES.iter().find(|(field, _)| has(source, field)) {
            return Ok(Some(what));
        }
        if !has(source, "downwardAPI") {
            return Err(format!("unknown source for projected volume {name:?}"));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_pod_needs_of_the_api() {
        let check = |spec: Value, expect: Result<Option<&'static str>, &str>| {
            let found = api_reference(&json!({"metadata": {"name": "p"}, "spec": spec}));
            assert_eq!(found, expect.map_err(str::to_owned), "{spec}");
        };
        let volume = |kind: &str, of: Value| json!({"volumes": [{"name": "v", kind: of}]});
        let projected = |source: Value| volume("projected", json!({"sources": [source]}));
        check(json!({}), Ok(None));
        check(json!({"serviceAccountName": "a"}), Ok(Some("serviceaccounts")));
        check(json!({"imagePullSecrets": [{"name": "s"}]}), Ok(Some("secrets")));
        check(json!({"containers": [{"envFrom": [{"secretRef": {"name": "s"}}]}]}), Ok(Some("secrets")));
        let variable = json!({"name": "V", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}});
        check(json!({"containers": [{"env": [variable]}]}), Ok(Some("configmaps")));
        check(json!({"resourceClaims": [{"name": "c"}]}), Ok(Some("resourceclaims")));
        check(volume("emptyDir", json!({})), Ok(None));
        check(volume("secret", json!({"secretName": "s"})), Ok(Some("secrets")));
        check(volume("configMap", json!({})), Ok(Some("configmaps (via configmap volumes)")));
        check(volume("csi", json!({"driver": "d"})), Ok(Some("csidrivers (via CSI volumes)")));
        check(volume("ephemeral", json!({})), Ok(Some("persistentvolumeclaims (via ephemeral volumes)")));
        check(volume("azureFile", json!({"shareName": "s"})), Ok(Some("secrets (via azureFile volumes)")));
        check(volume("persistentVolumeClaim", json!({"claimName": "c"})), Ok(Some("persistentvolumeclaims")));
        check(volume("other", json!({})), Err("unknown volume type for volume \"v\""));
        check(projected(json!({"downwardAPI": {"items": []}})), Ok(None));
        check(
            projected(json!({"serviceAccountToken": {"path": "p"}})),
            Ok(Some("serviceaccounts (via projected volumes)")),
        );
        check(projected(json!({"clusterTrustBundle": {"path": "p"}})), Ok(Some("clustertrustbundles")));
        check(projected(json!({"other": {}})), Err("unknown source for projected volume \"v\""));
    }
}
