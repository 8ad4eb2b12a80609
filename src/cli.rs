//! The command line. Flags and variables have k3s' names where the meaning is the same.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::{config, crictl, ctr, log, server, teardown, wait};

pub const RESOLV_CONF: &str = "/etc/resolv.conf";
pub const REGISTRIES: &str = "/etc/skiff/registries.yaml";

#[derive(Parser)]
#[command(name = "skiff", version, about = "Kubernetes in one small boat", arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a server: the control plane, and a node unless --disable-agent is given
    Server(Box<ServerArgs>),
    /// The Kubernetes client (all that follows is kubectl's)
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Look into the container runtime of this node
    Ctr(CtrArgs),
    /// Look into the container runtime of this node with crictl's commands (`skiff crictl help` lists them)
    Crictl(CrictlArgs),
    /// Wait until the cluster of this machine is ready
    Wait(WaitArgs),
    /// End every container and process of Skiff, and remove what they made on this machine; data and logs stay
    Killall(PlaceArgs),
    /// Remove Skiff and all of its data from this machine
    Uninstall(PlaceArgs),
    /// Print a completion script for a shell
    Completion { shell: clap_complete::Shell },
    /// Print the file by which an init system runs the server
    Unit {
        #[arg(value_enum)]
        system: InitSystem,
        /// Further arguments for the server
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Print the version
    Version,
}

/// Where a node keeps its things.
#[derive(Args, Clone, Debug)]
pub struct PlaceArgs {
    /// Directory of all state
    #[arg(long, short, env = "SKIFF_DATA_DIR", default_value = "/var/lib/skiff")]
    pub data_dir: PathBuf,
    /// Directory of what lives until a reboot
    #[arg(long, env = "SKIFF_RUN_DIR", default_value = "/run/skiff")]
    pub run_dir: PathBuf,
    /// Directory of the pods' volumes
    #[arg(long, env = "SKIFF_KUBELET_DIR", default_value = "/var/lib/kubelet")]
    pub kubelet_dir: PathBuf,
    /// Cgroup below which everything of this node is
    #[arg(long, env = "SKIFF_CGROUP_ROOT", default_value = "/")]
    pub cgroup_root: String,
    /// Where the kubeconfig of the administrator is
    #[arg(long, env = "SKIFF_KUBECONFIG_OUTPUT", default_value = "/etc/skiff/skiff.yaml")]
    pub write_kubeconfig: PathBuf,
}

impl PlaceArgs {
    /// Where the directory of the pods' volumes really is: the kernel tells mounts by their real paths, and what is
    /// mounted must be found before anything is removed.
    pub fn real_kubelet_dir(&self) -> std::io::Result<PathBuf> {
        match self.kubelet_dir.canonicalize() {
            Err(absent) if absent.kind() == std::io::ErrorKind::NotFound => Ok(self.kubelet_dir.clone()),
            found => found,
        }
    }
}

#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// Configuration file: flags by their names, as YAML
    #[arg(long, short, env = "SKIFF_CONFIG_FILE", default_value = config::DEFAULT_FILE)]
    pub config: PathBuf,
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Address to listen on
    #[arg(long, env = "SKIFF_BIND_ADDRESS", default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port of the Kubernetes API
    #[arg(long, env = "SKIFF_HTTPS_LISTEN_PORT", default_value_t = 6443)]
    pub https_listen_port: u16,
    /// Address that the API server tells others to reach it at (default: the node's)
    #[arg(long)]
    pub advertise_address: Option<Ipv4Addr>,
    /// Further names and addresses for the server's certificate
    #[arg(long, value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// Addresses of pods
    #[arg(long, default_value = "10.42.0.0/16")]
    pub cluster_cidr: Cidr,
    /// Addresses of services
    #[arg(long, default_value = "10.43.0.0/16")]
    pub service_cidr: Cidr,
    /// Address of the DNS server (default: the tenth of the service addresses)
    #[arg(long)]
    pub cluster_dns: Option<Ipv4Addr>,
    /// Domain of the cluster's names
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Ports for services of type NodePort
    #[arg(long, default_value = "30000-32767")]
    pub service_node_port_range: PortRange,
    /// A flag of upstream's API server, NAME=VALUE: those of the audit log (audit-policy-file, audit-log-path, ...)
    #[arg(long)]
    pub kube_apiserver_arg: Vec<String>,
    /// Permission bits of the kubeconfig, octal
    #[arg(long, env = "SKIFF_KUBECONFIG_MODE", default_value = "600", value_parser = parse_mode)]
    pub write_kubeconfig_mode: u32,
    /// Built-in parts to leave out
    #[arg(long, value_delimiter = ',', value_enum)]
    pub disable: Vec<Part>,
    /// Where volumes of the class local-path are (default: storage in the data directory)
    #[arg(long)]
    pub default_local_storage_path: Option<PathBuf>,
    /// Run the control plane only
    #[arg(long)]
    pub disable_agent: bool,
    #[command(flatten)]
    pub node: NodeArgs,
    /// How much is logged: error, warn, info or debug
    #[arg(long, short = 'v', env = "SKIFF_LOG_LEVEL", default_value = "info")]
    pub log_level: log::Level,
    /// How it is logged
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// Name of this node (default: the host's name)
    #[arg(long, env = "SKIFF_NODE_NAME")]
    pub node_name: Option<String>,
    /// Address of this node (default: that of the interface with the default route)
    #[arg(long, short = 'i')]
    pub node_ip: Option<Ipv4Addr>,
    /// Label of this node at its first registration, KEY=VALUE
    #[arg(long, value_delimiter = ',', value_parser = parse_label)]
    pub node_label: Vec<(String, String)>,
    /// Taint of this node at its first registration, KEY=VALUE:EFFECT
    #[arg(long, value_delimiter = ',', value_parser = parse_taint)]
    pub node_taint: Vec<Taint>,
    /// Resolvers that pods and the cluster's DNS use for other names
    #[arg(long, env = "SKIFF_RESOLV_CONF", default_value = RESOLV_CONF)]
    pub resolv_conf: PathBuf,
    /// Mirrors, credentials and TLS of image registries
    #[arg(long, default_value = REGISTRIES)]
    pub private_registry: PathBuf,
    /// Sysctls that pods may set besides the safe ones; a prefix ends in *
    #[arg(long, value_delimiter = ',')]
    pub allowed_unsafe_sysctls: Vec<String>,
    /// A flag of upstream's kubelet, NAME=VALUE: those of eviction, image collection and static pods
    /// (eviction-hard, image-gc-high-threshold, pod-manifest-path, max-pods, ...)
    #[arg(long)]
    pub kubelet_arg: Vec<String>,
}

