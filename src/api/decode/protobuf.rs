//! Kubernetes' protobuf encoding of built-in kinds, read by the tags of the schema facts.
//!
//! Go writes every non-pointer scalar, set or not; what is zero and means absence is dropped. Unknown tags are ignored,
//! as upstream does. Never panics: lengths are checked, nesting is bounded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::scalar;
use super::walk::is_zero;
use crate::schema::{Field, ObjectType, Scalar, Type};

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
const MAX_DEPTH: usize = 100;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    #[error("provided data does not appear to be a protobuf message, expected prefix {MAGIC:02x?}")]
    NoMagic,
    #[error("unexpected EOF")]
    Eof,
    #[error("proto: illegal wireType {0}")]
    WireType(u64),
    #[error("proto: wrong wireType for field {0}")]
    WrongWireType(String),
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: string field {0} contains invalid UTF-8")]
    Utf8(String),
    #[error("proto: nesting is too deep")]
    Depth,
    #[error("proto: field {0}: {1}")]
    Embedded(String, String),
}

/// `runtime.Unknown`: the envelope around an object.
#[derive(Debug, Default, PartialEq)]
pub struct Envelope<'a> {
    pub api_version: String,
    pub kind: String,
    pub raw: &'a [u8],
    /// Empty for protobuf.
    pub content_type: String,
}

impl<'a> Envelope<'a> {
    pub fn read(body: &'a [u8]) -> Result<Self, Error> {
        let mut message = Message { rest: body.strip_prefix(MAGIC).ok_or(Error::NoMagic)? };
        let mut envelope = Self::default();
        while let Some((tag, wire)) = message.next()? {
            match tag {
                1 => {
                    let mut meta = Message { rest: wire.bytes("typeMeta")? };
                    while let Some((tag, wire)) = meta.next()? {
                        match tag {
                            1 => envelope.api_version = wire.text("apiVersion")?,
                            2 => envelope.kind = wire.text("kind")?,
                            _ => {}
                        }
                    }
                }
                2 => envelope.raw = wire.bytes("raw")?,
                4 => envelope.content_type = wire.text("contentType")?,
                _ => {}
            }
        }
        Ok(envelope)
    }
}

/// Reads a message of a type with fields.
pub fn object(ty: &ObjectType, bytes: &[u8]) -> Result<Map<String, Value>, Error> {
    let mut values = Map::new();
    fields(ty, &mut Vec::new(), bytes, &mut values, 0)?;
    values.retain(|name, value| ty.field(name).is_none_or(|f| !(value.is_null() || f.drop_zero && is_zero(value))));
    Ok(values)
}

/// Reads the message at the end of `path`: the object itself, or a struct that Go inlines.
fn fields(
    ty: &ObjectType,
    path: &mut Vec<u32>,
    bytes: &[u8],
    values: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Depth);
    }
    let mut message = Message { rest: bytes };
    while let Some((tag, wire)) = message.next()? {
        let Ok(tag) = u32::try_from(tag) else { continue };
        path.push(tag);
        if let Some(field) = ty.fields.iter().find(|field| field.tags == *path) {
            let slot = values.entry(&*field.name).or_insert(Value::Null);
            read_field(field, wire, slot, depth + 1)?;
        } else if ty.fields.iter().any(|field| field.tags.starts_with(path)) {
            fields(ty, path, wire.bytes("inlined")?, values, depth + 1)?;
        }
        path.pop();
    }
    Ok(())
}

