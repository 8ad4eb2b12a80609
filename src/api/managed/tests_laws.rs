//! What holds for any objects of any built-in kind.

use std::borrow::Cow;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::check::check;
use super::write::{self, Versions, Writer};
use super::*;
use crate::kinds::builtin;
use crate::schema::generate::{Random, value};
use crate::schema::{self, Type};

/// A kind in its one version.
struct Only(Type);

impl Versions for Only {
    fn convert<'a>(&self, object: &'a Value, _version: &str) -> Option<Cow<'a, Value>> {
        Some(Cow::Borrowed(object))
    }

    fn schema(&self, _version: &str) -> Option<Type> {
        Some(self.0.clone())
    }
}

fn writer<'a>(manager: &'a str, ignored: &'a Set) -> Writer<'a> {
    Writer { manager, api_version: "v1", subresource: "", now: "2024-01-01T00:00:00Z", ignored }
}

fn apply(live: &Value, applied: &Value, manager: &str, owners: Owners, versions: &Only) -> (Value, Owners) {
    let done = write::apply(live, applied, &writer(manager, &Set::default()), owners, true, versions);
    let done = done.unwrap_or_else(|_| panic!("it was forced"));
    (done.object, done.owners)
}

fn owned(owners: &Owners) -> Set {
    owners.0.iter().fold(Set::default(), |all, owner| all.union(owner.fields.clone()))
}

/// Without what no entry ever holds.
fn ownable(mut object: Value) -> Value {
    if let Some(entries) = object.as_object_mut() {
        entries.retain(|name, _| name != "apiVersion" && name != "kind");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        let unowned = write::unowned().get(&Element::field("metadata")).expect("some are of the metadata");
        metadata.retain(|name, _| unowned.below.get(&Element::field(name)).is_none());
    }
    object
}

fn without_empty(value: &Value) -> Option<Value> {
    match value {
        Value::Object(entries) => {
            let kept = entries.iter().filter_map(|(name, value)| Some((name.clone(), without_empty(value)?)));
            Some(Value::Object(kept.collect())).filter(|kept| kept != &json!({}))
        }
        Value::Array(items) => Some(value.clone()).filter(|_| !items.is_empty()),
        _ => Some(value.clone()),
    }
}

/// Also for the types of custom resources.
pub(crate) fn laws_of(name: &str, ty: &Type, seed: u64) {
    let (mut random, only, root) = (Random::new(seed), Only(ty.clone()), Typed::root(Some(ty)));
    let (a, b) = (ownable(value(ty, &mut random)), ownable(value(ty, &mut random)));
    let told = |what: &str| format!("{name}, seed {seed}: {what}\na = {a}\nb = {b}");
    for object in [&a, &b] {
        assert_eq!(check(object, root), Ok(()), "{}", told("the generator makes good objects"));
        let fields = fields_of(object, root);
        assert_eq!(Set::parse(&fields.to_value()), Ok(fields), "{}", told("sets return from their JSON form"));
        assert!(Comparison::of(object, object, root).is_same(), "{}", told("a thing is as itself"));
    }
    let difference = Comparison::of(&a, &b, root);
    assert!(difference.removed.intersection(&difference.added).is_empty(), "{}", told("come and gone"));
    let empty = json!({});
    let (one, owners) = apply(&empty, &a, "one", Owners::default(), &only);
    assert_eq!(one, a, "{}", told("nothing but the configuration"));
    let (again, same_owners) = apply(&one, &a, "one", owners.clone(), &only);
    assert_eq!((&again, &same_owners), (&one, &owners), "{}", told("twice is once"));
    let (second, _) = apply(&one, &b, "one", owners.clone(), &only);
    assert_eq!(second, b, "{}", told("what the only applier says no more is gone"));
    // Two appliers: all is somebody's, keys stay single, and the first finds its way back.
    let (both, shared) = apply(&one, &b, "two", owners.clone(), &only);
    assert_eq!(check(&both, root), Ok(()), "{}", told("keys stay single"));
    let nobodys = fields_of(&both, root).difference(&owned(&shared)).difference(write::unowned());
    assert!(nobodys.is_empty(), "{}\n{:?}", told("all is somebody's"), nobodys);
    assert_eq!(Comparison::of(&merge(&both, &b, root), &both, root), Comparison::default(), "{}", told("b is in it"));
    let mut object = both.clone();
    shared.clone().write(&mut object);
    let mut again = both.clone();
    Owners::of(&object).write(&mut again);
    assert_eq!(again, object, "{}", told("owners return from the metadata"));
    // Without force it is refused exactly where the first would lose something.
    let unforced = write::apply(&one, &b, &writer("two", &Set::default()), owners.clone(), false, &only);
    let of_first = |owners: &Owners| {
        let fields = owners.0.iter().filter(|owner| owner.manager == "one").map(|owner| owner.fields.clone());
        fields.fold(Set::default(), Set::union)
    };
    // A map that becomes a text is gone: that is nobody's conflict.
    let gone = Comparison::of(&one, &both, root).removed;
    let lost = of_first(&owners).difference(&of_first(&shared)).difference(&gone);
    match unforced {
        Ok(done) => assert_eq!((&done.object, lost), (&both, Set::default()), "{}", told("nobody was asked")),
        Err(conflicts) => {
            let mut told_of = Set::default();
            conflicts.iter().for_each(|conflict| told_of.insert(&conflict.path));
            assert_eq!(told_of, lost, "{}", told("conflicts"));
        }
    }
    let (left, _) = apply(&both, &json!({}), "one", shared, &only);
    // As upstream: a map or list that the second left empty goes with what the first one had in it.
    let empty = fields_of(&b, root).difference(&fields_of(&without_empty(&b).unwrap_or_else(|| json!({})), root));
    let missing = Comparison::of(&left, &merge(&left, &b, root), root).written().difference(&empty);
    assert_eq!(
        missing,
        Set::default(),
        "{}",
        told("what the second applied stays, whether the first did, too, or not")
    );
    assert_eq!(
        Comparison::of(&left, &b, root).removed.intersection(&fields_of(&a, root)).difference(&fields_of(&b, root)),
        Set::default(),
        "{}",
        told("what only the first said is gone with it")
    );
    tracked_writes_agree(&mut random, ty, &only, &told);
    // An update that makes it so owns the difference.
    let tracked = write::update(&a, &b, &writer("up", &Set::default()), Owners::default(), &only);
    let expect = difference.written().difference(write::unowned());
    assert_eq!(owned(&tracked), expect, "{}", told("an update owns what it wrote"));
}

