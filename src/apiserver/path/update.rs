//! PUT of an object.

use std::sync::Arc;

use serde_json::Value;
use skiff_api::ApiError;

use super::change::Change;
use super::create::New;
use super::options::{Write, WriteOptions, read_row_object};
use super::owners::{Admitted, dedup_owners};
use super::ownership::{Author, Ownership};
use super::part::Part;
use super::warn_all;
use super::writes::{check_name, place, precondition_uid};
use crate::call::{Call, Target};
use crate::encode::{self, Encoder, IncludeObject};
use crate::meta;
use crate::negotiate::negotiate;
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;

impl Server {
    pub(crate) async fn update(
        &self,
        call: &Call,
        row: &Arc<Row>,
        target: &Target,
        part: Part,
    ) -> Result<Reply, ApiError> {
        let wanted = negotiate(call.header(http::header::ACCEPT), true)?;
        let options = WriteOptions::of(&call.query, Write::Update)?;
        let author = Author::of(call, &options, part.subresource());
        let mut warnings = Vec::new();
        let mut value = read_row_object(call, row, options.validation, &mut warnings)?;
        place(&mut value, row, &target.namespace)?;
        check_name(&value, &target.name)?;
        warnings.extend(dedup_owners(&mut value, Admitted::Not));
        let key = target.key();
        let mut status = 200;
        let change =
            Change { row, key: &key, part, user: &call.user, ownership: Ownership::Track(&author), options: &options };
        let make = |old: &Value| {
            if part == Part::Main {
                self.authorizer.check_grant(&call.user, row, target, Some(old), &value)?;
            }
            Ok(value.clone())
        };
        let object = match self.change(&change, &mut warnings, make).await {
            Err(error)
                if error.is_not_found() && part == Part::Main && row.descriptor.strategy.allow_create_on_update() =>
            {
                if !meta::text(&value, "uid").is_empty() {
                    return Err(precondition_uid(row, &key, meta::text(&value, "uid"), ""));
                }
                self.may_create(call, row, &key).await?;
                status = 201;
                let new = New { namespace: &target.namespace, value, author: Some(&author), options: &options };
                let created = self.create_object(call, row, new, &mut warnings).await?;
                Arc::new(created)
            }
            changed => changed?,
        };
        let object = self.served(row, object).await?;
        let encoder = Encoder::new(row, wanted.form, IncludeObject::Metadata);
        let mut reply = encode::object(status, &object, &encoder, wanted.encoding);
        warn_all(&mut reply, &warnings);
        Ok(reply)
    }
}
