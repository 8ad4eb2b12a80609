//! `kubectl debug`: another container in a pod, a copy of a pod, or a pod in a node's own namespaces.

use serde_json::{Map, Value, json};
use skiff_api::{Gvk, patch, schema};
use skiff_client::PatchKind;

use crate::failure::api_error;
use crate::server::{JSON, Server, path};
use crate::stream::{Session, attach_or_say_why, pod_path, until};
use crate::targets::{Found, parse};
use crate::writing::{difference, local};
use crate::{Failure, Result, names};

mod arguments;
mod profile;

pub use arguments::Arguments;
use arguments::{custom_profile, is_reference};
use profile::{Keep, Profile, Style};

/// What the flags ask for, checked.
struct Debug<'a> {
    arguments: &'a Arguments,
    profile: Profile,
    keep: Keep,
    env: Value,
    /// Name and image.
    images: Vec<(&'a str, &'a str)>,
    custom: Option<Value>,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    let debug = Debug::of(&arguments)?;
    for found in targets(server, &arguments).await? {
        let (pod, container) = match found.resource.kind.as_str() {
            "Node" if found.resource.group.is_empty() => debug.node(server, &found).await?,
            "Pod" if found.resource.group.is_empty() && arguments.copy_to.is_empty() => {
                debug.pod(server, &found).await?
            }
            "Pod" if found.resource.group.is_empty() => debug.copy(server, &found).await?,
            _ => return Err(Failure::text(format!("{:?} not supported by debug", found.resource.gvk_text()))),
        };
        if arguments.attach.unwrap_or(arguments.stdin) && !container.is_empty() {
            attach(server, &pod, &container, &arguments).await?;
        }
    }
    Ok(())
}

async fn targets(server: &Server, arguments: &Arguments) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for mut manifest in arguments.files.read()? {
        let resource = manifest.place(server).await?.clone();
        let object = server.object(&resource, Some(manifest.namespace()), manifest.name(), JSON).await?;
        found.push(Found { resource, object });
    }
    for word in &arguments.words {
        let word = if word.contains('/') { word.clone() } else { format!("pods/{word}") };
        for target in parse(server.discovery().await?, &[word])? {
            let object = server.object(&target.resource, Some(&server.namespace), &target.names[0], JSON).await?;
            found.push(Found { resource: target.resource, object });
        }
    }
    Ok(found)
}

impl<'a> Debug<'a> {
    fn of(arguments: &'a Arguments) -> Result<Self> {
        arguments.check()?;
        let mut env = Vec::new();
        for pair in &arguments.env {
            let (name, value) = pair.split_once('=').ok_or_else(|| {
                Failure::text(format!(
                    "invalid argument {pair:?} for \"--env\" flag: {pair} must be formatted as key=value"
                ))
            })?;
            env.push(json!({"name": name, "value": value}));
        }
        let mut images = Vec::new();
        for pair in &arguments.set_image {
            let (name, image) = pair.split_once('=').ok_or_else(|| {
                Failure::text(format!(
                    "invalid argument {pair:?} for \"--set-image\" flag: {pair} must be formatted as key=value"
                ))
            })?;
            if !is_reference(image) {
                let what = format!("invalid image name {image:?} for container {name:?}: invalid reference format");
                return Err(Failure::text(what));
            }
            images.push((name, image));
        }
        let custom = arguments.custom.as_deref().map(custom_profile).transpose()?;
        Ok(Self {
            arguments,
            profile: Profile::parse(&arguments.profile)?,
            keep: Keep {
                labels: arguments.keep_labels,
                annotations: arguments.keep_annotations,
                init_containers: arguments.keep_init_containers,
                probes: [arguments.keep_liveness, arguments.keep_readiness, arguments.keep_startup],
            },
            env: Value::Array(env),
            images,
            custom,
        })
    }

    /// Command, streams and the like of the debugging container.
    fn container(&self, name: &str) -> Value {
        let arguments = self.arguments;
        let mut container =
            json!({"name": name, "image": arguments.image, "resources": {}, "terminationMessagePolicy": "File"});
        self.dress(&mut container);
        container
    }

