//! `kubectl logs`.

use std::io::Write as _;

use clap::Args;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::Value;

use crate::discovery::Resource;
use crate::failure::is_not_found;
use crate::server::{Server, path, with_query};
use crate::targets::{list, parse};
use crate::{Failure, Result};

/// So many logs may be followed at once, as upstream.
const MOST_FOLLOWED: usize = 5;
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

#[derive(Args, Debug)]
pub struct Arguments {
    /// POD or TYPE/NAME, perhaps with the container behind it
    words: Vec<String>,
    /// The logs of this container
    #[arg(short, long)]
    container: Option<String>,
    /// All containers in the pod
    #[arg(long)]
    all_containers: bool,
    /// All pods of the object; each line is prefixed with its pod and container
    #[arg(long)]
    all_pods: bool,
    /// Stream the logs
    #[arg(short, long)]
    follow: bool,
    /// The logs of the previous instance of the container
    #[arg(short, long)]
    previous: bool,
    /// Lines of recent log to display; -1 is all
    #[arg(long, allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Include timestamps on each line
    #[arg(long)]
    timestamps: bool,
    /// Only logs newer than a relative duration like 5s, 2m, or 3h
    #[arg(long)]
    since: Option<String>,
    /// Only logs after a specific date (RFC3339)
    #[arg(long)]
    since_time: Option<String>,
    /// Most bytes of logs to return
    #[arg(long)]
    limit_bytes: Option<u64>,
    /// Prefix each line with its pod and container
    #[arg(long)]
    prefix: bool,
    /// Selector (label query) of the pods
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Most logs to follow with a selector
    #[arg(long, default_value_t = MOST_FOLLOWED)]
    max_log_requests: usize,
    /// Go on with the other logs when one can't be read
    #[arg(long)]
    ignore_errors: bool,
}

/// One container's log.
struct Source {
    pod: String,
    container: String,
    path: String,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    let pods = server.discovery().await?.find("pods")?.clone();
    let found = arguments.pods(server, &pods).await?;
    let mut sources = Vec::new();
    for pod in &found {
        for container in arguments.containers(pod, found.len() == 1)? {
            sources.push(arguments.source(&pods, pod, container)?);
        }
    }
    let several = sources.len() > 1;
    if arguments.follow && sources.len() > arguments.max_log_requests {
        return Err(Failure::text(format!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {}, use --max-log-requests to increase the limit",
            sources.len(),
            arguments.max_log_requests
        )));
    }
    let prefix = arguments.prefix || arguments.all_pods;
    if !arguments.follow || !several {
        for source in &sources {
            forgiving(copy(server, source, prefix).await, arguments.ignore_errors)?;
        }
        return Ok(());
    }
    let mut copies: FuturesUnordered<_> = sources.iter().map(|source| copy(server, source, prefix)).collect();
    while let Some(done) = copies.next().await {
        forgiving(done, arguments.ignore_errors)?;
    }
    Ok(())
}

fn forgiving(done: Result, ignore: bool) -> Result {
    match done {
        Err(e) if ignore => {
            eprintln!("{}", crate::failure::sentence(&e));
            Ok(())
        }
        other => other,
    }
}

async fn copy(server: &Server, source: &Source, prefix: bool) -> Result {
    let mut body = server.stream(&source.path, "*/*").await?;
    let failed = |e: std::io::Error| Failure::text(format!("write to stdout: {e}"));
    let mut rest = Vec::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|e| anyhow::Error::from(Failure::from_client(e, server.host())))?;
        // A lock for whole chunks or lines only, so that several logs don't mix within a line.
        let mut out = std::io::stdout().lock();
        if prefix {
            rest.extend_from_slice(&chunk);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                write!(out, "[pod/{}/{}] ", source.pod, source.container).map_err(failed)?;
                out.write_all(&line).map_err(failed)?;
            }
        } else {
            out.write_all(&chunk).map_err(failed)?;
        }
        out.flush().map_err(failed)?;
    }
    if !rest.is_empty() {
        let mut out = std::io::stdout().lock();
        write!(out, "[pod/{}/{}] ", source.pod, source.container).map_err(failed)?;
        out.write_all(&rest).map_err(failed)?;
    }
    Ok(())
}

