//! `skiff crictl`: crictl's everyday verbs, with its flags and columns, on this node's runtime. What makes pods or containers
//! is refused: that is the node's alone.

mod given;
mod output;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use skiff_kubectl::GoTemplate;
use skiff_kubelet::{Ending, LogOptions};
use skiff_runtime::images::ImageStore;
use skiff_runtime::{Container, ContainerState, ExecStreams, Image, RegistryAuth, Runtime, Sandbox, SandboxState};
use tokio::sync::broadcast::error::RecvError;

use crate::cli::{PlaceArgs, REGISTRIES};
use crate::ctr::connect;
use crate::server::require_root;
use given::{Given, REFUSED, VERBS};
use output::{ago, human_size, print_table, short, show};

fn usage() -> String {
    let lines = VERBS.iter().map(|verb| format!("  {:<10} {}\n", verb.names[0], verb.about));
    format!(
        "Look into the container runtime of this node, as crictl does\n\nUsage: crictl COMMAND [FLAGS] [WORDS]\n\n{}",
        lines.collect::<String>()
    )
}

pub fn run(place: &PlaceArgs, arguments: Vec<String>) -> Result<ExitCode> {
    skiff_kubectl::end_with_the_reader();
    let name = match arguments.first().map(String::as_str) {
        None | Some("-h" | "--help" | "help") => {
            print!("{}", usage());
            return Ok(ExitCode::SUCCESS);
        }
        Some("-v" | "--version") => {
            println!("crictl version v{}", env!("CARGO_PKG_VERSION"));
            return Ok(ExitCode::SUCCESS);
        }
        Some(name) => name,
    };
    let Some(verb) = VERBS.iter().find(|verb| verb.names.contains(&name)) else {
        if let Some((_, why)) = REFUSED.iter().find(|(names, _)| names.contains(&name)) {
            bail!("crictl {name} is not here: {why}");
        }
        bail!("crictl {name}: no such command\n\n{}", usage());
    };
    let given = Given::parse(verb, &arguments[1..])?;
    require_root("skiff crictl")?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    tokio.block_on(async {
        match verb.names[0] {
            "images" => images(place, &given).await,
            "inspecti" => inspect_images(place, &given).await,
            "pull" => pull(place, &given).await,
            "rmi" => remove_images(place, &given).await,
            "version" => version(),
            "imagefsinfo" => show_file_systems(place, &given),
            verb => {
                let runtime = connect(place).await?;
                let runtime = runtime.context("nothing runs on this node: its supervisor does not")?;
                Node::look(runtime).await?.run(verb, &given).await
            }
        }
    })
}

fn version() -> Result<ExitCode> {
    println!(
        "Version:  0.1.0\nRuntimeName:  skiff\nRuntimeVersion:  v{}\nRuntimeApiVersion:  v1",
        env!("CARGO_PKG_VERSION")
    );
    Ok(ExitCode::SUCCESS)
}

/// What images take, and what containers write.
fn show_file_systems(place: &PlaceArgs, given: &Given) -> Result<ExitCode> {
    let agent = place.data_dir.join("agent");
    let [containers, images] = ["containers", "snapshots"].map(|name| output::FileSystem::look(&agent.join(name)));
    let form = given.value("output").unwrap_or("json");
    if form == "table" {
        print!("{}{}", containers.table("Container"), images.table("Image"));
        return Ok(ExitCode::SUCCESS);
    }
    let status =
        serde_json::json!({"containerFilesystems": [containers.message()], "imageFilesystems": [images.message()]});
    show(form, &serde_json::json!({"status": status}))
}

fn store(place: &PlaceArgs) -> Result<ImageStore> {
    let registries = Path::new(REGISTRIES);
    Ok(ImageStore::open(&place.data_dir.join("agent"), registries.exists().then(|| registries.to_owned()))?)
}

