//! Field selectors.

use std::fmt;

use super::{SelectorError, fail};

/// One condition on a field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldTerm {
    pub field: String,
    pub value: String,
    /// Whether the field must have the value, or must not.
    pub equal: bool,
}

/// Which objects are meant, by their fields. The default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    pub terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// The form of the query parameter: `a=b,c!=d`; `\`, `,` and `=` in values are escaped by `\`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for term in split_unescaped(text) {
            if term.is_empty() {
                continue;
            }
            let Some((field, equal, value)) = split_term(term) else {
                return fail(format!("invalid selector: '{text}'; can't understand '{term}'"));
            };
            terms.push(FieldTerm { field: field.to_owned(), value: unescape(value)?, equal });
        }
        terms.sort_by(|a, b| a.field.cmp(&b.field));
        Ok(Self { terms })
    }

    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// `value` gives the value of a field; an unknown one reads as empty.
    pub fn matches(&self, value: impl Fn(&str) -> Option<String>) -> bool {
        self.terms.iter().all(|t| (value(&t.field).unwrap_or_default() == t.value) == t.equal)
    }

    /// The one value that the field must have, if the selector says so: lets a list by name be a get.
    pub fn requires_exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }

    /// The first field that is neither in `known` nor `metadata.name` or `metadata.namespace`, as upstream's sentence.
    pub fn check_fields(&self, known: &[&str]) -> Result<(), SelectorError> {
        let unknown = |field: &str| !matches!(field, "metadata.name" | "metadata.namespace") && !known.contains(&field);
        match self.terms.iter().find(|t| unknown(&t.field)) {
            None => Ok(()),
            Some(term) if known.is_empty() => fail(format!(
                "{:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                term.field
            )),
            Some(term) => fail(format!("field label not supported: {}", term.field)),
        }
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let value = term.value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=");
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{}{}{value}", term.field, if term.equal { "=" } else { "!=" })?;
        }
        Ok(())
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut out, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in term.char_indices() {
        let rest = &term[i..];
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..i], equal, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return fail(format!("invalid field selector: invalid escape sequence: \\{c}")),
                None => return fail("invalid field selector: invalid escape sequence: \\"),
            },
            ',' | '=' => {
                return fail(format!("invalid field selector: unescaped character in value: {c}: '{value}'"));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}
