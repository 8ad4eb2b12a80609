//! Publishes the cluster's certificate authority to every namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::ObjectKey;
use skiff_client::{Change, Client, Lister, Next, Queue, Reconciler, Result, Selector};

use crate::service_account::{is_closing, is_open};
use crate::{Context, drive};

const CONFIG_MAP: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                           endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                           guaranteed across distributions of Kubernetes clusters.";

pub fn start(context: &Context) {
    let namespaces = context.informers.lister::<Namespace>();
    let selector = Selector { fields: format!("metadata.name={CONFIG_MAP}"), ..Selector::default() };
    let maps = context.informers.selected::<ConfigMap>(selector);
    let queue = Queue::new(RootCa::NAME);
    let adding = queue.clone();
    namespaces.subscribe(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            adding.add(ObjectKey::of(&**change.object()));
        }
    });
    let adding = queue.clone();
    maps.subscribe(move |change| {
        // Also when someone has changed it.
        if !matches!(change, Change::Added(_)) {
            adding.add(ObjectKey::cluster(change.object().metadata.namespace.as_deref().unwrap_or_default()));
        }
    });
    let controller = Arc::new(RootCa {
        client: context.client("root-ca-cert-publisher"),
        namespaces: namespaces.clone(),
        maps: maps.clone(),
        ca_pem: context.options.ca_pem.clone(),
    });
    drive(context, controller, queue, 2, async move {
        namespaces.synced().await;
        maps.synced().await;
    });
}

struct RootCa {
    client: Client,
    namespaces: Lister<Namespace>,
    maps: Lister<ConfigMap>,
    ca_pem: String,
}

impl Reconciler for RootCa {
    const NAME: &'static str = "root-ca-certificate-publisher-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(Next::Done) };
        if !is_open(&namespace) {
            return Ok(Next::Done);
        }
        let old = self.maps.get(&ObjectKey::new(&key.name, CONFIG_MAP));
        let Some(map) = plan_map(&key.name, old.as_deref(), &self.ca_pem) else { return Ok(Next::Done) };
        let maps = self.client.all::<ConfigMap>();
        let outcome = if old.is_some() { maps.update(&map).await } else { maps.create(&map).await };
        match outcome {
            Ok(_) => Ok(Next::Done),
            Err(error) if error.is_already_exists() || error.is_not_found() || is_closing(&error) => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }
}

/// The map as it should be, if it is not.
fn plan_map(namespace: &str, old: Option<&ConfigMap>, ca_pem: &str) -> Option<ConfigMap> {
    let data = BTreeMap::from([("ca.crt".to_owned(), ca_pem.to_owned())]);
    let mut map = old.cloned().unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta {
            name: Some(CONFIG_MAP.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    });
    map.data = Some(data);
    let annotations = map.metadata.annotations.get_or_insert_default();
    annotations.insert("kubernetes.io/description".to_owned(), DESCRIPTION.to_owned());
    if old == Some(&map) { None } else { Some(map) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Stage;
    use serde_json::json;

    #[test]
    fn changes_only_what_is_not_as_it_should_be() {
        let first = plan_map("a", None, "pem").expect("there is none");
        assert_eq!(first.data.as_ref().map(|data| data["ca.crt"].as_str()), Some("pem"));
        assert_eq!(plan_map("a", Some(&first), "pem"), None);
        assert!(plan_map("a", Some(&first), "new").is_some());
        let mut changed = first.clone();
        changed.data = None;
        assert_eq!(plan_map("a", Some(&changed), "pem"), Some(first));
    }

    #[tokio::test]
    async fn publishes_and_heals() {
        let stage = Stage::new();
        stage.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}));
        super::start(&stage.context());
        let right = |maps: &[serde_json::Value]| maps.len() == 1 && maps[0]["data"]["ca.crt"] == "the CA";
        stage.until("published", |fake| right(&fake.objects("/api/v1/configmaps"))).await;
        let mut map = stage.fake.objects("/api/v1/configmaps")[0].clone();
        map["data"]["ca.crt"] = json!("evil");
        stage.put(map);
        stage.until("healed", |fake| right(&fake.objects("/api/v1/configmaps"))).await;
        stage.end().await;
    }
}
