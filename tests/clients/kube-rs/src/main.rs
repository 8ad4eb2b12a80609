//! kube-rs against a Skiff server: `KUBECONFIG` names it. Ends with 0 if everything holds.

mod fleet;
mod pods;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fleet::{Admiral, Fleet, FleetSpec, LABEL, MANAGER, ship};
use futures::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, ValidationDirective};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, Store, store};
use kube::runtime::wait::{await_condition, conditions, delete::delete_and_finalize};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, CustomResourceExt, Resource, ResourceExt};
use serde_json::json;

const NAMESPACE: &str = "kube-rs";
const LIMIT: Duration = Duration::from_secs(60);
const DEFINITION: &str = "fleets.rust.example";

/// What a call was refused with.
fn refused<T>(answer: kube::Result<T>, code: u16, reason: &str) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == code && status.reason == reason => Ok(()),
        Err(error) => bail!("expected {code} {reason}, not {error:?}"),
        Ok(_) => bail!("expected {code} {reason}, but it was done"),
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(LIMIT, future).await.with_context(|| format!("{what}: not within {LIMIT:?}"))
}

/// A cache that is kept current by a task; ready when this returns.
async fn cache<K>(api: Api<K>, config: watcher::Config) -> Result<Store<K>>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (reader, writer) = store();
    let feed = reflector::reflector(writer, watcher(api, config)).default_backoff();
    tokio::spawn(feed.for_each(|event| async move {
        if let Err(error) = event {
            eprintln!("reflector: {error}");
        }
    }));
    within("the reflector is filled", reader.wait_until_ready()).await??;
    Ok(reader)
}