    fn dress(&self, container: &mut Value) {
        let arguments = self.arguments;
        if !arguments.command.is_empty() {
            let field = if arguments.arguments_only { "args" } else { "command" };
            container[field] = json!(arguments.command);
        }
        if self.env.as_array().is_some_and(|env| !env.is_empty()) {
            container["env"] = self.env.clone();
        }
        for (field, value) in [("image", &arguments.image), ("imagePullPolicy", &arguments.image_pull_policy)] {
            if !value.is_empty() {
                container[field] = value.as_str().into();
            }
        }
        for (field, set) in [("stdin", arguments.stdin), ("tty", arguments.tty)] {
            match container.as_object_mut() {
                Some(fields) if !set => drop(fields.remove(field)),
                _ => container[field] = true.into(),
            }
        }
    }

    fn finish(&self, pod: &mut Value, list: &str, name: &str, style: Style) -> Result {
        self.profile.apply(pod, list, name, style, &self.keep);
        let Some(custom) = &self.custom else { return Ok(()) };
        let schema = schema::lookup(&Gvk::new("", "v1", "Pod"));
        let item = json!({"spec": {list: [with_name(custom, name)]}});
        let merged = schema.map(|schema| patch::strategic_merge(pod, &item, &schema));
        *pod = merged.transpose().map_err(local)?.unwrap_or_else(|| pod.clone());
        Ok(())
    }

    async fn pod(&self, server: &Server, found: &Found) -> Result<(Value, String)> {
        let name = self.name(&found.object);
        let mut container = self.container(&name);
        if !self.arguments.target.is_empty() {
            container["targetContainerName"] = self.arguments.target.as_str().into();
        }
        let mut after = found.object.clone();
        match after["spec"]["ephemeralContainers"].as_array_mut() {
            Some(list) => list.push(container),
            None => after["spec"]["ephemeralContainers"] = json!([container]),
        }
        self.finish(&mut after, "ephemeralContainers", &name, Style::Ephemeral)?;
        warn(&after, "ephemeralContainers", &name);
        let (_, body) = difference(found, &after)?;
        match server.patch(&found.path("ephemeralcontainers"), PatchKind::Strategic, &body).await {
            Ok(pod) => Ok((pod, name)),
            Err(e)
                if api_error(&e)
                    .is_some_and(|e| e.is_not_found() && e.details.as_ref().is_none_or(|d| d.name.is_empty())) =>
            {
                Err(Failure::text(format!(
                    "ephemeral containers are disabled for this cluster (error from server: {:?})",
                    e.to_string()
                )))
            }
            Err(e) => Err(e),
        }
    }

    async fn copy(&self, server: &Server, found: &Found) -> Result<(Value, String)> {
        let (mut pod, name) = self.copied(&found.object)?;
        if !name.is_empty() {
            self.finish(&mut pod, "containers", &name, Style::Copy)?;
            warn(&pod, "containers", &name);
        }
        let created = server.post(&path(&found.resource, found.namespace(), "", ""), &pod).await?;
        if self.arguments.replace {
            server.delete(&found.path(""), &json!({"gracePeriodSeconds": 0})).await?;
        }
        Ok((created, name))
    }

    /// The copy, and the name of the container that is debugged; empty: only images change.
    fn copied(&self, pod: &Value) -> Result<(Value, String)> {
        let arguments = self.arguments;
        let mut metadata = Map::new();
        metadata.insert("name".into(), arguments.copy_to.as_str().into());
        for field in ["namespace", "annotations", "labels"] {
            metadata.extend(pod["metadata"].get(field).map(|value| (field.to_owned(), value.clone())));
        }
        let mut spec = pod["spec"].clone();
        if let Some(spec) = spec.as_object_mut() {
            spec.remove("ephemeralContainers");
            if !arguments.same_node {
                spec.remove("nodeName");
            }
            if let Some(share) = arguments.share_processes {
                spec.insert("shareProcessNamespace".into(), share.into());
            }
        }
        for container in spec["containers"].as_array_mut().into_iter().flatten() {
            let of = |wanted: &str| self.images.iter().rev().find(|(name, _)| *name == wanted).map(|(_, image)| *image);
            let own = container["name"].as_str().and_then(of);
            if let Some(image) = own.or_else(|| of("*")) {
                container["image"] = image.into();
            }
        }
        let mut copy = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        let mut name = arguments.container.clone();
        let known =
            ["containers", "initContainers"].iter().any(|list| profile::container(&mut copy, list, &name).is_some());
        if !known {
            if arguments.image.is_empty() {
                return match self.images.is_empty() {
                    false => Ok((copy, String::new())),
                    true => Err(Failure::text("you must specify image when creating new container")),
                };
            }
            if name.is_empty() {
                name = self.name(&copy);
            }
            let new = json!({"name": name, "resources": {}, "terminationMessagePolicy": "File"});
            copy["spec"]["containers"].as_array_mut().into_iter().for_each(|list| list.push(new.clone()));
        }
        let list =
            if profile::container(&mut copy, "containers", &name).is_some() { "containers" } else { "initContainers" };
        if let Some(container) = profile::container(&mut copy, list, &name) {
            if !arguments.command.is_empty() && !arguments.arguments_only {
                container.as_object_mut().into_iter().for_each(|fields| drop(fields.remove("args")));
            }
            self.dress(container);
        }
        Ok((copy, name))
    }

