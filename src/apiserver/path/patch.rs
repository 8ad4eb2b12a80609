//! PATCH: JSON patch, merge patch, strategic merge patch.

use std::sync::Arc;

use serde_json::Value;
use skiff_api::decode::conform;
use skiff_api::patch::{json_patch, merge_patch, strategic_merge};
use skiff_api::{ApiError, Gvk};

use super::create::key_of;
use super::options::{WriteOptions, conform_custom, judge};
use super::update::{Change, Part};
use super::warn_all;
use crate::call::{Call, Target};
use crate::encode::{self, Encoder, IncludeObject};
use crate::error::unsupported_media_type;
use crate::meta;
use crate::negotiate::negotiate;
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;

const ACCEPTED: &str =
    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";

/// Nothing says how a strategic patch merges into a custom resource.
const ACCEPTED_BY_CUSTOM: &str = "application/json-patch+json, application/merge-patch+json";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Json,
    Merge,
    Strategic,
}

/// A patch that has been read but not applied.
pub(crate) struct Patch {
    pub kind: Kind,
    pub body: Value,
}

impl Patch {
    pub fn of(call: &Call) -> Result<Self, ApiError> {
        let content_type = call.header(http::header::CONTENT_TYPE).unwrap_or_default();
        let kind = match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Kind::Json,
            "application/merge-patch+json" => Kind::Merge,
            "application/strategic-merge-patch+json" => Kind::Strategic,
            _ => return Err(unsupported_media_type(ACCEPTED)),
        };
        let body: Value = serde_json::from_slice(&call.body)
            .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
        if kind != Kind::Json && !body.is_object() {
            return Err(ApiError::bad_request("error decoding patch: the patch is not an object"));
        }
        Ok(Self { kind, body })
    }

    pub fn apply(&self, old: &Value, schema: Option<&skiff_api::schema::Type>) -> Result<Value, ApiError> {
        match (self.kind, schema) {
            (Kind::Json, _) => json_patch(old, &self.body),
            (Kind::Strategic, Some(schema)) => strategic_merge(old, &self.body, schema),
            (Kind::Strategic, None) => Err(unsupported_media_type(ACCEPTED_BY_CUSTOM)),
            (Kind::Merge, _) => Ok(merge_patch(old.clone(), &self.body)),
        }
    }
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
        let options = WriteOptions::of(&call.query)?;
        let patch = Patch::of(call)?;
        let key = key_of(target);
        let gvk = &row.descriptor.gvk;
        let mut warnings = Vec::new();
        // What the last try complained about: the loop below forgets warnings of tries that failed.
        let mut complaints = Vec::new();
        let change = Change { row, key: &key, part, dry_run: options.dry_run };
        let object = self
            .change(&change, &mut warnings, |old| {
                complaints.clear();
                let patched = patch.apply(old, row.schema.as_ref().filter(|_| row.custom.is_none()))?;
                check_identity(&patched, old, gvk)?;
                let mut patched = match &row.schema {
                    None => patched,
                    Some(schema) => {
                        let mut decoded = conform(patched, gvk, schema)?;
                        conform_custom(&mut decoded, row)?;
                        judge(&decoded, gvk, options.validation, &mut complaints)?;
                        decoded.value
                    }
                };
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
        let object = self.served(row, object).await?;
        let encoder = Encoder::new(row, wanted.form, IncludeObject::Metadata);
        let mut reply = encode::object(200, &object, &encoder, wanted.encoding);
        complaints.extend(warnings);
        warn_all(&mut reply, &complaints);
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