/// However a list is renewed, it is the same list.
fn tracked_writes_agree(random: &mut Random, ty: &Type, only: &Only, told: &dyn Fn(&str) -> String) {
    let mut live = Value::Null;
    for step in 0..6 {
        let mut new = ownable(value(ty, random));
        // Mostly a part changes.
        if step % 3 != 0
            && let (Some(new), Some(live)) = (new.as_object_mut(), live.as_object())
        {
            let keep =
                live.iter().filter(|(name, _)| *name != "status").map(|(name, value)| (name.clone(), value.clone()));
            new.extend(keep.collect::<Vec<_>>());
        }
        if !new["metadata"].is_object() {
            new["metadata"] = json!({});
        }
        if let Some(metadata) = new["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        let ignored = if step % 2 == 0 { Set::default() } else { Set::of_fields(&[&["spec"]]) };
        let now = format!("2024-01-01T00:00:0{}Z", step / 2);
        let mut writer = writer(["one", "two", "three"][step % 3], &ignored);
        writer.now = &now;
        writer.subresource = if step % 2 == 0 { "" } else { "status" };
        let old = (!live.is_null()).then_some(&live);
        let mut plain = new.clone();
        let owners = old.map(Owners::of).unwrap_or_default();
        if old.is_none() || !owners.is_empty() {
            write::update(old.unwrap_or(&json!({})), &plain, &writer, owners, only).write(&mut plain);
        }
        track(old, &mut new, &writer, only);
        assert_eq!(new, plain, "{}", told(&format!("step {step} on {live}")));
        live = new;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(8) })]

    #[test]
    fn laws(seed in any::<u64>()) {
        for descriptor in builtin() {
            let Some(ty) = schema::lookup(&descriptor.gvk) else { continue };
            laws_of(&descriptor.gvk.kind, &ty, seed);
        }
    }

    #[test]
    fn nothing_panics(text in "[fkvi.:{}\\[\\]\"a1, \\\\]{0,30}", seed in any::<u64>()) {
        let bad = json!([{"manager": text, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": {text.as_str(): {text.as_str(): {}}}}]);
        let mut object = json!({"metadata": {"managedFields": bad}});
        let owners = Owners::of(&object);
        owners.write(&mut object);
        let mut random = Random::new(seed);
        for descriptor in builtin().into_iter().take(5) {
            let Some(ty) = schema::lookup(&descriptor.gvk) else { continue };
            let root = Typed::root(Some(&ty));
            // Of another kind: nothing fits.
            let other = value(&Type::Any, &mut random);
            let object = value(&ty, &mut random);
            merge(&object, &other, root);
            merge(&other, &object, root);
            Comparison::of(&other, &object, root);
            fields_of(&other, root);
            drop(check(&other, root));
        }
    }
}
