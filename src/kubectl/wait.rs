//! `kubectl wait`.

use std::time::Duration;

use clap::Args;
use futures::StreamExt;
use serde_json::Value;

use crate::delete::wait_until_gone;
use crate::failure::{self, is_not_found};
use crate::print::JsonPath;
use crate::server::{JSON, Server, path, with_query};
use crate::targets::{Found, Selection, parse};
use crate::{Failure, Result};

#[derive(Args, Debug)]
pub struct Arguments {
    /// TYPE[/NAME] [NAME ...]
    words: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Wait in all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// create, delete, condition=NAME[=VALUE], jsonpath='{EXPRESSION}'=VALUE
    #[arg(long = "for", default_value = "", hide_default_value = true)]
    for_: String,
    /// The length of time to wait before giving up; negative is a week
    #[arg(long, default_value = "30s", allow_negative_numbers = true)]
    timeout: String,
}

enum Condition {
    Create,
    Delete,
    Status { name: String, value: String },
    Path { path: JsonPath, value: Option<String> },
}

/// Go's duration, or a number of seconds. `None`: for ever (a negative one).
pub fn duration(text: &str) -> Result<Option<Duration>> {
    let seconds = text.parse::<i64>().ok().map(|seconds| seconds.saturating_mul(1_000_000_000));
    let ns = match seconds {
        Some(ns) => ns,
        None => {
            skiff_api::duration::parse_ns(text).map_err(|e| Failure::text(format!("invalid duration {text:?}: {e}")))?
        }
    };
    Ok(u64::try_from(ns).ok().map(Duration::from_nanos))
}

impl Condition {
    fn parse(text: &str) -> Result<Self> {
        if text.eq_ignore_ascii_case("delete") {
            return Ok(Self::Delete);
        }
        if text.eq_ignore_ascii_case("create") {
            return Ok(Self::Create);
        }
        if let Some(condition) = text.strip_prefix("condition=") {
            let (name, value) = condition.split_once('=').unwrap_or((condition, "true"));
            return Ok(Self::Status { name: name.to_owned(), value: value.to_owned() });
        }
        if let Some(expression) = text.strip_prefix("jsonpath=") {
            let (path, value) = match expression.rfind('}') {
                Some(end) => {
                    (&expression[..=end], expression[end + 1..].trim_start_matches(['\'', '"']).strip_prefix('='))
                }
                None => expression.split_once('=').map_or((expression, None), |(path, value)| (path, Some(value))),
            };
            let value = value.map(|value| value.trim_matches(['\'', '"']).to_owned());
            let path = path.trim_matches(['\'', '"']);
            if path.starts_with('{') != path.ends_with('}') {
                return Err(Failure::text(
                    "unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{name1.name2}' or '{.name1.name2}'",
                ));
            }
            return Ok(Self::Path { path: JsonPath::parse_path(path)?, value });
        }
        // Upstream shows a flag that was not given as an empty list.
        let shown = if text.is_empty() { "[]".to_owned() } else { format!("{text:?}") };
        Err(Failure::text(format!("unrecognized condition: {shown}")))
    }

    fn holds(&self, object: &Value) -> Result<bool> {
        Ok(match self {
            Self::Create => true,
            Self::Delete => false,
            Self::Status { name, value } => {
                // What was observed of an older spec says nothing about this one.
                let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
                let observed = object["status"]["observedGeneration"].as_i64().unwrap_or(generation);
                let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
                observed >= generation
                    && conditions
                        .filter(|condition| condition["type"].as_str().is_some_and(|ty| ty.eq_ignore_ascii_case(name)))
                        .any(|condition| {
                            condition["status"].as_str().is_some_and(|status| status.eq_ignore_ascii_case(value))
                        })
            }
            Self::Path { path, value } => match (path.values(object)?.as_slice(), value) {
                ([], _) => false,
                (found, Some(value)) => found.iter().all(|found| crate::print::cell(found) == *value),
                (_, None) => true,
            },
        })
    }
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    let condition = Condition::parse(&arguments.for_)?;
    let limit = duration(&arguments.timeout)?.unwrap_or(Duration::from_secs(7 * 24 * 3600));
    let namespace = (!arguments.all_namespaces).then_some(server.namespace.as_str());
    let deadline = tokio::time::Instant::now() + limit;
    if let Condition::Create = condition {
        return created(server, &arguments, deadline).await;
    }
    let found = match arguments.selection.find(server, &arguments.words, namespace).await {
        Err(e) if is_not_found(&e) && matches!(condition, Condition::Delete) => return Ok(()),
        found => found?,
    };
    if found.is_empty() && !matches!(condition, Condition::Delete) {
        return Err(Failure::text("no matching resources found"));
    }
    // Each has the whole time, and what one lacks doesn't keep the others from being told.
    let mut failures = Vec::new();
    for found in &found {
        match one(server, found, &condition, limit).await {
            Ok(()) => println!("{} condition met", found.label()),
            Err(e) => failures.push(e),
        }
    }
    failure::several(failures)
}

