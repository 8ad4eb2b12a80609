//! GET on a collection: consistent, in chunks if asked.

use std::sync::Arc;

use bytes::Bytes;
use skiff_api::{ApiError, Object, ObjectKey};
use skiff_store::{Consistency, Range, Revision};

use super::continuation::Continuation;
use super::list_options::{ListOptions, revision};
use crate::cache::{Entry, Filter};
use crate::call::{Call, Query, Target};
use crate::encode::{self, Encoder, IncludeObject, ListMeta};
use crate::error::from_store;
use crate::negotiate::negotiate;
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;

/// Which objects a list shows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    Latest,
    Any,
    NotOlderThan(u64),
    Exact(u64),
    /// From a place on: of the first chunk's moment, or (`None`) what there is now.
    Behind(Continuation),
}

/// What there is, or why a list can't go on.
pub(crate) enum Listed {
    Objects(Vec<Arc<Object>>, ListMeta),
    /// History is gone: the answer has a token to go on without consistency.
    Expired(Reply),
}

pub(crate) fn filter(query: &Query, target: &Target, row: &Row) -> Result<Filter, ApiError> {
    Filter::new(
        &target.namespace,
        query.get("labelSelector").unwrap_or(""),
        query.get("fieldSelector").unwrap_or(""),
        row.selecting(),
    )
}

impl Server {
    pub(crate) async fn list(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let wanted = negotiate(call.header(http::header::ACCEPT), true)?;
        let include = IncludeObject::parse(call.query.get("includeObject"))?;
        let (objects, meta) = match self.listed(call, row, target).await? {
            Listed::Objects(objects, meta) => (objects, meta),
            Listed::Expired(reply) => return Ok(reply),
        };
        let objects = self.served_all(row, objects).await?;
        Ok(encode::list(objects, &meta, &Encoder::new(row, wanted.form, include), wanted))
    }

