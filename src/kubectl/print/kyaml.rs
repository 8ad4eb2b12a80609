//! KYAML (KEP-5295): YAML that needs no indentation to be read: braces, brackets, quoted texts, commas.

use serde_json::Value;
use skiff_api::yaml;

pub fn shown(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, 0);
    out
}

fn write(out: &mut String, value: &Value, level: usize) {
    match value {
        Value::Object(entries) if entries.is_empty() => out.push_str("{}"),
        Value::Object(entries) => {
            out.push_str("{\n");
            for (key, value) in entries {
                out.push_str(&"  ".repeat(level + 1));
                out.push_str(&name(key));
                out.push_str(": ");
                write(out, value, level + 1);
                out.push_str(",\n");
            }
            out.push_str(&"  ".repeat(level));
            out.push('}');
        }
        Value::Array(items) if items.is_empty() => out.push_str("[]"),
        // Objects begin on the bracket's line, one behind the other.
        Value::Array(items) if items.iter().all(|item| item.is_object() || item.is_array()) => {
            out.push('[');
            for (nth, item) in items.iter().enumerate() {
                if nth > 0 {
                    out.push_str(", ");
                }
                write(out, item, level);
            }
            out.push(']');
        }
        Value::Array(items) => {
            out.push_str("[\n");
            for item in items {
                out.push_str(&"  ".repeat(level + 1));
                write(out, item, level + 1);
                out.push_str(",\n");
            }
            out.push_str(&"  ".repeat(level));
            out.push(']');
        }
        Value::String(text) if text.contains('\n') => lines(out, text, level + 1),
        Value::String(text) => out.push_str(&quoted(text)),
        other => out.push_str(&other.to_string()),
    }
}

/// A text of several lines, each of which ends with `\n` and is folded into the next.
fn lines(out: &mut String, text: &str, level: usize) {
    let pad = "  ".repeat(level);
    out.push_str("\"\\\n");
    for line in text.split_inclusive('\n') {
        let inner = quoted(line);
        let inner = &inner[1..inner.len() - 1];
        out.push_str(&pad);
        // A blank at a line's begin would be folded away.
        out.push_str(if inner.starts_with(' ') || inner.starts_with("\\t") { "\\" } else { " " });
        out.push_str(inner);
        out.push_str("\\\n");
    }
    out.push_str(&pad);
    out.push('"');
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Names that YAML reads as nothing but texts need no quotes.
fn name(key: &str) -> String {
    let plain = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && yaml::document(key).is_ok_and(|read| read.value.is_string());
    if plain { key.to_owned() } else { quoted(key) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_shown_is_read_back() {
        let object = json!({"metadata": {"name": "no", "labels": {}}, "no": true, "list": [1, "a"], "objects": [{"a": "x\ny\n"}, {"b": []}]});
        let text = shown(&object);
        assert_eq!(yaml::document(&text).map(|read| read.value).map_err(|e| e.to_string()), Ok(object), "{text}");
        assert!(text.contains("name: \"no\",") && text.contains("\"no\": true,"), "{text}");
    }
}
