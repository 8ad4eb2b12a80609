//! Applies a strategic merge patch.

use serde_json::{Map, Value};

use super::{DELETE_FROM_LIST, DIRECTIVE, ELEMENT_ORDER, RETAIN_KEYS, field, identity, item_type, position, type_of};
use crate::schema::Type;
use crate::status::ApiError;

type Object = Map<String, Value>;

pub fn merge(mut original: Object, patch: &Object, schema: Option<&Type>) -> Result<Object, ApiError> {
    match patch.get(DIRECTIVE).map(|directive| (directive, directive.as_str())) {
        None => {}
        Some((_, Some("replace"))) => {
            let mut replaced = patch.clone();
            replaced.remove(DIRECTIVE);
            return Ok(replaced);
        }
        Some((_, Some("delete"))) => return Ok(Object::new()),
        Some((_, Some("merge"))) => {
            let mut rest = patch.clone();
            rest.remove(DIRECTIVE);
            return merge(original, &rest, schema);
        }
        Some((other, _)) => return Err(unknown_directive(other)),
    }
    if let Some(keys) = patch.get(RETAIN_KEYS) {
        retain(&mut original, patch, keys)?;
    }
    for (name, value) in patch {
        if name == RETAIN_KEYS {
            continue;
        }
        if let Some(list) = name.strip_prefix(DELETE_FROM_LIST) {
            // Before the values that come in, whatever the order of the names.
            let Value::Array(gone) = value else {
                return Err(ApiError::bad_request("invalid patch format of primitive list"));
            };
            if let Some(Value::Array(items)) = original.get_mut(list) {
                items.retain(|item| !gone.contains(item));
            }
        } else if let Some(list) = name.strip_prefix(ELEMENT_ORDER) {
            if !patch.contains_key(list)
                && let Some(Value::Array(items)) = original.get(list)
            {
                let merge_key = field(schema, list).and_then(|f| f.patch_merge_key.as_deref());
                let ordered = arrange(items.clone(), order_of(value)?, items, merge_key);
                original.insert(list.to_owned(), Value::Array(ordered));
            }
        } else {
            set(&mut original, name, value, patch, schema)?;
        }
    }
    Ok(original)
}

fn set(
    original: &mut Object,
    name: &str,
    value: &Value,
    patch: &Object,
    schema: Option<&Type>,
) -> Result<(), ApiError> {
    let order = patch.get(&format!("{ELEMENT_ORDER}{name}"));
    let known = field(schema, name);
    let merges = known.is_some_and(|f| f.patch.merge);
    let replaces = known.is_some_and(|f| f.patch.replace);
    let merge_key = known.and_then(|f| f.patch_merge_key.as_deref());
    let merged = match (original.remove(name), value) {
        (_, Value::Null) => return Ok(()),
        (Some(Value::Object(old)), Value::Object(new)) if !replaces => {
            Value::Object(merge(old, new, type_of(schema, name))?)
        }
        (Some(Value::Array(old)), Value::Array(new)) if merges => {
            let ty = item_type(type_of(schema, name));
            let items = merge_list(old.clone(), new, ty, merge_key)?;
            let order = order.map_or(Ok(new.as_slice()), order_of)?;
            Value::Array(arrange(items, order, &old, merge_key))
        }
        (_, new) => match without_directives(new) {
            Some(new) => new,
            None => return Ok(()),
        },
    };
    original.insert(name.to_owned(), merged);
    Ok(())
}

fn order_of(value: &Value) -> Result<&[Value], ApiError> {
    value
        .as_array()
        .map(Vec::as_slice)
        .ok_or_else(|| ApiError::bad_request("invalid patch format of setElementOrder list"))
}

fn unknown_directive(directive: &Value) -> ApiError {
    ApiError::bad_request(format!(
        "unknown patch type {directive} in map: the values of $patch are replace, delete, merge"
    ))
}