/// `docker.io/library/busybox:1.36`, by its last colon.
fn split_tag(tag: &str) -> (&str, &str) {
    tag.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).unwrap_or((tag, "<none>"))
}

async fn images(place: &PlaceArgs, given: &Given) -> Result<ExitCode> {
    let mut images = store(place)?.images()?;
    match given.words.as_slice() {
        [] => {}
        [word] => images.retain(|image| is_listed(image, word)),
        _ => bail!("crictl images: one name at a time"),
    }
    images.sort_by(|a, b| a.tags.cmp(&b.tags));
    if given.has("quiet") {
        images.iter().for_each(|image| println!("{}", image.id.0));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(form) = given.value("output").filter(|form| *form != "table") {
        return show(form, &serde_json::json!({"images": images.iter().map(output::image).collect::<Vec<_>>()}));
    }
    if given.has("verbose") {
        images.iter().for_each(|image| println!("{}", output::image_lines(image)));
        return Ok(ExitCode::SUCCESS);
    }
    let mut head = vec!["IMAGE", "TAG", "DIGEST", "IMAGE ID", "SIZE"];
    if !given.has("digests") {
        head.remove(2);
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for image in &images {
        let digest = image.digests.first().and_then(|d| d.split_once('@')).map_or("<none>", |(_, digest)| digest);
        let named = image.digests.first().and_then(|d| d.split_once('@')).map_or("<none>", |(name, _)| name);
        let names: Vec<(&str, &str)> = match image.tags.is_empty() {
            true => vec![(named, "<none>")],
            false => image.tags.iter().map(|tag| split_tag(tag)).collect(),
        };
        for (name, tag) in names {
            let id = short(&image.id.0, given.has("no-trunc"));
            let mut row = vec![name.to_owned(), tag.to_owned(), id, human_size(image.size_bytes)];
            if given.has("digests") {
                row.insert(2, short(digest, given.has("no-trunc")));
            }
            rows.push(row);
        }
    }
    print_table(&rows)
}

/// Whether `images <word>` lists an image: by its repository, or by the beginning of its id.
fn is_listed(image: &Image, word: &str) -> bool {
    let name = Runtime::normalize(word).unwrap_or_else(|_| word.to_owned());
    image.tags.iter().any(|tag| split_tag(tag).0 == split_tag(&name).0) || has_id(image, word)
}

fn has_id(image: &Image, word: &str) -> bool {
    image.id.0.trim_start_matches("sha256:").starts_with(word.trim_start_matches("sha256:"))
}

fn find_image<'a>(images: &'a [Image], word: &str) -> Result<&'a Image> {
    let name = Runtime::normalize(word).unwrap_or_else(|_| word.to_owned());
    let by_name = |image: &&Image| image.tags.contains(&name) || image.digests.contains(&name);
    let by_id = |image: &&Image| has_id(image, word);
    images
        .iter()
        .find(by_name)
        .or_else(|| images.iter().find(by_id))
        .with_context(|| format!("no such image {word:?} present"))
}

/// Shows what is inspected.
fn present(given: &Given, whole: &serde_json::Value) -> Result<()> {
    match (given.value("template"), given.value("output")) {
        (Some(template), None | Some("go-template")) => println!("{}", GoTemplate::parse(template)?.evaluate(whole)?),
        (None, Some("go-template")) => bail!("-o go-template needs --template"),
        (None, form) => drop(show(form.unwrap_or("json"), whole)?),
        (Some(_), Some(form)) => bail!("--template is for -o go-template, not for {form}"),
    }
    Ok(())
}

