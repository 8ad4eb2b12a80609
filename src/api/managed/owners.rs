//! `metadata.managedFields`: who set which fields, when, how.

use std::cmp::Ordering;

use serde_json::{Map, Value, json};

use super::set::Set;

/// So many updaters are told apart; the oldest beyond that become one.
pub(super) const MAX_UPDATERS: usize = 10;
const OLD_UPDATES: &str = "ancient-changes";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn text(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// What one manager set by one kind of operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub manager: String,
    pub operation: Operation,
    pub api_version: String,
    /// Empty: the object itself.
    pub subresource: String,
    /// RFC 3339, seconds.
    pub time: Option<String>,
    pub fields: Set,
}

impl Owner {
    /// Whether both are one owner: an applier is the same in every version.
    pub fn is(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// `None`: no such entry is ever written.
    fn parse(entry: &Value) -> Option<Self> {
        let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
        let operation = match text("operation") {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        if text("apiVersion").is_empty() || text("fieldsType") != "FieldsV1" {
            return None;
        }
        Some(Self {
            manager: text("manager").to_owned(),
            operation,
            api_version: text("apiVersion").to_owned(),
            subresource: text("subresource").to_owned(),
            time: Some(text("time")).filter(|time| !time.is_empty()).map(str::to_owned),
            fields: Set::parse(entry.get("fieldsV1").unwrap_or(&Value::Null)).ok()?,
        })
    }

    pub(super) fn to_value(&self) -> Value {
        let mut entry = Map::new();
        for (field, text) in [
            ("manager", self.manager.as_str()),
            ("operation", self.operation.text()),
            ("apiVersion", &self.api_version),
            ("subresource", &self.subresource),
            ("time", self.time.as_deref().unwrap_or_default()),
            ("fieldsType", "FieldsV1"),
        ] {
            if !text.is_empty() {
                entry.insert(field.to_owned(), text.into());
            }
        }
        entry.insert("fieldsV1".to_owned(), self.fields.to_value());
        Value::Object(entry)
    }

    /// In messages: `"kubectl" using apps/v1`.
    pub fn shown(&self) -> String {
        let mut text = crate::field::go_quote(&self.manager);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource {}", crate::field::go_quote(&self.subresource));
        }
        if self.operation == Operation::Update {
            text += &format!(" using {}", self.api_version);
        }
        text
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |o: &Self| (o.operation, o.time.clone().unwrap_or_default());
        key(self)
            .cmp(&key(other))
            .then_with(|| self.manager.cmp(&other.manager))
            .then_with(|| self.api_version.cmp(&other.api_version))
            .then_with(|| self.subresource.cmp(&other.subresource))
    }
}

/// All owners of an object's fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners(pub Vec<Owner>);

impl Owners {
    /// `None`: the list can't be understood.
    pub fn parse(managed_fields: &Value) -> Option<Self> {
        let mut owners = Self::default();
        for entry in managed_fields.as_array().into_iter().flatten() {
            owners.put(Owner::parse(entry)?);
        }
        Some(owners)
    }

    /// Of an object; empty where it has none, or none that can be understood.
    pub fn of(object: &Value) -> Self {
        object.pointer("/metadata/managedFields").and_then(Self::parse).unwrap_or_default()
    }

