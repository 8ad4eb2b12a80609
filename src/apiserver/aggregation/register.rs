//! The APIServices of custom resources: made with their group versions, and gone with them.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};
use skiff_api::ApiError;

use super::table::text;
use crate::registry::Registry;
use crate::server::Server;

pub(super) const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Those of definitions; what this server has by itself is managed `onstart` and left alone afterwards.
const ALWAYS: &str = "true";
/// Upstream's priorities for all groups that definitions make.
pub(crate) const GROUP_PRIORITY: i64 = 1000;
pub(crate) const VERSION_PRIORITY: i64 = 100;

#[derive(Debug, PartialEq)]
enum Action {
    Create(Value),
    Update(Value),
    Delete(String),
}

/// What is to be done for the managed APIServices to be those of these group versions.
fn plan(wanted: &BTreeSet<(String, String)>, existing: &[Value]) -> Vec<Action> {
    let name_of = |group: &str, version: &str| format!("{version}.{group}");
    let is_managed = |service: &Value| service["metadata"]["labels"][MANAGED] == ALWAYS;
    let mut actions = Vec::new();
    for (group, version) in wanted {
        let name = name_of(group, version);
        let spec = json!({"group": group, "version": version, "groupPriorityMinimum": GROUP_PRIORITY,
            "versionPriority": VERSION_PRIORITY});
        match existing.iter().find(|service| service["metadata"]["name"] == *name) {
            None => actions.push(Action::Create(json!({
                "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
                "metadata": {"name": name, "labels": {MANAGED: ALWAYS}}, "spec": spec,
            }))),
            Some(service) if is_managed(service) && service["spec"] != spec => {
                let mut service = service.clone();
                service["spec"] = spec;
                actions.push(Action::Update(service));
            }
            // As it should be, or somebody's own.
            Some(_) => {}
        }
    }
    for service in existing.iter().filter(|service| is_managed(service)) {
        let of = (text(service, "group").to_owned(), text(service, "version").to_owned());
        if !wanted.contains(&of) {
            actions.push(Action::Delete(name_of(&of.0, &of.1)));
        }
    }
    actions
}

/// The group versions that definitions make.
fn custom_versions(registry: &Registry) -> BTreeSet<(String, String)> {
    let rows = registry.rows();
    let is_built_in = |group: &str, version: &str| {
        rows.iter().any(|row| row.custom.is_none() && row.group() == group && *row.descriptor.gvr.version == *version)
    };
    let customs = rows.iter().filter(|row| row.custom.is_some());
    let of = customs.map(|row| (row.group().to_owned(), row.descriptor.gvr.version.to_string()));
    of.filter(|(group, version)| !is_built_in(group, version)).collect()
}

impl Server {
    /// `false`: to be tried again.
    pub(super) async fn register(&self, existing: &[Value]) -> bool {
        let wanted = custom_versions(&self.registry.load());
        let mut done = true;
        for action in plan(&wanted, existing) {
            let outcome = match &action {
                Action::Create(service) => self.ask_as_itself(Method::POST, SERVICES, Some(service)).await,
                Action::Update(service) => {
                    let path = format!("{SERVICES}/{}", crate::meta::text(service, "name"));
                    self.ask_as_itself(Method::PUT, &path, Some(service)).await
                }
                Action::Delete(name) => self.ask_as_itself(Method::DELETE, &format!("{SERVICES}/{name}"), None).await,
            };
            if let Err(error) = outcome
                && !is_settled(&error)
            {
                tracing::warn!(error = %skiff_base::chain(&error), "an APIService could not be managed");
                done = false;
            }
        }
        done
    }
}

/// Somebody else was there first: their change brings another look.
fn is_settled(error: &ApiError) -> bool {
    error.is_already_exists() || error.is_not_found()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_managed_is_touched() {
        let service = |name: &str, managed: &str, priority: i64| {
            let (version, group) = name.split_once('.').expect("a name");
            json!({"metadata": {"name": name, "labels": {MANAGED: managed}},
                "spec": {"group": group, "version": version, "groupPriorityMinimum": priority, "versionPriority": 100}})
        };
        let wanted: BTreeSet<(String, String)> =
            [("a.org", "v1"), ("b.org", "v1"), ("c.org", "v1")].map(|(g, v)| (g.to_owned(), v.to_owned())).into();
        let existing = [
            service("v1.a.org", "true", 1000),
            service("v1.b.org", "true", 7),
            service("v1.gone.org", "true", 1000),
            service("v1.apps", "onstart", 17_800),
            json!({"metadata": {"name": "v1.own.org"}, "spec": {"group": "own.org", "version": "v1"}}),
        ];
        let actions = plan(&wanted, &existing);
        let told: Vec<String> = actions
            .iter()
            .map(|action| match action {
                Action::Create(service) => format!("create {}", service["metadata"]["name"]),
                Action::Update(service) => format!("update {}", service["spec"]["groupPriorityMinimum"]),
                Action::Delete(name) => format!("delete {name}"),
            })
            .collect();
        assert_eq!(told, ["update 1000", "create \"v1.c.org\"", "delete v1.gone.org"]);
    }
}
