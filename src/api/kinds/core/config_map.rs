//! ConfigMap.

use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::facts::{AGE, Facts, NAME, text};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;
use crate::names;

pub(super) const SEALED: &str = "field is immutable when `immutable` is set";
/// What the data of a ConfigMap or Secret may hold in all.
pub(super) const DATA_MAX_B: usize = 1024 * 1024;

pub(super) struct ConfigMaps;

impl Kind for ConfigMaps {
    type Typed = core::ConfigMap;
    const FACTS: Facts = Facts {
        short_names: &["cm"],
        columns: &[NAME, text("Data", "How many entries the map has, texts and binaries."), AGE],
        ..Facts::new("", "v1", "configmaps", "ConfigMap")
    };

    fn validate(map: &core::ConfigMap, errors: &mut Errors) {
        let mut size = 0;
        for (key, value) in map.data.iter().flatten() {
            errors.invalid_each(&Path::new("data").key(key), key, names::config_key(key));
            if map.binary_data.as_ref().is_some_and(|b| b.contains_key(key)) {
                errors.invalid(&Path::new("data").key(key), key, "duplicate of key present in binaryData");
            }
            size += value.len();
        }
        for (key, value) in map.binary_data.iter().flatten() {
            errors.invalid_each(&Path::new("binaryData").key(key), key, names::config_key(key));
            size += value.0.len();
        }
        if size > DATA_MAX_B {
            errors.too_long(&Path::new(""), DATA_MAX_B);
        }
    }

    fn validate_update(map: &core::ConfigMap, old: &core::ConfigMap, errors: &mut Errors) {
        if old.immutable == Some(true) {
            if map.immutable != Some(true) {
                errors.forbidden(&Path::new("immutable"), SEALED);
            }
            for (field, differs) in [("data", map.data != old.data), ("binaryData", map.binary_data != old.binary_data)]
            {
                if differs {
                    errors.forbidden(&Path::new(field), SEALED);
                }
            }
        }
        Self::validate(map, errors);
    }

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.push(object.count("data") + object.count("binaryData"));
        row.age(object);
    }
}
