//! Values against a schema, with upstream's sentences and its way of choosing among alternatives.
//!
//! An update forgives what it did not change: a value that equals its old one is not looked into.

use serde_json::Value;

use super::formats;
use super::schema::{Additional, Kind, Rules, Schema};
use crate::field::{go_quote, shown};
use crate::schema::ListKind;
use crate::status::Cause;

/// Checks an object, or its status where `base` says so. `old` is what stood there before an update.
pub fn check(value: &Value, schema: &Schema, old: Option<&Value>, base: &str) -> Vec<Cause> {
    let mut found = Found { base, causes: Vec::new(), matches: 0 };
    found.value(value, schema, old, "");
    found.causes
}

/// What was found so far, and how many checks went well: the alternative with the most of them is told about.
struct Found<'a> {
    /// Where the checked value is, e.g. `status`.
    base: &'a str,
    causes: Vec<Cause>,
    matches: usize,
}

impl<'a> Found<'a> {
    fn fresh(&self) -> Self {
        Self { base: self.base, causes: Vec::new(), matches: 0 }
    }

    fn merge(&mut self, other: Self) {
        other.causes.into_iter().for_each(|cause| self.push(cause));
        self.matches += other.matches;
    }

    fn push(&mut self, cause: Cause) {
        if !self.causes.contains(&cause) {
            self.causes.push(cause);
        }
    }

    fn add(&mut self, path: &str, reason: &str, message: String) {
        let path = path.trim_start_matches('.');
        let field = match (self.base.is_empty(), path.is_empty()) {
            // As upstream prints a path of nothing.
            (true, true) => "<nil>".to_owned(),
            (true, false) => path.to_owned(),
            (false, true) => self.base.to_owned(),
            (false, false) => format!("{}.{path}", self.base),
        };
        self.push(Cause { reason: reason.to_owned(), message, field });
    }

    fn invalid(&mut self, path: &str, value: &Value, why: &str) {
        self.add(path, "FieldValueInvalid", format!("Invalid value: {}: {path} in body {why}", shown(value)));
    }

    /// What upstream says about the whole value only.
    fn about(&mut self, why: String) {
        self.add("", "FieldValueInvalid", format!("Invalid value: \"\": {why}"));
    }

    fn type_invalid(&mut self, path: &str, expected: &str, found: &str) {
        let message = format!("Invalid value: {0}: {path} in body must be of type {expected}: {0}", go_quote(found));
        self.add(path, "FieldValueTypeInvalid", message);
    }

    fn value(&mut self, value: &Value, schema: &Schema, old: Option<&Value>, path: &str) {
        if old == Some(value) {
            return;
        }
        if value.is_null() {
            self.null(schema, path);
            return self.choices(value, schema, path);
        }
        if self.types(value, schema, path) {
            self.matches += 1;
        }
        if let Some(rules) = &schema.rules {
            self.alternatives(value, rules, old, path);
            match value {
                Value::String(text) => self.text(text, value, rules, path),
                Value::Number(number) => self.number(number, value, schema.kind, rules, path),
                _ => {}
            }
        } else if let (Some(Kind::Integer), Value::Number(number)) = (schema.kind, value) {
            self.range(number, schema.kind, "", "Checked", path);
        }
        if let Value::Array(items) = value {
            self.items(items, schema, old, path);
        }
        self.choices(value, schema, path);
        if let Value::Object(map) = value {
            self.object(map, schema, old, path);
        }
        self.matches += 2;
    }

    fn null(&mut self, schema: &Schema, path: &str) {
        let expected = expected(schema);
        if !expected.is_empty() && !schema.nullable {
            self.type_invalid(path, &expected, "null");
        }
    }

