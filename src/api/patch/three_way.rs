//! Makes the patch of a client-side `kubectl apply` out of what was applied last, what is wanted, and what is there.

use std::mem::discriminant;

use serde_json::{Map, Value};

use super::{
    DELETE_FROM_LIST, DIRECTIVE, ELEMENT_ORDER, RETAIN_KEYS, field, identity, item_type, position, single, type_of,
};
use crate::schema::Type;
use crate::status::ApiError;

type Object = Map<String, Value>;

/// The patch that brings `current` to `modified`, deleting what `original` (last applied) had and `modified` has not.
/// Strategic with a schema, else a JSON merge patch. An empty object: nothing to do.
pub fn three_way(
    original: Option<&Value>,
    modified: &Value,
    current: &Value,
    schema: Option<&Type>,
) -> Result<Value, ApiError> {
    let empty = Object::new();
    let original = original.and_then(Value::as_object).unwrap_or(&empty);
    let (Value::Object(modified), Value::Object(current)) = (modified, current) else {
        return Err(ApiError::bad_request("invalid JSON document: apply needs objects"));
    };
    let patch = match schema {
        Some(schema) => strategic(original, modified, current, Some(schema), false)?,
        None => json(original, modified, current),
    };
    Ok(Value::Object(patch))
}

/// Without a schema, lists are values.
fn json(original: &Object, modified: &Object, current: &Object) -> Object {
    let empty = Object::new();
    let mut patch = Object::new();
    for (name, wanted) in modified {
        match (wanted, current.get(name)) {
            (Value::Object(wanted), Some(Value::Object(found))) => {
                let before = original.get(name).and_then(Value::as_object).unwrap_or(&empty);
                let inner = json(before, wanted, found);
                if !inner.is_empty() {
                    patch.insert(name.clone(), Value::Object(inner));
                }
            }
            (wanted, Some(found)) if wanted == found => {}
            (wanted, _) => drop(patch.insert(name.clone(), wanted.clone())),
        }
    }
    // What isn't there any more needs no deletion.
    let gone = original.keys().filter(|name| !modified.contains_key(*name) && current.contains_key(*name));
    patch.extend(gone.map(|name| (name.clone(), Value::Null)));
    patch
}

fn strategic(
    original: &Object,
    modified: &Object,
    current: &Object,
    schema: Option<&Type>,
    retain_keys: bool,
) -> Result<Object, ApiError> {
    let empty = Object::new();
    let mut patch = Object::new();
    for (name, wanted) in modified {
        let Some(found) = current.get(name).filter(|found| discriminant(*found) == discriminant(wanted)) else {
            patch.insert(name.clone(), wanted.clone());
            continue;
        };
        let known = field(schema, name);
        let strategy = known.map(|f| f.patch).unwrap_or_default();
        let ty = type_of(schema, name);
        match (wanted, found) {
            (Value::Object(wanted), Value::Object(found)) if !strategy.replace => {
                let before = original.get(name).and_then(Value::as_object).unwrap_or(&empty);
                let inner = strategic(before, wanted, found, ty, strategy.retain_keys)?;
                if !inner.is_empty() {
                    patch.insert(name.clone(), Value::Object(inner));
                }
            }
            (Value::Array(wanted), Value::Array(found)) if strategy.merge => {
                let before = original.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                let lists = Lists { name, original: before, modified: wanted, current: found };
                match known.and_then(|f| f.patch_merge_key.as_deref()) {
                    Some(key) => lists.of_objects(key, item_type(ty), strategy.retain_keys, &mut patch)?,
                    None => lists.of_values(&mut patch),
                }
            }
            (wanted, found) if wanted == found => {}
            (wanted, _) => drop(patch.insert(name.clone(), wanted.clone())),
        }
    }
    let gone = original.keys().filter(|name| !modified.contains_key(*name));
    patch.extend(gone.map(|name| (name.clone(), Value::Null)));
    if retain_keys {
        let kept: Vec<Value> =
            modified.iter().filter(|(_, v)| !v.is_null()).map(|(name, _)| name.as_str().into()).collect();
        let more =
            |object: &Object| object.iter().any(|(name, value)| !value.is_null() && !modified.contains_key(name));
        if !kept.is_empty() && (!patch.is_empty() || more(current) || more(original)) {
            patch.insert(RETAIN_KEYS.to_owned(), Value::Array(kept));
        }
    }
    Ok(patch)
}

/// A merged list in its three versions.
struct Lists<'a> {
    name: &'a str,
    original: &'a [Value],
    modified: &'a [Value],
    current: &'a [Value],
}

impl Lists<'_> {
    fn of_objects(self, key: &str, item: Option<&Type>, retain_keys: bool, patch: &mut Object) -> Result<(), ApiError> {
        let empty = Object::new();
        let mut entries = Vec::new();
        for wanted in self.modified {
            let Some((object, id)) = wanted.as_object().zip(wanted.get(key)) else {
                return Err(ApiError::bad_request(format!("map: {wanted} does not contain declared merge key: {key}")));
            };
            let find =
                |items: &[Value]| position(items, Some(id), Some(key)).and_then(|at| items[at].as_object().cloned());
            match find(self.current) {
                None => entries.push(wanted.clone()),
                Some(found) => {
                    let before = find(self.original);
                    let mut inner = strategic(before.as_ref().unwrap_or(&empty), object, &found, item, retain_keys)?;
                    if !inner.is_empty() {
                        inner.insert(key.to_owned(), id.clone());
                        entries.push(Value::Object(inner));
                    }
                }
            }
        }
        for gone in self.original {
            let id = identity(gone, Some(key));
            if let Some(id) = id.filter(|_| position(self.modified, id, Some(key)).is_none()) {
                let mut entry = single(key, id.clone());
                entry.insert(DIRECTIVE.to_owned(), "delete".into());
                entries.push(Value::Object(entry));
            }
        }
        let ids = |items: &[Value]| items.iter().map(|item| item.get(key).cloned()).collect::<Vec<_>>();
        let moved = !self.current.is_empty() && ids(self.current) != ids(self.modified);
        let is_new = self.current.is_empty() && self.original.is_empty();
        if moved || !(entries.is_empty() || is_new) {
            let order =
                ids(self.modified).into_iter().flatten().map(|id| Value::Object(single(key, id))).collect::<Vec<_>>();
            if !order.is_empty() {
                patch.insert(format!("{ELEMENT_ORDER}{}", self.name), Value::Array(order));
            }
        }
        if !entries.is_empty() {
            patch.insert(self.name.to_owned(), Value::Array(entries));
        }
        Ok(())
    }

    fn of_values(self, patch: &mut Object) {
        let missing = |from: &[Value], items: &[Value]| -> Vec<Value> {
            items.iter().filter(|item| !from.contains(item)).cloned().collect()
        };
        let added = missing(self.current, self.modified);
        let gone = missing(self.modified, self.original);
        if !self.current.is_empty() && self.current != self.modified || !gone.is_empty() {
            patch.insert(format!("{ELEMENT_ORDER}{}", self.name), Value::Array(self.modified.to_vec()));
        }
        if !gone.is_empty() {
            patch.insert(format!("{DELETE_FROM_LIST}{}", self.name), Value::Array(gone));
        }
        if !added.is_empty() {
            patch.insert(self.name.to_owned(), Value::Array(added));
        }
    }
}
