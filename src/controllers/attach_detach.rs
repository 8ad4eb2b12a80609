//! Attaches volumes of CSI drivers to the nodes of the pods that use them, and detaches them when no pod there wants them
//! any more and the node says that it has let go: by VolumeAttachment objects, which the driver's attacher acts on. A node
//! that can't say so keeps them for a while, or until somebody says that it is out of service. Attachments that somebody
//! else made, which their names tell, are none of its business.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::{ObjectKey, volume as rules};
use skiff_client::{Change, Client, DeleteOptions, EventKind, EventRecorder, Lister, Next, Queue, Reconciler, Result};
use tokio::time::Instant;

use crate::node_lifecycle::{is_out_of_service, is_ready};
use crate::persistent_volume::{PODS_BY_CLAIM, index_pods};
use crate::{Context, drive, pod};

/// How long a node that is not ready keeps what nobody there wants, upstream's `maxWaitForUnmountDuration`.
const MAX_WAIT: Duration = Duration::from_secs(6 * 60);
/// Our attachments by their volume.
const BY_VOLUME: &str = "volume";
/// Volumes by the claim that they refer to.
const BY_CLAIM: &str = "attach-claim";

pub fn start(context: &Context) {
    let volumes = context.informers.lister::<PersistentVolume>();
    let pods = context.informers.lister::<Pod>();
    let attachments = context.informers.lister::<VolumeAttachment>();
    let drivers = context.informers.lister::<CSIDriver>();
    let nodes = context.informers.lister::<Node>();
    index_pods(&pods);
    attachments.add_index(BY_VOLUME, |attachment| {
        let ours = attachment.metadata.name.as_deref().is_some_and(rules::is_attachment_name);
        attachment.spec.source.persistent_volume_name.clone().filter(|_| ours).into_iter().collect()
    });
    volumes.add_index(BY_CLAIM, |volume| claim_of(volume).filter(|_| is_csi(volume)).into_iter().collect());
    let queue: Queue<ObjectKey> = Queue::new(AttachDetach::NAME);
    let controller = Arc::new(AttachDetach {
        client: context.client("attachdetach-controller"),
        events: context.events("attachdetach-controller", "attachdetach-controller"),
        volumes: volumes.clone(),
        pods: pods.clone(),
        attachments: attachments.clone(),
        drivers: drivers.clone(),
        nodes: nodes.clone(),
        loose: Mutex::default(),
    });
    let adding = queue.clone();
    volumes.subscribe(move |change| {
        if is_csi(change.object()) {
            adding.add(ObjectKey::of(&**change.object()));
        }
    });
    let (adding, known) = (queue.clone(), volumes.clone());
    pods.subscribe(move |change| {
        let pod = change.object();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for one in rules::claims_of(pod) {
            for volume in known.indexed(BY_CLAIM, &ObjectKey::new(namespace, &one.claim).to_string()) {
                adding.add(ObjectKey::of(&*volume));
            }
        }
    });
    let (adding, telling) = (queue.clone(), controller.clone());
    attachments.subscribe(move |change| {
        telling.tell(change);
        if let Some(volume) = &change.object().spec.source.persistent_volume_name {
            adding.add(ObjectKey::cluster(volume));
        }
    });
    let (adding, known) = (queue.clone(), attachments.clone());
    nodes.subscribe(move |change| {
        let node = change.object();
        let told = |node: &Node| (in_use(node).to_vec(), is_ready(node), is_out_of_service(node));
        if matches!(change, Change::Modified { old, new } if told(old) == told(new)) {
            return;
        }
        let name = node.metadata.name.as_deref();
        for attachment in known.list().iter().filter(|one| Some(one.spec.node_name.as_str()) == name) {
            if let Some(volume) = &attachment.spec.source.persistent_volume_name {
                adding.add(ObjectKey::cluster(volume));
            }
        }
    });
    let (adding, known) = (queue.clone(), volumes.clone());
    drivers.subscribe(move |_| {
        // Hardly ever, and it may concern any volume.
        known.list().iter().filter(|volume| is_csi(volume)).for_each(|volume| adding.add(ObjectKey::of(&**volume)));
    });
    drive(context, controller, queue, 2, async move {
        volumes.synced().await;
        pods.synced().await;
        attachments.synced().await;
        drivers.synced().await;
        nodes.synced().await;
    });
}

fn is_csi(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some())
}

fn claim_of(volume: &PersistentVolume) -> Option<String> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(ObjectKey::new(reference.namespace.as_deref()?, reference.name.as_deref()?).to_string())
}

