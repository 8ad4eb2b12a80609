//! Secret.

use base64::Engine as _;
use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use crate::kinds::adapter::{FieldOf, Kind};
use crate::kinds::facts::{AGE, Facts, NAME, text};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::Row;

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

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.push(object.text("type"));
        row.push(object.count("data"));
        row.age(object);
    }
}
