//! Variables from files that a pod's volumes hold (`fileKeyRef`).
//!
//! The format is upstream's, a part of a shell's: `NAME='value'` lines, values in single quotes, over several lines where
//! they have such; blank lines and comments.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, FileKeySelector};
use skiff_linux::mount;

use crate::volume::Volumes;

/// A longer file is refused: containers wrote it.
const MAX_FILE: u64 = 1 << 20;

/// The files' texts, or why there is none, by volume and path.
pub(crate) type Files = BTreeMap<(String, String), Result<String, String>>;

/// Where a container's variables come from files.
pub(crate) fn references(container: &Container) -> impl Iterator<Item = &FileKeySelector> {
    container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()?.file_key_ref.as_ref())
}

/// Reads what a container's variables refer to; blocking.
pub(crate) fn read(container: &Container, volumes: &Volumes) -> Files {
    references(container).map(|file| ((file.volume_name.clone(), file.path.clone()), text(file, volumes))).collect()
}

fn text(file: &FileKeySelector, volumes: &Volumes) -> Result<String, String> {
    let volume = volumes.mounted.get(&file.volume_name).filter(|volume| volume.device.is_none());
    let volume =
        volume.ok_or_else(|| format!("cannot find the volume {:?} referenced by FileKeyRef", file.volume_name))?;
    let open = || {
        let root = File::open(&volume.path)?;
        // Links in it lead nowhere else.
        read_whole(mount::open_file_in_root(root.as_fd(), Path::new(&file.path))?)
    };
    open().map_err(|error| {
        tracing::warn!(volume = file.volume_name, path = file.path, %error, "a file of variables can't be read");
        "couldn't parse env file".to_owned()
    })
}

fn read_whole(file: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    if file.take(MAX_FILE + 1).read_to_string(&mut text)? as u64 > MAX_FILE {
        return Err(std::io::Error::other("longer than 1 MiB"));
    }
    Ok(text)
}

/// The value that a text gives a name; empty where it gives none. The error is upstream's.
pub(crate) fn value(text: &str, key: &str) -> Result<String, String> {
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let wrong = |what: &str| Err(format!("invalid environment variable format at line {number}: {what}"));
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, rest)) = line.split_once('=') else { return wrong("missing '='") };
        if name.trim_end_matches([' ', '\t']).is_empty() {
            return wrong("empty variable name");
        }
        if name.ends_with([' ', '\t']) {
            return wrong("whitespace before '=' is not allowed");
        }
        if rest.starts_with([' ', '\t']) {
            // As a shell takes it: nothing is assigned.
            if name == key {
                return Ok(String::new());
            }
            continue;
        }
        let Some(mut rest) = rest.strip_prefix('\'') else {
            return wrong("value must be enclosed in single quotes");
        };
        let mut value = String::new();
        let after = loop {
            if let Some((last, after)) = rest.split_once('\'') {
                value.push_str(last);
                break after.trim_start_matches([' ', '\t']);
            }
            value.push_str(rest);
            value.push('\n');
            let Some((next, _)) = lines.next() else {
                return Err(format!(
                    "invalid environment variable format starting at line {number}: unclosed single quote"
                ));
            };
            rest = next;
        };
        if !after.is_empty() && !after.starts_with('#') {
            return wrong("unexpected content after closing quote");
        }
        if name == key {
            return Ok(value);
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_not_cut() {
        let text = |length| read_whole(std::io::repeat(b'#').take(length));
        assert!(text(MAX_FILE).is_ok_and(|text| text.len() as u64 == MAX_FILE));
        assert!(text(MAX_FILE + 1).is_err_and(|e| e.to_string() == "longer than 1 MiB"));
    }

    #[test]
    fn values() {
        let text = "# first\n\n  A='a'\nB='b # no' # yes\nC='one\ntwo'\nD= 'no'\nE=''\n";
        for (key, expected) in [("A", "a"), ("B", "b # no"), ("C", "one\ntwo"), ("D", ""), ("E", ""), ("F", "")] {
            assert_eq!(value(text, key).as_deref(), Ok(expected), "{key}");
        }
        for (text, error) in [
            ("A", "at line 1: missing '='"),
            ("='x'", "at line 1: empty variable name"),
            ("\nA ='x'", "at line 2: whitespace before '=' is not allowed"),
            ("A=x", "at line 1: value must be enclosed in single quotes"),
            ("A='x", "starting at line 1: unclosed single quote"),
            ("A='x' y", "at line 1: unexpected content after closing quote"),
        ] {
            assert!(value(text, "Z").is_err_and(|found| found.ends_with(error)), "{text}");
        }
    }
}
