//! Reads the messages of `k8s-pb`'s sources: tags, and the Go markers (`+listType=map` …) in the comments.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Message {
    pub markers: Vec<(String, String)>,
    pub fields: Vec<MessageField>,
}

#[derive(Debug)]
pub struct MessageField {
    /// Lower case letters and digits only.
    pub name: String,
    pub tag: u32,
    /// The last segment of the type's path in the same form, for a single message.
    pub message: Option<String>,
    pub markers: Vec<(String, String)>,
}

/// Adds the messages of one source file by (module, name); the name in the form of [`normal`].
pub fn read(module: &str, source: &str, messages: &mut BTreeMap<(String, String), Message>) {
    let mut markers = Vec::new();
    let mut tag = None;
    let mut open: Option<(String, Message)> = None;
    // Long types stand on a line of their own.
    let source = source.replace(":\n        ", ": ");
    for line in source.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("/// ") {
            if let Some(marker) = comment.strip_prefix('+') {
                let (name, value) = marker.split_once('=').unwrap_or((marker, ""));
                markers.push((name.to_owned(), value.to_owned()));
            }
        } else if let Some(name) = line.strip_prefix("pub struct ") {
            let name = normal(name.split([' ', '{']).next().unwrap_or_default());
            let message = Message { markers: std::mem::take(&mut markers), fields: Vec::new() };
            if line.ends_with("{}") {
                messages.insert((module.to_owned(), name), message);
            } else {
                open = Some((name, message));
            }
        } else if let Some((_, rest)) = line.strip_prefix("#[prost(").and_then(|l| l.split_once("tag = \"")) {
            tag = rest.split('"').next().and_then(|t| t.parse().ok());
        } else if let (Some((_, message)), Some((name, ty)), Some(field_tag)) =
            (&mut open, line.strip_prefix("pub ").and_then(|l| l.split_once(": ")), tag)
        {
            let name = normal(name.trim_start_matches("r#"));
            let inner = ty.strip_prefix("::core::option::Option<").map(|t| t.trim_end_matches([',', '>']));
            let last = inner.and_then(|t| t.rsplit("::").next()).filter(|t| t.starts_with(char::is_uppercase));
            let markers = std::mem::take(&mut markers);
            message.fields.push(MessageField { name, tag: field_tag, message: last.map(normal), markers });
            tag = None;
        } else if line == "}" {
            if let Some((name, message)) = open.take() {
                messages.insert((module.to_owned(), name), message);
            }
            markers.clear();
        }
    }
}

/// Adds the fields of `facts/newer.txt` that `k8s-pb` does not know yet.
pub fn add_newer(text: &str, messages: &mut BTreeMap<(String, String), Message>) {
    let mut key = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let mut next = || words.next().unwrap_or_else(|| panic!("facts/newer.txt: {line}"));
        if !line.starts_with(' ') {
            key = Some((next().to_owned(), normal(next())));
            continue;
        }
        let (name, tag) = (normal(next()), next().parse().expect("a tag is a number"));
        let markers = words.filter_map(|word| word.split_once('='));
        let markers = markers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let message = messages.entry(key.clone().expect("a message stands before its fields")).or_default();
        if !message.fields.iter().any(|field| field.name == name) {
            message.fields.push(MessageField { name, tag, message: None, markers });
        }
    }
}

/// The form in which JSON's and protobuf's names of a field are equal.
pub fn normal(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}
