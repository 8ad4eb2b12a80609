//! `kubectl run`: one pod.

use clap::Args;
use serde_json::{Map, Value, json};
use skiff_client::PatchKind;

use crate::apply::remembering;
use crate::create::Making;
use crate::discovery::Resource;
use crate::server::Server;
use crate::stream::{Attached, Session, run_attached};
use crate::writing::{DryRun, Writing, patched};
use crate::{Failure, Result};

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
    /// Annotations to apply to the pod: KEY=VALUE
    #[arg(long)]
    annotations: Vec<String>,
    /// Run the container with all rights of the machine
    #[arg(long)]
    privileged: bool,
    /// Make a ClusterIP service for the pod, too
    #[arg(long)]
    expose: bool,
    /// A change of the pod that is made, in JSON
    #[arg(long, default_value = "", hide_default_value = true)]
    overrides: String,
    /// How --overrides are meant: json, merge, strategic
    #[arg(long, default_value = "merge")]
    override_type: String,
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
    /// Remember the configuration in an annotation, for a later apply
    #[arg(long)]
    save_config: bool,
}

impl Arguments {
    /// The pod with what `--overrides` says.
    fn overridden(&self, pod: Value) -> Result<Value> {
        if self.overrides.is_empty() {
            return Ok(pod);
        }
        let kind = match self.override_type.as_str() {
            "json" => PatchKind::Json,
            "merge" => PatchKind::Merge,
            "strategic" => PatchKind::Strategic,
            other => return Err(Failure::text(format!("invalid override type: {other}"))),
        };
        let change: Value =
            serde_json::from_str(&self.overrides).map_err(|e| Failure::text(format!("Invalid JSON Patch: {e}")))?;
        patched(&Resource::of_object(&pod), &pod, kind, &change)
    }

    fn service(&self, port: u16, labels: &Map<String, Value>) -> Value {
        let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": self.name},
            "spec": {"selector": labels, "ports": [{"port": port, "protocol": "TCP", "targetPort": port}]}});
        if !self.labels.is_empty() {
            service["metadata"]["labels"] = Value::Object(labels.clone());
        }
        service
    }
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    let attached = arguments.attach || arguments.stdin || arguments.tty;
    if arguments.tty && !arguments.stdin {
        return Err(Failure::text("-i/--stdin is required for containers with -t/--tty=true"));
    }
    if arguments.rm && !attached {
        return Err(Failure::text("--rm should only be used for attached containers"));
    }
    if arguments.expose && arguments.port.is_none() {
        return Err(Failure::text(
            "--port must be set when exposing a service\nSee 'kubectl run -h' for help and examples",
        ));
    }
    if arguments.expose && attached {
        return Err(Failure::text("this kubectl exposes no pod that it attaches to; use `kubectl expose` for it"));
    }
    if attached && arguments.writing.dry_run()? != DryRun::No {
        return Err(Failure::text(
            "--dry-run=[server|client] can't be used with attached containers options (--attach, --stdin, or --tty)",
        ));
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
    if arguments.privileged {
        container["securityContext"] = json!({"privileged": true});
    }
    if arguments.tty {
        container["tty"] = true.into();
    }
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": arguments.name, "labels": &labels},
        "spec": {"containers": [container], "restartPolicy": arguments.restart}});
    for pair in &arguments.annotations {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Failure::text(format!("unexpected annotations format: {pair}; expected KEY=VALUE")))?;
        pod["metadata"]["annotations"][key] = value.into();
    }
    let pod = arguments.overridden(pod)?;
    if attached {
        let session = Session { container: None, stdin: arguments.stdin, tty: arguments.tty, quiet: arguments.quiet };
        let how = Attached { session, rm: arguments.rm, once: arguments.restart == "Never" };
        let pod = if arguments.save_config { remembering(&pod) } else { pod };
        return run_attached(server, pod, &how).await;
    }
    let making = Making { writing: &arguments.writing, manager: "kubectl-run", save_config: arguments.save_config };
    making.make(server, pod, "created").await?;
    match arguments.port.filter(|_| arguments.expose) {
        Some(port) => making.make(server, arguments.service(port, &labels), "created").await,
        None => Ok(()),
    }
}
