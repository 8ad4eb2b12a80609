//! Objects as Go's clients write them in protobuf, from the same facts that reading works from.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::resource::Gvk;
use crate::schema::{Field, ObjectType, Scalar, Type};

/// What of an object protobuf can hold: fields with tags, and the type.
pub fn in_protobuf(value: &Value, ty: &Type) -> Value {
    let mut held = held(value, ty);
    for name in ["apiVersion", "kind"] {
        held[name] = value[name].clone();
    }
    held
}

fn held(value: &Value, ty: &Type) -> Value {
    match (ty, value) {
        (Type::List(list), Value::Array(items)) => items.iter().map(|item| held(item, &list.item)).collect(),
        (Type::Map(values), Value::Object(entries)) => {
            Value::Object(entries.iter().map(|(name, value)| (name.clone(), held(value, values))).collect())
        }
        (Type::Any | Type::Scalar(_), _) => value.clone(),
        (ty, Value::Object(entries)) => {
            let fields = entries.iter().filter_map(|(name, value)| {
                let field = ty.object()?.field(name).filter(|field| !field.tags.is_empty())?;
                Some((name.clone(), held(value, &field.ty)))
            });
            Value::Object(fields.collect::<Map<_, _>>())
        }
        _ => value.clone(),
    }
}

/// With the magic and `runtime.Unknown` around it.
pub fn envelope(object: &Value, ty: &Type, gvk: &Gvk) -> Vec<u8> {
    let raw = message(object, ty.object().expect("kinds are objects"));
    let mut kind = Vec::new();
    bytes(&mut kind, 1, gvk.api_version().as_bytes());
    bytes(&mut kind, 2, gvk.kind.as_bytes());
    let mut out = b"k8s\0".to_vec();
    for (tag, part) in [(1, kind.as_slice()), (2, &raw), (3, b""), (4, b"")] {
        bytes(&mut out, tag, part);
    }
    out
}

/// The fields of an object; those of inlined structs in messages of their own.
fn message(value: &Value, ty: &ObjectType) -> Vec<u8> {
    let present: Vec<(&Field, &Value)> =
        ty.fields.iter().filter_map(|field| Some((field, value.get(&*field.name)?))).collect();
    below(&present, 0)
}

/// What lies below the first `depth` tags, which all of the fields share.
fn below(fields: &[(&Field, &Value)], depth: usize) -> Vec<u8> {
    let mut tags: Vec<u32> = fields.iter().filter_map(|(field, _)| field.tags.get(depth).copied()).collect();
    tags.sort_unstable();
    tags.dedup();
    let mut out = Vec::new();
    for tag in tags {
        let of_tag = |field: &&(&Field, &Value)| field.0.tags.get(depth) == Some(&tag);
        let inside: Vec<_> = fields.iter().filter(of_tag).copied().collect();
        match inside.as_slice() {
            [(field, value)] if field.tags.len() == depth + 1 => repeated(&mut out, tag, value, &field.ty, &field.name),
            _ => bytes(&mut out, tag, &below(&inside, depth + 1)),
        }
    }
    out
}

fn repeated(out: &mut Vec<u8>, tag: u32, value: &Value, ty: &Type, name: &str) {
    match (ty, value) {
        (Type::List(list), Value::Array(items)) => {
            items.iter().for_each(|item| single(out, tag, item, &list.item, name))
        }
        (Type::Map(values), Value::Object(entries)) => {
            for (key, value) in entries {
                let mut entry = Vec::new();
                bytes(&mut entry, 1, key.as_bytes());
                single(&mut entry, 2, value, values, name);
                bytes(out, tag, &entry);
            }
        }
        _ => single(out, tag, value, ty, name),
    }
}

fn single(out: &mut Vec<u8>, tag: u32, value: &Value, ty: &Type, name: &str) {
    match ty {
        Type::Scalar(kind) => scalar(out, tag, value, *kind),
        Type::Any => {
            let mut json = Vec::new();
            bytes(&mut json, 1, value.to_string().as_bytes());
            bytes(out, tag, &json);
        }
        // Either the schema, or what stands in its stead.
        Type::OrAny(schema) => {
            let mut either = Vec::new();
            match value {
                Value::Bool(allows) => number(&mut either, 1, u64::from(*allows)),
                Value::Array(items) => items.iter().for_each(|item| single(&mut either, 2, item, schema, name)),
                other => single(&mut either, if name == "items" { 1 } else { 2 }, other, schema, name),
            }
            bytes(out, tag, &either);
        }
        Type::List(list) => {
            let mut items = Vec::new();
            value.as_array().into_iter().flatten().for_each(|item| single(&mut items, 1, item, &list.item, name));
            bytes(out, tag, &items);
        }
        Type::Map(_) => panic!("no map is in a list or a map: {name}"),
        Type::Object(_) | Type::Builtin(_) => bytes(out, tag, &message(value, ty.object().expect("it has fields"))),
    }
}

fn scalar(out: &mut Vec<u8>, tag: u32, value: &Value, kind: Scalar) {
    let text = || value.as_str().expect("a text").as_bytes();
    let integer = || value.as_i64().expect("an integer").cast_unsigned();
    match kind {
        Scalar::String => bytes(out, tag, text()),
        Scalar::Bool => number(out, tag, u64::from(value.as_bool().expect("a switch"))),
        Scalar::Int32 | Scalar::Int64 => number(out, tag, integer()),
        Scalar::Double => {
            varint(out, u64::from(tag) << 3 | 1);
            out.extend_from_slice(&value.as_f64().expect("a number").to_le_bytes());
        }
        Scalar::Bytes => bytes(out, tag, &STANDARD.decode(text()).expect("base64")),
        Scalar::Time | Scalar::MicroTime => {
            let time: jiff::Timestamp = value.as_str().expect("a text").parse().expect("a time");
            let mut parts = Vec::new();
            number(&mut parts, 1, time.as_second().cast_unsigned());
            number(&mut parts, 2, u64::try_from(time.subsec_nanosecond()).expect("after 1970"));
            bytes(out, tag, &parts);
        }
        Scalar::Quantity => {
            let mut inside = Vec::new();
            bytes(&mut inside, 1, text());
            bytes(out, tag, &inside);
        }
        Scalar::IntOrString => {
            let mut parts = Vec::new();
            let is_text = value.is_string();
            number(&mut parts, 1, u64::from(is_text));
            number(&mut parts, 2, if is_text { 0 } else { integer() });
            bytes(&mut parts, 3, value.as_str().unwrap_or_default().as_bytes());
            bytes(out, tag, &parts);
        }
    }
}

pub fn bytes(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    varint(out, u64::from(tag) << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub fn number(out: &mut Vec<u8>, tag: u32, value: u64) {
    varint(out, u64::from(tag) << 3);
    varint(out, value);
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
