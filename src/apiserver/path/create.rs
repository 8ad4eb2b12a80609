//! POST on a collection.

use std::sync::Arc;

use rand::Rng as _;
use serde_json::Value;
use skiff_api::{ApiError, Object};

use super::options::{Write, WriteOptions, read_row_object};
use super::owners::{Admitted, dedup_owners};
use super::ownership::{self, Author};
use super::part::Part;
use super::writes::{MODIFIED, TRIES, is_too_large, parse, place};
use super::{signing, warn_all};
use crate::admission::{self, Operation, Request, namespace};
use crate::call::{Call, Target};
use crate::encode::{self, Encoder, IncludeObject};
use crate::meta;
use crate::negotiate::negotiate;
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;
use crate::storage::{self, Created};

const GENERATE_NAME_TRIES: u32 = 8;

/// What is to be created.
pub(crate) struct New<'a> {
    /// Of the URL.
    pub namespace: &'a str,
    pub value: Value,
    /// Whose its fields are; `None`: the value says so itself.
    pub author: Option<&'a Author>,
    pub options: &'a WriteOptions,
}

/// How a checked object is written.
struct Commit {
    /// Its name may become another one.
    generated: bool,
    /// Its owners were entered by the way, not by an apply.
    tracked: bool,
    dry_run: bool,
}

impl Server {
    pub(crate) async fn create(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let wanted = negotiate(call.header(http::header::ACCEPT), true)?;
        let options = WriteOptions::of(&call.query, Write::Create)?;
        let author = Author::of(call, &options, "");
        let mut warnings = Vec::new();
        let value = read_row_object(call, row, options.validation, &mut warnings)?;
        let new = New { namespace: &target.namespace, value, author: Some(&author), options: &options };
        let object = self.create_object(call, row, new, &mut warnings).await?;
        let object = self.served(row, Arc::new(object)).await?;
        let encoder = Encoder::new(row, wanted.form, IncludeObject::Metadata);
        let mut reply = encode::object(201, &object, &encoder, wanted.encoding);
        warn_all(&mut reply, &warnings);
        Ok(reply)
    }

