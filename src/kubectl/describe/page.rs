//! Lines with tabs that stand under each other, as Go's tabwriter sets them.

use serde_json::Value;

/// Annotations that are longer stand below their names, and are cut.
const LONGEST: usize = 140;

#[derive(Default)]
pub struct Page {
    lines: String,
}

impl Page {
    pub fn line(&mut self, text: impl AsRef<str>) {
        self.lines.push_str(text.as_ref());
        self.lines.push('\n');
    }

    /// `Name:` and a value.
    pub fn field(&mut self, name: &str, value: impl std::fmt::Display) {
        self.line(format!("{name}:\t{value}"));
    }

    /// A map, an entry in each line.
    pub fn map(&mut self, name: &str, value: &Value) {
        let entries = value.as_object().into_iter().flatten();
        self.several(name, entries.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())));
    }

    pub fn annotations(&mut self, name: &str, value: &Value) {
        let entries = value.as_object().into_iter().flatten();
        let shown = entries.filter(|(key, _)| *key != "kubectl.kubernetes.io/last-applied-configuration");
        let mut lines = Vec::new();
        for (key, value) in shown {
            let value = value.as_str().unwrap_or_default();
            let value = value.strip_suffix('\n').unwrap_or(value);
            if key.len() + value.len() + 2 <= LONGEST && !value.contains('\n') {
                lines.push(format!("{key}: {value}"));
                continue;
            }
            lines.push(format!("{key}:"));
            lines.extend(value.split('\n').map(|line| match line.char_indices().nth(LONGEST - 2) {
                Some((end, _)) => format!("  {}...", &line[..end]),
                None => format!("  {line}"),
            }));
        }
        self.several(name, lines.into_iter());
    }

    /// Values under each other, the first beside the name.
    pub fn several(&mut self, name: &str, values: impl Iterator<Item = String>) {
        let mut any = false;
        for value in values {
            let head = if any { String::new() } else { format!("{name}:") };
            self.line(format!("{head}\t{value}"));
            any = true;
        }
        if !any {
            self.line(format!("{name}:\t<none>"));
        }
    }

    /// What was written, not set in columns.
    pub fn lines(&self) -> &str {
        &self.lines
    }

    pub fn text(&self) -> String {
        aligned(&self.lines)
    }
}

/// Sets cells that end with a tab in columns. A column goes on for as many lines as have a cell in it, and two blanks
/// stand behind its widest cell.
pub fn aligned(text: &str) -> String {
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = rows.iter().map(|row| vec![0; row.len()]).collect();
    let most = rows.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..most {
        let has = |row: usize| rows.get(row).is_some_and(|cells| column + 1 < cells.len());
        let mut row = 0;
        while row < rows.len() {
            if !has(row) {
                row += 1;
                continue;
            }
            let start = row;
            while has(row) {
                row += 1;
            }
            let width = rows[start..row].iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0) + 2;
            widths[start..row].iter_mut().for_each(|widths| widths[column] = width);
        }
    }
    let mut out = String::new();
    for (cells, widths) in rows.iter().zip(&widths) {
        let line: String = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(&line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_long_as_their_lines_go_on() {
        let text =
            "Name:\tx\nNamespace:\td\nLabels:\ta=b\n\tc=d\nContainers:\n  c:\n    Image:\ty\n    Container ID:\tz\n";
        let expect = "Name:       x\nNamespace:  d\nLabels:     a=b\n            c=d\nContainers:\n  c:\n    Image:         y\n    Container ID:  z\n";
        assert_eq!(aligned(text), expect);
    }
}
