//! GET on a collection with `watch`: what there is, if asked for, then every change.
//!
//! ```text
//! what there is -> bookmark "initial events end" -> changes: of the store's history, until the ring has the next one
//!                                                            of the ring, until it has gone on without this watch
//! ```
//!
//! A watch holds at most a handful of changes: it takes the next ones when its client has taken the last ones.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use skiff_api::ApiError;
use skiff_base::CancellationToken;
use skiff_store::Revision;
use tokio::time::Instant;

use super::list::{filter, prefix};
use super::list_options::{ListOptions, revision};
use super::socket;
use crate::cache::{Entry, Event, Filter, ResourceCache, Seen, Subscription, Told};
use crate::call::{Call, Target};
use crate::encode::{Encoder, IncludeObject, Shape, write_value};
use crate::error::{from_store, path_not_found};
use crate::negotiate::{Form, negotiate_watch};
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;

const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// The last bookmark comes so long before the watch ends.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// How long a watch lasts whose client does not say: this, and up to as much again, so that they don't end together.
const LASTS_AT_LEAST_S: u64 = 1800;
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
    /// The initial state ends with a bookmark that says so.
    marks_initial_end: bool,
}

fn parameters(options: &ListOptions<'_>) -> Result<Parameters, ApiError> {
    let version = revision(options.version)?;
    let start = match (options.initial_events, options.version) {
        (Some(true), "") => Start::State(None),
        (Some(true), _) => Start::State(Some(version)),
        (_, "" | "0") => Start::Now,
        _ => Start::After(version),
    };
    let marks_initial_end = options.bookmarks && options.initial_events == Some(true);
    Ok(Parameters { start, bookmarks: options.bookmarks, marks_initial_end })
}

fn lasts(timeout_s: Option<i64>) -> Duration {
    match timeout_s.unwrap_or(0) {
        0 => Duration::from_secs(LASTS_AT_LEAST_S + rand::random::<u64>() % LASTS_AT_LEAST_S),
        seconds => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
    }
}

/// When the next bookmark is due; `None`: there is no more.
fn plan_bookmark(now: Instant, ends: Instant) -> Option<Instant> {
    let last = ends.checked_sub(BOOKMARK_BEFORE_END)?;
    (last > now).then(|| last.min(now + BOOKMARK_EVERY))
}

impl Server {
    pub(crate) async fn watch(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let wanted = negotiate_watch(call.header(http::header::ACCEPT))?;
        let options = ListOptions::of_watch(&call.query)?;
        let filter = Arc::new(filter(&call.query, target, row)?);
        let asked = parameters(&options)?;
        let include = IncludeObject::parse(call.query.get("includeObject"))?;
        let encoder = Encoder::new(row, wanted.form, include);
        let server = self.me.upgrade().ok_or_else(path_not_found)?;
        let now = Instant::now();
        let ends = now + lasts(options.timeout_s);
        let mut frames = Frames {
            server,
            shape: encoder.shape(),
            encoder,
            cache: row.cache.clone(),
            filter,
            source: Source::Over,
            failure: None,
            initial: VecDeque::new(),
            initial_end: None,
            taken: VecDeque::new(),
            since: 0,
            through: 0,
            last: 0,
            columns: matches!(wanted.form, Form::Table(_)),
            ends,
            next_bookmark: plan_bookmark(now, ends).filter(|_| asked.bookmarks),
            stop: self.scope.token().clone(),
        };
        // As upstream: from here on what goes wrong is told as an event of a watch that has begun.
        if let Err(error) = frames.start(self, asked).await {
            frames.fail(error);
        }
        match socket::asked(call)? {
            Some(upgrade) => Ok(socket::reply(self, call, &upgrade, frames.into_stream())),
            None => Ok(Reply::pieces("application/json", frames.into_stream())),
        }
    }
}

/// Where the changes come from.
enum Source {
    /// From the store's history, behind this revision.
    History(u64),
    Ring(Subscription),
    Over,
}

/// One watch, as the frames that it sends.
struct Frames {
    server: Arc<Server>,
    encoder: Encoder,
    shape: Shape,
    cache: Arc<ResourceCache>,
    filter: Arc<Filter>,
    source: Source,
    /// What ends the watch, and was not told yet.
    failure: Option<ApiError>,
    initial: VecDeque<Arc<Entry>>,
    /// The revision of the bookmark behind the initial state.
    initial_end: Option<u64>,
    /// Changes that are to be told next.
    taken: VecDeque<Arc<Event>>,
    /// Changes up to here are not told, though they may come yet: a watch may start in the future.
    since: u64,
    /// How far history was told; the ring may be behind it.
    through: u64,
    /// The newest revision that was told.
    last: u64,
    /// The next frame tells the table's columns.
    columns: bool,
    ends: Instant,
    next_bookmark: Option<Instant>,
    stop: CancellationToken,
}

