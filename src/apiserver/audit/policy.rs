//! Which requests are recorded, and how much of them: `audit.k8s.io/v1` Policy. Pure.

use serde::Deserialize;

use crate::auth::{Attributes, User};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Policy {
    api_version: String,
    kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "policies have metadata, which says nothing here")]
    metadata: serde_json::Value,
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What is recorded of one request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    pub level: Level,
    pub omit_stages: Vec<Stage>,
    pub omit_managed_fields: bool,
}

impl Policy {
    /// From YAML or JSON; the error is a sentence for who wrote it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value = skiff_api::yaml::document(text).map_err(|error| error.to_string())?.value;
        let policy: Self = serde_json::from_value(value).map_err(|error| error.to_string())?;
        if (policy.api_version.as_str(), policy.kind.as_str()) != ("audit.k8s.io/v1", "Policy") {
            return Err(format!("it is a {} {}, not an audit.k8s.io/v1 Policy", policy.api_version, policy.kind));
        }
        if policy.rules.is_empty() {
            return Err("it has no rules".to_owned());
        }
        for (i, rule) in policy.rules.iter().enumerate() {
            rule.check().map_err(|why| format!("rules[{i}]: {why}"))?;
        }
        Ok(policy)
    }

    /// The first rule that matches decides; without one nothing is recorded.
    pub fn evaluate(&self, user: &User, asked: &Attributes<'_>) -> Config {
        let rule = self.rules.iter().find(|rule| rule.matches(user, asked));
        let mut omit_stages = self.omit_stages.clone();
        omit_stages.extend(rule.into_iter().flat_map(|rule| rule.omit_stages.iter().copied()));
        Config {
            level: rule.map_or(Level::None, |rule| rule.level),
            omit_stages,
            omit_managed_fields: rule.and_then(|rule| rule.omit_managed_fields).unwrap_or(self.omit_managed_fields),
        }
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        if !self.non_resource_urls.is_empty() && (!self.resources.is_empty() || !self.namespaces.is_empty()) {
            return Err("rules cannot apply to both regular resources and non-resource URLs".to_owned());
        }
        for url in &self.non_resource_urls {
            let body = url.strip_suffix('*').unwrap_or(url);
            if url != "*" && (!url.starts_with('/') || body.contains('*')) {
                return Err(format!(
                    "nonResourceURLs: {url:?}: non-resource URL rules must begin with a '/' character, and a '*' is \
                     for the end alone"
                ));
            }
        }
        for group in &self.resources {
            if group.group.contains('/') {
                return Err(format!("resources: the group {:?} is written without a version", group.group));
            }
            if !group.resource_names.is_empty() && group.resources.is_empty() {
                return Err("resourceNames: using resourceNames requires at least one resource".to_owned());
            }
        }
        Ok(())
    }

    fn matches(&self, user: &User, asked: &Attributes<'_>) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|one| one == wanted);
        if !self.users.is_empty() && !has(&self.users, &user.name)
            || !self.user_groups.is_empty() && !user.groups.iter().any(|group| has(&self.user_groups, group))
            || !self.verbs.is_empty() && !has(&self.verbs, asked.verb)
        {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return asked.path.is_empty()
                && (self.namespaces.is_empty() || has(&self.namespaces, asked.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|group| group.matches(asked)));
        }
        if self.non_resource_urls.is_empty() {
            return true;
        }
        !asked.path.is_empty()
            && self.non_resource_urls.iter().any(|url| match url.strip_suffix('*') {
                Some(start) => asked.path.starts_with(start),
                None => asked.path == url,
            })
    }
}