async fn one(server: &Server, found: &Found, condition: &Condition, limit: Duration) -> Result {
    let late = || {
        let place = format!("{}/{}", found.resource.name, found.name());
        Failure::text(format!("timed out waiting for the condition on {place}"))
    };
    if limit.is_zero() {
        // One look at what was found.
        return if condition.holds(&found.object)? { Ok(()) } else { Err(late()) };
    }
    let waiting = async {
        match condition {
            Condition::Delete => wait_until_gone(server, found).await,
            _ => until(server, found, condition).await,
        }
    };
    tokio::time::timeout(limit, waiting).await.unwrap_or_else(|_| Err(late()))
}

/// Until the object is as wanted, told by a watch.
pub async fn each_state(server: &Server, found: &Found, mut done: impl FnMut(&Value) -> Result<bool>) -> Result {
    let collection = path(&found.resource, found.namespace(), "", "");
    let listing = with_query(&collection, &[("fieldSelector", &format!("metadata.name={}", found.name()))]);
    loop {
        let list = server.get(&listing).await?;
        let Some(object) = list["items"].as_array().and_then(|items| items.first()) else {
            return Err(Failure::text(format!("{} {:?} was deleted", found.resource.qualified(), found.name())));
        };
        if done(object)? {
            return Ok(());
        }
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let watching = with_query(&listing, &[("watch", "true"), ("resourceVersion", version)]);
        let mut events = std::pin::pin!(server.watch(&watching, JSON).await?);
        while let Some(event) = events.next().await {
            // A watch that fails is begun again with a list.
            let Ok((kind, object)) = event else { break };
            if kind == "DELETED" {
                break;
            }
            if done(&object)? {
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn until(server: &Server, found: &Found, condition: &Condition) -> Result {
    each_state(server, found, |object| condition.holds(object)).await
}

/// Objects that don't exist yet.
async fn created(server: &Server, arguments: &Arguments, deadline: tokio::time::Instant) -> Result {
    for target in parse(server.discovery().await?, &arguments.words)? {
        for name in &target.names {
            let listing = with_query(
                &path(&target.resource, Some(&server.namespace), "", ""),
                &[("fieldSelector", &format!("metadata.name={name}"))],
            );
            let waiting = async {
                loop {
                    let list = server.get(&listing).await?;
                    if list["items"].as_array().is_some_and(|items| !items.is_empty()) {
                        return Ok::<(), anyhow::Error>(());
                    }
                    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
                    let watching = with_query(&listing, &[("watch", "true"), ("resourceVersion", version)]);
                    let mut events = std::pin::pin!(server.watch(&watching, JSON).await?);
                    if let Some(Ok(_)) = events.next().await {
                        return Ok(());
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            match tokio::time::timeout_at(deadline, waiting).await {
                Ok(done) => done?,
                Err(_) => return Err(Failure::text("timed out waiting for the condition")),
            }
            println!("{} condition met", target.resource.label(name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_are_told_from_objects() {
        let pod = json!({"metadata": {"generation": 2}, "status": {"phase": "Running", "observedGeneration": 2,
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "X", "status": "False"}]}});
        for (text, expect) in [
            ("condition=Ready", true),
            ("condition=ready=true", true),
            ("condition=X", false),
            ("condition=X=False", true),
            ("jsonpath={.status.phase}=Running", true),
            ("jsonpath='{.status.phase}'=Pending", false),
            ("jsonpath=.status.phase=Running", true),
            ("jsonpath={.status.nothing}", false),
            ("jsonpath={.status.phase}", true),
        ] {
            assert_eq!(Condition::parse(text).expect(text).holds(&pod).expect(text), expect, "{text}");
        }
        let stale = json!({"metadata": {"generation": 3}, "status": {"observedGeneration": 2, "conditions": [{"type": "Ready", "status": "True"}]}});
        assert!(!Condition::parse("condition=Ready").expect("valid").holds(&stale).expect("holds"));
        assert!(Condition::parse("nonsense").is_err());
    }

    #[test]
    fn durations_are_gos_or_seconds() {
        assert_eq!(duration("90").expect("valid"), Some(Duration::from_secs(90)));
        assert_eq!(duration("1m30s").expect("valid"), Some(Duration::from_secs(90)));
        assert_eq!(duration("-1s").expect("valid"), None);
        assert!(duration("soon").is_err());
    }
}
