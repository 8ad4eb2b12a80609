//! The storage class `local-path` and what makes its volumes; left out by `--disable local-storage`.

use anyhow::Result;
use skiff_api::k8s::api::storage::v1::StorageClass;
use skiff_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_apiserver::ApiServer;
use skiff_base::Scope;
use skiff_client::{Client, DeleteOptions, Informers};
use skiff_kubelet::local_path;

use crate::cli::{Part, ServerArgs};

const CLASS: &str = "local-path";
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "skiff");

fn is_wanted(arguments: &ServerArgs) -> bool {
    !arguments.disable.contains(&Part::LocalStorage)
}

/// The default class. What an operator has made of it stays; where it is not wanted, only one of ours goes.
pub async fn ensure_class(api: &ApiServer, arguments: &ServerArgs) -> Result<()> {
    let classes = Client::new(api.transport("system:skiff", &["system:masters"])).all::<StorageClass>();
    let found = match classes.get(CLASS).await {
        Ok(class) => Some(class),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    match found {
        None if is_wanted(arguments) => drop(classes.create(&class()).await?),
        Some(class) if !is_wanted(arguments) => {
            let labels = class.metadata.labels.unwrap_or_default();
            if labels.get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1) {
                classes.delete(CLASS, &DeleteOptions::default()).await?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// As k3s has it.
fn class() -> StorageClass {
    let text = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    StorageClass {
        metadata: ObjectMeta {
            name: Some(CLASS.to_owned()),
            labels: Some(text(&[MANAGED_BY])),
            annotations: Some(text(&[
                ("defaultVolumeType", "local"),
                ("storageclass.kubernetes.io/is-default-class", "true"),
            ])),
            ..ObjectMeta::default()
        },
        provisioner: local_path::PROVISIONER.to_owned(),
        reclaim_policy: Some("Delete".to_owned()),
        volume_binding_mode: Some("WaitForFirstConsumer".to_owned()),
        ..StorageClass::default()
    }
}

/// Makes volumes on this node.
pub fn start(arguments: &ServerArgs, node_name: &str, api: &ApiServer, scope: &Scope) {
    if !is_wanted(arguments) {
        return;
    }
    let directory = arguments.default_local_storage_path.clone();
    let options = local_path::Options {
        node_name: node_name.to_owned(),
        directory: directory.unwrap_or_else(|| arguments.place.data_dir.join("storage")),
    };
    let client = Client::new(api.as_account("kube-system", "local-path-provisioner-service-account"));
    local_path::start(options, &Informers::new(client, scope.clone()), scope);
}
