//! What a value is to server-side apply: owned as one, or by its parts.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::element::Element;
use crate::schema::{Field, ListKind, ListType, ObjectType, Type};

static NULL: Value = Value::Null;
static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));

/// Structs that Go embeds by value though the schema calls them optional: an object that holds the outer struct holds
/// them, too. Those that are required need no mention, nor `metadata`, `spec` and `status`.
const BY_VALUE: [(&str, &str); 21] = [
    ("AllocationResult", "devices"),
    ("Container", "resources"),
    ("ContainerStatus", "lastState"),
    ("ContainerStatus", "state"),
    ("DaemonSetSpec", "updateStrategy"),
    ("DeploymentSpec", "strategy"),
    ("Endpoint", "conditions"),
    ("EphemeralContainer", "resources"),
    ("Event", "deprecatedSource"),
    ("Event", "regarding"),
    ("Event", "source"),
    ("IngressServiceBackend", "port"),
    ("IngressStatus", "loadBalancer"),
    ("LimitedPriorityLevelConfiguration", "limitResponse"),
    ("NodeDaemonEndpoints", "kubeletEndpoint"),
    ("NodeStatus", "daemonEndpoints"),
    ("NodeStatus", "nodeInfo"),
    ("PersistentVolumeClaimSpec", "resources"),
    ("PodTemplate", "template"),
    ("ReplicaSetSpec", "template"),
    ("ServiceStatus", "loadBalancer"),
];

/// A type at its place in an object.
#[derive(Debug, Clone, Copy)]
pub struct Typed<'a> {
    /// `None`: deduced from the value.
    ty: Option<&'a Type>,
    /// The field says that the value is owned as a whole.
    atomic: bool,
    /// The objects are Go structs to their clients, in which some fields are always there.
    structs: bool,
}

/// How a value is owned.
pub enum Shape<'a> {
    /// As a whole: scalars, atomic lists and maps.
    Leaf,
    Fields(&'a ObjectType),
    Map,
    List(&'a ListType),
}

impl<'a> Typed<'a> {
    /// The type of a whole object; without one, everything is deduced.
    pub fn root(ty: Option<&'a Type>) -> Self {
        Self { ty, atomic: false, structs: matches!(ty, Some(Type::Builtin(_))) }
    }

    fn deduced(self) -> Self {
        Self { ty: None, atomic: false, ..self }
    }

    /// The shape of a value. `null` and what is absent take any: what the type alone says.
    pub fn shape(self, value: &Value) -> Shape<'a> {
        let fits = |is: bool| is || value.is_null();
        match self.ty {
            _ if self.atomic => Shape::Leaf,
            None | Some(Type::Any | Type::OrAny(_)) if value.is_object() => Shape::Map,
            Some(Type::List(list)) if list.kind != ListKind::Atomic && fits(value.is_array()) => Shape::List(list),
            Some(Type::Map(_)) if fits(value.is_object()) => Shape::Map,
            Some(ty @ (Type::Object(_) | Type::Builtin(_))) if fits(value.is_object()) => match ty.object() {
                Some(object) if !object.atomic => Shape::Fields(object),
                _ => Shape::Leaf,
            },
            _ => Shape::Leaf,
        }
    }

    /// The type of an entry of a map or an object.
    pub fn entry(self, name: &str) -> Self {
        match self.ty {
            Some(Type::Map(values)) => Self { ty: Some(values), atomic: false, ..self },
            Some(ty @ (Type::Object(_) | Type::Builtin(_))) => match ty.object().and_then(|o| o.field(name)) {
                Some(field) => Self { ty: Some(&field.ty), atomic: field.atomic, ..self },
                None => self.deduced(),
            },
            _ => self.deduced(),
        }
    }

    /// Whether the type names the field, as opposed to a key of a map.
    pub fn declares(self, name: &str) -> bool {
        self.known_object().is_some_and(|object| object.field(name).is_some())
    }

    pub fn known_object(self) -> Option<&'a ObjectType> {
        match self.ty {
            Some(ty @ (Type::Object(_) | Type::Builtin(_))) => ty.object(),
            _ => None,
        }
    }

    pub fn ty(self) -> Option<&'a Type> {
        self.ty
    }

    /// The type of a list's items.
    pub fn item(self) -> Self {
        match self.ty {
            Some(Type::List(list)) => Self { ty: Some(&list.item), atomic: false, ..self },
            _ => self.deduced(),
        }
    }

    /// What a field that is not in the JSON is in Go, where the struct around it is there.
    pub fn implied(self, field: &Field) -> Option<&'static Value> {
        let is_struct = matches!(field.ty, Type::Builtin(_));
        let by_value = || {
            let owner = self.known_object().map_or("", |object| object.name.rsplit('.').next().unwrap_or_default());
            matches!(&*field.name, "metadata" | "spec" | "status") || BY_VALUE.contains(&(owner, &field.name))
        };
        match (self.structs, is_struct, field.required) {
            (true, true, required) => (required || by_value()).then(|| &*EMPTY),
            (true, false, true) => Some(&NULL),
            _ => None,
        }
    }
}

/// The element of a list's item, or upstream's words on why it has none.
pub fn element_of(list: &ListType, item: &Value) -> Result<Element, String> {
    if list.kind == ListKind::Set {
        return match item {
            Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
            Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
            scalar => Ok(Element::Value(scalar.clone())),
        };
    }
    let entries = match item {
        Value::Object(entries) => entries,
        Value::Null => return Err("associative list with keys may not have a null element".into()),
        _ => return Err("associative list with keys may not have non-map elements".into()),
    };
    let mut fields = Vec::with_capacity(list.keys.len());
    for key in &list.keys {
        let default = || {
            let field = list.item.object()?.field(key)?;
            serde_json::from_str(field.default.as_deref()?).ok()
        };
        if let Some(value) = entries.get(&**key).cloned().or_else(default) {
            fields.push((Box::from(&**key), value));
        }
    }
    if fields.is_empty() && !list.keys.is_empty() {
        let keys: Vec<String> = list.keys.iter().map(|key| format!("{key:?}")).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values \
             for any key fields)",
            keys.join(" ")
        ));
    }
    Ok(Element::key(fields))
}

/// A JSON object's entries; none of anything else.
pub fn entries(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

/// A JSON list's items; none of anything else.
pub fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether a value has no parts: absent, null, `[]`, `{}`.
pub fn is_hollow(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(entries)) => entries.is_empty(),
        _ => false,
    }
}
