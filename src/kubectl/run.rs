//! `kubectl run`: one pod.

use clap::Args;
use serde_json::{Map, Value, json};

use crate::stream::{Attached, Session, run_attached};
use crate::writing::{DryRun, Writing};
use crate::{Failure, Result, create, server::Server};

#[derive(Args, Debug)]
pub struct Arguments {
    name: String,
    /// The image for the container to run
    #[arg(long)]
    image: String,
    /// The port that this container exposes
    #[arg(long)]
    port: Option<u16>,
    /// Environment variables to set in the container: NAME=VALUE
    #[arg(long)]
    env: Vec<String>,
    /// Labels to apply to the pod
    #[arg(short, long, value_delimiter = ',')]
    labels: Vec<String>,
    /// The restart policy for this pod: Always, OnFailure, Never
    #[arg(long, default_value = "Always")]
    restart: String,
    /// The image pull policy for the container
    #[arg(long)]
    image_pull_policy: Option<String>,
    /// Use the words behind `--` as the command, not as its arguments
    #[arg(long)]
    command: bool,
    /// Keep stdin open on the container, and attach to it
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Allocate a TTY for the container
    #[arg(short, long)]
    tty: bool,
    /// Leave the pod attached to only as long as the command runs: delete it afterwards
    #[arg(long)]
    rm: bool,
    /// Wait for the pod to run, and attach to it
    #[arg(long)]
    attach: bool,
    /// Only print output from the remote session
    #[arg(short, long)]
    quiet: bool,
    #[arg(last = true)]
    words: Vec<String>,
    #[command(flatten)]
    writing: Writing,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    let attached = arguments.attach || arguments.stdin || arguments.tty;
    if arguments.tty && !arguments.stdin {
        return Err(Failure::text("-i/--stdin is required for containers with -t/--tty=true"));
    }
    if arguments.rm && !attached {
        return Err(Failure::text("--rm should only be used for attached containers"));
    }
    let mut labels = Map::new();
    for label in &arguments.labels {
        let (key, value) =
            label.split_once('=').ok_or_else(|| Failure::text(format!("unexpected label spec: {label}")))?;
        labels.insert(key.to_owned(), value.into());
    }
    if labels.is_empty() {
        labels.insert("run".to_owned(), arguments.name.as_str().into());
    }
    let mut container = json!({"name": arguments.name, "image": arguments.image, "resources": {}});
    if let Some(policy) = &arguments.image_pull_policy {
        container["imagePullPolicy"] = policy.as_str().into();
    }
    if let Some(port) = arguments.port {
        container["ports"] = json!([{"containerPort": port}]);
    }
    let mut env = Vec::new();
    for pair in &arguments.env {
        let (name, value) = pair.split_once('=').ok_or_else(|| Failure::text(format!("invalid env: {pair}")))?;
        env.push(json!({"name": name, "value": value}));
    }
    if !env.is_empty() {
        container["env"] = Value::Array(env);
    }
    if !arguments.words.is_empty() {
        container[if arguments.command { "command" } else { "args" }] = json!(arguments.words);
    }
    if arguments.stdin {
        (container["stdin"], container["stdinOnce"]) = (true.into(), true.into());
    }
    if arguments.tty {
        container["tty"] = true.into();
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": arguments.name, "labels": labels},
        "spec": {"containers": [container], "restartPolicy": arguments.restart}});
    if attached && arguments.writing.dry_run()? == DryRun::No {
        let session = Session { container: None, stdin: arguments.stdin, tty: arguments.tty, quiet: arguments.quiet };
        let how = Attached { session, rm: arguments.rm, once: arguments.restart == "Never" };
        return run_attached(server, pod, &how).await;
    }
    create::make(server, pod, &arguments.writing, "kubectl-run").await
}
