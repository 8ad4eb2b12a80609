//! What several targets share: kinds to choose from, and documents beside each other.

use std::sync::{Arc, LazyLock};

use serde_json::Value;
use skiff_api::schema::{self, Type};
use skiff_api::strategy::Descriptor;

static KINDS: LazyLock<Vec<(Arc<Descriptor>, Type)>> = LazyLock::new(|| {
    let all = skiff_api::kinds::builtin().into_iter();
    all.filter_map(|descriptor| schema::lookup(&descriptor.gvk).map(|ty| (descriptor, ty))).collect()
});

/// The first line names a built-in kind (or, by its bytes, any of them); the rest is for it.
pub fn of_kind(data: &[u8]) -> Option<(&'static Descriptor, &'static Type, &[u8])> {
    let end = data.iter().position(|byte| *byte == b'\n')?;
    let (name, rest) = (&data[..end], &data[end + 1..]);
    let any = name.iter().fold(0, |sum, byte| sum + usize::from(*byte)) % KINDS.len();
    let known = KINDS.iter().find(|(descriptor, _)| descriptor.gvk.kind.as_bytes() == name);
    let (descriptor, ty) = known.unwrap_or(&KINDS[any]);
    Some((descriptor, ty, rest))
}

/// JSON texts, one behind another.
pub fn documents(data: &[u8]) -> impl Iterator<Item = Value> {
    serde_json::Deserializer::from_slice(data).into_iter().map_while(Result::ok)
}

/// Numbers with a point come back from text as their neighbours.
pub fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_fraction),
        Value::Object(entries) => entries.values().any(has_fraction),
        _ => false,
    }
}