impl Frames {
    async fn start(&mut self, server: &Server, asked: Parameters) -> Result<(), ApiError> {
        match asked.start {
            Start::State(Some(revision)) => server.cache.reach(revision).await?,
            Start::State(None) | Start::Now => server.cache.fresh().await?,
            Start::After(revision) => {
                // As upstream: a revision that is not there yet is waited for in silence.
                self.since = revision;
                self.last = revision;
                self.follow(revision);
                return Ok(());
            }
        }
        let (snapshot, subscription) = self.cache.subscribe_all(&self.filter);
        self.last = snapshot.revision;
        self.source = Source::Ring(subscription);
        if asked.start != Start::Now {
            self.initial = snapshot.entries.into();
            self.initial_end = asked.marks_initial_end.then_some(snapshot.revision);
        }
        Ok(())
    }

    /// Goes on behind a revision.
    fn follow(&mut self, after: u64) {
        self.source = match self.cache.subscribe(&self.filter, after) {
            Ok(subscription) => Source::Ring(subscription),
            Err(crate::cache::TooOld) => Source::History(after),
        };
    }

    fn fail(&mut self, error: ApiError) {
        self.source = Source::Over;
        self.initial.clear();
        self.initial_end = None;
        self.taken.clear();
        self.failure = Some(error);
    }

    fn into_stream(self) -> impl Stream<Item = Result<Bytes, io::Error>> + Send {
        futures::stream::unfold(self, |mut frames| async move { frames.next().await.map(|bytes| (Ok(bytes), frames)) })
    }

