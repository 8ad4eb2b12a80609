//! Scalars as JSON holds them, in canonical form.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::quantity::Quantity;
use crate::schema::Scalar;

/// Why a value is none of the type.
pub enum Refused {
    /// Not this JSON type.
    Type,
    /// The JSON type, and yet no such value; a complete sentence.
    Value(String),
}

pub fn read(scalar: Scalar, value: Value) -> Result<Value, Refused> {
    match (scalar, &value) {
        (Scalar::String, Value::String(_)) | (Scalar::Bool, Value::Bool(_)) | (Scalar::Double, Value::Number(_)) => {
            Ok(value)
        }
        (Scalar::Int64, Value::Number(number)) if number.is_i64() => Ok(value),
        (Scalar::Int32, Value::Number(number)) => match number.as_i64().map(i32::try_from) {
            Some(Ok(_)) => Ok(value),
            _ => Err(Refused::Type),
        },
        (Scalar::IntOrString, Value::String(_)) => Ok(value),
        (Scalar::IntOrString, Value::Number(number)) => match number.as_i64().map(i32::try_from) {
            Some(Ok(_)) => Ok(value),
            _ => Err(Refused::Value(format!("json: cannot unmarshal number {number} into Go value of type int32"))),
        },
        (Scalar::Bytes, Value::String(text)) => match STANDARD.decode(text.replace(['\n', '\r'], "")) {
            Ok(bytes) => Ok(Value::String(STANDARD.encode(bytes))),
            Err(e) => Err(Refused::Value(illegal_base64(&e))),
        },
        (Scalar::Time | Scalar::MicroTime, Value::String(text)) => time(text, scalar),
        (Scalar::Quantity, Value::String(text)) => quantity(text),
        (Scalar::Quantity, Value::Number(number)) => quantity(&number.to_string()),
        _ => Err(Refused::Type),
    }
}

fn illegal_base64(error: &base64::DecodeError) -> String {
    match error {
        base64::DecodeError::InvalidByte(at, _)
        | base64::DecodeError::InvalidLastSymbol(at, _)
        | base64::DecodeError::InvalidLength(at) => format!("illegal base64 data at input byte {at}"),
        base64::DecodeError::InvalidPadding => "illegal base64 data: wrong padding".to_owned(),
    }
}

fn time(text: &str, scalar: Scalar) -> Result<Value, Refused> {
    let timestamp: jiff::Timestamp = text.parse().map_err(|_| {
        let layout = match scalar {
            Scalar::MicroTime => "2006-01-02T15:04:05.000000Z07:00",
            _ => "2006-01-02T15:04:05Z07:00",
        };
        Refused::Value(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as a time"))
    })?;
    Ok(Value::String(format_time(timestamp, scalar)))
}

/// Seconds for times, microseconds for micro times; UTC.
pub fn format_time(timestamp: jiff::Timestamp, scalar: Scalar) -> String {
    let micros = scalar == Scalar::MicroTime;
    timestamp.strftime(if micros { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" }).to_string()
}

fn quantity(text: &str) -> Result<Value, Refused> {
    match text.parse::<Quantity>() {
        Ok(quantity) => Ok(Value::String(quantity.to_string())),
        Err(e) => Err(Refused::Value(e.to_string())),
    }
}
