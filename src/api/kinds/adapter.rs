//! From a [`Kind`], written against its typed object, to the [`Strategy`] that the request path sees.

use std::marker::PhantomData;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::field::{Errors, Path};
use crate::kinds::facts::Facts;
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::Row;
use crate::metadata;
use crate::resource::{Gvk, Gvr};
use crate::status::Cause;
use crate::strategy::{Descriptor, Strategy};

/// The value of a field selector's field.
pub(crate) type FieldOf = fn(&Value) -> String;

/// A built-in kind: its facts, and the hooks in which it differs from others.
///
/// The adapter has already done what all kinds share: the metadata is checked; on create the status
/// is dropped and the generation is 1; on update status and generation are kept; on a status
/// update everything but the status is kept.
pub(crate) trait Kind: Send + Sync + 'static {
    type Typed: DeserializeOwned;
    const FACTS: Facts;
    /// Field selectors beyond `metadata.*`.
    const FIELDS: &'static [(&'static str, FieldOf)] = &[];
    /// [`Self::FIELDS`]' names.
    const FIELD_LABELS: &'static [&'static str] = &[];

    fn default(_object: &mut Value) {}
    fn prepare_create(_object: &mut Value) {}
    fn prepare_update(_object: &mut Value, _old: &Value) {}
    fn prepare_status_update(_object: &mut Value, _old: &Value) {}
    fn validate(_object: &Self::Typed, _errors: &mut Errors) {}
    /// At creation; `raw` is the same object, for what the typed form can't tell: absent or only empty.
    fn validate_create(object: &Self::Typed, _raw: &Value, errors: &mut Errors) {
        Self::validate(object, errors);
    }
    /// Only called where more than metadata and status changed.
    fn validate_update(object: &Self::Typed, _old: &Self::Typed, errors: &mut Errors) {
        Self::validate(object, errors);
    }
    /// Whether `validate` looks at annotations, so that a change of those is one.
    const VALIDATES_ANNOTATIONS: bool = false;
    /// Whether `validate_status_update` does anything: the typed forms are parsed only then.
    const VALIDATES_STATUS: bool = false;
    fn validate_status_update(_object: &Self::Typed, _old: &Self::Typed, _errors: &mut Errors) {}
    /// `object` is `old` but for what the part may change, which is taken over from `wanted`.
    fn take_part(_part: &str, _object: &mut Value, _wanted: &Value) {}
    fn validate_part_update(_part: &str, _object: &Self::Typed, _old: &Self::Typed, _errors: &mut Errors) {}
    fn warnings(_object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }
    /// The same where only the status is written.
    fn status_warnings(_object: &Value) -> Vec<String> {
        Vec::new()
    }
    fn grace_period_s(_object: &Value, _asked: Option<i64>) -> Option<i64> {
        None
    }
    /// What to tell clients that still use this version.
    fn deprecation() -> Option<&'static str> {
        None
    }
    /// Whether the stored form is another version's; then the two below translate.
    const CONVERTS: bool = false;
    fn encode_stored(_object: &mut Value) {}
    fn decode_stored(_object: &mut Value) {}
    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.age(object);
    }
}

/// The row of a kind.
pub(crate) fn describe<K: Kind>() -> Descriptor {
    let facts = K::FACTS;
    let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<String>>();
    let storage = match (facts.storage, facts.group) {
        (Some(storage), _) => storage.to_owned(),
        (None, "") => facts.resource.to_owned(),
        (None, group) => format!("{group}/{}", facts.resource),
    };
    Descriptor {
        gvr: Gvr::new(facts.group, facts.version, facts.resource),
        gvk: Gvk::new(facts.group, facts.version, facts.kind),
        list_kind: format!("{}List", facts.kind),
        singular: facts.kind.to_lowercase(),
        short_names: own(facts.short_names),
        categories: own(facts.categories),
        namespaced: facts.namespaced,
        subresources: facts.subresources.to_vec(),
        verbs: own(facts.verbs),
        columns: facts.columns.iter().map(super::facts::Col::to_column).collect(),
        strategy: Arc::new(Adapter::<K>(PhantomData)),
        storage,
    }
}

struct Adapter<K>(PhantomData<fn() -> K>);

impl<K: Kind> Adapter<K> {
    fn parse(value: &Value, errors: &mut Errors) -> Option<K::Typed> {
        match K::Typed::deserialize(value) {
            Ok(typed) => Some(typed),
            Err(error) => {
                errors.type_invalid(&Path::new("<object>"), "", &error.to_string());
                None
            }
        }
    }
}

