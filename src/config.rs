//! `config.yaml`: the server's flags by their names. What the command line or the environment says
//! wins; of several files, `config.yaml` and then `config.yaml.d/*.yaml` by name, the last wins.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_yaml::Value;

pub const DEFAULT_FILE: &str = "/etc/skiff/config.yaml";

/// The arguments of `skiff server` with those of the files put in where they are not given.
pub fn with_file(mut arguments: Vec<OsString>) -> Result<Vec<OsString>> {
    if arguments.get(1).and_then(|a| a.to_str()) != Some("server") {
        return Ok(arguments);
    }
    let given: Vec<String> = arguments[2..].iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let (file, asked_for) = match chosen(&given) {
        Some(file) => (file, true),
        None => (PathBuf::from(DEFAULT_FILE), false),
    };
    let added = plan(&read(&file, asked_for)?, &crate::cli::server_flags(), &given)
        .with_context(|| format!("in {}", file.display()))?;
    arguments.splice(2..2, added.into_iter().map(OsString::from));
    Ok(arguments)
}

/// The file that the command line or the environment names.
fn chosen(given: &[String]) -> Option<PathBuf> {
    let mut found = std::env::var_os("SKIFF_CONFIG_FILE").map(PathBuf::from);
    let mut rest = given.iter();
    while let Some(argument) = rest.next() {
        if argument == "--config" || argument == "-c" {
            found = rest.next().map(PathBuf::from);
        } else if let Some(file) = argument.strip_prefix("--config=") {
            found = Some(PathBuf::from(file));
        }
    }
    found
}

fn read(file: &Path, asked_for: bool) -> Result<BTreeMap<String, Value>> {
    let mut settings = BTreeMap::new();
    if asked_for || file.exists() {
        settings.extend(read_one(file)?);
    }
    let directory = PathBuf::from(format!("{}.d", file.display()));
    if directory.is_dir() {
        let entries = std::fs::read_dir(&directory).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let mut files: Vec<PathBuf> = entries
            .with_context(|| format!("read {}", directory.display()))?
            .into_iter()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml"))
            .collect();
        files.sort();
        for file in files {
            settings.extend(read_one(&file)?);
        }
    }
    Ok(settings)
}

fn read_one(file: &Path) -> Result<BTreeMap<String, Value>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let read: Option<BTreeMap<String, Value>> =
        serde_yaml::from_str(&text).with_context(|| format!("{} is no YAML map of flags", file.display()))?;
    Ok(read.unwrap_or_default())
}

/// The settings as arguments; `flags` are the known ones and whether they take a value.
fn plan(settings: &BTreeMap<String, Value>, flags: &[(String, bool)], given: &[String]) -> Result<Vec<String>> {
    let mut added = Vec::new();
    for (name, value) in settings {
        let Some((_, takes_value)) = flags.iter().find(|(flag, _)| flag == name) else {
            bail!(
                "{name:?} is not a setting of skiff server (see `skiff server --help`; settings have the names of flags)"
            );
        };
        let flag = format!("--{name}");
        if given.iter().any(|a| *a == flag || a.starts_with(&format!("{flag}="))) {
            continue;
        }
        match value {
            Value::Bool(on) if !takes_value => added.extend(on.then_some(flag)),
            _ if !takes_value => bail!("{name:?} is true or false"),
            Value::Sequence(items) => {
                for item in items {
                    added.push(format!("{flag}={}", scalar(name, item)?));
                }
            }
            other => added.push(format!("{flag}={}", scalar(name, other)?)),
        }
    }
    Ok(added)
}

fn scalar(name: &str, value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(on) => Ok(on.to_string()),
        _ => bail!("{name:?} is a text, a number or a list of them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(yaml: &str, given: &[&str]) -> Result<Vec<String>> {
        let settings = serde_yaml::from_str(yaml).expect("YAML");
        let given: Vec<String> = given.iter().map(|s| (*s).to_owned()).collect();
        plan(&settings, &crate::cli::server_flags(), &given)
    }

    #[test]
    fn settings_become_flags() {
        assert_eq!(
            planned("node-name: a\nhttps-listen-port: 7443", &[]).expect("valid"),
            ["--https-listen-port=7443", "--node-name=a"]
        );
        assert_eq!(planned("tls-san: [a, b]", &[]).expect("valid"), ["--tls-san=a", "--tls-san=b"]);
        assert_eq!(planned("disable-agent: true", &[]).expect("valid"), ["--disable-agent"]);
        assert!(planned("disable-agent: false", &[]).expect("valid").is_empty());
        assert!(planned("node-name: a", &["--node-name=b"]).expect("valid").is_empty());
    }

    #[test]
    fn wrong_settings_are_named() {
        for (yaml, expect) in [
            ("nod-name: a", "nod-name"),
            ("disable-agent: perhaps", "true or false"),
            ("node-name: {a: b}", "node-name"),
        ] {
            assert!(planned(yaml, &[]).expect_err(yaml).to_string().contains(expect), "{yaml}");
        }
    }
}
