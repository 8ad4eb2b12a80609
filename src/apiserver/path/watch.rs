//! GET on a collection with `watch`: what there is, if asked for, then every change.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use skiff_api::ApiError;
use skiff_base::CancellationToken;
use tokio::time::Instant;

use super::list::{filter, revision};
use super::options::{invalid_option, unsupported};
use crate::cache::{Entry, Event, Filter, ResourceCache, Seen, Subscription};
use crate::call::{Call, Query, Target};
use crate::encode::{Encoder, IncludeObject, write_value};
use crate::error::path_not_found;
use crate::negotiate::{Form, negotiate};
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;

const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Frames that are ready at the same time go out together, up to about this size.
const BATCH: usize = 64 << 10;

/// Where a watch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// With what there is now, at least as new as the revision. `None`: the newest.
    State(Option<u64>),
    /// With the changes after a revision.
    After(u64),
    /// With the changes to come.
    Now,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parameters {
    start: Start,
    bookmarks: bool,
    /// `sendInitialEvents`: the initial state ends with a bookmark that says so.
    marks_initial_end: bool,
}

fn parameters(query: &Query) -> Result<Parameters, ApiError> {
    let version = query.get("resourceVersion").map(revision).transpose()?;
    let matching = query.get("resourceVersionMatch");
    let bookmarks = query.flag("allowWatchBookmarks");
    let forbidden = |field: &str, why: &str| {
        Err(invalid_option("ListOptions", field, "FieldValueForbidden", format!("Forbidden: {why}")))
    };
    if query.get("continue").is_some() {
        return Err(ApiError::bad_request("continue is not allowed for watch"));
    }
    if !query.has("sendInitialEvents") {
        if matching.is_some() {
            return forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        let start = match version {
            None | Some(0) => Start::State(version),
            Some(after) => Start::After(after),
        };
        return Ok(Parameters { start, bookmarks, marks_initial_end: false });
    }
    match matching {
        Some("NotOlderThan") => {}
        None => {
            return forbidden(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
        }
        Some(other) => return Err(unsupported("ListOptions", "resourceVersionMatch", other, r#""NotOlderThan""#)),
    }
    if query.flag("sendInitialEvents") {
        return Ok(Parameters { start: Start::State(version), bookmarks, marks_initial_end: bookmarks });
    }
    let start = match version {
        None | Some(0) => Start::Now,
        Some(after) => Start::After(after),
    };
    Ok(Parameters { start, bookmarks, marks_initial_end: false })
}

impl Server {
    pub(crate) async fn watch(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let wanted = negotiate(call.header(http::header::ACCEPT), true)?;
        let filter = Arc::new(filter(&call.query, target, row)?);
        let asked = parameters(&call.query)?;
        let timeout = match call.query.integer("timeoutSeconds")? {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
            // As upstream: spread over half an hour to an hour, so that watches don't all end together.
            _ => Duration::from_secs(1800 + rand::random::<u64>() % 1800),
        };
        let include = IncludeObject::parse(call.query.get("includeObject"))?;
        let encoder = Encoder::new(row, wanted.form, include);
        let server = self.me.upgrade().ok_or_else(path_not_found)?;
        let mut frames = Frames {
            server,
            encoder,
            cache: row.cache.clone(),
            filter: filter.clone(),
            subscription: None,
            initial: VecDeque::new(),
            initial_end: None,
            backlog: VecDeque::new(),
            since: 0,
            last: 0,
            bookmarks: asked.bookmarks,
            columns: true,
            ends: Instant::now() + timeout,
            next_bookmark: Instant::now() + BOOKMARK_EVERY,
            stop: self.scope.token().clone(),
        };
        frames.start(self, asked).await?;
        Ok(Reply::pieces("application/json", frames.into_stream()))
    }
}

/// One watch, as the frames that it sends.
struct Frames {
    server: Arc<Server>,
    encoder: Encoder,
    cache: Arc<ResourceCache>,
    filter: Arc<Filter>,
    /// `None`: over.
    subscription: Option<Subscription>,
    initial: VecDeque<Arc<Entry>>,
    /// The revision of the bookmark behind the initial state.
    initial_end: Option<u64>,
    backlog: VecDeque<Arc<Event>>,
    /// Changes up to here are not told, though they may come yet: a watch may start in the future.
    since: u64,
    /// The newest revision that was told.
    last: u64,
    bookmarks: bool,
    /// The next table tells its columns.
    columns: bool,
    ends: Instant,
    next_bookmark: Instant,
    stop: CancellationToken,
}

impl Frames {
    async fn start(&mut self, server: &Server, asked: Parameters) -> Result<(), ApiError> {
        match asked.start {
            Start::State(at) => {
                match at {
                    Some(revision) => server.cache.reach(revision).await?,
                    None => server.cache.fresh().await?,
                }
                let (snapshot, subscription) = self.cache.subscribe_all(&self.filter);
                self.last = snapshot.revision;
                self.initial = snapshot.entries.into();
                self.initial_end = asked.marks_initial_end.then_some(snapshot.revision);
                self.subscription = Some(subscription);
            }
            Start::Now => {
                server.cache.fresh().await?;
                let (snapshot, subscription) = self.cache.subscribe_all(&self.filter);
                self.last = snapshot.revision;
                self.subscription = Some(subscription);
            }
            Start::After(revision) => {
                // As upstream: a revision that is not there yet is waited for in silence.
                self.since = revision;
                match self.cache.subscribe(&self.filter, revision) {
                    Ok(mut subscription) => {
                        self.last = subscription.revision;
                        self.backlog = std::mem::take(&mut subscription.backlog).into();
                        self.subscription = Some(subscription);
                    }
                    // Upstream tells it as an event of a watch that has begun.
                    Err(crate::cache::TooOld) => self.backlog.clear(),
                }
            }
        }
        Ok(())
    }

    fn into_stream(self) -> impl Stream<Item = Result<Bytes, io::Error>> + Send {
        let too_old = self.subscription.is_none();
        futures::stream::unfold((self, too_old), |(mut frames, too_old)| async move {
            if too_old {
                let error = ApiError::expired("too old resource version");
                return Some((Ok(frame("ERROR", error.to_value())), (frames, false)));
            }
            frames.next().await.map(|bytes| (Ok(bytes), (frames, false)))
        })
    }

    /// The next bytes; `None` at the end of the watch. What can't be converted ends it, and is told.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        match self.fill(&mut out).await {
            Ok(true) => Some(out.into()),
            Ok(false) => None,
            Err(error) => {
                self.subscription = None;
                self.ends = Instant::now();
                self.initial.clear();
                self.backlog.clear();
                out.extend_from_slice(&frame("ERROR", error.to_value()));
                Some(out.into())
            }
        }
    }

    /// `false` at the end of the watch.
    async fn fill(&mut self, out: &mut Vec<u8>) -> Result<bool, ApiError> {
        while let Some(entry) = self.initial.pop_front() {
            self.write("ADDED", &entry, out).await?;
            if out.len() >= BATCH {
                return Ok(true);
            }
        }
        if let Some(revision) = self.initial_end.take() {
            out.extend_from_slice(&frame("BOOKMARK", self.encoder.bookmark(revision, true)));
        }
        while let Some(event) = self.backlog.pop_front() {
            self.tell(&event, out).await?;
            if out.len() >= BATCH {
                return Ok(true);
            }
        }
        while out.is_empty() {
            match self.wait().await {
                Some(Woken::Event(event)) => self.drain(&event, out).await?,
                Some(Woken::Bookmark) => self.bookmark(out),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn wait(&mut self) -> Option<Woken> {
        let subscription = self.subscription.as_mut()?;
        tokio::select! {
            event = subscription.events.recv() => event.map(Woken::Event),
            () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => Some(Woken::Bookmark),
            () = tokio::time::sleep_until(self.ends) => None,
            () = self.stop.cancelled() => None,
        }
    }

    /// The event, and all that are ready behind it.
    async fn drain(&mut self, event: &Arc<Event>, out: &mut Vec<u8>) -> Result<(), ApiError> {
        self.tell(event, out).await?;
        while out.len() < BATCH {
            let Some(more) = self.subscription.as_mut().and_then(|s| s.events.try_recv().ok()) else { break };
            self.tell(&more, out).await?;
        }
        Ok(())
    }

    fn bookmark(&mut self, out: &mut Vec<u8>) {
        self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
        let caught_up = self.subscription.as_ref().and_then(|s| self.cache.caught_up(&s.events));
        if let Some(revision) = caught_up.filter(|r| *r >= self.last) {
            self.last = revision;
            out.extend_from_slice(&frame("BOOKMARK", self.encoder.bookmark(revision, false)));
        }
    }

    async fn tell(&mut self, event: &Arc<Event>, out: &mut Vec<u8>) -> Result<(), ApiError> {
        if event.revision <= self.since {
            return Ok(());
        }
        let Some(seen) = event.seen_by(&self.filter) else { return Ok(()) };
        self.last = event.revision;
        match seen {
            Seen::Deleted { entry, gone: false } => {
                // It left the selection: the client learns the last state it selected, at this revision.
                let object = skiff_api::Object::parse(entry.object.raw().clone(), event.revision);
                if let Ok(object) = object {
                    self.write("DELETED", &Entry::new(Arc::new(object)), out).await?;
                }
            }
            Seen::Added(entry) | Seen::Modified(entry) | Seen::Deleted { entry, gone: true } => {
                let kind = match seen {
                    Seen::Added(_) => "ADDED",
                    Seen::Modified(_) => "MODIFIED",
                    Seen::Deleted { .. } => "DELETED",
                };
                let as_stored = self.encoder.is_plain() && self.encoder.row.shows_as_stored(&entry.object);
                if !as_stored || kind != event.natural_kind() {
                    return self.write(kind, entry, out).await;
                }
                let shared = event.frame.get_or_init(|| {
                    let mut bytes = Vec::with_capacity(entry.object.raw().len() + 80);
                    write_frame(&self.encoder, kind, entry, false, &mut bytes);
                    bytes.into()
                });
                out.extend_from_slice(shared);
            }
        }
        Ok(())
    }

    async fn write(&mut self, kind: &str, entry: &Entry, out: &mut Vec<u8>) -> Result<(), ApiError> {
        let columns = std::mem::take(&mut self.columns) && matches!(self.encoder.form, Form::Table(_));
        let row = &self.encoder.row;
        if row.shows_as_stored(&entry.object) {
            write_frame(&self.encoder, kind, entry, columns, out);
        } else {
            let object = self.server.served(row, entry.object.clone()).await?;
            write_frame(&self.encoder, kind, &Entry::new(object), columns, out);
        }
        Ok(())
    }
}

enum Woken {
    Event(Arc<Event>),
    Bookmark,
}

fn write_frame(encoder: &Encoder, kind: &str, entry: &Entry, columns: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    encoder.write(&entry.object, columns, out);
    out.extend_from_slice(b"}\n");
}

fn frame(kind: &str, object: Value) -> Bytes {
    let mut out = Vec::new();
    write_value(&json!({"type": kind, "object": object}), &mut out);
    out.push(b'\n');
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_watch_starts() {
        let check = |query: &str, expect: Result<(Start, bool), &str>| {
            let got = parameters(&Query::parse(query)).map(|p| (p.start, p.marks_initial_end));
            match (got, expect) {
                (Ok(got), Ok(expect)) => assert_eq!(got, expect, "{query}"),
                (Err(got), Err(expect)) => assert!(got.message.contains(expect), "{query}: {}", got.message),
                (got, expect) => panic!("{query}: {got:?}, expected {expect:?}"),
            }
        };
        check("", Ok((Start::State(None), false)));
        check("resourceVersion=0", Ok((Start::State(Some(0)), false)));
        check("resourceVersion=7&allowWatchBookmarks=true", Ok((Start::After(7), false)));
        let list = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        check(&format!("{list}&allowWatchBookmarks=true"), Ok((Start::State(None), true)));
        check(&format!("{list}&resourceVersion=9"), Ok((Start::State(Some(9)), false)));
        check("sendInitialEvents=false&resourceVersionMatch=NotOlderThan", Ok((Start::Now, false)));
        check("sendInitialEvents=true", Err("requires setting resourceVersionMatch"));
        check("resourceVersionMatch=NotOlderThan", Err("unless sendInitialEvents is provided"));
    }
}
