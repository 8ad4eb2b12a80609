//! PATCH: JSON patch, merge patch, strategic merge patch; apply is in [`super::apply`].

use std::sync::Arc;

use serde_json::Value;
use skiff_api::decode::{conform, reason, untyped};
use skiff_api::field::go_print;
use skiff_api::patch::{json_patch, merge_patch, strategic_merge};
use skiff_api::schema::Type;
use skiff_api::status::Cause;
use skiff_api::{ApiError, Gvk};

use super::change::Change;
use super::options::{FieldValidation, Write, WriteOptions};
use super::ownership::{Author, Ownership};
use super::part::Part;
use super::warn_all;
use crate::call::{Call, Target};
use crate::convert::conform_custom;
use crate::encode::{self, Encoder, IncludeObject};
use crate::error::unsupported_media_type;
use crate::meta;
use crate::negotiate::negotiate;
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;

/// Nothing says how a strategic patch merges into a custom resource.
const ACCEPTED_BY_CUSTOM: &str =
    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, \
                        application/strategic-merge-patch+json, application/apply-patch+yaml";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl Kind {
    pub fn of(call: &Call, is_custom: bool) -> Result<Self, ApiError> {
        let content_type = call.header(http::header::CONTENT_TYPE).unwrap_or_default();
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" if !is_custom => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            _ => Err(unsupported_media_type(if is_custom { ACCEPTED_BY_CUSTOM } else { ACCEPTED })),
        }
    }

    pub fn write(self) -> Write {
        if self == Self::Apply { Write::Apply } else { Write::Patch }
    }
}

/// A patch that has been read but not applied.
pub(crate) struct Patch {
    kind: Kind,
    body: Value,
    /// Sentences about what came twice in it.
    strict: Vec<String>,
}

impl Patch {
    pub fn read(call: &Call, kind: Kind) -> Result<Self, ApiError> {
        let (body, mut strict) =
            untyped(&call.body).map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
        if kind == Kind::Json {
            strict.extend(unknown_fields(&body));
            strict.iter_mut().for_each(|sentence| sentence.insert_str(0, "json patch "));
        } else if !body.is_object() {
            return Err(ApiError::bad_request("error decoding patch: the patch is not an object"));
        }
        Ok(Self { kind, body, strict })
    }

    fn apply(&self, old: &Value, schema: Option<&Type>) -> Result<Value, ApiError> {
        match (self.kind, schema) {
            (Kind::Json, _) => json_patch(old, &self.body),
            (Kind::Strategic, Some(schema)) => strategic_merge(old, &self.body, schema),
            (Kind::Merge, _) => Ok(merge_patch(old.clone(), &self.body)),
            (Kind::Strategic | Kind::Apply, _) => Err(unsupported_media_type(ACCEPTED)),
        }
    }

    /// The patched object as its kind has it. What was unknown in it, or came twice, is refused or told.
    pub fn make(
        &self,
        old: &Value,
        of: Made<'_>,
        validation: FieldValidation,
        complaints: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let Made { gvk, schema, custom } = of;
        let patched = self.apply(old, schema)?;
        // Only who is refused is shown it.
        let shown = || match self.kind {
            Kind::Strategic => go_print(&self.body),
            _ => self.apply(old, schema).map(|patched| patched.to_string()).unwrap_or_default(),
        };
        let mut strict = self.strict.clone();
        let patched = match schema {
            None => patched,
            Some(schema) => {
                let conformed = conform(patched, gvk, schema).and_then(|mut decoded| {
                    custom.map_or(Ok(()), |row| conform_custom(&mut decoded, row))?;
                    Ok(decoded)
                });
                let decoded =
                    conformed.map_err(|e| reason(&e, gvk).map(|why| invalid_patch(&shown(), why)).unwrap_or(e))?;
                strict.extend(decoded.strict);
                decoded.value
            }
        };
        match validation {
            FieldValidation::Strict if !strict.is_empty() => {
                return Err(invalid_patch(&shown(), &format!("strict decoding error: {}", strict.join(", "))));
            }
            FieldValidation::Warn => complaints.extend(strict),
            FieldValidation::Strict | FieldValidation::Ignore => {}
        }
        Ok(patched)
    }
}

