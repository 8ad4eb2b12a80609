//! `kubectl set env`.

use std::io::BufRead as _;

use clap::Args;
use serde_json::{Value, json};

use super::{Common, containers, pod_spec};
use crate::server::{Server, path};
use crate::targets::{self, Found};
use crate::{Failure, Result};

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Only these containers; `*` is all
    #[arg(short, long, default_value = "*")]
    containers: String,
    /// A variable, as among the words
    #[arg(short, long)]
    env: Vec<String>,
    /// A config map or secret, each key of which becomes a variable
    #[arg(long, default_value = "")]
    from: String,
    /// Only these keys
    #[arg(long, value_delimiter = ',')]
    keys: Vec<String>,
    /// Stands before the names that --from gives
    #[arg(long, default_value = "")]
    prefix: String,
    /// Display the environment instead of changing it
    #[arg(long)]
    list: bool,
    /// With --list, look up what the variables refer to
    #[arg(long)]
    resolve: bool,
    /// Let existing variables be overwritten
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set)]
    overwrite: bool,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    let is_change = |word: &str| word.contains('=') || word.ends_with('-');
    if arguments.list && !arguments.common.writing.printing.output.is_empty() {
        return Err(Failure::text("--list and --output may not be specified together"));
    }
    if !arguments.keys.is_empty() && arguments.from.is_empty() {
        return Err(Failure::text("when specifying --keys, a configmap or secret must be provided with --from"));
    }
    let first = arguments.common.words.iter().position(|word| is_change(word)).unwrap_or(arguments.common.words.len());
    let (words, changes) = arguments.common.words.split_at(first);
    if !changes.iter().all(|word| is_change(word)) {
        return Err(Failure::text(format!(
            "all resources must be specified before environment changes: {}",
            arguments.common.words.join(" ")
        )));
    }
    let all: Vec<String> = arguments.env.iter().chain(changes).cloned().collect();
    let (mut env, remove) = parse(&all)?;
    if !arguments.from.is_empty() {
        env.extend(arguments.from(server).await?);
    }
    for variable in &mut env {
        variable["name"] = format!("{}{}", arguments.prefix, variable["name"].as_str().unwrap_or_default()).into();
    }
    if arguments.list {
        for found in arguments.common.found(server, words).await? {
            arguments.show(server, &found).await?;
        }
        return Ok(());
    }
    if env.is_empty() && remove.is_empty() {
        return Err(Failure::text("at least one environment variable must be provided"));
    }
    let change = |object: &mut Value| set(object, &arguments.containers, &env, &remove, arguments.overwrite);
    arguments.common.each(server, words, "env updated", change).await
}

/// Variables to set, and names to remove.
fn parse(words: &[String]) -> Result<(Vec<Value>, Vec<String>)> {
    let (mut env, mut remove) = (Vec::new(), Vec::new());
    for word in words {
        if word == "-" {
            for line in std::io::stdin().lock().lines() {
                let line = line.map_err(|e| Failure::text(format!("read stdin: {e}")))?;
                if let Some((name, value)) = line.split('#').next().unwrap_or_default().split_once('=') {
                    env.push(json!({"name": name, "value": value}));
                }
            }
        } else if let Some((name, value)) = word.split_once('=') {
            env.push(json!({"name": name, "value": value}));
        } else {
            remove.push(word.trim_end_matches('-').to_owned());
        }
    }
    if env.iter().any(|variable| remove.iter().any(|name| variable["name"] == name.as_str())) {
        return Err(Failure::text("can not both modify and remove the same environment variable in the same command"));
    }
    Ok((env, remove))
}

impl Arguments {
    async fn from(&self, server: &Server) -> Result<Vec<Value>> {
        let mut env = Vec::new();
        for target in targets::parse(server.discovery().await?, std::slice::from_ref(&self.from))? {
            for name in &target.names {
                let object = server.get(&path(&target.resource, Some(&server.namespace), name, "")).await?;
                let reference = match target.resource.kind.as_str() {
                    "Secret" => "secretKeyRef",
                    "ConfigMap" => "configMapKeyRef",
                    _ => return Err(Failure::text("unsupported resource specified in --from")),
                };
                for (key, _) in object["data"].as_object().into_iter().flatten() {
                    if self.keys.is_empty() || self.keys.contains(key) {
                        let variable = variable_name(key);
                        if variable != *key {
                            eprintln!("Warning: key {key} transferred to {variable}");
                        }
                        env.push(json!({"name": variable, "valueFrom": {(reference): {"name": name, "key": key}}}));
                    }
                }
            }
        }
        Ok(env)
    }

