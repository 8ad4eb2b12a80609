//! GET on a collection: consistent, in chunks if asked.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use serde_json::{Value, json};
use skiff_api::{ApiError, Object, ObjectKey};
use skiff_store::{Consistency, Range, Revision};

use super::options::{invalid_option, unsupported};
use crate::cache::{Entry, Filter};
use crate::call::{Call, Query, Target};
use crate::encode::{self, Encoder, IncludeObject, ListMeta};
use crate::error::from_store;
use crate::negotiate::negotiate;
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;

/// How old the answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Latest,
    Any,
    NotOlderThan(u64),
    Exact(u64),
}

/// The next chunk's place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Continue {
    /// `None`: no longer a consistent list; what there is now.
    revision: Option<u64>,
    /// Key of the last object that was sent.
    after: ObjectKey,
}

struct Parameters {
    at: At,
    limit: Option<usize>,
    from: Option<Continue>,
}

pub(crate) fn revision(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| {
        invalid_option(
            "ListOptions",
            "resourceVersion",
            "FieldValueInvalid",
            format!("Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"),
        )
    })
}

pub(crate) fn filter(query: &Query, target: &Target, row: &Row) -> Result<Filter, ApiError> {
    let name = (!target.name.is_empty()).then_some(target.name.as_str());
    Filter::new(
        &target.namespace,
        name,
        query.get("labelSelector").unwrap_or(""),
        query.get("fieldSelector").unwrap_or(""),
        row.selecting(),
    )
}

impl Server {
    pub(crate) async fn list(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let wanted = negotiate(call.header(http::header::ACCEPT), true)?;
        let filter = filter(&call.query, target, row)?;
        let asked = parameters(&call.query)?;
        let (objects, meta) = match (&asked.from, asked.at) {
            (Some(Continue { revision: Some(revision), after }), _) => {
                self.cache.reach(*revision).await?;
                match self.list_at(row, &filter, *revision, Some(after), asked.limit).await {
                    Err(error) if error.reason == "Expired" => return Ok(expired_continue(after)),
                    listed => listed?,
                }
            }
            (Some(Continue { revision: None, after }), _) => {
                self.cache.fresh().await?;
                list_now(row, &filter, Some(after), asked.limit)
            }
            (None, At::Exact(revision)) => {
                self.cache.reach(revision).await?;
                self.list_at(row, &filter, revision, None, asked.limit).await?
            }
            (None, at) => {
                match at {
                    At::Latest => self.cache.fresh().await?,
                    At::NotOlderThan(revision) => self.cache.reach(revision).await?,
                    At::Any | At::Exact(_) => {}
                }
                list_now(row, &filter, None, asked.limit)
            }
        };
        let objects = self.served_all(row, objects).await?;
        let include = IncludeObject::parse(call.query.get("includeObject"))?;
        Ok(encode::list(objects, &meta, &Encoder::new(row, wanted.form, include), wanted))
    }

    /// The list as it was at a revision, from the store's history.
    async fn list_at(
        &self,
        row: &Row,
        filter: &Filter,
        revision: u64,
        after: Option<&ObjectKey>,
        limit: Option<usize>,
    ) -> Result<(Vec<Arc<Object>>, ListMeta), ApiError> {
        let storage = &row.descriptor.storage;
        let prefix = if filter.namespace.is_empty() {
            format!("{storage}/")
        } else {
            format!("{storage}/{}/", filter.namespace)
        };
        let start = match after {
            Some(key) => [&crate::storage::key(storage, key)[..], &[0]].concat(),
            None => prefix.clone().into_bytes(),
        };
        let mut end = prefix.into_bytes();
        // '0' comes right behind '/', so this is the end of everything with the prefix.
        *end.last_mut().expect("the prefix ends with a slash") = b'0';
        let range = Range { start: Bytes::from(start), end: Bytes::from(end) };
        // Selected objects may be rare: everything is read then, and counted here.
        let read_limit = if filter.selects() { None } else { limit };
        let listing = self.store.list(&range, Some(Revision(revision)), read_limit, Consistency::Local).await;
        let listing = listing.map_err(|e| from_store(&e))?;
        let mut objects = Vec::new();
        let mut more = listing.remaining > 0;
        for record in listing.records {
            let object = Object::parse(record.value, record.modified.0)
                .map_err(|e| ApiError::internal(skiff_base::chain(&e)))?;
            let entry = Entry::new(Arc::new(object));
            if !filter.matches(&entry) {
                continue;
            }
            if limit.is_some_and(|limit| objects.len() >= limit) {
                more = true;
                break;
            }
            objects.push(entry.object);
        }
        let remaining = (!filter.selects() && more).then_some(listing.remaining);
        let next = more.then(|| objects.last().map(|o| continue_token(Some(revision), &o.key()))).flatten();
        Ok((objects, ListMeta { revision, next, remaining }))
    }
}

fn list_now(
    row: &Row,
    filter: &Filter,
    after: Option<&ObjectKey>,
    limit: Option<usize>,
) -> (Vec<Arc<Object>>, ListMeta) {
    let found = row.cache.snapshot(filter, after, limit);
    let objects: Vec<Arc<Object>> = found.entries.iter().map(|e| e.object.clone()).collect();
    let next = found.more.and_then(|_| objects.last().map(|o| continue_token(Some(found.revision), &o.key())));
    let remaining = if filter.selects() { None } else { found.more };
    (objects, ListMeta { revision: found.revision, next, remaining })
}

