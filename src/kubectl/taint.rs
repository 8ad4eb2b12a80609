//! `kubectl taint`.

use clap::Args;
use serde_json::{Value, json};

use crate::server::Server;
use crate::targets::Selection;
use crate::writing::Writing;
use crate::{Failure, Result};

#[derive(Args, Debug)]
pub struct Taint {
    /// NODE NAME KEY=VALUE:EFFECT ... KEY[:EFFECT]- ...
    words: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Let existing taints be overwritten
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    writing: Writing,
}

pub async fn run(server: &Server, arguments: Taint) -> Result {
    let is_change = |word: &String| word.contains(':') || word.contains('=') || word.ends_with('-');
    let first = arguments.words.iter().position(is_change).unwrap_or(arguments.words.len());
    let (words, changes) = arguments.words.split_at(first);
    if let Some(word) = changes.iter().find(|word| !is_change(word)) {
        return Err(Failure::text(format!("all resources must be specified before taint changes: {word}")));
    }
    let Some(ty) = words.first() else {
        return Err(Failure::text("one or more resources must be specified as <resource> <name>"));
    };
    if changes.is_empty() {
        return Err(Failure::text("at least one taint update is required"));
    }
    let (add, remove) =
        parse(changes).map_err(|e| Failure::text(format!("{e}\nSee 'kubectl taint -h' for help and examples")))?;
    let resource = server.discovery().await?.find(ty.split('/').next().unwrap_or(ty))?;
    if resource.kind != "Node" {
        return Err(Failure::text(format!("invalid resource type {ty}, only node types are supported")));
    }
    if arguments.selection.all && !arguments.selection.selector.is_empty() {
        return Err(Failure::text("setting 'all' parameter with a non empty selector is prohibited"));
    }
    if words.len() < 2 && !ty.contains('/') && arguments.selection.is_empty() {
        return Err(Failure::text("at least one resource name must be specified since 'all' parameter is not set"));
    }
    for node in arguments.selection.find(server, words, None).await? {
        let before = node.object["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let (taints, word) = changed(&before, &add, &remove, arguments.overwrite, node.name())?;
        let mut after = node.object.clone();
        match (taints.is_empty(), after["spec"].as_object_mut()) {
            (true, Some(spec)) => drop(spec.remove("taints")),
            _ => after["spec"]["taints"] = Value::Array(taints),
        }
        let after = arguments.writing.change(server, &node, &after, "kubectl-taint").await?;
        arguments.writing.tell(&node.resource, &after, word)?;
    }
    Ok(())
}

/// Taints to add and taints to remove; these may lack an effect.
fn parse(changes: &[String]) -> Result<(Vec<Value>, Vec<Value>)> {
    let (mut add, mut remove): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for change in changes {
        if let Some(gone) = change.strip_suffix('-') {
            remove.push(taint(gone)?);
            continue;
        }
        let taint = taint(change)?;
        if taint.get("effect").is_none() {
            return Err(Failure::text(format!("invalid taint spec: {change}")));
        }
        if add.iter().any(|known| is_same(known, &taint)) {
            return Err(Failure::text(format!("duplicated taints with the same key and effect: {change}")));
        }
        add.push(taint);
    }
    let clash = |gone: &&Value| add.iter().any(|taint| removes(gone, taint));
    let clashes: Vec<String> =
        remove.iter().filter(clash).map(|gone| format!("{}={}", text(gone, "key"), text(gone, "effect"))).collect();
    if !clashes.is_empty() {
        return Err(Failure::text(format!(
            "can not both modify and remove the following taint(s) in the same command: {}",
            clashes.join(", ")
        )));
    }
    Ok((add, remove))
}

fn text<'a>(taint: &'a Value, field: &str) -> &'a str {
    taint[field].as_str().unwrap_or_default()
}

fn is_same(a: &Value, b: &Value) -> bool {
    a["key"] == b["key"] && a["effect"] == b["effect"]
}

fn removes(gone: &Value, taint: &Value) -> bool {
    gone["key"] == taint["key"] && (gone.get("effect").is_none() || gone["effect"] == taint["effect"])
}

