//! What the files of configMap, secret, downwardAPI and projected volumes hold.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret, ServiceAccountTokenProjection,
    Volume, VolumeProjection,
};

use crate::environment::Objects;
use crate::fields::{self, Facts};
use crate::pod;
use crate::volume::writer::{Files, Payload};

const DEFAULT_MODE: u32 = 0o644;

/// What the projections of a volume hold that is asked of the API server before.
#[derive(Default)]
pub(crate) struct Fetched {
    /// Tokens, by audience and life.
    pub(crate) tokens: BTreeMap<(String, Option<i64>), String>,
    /// Trust anchors, by their path in the volume.
    pub(crate) anchors: BTreeMap<String, String>,
}

pub(crate) fn token_key(projection: &ServiceAccountTokenProjection) -> (String, Option<i64>) {
    (projection.audience.clone().unwrap_or_default(), projection.expiration_seconds)
}

/// The sources of a projected volume.
pub(crate) fn projections(volume: &Volume) -> impl Iterator<Item = &VolumeProjection> {
    volume.projected.iter().filter_map(|p| p.sources.as_ref()).flatten()
}

/// The files of a volume; `None` for one that holds none of ours.
pub(crate) fn plan_files(
    pod: &Pod,
    volume: &Volume,
    facts: &Facts,
    objects: &dyn Objects,
    fetched: &Fetched,
) -> Option<Result<Files, String>> {
    let mut files = Files::new();
    let result = if let Some(source) = &volume.config_map {
        let mode = mode(source.default_mode, DEFAULT_MODE);
        config_map(&mut files, objects, &source.name, source.items.as_deref(), source.optional, mode)
    } else if let Some(source) = &volume.secret {
        let (name, mode) = (source.secret_name.as_deref().unwrap_or_default(), mode(source.default_mode, DEFAULT_MODE));
        secret(&mut files, objects, name, source.items.as_deref(), source.optional, mode)
    } else if let Some(source) = &volume.downward_api {
        let mode = mode(source.default_mode, DEFAULT_MODE);
        downward(&mut files, pod, facts, source.items.as_deref().unwrap_or_default(), mode)
    } else if let Some(source) = &volume.projected {
        projected(&mut files, pod, source, facts, objects, fetched)
    } else {
        return None;
    };
    Some(result.map(|()| files))
}

fn mode(given: Option<i32>, default: u32) -> u32 {
    given.and_then(|m| u32::try_from(m).ok()).unwrap_or(default) & 0o7777
}

fn config_map(
    files: &mut Files,
    objects: &dyn Objects,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
) -> Result<(), String> {
    let optional = optional == Some(true);
    let map = match objects.config_map(name) {
        Some(map) => map,
        None if optional => return Ok(()),
        None => return Err(format!("configmap {name:?} not found")),
    };
    keys(files, &entries(&map), items, optional, mode, "configmap references non-existent config key")
}

fn secret(
    files: &mut Files,
    objects: &dyn Objects,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
) -> Result<(), String> {
    let optional = optional == Some(true);
    let secret: std::sync::Arc<Secret> = match objects.secret(name) {
        Some(secret) => secret,
        None if optional => return Ok(()),
        None => return Err(format!("secret {name:?} not found")),
    };
    let data = secret.data.iter().flatten().map(|(k, ByteString(v))| (k.as_str(), v.as_slice())).collect();
    keys(files, &data, items, optional, mode, "references non-existent secret key")
}

fn entries(map: &ConfigMap) -> BTreeMap<&str, &[u8]> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, ByteString(v))| (k.as_str(), v.as_slice()));
    text.chain(binary).collect()
}

fn keys(
    files: &mut Files,
    data: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    default_mode: u32,
    missing: &str,
) -> Result<(), String> {
    let mut put = |path: &str, content: &[u8], mode| {
        files.insert(path.to_owned(), Payload { content: content.to_vec(), mode, owner: None });
    };
    let items = items.unwrap_or_default();
    if items.is_empty() {
        for (key, content) in data {
            put(key, content, default_mode);
        }
    }
    for item in items {
        match data.get(item.key.as_str()) {
            Some(content) => put(&item.path, content, mode(item.mode, default_mode)),
            None if optional => {}
            None => return Err(format!("{missing}: {}", item.key)),
        }
    }
    Ok(())
}

fn downward(
    files: &mut Files,
    pod: &Pod,
    facts: &Facts,
    items: &[DownwardAPIVolumeFile],
    default_mode: u32,
) -> Result<(), String> {
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(selector), _) => fields::field(pod, facts, selector)?,
            (None, Some(selector)) => fields::resource(pod, facts, None, selector)?,
            (None, None) => continue,
        };
        let payload = Payload { content: text.into_bytes(), mode: mode(item.mode, default_mode), owner: None };
        files.insert(item.path.clone(), payload);
    }
    Ok(())
}

