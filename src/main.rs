//! One executable that is the whole cluster: reads its name and its arguments, and becomes what they ask for.
//!
//! `cli` holds the arguments, `config` completes them from files, `log` sets up what operators read, `notify` tells systemd;
//! `server` starts and stops a server node in order, `teardown` removes what is ours from a machine,
//! `wait` answers whether a cluster is ready, `ctr` and `crictl` look into the runtime. Everything else lives in
//! the member crates; this package is their wiring.

mod apiserver_args;
mod cli;
mod config;
mod crictl;
mod ctr;
mod local_storage;
mod log;
mod notify;
mod server;
mod systemd;
mod teardown;
mod wait;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let called = arguments.first().and_then(|a| Path::new(a).file_name()).unwrap_or_default();
    if called == "kubectl" {
        return skiff_kubectl::main(arguments[1..].to_vec());
    }
    if called == "crictl" || called == "ctr" {
        arguments.insert(1, called.to_owned());
    }
    // These two read their own arguments; the supervisor must stay a single thread.
    match arguments.get(1).and_then(|a| a.to_str()) {
        Some("supervisor") => return skiff_runtime::supervisor_main(&arguments[2..]),
        Some("kubectl") => return skiff_kubectl::main(arguments[2..].to_vec()),
        _ => {}
    }
    match cli::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("skiff: {error:#}");
            ExitCode::FAILURE
        }
    }
}
