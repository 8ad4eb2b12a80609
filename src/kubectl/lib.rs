//! `skiff kubectl`: what kubectl does, with its output, its errors and its exit codes.
//!
//! Bottom-up: `config` finds the server and the namespace; `server` asks and maps failures; `discovery` knows the
//! server's resource types; `manifest` reads objects from files; `targets` turns `TYPE/NAME`, selectors and files into
//! objects; `print` writes them; `writing` is what commands that change something share; `stream` has the commands that hold a connection; each other command has a module of its own, with its arguments. `main` only dispatches.
//!
//! What would run other programs (plugins) is refused with a sentence that says what to use.
//!
//! Must not know: everything but `api`, `client`, `pki`, `streaming`.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

mod apply;
mod auth;
mod autoscale;
mod certificate;
mod config;
mod create;
mod debug;
mod delete;
mod describe;
mod diff;
mod discovery;
mod dump;
mod edit;
mod events;
mod explain;
mod expose;
mod failure;
mod get;
mod info;
mod kustomize;
mod label;
mod logs;
mod manifest;
mod names;
mod node;
mod patch;
mod print;
mod proxy;
mod rollout;
mod run;
mod scale;
mod server;
mod set;
mod stream;
mod taint;
mod targets;
mod top;
mod wait;
mod writing;

pub use print::Template as GoTemplate;
pub use stream::terminal::{Raw as RawTerminal, size as terminal_size};

use failure::Failure;

type Result<T = (), E = anyhow::Error> = std::result::Result<T, E>;

