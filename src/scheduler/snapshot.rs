//! What a scheduling cycle sees: nodes with the pods on them, unchanged while it decides.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, PodSpec, Taint};
use skiff_api::ObjectKey;
use skiff_api::host_port::HostPort;
use skiff_api::node_selector::Selected;
use skiff_api::selector::LabelSelector;

use crate::resources::{Resources, requests, requests_or_modest, whole};
use crate::terms::{Labels, Namespaces, Terms};
use crate::volumes::PodVolumes;

/// A pod with what plugins want to know of it, worked out once.
#[derive(Debug)]
pub struct PodInfo {
    pub pod: Arc<Pod>,
    pub uid: String,
    pub key: ObjectKey,
    pub priority: i32,
    pub requests: Resources,
    /// For comparing nodes; see [`requests_or_modest`].
    pub modest: Resources,
    pub ports: Vec<HostPort>,
    /// What it says about other pods.
    pub terms: Terms,
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            key: ObjectKey::of(&*pod),
            priority: pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0),
            requests: requests(&pod),
            modest: requests_or_modest(&pod),
            ports: pod.spec.as_ref().map(HostPort::of).unwrap_or_default(),
            terms: Terms::of(&pod),
            pod,
        }
    }

    pub fn labels(&self) -> &Labels {
        static NONE: Labels = Labels::new();
        self.pod.metadata.labels.as_ref().unwrap_or(&NONE)
    }

    pub fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Whether it is going so that a more important one finds room.
    pub fn is_preempted(&self) -> bool {
        let conditions = self.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let is_why = |c: &PodCondition| {
            c.type_ == "DisruptionTarget" && c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler")
        };
        self.is_terminating() && conditions.into_iter().any(is_why)
    }

    /// The node that the API server shows it is to have.
    pub fn nominated_node(&self) -> Option<&str> {
        nominated_node(&self.pod)
    }

    /// Of an empty spec where the pod has none: the API server lets none through.
    pub fn spec(&self) -> &PodSpec {
        static NONE: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        self.pod.spec.as_ref().unwrap_or(&NONE)
    }
}

pub fn nominated_node(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.nominated_node_name.as_deref().filter(|name| !name.is_empty())
}

/// A node and what the pods on it take.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    /// Pods may be known before their node is.
    node: Option<Arc<Node>>,
    pub pods: HashMap<String, Arc<PodInfo>>,
    pub allocatable: Resources,
    pub allowed_pods: i64,
    pub requested: Resources,
    pub modest: Resources,
    /// Size by name of the images that the node holds.
    pub images: HashMap<String, i64>,
    /// How many of the pods say anything about other pods.
    pub with_terms: usize,
    /// How many of the pods keep others away.
    pub with_required_anti_affinity: usize,
}

impl NodeInfo {
    pub fn new() -> Self {
        Self {
            node: None,
            pods: HashMap::new(),
            allocatable: Resources::default(),
            allowed_pods: 0,
            requested: Resources::default(),
            modest: Resources::default(),
            images: HashMap::new(),
            with_terms: 0,
            with_required_anti_affinity: 0,
        }
    }

    #[cfg(test)]
    pub fn with_node(node: Arc<Node>) -> Self {
        let mut info = Self::new();
        info.set_node(Some(node));
        info
    }

    pub fn set_node(&mut self, node: Option<Arc<Node>>) {
        let status = node.as_ref().and_then(|node| node.status.as_ref());
        let allocatable = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        self.allocatable = Resources::from_amounts(allocatable);
        self.allowed_pods = allocatable.and_then(|a| a.get("pods")).map_or(0, |amount| whole(&amount.0));
        let images = status.and_then(|s| s.images.as_ref());
        self.images = images
            .into_iter()
            .flatten()
            .flat_map(|image| {
                let size = image.size_bytes.unwrap_or(0);
                image.names.iter().flatten().map(move |name| (name.clone(), size))
            })
            .collect();
        self.node = node;
    }

    pub fn is_known(&self) -> bool {
        self.node.is_some()
    }

    /// In a [`Snapshot`] every node is known.
    pub fn node(&self) -> &Node {
        self.node.as_deref().expect("snapshots hold known nodes only")
    }

    pub fn name(&self) -> &str {
        self.node().metadata.name.as_deref().unwrap_or_default()
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.node().metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    pub fn taints(&self) -> &[Taint] {
        self.node().spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
    }

    pub fn is_unschedulable(&self) -> bool {
        self.node().spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false)
    }

    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.remove(&pod.uid);
        self.requested.add(&pod.requests);
        self.modest.add(&pod.modest);
        self.with_terms += usize::from(!pod.terms.are_none());
        self.with_required_anti_affinity += usize::from(!pod.terms.required_anti_affinity.is_empty());
        self.pods.insert(pod.uid.clone(), pod);
    }

    pub fn remove(&mut self, uid: &str) {
        let Some(old) = self.pods.remove(uid) else { return };
        self.requested.subtract(&old.requests);
        self.modest.subtract(&old.modest);
        self.with_terms -= usize::from(!old.terms.are_none());
        self.with_required_anti_affinity -= usize::from(!old.terms.required_anti_affinity.is_empty());
    }
}

impl Selected for NodeInfo {
    fn name(&self) -> &str {
        Self::name(self)
    }

    fn label(&self, key: &str) -> Option<&str> {
        Self::label(self, key)
    }
}

/// A pod that is on no node, with the node that it is to have when others have gone from there.
#[derive(Debug, Clone)]
pub struct Nominated {
    pub node: String,
    pub pod: Arc<PodInfo>,
}

/// All known nodes, by name, and what else a decision looks at.
#[derive(Clone)]
pub struct Snapshot {
    pub nodes: Vec<Arc<NodeInfo>>,
    pub namespaces: Arc<Namespaces>,
    pub nominated: Arc<Vec<Nominated>>,
    /// The pods that do the same as the one that is decided on, by its services and its controller.
    pub equals: LabelSelector,
    /// Those of the pod that is decided on.
    pub volumes: Arc<PodVolumes>,
}

impl Snapshot {
    pub fn node(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.nodes.binary_search_by(|node| node.name().cmp(name)).ok().map(|at| &self.nodes[at])
    }

    pub fn nomination_of(&self, uid: &str) -> Option<&str> {
        self.nominated.iter().find(|nominated| nominated.pod.uid == uid).map(|nominated| &*nominated.node)
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            namespaces: Arc::default(),
            nominated: Arc::default(),
            equals: LabelSelector::nothing(),
            volumes: Arc::default(),
        }
    }
}
