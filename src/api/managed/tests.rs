//! Operations in a row, and what comes of them: what structured-merge-diff's tests hold, told again.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::schema::{Field, ListKind, ListType, ObjectType, Scalar, Type};

/// Versions that differ in nothing, or in the endings of names (`field_v1`).
struct Same {
    types: fn(&str) -> Type,
    renames: bool,
    served: &'static [&'static str],
}

impl Versions for Same {
    fn convert<'a>(&self, object: &'a Value, version: &str) -> Option<Cow<'a, Value>> {
        if !self.served.contains(&version) {
            return None;
        }
        if !self.renames {
            return Some(Cow::Borrowed(object));
        }
        let text = self
            .served
            .iter()
            .fold(object.to_string(), |text, from| text.replace(&format!("_{from}\""), &format!("_{version}\"")));
        Some(Cow::Owned(serde_json::from_str(&text).expect("only names changed")))
    }

    fn schema(&self, version: &str) -> Option<Type> {
        Some((self.types)(version))
    }
}

fn field(name: &str, ty: Type) -> Field {
    Field {
        name: name.to_owned().into(),
        ty,
        required: false,
        drop_zero: false,
        atomic: false,
        declared_atomic_list: false,
        patch: Default::default(),
        patch_merge_key: None,
        tags: Vec::new(),
        default: None,
    }
}

fn object(mut fields: Vec<Field>) -> Type {
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    Type::Object(Arc::new(ObjectType { fields, ..ObjectType::default() }))
}

fn list(kind: ListKind, keys: &'static [&'static str], item: Type) -> Type {
    Type::List(Arc::new(ListType { item, kind, keys: keys.iter().map(|key| Cow::Borrowed(*key)).collect() }))
}

const TEXT: Type = Type::Scalar(Scalar::String);
const NUMBER: Type = Type::Scalar(Scalar::Int64);

fn map(values: Type) -> Type {
    Type::Map(Arc::new(values))
}

fn with_default(mut field: Field, default: &'static str) -> Field {
    field.default = Some(Cow::Borrowed(default));
    field
}

/// Of everything something.
pub(super) fn nested(_version: &str) -> Type {
    let set = || list(ListKind::Set, &[], TEXT);
    let keyed = |value| list(ListKind::Map, &["name"], object(vec![field("name", TEXT), field("value", value)]));
    let ports =
        object(vec![field("port", NUMBER), with_default(field("protocol", TEXT), "\"TCP\""), field("name", TEXT)]);
    let mut atomic = field("atomicMap", map(TEXT));
    atomic.atomic = true;
    object(vec![
        field("text", TEXT),
        field("number", NUMBER),
        field("set", set()),
        field("numbers", list(ListKind::Set, &[], NUMBER)),
        field("atomicList", list(ListKind::Atomic, &[], TEXT)),
        atomic,
        field("listOfLists", keyed(set())),
        field("listOfMaps", keyed(map(TEXT))),
        field("list", keyed(NUMBER)),
        field("map", map(TEXT)),
        field("mapOfMaps", map(map(TEXT))),
        field("struct", object(vec![field("name", TEXT), field("value", NUMBER)])),
        field("ports", list(ListKind::Map, &["port", "protocol"], ports)),
        field("anything", Type::Any),
    ])
}

fn versioned(version: &str) -> Type {
    let complex = || object(vec![field("name", TEXT)]);
    let inner = vec![
        field("name", TEXT),
        field(&format!("scalar_{version}"), TEXT),
        field(&format!("complex_{version}"), complex()),
    ];
    object(vec![field("struct", object(inner))])
}

const SAME: Same = Same { types: nested, renames: false, served: &["v1", "v2", "v3"] };
const RENAMING: Same = Same { types: versioned, renames: true, served: &["v1", "v2", "v3"] };