/// The client of a Kubernetes cluster.
#[derive(Parser)]
#[command(name = "kubectl", disable_help_subcommand = true, disable_version_flag = true)]
struct Arguments {
    #[command(flatten)]
    global: config::Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Display one or many resources
    Get(get::Arguments),
    /// Show details of a resource or a group of resources
    Describe(describe::Arguments),
    /// Apply a configuration to a resource by file name or stdin
    Apply(apply::Arguments),
    /// Create a resource from a file, from stdin, or by a generator
    Create(create::Arguments),
    /// Replace a resource by file name or stdin
    Replace(create::Replace),
    /// Delete resources by file names, stdin, resources and names, or by resources and label selector
    Delete(delete::Arguments),
    /// Print the logs of a container in a pod
    Logs(logs::Arguments),
    /// Set a new size for a deployment, replica set, or replication controller
    Scale(scale::Arguments),
    /// Manage the rollout of a resource
    Rollout(rollout::Arguments),
    /// Update fields of a resource
    Patch(patch::Arguments),
    /// Update the labels on a resource
    Label(label::Arguments),
    /// Update the annotations on a resource
    Annotate(label::Arguments),
    /// Wait for a specific condition on one or many resources
    Wait(wait::Arguments),
    /// Execute a command in a container
    Exec(stream::Exec),
    /// Attach to a running container
    Attach(stream::Attach),
    /// Copy files and directories to and from containers
    Cp(stream::Cp),
    /// Forward one or more local ports to a pod
    PortForward(stream::PortForward),
    /// Run a proxy to the Kubernetes API server
    Proxy(proxy::Arguments),
    /// Create debugging sessions for troubleshooting workloads and nodes
    Debug(debug::Arguments),
    /// Run a particular image on the cluster
    Run(run::Arguments),
    /// Expose a controller, service, or pod as a new Kubernetes service
    Expose(expose::Arguments),
    /// Set specific features on objects
    Set(set::Arguments),
    /// Mark node as unschedulable
    Cordon(node::Cordon),
    /// Mark node as schedulable
    Uncordon(node::Cordon),
    /// Drain node in preparation for maintenance
    Drain(node::Drain),
    /// Update the taints on one or more nodes
    Taint(taint::Taint),
    /// Print the supported API resources on the server
    ApiResources(info::Resources),
    /// Print the supported API versions on the server, in the form of "group/version"
    ApiVersions,
    /// Display addresses of the control plane and services
    ClusterInfo(info::ClusterInfo),
    /// Print the client and server version information
    Version(info::Version),
    /// Get documentation for a resource
    Explain(explain::Arguments),
    /// Diff the live version against a would-be applied version
    Diff(diff::Arguments),
    /// List events
    Events(events::Arguments),
    /// Display resource (CPU/memory) usage
    Top(top::Arguments),
    /// Inspect authorization
    Auth(auth::Arguments),
    /// Modify kubeconfig files
    Config(config::Arguments),
    /// Edit a resource on the server
    Edit(edit::Arguments),
    /// Auto-scale a deployment, replica set, stateful set, or replication controller
    Autoscale(autoscale::Arguments),
    /// Modify certificate resources
    Certificate(certificate::Arguments),
    /// Build a kustomization target from a directory
    Kustomize(kustomize::Arguments),
    /// Output shell completion code for the specified shell (bash, zsh, fish, powershell)
    Completion { shell: clap_complete::Shell },
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// The whole program. `args` are without the program's name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    end_with_the_reader();
    let arguments =
        match Arguments::try_parse_from(std::iter::once(OsString::from("kubectl")).chain(with_plain_switches(args))) {
            Ok(arguments) => arguments,
            Err(e) => {
                if let Some(text) = in_upstreams_words(&e) {
                    eprintln!("{text}");
                    return ExitCode::FAILURE;
                }
                drop(e.print());
                return if e.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            }
        };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("error: start the runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    // Where 1 says that something differs, a failure needs another number.
    let compares = matches!(arguments.command, Command::Diff(_));
    let warnings_fail = arguments.global.warnings_as_errors;
    match runtime.block_on(run_command(arguments)) {
        Ok(()) if warnings_fail && server::warnings() > 0 => {
            let count = server::warnings();
            eprintln!("error: {count} warning{} received", if count == 1 { "" } else { "s" });
            ExitCode::FAILURE
        }
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match failure::report(&error) {
            _ if compares && !matches!(error.downcast_ref(), Some(Failure::Silent)) => ExitCode::from(2),
            code => code,
        },
    }
}

/// What scripts look for in failures about flags.
fn in_upstreams_words(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let named = match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(one) => vec![one.clone()],
        ContextValue::Strings(many) => many.clone(),
        _ => return None,
    };
    let flags: Vec<String> = named
        .iter()
        .filter_map(|arg| arg.strip_prefix("--"))
        .map(|arg| arg.split([' ', '=', '[']).next().unwrap_or(arg).to_owned())
        .collect();
    match error.kind() {
        ErrorKind::MissingRequiredArgument if flags.len() == named.len() => {
            let quoted: Vec<String> = flags.iter().map(|flag| format!("{flag:?}")).collect();
            Some(format!("error: required flag(s) {} not set", quoted.join(", ")))
        }
        ErrorKind::MissingRequiredArgument if named == ["<NAME>"] => {
            let usage = error.get(ContextKind::Usage)?.to_string();
            let words = usage.split_once("Usage: ")?.1.split_whitespace();
            let command: Vec<&str> = words.take_while(|word| !word.starts_with(['<', '[', '-'])).collect();
            let command = command.join(" ");
            Some(format!("error: exactly one NAME is required, got 0\nSee '{command} -h' for help and examples"))
        }
        ErrorKind::UnknownArgument if flags.len() == 1 => {
            Some(format!("error: unknown flag: --{}\nSee 'kubectl --help' for usage.", flags[0]))
        }
        _ => None,
    }
}

