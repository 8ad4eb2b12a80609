//! Writes YAML the way kubectl prints it: keys sorted, lists not indented below their key.

use serde_json::Value;

/// Readers look for the colon behind a key no further than 1024 characters; go-yaml is more careful.
const MAX_SIMPLE_KEY_B: usize = 128;

/// One document, without `---`, ending with a newline.
pub fn to_string(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(entries) if !entries.is_empty() => write_entries(&mut out, value, 0, false),
        Value::Array(items) if !items.is_empty() => write_items(&mut out, items, 0, false),
        _ => {
            out.push_str(&scalar(value, 0));
            out.push('\n');
        }
    }
    out
}

/// `inline`: the first entry stands behind a dash.
fn write_entries(out: &mut String, value: &Value, indent: usize, inline: bool) {
    let Value::Object(entries) = value else { return };
    for (nth, (key, value)) in entries.iter().enumerate() {
        if nth > 0 || !inline {
            pad(out, indent);
        }
        if key.len() > MAX_SIMPLE_KEY_B {
            explicit(out, key, value, indent);
            continue;
        }
        out.push_str(&plain_or_quoted(key));
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                write_entries(out, value, indent + 2, false);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                write_items(out, items, indent, false);
            }
            _ => {
                out.push(' ');
                out.push_str(&scalar(value, indent + 2));
                out.push('\n');
            }
        }
    }
}

/// `? key`, and the value behind a colon of its own.
fn explicit(out: &mut String, key: &str, value: &Value, indent: usize) {
    out.push_str("? ");
    out.push_str(&plain_or_quoted(key));
    out.push('\n');
    pad(out, indent);
    out.push_str(": ");
    match value {
        Value::Object(inner) if !inner.is_empty() => write_entries(out, value, indent + 2, true),
        Value::Array(items) if !items.is_empty() => write_items(out, items, indent + 2, true),
        _ => {
            out.push_str(&scalar(value, indent + 2));
            out.push('\n');
        }
    }
}

fn write_items(out: &mut String, items: &[Value], indent: usize, inline: bool) {
    for (nth, item) in items.iter().enumerate() {
        if nth > 0 || !inline {
            pad(out, indent);
        }
        out.push_str("- ");
        match item {
            Value::Object(inner) if !inner.is_empty() => write_entries(out, item, indent + 2, true),
            Value::Array(inner) if !inner.is_empty() => write_items(out, inner, indent + 2, true),
            _ => {
                out.push_str(&scalar(item, indent + 2));
                out.push('\n');
            }
        }
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn scalar(value: &Value, indent: usize) -> String {
    match value {
        Value::String(text) if text.contains('\n') && is_literal(text) => literal(text, indent),
        Value::String(text) => plain_or_quoted(text),
        Value::Array(_) => "[]".to_owned(),
        Value::Object(_) => "{}".to_owned(),
        other => other.to_string(),
    }
}

/// Whether a block keeps every character; its first line must not begin with a blank, or it would need an indicator.
fn is_literal(text: &str) -> bool {
    !text.starts_with([' ', '\n', '\t'])
        && text.chars().all(|c| c == '\n' || c == '\t' || !c.is_control())
        && !text.lines().any(|line| line.ends_with([' ', '\t']))
}

fn literal(text: &str, indent: usize) -> String {
    let body = text.trim_end_matches('\n');
    let chomp = match text.len() - body.len() {
        0 => "-",
        1 => "",
        _ => "+",
    };
    let mut out = format!("|{chomp}");
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            pad(&mut out, indent);
            out.push_str(line);
        }
    }
    out.extend(std::iter::repeat_n('\n', (text.len() - body.len()).saturating_sub(1)));
    out
}

fn plain_or_quoted(text: &str) -> String {
    if needs_escapes(text) {
        return serde_json::to_string(text).expect("a string is JSON");
    }
    if is_plain(text) {
        return text.to_owned();
    }
    // Like go-yaml: what would be read as something else gets double quotes, mere punctuation single ones.
    if super::resolve(text).is_string() && !looks_special(text) {
        format!("'{}'", text.replace('\'', "''"))
    } else {
        format!("\"{text}\"")
    }
}

fn needs_escapes(text: &str) -> bool {
    text.chars().any(|c| c.is_control() || c == '\u{feff}' || c == '\u{2028}' || c == '\u{2029}')
}

/// Timestamps and numbers to the base of 60, which go-yaml quotes for the sake of other readers.
fn looks_special(text: &str) -> bool {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let rest = &text[digits..];
    let date = digits == 4 && rest.starts_with('-') && rest.chars().all(|c| "0123456789-:.TtZ+ ".contains(c));
    let sexagesimal =
        digits > 0 && rest.starts_with(':') && rest.chars().all(|c| c.is_ascii_digit() || c == ':' || c == '.');
    text.is_empty() || date || sexagesimal
}

fn is_plain(text: &str) -> bool {
    let starts = text.starts_with(|c: char| "!&*-?{}[],#|>@`\"'%: =".contains(c));
    let dash_word = text.starts_with(['-', '?', ':']) && text.chars().nth(1).is_some_and(|c| !c.is_whitespace());
    super::resolve(text).is_string()
        && !looks_special(text)
        && (!starts || dash_word && !text.starts_with(':'))
        && text != "---"
        && text != "..."
        && text != "<<"
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn long_keys_stand_apart() {
        let (long, longer) = ("k".repeat(129), "\u{1a}".repeat(2000));
        let value = json!({"a": [{&long: {"b": [1, {"c": "x\ny\n"}]}, &longer: ["d", []]}], &long: "e", "z": {}});
        let written = to_string(&value);
        assert_eq!(crate::yaml::document(&written).expect("YAML").value, value, "{written}");
        assert_eq!(to_string(&json!({&long: {"b": 1, "c": [2]}})), format!("? {long}\n: b: 1\n  c:\n  - 2\n"));
        assert!(!to_string(&json!({"k".repeat(128): 1})).contains('?'));
    }

    #[test]
    fn writes_what_kubectl_writes() {
        let value = json!({"kind": "Pod", "spec": {"list": [{"a": 1, "b": [1, [2]]}, "x", {}, []], "e": {}, "t": "two\nlines\n", "u": "no\nend",
            "yes": "yes", "n": "1", "empty": "", "nil": null, "time": "2020-01-01T00:00:00Z", "q": "a: b", "star": "*", "flag": "--x=y", "url": "http://a:1/b"}});
        let text = to_string(&value);
        let expect = "kind: Pod\nspec:\n  e: {}\n  empty: \"\"\n  flag: --x=y\n  list:\n  - a: 1\n    b:\n    - 1\n    - - 2\n  - x\n  - {}\n  - []\n  \"n\": \"1\"\n  nil: null\n  q: 'a: b'\n  star: '*'\n  t: |\n    two\n    lines\n  time: \"2020-01-01T00:00:00Z\"\n  u: |-\n    no\n    end\n  url: http://a:1/b\n  \"yes\": \"yes\"\n";
        assert_eq!(text, expect);
        assert_eq!(super::super::document(&text).expect("reads back").value, value);
    }

    proptest::proptest! {
        #[test]
        fn every_string_reads_back(text in ".*", lines in proptest::collection::vec("[ -~\n\té]{0,9}", 0..4)) {
            let value = json!({"k": text, "l": [lines.concat()], (text): 1});
            proptest::prop_assert_eq!(super::super::document(&to_string(&value)).expect("valid").value, value);
        }
    }
}