/// The volumes that a node has not let go of.
fn in_use(node: &Node) -> &[String] {
    node.status.as_ref().and_then(|status| status.volumes_in_use.as_deref()).unwrap_or_default()
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

struct AttachDetach {
    client: Client,
    events: EventRecorder,
    volumes: Lister<PersistentVolume>,
    pods: Lister<Pod>,
    attachments: Lister<VolumeAttachment>,
    drivers: Lister<CSIDriver>,
    nodes: Lister<Node>,
    /// Since when attachments that nodes still hold are wanted by nobody.
    loose: Mutex<HashMap<String, Instant>>,
}

/// What is to be done for one volume.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    /// Nodes.
    attach: Vec<String>,
    /// Names of attachments.
    detach: Vec<String>,
    /// Nodes that have to wait for another one to let go.
    waiting: Vec<String>,
    /// Nodes and names of attachments that nobody wants, and that the nodes have not let go of.
    held: Vec<(String, String)>,
}

/// `pods`: those that use the volume's claim. `attached`: nodes and names of its attachments. `held`: whether a node has it.
fn plan(
    volume: &PersistentVolume,
    pods: &[Arc<Pod>],
    attached: &[(String, String)],
    held: impl Fn(&str) -> bool,
) -> Plan {
    let staying = pods.iter().filter(|pod| !pod::is_over(pod));
    let wanted: BTreeSet<&str> = staying.filter_map(|pod| node_of(pod)).collect();
    let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    let single = modes.iter().all(|mode| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod");
    let mut plan = Plan::default();
    let has = |node: &str| attached.iter().any(|(on, _)| on == node);
    let mut taken = !attached.is_empty();
    for node in wanted.iter().copied().filter(|node| !has(node)) {
        if single && taken {
            plan.waiting.push(node.to_owned());
        } else {
            plan.attach.push(node.to_owned());
            taken = true;
        }
    }
    for (node, name) in attached.iter().filter(|(node, _)| !wanted.contains(node.as_str())) {
        if held(node) {
            plan.held.push((node.clone(), name.clone()));
        } else {
            plan.detach.push(name.clone());
        }
    }
    plan
}

/// What becomes of an attachment that a node has not let go of since then.
#[derive(Debug, PartialEq, Eq)]
enum Hold {
    /// The node is lost: the volume is taken from it.
    Force,
    Wait(Duration),
    /// Until the node says something.
    Keep,
}

fn plan_hold(node: Option<&Node>, held_for: Duration) -> Hold {
    let Some(node) = node else { return Hold::Force };
    match MAX_WAIT.saturating_sub(held_for) {
        _ if is_out_of_service(node) => Hold::Force,
        _ if is_ready(node) => Hold::Keep,
        Duration::ZERO => Hold::Force,
        left => Hold::Wait(left),
    }
}

impl Reconciler for AttachDetach {
    const NAME: &'static str = "persistentvolume-attach-detach-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let existing = self.attachments.indexed(BY_VOLUME, &key.name);
        let Some(volume) = self.volumes.get(key) else {
            for attachment in existing {
                self.detach(attachment.metadata.name.as_deref().unwrap_or_default()).await?;
            }
            return Ok(Next::Done);
        };
        let Some(source) = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref()) else { return Ok(Next::Done) };
        let driver = self.drivers.get(&ObjectKey::cluster(&source.driver));
        if driver.is_some_and(|driver| driver.spec.attach_required == Some(false)) {
            return Ok(Next::Done);
        }
        let pods = claim_of(&volume).map(|claim| self.pods.indexed(PODS_BY_CLAIM, &claim)).unwrap_or_default();
        let attached: Vec<(String, String)> = existing
            .iter()
            .map(|one| (one.spec.node_name.clone(), one.metadata.name.clone().unwrap_or_default()))
            .collect();
        let name = rules::name_in_use(&source.driver, &source.volume_handle);
        let held =
            |node: &str| self.nodes.get(&ObjectKey::cluster(node)).is_some_and(|node| in_use(&node).contains(&name));
        let plan = plan(&volume, &pods, &attached, held);
        for name in &plan.detach {
            self.detach(name).await?;
        }
        let next = self.hold(&attached, &plan.held).await?;
        for node in &plan.attach {
            let attachment = VolumeAttachment {
                metadata: ObjectMeta {
                    name: Some(rules::attachment_name(&source.volume_handle, &source.driver, node)),
                    ..ObjectMeta::default()
                },
                spec: VolumeAttachmentSpec {
                    attacher: source.driver.clone(),
                    node_name: node.clone(),
                    source: VolumeAttachmentSource {
                        persistent_volume_name: Some(key.name.to_string()),
                        inline_volume_spec: None,
                    },
                },
                status: None,
            };
            match self.client.all::<VolumeAttachment>().create(&attachment).await {
                Err(error) if !error.is_already_exists() => return Err(error),
                _ => {}
            }
        }
        for pod in pods.iter().filter(|pod| node_of(pod).is_some_and(|node| plan.waiting.iter().any(|w| w == node))) {
            let message = format!(
                "Multi-Attach error for volume {:?} Volume is already exclusively attached to one node and can't be \
                 attached to another",
                &*key.name
            );
            self.events.record(EventRecorder::reference(&**pod), EventKind::Warning, "FailedAttachVolume", message);
        }
        Ok(next)
    }
}