/// Waits until a cache shows what is expected.
async fn until<K>(what: &str, cache: &Store<K>, holds: impl Fn(&[std::sync::Arc<K>]) -> bool) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + 'static,
{
    let looks = async {
        while !holds(&cache.state()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(what, looks).await.with_context(|| format!("last seen: {:?}", cache.state()))
}

async fn define(client: &Client) -> Result<()> {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let us = PatchParams::apply("kube-rs");
    let made = definitions.patch(DEFINITION, &us, &Patch::Apply(Fleet::crd())).await?;
    within("Established", await_condition(definitions.clone(), DEFINITION, conditions::is_crd_established())).await??;
    let again = definitions.patch(DEFINITION, &us, &Patch::Apply(Fleet::crd())).await?;
    let spec = |crd: &CustomResourceDefinition| crd.metadata.generation;
    ensure!(spec(&made) == spec(&again), "the same again changes nothing");
    let group = kube::discovery::pinned_group(client, &kube::core::GroupVersion::gv("rust.example", "v1")).await?;
    let (resource, abilities) = group.recommended_kind("Fleet").context("it is discovered")?;
    ensure!(resource.plural == "fleets" && abilities.subresources.len() == 2, "{resource:?} {abilities:?}");
    Ok(())
}

fn fleet(name: &str, ships: u8) -> Fleet {
    let admiral = Some(Admiral::Elected { votes: 3 });
    Fleet::new(name, FleetSpec { ships, flag: "red".to_owned(), admiral })
}

/// All types of patch, conflicts, validation, pages.
async fn objects(client: &Client) -> Result<()> {
    let fleets = Api::<Fleet>::namespaced(client.clone(), NAMESPACE);
    let post = PostParams::default();
    let mut made = fleets.create(&post, &fleet("plain", 0)).await?;
    refused(fleets.create(&post, &fleet("plain", 0)).await, 409, "AlreadyExists")?;
    refused(fleets.get("none").await, 404, "NotFound")?;
    ensure!(fleets.get_opt("none").await?.is_none());
    let stale = made.clone();
    made.spec.flag = "blue".to_owned();
    ensure!(fleets.replace("plain", &post, &made).await?.meta().generation == Some(2));
    refused(fleets.replace("plain", &post, &stale).await, 409, "Conflict")?;
    let bad = json!({"spec": {"ships": 300}});
    refused(fleets.patch("plain", &PatchParams::default(), &Patch::Merge(&bad)).await, 422, "Invalid")?;
    let strict = PatchParams { field_validation: Some(ValidationDirective::Strict), ..PatchParams::default() };
    let typo = json!({"spec": {"sips": 1}});
    refused(fleets.patch("plain", &strict, &Patch::Merge(&typo)).await, 422, "Invalid")?;
    let elected = json!({"spec": {"admiral": {"elected": null, "named": "Ada"}}});
    let changed = fleets.patch("plain", &PatchParams::default(), &Patch::Merge(&elected)).await?;
    ensure!(changed.spec.admiral == Some(Admiral::Named("Ada".to_owned())), "{changed:?}");
    let steps = serde_json::from_value(json!([
        {"op": "test", "path": "/metadata/annotations", "value": null},
        {"op": "test", "path": "/spec/flag", "value": "blue"},
        {"op": "replace", "path": "/spec/flag", "value": "green"},
    ]))?;
    let changed = fleets.patch("plain", &PatchParams::default(), &Patch::<()>::Json(steps)).await?;
    ensure!(changed.spec.flag == "green", "{changed:?}");
    let by_flag = fleets.list(&ListParams::default().fields("spec.flag=green")).await?;
    ensure!(by_flag.items.len() == 1, "selected by a field of its own");
    ensure!(fleets.list(&ListParams::default().fields("spec.flag=blue")).await?.items.is_empty());
    let no_type = fleets.patch("plain", &PatchParams::default(), &Patch::Strategic(&bad)).await;
    refused(no_type, 415, "UnsupportedMediaType")?;
    fleets.delete("plain", &DeleteParams::default()).await?.map_left(|left| left.name_any());

    let maps = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    for number in 0..5 {
        let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": format!("page-{number}"),
            "labels": {"suite": "pages"}}, "data": {"n": number.to_string()}}))?;
        maps.create(&post, &map).await?;
    }
    let mut page = ListParams::default().labels("suite=pages").limit(2);
    let mut names = Vec::new();
    loop {
        let part = maps.list(&page).await?;
        names.extend(part.items.iter().map(ResourceExt::name_any));
        match part.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page.continue_token = Some(token),
            None => break,
        }
    }
    ensure!(names.len() == 5 && names.is_sorted(), "{names:?}");
    let strategic = json!({"metadata": {"finalizers": ["rust.example/a"]}, "data": {"m": "1"}});
    let map = maps.patch("page-0", &PatchParams::default(), &Patch::Strategic(&strategic)).await?;
    ensure!(map.data.as_ref().is_some_and(|data| data.len() == 2) && map.finalizers().len() == 1, "{map:?}");
    let freed = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["rust.example/a"]}});
    let map = maps.patch("page-0", &PatchParams::default(), &Patch::Strategic(&freed)).await?;
    ensure!(map.finalizers().is_empty(), "{map:?}");
    let metadata = maps.get_metadata("page-0").await?;
    ensure!(metadata.labels().get("suite").is_some_and(|suite| suite == "pages"));
    let all = ListParams::default().labels("suite=pages");
    maps.delete_collection(&DeleteParams::default(), &all).await?;
    ensure!(maps.list(&all).await?.items.is_empty());
    Ok(())
}

