use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::CSIDriver;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skiff_api::ObjectKey;
use skiff_base::Scope;
use skiff_client::{Client, EventKind, EventRecorder, Lister};
use skiff_runtime::ContainerId;
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::admit::{self, Ports};
use crate::cpus::Cpus;
use crate::csi::Drivers;
use crate::devices::Devices;
use crate::engine::Engine;
use crate::metrics::Counters;
use crate::node;
use crate::options::Options;
use crate::pod::{self, PodUid, Role};
use crate::preempt;
use crate::pressure::condition::Pressure;
use crate::pulled::Pulled;
use crate::resize::{self, Capacity, Shares};
use crate::source::Sources;
use crate::token::Tokens;
use crate::userns::UserNamespaces;

/// What all pods of the node share.
pub(crate) struct Context {
    pub(crate) options: Options,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) client: Client,
    pub(crate) recorder: EventRecorder,
    pub(crate) services: Lister<Service>,
    pub(crate) runtime_classes: Lister<RuntimeClass>,
    pub(crate) config_maps: Sources<ConfigMap>,
    pub(crate) secrets: Sources<Secret>,
    pub(crate) tokens: Tokens,
    /// Drivers of volumes that run on this node, and what the cluster says of all drivers.
    pub(crate) csi: Drivers,
    pub(crate) csi_drivers: Lister<CSIDriver>,
    /// What plugins of this node give to pods.
    pub(crate) devices: Arc<Devices>,
    /// CPUs that containers have for themselves.
    pub(crate) cpus: Arc<Cpus>,
    /// What pods may use in all.
    pub(crate) allocatable: BTreeMap<String, Quantity>,
    /// Bytes.
    pub(crate) memory_capacity: i64,
    pub(crate) host: admit::Host,
    /// What pods have been promised of it.
    pub(crate) shares: Shares,
    /// Whose container it is: where the runtime's events go.
    pub(crate) routes: Mutex<HashMap<ContainerId, PodUid>>,
    /// Bounds the pulls that run at once.
    pub(crate) pulls: Semaphore,
    /// Who may use the images.
    pub(crate) pulled: Pulled,
    /// The host's ids of pods with user namespaces.
    pub(crate) user_namespaces: UserNamespaces,
    pub(crate) counters: Counters,
    pub(crate) pressure: Pressure,
    /// The machine goes down: pods end, and no new ones are taken.
    pub(crate) goes_down: AtomicBool,
    /// This node, as the API has it.
    pub(crate) nodes: Lister<Node>,
    /// For critical pods that the node has no room for.
    pub(crate) preemptions: mpsc::Sender<preempt::Request>,
    /// What pods have of the node's ports.
    pub(crate) ports: Ports,
    /// Told when an image came or went, and of whatever else the node's status tells.
    pub(crate) status_changed: Arc<Notify>,
    pub(crate) scope: Scope,
}

impl Context {
    pub(crate) fn event(&self, pod: &Pod, kind: EventKind, reason: &str, message: impl Into<String>) {
        self.recorder.record(EventRecorder::reference(pod), kind, reason, message);
    }

    pub(crate) fn node_event(&self, kind: EventKind, reason: &str, message: impl Into<String>) {
        self.recorder.record(node::reference(&self.options.node_name), kind, reason, message);
    }

    /// This node, as far as the API has told of it.
    pub(crate) fn node(&self) -> Option<Arc<Node>> {
        self.nodes.get(&ObjectKey::cluster(&self.options.node_name))
    }

    /// What the node has for all pods together.
    pub(crate) fn capacity(&self) -> Capacity {
        let node = self.node();
        let told = node.as_ref().and_then(|node| node.status.as_ref()?.allocatable.as_ref());
        resize::capacity(&self.allocatable, told, |name| self.devices.knows(name))
    }

    pub(crate) fn ready(&self) -> node::Readiness {
        if self.goes_down.load(Ordering::Relaxed) { node::GOES_DOWN } else { Ok(()) }
    }

    pub(crate) fn container_event(
        &self,
        pod: &Pod,
        role: Role,
        container: &str,
        kind: EventKind,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.recorder.record(pod::container_reference(pod, role, container), kind, reason, message);
    }

    pub(crate) fn route(&self, id: &ContainerId, uid: &PodUid) {
        self.routes.lock().expect("no holder of this lock panics").insert(id.clone(), uid.clone());
    }

    pub(crate) fn unroute(&self, id: &ContainerId) {
        self.routes.lock().expect("no holder of this lock panics").remove(id);
    }

    pub(crate) fn routed(&self, id: &ContainerId) -> Option<PodUid> {
        self.routes.lock().expect("no holder of this lock panics").get(id).cloned()
    }
}
