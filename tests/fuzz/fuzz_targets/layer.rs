//! A layer's stream into a directory: nothing of it gets out of there.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "the image store uses the rest")]
#[path = "../../../src/runtime/images/bounded.rs"]
mod bounded;
#[allow(dead_code, reason = "the image store uses the rest")]
#[path = "../../../src/runtime/images/layer.rs"]
mod layer;
#[allow(dead_code, reason = "the image store uses the rest")]
#[path = "../../../src/runtime/images/unpack.rs"]
mod unpack;

/// No layer of a few kilobytes needs more; the rest of a stream that unfolds to gigabytes is not read.
const UNFOLDED: u64 = 1 << 20;

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("the directory").flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fuzz_target!(|data: &[u8]| {
    let outside = tempfile::tempdir().expect("a directory");
    let (root, secret) = (outside.path().join("root"), outside.path().join("secret"));
    std::fs::create_dir(&root).expect("a directory");
    std::fs::write(&secret, "secret").expect("a file");
    if let Ok(plain) = layer::decompress(data) {
        use std::io::Read as _;
        drop(unpack::unpack(plain.take(UNFOLDED), &root));
    }
    assert_eq!(names(outside.path()), ["root", "secret"]);
    assert_eq!(std::fs::read(&secret).expect("the file"), b"secret");
});
