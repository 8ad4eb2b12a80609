//! Which schema a request is of: the first, by precedence and name, one of whose rules matches.

use http::HeaderValue;
use k8s_openapi::api::flowcontrol::v1 as flowcontrol;
use serde::Deserialize;
use serde_json::Value;

use super::objects;
use super::queues::Queuing;
use super::seats::{Limits, Seats};
use crate::auth::User;
use crate::request::RequestInfo;

pub(super) struct Config {
    schemas: Vec<Schema>,
    levels: Vec<Level>,
}

pub(super) struct Schema {
    pub name: String,
    pub uid: HeaderValue,
    pub distinguisher: Distinguisher,
    /// Of [`Config::levels`].
    level: usize,
    rules: Vec<Rule>,
}

struct Rule {
    of: flowcontrol::PolicyRulesWithSubjects,
    /// Its subjects' every request.
    everything: bool,
}

pub(super) struct Level {
    pub uid: HeaderValue,
    /// `None`: exempt.
    pub seats: Option<usize>,
}

/// What makes one flow of several.
#[derive(Clone, Copy)]
pub(super) enum Distinguisher {
    Nothing,
    User,
    Namespace,
}

impl Distinguisher {
    pub fn of<'a>(self, user: &'a User, info: &dyn Fn() -> &'a RequestInfo) -> &'a str {
        match self {
            Self::Nothing => "",
            Self::User => &user.name,
            Self::Namespace => info().attributes().namespace,
        }
    }
}

pub(super) struct Matched<'a> {
    pub schema: &'a Schema,
    pub level: &'a Level,
}

impl Config {
    /// Of these objects, and the mandatory ones that lack. Schemas whose level is not there match nothing.
    pub fn plan<W>(
        schemas: &[&flowcontrol::FlowSchema],
        levels: &[&flowcontrol::PriorityLevelConfiguration],
        seats: &mut Seats<W>,
    ) -> Self {
        let mandatory = |object: &&Value| objects::MANDATORY.into_iter().any(|name| object["metadata"]["name"] == name);
        let own_levels = read(objects::levels().iter().filter(mandatory));
        let own_schemas = read(objects::schemas().iter().filter(mandatory));
        let levels = with(levels, &own_levels, |level| level.metadata.name.as_deref());
        let mut schemas = with(schemas, &own_schemas, |schema| schema.metadata.name.as_deref());
        let precedence = |schema: &flowcontrol::FlowSchema| {
            schema.spec.as_ref().and_then(|spec| spec.matching_precedence).unwrap_or(0)
        };
        schemas.sort_by_key(|schema| (precedence(schema), schema.metadata.name.clone()));

        let shares: i64 = levels.iter().map(|level| shares(level)).sum();
        let names: Vec<&str> = levels.iter().filter_map(|level| level.metadata.name.as_deref()).collect();
        seats.keep_only(|name| names.contains(&name));
        let planned = levels.iter().zip(&names).map(|(level, name)| Level {
            uid: uid(level.metadata.uid.as_deref()),
            seats: limits(level, shares, seats.total()).map(|limits| seats.set(name, limits)),
        });
        let planned: Vec<Level> = planned.collect();
        let schemas = schemas.into_iter().filter_map(|schema| {
            let spec = schema.spec.as_ref()?;
            let level = names.iter().position(|name| *name == spec.priority_level_configuration.name)?;
            let distinguisher = match spec.distinguisher_method.as_ref().map(|method| method.type_.as_str()) {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::Nothing,
            };
            let rules =
                spec.rules.iter().flatten().map(|rule| Rule { everything: is_everything(rule), of: rule.clone() });
            Some(Schema {
                name: schema.metadata.name.clone().unwrap_or_default(),
                uid: uid(schema.metadata.uid.as_deref()),
                distinguisher,
                level,
                rules: rules.collect(),
            })
        });
        Self { schemas: schemas.collect(), levels: planned }
    }

    /// The request itself is only looked at where that matters.
    pub fn find<'a>(&self, user: &User, info: &dyn Fn() -> &'a RequestInfo) -> Matched<'_> {
        let found = self.schemas.iter().find(|schema| schema.rules.iter().any(|rule| rule.matches(user, info)));
        // The last one, catch-all, is for everyone, but for groups that nobody has told.
        let schema = found.or(self.schemas.last()).expect("the mandatory schemas are always among them");
        Matched { schema, level: &self.levels[schema.level] }
    }
}

fn read<'a, K: for<'d> Deserialize<'d>>(objects: impl Iterator<Item = &'a Value>) -> Vec<K> {
    objects.map(|object| K::deserialize(object).expect("our own objects can be read")).collect()
}