async fn inspect_images(place: &PlaceArgs, given: &Given) -> Result<ExitCode> {
    let images = store(place)?.images()?;
    for word in &given.words {
        let image = find_image(&images, word)?;
        let config = &image.config;
        let spec = serde_json::json!({"config": {"Cmd": config.cmd, "Entrypoint": config.entrypoint, "Env": config.env,
            "User": config.user, "WorkingDir": config.working_dir, "StopSignal": config.stop_signal}});
        let mut whole = serde_json::json!({"info": {"imageSpec": spec}, "status": output::image(image)});
        if given.has("quiet") {
            whole["info"].take();
        }
        present(given, &whole)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn pull(place: &PlaceArgs, given: &Given) -> Result<ExitCode> {
    let auth = given.value("creds").map(|creds| {
        let (username, password) = creds.split_once(':').unwrap_or((creds, ""));
        RegistryAuth { username: username.to_owned(), password: password.to_owned(), ..RegistryAuth::default() }
    });
    let image = store(place)?.pull(&given.words[0], auth.as_ref()).await?;
    println!("Image is up to date for {}", image.id.0);
    Ok(ExitCode::SUCCESS)
}

async fn remove_images(place: &PlaceArgs, given: &Given) -> Result<ExitCode> {
    let store = store(place)?;
    let agent = place.data_dir.join("agent");
    let in_use = skiff_runtime::images_in_use(&agent)?;
    let images = store.images()?;
    let chosen: Vec<&Image> = match (given.has("all") || given.has("prune"), given.words.as_slice()) {
        (true, _) => images.iter().filter(|image| !in_use.contains(&image.id) && !image.pinned).collect(),
        (false, []) => bail!("crictl rmi: which images? (--prune: all that nothing uses)"),
        (false, words) => words.iter().map(|word| find_image(&images, word)).collect::<Result<_>>()?,
    };
    for image in chosen {
        let agent = agent.clone();
        store.remove(&image.id.0, move || skiff_runtime::images_in_use(&agent)).await?;
        let names = if image.tags.is_empty() { &image.digests } else { &image.tags };
        names.iter().for_each(|name| println!("Deleted: {name}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// What runs here.
struct Node {
    runtime: Runtime,
    sandboxes: Vec<Sandbox>,
    containers: Vec<Container>,
}

/// Those that are named, or all of them with `--all`.
fn named<'a, T>(given: &Given, all: &'a [T], find: impl Fn(&str) -> Result<&'a T>) -> Result<Vec<&'a T>> {
    match (given.has("all"), given.words.as_slice()) {
        (true, _) => Ok(all.iter().collect()),
        (false, []) => bail!("crictl: say which ones, or --all"),
        (false, words) => words.iter().map(|word| find(word)).collect(),
    }
}

/// The one whose id begins so.
fn by_id<'a, T>(all: &'a [T], what: &str, word: &str, id: impl Fn(&T) -> &str) -> Result<&'a T> {
    let mut found = all.iter().filter(|one| id(one).starts_with(word));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => bail!("{what} with ID starting with {word} not found: ID does not exist"),
        (Some(_), Some(_)) => bail!("{what} IDs that begin with {word} are several: give more of it"),
    }
}

fn state_name(state: &ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "Created",
        ContainerState::Running { .. } => "Running",
        ContainerState::Exited(_) => "Exited",
        ContainerState::Unknown => "Unknown",
    }
}

impl Node {
    async fn look(runtime: Runtime) -> Result<Self> {
        let (sandboxes, containers) = (runtime.sandboxes().await?, runtime.containers().await?);
        Ok(Self { runtime, sandboxes, containers })
    }

    async fn run(&self, verb: &str, given: &Given) -> Result<ExitCode> {
        match verb {
            "ps" => self.ps(given).await,
            "pods" => self.pods(given),
            "inspect" => self.inspect(given),
            "inspectp" => self.inspect_pods(given),
            "logs" => self.logs(given).await,
            "exec" => self.exec(given).await,
            "stats" => self.stats(given).await,
            "rm" => self.remove(given).await,
            "rmp" => self.remove_pods(given).await,
            "stop" => self.stop(given).await,
            "stopp" => self.stop_pods(given).await,
            "info" => self.info(given),
            "attach" => self.attach(given).await,
            other => bail!("crictl {other} is not here"),
        }
    }

    fn container(&self, word: &str) -> Result<&Container> {
        by_id(&self.containers, "container", word, |container| &container.id.0)
    }

    fn sandbox(&self, word: &str) -> Result<&Sandbox> {
        by_id(&self.sandboxes, "pod sandbox", word, |sandbox| &sandbox.id.0)
    }

    fn sandbox_of(&self, container: &Container) -> Option<&Sandbox> {
        self.sandboxes.iter().find(|sandbox| sandbox.id == container.sandbox)
    }

    /// Those that the flags choose, the newest first.
    fn chosen(&self, given: &Given) -> Result<Vec<&Container>> {
        let state = given.value("state").map(str::to_lowercase);
        let pattern = |name: &str| given.value(name).map(regex_lite::Regex::new).transpose();
        let (name, image) = (pattern("name").context("--name")?, given.value("image"));
        let all = self.containers.iter().filter(|container| {
            let held = state_name(&container.state).to_lowercase();
            let in_state = match &state {
                Some(state) => *state == held,
                None => given.has("all") || given.has("latest") || given.value("last").is_some() || held == "running",
            };
            let pod = self.sandbox_of(container);
            in_state
                && given.value("id").is_none_or(|id| container.id.0.starts_with(id))
                && given.value("pod").is_none_or(|id| container.sandbox.0.starts_with(id))
                && image.is_none_or(|image| container.image.0.contains(image) || container.image_ref.contains(image))
                && name.as_ref().is_none_or(|name| name.is_match(&container.name))
                && given.value("namespace").is_none_or(|space| pod.is_some_and(|pod| pod.pod_namespace == space))
                && given.labels_match(&container.labels)
        });
        given.newest(all.collect(), |container| container.created)
    }

    async fn ps(&self, given: &Given) -> Result<ExitCode> {
        let chosen = self.chosen(given)?;
        if given.has("quiet") {
            chosen.iter().for_each(|container| println!("{}", container.id.0));
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(form) = given.value("output").filter(|form| *form != "table") {
            let all: Vec<_> = chosen.iter().map(|container| output::container(container)).collect();
            return show(form, &serde_json::json!({"containers": all}));
        }
        let whole = given.has("no-trunc");
        let head = ["CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID", "POD", "NAMESPACE"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for container in chosen {
            let pod = self.sandbox_of(container);
            let image = match given.has("resolve-image-path") {
                true => container.image_ref.clone(),
                false => short(&container.image.0, whole),
            };
            rows.push(vec![
                short(&container.id.0, whole),
                image,
                ago(container.created),
                state_name(&container.state).to_owned(),
                container.name.clone(),
                container.attempt.to_string(),
                short(&container.sandbox.0, whole),
                pod.map_or("unknown", |pod| &pod.pod_name).to_owned(),
                pod.map_or("unknown", |pod| &pod.pod_namespace).to_owned(),
            ]);
        }
        print_table(&rows)
    }

    fn pods(&self, given: &Given) -> Result<ExitCode> {
        let state = given.value("state").map(str::to_lowercase);
        let name = given.value("name").map(regex_lite::Regex::new).transpose().context("--name")?;
        let all = self.sandboxes.iter().filter(|pod| {
            let held = if pod.state == SandboxState::Ready { "ready" } else { "notready" };
            state.as_ref().is_none_or(|state| state == held)
                && given.value("id").is_none_or(|id| pod.id.0.starts_with(id))
                && name.as_ref().is_none_or(|name| name.is_match(&pod.pod_name))
                && given.value("namespace").is_none_or(|space| pod.pod_namespace == space)
                && given.labels_match(&pod.labels)
        });
        let chosen = given.newest(all.collect(), |pod| pod.created)?;
        if given.has("quiet") {
            chosen.iter().for_each(|pod| println!("{}", pod.id.0));
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(form) = given.value("output").filter(|form| *form != "table") {
            return show(
                form,
                &serde_json::json!({"items": chosen.iter().map(|pod| output::pod(pod)).collect::<Vec<_>>()}),
            );
        }
        let head = ["POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "RUNTIME"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for pod in chosen {
            rows.push(vec![
                short(&pod.id.0, given.has("no-trunc")),
                ago(pod.created),
                if pod.state == SandboxState::Ready { "Ready" } else { "NotReady" }.to_owned(),
                pod.pod_name.clone(),
                pod.pod_namespace.clone(),
                pod.attempt.to_string(),
                "(default)".to_owned(),
            ]);
        }
        print_table(&rows)
    }

    fn inspect(&self, given: &Given) -> Result<ExitCode> {
        for word in &given.words {
            let container = self.container(word)?;
            let mut whole = serde_json::json!({"status": output::container_status(container)});
            if !given.has("quiet") {
                whole["info"] = serde_json::json!({"pid": container.pid, "sandboxID": container.sandbox.0,
                    "removing": false, "runtimeType": "skiff"});
            }
            present(given, &whole)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn inspect_pods(&self, given: &Given) -> Result<ExitCode> {
        for word in &given.words {
            let pod = self.sandbox(word)?;
            let mut whole = serde_json::json!({"status": output::pod(pod)});
            whole["status"]["createdAt"] = pod.created.to_string().into();
            if !given.has("quiet") {
                whole["info"] = serde_json::json!({"netns": pod.netns, "runtimeType": "skiff"});
            }
            present(given, &whole)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn logs(&self, given: &Given) -> Result<ExitCode> {
        let mut container = self.container(&given.words[0])?;
        if given.has("previous") {
            let same = |other: &&Container| {
                (&other.sandbox, &other.name) == (&container.sandbox, &container.name)
                    && other.attempt < container.attempt
            };
            let earlier = self.containers.iter().filter(same).max_by_key(|other| other.attempt);
            container = earlier.context("previous terminated container not found")?;
        }
        let options = LogOptions {
            follow: given.has("follow") && matches!(container.state, ContainerState::Running { .. }),
            previous: false,
            tail_lines: given.number("tail")?,
            since: given.value("since").map(output::since).transpose()?,
            timestamps: given.has("timestamps"),
            limit_bytes: given.number("limit-bytes")?,
            only: None,
        };
        let ended = Exited { runtime: self.runtime.clone(), id: container.id.clone() };
        let (tell, mut told) = tokio::sync::mpsc::channel(4);
        let pump = skiff_kubelet::stream_log(container.log_path.clone(), options, ended, tell);
        let print = async {
            while let Some(chunk) = told.recv().await {
                std::io::stdout().write_all(&chunk?)?;
                std::io::stdout().flush()?;
            }
            Ok::<_, std::io::Error>(())
        };
        let ((), printed) = tokio::join!(pump, print);
        printed.context("print the log")?;
        Ok(ExitCode::SUCCESS)
    }

    async fn exec(&self, given: &Given) -> Result<ExitCode> {
        let container = &self.container(&given.words[0])?.id;
        let command = &given.words[1..];
        if given.has("sync") || given.value("timeout").is_some() {
            let limit = given.number("timeout")?.filter(|seconds| *seconds > 0).map(Duration::from_secs);
            let result = self.runtime.exec_sync(container, command, limit).await?;
            std::io::stdout().write_all(&result.stdout)?;
            std::io::stderr().write_all(&result.stderr)?;
            return Ok(ExitCode::from(u8::try_from(result.exit_code).unwrap_or(1)));
        }
        let streams = self.runtime.exec(container, command, given.has("tty"), given.has("interactive")).await?;
        let id = streams.id.clone();
        let joined = self.join(streams, &id, given.has("interactive"), given.has("tty")).await?;
        let code = self.runtime.exec_wait(&id).await?;
        self.runtime.hang_up(&id);
        joined.end()?;
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
    }

    async fn attach(&self, given: &Given) -> Result<ExitCode> {
        let container = self.container(&given.words[0])?;
        if !matches!(container.state, ContainerState::Running { .. }) {
            bail!("container {} is in CONTAINER_{} state", container.id.0, state_name(&container.state).to_uppercase());
        }
        let streams = self.runtime.attach(&container.id, given.has("stdin")).await?;
        // They end with the container.
        self.join(streams, &container.id.0, given.has("stdin"), given.has("tty")).await?.end()?;
        Ok(ExitCode::SUCCESS)
    }

    /// Joins streams with those of this process; `whose` terminal is as large as ours.
    async fn join(&self, streams: ExecStreams, whose: &str, input: bool, raw: bool) -> Result<Joined> {
        let raw = if raw { skiff_kubectl::RawTerminal::enter().context("the terminal")? } else { None };
        let mut outputs = Vec::new();
        // Those that read stdin end with this process: a read can't be taken back.
        let typed = |to: File| drop(std::thread::spawn(move || std::io::copy(&mut std::io::stdin(), &mut { to })));
        if let Some(terminal) = streams.tty {
            if let Some((width, height)) = skiff_kubectl::terminal_size() {
                self.runtime.resize(whose, width, height).await?;
            }
            if input {
                typed(terminal.try_clone()?.into());
            }
            let mut from = File::from(terminal);
            outputs.push(std::thread::spawn(move || std::io::copy(&mut from, &mut std::io::stdout())));
        }
        if let Some(stdin) = streams.stdin {
            typed(stdin.into());
        }
        if let Some(stdout) = streams.stdout {
            outputs.push(std::thread::spawn(move || std::io::copy(&mut File::from(stdout), &mut std::io::stdout())));
        }
        if let Some(stderr) = streams.stderr {
            outputs.push(std::thread::spawn(move || std::io::copy(&mut File::from(stderr), &mut std::io::stderr())));
        }
        Ok(Joined { outputs, raw })
    }

    async fn stats(&self, given: &Given) -> Result<ExitCode> {
        let chosen: Vec<&Container> = match given.words.as_slice() {
            [] => self.chosen(given)?,
            words => words.iter().map(|word| self.container(word)).collect::<Result<_>>()?,
        };
        let begun = std::time::Instant::now();
        let mut before = Vec::new();
        for container in &chosen {
            before.push(self.runtime.container_stats(&container.id).await.unwrap_or_default());
        }
        tokio::time::sleep(Duration::from_secs(given.number("seconds")?.unwrap_or(1).max(1))).await;
        let head = ["CONTAINER", "NAME", "CPU %", "MEM", "DISK", "INODES"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for (container, before) in chosen.iter().zip(before) {
            let Ok(now) = self.runtime.container_stats(&container.id).await else { continue };
            let used = now.cpu_usage_ns.saturating_sub(before.cpu_usage_ns) as f64 / begun.elapsed().as_nanos() as f64;
            let (bytes, inodes) = output::disk_use(&self.runtime.writable_layer(&container.id));
            rows.push(vec![
                short(&container.id.0, given.has("no-trunc")),
                container.name.clone(),
                format!("{:.2}", used * 100.0),
                human_size(now.memory_working_set_bytes),
                human_size(bytes),
                inodes.to_string(),
            ]);
        }
        print_table(&rows)
    }

    async fn stop(&self, given: &Given) -> Result<ExitCode> {
        let grace = Duration::from_secs(given.number("timeout")?.unwrap_or(0));
        for word in &given.words {
            let container = self.container(word)?;
            self.runtime.stop_container(&container.id, grace).await?;
            println!("{}", container.id.0);
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn stop_pods(&self, given: &Given) -> Result<ExitCode> {
        for word in &given.words {
            let pod = self.sandbox(word)?;
            self.runtime.stop_sandbox(&pod.id).await?;
            println!("Stopped sandbox {}", pod.id.0);
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn remove(&self, given: &Given) -> Result<ExitCode> {
        for container in named(given, &self.containers, |word| self.container(word))? {
            if matches!(container.state, ContainerState::Running { .. }) {
                if !given.has("force") {
                    bail!("container {} is running, please stop it first", container.id.0);
                }
                self.runtime.stop_container(&container.id, Duration::ZERO).await?;
            }
            self.runtime.remove_container(&container.id).await?;
            println!("{}", container.id.0);
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn remove_pods(&self, given: &Given) -> Result<ExitCode> {
        for pod in named(given, &self.sandboxes, |word| self.sandbox(word))? {
            if pod.state == SandboxState::Ready {
                if !given.has("force") {
                    bail!("pod sandbox {} is ready, please stop it first", pod.id.0);
                }
                if !self.runtime.is_owner() {
                    self.runtime.stop_sandbox(&pod.id).await?;
                    println!("Stopped sandbox {}: the node removes it", pod.id.0);
                    continue;
                }
            }
            self.runtime.remove_sandbox(&pod.id).await?;
            println!("Removed sandbox {}", pod.id.0);
        }
        Ok(ExitCode::SUCCESS)
    }

    fn info(&self, given: &Given) -> Result<ExitCode> {
        let ready = |kind: &str| serde_json::json!({"type": kind, "status": true, "reason": "", "message": ""});
        let status = serde_json::json!({"status": {"conditions": [ready("RuntimeReady"), ready("NetworkReady")]}});
        show(given.value("output").unwrap_or("json"), &status)
    }
}

/// Streams of a container that are this process's own.
struct Joined {
    outputs: Vec<std::thread::JoinHandle<std::io::Result<u64>>>,
    raw: Option<skiff_kubectl::RawTerminal>,
}

impl Joined {
    /// Waits for the last word.
    fn end(self) -> Result<()> {
        for output in self.outputs {
            // A terminal ends with an error.
            drop(output.join());
        }
        drop(self.raw);
        std::io::stdout().flush().context("write the output")
    }
}

/// The end of a container whose log is followed.
struct Exited {
    runtime: Runtime,
    id: skiff_runtime::ContainerId,
}

impl Ending for Exited {
    async fn ended(&mut self) {
        let mut events = self.runtime.events();
        loop {
            let running =
                self.runtime.container(&self.id).await.map(|c| matches!(c.state, ContainerState::Running { .. }));
            // That some were missed is no end: it is looked at again.
            if !running.unwrap_or(false) || matches!(events.recv().await, Err(RecvError::Closed)) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_by_their_beginning() {
        let all = ["abc1", "abd2"];
        let find = |word: &str| by_id(&all, "container", word, |id| id).copied().map_err(|e| e.to_string());
        assert_eq!(find("abc"), Ok("abc1"));
        assert!(find("ab").expect_err("two").contains("several"));
        assert!(find("x").expect_err("none").contains("not found"));
    }

    #[test]
    fn images_by_name_and_id() {
        let image = Image {
            id: skiff_runtime::ImageId("sha256:abcd".to_owned()),
            tags: vec!["docker.io/library/busybox:1.36".to_owned()],
            digests: Vec::new(),
            size_bytes: 0,
            pinned: false,
            user: String::new(),
            config: Default::default(),
        };
        for (word, listed) in [
            ("busybox", true),
            ("busybox:1.36", true),
            ("abc", true),
            ("sha256:abc", true),
            ("bcd", false),
            ("box", false),
        ] {
            assert_eq!(is_listed(&image, word), listed, "{word}");
        }
    }

    #[test]
    fn tags() {
        for (tag, expect) in [("a/b:1", ("a/b", "1")), ("host:5000/b", ("host:5000/b", "<none>"))] {
            assert_eq!(split_tag(tag), expect);
        }
    }
}
