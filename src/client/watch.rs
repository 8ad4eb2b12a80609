//! Observing a resource by requests: a list in chunks, then a watch from its revision; again from the
//! last revision when the watch ends, from the list when the server no longer has that revision.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use http::{Request, header};
use serde::Deserialize;
use serde_json::Value;
use skiff_api::{ApiError, Gvr, Object};
use skiff_base::{Backoff, chain};

use crate::api::{failure, query, resource_path};
use crate::{Body, Error, Feed, Result, Selector, Transport, Update};

/// Objects per list request.
const CHUNK: &str = "500";
/// A watch is asked to end after this time, spread so that many do not end together.
const WATCH_S: std::ops::Range<u64> = 300..600;
/// How much longer than asked a silent watch is waited for, before the connection counts as dead.
const WATCH_SLACK: Duration = Duration::from_secs(30);
/// A watch that lived this long was no failure.
const HEALTHY: Duration = Duration::from_secs(5);

/// The set of objects by requests alone, for transports that have no better way.
pub fn observe(transport: Arc<dyn Transport>, resource: &Gvr, selector: &Selector) -> Feed {
    let observer = Observer {
        transport,
        path: resource_path(resource, &selector.namespace),
        selector: selector.clone(),
        backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(30)),
        phase: Phase::List,
        ready: VecDeque::new(),
    };
    stream::unfold(observer, |mut observer| async move { Some((observer.next().await, observer)) }).boxed()
}

struct Observer {
    transport: Arc<dyn Transport>,
    path: String,
    selector: Selector,
    backoff: Backoff,
    phase: Phase,
    ready: VecDeque<Update>,
}

/// ```text
///   List ──listed──> Watch{revision} ──answered──> Read{revision} ──ended──> Watch{last revision}
///    ^                                    │
///    └──────────── 410 Expired ───────────┘
/// ```
enum Phase {
    List,
    Watch { revision: String },
    Read { revision: String, lines: Lines, since: Instant },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    metadata: ListMeta,
    #[serde(default)]
    items: Option<Vec<Value>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: String,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

impl Observer {
    async fn next(&mut self) -> Update {
        loop {
            if let Some(update) = self.ready.pop_front() {
                return update;
            }
            if let Err(error) = self.step().await {
                if matches!(&error, Error::Api(error) if error.code == 410) {
                    self.phase = Phase::List;
                }
                let wait = self.backoff.next_wait();
                tracing::debug!(path = self.path, error = %chain(&error), ?wait, "observe again");
                tokio::time::sleep(wait).await;
            }
        }
    }

    async fn step(&mut self) -> Result<()> {
        match &mut self.phase {
            Phase::List => {
                let (objects, revision) = self.list().await?;
                self.ready.push_back(Update::Replace(objects));
                self.phase = Phase::Watch { revision };
                Ok(())
            }
            Phase::Watch { revision } => {
                let revision = revision.clone();
                let lines = self.watch(&revision).await?;
                self.phase = Phase::Read { revision, lines, since: Instant::now() };
                Ok(())
            }
            Phase::Read { revision, lines, since } => {
                let line = match lines.next().await {
                    Ok(Some(line)) => line,
                    ended => {
                        if since.elapsed() > HEALTHY {
                            self.backoff.reset();
                        }
                        self.phase = Phase::Watch { revision: std::mem::take(revision) };
                        return match ended {
                            // Not at once, lest a server that ends every watch be asked without a pause.
                            Ok(_) => Err(Error::Transport("the watch ended".into())),
                            Err(error) => Err(error),
                        };
                    }
                };
                let event: Event = serde_json::from_slice(&line).map_err(|e| Error::Decode(e.into()))?;
                if let Some(update) = take(event, revision)? {
                    self.backoff.reset();
                    self.ready.push_back(update);
                }
                Ok(())
            }
        }
    }

