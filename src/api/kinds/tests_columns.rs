//! Every kind's columns are those of upstream's printers.

use super::builtin;

/// See the head of the file.
const UPSTREAM: &str = include_str!("upstream/columns.txt");
const UNPRINTED: &str = "Name:string/name | Created At:date";

#[test]
fn columns_are_upstreams() {
    let mut wrong = Vec::new();
    for descriptor in builtin() {
        let kind = &descriptor.gvk.kind;
        let columns = descriptor.columns.iter().map(|column| {
            let format = if column.format.is_empty() { String::new() } else { format!("/{}", column.format) };
            format!("{}:{}{format}{}", column.name, column.kind, if column.priority > 0 { "*" } else { "" })
        });
        let ours = columns.collect::<Vec<_>>().join(" | ");
        let line = UPSTREAM.lines().find_map(|line| line.strip_prefix(&**kind)?.strip_prefix(": "));
        if ours != line.unwrap_or(UNPRINTED) {
            wrong.push(format!("{kind}\n  ours     {ours}\n  upstream {}", line.unwrap_or(UNPRINTED)));
        }
        assert!(descriptor.columns.iter().all(|column| !column.description.is_empty()), "{kind}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
