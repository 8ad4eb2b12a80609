//! Secret.

use base64::Engine as _;
use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::{FieldOf, Kind};
use crate::kinds::checks::{self, immutable};
use crate::kinds::core::config_map::{DATA_MAX_B, SEALED};
use crate::kinds::facts::{AGE, Facts, NAME, text};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::Row;
use crate::names;

pub(super) struct Secrets;

impl Kind for Secrets {
    type Typed = core::Secret;
    const FACTS: Facts = Facts {
        columns: &[
            NAME,
            text("Type", "What the secret is for."),
            text("Data", "How many entries the secret has."),
            AGE,
        ],
        ..Facts::new("", "v1", "secrets", "Secret")
    };
    const FIELDS: &'static [(&'static str, FieldOf)] = &[("type", |o| o.text("type").to_owned())];
    const FIELD_LABELS: &'static [&'static str] = &["type"];

    fn default(object: &mut Value) {
        if let Some(map) = object.as_object_mut() {
            map.fill("type", "Opaque");
            // Write-only: plain texts that join the encoded ones.
            if let Some(Value::Object(texts)) = map.remove("stringData")
                && let Some(data) = map.object("data")
            {
                for (key, text) in texts {
                    let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or(""));
                    data.insert(key, encoded.into());
                }
            }
        }
    }

    fn validate(secret: &core::Secret, errors: &mut Errors) {
        let path = Path::new("data");
        let mut size = 0;
        for (key, value) in secret.data.iter().flatten() {
            errors.invalid_each(&path.key(key), key, names::config_key(key));
            size += value.0.len();
        }
        if size > DATA_MAX_B {
            errors.too_long(&path, DATA_MAX_B);
        }
        by_type(secret, &path, errors);
    }

    fn validate_update(secret: &core::Secret, old: &core::Secret, errors: &mut Errors) {
        immutable(&secret.type_, &old.type_, &Path::new("type"), errors);
        if old.immutable == Some(true) {
            if secret.immutable != Some(true) {
                errors.forbidden(&Path::new("immutable"), SEALED);
            }
            if secret.data != old.data {
                errors.forbidden(&Path::new("data"), SEALED);
            }
        }
        Self::validate(secret, errors);
    }

    const VALIDATES_ANNOTATIONS: bool = true;

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.push(object.text("type"));
        row.push(object.count("data"));
        row.age(object);
    }
}

/// What the types that Kubernetes knows must hold.
fn by_type(secret: &core::Secret, data: &Path<'_>, errors: &mut Errors) {
    let has = |key: &str| secret.data.as_ref().is_some_and(|d| d.contains_key(key));
    let need = |key: &str, errors: &mut Errors| {
        if !has(key) {
            errors.required(&data.key(key), "");
        }
    };
    match checks::text(&secret.type_) {
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            let account = secret.metadata.annotations.as_ref().and_then(|a| a.get(ACCOUNT));
            if account.is_none_or(String::is_empty) {
                errors.required(&Path::new("metadata").child("annotations").key(ACCOUNT), "");
            }
        }
        "kubernetes.io/dockercfg" => json_object(secret, ".dockercfg", data, errors),
        "kubernetes.io/dockerconfigjson" => json_object(secret, ".dockerconfigjson", data, errors),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            need("username", errors);
            need("password", errors);
        }
        "kubernetes.io/ssh-auth" => {
            let key = secret.data.as_ref().and_then(|d| d.get("ssh-privatekey"));
            if key.is_none_or(|k| k.0.is_empty()) {
                errors.required(&data.key("ssh-privatekey"), "");
            }
        }
        "kubernetes.io/tls" => {
            need("tls.crt", errors);
            need("tls.key", errors);
        }
        _ => {}
    }
}

fn json_object(secret: &core::Secret, key: &str, data: &Path<'_>, errors: &mut Errors) {
    let Some(bytes) = secret.data.as_ref().and_then(|d| d.get(key)) else {
        return errors.required(&data.key(key), "");
    };
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes.0) {
        errors.invalid(&data.key(key), "<secret contents redacted>", &error.to_string());
    }
}
