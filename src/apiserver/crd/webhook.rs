//! Conversion by a webhook: `ConversionReview` there, converted objects back, whose identity must be what it was.

use std::time::Duration;

use serde_json::{Value, json};
use skiff_api::custom::definition::Webhook;
use skiff_api::{ApiError, kind_text};

use crate::hook::Hook;
use crate::server::Server;

/// As long as upstream's client waits.
const LIMIT: Duration = Duration::from_secs(30);

impl Server {
    pub(super) async fn call_conversion_webhook(
        &self,
        webhook: &Webhook,
        mut values: Vec<Value>,
        to: &str,
    ) -> Result<Vec<Value>, ApiError> {
        let places: Vec<usize> = (0..values.len()).filter(|at| values[*at]["apiVersion"] != to).collect();
        let Some(first) = places.first() else { return Ok(values) };
        let what = kind_of(&values[*first]);
        let failed = |why: String| ApiError::internal(format!("conversion webhook for {what} {why}"));
        let known = webhook.review_versions.iter().find(|version| matches!(version.as_str(), "v1" | "v1beta1"));
        let version = known.ok_or_else(|| ApiError::internal("no supported conversion review versions"))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let objects: Vec<&Value> = places.iter().map(|at| &values[*at]).collect();
        let review = json!({
            "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{version}"),
            "request": {"uid": uid, "desiredAPIVersion": to, "objects": objects},
        });
        let service = webhook.service.as_ref();
        let hook = Hook {
            url: webhook.url.as_deref(),
            service: service
                .map(|(namespace, name, path, port)| (namespace.as_str(), name.as_str(), path.as_str(), *port)),
            ca_bundle: &webhook.ca_bundle,
        };
        let answer = self.call_hook(&hook, &review, LIMIT).await.map_err(|why| failed(format!("failed: {why}")))?;
        let converted = read(answer, version, &uid).map_err(|why| failed(format!("failed: {why}")))?;
        if converted.len() != places.len() {
            return Err(failed(format!("returned {} objects, expected {}", converted.len(), places.len())));
        }
        for (index, (place, new)) in places.into_iter().zip(converted).enumerate() {
            let old = values[place].take();
            values[place] = accept(&old, new, to, index).map_err(failed)?;
        }
        Ok(values)
    }
}

/// `stable.example.com/v1, Kind=CronTab`
fn kind_of(value: &Value) -> String {
    kind_text(value["apiVersion"].as_str().unwrap_or(""), value["kind"].as_str().unwrap_or(""))
}

/// The objects of an answer that says success.
fn read(mut answer: Value, version: &str, uid: &str) -> Result<Vec<Value>, String> {
    let expected = format!("apiextensions.k8s.io/{version}");
    if version == "v1" && (answer["apiVersion"] != *expected || answer["kind"] != "ConversionReview") {
        return Err(format!(
            "expected webhook response of {expected}, Kind=ConversionReview, got {}",
            kind_of(&answer)
        ));
    }
    let response = &mut answer["response"];
    if !response.is_object() {
        return Err("no response provided".to_owned());
    }
    let found = response["uid"].as_str().unwrap_or_default();
    if version == "v1" && found != uid {
        return Err(format!("expected response.uid={uid:?}, got {found:?}"));
    }
    let status = response["result"]["status"].as_str().unwrap_or_default();
    if status != "Success" {
        let message = response["result"]["message"].as_str().unwrap_or_default();
        return Err(match message {
            "" => format!("response.result.status was '{status}', not 'Success'"),
            message => message.to_owned(),
        });
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// A converted object with its old metadata, but for labels and annotations.
fn accept(old: &Value, mut new: Value, to: &str, index: usize) -> Result<Value, String> {
    let text = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let at = format!("returned invalid converted object at index {index}");
    let version = text(&new, "/apiVersion");
    if version != to {
        return Err(format!("{at}: invalid groupVersion (expected {to}, received {version})"));
    }
    let (kind, expected) = (text(&new, "/kind"), text(old, "/kind"));
    if kind != expected {
        return Err(format!("{at}: invalid kind (expected {expected}, received {kind})"));
    }
    for (path, what) in [("/metadata/name", "name"), ("/metadata/namespace", "namespace"), ("/metadata/uid", "UID")] {
        let (was, is) = (text(old, path), text(&new, path));
        if was != is {
            return Err(format!("{at}: must have the same {what}: {was} != {is}"));
        }
    }
    let invalid = format!("returned invalid metadata in object at index {index}");
    let found = match new.get_mut("metadata") {
        Some(metadata) if metadata.is_object() => metadata.take(),
        Some(_) => return Err(format!("{invalid}: invalid metadata in converted object")),
        None => return Err(format!("{invalid}: missing metadata in converted object")),
    };
    let mut metadata = old["metadata"].as_object().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match found.get(field).filter(|value| !value.is_null()) {
            None => drop(metadata.remove(field)),
            Some(Value::Object(texts)) => {
                if let Some((key, _)) = texts.iter().find(|(_, value)| !value.is_string()) {
                    return Err(format!("{invalid}: metadata.{field}[{key}] must be a string"));
                }
                metadata.insert(field.to_owned(), Value::Object(texts.clone()));
            }
            Some(_) => return Err(format!("{invalid}: invalid metadata.{field} in converted object")),
        }
    }
    new["metadata"] = Value::Object(metadata);
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked() {
        let answer = |change: fn(&mut Value)| {
            let mut answer = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
                "response": {"uid": "u", "result": {"status": "Success"}, "convertedObjects": [{"a": 1}]}});
            change(&mut answer);
            read(answer, "v1", "u")
        };
        assert_eq!(answer(|_| {}), Ok(vec![json!({"a": 1})]));
        for (change, expect) in [
            ((|a| a["response"]["uid"] = "v".into()) as fn(&mut Value), r#"expected response.uid="u", got "v""#),
            (|a| a["response"]["result"] = json!({"status": "Failure", "message": "no"}), "no"),
            (|a| a["response"]["result"] = json!({}), "response.result.status was '', not 'Success'"),
            (|a| a["response"] = Value::Null, "no response provided"),
            (
                |a| a["kind"] = "X".into(),
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got apiextensions.k8s.io/v1, Kind=X",
            ),
        ] {
            assert_eq!(answer(change), Err(expect.to_owned()));
        }
    }

    #[test]
    fn objects_stay_themselves() {
        let old = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n", "uid": "u", "generation": 3, "labels": {"a": "b"}}});
        let new = json!({"apiVersion": "g/v2", "kind": "K", "spec": 1, "metadata": {"name": "n", "uid": "u", "generation": 9,
            "annotations": {"c": "d"}}});
        assert_eq!(
            accept(&old, new.clone(), "g/v2", 0),
            Ok(json!({"apiVersion": "g/v2", "kind": "K", "spec": 1,
                "metadata": {"name": "n", "uid": "u", "generation": 3, "annotations": {"c": "d"}}}))
        );
        let refused = |change: fn(&mut Value)| {
            let mut new = new.clone();
            change(&mut new);
            accept(&old, new, "g/v2", 4).expect_err("refused")
        };
        let at = "returned invalid converted object at index 4";
        assert_eq!(refused(|n| n["metadata"]["name"] = "m".into()), format!("{at}: must have the same name: n != m"));
        assert_eq!(
            refused(|n| n["apiVersion"] = "g/v3".into()),
            format!("{at}: invalid groupVersion (expected g/v2, received g/v3)")
        );
        assert_eq!(
            refused(|n| drop(n.as_object_mut().expect("a map").remove("metadata"))),
            format!("{at}: must have the same name: n != ")
        );
    }
}
