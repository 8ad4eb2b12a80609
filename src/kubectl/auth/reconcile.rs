//! `kubectl auth reconcile`: roles and bindings that give what files say, and, if asked, no more.

use clap::Args;
use serde_json::{Value, json};

use crate::discovery::Resource;
use crate::failure::is_not_found;
use crate::manifest::{Files, Manifest};
use crate::server::{Server, path};
use crate::writing::{DryRun, Writing};
use crate::{Failure, Result};

const GROUP: &str = "rbac.authorization.k8s.io";

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    files: Files,
    /// Take away permissions that the files don't have
    #[arg(long)]
    remove_extra_permissions: bool,
    /// Take away subjects that the files don't have
    #[arg(long)]
    remove_extra_subjects: bool,
    #[command(flatten)]
    writing: Writing,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    if arguments.files.is_empty() {
        return Err(Failure::text("must specify one of -f and -k"));
    }
    for mut manifest in arguments.files.read()? {
        let resource = manifest.place(server).await?.clone();
        if resource.group == GROUP {
            arguments.one(server, &manifest, &resource).await?;
        }
    }
    Ok(())
}

impl Arguments {
    async fn one(&self, server: &Server, manifest: &Manifest, resource: &Resource) -> Result {
        let at = path(resource, Some(manifest.namespace()), manifest.name(), "");
        let here = self.writing.dry_run()? == DryRun::Client;
        let current = match server.get(&at).await {
            Ok(current) => Some(current),
            Err(e) if is_not_found(&e) => None,
            Err(e) => return Err(e),
        };
        let wanted = &manifest.object;
        let (result, created) = match &current {
            None => (wanted.clone(), true),
            Some(current) => (self.merged(current, wanted), false),
        };
        let collection = path(resource, Some(manifest.namespace()), "", "");
        let changed = current.as_ref() != Some(&result);
        let replaced = current.as_ref().is_some_and(|current| current["roleRef"] != result["roleRef"]);
        let object = match (here || !changed, created || replaced) {
            (true, _) => result,
            (false, true) => {
                // A binding can't be brought to another role: it is made again.
                if replaced {
                    server.delete(&at, &json!({"kind": "DeleteOptions", "apiVersion": "v1"})).await?;
                }
                server.post(&self.writing.query(&collection, "kubectl-auth")?, &result).await?
            }
            (false, false) => server.put(&self.writing.query(&at, "kubectl-auth")?, &result).await?,
        };
        self.writing.tell(resource, &object, "reconciled")
    }

    /// The object on the server with what the file adds, and without what it is to lose.
    fn merged(&self, current: &Value, wanted: &Value) -> Value {
        let mut result = current.clone();
        for map in ["labels", "annotations"] {
            for (key, value) in wanted["metadata"][map].as_object().into_iter().flatten() {
                result["metadata"][map][key] = value.clone();
            }
        }
        let list = |object: &Value, field: &str| object[field].as_array().cloned().unwrap_or_default();
        if wanted.get("roleRef").is_some() {
            let mut subjects = list(current, "subjects");
            let expected = list(wanted, "subjects");
            if self.remove_extra_subjects || current["roleRef"] != wanted["roleRef"] {
                subjects.retain(|subject| expected.contains(subject));
            }
            for subject in expected {
                if !subjects.contains(&subject) {
                    subjects.push(subject);
                }
            }
            if current["roleRef"] != wanted["roleRef"] {
                result["metadata"] = wanted["metadata"].clone();
            }
            result["roleRef"] = wanted["roleRef"].clone();
            result["subjects"] = subjects.into();
            return result;
        }
        if let Some(aggregation) = wanted.get("aggregationRule") {
            // The rules of such a role are the controller's.
            result["aggregationRule"] = aggregation.clone();
            return result;
        }
        let (mut rules, expected) = (list(current, "rules"), list(wanted, "rules"));
        let missing: Vec<Value> = uncovered(&expected, &rules);
        if self.remove_extra_permissions && !uncovered(&rules, &expected).is_empty() {
            rules = expected;
        } else {
            rules.extend(missing);
        }
        result["rules"] = rules.into();
        result
    }
}

/// The parts of `rules`, each about one thing, that `others` don't allow.
fn uncovered(rules: &[Value], others: &[Value]) -> Vec<Value> {
    rules.iter().flat_map(parts).filter(|part| !others.iter().any(|rule| covers(rule, part))).collect()
}

