//! `kubectl set`: changes of what many objects have, above all of pod templates.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::server::Server;
use crate::targets::{Found, Selection};
use crate::writing::Writing;
use crate::{Failure, Result};

mod env;

const MANAGER: &str = "kubectl-set";

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

impl Arguments {
    /// Whether `--user` names a subject.
    pub fn names_subjects(&self) -> bool {
        matches!(self.what, What::Subject { .. })
    }
}

#[derive(Subcommand)]
enum What {
    /// Update the image of a pod template: TYPE/NAME CONTAINER=IMAGE ...
    Image(Common),
    /// Update the environment of a pod template: TYPE/NAME NAME=VALUE ... NAME- ...
    Env(env::Arguments),
    /// Update resource requests and limits of a pod template
    Resources {
        #[command(flatten)]
        common: Common,
        /// Only these containers; `*` is all
        #[arg(short, long, default_value = "*")]
        containers: String,
        /// cpu=100m,memory=256Mi
        #[arg(long, default_value = "")]
        limits: String,
        /// cpu=100m,memory=256Mi
        #[arg(long, default_value = "")]
        requests: String,
    },
    /// Update the service account of a pod template: TYPE/NAME ACCOUNT
    #[command(name = "serviceaccount", visible_alias = "sa")]
    ServiceAccount(Common),
    /// Set the selector of a service: TYPE/NAME EXPRESSION
    Selector(Common),
    /// Add subjects to a role binding or cluster role binding
    Subject {
        #[command(flatten)]
        common: Common,
        #[arg(long)]
        user: Vec<String>,
        #[arg(long)]
        group: Vec<String>,
        /// NAMESPACE:NAME
        #[arg(long = "serviceaccount")]
        service_account: Vec<String>,
    },
}

#[derive(Args)]
pub struct Common {
    words: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Don't ask the server: change what the files hold
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    writing: Writing,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    match arguments.what {
        What::Image(common) => {
            let (images, words) = common.split(|word| word.contains('='));
            if images.is_empty() {
                return Err(Failure::text("at least one image update is required"));
            }
            common.each(server, &words, "image updated", |object| set_images(object, &images)).await
        }
        What::Env(arguments) => env::run(server, arguments).await,
        What::Resources { common, containers, limits, requests } => {
            if limits.is_empty() && requests.is_empty() {
                return Err(Failure::text(
                    "you must specify an update to requests or limits (in the form of --requests/--limits)",
                ));
            }
            let (limits, requests) = (amounts(&limits)?, amounts(&requests)?);
            let words = common.words.clone();
            let change = |object: &mut Value| set_resources(object, &containers, &limits, &requests);
            common.each(server, &words, "resource requirements updated", change).await
        }
        What::ServiceAccount(common) => {
            let (account, words) =
                common.words.split_last().ok_or_else(|| Failure::text("serviceaccount is required"))?;
            let words = words.to_vec();
            let change = |object: &mut Value| {
                // The server keeps the deprecated `serviceAccount` beside it.
                pod_spec(object)?["serviceAccountName"] = account.as_str().into();
                Ok(())
            };
            common.each(server, &words, "serviceaccount updated", change).await
        }
        What::Selector(common) => {
            let (expressions, words) = common.split(|word| word.contains('='));
            let mut selector = Map::new();
            for pair in expressions.iter().flat_map(|expression| expression.split(',')) {
                let (key, value) =
                    pair.split_once('=').ok_or_else(|| Failure::text(format!("invalid selector: {pair}")))?;
                selector.insert(key.to_owned(), value.trim_start_matches('=').into());
            }
            if selector.is_empty() {
                return Err(Failure::text("one or more selector expressions are required"));
            }
            let change = |object: &mut Value| {
                if object["kind"] != "Service" {
                    return Err(Failure::text("setting a selector is only supported for Services"));
                }
                object["spec"]["selector"] = Value::Object(selector.clone());
                Ok(())
            };
            common.each(server, &words, "selector updated", change).await
        }
        What::Subject { common, user, group, service_account } => {
            let subjects = subjects(&user, &group, &service_account, &server.namespace)?;
            let words = common.words.clone();
            common.each(server, &words, "subjects updated", |object| add_subjects(object, &subjects)).await
        }
    }
}