/// What a patched object is.
#[derive(Clone, Copy)]
pub(crate) struct Made<'a> {
    pub gvk: &'a Gvk,
    pub schema: Option<&'a Type>,
    /// Where it is a custom resource.
    pub custom: Option<&'a Row>,
}

/// 422, as upstream answers to a patch whose result is none of its kind.
fn invalid_patch(shown: &str, why: &str) -> ApiError {
    let message = format!("Invalid value: {shown:?}: {why}");
    ApiError::invalid("", "", "", vec![Cause { reason: "FieldValueInvalid".into(), message, field: "patch".into() }])
}

/// Of the operations of a JSON patch.
fn unknown_fields(body: &Value) -> Vec<String> {
    let operations = body.as_array().into_iter().flatten().enumerate();
    let fields = operations.flat_map(|(at, operation)| {
        let names = operation.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        names.filter(|name| !matches!(*name, "op" | "path" | "from" | "value")).map(move |name| (at, name))
    });
    fields.map(|(at, name)| format!("unknown field \"[{at}].{name}\"")).collect()
}

impl Server {
    pub(crate) async fn patch(
        &self,
        call: &Call,
        row: &Arc<Row>,
        target: &Target,
        part: Part,
    ) -> Result<Reply, ApiError> {
        let wanted = negotiate(call.header(http::header::ACCEPT), true)?;
        let kind = Kind::of(call, row.custom.is_some())?;
        let options = WriteOptions::of(&call.query, kind.write())?;
        let author = Author::of(call, &options, part.subresource());
        let mut warnings = Vec::new();
        let (status, object) = if kind == Kind::Apply {
            self.apply(call, row, target, part, &options, &author, &mut warnings).await?
        } else {
            let patch = Patch::read(call, kind)?;
            let key = target.key();
            // What the last try complained about: the loop below forgets warnings of tries that failed.
            let mut complaints = Vec::new();
            let ownership = Ownership::Track(&author);
            let change = Change { row, key: &key, part, user: &call.user, ownership, options: &options };
            let object = self
                .change(&change, &mut warnings, |old| {
                    complaints.clear();
                    let gvk = &row.descriptor.gvk;
                    let of =
                        Made { gvk, schema: row.schema.as_ref(), custom: Some(&**row).filter(|r| r.custom.is_some()) };
                    let mut patched = patch.make(old, of, options.validation, &mut complaints)?;
                    check_identity(&patched, old, gvk)?;
                    // A version that the patch did not set must not make it a conflict when it is tried again.
                    if meta::text(&patched, "resourceVersion").is_empty() {
                        meta::of(&mut patched).remove("resourceVersion");
                    }
                    if part == Part::Main {
                        self.authorizer.check_grant(&call.user, row, target, Some(old), &patched)?;
                    }
                    Ok(patched)
                })
                .await?;
            warnings.splice(0..0, complaints);
            (200, object)
        };
        let object = self.served(row, object).await?;
        let encoder = Encoder::new(row, wanted.form, IncludeObject::Metadata);
        let mut reply = encode::object(status, &object, &encoder, wanted.encoding);
        warn_all(&mut reply, &warnings);
        Ok(reply)
    }
}

/// A patch may not make another object of it.
fn check_identity(patched: &Value, old: &Value, gvk: &Gvk) -> Result<(), ApiError> {
    for (field, name) in [("name", "name"), ("namespace", "namespace")] {
        let (new, old) = (meta::text(patched, field), meta::text(old, field));
        if new != old {
            return Err(ApiError::bad_request(format!(
                "the {name} of the object ({new}) does not match the {name} on the URL ({old})"
            )));
        }
    }
    if patched["kind"] != *gvk.kind || patched["apiVersion"] != gvk.api_version() {
        return Err(ApiError::bad_request(format!(
            "the patch may not change apiVersion or kind ({}, {})",
            gvk.api_version(),
            gvk.kind
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_have_four_fields() {
        let body = json!([{"op": "add", "path": "/a", "value": 1}, {"op": "add", "paths": "/a"}, 3]);
        assert_eq!(unknown_fields(&body), ["unknown field \"[1].paths\""]);
    }
}
