//! The cells of one object in a table, in the forms that upstream prints.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::duration;
use crate::kinds::peek::Peek;

/// Cells, filled from left to right.
pub(crate) struct Row {
    now: Timestamp,
    cells: Vec<Value>,
}

impl Row {
    pub fn new(now: Timestamp, columns: usize) -> Self {
        Self { now, cells: Vec::with_capacity(columns) }
    }

    pub fn into_cells(self) -> Vec<Value> {
        self.cells
    }

    pub fn push(&mut self, cell: impl Into<Value>) {
        self.cells.push(cell.into());
    }

    pub fn name(&mut self, object: &Value) {
        self.push(object.text("metadata.name"));
    }

    pub fn age(&mut self, object: &Value) {
        let age = self.since(object.text("metadata.creationTimestamp"));
        self.push(age);
    }

    pub fn created_at(&mut self, object: &Value) {
        self.push(object.text("metadata.creationTimestamp"));
    }

    /// The text, or `none` where it is empty.
    pub fn or(&mut self, text: &str, none: &str) {
        self.push(if text.is_empty() { none } else { text });
    }

    /// How long ago that was, as `5d` or `3m20s`; `<unknown>` without a time.
    pub fn since(&self, time: &str) -> String {
        match time.parse::<Timestamp>() {
            Ok(at) => duration::human_since(at, self.now),
            Err(_) => "<unknown>".to_owned(),
        }
    }

    /// Names and images of the containers of a pod template.
    pub fn containers(&mut self, pod_spec: &Value) {
        let join = |key| {
            let texts: Vec<&str> = pod_spec.list("containers").iter().map(|c| c.text(key)).collect();
            texts.join(",")
        };
        self.push(join("name"));
        self.push(join("image"));
    }
}

/// `a=b,c=d`, or `<none>`.
pub(crate) fn labels(labels: Option<&Map<String, Value>>) -> String {
    match labels {
        Some(map) if !map.is_empty() => {
            let mut texts: Vec<String> = map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
            texts.sort();
            texts.join(",")
        }
        _ => "<none>".to_owned(),
    }
}

/// A `metav1.LabelSelector` in the form of the command line.
pub(crate) fn selector(selector: &Value) -> String {
    crate::selector::LabelSelector::from_value(selector).map_or_else(
        |_| "<error>".to_owned(),
        |s| {
            let text = s.to_string();
            if text.is_empty() { "<none>".to_owned() } else { text }
        },
    )
}