impl Arguments {
    async fn pods(&self, server: &Server, pods: &Resource) -> Result<Vec<Value>> {
        let namespace = Some(server.namespace.as_str());
        if let Some(selector) = &self.selector {
            let found = list(server, pods, namespace, selector, "").await?;
            if found.is_empty() {
                eprintln!("No resources found in {} namespace.", server.namespace);
            }
            return Ok(found);
        }
        let Some(word) = self.words.first() else {
            return Err(Failure::text(
                "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command",
            ));
        };
        if !word.contains('/') {
            let pod = server.get(&path(pods, namespace, word, "")).await.map_err(|e| match is_not_found(&e) {
                true => Failure::text(format!(
                    "error from server (NotFound): pods {word:?} not found in namespace {:?}",
                    server.namespace
                )),
                false => e,
            });
            return Ok(vec![pod?]);
        }
        let targets = parse(server.discovery().await?, std::slice::from_ref(word))?;
        let [target] = targets.as_slice() else { return Err(Failure::text("name one object")) };
        let object = server.get(&path(&target.resource, namespace, &target.names[0], "")).await?;
        if target.resource.kind == "Pod" {
            return Ok(vec![object]);
        }
        let selector = selector_of(&object).ok_or_else(|| {
            Failure::text(format!("cannot get the logs from {}: no pod selector", target.resource.kind))
        })?;
        let mut found = list(server, pods, namespace, &selector, "").await?;
        if found.is_empty() {
            return Err(Failure::text(format!("no pods found for {}", target.resource.label(&target.names[0]))));
        }
        if self.all_pods {
            return Ok(found);
        }
        // The oldest running one, which is likely to have something to say.
        found
            .sort_by_key(|pod| (pod["status"]["phase"] != "Running", pod["metadata"]["creationTimestamp"].to_string()));
        if found.len() > 1 && !self.all_containers {
            let name = found[0]["metadata"]["name"].as_str().unwrap_or_default();
            eprintln!("Found {} pods, using pod/{name}", found.len());
        }
        found.truncate(1);
        Ok(found)
    }

    fn containers(&self, pod: &Value, single: bool) -> Result<Vec<String>> {
        let names = |list: &str| -> Vec<String> {
            let containers = pod["spec"][list].as_array().into_iter().flatten();
            containers.filter_map(|container| container["name"].as_str()).map(str::to_owned).collect()
        };
        let (main, init) = (names("containers"), names("initContainers"));
        let all: Vec<String> = init.iter().chain(&main).chain(&names("ephemeralContainers")).cloned().collect();
        if self.all_containers {
            return Ok(all);
        }
        let asked = self.container.clone().or_else(|| self.words.get(1).cloned());
        if let Some(container) = asked {
            if !all.contains(&container) {
                let pod = pod["metadata"]["name"].as_str().unwrap_or_default();
                return Err(Failure::text(format!("container {container} is not valid for pod {pod}")));
            }
            return Ok(vec![container]);
        }
        let chosen = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str().map(str::to_owned);
        let first = chosen.clone().or_else(|| main.first().cloned());
        if all.len() > 1 && chosen.is_none() && single {
            let listed =
                main.iter().cloned().chain(init.iter().map(|name| format!("{name} (init)"))).collect::<Vec<_>>();
            eprintln!("Defaulted container {:?} out of: {}", first.as_deref().unwrap_or_default(), listed.join(", "));
        }
        Ok(first.into_iter().collect())
    }

    fn source(&self, pods: &Resource, pod: &Value, container: String) -> Result<Source> {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let flag = |set: bool| if set { "true" } else { "" };
        let number = |number: Option<u64>| number.map(|n| n.to_string()).unwrap_or_default();
        // With a selector upstream shows only the end, unless told otherwise.
        let tail = self.tail.or(self.selector.is_some().then_some(10)).filter(|tail| *tail >= 0);
        let since = match &self.since {
            Some(text) => Some(crate::wait::duration(text)?.unwrap_or_default().as_secs().max(1)),
            None => None,
        };
        let base = path(pods, pod["metadata"]["namespace"].as_str(), &name, "log");
        let path = with_query(
            &base,
            &[
                ("container", &container),
                ("follow", flag(self.follow)),
                ("previous", flag(self.previous)),
                ("timestamps", flag(self.timestamps)),
                ("tailLines", &tail.map(|t| t.to_string()).unwrap_or_default()),
                ("sinceSeconds", &number(since)),
                ("sinceTime", self.since_time.as_deref().unwrap_or_default()),
                ("limitBytes", &number(self.limit_bytes)),
            ],
        );
        Ok(Source { pod: name, container, path })
    }
}

/// The pods of a controller or service, as a query has it.
pub fn selector_of(object: &Value) -> Option<String> {
    let selector = object["spec"].get("selector")?;
    let labels = selector.get("matchLabels").or_else(|| selector.get("matchExpressions").is_none().then_some(selector));
    let mut terms: Vec<String> = labels
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str()?;
        let values: Vec<&str> =
            expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        terms.push(match expression["operator"].as_str()? {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return None,
        });
    }
    (!terms.is_empty()).then(|| terms.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_become_queries() {
        let of = |selector: Value| selector_of(&json!({"spec": {"selector": selector}}));
        assert_eq!(of(json!({"a": "b"})).as_deref(), Some("a=b"));
        let expressions =
            json!([{"key": "c", "operator": "In", "values": ["1", "2"]}, {"key": "d", "operator": "DoesNotExist"}]);
        assert_eq!(
            of(json!({"matchLabels": {"a": "b"}, "matchExpressions": expressions})).as_deref(),
            Some("a=b,c in (1,2),!d")
        );
        assert_eq!(selector_of(&json!({"spec": {}})), None);
    }
}
