//! Sees to it that every namespace has the service account `default`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::ObjectKey;
use skiff_client::{Change, Client, Lister, Next, Queue, Reconciler, Result};

use crate::{Context, drive};

const ACCOUNT: &str = "default";

pub fn start(context: &Context) {
    let namespaces = context.informers.lister::<Namespace>();
    let accounts = context.informers.lister::<ServiceAccount>();
    let queue = Queue::new(ServiceAccounts::NAME);
    let adding = queue.clone();
    namespaces.subscribe(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            adding.add(ObjectKey::of(&**change.object()));
        }
    });
    let adding = queue.clone();
    accounts.subscribe(move |change| {
        if let Change::Deleted(account) = change {
            adding.add(ObjectKey::cluster(account.metadata.namespace.as_deref().unwrap_or_default()));
        }
    });
    let controller = Arc::new(ServiceAccounts {
        client: context.client("service-account-controller"),
        namespaces: namespaces.clone(),
        accounts: accounts.clone(),
    });
    drive(context, controller, queue, 2, async move {
        namespaces.synced().await;
        accounts.synced().await;
    });
}

struct ServiceAccounts {
    client: Client,
    namespaces: Lister<Namespace>,
    accounts: Lister<ServiceAccount>,
}

impl Reconciler for ServiceAccounts {
    const NAME: &'static str = "serviceaccount-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(Next::Done) };
        if !is_open(&namespace) || self.accounts.get(&ObjectKey::new(&key.name, ACCOUNT)).is_some() {
            return Ok(Next::Done);
        }
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(ACCOUNT.to_owned()),
                namespace: Some(key.name.to_string()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        match self.client.all::<ServiceAccount>().create(&account).await {
            Ok(_) => Ok(Next::Done),
            // It is there already, or its namespace is going.
            Err(error) if error.is_already_exists() || error.is_not_found() || is_closing(&error) => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }
}

/// Whether new objects may be made in it.
pub fn is_open(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    phase != Some("Terminating") && namespace.metadata.deletion_timestamp.is_none()
}

/// Whether an object was refused because its namespace is being deleted.
pub fn is_closing(error: &skiff_client::Error) -> bool {
    let skiff_client::Error::Api(error) = error else { return false };
    let causes = error.details.iter().flat_map(|details| &details.causes);
    error.reason == "Forbidden" && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests {
    use crate::testing::Stage;
    use serde_json::json;

    #[tokio::test]
    async fn every_open_namespace_gets_its_account_and_gets_it_back() {
        let stage = Stage::new();
        stage.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}));
        stage.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b"},
            "status": {"phase": "Terminating"}}));
        super::start(&stage.context());
        let accounts = "/api/v1/serviceaccounts";
        stage.until("a has its account", |fake| fake.objects(accounts).len() == 1).await;
        let first = stage.fake.objects(accounts)[0].clone();
        assert_eq!((&first["metadata"]["name"], &first["metadata"]["namespace"]), (&json!("default"), &json!("a")));
        stage.delete("/api/v1/namespaces/a/serviceaccounts/default").await;
        stage
            .until("it is back", |fake| {
                fake.objects(accounts).first().is_some_and(|o| o["metadata"]["uid"] != first["metadata"]["uid"])
            })
            .await;
        stage.end().await;
    }
}