pub(super) enum Step {
    /// Manager and version; what is applied.
    Apply(&'static str, Value),
    Force(&'static str, Value),
    /// What the object is after it.
    Update(&'static str, Value),
    /// Refused, with these paths.
    Conflict(&'static str, Value, &'static [&'static str]),
}
pub(super) use Step::{Apply, Conflict as Refuse, Force, Update};

/// `manager/version`.
fn writer<'a>(who: &'a str, ignored: &'a Set) -> Writer<'a> {
    let (manager, api_version) = who.split_once('/').unwrap_or((who, "v1"));
    Writer { manager, api_version, subresource: "", now: "2024-01-01T00:00:00Z", ignored }
}

/// Runs the steps; `owners` are (`manager/version`, its fields).
fn check_with(versions: &Same, ignored: &Set, name: &str, steps: Vec<Step>, result: Value, owners: &[(&str, Value)]) {
    let (mut live, mut held, mut at) = (json!({}), Owners::default(), "v1".to_owned());
    for step in steps {
        let (who, object, force) = match &step {
            Apply(who, object) | Refuse(who, object, _) | Update(who, object) => (*who, object, false),
            Force(who, object) => (*who, object, true),
        };
        let writer = writer(who, ignored);
        live = versions.convert(&live, writer.api_version).expect("served").into_owned();
        at = writer.api_version.to_owned();
        if matches!(step, Update(..)) {
            held = write::update(&live, object, &writer, held, versions);
            live = object.clone();
            continue;
        }
        match (write::apply(&live, object, &writer, held.clone(), force, versions), &step) {
            (Ok(done), Apply(..) | Force(..)) => {
                // Twice is once.
                let again = write::apply(&done.object, object, &writer, done.owners.clone(), force, versions);
                let again = again.unwrap_or_else(|c| panic!("{name}: twice: {:?}", paths(&c)));
                assert_eq!((&again.object, &again.owners), (&done.object, &done.owners), "{name}: twice");
                (live, held) = (done.object, done.owners);
            }
            (Err(conflicts), Refuse(_, _, expect)) => assert_eq!(paths(&conflicts), *expect, "{name}"),
            (Err(conflicts), _) => panic!("{name}: {who}: {:?}", paths(&conflicts)),
            (Ok(done), _) => panic!("{name}: {who}: no conflict: {}", done.object),
        }
    }
    assert_eq!(live, result, "{name} in {at}");
    let mut got: Vec<(String, Value)> = held
        .0
        .iter()
        .filter(|owner| !owner.fields.is_empty())
        .map(|owner| (format!("{}/{}", owner.manager, owner.api_version), owner.fields.to_value()))
        .collect();
    got.sort_by(|a, b| a.0.cmp(&b.0));
    let mut expect: Vec<(String, Value)> = owners
        .iter()
        .map(|(who, fields)| (if who.contains('/') { (*who).to_owned() } else { format!("{who}/v1") }, fields.clone()))
        .collect();
    expect.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(got, expect, "{name}");
}

pub(super) fn check(name: &str, steps: Vec<Step>, result: Value, owners: &[(&str, Value)]) {
    check_with(&SAME, &Set::default(), name, steps, result, owners);
}

fn paths(conflicts: &[Conflict]) -> Vec<String> {
    conflicts.iter().map(Conflict::path_text).collect()
}

#[test]
fn leaves() {
    let both = || json!({"number": 1, "text": "a"});
    let fields = || json!({"f:number": {}, "f:text": {}});
    check("apply twice", vec![Apply("a", json!({"number": 1})), Apply("a", both())], both(), &[("a", fields())]);
    let update = json!({"number": 1, "text": "b"});
    check(
        "an update takes a field, and no conflict without it",
        vec![Apply("a", both()), Update("c/v2", update.clone()), Apply("a", json!({"number": 1}))],
        update.clone(),
        &[("a", json!({"f:number": {}})), ("c/v2", json!({"f:text": {}}))],
    );
    check(
        "a conflict, and force",
        vec![Apply("a", both()), Update("c", update.clone()), Refuse("a", both(), &[".text"]), Force("a", both())],
        both(),
        &[("a", fields())],
    );
    check(
        "the same value is shared",
        vec![Apply("a", both()), Update("c", update.clone()), Apply("a", update.clone())],
        update.clone(),
        &[("a", fields()), ("c", json!({"f:text": {}}))],
    );
    check(
        "removed",
        vec![Apply("a", both()), Apply("a/v2", json!({"number": 1}))],
        json!({"number": 1}),
        &[("a/v2", json!({"f:number": {}}))],
    );
    check("all removed", vec![Apply("a", both()), Apply("a", json!({}))], json!({}), &[]);
    check(
        "an update that omits a field takes it from its owner",
        vec![Apply("a", both()), Update("c", json!({"text": "a"}))],
        json!({"text": "a"}),
        &[("a", json!({"f:text": {}}))],
    );
    check("all is gone", vec![Update("c", both()), Update("d", json!({}))], json!({}), &[]);
    check(
        "atomic lists and maps are one field",
        vec![
            Apply("a", json!({"atomicList": ["x"], "atomicMap": {"k": "v"}})),
            Refuse("b", json!({"atomicList": ["x", "y"], "atomicMap": {"l": "w"}}), &[".atomicList", ".atomicMap"]),
            Force("b", json!({"atomicList": ["x", "y"]})),
        ],
        json!({"atomicList": ["x", "y"], "atomicMap": {"k": "v"}}),
        &[("a", json!({"f:atomicMap": {}})), ("b", json!({"f:atomicList": {}}))],
    );
}

#[test]
fn sets() {
    let set = |items: &[&str]| json!({ "set": items });
    let fields = |items: &[&str]| -> Value {
        let below: serde_json::Map<String, Value> = items.iter().map(|i| (format!("v:\"{i}\""), json!({}))).collect();
        json!({ "f:set": below })
    };
    let controller = || Update("c/v2", set(&["a", "b", "c", "d"]));
    check(
        "items of others stay between",
        vec![Apply("a", set(&["a", "c"])), controller(), Apply("a", set(&["a", "aprime", "c", "cprime"]))],
        set(&["a", "b", "aprime", "c", "d", "cprime"]),
        &[("a", fields(&["a", "aprime", "c", "cprime"])), ("c/v2", fields(&["b", "d"]))],
    );
    check(
        "shared items",
        vec![Apply("a", set(&["a", "c"])), controller(), Apply("a", set(&["a", "b", "c"]))],
        set(&["a", "b", "c", "d"]),
        &[("a", fields(&["a", "b", "c"])), ("c/v2", fields(&["b", "d"]))],
    );
    check(
        "the configuration's order",
        vec![Apply("a", set(&["a", "b", "c", "d"])), Apply("a", set(&["a", "d", "c", "b"]))],
        set(&["a", "d", "c", "b"]),
        &[("a", fields(&["a", "b", "c", "d"]))],
    );
    check(
        "order, with others' items",
        vec![
            Apply("a", set(&["a", "b", "c", "d"])),
            Update("c", set(&["a", "b", "c", "d", "e"])),
            Apply("a", set(&["a", "d", "c", "b"])),
        ],
        set(&["a", "d", "e", "c", "b"]),
        &[("a", fields(&["a", "b", "c", "d"])), ("c", fields(&["e"]))],
    );
    check(
        "removed",
        vec![Apply("a", set(&["a", "b", "c"])), Apply("a/v2", set(&["a", "c"]))],
        set(&["a", "c"]),
        &[("a/v2", fields(&["a", "c"]))],
    );
    check(
        "removed by one, kept by the other",
        vec![Apply("a", set(&["a", "b", "c"])), Apply("b", set(&["c", "d"])), Apply("a", set(&["a"]))],
        set(&["a", "c", "d"]),
        &[("a", fields(&["a"])), ("b", fields(&["c", "d"]))],
    );
}

#[test]
fn versions_with_other_names() {
    let scalar = |version: &str, value: &str| json!({"struct": {"name": "a", format!("scalar_{version}"): value}});
    let only = |version: &str, value: &str| json!({"struct": {format!("scalar_{version}"): value}});
    let name = || json!({"struct": {"name": "a"}});
    let named = || json!({"f:struct": {"f:name": {}}});
    let check = |what: &str, steps, result, owners: &[(&str, Value)]| {
        check_with(&RENAMING, &Set::default(), what, steps, result, owners);
    };
    check("unset", vec![Apply("a/v1", scalar("v1", "x")), Apply("a/v2", name())], name(), &[("a/v2", named())]);
    check(
        "unset, and shared with an applier",
        vec![Apply("one/v1", scalar("v1", "x")), Apply("two/v2", only("v2", "x")), Apply("one/v3", name())],
        scalar("v3", "x"),
        &[("one/v3", named()), ("two/v2", json!({"f:struct": {"f:scalar_v2": {}}}))],
    );
    check(
        "unset, and shared with an updater",
        vec![Update("u/v1", scalar("v1", "x")), Apply("a/v2", scalar("v2", "x")), Apply("a/v3", name())],
        scalar("v3", "x"),
        &[("a/v3", named()), ("u/v1", json!({"f:struct": {".": {}, "f:name": {}, "f:scalar_v1": {}}}))],
    );
    check(
        "claimed by an updater",
        vec![Apply("a/v1", scalar("v1", "x")), Update("u/v2", scalar("v2", "y"))],
        scalar("v2", "y"),
        &[("a/v1", named()), ("u/v2", json!({"f:struct": {"f:scalar_v2": {}}}))],
    );
    let complex = |version: &str| json!({"struct": {"name": "a", format!("complex_{version}"): {"name": "b"}}});
    check("a part goes", vec![Apply("a/v1", complex("v1")), Apply("a/v2", name())], name(), &[("a/v2", named())]);
    let gone = Same { types: versioned, renames: true, served: &["v1", "v2"] };
    let held = Owners(vec![Owner {
        fields: Set::of_fields(&[&["struct", "name"]]),
        ..writer("old/v0", &Set::default()).owner(Operation::Update)
    }]);
    let after = write::update(&name(), &scalar("v1", "x"), &writer("u/v1", &Set::default()), held, &gone);
    assert_eq!(after.0.len(), 1, "owners of a version that is not served are forgotten");
}

#[test]
fn ignored_fields_have_no_owner() {
    let ignored = Set::of_fields(&[&["struct"]]);
    let object = json!({"number": 1, "struct": {"name": "a"}});
    let number = || json!({"f:number": {}});
    for step in [Apply("a", object.clone()), Update("a", object.clone())] {
        check_with(&SAME, &ignored, "ignored", vec![step], object.clone(), &[("a", number())]);
    }
    let other = json!({"number": 1, "struct": {"name": "b"}});
    let mut held = Owners(vec![Owner {
        fields: Set::of_fields(&[&["struct", "name"]]),
        ..writer("status", &ignored).owner(Operation::Update)
    }]);
    held = write::update(&object, &other, &writer("a", &ignored), held, &SAME);
    assert_eq!(held.0.len(), 1, "nor are they taken: {held:?}");
}

#[test]
fn a_field_that_became_atomic_is_owned_as_a_whole() {
    let held = Owners(vec![Owner {
        fields: Set::parse(
            &json!({"f:atomicMap": {".": {}, "f:k": {}}, "f:atomicList": {"v:\"x\"": {}}, "f:anything": {"f:x": {}}}),
        )
        .expect("good"),
        ..writer("a", &Set::default()).owner(Operation::Update)
    }]);
    let held = write::update(&json!({}), &json!({}), &writer("b", &Set::default()), held, &SAME);
    assert_eq!(held.0[0].fields.to_value(), json!({"f:atomicMap": {}, "f:atomicList": {}, "f:anything": {"f:x": {}}}));
}

#[test]
fn what_has_no_schema_is_deduced() {
    let deduced = Same { types: |_| Type::Any, renames: false, served: &["v1"] };
    let object = json!({"a": {"b": 1}, "list": [1, 2]});
    check_with(
        &deduced,
        &Set::default(),
        "deduced",
        vec![Apply("x", object.clone())],
        object,
        &[("x", json!({"f:a": {".": {}, "f:b": {}}, "f:list": {}}))],
    );
    // A value changes its kind.
    let (old, new) = (json!({"a": {"b": 1}}), json!({"a": "x"}));
    let difference = Comparison::of(&old, &new, Typed::root(None));
    assert_eq!(difference.modified.to_value(), json!({"f:a": {}}));
    assert_eq!(difference.removed.to_value(), json!({"f:a": {"f:b": {}}}));
    assert_eq!(merge(&old, &new, Typed::root(None)), new);
}
