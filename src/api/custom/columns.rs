//! `additionalPrinterColumns`: what a table shows of a custom resource.

use jiff::Timestamp;
use serde_json::Value;

use crate::duration;
use crate::jsonpath::{JsonPath, show};
use crate::strategy::Column;

/// One column behind the name.
#[derive(Debug)]
pub struct Printer {
    kind: String,
    /// `None`: an expression that can't be read shows nothing.
    path: Option<JsonPath>,
}

/// The columns of a version, with the name in front; without any, the age.
pub fn columns(declared: &[Value]) -> (Vec<Column>, Vec<Printer>) {
    let name = Column {
        name: "Name".into(),
        kind: "string".into(),
        format: "name".into(),
        description: "The name of the object, unique among its kind in a namespace.".into(),
        priority: 0,
    };
    let age = [serde_json::json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
        "description": "How long ago the object was created."})];
    let declared = if declared.is_empty() { &age[..] } else { declared };
    let text = |column: &Value, key: &str| column[key].as_str().unwrap_or_default().to_owned();
    let mut shown = vec![name];
    let mut printers = Vec::with_capacity(declared.len());
    for column in declared {
        let path = text(column, "jsonPath");
        let description = match text(column, "description") {
            empty if empty.is_empty() => format!("Custom resource definition column (in JSONPath format): {path}"),
            description => description,
        };
        shown.push(Column {
            name: text(column, "name"),
            kind: text(column, "type"),
            format: text(column, "format"),
            description,
            priority: column["priority"].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
        });
        printers.push(Printer { kind: text(column, "type"), path: JsonPath::parse(&format!("{{{path}}}")).ok() });
    }
    (shown, printers)
}

impl Printer {
    pub fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self.path.as_ref().and_then(|path| path.values(object).ok());
        let Some(value) = found.and_then(|found| found.first().copied()).filter(|value| !value.is_null()) else {
            return Value::Null;
        };
        match (self.kind.as_str(), value) {
            ("string", value) => Value::String(show(value)),
            ("integer", Value::Number(number)) => match number.as_i64().or_else(|| number.as_f64().map(|n| n as i64)) {
                Some(whole) => whole.into(),
                None => Value::Null,
            },
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
            ("date", Value::String(text)) => match text.parse::<Timestamp>() {
                Ok(at) => duration::human_since(at, now).into(),
                Err(_) => "<invalid>".into(),
            },
            _ => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_have_the_type_of_their_column() {
        let object = json!({"metadata": {"creationTimestamp": "2024-01-01T00:00:00Z"}, "spec": {"n": 3, "f": 1.5, "s": "x",
            "b": true, "m": {"a": 1}}, "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}]}});
        let now: Timestamp = "2024-01-01T00:05:00Z".parse().expect("a time");
        let cell = |kind: &str, path: &str| {
            let (_, printers) = columns(&[json!({"name": "C", "type": kind, "jsonPath": path})]);
            printers[0].cell(&object, now)
        };
        assert_eq!(cell("integer", ".spec.n"), json!(3));
        assert_eq!(cell("integer", ".spec.f"), json!(1));
        assert_eq!(cell("number", ".spec.f"), json!(1.5));
        assert_eq!(cell("string", ".spec.n"), json!("3"));
        assert_eq!(cell("string", ".spec.m"), json!(r#"{"a":1}"#));
        assert_eq!(cell("boolean", ".spec.b"), json!(true));
        assert_eq!(cell("date", ".metadata.creationTimestamp"), json!("5m"));
        assert_eq!(cell("date", ".spec.s"), json!("<invalid>"));
        assert_eq!(cell("string", r#".status.conditions[?(@.type=="Ready")].status"#), json!("True"));
        assert_eq!(cell("string", ".spec.missing"), Value::Null);
        assert_eq!(cell("integer", ".spec.s"), Value::Null);
        let (shown, printers) = columns(&[]);
        assert_eq!((shown[1].name.as_str(), printers.len()), ("Age", 1));
    }
}