impl<K: Kind> Strategy for Adapter<K> {
    fn default(&self, object: &mut Value) {
        K::default(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        let facts = &K::FACTS;
        if let (true, Some(map)) = (facts.has_status() && !facts.status_on_create, object.as_object_mut()) {
            map.insert("status".to_owned(), Value::Object(Map::new()));
        }
        metadata::prepare_create(object);
        if facts.generation {
            set_generation(object, 1);
        }
        K::prepare_create(object);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        let facts = &K::FACTS;
        if facts.has_status() {
            keep(object, old, "status");
        }
        metadata::prepare_update(object, old);
        K::prepare_update(object, old);
        if facts.generation && content_differs(object, old) {
            bump_generation(object, old);
        }
    }

    fn prepare_status_update(&self, object: &mut Value, old: &Value) {
        let (Some(map), Some(old_map)) = (object.as_object_mut(), old.as_object()) else { return };
        map.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
        for (key, value) in old_map {
            if !matches!(key.as_str(), "metadata" | "status") {
                map.insert(key.clone(), value.clone());
            }
        }
        metadata::prepare_update(object, old);
        K::prepare_status_update(object, old);
    }

    fn validate(&self, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        metadata::validate(object.at("metadata"), K::FACTS.namespaced, K::FACTS.name, &mut errors);
        metadata::validate_builtin_finalizers(object.at("metadata"), &mut errors);
        if let Some(typed) = Self::parse(object, &mut errors) {
            K::validate_create(&typed, object, &mut errors);
        }
        errors.into_causes()
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        metadata::validate_update(object.at("metadata"), old.at("metadata"), &mut errors);
        metadata::validate_builtin_finalizers(object.at("metadata"), &mut errors);
        // What did not change was good enough when it came in.
        let annotations = |o: &Value| o.at("metadata").get("annotations").cloned();
        if content_differs(object, old) || K::VALIDATES_ANNOTATIONS && annotations(object) != annotations(old) {
            let typed = Self::parse(object, &mut errors).zip(Self::parse(old, &mut errors));
            if let Some((typed, old)) = typed {
                K::validate_update(&typed, &old, &mut errors);
            }
        }
        errors.into_causes()
    }

    fn validate_status_update(&self, object: &Value, old: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        metadata::validate_update(object.at("metadata"), old.at("metadata"), &mut errors);
        metadata::validate_builtin_finalizers(object.at("metadata"), &mut errors);
        if K::VALIDATES_STATUS && object.get("status") != old.get("status") {
            let typed = Self::parse(object, &mut errors).zip(Self::parse(old, &mut errors));
            if let Some((typed, old)) = typed {
                K::validate_status_update(&typed, &old, &mut errors);
            }
        }
        errors.into_causes()
    }

    fn prepare_part_update(&self, part: &str, object: &mut Value, old: &Value) {
        let wanted = std::mem::replace(object, old.clone());
        K::take_part(part, object, &wanted);
        if K::FACTS.generation && content_differs(object, old) {
            bump_generation(object, old);
        }
    }

    fn validate_part_update(&self, part: &str, object: &Value, old: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        if content_differs(object, old)
            && let Some((typed, old)) = Self::parse(object, &mut errors).zip(Self::parse(old, &mut errors))
        {
            K::validate_part_update(part, &typed, &old, &mut errors);
        }
        errors.into_causes()
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        K::warnings(object, old)
    }

    fn status_warnings(&self, object: &Value) -> Vec<String> {
        K::status_warnings(object)
    }

    fn grace_period_s(&self, object: &Value, asked: Option<i64>) -> Option<i64> {
        K::grace_period_s(object, asked)
    }

    fn allow_create_on_update(&self) -> bool {
        K::FACTS.create_on_update
    }

    fn allow_unconditional_update(&self) -> bool {
        K::FACTS.unconditional_update
    }

    fn field(&self, object: &Value, path: &str) -> Option<String> {
        K::FIELDS.iter().find(|(name, _)| *name == path).map(|(_, of)| of(object))
    }

    fn field_labels(&self) -> Vec<&str> {
        K::FIELD_LABELS.to_vec()
    }

    fn field_index(&self, path: &str) -> Option<usize> {
        K::FIELD_LABELS.iter().position(|label| *label == path)
    }

    fn deprecation(&self) -> Option<&str> {
        K::deprecation()
    }

    fn converts(&self) -> bool {
        K::CONVERTS
    }

    fn encode_stored(&self, object: &mut Value) {
        K::encode_stored(object);
    }

    fn decode_stored(&self, object: &mut Value) {
        K::decode_stored(object);
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let mut row = Row::new(now, K::FACTS.columns.len());
        K::cells(object, &mut row);
        row.into_cells()
    }
}

fn keep(object: &mut Value, old: &Value, key: &str) {
    let Some(map) = object.as_object_mut() else { return };
    match old.get(key) {
        Some(value) => map.insert(key.to_owned(), value.clone()),
        None => map.remove(key),
    };
}

fn set_generation(object: &mut Value, generation: i64) {
    if let Some(meta) = object.as_object_mut().and_then(|o| o.existing("metadata")) {
        meta.insert("generation".to_owned(), generation.into());
    }
}

/// To be called at most in effect once: the new number follows from the old object's.
pub(crate) fn bump_generation(object: &mut Value, old: &Value) {
    set_generation(object, old.int("metadata.generation") + 1);
}

/// For kinds whose status updates may not change labels.
pub(crate) fn keep_labels(object: &mut Value, old: &Value) {
    let Some(meta) = object.as_object_mut().and_then(|o| o.existing("metadata")) else { return };
    match old.at("metadata").get("labels") {
        Some(labels) => meta.insert("labels".to_owned(), labels.clone()),
        None => meta.remove("labels"),
    };
}

/// For kinds whose status updates may change nothing of the metadata.
pub(crate) fn keep_meta(object: &mut Value, old: &Value) {
    let Some(meta) = object.as_object_mut().and_then(|o| o.existing("metadata")) else { return };
    for field in ["annotations", "finalizers", "labels", "ownerReferences"] {
        match old.at("metadata").get(field) {
            Some(value) => meta.insert(field.to_owned(), value.clone()),
            None => meta.remove(field),
        };
    }
}

/// Whether anything but metadata, status and the type's name differs.
fn content_differs(object: &Value, old: &Value) -> bool {
    let content = |map: &Map<String, Value>| map.keys().filter(|k| is_content(k)).count();
    match (object.as_object(), old.as_object()) {
        (Some(new), Some(old)) => {
            content(new) != content(old) || new.iter().any(|(k, v)| is_content(k) && old.get(k) != Some(v))
        }
        _ => true,
    }
}

fn is_content(key: &str) -> bool {
    !matches!(key, "apiVersion" | "kind" | "metadata" | "status")
}
