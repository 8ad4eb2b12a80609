//! What a pod's claims and volumes say about the nodes that it may run on, and the binding of those that wait for it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use skiff_api::{ObjectKey, volume as rules};
use skiff_base::chain;
use skiff_client::{Client, Informers, Lister};
use tokio::sync::watch;

use crate::framework::Happening;
use crate::snapshot::{NodeInfo, PodInfo};

/// As upstream: how long a pod's volumes may take before it is scheduled anew.
const BINDING_TIMEOUT: Duration = Duration::from_secs(600);

/// The volumes of the pod that is decided on, unchanged while that lasts.
#[derive(Debug, Default)]
pub struct PodVolumes {
    /// Why no node will do, whichever.
    pub trouble: Option<String>,
    /// Those of bound claims.
    pub bound: Vec<Arc<PersistentVolume>>,
    /// A claim is bound to a volume that there is not.
    pub missing: bool,
    delayed: Vec<Delayed>,
    /// Where volumes for those are chosen from.
    choice: Vec<Arc<PersistentVolume>>,
    /// Promised to claims of other pods, by name.
    taken: HashSet<String>,
    /// Claims that one pod alone may use.
    pub exclusive: Vec<ObjectKey>,
    /// How many volumes of a driver a node takes, by node and driver; of the pod's drivers.
    pub limits: HashMap<(String, String), usize>,
    /// Driver and handle of the volumes of claims, where there are limits.
    pub handles: HashMap<ObjectKey, (String, String)>,
}

#[derive(Debug)]
struct Delayed {
    claim: Arc<PersistentVolumeClaim>,
    class: Option<Arc<StorageClass>>,
}

/// What is to be written once the node is known.
#[derive(Debug, Default, Clone)]
pub struct Bindings {
    volumes: Vec<(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>)>,
    provisions: Vec<Arc<PersistentVolumeClaim>>,
}

impl Bindings {
    pub fn is_empty(&self) -> bool {
        self.volumes.is_empty() && self.provisions.is_empty()
    }

    /// The names of the volumes.
    pub fn volumes(&self) -> impl Iterator<Item = &str> {
        self.volumes.iter().filter_map(|(_, volume)| volume.metadata.name.as_deref())
    }
}

impl PodVolumes {
    /// Whether nodes have nothing to say about them.
    pub fn is_empty(&self) -> bool {
        self.bound.is_empty() && self.delayed.is_empty() && !self.missing
    }

    /// How many volumes of the driver are to be made for the pod.
    pub fn provisioned_by(&self, driver: &str) -> usize {
        let makes = |one: &&Delayed| one.class.as_ref().is_some_and(|class| class.provisioner == driver);
        self.delayed.iter().filter(makes).count()
    }

    /// Chooses volumes for the claims that wait for a node; else upstream's words for why there are none.
    pub fn bindings_on(&self, node: &NodeInfo) -> Result<Bindings, &'static str> {
        let mut bindings = Bindings::default();
        let mut chosen: HashSet<String> = HashSet::new();
        for Delayed { claim, class } in &self.delayed {
            if let Some(selected) = rules::selected_node(claim)
                && !selected.is_empty()
            {
                // Under way already, for that node.
                if selected != node.name() {
                    return Err("node(s) didn't find available persistent volumes to bind");
                }
                bindings.provisions.push(claim.clone());
                continue;
            }
            let taken = |name: &str| chosen.contains(name) || self.taken.contains(name);
            if let Some(volume) = rules::find_match(claim, &self.choice, rules::Look::On { node, taken: &taken }) {
                chosen.insert(volume.metadata.name.clone().unwrap_or_default());
                bindings.volumes.push((claim.clone(), volume));
            } else if class.as_ref().is_some_and(|class| provisions(class, node)) {
                bindings.provisions.push(claim.clone());
            } else {
                return Err("node(s) didn't find available persistent volumes to bind");
            }
        }
        Ok(bindings)
    }
}

/// Whether volumes of the class can be made for the node.
fn provisions(class: &StorageClass, node: &NodeInfo) -> bool {
    let topologies = class.allowed_topologies.as_deref().unwrap_or_default();
    let allowed = topologies.is_empty()
        || topologies.iter().any(|term| {
            let expressions = term.match_label_expressions.as_deref().unwrap_or_default();
            expressions
                .iter()
                .all(|one| node.label(&one.key).is_some_and(|value| one.values.iter().any(|v| v == value)))
        });
    !class.provisioner.is_empty() && class.provisioner != rules::NO_PROVISIONER && allowed
}

