//! Patches of objects that a directory names.

use serde_json::Value;
use skiff_api::{patch, schema, yaml};

use super::merge::merge;
use super::place::Place;
use super::resource::{Resource, Resources, parse};
use super::settings::Settings;
use crate::{Failure, Result};

/// `patchesStrategicMerge`: files, or patches themselves.
pub fn strategic(place: &Place, settings: &Settings, all: &mut Resources) -> Result {
    for entry in settings.texts("patchesStrategicMerge")? {
        let found = match parse(&entry) {
            Ok(found) => found,
            Err(_) => parse(&place.read(&entry)?)?,
        };
        for patch in found {
            let nth = all.named(&patch.first_id())?;
            let patch = with_texts(patch);
            apply(&mut all.list[nth], &patch, (false, false))?;
            all.list.retain(|resource| !resource.is_empty());
        }
    }
    Ok(())
}

/// `patches`: of either kind, each perhaps with a target.
pub fn patches(place: &Place, settings: &Settings, all: &mut Resources) -> Result {
    for entry in settings.list("patches") {
        let (text, source) = source(place, entry)?;
        let target = Some(&entry["target"]).filter(|target| !target.is_null());
        let changes = |field: &str| entry["options"][field] == true;
        let allowed = (changes("allowNameChange"), changes("allowKindChange"));
        match (parse(&text), operations(&text)) {
            (Ok(found), Err(_)) => match target {
                None => {
                    for patch in found {
                        let id = patch.first_id();
                        let nth = all.named(&id).map_err(|e| {
                            Failure::text(format!(
                                "no resource matches strategic merge patch {:?}: {e}",
                                id.to_string()
                            ))
                        })?;
                        apply(&mut all.list[nth], &patch, allowed)?;
                    }
                }
                Some(target) => {
                    let [patch] = found.as_slice() else {
                        return Err(Failure::text(format!(
                            "Multiple Strategic-Merge Patches in one `patches` entry is not allowed to set `patches.target` field: {source}"
                        )));
                    };
                    for nth in all.selected(target)? {
                        let mut patch = with_texts(patch.clone());
                        patch.object["apiVersion"] = all.list[nth].object["apiVersion"].clone();
                        apply(&mut all.list[nth], &patch, allowed)?;
                    }
                }
            },
            (_, Ok(operations)) => {
                let target =
                    target.ok_or_else(|| Failure::text(format!("must specify a target for JSON patch {source}")))?;
                for nth in all.selected(target)? {
                    all.list[nth].remember();
                    change(&mut all.list[nth], &operations)?;
                }
            }
            (Err(_), Err(_)) => return Err(Failure::text(format!("unable to parse SM or JSON patch from {source}"))),
        }
        all.list.retain(|resource| !resource.is_empty());
    }
    Ok(())
}

/// `patchesJson6902`.
pub fn json(place: &Place, settings: &Settings, all: &mut Resources) -> Result {
    for entry in settings.list("patchesJson6902") {
        if entry["target"]["name"].as_str().is_none_or(str::is_empty) {
            return Err(Failure::text("must specify the target name"));
        }
        let (text, source) = source(place, entry)?;
        let operations = operations(&text).map_err(|e| Failure::text(format!("decoding {source}: {e}")))?;
        for nth in all.selected(&entry["target"])? {
            change(&mut all.list[nth], &operations)?;
        }
    }
    Ok(())
}

/// Labels and annotations are texts to upstream before it merges: there, nothing deletes them.
fn with_texts(mut patch: Resource) -> Resource {
    for field in ["labels", "annotations"] {
        let entries = patch.object["metadata"].get_mut(field).and_then(Value::as_object_mut);
        for value in entries.into_iter().flat_map(|entries| entries.values_mut()) {
            *value = value.as_str().map_or_else(|| value.to_string(), str::to_owned).into();
        }
    }
    patch
}

/// The text of a patch, and how messages name it.
fn source(place: &Place, entry: &Value) -> Result<(String, String)> {
    let field = |name: &str| entry[name].as_str().map(str::trim).unwrap_or_default();
    match (field("patch"), field("path")) {
        ("", "") => Err(Failure::text("must specify one of patch and path in\n".to_owned() + &yaml::to_string(entry))),
        (patch, "") => Ok((patch.to_owned(), format!("[patch: {patch:?}]"))),
        ("", path) => {
            let text = place
                .read(path)
                .map_err(|e| Failure::text(format!("failed to get the patch file from path({path}): {e}")))?;
            Ok((text, format!("[path: {path:?}]")))
        }
        _ => Err(Failure::text("patch and path can't be set at the same time\n".to_owned() + &yaml::to_string(entry))),
    }
}

fn operations(text: &str) -> Result<Value> {
    // As upstream: what looks like JSON has to be JSON.
    let value = match text.starts_with('[') {
        true => serde_json::from_str(text).map_err(|e| Failure::text(e.to_string()))?,
        false => yaml::document(text).map_err(|e| Failure::text(e.to_string()))?.value,
    };
    let is_patch = |list: &Vec<Value>| list.iter().all(|operation| operation["op"].is_string());
    match value.as_array().filter(|list| is_patch(list)) {
        Some(_) => Ok(value),
        None => Err(Failure::text("a JSON patch is a list of operations")),
    }
}

fn change(resource: &mut Resource, operations: &Value) -> Result {
    resource.object = patch::json_patch(&resource.object, operations).map_err(|e| {
        Failure::text(format!("patch of {} can't be applied: {}: {operations}", resource.id(), e.message))
    })?;
    Ok(())
}

/// `allowed`: whether the name and the kind may change.
fn apply(resource: &mut Resource, patch: &Resource, allowed: (bool, bool)) -> Result {
    let id = resource.id();
    if allowed.0 || allowed.1 {
        resource.remember();
    }
    let schema = schema::lookup(&skiff_api::Gvk::new(&id.group, &id.version, &id.kind));
    let Some(mut merged) = merge(resource.object.take(), &patch.object, schema.as_ref())? else { return Ok(()) };
    if !allowed.1 {
        merged["kind"] = id.kind.into();
    }
    if !allowed.0 {
        merged["metadata"]["name"] = id.name.into();
    }
    match (id.namespace.is_empty(), merged["metadata"].as_object_mut()) {
        (true, Some(metadata)) => drop(metadata.remove("namespace")),
        _ => merged["metadata"]["namespace"] = id.namespace.into(),
    }
    resource.object = merged;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_as_json_is_json() {
        for (text, good) in [
            ("- {op: remove, path: /a}", true),
            ("[{\"op\": \"remove\", \"path\": \"/a\"}]", true),
            ("[{op: remove, path: /a}]", false),
            ("{\"op\": \"remove\"}", false),
        ] {
            assert_eq!(operations(text).is_ok(), good, "{text}");
        }
    }
}
