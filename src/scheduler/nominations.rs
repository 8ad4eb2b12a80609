//! Which pods on no node are to have which one, once others have gone from there.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::snapshot::{Nominated, PodInfo};

#[derive(Default)]
pub struct Nominations {
    /// By uid of the pod.
    pods: BTreeMap<String, Nominated>,
    /// The same for snapshots.
    shared: Arc<Vec<Nominated>>,
}

impl Nominations {
    pub fn shared(&self) -> Arc<Vec<Nominated>> {
        self.shared.clone()
    }

    pub fn put(&mut self, node: &str, pod: Arc<PodInfo>) {
        self.pods.insert(pod.uid.clone(), Nominated { node: node.to_owned(), pod });
        self.share();
    }

    /// Says whether there was one.
    pub fn remove(&mut self, uid: &str) -> bool {
        let was = self.pods.remove(uid).is_some();
        if was {
            self.share();
        }
        was
    }

    /// What the API server shows: `before` on the last occasion, now on the pod itself. Without a change
    /// there, what was decided since stands.
    pub fn see(&mut self, before: Option<&str>, pod: &Arc<PodInfo>) {
        let now = pod.nominated_node();
        if now != before {
            match now {
                Some(node) => self.put(node, pod.clone()),
                None => drop(self.remove(&pod.uid)),
            }
        } else if let Some(nominated) = self.pods.get_mut(&pod.uid) {
            nominated.pod = pod.clone();
            self.share();
        }
    }

    /// Takes the node away from the less important pods that were to have it, and gives these.
    pub fn take_from_lesser(&mut self, node: &str, priority: i32) -> Vec<Arc<PodInfo>> {
        let lesser = |nominated: &&Nominated| nominated.node == node && nominated.pod.priority < priority;
        let pods: Vec<Arc<PodInfo>> = self.pods.values().filter(lesser).map(|n| n.pod.clone()).collect();
        for pod in &pods {
            self.pods.remove(&pod.uid);
        }
        if !pods.is_empty() {
            self.share();
        }
        pods
    }

    fn share(&mut self) {
        self.shared = Arc::new(self.pods.values().cloned().collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::whole;
    use serde_json::json;

    fn pod(name: &str, priority: i32, node: Option<&str>) -> Arc<PodInfo> {
        whole(json!({"metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"containers": [], "priority": priority}, "status": {"nominatedNodeName": node}}))
    }

    fn shown(nominations: &Nominations) -> String {
        let shared = nominations.shared();
        shared.iter().map(|n| format!("{}:{}", n.pod.uid, n.node)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_latest_word_counts() {
        let mut nominations = Nominations::default();
        nominations.see(None, &pod("a", 1, Some("n")));
        assert_eq!(shown(&nominations), "a:n");
        // Decided, and not yet written.
        nominations.put("m", pod("a", 1, Some("n")));
        nominations.see(Some("n"), &pod("a", 1, Some("n")));
        assert_eq!(shown(&nominations), "a:m");
        nominations.see(Some("n"), &pod("a", 1, Some("m")));
        assert_eq!(shown(&nominations), "a:m");
        nominations.see(Some("m"), &pod("a", 1, None));
        assert_eq!(shown(&nominations), "");
        assert!(!nominations.remove("a"));
    }

    #[test]
    fn the_more_important_takes_it() {
        let mut nominations = Nominations::default();
        for (name, priority, node) in [("a", 1, "n"), ("b", 2, "n"), ("c", 3, "n"), ("d", 1, "m")] {
            nominations.put(node, pod(name, priority, None));
        }
        let taken: Vec<_> = nominations.take_from_lesser("n", 3).iter().map(|pod| pod.uid.clone()).collect();
        assert_eq!((taken.join(" "), shown(&nominations)), ("a b".to_owned(), "c:n d:m".to_owned()));
    }
}
