//! Puts tokens into the secrets that ask for one (`kubernetes.io/service-account-token`), and takes away those whose
//! service account is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::{Value, json};
use skiff_api::ObjectKey;
use skiff_client::{Change, Client, DeleteOptions, Lister, Next, Queue, Reconciler, Result, Selector};
use skiff_pki::ClusterPki;

use crate::{Context, drive};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// Of the secrets that lie in a namespace, by the account that they are of.
const BY_ACCOUNT: &str = "account";

pub fn start(context: &Context) {
    let accounts = context.informers.lister::<ServiceAccount>();
    let selector = Selector { fields: format!("type={TYPE}"), ..Selector::default() };
    let secrets = context.informers.selected::<Secret>(selector);
    secrets.add_index(BY_ACCOUNT, |secret| {
        let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
        vec![format!("{namespace}/{}", annotation(secret, ACCOUNT))]
    });
    let queue = Queue::new(Tokens::NAME);
    let adding = queue.clone();
    secrets.subscribe(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            adding.add(ObjectKey::of(&**change.object()));
        }
    });
    let (adding, known) = (queue.clone(), secrets.clone());
    accounts.subscribe(move |change| {
        let account = ObjectKey::of(&**change.object());
        for secret in known.indexed(BY_ACCOUNT, &account.to_string()) {
            adding.add(ObjectKey::of(&*secret));
        }
    });
    let controller = Arc::new(Tokens {
        // Upstream's does this as the controller manager itself.
        client: context.informers.client().clone(),
        accounts: accounts.clone(),
        secrets: secrets.clone(),
        pki: context.options.pki.clone(),
    });
    drive(context, controller, queue, 2, async move {
        accounts.synced().await;
        secrets.synced().await;
    });
}

struct Tokens {
    client: Client,
    accounts: Lister<ServiceAccount>,
    secrets: Lister<Secret>,
    pki: Arc<ClusterPki>,
}

/// What becomes of a secret.
#[derive(Debug, PartialEq)]
enum Plan {
    Nothing,
    /// With everything in it but the token, where that is missing.
    Fill(Box<Secret>),
    Delete,
}

impl Reconciler for Tokens {
    const NAME: &'static str = "serviceaccount-token-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(secret) = self.secrets.get(key) else { return Ok(Next::Done) };
        let name = ObjectKey::new(&key.namespace, annotation(&secret, ACCOUNT));
        let mut account = self.accounts.get(&name);
        if account.is_none() {
            // It may be newer than the cache, and what follows can't be undone.
            match self.client.namespaced::<ServiceAccount>(&key.namespace).get(&name.name).await {
                Ok(found) => account = Some(Arc::new(found)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let api = self.client.namespaced::<Secret>(&key.namespace);
        match plan(&secret, account.as_deref(), self.pki.ca_pem()) {
            Plan::Nothing => Ok(Next::Done),
            Plan::Delete => {
                let options = DeleteOptions { uid: secret.metadata.uid.clone(), ..DeleteOptions::default() };
                match api.delete(&key.name, &options).await {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
                    _ => Ok(Next::Done),
                }
            }
            Plan::Fill(mut made) => {
                let data = made.data.get_or_insert_default();
                if !data.contains_key("token") {
                    let claims = claims(key, account.as_deref());
                    match self.pki.service_account_key().sign(&claims) {
                        Ok(token) => drop(data.insert("token".to_owned(), ByteString(token.into_bytes()))),
                        Err(error) => {
                            tracing::error!(secret = %key, error = %skiff_base::chain(&error), "sign a token");
                            return Ok(Next::Done);
                        }
                    }
                }
                match api.update(&made).await {
                    Err(error) if !error.is_not_found() => Err(error),
                    _ => Ok(Next::Done),
                }
            }
        }
    }
}

fn annotation<'a>(secret: &'a Secret, name: &str) -> &'a str {
    secret.metadata.annotations.as_ref().and_then(|a| a.get(name)).map_or("", String::as_str)
}

