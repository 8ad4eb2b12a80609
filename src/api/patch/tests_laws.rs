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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn laws(seed in any::<u64>()) {
        for descriptor in builtin() {
            let Some(ty) = schema::lookup(&descriptor.gvk) else { continue };
            laws_of(&descriptor.gvk.kind, &ty, seed);
        }
    }
}
