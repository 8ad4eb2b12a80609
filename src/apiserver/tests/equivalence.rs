//! Whatever happens meanwhile: who lists and then watches ends with what there is.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::watches::Frames;
use super::{Cluster, labelled};

const SEEDS: u64 = 12;
const STEPS: usize = 60;
const NAMESPACES: [&str; 3] = ["sim", "sim-a", "sim0"];
const ALL: &str = "/api/v1/configmaps";

/// Name and namespace to the revision.
type View = BTreeMap<(String, String), String>;

fn key(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn revision(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned()
}

struct Simulation<'a> {
    cluster: &'a Cluster,
    random: StdRng,
}

impl Simulation<'_> {
    /// Creates, changes or deletes some object; its labels move it into and out of the selection.
    async fn write(&mut self) {
        let namespace = NAMESPACES[self.random.random_range(0..NAMESPACES.len())];
        let name = format!("o{}", self.random.random_range(0..8));
        let collection = format!("/api/v1/namespaces/{namespace}/configmaps");
        let path = format!("{collection}/{name}");
        let shown = if self.random.random_bool(0.7) { "yes" } else { "no" };
        let change =
            json!({"metadata": {"labels": {"shown": shown}}, "data": {"n": self.random.random::<u32>().to_string()}});
        // Conflicts, and objects that are there or are not, are part of it.
        match self.random.random_range(0..10) {
            0..4 => drop(self.cluster.ask("POST", &collection, labelled(&name, json!({"shown": shown}))).await),
            4..7 => drop(self.cluster.patch(&path, "merge", change).await),
            7..9 => drop(self.cluster.ask("DELETE", &path, Value::Null).await),
            _ => drop(self.cluster.ask("DELETE", &format!("{collection}?limit=2"), Value::Null).await),
        }
        if self.random.random_bool(0.02) {
            self.cluster.store.compact(self.cluster.store.revision());
        }
    }

    /// In chunks, with writes between them; starts over when the history is gone.
    async fn list(&mut self, selector: &str) -> (View, String) {
        'again: loop {
            let (mut view, mut token) = (View::new(), String::new());
            loop {
                let limit = self.random.random_range(0..6);
                let path = format!("{ALL}?limit={limit}&continue={token}&{selector}");
                let (status, list) = self.cluster.ask("GET", &path, Value::Null).await;
                if status == 410 {
                    assert!(!token.is_empty() && list["metadata"]["continue"].is_string(), "{list}");
                    continue 'again;
                }
                assert_eq!(status, 200, "{list}");
                for item in list["items"].as_array().expect("items") {
                    assert!(view.insert(key(item), revision(item)).is_none(), "twice: {item}");
                }
                match list["metadata"]["continue"].as_str() {
                    Some(next) => token = next.to_owned(),
                    None => return (view, revision(&list)),
                }
                for _ in 0..self.random.random_range(0..3) {
                    self.write().await;
                }
            }
        }
    }

    /// Takes changes until the object that ends the simulation is seen; lists again when it is told to.
    async fn follow(&mut self, selector: &str, mut view: View, mut at: String, end: &str) -> View {
        loop {
            let path = format!("{ALL}?watch=true&allowWatchBookmarks=true&resourceVersion={at}&{selector}");
            let mut frames = Frames::open(self.cluster, &path, "").await;
            let mut taken = 0;
            let cut_at = self.random.random_range(1..40);
            while let Some(frame) = frames.next().await {
                let object = &frame["object"];
                match frame["type"].as_str().expect("a type") {
                    "ERROR" => {
                        assert_eq!(object["code"], 410, "{frame}");
                        (view, at) = self.list(selector).await;
                        break;
                    }
                    "BOOKMARK" => at = revision(object),
                    "DELETED" => {
                        at = revision(object);
                        assert!(view.remove(&key(object)).is_some(), "it was not there: {frame}");
                    }
                    kind => {
                        at = revision(object);
                        let before = view.insert(key(object), at.clone());
                        assert_eq!(before.is_some(), kind == "MODIFIED", "{frame}");
                    }
                }
                if view.keys().any(|(_, name)| name == end) {
                    return view;
                }
                taken += 1;
                if taken >= cut_at {
                    // Its connection breaks.
                    break;
                }
            }
            if view.keys().any(|(_, name)| name == end) {
                return view;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lists_and_watches_ends_with_what_there_is() {
    let cluster = Cluster::start().await;
    for name in NAMESPACES {
        cluster.create("/api/v1/namespaces", json!({"metadata": {"name": name}})).await;
    }
    for seed in 0..SEEDS {
        let mut simulation = Simulation { cluster: &cluster, random: StdRng::seed_from_u64(seed) };
        let selector = ["", "labelSelector=shown%3Dyes", "fieldSelector=metadata.namespace%3Dsim"][seed as usize % 3];
        for _ in 0..STEPS / 2 {
            simulation.write().await;
        }
        let (view, at) = simulation.list(selector).await;
        for _ in 0..STEPS {
            simulation.write().await;
        }
        let end = format!("end-{seed}");
        let sentinel = labelled(&end, json!({"shown": "yes"}));
        cluster.create("/api/v1/namespaces/sim/configmaps", sentinel).await;
        let view = simulation.follow(selector, view, at, &end).await;
        let now = cluster.get(&format!("{ALL}?{selector}")).await;
        let now: View = now["items"].as_array().expect("items").iter().map(|o| (key(o), revision(o))).collect();
        assert_eq!(view, now, "seed {seed}");
        cluster.ask("DELETE", &format!("/api/v1/namespaces/sim/configmaps/{end}"), Value::Null).await;
    }
    cluster.stop().await;
}
