//! The `scale` subresource: `autoscaling/v1` Scale over whatever has replicas.

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_api::decode::conform;
use skiff_api::selector::LabelSelector;
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

/// The Scale of an object, as clients see it.
fn scale_of(object: &Value) -> Value {
    let selector = &object["spec"]["selector"];
    let selector = match selector.as_object() {
        // A ReplicationController's selector is a plain map.
        Some(map) if !map.contains_key("matchLabels") && !map.contains_key("matchExpressions") => {
            let pairs: Vec<String> =
                map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
            pairs.join(",")
        }
        Some(_) => LabelSelector::from_value(selector).map(|s| s.to_string()).unwrap_or_default(),
        None => String::new(),
    };
    let mut metadata = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let mut spec = serde_json::Map::new();
    let replicas = object["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas != 0 {
        spec.insert("replicas".to_owned(), replicas.into());
    }
    let mut status = json!({"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)});
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

impl Server {
    pub(crate) async fn get_scale(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let wanted = negotiate(call.header(http::header::ACCEPT), false)?;
        let object = self.current(row, &key_of(target)).await?;
        Ok(encode::value(200, &scale_of(&object.value()), wanted.encoding))
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
        let change = Change { row, key: &key, part: Part::Main, dry_run: options.dry_run };
        let object = self
            .change(&change, &mut warnings, |old| {
                let scale = make(&scale_of(old))?;
                let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
                check_replicas(replicas, &target.name)?;
                let version = meta::text(&scale, "resourceVersion");
                if !version.is_empty() && version != meta::text(old, "resourceVersion") {
                    return Err(ApiError::conflict(row.group(), row.resource(), &target.name, MODIFIED));
                }
                let mut new = old.clone();
                new["spec"]["replicas"] = replicas.into();
                Ok(new)
            })
            .await?;
        let mut reply = encode::value(200, &scale_of(&object.value()), wanted.encoding);
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
        let scale = scale_of(&deployment);
        assert_eq!(
            (&scale["spec"]["replicas"], &scale["status"]),
            (&json!(2), &json!({"replicas": 1, "selector": "a=b"}))
        );
        let controller = json!({"metadata": {"name": "r"}, "spec": {"selector": {"a": "b", "c": "d"}}});
        assert_eq!(scale_of(&controller)["status"]["selector"], "a=b,c=d");
    }
}
