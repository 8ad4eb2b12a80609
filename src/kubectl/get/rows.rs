//! Rows of the server's tables, as text and in an order.

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::duration::human_since;

use super::{Arguments, Get};
use crate::discovery::Resource;
use crate::print::{JsonPath, Output, Table, cell, pairs};

/// Puts the rows of all parts in one order, into the first part.
pub fn sort_rows(answers: &mut [Value], by: &JsonPath) {
    let mut rows: Vec<Value> = Vec::new();
    for answer in answers.iter_mut() {
        if let Value::Array(part) = answer["rows"].take() {
            rows.extend(part);
        }
    }
    rows.sort_by_cached_key(|row| SortKey::of(by.values(&row["object"]).ok().and_then(|v| v.first().copied())));
    if let Some(first) = answers.first_mut() {
        first["rows"] = Value::Array(rows);
    }
}

/// Numbers by size, everything else as text; what is missing comes first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub enum SortKey {
    Missing,
    Number(i128),
    Text(String),
}

impl SortKey {
    pub fn of(value: Option<&Value>) -> Self {
        match value {
            None | Some(Value::Null) => Self::Missing,
            #[expect(
                clippy::cast_possible_truncation,
                reason = "an order, and only the part behind the sixth digit is lost"
            )]
            Some(Value::Number(number)) => Self::Number((number.as_f64().unwrap_or_default() * 1e6) as i128),
            Some(other) => Self::Text(crate::print::cell(other)),
        }
    }
}

/// Turns the server's tables into rows of text.
pub struct View<'a> {
    pub resource: &'a Resource,
    wide: bool,
    with_kind: bool,
    with_namespace: bool,
    arguments: &'a Arguments,
    /// Which of the server's columns are shown.
    columns: Vec<usize>,
    /// The one that holds the name.
    name: Option<usize>,
    headed: bool,
    pub rows: usize,
}

impl<'a> View<'a> {
    pub fn new(get: &Get<'a>, resource: &'a Resource, with_kind: bool) -> Self {
        Self {
            resource,
            wide: matches!(get.output, Output::Table { wide: true }),
            with_kind,
            with_namespace: get.arguments.all_namespaces && resource.namespaced,
            arguments: get.arguments,
            columns: Vec::new(),
            name: None,
            headed: get.arguments.no_headers,
            rows: 0,
        }
    }

    pub fn add(&mut self, answer: &Value, table: &mut Table) {
        let made = (answer["kind"] != "Table").then(|| as_table(answer, Timestamp::now()));
        let answer = made.as_ref().unwrap_or(answer);
        if let Some(definitions) = answer["columnDefinitions"].as_array().filter(|d| !d.is_empty()) {
            let shown = |definition: &Value| self.wide || definition["priority"].as_i64().unwrap_or_default() == 0;
            self.columns = (0..definitions.len()).filter(|nth| shown(&definitions[*nth])).collect();
            self.name = definitions.iter().position(|column| column["format"] == "name" && column["type"] == "string");
            if !self.headed && answer["rows"].as_array().is_some_and(|rows| !rows.is_empty()) {
                self.headed = true;
                table.row(self.header(definitions));
            }
        }
        for row in answer["rows"].as_array().into_iter().flatten() {
            self.rows += 1;
            table.row(self.cells(row));
        }
    }

    fn header(&self, definitions: &[Value]) -> Vec<String> {
        let mut header = Vec::new();
        if self.with_namespace {
            header.push("NAMESPACE".to_owned());
        }
        let name = |nth: &usize| definitions[*nth]["name"].as_str().unwrap_or_default().to_ascii_uppercase();
        header.extend(self.columns.iter().map(name));
        let last = |label: &String| label.rsplit('/').next().unwrap_or_default().to_ascii_uppercase();
        header.extend(self.arguments.label_columns.iter().map(last));
        if self.arguments.show_labels {
            header.push("LABELS".to_owned());
        }
        header
    }

    fn cells(&self, row: &Value) -> Vec<String> {
        let metadata = &row["object"]["metadata"];
        let mut cells = Vec::new();
        if self.with_namespace {
            cells.push(metadata["namespace"].as_str().unwrap_or_default().to_owned());
        }
        for column in &self.columns {
            // Where the server has nothing to show, upstream shows nothing.
            let value = &row["cells"][*column];
            let text = if value.is_null() { String::new() } else { cell(value) };
            cells.push(if self.with_kind && self.name == Some(*column) { self.resource.label(&text) } else { text });
        }
        for label in &self.arguments.label_columns {
            cells.push(metadata["labels"][label].as_str().unwrap_or_default().to_owned());
        }
        if self.arguments.show_labels {
            cells.push(pairs(&metadata["labels"]));
        }
        cells
    }
}

/// The table of a server that makes none (one behind the cluster's own may be such): name and age.
fn as_table(answer: &Value, now: Timestamp) -> Value {
    let one = std::slice::from_ref(answer);
    let items = answer["items"].as_array().map_or(one, Vec::as_slice);
    let row = |item: &Value| {
        let metadata = &item["metadata"];
        let created = metadata["creationTimestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        let age = created.map_or_else(|| "<unknown>".to_owned(), |at| human_since(at, now));
        json!({"cells": [metadata["name"], age], "object": {"metadata": metadata}})
    };
    let columns = json!([{"name": "Name", "type": "string", "format": "name"}, {"name": "Age"}]);
    json!({"columnDefinitions": columns, "rows": items.iter().map(row).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_without_a_table_show_name_and_age() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().expect("a time");
        let object = |name: &str, created: Value| json!({"kind": "Boat", "metadata": {"name": name, "creationTimestamp": created}});
        let cells = |answer: Value| -> Vec<Value> {
            let table = as_table(&answer, now);
            table["rows"].as_array().expect("rows").iter().map(|row| row["cells"].clone()).collect()
        };
        let (a, b) = (object("a", json!("2026-01-01T00:00:00Z")), object("b", json!(null)));
        assert_eq!(
            cells(json!({"kind": "BoatList", "items": [a, b]})),
            [json!(["a", "60m"]), json!(["b", "<unknown>"])]
        );
        assert_eq!(cells(a), [json!(["a", "60m"])]);
        assert!(cells(json!({"kind": "BoatList", "items": []})).is_empty());
    }
}
