//! Writes YAML the way kubectl prints it: keys sorted, lists not indented below their key.

use std::cmp::Ordering;

use serde_json::{Map, Value};

/// Readers look for the colon behind a key no further than 1024 characters; go-yaml is more careful.
const MAX_SIMPLE_KEY_B: usize = 128;

/// One document, without `---`, ending with a newline.
pub fn to_string(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(entries) if !entries.is_empty() => write_entries(&mut out, value, 0, false),
        Value::Array(items) if !items.is_empty() => write_items(&mut out, items, 0, false),
        _ => {
            write_scalar(&mut out, value, 2);
            out.push('\n');
        }
    }
    out
}

/// `inline`: the first entry stands behind a dash.
fn write_entries(out: &mut String, value: &Value, indent: usize, inline: bool) {
    let Value::Object(entries) = value else { return };
    for (nth, (key, value)) in sorted(entries).into_iter().enumerate() {
        if nth > 0 || !inline {
            pad(out, indent);
        }
        if key.len() > MAX_SIMPLE_KEY_B {
            explicit(out, key, value, indent);
            continue;
        }
        out.push_str(&self::key(key));
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
                write_scalar(out, value, indent + 2);
                out.push('\n');
            }
        }
    }
}

/// `? key`, and the value behind a colon of its own.
fn explicit(out: &mut String, key: &str, value: &Value, indent: usize) {
    out.push_str("? ");
    out.push_str(&self::key(key));
    out.push('\n');
    pad(out, indent);
    out.push_str(": ");
    match value {
        Value::Object(inner) if !inner.is_empty() => write_entries(out, value, indent + 2, true),
        Value::Array(items) if !items.is_empty() => write_items(out, items, indent + 2, true),
        _ => {
            write_scalar(out, value, indent + 2);
            out.push('\n');
        }
    }
}

/// The entries in go-yaml's order. That is not a total one, which a sort would find out about.
fn sorted(entries: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut sorted: Vec<(&String, &Value)> = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let place = sorted.partition_point(|(known, _)| order(known, key).is_lt());
        sorted.insert(place, (key, value));
    }
    sorted
}

/// The order of go-yaml's keys: numbers by size, and what is no letter before letters.
fn order(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let Some(at) = a.iter().zip(&b).position(|(a, b)| a != b) else { return a.len().cmp(&b.len()) };
    match (a[at].is_alphabetic(), b[at].is_alphabetic()) {
        (true, true) => return a[at].cmp(&b[at]),
        (false, false) => {}
        // A letter that goes on where the other has no letter comes later.
        (letter, _) => return if letter { Ordering::Greater } else { Ordering::Less },
    }
    // Zeros behind another digit count.
    let digits_before = a[..at].iter().rev().take_while(|c| c.is_ascii_digit());
    let started = (a[at] == '0' || b[at] == '0') && digits_before.into_iter().any(|c| *c != '0');
    let number = |text: &[char]| {
        let digits = text[at..].iter().take_while(|c| c.is_ascii_digit());
        digits.fold((u64::from(started), 0), |(sum, length), digit| {
            (sum.wrapping_mul(10).wrapping_add(u64::from(*digit) - u64::from('0')), length + 1)
        })
    };
    number(&a).cmp(&number(&b)).then_with(|| a[at].cmp(&b[at]))
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
                write_scalar(out, item, indent + 2);
                out.push('\n');
            }
        }
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// How a text stands in the line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    Plain,
    Single,
    Double,
}

/// Lines that are longer are broken at the next blank, as go-yaml does.
const WIDTH: usize = 80;

/// Writes what is no map and no list behind what stands in the line already.
fn write_scalar(out: &mut String, value: &Value, indent: usize) {
    let Value::String(text) = value else {
        let text = match value {
            Value::Array(_) => "[]".to_owned(),
            Value::Object(_) => "{}".to_owned(),
            other => other.to_string(),
        };
        out.push_str(&text);
        return;
    };
    if text.contains('\n') && is_literal(text) {
        literal(out, text, indent);
        return;
    }
    let quote = quote(text);
    let mut column = out.chars().rev().take_while(|c| *c != '\n').count();
    let mark = match quote {
        Quote::Plain => "",
        Quote::Single => "'",
        Quote::Double => "\"",
    };
    out.push_str(mark);
    column += mark.len();
    let chars: Vec<char> = text.chars().collect();
    let mut after_blank = false;
    for (nth, char) in chars.iter().enumerate() {
        let next_is_blank = chars.get(nth + 1) == Some(&' ');
        let is_inner = nth > 0 && nth + 1 < chars.len();
        let breaks = *char == ' ' && !after_blank && column > WIDTH && is_inner;
        if breaks && (quote == Quote::Double || !next_is_blank) {
            out.push('\n');
            pad(out, indent);
            column = indent;
            if next_is_blank {
                out.push('\\');
                column += 1;
            }
        } else {
            let from = out.len();
            match quote {
                Quote::Double => escape(out, *char),
                Quote::Single if *char == '\'' => out.push_str("''"),
                _ => out.push(*char),
            }
            column += out[from..].chars().count();
        }
        after_blank = *char == ' ';
    }
    out.push_str(mark);
}