fn retain(original: &mut Object, patch: &Object, keys: &Value) -> Result<(), ApiError> {
    let bad = || ApiError::bad_request("invalid patch format of retainKeys");
    let keys: Vec<&str> = keys.as_array().ok_or_else(bad)?.iter().filter_map(Value::as_str).collect();
    let is_listed = |name: &String| keys.contains(&name.as_str());
    if patch.iter().any(|(name, value)| !value.is_null() && !name.starts_with('$') && !is_listed(name)) {
        return Err(bad());
    }
    original.retain(|name, _| is_listed(name));
    Ok(())
}

fn merge_list(
    mut old: Vec<Value>,
    new: &[Value],
    item: Option<&Type>,
    merge_key: Option<&str>,
) -> Result<Vec<Value>, ApiError> {
    let Some(key) = merge_key else {
        for value in new {
            if !old.contains(value) {
                old.push(value.clone());
            }
        }
        return Ok(old);
    };
    let mut replaces = false;
    for value in new {
        let Value::Object(entry) = value else {
            return Err(ApiError::bad_request("invalid JSON document: the items of the list must be objects"));
        };
        match entry.get(DIRECTIVE) {
            None => {}
            Some(directive) if directive == "replace" => replaces = true,
            Some(directive) if directive == "delete" => {
                let gone = entry.get(key).ok_or_else(|| no_merge_key(value, key))?;
                old.retain(|item| item.get(key) != Some(gone));
            }
            Some(directive) if directive == "merge" => {
                return Err(ApiError::bad_request("merging lists cannot yet be specified in the patch"));
            }
            Some(other) => return Err(unknown_directive(other)),
        }
    }
    if replaces {
        return Ok(new.iter().filter_map(without_directives).collect());
    }
    for value in new {
        let Value::Object(entry) = value else { continue };
        if entry.contains_key(DIRECTIVE) {
            continue;
        }
        let wanted = entry.get(key).ok_or_else(|| no_merge_key(value, key))?;
        match position(&old, Some(wanted), merge_key) {
            Some(at) => {
                if let Value::Object(found) = old[at].take() {
                    old[at] = Value::Object(merge(found, entry, item)?);
                }
            }
            None => old.extend(without_directives(value)),
        }
    }
    Ok(old)
}

fn no_merge_key(item: &Value, key: &str) -> ApiError {
    ApiError::bad_request(format!("map: {item} does not contain declared merge key: {key}"))
}

/// Brings the items that `order` names into its order, and weaves the others in by the order that they were in before.
fn arrange(items: Vec<Value>, order: &[Value], before: &[Value], merge_key: Option<&str>) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| position(list, identity(item, merge_key), merge_key);
    let (mut named, mut others): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item));
    others.sort_by_key(|item| place(before, item));
    let mut woven = Vec::with_capacity(named.len() + others.len());
    let mut named = named.into_iter().peekable();
    for other in others {
        // What is new, or stood before it, goes first.
        while let Some(next) = named.peek() {
            let stood_later = matches!((place(before, &other), place(before, next)), (Some(o), Some(n)) if o < n);
            if stood_later {
                break;
            }
            woven.extend(named.next());
        }
        woven.push(other);
    }
    woven.extend(named);
    woven
}

/// A value that meets nothing to merge with: directives and nulls mean nothing there. `None`: it is itself a directive.
fn without_directives(value: &Value) -> Option<Value> {
    match value {
        Value::Object(entries) if entries.contains_key(DIRECTIVE) => {
            // Replacing nothing is adding.
            (entries[DIRECTIVE] == "replace" && entries.len() > 1).then(|| {
                let rest = entries.iter().filter(|(name, _)| *name != DIRECTIVE);
                Value::Object(
                    rest.filter_map(|(name, value)| Some((name.clone(), without_directives(value)?))).collect(),
                )
            })
        }
        Value::Object(entries) => {
            let kept = entries.iter().filter(|(name, value)| !value.is_null() && !is_directive(name));
            Some(Value::Object(
                kept.filter_map(|(name, value)| Some((name.clone(), without_directives(value)?))).collect(),
            ))
        }
        Value::Array(items) => Some(Value::Array(items.iter().filter_map(without_directives).collect())),
        other => Some(other.clone()),
    }
}

fn is_directive(name: &str) -> bool {
    name == RETAIN_KEYS || name.starts_with(DELETE_FROM_LIST) || name.starts_with(ELEMENT_ORDER)
}
