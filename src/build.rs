//! What the linker of a release executable does besides.

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    // Rust's own linker there (the default since 1.90) makes one function of those whose code is the same, of which
    // generics leave many. Nothing here compares functions by their addresses.
    if is("PROFILE", "release") && is("TARGET", "x86_64-unknown-linux-gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
        // The index of unwind tables. A static executable registers its tables when it starts (crtbeginT.o), and whoever
        // unwinds makes an index of them when there is something to unwind.
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
    }
}
