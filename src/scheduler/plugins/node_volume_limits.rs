use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use skiff_api::{ObjectKey, volume as rules};

use crate::framework::{ClusterFilter, Counted, Happening, Refusal};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};
use crate::volumes::PodVolumes;

/// A node takes so many volumes of a CSI driver, and no more.
pub struct NodeVolumeLimits;

impl ClusterFilter for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn count(&self, pod: &PodInfo, all: &Snapshot) -> Option<Box<dyn Counted>> {
        if all.volumes.limits.is_empty() {
            return None;
        }
        let mut attached = Attached { volumes: all.volumes.clone(), on: HashMap::new() };
        // Those without a limit count nothing.
        for node in &all.nodes {
            node.pods.values().for_each(|other| attached.shift(pod, other, node, 1));
        }
        Some(Box::new(attached))
    }

    fn wakes(&self) -> Happening {
        Happening::NODE_ADDED.or(Happening::POD_GONE).or(Happening::CLAIMS).or(Happening::VOLUMES)
    }
}

#[derive(Clone)]
struct Attached {
    volumes: Arc<PodVolumes>,
    /// How many pods use a volume, by node; a volume counts once.
    on: HashMap<String, HashMap<(String, String), i64>>,
}

impl Attached {
    fn is_limited(&self, node: &str) -> bool {
        self.volumes.limits.keys().any(|(on, _)| on == node)
    }

    /// Driver and handle of each volume of a pod.
    fn of(&self, pod: &PodInfo) -> HashSet<(String, String)> {
        let key = |one: rules::PodClaim| ObjectKey::new(&pod.key.namespace, &one.claim);
        rules::claims_of(&pod.pod).filter_map(|one| self.volumes.handles.get(&key(one)).cloned()).collect()
    }
}

impl Counted for Attached {
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let none = HashMap::new();
        let there = self.on.get(node.name()).unwrap_or(&none);
        let mine = self.of(pod);
        for ((_, driver), limit) in self.volumes.limits.iter().filter(|((on, _), _)| on == node.name()) {
            let used = there.iter().filter(|((of, _), pods)| of == driver && **pods > 0).count();
            let new =
                mine.iter().filter(|volume| volume.0 == *driver && there.get(*volume).is_none_or(|n| *n < 1)).count();
            let made = self.volumes.provisioned_by(driver);
            if new + made > 0 && used + new + made > *limit {
                return Err(Refusal::until_pods_go("node(s) exceed max volume count"));
            }
        }
        Ok(())
    }

    fn shift(&mut self, _: &PodInfo, other: &PodInfo, node: &NodeInfo, by: i64) {
        if !self.is_limited(node.name()) {
            return;
        }
        let volumes = self.of(other);
        let on = self.on.entry(node.name().to_owned()).or_default();
        volumes.into_iter().for_each(|volume| *on.entry(volume).or_insert(0) += by);
    }

    fn copy(&self) -> Box<dyn Counted> {
        Box::new(self.clone())
    }
}
