//! `kubectl exec` and `kubectl attach`.

use std::io::{self, IsTerminal, Write};

use clap::Args;
use serde_json::Value;

use super::terminal::{Raw, stdin};
use super::{Ends, exchange};
use crate::logs::selector_of;
use crate::server::{Server, path, with_query};
use crate::targets::{list, parse};
use crate::{Failure, Result};

const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// How somebody stays with a container.
#[derive(Args, Debug)]
pub struct Session {
    /// Container name
    #[arg(short, long)]
    pub container: Option<String>,
    /// Pass stdin to the container
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Stdin is a TTY
    #[arg(short, long)]
    pub tty: bool,
    /// Only print output from the remote session
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Args, Debug)]
pub struct Exec {
    /// POD or TYPE/NAME
    words: Vec<String>,
    #[command(flatten)]
    session: Session,
    /// The command, behind `--`
    #[arg(last = true)]
    command: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Attach {
    /// POD or TYPE/NAME
    words: Vec<String>,
    #[command(flatten)]
    session: Session,
}

/// The pod that is meant: by its name, or one of those that an object selects.
pub(super) async fn find_pod(server: &Server, word: &str) -> Result<Value> {
    let pods = server.discovery().await?.find("pods")?.clone();
    let namespace = Some(server.namespace.as_str());
    if !word.contains('/') {
        return server.get(&path(&pods, namespace, word, "")).await;
    }
    let targets = parse(server.discovery().await?, &[word.to_owned()])?;
    let [target] = targets.as_slice() else { return Err(Failure::text("name one object")) };
    let object = server.get(&path(&target.resource, namespace, &target.names[0], "")).await?;
    if target.resource.kind == "Pod" {
        return Ok(object);
    }
    let label = target.resource.label(&target.names[0]);
    let selector =
        selector_of(&object).ok_or_else(|| Failure::text(format!("cannot attach to {label}: no pod selector")))?;
    let mut found = list(server, &pods, namespace, &selector, "").await?;
    found.sort_by_key(|pod| (pod["status"]["phase"] != "Running", pod["metadata"]["creationTimestamp"].to_string()));
    let first = found.into_iter().next();
    first.ok_or_else(|| Failure::text(format!("unable to find a pod of {label}: no pods are selected")))
}

/// The container that is meant; says which one it took of several.
pub(super) fn choose(pod: &Value, asked: Option<&str>, quiet: bool) -> Result<String> {
    let names = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers.filter_map(|container| container["name"].as_str()).map(str::to_owned).collect()
    };
    let (main, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if let Some(asked) = asked {
        return match [&main, &init, &ephemeral].into_iter().flatten().any(|name| name == asked) {
            true => Ok(asked.to_owned()),
            false => Err(Failure::text(format!("container {asked} not found in pod {pod_name}"))),
        };
    }
    if let Some(chosen) = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str()
        && main.iter().any(|name| name == chosen)
    {
        return Ok(chosen.to_owned());
    }
    let first = main.first().cloned().ok_or_else(|| Failure::text(format!("pod {pod_name} has no containers")))?;
    if main.len() + init.len() + ephemeral.len() > 1 && !quiet {
        let others = [(ephemeral, " (ephem)"), (init, " (init)")];
        let others = others.into_iter().flat_map(|(names, note)| names.into_iter().map(move |name| name + note));
        let all: Vec<String> = main.into_iter().chain(others).collect();
        eprintln!("Defaulted container {first:?} out of: {}", all.join(", "));
    }
    Ok(first)
}

pub fn pod_path(pod: &Value, subresource: &str) -> String {
    let text = |key: &str| pod["metadata"][key].as_str().unwrap_or_default();
    format!("/api/v1/namespaces/{}/pods/{}/{subresource}", text("namespace"), text("name"))
}

/// Whether the terminal can be used; says so if not.
fn use_tty(asked: bool, input: bool) -> bool {
    if asked && !(input && io::stdin().is_terminal()) {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
        return false;
    }
    asked
}

fn flag(set: bool) -> &'static str {
    if set { "true" } else { "" }
}

