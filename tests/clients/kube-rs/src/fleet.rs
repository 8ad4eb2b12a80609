//! A custom resource and its controller: each fleet gets as many ships (config maps) as it says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{self, Event, finalizer};
use kube::runtime::watcher;
use kube::{Client, CustomResource, Resource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

pub const MANAGER: &str = "fleet-controller";
/// Who belongs to which fleet.
pub const LABEL: &str = "rust.example/fleet";
const FINALIZER: &str = "rust.example/farewell";

#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "rust.example",
    version = "v1",
    kind = "Fleet",
    namespaced,
    shortname = "fl",
    status = "FleetStatus",
    scale(spec_replicas_path = ".spec.ships", status_replicas_path = ".status.afloat"),
    printcolumn(name = "Ships", type_ = "integer", json_path = ".spec.ships"),
    selectable = ".spec.flag"
)]
pub struct FleetSpec {
    pub ships: u8,
    #[serde(default = "white")]
    pub flag: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admiral: Option<Admiral>,
}

fn white() -> String {
    "white".to_owned()
}

/// Externally tagged: kube-rs makes a structural schema of it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum Admiral {
    Named(String),
    Elected { votes: i64 },
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub struct FleetStatus {
    pub afloat: i32,
}

#[derive(Debug)]
pub struct Wrong(kube::Error);

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::error::Error for Wrong {}

impl From<kube::Error> for Wrong {
    fn from(error: kube::Error) -> Self {
        Self(error)
    }
}

pub fn ship(fleet: &str, number: u8) -> String {
    format!("{fleet}-{number}")
}

/// Runs until it is dropped; says what fails, and tries again.
pub async fn control(client: Client, namespace: &'static str) {
    let fleets = Api::<Fleet>::namespaced(client.clone(), namespace);
    let ships = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let reconcile = move |fleet: Arc<Fleet>, client: Arc<Client>| async move {
        let api = Api::<Fleet>::namespaced((*client).clone(), namespace);
        finalizer(&api, FINALIZER, fleet, |event| async {
            match event {
                Event::Apply(fleet) => sail(&client, &fleet, namespace).await,
                Event::Cleanup(fleet) => farewell(&client, &fleet, namespace).await,
            }
        })
        .await
    };
    let on_error = |fleet: Arc<Fleet>, error: &finalizer::Error<Wrong>, _: Arc<Client>| {
        eprintln!("{}: {error}", fleet.name_any());
        Action::requeue(Duration::from_millis(200))
    };
    Controller::new(fleets, watcher::Config::default())
        .owns(ships, watcher::Config::default().labels(LABEL))
        .run(reconcile, on_error, Arc::new(client))
        .for_each(|done| async move {
            if let Err(error) = done {
                eprintln!("controller: {error}");
            }
        })
        .await;
}

/// Server-side apply of the ships and of the status; ships too many go.
async fn sail(client: &Client, fleet: &Fleet, namespace: &str) -> Result<Action, Wrong> {
    let ships = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let as_us = PatchParams::apply(MANAGER).force();
    let name = fleet.name_any();
    let wanted: Vec<String> = (0..fleet.spec.ships).map(|number| ship(&name, number)).collect();
    for wanted in &wanted {
        let mut map = ConfigMap {
            data: Some(BTreeMap::from([("flag".to_owned(), fleet.spec.flag.clone())])),
            ..ConfigMap::default()
        };
        map.metadata.name = Some(wanted.clone());
        map.metadata.labels = Some(BTreeMap::from([(LABEL.to_owned(), name.clone())]));
        map.metadata.owner_references = fleet.controller_owner_ref(&()).map(|owner| vec![owner]);
        ships.patch(wanted, &as_us, &Patch::Apply(&map)).await?;
    }
    let of_fleet = ListParams::default().labels(&format!("{LABEL}={name}"));
    for map in ships.list(&of_fleet).await? {
        if !wanted.contains(&map.name_any()) {
            ships.delete(&map.name_any(), &DeleteParams::default()).await?;
        }
    }
    let status = json!({"apiVersion": "rust.example/v1", "kind": "Fleet", "status": {"afloat": wanted.len()}});
    let fleets = Api::<Fleet>::namespaced(client.clone(), namespace);
    fleets.patch_status(&name, &as_us, &Patch::Apply(&status)).await?;
    Ok(Action::await_change())
}

/// What a fleet leaves behind: a note without an owner.
async fn farewell(client: &Client, fleet: &Fleet, namespace: &str) -> Result<Action, Wrong> {
    let name = format!("{}-farewell", fleet.name_any());
    let note = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"uid": fleet.uid(), "generation": fleet.meta().generation.unwrap_or_default().to_string()}});
    let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    maps.patch(&name, &PatchParams::apply(MANAGER), &Patch::Apply(&note)).await?;
    Ok(Action::await_change())
}
