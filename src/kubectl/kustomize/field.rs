//! Places in objects: the paths of kustomize's own tables, and those of replacements.

use regex::Regex;
use serde_json::{Map, Value};

use super::resource::{Id, regex};
use crate::{Failure, Result};

/// Where something is written.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    pub group: &'static str,
    pub version: &'static str,
    /// Empty: all kinds.
    pub kind: &'static str,
    /// Words between slashes; lists are walked through. `x[]` is a list, and is never made.
    pub path: &'static str,
    /// Make what is missing.
    pub create: bool,
}

impl Spec {
    /// A path in all objects.
    pub const fn everywhere(path: &'static str, create: bool) -> Self {
        Self { group: "", version: "", kind: "", path, create }
    }

    pub fn fits(&self, id: &Id) -> bool {
        id.has_type(self.group, self.version, self.kind)
    }
}

/// What a missing last word becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    Stays,
    Map,
    Scalar,
}

/// Changes each place that a path leads to.
pub fn change(object: &mut Value, path: &str, missing: Missing, set: &mut dyn FnMut(&mut Value) -> Result) -> Result {
    let words = split(path, '/');
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    walk(object, &words, missing, set).map_err(|e| Failure::text(format!("considering field '{path}': {e}")))
}

fn walk(value: &mut Value, path: &[&str], missing: Missing, set: &mut dyn FnMut(&mut Value) -> Result) -> Result {
    let Some((word, rest)) = path.split_first() else { return set(value) };
    match value {
        Value::Null => Ok(()),
        Value::Array(items) => items.iter_mut().try_for_each(|item| walk(item, path, missing, set)),
        Value::Object(entries) => {
            let (name, is_list) = word.strip_suffix("[]").map_or((*word, false), |name| (name, true));
            let absent = entries.get(name).is_none_or(Value::is_null);
            if absent && missing != Missing::Stays && !is_list {
                let made = if rest.is_empty() && missing == Missing::Scalar { Value::Null } else { Map::new().into() };
                entries.insert(name.to_owned(), made);
            }
            entries.get_mut(name).map_or(Ok(()), |field| walk(field, rest, missing, set))
        }
        _ => Err(Failure::text("expected sequence or mapping node")),
    }
}

/// Words between delimiters; one behind a backslash is part of its word.
fn split(path: &str, delimiter: char) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for part in path.strip_prefix(delimiter).unwrap_or(path).split(delimiter) {
        match words.last_mut() {
            Some(last) if last.ends_with('\\') => {
                last.pop();
                last.push(delimiter);
                last.push_str(part);
            }
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// `spec.containers.[name=a.b].image`: dots in brackets part no words.
pub fn split_dotted(path: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut parts = split(path, '.').into_iter();
    while let Some(part) = parts.next() {
        if !part.starts_with('[') || part.ends_with(']') {
            words.push(part);
            continue;
        }
        let mut whole = part;
        for part in parts.by_ref() {
            whole.push('.');
            whole.push_str(&part);
            if part.ends_with(']') {
                break;
            }
        }
        words.push(if whole.contains('=') { whole } else { whole.trim_matches(['[', ']']).to_owned() });
    }
    words
}

/// The one value that a dotted path leads to.
pub fn lookup<'a>(value: &'a Value, path: &[String]) -> Result<Option<&'a Value>> {
    let mut at = value;
    for word in path.iter().filter(|word| !word.trim().is_empty()) {
        let found = match (word.parse::<usize>(), word.as_str()) {
            (Ok(nth), _) => at.get(nth),
            (_, "-") => at.as_array().and_then(|items| items.last()),
            (_, "*") => return Err(Failure::text("wildcard is not supported in PathGetter")),
            _ => match element(word)? {
                Some((key, wanted)) => at.as_array().and_then(|items| {
                    items.iter().find(|item| text(if key.is_empty() { item } else { &item[&key] }) == wanted)
                }),
                None => at.get(word),
            },
        };
        match found {
            Some(found) if !found.is_null() => at = found,
            _ => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// The key and the value of `[key=value]`.
fn element(word: &str) -> Result<Option<(String, String)>> {
    let Some(inner) = word.strip_prefix('[').and_then(|word| word.strip_suffix(']')) else { return Ok(None) };
    let (key, value) = inner
        .split_once('=')
        .ok_or_else(|| Failure::text("list path element must contain fieldName=fieldValue for element to match"))?;
    Ok(Some((key.to_owned(), value.to_owned())))
}

/// A scalar as it stands in YAML.
pub fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned)
}

/// What a path of a replacement may make.
#[derive(Debug, Clone)]
pub struct Making<'a> {
    /// What the last word becomes where it is missing.
    pub empty: Option<&'a Value>,
}

