//! YAML as Kubernetes reads it: go-yaml's resolution of plain scalars (YAML 1.1: `yes` is true, `0644` is octal), merge
//! keys, anchors; the result is what JSON can hold. And YAML as kubectl writes it.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Number, Value};

mod write;

pub use write::to_string;

/// One document of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    pub value: Value,
    /// Sentences about keys that came twice, as go-yaml says them: `line 4: key "image" already set in map`.
    pub duplicates: Vec<String>,
}

/// A text that is no YAML, or no YAML that JSON can hold. Reads like go-yaml's errors: `yaml: line 3: ...`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("yaml: {0}")]
pub struct Error(String);

/// Anchors may be used often; a document that unfolds to more values than this is an attack.
const MAX_NODES: usize = 1_000_000;
/// What the keys and scalars may take that anchors and aliases make copies of.
const MAX_COPIED_B: usize = 16 << 20;
const MAX_DEPTH: usize = 200;

/// Which words are booleans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Booleans {
    /// YAML 1.1: `yes`, `on`, `y` too. Most of Kubernetes.
    Many,
    /// YAML 1.2: `true` and `false`. Kustomize.
    Two,
}

/// All documents of a stream; empty ones are left out.
pub fn documents(text: &str) -> Result<Vec<Document>, Error> {
    documents_with(text, Booleans::Many)
}

/// The same for who says which words are booleans.
pub fn documents_with(text: &str, booleans: Booleans) -> Result<Vec<Document>, Error> {
    let parser = Parser::new_from_str(text);
    let mut reader = Reader {
        parser,
        anchors: HashMap::new(),
        read: Size::default(),
        copied: Size::default(),
        duplicates: vec![],
        booleans,
    };
    let mut documents = Vec::new();
    loop {
        match reader.next()?.0 {
            Event::StreamEnd => return Ok(documents),
            Event::DocumentStart(_) => {
                let value = reader.node(0)?;
                let duplicates = std::mem::take(&mut reader.duplicates);
                reader.anchors.clear();
                if !value.is_null() {
                    documents.push(Document { value, duplicates });
                }
            }
            _ => {}
        }
    }
}

/// The one document of a body.
pub fn document(text: &str) -> Result<Document, Error> {
    Ok(documents(text)?.into_iter().next().unwrap_or(Document { value: Value::Null, duplicates: Vec::new() }))
}