/// `KEY=VALUE:EFFECT`, `KEY:EFFECT` or `KEY`.
fn taint(spec: &str) -> Result<Value> {
    let (pair, effect) = match spec.split_once(':') {
        Some((pair, effect)) => (pair, Some(effect)),
        None => (spec, None),
    };
    if let Some(effect) = effect.filter(|effect| !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(effect)) {
        return Err(Failure::text(format!("invalid taint effect: {effect}, unsupported taint effect")));
    }
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    if value.contains('=') {
        return Err(Failure::text(format!("invalid taint spec: {spec}")));
    }
    let wrong = skiff_api::names::qualified_name(key);
    if !wrong.is_empty() {
        return Err(Failure::text(format!("invalid taint spec: {spec}, {}", wrong.join("; "))));
    }
    let mut taint = json!({ "key": key });
    if let Some(effect) = effect {
        taint["effect"] = effect.into();
    }
    if !value.is_empty() {
        taint["value"] = value.into();
    }
    Ok(taint)
}

/// The node's taints afterwards, and upstream's word for it.
fn changed(
    before: &[Value],
    add: &[Value],
    remove: &[Value],
    overwrite: bool,
    node: &str,
) -> Result<(Vec<Value>, &'static str)> {
    let there: Vec<&str> = add
        .iter()
        .filter(|taint| before.iter().any(|old| is_same(old, taint)))
        .map(|taint| text(taint, "key"))
        .collect();
    if !overwrite && !there.is_empty() {
        return Err(Failure::text(format!(
            "node {node} already has {} taint(s) with same effect(s) and --overwrite is false",
            there.join(",")
        )));
    }
    let mut taints = add.to_vec();
    taints.extend(before.iter().filter(|old| !add.iter().any(|taint| is_same(taint, old))).cloned());
    let added = taints.len() != before.len();
    let (mut deleted, mut missing) = (false, Vec::new());
    for gone in remove {
        let length = taints.len();
        taints.retain(|taint| !removes(gone, taint));
        deleted = taints.len() != length;
        if !deleted {
            let effect =
                if gone.get("effect").is_some() { format!(":{}", text(gone, "effect")) } else { String::new() };
            missing.push(format!("taint \"{}{effect}\" not found", text(gone, "key")));
        }
    }
    if let Some(first) = missing.first() {
        return Err(Failure::text(if missing.len() == 1 {
            first.clone()
        } else {
            format!("[{}]", missing.join(", "))
        }));
    }
    let word = match (added && deleted || overwrite, added) {
        (true, _) => "modified",
        (_, true) => "tainted",
        _ => "untainted",
    };
    Ok((taints, word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_come_and_go() {
        let before = vec![json!({"key": "a", "effect": "NoSchedule"})];
        let change = |words: &[&str], overwrite: bool| {
            let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
            let (add, remove) = parse(&words)?;
            changed(&before, &add, &remove, overwrite, "n").map(|(taints, word)| (taints.len(), word))
        };
        let check = |words: &[&str], overwrite: bool, expect: Result<(usize, &'static str), &str>| {
            assert_eq!(change(words, overwrite).map_err(|e| e.to_string()), expect.map_err(str::to_owned), "{words:?}");
        };
        check(&["b=1:NoExecute"], false, Ok((2, "tainted")));
        check(&["a:NoSchedule-"], false, Ok((0, "untainted")));
        check(&["a-"], false, Ok((0, "untainted")));
        check(&["b=1:NoExecute", "a-"], false, Ok((1, "modified")));
        check(&["a=1:NoSchedule"], true, Ok((1, "modified")));
        check(
            &["a=1:NoSchedule"],
            false,
            Err("node n already has a taint(s) with same effect(s) and --overwrite is false"),
        );
        check(&["x-"], false, Err("taint \"x\" not found"));
        check(&["x:NoExecute-"], false, Err("taint \"x:NoExecute\" not found"));
        check(&["a=1:Nope"], true, Err("invalid taint effect: Nope, unsupported taint effect"));
        check(&["a=1"], true, Err("invalid taint spec: a=1"));
        check(
            &["b=1:NoExecute", "b-"],
            false,
            Err("can not both modify and remove the following taint(s) in the same command: b="),
        );
    }
}