/// Go's flags take values: `--force=true` is `--force`, `--force=false` is nothing.
fn with_plain_switches(args: Vec<OsString>) -> Vec<OsString> {
    let root = Arguments::command();
    // Each takes the flags that those above it give to all below them.
    let (mut command, mut above) = (&root, vec![&root]);
    let mut plain = Vec::with_capacity(args.len());
    let mut args = args.into_iter();
    for arg in args.by_ref() {
        let text = arg.to_string_lossy();
        if text == "--" {
            plain.push(arg);
            break;
        }
        if !text.starts_with('-')
            && let Some(inner) = command.find_subcommand(&*text)
        {
            command = inner;
            above.push(inner);
        }
        let switch = text.strip_prefix("--").and_then(|flag| flag.split_once('='));
        let is_switch = |name: &str| {
            above
                .iter()
                .flat_map(|command| command.get_arguments())
                .any(|known| known.get_long() == Some(name) && matches!(known.get_action(), clap::ArgAction::SetTrue))
        };
        match switch.filter(|(name, _)| is_switch(name)) {
            Some((name, "true" | "1" | "t" | "True" | "TRUE")) => plain.push(format!("--{name}").into()),
            Some((_, "false" | "0" | "f" | "False" | "FALSE")) => {}
            _ => plain.push(arg),
        }
    }
    plain.extend(args);
    plain
}

/// `kubectl get pods | head -1` is no failure: who reads has read enough. The standard library panics when it can't print.
pub fn end_with_the_reader() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.to_string().contains("Broken pipe") {
            std::process::exit(0);
        }
        default(info);
    }));
}

async fn run_command(Arguments { mut global, command }: Arguments) -> Result {
    // Here the flag means somebody else.
    let names_subjects = match &command {
        Command::Create(arguments) => arguments.names_subjects(),
        Command::Set(arguments) => arguments.names_subjects(),
        _ => false,
    };
    if names_subjects {
        global.user = None;
    }
    if let Command::Config(arguments) = command {
        return config::run(&global, arguments);
    }
    if let Command::Kustomize(arguments) = command {
        return kustomize::run(&arguments);
    }
    if let Command::Completion { shell } = command {
        clap_complete::generate(shell, &mut Arguments::command(), "kubectl", &mut std::io::stdout());
        return Ok(());
    }
    if let Command::Other(words) = command {
        return refuse(&words);
    }
    if let Command::Version(arguments) = &command
        && arguments.client
    {
        return info::client_version(arguments);
    }
    let mut server = server::Server::connect(&global)?;
    match command {
        Command::Get(arguments) => get::run(&server, arguments).await,
        Command::Describe(arguments) => describe::run(&server, arguments).await,
        Command::Apply(arguments) => apply::run(&server, arguments).await,
        Command::Create(arguments) => create::run(&server, arguments).await,
        Command::Replace(arguments) => create::replace(&server, arguments).await,
        Command::Delete(arguments) => delete::run(&server, arguments).await,
        Command::Logs(arguments) => logs::run(&server, arguments).await,
        Command::Scale(arguments) => scale::run(&server, arguments).await,
        Command::Rollout(arguments) => rollout::run(&server, arguments).await,
        Command::Patch(arguments) => patch::run(&server, arguments).await,
        Command::Label(arguments) => label::run(&server, arguments, label::Which::Labels).await,
        Command::Annotate(arguments) => label::run(&server, arguments, label::Which::Annotations).await,
        Command::Wait(arguments) => wait::run(&server, arguments).await,
        Command::Exec(arguments) => stream::exec(&server, arguments).await,
        Command::Attach(arguments) => stream::attach(&server, arguments).await,
        Command::Cp(arguments) => stream::cp(&mut server, arguments).await,
        Command::PortForward(arguments) => stream::port_forward(&server, arguments).await,
        Command::Proxy(arguments) => proxy::run(&server, arguments).await,
        Command::Debug(arguments) => debug::run(&server, arguments).await,
        Command::Run(arguments) => run::run(&server, arguments).await,
        Command::Expose(arguments) => expose::run(&server, arguments).await,
        Command::Set(arguments) => set::run(&server, arguments).await,
        Command::Cordon(arguments) => node::cordon(&server, &arguments, true).await,
        Command::Uncordon(arguments) => node::cordon(&server, &arguments, false).await,
        Command::Drain(arguments) => node::drain(&server, arguments).await,
        Command::Taint(arguments) => taint::run(&server, arguments).await,
        Command::ApiResources(arguments) => info::resources(&server, arguments).await,
        Command::ApiVersions => info::versions(&server).await,
        Command::ClusterInfo(arguments) => info::cluster(&server, arguments).await,
        Command::Version(arguments) => info::version(&server, &arguments).await,
        Command::Explain(arguments) => explain::run(&server, arguments).await,
        Command::Diff(arguments) => diff::run(&server, arguments).await,
        Command::Events(arguments) => events::run(&server, arguments).await,
        Command::Top(arguments) => top::run(&server, arguments).await,
        Command::Auth(arguments) => auth::run(&server, arguments).await,
        Command::Edit(arguments) => edit::run(&server, arguments, edit::What::Object).await,
        Command::Autoscale(arguments) => autoscale::run(&server, arguments).await,
        Command::Certificate(arguments) => certificate::run(&server, arguments).await,
        Command::Config(_) | Command::Completion { .. } | Command::Kustomize(_) | Command::Other(_) => {
            unreachable!("answered above")
        }
    }
}

