use std::sync::Arc;

use skiff_api::volume as rules;

use crate::framework::{ClusterFilter, Counted, Happening, PreFilter, Refusal};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};
use crate::volumes::PodVolumes;

/// The node reaches the pod's volumes, and there are or will be volumes for the claims that wait for a node.
pub struct VolumeBinding;

const WAKES: Happening = Happening::NODE_ADDED
    .or(Happening::NODE_LABELS)
    .or(Happening::CLAIMS)
    .or(Happening::VOLUMES)
    .or(Happening::CLASSES);

impl PreFilter for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn check(&self, _: &PodInfo, all: &Snapshot) -> Result<(), String> {
        all.volumes.trouble.clone().map_or(Ok(()), Err)
    }

    fn wakes(&self) -> Happening {
        WAKES
    }
}

impl ClusterFilter for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn count(&self, _: &PodInfo, all: &Snapshot) -> Option<Box<dyn Counted>> {
        (!all.volumes.is_empty()).then(|| Box::new(Reachable(all.volumes.clone())) as Box<dyn Counted>)
    }

    fn wakes(&self) -> Happening {
        WAKES
    }
}

struct Reachable(Arc<PodVolumes>);

impl Counted for Reachable {
    fn filter(&self, _: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        if self.0.missing {
            return Err(Refusal::final_("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"));
        }
        if !self.0.bound.iter().all(|volume| rules::is_reachable(volume, node)) {
            return Err(Refusal::final_("node(s) didn't match PersistentVolume's node affinity"));
        }
        self.0.bindings_on(node).map(drop).map_err(Refusal::final_)
    }

    /// Other pods have no part in it.
    fn shift(&mut self, _: &PodInfo, _: &PodInfo, _: &NodeInfo, _: i64) {}

    fn copy(&self) -> Box<dyn Counted> {
        Box::new(Self(self.0.clone()))
    }
}
