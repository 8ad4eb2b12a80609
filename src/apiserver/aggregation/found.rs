//! What another server says that it serves.

use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};

use super::{Found, Remote};
use crate::server::Server;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const JSON: &str = "application/json";

impl Server {
    /// What it serves now; what was known before stays where it can't be asked.
    pub(super) async fn find_resources(&self, remote: &Remote) -> Found {
        let openapi = match self.ask_remote(remote, "/openapi/v3", JSON, "").await {
            Ok(answer) if answer.status.is_success() => {
                document_url(&serde_json::from_slice(&answer.body).unwrap_or_default(), remote)
            }
            // It has none.
            Ok(_) => None,
            Err(_) => remote.found.openapi.clone(),
        };
        match self.resources_of(remote).await {
            Ok(resources) => Found { resources, fresh: true, openapi },
            Err(why) => {
                tracing::warn!(service = remote.name, %why, "what an APIService serves is not known");
                Found { fresh: false, openapi, ..(*remote.found).clone() }
            }
        }
    }

    async fn resources_of(&self, remote: &Remote) -> Result<Vec<Value>, String> {
        let answer = self.ask_remote(remote, "/apis", AGGREGATED, "").await?;
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            return Err(format!("/apis: status {}", answer.status.as_u16()));
        }
        if answer.status == StatusCode::OK && answer.header(CONTENT_TYPE).contains("APIGroupDiscoveryList") {
            let document: Value = serde_json::from_slice(&answer.body).map_err(|e| format!("/apis: {e}"))?;
            return Ok(of_aggregated(&document, &remote.group, &remote.version));
        }
        let path = remote.path();
        let answer = self.ask_remote(remote, &path, JSON, "").await?;
        if answer.status != StatusCode::OK {
            return Err(format!("{path}: status {}", answer.status.as_u16()));
        }
        let document: Value = serde_json::from_slice(&answer.body).map_err(|e| format!("{path}: {e}"))?;
        Ok(of_list(&document, &remote.group, &remote.version))
    }
}

/// Where the index of OpenAPI v3 says that the document is.
fn document_url(index: &Value, remote: &Remote) -> Option<String> {
    let path = remote.path();
    let entry = &index["paths"][path.trim_start_matches('/')]["serverRelativeURL"];
    // Only what this server finds its way from.
    entry.as_str().filter(|url| url.starts_with(&format!("/openapi/v3{path}"))).map(str::to_owned)
}

/// From an `APIGroupDiscoveryList`.
fn of_aggregated(document: &Value, group: &str, version: &str) -> Vec<Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let items = list(&document["items"]);
    let own = items.iter().filter(|item| item["metadata"]["name"].as_str().unwrap_or_default() == group);
    let versions = own.flat_map(|item| list(&item["versions"]));
    let mut resources: Vec<Value> =
        versions.filter(|item| item["version"] == version).flat_map(|item| list(&item["resources"])).collect();
    for resource in &mut resources {
        let subresources = resource.get_mut("subresources").and_then(Value::as_array_mut).map(std::mem::take);
        *resource = with_kind(resource.take());
        if let Some(subresources) = subresources {
            resource["subresources"] = subresources.into_iter().map(with_kind).collect();
        }
    }
    resources
}

/// Clients of 1.26 break without it.
fn with_kind(mut line: Value) -> Value {
    if !line["responseKind"].is_object() {
        line["responseKind"] = json!({"group": "", "version": "", "kind": ""});
    }
    line
}

/// From an `APIResourceList`, which older servers have alone.
fn of_list(document: &Value, group: &str, version: &str) -> Vec<Value> {
    let lines = document["resources"].as_array().cloned().unwrap_or_default();
    let text = |line: &Value, field: &str| line[field].as_str().unwrap_or_default().to_owned();
    let kind = |line: &Value| {
        let or = |field: &str, other: &str| match text(line, field) {
            given if given.is_empty() => other.to_owned(),
            given => given,
        };
        json!({"group": or("group", group), "version": or("version", version), "kind": text(line, "kind")})
    };
    let mut resources: Vec<Map<String, Value>> = Vec::new();
    for line in lines.iter().filter(|line| !text(line, "name").contains('/')) {
        let mut resource = Map::new();
        resource.insert("resource".to_owned(), line["name"].clone());
        resource.insert("responseKind".to_owned(), kind(line));
        let scope = if line["namespaced"] == true { "Namespaced" } else { "Cluster" };
        resource.insert("scope".to_owned(), scope.into());
        resource.insert("singularResource".to_owned(), text(line, "singularName").into());
        for field in ["verbs", "shortNames", "categories"] {
            if let Some(value) = line.get(field) {
                resource.insert(field.to_owned(), value.clone());
            }
        }
        let prefix = format!("{}/", text(line, "name"));
        let subresources: Vec<Value> = lines
            .iter()
            .filter_map(|line| {
                let name = line["name"].as_str()?.strip_prefix(&prefix)?;
                Some(json!({"subresource": name, "responseKind": kind(line), "verbs": line["verbs"]}))
            })
            .collect();
        if !subresources.is_empty() {
            resource.insert("subresources".to_owned(), subresources.into());
        }
        resources.push(resource);
    }
    resources.into_iter().map(Value::Object).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_discovery_say_the_same() {
        let verbs = json!(["get", "list"]);
        let list = json!({"kind": "APIResourceList", "groupVersion": "w.example.org/v1", "resources": [
            {"name": "boats", "singularName": "boat", "namespaced": true, "kind": "Boat", "verbs": verbs, "shortNames": ["bt"]},
            {"name": "boats/status", "singularName": "", "namespaced": true, "kind": "Boat", "verbs": ["get"]},
            {"name": "boats/scale", "kind": "Scale", "group": "autoscaling", "version": "v1", "verbs": ["get"]},
        ]});
        let kind = json!({"group": "w.example.org", "version": "v1", "kind": "Boat"});
        let scale = json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
        let expect = json!([{"resource": "boats", "responseKind": kind, "scope": "Namespaced", "singularResource": "boat",
            "verbs": verbs, "shortNames": ["bt"], "subresources": [
                {"subresource": "status", "responseKind": kind, "verbs": ["get"]},
                {"subresource": "scale", "responseKind": scale, "verbs": ["get"]},
        ]}]);
        assert_eq!(json!(of_list(&list, "w.example.org", "v1")), expect);
        let aggregated = json!({"items": [
            {"metadata": {"name": "other"}, "versions": [{"version": "v1", "resources": [{"resource": "x"}]}]},
            {"metadata": {"name": "w.example.org"}, "versions": [
                {"version": "v1", "resources": expect}, {"version": "v2", "resources": [{"resource": "y"}]}]},
        ]});
        assert_eq!(json!(of_aggregated(&aggregated, "w.example.org", "v1")), expect);
        assert_eq!(
            of_aggregated(&aggregated, "w.example.org", "v2"),
            [json!({"resource": "y", "responseKind": {"group": "", "version": "", "kind": ""}})]
        );
    }
}
