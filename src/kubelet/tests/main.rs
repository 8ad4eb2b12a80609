//! The agent with real containers and a real network, in namespaces of its own; only the API server is a fake.
//!
//! The supervisor is this executable, started again: hence a harness of its own, which speaks as much of the usual
//! one's language as cargo and nextest need.

#[allow(dead_code, reason = "shared with the runtime's own tests, which use more of it")]
#[path = "../../runtime/tests/node.rs"]
mod node;

mod pods;

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

type Test = (&'static str, fn());

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|first| first == "supervisor") {
        return skiff_runtime::supervisor_main(&args[1..]);
    }
    let args: Vec<String> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let has = |name: &str| args.iter().any(|arg| arg == name);
    if has("--list") {
        for (name, _) in pods::TESTS.iter().filter(|_| !has("--ignored")) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    // Before any thread exists, so that all of them are in there.
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces of its own (needs root)");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("private mounts");
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip is needed");
    assert!(up.success(), "lo is not up");

    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let chosen = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|filter| if has("--exact") { name == *filter } else { name.contains(*filter) })
    };
    let mut good = true;
    for (name, test) in pods::TESTS.iter().filter(|(name, _)| chosen(name)) {
        let result = std::panic::catch_unwind(test);
        println!("test {name} ... {}", if result.is_ok() { "ok" } else { "FAILED" });
        good &= result.is_ok();
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
