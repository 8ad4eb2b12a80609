//! What a rule allows, what rules cover, and how rules are shown: upstream's semantics, pure.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::auth::Attributes;

const ALL: &str = "*";

pub(super) fn list(of: &Option<Vec<String>>) -> &[String] {
    of.as_deref().unwrap_or_default()
}

fn has(set: &[String], wanted: &str) -> bool {
    set.iter().any(|one| one == wanted)
}

fn has_or_all(set: &[String], wanted: &str) -> bool {
    set.iter().any(|one| one == ALL || one == wanted)
}

/// Whether one of the rules allows it.
pub(crate) fn allows(rule: &PolicyRule, asked: &Attributes<'_>) -> bool {
    if !has_or_all(&rule.verbs, asked.verb) {
        return false;
    }
    if !asked.path.is_empty() {
        return list(&rule.non_resource_urls).iter().any(|url| covers_url(url, asked.path));
    }
    let names = list(&rule.resource_names);
    has_or_all(list(&rule.api_groups), asked.group)
        && list(&rule.resources).iter().any(|resource| names_resource(resource, asked.resource, asked.subresource))
        && (names.is_empty() || has(names, asked.name))
}

/// `pods`, `pods/log`, `*` (everything, subresources too) or `*/scale`.
fn names_resource(pattern: &str, resource: &str, subresource: &str) -> bool {
    if pattern == ALL {
        return true;
    }
    match pattern.split_once('/') {
        None => subresource.is_empty() && pattern == resource,
        Some((of, sub)) => !subresource.is_empty() && sub == subresource && (of == resource || of == ALL),
    }
}

/// A star at the end stands for anything.
fn covers_url(pattern: &str, url: &str) -> bool {
    pattern == url || (pattern.ends_with(ALL) && url.starts_with(pattern.trim_end_matches(ALL)))
}

/// The parts of `wanted`, one verb on one thing each, that no rule of `held` covers.
pub(crate) fn missing(held: &[&PolicyRule], wanted: &[&PolicyRule]) -> Vec<PolicyRule> {
    let parts = wanted.iter().flat_map(|rule| parts(rule));
    parts.filter(|part| !held.iter().any(|rule| covers(rule, part))).collect()
}

/// A rule as rules of one verb, group and resource (and name), or of one verb and URL.
fn parts(rule: &PolicyRule) -> Vec<PolicyRule> {
    let one = |text: &String| Some(vec![text.clone()]);
    let mut parts = Vec::new();
    for group in list(&rule.api_groups) {
        for resource in list(&rule.resources) {
            for verb in &rule.verbs {
                let part = PolicyRule {
                    api_groups: one(group),
                    resources: one(resource),
                    verbs: vec![verb.clone()],
                    ..PolicyRule::default()
                };
                let names = list(&rule.resource_names);
                if names.is_empty() {
                    parts.push(part);
                } else {
                    parts.extend(names.iter().map(|name| PolicyRule { resource_names: one(name), ..part.clone() }));
                }
            }
        }
    }
    for url in list(&rule.non_resource_urls) {
        for verb in &rule.verbs {
            let verbs = vec![verb.clone()];
            parts.push(PolicyRule { non_resource_urls: one(url), verbs, ..PolicyRule::default() });
        }
    }
    parts
}

fn covers(held: &PolicyRule, part: &PolicyRule) -> bool {
    let all = |set: &[String], wanted: &[String]| has(set, ALL) || wanted.iter().all(|one| has(set, one));
    let resource = |wanted: &String| {
        let set = list(&held.resources);
        has_or_all(set, wanted) || wanted.split_once('/').is_some_and(|(_, sub)| has(set, &format!("*/{sub}")))
    };
    let url = |wanted: &String| list(&held.non_resource_urls).iter().any(|pattern| covers_url(pattern, wanted));
    let (held_names, names) = (list(&held.resource_names), list(&part.resource_names));
    all(&held.verbs, &part.verbs)
        && all(list(&held.api_groups), list(&part.api_groups))
        && list(&part.resources).iter().all(resource)
        && list(&part.non_resource_urls).iter().all(url)
        && (held_names.is_empty() || (!names.is_empty() && names.iter().all(|name| has(held_names, name))))
}

/// Rules on the same single resource become one.
pub(crate) fn compact(rules: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let is_simple = |r: &PolicyRule| {
        list(&r.resource_names).len() <= 1
            && list(&r.non_resource_urls).is_empty()
            && list(&r.api_groups).len() == 1
            && list(&r.resources).len() == 1
    };
    let mut merged: Vec<PolicyRule> = Vec::new();
    for rule in rules {
        let same = |r: &&mut PolicyRule| {
            is_simple(r)
                && r.api_groups == rule.api_groups
                && r.resources == rule.resources
                && r.resource_names == rule.resource_names
        };
        match merged.iter_mut().find(same) {
            Some(known) if is_simple(&rule) => {
                for verb in rule.verbs {
                    if !has(&known.verbs, &verb) {
                        known.verbs.push(verb);
                    }
                }
            }
            _ => merged.push(rule),
        }
    }
    merged
}