    fn url(&self, more: &[(&str, &str)]) -> String {
        let mut pairs = vec![("labelSelector", &*self.selector.labels), ("fieldSelector", &*self.selector.fields)];
        pairs.extend_from_slice(more);
        format!("{}{}", self.path, query(&pairs))
    }

    async fn list(&mut self) -> Result<(Vec<Arc<Object>>, String)> {
        let mut objects = Vec::new();
        let mut next = String::new();
        loop {
            let answer = self.transport.send(get(&self.url(&[("limit", CHUNK), ("continue", &next)]))?).await?;
            if !answer.status().is_success() {
                return Err(Error::Api(failure(answer.status(), answer.body())));
            }
            let list: List = serde_json::from_slice(answer.body()).map_err(|e| Error::Decode(e.into()))?;
            let kind = list.kind.strip_suffix("List").unwrap_or_default();
            for mut item in list.items.into_iter().flatten() {
                // Items of lists need not say what the list says.
                if item.get("kind").is_none() && !kind.is_empty() {
                    item["kind"] = kind.into();
                    item["apiVersion"] = list.api_version.as_str().into();
                }
                objects.push(object(item)?);
            }
            if list.metadata.next.is_empty() {
                return Ok((objects, list.metadata.resource_version));
            }
            next = list.metadata.next;
        }
    }