/// Adds an occurrence of a field: lists and maps come in as many as they have entries.
fn read_field(field: &Field, wire: Wire<'_>, slot: &mut Value, depth: usize) -> Result<(), Error> {
    let name = &*field.name;
    match &field.ty {
        Type::List(list) => {
            if !slot.is_array() {
                *slot = Value::Array(Vec::new());
            }
            let Value::Array(items) = slot else { return Ok(()) };
            match (&list.item, wire) {
                (Type::Scalar(Scalar::Int32 | Scalar::Int64), Wire::Bytes(packed)) => {
                    let mut packed = Message { rest: packed };
                    while !packed.rest.is_empty() {
                        items.push(value(&list.item, Wire::Varint(packed.varint()?), name, depth)?);
                    }
                }
                (item, wire) => items.push(value(item, wire, name, depth)?),
            }
        }
        Type::Map(values) => {
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            let Value::Object(entries) = slot else { return Ok(()) };
            let (mut key, mut entry) = (String::new(), None);
            let mut message = Message { rest: wire.bytes(name)? };
            while let Some((tag, wire)) = message.next()? {
                match tag {
                    1 => key = wire.text(name)?,
                    2 => entry = Some(value(values, wire, name, depth)?),
                    _ => {}
                }
            }
            entries.insert(key, entry.unwrap_or_else(|| absent(values)));
        }
        ty => *slot = value(ty, wire, name, depth)?,
    }
    Ok(())
}

/// The value of a map's entry whose bytes are not there.
fn absent(ty: &Type) -> Value {
    match ty {
        Type::Scalar(Scalar::String | Scalar::Bytes) => Value::String(String::new()),
        Type::Scalar(Scalar::Quantity) => Value::String("0".into()),
        Type::Object(_) | Type::Builtin(_) => Value::Object(Map::new()),
        Type::List(_) => Value::Array(Vec::new()),
        _ => Value::Null,
    }
}

fn value(ty: &Type, wire: Wire<'_>, name: &str, depth: usize) -> Result<Value, Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Depth);
    }
    match ty {
        Type::Scalar(scalar) => read_scalar(*scalar, wire, name),
        // RawExtension, FieldsV1, JSON: a message with JSON bytes in its first field.
        Type::Any => {
            let Some(Wire::Bytes(json)) = first(wire.bytes(name)?, 1)? else { return Ok(Value::Null) };
            if json.is_empty() {
                return Ok(Value::Null);
            }
            serde_json::from_slice(json).map_err(|e| Error::Embedded(name.to_owned(), e.to_string()))
        }
        Type::OrAny(schema) => or_any(schema, wire.bytes(name)?, name, depth),
        // A list inside a map or list is a message of its own, with the items in its first field.
        Type::List(list) => {
            let mut items = Vec::new();
            let mut message = Message { rest: wire.bytes(name)? };
            while let Some((tag, wire)) = message.next()? {
                if tag == 1 {
                    items.push(value(&list.item, wire, name, depth + 1)?);
                }
            }
            Ok(Value::Array(items))
        }
        Type::Map(_) => Err(Error::WrongWireType(name.to_owned())),
        Type::Object(_) | Type::Builtin(_) => {
            let Some(ty) = ty.object() else { return Ok(Value::Null) };
            let mut values = Map::new();
            fields(ty, &mut Vec::new(), wire.bytes(name)?, &mut values, depth + 1)?;
            values.retain(|name, value| {
                ty.field(name).is_none_or(|f| !(value.is_null() || f.drop_zero && is_zero(value)))
            });
            Ok(Value::Object(values))
        }
    }
}

/// JSONSchemaPropsOrBool is (allows, schema), JSONSchemaPropsOrArray is (schema, schemas).
fn or_any(schema: &Type, bytes: &[u8], name: &str, depth: usize) -> Result<Value, Error> {
    let mut allows = false;
    let mut schemas = Vec::new();
    let mut list = Vec::new();
    let mut message = Message { rest: bytes };
    while let Some((tag, wire)) = message.next()? {
        match (name, tag, wire) {
            (_, 1, Wire::Varint(bool)) => allows = bool != 0,
            ("items", 2, wire) => list.push(value(schema, wire, name, depth + 1)?),
            (_, 1 | 2, wire) => schemas.push(value(schema, wire, name, depth + 1)?),
            _ => {}
        }
    }
    Ok(match schemas.pop() {
        Some(schema) => schema,
        None if name == "items" => Value::Array(list),
        None => Value::Bool(allows),
    })
}

