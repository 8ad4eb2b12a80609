//! The walk over a parsed text with the types at hand: prunes, drops what means absence, notes what is unknown or came
//! twice, and says what has a wrong type as Go's JSON decoder says it.

use std::cell::RefCell;
use std::fmt::Write as _;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::scalar;
use crate::schema::{ObjectType, Scalar, Type};

/// Upstream says no more of a document, however much is wrong.
const MAX_STRICT: usize = 100;

/// What a walk found, beside the value.
#[derive(Debug, Default)]
pub struct Report<'a> {
    /// Sentences in the order of the document.
    pub strict: Vec<String>,
    /// The first wrong type or value.
    pub failure: Option<String>,
    /// `spec.containers[0].image`
    path: String,
    /// `spec.containers.image`: fields only, without what is inside maps.
    go_path: String,
    /// The Go struct that the last field of `go_path` belongs to.
    go_struct: &'a str,
}

impl Report<'_> {
    fn note(&mut self, what: &str, name: &str) {
        if self.strict.len() >= MAX_STRICT {
            return;
        }
        let dot = if self.path.is_empty() { "" } else { "." };
        let sentence = format!("{what} field \"{}{dot}{name}\"", self.path);
        if !self.strict.contains(&sentence) {
            self.strict.push(sentence);
        }
    }

    fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    fn mismatch(&mut self, found: &str, ty: &Type) {
        let go = go_type(ty);
        let place = match self.go_path.as_str() {
            "" => format!("value of type {go}"),
            path => format!("struct field {}.{path} of type {go}", self.go_struct),
        };
        self.fail(format!("json: cannot unmarshal {found} into Go {place}"));
    }
}

/// Go's name of the type, as it stands in error texts.
fn go_type(ty: &Type) -> String {
    match ty {
        Type::Scalar(Scalar::String) => "string".into(),
        Type::Scalar(Scalar::Bool) => "bool".into(),
        Type::Scalar(Scalar::Int32) => "int32".into(),
        Type::Scalar(Scalar::Int64) => "int64".into(),
        Type::Scalar(Scalar::Double) => "float64".into(),
        Type::Scalar(Scalar::Bytes) => "[]uint8".into(),
        Type::Scalar(Scalar::Time) => "v1.Time".into(),
        Type::Scalar(Scalar::MicroTime) => "v1.MicroTime".into(),
        Type::Scalar(Scalar::Quantity) => "resource.Quantity".into(),
        Type::Scalar(Scalar::IntOrString) => "intstr.IntOrString".into(),
        Type::Any => "runtime.RawExtension".into(),
        Type::List(list) => format!("[]{}", go_type(&list.item)),
        Type::Map(values) => format!("map[string]{}", go_type(values)),
        Type::OrAny(_) | Type::Object(_) | Type::Builtin(_) => ty.object().map_or(String::new(), |object| {
            let mut segments = object.name.rsplit('.');
            let name = segments.next().unwrap_or_default();
            segments.next().map_or_else(|| name.to_owned(), |version| format!("{version}.{name}"))
        }),
    }
}

