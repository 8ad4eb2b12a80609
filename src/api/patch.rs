//! JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge patch, and the three-way patch of `kubectl apply`.

use json_patch::PatchOperation;
use json_patch::jsonptr::{Pointer, PointerBuf};
use serde_json::{Map, Value};

use crate::schema::{Field, Type};
use crate::status::ApiError;

mod strategic;
mod three_way;

pub use three_way::three_way;

/// Says what a map does: `replace`, `delete`, `merge`.
const DIRECTIVE: &str = "$patch";
/// The only keys that a map keeps.
const RETAIN_KEYS: &str = "$retainKeys";
/// Prefix of the name of a list: values that go.
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
/// Prefix of the name of a list: its order, as values or as objects of the merge key alone.
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// Upstream's limits: a short patch that copies the whole into itself again and again would fill the memory.
const MAX_OPERATIONS: usize = 10_000;
const MAX_COPIED_B: usize = 3 << 20;

/// RFC 6902.
pub fn json_patch(original: &Value, patch: &Value) -> Result<Value, ApiError> {
    let rejected = || ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request");
    // Upstream looks at what stands in an operation when it carries it out.
    let is_a_list_of_objects = patch.as_array().is_some_and(|all| all.iter().all(Value::is_object));
    let patch: json_patch::Patch = serde_json::from_value(patch.clone()).map_err(|e| match is_a_list_of_objects {
        true => rejected(),
        false => ApiError::bad_request(format!("error decoding patch: {e}")),
    })?;
    if patch.0.len() > MAX_OPERATIONS {
        let got = patch.0.len();
        let why = format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {got}");
        return Err(ApiError::new(413, "RequestEntityTooLarge", format!("Request entity too large: {why}")));
    }
    let mut patched = original.clone();
    let mut copied_b = 0;
    for operation in &patch.0 {
        if let PatchOperation::Copy(copy) = operation
            && let Some(value) = patched.pointer(copy.from.as_str())
        {
            copied_b += value.to_string().len();
            if copied_b > MAX_COPIED_B {
                return Err(rejected());
            }
        }
        if let PatchOperation::Test(test) = operation
            && test.value.is_null()
            && is_absent(&patched, &test.path)
        {
            continue;
        }
        let operation = from_the_front(operation, &patched).ok_or_else(rejected)?;
        json_patch::patch(&mut patched, &[operation]).map_err(|_| rejected())?;
    }
    Ok(patched)
}

/// A field that an object lacks: for upstream it is null, and clients test for that before they add it.
fn is_absent(document: &Value, path: &Pointer) -> bool {
    let Some((parent, field)) = path.split_back() else { return false };
    matches!(parent.resolve(document), Ok(Value::Object(entries)) if !entries.contains_key(&*field.decoded()))
}

/// The operation with its paths from [`absolute`].
fn from_the_front(operation: &PatchOperation, document: &Value) -> Option<PatchOperation> {
    let mut operation = operation.clone();
    let (path, adds) = match &mut operation {
        PatchOperation::Add(it) => (&mut it.path, true),
        PatchOperation::Remove(it) => (&mut it.path, false),
        PatchOperation::Replace(it) => (&mut it.path, false),
        PatchOperation::Test(it) => (&mut it.path, false),
        PatchOperation::Move(it) => {
            it.from = absolute(document, &it.from, false)?;
            (&mut it.path, true)
        }
        PatchOperation::Copy(it) => {
            it.from = absolute(document, &it.from, false)?;
            (&mut it.path, true)
        }
    };
    *path = absolute(document, path, adds)?;
    Some(operation)
}

/// The path with indexes that count from the front: `-1` is the last item of a list or, for what is added, the place
/// behind it. `None`: there is no such item.
fn absolute(document: &Value, path: &Pointer, adds: bool) -> Option<PointerBuf> {
    let mut absolute = PointerBuf::new();
    let mut at = Some(document);
    let mut tokens = path.tokens().peekable();
    while let Some(token) = tokens.next() {
        let name = token.decoded();
        let below_zero = name.strip_prefix('-').and_then(|digits| digits.parse::<usize>().ok());
        match (at, below_zero) {
            (Some(Value::Array(items)), Some(back)) => {
                let index = (items.len() + usize::from(adds && tokens.peek().is_none())).checked_sub(back)?;
                absolute.push_back(index);
                at = items.get(index);
            }
            _ => {
                at = at.and_then(|value| match value {
                    Value::Array(items) => items.get(name.parse::<usize>().ok()?),
                    value => value.get(&*name),
                });
                absolute.push_back(token);
            }
        }
    }
    Some(absolute)
}

/// RFC 7386.
pub fn merge_patch(mut original: Value, patch: &Value) -> Value {
    json_patch::merge(&mut original, patch);
    original
}

/// Strategic merge of `patch` into `original`, a value of type `schema`.
pub fn strategic_merge(original: &Value, patch: &Value, schema: &Type) -> Result<Value, ApiError> {
    let (Value::Object(original), Value::Object(patch)) = (original, patch) else {
        return Err(ApiError::bad_request("invalid JSON document: a strategic merge patch is an object"));
    };
    strategic::merge(original.clone(), patch, Some(schema)).map(Value::Object)
}

/// How a field is patched; what is unknown is merged as a map, and replaced as a list.
fn field<'a>(schema: Option<&'a Type>, name: &str) -> Option<&'a Field> {
    schema?.object()?.field(name)
}

/// The type of a field's value, or of the values of a map.
fn type_of<'a>(schema: Option<&'a Type>, name: &str) -> Option<&'a Type> {
    match schema? {
        Type::Map(values) => Some(values),
        other => other.object()?.field(name).map(|field| &field.ty),
    }
}

fn item_type(list: Option<&Type>) -> Option<&Type> {
    match list? {
        Type::List(list) => Some(&list.item),
        _ => None,
    }
}

/// What identifies an item of a merged list: its merge key's value, or itself.
fn identity<'a>(item: &'a Value, merge_key: Option<&str>) -> Option<&'a Value> {
    match merge_key {
        Some(key) => item.get(key),
        None => Some(item),
    }
}

fn position(items: &[Value], wanted: Option<&Value>, merge_key: Option<&str>) -> Option<usize> {
    wanted?;
    items.iter().position(|item| identity(item, merge_key) == wanted)
}

/// An object with one entry.
fn single(key: &str, value: Value) -> Map<String, Value> {
    Map::from_iter([(key.to_owned(), value)])
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_laws;
