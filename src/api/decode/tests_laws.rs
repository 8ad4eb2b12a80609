//! What holds for any object of any built-in kind: it stays the same in every encoding, and reading it again, or
//! filling in its defaults again, changes nothing.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests_encode::{envelope, in_protobuf};
use super::*;
use crate::kinds::builtin;
use crate::schema::generate::{Random, value};
use crate::schema::{self, Type};
use crate::strategy::Descriptor;

/// Puts a field that no type has into one of the objects with known fields; says where.
fn add_strange(value: &mut Value, ty: &Type, random: &mut Random, path: &str) -> Option<String> {
    match (ty, value) {
        (Type::List(list), Value::Array(items)) if !items.is_empty() => {
            let at = random.below(items.len());
            add_strange(&mut items[at], &list.item, random, &format!("{path}[{at}]"))
        }
        (Type::Map(values), Value::Object(entries)) if !entries.is_empty() => {
            let at = random.below(entries.len());
            let (name, value) = entries.iter_mut().nth(at)?;
            add_strange(value, values, random, &format!("{path}.{name}"))
        }
        (Type::OrAny(_), _) => None,
        (ty, Value::Object(entries)) => {
            let object = ty.object().filter(|object| !object.preserve_unknown)?;
            if !entries.is_empty() && random.below(3) > 0 {
                let at = random.below(entries.len());
                let (name, value) = entries.iter_mut().nth(at)?;
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let ty = &object.field(name)?.ty;
                if let Some(found) = add_strange(value, ty, random, &below) {
                    return Some(found);
                }
            }
            entries.insert("strange".to_owned(), json!({"a": [1]}));
            Some(if path.is_empty() { "strange".to_owned() } else { format!("{path}.strange") })
        }
        _ => None,
    }
}

fn laws_of(descriptor: &Descriptor, ty: &Type, seed: u64) {
    let (mut random, gvk) = (Random::new(seed), &descriptor.gvk);
    let told = |what: &str| format!("{}, seed {seed}: {what}", gvk.kind);
    let json_of = |object: &Value| {
        decode(object.to_string().as_bytes(), Media::Json, gvk, Some(ty))
            .unwrap_or_else(|e| panic!("{}: {e}", gvk.kind))
    };
    let mut made = value(ty, &mut random);
    made["apiVersion"] = gvk.api_version().into();
    made["kind"] = gvk.kind.to_string().into();
    let object = json_of(&made).value;

    let again = json_of(&object);
    assert_eq!((&again.value, again.strict.len()), (&object, 0), "{}", told("JSON"));
    let patched = conform(object.clone(), gvk, ty).expect("it conforms");
    assert_eq!((&patched.value, patched.strict.len()), (&object, 0), "{}", told("as the result of a patch"));
    let text = crate::yaml::to_string(&object);
    let from_yaml = decode(text.as_bytes(), Media::Yaml, gvk, Some(ty)).expect("it decodes");
    assert_eq!((&from_yaml.value, from_yaml.strict.len()), (&object, 0), "{}\n{text}", told("YAML"));
    if ty.object().is_some_and(|object| object.fields.iter().any(|field| !field.tags.is_empty())) {
        let from_protobuf = decode(&envelope(&object, ty, gvk), Media::Protobuf, gvk, Some(ty)).expect("it decodes");
        assert_eq!(from_protobuf.value, in_protobuf(&object, ty), "{}", told("protobuf"));
        assert_eq!(protobuf_kind(&envelope(&object, ty, gvk)).as_ref(), Some(gvk), "{}", told("kind"));
    }
    let mut strange = object.clone();
    if let Some(path) = add_strange(&mut strange, ty, &mut random, "") {
        let pruned = json_of(&strange);
        assert_eq!(pruned.strict, [format!("unknown field {path:?}")], "{}", told("strict"));
        // Where it was the only field of its object, that one stays, as empty as it is.
        let twice = json_of(&pruned.value);
        assert_eq!((&twice.value, twice.strict.len()), (&pruned.value, 0), "{}", told("pruned twice"));
        assert!(!pruned.value.to_string().contains("strange"), "{}", told("pruned"));
    }
    let mut defaulted = object;
    descriptor.strategy.default(&mut defaulted);
    let mut twice = defaulted.clone();
    descriptor.strategy.default(&mut twice);
    assert_eq!(twice, defaulted, "{}", told("defaults twice"));
    // A zero that Go always writes is dropped by reading and comes again with the defaults.
    let read = json_of(&defaulted);
    let mut again = read.value;
    descriptor.strategy.default(&mut again);
    assert_eq!((&again, read.strict.len()), (&defaulted, 0), "{}", told("read and defaulted again"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(8) })]

    #[test]
    fn laws(seed in any::<u64>()) {
        for descriptor in builtin() {
            let Some(ty) = schema::lookup(&descriptor.gvk) else { continue };
            laws_of(&descriptor, &ty, seed);
        }
    }
}

/// A body of nothing but mistakes costs no more than reading it: nobody reads the ten-thousandth sentence.
#[test]
fn mistakes_are_told_up_to_a_number() {
    let gvk = Gvk::new("", "v1", "Pod");
    let ty = schema::lookup(&gvk).expect("a built-in kind");
    let body: Value = (0..10_000).map(|n| (format!("strange{n}"), Value::from(n))).collect();
    let decoded = decode(body.to_string().as_bytes(), Media::Json, &gvk, Some(&ty)).expect("it decodes");
    assert_eq!(decoded.strict.len(), 100);
}