fn parameters(query: &Query) -> Result<Parameters, ApiError> {
    let limit = match query.integer("limit")? {
        Some(limit) if limit < 0 => {
            return Err(invalid_option(
                "ListOptions",
                "limit",
                "FieldValueInvalid",
                format!("Invalid value: {limit}: must be greater than or equal to 0"),
            ));
        }
        Some(0) | None => None,
        Some(limit) => usize::try_from(limit).ok(),
    };
    let version = query.get("resourceVersion");
    let matching = query.get("resourceVersionMatch");
    let forbidden = |why: &str| {
        Err(invalid_option("ListOptions", "resourceVersionMatch", "FieldValueForbidden", format!("Forbidden: {why}")))
    };
    let token = query.get("continue");
    match (matching, version, token) {
        (Some(_), None, _) => return forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"),
        (Some(_), _, Some(_)) => return forbidden("resourceVersionMatch is forbidden when continue is provided"),
        (Some("Exact"), Some("0"), _) => {
            return forbidden(r#"resourceVersionMatch "Exact" is forbidden for resourceVersion "0""#);
        }
        (Some(other), ..) if !matches!(other, "Exact" | "NotOlderThan") => {
            return Err(unsupported("ListOptions", "resourceVersionMatch", other, r#""Exact", "NotOlderThan", """#));
        }
        _ => {}
    }
    if let Some(token) = token {
        if version.is_some_and(|v| v != "0") {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        return Ok(Parameters { at: At::Latest, limit, from: Some(parse_continue(token)?) });
    }
    let at = match (version, matching) {
        (None, _) => At::Latest,
        (Some("0"), _) => At::Any,
        (Some(text), Some("Exact")) => At::Exact(revision(text)?),
        // As upstream: a limit without a word on matching means exactly that revision.
        (Some(text), None) if limit.is_some() => At::Exact(revision(text)?),
        (Some(text), _) => At::NotOlderThan(revision(text)?),
    };
    Ok(Parameters { at, limit, from: None })
}

/// Base64 of upstream's form; -1 stands for "whatever there is now".
fn continue_token(revision: Option<u64>, after: &ObjectKey) -> String {
    let rv = revision.map_or(-1, |r| i64::try_from(r).unwrap_or(i64::MAX));
    let token = json!({"v": "meta.k8s.io/v1", "rv": rv, "start": format!("{}/{}\0", after.namespace, after.name)});
    BASE64.encode(token.to_string())
}

fn parse_continue(token: &str) -> Result<Continue, ApiError> {
    let invalid = |why: &str| ApiError::bad_request(format!("continue key is not valid: {why}"));
    let bytes = BASE64.decode(token.trim_end_matches('=')).map_err(|e| invalid(&e.to_string()))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| invalid(&e.to_string()))?;
    if value["v"] != "meta.k8s.io/v1" {
        return Err(invalid("server does not recognize this encoded version"));
    }
    let start = value["start"].as_str().and_then(|s| s.strip_suffix('\0')).ok_or_else(|| invalid("no start"))?;
    let (namespace, name) = start.split_once('/').ok_or_else(|| invalid("no start"))?;
    let rv = value["rv"].as_i64().ok_or_else(|| invalid("no resource version"))?;
    Ok(Continue { revision: u64::try_from(rv).ok(), after: ObjectKey::new(namespace, name) })
}

/// 410 with a token that lets the client go on without consistency.
fn expired_continue(after: &ObjectKey) -> Reply {
    let error = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let mut status = error.to_value();
    status["metadata"]["continue"] = continue_token(None, after).into();
    Reply::value(error.code, &status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        let check = |query: &str, expect: Result<(At, Option<usize>), &str>| {
            let got = parameters(&Query::parse(query)).map(|p| (p.at, p.limit));
            match (got, expect) {
                (Ok(got), Ok(expect)) => assert_eq!(got, expect, "{query}"),
                (Err(got), Err(expect)) => assert!(got.message.contains(expect), "{query}: {}", got.message),
                (got, expect) => panic!("{query}: {got:?}, expected {expect:?}"),
            }
        };
        check("", Ok((At::Latest, None)));
        check("resourceVersion=0", Ok((At::Any, None)));
        check("resourceVersion=5", Ok((At::NotOlderThan(5), None)));
        check("resourceVersion=5&limit=2", Ok((At::Exact(5), Some(2))));
        check("resourceVersion=5&resourceVersionMatch=Exact", Ok((At::Exact(5), None)));
        check("resourceVersionMatch=Exact", Err("forbidden unless resourceVersion is provided"));
        check("resourceVersion=0&resourceVersionMatch=Exact", Err(r#"is forbidden for resourceVersion "0""#));
        check("resourceVersion=5&resourceVersionMatch=Odd", Err("Unsupported value"));
        check("resourceVersion=x", Err("Invalid value"));
        check("limit=-1", Err("greater than or equal to 0"));
        check("continue=%%%", Err("continue key is not valid"));
    }

    #[test]
    fn continue_tokens_return() {
        let after = ObjectKey::new("a", "b");
        for revision in [Some(7), None] {
            let got = parse_continue(&continue_token(revision, &after)).expect("its own token");
            assert_eq!(got, Continue { revision, after: after.clone() });
        }
    }
}
