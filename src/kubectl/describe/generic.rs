//! Any kind: its fields by their names.

use serde_json::Value;

use super::page::Page;

pub fn write(page: &mut Page, object: &Value) {
    let metadata = &object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    head(page, object);
    page.field("API Version", text(&object["apiVersion"]));
    page.field("Kind", text(&object["kind"]));
    page.line("Metadata:");
    for (label, field) in
        [("Creation Timestamp", "creationTimestamp"), ("Resource Version", "resourceVersion"), ("UID", "uid")]
    {
        page.line(format!("  {label}:\t{}", text(&metadata[field])));
    }
    for (name, value) in object.as_object().into_iter().flatten() {
        match name.as_str() {
            "metadata" | "apiVersion" | "kind" => {}
            _ => member(page, name, value, 0),
        }
    }
}

fn member(page: &mut Page, name: &str, value: &Value, indent: usize) {
    let pad = " ".repeat(indent);
    let label = words(name);
    match value {
        Value::Object(entries) => {
            page.line(format!("{pad}{label}:"));
            entries.iter().for_each(|(name, value)| member(page, name, value, indent + 2));
        }
        Value::Array(items) => {
            page.line(format!("{pad}{label}:"));
            for item in items {
                match item {
                    Value::Object(entries) => {
                        entries.iter().for_each(|(name, value)| member(page, name, value, indent + 2))
                    }
                    other => page.line(format!("{pad}  {}", crate::print::cell(other))),
                }
            }
        }
        other => page.line(format!("{pad}{label}:\t{}", crate::print::cell(other))),
    }
}

/// A ConfigMap, with its texts as they are.
pub fn config_map(page: &mut Page, object: &Value) {
    head(page, object);
    page.line("\nData\n====");
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        page.line(format!("{key}:\n----\n{}\n", value.as_str().unwrap_or_default()));
    }
    page.line("\nBinaryData\n====");
    for (key, value) in object["binaryData"].as_object().into_iter().flatten() {
        page.line(format!("{key}: {} bytes", decoded_length(value)));
    }
    page.line("");
}

/// A Secret, without what it holds.
pub fn secret(page: &mut Page, object: &Value) {
    head(page, object);
    page.line(format!("\nType:  {}\n\nData\n====", object["type"].as_str().unwrap_or_default()));
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        page.line(format!("{key}:\t{} bytes", decoded_length(value)));
    }
}

pub fn namespace(page: &mut Page, object: &Value) {
    head(page, object);
    page.field("Status", object["status"]["phase"].as_str().unwrap_or_default());
}

/// What the page of most kinds begins with.
pub fn head(page: &mut Page, object: &Value) {
    let metadata = &object["metadata"];
    page.field("Name", metadata["name"].as_str().unwrap_or_default());
    if let Some(namespace) = metadata["namespace"].as_str() {
        page.field("Namespace", namespace);
    }
    page.map("Labels", &metadata["labels"]);
    page.annotations("Annotations", &metadata["annotations"]);
}

fn decoded_length(value: &Value) -> usize {
    value.as_str().map_or(0, |text| text.trim_end_matches('=').len() * 3 / 4)
}

/// `podIPs` to `Pod I Ps`, as upstream, `lastUpdateTime` to `Last Update Time`.
fn words(name: &str) -> String {
    let mut out = String::new();
    for (at, char) in name.chars().enumerate() {
        if at == 0 {
            out.extend(char.to_uppercase());
        } else {
            if char.is_uppercase() {
                out.push(' ');
            }
            out.push(char);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_stay_secret() {
        let mut page = Page::default();
        secret(
            &mut page,
            &json!({"kind": "Secret", "apiVersion": "v1", "type": "Opaque", "metadata": {"name": "s"}, "data": {"k": "aHVudGVyMg=="}}),
        );
        let text = page.text();
        assert!(text.contains("7 bytes") && !text.contains("aHVudGVyMg"), "{text}");
    }
}
