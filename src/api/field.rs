//! Paths into an object, and what is wrong at them, in upstream's words.
//!
//! A [`Path`] lives on the stack and is only turned into text when something is wrong, so that
//! validating a good object allocates nothing for it.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::status::Cause;

/// A place in an object, e.g. `spec.containers[0].name`.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    part: Part<'a>,
}

#[derive(Clone, Copy)]
enum Part<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    pub const fn new(field: &'a str) -> Self {
        Self { parent: None, part: Part::Field(field) }
    }

    /// `self.field`; the field may itself hold dots.
    pub const fn child<'b>(&'b self, field: &'b str) -> Path<'b> {
        Path { parent: Some(self), part: Part::Field(field) }
    }

    /// `self[index]`.
    pub const fn index<'b>(&'b self, index: usize) -> Path<'b> {
        Path { parent: Some(self), part: Part::Index(index) }
    }

    /// `self[key]`.
    pub const fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path { parent: Some(self), part: Part::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.part {
            Part::Field(field) if self.parent.is_some() => write!(f, ".{field}"),
            Part::Field(field) => f.write_str(field),
            Part::Index(index) => write!(f, "[{index}]"),
            Part::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// What was found wrong with an object so far.
#[derive(Debug, Default)]
pub struct Errors {
    causes: Vec<Cause>,
}

impl Errors {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.causes.is_empty()
    }

    pub fn len(&self) -> usize {
        self.causes.len()
    }

    pub fn into_causes(self) -> Vec<Cause> {
        self.causes
    }

    pub fn retain(&mut self, keep: impl FnMut(&Cause) -> bool) {
        self.causes.retain(keep);
    }

    pub fn push(&mut self, cause: Cause) {
        self.causes.push(cause);
    }

    fn add(&mut self, path: &Path<'_>, reason: &str, what: &str, detail: &str) {
        let message = if detail.is_empty() { what.to_owned() } else { format!("{what}: {detail}") };
        self.causes.push(Cause { reason: reason.to_owned(), message, field: path.to_string() });
    }

    /// A value that must be there and is not; the detail may be empty.
    pub fn required(&mut self, path: &Path<'_>, detail: &str) {
        self.add(path, "FieldValueRequired", "Required value", detail);
    }

    pub fn invalid(&mut self, path: &Path<'_>, value: impl Serialize, detail: &str) {
        self.add(path, "FieldValueInvalid", &format!("Invalid value: {}", shown(value)), detail);
    }

    /// Where the value itself would say nothing.
    pub fn invalid_as_is(&mut self, path: &Path<'_>, detail: &str) {
        self.add(path, "FieldValueInvalid", "Invalid value", detail);
    }

    pub fn forbidden(&mut self, path: &Path<'_>, detail: &str) {
        self.add(path, "FieldValueForbidden", "Forbidden", detail);
    }

    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Serialize) {
        self.add(path, "FieldValueDuplicate", &format!("Duplicate value: {}", shown(value)), "");
    }

    /// The same with a reason.
    pub fn duplicate_because(&mut self, path: &Path<'_>, value: impl Serialize, detail: &str) {
        self.add(path, "FieldValueDuplicate", &format!("Duplicate value: {}", shown(value)), detail);
    }

    pub fn not_found(&mut self, path: &Path<'_>, value: impl Serialize) {
        self.add(path, "FieldValueNotFound", &format!("Not found: {}", shown(value)), "");
    }

    /// The same with a reason.
    pub fn not_found_because(&mut self, path: &Path<'_>, value: impl Serialize, detail: &str) {
        self.add(path, "FieldValueNotFound", &format!("Not found: {}", shown(value)), detail);
    }

    pub fn not_supported(&mut self, path: &Path<'_>, value: impl Serialize, supported: &[&str]) {
        let mut list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        list.sort();
        let detail = if list.is_empty() { String::new() } else { format!("supported values: {}", list.join(", ")) };
        self.add(path, "FieldValueNotSupported", &format!("Unsupported value: {}", shown(value)), &detail);
    }

    pub fn too_long(&mut self, path: &Path<'_>, limit: usize) {
        let unit = if limit == 1 { "byte" } else { "bytes" };
        self.add(path, "FieldValueTooLong", "Too long", &format!("may not be more than {limit} {unit}"));
    }

    pub fn too_many(&mut self, path: &Path<'_>, actual: usize, limit: usize) {
        let unit = if limit == 1 { "item" } else { "items" };
        let what = format!("Too many: {actual}");
        self.add(path, "FieldValueTooMany", &what, &format!("must have at most {limit} {unit}"));
    }

    pub fn type_invalid(&mut self, path: &Path<'_>, value: impl Serialize, detail: &str) {
        self.add(path, "FieldValueTypeInvalid", &format!("Invalid value: {}", shown(value)), detail);
    }

    pub fn internal(&mut self, path: &Path<'_>, detail: &str) {
        self.add(path, "InternalError", "Internal error", detail);
    }

    /// One `Invalid value` for each of the messages.
    pub fn invalid_each(&mut self, path: &Path<'_>, value: impl Serialize + Copy, messages: Vec<String>) {
        for message in messages {
            self.invalid(path, value, &message);
        }
    }
}

