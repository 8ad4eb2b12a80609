//! Between an object that has replicas and its Scale.

use serde_json::{Value, json};
use skiff_api::selector::LabelSelector;
use skiff_api::strategy::ScalePaths;
use skiff_api::{ApiError, Gvk};

use super::writes::MODIFIED;
use crate::admission::{self, Request};
use crate::meta;
use crate::registry::Row;

pub(super) fn gvk() -> Gvk {
    Gvk::new("autoscaling", "v1", "Scale")
}

/// By a simple path: `.spec.replicas`.
pub(super) fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.trim_start_matches('.').split('.').fold(object, |value, key| &value[key])
}

pub(super) fn set_at(object: &mut Value, path: &str, new: Value) {
    let place = path.trim_start_matches('.').split('.').fold(object, |value, key| {
        if !value.is_object() {
            *value = json!({});
        }
        &mut value[key]
    });
    *place = new;
}

/// The Scale of an object, as clients see it; `paths` where the kind says where its numbers are.
pub(super) fn scale_of(object: &Value, paths: Option<&ScalePaths>) -> Value {
    let selector = match paths {
        Some(paths) => paths.selector.as_ref().map_or(&Value::Null, |path| at(object, path)),
        None => &object["spec"]["selector"],
    };
    let selector = match selector.as_object() {
        // A ReplicationController's selector is a plain map.
        Some(map) if !map.contains_key("matchLabels") && !map.contains_key("matchExpressions") => {
            let pairs: Vec<String> =
                map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
            pairs.join(",")
        }
        Some(_) => LabelSelector::from_value(selector).map(|s| s.to_string()).unwrap_or_default(),
        None => selector.as_str().unwrap_or_default().to_owned(),
    };
    let mut metadata = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let mut spec = serde_json::Map::new();
    let (wanted, there) = paths.map_or((".spec.replicas", ".status.replicas"), |p| (&p.spec, &p.status));
    let replicas = at(object, wanted).as_i64().unwrap_or(0);
    if replicas != 0 {
        spec.insert("replicas".to_owned(), replicas.into());
    }
    let mut status = json!({"replicas": at(object, there).as_i64().unwrap_or(0)});
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// The object with the replicas of a scale.
pub(super) fn scaled(old: &Value, scale: &Value, row: &Row) -> Result<Value, ApiError> {
    let name = meta::text(old, "name");
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    check_replicas(replicas, name)?;
    let version = meta::text(scale, "resourceVersion");
    if !version.is_empty() && version != meta::text(old, "resourceVersion") {
        return Err(ApiError::conflict(row.group(), row.resource(), name, MODIFIED));
    }
    let mut new = old.clone();
    let paths = row.descriptor.strategy.scale();
    set_at(&mut new, paths.map_or(".spec.replicas", |paths| &paths.spec), replicas.into());
    Ok(new)
}

fn check_replicas(replicas: i64, name: &str) -> Result<(), ApiError> {
    if replicas >= 0 {
        return Ok(());
    }
    let cause = skiff_api::status::Cause {
        reason: "FieldValueInvalid".into(),
        message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
        field: "spec.replicas".into(),
    };
    Err(ApiError::invalid("autoscaling", "Scale", name, vec![cause]))
}

/// Has webhooks look at the Scale that a change comes down to. What else looks at changes has no say in replicas.
pub(super) async fn admit(request: &Request<'_>, new: &mut Value, warnings: &mut Vec<String>) -> Result<(), ApiError> {
    let paths = request.row.descriptor.strategy.scale();
    let before = request.old.map(|old| scale_of(old, paths));
    let asked = Request {
        of: Some(gvk()),
        key: request.key.clone(),
        old: before.as_ref(),
        server: request.server,
        user: request.user,
        row: request.row,
        operation: request.operation,
        subresource: request.subresource,
        dry_run: request.dry_run,
        options: request.options,
    };
    let brought = scale_of(new, paths);
    let left = admission::ask(&asked, brought.clone(), warnings).await?;
    if left != brought {
        *new = scaled(new, &left, request.row)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_of_both_selector_forms() {
        let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}},
            "status": {"replicas": 1}});
        let scale = scale_of(&deployment, None);
        assert_eq!(
            (&scale["spec"]["replicas"], &scale["status"]),
            (&json!(2), &json!({"replicas": 1, "selector": "a=b"}))
        );
        let controller = json!({"metadata": {"name": "r"}, "spec": {"selector": {"a": "b", "c": "d"}}});
        assert_eq!(scale_of(&controller, None)["status"]["selector"], "a=b,c=d");
        let paths = ScalePaths {
            spec: ".spec.size.wanted".into(),
            status: ".status.size".into(),
            selector: Some(".status.selector".into()),
        };
        let custom = json!({"metadata": {"name": "c"}, "spec": {"size": {"wanted": 3}}, "status": {"size": 2, "selector": "a=b"}});
        let scale = scale_of(&custom, Some(&paths));
        assert_eq!(
            (&scale["spec"], &scale["status"]),
            (&json!({"replicas": 3}), &json!({"replicas": 2, "selector": "a=b"}))
        );
        let mut bare = json!({});
        set_at(&mut bare, &paths.spec, json!(4));
        assert_eq!(bare, json!({"spec": {"size": {"wanted": 4}}}));
    }
}
