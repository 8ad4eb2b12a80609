use skiff_api::{ObjectKey, volume as rules};

use crate::framework::{ClusterFilter, Counted, Happening, Refusal};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// A claim with the access mode `ReadWriteOncePod` is used by one pod at a time.
pub struct VolumeRestrictions;

impl ClusterFilter for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn count(&self, _: &PodInfo, all: &Snapshot) -> Option<Box<dyn Counted>> {
        if all.volumes.exclusive.is_empty() {
            return None;
        }
        let mut users = Users { claims: all.volumes.exclusive.clone(), count: 0 };
        let others = all.nodes.iter().flat_map(|node| node.pods.values());
        users.count = others.map(|other| users.of(other)).sum();
        Some(Box::new(users))
    }

    fn wakes(&self) -> Happening {
        Happening::POD_GONE.or(Happening::CLAIMS)
    }
}

#[derive(Clone)]
struct Users {
    claims: Vec<ObjectKey>,
    count: i64,
}

impl Users {
    /// How many of the claims a pod uses.
    fn of(&self, pod: &PodInfo) -> i64 {
        let used = |one: &rules::PodClaim| {
            self.claims.iter().any(|claim| claim.namespace == pod.key.namespace && *claim.name == *one.claim)
        };
        i64::try_from(rules::claims_of(&pod.pod).filter(used).count()).unwrap_or(i64::MAX)
    }
}

impl Counted for Users {
    fn filter(&self, _: &PodInfo, _: &NodeInfo) -> Result<(), Refusal> {
        if self.count == 0 {
            return Ok(());
        }
        let why = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
        Err(Refusal::until_pods_go(why))
    }

    fn shift(&mut self, _: &PodInfo, other: &PodInfo, _: &NodeInfo, by: i64) {
        self.count += by * self.of(other);
    }

    fn copy(&self) -> Box<dyn Counted> {
        Box::new(self.clone())
    }
}
