//! What holds for the patches between any two objects of any built-in kind.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::kinds::builtin;
use crate::schema;
use crate::schema::generate::{Random, value};

fn laws_of(name: &str, ty: &Type, seed: u64) {
    let mut random = Random::new(seed);
    let (a, b) = (value(ty, &mut random), value(ty, &mut random));
    let told = |what: &str, patch: &Value| format!("{name}, seed {seed}: {what}\na = {a}\nb = {b}\npatch = {patch}");
    for schema in [Some(ty), None] {
        let patch = three_way(Some(&a), &b, &a, schema).expect("objects");
        let apply = |original: &Value| match schema {
            Some(schema) => strategic_merge(original, &patch, schema).expect("our own patch"),
            None => merge_patch(original.clone(), &patch),
        };
        let patched = apply(&a);
        assert_eq!(patched, b, "{}", told("the difference applied", &patch));
        assert_eq!(apply(&patched), b, "{}", told("twice is once", &patch));
        let nothing = three_way(Some(&b), &b, &b, schema).expect("objects");
        assert_eq!(nothing, serde_json::json!({}), "{}", told("no difference", &nothing));
    }
}

/// Two items of a merged list never have the same merge key.
fn keys_are_single(value: &Value, ty: &Type, path: &str) -> Result<(), String> {
    match (ty, value) {
        (Type::List(list), Value::Array(items)) => items
            .iter()
            .enumerate()
            .try_for_each(|(at, item)| keys_are_single(item, &list.item, &format!("{path}[{at}]"))),
        (_, Value::Object(entries)) => entries.iter().try_for_each(|(name, value)| {
            let (path, field) = (format!("{path}.{name}"), field(Some(ty), name));
            if let (Some(key), Value::Array(items)) = (field.and_then(|field| field.patch_merge_key.as_deref()), value)
            {
                let keys: Vec<&Value> = items.iter().map(|item| &item[key]).collect();
                let twice = keys.iter().enumerate().find(|(at, key)| keys[..*at].contains(key));
                if let Some((_, twice)) = twice.filter(|(_, key)| !key.is_null()) {
                    return Err(format!("{path}: {key} {twice} came twice"));
                }
            }
            type_of(Some(ty), name).map_or(Ok(()), |ty| keys_are_single(value, ty, &path))
        }),
        _ => Ok(()),
    }
}

/// A whole object as a patch: what it says is so afterwards, and saying it again changes nothing.
fn whole_objects(name: &str, ty: &Type, seed: u64) {
    let mut random = Random::new(seed);
    let (a, b) = (value(ty, &mut random), value(ty, &mut random));
    let told = |what: &str| format!("{name}, seed {seed}: {what}\na = {a}\nb = {b}");
    let strategic = |a: &Value, b: &Value| strategic_merge(a, b, ty).expect("an object is a patch");
    let merge = |a: &Value, b: &Value| merge_patch(a.clone(), b);
    let both = strategic(&a, &b);
    assert_eq!(keys_are_single(&both, ty, ""), Ok(()), "{}", told("merge keys are single"));
    assert_eq!(strategic(&both, &b), both, "{}", told("strategic merge: twice is once"));
    assert_eq!(strategic(&a, &serde_json::json!({})), a, "{}", told("strategic merge: nothing is nothing"));
    assert_eq!(strategic(&a, &a), a, "{}", told("strategic merge: itself"));
    let merged = merge(&a, &b);
    assert_eq!(merge(&merged, &b), merged, "{}", told("merge: twice is once"));
    assert_eq!(merge(&a, &serde_json::json!({})), a, "{}", told("merge: nothing is nothing"));
    assert_eq!(merge(&serde_json::json!({}), &b), b, "{}", told("merge: into nothing"));
    let c = value(ty, &mut random);
    assert_eq!(merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)), "{}", told("merge: patches add up"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(8) })]

    #[test]
    fn laws(seed in any::<u64>()) {
        for descriptor in builtin() {
            let Some(ty) = schema::lookup(&descriptor.gvk) else { continue };
            laws_of(&descriptor.gvk.kind, &ty, seed);
            whole_objects(&descriptor.gvk.kind, &ty, seed);
        }
    }
}