    /// Puts them into an object's metadata.
    pub fn write(mut self, object: &mut Value) {
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        self.0.retain(|owner| !owner.fields.is_empty());
        if self.0.is_empty() {
            metadata.remove("managedFields");
            return;
        }
        self.0.sort_by(Owner::order);
        let entries = self.0.iter().map(Owner::to_value).collect();
        metadata.insert("managedFields".to_owned(), Value::Array(entries));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn position(&self, like: &Owner) -> Option<usize> {
        self.0.iter().position(|owner| owner.is(like))
    }

    pub fn take(&mut self, like: &Owner) -> Option<Owner> {
        self.position(like).map(|at| self.0.remove(at))
    }

    /// Replaces the entry of the same owner.
    pub fn put(&mut self, owner: Owner) {
        match self.position(&owner) {
            Some(at) => self.0[at] = owner,
            None => self.0.push(owner),
        }
    }

    /// Unites the oldest updaters, one entry for each version, until few enough are left.
    pub fn cap(&mut self) {
        let is_updater = |owner: &&Owner| owner.operation == Operation::Update;
        if self.0.iter().filter(is_updater).count() <= MAX_UPDATERS {
            return;
        }
        let mut updaters: Vec<Owner> = self.0.iter().filter(is_updater).cloned().collect();
        let age = |owner: &Owner| (owner.time.clone().unwrap_or_default(), identity(owner));
        updaters.sort_by_cached_key(age);
        let mut left = updaters.len();
        let mut first_of_version: Vec<Owner> = Vec::new();
        for updater in updaters {
            if left <= MAX_UPDATERS {
                return;
            }
            let Some(at) = first_of_version.iter().position(|first| first.api_version == updater.api_version) else {
                first_of_version.push(updater);
                continue;
            };
            let bucket = Owner {
                manager: OLD_UPDATES.to_owned(),
                subresource: String::new(),
                fields: Set::default(),
                ..updater.clone()
            };
            let mut bucket = match self.take(&bucket) {
                Some(found) => found,
                // The first one becomes the bucket.
                None => self
                    .take(&first_of_version[at])
                    .map_or(bucket.clone(), |first| Owner { fields: first.fields, ..bucket }),
            };
            bucket.fields = bucket.fields.union(updater.fields.clone());
            bucket.time = updater.time.clone();
            self.take(&updater);
            self.put(bucket);
            left -= 1;
        }
    }
}

/// As upstream's sort has it, of two of the same age.
fn identity(owner: &Owner) -> String {
    json!([owner.manager, owner.operation.text(), owner.api_version, owner.subresource]).to_string()
}

/// Whether a request's `managedFields` ask to forget all owners: there, and empty.
pub fn is_reset(managed_fields: &Value) -> bool {
    match managed_fields.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([Value::Object(one)]) => one.is_empty(),
        _ => false,
    }
}

/// Whether two lists differ in nothing but their times, in at least one of those.
pub fn only_times_differ(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_array(), b.as_array()) else { return false };
    let same_but_for_time = |a: &Value, b: &Value| match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let timeless = |map: &'_ Map<String, Value>| map.iter().filter(|(key, _)| *key != "time").count();
            timeless(a) == timeless(b) && a.iter().all(|(key, value)| key == "time" || b.get(key) == Some(value))
        }
        _ => false,
    };
    a.len() == b.len()
        && a.iter().zip(b).any(|(a, b)| a.get("time") != b.get("time"))
        && a.iter().zip(b).all(|(a, b)| same_but_for_time(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn updater(number: usize, time: usize) -> Owner {
        Owner {
            manager: format!("m{number}"),
            operation: Operation::Update,
            api_version: "v1".into(),
            subresource: String::new(),
            time: Some(format!("2024-01-01T00:00:{time:02}Z")),
            fields: Set::of_fields(&[&[&format!("f{number}")]]),
        }
    }

    #[test]
    fn the_list_returns_in_order() {
        let entry = |manager: &str, operation: &str, time: &str| {
            json!({"manager": manager, "operation": operation, "apiVersion": "v1", "time": time, "fieldsType": "FieldsV1",
                "fieldsV1": {"f:spec": {"f:a": {}}}})
        };
        let sorted = json!([
            entry("z", "Apply", "2024-01-01T00:00:09Z"),
            entry("b", "Update", "2024-01-01T00:00:01Z"),
            entry("c", "Update", "2024-01-01T00:00:01Z"),
            entry("a", "Update", "2024-01-01T00:00:02Z"),
        ]);
        let mut shuffled = sorted.as_array().expect("a list").clone();
        shuffled.reverse();
        let owners = Owners::parse(&Value::Array(shuffled)).expect("good");
        let mut object = json!({"metadata": {"name": "x"}});
        owners.clone().write(&mut object);
        assert_eq!(object["metadata"]["managedFields"], sorted);
        assert_eq!(Owners::of(&object).0.len(), 4);
        Owners::default().write(&mut object);
        assert_eq!(object, json!({"metadata": {"name": "x"}}));
        for (field, value) in
            [("operation", "Else"), ("apiVersion", ""), ("fieldsType", "FieldsV2"), ("fieldsType", "")]
        {
            let mut bad = entry("a", "Apply", "");
            bad[field] = value.into();
            assert_eq!(Owners::parse(&json!([bad])), None, "{field}");
        }
        assert!(is_reset(&json!([])) && is_reset(&json!([{}])));
        assert!(!is_reset(&Value::Null) && !is_reset(&sorted));
        let mut later = sorted.clone();
        later[1]["time"] = json!("2024-01-01T00:00:03Z");
        assert!(only_times_differ(&sorted, &later) && !only_times_differ(&sorted, &sorted));
        later[1]["fieldsV1"] = json!({"f:b": {}});
        assert!(!only_times_differ(&sorted, &later));
    }

    #[test]
    fn the_oldest_updaters_become_one() {
        let mut owners = Owners((0..13).map(|n| updater(n, n)).collect());
        owners.cap();
        assert_eq!(owners.0.len(), 10);
        let old = owners.0.iter().find(|o| o.manager == OLD_UPDATES).expect("a bucket");
        assert_eq!(old.fields, Set::of_fields(&[&["f0"], &["f1"], &["f2"], &["f3"]]));
        assert_eq!(old.time.as_deref(), Some("2024-01-01T00:00:03Z"), "of the last that went in");
        owners.put(updater(20, 20));
        owners.cap();
        assert_eq!(owners.0.len(), 10);
        let old = owners.0.iter().find(|o| o.manager == OLD_UPDATES).expect("a bucket");
        assert_eq!(old.fields.len(), 5);
        let mut few = Owners((0..10).map(|n| updater(n, n)).collect());
        few.cap();
        assert_eq!(few.0.len(), 10);
    }
}
