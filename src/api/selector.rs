//! Label and field selectors: upstream's grammar, meaning and error sentences.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::Value;

use crate::field::go_quote;
use crate::names;

/// A selector that cannot be understood; the text is upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

fn fail<T>(message: impl Into<String>) -> Result<T, SelectorError> {
    Err(SelectorError(message.into()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on the labels of an object; all of a selector must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted.
    pub values: Vec<String>,
}

/// Which objects are meant, by their labels. The default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    pub fn everything() -> Self {
        Self::default()
    }

    pub fn nothing() -> Self {
        Self { nothing: true, ..Self::default() }
    }

    /// The command line's and the query parameter's form: `a=b,c!=d,e in (f,g),!h,i`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Parser::new(text).parse()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// Exactly these labels, unchecked (`spec.selector` of a Service or ReplicationController).
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let equals = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.clone()],
        };
        let mut requirements: Vec<Requirement> = labels.into_iter().map(equals).collect();
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// From the typed form; upstream's rule is that none selects nothing and an empty one everything.
    pub fn from_typed(selector: Option<&meta::LabelSelector>) -> Result<Self, SelectorError> {
        let Some(selector) = selector else { return Ok(Self::nothing()) };
        let empty = BTreeMap::new();
        let mut out = Self::default();
        for (key, value) in selector.match_labels.as_ref().unwrap_or(&empty) {
            out.requirements.push(requirement(key, Operator::Equals, vec![value.clone()])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return fail(format!("{other:?} is not a valid label selector operator")),
            };
            let values = expression.values.clone().unwrap_or_default();
            out.requirements.push(requirement(&expression.key, operator, values)?);
        }
        out.requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(out)
    }

    /// [`Self::from_typed`] of the dynamic form of a `metav1.LabelSelector`.
    pub fn from_value(value: &Value) -> Result<Self, SelectorError> {
        let typed =
            serde::Deserialize::deserialize(value).map_err(|e: serde_json::Error| SelectorError(e.to_string()))?;
        let typed: Option<meta::LabelSelector> = typed;
        Self::from_typed(typed.as_ref())
    }

    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// The same where the labels are something else than a map of texts.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.holds(label(&r.key)))
    }
}

impl Requirement {
    fn holds(&self, label: Option<&str>) -> bool {
        let listed = |label: &str| self.values.iter().any(|v| v == label);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => label.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !label.is_some_and(listed),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let number = |text: &str| text.parse::<i64>().ok();
                let (Some(label), Some(limit)) = (label.and_then(number), self.values.first().and_then(|v| number(v)))
                else {
                    return false;
                };
                if self.operator == Operator::GreaterThan { label > limit } else { label < limit }
            }
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::Exists => f.write_str(key),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

fn check_key(key: &str) -> Result<(), SelectorError> {
    let errors = names::qualified_name(key);
    if errors.is_empty() {
        return Ok(());
    }
    fail(format!("key: Invalid value: {}: {}", go_quote(key), errors.join("; ")))
}

fn requirement(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Requirement, SelectorError> {
    check_key(key)?;
    let shown = || serde_json::to_string(&values).unwrap_or_default();
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            return fail("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty");
        }
        Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
            return fail(format!(
                "values: Invalid value: {}: exact-match compatibility requires one single value",
                shown()
            ));
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            return fail(format!(
                "values: Invalid value: {}: values set must be empty for exists and does not exist",
                shown()
            ));
        }
        Operator::GreaterThan | Operator::LessThan => {
            if values.len() != 1 {
                return fail(format!(
                    "values: Invalid value: {}: for 'Gt', 'Lt' operators, exactly one value is required",
                    shown()
                ));
            }
            if values[0].parse::<i64>().is_err() {
                return fail(format!(
                    "values[0]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an integer",
                    go_quote(&values[0])
                ));
            }
        }
        _ => {}
    }
    for (i, value) in values.iter().enumerate() {
        let errors = names::label_value(value);
        if !errors.is_empty() {
            return fail(format!("values[{i}][{key}]: Invalid value: {}: {}", go_quote(value), errors.join("; ")));
        }
    }
    values.sort();
    values.dedup();
    Ok(Requirement { key: key.to_owned(), operator, values })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    End,
    Error,
    Identifier,
    Open,
    Close,
    Comma,
    Not,
    Op(Operator),
}

/// A recursive descent over the tokens of the text form.
struct Parser {
    tokens: Vec<(Token, String)>,
    at: usize,
}