fn read_scalar(scalar: Scalar, wire: Wire<'_>, name: &str) -> Result<Value, Error> {
    Ok(match scalar {
        Scalar::String => Value::String(wire.text(name)?),
        Scalar::Bool => Value::Bool(wire.varint(name)? != 0),
        Scalar::Int32 => Value::from(int32(wire.varint(name)?)),
        Scalar::Int64 => Value::from(wire.varint(name)?.cast_signed()),
        Scalar::Double => match wire {
            Wire::Fixed64(bits) => {
                serde_json::Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number)
            }
            _ => return Err(Error::WrongWireType(name.to_owned())),
        },
        Scalar::Bytes => Value::String(STANDARD.encode(wire.bytes(name)?)),
        Scalar::Time | Scalar::MicroTime => time(wire.bytes(name)?, scalar)?,
        Scalar::Quantity => match first(wire.bytes(name)?, 1)? {
            Some(text) => match scalar::read(scalar, Value::String(text.text(name)?)) {
                Ok(quantity) => quantity,
                Err(scalar::Refused::Value(why)) => return Err(Error::Embedded(name.to_owned(), why)),
                Err(scalar::Refused::Type) => return Err(Error::WrongWireType(name.to_owned())),
            },
            None => Value::String("0".into()),
        },
        Scalar::IntOrString => {
            let bytes = wire.bytes(name)?;
            let is_text = matches!(first(bytes, 1)?, Some(Wire::Varint(1)));
            match (is_text, first(bytes, 2)?, first(bytes, 3)?) {
                (true, _, Some(text)) => Value::String(text.text(name)?),
                (true, _, None) => Value::String(String::new()),
                (false, Some(number), _) => Value::from(int32(number.varint(name)?)),
                (false, None, _) => Value::from(0),
            }
        }
    })
}

/// Negative ones are sign-extended to 64 bits on the wire.
#[expect(clippy::cast_possible_truncation, reason = "the upper half is the sign, or garbage")]
fn int32(varint: u64) -> i32 {
    varint as u32 as i32
}

/// Seconds and nanoseconds; an empty message is the zero time, which JSON has as null.
fn time(bytes: &[u8], scalar: Scalar) -> Result<Value, Error> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let field = |tag| Ok(first(bytes, tag)?.map_or(Ok(0), |wire| wire.varint("time"))?.cast_signed());
    let (seconds, nanos) = (field(1)?, field(2)?);
    let timestamp = i32::try_from(nanos).ok().and_then(|nanos| jiff::Timestamp::new(seconds, nanos).ok());
    Ok(timestamp.map_or(Value::Null, |timestamp| Value::String(scalar::format_time(timestamp, scalar))))
}

/// The last occurrence of a field, which is the one that counts.
fn first(bytes: &[u8], wanted: u64) -> Result<Option<Wire<'_>>, Error> {
    let mut message = Message { rest: bytes };
    let mut found = None;
    while let Some((tag, wire)) = message.next()? {
        if tag == wanted {
            found = Some(wire);
        }
    }
    Ok(found)
}

#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn varint(self, name: &str) -> Result<u64, Error> {
        if let Self::Varint(number) = self { Ok(number) } else { Err(Error::WrongWireType(name.to_owned())) }
    }

    fn bytes(self, name: &str) -> Result<&'a [u8], Error> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(Error::WrongWireType(name.to_owned())) }
    }

    fn text(self, name: &str) -> Result<String, Error> {
        String::from_utf8(self.bytes(name)?.to_vec()).map_err(|_| Error::Utf8(name.to_owned()))
    }
}

struct Message<'a> {
    rest: &'a [u8],
}

impl<'a> Message<'a> {
    fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>, Error> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| Error::Eof)?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Error::Overflow)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            other => return Err(Error::WireType(other)),
        };
        Ok(Some((key >> 3, wire)))
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Error::Overflow)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Error::Eof)?;
        self.rest = rest;
        Ok(taken)
    }
}
