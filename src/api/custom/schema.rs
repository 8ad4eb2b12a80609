//! The structural schema of one version, read once from `openAPIV3Schema` and shared by all who look at the kind.
//!
//! Only what the machinery acts on is kept: descriptions, examples and rules of expression languages stay in the
//! CustomResourceDefinition, which documents are made from.

use std::sync::OnceLock;

use regex::Regex;
use serde_json::{Map, Value};

use super::pattern;
use crate::schema::ListKind;

/// `type` of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Kind {
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// `additionalProperties`.
#[derive(Debug, Default)]
pub enum Additional {
    #[default]
    Unset,
    /// `true` or `false`.
    Allowed(bool),
    Schema(Box<Schema>),
}

/// One node.
#[derive(Debug, Default)]
pub struct Schema {
    pub kind: Option<Kind>,
    pub nullable: bool,
    pub default: Option<Box<Value>>,
    pub items: Option<Box<Schema>>,
    /// Sorted by name.
    pub properties: Vec<(Box<str>, Schema)>,
    pub additional: Additional,
    /// The `x-kubernetes-*` switches.
    pub preserve_unknown: bool,
    pub embedded: bool,
    pub int_or_string: bool,
    pub list: ListKind,
    pub list_keys: Vec<Box<str>>,
    pub atomic_map: bool,
    /// What most nodes don't have.
    pub rules: Option<Box<Rules>>,
}

/// What limits values without giving them a structure.
#[derive(Debug, Default)]
pub struct Rules {
    pub format: Box<str>,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub multiple_of: Option<f64>,
    pub max_length: Option<i64>,
    pub min_length: Option<i64>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub pattern: Option<Pattern>,
    pub choices: Vec<Value>,
    pub required: Vec<Box<str>>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Schema>,
}

/// A regular expression that is compiled when the first value comes.
#[derive(Debug)]
pub struct Pattern {
    pub text: Box<str>,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    pub fn new(text: &str) -> Self {
        Self { text: text.into(), compiled: OnceLock::new() }
    }

    /// An expression that can't be compiled matches nothing; the definition was refused for it.
    pub fn matches(&self, value: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| pattern::compile(&self.text).ok());
        compiled.as_ref().is_some_and(|pattern| pattern.is_match(value))
    }
}

impl Schema {
    pub fn parse(source: &Value) -> Self {
        let Some(source) = source.as_object() else { return Self::default() };
        let text = |key: &str| source.get(key).and_then(Value::as_str).unwrap_or("");
        let flag = |key: &str| source.get(key).and_then(Value::as_bool).unwrap_or(false);
        let mut properties: Vec<(Box<str>, Self)> = source
            .get("properties")
            .and_then(Value::as_object)
            .map(|all| all.iter().map(|(name, schema)| (name.as_str().into(), Self::parse(schema))).collect())
            .unwrap_or_default();
        properties.sort_by(|a, b| a.0.cmp(&b.0));
        Self {
            kind: Kind::parse(text("type")),
            nullable: flag("nullable"),
            default: source.get("default").filter(|value| !value.is_null()).map(|value| Box::new(value.clone())),
            items: source.get("items").filter(|items| items.is_object()).map(|items| Box::new(Self::parse(items))),
            properties,
            additional: match source.get("additionalProperties") {
                None | Some(Value::Null) => Additional::Unset,
                Some(Value::Bool(allowed)) => Additional::Allowed(*allowed),
                Some(schema) => Additional::Schema(Box::new(Self::parse(schema))),
            },
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            list: match text("x-kubernetes-list-type") {
                "set" => ListKind::Set,
                "map" => ListKind::Map,
                _ => ListKind::Atomic,
            },
            list_keys: texts(source, "x-kubernetes-list-map-keys"),
            atomic_map: text("x-kubernetes-map-type") == "atomic",
            rules: Rules::parse(source).map(Box::new),
        }
    }

    pub fn property(&self, name: &str) -> Option<&Self> {
        self.properties.binary_search_by(|(known, _)| (**known).cmp(name)).ok().map(|at| &self.properties[at].1)
    }

    /// The schema of a field that is in `properties` or covered by `additionalProperties`; the flag says that it is covered.
    pub fn field(&self, name: &str) -> (Option<&Self>, bool) {
        match (self.property(name), &self.additional) {
            (Some(schema), _) => (Some(schema), true),
            (None, Additional::Schema(schema)) => (Some(schema), true),
            (None, Additional::Allowed(_)) => (None, true),
            (None, Additional::Unset) => (None, false),
        }
    }
}

impl Rules {
    fn parse(source: &Map<String, Value>) -> Option<Self> {
        const KEYS: [&str; 19] = [
            "format",
            "maximum",
            "minimum",
            "multipleOf",
            "maxLength",
            "minLength",
            "maxItems",
            "minItems",
            "maxProperties",
            "minProperties",
            "pattern",
            "enum",
            "required",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
            "exclusiveMaximum",
            "exclusiveMinimum",
        ];
        if !source.keys().any(|key| KEYS.contains(&key.as_str())) {
            return None;
        }
        let number = |key: &str| source.get(key).and_then(Value::as_f64);
        let count = |key: &str| source.get(key).and_then(Value::as_i64);
        let flag = |key: &str| source.get(key).and_then(Value::as_bool).unwrap_or(false);
        let text = |key: &str| source.get(key).and_then(Value::as_str).unwrap_or("");
        let schemas = |key: &str| -> Vec<Schema> {
            source
                .get(key)
                .and_then(Value::as_array)
                .map(|all| all.iter().map(Schema::parse).collect())
                .unwrap_or_default()
        };
        Some(Self {
            format: text("format").into(),
            maximum: number("maximum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            minimum: number("minimum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            multiple_of: number("multipleOf"),
            max_length: count("maxLength"),
            min_length: count("minLength"),
            max_items: count("maxItems"),
            min_items: count("minItems"),
            max_properties: count("maxProperties"),
            min_properties: count("minProperties"),
            pattern: Some(text("pattern")).filter(|pattern| !pattern.is_empty()).map(Pattern::new),
            choices: source.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            required: texts(source, "required"),
            all_of: schemas("allOf"),
            any_of: schemas("anyOf"),
            one_of: schemas("oneOf"),
            not: source.get("not").filter(|not| not.is_object()).map(Schema::parse),
        })
    }
}

fn texts(source: &Map<String, Value>, key: &str) -> Vec<Box<str>> {
    let all = source.get(key).and_then(Value::as_array).into_iter().flatten();
    all.filter_map(Value::as_str).map(Into::into).collect()
}