#[derive(Args)]
pub struct CtrArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(subcommand)]
    pub command: CtrCommand,
}

#[derive(Args)]
#[command(disable_help_flag = true)]
pub struct CrictlArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    /// A command of crictl's, with its flags
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<String>,
}

#[derive(Subcommand)]
pub enum CtrCommand {
    /// Images of this node
    #[command(visible_alias = "image", visible_alias = "i")]
    Images {
        #[command(subcommand)]
        command: ImagesCommand,
    },
    /// List containers
    Ps,
}

#[derive(Subcommand)]
pub enum ImagesCommand {
    /// List images
    #[command(visible_alias = "list")]
    Ls,
    /// Import the images of `docker save` or OCI archives, plain or compressed
    Import {
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Pull an image from its registry
    Pull {
        reference: String,
        /// Mirrors, credentials and TLS of image registries
        #[arg(long, default_value = REGISTRIES)]
        private_registry: PathBuf,
    },
    /// Remove images by name or id
    Rm {
        #[arg(required = true)]
        references: Vec<String>,
    },
}

#[derive(Args)]
pub struct WaitArgs {
    /// What to wait for
    #[arg(long = "for", value_enum, default_value_t = wait::Target::All)]
    pub target: wait::Target,
    /// How long, e.g. 90s or 2m
    #[arg(long, default_value = "2m", value_parser = parse_duration)]
    pub timeout: Duration,
    /// The cluster to ask
    #[arg(long, env = "KUBECONFIG", default_value = "/etc/skiff/skiff.yaml")]
    pub kubeconfig: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InitSystem {
    Systemd,
    Openrc,
}

/// A part that --disable can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The storage class local-path and its provisioner
    LocalStorage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// An IPv4 network, as flags write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub address: Ipv4Addr,
    pub prefix_len: u8,
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl Cidr {
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (u32::from(self.address) ^ u32::from(address)).leading_zeros() >= u32::from(self.prefix_len)
    }

    /// The address that many behind the network's own.
    pub fn nth(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address).saturating_add(n))
    }
}

impl std::str::FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no IPv4 network such as 10.42.0.0/16");
        let (address, prefix_len) = text.split_once('/').ok_or_else(wrong)?;
        let (address, prefix_len): (Ipv4Addr, u8) =
            (address.parse().map_err(|_| wrong())?, prefix_len.parse().map_err(|_| wrong())?);
        if !(8..=28).contains(&prefix_len) {
            return Err(format!("{text:?}: the prefix has to be between 8 and 28 bits"));
        }
        let mask = u32::MAX << (32 - prefix_len);
        let network = Ipv4Addr::from(u32::from(address) & mask);
        if network != address {
            return Err(format!("{text:?} is an address inside of a network; the network is {network}/{prefix_len}"));
        }
        Ok(Self { address, prefix_len })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl std::str::FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match range {
            Some((first, last)) if 0 < first && first <= last => Ok(Self { first, last }),
            _ => Err(format!("{text:?} is no range of ports such as 30000-32767")),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE".to_owned()),
    }
}

