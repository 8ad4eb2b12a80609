//! `kubectl run -i`: a pod that is made, attached to, and perhaps removed.

use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};

use super::exec::{Session, attach_to, pod_path};
use crate::failure::sentence;
use crate::server::{JSON, Server, path, with_query};
use crate::{Failure, Result};

/// How long a pod may take to run, as upstream.
const RUNNING_LIMIT: Duration = Duration::from_secs(60);

pub struct Attached {
    pub session: Session,
    /// Remove the pod afterwards.
    pub rm: bool,
    /// Its end is waited for, and its exit code is ours.
    pub once: bool,
}

/// Makes the pod and stays with it.
pub async fn run_attached(server: &Server, mut pod: Value, how: &Attached) -> Result {
    let pods = server.discovery().await?.find("pods")?.clone();
    pod["metadata"]["namespace"] = server.namespace.as_str().into();
    let query = [("fieldManager", "kubectl-run")];
    let made = server.post(&with_query(&path(&pods, Some(&server.namespace), "", ""), &query), &pod).await?;
    let name = made["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let stayed = stay(server, &made, how).await;
    if how.rm {
        let whole = path(&pods, Some(&server.namespace), &name, "");
        server.delete(&whole, &json!({"propagationPolicy": "Background"})).await?;
        if !how.session.quiet {
            println!("pod {name:?} deleted from {} namespace", server.namespace);
        }
    }
    stayed
}

async fn stay(server: &Server, made: &Value, how: &Attached) -> Result {
    let running = |pod: &Value| {
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        let runs = pod["status"]["containerStatuses"][0]["state"]["running"].is_object();
        (phase == "Running" && runs) || has_ended(pod)
    };
    let pod = tokio::time::timeout(RUNNING_LIMIT, until(server, made, running))
        .await
        .map_err(|_| Failure::text("timed out waiting for the condition"))??;
    // It may be faster than we: what it said is in its log.
    if has_ended(&pod) || !attach_or_say_why(server, &pod, &how.session).await {
        print!("{}", server.text(&pod_path(&pod, "log")).await?);
    }
    if !how.once {
        return Ok(());
    }
    let ended = until(server, made, has_ended).await?;
    match ended["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].as_u64() {
        Some(0) => Ok(()),
        Some(code) => {
            let reason = ended["status"]["containerStatuses"][0]["state"]["terminated"]["reason"].as_str();
            let namespace = ended["metadata"]["namespace"].as_str().unwrap_or_default();
            let name = ended["metadata"]["name"].as_str().unwrap_or_default();
            eprintln!("pod {namespace}/{name} terminated ({})", reason.unwrap_or_default());
            Err(Failure::Ended(u8::try_from(code).unwrap_or(u8::MAX)).into())
        }
        None => Err(Failure::text("the pod ended without an exit code")),
    }
}

/// Whether one was there; why not is told.
pub async fn attach_or_say_why(server: &Server, pod: &Value, session: &Session) -> bool {
    let Err(error) = attach_to(server, pod, session).await else { return true };
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let why = sentence(&error);
    let why = why.strip_prefix("error: ").unwrap_or(&why);
    eprintln!("warning: couldn't attach to pod/{name}, falling back to streaming logs: {why}");
    false
}

fn has_ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// The pod, once it is as wanted.
pub async fn until(server: &Server, made: &Value, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let name = made["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = made["metadata"]["namespace"].as_str().unwrap_or_default();
    let base = format!("/api/v1/namespaces/{namespace}/pods");
    let selector = format!("metadata.name={name}");
    loop {
        let pod = server.get(&format!("{base}/{name}")).await?;
        if wanted(&pod) {
            return Ok(pod);
        }
        let from = pod["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let query = [("fieldSelector", selector.as_str()), ("resourceVersion", from), ("watch", "true")];
        let mut events = server.watch(&with_query(&base, &query), JSON).await?;
        // A watch that ends is begun again.
        while let Some(event) = events.next().await {
            let (kind, pod) = event?;
            if kind == "DELETED" {
                return Err(Failure::text(format!("pod {name:?} was deleted")));
            }
            if wanted(&pod) {
                return Ok(pod);
            }
        }
    }
}
