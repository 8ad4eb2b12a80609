//! Makes the table of schema facts (see `schema/facts.rs`) out of the sources of two crates.
//!
//! Both are read as text: `k8s-openapi` would otherwise be compiled a second time with its schemas, and `k8s-pb`
//! (which is never compiled, see Cargo.toml) keeps the Go markers only in its comments.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

#[path = "build/markers.rs"]
mod markers;
#[path = "build/openapi.rs"]
mod openapi;
#[path = "build/table.rs"]
mod table;

fn main() {
    for file in ["build.rs", "build", "facts", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={file}");
    }
    let [openapi_dir, pb_dir] = source_dirs(["k8s-openapi", "k8s-pb"]);
    let mut definitions = BTreeMap::new();
    let mut kinds = Vec::new();
    for (path, text) in rust_files(&openapi_dir.join("src/v1_36")) {
        if is_served(&path) {
            openapi::read(&text, &mut definitions, &mut kinds);
        }
    }
    let mut messages = BTreeMap::new();
    for (path, text) in rust_files(&pb_dir.join("src")) {
        if is_served(&path) {
            markers::read(&module_of(&path), &text, &mut messages);
        }
    }
    let read = |file: &str| fs::read_to_string(file).unwrap_or_else(|e| panic!("read {file}: {e}"));
    markers::add_newer(&read("facts/newer.txt"), &mut messages);
    let pointers = read_pointers(&[read("facts/pointers.txt"), read("facts/written.txt")].concat());
    let (facts, descriptions) = table::make(&definitions, &kinds, &messages, &pointers);
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let facts = deflate(facts.as_bytes());
    let mut blob = u32::try_from(facts.len()).expect("a table of a few kB").to_le_bytes().to_vec();
    blob.extend(facts);
    blob.extend(deflate(descriptions.as_bytes()));
    fs::write(out.join("facts.bin"), blob).expect("write the table of facts");
}

/// Stable versions, and autoscaling/v2.
fn is_served(path: &str) -> bool {
    path.contains("/v1/") || path.contains("autoscaling/v2/") || !path.contains("/v") && path.contains("apimachinery")
}

/// `…/src/api/core/v1/mod.rs` to `api.core.v1`.
fn module_of(path: &str) -> String {
    let inner = path.rsplit_once("/src/").map_or(path, |(_, inner)| inner);
    inner.trim_end_matches("/mod.rs").replace('/', ".")
}

fn read_pointers(text: &str) -> BTreeSet<(String, String)> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| {
            let (ty, fields) = line.split_once(' ').unwrap_or((line, ""));
            let (package, ty) = ty.split_once('.').unwrap_or(("", ty));
            let ty = format!("{package}.{}", markers::normal(ty));
            fields.split(' ').map(move |field| (ty.clone(), field.to_owned()))
        })
        .collect()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

/// Every `.rs` file below `dir` with its text, in a stable order.
fn rust_files(dir: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("read {}: {e}", dir.display())).flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
                files.push((path.to_string_lossy().into_owned(), text));
            }
        }
    }
    files.sort();
    files
}

/// Where cargo keeps the sources of these dependencies; works for a registry, a vendored tree and a mirror alike.
fn source_dirs<const N: usize>(names: [&str; N]) -> [PathBuf; N] {
    // Without the network if possible: the sources are there, unless only this target's crates were downloaded.
    let metadata =
        metadata(&["--offline"]).or_else(|_| metadata(&[])).unwrap_or_else(|e| panic!("cargo metadata: {e}"));
    names.map(|name| {
        metadata
            .split("\"manifest_path\":\"")
            .filter_map(|rest| Path::new(rest.split('"').next()?).parent())
            .find(|dir| is_crate_dir(dir, name))
            .unwrap_or_else(|| panic!("{name} is not among the dependencies"))
            .to_owned()
    })
}

fn is_crate_dir(dir: &Path, name: &str) -> bool {
    let dir = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.strip_prefix(name).is_some_and(|rest| {
        rest.is_empty()
            || rest.strip_prefix('-').is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
    })
}

fn metadata(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"))
        .args(["metadata", "--format-version=1"])
        .args(arguments)
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    String::from_utf8(output.stdout).map_err(|e| e.to_string())
}
