//! Kustomize's strategic merge: new elements of a list come first, and what a patch does not know it leaves.

use serde_json::{Map, Value};
use skiff_api::schema::{Field, ListKind, Type};

use crate::{Failure, Result};

const DIRECTIVE: &str = "$patch";

/// The object after the patch; `None`: the patch deletes it.
pub fn merge(object: Value, patch: &Value, schema: Option<&Type>) -> Result<Option<Value>> {
    walk(Some(object), Some(patch), schema, None)
}

fn walk(own: Option<Value>, patch: Option<&Value>, ty: Option<&Type>, field: Option<&Field>) -> Result<Option<Value>> {
    let Some(patch) = patch else { return Ok(own) };
    if patch.is_null() {
        return Ok(None);
    }
    let own = own.filter(|own| !own.is_null());
    if own.as_ref().is_some_and(|own| kind(own) != kind(patch)) {
        return Err(Failure::text(format!(
            "wrong Node Kind for expected: {} was {}: value: {{{patch}}}",
            own.as_ref().map_or("", kind),
            kind(patch)
        )));
    }
    match patch {
        Value::Object(entries) => map(own, entries, ty),
        Value::Array(items) if field.is_some_and(|field| field.patch.merge) => list(own, items, ty, field),
        _ => Ok(Some(patch.clone())),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Object(_) => "MappingNode",
        Value::Array(_) => "SequenceNode",
        _ => "ScalarNode",
    }
}

/// What `$patch` says.
fn directive(entries: &Map<String, Value>) -> Result<&str> {
    match entries.get(DIRECTIVE).map(|value| value.as_str().unwrap_or_default()) {
        None => Ok("merge"),
        Some(known @ ("merge" | "replace" | "delete")) => Ok(known),
        Some(other) => Err(Failure::text(format!("unknown patch strategy '{other}'"))),
    }
}

fn map(own: Option<Value>, patch: &Map<String, Value>, ty: Option<&Type>) -> Result<Option<Value>> {
    let mut merged = match (directive(patch)?, own) {
        ("delete", _) => return Ok(None),
        ("merge", Some(Value::Object(own))) => own,
        _ => Map::new(),
    };
    for (name, value) in patch.iter().filter(|(name, _)| *name != DIRECTIVE) {
        let field = ty.and_then(Type::object).and_then(|object| object.field(name));
        let inner = ty.and_then(|ty| ty.field(name));
        match walk(merged.remove(name), Some(value), inner.as_ref(), field)? {
            Some(value) => drop(merged.insert(name.clone(), value)),
            None => drop(merged.remove(name)),
        }
    }
    Ok(Some(Value::Object(merged)))
}

fn list(own: Option<Value>, patch: &[Value], ty: Option<&Type>, field: Option<&Field>) -> Result<Option<Value>> {
    let is_directive =
        |item: &&Value| item.as_object().is_some_and(|entries| entries.len() == 1 && entries.contains_key(DIRECTIVE));
    let whole = match patch.iter().find(is_directive).and_then(Value::as_object) {
        Some(entries) => directive(entries)?,
        None => "merge",
    };
    let mut own = match (whole, own) {
        ("delete", _) => return Ok(None),
        ("merge", Some(Value::Array(own))) => own,
        _ => Vec::new(),
    };
    let patch: Vec<&Value> = patch.iter().filter(|item| !is_directive(item)).collect();
    let keys = keys(ty, field);
    let item_type = match ty {
        Some(Type::List(list)) => Some(&list.item),
        _ => None,
    };
    if keys.is_empty() {
        let new: Vec<Value> = patch.into_iter().cloned().collect();
        own.retain(|known| !new.contains(known));
        return Ok(Some(new.into_iter().chain(own).collect()));
    }
    by_keys(own, &patch, &keys, item_type).map(|merged| Some(Value::Array(merged)))
}

