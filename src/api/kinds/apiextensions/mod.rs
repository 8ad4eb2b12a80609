//! The `apiextensions.k8s.io` group: CustomResourceDefinition.
//!
//! Everything here works on the dynamic form: a schema is JSON, and typed forms of large ones take megabytes.

mod approval;
mod conversion;
mod default_rules;
mod schema_rules;
mod structural;
mod validate;
mod versions;
mod warnings;

#[cfg(test)]
mod tests;

use serde_json::{Value, json};

pub(crate) use self::approval::{APPROVAL, Approval, approval_of, is_protected};
pub(crate) use self::conversion::ca_bundle_is_valid;
use crate::field::Errors;
use crate::kinds::adapter::{Kind, describe};
use crate::kinds::facts::{CREATED_AT, Facts, NAME};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::Row;
use crate::strategy::{Descriptor, Subresource};

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![describe::<Definitions>()]
}

struct Definitions;

impl Kind for Definitions {
    type Typed = Value;
    const FACTS: Facts = Facts {
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: &[NAME, CREATED_AT],
        generation: true,
        unconditional_update: false,
        ..Facts::new("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
    };

    fn default(object: &mut Value) {
        let storage = storage_version(object).map(str::to_owned);
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
        if let Some(names) = spec.object("names") {
            let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
            if !kind.is_empty() {
                names.fill("singular", kind.to_lowercase());
                names.fill("listKind", format!("{kind}List"));
            }
        }
        if spec.lacks("conversion") {
            spec.insert("conversion".to_owned(), json!({"strategy": "None"}));
        }
        let service = spec
            .existing("conversion")
            .and_then(|conversion| conversion.existing("webhook"))
            .and_then(|webhook| webhook.existing("clientConfig"))
            .and_then(|config| config.existing("service"));
        if let Some(service) = service {
            service.fill("port", 443);
        }
        let status = &mut object["status"];
        if !status.is_object() {
            *status = json!({});
        }
        if let (true, Some(version)) = (status.count("storedVersions") == 0, storage) {
            status["storedVersions"] = json!([version]);
        }
    }

    fn prepare_create(object: &mut Value) {
        let stored: Vec<&str> = storage_version(object).into_iter().collect();
        object["status"] =
            json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored});
    }

    fn prepare_update(object: &mut Value, _old: &Value) {
        let Some(version) = storage_version(object).map(str::to_owned) else { return };
        if !object.list("status.storedVersions").iter().any(|stored| *stored == *version) {
            match object["status"]["storedVersions"].as_array_mut() {
                Some(stored) => stored.push(version.into()),
                None => object["status"]["storedVersions"] = json!([version]),
            }
        }
    }

    fn validate(object: &Value, errors: &mut Errors) {
        validate::create(object, errors);
    }

    fn validate_update(object: &Value, old: &Value, errors: &mut Errors) {
        validate::update(object, old, errors);
    }

    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(object: &Value, _old: &Value, errors: &mut Errors) {
        validate::status(object, errors);
    }

    fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::of(object, old)
    }

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.created_at(object);
    }
}

fn storage_version(object: &Value) -> Option<&str> {
    object.list("spec.versions").iter().find(|version| version.flag("storage")).map(|version| version.text("name"))
}

/// The schema of a version, if it has one.
fn schema_of(version: &Value) -> Option<&Value> {
    version.get("schema").and_then(|schema| schema.get("openAPIV3Schema")).filter(|schema| !schema.is_null())
}