fn refuse(words: &[OsString]) -> Result {
    let name = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    match name.as_str() {
        "plugin" => {
            return Err(Failure::text(
                "this kubectl runs no plugins, since it runs no other programs; call `kubectl-NAME` itself, or use upstream's kubectl",
            ));
        }
        "kuberc" => return Err(Failure::text("this kubectl reads no kuberc files; use aliases of the shell")),
        "alpha" => {
            eprintln!("No alpha commands are available in this version of kubectl");
            return Ok(());
        }
        "options" => {
            println!("The following options can be passed to any command:\n");
            for option in Arguments::command().get_arguments().filter(|option| option.is_global_set()) {
                println!(
                    "    --{}:\n\t{}\n",
                    option.get_long().unwrap_or_default(),
                    option.get_help().cloned().unwrap_or_default()
                );
            }
            return Ok(());
        }
        _ => {}
    }
    Err(Failure::text(format!("unknown command {name:?} for \"kubectl\"; see `kubectl --help`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_take_gos_values() {
        let check = |line: &str, expect: &str| {
            let words = with_plain_switches(line.split(' ').map(OsString::from).collect());
            let words: Vec<String> = words.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
            assert_eq!(words.join(" "), expect);
        };
        check("get pods --all-namespaces=true --watch=false", "get pods --all-namespaces");
        check("delete pod x --wait=false --force=true", "delete pod x --wait=false --force");
        check("create priorityclass p --global-default=true", "create priorityclass p --global-default");
        check("create configmap c --save-config=true", "create configmap c --save-config");
        check("--insecure-skip-tls-verify=true get pods", "--insecure-skip-tls-verify get pods");
        check("run p --image=x -- --watch=false", "run p --image=x -- --watch=false");
        check("label pods x watch=false", "label pods x watch=false");
    }

    #[test]
    fn failures_about_flags_are_upstreams() {
        let told = |line: &str| {
            let error = Arguments::try_parse_from(line.split(' ')).err().expect("refused");
            in_upstreams_words(&error)
        };
        assert_eq!(told("kubectl create deployment d").as_deref(), Some("error: required flag(s) \"image\" not set"));
        let unknown = "error: unknown flag: --nope\nSee 'kubectl --help' for usage.";
        assert_eq!(told("kubectl get pods --nope").as_deref(), Some(unknown));
        let nameless =
            "error: exactly one NAME is required, got 0\nSee 'kubectl create deployment -h' for help and examples";
        assert_eq!(told("kubectl create deployment --image=x").as_deref(), Some(nameless));
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