    /// The objects that a request is about, as they are stored.
    pub(crate) async fn listed(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Listed, ApiError> {
        let options = ListOptions::of_list(&call.query)?;
        let filter = filter(&call.query, target, row)?;
        let (at, limit) = place(&options, row.descriptor.namespaced, &filter.namespace)?;
        match &at {
            At::Any => {}
            At::Latest | At::Behind(Continuation { revision: None, .. }) => self.cache.fresh().await?,
            At::NotOlderThan(revision)
            | At::Exact(revision)
            | At::Behind(Continuation { revision: Some(revision), .. }) => self.cache.reach(*revision).await?,
        }
        let (objects, meta) = match &at {
            At::Exact(revision) => self.list_at(row, &filter, *revision, None, limit).await?,
            At::Behind(Continuation { revision: Some(revision), from }) => {
                match self.list_at(row, &filter, *revision, Some(from), limit).await {
                    Err(error) if error.reason == "Expired" => {
                        let rest = Continuation { revision: None, from: from.clone() };
                        return Ok(Listed::Expired(expired_continue(&rest.encode(&filter.namespace))));
                    }
                    listed => listed?,
                }
            }
            At::Behind(Continuation { revision: None, from }) => list_now(row, &filter, Some(from), limit),
            At::Latest | At::Any | At::NotOlderThan(_) => list_now(row, &filter, None, limit),
        };
        Ok(Listed::Objects(objects, meta))
    }

    /// The list as it was at a revision, from the store's history.
    async fn list_at(
        &self,
        row: &Row,
        filter: &Filter,
        revision: u64,
        from: Option<&ObjectKey>,
        limit: Option<usize>,
    ) -> Result<(Vec<Arc<Object>>, ListMeta), ApiError> {
        let prefix = prefix(row, filter);
        let start = match from {
            Some(key) => crate::storage::key(&row.descriptor.storage, key),
            None => Bytes::from(prefix.clone()),
        };
        let mut end = prefix.into_bytes();
        // '0' comes right behind '/', so this is the end of everything with the prefix.
        *end.last_mut().expect("the prefix ends with a slash") = b'0';
        let range = Range { start, end: Bytes::from(end) };
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
        let next = more.then(|| next(&objects, revision, filter)).flatten();
        Ok((objects, ListMeta { revision, next, remaining }))
    }
}

/// What the keys of all that a filter can show begin with.
pub(super) fn prefix(row: &Row, filter: &Filter) -> String {
    let storage = &row.descriptor.storage;
    match filter.namespace.as_str() {
        "" => format!("{storage}/"),
        namespace => format!("{storage}/{namespace}/"),
    }
}

fn next(objects: &[Arc<Object>], revision: u64, filter: &Filter) -> Option<String> {
    let last = objects.last()?;
    Some(Continuation::behind(&last.key(), Some(revision)).encode(&filter.namespace))
}

fn list_now(
    row: &Row,
    filter: &Filter,
    from: Option<&ObjectKey>,
    limit: Option<usize>,
) -> (Vec<Arc<Object>>, ListMeta) {
    let found = row.cache.snapshot(filter, from, limit);
    let objects: Vec<Arc<Object>> = found.entries.iter().map(|e| e.object.clone()).collect();
    let next = found.more.and_then(|_| next(&objects, found.revision, filter));
    let remaining = if filter.selects() { None } else { found.more };
    (objects, ListMeta { revision: found.revision, next, remaining })
}

/// Which objects, and how many at most.
fn place(options: &ListOptions<'_>, namespaced: bool, namespace: &str) -> Result<(At, Option<usize>), ApiError> {
    let limit = options.limit;
    if !options.token.is_empty() {
        let place = Continuation::decode(options.token, namespaced, namespace)?;
        if !matches!(options.version, "" | "0") {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        return Ok((At::Behind(place), limit));
    }
    Ok(match (options.version, revision(options.version)?) {
        ("", _) => (At::Latest, limit),
        // As upstream: who takes anything gets it whole.
        ("0", _) => (At::Any, None),
        (_, revision) if options.is_exact => (At::Exact(revision), limit),
        // As upstream: a limit without a word on matching means exactly that revision.
        (_, revision) if limit.is_some() && !options.is_not_older && revision > 0 => (At::Exact(revision), limit),
        (_, revision) => (At::NotOlderThan(revision), limit),
    })
}

/// 410 with a token that lets the client go on without consistency.
fn expired_continue(token: &str) -> Reply {
    let error = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let mut status = error.to_value();
    status["metadata"]["continue"] = token.into();
    Reply::value(error.code, &status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_objects_are_meant() {
        let check = |query: &str, expect: Result<(At, Option<usize>), &str>| {
            let query = Query::parse(query);
            let got = place(&ListOptions::of_list(&query).expect("options"), true, "a");
            match (got, expect) {
                (Ok(got), Ok(expect)) => assert_eq!(got, expect, "{query:?}"),
                (Err(got), Err(expect)) => assert!(got.message.contains(expect), "{query:?}: {}", got.message),
                (got, expect) => panic!("{query:?}: {got:?}, expected {expect:?}"),
            }
        };
        check("", Ok((At::Latest, None)));
        check("limit=2", Ok((At::Latest, Some(2))));
        check("resourceVersion=0&limit=2", Ok((At::Any, None)));
        check("resourceVersion=5", Ok((At::NotOlderThan(5), None)));
        check("resourceVersion=5&limit=2", Ok((At::Exact(5), Some(2))));
        check("resourceVersion=5&limit=2&resourceVersionMatch=NotOlderThan", Ok((At::NotOlderThan(5), Some(2))));
        check("resourceVersion=5&resourceVersionMatch=Exact", Ok((At::Exact(5), None)));
        check("resourceVersion=x", Err("invalid resource version"));
        check("continue=%%%", Err("invalid continue token: continue key is not valid"));
        let behind = Continuation::behind(&ObjectKey::new("a", "b"), Some(7));
        let token = behind.encode("a");
        check(&format!("continue={token}&limit=2"), Ok((At::Behind(behind.clone()), Some(2))));
        check(&format!("continue={token}&resourceVersion=0"), Ok((At::Behind(behind), None)));
        check(&format!("continue={token}&resourceVersion=7"), Err("is not allowed when using continue"));
    }
}