fn symbol(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::Close,
        "(" => Token::Open,
        "," => Token::Comma,
        "!" => Token::Not,
        "=" => Token::Op(Operator::Equals),
        "==" => Token::Op(Operator::DoubleEquals),
        "!=" => Token::Op(Operator::NotEquals),
        ">" => Token::Op(Operator::GreaterThan),
        "<" => Token::Op(Operator::LessThan),
        _ => return None,
    })
}

fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

impl Parser {
    fn new(text: &str) -> Self {
        let mut tokens = Vec::new();
        let mut rest = text.trim_start_matches(is_space);
        while let Some(first) = rest.chars().next() {
            let (token, len) = if is_special(first) {
                // The longest symbol: all have one or two characters.
                let two = rest.get(..2).and_then(symbol).map(|t| (t, 2));
                two.or_else(|| symbol(&rest[..1]).map(|t| (t, 1))).unwrap_or((Token::Error, 1))
            } else {
                let len = rest.find(|c| is_special(c) || is_space(c)).unwrap_or(rest.len());
                let token = match &rest[..len] {
                    "in" => Token::Op(Operator::In),
                    "notin" => Token::Op(Operator::NotIn),
                    _ => Token::Identifier,
                };
                (token, len)
            };
            tokens.push((token, rest[..len].to_owned()));
            rest = rest[len..].trim_start_matches(is_space);
        }
        tokens.push((Token::End, String::new()));
        Self { tokens, at: 0 }
    }

    /// The token here; where a key or value is awaited, `in` and `notin` are ordinary words.
    fn peek(&self) -> (Token, &str) {
        let (token, text) = &self.tokens[self.at.min(self.tokens.len() - 1)];
        let token = match token {
            Token::Op(Operator::In | Operator::NotIn) => Token::Identifier,
            other => *other,
        };
        (token, text)
    }

    fn next(&mut self) -> (Token, String) {
        let (token, text) = self.peek();
        let out = (token, text.to_owned());
        self.at += 1;
        out
    }

