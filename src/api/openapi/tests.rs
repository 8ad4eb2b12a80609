use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::*;

fn builtin() -> Vec<Arc<Descriptor>> {
    crate::kinds::builtin()
}

fn of_group<'a>(all: &'a [Arc<Descriptor>], group: &str) -> Vec<&'a Descriptor> {
    all.iter().map(|d| &**d).filter(|d| &*d.gvr.group == group).collect()
}

/// Every `$ref` of a document.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(entries) => {
            if let Some(Value::String(to)) = entries.get("$ref") {
                found.insert(to.clone());
            }
            entries.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn v3_answers_what_kubectl_asks() {
    let all = builtin();
    let document: Value = serde_json::from_slice(&v3_document("apps", "v1", &of_group(&all, "apps"))).expect("JSON");
    let path = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments"];
    assert_eq!(path["get"]["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    assert_eq!(path["get"]["operationId"], "listAppsV1NamespacedDeployment");
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let names: Vec<_> = patch["parameters"].as_array().expect("a list").iter().map(|p| p["name"].clone()).collect();
    assert!(names.contains(&"fieldValidation".into()) && names.contains(&"dryRun".into()));
    let schemas = &document["components"]["schemas"];
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(deployment["x-kubernetes-group-version-kind"][0]["group"], "apps");
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert!(document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["get"].is_object());
    assert!(schemas["io.k8s.api.autoscaling.v1.Scale"].is_object());
}

#[test]
fn every_reference_leads_somewhere() {
    let all = builtin();
    let all: Vec<&Descriptor> = all.iter().map(|d| &**d).collect();
    let v2: Value = serde_json::from_slice(&v2_document(&all, &[])).expect("JSON");
    let v3: Value = serde_json::from_slice(&v3_document("", "v1", &all)).expect("JSON");
    for (document, prefix, at) in
        [(&v2, "#/definitions/", "/definitions"), (&v3, "#/components/schemas/", "/components/schemas")]
    {
        let definitions = document.pointer(at).and_then(Value::as_object).expect("definitions");
        let mut found = BTreeSet::new();
        references(document, &mut found);
        assert!(found.len() > 100);
        for reference in found {
            assert!(definitions.contains_key(reference.strip_prefix(prefix).expect("our prefix")), "{reference}");
        }
        let paths = document["paths"].as_object().expect("paths");
        let mut ids: Vec<_> = paths
            .values()
            .flat_map(|p| p.as_object().expect("an item").values())
            .filter_map(|o| o["operationId"].as_str())
            .collect();
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count, "operation ids are unique");
    }
}

#[test]
fn protobuf_is_well_formed() {
    let all = builtin();
    let core = of_group(&all, "");
    let bytes = v2_protobuf(&core, &[]);
    // Read back as far as needed: swagger = 1, paths = 8, definitions = 9, each with a name = 1 inside the entry.
    let (mut rest, mut names, mut swagger) = (bytes.as_slice(), Vec::new(), None);
    while !rest.is_empty() {
        let (tag, body) = field(&mut rest);
        match tag {
            1 => swagger = Some(String::from_utf8(body.to_vec()).expect("a text")),
            8 | 9 => {
                let (_, mut entry) = field(&mut { body });
                names.push(String::from_utf8(field(&mut entry).1.to_vec()).expect("a text"));
            }
            _ => {}
        }
    }
    assert_eq!(swagger.as_deref(), Some("2.0"));
    assert!(names.iter().any(|n| n == "/api/v1/namespaces/{namespace}/pods"));
    assert!(names.iter().any(|n| n == "io.k8s.api.core.v1.Pod"));
}

fn field<'a>(rest: &mut &'a [u8]) -> (u64, &'a [u8]) {
    let varint = |rest: &mut &'a [u8]| {
        let (mut number, mut shift) = (0u64, 0);
        loop {
            let byte = rest[0];
            *rest = &rest[1..];
            number |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return number;
            }
        }
    };
    let key = varint(rest);
    assert_eq!(key & 7, 2, "only messages and texts at this level");
    let length = usize::try_from(varint(rest)).expect("small");
    let (body, tail) = rest.split_at(length);
    *rest = tail;
    (key >> 3, body)
}

#[test]
fn the_index_names_documents_by_hash() {
    let all = builtin();
    let apps = of_group(&all, "apps");
    assert_eq!(hash(&apps), hash(&apps));
    assert_ne!(hash(&apps), hash(&of_group(&all, "")));
    let index = v3_index(&[("apis/apps/v1".into(), "AB".into())]);
    assert_eq!(index["paths"]["apis/apps/v1"]["serverRelativeURL"], "/openapi/v3/apis/apps/v1?hash=AB");
}