impl Common {
    /// The changes among the words, and what they are made to.
    fn split(&self, is_change: impl Fn(&str) -> bool) -> (Vec<String>, Vec<String>) {
        self.words.iter().cloned().partition(|word| is_change(word))
    }

    async fn found(&self, server: &Server, words: &[String]) -> Result<Vec<Found>> {
        if self.selection.all && !self.selection.selector.is_empty() {
            return Err(Failure::text("cannot set --all and --selector at the same time"));
        }
        if words.is_empty() && self.selection.files.is_empty() {
            return Err(Failure::text(
                "one or more resources must be specified as <resource> <name> or <resource>/<name>",
            ));
        }
        if self.local {
            return self.selection.files.found();
        }
        self.selection.find(server, words, Some(&server.namespace)).await
    }

    /// Changes all that is named. What can't be changed doesn't keep the others from it.
    async fn each(
        &self,
        server: &Server,
        words: &[String],
        told: &str,
        change: impl Fn(&mut Value) -> Result,
    ) -> Result {
        let mut failed = None;
        for found in self.found(server, words).await? {
            if let Err(e) = self.one(server, &found, told, &change).await
                && let Some(previous) = failed.replace(e)
            {
                eprintln!("{}", crate::failure::sentence(&previous));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn one(&self, server: &Server, found: &Found, told: &str, change: impl Fn(&mut Value) -> Result) -> Result {
        let mut after = found.object.clone();
        change(&mut after)?;
        if after == found.object {
            return Ok(());
        }
        if !self.local {
            after = self.writing.change(server, found, &after, MANAGER).await?;
        }
        self.writing.tell(&found.resource, &after, told)
    }
}

/// Where an object has the spec of its pods.
fn pod_spec(object: &mut Value) -> Result<&mut Value> {
    let path = match object["kind"].as_str().unwrap_or_default() {
        "Pod" => "/spec",
        "CronJob" => "/spec/jobTemplate/spec/template/spec",
        _ => "/spec/template/spec",
    };
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    object
        .pointer_mut(path)
        .ok_or_else(|| Failure::text(format!("the object is not a pod or does not have a pod template: {kind}")))
}

/// The containers of a pod's spec with a name, which may hold `*`.
fn containers<'a>(spec: &'a mut Value, name: &'a str, lists: &[&str]) -> Vec<&'a mut Value> {
    let mut found = Vec::new();
    for (list, entries) in spec.as_object_mut().into_iter().flatten() {
        if lists.contains(&list.as_str()) {
            let entries = entries.as_array_mut().into_iter().flatten();
            found.extend(entries.filter(|container| fits(name, container["name"].as_str().unwrap_or_default())));
        }
    }
    found
}

/// `*` stands for any letters.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| fits(after, &rest[at..]))
        }),
    }
}

fn set_images(object: &mut Value, images: &[String]) -> Result {
    let spec = pod_spec(object)?;
    for change in images {
        let (name, image) = change.split_once('=').unwrap_or((change, ""));
        let pattern = if name == "*" { "*" } else { name };
        let found = containers(spec, pattern, &["containers", "initContainers"]);
        if found.is_empty() {
            return Err(Failure::text(format!("unable to find container named {name:?}")));
        }
        found.into_iter().for_each(|container| container["image"] = image.into());
    }
    Ok(())
}

fn amounts(text: &str) -> Result<Vec<(String, String)>> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, amount) = part
                .split_once('=')
                .ok_or_else(|| Failure::text(format!("invalid argument syntax {part}, expected <resource>=<value>")))?;
            let quantity: skiff_api::quantity::Quantity = amount.parse().map_err(|e| Failure::text(format!("{e}")))?;
            Ok((name.to_owned(), quantity.to_string()))
        })
        .collect()
}