/// All of `objects`, and those of `own` that are not among them.
fn with<'a, K>(objects: &[&'a K], own: &'a [K], name: impl Fn(&K) -> Option<&str>) -> Vec<&'a K> {
    let lacks = |own: &&K| !objects.iter().any(|object| name(object) == name(own));
    objects.iter().copied().chain(own.iter().filter(lacks)).collect()
}

fn uid(uid: Option<&str>) -> HeaderValue {
    HeaderValue::from_str(uid.unwrap_or_default()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn shares(level: &flowcontrol::PriorityLevelConfiguration) -> i64 {
    let Some(spec) = &level.spec else { return 0 };
    let limited = spec.limited.as_ref().map(|limited| limited.nominal_concurrency_shares.unwrap_or(30));
    let exempt = spec.exempt.as_ref().and_then(|exempt| exempt.nominal_concurrency_shares);
    limited.or(exempt).unwrap_or(0).max(0).into()
}

/// `None`: it has none.
fn limits(level: &flowcontrol::PriorityLevelConfiguration, all_shares: i64, total: u32) -> Option<Limits> {
    let limited = level.spec.as_ref()?.limited.as_ref()?;
    let own = i64::from(total) * shares(level);
    let own = u32::try_from((own + all_shares - 1) / all_shares.max(1)).unwrap_or(0);
    let percent = |of: i32| (u64::from(own) * u64::from(of.max(0).unsigned_abs()) + 50) / 100;
    let seats = |of: i32| u32::try_from(percent(of)).unwrap_or(u32::MAX);
    let size = |number: Option<i32>, least: usize| {
        number.and_then(|number| usize::try_from(number).ok()).unwrap_or(0).max(least)
    };
    let queuing = limited.limit_response.as_ref().and_then(|response| response.queuing.as_ref());
    Some(Limits {
        own,
        lendable: limited.lendable_percent.map_or(0, seats),
        borrowable: limited.borrowing_limit_percent.map(seats),
        queuing: queuing.map(|queuing| Queuing {
            queues: size(queuing.queues, 1),
            hand: size(queuing.hand_size, 1),
            length: size(queuing.queue_length_limit, 1),
        }),
    })
}

fn is_everything(rule: &flowcontrol::PolicyRulesWithSubjects) -> bool {
    let all = |list: &[String]| list.iter().any(|one| one == "*");
    let resources = rule.resource_rules.iter().flatten().any(|rule| {
        let namespaces = rule.namespaces.as_deref().unwrap_or_default();
        all(&rule.verbs)
            && all(&rule.api_groups)
            && all(&rule.resources)
            && all(namespaces)
            && rule.cluster_scope == Some(true)
    });
    let paths = rule.non_resource_rules.iter().flatten();
    resources && paths.into_iter().any(|rule| all(&rule.verbs) && all(&rule.non_resource_urls))
}

impl Rule {
    fn matches<'a>(&self, user: &User, info: &dyn Fn() -> &'a RequestInfo) -> bool {
        if !self.of.subjects.iter().any(|subject| is_subject(subject, user)) {
            return false;
        }
        if self.everything {
            return true;
        }
        let info = info();
        match &info.target {
            Some(_) => self.of.resource_rules.iter().flatten().any(|rule| matches_resource(rule, info)),
            None => self.of.non_resource_rules.iter().flatten().any(|rule| matches_path(rule, info)),
        }
    }
}

fn is_subject(subject: &flowcontrol::Subject, user: &User) -> bool {
    let is_user = |of: &flowcontrol::UserSubject| of.name == "*" || of.name == user.name;
    let is_group = |of: &flowcontrol::GroupSubject| of.name == "*" || user.is_in(&of.name);
    let is_account = |of: &flowcontrol::ServiceAccountSubject| {
        let name = user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        name.is_some_and(|(namespace, name)| namespace == of.namespace && (of.name == "*" || of.name == name))
    };
    subject.user.as_ref().is_some_and(is_user)
        || subject.group.as_ref().is_some_and(is_group)
        || subject.service_account.as_ref().is_some_and(is_account)
}

fn has(list: &[String], one: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == one)
}

fn matches_resource(rule: &flowcontrol::ResourcePolicyRule, info: &RequestInfo) -> bool {
    let asked = info.attributes();
    let resource = |entry: &String| {
        let (resource, subresource) = entry.split_once('/').unwrap_or((entry, ""));
        entry == "*" || resource == asked.resource && subresource == asked.subresource
    };
    has(&rule.verbs, asked.verb)
        && rule.resources.iter().any(resource)
        && has(&rule.api_groups, asked.group)
        && match asked.namespace {
            "" => rule.cluster_scope == Some(true),
            namespace => has(rule.namespaces.as_deref().unwrap_or_default(), namespace),
        }
}

