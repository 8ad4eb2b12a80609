//! VolumeAttributesClass.

use k8s_openapi::api::storage::v1 as storage;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::facts::{AGE, Facts, NAME, text};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;

pub(super) struct VolumeAttributesClasses;

impl Kind for VolumeAttributesClasses {
    type Typed = storage::VolumeAttributesClass;
    const FACTS: Facts = Facts {
        short_names: &["vac"],
        namespaced: false,
        columns: &[NAME, text("DriverName", "The driver whose volumes it is for."), AGE],
        ..Facts::new("storage.k8s.io", "v1", "volumeattributesclasses", "VolumeAttributesClass")
    };

    fn validate(class: &storage::VolumeAttributesClass, errors: &mut Errors) {
        super::provisioner(&class.driver_name, &Path::new("driverName"), errors);
        match &class.parameters {
            Some(parameters) if !parameters.is_empty() => {
                super::parameters(parameters, &Path::new("parameters"), errors);
            }
            _ => errors.required(&Path::new("parameters"), "must contain at least one key/value pair"),
        }
    }

    fn validate_update(
        new: &storage::VolumeAttributesClass,
        old: &storage::VolumeAttributesClass,
        errors: &mut Errors,
    ) {
        for (field, changed) in
            [("driverName", new.driver_name != old.driver_name), ("parameters", new.parameters != old.parameters)]
        {
            if changed {
                errors.forbidden(&Path::new(field), &format!("updates to {field} are forbidden."));
            }
        }
        Self::validate(new, errors);
    }

    fn cells(class: &Value, row: &mut Row) {
        row.name(class);
        row.push(class.text("driverName"));
        row.age(class);
    }
}
