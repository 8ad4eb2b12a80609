//! Output: tables, YAML, JSON, names, JSONPath, custom columns.

use std::fmt;

use serde_json::Value;
use skiff_api::yaml;

use crate::discovery::Resource;
use crate::{Failure, Result};

mod columns;
mod jsonpath;

pub use columns::Columns;
pub use jsonpath::JsonPath;

/// `-o`.
pub enum Output {
    Table {
        wide: bool,
    },
    Name,
    /// `yaml` or `json`.
    Structured(String),
    Path(JsonPath),
    Columns(Columns),
}

impl Output {
    pub fn parse(text: &str) -> Result<Self> {
        let (name, argument) = text.split_once('=').unwrap_or((text, ""));
        let read = |path: &str| {
            std::fs::read_to_string(path).map_err(|e| Failure::text(format!("error reading template {path}: {e}")))
        };
        Ok(match name {
            "" => Self::Table { wide: false },
            "wide" => Self::Table { wide: true },
            "name" => Self::Name,
            "yaml" | "json" => Self::Structured(name.to_owned()),
            "jsonpath" | "jsonpath-as-json" if argument.is_empty() => {
                return Err(Failure::text("template format specified but no template given"));
            }
            "jsonpath" => Self::Path(JsonPath::parse(argument)?),
            "jsonpath-file" => Self::Path(JsonPath::parse(&read(argument)?)?),
            "custom-columns" => Self::Columns(Columns::parse(argument)?),
            "custom-columns-file" => Self::Columns(Columns::parse_file(&read(argument)?)?),
            "go-template" | "go-template-file" | "template" | "templatefile" => {
                return Err(Failure::text(
                    "Go templates are not part of this kubectl; use -o jsonpath or -o custom-columns",
                ));
            }
            _ => {
                return Err(Failure::text(format!(
                    "unable to match a printer suitable for the output format {text:?}, allowed formats are: custom-columns,custom-columns-file,json,jsonpath,jsonpath-file,name,wide,yaml"
                )));
            }
        })
    }

    pub fn is_table(&self) -> bool {
        matches!(self, Self::Table { .. } | Self::Columns(_))
    }

    /// One object, or a list of them, in a form that is no table.
    pub fn show(&self, object: &Value, resource: Option<&Resource>) -> Result<String> {
        Ok(match self {
            Self::Structured(format) => structured(object, format)?,
            Self::Path(path) => path.evaluate(object)?,
            Self::Columns(columns) => columns.table(std::slice::from_ref(object), true)?.to_string(),
            Self::Name | Self::Table { .. } => {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                resource.map_or_else(|| name.to_owned(), |resource| resource.label(name)) + "\n"
            }
        })
    }
}

/// YAML or JSON.
pub fn structured(object: &Value, format: &str) -> Result<String> {
    match format {
        "yaml" => Ok(yaml::to_string(object)),
        "json" => Ok(indented(object) + "\n"),
        _ => Err(Failure::text(format!(
            "unable to match a printer suitable for the output format {format:?}, allowed formats are: json,yaml"
        ))),
    }
}

/// JSON as kubectl prints it: four blanks a level.
pub fn indented(value: &Value) -> String {
    use serde::Serialize as _;
    let mut out = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, format)).expect("writing to memory");
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// Hides what nobody wants to read.
pub fn without_managed_fields(mut object: Value) -> Value {
    let strip = |object: &mut Value| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    strip(&mut object);
    object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(strip);
    object
}

/// With the blanks behind it a column has at least six places.
const NARROWEST: usize = 3;

/// Columns of text, each as wide as its widest cell and three blanks.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    /// What earlier parts of the same table needed.
    widths: Vec<usize>,
}

impl Table {
    pub fn new(header: &[&str]) -> Self {
        let mut table = Self::default();
        table.row(header.iter().map(|text| (*text).to_owned()));
        table
    }

    /// Goes on below an earlier part, as a watch does.
    pub fn below(earlier: &Self) -> Self {
        Self { rows: Vec::new(), widths: earlier.all_widths() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn all_widths(&self) -> Vec<usize> {
        let mut widths = self.widths.clone();
        for row in &self.rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count()).max(NARROWEST);
            }
        }
        widths
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.all_widths();
        for row in &self.rows {
            for (nth, cell) in row.iter().enumerate() {
                if nth + 1 == row.len() {
                    f.write_str(cell)?;
                } else {
                    write!(f, "{cell:width$}", width = widths[nth] + 3)?;
                }
            }
            f.write_str("\n")?;
        }
        Ok(())
    }
}

/// A cell of the server's table.
pub fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    }
}

/// `a=b,c=d`, or `<none>`.
pub fn pairs(value: &Value) -> String {
    let text: Vec<String> = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if text.is_empty() { "<none>".to_owned() } else { text.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_are_aligned_and_later_parts_keep_their_columns() {
        let mut table = Table::new(&["NAME", "READY"]);
        table.row(["a-long-name".into(), "1/1".into()]);
        assert_eq!(table.to_string(), "NAME          READY\na-long-name   1/1\n");
        let mut more = Table::below(&table);
        more.row(["b".into(), "0/1".into()]);
        assert_eq!(more.to_string(), "b             0/1\n");
    }

    #[test]
    fn formats_are_upstreams() {
        assert_eq!(indented(&json!({"a": [1]})), "{\n    \"a\": [\n        1\n    ]\n}");
        assert!(Output::parse("nope").is_err_and(|e| e.to_string().starts_with("unable to match a printer")));
        let resource = crate::discovery::tests::sample().find("deploy").expect("known").clone();
        let shown = Output::parse("name").expect("known").show(&json!({"metadata": {"name": "x"}}), Some(&resource));
        assert_eq!(shown.expect("shown"), "deployment.apps/x\n");
    }
}