    fn parse(mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut out = Vec::new();
        loop {
            match self.peek() {
                (Token::Identifier | Token::Not, _) => {
                    let one = self.requirement().or_else(|e| fail(format!("unable to parse requirement: {e}")))?;
                    out.push(one);
                    match self.next() {
                        (Token::End, _) => return Ok(out),
                        (Token::Comma, _) => match self.peek() {
                            (Token::Identifier | Token::Not, _) => {}
                            (_, text) => return fail(format!("found '{text}', expected: identifier after ','")),
                        },
                        (_, text) => return fail(format!("found '{text}', expected: ',' or 'end of string'")),
                    }
                }
                (Token::End, _) => return Ok(out),
                (_, text) => return fail(format!("found '{text}', expected: !, identifier, or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let (mut token, mut key) = self.next();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.next();
        }
        if token != Token::Identifier {
            return fail(format!("found '{key}', expected: identifier"));
        }
        let errors = names::qualified_name(&key);
        if !errors.is_empty() {
            return fail(format!("<nil>: Invalid value: {}: {}", go_quote(&key), errors.join("; ")));
        }
        if negated {
            return requirement(&key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return requirement(&key, Operator::Exists, Vec::new());
        }
        let (token, text) = self.tokens[self.at.min(self.tokens.len() - 1)].clone();
        self.at += 1;
        let Token::Op(operator) = token else {
            return fail(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt"));
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => self.exact_value()?,
        };
        requirement(&key, operator, values)
    }

    fn exact_value(&mut self) -> Result<Vec<String>, SelectorError> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(vec![String::new()]);
        }
        match self.next() {
            (Token::Identifier, text) => Ok(vec![text]),
            (_, text) => fail(format!("found '{text}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        let (token, text) = self.next();
        if token != Token::Open {
            return fail(format!("found '{text}' expected: '('"));
        }
        let mut values = Vec::new();
        let mut awaits_value = true;
        loop {
            match self.next() {
                (Token::Identifier, text) if awaits_value => {
                    values.push(text);
                    awaits_value = false;
                }
                // An empty place counts as the empty value: `(,a)`, `(a,,b)`, `()`.
                (Token::Comma, _) => {
                    if awaits_value {
                        values.push(String::new());
                    }
                    awaits_value = true;
                }
                (Token::Close, _) => {
                    if awaits_value {
                        values.push(String::new());
                    }
                    return Ok(values);
                }
                (_, text) if awaits_value => return fail(format!("found '{text}', expected: ',', ')' or identifier")),
                (_, text) => return fail(format!("found '{text}', expected: ',' or ')'")),
            }
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split(',')
            .filter(|t| !t.is_empty())
            .filter_map(|t| t.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }

    #[test]
    fn label_selectors_match() {
        for (selector, back, matching, other) in [
            ("", "", "a=b", ""),
            ("a=b", "a=b", "a=b,c=d", "a=c"),
            ("a==b", "a==b", "a=b", ""),
            ("a!=b", "a!=b", "c=d", "a=b"),
            ("a in (x, y)", "a in (x,y)", "a=y", "a=z"),
            ("a notin (y,x)", "a notin (x,y)", "", "a=y"),
            ("a", "a", "a=", "b=a"),
            ("!a", "!a", "b=a", "a="),
            ("a>1,a<5", "a>1,a<5", "a=3", "a=5"),
            ("z=1, b", "b,z=1", "z=1,b=", "z=1"),
            ("a=", "a=", "a=", "a=b"),
            ("in in (in,notin)", "in in (in,notin)", "in=in", "in=x"),
            ("a in (,x)", "a in (,x)", "a=", "a=y"),
            ("a in ()", "a in ()", "a=", "a=y"),
        ] {
            let parsed = LabelSelector::parse(selector).unwrap_or_else(|e| panic!("{selector}: {e}"));
            assert_eq!(parsed.to_string(), back, "{selector}");
            assert!(parsed.matches(&labels(matching)), "{selector} must match {matching}");
            if !other.is_empty() {
                assert!(!parsed.matches(&labels(other)), "{selector} must not match {other}");
            }
        }
        assert!(!LabelSelector::nothing().matches(&labels("a=b")));
    }

    #[test]
    fn label_selector_errors() {
        for (selector, message) in [
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("a=b,", "found '', expected: identifier after ','"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("a in x", "unable to parse requirement: found 'x' expected: '('"),
            ("a in (x", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            ("a=(", "unable to parse requirement: found '(', expected: identifier"),
        ] {
            assert_eq!(LabelSelector::parse(selector).expect_err(selector).to_string(), message, "{selector}");
        }
        let error = LabelSelector::parse("a=-b").expect_err("bad value").to_string();
        assert!(error.starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label"));
    }

    #[test]
    fn typed_label_selectors() {
        let selector = json!({"matchLabels": {"b": "1"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"}]});
        let parsed = LabelSelector::from_value(&selector).expect("valid");
        assert_eq!(parsed.to_string(), "a in (x,y),b=1,!c");
        assert!(LabelSelector::from_value(&json!({})).expect("empty").is_everything());
        assert_eq!(LabelSelector::from_value(&Value::Null).expect("none"), LabelSelector::nothing());
        assert!(LabelSelector::from_value(&json!({"matchExpressions": [{"key": "a", "operator": "Gt"}]})).is_err());
    }

    #[test]
    fn field_selectors() {
        let parsed = FieldSelector::parse(r"metadata.name=a\,b,spec.nodeName!=n,x==y").expect("valid");
        assert_eq!(parsed.to_string(), r"metadata.name=a\,b,spec.nodeName!=n,x=y");
        let value = |f: &str| {
            Some(
                if f == "metadata.name" {
                    "a,b"
                } else if f == "x" {
                    "y"
                } else {
                    ""
                }
                .to_owned(),
            )
        };
        assert!(parsed.matches(value));
        assert_eq!(parsed.requires_exact("metadata.name"), Some("a,b"));
        assert_eq!(parsed.requires_exact("spec.nodeName"), None);
        for (bad, message) in [
            ("a", "invalid selector: 'a'; can't understand 'a'"),
            (r"a=b\c", r"invalid field selector: invalid escape sequence: \c"),
        ] {
            assert_eq!(FieldSelector::parse(bad).expect_err(bad).to_string(), message);
        }
        let selector = FieldSelector::parse("spec.foo=1").expect("valid");
        assert_eq!(
            selector.check_fields(&["spec.nodeName"]).expect_err("unknown").to_string(),
            "field label not supported: spec.foo"
        );
        assert_eq!(
            selector.check_fields(&[]).expect_err("unknown").to_string(),
            r#""spec.foo" is not a known field selector: only "metadata.name", "metadata.namespace""#
        );
    }
}
