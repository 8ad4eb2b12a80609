//! `config.yaml`: the server's flags by their names. What the command line or the environment says
//! wins; of several files, `config.yaml` and then `config.yaml.d/*.yaml` by name, the last wins.
//!
//! Commands that look at a server's things (`ctr`, `crictl`, `killall`, `uninstall`) read it too, for the flags that they share with the
//! server: they have to find what the server made.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_yaml::Value;

pub const DEFAULT_FILE: &str = "/etc/skiff/config.yaml";

/// A flag of a command.
pub struct Flag {
    /// Without the dashes.
    pub name: String,
    pub short: Option<char>,
    /// The variable that stands for it.
    pub variable: Option<OsString>,
    pub takes_value: bool,
}

impl Flag {
    fn is_given(&self, arguments: &[String]) -> bool {
        let long = format!("--{}", self.name);
        let by_name = |a: &String| *a == long || a.strip_prefix(&long).is_some_and(|rest| rest.starts_with('='));
        let by_letter =
            |a: &String| a.strip_prefix('-').is_some_and(|rest| self.short.is_some_and(|s| rest.starts_with(s)));
        arguments.iter().any(|a| by_name(a) || by_letter(a))
            || self.variable.as_ref().is_some_and(|name| std::env::var_os(name).is_some())
    }
}

/// The arguments with those of the files put in where they are not given.
pub fn with_file(mut arguments: Vec<OsString>) -> Result<Vec<OsString>> {
    let Some(command @ ("server" | "ctr" | "crictl" | "killall" | "uninstall")) =
        arguments.get(1).and_then(|a| a.to_str())
    else {
        return Ok(arguments);
    };
    let own = crate::cli::flags(command);
    let given: Vec<String> = arguments[2..].iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let named = if command == "server" { &given[..] } else { &[] };
    let (file, asked_for) = match chosen(named) {
        Some(file) => (file, true),
        None => (PathBuf::from(DEFAULT_FILE), false),
    };
    let added = plan(&read(&file, asked_for)?, &crate::cli::flags("server"), &own, &given)
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

/// The settings as arguments of a command that has the flags `own`; settings are named as the server's flags.
fn plan(settings: &BTreeMap<String, Value>, server: &[Flag], own: &[Flag], given: &[String]) -> Result<Vec<String>> {
    let mut added = Vec::new();
    for (name, value) in settings {
        if !server.iter().any(|flag| flag.name == *name) {
            bail!(
                "{name:?} is not a setting of skiff server (see `skiff server --help`; settings have the names of flags)"
            );
        }
        let Some(known) = own.iter().find(|flag| flag.name == *name).filter(|flag| !flag.is_given(given)) else {
            continue;
        };
        let flag = format!("--{name}");
        match value {
            Value::Bool(on) if !known.takes_value => added.extend(on.then_some(flag)),
            _ if !known.takes_value => bail!("{name:?} is true or false"),
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
        plan(&settings, &crate::cli::flags("server"), &crate::cli::flags("server"), &given)
    }

    #[test]
    fn other_commands_take_what_they_share() {
        let settings = serde_yaml::from_str("data-dir: /x\nhttps-listen-port: 7443").expect("YAML");
        for command in ["ctr", "crictl", "killall", "uninstall"] {
            let planned = plan(&settings, &crate::cli::flags("server"), &crate::cli::flags(command), &[]);
            assert_eq!(planned.expect("valid"), ["--data-dir=/x"], "{command}");
        }
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
        for given in ["--node-name=b", "--node-name"] {
            assert!(planned("node-name: a", &[given]).expect("valid").is_empty(), "{given}");
        }
        assert!(planned("data-dir: /a", &["-d", "/b"]).expect("valid").is_empty());
        assert_eq!(planned("data-dir: /a", &["--data-directory=b"]).expect("valid"), ["--data-dir=/a"]);
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