/// Changes each place that a dotted path leads to; says how many there were. `set` is told whether the place was made.
pub fn each(
    value: &mut Value,
    path: &[String],
    making: &Making<'_>,
    made: bool,
    set: &mut dyn FnMut(&mut Value, bool) -> Result,
) -> Result<usize> {
    let Some((word, rest)) = path.split_first() else { return set(value, made).map(|()| 1) };
    if let Ok(nth) = word.parse::<usize>() {
        let Value::Array(items) = value else { return Err(kind_error("SequenceNode", value)) };
        let mut made = made;
        if let (true, Some(empty)) = (items.len() == nth, making.empty) {
            items.push(container(rest.first(), empty));
            made = true;
        }
        let found = items.len();
        return match items.get_mut(nth) {
            Some(item) => each(item, rest, making, made, set),
            None => Err(Failure::text(format!("index {nth} specified but only {found} elements found"))),
        };
    }
    if word == "*" {
        let Value::Array(items) = value else { return Err(kind_error("SequenceNode", value)) };
        return items.iter_mut().try_fold(0, |sum, item| Ok(sum + each(item, rest, making, made, set)?));
    }
    if let Some((key, wanted)) = element(word)? {
        let Value::Array(items) = value else { return Err(kind_error("SequenceNode", value)) };
        let fits: Regex = regex(&wanted)?;
        let is = |item: &Value| match key.as_str() {
            "" => fits.is_match(text(item).trim()),
            key => item.get(key).is_some_and(|found| fits.is_match(text(found).trim())),
        };
        let mut sum = 0;
        for item in items.iter_mut().filter(|item| is(item)) {
            sum += each(item, if key.is_empty() { &[] } else { rest }, making, made, set)?;
        }
        if sum > 0 || making.empty.is_none() {
            return Ok(sum);
        }
        items.push(if key.is_empty() { wanted.as_str().into() } else { serde_json::json!({ key: wanted }) });
        return items.last_mut().map_or(Ok(0), |item| each(item, rest, making, true, set));
    }
    let Value::Object(entries) = value else {
        return if value.is_null() { Ok(0) } else { Err(kind_error("MappingNode", value)) };
    };
    let mut made = made;
    if let (None, Some(empty)) = (entries.get(word), making.empty) {
        entries.insert(word.clone(), container(rest.first(), empty));
        made = true;
    }
    entries.get_mut(word).map_or(Ok(0), |field| each(field, rest, making, made, set))
}

fn kind_error(expected: &str, value: &Value) -> anyhow::Error {
    let found = match value {
        Value::Array(_) => "SequenceNode",
        Value::Object(_) => "MappingNode",
        _ => "ScalarNode",
    };
    Failure::text(format!("wrong node kind: expected {expected} but got {found}: node contents:\n{value}"))
}

/// What a word becomes, so that the next fits into it.
fn container(next: Option<&String>, empty: &Value) -> Value {
    match next {
        None if empty.is_object() => Map::new().into(),
        None if empty.is_array() => Vec::<Value>::new().into(),
        None => Value::Null,
        Some(next) if next.parse::<usize>().is_ok() || next.starts_with('[') => Vec::<Value>::new().into(),
        Some(_) => Map::new().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_are_split_as_upstream() {
        assert_eq!(split("metadata/annotations/a\\/b", '/'), ["metadata", "annotations", "a/b"]);
        let words = split_dotted("spec.containers.[name=a.b].image.[x.y]");
        assert_eq!(words, ["spec", "containers", "[name=a.b]", "image", "x.y"]);
    }

    #[test]
    fn places_are_made_where_that_is_wanted() {
        let mut object = json!({"spec": {"list": [{"a": 1}, {}]}});
        let put = |object: &mut Value, path: &str, missing| {
            change(object, path, missing, &mut |place| {
                *place = "x".into();
                Ok(())
            })
            .expect("changed");
        };
        put(&mut object, "spec/list/a", Missing::Stays);
        put(&mut object, "spec/none/a", Missing::Stays);
        put(&mut object, "new/place", Missing::Scalar);
        assert_eq!(object, json!({"spec": {"list": [{"a": "x"}, {}]}, "new": {"place": "x"}}));
        let path = split_dotted("spec.list.*.a");
        let count = each(&mut object, &path, &Making { empty: None }, false, &mut |_, _| Ok(())).expect("walked");
        assert_eq!(count, 1);
    }
}