fn projected(
    files: &mut Files,
    pod: &Pod,
    source: &ProjectedVolumeSource,
    facts: &Facts,
    objects: &dyn Objects,
    fetched: &Fetched,
) -> Result<(), String> {
    let mode = mode(source.default_mode, DEFAULT_MODE);
    for one in source.sources.iter().flatten() {
        if let Some(s) = &one.config_map {
            config_map(files, objects, &s.name, s.items.as_deref(), s.optional, mode)?;
        } else if let Some(s) = &one.secret {
            secret(files, objects, &s.name, s.items.as_deref(), s.optional, mode)?;
        } else if let Some(s) = &one.downward_api {
            downward(files, pod, facts, s.items.as_deref().unwrap_or_default(), mode)?;
        } else if let Some(s) = &one.service_account_token {
            let text = fetched.tokens.get(&token_key(s)).ok_or("the service account token was not fetched")?;
            files.insert(s.path.clone(), owned(pod, text, mode));
        } else if let Some(s) = &one.cluster_trust_bundle {
            let text = fetched.anchors.get(&s.path).ok_or("the trust anchors were not fetched")?;
            files.insert(s.path.clone(), owned(pod, text, mode));
        } else {
            return Err("this kind of projected volume source is not supported by this node".to_owned());
        }
    }
    Ok(())
}

/// For the pod's user or group alone, where it has one.
fn owned(pod: &Pod, text: &str, mode: u32) -> Payload {
    let owner = common_user(pod);
    let group = pod::spec(pod).security_context.as_ref().and_then(|c| c.fs_group);
    let mode = if owner.is_some() || group.is_some() { 0o600 } else { mode };
    Payload { content: text.as_bytes().to_vec(), mode, owner }
}

/// The user of all containers, where they have the same.
fn common_user(pod: &Pod) -> Option<u32> {
    let own = pod::spec(pod).security_context.as_ref().and_then(|c| c.run_as_user);
    let mut users = pod::containers(pod).map(|(_, c)| c.security_context.as_ref().and_then(|s| s.run_as_user).or(own));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then_some(first).and_then(|u| u32::try_from(u).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    struct Fixed;

    impl Objects for Fixed {
        fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
            let map = json!({"metadata": {}, "data": {"a": "1", "b": "2"}, "binaryData": {"bin": "AAE="}});
            (name == "map").then(|| Arc::new(serde_json::from_value(map).expect("a ConfigMap")))
        }

        fn secret(&self, name: &str) -> Option<Arc<Secret>> {
            let secret = json!({"metadata": {}, "data": {"k": "c2VjcmV0"}});
            (name == "secret").then(|| Arc::new(serde_json::from_value(secret).expect("a Secret")))
        }
    }

    fn plan(volume: Value) -> Result<Vec<(String, String, u32)>, String> {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "labels": {"l": "v"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]}}))
            .expect("a pod");
        let facts = Facts {
            host_ip: "192.0.2.1".parse().expect("an address"),
            pod_ips: Vec::new(),
            allocatable: BTreeMap::new(),
        };
        let volume: Volume = serde_json::from_value(volume).expect("a volume");
        let fetched = Fetched {
            tokens: [(("vault".to_owned(), Some(600)), "jwt".to_owned())].into(),
            anchors: [("ca.pem".to_owned(), "anchors".to_owned())].into(),
        };
        let files = plan_files(&pod, &volume, &facts, &Fixed, &fetched).expect("a volume of files")?;
        Ok(files
            .into_iter()
            .map(|(path, p)| (path, String::from_utf8_lossy(&p.content).into_owned(), p.mode))
            .collect())
    }

    #[test]
    fn files_of_volumes() {
        for (volume, expected) in [
            (
                json!({"configMap": {"name": "map"}}),
                Ok(vec![("a", "1", 0o644), ("b", "2", 0o644), ("bin", "\0\u{1}", 0o644)]),
            ),
            (
                json!({"configMap": {"name": "map", "defaultMode": 0o600, "items": [{"key": "a", "path": "x/y"}, {"key": "b", "path": "z", "mode": 0o400}]}}),
                Ok(vec![("x/y", "1", 0o600), ("z", "2", 0o400)]),
            ),
            (
                json!({"configMap": {"name": "map", "items": [{"key": "none", "path": "x"}]}}),
                Err("configmap references non-existent config key: none"),
            ),
            (
                json!({"configMap": {"name": "map", "optional": true, "items": [{"key": "none", "path": "x"}]}}),
                Ok(vec![]),
            ),
            (json!({"configMap": {"name": "none"}}), Err("configmap \"none\" not found")),
            (json!({"configMap": {"name": "none", "optional": true}}), Ok(vec![])),
            (json!({"secret": {"secretName": "secret"}}), Ok(vec![("k", "secret", 0o644)])),
            (json!({"secret": {"secretName": "none"}}), Err("secret \"none\" not found")),
            (
                json!({"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                    {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}}]}}),
                Ok(vec![("cpu", "2", 0o644), ("labels", "l=\"v\"", 0o644)]),
            ),
            (
                json!({"projected": {"sources": [{"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 600}},
                    {"configMap": {"name": "map", "items": [{"key": "a", "path": "ca"}]}}, {"secret": {"name": "secret"}}]}}),
                Ok(vec![("ca", "1", 0o644), ("k", "secret", 0o644), ("token", "jwt", 0o644)]),
            ),
            (
                json!({"projected": {"defaultMode": 0o600, "sources": [{"clusterTrustBundle": {"name": "b", "path": "ca.pem"}}]}}),
                Ok(vec![("ca.pem", "anchors", 0o600)]),
            ),
        ] {
            let mut volume_with_name = volume.clone();
            volume_with_name["name"] = json!("v");
            let expected = expected
                .map(|v| v.into_iter().map(|(p, t, m)| (p.to_owned(), t.to_owned(), m)).collect::<Vec<_>>())
                .map_err(str::to_owned);
            assert_eq!(plan(volume_with_name), expected, "{volume}");
        }
    }
}
