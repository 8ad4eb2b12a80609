//! A schema of a custom resource, and objects of it: `{"schema": …, "objects": […]}`. What a definition that was accepted
//! makes of them is made when it is made once.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use skiff_api::Object;
use skiff_api::custom::definition::Definition;
use skiff_fuzz::has_fraction;

fuzz_target!(|data: &[u8]| {
    let Ok(Value::Object(mut input)) = serde_json::from_slice::<Value>(data) else { return };
    let mut version = json!({"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}});
    version["schema"]["openAPIV3Schema"] = input.remove("schema").unwrap_or_default();
    let names = json!({"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList"});
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.sea.example.com"},
        "spec": {"group": "sea.example.com", "scope": "Namespaced", "names": names, "versions": [version]}});
    let rows = skiff_api::kinds::builtin();
    let row = rows.iter().find(|row| &*row.gvk.kind == "CustomResourceDefinition").expect("it is built in");
    let ty = skiff_api::schema::lookup(&row.gvk).expect("it is built in");
    let Ok(read) = skiff_api::decode::conform(crd, &row.gvk, &ty) else { return };
    let mut crd = read.value;
    row.strategy.default(&mut crd);
    row.strategy.prepare_create(&mut crd);
    if !row.strategy.validate(&crd).is_empty() {
        return;
    }
    row.strategy.warnings(&crd, None);
    let object = Object::parse(Object::canonical(&crd), 1).expect("it has metadata");
    let definition = Definition::read(&object, &names, false).expect("it was accepted");
    let descriptor: &Arc<_> = definition.version("sea.example.com/v1").expect("its version");
    let strategy = &descriptor.strategy;
    for mut object in input
        .remove("objects")
        .and_then(|objects| objects.as_array().cloned())
        .into_iter()
        .flatten()
        .filter(Value::is_object)
    {
        let before = object.clone();
        if strategy.conform(&mut object).is_err() {
            continue;
        }
        let mut again = object.clone();
        assert_eq!(strategy.conform(&mut again), Ok(Vec::new()), "pruned twice");
        if !has_fraction(&object) {
            assert_eq!(again, object, "pruned twice");
        }
        strategy.default(&mut object);
        let mut again = object.clone();
        strategy.default(&mut again);
        assert_eq!(again, object, "defaults twice");
        strategy.validate(&object);
        strategy.validate_update(&object, &before);
        strategy.cells(&object, jiff::Timestamp::UNIX_EPOCH);
    }
});