/// What is known of claims, volumes and classes.
pub struct Storage {
    claims: Lister<PersistentVolumeClaim>,
    volumes: Lister<PersistentVolume>,
    classes: Lister<StorageClass>,
    csi_nodes: Lister<CSINode>,
    /// Told of every change, for those who wait for a binding.
    changes: watch::Sender<()>,
}

impl Storage {
    pub fn new(informers: &Informers) -> Self {
        Self {
            claims: informers.lister(),
            volumes: informers.lister(),
            classes: informers.lister(),
            csi_nodes: informers.lister(),
            changes: watch::channel(()).0,
        }
    }

    /// `happened` is called for every change that may let a refused pod in.
    pub fn subscribe(self: &Arc<Self>, happened: impl Fn(Happening) + Clone + Send + Sync + 'static) {
        let (this, tell) = (Arc::downgrade(self), happened.clone());
        self.claims.subscribe(move |_| {
            if let Some(this) = this.upgrade() {
                this.poke();
            }
            tell(Happening::CLAIMS);
        });
        let (this, tell) = (Arc::downgrade(self), happened.clone());
        self.volumes.subscribe(move |_| {
            if let Some(this) = this.upgrade() {
                this.poke();
            }
            tell(Happening::VOLUMES);
        });
        let tell = happened.clone();
        self.classes.subscribe(move |_| happened(Happening::CLASSES));
        // What they take may be more now.
        self.csi_nodes.subscribe(move |_| tell(Happening::VOLUMES));
    }

    /// Has those look again who wait for a binding.
    pub fn poke(&self) {
        self.changes.send_replace(());
    }