/// Reads one value; a `null` stays one, and whoever asked decides what it means.
#[derive(Clone, Copy)]
pub struct Seed<'a, 'r> {
    /// `None`: anything.
    pub ty: Option<&'a Type>,
    pub report: &'r RefCell<Report<'a>>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a, 'r> Seed<'a, 'r> {
    /// The type, unless anything goes.
    fn known(&self) -> Option<&'a Type> {
        self.ty.filter(|ty| !matches!(ty, Type::Any))
    }

    fn scalar(self, value: Value, found: &str) -> Value {
        let Some(ty) = self.known() else { return value };
        let result = match ty {
            Type::Scalar(scalar) => scalar::read(*scalar, value),
            Type::OrAny(_) => return value,
            _ => Err(scalar::Refused::Type),
        };
        match result {
            Ok(value) => value,
            Err(scalar::Refused::Type) => {
                self.report.borrow_mut().mismatch(found, ty);
                Value::Null
            }
            Err(scalar::Refused::Value(why)) => {
                self.report.borrow_mut().fail(why);
                Value::Null
            }
        }
    }

    fn fields<'de, A: MapAccess<'de>>(self, object: &'a ObjectType, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        let mut seen = vec![false; object.fields.len()];
        while let Some(name) = map.next_key::<String>()? {
            let Ok(at) = object.fields.binary_search_by(|field| (*field.name).cmp(name.as_str())) else {
                if object.preserve_unknown {
                    let value = self.within(&name, None, |seed| map.next_value_seed(seed))?;
                    if values.insert(name.clone(), value).is_some() {
                        self.report.borrow_mut().note("duplicate", &name);
                    }
                } else {
                    map.next_value::<IgnoredAny>()?;
                    self.report.borrow_mut().note("unknown", &name);
                }
                continue;
            };
            if std::mem::replace(&mut seen[at], true) {
                self.report.borrow_mut().note("duplicate", &name);
            }
            let field = &object.fields[at];
            let value = self.field(object, &name, &field.ty, &mut map)?;
            if value.is_null() && !matches!(field.ty, Type::Any) || field.drop_zero && is_zero(&value) {
                values.remove(&name);
            } else {
                values.insert(name, value);
            }
        }
        Ok(Value::Object(values))
    }

    fn field<'de, A: MapAccess<'de>>(
        self,
        object: &'a ObjectType,
        name: &str,
        ty: &'a Type,
        map: &mut A,
    ) -> Result<Value, A::Error> {
        let (go_length, go_struct) = {
            let report = &mut *self.report.borrow_mut();
            let length = report.go_path.len();
            if length > 0 {
                report.go_path.push('.');
            }
            report.go_path.push_str(name);
            let of = object.name.rsplit('.').next().unwrap_or_default();
            (length, std::mem::replace(&mut report.go_struct, of))
        };
        let value = self.within(name, Some(ty), |seed| map.next_value_seed(seed));
        let report = &mut *self.report.borrow_mut();
        report.go_path.truncate(go_length);
        report.go_struct = go_struct;
        value
    }

    fn entries<'de, A: MapAccess<'de>>(self, ty: Option<&'a Type>, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = self.within(&key, ty, |seed| map.next_value_seed(seed))?;
            let value = if value.is_null() { zero(ty) } else { value };
            if values.contains_key(&key) {
                self.report.borrow_mut().note("duplicate", &key);
            }
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }

    /// Runs `read` one level deeper in the path.
    fn within<T>(self, name: &str, ty: Option<&'a Type>, read: impl FnOnce(Self) -> T) -> T {
        let length = {
            let path = &mut self.report.borrow_mut().path;
            let length = path.len();
            if length > 0 {
                path.push('.');
            }
            path.push_str(name);
            length
        };
        let value = read(Seed { ty, report: self.report });
        self.report.borrow_mut().path.truncate(length);
        value
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(self.scalar(Value::Bool(value), "bool"))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(self.number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(self.number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, |number| self.number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(self.scalar(Value::String(value.to_owned()), "string"))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(self.scalar(Value::String(value), "string"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let item = match self.known() {
            None | Some(Type::OrAny(_)) => None,
            Some(Type::List(list)) => Some(&list.item),
            Some(ty) => {
                self.report.borrow_mut().mismatch("array", ty);
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Value::Null);
            }
        };
        let length = self.report.borrow().path.len();
        let mut values = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(1024));
        loop {
            {
                let path = &mut self.report.borrow_mut().path;
                path.truncate(length);
                write!(path, "[{}]", values.len()).expect("writing to memory");
            }
            match seq.next_element_seed(Seed { ty: item, report: self.report })? {
                Some(Value::Null) => values.push(zero(item)),
                Some(value) => values.push(value),
                None => break,
            }
        }
        self.report.borrow_mut().path.truncate(length);
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        match self.known() {
            None => self.entries(None, map),
            Some(Type::Map(values)) => self.entries(Some(values), map),
            Some(ty) => match ty.object() {
                Some(object) => self.fields(object, map),
                None => {
                    self.report.borrow_mut().mismatch("object", ty);
                    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                    Ok(Value::Null)
                }
            },
        }
    }
}

impl Seed<'_, '_> {
    fn number(self, value: Number) -> Value {
        // Go names the literal where the type is a number and the literal doesn't fit it.
        let found = match self.ty {
            Some(Type::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double)) => format!("number {value}"),
            _ => "number".to_owned(),
        };
        self.scalar(Value::Number(value), &found)
    }
}

/// What Go makes of `null` where there is no pointer to leave empty: in lists and maps.
fn zero(ty: Option<&Type>) -> Value {
    match ty {
        Some(Type::Scalar(Scalar::String)) => Value::String(String::new()),
        Some(Type::Object(_) | Type::Builtin(_)) => Value::Object(Map::new()),
        _ => Value::Null,
    }
}

/// The value that `omitempty` leaves out.
pub fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(bool) => !bool,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
    }
}

/// Reads a JSON text.
pub fn text<'a>(body: &[u8], ty: Option<&'a Type>) -> Result<(Value, Report<'a>), serde_json::Error> {
    let report = RefCell::new(Report::default());
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = Seed { ty, report: &report }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, report.into_inner()))
}

/// Walks over a value.
pub fn value(value: Value, ty: Option<&Type>) -> (Value, Report<'_>) {
    let report = RefCell::new(Report::default());
    let value = Seed { ty, report: &report }.deserialize(value).unwrap_or(Value::Null);
    (value, report.into_inner())
}

/// What `apiVersion` and `kind` are, without anything else.
pub fn kind_of(value: &Value) -> (Option<&str>, Option<&str>) {
    let text = |field: &str| value.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    (text("apiVersion"), text("kind"))
}
