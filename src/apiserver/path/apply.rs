//! PATCH with a configuration: server-side apply, on objects and on their scale.

use std::sync::Arc;

use serde_json::Value;
use skiff_api::decode::{conform, untyped};
use skiff_api::{ApiError, Object, ObjectKey, yaml};

use super::change::Change;
use super::create::New;
use super::options::{FieldValidation, WriteOptions};
use super::ownership::{self, Author, Ownership};
use super::part::Part;
use super::writes::{MODIFIED, check_name, place};
use crate::auth::Attributes;
use crate::call::{Call, Target};
use crate::convert::conform_custom;
use crate::meta;
use crate::registry::Row;
use crate::server::Server;

/// How often an object that comes and goes is tried.
const TRIES: u32 = 5;

/// A configuration as it came, and what is wrong with its form.
pub(super) struct Configuration {
    pub value: Value,
    strict: Option<String>,
}

impl Configuration {
    /// YAML, which JSON nearly is.
    pub fn read(body: &[u8]) -> Result<Self, ApiError> {
        let bad = |why: String| ApiError::bad_request(format!("error decoding patch: {why}"));
        let (value, strict) = match untyped(body) {
            Ok((value, duplicates)) if duplicates.is_empty() => (value, None),
            _ => {
                let text = std::str::from_utf8(body).map_err(|e| bad(format!("yaml: {e}")))?;
                let document = yaml::document(text).map_err(|e| bad(format!("error converting YAML to JSON: {e}")))?;
                let lines: String = document.duplicates.iter().map(|line| format!("\n  {line}")).collect();
                let strict = format!("error converting YAML to JSON: yaml: unmarshal errors:{lines}");
                (document.value, (!lines.is_empty()).then_some(strict))
            }
        };
        if !value.is_object() {
            let found = match value {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                Value::Null => return Ok(Self { value: serde_json::json!({}), strict }),
                _ => "number",
            };
            return Err(bad(format!(
                "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go value of type \
                 map[string]interface {{}}"
            )));
        }
        Ok(Self { value, strict })
    }

    /// After the rest was found good.
    pub fn judge(&self, validation: FieldValidation, warnings: &mut Vec<String>) -> Result<(), ApiError> {
        match (&self.strict, validation) {
            (Some(why), FieldValidation::Strict) => {
                return Err(ApiError::bad_request(format!("error strict decoding patch: {why}")));
            }
            (Some(why), FieldValidation::Warn) => warnings.push(why.clone()),
            _ => {}
        }
        Ok(())
    }
}

impl Server {
    /// The object with the configuration in it, and 201 where it was created.
    #[expect(clippy::too_many_arguments, reason = "what a patch has read of its request")]
    pub(super) async fn apply(
        &self,
        call: &Call,
        row: &Arc<Row>,
        target: &Target,
        part: Part,
        options: &WriteOptions,
        author: &Author,
        warnings: &mut Vec<String>,
    ) -> Result<(u16, Arc<Object>), ApiError> {
        let configuration = Configuration::read(&call.body)?;
        let key = target.key();
        for _ in 0..TRIES {
            let change = Change { row, key: &key, part, user: &call.user, ownership: Ownership::Written, options };
            let versions = self.versions(row);
            let make = |live: Option<&Value>| {
                let made = ownership::apply(&versions, part, author, options.force, live, &configuration.value)?;
                configuration.judge(options.validation, &mut Vec::new())?;
                let mut made = conformed(made, row)?;
                if let (Part::Main, Some(old)) = (part, live) {
                    self.authorizer.check_grant(&call.user, row, target, Some(old), &made)?;
                }
                place(&mut made, row, &target.namespace)?;
                check_name(&made, &target.name)?;
                Ok(made)
            };
            match self.change(&change, warnings, |live| make(Some(live))).await {
                Err(error) if error.is_not_found() && part == Part::Main => {}
                changed => {
                    configuration.judge(options.validation, warnings)?;
                    return Ok((200, changed?));
                }
            }
            let uid = meta::text(&configuration.value, "uid");
            if !uid.is_empty() {
                let why =
                    format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
                return Err(ApiError::conflict(row.group(), row.resource(), &key.name, &why));
            }
            self.may_create(call, row, &key).await?;
            let new = New { namespace: &target.namespace, value: make(None)?, author: None, options };
            match self.create_object(call, row, new, warnings).await {
                // Somebody was faster.
                Err(error) if error.is_already_exists() => {}
                created => {
                    configuration.judge(options.validation, warnings)?;
                    return Ok((201, Arc::new(created?)));
                }
            }
        }
        Err(ApiError::conflict(row.group(), row.resource(), &key.name, MODIFIED))
    }

    /// Who may change an object may not therefore make one.
    pub(super) async fn may_create(&self, call: &Call, row: &Row, key: &ObjectKey) -> Result<(), ApiError> {
        let asked = Attributes {
            verb: "create",
            group: row.group(),
            resource: row.resource(),
            namespace: &key.namespace,
            name: &key.name,
            ..Attributes::default()
        };
        self.authorize(call, &asked).await
    }
}

/// In canonical form, without what nulls unset.
fn conformed(value: Value, row: &Row) -> Result<Value, ApiError> {
    match &row.schema {
        Some(schema) => {
            let mut decoded = conform(value, &row.descriptor.gvk, schema)?;
            conform_custom(&mut decoded, row)?;
            Ok(decoded.value)
        }
        None => Ok(value),
    }
}
