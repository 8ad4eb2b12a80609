//! The client alone, for trying things out: `cargo run -p skiff-kubectl --example kubectl -- get pods`.

fn main() -> std::process::ExitCode {
    skiff_kubectl::main(std::env::args_os().skip(1).collect())
}
