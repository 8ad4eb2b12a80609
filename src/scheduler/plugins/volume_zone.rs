use std::sync::Arc;

use crate::framework::{ClusterFilter, Counted, Happening, Refusal};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};
use crate::volumes::PodVolumes;

/// Volumes that are labelled with zones are used in these.
pub struct VolumeZone;

/// Each with its older name.
const TOPOLOGIES: [(&str, &str); 2] = [
    ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
];

impl ClusterFilter for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn count(&self, _: &PodInfo, all: &Snapshot) -> Option<Box<dyn Counted>> {
        let zoned = all.volumes.bound.iter().any(|volume| {
            let labels = volume.metadata.labels.as_ref();
            TOPOLOGIES.iter().any(|(key, old)| labels.is_some_and(|l| l.contains_key(*key) || l.contains_key(*old)))
        });
        zoned.then(|| Box::new(Zoned(all.volumes.clone())) as Box<dyn Counted>)
    }

    fn wakes(&self) -> Happening {
        Happening::NODE_ADDED.or(Happening::NODE_LABELS).or(Happening::CLAIMS).or(Happening::VOLUMES)
    }
}

struct Zoned(Arc<PodVolumes>);

impl Counted for Zoned {
    fn filter(&self, _: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let of_node = |(key, old): (&str, &str)| node.label(key).or_else(|| node.label(old));
        // A node without zones takes all.
        if TOPOLOGIES.iter().all(|topology| of_node(*topology).is_none()) {
            return Ok(());
        }
        let fits = self.0.bound.iter().flat_map(|volume| &volume.metadata.labels).all(|labels| {
            TOPOLOGIES.iter().all(|(key, old)| {
                let Some(zones) = labels.get(*key).or_else(|| labels.get(*old)) else { return true };
                of_node((key, old)).is_some_and(|zone| zones.split("__").any(|one| one == zone))
            })
        });
        if fits { Ok(()) } else { Err(Refusal::final_("node(s) had no available volume zone")) }
    }

    /// Other pods have no part in it.
    fn shift(&mut self, _: &PodInfo, _: &PodInfo, _: &NodeInfo, _: i64) {}

    fn copy(&self) -> Box<dyn Counted> {
        Box::new(Self(self.0.clone()))
    }
}
