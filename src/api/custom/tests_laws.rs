//! What holds for custom resources of any structural schema: made from a seed, as are their objects.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::check::check;
use super::prune::{defaults, prune};
use super::schema::Schema;
use super::types::merge_type;
use crate::managed::tests_laws::laws_of;
use crate::schema::generate::{Random, value};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "key", "name"];

/// A structural schema, and no rule that a value of its types could break.
fn schema(random: &mut Random, depth: usize) -> Value {
    let kinds = if depth > 3 { 4 } else { 9 };
    match random.below(kinds) {
        0 => json!({"type": "string"}),
        1 => json!({"type": "integer", "format": "int64"}),
        2 => json!({"type": "boolean"}),
        3 => json!({"x-kubernetes-int-or-string": true}),
        4 => json!({"type": "object", "additionalProperties": schema(random, depth + 1)}),
        5 => json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}),
        6 => {
            let mut item = object(random, depth + 1);
            item["properties"]["key"] = json!({"type": "string"});
            item["properties"]["name"] = json!({"type": "string", "default": "s1"});
            item["required"] = json!(["key"]);
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["key", "name"], "items": item})
        }
        7 => json!({"type": "array", "items": schema(random, depth + 1)}),
        _ => object(random, depth),
    }
}

fn object(random: &mut Random, depth: usize) -> Value {
    let mut properties = Map::new();
    for _ in 0..=random.below(4) {
        let mut property = schema(random, depth + 1);
        if random.below(3) == 0 {
            // A default of the schema's own type.
            let made =
                value(&merge_type(&Schema::parse(&json!({"type": "object", "properties": {"x": property}}))), random);
            if let Some(default) = made.get("x") {
                property["default"] = default.clone();
            }
        }
        properties.insert(NAMES[random.below(NAMES.len())].to_owned(), property);
    }
    let mut object = json!({"type": "object", "properties": properties});
    if random.below(5) == 0 {
        object["x-kubernetes-map-type"] = json!("atomic");
    } else if random.below(5) == 0 {
        object["x-kubernetes-preserve-unknown-fields"] = json!(true);
    }
    object
}

fn root(random: &mut Random) -> Value {
    json!({"type": "object", "properties": {"spec": object(random, 0), "status": object(random, 0)}})
}

/// Any value whatever: fields known and unknown, nulls, other types.
fn anything(random: &mut Random, depth: usize) -> Value {
    match random.below(if depth > 4 { 4 } else { 7 }) {
        0 => Value::Null,
        1 => json!(random.below(3)),
        2 => json!(1.0),
        3 => json!("x"),
        4 => (0..random.below(4)).map(|_| anything(random, depth + 1)).collect(),
        _ => {
            let count = random.below(5);
            let mut entries = Map::new();
            for _ in 0..count {
                let name = *["unknown", "metadata", "kind"].get(random.below(12)).unwrap_or(&NAMES[random.below(6)]);
                entries.insert(name.to_owned(), anything(random, depth + 1));
            }
            Value::Object(entries)
        }
    }
}

fn laws(seed: u64) {
    let mut random = Random::new(seed);
    let source = root(&mut random);
    let schema = Schema::parse(&source);
    let ty = merge_type(&schema);
    let told = |what: &str, object: &Value| format!("seed {seed}: {what}\nschema = {source}\nobject = {object}");

    // Of the schema's own types: nothing to prune, nothing to complain of.
    let good = value(&ty, &mut random);
    let mut pruned = good.clone();
    assert_eq!(prune(&mut pruned, &schema), Ok(Vec::new()), "{}", told("all is known", &good));
    assert_eq!(pruned, good, "{}", told("all is kept", &good));
    let mut defaulted = good.clone();
    defaults(&mut defaulted, &schema);
    let causes = check(&defaulted, &schema, None, "");
    assert!(causes.is_empty(), "{}\n{:?}", told("it is valid", &defaulted), causes);

    // Of any: each step is done when it is done.
    let wild = json!({"metadata": {"name": "a"}, "spec": anything(&mut random, 0), "status": anything(&mut random, 0),
        "unknown": 1});
    let mut pruned = wild.clone();
    let unknown = prune(&mut pruned, &schema).expect("no embedded objects");
    assert!(unknown.contains(&"unknown".to_owned()) && unknown.is_sorted(), "{}\n{unknown:?}", told("sorted", &wild));
    let mut twice = pruned.clone();
    assert_eq!(prune(&mut twice, &schema), Ok(Vec::new()), "{}", told("pruned twice", &wild));
    assert_eq!(twice, pruned, "{}", told("pruned twice", &wild));
    defaults(&mut twice, &schema);
    let defaulted = twice.clone();
    defaults(&mut twice, &schema);
    assert_eq!(twice, defaulted, "{}", told("defaults twice", &wild));
    assert_eq!(prune(&mut twice, &schema), Ok(Vec::new()), "{}", told("defaults are known", &wild));
    drop(check(&twice, &schema, Some(&wild), ""));
    drop(check(&wild, &schema, None, ""));

    laws_of(&format!("custom {source}"), &ty, seed);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn hold_for_any_schema(seed in any::<u64>()) {
        laws(seed);
    }
}
