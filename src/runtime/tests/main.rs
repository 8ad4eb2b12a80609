//! Real containers, as root, of an image made from the host's static busybox.
//!
//! The supervisor is this executable, started again: hence a harness of its own, which speaks as much of the usual
//! one's language as cargo and nextest need.

mod crashes;
mod execs;
mod lifecycle;
mod limits;
mod node;
mod security;
mod speed;
mod streams;
mod upgrades;
mod user_namespaces;
mod worlds;

use std::ffi::OsString;
use std::process::ExitCode;

pub type Test = (&'static str, fn());

/// Runs an async test body.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub const TESTS: &[$crate::Test] = &[$((
            concat!(module_path!(), "::", stringify!($name)),
            || tokio::runtime::Runtime::new().expect("a runtime").block_on($name()),
        )),*];
    };
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|first| first == "supervisor") {
        return skiff_runtime::supervisor_main(&args[1..]);
    }
    // In a container, for which it is mounted.
    if args.first().is_some_and(|first| first == "session-keys") {
        println!("{}", skiff_linux::process::session_keys().expect("a ring"));
        return ExitCode::SUCCESS;
    }
    let args: Vec<String> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let has = |name: &str| args.iter().any(|arg| arg == name);
    let modules = [
        lifecycle::TESTS,
        streams::TESTS,
        upgrades::TESTS,
        execs::TESTS,
        limits::TESTS,
        security::TESTS,
        user_namespaces::TESTS,
        crashes::TESTS,
        speed::TESTS,
        worlds::TESTS,
    ];
    let all: Vec<Test> = modules.concat();
    if has("--list") {
        for (name, _) in all.iter().filter(|_| !has("--ignored")) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let chosen = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|filter| if has("--exact") { name == *filter } else { name.contains(*filter) })
    };
    let mut failed = Vec::new();
    for (name, test) in all.into_iter().filter(|(name, _)| chosen(name)) {
        let result = std::panic::catch_unwind(test);
        println!("test {name} ... {}", if result.is_ok() { "ok" } else { "FAILED" });
        if result.is_err() {
            failed.push(name);
        }
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
