//! Label selectors: from their text, from labels, from the typed form; and what they match.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::Value;

use super::parser::Parser;
use super::{SelectorError, fail};
use crate::field::go_quote;
use crate::names;

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

pub(super) fn requirement(
    key: &str,
    operator: Operator,
    mut values: Vec<String>,
) -> Result<Requirement, SelectorError> {
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