fn matches_path(rule: &flowcontrol::NonResourcePolicyRule, info: &RequestInfo) -> bool {
    let asked = info.attributes();
    let path = |entry: &String| {
        let below = entry.trim_end_matches('*').trim_end_matches('/');
        entry == "*" || entry == asked.path || asked.path.strip_prefix(below).is_some_and(|rest| rest.starts_with('/'))
    };
    has(&rule.verbs, asked.verb) && rule.non_resource_urls.iter().any(path)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http::{HeaderMap, Method};
    use serde_json::json;

    use super::*;
    use crate::call::Call;

    fn config(more: &[Value]) -> (Config, Seats<()>) {
        let mut seats = Seats::new(600);
        let levels: Vec<flowcontrol::PriorityLevelConfiguration> = read(objects::levels().iter());
        let schemas: Vec<flowcontrol::FlowSchema> = read(objects::schemas().iter().chain(more));
        let (schemas, levels): (Vec<_>, Vec<_>) = (schemas.iter().collect(), levels.iter().collect());
        (Config::plan(&schemas, &levels, &mut seats), seats)
    }

    fn found(config: &Config, user: &User, method: Method, path: &str) -> String {
        let uri = path.parse().expect("a path");
        let call = Call::new(method, &uri, HeaderMap::new(), Bytes::new(), Arc::new(user.clone()));
        let info = RequestInfo::of(&call);
        config.find(user, &|| &info).schema.name.clone()
    }

    #[test]
    fn schemas_by_precedence_subject_and_rule() {
        let mine = json!({"metadata": {"name": "mine"}, "spec": {"matchingPrecedence": 7, "priorityLevelConfiguration":
            {"name": "workload-low"}, "rules": [{"subjects": [{"kind": "User", "user": {"name": "jane"}}],
            "resourceRules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["pods", "pods/log"], "namespaces": ["a"]}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/x/*"]}]}]}});
        let dangling = json!({"metadata": {"name": "dangling"}, "spec": {"matchingPrecedence": 3,
            "priorityLevelConfiguration": {"name": "none"}, "rules": mine["spec"]["rules"]}});
        let (config, _) = config(&[mine, dangling]);
        let user = |name: &str, groups: &[&str]| {
            let mut groups = groups.to_vec();
            groups.push("system:authenticated");
            User::new(name, &groups)
        };
        let (get, put) = (Method::GET, Method::PUT);
        let account =
            |namespace: &str| user(&format!("system:serviceaccount:{namespace}:x"), &["system:serviceaccounts"]);
        for (user, method, path, expect) in [
            (user("a", &["system:masters"]), &get, "/api/v1/pods", "exempt"),
            (User::anonymous(), &get, "/healthz", "probes"),
            (User::anonymous(), &get, "/readyz/ping", "probes"),
            (User::anonymous(), &get, "/version", "global-default"),
            (
                user("system:kube-scheduler", &[]),
                &put,
                "/apis/coordination.k8s.io/v1/namespaces/a/leases/l",
                "system-leader-election",
            ),
            (user("system:kube-scheduler", &[]), &get, "/api/v1/pods", "kube-scheduler"),
            (
                account("kube-system"),
                &put,
                "/apis/coordination.k8s.io/v1/namespaces/a/leases/l",
                "system-leader-election",
            ),
            (account("kube-system"), &get, "/api/v1/pods", "kube-system-service-accounts"),
            (account("kube-systems"), &get, "/api/v1/pods", "service-accounts"),
            (user("system:node:n", &["system:nodes"]), &put, "/api/v1/nodes/n/status", "system-node-high"),
            (user("system:node:n", &["system:nodes"]), &get, "/api/v1/pods", "system-nodes"),
            (user("jane", &[]), &get, "/api/v1/namespaces/a/pods", "mine"),
            (user("jane", &[]), &get, "/api/v1/namespaces/a/pods/p", "global-default"),
            (user("jane", &[]), &get, "/api/v1/namespaces/b/pods", "global-default"),
            (user("jane", &[]), &get, "/api/v1/pods", "global-default"),
            (user("jane", &[]), &get, "/x/y", "mine"),
            (user("jane", &[]), &get, "/xy", "global-default"),
            (User::new("stranger", &[]), &get, "/api", "catch-all"),
        ] {
            assert_eq!(found(&config, &user, method.clone(), path), expect, "{} {method} {path}", user.name);
        }
    }

    #[test]
    fn shares_become_seats() {
        let levels: Vec<flowcontrol::PriorityLevelConfiguration> = read(objects::levels().iter());
        let all: i64 = levels.iter().map(shares).sum();
        let of = |name: &str| {
            let level = levels.iter().find(|level| level.metadata.name.as_deref() == Some(name));
            limits(level.expect("there"), all, 600)
                .map(|limits| (limits.own, limits.lendable, limits.queuing.is_some()))
        };
        assert_eq!(all, 245);
        assert_eq!(of("exempt"), None);
        assert_eq!(of("workload-low"), Some((245, 221, true)));
        assert_eq!(of("catch-all"), Some((13, 0, false)));
    }
}