fn is_printable(char: char) -> bool {
    matches!(char, '\n' | ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
}

/// Whether a block keeps every character.
fn is_literal(text: &str) -> bool {
    text.chars().all(is_printable) && !text.ends_with(' ') && !text.contains(" \n")
}

fn literal(out: &mut String, text: &str, indent: usize) {
    let body = text.trim_end_matches('\n');
    // A block that begins with a blank says how far it is indented.
    out.push_str(if text.starts_with([' ', '\n']) { "|2" } else { "|" });
    out.push_str(match text.len() - body.len() {
        0 => "-",
        1 if !body.is_empty() => "",
        _ => "+",
    });
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            pad(out, indent);
            out.push_str(line);
        }
    }
}

/// A name in a map: never broken.
fn key(text: &str) -> String {
    match quote(text) {
        _ if text.contains('\n') => double_quoted(text),
        Quote::Plain => text.to_owned(),
        Quote::Single => format!("'{}'", text.replace('\'', "''")),
        Quote::Double => double_quoted(text),
    }
}

fn double_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    text.chars().for_each(|char| escape(&mut out, char));
    out + "\""
}

fn escape(out: &mut String, char: char) {
    let short = match char {
        '\0' => '0',
        '\u{7}' => 'a',
        '\u{8}' => 'b',
        '\t' => 't',
        '\n' => 'n',
        '\u{b}' => 'v',
        '\u{c}' => 'f',
        '\r' => 'r',
        '\u{1b}' => 'e',
        '"' => '"',
        '\\' => '\\',
        '\u{85}' => 'N',
        '\u{2028}' => 'L',
        '\u{2029}' => 'P',
        _ if is_printable(char) => return out.push(char),
        _ => {
            let code = u32::from(char);
            out.push_str(&match code {
                0..=0xff => format!("\\x{code:02X}"),
                0x100..=0xffff => format!("\\u{code:04X}"),
                _ => format!("\\U{code:08X}"),
            });
            return;
        }
    };
    out.extend(['\\', short]);
}

/// Like go-yaml: what would be read as something else gets double quotes, mere punctuation single ones.
fn quote(text: &str) -> Quote {
    if text.contains('\n')
        || !text.chars().all(is_printable)
        || !super::resolve(text).is_string()
        || looks_special(text)
    {
        return Quote::Double;
    }
    let blank_or_end = |next: Option<char>| next.is_none_or(|next| next == ' ');
    let chars: Vec<char> = text.chars().collect();
    let indicates = chars.iter().enumerate().any(|(nth, char)| {
        let next = || blank_or_end(chars.get(nth + 1).copied());
        match char {
            ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' => nth == 0,
            '?' | '-' => nth == 0 && next(),
            ':' => next(),
            '#' => nth == 0 || chars[nth - 1] == ' ',
            ' ' => nth == 0 || nth + 1 == chars.len(),
            _ => false,
        }
    });
    if indicates || text.starts_with("---") || text.starts_with("...") { Quote::Single } else { Quote::Plain }
}

/// Timestamps, infinities and numbers to the base of 60, which go-yaml quotes for the sake of other readers.
fn looks_special(text: &str) -> bool {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let rest = &text[digits..];
    let date = digits == 4 && rest.starts_with('-') && rest.chars().all(|c| "0123456789-:.TtZ+ ".contains(c));
    let sexagesimal =
        digits > 0 && rest.starts_with(':') && rest.chars().all(|c| c.is_ascii_digit() || c == ':' || c == '.');
    let infinite = [".inf", ".Inf", ".INF"].contains(&text.trim_start_matches(['+', '-']))
        || [".nan", ".NaN", ".NAN"].contains(&text);
    text.is_empty() || date || sexagesimal || infinite
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
    fn keys_stand_in_go_yamls_order() {
        let sorted =
            ["A", "a-b", "a.b", "a_b", "a1", "a1-", "a1.c", "a9", "a10", "a100", "a10b", "a1b", "a01", "a001", "b"];
        for pair in sorted.windows(2) {
            assert_eq!(order(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
    }

    /// Texts beside what upstream's kubectl makes of them.
    #[test]
    fn texts_are_quoted_and_broken_as_go_yaml_does() {
        let long = "it's: a very long text that goes on and on and on and on and on and on and on and on and on and on";
        let tabbed =
            "tab\t very long text that goes on and on and on and on and on and on and on  and on and on and on";
        for (text, expect) in [
            ("!x", "'!x'"),
            ("a, b", "a, b"),
            ("-", "'-'"),
            (":x", ":x"),
            ("?x", "?x"),
            ("? x", "'? x'"),
            ("a:", "'a:'"),
            ("a#b", "a#b"),
            ("=", "="),
            ("<<", "<<"),
            ("--- a", "'--- a'"),
            ("+.INF", "\"+.INF\""),
            ("1e3x", "1e3x"),
            ("On", "\"On\""),
            ("a😀b", "\"a\\U0001F600b\""),
            ("a\u{1b}[0m\0\u{7}é", "\"a\\e[0m\\0\\aé\""),
            ("a\n\tb", "\"a\\n\\tb\""),
            ("x \ny", "\"x \\ny\""),
            ("\n", "|2+\n"),
            ("\nx", "|2-\n\n    x"),
            ("a\n\n\n", "|+\n    a\n\n"),
            ("  two\n lines\n", "|2\n      two\n     lines"),
            (
                long,
                "'it''s: a very long text that goes on and on and on and on and on and on\n    and on and on and on and on'",
            ),
            (
                tabbed,
                "\"tab\\t very long text that goes on and on and on and on and on and on and\n    on  and on and on and on\"",
            ),
        ] {
            let text = to_string(&json!({"data": {"single": text}}));
            let shown = text.strip_prefix("data:\n  single: ").expect("one entry");
            assert_eq!(shown.strip_suffix('\n'), Some(expect));
        }
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
