//! The `scale` subresource: `autoscaling/v1` Scale over whatever has replicas.

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_api::decode::conform;
use skiff_api::selector::LabelSelector;
use skiff_api::strategy::ScalePaths;
use skiff_api::{ApiError, Gvk, schema};

use super::create::key_of;
use super::options::{WriteOptions, judge, read_object};
use super::patch::Patch;
use super::update::{Change, MODIFIED, Part, check_name};
use super::warn_all;
use crate::call::{Call, Target};
use crate::encode;
use crate::meta;
use crate::negotiate::negotiate;
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;

fn gvk() -> Gvk {
    Gvk::new("autoscaling", "v1", "Scale")
}

/// By a simple path: `.spec.replicas`.
fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.trim_start_matches('.').split('.').fold(object, |value, key| &value[key])
}

fn set_at(object: &mut Value, path: &str, new: Value) {
    let place = path.trim_start_matches('.').split('.').fold(object, |value, key| {
        if !value.is_object() {
            *value = json!({});
        }
        &mut value[key]
    });
    *place = new;
}

/// The Scale of an object, as clients see it; `paths` where the kind says where its numbers are.
fn scale_of(object: &Value, paths: Option<&ScalePaths>) -> Value {
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

impl Server {
    pub(crate) async fn get_scale(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let wanted = negotiate(call.header(http::header::ACCEPT), false)?;
        let object = self.current(row, &key_of(target)).await?;
        let object = self.to_row(&object, row).await?;
        let paths = row.descriptor.strategy.scale();
        if let Some(paths) = paths.filter(|paths| at(&object, &paths.spec).is_null()) {
            return Err(ApiError::internal(format!("the spec replicas field {:?} does not exist", paths.spec)));
        }
        Ok(encode::value(200, &scale_of(&object, paths), wanted.encoding))
    }

    pub(crate) async fn update_scale(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let options = WriteOptions::of(&call.query)?;
        let mut warnings = Vec::new();
        let schema = schema::lookup(&gvk());
        let mut scale = read_object(call, &gvk(), schema.as_ref(), options.validation, &mut warnings)?;
        check_name(&mut scale, &target.name)?;
        self.write_scale(call, row, target, options, warnings, |_| Ok(scale.clone())).await
    }

    pub(crate) async fn patch_scale(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let options = WriteOptions::of(&call.query)?;
        let patch = Patch::of(call)?;
        let schema = schema::lookup(&gvk());
        // A patch may bring anything; what is no number of replicas must not be taken for none.
        let make = |old: &Value| {
            let patched = patch.apply(old, schema.as_ref())?;
            let Some(schema) = &schema else { return Ok(patched) };
            let decoded = conform(patched, &gvk(), schema)?;
            judge(&decoded, &gvk(), options.validation, &mut Vec::new())?;
            Ok(decoded.value)
        };
        self.write_scale(call, row, target, options, Vec::new(), make).await
    }

    async fn write_scale(
        &self,
        call: &Call,
        row: &Arc<Row>,
        target: &Target,
        options: WriteOptions,
        mut warnings: Vec<String>,
        make: impl Fn(&Value) -> Result<Value, ApiError>,
    ) -> Result<Reply, ApiError> {
        let wanted = negotiate(call.header(http::header::ACCEPT), false)?;
        let key = key_of(target);
        let paths = row.descriptor.strategy.scale();
        let change = Change { row, key: &key, part: Part::Main, dry_run: options.dry_run };
        let object = self
            .change(&change, &mut warnings, |old| {
                let scale = make(&scale_of(old, paths))?;
                let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
                check_replicas(replicas, &target.name)?;
                let version = meta::text(&scale, "resourceVersion");
                if !version.is_empty() && version != meta::text(old, "resourceVersion") {
                    return Err(ApiError::conflict(row.group(), row.resource(), &target.name, MODIFIED));
                }
                let mut new = old.clone();
                set_at(&mut new, paths.map_or(".spec.replicas", |paths| &paths.spec), replicas.into());
                Ok(new)
            })
            .await?;
        let object = self.to_row(&object, row).await?;
        let mut reply = encode::value(200, &scale_of(&object, paths), wanted.encoding);
        warn_all(&mut reply, &warnings);
        Ok(reply)
    }
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