    fn types(&mut self, value: &Value, schema: &Schema, path: &str) -> bool {
        let format = schema.rules.as_ref().map_or("", |rules| formats::known(schema.kind, &rules.format));
        let expected = expected(schema);
        if expected.is_empty() && format.is_empty() {
            return true;
        }
        let numeric = matches!(schema.kind, Some(Kind::Integer | Kind::Number)) || schema.int_or_string;
        if !numeric && !format.is_empty() && (value.is_string() || value.is_array()) {
            return true;
        }
        let found = type_name(value);
        let fits = match value {
            Value::Number(number) => {
                let whole = number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|n| n.fract() == 0.0);
                schema.int_or_string && whole
                    || schema.kind == Some(Kind::Number)
                    || schema.kind == Some(Kind::Integer) && whole
            }
            Value::String(_) if schema.int_or_string => true,
            _ => schema.kind.is_some_and(|kind| kind.name() == found) && !schema.int_or_string,
        };
        if !fits {
            self.type_invalid(path, &expected, found);
        }
        fits
    }

    fn choices(&mut self, value: &Value, schema: &Schema, path: &str) {
        let Some(rules) = schema.rules.as_ref().filter(|rules| !rules.choices.is_empty()) else { return };
        if rules.choices.iter().any(|choice| same(choice, value)) {
            return;
        }
        let mut listed: Vec<String> = rules
            .choices
            .iter()
            .map(|choice| go_quote(&choice.as_str().map_or_else(|| choice.to_string(), str::to_owned)))
            .collect();
        listed.sort();
        let message = format!("Unsupported value: {}: supported values: {}", shown(value), listed.join(", "));
        self.add(path, "FieldValueNotSupported", message);
    }

    fn alternatives(&mut self, value: &Value, rules: &Rules, old: Option<&Value>, path: &str) {
        let run = |found: &Self, schema: &Schema| {
            let mut result = found.fresh();
            result.value(value, schema, old, path);
            result
        };
        if !rules.any_of.is_empty() {
            let mut best: Option<Self> = None;
            let mut succeeded = false;
            for schema in &rules.any_of {
                let result = run(self, schema);
                if result.causes.is_empty() {
                    self.matches += result.matches;
                    succeeded = true;
                    break;
                }
                if best.as_ref().is_none_or(|best| result.matches > best.matches) {
                    best = Some(result);
                }
            }
            if !succeeded {
                self.about(format!("{} must validate at least one schema (anyOf)", go_quote(path)));
                best.into_iter().for_each(|best| self.merge(best));
            }
        }
        if !rules.one_of.is_empty() {
            self.exactly_one(rules, path, run);
        }
        if !rules.all_of.is_empty() {
            let mut validated = 0;
            for schema in &rules.all_of {
                let result = run(self, schema);
                validated += usize::from(result.causes.is_empty());
                self.merge(result);
            }
            if validated != rules.all_of.len() {
                let more = if validated == 0 { ". None validated" } else { "" };
                self.about(format!("{} must validate all the schemas (allOf){more}", go_quote(path)));
            }
        }
        if rules.not.as_ref().is_some_and(|not| run(self, not).causes.is_empty()) {
            self.about(format!("{} must not validate the schema (not)", go_quote(path)));
        }
    }

    fn exactly_one(&mut self, rules: &Rules, path: &str, run: impl Fn(&Self, &Schema) -> Self) {
        let mut best: Option<Self> = None;
        let mut validated = 0;
        for schema in &rules.one_of {
            let result = run(self, schema);
            if result.causes.is_empty() {
                validated += 1;
                best = None;
            } else if validated == 0 && best.as_ref().is_none_or(|best| result.matches > best.matches) {
                best = Some(result);
            }
        }
        if validated == 1 {
            return;
        }
        let more = match validated {
            0 => "Found none valid".to_owned(),
            n => format!("Found {n} valid alternatives"),
        };
        self.about(format!("{} must validate one and only one schema (oneOf). {more}", go_quote(path)));
        best.into_iter().for_each(|best| self.merge(best));
    }

    fn text(&mut self, text: &str, value: &Value, rules: &Rules, path: &str) {
        let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        if let Some(max) = rules.max_length.filter(|max| length > *max) {
            let unit = if max == 1 { "byte" } else { "bytes" };
            self.add(path, "FieldValueTooLong", format!("Too long: may not be more than {max} {unit}"));
        } else if let Some(min) = rules.min_length.filter(|min| length < *min) {
            self.invalid(path, value, &format!("should be at least {min} chars long"));
        } else if let Some(pattern) = rules.pattern.as_ref().filter(|pattern| !pattern.matches(text)) {
            self.invalid(path, value, &format!("should match '{}'", pattern.text));
        }
        if !formats::holds(&rules.format, text) {
            let message =
                format!("Invalid value: {0}: {path} in body must be of type {1}: {0}", go_quote(text), rules.format);
            self.add(path, "FieldValueTypeInvalid", message);
        }
    }

    /// Whether a number can be what the type and format say.
    fn range(&mut self, number: &serde_json::Number, kind: Option<Kind>, format: &str, what: &str, path: &str) {
        let fits = match (kind, format) {
            (Some(Kind::Integer), "int32") => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            (Some(Kind::Integer), _) => {
                number.is_i64() || number.as_f64().is_some_and(|n| n.fract() == 0.0 && n.abs() < 9.2e18)
            }
            (Some(Kind::Number), "float") => number.as_f64().is_none_or(|n| n.abs() <= f64::from(f32::MAX)),
            _ => true,
        };
        if !fits {
            let kind = kind.map_or("", Kind::name);
            self.about(match format {
                "" => format!("{what} value must be of type {kind} (default format) in {path}"),
                _ => format!("{what} value must be of type {kind} with format {format} in {path}"),
            });
        }
    }

    fn number(&mut self, number: &serde_json::Number, value: &Value, kind: Option<Kind>, rules: &Rules, path: &str) {
        let format = formats::known(kind, &rules.format);
        self.range(number, kind, format, "Checked", path);
        let n = number.as_f64().unwrap_or(0.0);
        if let Some(factor) = rules.multiple_of {
            let times = n / factor;
            if (times - times.round()).abs() > f64::EPSILON * times.abs().max(1.0) {
                self.invalid(path, value, &format!("should be a multiple of {factor}"));
            }
        }
        if let Some(min) = rules.minimum {
            if rules.exclusive_minimum && n <= min {
                self.invalid(path, value, &format!("should be greater than {min}"));
            } else if n < min {
                self.invalid(path, value, &format!("should be greater than or equal to {min}"));
            }
        }
        if let Some(max) = rules.maximum {
            if rules.exclusive_maximum && n >= max {
                self.invalid(path, value, &format!("should be less than {max}"));
            } else if n > max {
                self.invalid(path, value, &format!("should be less than or equal to {max}"));
            }
        }
    }

    fn items(&mut self, items: &[Value], schema: &Schema, old: Option<&Value>, path: &str) {
        if let Some(item_schema) = &schema.items {
            let old = old.and_then(Value::as_array);
            for (index, item) in items.iter().enumerate() {
                let before = old.and_then(|old| counterpart(item, old, schema));
                self.value(item, item_schema, before, &format!("{path}[{index}]"));
            }
        }
        let Some(rules) = &schema.rules else { return };
        let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
        if let Some(min) = rules.min_items.filter(|min| count < *min) {
            self.invalid(path, &Value::from(count), &format!("should have at least {min} items"));
        }
        if let Some(max) = rules.max_items.filter(|max| count > *max) {
            self.too_many(path, count, max);
        }
    }

    fn too_many(&mut self, path: &str, count: i64, max: i64) {
        let unit = if max == 1 { "item" } else { "items" };
        self.add(path, "FieldValueTooMany", format!("Too many: {count}: must have at most {max} {unit}"));
    }

    fn object(&mut self, map: &serde_json::Map<String, Value>, schema: &Schema, old: Option<&Value>, path: &str) {
        let before = |name: &str| old.and_then(|old| old.get(name));
        if let Some(rules) = &schema.rules {
            let count = i64::try_from(map.len()).unwrap_or(i64::MAX);
            if let Some(min) = rules.min_properties.filter(|min| count < *min) {
                self.invalid(path, &Value::from(count), &format!("should have at least {min} properties"));
            }
            if let Some(max) = rules.max_properties.filter(|max| count > *max) {
                self.too_many(path, count, max);
            }
        }
        for (name, value) in map {
            if schema.property(name).is_some() {
                continue;
            }
            match &schema.additional {
                Additional::Allowed(false) => {
                    let why = format!("{path}.{name} in body is a forbidden property");
                    self.add(path, "FieldValueInvalid", format!("Invalid value: {}: {why}", go_quote(name)));
                }
                Additional::Schema(values) => self.value(value, values, before(name), &format!("{path}.{name}")),
                _ => {}
            }
        }
        for (name, property) in &schema.properties {
            if let Some(value) = map.get(&**name) {
                let dot = if path.is_empty() { "" } else { "." };
                self.value(value, property, before(name), &format!("{path}{dot}{name}"));
            }
        }
        for name in schema.rules.iter().flat_map(|rules| &rules.required) {
            if !map.contains_key(&**name) {
                self.add(&format!("{path}.{name}"), "FieldValueRequired", "Required value".to_owned());
            }
        }
    }
}

/// `type` as upstream's validator sees it.
fn expected(schema: &Schema) -> String {
    match schema.kind {
        _ if schema.int_or_string => "integer,string".to_owned(),
        Some(kind) => kind.name().to_owned(),
        None => String::new(),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn same(a: &Value, b: &Value) -> bool {
    a == b || matches!((a, b), (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64())
}

/// The old item that a new one goes back to: only lists with keys tell.
fn counterpart<'o>(item: &Value, old: &'o [Value], schema: &Schema) -> Option<&'o Value> {
    if schema.list != ListKind::Map {
        return None;
    }
    old.iter().find(|old| schema.list_keys.iter().all(|key| old.get(&**key) == item.get(&**key)))
}

#[cfg(test)]
mod tests;