    async fn node(&self, server: &Server, found: &Found) -> Result<(Value, String)> {
        let arguments = self.arguments;
        let container = if arguments.container.is_empty() { "debugger" } else { &arguments.container };
        let name = format!("node-debugger-{}-{}", found.name(), names::suffix());
        if !arguments.quiet {
            println!("Creating debugging pod {name} with container {container} on node {}.", found.name());
        }
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "kubectl-debug"}},
            "spec": {"containers": [self.container(container)], "nodeName": found.name(), "restartPolicy": "Never",
                "tolerations": [{"operator": "Exists"}]}});
        self.finish(&mut pod, "containers", container, Style::Node)?;
        let pods = server.discovery().await?.find("pods")?;
        let created = server.post(&path(pods, Some(&server.namespace), "", ""), &pod).await?;
        Ok((created, container.to_owned()))
    }

    /// The name that is asked for, or a new one.
    fn name(&self, pod: &Value) -> String {
        if !self.arguments.container.is_empty() {
            return self.arguments.container.clone();
        }
        let lists = ["containers", "initContainers", "ephemeralContainers"];
        let taken = |name: &str| {
            lists.iter().flat_map(|list| pod["spec"][*list].as_array().into_iter().flatten()).any(|c| c["name"] == name)
        };
        let mut name = format!("debugger-{}", names::suffix());
        while taken(&name) {
            name = format!("debugger-{}", names::suffix());
        }
        if !self.arguments.quiet {
            println!("Defaulting debug container name to {name}.");
        }
        name
    }
}

fn with_name(container: &Value, name: &str) -> Value {
    let mut container = container.clone();
    container["name"] = name.into();
    container
}

/// Capabilities are of little use to who is not root.
fn warn(pod: &Value, list: &str, name: &str) {
    let mut containers = pod["spec"][list].as_array().into_iter().flatten();
    let Some(container) = containers.find(|container| container["name"] == name) else { return };
    let security = &container["securityContext"];
    let other_user = pod["spec"]["securityContext"]["runAsUser"].as_i64().is_some_and(|user| user != 0);
    let asks =
        security["privileged"] == true || security["capabilities"]["add"].as_array().is_some_and(|add| !add.is_empty());
    if other_user && security["runAsUser"] != 0 && asks {
        eprintln!(
            "Warning: Non-root user is configured for the entire target Pod, and some capabilities granted by debug profile may not work. Please consider using \"--custom\" with a custom profile that specifies \"securityContext.runAsUser: 0\"."
        );
    }
}

/// The state of a container.
fn state<'a>(pod: &'a Value, container: &str) -> &'a Value {
    let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
    let mut all = lists.iter().flat_map(|list| pod["status"][*list].as_array().into_iter().flatten());
    all.find(|status| status["name"] == container).map_or(&Value::Null, |status| &status["state"])
}

async fn attach(server: &Server, pod: &Value, container: &str, arguments: &Arguments) -> Result {
    let quiet = arguments.quiet;
    let began = |pod: &Value| {
        let state = state(pod, container);
        if let Some(message) = state["waiting"]["message"].as_str().filter(|message| !message.is_empty() && !quiet) {
            eprintln!("Warning: container {container}: {message}");
        }
        state["running"].is_object() || state["terminated"].is_object()
    };
    let pod = until(server, pod, began).await?;
    let session = Session { container: Some(container.to_owned()), stdin: arguments.stdin, tty: arguments.tty, quiet };
    if !state(&pod, container)["terminated"].is_object() && attach_or_say_why(server, &pod, &session).await {
        return Ok(());
    }
    let log = crate::server::with_query(&pod_path(&pod, "log"), &[("container", container)]);
    print!("{}", server.text(&log).await?);
    Ok(())
}