/// Joins the process's own streams.
async fn join(server: &Server, path: &str, input: bool, tty: bool) -> Result {
    let failed = |error: io::Error| Failure::text(format!("set up the terminal: {error}"));
    let raw = if tty { Raw::enter().map_err(failed)? } else { None };
    fn show(mut to: impl Write) -> impl FnMut(&[u8]) -> io::Result<()> {
        move |bytes| to.write_all(bytes).and_then(|()| to.flush())
    }
    let ends = Ends {
        input: input.then(stdin),
        output: show(io::stdout()),
        errors: show(io::stderr()),
        tty: tty && raw.is_some(),
    };
    let joined = exchange(server, path, ends).await;
    drop(raw);
    joined
}

pub async fn exec(server: &Server, arguments: Exec) -> Result {
    let Some(word) = arguments.words.first() else {
        return Err(Failure::text("pod, type/name or --filename must be specified"));
    };
    if arguments.command.is_empty() {
        return Err(match arguments.words.len() {
            1 => Failure::text("you must specify at least one command for the container"),
            _ => Failure::text(
                "exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead\n\
                 See 'kubectl exec -h' for help and examples",
            ),
        });
    }
    let pod = find_pod(server, word).await?;
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(Failure::text(format!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        )));
    }
    let session = arguments.session;
    let container = match session.container {
        // Whether it is there is for the server to say.
        Some(container) => container,
        None => choose(&pod, None, session.quiet)?,
    };
    let tty = use_tty(session.tty, session.stdin);
    let mut pairs: Vec<(&str, &str)> = arguments.command.iter().map(|word| ("command", word.as_str())).collect();
    pairs.extend([
        ("container", container.as_str()),
        ("stdin", flag(session.stdin)),
        ("stdout", "true"),
        ("stderr", flag(!tty)),
        ("tty", flag(tty)),
    ]);
    join(server, &with_query(&pod_path(&pod, "exec"), &pairs), session.stdin, tty).await
}

pub async fn attach(server: &Server, arguments: Attach) -> Result {
    let [word] = arguments.words.as_slice() else {
        return Err(Failure::text("POD or TYPE/NAME is a required argument for attach"));
    };
    let pod = find_pod(server, word).await?;
    attach_to(server, &pod, &arguments.session).await
}

/// Attaches to a pod that runs.
pub async fn attach_to(server: &Server, pod: &Value, session: &Session) -> Result {
    let Session { container, stdin, tty, quiet } = session;
    let (stdin, tty, quiet) = (*stdin, *tty, *quiet);
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(Failure::text(format!("cannot attach a container in a completed pod; current phase is {phase}")));
    }
    let container = choose(pod, container.as_deref(), quiet)?;
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let all = lists.iter().flat_map(|list| pod["spec"][*list].as_array().into_iter().flatten());
    let has_tty = all.into_iter().any(|c| c["name"] == container.as_str() && c["tty"] == true);
    if tty && !has_tty && !quiet {
        eprintln!("error: Unable to use a TTY - container {container} did not allocate one");
    }
    let tty = has_tty && use_tty(tty, stdin);
    if stdin && !quiet {
        eprintln!("If you don't see a command prompt, try pressing enter.");
    }
    let pairs = [
        ("container", container.as_str()),
        ("stdin", flag(stdin)),
        ("stdout", "true"),
        ("stderr", flag(!has_tty)),
        ("tty", flag(has_tty)),
    ];
    join(server, &with_query(&pod_path(pod, "attach"), &pairs), stdin, tty).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers_are_chosen_as_upstream() {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(choose(&pod, None, true).expect("the first"), "a");
        assert_eq!(choose(&pod, Some("b"), true).expect("there"), "b");
        let error = choose(&pod, Some("x"), true).expect_err("not there");
        assert_eq!(error.to_string(), "container x not found in pod p");
        pod["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "b"});
        assert_eq!(choose(&pod, None, true).expect("the default"), "b");
    }
}