/// How much a value is: its nodes, and the bytes of its keys and scalars.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    nodes: usize,
    bytes: usize,
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, (Value, Size)>,
    /// All that was read so far, what aliases stand for included.
    read: Size,
    /// All copies that anchors and aliases made.
    copied: Size,
    duplicates: Vec<String>,
    booleans: Booleans,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, usize), Error> {
        match self.parser.next() {
            Some(Ok((event, span))) => Ok((event, span.start.line())),
            Some(Err(e)) => Err(Error(format!("line {}: {}", e.marker().line(), e.info()))),
            None => Ok((Event::StreamEnd, 0)),
        }
    }

    fn node(&mut self, depth: usize) -> Result<Value, Error> {
        let (event, line) = self.next()?;
        self.node_of(event, line, depth)
    }

    fn node_of(&mut self, event: Event<'a>, line: usize, depth: usize) -> Result<Value, Error> {
        if depth > MAX_DEPTH {
            return Err(Error(format!("line {line}: exceeded max depth of {MAX_DEPTH}")));
        }
        let before = self.read;
        self.count(Size { nodes: 1, bytes: 0 }, line)?;
        let (value, anchor) = match event {
            Event::Alias(anchor) => {
                let unknown = || Error(format!("line {line}: unknown anchor referenced"));
                let size = self.anchors.get(&anchor).ok_or_else(unknown)?.1;
                // Before there is one copy too many.
                self.copy(size, line)?;
                self.count(size, line)?;
                return self.anchors.get(&anchor).map(|(value, _)| value.clone()).ok_or_else(unknown);
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(Size { nodes: 0, bytes: text.len() }, line)?;
                let value = match scalar(&text, style, tag.as_deref(), line)? {
                    Value::Bool(_) if self.booleans == Booleans::Two && !is_boolean_1_2(&text) => text.into(),
                    value => value,
                };
                (value, anchor)
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, line) => items.push(self.node_of(event, line, depth + 1)?),
                    }
                }
                (Value::Array(items), anchor)
            }
            Event::MappingStart(anchor, _) => (self.mapping(depth)?, anchor),
            _ => return Err(Error(format!("line {line}: did not find expected node content"))),
        };
        if anchor != 0 {
            let size = Size { nodes: self.read.nodes - before.nodes, bytes: self.read.bytes - before.bytes };
            // Anchors within anchors are copies of copies.
            self.copy(size, line)?;
            self.anchors.insert(anchor, (value.clone(), size));
        }
        Ok(value)
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, Error> {
        let mut entries = Map::new();
        let mut merged = Vec::new();
        loop {
            let (event, line) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let is_merge = matches!(&event, Event::Scalar(key, ScalarStyle::Plain, _, None) if key == "<<");
            let key = match self.node_of(event, line, depth + 1)? {
                Value::String(key) => key,
                Value::Number(number) => number.to_string(),
                Value::Bool(bool) => bool.to_string(),
                Value::Null => "null".to_owned(),
                _ => return Err(Error(format!("line {line}: unsupported map key: only scalars can be keys in JSON"))),
            };
            let value = self.node(depth + 1)?;
            if is_merge {
                merged.push((value, line));
                continue;
            }
            if entries.contains_key(&key) {
                self.duplicates.push(format!("line {line}: key {key:?} already set in map"));
            }
            entries.insert(key, value);
        }
        for (value, line) in merged {
            merge(&mut entries, value, line)?;
        }
        Ok(Value::Object(entries))
    }

    fn count(&mut self, size: Size, line: usize) -> Result<(), Error> {
        self.read.nodes += size.nodes;
        self.read.bytes += size.bytes;
        if self.read.nodes > MAX_NODES { Err(excessive(line)) } else { Ok(()) }
    }

    fn copy(&mut self, size: Size, line: usize) -> Result<(), Error> {
        self.copied.nodes += size.nodes;
        self.copied.bytes += size.bytes;
        match self.copied.nodes > MAX_NODES || self.copied.bytes > MAX_COPIED_B {
            true => Err(excessive(line)),
            false => Ok(()),
        }
    }
}

fn excessive(line: usize) -> Error {
    Error(format!("line {line}: document contains excessive aliasing"))
}

/// `<<: *base` and `<<: [*a, *b]`; the mapping's own keys win, then the first.
fn merge(entries: &mut Map<String, Value>, value: Value, line: usize) -> Result<(), Error> {
    let maps = match value {
        Value::Array(maps) => maps,
        map => vec![map],
    };
    for map in maps {
        let Value::Object(map) = map else {
            return Err(Error(format!("line {line}: map merge requires map or sequence of maps as the value")));
        };
        for (key, value) in map {
            entries.entry(key).or_insert(value);
        }
    }
    Ok(())
}

fn is_boolean_1_2(text: &str) -> bool {
    text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false")
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, line: usize) -> Result<Value, Error> {
    let bad = |what: &str| Error(format!("line {line}: cannot decode !!str `{text}` as a !!{what}"));
    if let Some(tag) = tag.filter(|tag| tag.is_yaml_core_schema()) {
        return match tag.suffix.as_str() {
            "str" | "binary" | "timestamp" => Ok(Value::String(text.to_owned())),
            "int" => Some(resolve(text)).filter(Value::is_i64).ok_or_else(|| bad("int")),
            "float" => Some(resolve(text)).filter(Value::is_number).ok_or_else(|| bad("float")),
            "bool" => Some(resolve(text)).filter(Value::is_boolean).ok_or_else(|| bad("bool")),
            "null" => Ok(Value::Null),
            _ => Ok(Value::String(text.to_owned())),
        };
    }
    if style == ScalarStyle::Plain && tag.is_none() { Ok(resolve(text)) } else { Ok(Value::String(text.to_owned())) }
}

/// What a plain scalar means to go-yaml v2.
pub(crate) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    if text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        let plain = text.replace('_', "");
        if let Some(number) = integer(&plain).or_else(|| float(&plain)) {
            return Value::Number(number);
        }
    }
    Value::String(text.to_owned())
}

fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let prefix = digits.get(..2).unwrap_or("").to_ascii_lowercase();
    let (radix, digits) = match prefix.as_str() {
        "0x" => (16, &digits[2..]),
        "0b" => (2, &digits[2..]),
        "0o" => (8, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    match negative {
        true => 0i64.checked_sub_unsigned(magnitude).map(Number::from),
        false => Some(Number::from(magnitude)),
    }
}

fn float(text: &str) -> Option<Number> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(at) => (&digits[..at], Some(&digits[at + 1..])),
        None => (digits, None),
    };
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_fits = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['-', '+']).unwrap_or(e);
        !e.is_empty() && all_digits(e)
    });
    if !(all_digits(whole) && all_digits(fraction) && (!whole.is_empty() || !fraction.is_empty()) && exponent_fits) {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    // Go writes whole floats without a fraction, so they are integers to whoever reads the JSON.
    #[expect(clippy::cast_possible_truncation, reason = "whole, and within the exact range of f64")]
    if value.fract() == 0.0 && value.abs() < 9e15 { Some(Number::from(value as i64)) } else { Number::from_f64(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plain_scalars_are_go_yamls() {
        for (text, expect) in [
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("y", json!(true)),
            ("\"yes\"", json!("yes")),
            ("'no'", json!("no")),
            ("0644", json!(420)),
            ("0o644", json!(420)),
            ("0x1F", json!(31)),
            ("0b11", json!(3)),
            ("1_000", json!(1000)),
            ("-7", json!(-7)),
            ("+7", json!(7)),
            ("09", json!(9)),
            ("1.5", json!(1.5)),
            (".5", json!(0.5)),
            ("1e3", json!(1000)),
            ("1.0", json!(1)),
            ("100m", json!("100m")),
            ("1Gi", json!("1Gi")),
            ("1.2.3", json!("1.2.3")),
            ("~", Value::Null),
            ("!!str 5", json!("5")),
            ("2001-01-01", json!("2001-01-01")),
            ("-", json!([null])),
            ("v1", json!("v1")),
            (".", json!(".")),
            ("12:30", json!("12:30")),
        ] {
            assert_eq!(
                document(&format!("k: {text}"))
                    .or_else(|_| document(&format!("k:\n  {text}")))
                    .map(|d| d.value["k"].clone()),
                Ok(expect),
                "{text}"
            );
        }
    }

    #[test]
    fn reads_streams_anchors_merges_and_duplicates() {
        let text =
            "---\n# nothing\n---\nbase: &b {x: 1, z: 2}\nother:\n  <<: *b\n  z: 3\n---\na: 1\na: 2\nl:\n- |\n  t\n";
        let found = documents(text).expect("valid");
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].value["other"], json!({"x": 1, "z": 3}));
        assert_eq!(found[1].value, json!({"a": 2, "l": ["t\n"]}));
        assert_eq!(found[1].duplicates, ["line 10: key \"a\" already set in map"]);
        assert!(documents("a: [1").is_err());
        assert!(documents("a: *nobody").is_err());
    }

    #[test]
    fn aliases_cannot_explode() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..9 {
            let uses = vec![format!("*a{}", i - 1); 10].join(",");
            text += &format!("a{i}: &a{i} [{uses}]\n");
        }
        let refused = |text: &str| {
            let told = documents(text).map(|documents| documents.len()).expect_err("refused").to_string();
            assert!(told.contains("excessive aliasing"), "{told}");
        };
        refused(&text);
        // Few nodes, but each of them is large: as a value, as a key, and as an anchor in an anchor.
        let long = "x".repeat(1 << 20);
        let uses = |use_: &str| vec![use_; 100].join(",");
        refused(&format!("a: &a \"{long}\"\nb: [{}]\n", uses("*a")));
        refused(&format!("a: &a {{\"{long}\": 1}}\nb: [{}]\n", uses("*a")));
        refused(&format!("{}\"{long}\"{}", (0..100).map(|n| format!("[&a{n} ")).collect::<String>(), "]".repeat(100)));
        // Anchors in anchors alone are nothing bad.
        let nested = format!("{}x{}", (0..100).map(|n| format!("[&a{n} ")).collect::<String>(), "]".repeat(100));
        assert!(documents(&nested).is_ok());
        let few = format!("a: &a \"{long}\"\nb: [*a, *a, *a]\n");
        assert_eq!(documents(&few).expect("not much")[0].value["b"][2], long);
    }
}