async fn controller(client: &Client) -> Result<()> {
    let fleets = Api::<Fleet>::namespaced(client.clone(), NAMESPACE);
    let maps = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    let labelled = watcher::Config::default().labels(LABEL);
    let ships = cache(maps.clone(), labelled.clone()).await?;
    // By a list that streams, and without what the objects hold.
    let streamed = cache(fleets.clone(), watcher::Config::default().streaming_lists()).await?;
    let metadata = cache(Api::<PartialObjectMeta<ConfigMap>>::namespaced(client.clone(), NAMESPACE), labelled).await?;
    let task = tokio::spawn(fleet::control(client.clone(), NAMESPACE));

    fleets.create(&PostParams::default(), &fleet("home", 3)).await?;
    until("three ships", &ships, |ships| ships.len() == 3).await?;
    until("three names", &metadata, |ships| ships.len() == 3).await?;
    let afloat = |n: i32| {
        move |fleets: &[std::sync::Arc<Fleet>]| {
            fleets.len() == 1 && fleets[0].status.as_ref().is_some_and(|status| status.afloat == n)
        }
    };
    until("the status says so", &streamed, afloat(3)).await?;
    let lost = maps.get(&ship("home", 1)).await?.uid();
    maps.delete(&ship("home", 1), &DeleteParams::default()).await?;
    let replaced = |map: &std::sync::Arc<ConfigMap>| map.name_any() == ship("home", 1) && map.uid() != lost;
    until("a lost ship is replaced", &ships, |ships| ships.len() == 3 && ships.iter().any(replaced)).await?;

    // Two managers: what is the controller's is refused, what is nobody's is kept.
    let foreign = |data: serde_json::Value| {
        let name = ship("home", 0);
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
        let maps = maps.clone();
        async move { maps.patch(&name, &PatchParams::apply("stranger"), &Patch::Apply(&body)).await }
    };
    refused(foreign(json!({"flag": "black"})).await, 409, "Conflict")?;
    foreign(json!({"cargo": "rum"})).await?;
    let flag = json!({"spec": {"flag": "yellow"}});
    fleets.patch("home", &PatchParams::default(), &Patch::Merge(&flag)).await?;
    let yellow = |map: &std::sync::Arc<ConfigMap>| map.data.as_ref().is_some_and(|data| data["flag"] == "yellow");
    until("the flag is changed", &ships, |ships| ships.iter().all(yellow)).await?;
    let shared = maps.get(&ship("home", 0)).await?;
    ensure!(shared.data.as_ref().is_some_and(|data| data["cargo"] == "rum"), "{shared:?}");
    let managers: Vec<&str> = shared.managed_fields().iter().filter_map(|entry| entry.manager.as_deref()).collect();
    ensure!(managers.len() == 2 && managers.contains(&MANAGER), "{managers:?}");

    let scale = json!({"spec": {"replicas": 1}});
    fleets.patch_scale("home", &PatchParams::default(), &Patch::Merge(&scale)).await?;
    until("one ship is left", &ships, |ships| ships.len() == 1).await?;
    until("the status says so", &streamed, afloat(1)).await?;
    ensure!(fleets.get_scale("home").await?.status.is_some_and(|status| status.replicas == 1));

    let uid = fleets.get("home").await?.uid();
    let foreground = DeleteParams::foreground();
    let deletion = delete_and_finalize(fleets.clone(), "home", &foreground);
    within("the fleet goes", deletion).await?.context("delete")?;
    until("its ships go with it", &ships, <[_]>::is_empty).await?;
    until("the cache forgets it", &streamed, <[_]>::is_empty).await?;
    let note = maps.get("home-farewell").await?;
    ensure!(
        note.data.as_ref().and_then(|data| data.get("uid")) == uid.as_ref(),
        "the finalizer had its turn: {note:?}"
    );
    ensure!(!task.is_finished(), "the controller still runs");
    task.abort();
    Ok(())
}

/// A watch tells of changes since a version, and ends when it is told to.
async fn watches(client: &Client) -> Result<()> {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    let version = maps.list(&ListParams::default()).await?.metadata.resource_version.context("a version")?;
    let only = kube::api::WatchParams::default().fields("metadata.name=seen").timeout(30);
    let mut seen = Vec::new();
    let mut changes = maps.watch(&only, &version).await?.boxed();
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "seen"}}))?;
    maps.create(&PostParams::default(), &map).await?;
    let data = json!({"data": {"a": "b"}});
    maps.patch("seen", &PatchParams::default(), &Patch::Merge(&data)).await?;
    maps.delete("seen", &DeleteParams::default()).await?.map_left(|_| ());
    while let Some(event) = changes.try_next().await? {
        seen.push(match event {
            kube::api::WatchEvent::Added(_) => "added",
            kube::api::WatchEvent::Modified(_) => "modified",
            kube::api::WatchEvent::Deleted(_) => break,
            other => bail!("{other:?}"),
        });
    }
    ensure!(seen == ["added", "modified"], "{seen:?}");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let client = Client::try_default().await?;
    ensure!(client.apiserver_version().await?.major == "1");
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    define(&client).await.context("definition")?;
    objects(&client).await.context("objects")?;
    watches(&client).await.context("watches")?;
    controller(&client).await.context("controller")?;
    pods::streams(&client, NAMESPACE).await.context("pods")?;
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    within("withdrawn", delete_and_finalize(definitions, DEFINITION, &DeleteParams::default()).boxed()).await??;
    refused(Api::<Fleet>::namespaced(client, NAMESPACE).list(&ListParams::default()).await, 404, "NotFound")?;
    Ok(())
}
