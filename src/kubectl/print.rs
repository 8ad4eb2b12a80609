//! Output: tables, YAML, JSON, names, JSONPath, Go templates, custom columns.

use std::cell::Cell;
use std::fmt;

use clap::Args;
use serde_json::Value;
use skiff_api::yaml;

use crate::discovery::Resource;
use crate::{Failure, Result};

mod columns;
mod gotemplate;
mod kyaml;

pub use columns::Columns;
pub use gotemplate::Template;
use skiff_api::jsonpath::escaped;
pub use skiff_api::jsonpath::{JsonPath, compact};

/// What follows `-o` in most commands.
#[derive(Args, Debug, Default, Clone)]
pub struct Printing {
    /// Output format: json, yaml, name, go-template=..., jsonpath=... and their -file forms
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub output: String,
    /// The template, or its file, of -o go-template and -o jsonpath
    #[arg(long, default_value = "", hide_default_value = true)]
    pub template: String,
    /// Don't hide managedFields
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true)]
    pub show_managed_fields: bool,
    /// Documents of a stream are told apart.
    #[arg(skip)]
    printed: Cell<bool>,
}

impl Printing {
    pub fn parse(&self) -> Result<Output> {
        Output::parse(&self.output, &self.template, false)
    }

    /// Prints an object in any format but a table; `sentence` where none is asked for.
    pub fn print(&self, object: &Value, resource: &Resource, sentence: impl FnOnce() -> String) -> Result {
        let output = self.parse()?;
        if let Output::Table { .. } = output {
            println!("{}", sentence());
            return Ok(());
        }
        if matches!(&output, Output::Structured(format) if format == "yaml") && self.printed.replace(true) {
            println!("---");
        }
        let shown = if self.show_managed_fields { object.clone() } else { without_managed_fields(object.clone()) };
        print!("{}", output.show(&shown, Some(resource))?);
        Ok(())
    }
}

/// `-o`.
pub enum Output {
    Table {
        wide: bool,
    },
    Name,
    /// `yaml` or `json`.
    Structured(String),
    Path(JsonPath),
    /// What the path leads to, as JSON.
    PathAsJson(JsonPath),
    Template(Template),
    Columns(Columns),
}

/// Formats, as upstream lists them.
const FORMATS: [&str; 14] = [
    "custom-columns",
    "custom-columns-file",
    "go-template",
    "go-template-file",
    "json",
    "jsonpath",
    "jsonpath-as-json",
    "jsonpath-file",
    "kyaml",
    "name",
    "template",
    "templatefile",
    "wide",
    "yaml",
];
/// Those of `get` alone.
const OF_TABLES: [&str; 3] = ["custom-columns", "custom-columns-file", "wide"];

impl Output {
    /// `template` is that of `--template`, for formats that need one and bring none; `tables`: those of `get`, too.
    pub fn parse(text: &str, template: &str, tables: bool) -> Result<Self> {
        let (name, argument) = text.split_once('=').unwrap_or((text, template));
        // A template without a format is Go's.
        let name = if name.is_empty() && !argument.is_empty() { "go-template" } else { name };
        let allowed: Vec<&str> = FORMATS.into_iter().filter(|format| tables || !OF_TABLES.contains(format)).collect();
        if !name.is_empty() && !allowed.contains(&name) {
            return Err(Failure::text(format!(
                "unable to match a printer suitable for the output format {text:?}, allowed formats are: {}",
                allowed.join(",")
            )));
        }
        let takes_template = !matches!(name, "" | "wide" | "name" | "yaml" | "kyaml" | "json");
        if takes_template && argument.is_empty() {
            return Err(Failure::text(if name.starts_with("custom-columns") {
                "custom-columns format specified but no custom columns given"
            } else {
                "template format specified but no template given"
            }));
        }
        let read = |path: &str| {
            // Of columns upstream says it in other words.
            let flag = if name == "custom-columns-file" { "template" } else { "--template" };
            std::fs::read_to_string(path)
                .map_err(|e| Failure::text(format!("error reading {flag} {path}, open {path}: {}", os_error(&e))))
        };
        Ok(match name {
            "" => Self::Table { wide: false },
            "wide" => Self::Table { wide: true },
            "name" => Self::Name,
            "yaml" | "kyaml" | "json" => Self::Structured(name.to_owned()),
            "jsonpath" => Self::Path(JsonPath::parse(argument)?),
            "jsonpath-as-json" => Self::PathAsJson(JsonPath::parse(argument)?),
            "jsonpath-file" => Self::Path(JsonPath::parse(&read(argument)?)?),
            "custom-columns" => Self::Columns(Columns::parse(argument)?),
            "custom-columns-file" => Self::Columns(Columns::parse_file(&read(argument)?)?),
            "go-template-file" | "templatefile" => Self::Template(Template::parse(&read(argument)?)?),
            _ => Self::Template(Template::parse(argument)?),
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
            Self::PathAsJson(path) => {
                let found: Vec<Value> = path.all(object)?.into_iter().cloned().collect();
                indented(&Value::Array(found)) + "\n"
            }
            Self::Template(template) => template.evaluate(object)?,
            Self::Columns(columns) => columns.table(std::slice::from_ref(object), true)?.to_string(),
            Self::Name | Self::Table { .. } => {
                let name = object["metadata"]["name"].as_str().unwrap_or("<unknown>");
                resource.map_or_else(|| name.to_owned(), |resource| resource.in_answer(object).label(name)) + "\n"
            }
        })
    }
}

/// The system's sentence alone, as Go has it.
pub fn os_error(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// YAML or JSON.
pub fn structured(object: &Value, format: &str) -> Result<String> {
    match format {
        "yaml" => Ok(yaml::to_string(object)),
        "kyaml" => Ok(format!("---\n{}\n", kyaml::shown(object))),
        "json" => Ok(indented(object) + "\n"),
        _ => Err(Failure::text(format!(
            "unable to match a printer suitable for the output format {format:?}, allowed formats are: json,kyaml,yaml"
        ))),
    }
}

/// JSON as kubectl prints it: four blanks a level.
pub fn indented(value: &Value) -> String {
    indented_by(b"    ", value)
}

pub fn indented_by(indent: &[u8], value: &Value) -> String {
    use serde::Serialize as _;
    let mut out = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(indent);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, format)).expect("writing to memory");
    escaped(String::from_utf8(out).expect("JSON is UTF-8"))
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
        assert_eq!(compact(&json!({"<&": "a>b"})), r#"{"\u003c\u0026":"a\u003eb"}"#);
        let error = |text: &str| Output::parse(text, "", false).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error("wide").starts_with(
            "unable to match a printer suitable for the output format \"wide\", allowed formats are: go-template,"
        ));
        assert_eq!(error("jsonpath"), "template format specified but no template given");
        let resource = crate::discovery::tests::sample().find("deploy").expect("known").clone();
        let shown =
            Output::parse("name", "", false).expect("known").show(&json!({"metadata": {"name": "x"}}), Some(&resource));
        assert_eq!(shown.expect("shown"), "deployment.apps/x\n");
    }
}
