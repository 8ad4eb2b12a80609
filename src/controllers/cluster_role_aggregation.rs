//! Fills the cluster roles that are made of others' rules.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use skiff_api::ObjectKey;
use skiff_api::selector::LabelSelector;
use skiff_client::{Client, Lister, Next, Queue, Reconciler, Result};

use crate::{Context, drive};

const ACCOUNT: &str = "clusterrole-aggregation-controller";

pub fn start(context: &Context) {
    let roles = context.informers.lister::<ClusterRole>();
    let queue = Queue::new(Aggregation::NAME);
    let (adding, all) = (queue.clone(), roles.clone());
    roles.subscribe(move |_| {
        // Which of them the changed one belongs, or belonged, to is for the reconciler.
        for role in all.list().iter().filter(|role| role.aggregation_rule.is_some()) {
            adding.add(ObjectKey::of(&**role));
        }
    });
    let controller = Arc::new(Aggregation { client: context.client(ACCOUNT), roles: roles.clone() });
    drive(context, controller, queue, 2, async move { roles.synced().await });
}

struct Aggregation {
    client: Client,
    roles: Lister<ClusterRole>,
}

impl Reconciler for Aggregation {
    const NAME: &'static str = "clusterrole-aggregation-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(role) = self.roles.get(key) else { return Ok(Next::Done) };
        let Some(rules) = plan_rules(&role, &self.roles.list()) else { return Ok(Next::Done) };
        let made = ClusterRole { rules: Some(rules), ..(*role).clone() };
        match self.client.all::<ClusterRole>().update(&made).await {
            Ok(_) => Ok(Next::Done),
            Err(error) if error.is_not_found() => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }
}

/// The rules that the role should have, in the order of the selectors and of the names of the roles they select; `None`
/// where it has them, or is made of nothing.
fn plan_rules(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let mut sorted: Vec<&ClusterRole> = all.iter().map(|role| &**role).collect();
    sorted.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in role.aggregation_rule.as_ref()?.cluster_role_selectors.iter().flatten() {
        // The validation lets in none that is wrong.
        let Ok(selector) = LabelSelector::from_typed(Some(selector)) else { continue };
        for other in &sorted {
            let labels = other.metadata.labels.clone().unwrap_or_default();
            if other.metadata.name == role.metadata.name || !selector.matches(&labels) {
                continue;
            }
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::Stage;

    #[tokio::test]
    async fn gathers_what_is_labelled_and_follows_changes() {
        let stage = Stage::new();
        let rule = |verb: &str| json!({"apiGroups": [""], "resources": ["pods"], "verbs": [verb]});
        let part = |name: &str, verb: &str| {
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                "metadata": {"name": name, "labels": {"to": "x"}}, "rules": [rule(verb)]})
        };
        stage.put(part("b", "list"));
        stage.put(part("a", "get"));
        stage.put(part("c", "get"));
        stage.put(
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "x"},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "x"}}]}}),
        );
        super::start(&stage.context());
        let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
        let rules = |all: &[serde_json::Value]| {
            all.iter().find(|r| r["metadata"]["name"] == "x").map(|r| r["rules"].clone()).unwrap_or_default()
        };
        let expect = json!([rule("get"), rule("list")]);
        stage.until("both rules, once each", |fake| rules(&fake.objects(roles)) == expect).await;
        stage.put(part("b", "watch"));
        let expect = json!([rule("get"), rule("watch")]);
        stage.until("the new rule", |fake| rules(&fake.objects(roles)) == expect).await;
        stage.end().await;
    }
}
