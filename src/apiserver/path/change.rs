//! The loop that every change of an object goes through.

use std::sync::Arc;

use serde_json::Value;
use skiff_api::status::Cause;
use skiff_api::{ApiError, Object, ObjectKey};

use super::options::WriteOptions;
use super::owners::{Admitted, dedup_owners};
use super::ownership::{self, KindVersions, Ownership};
use super::part::Part;
use super::signing;
use super::writes::{MODIFIED, TRIES, is_too_large, parse, precondition_uid};
use crate::admission::{self, Operation, Request, Reservation};
use crate::auth::User;
use crate::meta;
use crate::registry::Row;
use crate::server::Server;
use crate::storage::{self, Written};

const VERSION: &str = "resourceVersion";

/// A change to one object.
pub(crate) struct Change<'a> {
    pub row: &'a Arc<Row>,
    pub key: &'a ObjectKey,
    pub part: Part,
    /// Who asks, for admission.
    pub user: &'a User,
    pub ownership: Ownership<'a>,
    pub options: &'a WriteOptions,
}

impl Server {
    /// Reads the object, has `make` say what it shall be (from the old state as clients see it), and
    /// writes that; starts over when someone else was faster. What `make` gives with a
    /// `resourceVersion` or `uid` that is not the object's is a conflict; what it gives unchanged is
    /// not written.
    pub(crate) async fn change(
        &self,
        change: &Change<'_>,
        warnings: &mut Vec<String>,
        mut make: impl FnMut(&Value) -> Result<Value, ApiError>,
    ) -> Result<Arc<Object>, ApiError> {
        let row = change.row;
        let mut old = self.current(row, change.key).await?;
        let before = warnings.len();
        for _ in 0..TRIES {
            warnings.truncate(before);
            let old_value = self.to_row(&old, row).await?;
            let new = make(&old_value)?;
            match self.write_change(change, &old, &old_value, new, warnings).await? {
                Ok(object) => return Ok(object),
                Err(Some(record)) => old = Arc::new(parse(record.value, record.modified.0)?),
                Err(None) => return Err(ApiError::not_found(row.group(), row.resource(), &change.key.name)),
            }
        }
        Err(ApiError::conflict(row.group(), row.resource(), &change.key.name, MODIFIED))
    }

    /// One try; the inner error is what stands there instead of `old`.
    async fn write_change(
        &self,
        change: &Change<'_>,
        old: &Arc<Object>,
        old_value: &Value,
        new: Value,
        warnings: &mut Vec<String>,
    ) -> Result<Result<Arc<Object>, Option<skiff_store::Record>>, ApiError> {
        let row = change.row;
        let (mut new, quota) = self.prepare_change(change, old_value, new, warnings).await?;
        let reserved = match row.is("", "services") && change.part == Part::Main {
            true => Some(self.services.reserve(&mut new, Some(old_value))?),
            false => None,
        };
        let renewed = ownership::keep_times(&mut new, old_value);
        let mut bytes = self.to_home(&new, row).await?;
        let ends = is_finished(row, &new);
        if !ends && bytes == *old.raw() {
            return Ok(Ok(old.clone()));
        }
        if renewed.is_some() {
            ownership::put_back(&mut new, renewed);
            bytes = self.to_home(&new, row).await?;
        }
        // Before the commit: what can't be read again must not be written.
        let mut object = parse(bytes.clone(), old.revision)?;
        if change.options.dry_run {
            return Ok(Ok(Arc::new(object)));
        }
        let key = storage::key(&row.descriptor.storage, change.key);
        let written = if ends {
            storage::remove(&self.store, key, old.revision).await?
        } else {
            let written = storage::replace(&self.store, key.clone(), old.revision, bytes).await;
            let tracked = matches!(change.ownership, Ownership::Track(_));
            // As upstream: better without its owners than not at all.
            if tracked && is_too_large(&written) && ownership::take(&mut new).is_some() {
                object = parse(self.to_home(&new, row).await?, old.revision)?;
                storage::replace(&self.store, key, old.revision, object.raw().clone()).await?
            } else {
                written?
            }
        };
        match written {
            Written::At(revision) => {
                quota.keep();
                if let Some(reserved) = reserved {
                    reserved.keep();
                }
                if ends {
                    self.services.forget(row, &new);
                }
                object.revision = revision;
                Ok(Ok(Arc::new(object)))
            }
            Written::Conflict(current) => Ok(Err(current)),
        }
    }