/// The value as upstream prints it in a message.
pub(crate) fn shown(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => go_quote(&text),
        Ok(other) => other.to_string(),
        Err(_) => "<unprintable>".to_owned(),
    }
}

/// Go's `%q`.
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\x0b' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Go's `%v` of a decoded JSON value: `map[a:1 b:[x y]]`.
pub fn go_print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_print).collect::<Vec<_>>().join(" ")),
        Value::Object(entries) => {
            let pairs: Vec<String> = entries.iter().map(|(key, value)| format!("{key}:{}", go_print(value))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

/// Go's `%#v` of a decoded JSON value.
pub fn go_literal(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => go_quote(text),
        Value::Array(items) => {
            format!("[]interface {{}}{{{}}}", items.iter().map(go_literal).collect::<Vec<_>>().join(", "))
        }
        Value::Object(entries) => {
            let pair = |(key, value): (&String, &Value)| format!("{}:{}", go_quote(key), go_literal(value));
            format!("map[string]interface {{}}{{{}}}", entries.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_are_upstreams() {
        let spec = Path::new("spec");
        let containers = spec.child("containers");
        let name = containers.index(2);
        let mut errors = Errors::new();
        errors.required(&name.child("name"), "");
        errors.required(&name.child("image"), "must be given");
        errors.invalid(&spec.child("replicas"), -1, "must be greater than or equal to 0");
        errors.invalid(&spec.key("a/b"), "x\"y", "bad");
        errors.invalid(&spec, json!({"a": 1}), "");
        errors.not_supported(&spec, "Q", &["TCP", "SCTP"]);
        errors.too_long(&spec, 63);
        errors.too_many(&spec, 4, 3);
        errors.duplicate(&spec, "a");
        let texts: Vec<String> =
            errors.into_causes().iter().map(|c| format!("{} {}: {}", c.reason, c.field, c.message)).collect();
        assert_eq!(
            texts,
            [
                r#"FieldValueRequired spec.containers[2].name: Required value"#,
                r#"FieldValueRequired spec.containers[2].image: Required value: must be given"#,
                r#"FieldValueInvalid spec.replicas: Invalid value: -1: must be greater than or equal to 0"#,
                r#"FieldValueInvalid spec[a/b]: Invalid value: "x\"y": bad"#,
                r#"FieldValueInvalid spec: Invalid value: {"a":1}"#,
                r#"FieldValueNotSupported spec: Unsupported value: "Q": supported values: "SCTP", "TCP""#,
                r#"FieldValueTooLong spec: Too long: may not be more than 63 bytes"#,
                r#"FieldValueTooMany spec: Too many: 4: must have at most 3 items"#,
                r#"FieldValueDuplicate spec: Duplicate value: "a""#,
            ]
        );
    }
}