    async fn show(&self, server: &Server, found: &Found) -> Result {
        let mut object = found.object.clone();
        let name = found.name();
        let mut failed = false;
        for container in containers(pod_spec(&mut object)?, &self.containers, &["containers", "initContainers"]) {
            println!("# {} {name}, container {}", found.resource.kind, container["name"].as_str().unwrap_or_default());
            for variable in container["env"].as_array().into_iter().flatten() {
                let name = variable["name"].as_str().unwrap_or_default();
                let Some(from) = variable.get("valueFrom") else {
                    println!("{name}={}", variable["value"].as_str().unwrap_or_default());
                    continue;
                };
                let resolved = if self.resolve { Some(resolve(server, found, container, from).await) } else { None };
                match resolved {
                    Some(Ok(value)) => println!("{name}={value}"),
                    other => {
                        println!("# {name} from {}", reference(from));
                        if let Some(Err(e)) = other {
                            eprintln!("error retrieving reference for {name}: {e}");
                            failed = true;
                        }
                    }
                }
            }
        }
        if failed { Err(Failure::text("failed to retrieve valueFrom references")) } else { Ok(()) }
    }
}

/// `a.b-c` to `A_B_C`.
fn variable_name(key: &str) -> String {
    key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

fn reference(from: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for (field, word) in [("configMapKeyRef", "configmap"), ("secretKeyRef", "secret")] {
        if let Some(key) = from.get(field) {
            return format!("{word} {}, key {}", text(&key["name"]), text(&key["key"]));
        }
    }
    if let Some(field) = from.get("fieldRef") {
        return format!("field path {}", text(&field["fieldPath"]));
    }
    if let Some(field) = from.get("resourceFieldRef") {
        let container = field["containerName"].as_str().map(|name| format!("{name}/")).unwrap_or_default();
        return format!("resource field {container}{}", text(&field["resource"]));
    }
    "invalid valueFrom".to_owned()
}

async fn resolve(server: &Server, found: &Found, container: &Value, from: &Value) -> Result<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for (field, ty, word) in [("configMapKeyRef", "configmaps", "config map"), ("secretKeyRef", "secrets", "secret")] {
        let Some(key) = from.get(field) else { continue };
        let (name, key) = (text(&key["name"]), text(&key["key"]));
        let resource = server.discovery().await?.find(ty)?;
        let object = server.get(&path(resource, Some(&server.namespace), &name, "")).await?;
        let value = object["data"].get(&key).and_then(Value::as_str);
        let value = value.ok_or_else(|| Failure::text(format!("key {key} not found in {word} {name}")))?;
        return Ok(if ty == "secrets" { crate::create::decoded(value) } else { value.to_owned() });
    }
    crate::describe::downward(&found.object, container, from).map_err(Failure::text)
}

fn set(object: &mut Value, which: &str, env: &[Value], remove: &[String], overwrite: bool) -> Result {
    let what = format!(
        "{}/{}",
        object["kind"].as_str().unwrap_or_default(),
        object["metadata"]["name"].as_str().unwrap_or_default()
    );
    let found = containers(pod_spec(object)?, which, &["containers", "initContainers"]);
    if found.is_empty() {
        eprintln!("Warning: {what} does not have any containers matching {which:?}");
    }
    for container in found {
        let mut all = container["env"].as_array().cloned().unwrap_or_default();
        for variable in env {
            match all.iter_mut().find(|known| known["name"] == variable["name"]) {
                Some(known) if !overwrite && known != variable => {
                    let name = variable["name"].as_str().unwrap_or_default();
                    return Err(Failure::text(format!(
                        "'{name}' already has a value ({}), and --overwrite is false",
                        known["value"].as_str().unwrap_or_default()
                    )));
                }
                Some(known) => *known = variable.clone(),
                None => all.push(variable.clone()),
            }
        }
        all.retain(|variable| !remove.iter().any(|name| variable["name"] == name.as_str()));
        match (all.is_empty(), container.as_object_mut()) {
            (true, Some(container)) => drop(container.remove("env")),
            _ => container["env"] = Value::Array(all),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_come_and_go() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (env, remove) = parse(&words("A=1 B=x=y C-")).expect("fine");
        let mut pod = json!({"kind": "Pod", "spec": {"containers": [{"name": "a", "env": [{"name": "A", "value": "0"}, {"name": "C"}]}, {"name": "b"}]}});
        set(&mut pod, "a", &env, &remove, true).expect("set");
        assert_eq!(
            pod["spec"]["containers"],
            json!([{"name": "a", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "x=y"}]}, {"name": "b"}])
        );
        let kept = set(&mut pod, "a", &[json!({"name": "A", "value": "2"})], &[], false).expect_err("kept");
        assert_eq!(kept.to_string(), "'A' already has a value (1), and --overwrite is false");
        assert!(parse(&words("A=1 A-")).is_err());
        assert_eq!(variable_name("a.b-c"), "A_B_C");
    }
}