    pub async fn synced(&self) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.csi_nodes.synced().await;
    }

    /// `taken`: the volumes that were promised and that no informer shows as bound yet, by name.
    pub fn of(&self, pod: &PodInfo, taken: &HashMap<String, String>) -> PodVolumes {
        let mut found = PodVolumes::default();
        for one in rules::claims_of(&pod.pod) {
            if let Err(why) = self.look(pod, &one, &mut found) {
                found.trouble = Some(why);
                return found;
            }
        }
        if !found.delayed.is_empty() {
            // The smallest first, so that the larger volumes are left for the larger claims.
            found.delayed.sort_by_key(|delayed| rules::requested(&delayed.claim));
            found.choice = self.volumes.list();
            found.taken = taken.iter().filter(|(_, by)| **by != pod.uid).map(|(name, _)| name.clone()).collect();
        }
        self.limit(&mut found);
        found
    }

    /// What nodes take of the drivers that the pod's volumes have.
    fn limit(&self, found: &mut PodVolumes) {
        let csi = |volume: &PersistentVolume| volume.spec.as_ref().and_then(|spec| spec.csi.clone());
        let bound = found.bound.iter().filter_map(|volume| Some(csi(volume)?.driver));
        let made = found.delayed.iter().filter_map(|one| Some(one.class.as_ref()?.provisioner.clone()));
        let drivers: HashSet<String> = bound.chain(made).collect();
        if drivers.is_empty() {
            return;
        }
        for node in self.csi_nodes.list() {
            for driver in node.spec.drivers.iter().filter(|driver| drivers.contains(&driver.name)) {
                let count = driver.allocatable.as_ref().and_then(|allocatable| allocatable.count);
                if let Some(count) = count.and_then(|count| usize::try_from(count).ok()) {
                    let name = node.metadata.name.clone().unwrap_or_default();
                    found.limits.insert((name, driver.name.clone()), count);
                }
            }
        }
        if found.limits.is_empty() {
            return;
        }
        for volume in self.volumes.list() {
            let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            if let (Some(source), Some(claim)) = (csi(&volume), reference)
                && let (Some(namespace), Some(name)) = (&claim.namespace, &claim.name)
            {
                found.handles.insert(ObjectKey::new(namespace, name), (source.driver, source.volume_handle));
            }
        }
    }

    fn look(&self, pod: &PodInfo, one: &rules::PodClaim, found: &mut PodVolumes) -> Result<(), String> {
        let key = ObjectKey::new(&pod.key.namespace, &one.claim);
        let name = &one.claim;
        let claim = self.claims.get(&key).ok_or_else(|| match one.ephemeral {
            true => format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"),
            false => format!("persistentvolumeclaim {name:?} not found"),
        })?;
        if claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Lost")) {
            let volume = rules::volume_name(&claim);
            return Err(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"));
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
        }
        if one.ephemeral {
            rules::is_for_pod(&pod.pod, &claim)?;
        }
        if rules::access_modes(&claim).iter().any(|mode| mode == "ReadWriteOncePod") {
            found.exclusive.push(key);
        }
        if rules::is_fully_bound(&claim) {
            match self.volumes.get(&ObjectKey::cluster(rules::volume_name(&claim))) {
                Some(volume) => found.bound.push(volume),
                None => found.missing = true,
            }
            return Ok(());
        }
        let class = self.classes.get(&ObjectKey::cluster(rules::class_of_claim(&claim)));
        let waits = class.as_ref().is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
        if !waits || !rules::volume_name(&claim).is_empty() {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        found.delayed.push(Delayed { claim, class });
        Ok(())
    }

    /// Has the volumes bound, and waits until they are. `goes_on` says whether the pod is still to be had.
    pub async fn bind(
        &self,
        client: &Client,
        node: &NodeInfo,
        bindings: &Bindings,
        goes_on: impl Fn() -> bool,
    ) -> Result<(), String> {
        let failed = |error: skiff_client::Error| format!("binding volumes: {}", chain(&error));
        for (claim, volume) in &bindings.volumes {
            if let Some(changed) = plan_reserved(volume, claim) {
                client.all::<PersistentVolume>().update(&changed).await.map_err(failed)?;
            }
        }
        for claim in &bindings.provisions {
            if rules::selected_node(claim) != Some(node.name()) {
                let mut changed = (**claim).clone();
                let annotations = changed.metadata.annotations.get_or_insert_default();
                annotations.insert(rules::SELECTED_NODE.to_owned(), node.name().to_owned());
                client.all::<PersistentVolumeClaim>().update(&changed).await.map_err(failed)?;
            }
        }
        let mut changes = self.changes.subscribe();
        let mut asked = HashSet::new();
        let all = async {
            loop {
                if !goes_on() {
                    return Err("pod does not exist any more".to_owned());
                }
                if self.is_done(node, bindings, &mut asked)? {
                    return Ok(());
                }
                if changes.changed().await.is_err() {
                    return Err("the scheduler stops".to_owned());
                }
            }
        };
        match tokio::time::timeout(BINDING_TIMEOUT, all).await {
            Ok(result) => result.map_err(|why| format!("binding volumes: {why}")),
            Err(_) => Err("binding volumes: context deadline exceeded".to_owned()),
        }
    }

    /// Whether all are bound; `asked` are the claims that have been seen with their node.
    fn is_done(&self, node: &NodeInfo, bindings: &Bindings, asked: &mut HashSet<ObjectKey>) -> Result<bool, String> {
        let mut all = true;
        let statics = bindings.volumes.iter().map(|(claim, _)| (claim, false));
        for (claim, provisioned) in statics.chain(bindings.provisions.iter().map(|claim| (claim, true))) {
            let key = ObjectKey::of(&**claim);
            let name = &key.name;
            let now = self.claims.get(&key).filter(|now| now.metadata.uid == claim.metadata.uid);
            let now = now.ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
            if provisioned {
                match rules::selected_node(&now) {
                    Some(selected) if selected == node.name() => drop(asked.insert(key.clone())),
                    // Who can't make the volume takes the node away, and another one is chosen.
                    _ if asked.contains(&key) => return Err(format!("provisioning failed for PVC {name:?}")),
                    _ => all = false,
                }
            }
            if !rules::is_fully_bound(&now) {
                all = false;
                continue;
            }
            let volume = self.volumes.get(&ObjectKey::cluster(rules::volume_name(&now)));
            match volume {
                Some(volume) if rules::is_reachable(&volume, node) => {}
                Some(volume) => {
                    let volume = volume.metadata.name.as_deref().unwrap_or_default();
                    return Err(format!(
                        "pv {volume:?} node affinity doesn't match node {:?}: no matching NodeSelectorTerms",
                        node.name()
                    ));
                }
                None => all = false,
            }
        }
        Ok(all)
    }
}

/// The volume as kept for the claim, if it is not yet.
fn plan_reserved(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if reference.is_some_and(|reference| reference.uid == claim.metadata.uid) {
        return None;
    }
    let mut changed = volume.clone();
    if reference.is_none() {
        let annotations = changed.metadata.annotations.get_or_insert_default();
        annotations.insert(rules::BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    changed.spec.get_or_insert_default().claim_ref = Some(rules::claim_reference(claim));
    Some(changed)
}

#[cfg(test)]
mod tests;
