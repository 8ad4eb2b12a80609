//! One step of a path into an object: `f:name`, `k:{"name":"x"}`, `v:"x"`, `i:3` in `fieldsV1`.

use std::cmp::Ordering;
use std::fmt;

use serde_json::{Map, Number, Value};

use crate::field::go_quote;

/// A step from a value to a part of it. Ordered as upstream orders them: fields, keys, values, indices.
#[derive(Debug, Clone)]
pub enum Element {
    /// Of an object or map.
    Field(Box<str>),
    /// Of a list of objects: the item with these values, sorted by name.
    Key(Vec<(Box<str>, Value)>),
    /// Of a set: the item itself.
    Value(Value),
    /// Nobody writes them, but they may be read.
    Index(i64),
}

/// What stands in a set of fields and is no element.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no part of a path to a field")]
pub struct BadElement(String);

impl Element {
    pub fn field(name: &str) -> Self {
        Self::Field(name.into())
    }

    pub fn key(mut fields: Vec<(Box<str>, Value)>) -> Self {
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Self::Key(fields)
    }

    /// `None`: of a kind that a later version may know; it is passed over.
    pub fn parse(text: &str) -> Result<Option<Self>, BadElement> {
        let bad = || BadElement(text.to_owned());
        let (kind, rest) = text.split_at_checked(2).ok_or_else(bad)?;
        if !kind.ends_with(':') {
            return Err(bad());
        }
        let json = |text: &str| serde_json::from_str::<Value>(text).map_err(|_| bad());
        Ok(Some(match kind {
            "f:" => Self::field(rest),
            "v:" => Self::Value(json(rest)?),
            "k:" => match json(rest)? {
                Value::Object(fields) => Self::key(fields.into_iter().map(|(k, v)| (k.into(), v)).collect()),
                _ => return Err(bad()),
            },
            "i:" => Self::Index(rest.parse().map_err(|_| bad())?),
            _ => return Ok(None),
        }))
    }

    /// The form in `fieldsV1`.
    pub fn text(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(fields) => {
                let object: Map<String, Value> = fields.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
                format!("k:{}", Value::Object(object))
            }
            Self::Value(value) => format!("v:{value}"),
            Self::Index(index) => format!("i:{index}"),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => compare_keys(a, b),
            (Self::Value(a), Self::Value(b)) => compare_values(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// As the order has it: 1 and 1.0 are one number.
impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Element {}

fn compare_keys(a: &[(Box<str>, Value)], b: &[(Box<str>, Value)]) -> Ordering {
    for ((name, value), (other_name, other_value)) in a.iter().zip(b) {
        let order = name.cmp(other_name).then_with(|| compare_values(value, other_value));
        if order.is_ne() {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

/// A total order of values: numbers, strings, booleans, lists, objects, null.
pub(super) fn compare_values(a: &Value, b: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    };
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let mut orders = a.iter().zip(b).map(|(a, b)| compare_values(a, b));
            orders.find(|order| order.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => {
            let mut orders = a.iter().zip(b).map(|((k, v), (l, w))| k.cmp(l).then_with(|| compare_values(v, w)));
            orders.find(|order| order.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

fn compare_numbers(a: &Number, b: &Number) -> Ordering {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.as_f64().unwrap_or(0.0).total_cmp(&b.as_f64().unwrap_or(0.0)),
    }
}

/// The form in messages: `.name`, `[name="x"]`, `[="x"]`, `[3]`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(fields) => {
                let pairs: Vec<String> =
                    fields.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect();
                write!(f, "[{}]", pairs.join(","))
            }
            Self::Value(value) => write!(f, "[={}]", shown(value)),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => go_quote(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_return() {
        for (text, path) in [
            ("f:spec", ".spec"),
            ("f:a.b/c", ".a.b/c"),
            ("f:", "."),
            (r#"k:{"containerPort":80,"protocol":"TCP"}"#, r#"[containerPort=80,protocol="TCP"]"#),
            (r#"v:"a""#, r#"[="a"]"#),
            ("v:1", "[=1]"),
            ("v:true", "[=true]"),
            ("i:3", "[3]"),
        ] {
            let element = Element::parse(text).expect(text).expect("a known kind");
            assert_eq!((element.text().as_str(), element.to_string().as_str()), (text, path));
        }
        let sorted = Element::parse(r#"k:{"b":1,"a":2}"#).expect("good").expect("known");
        assert_eq!(sorted.text(), r#"k:{"a":2,"b":1}"#);
        for bad in ["", "f", "fx", "k:", "k:1", "v:", "i:x", "v:{} {}", "ü"] {
            assert!(Element::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Element::parse("x:later"), Ok(None));
    }

    #[test]
    fn they_are_ordered_by_kind_then_value() {
        let texts = ["f:a", "f:b", r#"k:{"a":1}"#, r#"k:{"a":2}"#, r#"k:{"a":2,"b":1}"#, r#"k:{"a":"1"}"#];
        let more = ["v:1", "v:1.5", "v:2", "v:10", r#"v:"a""#, "v:false", "v:true", "v:null", "i:2", "i:10"];
        let all: Vec<Element> =
            texts.iter().chain(&more).map(|t| Element::parse(t).expect(t).expect("a known kind")).collect();
        assert!(all.is_sorted(), "{all:?}");
        assert_eq!(Element::parse("v:1"), Element::parse("v:1.0"));
    }
}