/// Elements by what they are called, as kustomize does it. An element that lacks a part of its key is told by the others; but the
/// object's own element then stands as it is, and so it does where the patch would replace it.
fn by_keys(mut own: Vec<Value>, patch: &[&Value], keys: &[String], ty: Option<&Type>) -> Result<Vec<Value>> {
    let part = |item: &Value, key: &String| item.get(key).map(super::field::text).unwrap_or_default();
    let name = |item: &Value| keys.iter().map(|key| part(item, key)).collect::<Vec<_>>();
    let mut called: Vec<Vec<String>> = Vec::new();
    for item in patch.iter().copied().chain(&own) {
        let name = name(item);
        if !called.contains(&name) {
            called.push(name);
        }
    }
    if keys.len() > 1 {
        complete(&mut called);
    }
    let used: Vec<usize> = (0..keys.len()).filter(|nth| called.iter().any(|name| !name[*nth].is_empty())).collect();
    let used: Vec<usize> = if used.is_empty() { (0..keys.len()).collect() } else { used };
    // What a name asks for; an empty part asks only that there be one.
    let has = |item: &Value, name: &[String]| {
        used.iter().all(|nth| {
            let own = item.get(&keys[*nth]).filter(|own| !own.is_null());
            own.is_some_and(|own| name[*nth].is_empty() || super::field::text(own) == name[*nth])
        })
    };
    let mut merged: Vec<Value> = Vec::new();
    for name in &called {
        let is = |item: &Value| {
            let parts = || keys.iter().zip(name).filter(|(_, wanted)| !wanted.is_empty());
            parts().next().is_some() && parts().all(|(key, wanted)| part(item, key) == *wanted)
        };
        let place = own.iter().position(is);
        let item = patch.iter().copied().find(|item| is(item));
        let Some(value) =
            walk(place.map(|place| own[place].clone()), item, ty, None)?.filter(|value| *value != empty())
        else {
            own.retain(|known| !has(known, name));
            continue;
        };
        let replaces =
            item.and_then(Value::as_object).is_some_and(|item| item.get(DIRECTIVE).is_some_and(|d| d == "replace"));
        if let Some(place) = place.filter(|_| !replaces) {
            own[place] = value.clone();
        }
        match merged.iter_mut().find(|known| has(known, name)) {
            Some(known) => *known = value,
            None => merged.push(value),
        }
    }
    for item in own {
        let known: Vec<usize> = used.iter().copied().filter(|nth| !part(&item, &keys[*nth]).is_empty()).collect();
        let same = |other: &Value| known.iter().all(|nth| part(other, &keys[*nth]) == part(&item, &keys[*nth]));
        if known.is_empty() {
            merged.push(item);
            continue;
        }
        let first = merged.iter().position(&same);
        match first.filter(|_| used.len() == 1) {
            Some(place) => merged[place] = item,
            // Where a key has several parts, the object's own elements stand behind those of the patch.
            None => {
                merged.retain(|other| !same(other));
                merged.push(item);
            }
        }
    }
    Ok(merged)
}

fn empty() -> Value {
    Value::Object(Map::new())
}

/// Names that differ only in parts that one of them lacks are the same.
fn complete(called: &mut [Vec<String>]) {
    for a in 0..called.len() {
        for b in 0..called.len() {
            let pairs = || called[a].iter().zip(&called[b]);
            let any = pairs().any(|(a, b)| a == b);
            let apart = pairs().any(|(a, b)| a != b && !a.is_empty() && !b.is_empty());
            if any && !apart {
                let whole: Vec<String> =
                    pairs().map(|(a, b)| if a.is_empty() { b.clone() } else { a.clone() }).collect();
                called[a].clone_from(&whole);
                called[b] = whole;
            }
        }
    }
}

fn keys(ty: Option<&Type>, field: Option<&Field>) -> Vec<String> {
    match (ty, field.and_then(|field| field.patch_merge_key.as_deref())) {
        (Some(Type::List(list)), Some(_)) if list.kind == ListKind::Map && !list.keys.is_empty() => {
            list.keys.iter().map(|key| key.to_string()).collect()
        }
        (_, Some(key)) => vec![key.to_owned()],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use skiff_api::{Gvk, schema};

    #[test]
    fn new_elements_come_first_and_directives_go() {
        let schema = schema::lookup(&Gvk::new("", "v1", "Pod"));
        let check = |object: Value, patch: Value, expect: Value| {
            assert_eq!(merge(object, &patch, schema.as_ref()).expect("merged"), Some(expect));
        };
        check(
            json!({"spec": {"containers": [{"name": "a", "image": "x", "args": ["1"]}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"name": "new"}, {"name": "b", "$patch": "delete"}, {"name": "a", "args": ["2"], "image": null}]}}),
            json!({"spec": {"containers": [{"name": "new"}, {"name": "a", "args": ["2"]}]}}),
        );
        check(
            json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}}),
            json!({"spec": {"containers": [{"name": "a", "ports": [{"$patch": "replace"}, {"containerPort": 81}]}]}}),
            json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 81}]}]}}),
        );
        check(
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"finalizers": ["c", "b"]}}),
            json!({"metadata": {"finalizers": ["c", "b", "a"]}}),
        );
        assert_eq!(merge(json!({"a": 1}), &json!({"$patch": "delete"}), None).expect("merged"), None);
    }
}