    async fn watch(&mut self, revision: &str) -> Result<Lines> {
        let seconds = rand::random_range(WATCH_S);
        let url = self.url(&[
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", revision),
            ("timeoutSeconds", &seconds.to_string()),
        ]);
        let answer = self.transport.stream(get(&url)?).await?;
        let status = answer.status();
        let mut lines = Lines::new(answer.into_body(), Duration::from_secs(seconds) + WATCH_SLACK);
        if status.is_success() {
            return Ok(lines);
        }
        let mut text = Vec::new();
        while let Some(line) = lines.next().await? {
            text.extend_from_slice(&line);
        }
        Err(Error::Api(failure(status, &text)))
    }
}

fn get(url: &str) -> Result<Request<Bytes>> {
    Request::get(url)
        .header(header::ACCEPT, "application/json")
        .body(Bytes::new())
        .map_err(|e| Error::Config(format!("{url:?} can't be asked for: {e}")))
}

fn object(value: Value) -> Result<Arc<Object>> {
    Object::from_wire(value).map(Arc::new).map_err(|e| Error::Decode(e.into()))
}

/// What an event of a watch means, and how far the watch has come.
fn take(event: Event, revision: &mut String) -> Result<Option<Update>> {
    if event.kind == "ERROR" {
        let error = ApiError::from_value(&event.object);
        return Err(Error::Api(error.unwrap_or_else(|| ApiError::internal("the watch failed without a reason"))));
    }
    if let Some(at) = event.object["metadata"]["resourceVersion"].as_str() {
        at.clone_into(revision);
    }
    Ok(match event.kind.as_str() {
        "ADDED" | "MODIFIED" => Some(Update::Put(object(event.object)?)),
        "DELETED" => Some(Update::Delete(object(event.object)?)),
        _ => None,
    })
}

/// A body in lines.
struct Lines {
    body: Body,
    buffer: BytesMut,
    /// Up to here the buffer holds no end of a line.
    searched: usize,
    deadline: tokio::time::Instant,
}

impl Lines {
    fn new(body: Body, limit: Duration) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0, deadline: tokio::time::Instant::now() + limit }
    }

    /// The next line that isn't empty; `None` at the end of the body.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + at + 1).freeze();
                self.searched = 0;
                let line = line.slice(..line.len() - 1);
                if line.is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            let chunk = tokio::time::timeout_at(self.deadline, self.body.next())
                .await
                .map_err(|_| Error::Transport("the watch did not end in time".into()))?;
            match chunk {
                Some(chunk) => self.buffer.extend_from_slice(&chunk?),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    self.searched = 0;
                    return Ok(Some(self.buffer.split().freeze()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use http::{Response, StatusCode};
    use std::sync::Mutex;

    /// Answers with what the test has written down, and notes what it was asked.
    struct Script {
        answers: Mutex<VecDeque<(u16, Vec<&'static str>)>>,
        asked: Mutex<Vec<String>>,
    }

    impl Script {
        fn answer(&self, request: &Request<Bytes>) -> (StatusCode, Vec<&'static str>) {
            let url = request.uri().to_string();
            let url = url.split("&timeoutSeconds").next().expect("split gives one").to_owned();
            self.asked.lock().expect("unpoisoned").push(url);
            let (code, chunks) = self.answers.lock().expect("unpoisoned").pop_front().expect("the script has gone on");
            (StatusCode::from_u16(code).expect("a code"), chunks)
        }
    }

    #[async_trait]
    impl Transport for Script {
        async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
            let (status, chunks) = self.answer(&request);
            let mut response = Response::new(Bytes::from(chunks.concat()));
            *response.status_mut() = status;
            Ok(response)
        }

        async fn stream(&self, request: Request<Bytes>) -> Result<Response<Body>> {
            let (status, chunks) = self.answer(&request);
            let body = stream::iter(chunks.into_iter().map(|chunk| Ok(Bytes::from_static(chunk.as_bytes())))).boxed();
            let mut response = Response::new(body);
            *response.status_mut() = status;
            Ok(response)
        }

        fn observe(&self, _: &Gvr, _: &Selector) -> Feed {
            unreachable!("it is what is tested")
        }
    }

    #[tokio::test]
    async fn lists_in_chunks_watches_from_there_and_lists_again_when_expired() {
        let pod = |name: &str, at: u64| format!(r#"{{"metadata":{{"name":"{name}","resourceVersion":"{at}"}}}}"#);
        let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
        let list = |next: &str, name: &str| {
            leak(format!(
                r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{"resourceVersion":"5","continue":"{next}"}},"items":[{}]}}"#,
                pod(name, 4)
            ))
        };
        let answers = VecDeque::from([
            (200, vec![list("more", "a")]),
            (200, vec![list("", "b")]),
            // Chunks need not be lines.
            (
                200,
                vec![
                    leak(format!("{{\"type\":\"ADDED\",\"object\":{}}}\n{{\"type\":\"MODI", pod("c", 6))),
                    leak(format!("FIED\",\"object\":{}}}\n", pod("a", 7))),
                    leak(format!("\n{{\"type\":\"BOOKMARK\",\"object\":{}}}\n", pod("", 9))),
                ],
            ),
            (500, vec!["oops"]),
            (200, vec![r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}"#]),
            (200, vec![list("", "d")]),
        ]);
        let script = Arc::new(Script { answers: Mutex::new(answers), asked: Mutex::default() });
        let selector = Selector { labels: "x=y".into(), ..Selector::default() };
        let mut feed = observe(script.clone(), &Gvr::new("", "v1", "pods"), &selector);
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(match feed.next().await.expect("it never ends") {
                Update::Replace(all) => all.iter().map(|o| o.key().to_string()).collect::<Vec<_>>().join("+"),
                Update::Put(one) => format!("put {one:?}"),
                Update::Delete(one) => format!("delete {one:?}"),
            });
        }
        assert_eq!(seen, ["a+b", "put Object(c @6)", "put Object(a @7)", "d"]);
        let asked = script.asked.lock().expect("unpoisoned").clone();
        let watch = "/api/v1/pods?labelSelector=x%3Dy&watch=true&allowWatchBookmarks=true&resourceVersion=";
        assert_eq!(asked[1], "/api/v1/pods?labelSelector=x%3Dy&limit=500&continue=more");
        assert_eq!(asked[2], format!("{watch}5"));
        assert_eq!(asked[3], format!("{watch}9"));
        assert_eq!(asked[4], format!("{watch}9"));
        assert_eq!(asked[5], "/api/v1/pods?labelSelector=x%3Dy&limit=500");
    }
}
