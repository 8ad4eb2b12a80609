//! Any kind: its fields by their names.

use serde_json::Value;

use super::page::Page;

/// What of the metadata stands in the head of the page, or nobody wants to read.
const HEAD: [&str; 5] = ["name", "namespace", "labels", "annotations", "managedFields"];

pub fn write(page: &mut Page, object: &Value) {
    let metadata = &object["metadata"];
    page.field("Name", metadata["name"].as_str().unwrap_or_default());
    page.field("Namespace", metadata["namespace"].as_str().unwrap_or_default());
    page.map("Labels", &metadata["labels"]);
    page.annotations("Annotations", &metadata["annotations"]);
    for (name, value) in object.as_object().into_iter().flatten() {
        if name != "metadata" {
            member(page, name, value, 0);
            continue;
        }
        page.line("Metadata:");
        for (name, value) in value.as_object().into_iter().flatten() {
            if !HEAD.contains(&name.as_str()) {
                member(page, name, value, 2);
            }
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

/// `lastUpdateTime` to `Last Update Time`, `apiVersion` to `API Version`, `podIPs` to `Pod I Ps`, as upstream; what is no such name
/// stays.
fn words(name: &str) -> String {
    if !name.chars().all(|c| c.is_alphabetic() || c == '-') {
        return name.to_owned();
    }
    let chars: Vec<char> = name.chars().collect();
    let mut parts: Vec<String> = Vec::new();
    for (at, char) in chars.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| chars[before]);
        let after = chars.get(at + 1);
        // A run of capitals is one word, up to the one that begins the next.
        let begins = match before {
            None => true,
            Some(before) if char.is_uppercase() => {
                !before.is_uppercase() || after.is_some_and(|after| after.is_lowercase())
            }
            Some(before) => !char.is_alphabetic() || !before.is_alphabetic(),
        };
        match parts.last_mut().filter(|_| !begins) {
            Some(part) => part.push(*char),
            None => parts.push(char.to_string()),
        }
    }
    let mut merged: Vec<String> = Vec::new();
    let is_acronym = |part: &String| part.len() >= 2 && part.chars().all(char::is_uppercase);
    for part in parts {
        match merged.last_mut() {
            Some(last) if is_acronym(last) && part.starts_with(char::is_uppercase) => last.push_str(&part),
            _ => merged.push(part),
        }
    }
    let shown = merged.into_iter().map(|part| {
        let upper = part.to_uppercase();
        if ["API", "URL", "UID", "GUID"].contains(&upper.as_str()) {
            return upper;
        }
        if part.to_lowercase() != part {
            return part;
        }
        let mut chars = part.chars();
        chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
    });
    shown.collect::<Vec<String>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_of_fields_are_words() {
        for (name, expect) in [
            ("lastUpdateTime", "Last Update Time"),
            ("apiVersion", "API Version"),
            ("uid", "UID"),
            ("podIPs", "Pod I Ps"),
            ("kubernetes.io/x", "kubernetes.io/x"),
            ("holderIdentity", "Holder Identity"),
        ] {
            assert_eq!(words(name), expect);
        }
    }

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