    /// From a decoded object to what was stored.
    pub(crate) async fn create_object(
        &self,
        call: &Call,
        row: &Arc<Row>,
        new: New<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Object, ApiError> {
        let New { namespace, mut value, author, options } = new;
        let dry_run = options.dry_run;
        place(&mut value, row, namespace)?;
        refuse_ending(row, &value)?;
        let target = Target { namespace: namespace.to_owned(), ..Target::default() };
        self.authorizer.check_grant(&call.user, row, &target, None, &value)?;
        let generated = meta::text(&value, "name").is_empty() && !meta::text(&value, "generateName").is_empty();
        if generated {
            let name = generate_name(meta::text(&value, "generateName"));
            meta::set(&mut value, "name", name);
        }
        let strategy = &*row.descriptor.strategy;
        strategy.default(&mut value);
        if let Some(author) = author {
            warnings.extend(dedup_owners(&mut value, Admitted::Not));
            ownership::track(&self.versions(row), Part::Main, author, None, &mut value);
        }
        prepare_metadata(&mut value)?;
        let shown = options.shown("CreateOptions");
        let request = Request {
            server: self,
            user: &call.user,
            row,
            operation: Operation::Create,
            subresource: "",
            of: None,
            key: meta::key(&value),
            old: None,
            dry_run,
            options: &shown,
        };
        if admission::mutate(&request, &mut value, warnings).await? {
            strategy.default(&mut value);
        }
        warnings.extend(dedup_owners(&mut value, Admitted::Mutating));
        let managed_fields = ownership::take(&mut value);
        strategy.prepare_create(&mut value);
        ownership::put_back(&mut value, managed_fields);
        // What was just set may be what others follow (the labels of a Job).
        strategy.default(&mut value);
        let mut causes = strategy.validate(&value);
        if signing::is_request(row) {
            causes.splice(0..0, signing::check_new(&value));
        }
        if !causes.is_empty() {
            return Err(ApiError::invalid(row.group(), row.kind(), meta::text(&value, "name"), causes));
        }
        warnings.extend(strategy.warnings(&value, None));
        let reserved = if row.is("", "services") { Some(self.services.reserve(&mut value, None)?) } else { None };
        let quota = admission::validate(&request, Some(&value), warnings).await?;
        let how = Commit { generated, tracked: author.is_some(), dry_run };
        let object = self.commit_new(row, value, how).await?;
        quota.keep();
        if let (Some(reserved), false) = (reserved, dry_run) {
            reserved.keep();
        }
        Ok(object)
    }

    /// Writes a checked object, under another generated name where the first is taken.
    async fn commit_new(&self, row: &Row, mut value: Value, how: Commit) -> Result<Object, ApiError> {
        if how.dry_run {
            self.refuse_existing(row, &value).await?;
            return parse(self.to_home(&value, row).await?, 0);
        }
        // The namespace may have begun to end since it was looked at first.
        let mut guard = namespace::guard(self, row, &value)?;
        let mut names = 1;
        for _ in 0..TRIES {
            // Before the commit: what can't be read again must not be written.
            let mut object = parse(self.to_home(&value, row).await?, 0)?;
            let key = storage::key(&row.descriptor.storage, &meta::key(&value));
            let created = storage::create(&self.store, key, object.raw().clone(), guard.as_ref()).await;
            // As upstream: better without its owners than not at all.
            if how.tracked && is_too_large(&created) && ownership::take(&mut value).is_some() {
                continue;
            }
            match created? {
                Created::At(revision) => {
                    object.revision = revision;
                    return Ok(object);
                }
                Created::Moved(current) => guard = namespace::guard_again(row, &value, current)?,
                Created::Exists if how.generated && names < GENERATE_NAME_TRIES => {
                    names += 1;
                    let name = generate_name(meta::text(&value, "generateName"));
                    meta::set(&mut value, "name", name);
                }
                Created::Exists => {
                    return Err(ApiError::already_exists(row.group(), row.resource(), meta::text(&value, "name")));
                }
            }
        }
        Err(ApiError::conflict(row.group(), row.resource(), meta::text(&value, "name"), MODIFIED))
    }

    async fn refuse_existing(&self, row: &Row, value: &Value) -> Result<(), ApiError> {
        self.cache.fresh().await?;
        match row.cache.get(&meta::key(value)) {
            Some(_) => Err(ApiError::already_exists(row.group(), row.resource(), meta::text(value, "name"))),
            None => Ok(()),
        }
    }
}

/// A definition that ends gets no new objects.
fn refuse_ending(row: &Row, value: &Value) -> Result<(), ApiError> {
    if !row.custom.as_ref().is_some_and(|custom| custom.definition.terminating) {
        return Ok(());
    }
    let why = "create not allowed while custom resource definition is terminating";
    Err(ApiError::forbidden(row.group(), row.resource(), meta::text(value, "name"), why))
}

/// What the server decides on a new object.
fn prepare_metadata(value: &mut Value) -> Result<(), ApiError> {
    let version = meta::text(value, "resourceVersion");
    if !version.is_empty() && version != "0" {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let map = meta::of(value);
    for field in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        map.remove(field);
    }
    map.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    map.insert("creationTimestamp".to_owned(), skiff_base::time::now_rfc3339().into());
    Ok(())
}

/// Upstream's alphabet: no vowels, so no words, and no letters that look alike.
fn generate_name(base: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    const LONGEST_BASE: usize = 58;
    let base: String = base.chars().take(LONGEST_BASE).collect();
    let mut random = rand::rng();
    let tail = (0..5).map(|_| LETTERS[random.random_range(0..LETTERS.len())] as char);
    base.chars().chain(tail).collect()
}