/// One line per rule, sorted: `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`.
pub(crate) fn describe(rules: &[PolicyRule]) -> String {
    let lines: BTreeSet<String> = rules.iter().map(describe_one).collect();
    lines.into_iter().collect::<Vec<_>>().join("\n")
}

fn describe_one(rule: &PolicyRule) -> String {
    let parts = [
        ("APIGroups", list(&rule.api_groups)),
        ("Resources", list(&rule.resources)),
        ("NonResourceURLs", list(&rule.non_resource_urls)),
        ("ResourceNames", list(&rule.resource_names)),
        ("Verbs", rule.verbs.as_slice()),
    ];
    let parts = parts.iter().filter(|(_, texts)| !texts.is_empty());
    let parts: Vec<String> = parts.map(|(name, texts)| format!("{name}:{}", quoted(texts))).collect();
    format!("{{{}}}", parts.join(", "))
}

/// Go's `%q` of a list: `["a" "b"]`.
pub(crate) fn quoted(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", texts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `verbs | groups | resources | names`, or `verbs | /urls`.
    fn rule(text: &str) -> PolicyRule {
        super::super::defaults::rule(text)
    }

    #[test]
    fn what_rules_allow() {
        let resource = |verb, group, resource, subresource, name| Attributes {
            verb,
            group,
            resource,
            subresource,
            name,
            namespace: "n",
            ..Attributes::default()
        };
        let path = |path| Attributes { verb: "get", path, ..Attributes::default() };
        for (text, asked, expect) in [
            ("get | core | pods", resource("get", "", "pods", "", "a"), true),
            ("get | core | pods", resource("list", "", "pods", "", ""), false),
            ("get | core | pods", resource("get", "apps", "pods", "", "a"), false),
            ("get | core | pods", resource("get", "", "pods", "log", "a"), false),
            ("get | core | pods/log", resource("get", "", "pods", "log", "a"), true),
            ("get | core | pods/log", resource("get", "", "pods", "", "a"), false),
            ("* | * | *", resource("proxy", "x.io", "y", "z", ""), true),
            ("* | * | *", path("/metrics"), false),
            ("get | * | */scale", resource("get", "apps", "deployments", "scale", "d"), true),
            ("get | * | */scale", resource("get", "apps", "deployments", "", "d"), false),
            ("get | core | pods/*", resource("get", "", "pods", "log", "a"), false),
            ("get | core | secrets | a b", resource("get", "", "secrets", "", "b"), true),
            ("get | core | secrets | a b", resource("get", "", "secrets", "", "c"), false),
            ("list | core | secrets | a", resource("list", "", "secrets", "", ""), false),
            ("create | core | secrets | a", resource("create", "", "secrets", "", ""), false),
            ("get | /healthz /apis/*", path("/healthz"), true),
            ("get | /healthz /apis/*", path("/healthz/ping"), false),
            ("get | /healthz /apis/*", path("/apis/apps"), true),
            ("get | /healthz /apis/*", path("/apis"), false),
            ("* | /*", path("/x"), true),
            ("* | *", path("/x"), true),
        ] {
            assert_eq!(allows(&rule(text), &asked), expect, "{text}: {asked:?}");
        }
    }

    #[test]
    fn what_is_missing() {
        for (held, wanted, expect) in [
            (vec!["get list | core | pods"], vec!["list | core | pods"], ""),
            (
                vec!["get | core | pods"],
                vec!["get list | core | pods"],
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["list"]}"#,
            ),
            (vec!["get | core | pods", "list | core | pods"], vec!["get list | core | pods"], ""),
            (vec!["* | * | *"], vec!["get | apps | deployments/scale | a", "* | * | *"], ""),
            (vec!["* | * | *"], vec!["get | /metrics"], r#"{NonResourceURLs:["/metrics"], Verbs:["get"]}"#),
            (vec!["get | /metrics/*"], vec!["get | /metrics/a"], ""),
            (vec!["get | * | */scale"], vec!["get | apps | deployments/scale"], ""),
            (
                vec!["get | core | pods"],
                vec!["get | core | pods/log"],
                r#"{APIGroups:[""], Resources:["pods/log"], Verbs:["get"]}"#,
            ),
            (
                vec!["get | core | secrets | a"],
                vec!["get | core | secrets"],
                r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#,
            ),
            (vec!["get | core | secrets"], vec!["get | core | secrets | a"], ""),
            (
                vec!["get | core | secrets | a"],
                vec!["get list | core | secrets | a b"],
                "{APIGroups:[\"\"], Resources:[\"secrets\"], ResourceNames:[\"a\"], Verbs:[\"list\"]}\n\
                 {APIGroups:[\"\"], Resources:[\"secrets\"], ResourceNames:[\"b\"], Verbs:[\"get\" \"list\"]}",
            ),
            (
                vec![],
                vec!["get | core | pods", "list | core | pods"],
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}"#,
            ),
        ] {
            let (held_rules, wanted_rules): (Vec<_>, Vec<_>) =
                (held.iter().map(|t| rule(t)).collect(), wanted.iter().map(|t| rule(t)).collect());
            let found = missing(&held_rules.iter().collect::<Vec<_>>(), &wanted_rules.iter().collect::<Vec<_>>());
            assert_eq!(describe(&compact(found)), expect, "{held:?} {wanted:?}");
        }
    }
}