fn parse_taint(text: &str) -> Result<Taint, String> {
    let wrong = "a taint is KEY=VALUE:EFFECT, with NoSchedule, PreferNoSchedule or NoExecute as its effect";
    let (rest, effect) = text.rsplit_once(':').ok_or(wrong)?;
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    if key.is_empty() || !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(wrong.to_owned());
    }
    Ok(Taint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned() })
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("permission bits are octal, such as 600 or 644".to_owned()),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration such as 30s, 2m or 1h");
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let number: u64 = text[..at].parse().map_err(|_| wrong())?;
    let unit_s = match &text[at..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    Ok(Duration::from_secs(number.saturating_mul(unit_s)))
}

pub fn run(arguments: Vec<OsString>) -> Result<ExitCode> {
    let arguments = config::with_file(arguments)?;
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            error.print().context("print the usage")?;
            return Ok(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)));
        }
    };
    match cli.command {
        Command::Server(arguments) => server::run(*arguments),
        Command::Kubectl { arguments } => Ok(skiff_kubectl::main(arguments)),
        Command::Ctr(arguments) => ctr::run(arguments),
        Command::Crictl(arguments) => crictl::run(&arguments.place, arguments.arguments),
        Command::Wait(arguments) => wait::run(arguments),
        Command::Killall(place) => teardown::kill_all(&place),
        Command::Uninstall(place) => teardown::uninstall(&place),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "skiff", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Unit { system, arguments } => {
            let own = std::env::current_exe().context("find this executable")?;
            print!("{}", unit(system, &own.to_string_lossy(), &arguments));
            Ok(ExitCode::SUCCESS)
        }
        Command::Version => {
            println!("skiff {}", env!("CARGO_PKG_VERSION"));
            println!("kubernetes {}", skiff_apiserver::KUBERNETES_VERSION);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The packaged file, for an executable at another place and with further arguments.
fn unit(system: InitSystem, executable: &str, arguments: &[String]) -> String {
    let words = [&["server".to_owned()], arguments].concat().join(" ");
    let (template, call, wanted) = match system {
        InitSystem::Systemd => {
            (include_str!("../systemd/skiff.service"), "/usr/local/bin/skiff server", format!("{executable} {words}"))
        }
        InitSystem::Openrc => {
            let template = include_str!("../packaging/skiff.openrc");
            (
                template,
                "/usr/local/bin/skiff\"\ncommand_args=\"server",
                format!("{executable}\"\ncommand_args=\"{words}"),
            )
        }
    };
    template.replace(call, &wanted)
}

/// The flags of a command, as far as the configuration file may set them; none of a command that there is not.
pub fn flags(command: &str) -> Vec<config::Flag> {
    let all = Cli::command();
    let arguments = all.find_subcommand(command).into_iter().flat_map(clap::Command::get_arguments);
    arguments
        .filter_map(|a| {
            Some(config::Flag {
                name: a.get_long().filter(|name| *name != "config" && *name != "help")?.to_owned(),
                short: a.get_short(),
                variable: a.get_env().map(ToOwned::to_owned),
                takes_value: a.get_action().takes_values(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declaration_holds() {
        Cli::command().debug_assert();
    }

    #[test]
    fn units_name_the_executable_and_its_arguments() {
        let arguments = ["--tls-san".to_owned(), "a".to_owned()];
        assert!(
            unit(InitSystem::Systemd, "/opt/skiff", &arguments).contains("\nExecStart=/opt/skiff server --tls-san a\n")
        );
        let script = unit(InitSystem::Openrc, "/opt/skiff", &arguments);
        assert!(script.contains("\ncommand=\"/opt/skiff\"\ncommand_args=\"server --tls-san a\"\n"), "{script}");
    }

    #[test]
    fn networks() {
        assert_eq!("10.43.0.0/16".parse::<Cidr>().expect("valid").nth(10), Ipv4Addr::new(10, 43, 0, 10));
        for (text, expect) in
            [("10.43.0.1/16", "the network is 10.43.0.0/16"), ("x", "no IPv4 network"), ("10.0.0.0/30", "between")]
        {
            assert!(text.parse::<Cidr>().expect_err(text).contains(expect), "{text}");
        }
        let services: Cidr = "10.43.0.0/16".parse().expect("valid");
        assert_eq!(services.to_string(), "10.43.0.0/16");
        assert!(
            services.contains(Ipv4Addr::new(10, 43, 255, 255)) && !services.contains(Ipv4Addr::new(10, 42, 255, 255))
        );
    }

    #[test]
    fn taints_and_ranges() {
        let taint = parse_taint("a/b=c:NoSchedule").expect("valid");
        assert_eq!((taint.key.as_str(), taint.value.as_str(), taint.effect.as_str()), ("a/b", "c", "NoSchedule"));
        for text in ["a", "a=b", "=b:NoSchedule", "a=b:Never"] {
            parse_taint(text).expect_err(text);
        }
        assert_eq!("1-2".parse::<PortRange>(), Ok(PortRange { first: 1, last: 2 }));
        for text in ["2-1", "0-5", "x-y", "5", "1-70000"] {
            text.parse::<PortRange>().expect_err(text);
        }
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        parse_duration("2 parsecs").expect_err("no such unit");
    }
}
