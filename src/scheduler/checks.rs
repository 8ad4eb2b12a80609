//! All filters for one pod, with what they have counted; and what they would say if pods came and went.

use std::sync::Arc;

use crate::framework::{ClusterFilter, Counted, Happening, Refusal};
use crate::plugins::{CLUSTER_FILTERS, FILTERS};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// A refusal and what may change it.
#[derive(Debug)]
pub struct Refused {
    pub refusal: Refusal,
    pub wakes: Happening,
}

pub struct Checks<'a> {
    pod: &'a PodInfo,
    all: &'a Snapshot,
    counted: Vec<(&'static dyn ClusterFilter, Box<dyn Counted>)>,
}

impl Clone for Checks<'_> {
    fn clone(&self) -> Self {
        let counted = self.counted.iter().map(|(plugin, counted)| (*plugin, counted.copy())).collect();
        Self { pod: self.pod, all: self.all, counted }
    }
}

impl<'a> Checks<'a> {
    pub fn new(pod: &'a PodInfo, all: &'a Snapshot) -> Self {
        let counted = CLUSTER_FILTERS.iter().filter_map(|plugin| Some((*plugin, plugin.count(pod, all)?))).collect();
        Self { pod, all, counted }
    }

    /// Whether the node will do now, and also when the pods have come that are to have it and that are no less
    /// important than this one.
    pub fn check(&self, node: &NodeInfo) -> Result<(), Refused> {
        let expected: Vec<&Arc<PodInfo>> = (self.all.nominated.iter())
            .filter(|nominated| nominated.node == node.name())
            .map(|nominated| &nominated.pod)
            .filter(|other| other.priority >= self.pod.priority && other.uid != self.pod.uid)
            .collect();
        if !expected.is_empty() {
            let (mut with, mut fuller) = (self.clone(), node.clone());
            expected.into_iter().for_each(|other| with.add(&mut fuller, other));
            with.check_now(&fuller)?;
        }
        self.check_now(node)
    }

    fn check_now(&self, node: &NodeInfo) -> Result<(), Refused> {
        for plugin in FILTERS {
            plugin.filter(self.pod, node).map_err(|refusal| Refused { refusal, wakes: plugin.wakes() })?;
        }
        for (plugin, counted) in &self.counted {
            counted.filter(self.pod, node).map_err(|refusal| Refused { refusal, wakes: plugin.wakes() })?;
        }
        Ok(())
    }

    /// As if the pod were on the node.
    pub fn add(&mut self, node: &mut NodeInfo, other: &Arc<PodInfo>) {
        node.add(other.clone());
        self.counted.iter_mut().for_each(|(_, counted)| counted.shift(self.pod, other, node, 1));
    }

    /// As if the pod had gone from the node.
    pub fn remove(&mut self, node: &mut NodeInfo, other: &PodInfo) {
        node.remove(&other.uid);
        self.counted.iter_mut().for_each(|(_, counted)| counted.shift(self.pod, other, node, -1));
    }
}
