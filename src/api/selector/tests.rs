//! Tables of selectors: what they match, and what is said of wrong ones.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

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