fn texts(rule: &Value, field: &str) -> Vec<String> {
    rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A rule taken apart to one verb, group, resource and name each.
fn parts(rule: &Value) -> Vec<Value> {
    let mut parts = Vec::new();
    for verb in texts(rule, "verbs") {
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                let names = texts(rule, "resourceNames");
                let base = json!({"verbs": [verb], "apiGroups": [group], "resources": [resource]});
                if names.is_empty() {
                    parts.push(base.clone());
                }
                for name in names {
                    let mut part = base.clone();
                    part["resourceNames"] = json!([name]);
                    parts.push(part);
                }
            }
        }
        parts.extend(
            texts(rule, "nonResourceURLs").into_iter().map(|url| json!({"verbs": [verb], "nonResourceURLs": [url]})),
        );
    }
    parts
}

/// Whether a rule allows a part.
fn covers(rule: &Value, part: &Value) -> bool {
    let has = |field: &str| {
        let allowed = texts(rule, field);
        texts(part, field).iter().all(|wanted| allowed.contains(wanted) || allowed.iter().any(|text| text == "*"))
    };
    let resource = || {
        let allowed = texts(rule, "resources");
        texts(part, "resources").iter().all(|wanted| {
            let subresource = wanted.split_once('/').map(|(_, sub)| format!("*/{sub}"));
            allowed.contains(wanted) || allowed.iter().any(|text| text == "*" || Some(text) == subresource.as_ref())
        })
    };
    let names = || {
        let allowed = texts(rule, "resourceNames");
        let wanted = texts(part, "resourceNames");
        allowed.is_empty() || !wanted.is_empty() && wanted.iter().all(|name| allowed.contains(name))
    };
    let urls = || {
        let allowed = texts(rule, "nonResourceURLs");
        texts(part, "nonResourceURLs").iter().all(|url| {
            allowed.iter().any(|text| text == url || text.strip_suffix('*').is_some_and(|begin| url.starts_with(begin)))
        })
    };
    let is_path = part.get("nonResourceURLs").is_some();
    has("verbs") && if is_path { urls() } else { has("apiGroups") && resource() && names() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_added_and_what_is_extra_may_go() {
        let rule = |verbs: &[&str], resource: &str| json!({"verbs": verbs, "apiGroups": [""], "resources": [resource]});
        let arguments = |remove: bool| Arguments {
            files: Files::default(),
            remove_extra_permissions: remove,
            remove_extra_subjects: remove,
            writing: Writing::default(),
        };
        let current =
            json!({"metadata": {"name": "r"}, "rules": [rule(&["get", "list"], "pods"), rule(&["*"], "secrets")]});
        let wanted =
            json!({"metadata": {"name": "r", "labels": {"a": "b"}}, "rules": [rule(&["get", "watch"], "pods")]});
        let merged = arguments(false).merged(&current, &wanted);
        assert_eq!(merged["rules"].as_array().map(Vec::len), Some(3));
        assert_eq!(merged["rules"][2], rule(&["watch"], "pods"));
        assert_eq!(merged["metadata"]["labels"]["a"], "b");
        assert_eq!(arguments(true).merged(&current, &wanted)["rules"], wanted["rules"]);
        let subjects =
            |names: &[&str]| names.iter().map(|name| json!({"kind": "User", "name": name})).collect::<Value>();
        let current = json!({"roleRef": {"name": "r"}, "metadata": {}, "subjects": subjects(&["a", "b"])});
        let wanted = json!({"roleRef": {"name": "r"}, "metadata": {}, "subjects": subjects(&["b", "c"])});
        assert_eq!(arguments(false).merged(&current, &wanted)["subjects"], subjects(&["a", "b", "c"]));
        assert_eq!(arguments(true).merged(&current, &wanted)["subjects"], subjects(&["b", "c"]));
    }

    #[test]
    fn rules_cover_parts() {
        for (rule, part, expect) in [
            (
                json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
                json!({"verbs": ["x"], "apiGroups": ["g"], "resources": ["r/s"]}),
                true,
            ),
            (
                json!({"verbs": ["get"], "apiGroups": [""], "resources": ["*/scale"]}),
                json!({"verbs": ["get"], "apiGroups": [""], "resources": ["a/scale"]}),
                true,
            ),
            (
                json!({"verbs": ["get"], "apiGroups": [""], "resources": ["a"], "resourceNames": ["n"]}),
                json!({"verbs": ["get"], "apiGroups": [""], "resources": ["a"]}),
                false,
            ),
            (
                json!({"verbs": ["get"], "nonResourceURLs": ["/x*"]}),
                json!({"verbs": ["get"], "nonResourceURLs": ["/xy"]}),
                true,
            ),
        ] {
            assert_eq!(covers(&rule, &part), expect, "{rule} {part}");
        }
    }
}