impl GroupResources {
    fn matches(&self, asked: &Attributes<'_>) -> bool {
        if self.group != asked.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let named = self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == asked.name);
        named
            && self.resources.iter().any(|pattern| match pattern.split_once('/') {
                _ if pattern == "*" => true,
                None => asked.subresource.is_empty() && pattern == asked.resource,
                Some(("*", sub)) => !asked.subresource.is_empty() && sub == asked.subresource,
                Some((resource, "*")) => resource == asked.resource,
                Some((resource, sub)) => resource == asked.resource && sub == asked.subresource,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = r#"
omitStages: [RequestReceived]
rules:
- {level: None, users: ["system:kube-proxy"], verbs: [watch], resources: [{group: "", resources: [endpoints, services]}]}
- {level: None, userGroups: ["system:authenticated"], nonResourceURLs: ["/api*", "/version"]}
- {level: Request, resources: [{group: "", resources: [configmaps], resourceNames: [c]}], namespaces: [kube-system]}
- {level: Metadata, resources: [{group: "", resources: [secrets, configmaps, "pods/*", "*/scale"]}], omitManagedFields: true}
- {level: Request, resources: [{group: apps}], omitStages: [ResponseStarted]}
- {level: RequestResponse, namespaces: [""]}
"#;
        let policy = Policy::parse(&format!("{HEAD}{rules}")).expect("a policy");
        let user = User::new("u", &["system:authenticated"]);
        let proxy = User::new("system:kube-proxy", &["system:authenticated"]);
        let ask = |verb, group, resource, subresource, namespace, name| Attributes {
            verb,
            group,
            resource,
            subresource,
            namespace,
            name,
            ..Attributes::default()
        };
        let path = |path| Attributes { verb: "get", path, ..Attributes::default() };
        for (user, asked, expect) in [
            (&proxy, ask("watch", "", "services", "", "", ""), Level::None),
            (&proxy, ask("list", "", "services", "", "", ""), Level::RequestResponse),
            (&user, path("/apis/apps"), Level::None),
            (&user, path("/version"), Level::None),
            (&user, path("/version/x"), Level::None),
            (&user, ask("update", "", "configmaps", "", "kube-system", "c"), Level::Request),
            (&user, ask("update", "", "configmaps", "", "kube-system", "d"), Level::Metadata),
            (&user, ask("get", "", "secrets", "", "a", "s"), Level::Metadata),
            (&user, ask("get", "", "pods", "log", "a", "p"), Level::Metadata),
            (&user, ask("get", "", "pods", "", "a", "p"), Level::Metadata),
            (&user, ask("update", "", "replicationcontrollers", "scale", "a", "r"), Level::Metadata),
            (&user, ask("create", "apps", "deployments", "", "a", ""), Level::Request),
            (&user, ask("create", "batch", "jobs", "", "a", ""), Level::None),
            (&user, ask("create", "", "nodes", "", "", ""), Level::RequestResponse),
        ] {
            assert_eq!(policy.evaluate(user, &asked).level, expect, "{} {asked:?}", user.name);
        }
        let secrets = policy.evaluate(&user, &ask("get", "", "secrets", "", "a", "s"));
        assert!(secrets.omit_managed_fields);
        let apps = policy.evaluate(&user, &ask("create", "apps", "deployments", "", "a", ""));
        assert_eq!(apps.omit_stages, [Stage::RequestReceived, Stage::ResponseStarted]);
    }

    #[test]
    fn wrong_policies_are_told() {
        for (text, expect) in [
            (format!("{HEAD}rules: []"), "it has no rules"),
            ("apiVersion: v1\nkind: Policy\nrules: [{level: None}]".to_owned(), "not an audit.k8s.io/v1 Policy"),
            (format!("{HEAD}rules: [{{level: All}}]"), "unknown variant `All`"),
            (format!("{HEAD}rules: [{{level: None, user: [a]}}]"), "unknown field `user`"),
            (format!("{HEAD}rules: [{{level: None, nonResourceURLs: [a]}}]"), "must begin with a '/'"),
            (
                format!("{HEAD}rules: [{{level: None, nonResourceURLs: [/a], namespaces: [b]}}]"),
                "rules[0]: rules cannot apply to both",
            ),
            (
                format!("{HEAD}rules: [{{level: None, resources: [{{resourceNames: [a]}}]}}]"),
                "requires at least one resource",
            ),
            ("{".to_owned(), ""),
        ] {
            let error = Policy::parse(&text).expect_err(&text);
            assert!(error.contains(expect), "{text}: {error}");
        }
    }
}