fn set_resources(
    object: &mut Value,
    which: &str,
    limits: &[(String, String)],
    requests: &[(String, String)],
) -> Result {
    let spec = pod_spec(object)?;
    let found = containers(spec, which, &["containers", "initContainers"]);
    if found.is_empty() {
        return Err(Failure::text(format!("unable to find container named {which}")));
    }
    for container in found {
        for (field, amounts) in [("limits", limits), ("requests", requests)] {
            for (name, amount) in amounts {
                container["resources"][field][name] = amount.as_str().into();
            }
        }
    }
    Ok(())
}

/// Users, groups and service accounts as the subjects of a binding.
pub fn subjects(users: &[String], groups: &[String], accounts: &[String], namespace: &str) -> Result<Vec<Value>> {
    let group = "rbac.authorization.k8s.io";
    let mut subjects: Vec<Value> = Vec::new();
    subjects.extend(users.iter().map(|user| json!({"kind": "User", "apiGroup": group, "name": user})));
    subjects.extend(groups.iter().map(|name| json!({"kind": "Group", "apiGroup": group, "name": name})));
    for account in accounts {
        let (its, name) = account
            .split_once(':')
            .filter(|(_, name)| !name.is_empty() && !name.contains(':'))
            .ok_or_else(|| Failure::text("serviceaccount must be <namespace>:<name>"))?;
        let its = if its.is_empty() { namespace } else { its };
        subjects.push(json!({"kind": "ServiceAccount", "name": name, "namespace": its}));
    }
    if subjects.is_empty() {
        return Err(Failure::text("you must specify at least one value of user, group or serviceaccount"));
    }
    Ok(subjects)
}

fn add_subjects(object: &mut Value, subjects: &[Value]) -> Result {
    if !matches!(object["kind"].as_str(), Some("RoleBinding" | "ClusterRoleBinding")) {
        return Err(Failure::text("setting subjects is only supported for RoleBinding/ClusterRoleBinding"));
    }
    let mut all = object["subjects"].as_array().cloned().unwrap_or_default();
    for subject in subjects {
        if !all.contains(subject) {
            all.push(subject.clone());
        }
    }
    object["subjects"] = Value::Array(all);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_chosen_by_patterns() {
        for (pattern, name, expect) in [
            ("*", "a", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*c*", "abcd", true),
            ("a*x", "ab", false),
        ] {
            assert_eq!(fits(pattern, name), expect, "{pattern} {name}");
        }
    }

    #[test]
    fn changes_reach_pods_templates_and_cron_jobs() {
        let spec =
            json!({"containers": [{"name": "a", "image": "x"}], "initContainers": [{"name": "i", "image": "x"}]});
        for object in [
            json!({"kind": "Pod", "spec": spec}),
            json!({"kind": "Deployment", "spec": {"template": {"spec": spec}}}),
            json!({"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}}}),
        ] {
            let mut after = object.clone();
            set_images(&mut after, &["i=y".into()]).expect("set");
            assert_eq!(pod_spec(&mut after).expect("a spec")["initContainers"][0]["image"], "y");
            assert!(set_images(&mut after, &["z=y".into()]).is_err());
            set_resources(&mut after, "a", &amounts("cpu=0.5").expect("amounts"), &[]).expect("set");
            assert_eq!(pod_spec(&mut after).expect("a spec")["containers"][0]["resources"]["limits"]["cpu"], "500m");
        }
        let mut binding = json!({"kind": "RoleBinding", "subjects": []});
        let more = subjects(&["u".into()], &[], &[":s".into()], "here").expect("subjects");
        add_subjects(&mut binding, &more).expect("added");
        add_subjects(&mut binding, &more).expect("added");
        assert_eq!(binding["subjects"].as_array().map(Vec::len), Some(2));
        assert_eq!(binding["subjects"][1]["namespace"], "here");
    }
}