    /// From what the client sent to what may be stored, without the `resourceVersion`; and what it takes from quotas.
    async fn prepare_change(
        &self,
        change: &Change<'_>,
        old: &Value,
        mut new: Value,
        warnings: &mut Vec<String>,
    ) -> Result<(Value, Reservation), ApiError> {
        let row = change.row;
        check_preconditions(row, change, old, &new)?;
        let (current, given) = (old, meta::text(&new, VERSION).to_owned());
        let meta_map = meta::of(&mut new);
        for field in [VERSION, "selfLink"] {
            meta_map.remove(field);
        }
        if change.part == Part::Own {
            self.settle_ownership(change, old, &mut new);
            return Ok((new, Reservation::none()));
        }
        for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generateName"] {
            meta::keep(&mut new, old, field);
        }
        let mut old = old.clone();
        meta::of(&mut old).remove(VERSION);
        let strategy = &*row.descriptor.strategy;
        strategy.default(&mut new);
        self.settle_ownership(change, &old, &mut new);
        let shown = change.options.shown("UpdateOptions");
        let request = Request {
            server: self,
            user: change.user,
            row,
            operation: Operation::Update,
            subresource: change.part.subresource(),
            of: None,
            key: change.key.clone(),
            old: Some(current),
            dry_run: change.options.dry_run,
            options: &shown,
        };
        // Admission alone sees versions: first the client's, if it gave any, then the one that is replaced.
        if !given.is_empty() {
            meta::set(&mut new, VERSION, given);
        }
        if change.part == Part::Scale {
            super::scaled::admit(&request, &mut new, warnings).await?;
        } else if admission::mutate(&request, &mut new, warnings).await? {
            strategy.default(&mut new);
        }
        meta::of(&mut new).remove(VERSION);
        warnings.extend(dedup_owners(&mut new, Admitted::Mutating));
        let managed_fields = ownership::take(&mut new);
        let causes = if matches!(change.part, Part::Status | Part::Approval) {
            match change.part {
                Part::Approval => signing::decide(&mut new, &old),
                _ => strategy.prepare_status_update(&mut new, &old),
            }
            let signing = signing::is_request(row);
            if signing {
                signing::fill_times(&mut new, &old, &skiff_base::time::now_rfc3339());
            }
            ownership::put_back(&mut new, managed_fields);
            let mut causes = strategy.validate_status_update(&new, &old);
            if signing {
                causes.extend(signing::check_change(change.part, &new, &old));
            }
            causes
        } else if let Part::Fields(part) = change.part {
            strategy.prepare_part_update(part, &mut new, &old);
            ownership::put_back(&mut new, managed_fields);
            strategy.validate_part_update(part, &new, &old)
        } else {
            strategy.prepare_update(&mut new, &old);
            ownership::put_back(&mut new, managed_fields);
            strategy.validate_update(&new, &old)
        };
        if !causes.is_empty() {
            return Err(ApiError::invalid(row.group(), row.kind(), &change.key.name, causes));
        }
        match change.part {
            Part::Main | Part::Scale => warnings.extend(strategy.warnings(&new, Some(&old))),
            Part::Status => warnings.extend(strategy.status_warnings(&new)),
            Part::Approval | Part::Fields(_) | Part::Own => {}
        }
        if change.part == Part::Scale {
            return Ok((new, Reservation::none()));
        }
        meta::keep(&mut new, current, VERSION);
        let quota = admission::validate(&request, Some(&new), warnings).await?;
        meta::of(&mut new).remove(VERSION);
        Ok((new, quota))
    }

    fn settle_ownership(&self, change: &Change<'_>, old: &Value, new: &mut Value) {
        match change.ownership {
            Ownership::Track(author) => {
                ownership::track(&self.versions(change.row), change.part, author, Some(old), new);
            }
            Ownership::Keep => meta::keep(new, old, "managedFields"),
            Ownership::Written => {}
        }
    }

    pub(super) fn versions(&self, row: &Arc<Row>) -> KindVersions {
        KindVersions::new(row, self.registry.load_full())
    }
}

/// Whether nothing holds a deleted object any more, so that this change is its last.
pub(super) fn is_finished(row: &Row, object: &Value) -> bool {
    let has_content = row.is("", "namespaces") && !meta::texts(&object["spec"]["finalizers"]).is_empty();
    meta::is_deleting(object)
        && meta::finalizers(object).is_empty()
        && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && !has_content
}

fn check_preconditions(row: &Row, change: &Change<'_>, old: &Value, new: &Value) -> Result<(), ApiError> {
    let (uid, old_uid) = (meta::text(new, "uid"), meta::text(old, "uid"));
    if !uid.is_empty() && uid != old_uid {
        return Err(precondition_uid(row, change.key, uid, old_uid));
    }
    let version = meta::text(new, "resourceVersion");
    if version.is_empty() || version == "0" {
        let by_client = !matches!(change.part, Part::Own | Part::Scale);
        if by_client && !row.descriptor.strategy.allow_unconditional_update() {
            let cause = Cause {
                reason: "FieldValueInvalid".into(),
                message: "Invalid value: 0: must be specified for an update".into(),
                field: "metadata.resourceVersion".into(),
            };
            // As upstream: of the resource, not of the kind.
            return Err(ApiError::invalid(row.group(), row.resource(), &change.key.name, vec![cause]));
        }
    } else if version != meta::text(old, "resourceVersion") {
        return Err(ApiError::conflict(row.group(), row.resource(), &change.key.name, MODIFIED));
    }
    Ok(())
}