fn plan(secret: &Secret, account: Option<&ServiceAccount>, ca_pem: &str) -> Plan {
    if secret.metadata.deletion_timestamp.is_some() {
        return Plan::Nothing;
    }
    let uid = account.and_then(|account| account.metadata.uid.clone()).unwrap_or_default();
    let known = annotation(secret, ACCOUNT_UID);
    if account.is_none() || (!known.is_empty() && known != uid) {
        return Plan::Delete;
    }
    let mut made = secret.clone();
    let data = made.data.get_or_insert_default();
    data.retain(|key, value| key != "token" || !value.0.is_empty());
    data.insert("ca.crt".to_owned(), ByteString(ca_pem.as_bytes().to_vec()));
    let namespace = secret.metadata.namespace.clone().unwrap_or_default();
    data.entry("namespace".to_owned()).or_insert_with(|| ByteString(namespace.into_bytes()));
    made.metadata.annotations.get_or_insert_default().insert(ACCOUNT_UID.to_owned(), uid);
    let has_token =
        |data: &Option<BTreeMap<String, ByteString>>| data.as_ref().is_some_and(|d| d.contains_key("token"));
    if made == *secret && has_token(&made.data) { Plan::Nothing } else { Plan::Fill(Box::new(made)) }
}

/// Upstream's first form of tokens: they end with their secret.
fn claims(secret: &ObjectKey, account: Option<&ServiceAccount>) -> Value {
    let meta = account.map(|account| &account.metadata);
    let name = meta.and_then(|meta| meta.name.as_deref()).unwrap_or_default();
    let namespace = &*secret.namespace;
    json!({
        "iss": "kubernetes/serviceaccount",
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": &*secret.name,
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": meta.and_then(|meta| meta.uid.as_deref()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::Stage;

    fn secret(more: Value) -> Value {
        let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "type": TYPE,
            "metadata": {"name": "s", "namespace": "a", "annotations": {ACCOUNT: "x"}}});
        for (key, value) in more.as_object().into_iter().flatten() {
            secret["metadata"]["annotations"][key] = value.clone();
        }
        secret
    }

    #[test]
    fn what_becomes_of_secrets() {
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "x", "namespace": "a", "uid": "1"}}))
                .expect("an account");
        let read = |value: Value| serde_json::from_value::<Secret>(value).expect("a secret");
        let fresh = read(secret(json!({})));
        assert_eq!(plan(&fresh, None, "pem"), Plan::Delete);
        let Plan::Fill(mut made) = plan(&fresh, Some(&account), "pem") else { panic!("it lacks everything") };
        assert_eq!(annotation(&made, ACCOUNT_UID), "1");
        assert_eq!(made.data.as_ref().map(|d| d["namespace"].0.clone()), Some(b"a".to_vec()));
        made.data.get_or_insert_default().insert("token".to_owned(), ByteString(b"t".to_vec()));
        assert_eq!(plan(&made, Some(&account), "pem"), Plan::Nothing);
        assert!(matches!(plan(&made, Some(&account), "new"), Plan::Fill(_)), "another authority");
        assert_eq!(plan(&read(secret(json!({ACCOUNT_UID: "0"}))), Some(&account), "pem"), Plan::Delete);
    }

    #[tokio::test]
    async fn fills_and_takes_away() {
        let stage = Stage::new();
        stage.put(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x", "namespace": "a"}}));
        stage.put(secret(json!({})));
        super::start(&stage.context());
        let secrets = "/api/v1/secrets";
        stage.until("it has a token", |fake| fake.objects(secrets)[0]["data"]["token"].is_string()).await;
        stage.delete("/api/v1/namespaces/a/serviceaccounts/x").await;
        stage.until("it is gone", |fake| fake.objects(secrets).is_empty()).await;
        stage.end().await;
    }
}