impl AttachDetach {
    /// Takes volumes from nodes that are lost; when to look again.
    async fn hold(&self, attached: &[(String, String)], held: &[(String, String)]) -> Result<Next> {
        let mut forced = Vec::new();
        let mut wait: Option<Duration> = None;
        {
            let mut loose = self.loose.lock().expect("no holder of this lock panics");
            for (_, name) in attached.iter().filter(|one| !held.contains(one)) {
                loose.remove(name);
            }
            for (node, name) in held {
                let since = *loose.entry(name.clone()).or_insert_with(Instant::now);
                match plan_hold(self.nodes.get(&ObjectKey::cluster(node)).as_deref(), since.elapsed()) {
                    Hold::Force => forced.push((node, name)),
                    Hold::Wait(left) => wait = Some(wait.map_or(left, |wait| wait.min(left))),
                    Hold::Keep => {}
                }
            }
        }
        for (node, name) in forced {
            tracing::warn!(node, attachment = name, "a volume is taken from a node that has not let go of it");
            self.detach(name).await?;
        }
        Ok(wait.map_or(Next::Done, Next::After))
    }

    async fn detach(&self, name: &str) -> Result<()> {
        match self.client.all::<VolumeAttachment>().delete(name, &DeleteOptions::default()).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Tells the pods what became of an attachment.
    fn tell(&self, change: &Change<VolumeAttachment>) {
        let (new, old) = match change {
            Change::Modified { old, new } => (new, old.status.clone().unwrap_or_default()),
            _ => return,
        };
        let status = new.status.clone().unwrap_or_default();
        let name = new.spec.source.persistent_volume_name.as_deref().unwrap_or_default();
        let error = |error: Option<k8s_openapi::api::storage::v1::VolumeError>| error.and_then(|error| error.message);
        let failed = error(status.attach_error).filter(|message| Some(message) != error(old.attach_error).as_ref());
        let (kind, reason, message) = match failed {
            Some(why) => (
                EventKind::Warning,
                "FailedAttachVolume",
                format!("AttachVolume.Attach failed for volume {name:?} : {why}"),
            ),
            None if status.attached && !old.attached => (
                EventKind::Normal,
                "SuccessfulAttachVolume",
                format!("AttachVolume.Attach succeeded for volume {name:?} "),
            ),
            None => return,
        };
        let claim = self.volumes.get(&ObjectKey::cluster(name)).and_then(|volume| claim_of(&volume));
        for pod in claim.map(|claim| self.pods.indexed(PODS_BY_CLAIM, &claim)).unwrap_or_default() {
            if node_of(&pod) == Some(&new.spec.node_name) {
                self.events.record(EventRecorder::reference(&*pod), kind, reason, &*message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::Stage;

    #[test]
    fn where_a_volume_is_to_be() {
        let held = std::cell::Cell::new("");
        let check = |modes: &[&str], pods: &[(&str, &str)], attached: &[&str], expect: (&[&str], &[&str], &[&str])| {
            let volume = serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {"accessModes": modes}}));
            let pods: Vec<Arc<Pod>> = pods
                .iter()
                .map(|(node, phase)| {
                    let pod = json!({"metadata": {}, "spec": {"containers": [], "nodeName": node}, "status": {"phase": phase}});
                    Arc::new(serde_json::from_value(pod).expect("a pod"))
                })
                .collect();
            let attached: Vec<_> = attached.iter().map(|node| ((*node).to_owned(), format!("at-{node}"))).collect();
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            let expect =
                Plan { attach: owned(expect.0), detach: owned(expect.1), waiting: owned(expect.2), held: Vec::new() };
            let mut found = plan(&volume.expect("a volume"), &pods, &attached, |node| node == held.get());
            let wanted = |node: &str| pods.iter().any(|pod| !pod::is_over(pod) && node_of(pod) == Some(node));
            let kept = attached.iter().any(|(node, _)| node == held.get() && !wanted(node));
            assert_eq!(!std::mem::take(&mut found.held).is_empty(), kept);
            assert_eq!(found, expect);
        };
        let (once, many) = (&["ReadWriteOnce"][..], &["ReadWriteMany"][..]);
        check(once, &[], &[], (&[], &[], &[]));
        check(once, &[("a", "Running"), ("a", "Pending")], &[], (&["a"], &[], &[]));
        check(once, &[("a", "Running")], &["a"], (&[], &[], &[]));
        check(once, &[("a", "Running"), ("b", "Pending")], &[], (&["a"], &[], &["b"]));
        check(once, &[("b", "Pending")], &["a"], (&[], &["at-a"], &["b"]));
        check(many, &[("a", "Running"), ("b", "Pending")], &["a"], (&["b"], &[], &[]));
        // What has ended wants nothing; what the node has stays.
        check(once, &[("a", "Succeeded")], &["a"], (&[], &["at-a"], &[]));
        held.set("a");
        check(once, &[("a", "Succeeded")], &["a"], (&[], &[], &[]));
        check(once, &[], &["a", "b"], (&[], &["at-b"], &[]));
        held.set("");
        check(once, &[("a", "Succeeded")], &[], (&[], &[], &[]));
        check(once, &[("", "Pending")], &["a"], (&[], &["at-a"], &[]));
    }

    #[test]
    fn what_lost_nodes_hold() {
        let node = |ready: &str, taint: &str| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "n"},
                "spec": {"taints": [{"key": taint, "effect": "NoExecute"}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
            .expect("a node")
        };
        let (minute, out) = (Duration::from_secs(60), "node.kubernetes.io/out-of-service");
        for (node, held_for, expect) in [
            (node("True", "other"), minute * 60, Hold::Keep),
            (node("Unknown", "other"), minute, Hold::Wait(minute * 5)),
            (node("Unknown", "other"), minute * 6, Hold::Force),
            (node("Unknown", out), Duration::ZERO, Hold::Force),
            (node("True", out), Duration::ZERO, Hold::Force),
        ] {
            assert_eq!(plan_hold(Some(&node), held_for), expect, "{node:?}");
        }
        assert_eq!(plan_hold(None, Duration::ZERO), Hold::Force);
    }

    #[tokio::test]
    async fn attaches_tells_and_detaches() {
        let stage = Stage::new();
        let context = stage.context();
        let volume = |name: &str, driver: &str| {
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
                "spec": {"claimRef": {"namespace": "n", "name": name}, "csi": {"driver": driver, "volumeHandle": name}}})
        };
        let pod = |claim: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": claim, "namespace": "n"}, "spec": {"containers": [],
                "nodeName": "m", "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}})
        };
        stage.put(json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "plain"},
            "spec": {"attachRequired": false}}));
        for (name, driver) in [("a", "plain"), ("b", "attaching")] {
            stage.put(volume(name, driver));
            stage.put(pod(name));
        }
        let attachment = |name: &str, volume: &str, node: &str| {
            json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": name},
                "spec": {"attacher": "x", "nodeName": node, "source": {"persistentVolumeName": volume}}})
        };
        let foreign = ["of-none", "of-this"];
        stage.put(attachment("of-none", "none", "m"));
        stage.put(attachment("of-this", "b", "elsewhere"));
        let leftover = rules::attachment_name("none", "attaching", "m");
        stage.put(attachment(&leftover, "none", "m"));
        start(&context);
        let everything =
            |fake: &skiff_client::fake::FakeTransport| fake.objects("/apis/storage.k8s.io/v1/volumeattachments");
        let all = |fake: &skiff_client::fake::FakeTransport| {
            let mut all = everything(fake);
            all.retain(|one| foreign.iter().all(|name| one["metadata"]["name"] != *name));
            all
        };
        let ours = rules::attachment_name("b", "attaching", "m");
        stage
            .until("the volume is attached, and one that is gone is not", |fake| {
                let all = all(fake);
                all.len() == 1 && all[0]["metadata"]["name"] == ours.as_str()
            })
            .await;
        let mut attachment: Value = all(&stage.fake).remove(0);
        attachment["apiVersion"] = json!("storage.k8s.io/v1");
        attachment["kind"] = json!("VolumeAttachment");
        attachment["status"] = json!({"attached": true});
        stage.put(attachment);
        let told = |fake: &skiff_client::fake::FakeTransport| {
            fake.objects("/api/v1/events").iter().any(|event| event["reason"] == "SuccessfulAttachVolume")
        };
        stage.until("the pod is told", told).await;
        assert_eq!(all(&stage.fake).len(), 1, "the other driver attaches nothing");
        stage.delete("/api/v1/namespaces/n/pods/b").await;
        stage.until("the volume is detached", |fake| all(fake).is_empty()).await;
        assert_eq!(everything(&stage.fake).len(), foreign.len(), "those of others stay");
        stage.end().await;
    }
}