    /// The next bytes; `None` at the end of the watch. What ends it by a failure is told.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        if self.failure.is_none()
            && let Err(error) = self.fill(&mut out).await
        {
            self.fail(error);
        }
        if let Some(error) = self.failure.take() {
            out.extend_from_slice(&frame("ERROR", error.to_value()));
        }
        (!out.is_empty()).then(|| out.into())
    }

    /// Writes what there is to tell, and waits for it; nothing at the end of the watch.
    async fn fill(&mut self, out: &mut Vec<u8>) -> Result<(), ApiError> {
        if self.stop.is_cancelled() || Instant::now() >= self.ends {
            return Ok(());
        }
        while out.len() < BATCH {
            if let Some(entry) = self.initial.pop_front() {
                self.write("ADDED", &entry, out).await?;
            } else if let Some(revision) = self.initial_end.take() {
                out.extend_from_slice(&frame("BOOKMARK", self.encoder.bookmark(revision, true)));
            } else if let Some(event) = self.taken.pop_front() {
                self.tell(&event, out).await?;
            } else if !self.take(!out.is_empty(), out).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes the next changes, or a bookmark that is due. False: there is nothing (`at_once`: without waiting), or the
    /// watch has ended.
    async fn take(&mut self, at_once: bool, out: &mut Vec<u8>) -> Result<bool, ApiError> {
        let told = match &mut self.source {
            Source::Over => return Ok(false),
            Source::History(after) => {
                let after = *after;
                self.recall(after)?;
                // There may be nothing to tell for long, and much to look at.
                tokio::task::yield_now().await;
                return Ok(true);
            }
            Source::Ring(subscription) if at_once => match subscription.ready() {
                Some(told) => told,
                None => return Ok(false),
            },
            Source::Ring(subscription) => {
                let bookmark = self.next_bookmark.unwrap_or(self.ends);
                tokio::select! {
                    told = subscription.next() => told,
                    () = tokio::time::sleep_until(bookmark), if self.next_bookmark.is_some() => {
                        self.bookmark(out);
                        return Ok(true);
                    }
                    () = tokio::time::sleep_until(self.ends) => return Ok(false),
                    () = self.stop.cancelled() => return Ok(false),
                }
            }
        };
        match told {
            Told::Changes(changes) => {
                let through = self.through;
                self.taken = changes.into_iter().filter(|change| change.revision > through).collect();
            }
            Told::Behind(after) => self.source = Source::History(after),
            Told::Over => self.source = Source::Over,
        }
        Ok(true)
    }

    /// Takes the next piece of the store's history.
    fn recall(&mut self, after: u64) -> Result<(), ApiError> {
        let prefix = prefix(self.encoder.row.home(), &self.filter);
        let piece = self.server.store.changes(prefix.as_bytes(), Revision(after)).map_err(|error| match error {
            skiff_store::Error::Compacted { asked, oldest } => {
                ApiError::expired(format!("too old resource version: {} ({})", asked.0, oldest.0))
            }
            other => from_store(&other),
        })?;
        self.taken = piece.events.iter().filter_map(Event::of_history).map(Arc::new).collect();
        self.through = piece.through.0;
        self.follow(piece.through.0);
        Ok(())
    }

    fn bookmark(&mut self, out: &mut Vec<u8>) {
        self.next_bookmark = plan_bookmark(Instant::now(), self.ends);
        let Source::Ring(subscription) = &self.source else { return };
        if let Some(revision) = subscription.caught_up().filter(|r| *r >= self.last) {
            self.last = revision;
            out.extend_from_slice(&frame("BOOKMARK", self.encoder.bookmark(revision, false)));
        }
    }

    async fn tell(&mut self, event: &Event, out: &mut Vec<u8>) -> Result<(), ApiError> {
        if event.revision <= self.since {
            return Ok(());
        }
        let Some(seen) = event.seen_by(&self.filter) else { return Ok(()) };
        self.last = event.revision;
        let (kind, entry) = match seen {
            Seen::Added(entry) => ("ADDED", entry.clone()),
            Seen::Modified(entry) => ("MODIFIED", entry.clone()),
            Seen::Deleted { entry, gone: true } => ("DELETED", entry.clone()),
            // It left the selection: the client learns the last state it selected, at this revision.
            Seen::Deleted { entry, gone: false } => {
                ("DELETED", Arc::new(Entry::new(Arc::new(entry.object.at(event.revision)))))
            }
        };
        if self.columns {
            return self.write(kind, &entry, out).await;
        }
        if self.encoder.row.shows_as_stored(&entry.object) {
            let make = |out: &mut Vec<u8>| write_frame(&self.encoder, kind, &entry, false, out);
            out.extend_from_slice(&event.frame(&self.shape, kind, &make));
        } else if let Some(known) = event.known_frame(&self.shape, kind) {
            out.extend_from_slice(&known);
        } else {
            let begin = out.len();
            self.write(kind, &entry, out).await?;
            event.keep_frame(&self.shape, kind, Bytes::copy_from_slice(&out[begin..]));
        }
        Ok(())
    }

    async fn write(&mut self, kind: &str, entry: &Entry, out: &mut Vec<u8>) -> Result<(), ApiError> {
        let columns = std::mem::take(&mut self.columns);
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
    use crate::call::Query;

    #[test]
    fn where_a_watch_starts() {
        let check = |query: &str, start: Start, marks: bool| {
            let query = Query::parse(query);
            let got = parameters(&ListOptions::of_watch(&query).expect("options")).expect("parameters");
            assert_eq!((got.start, got.marks_initial_end), (start, marks), "{query:?}");
        };
        check("", Start::State(None), false);
        check("allowWatchBookmarks=true", Start::State(None), true);
        check("resourceVersion=0", Start::State(Some(0)), false);
        check("resourceVersion=7&allowWatchBookmarks=true", Start::After(7), false);
        let list = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        check(&format!("{list}&allowWatchBookmarks=true"), Start::State(None), true);
        check(&format!("{list}&resourceVersion=9"), Start::State(Some(9)), false);
        let none = "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=1";
        check(none, Start::Now, false);
        check(&format!("{none}&resourceVersion=0"), Start::Now, false);
        check(&format!("{none}&resourceVersion=9"), Start::After(9), false);
    }

    #[test]
    fn how_long_a_watch_lasts() {
        assert_eq!((lasts(Some(7)), lasts(Some(-1))), (Duration::from_secs(7), Duration::ZERO));
        for timeout in [None, Some(0)] {
            assert!((1800..3600).contains(&lasts(timeout).as_secs()));
        }
    }

    #[test]
    fn bookmarks_come_each_minute_and_before_the_end() {
        let now = Instant::now();
        let check = |lasts_s: u64, expect_s: Option<u64>| {
            let due = plan_bookmark(now, now + Duration::from_secs(lasts_s));
            assert_eq!(due.map(|at| (at - now).as_secs()), expect_s, "{lasts_s}");
        };
        check(300, Some(60));
        check(62, Some(60));
        check(61, Some(59));
        check(3, Some(1));
        check(2, None);
        check(0, None);
    }
}
