//! A CSI driver on a real node, from its registration to the last unmount. The driver is played by the test: it keeps
//! volumes in memory, mounts in the machine's namespace, and notes what it is asked.

#[path = "harness/grpc.rs"]
mod grpc;
mod harness;

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use grpc::{Listening, all, block, map, number, text};
use harness::{Machine, eventually};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(60);
const NAME: &str = "test.skiff.dev";

/// A method and its request.
type Asked = (String, Vec<u8>);

#[derive(Clone)]
struct Driver {
    name: &'static str,
    /// A process in the machine's namespaces.
    inside: i32,
    endpoint: String,
    /// In order.
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Driver {
    fn run(&self, script: &str) -> Result<(), String> {
        let target = self.inside.to_string();
        let output = Command::new("nsenter").args(["-t", &target, "--mount", "--", "sh", "-ec", script]).output();
        harness::result(&output.map_err(|e| e.to_string())?).map(drop)
    }

    fn answer(&self, method: &str, request: &[u8]) -> Result<Vec<u8>, String> {
        let (volume, staging, target) = (text(request, 1), text(request, 3), text(request, 4));
        match method {
            "GetInfo" => Ok([
                block(1, b"CSIPlugin"),
                block(2, self.name.as_bytes()),
                block(3, self.endpoint.as_bytes()),
                block(4, b"1.0.0"),
            ]
            .concat()),
            "NodeGetInfo" => {
                let zone = [block(1, b"test.skiff.dev/zone"), block(2, b"z")].concat();
                Ok([block(1, b"id-of-node"), number(2, 7), block(3, &block(1, &zone))].concat())
            }
            "NodeGetCapabilities" => {
                // Stages, and expands.
                Ok([1, 3].iter().flat_map(|kind| block(1, &block(1, &number(1, *kind)))).collect())
            }
            "NodeExpandVolume" => Ok(Vec::new()),
            "NodeStageVolume" => self.run(&format!("mount -t tmpfs {volume} {staging}")).map(|()| Vec::new()),
            "NodePublishVolume" if staging.is_empty() => {
                let own = format!("mkdir -p {target}; mount -t tmpfs {volume} {target}; echo inline > {target}/f");
                self.run(&own).map(|()| Vec::new())
            }
            "NodePublishVolume" => {
                self.run(&format!("mkdir -p {target}; mount --bind {staging} {target}")).map(|()| Vec::new())
            }
            "NodeUnpublishVolume" | "NodeUnstageVolume" => {
                self.run(&format!("umount {}", text(request, 2))).map(|()| Vec::new())
            }
            "NotifyRegistrationStatus" => Ok(Vec::new()),
            other => Err(format!("the driver knows no {other}")),
        }
    }

    /// Listens until the test ends.
    fn listen(&self, socket: PathBuf) -> Listening {
        let driver = self.clone();
        grpc::listen(
            socket,
            Arc::new(move |method, request| {
                let outcome = driver.answer(method, request);
                driver.asked.lock().expect("unpoisoned").push((method.to_owned(), request.to_vec()));
                outcome.into()
            }),
        )
    }

    fn asked(&self, method: &str) -> Vec<Vec<u8>> {
        let asked = self.asked.lock().expect("unpoisoned");
        asked.iter().filter(|(name, _)| name == method).map(|(_, request)| request.clone()).collect()
    }
}

fn volume(name: &str) -> String {
    format!(
        "apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  storageClassName: ''
  claimRef: {{namespace: default, name: {name}}}
  persistentVolumeReclaimPolicy: Retain
  csi: {{driver: {NAME}, volumeHandle: handle-{name}, fsType: tmpfs, volumeAttributes: {{colour: blue}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec: {{accessModes: [ReadWriteOnce], storageClassName: '', resources: {{requests: {{storage: 1Gi}}}}}}
---
"
    )
}

fn pod(name: &str, volume: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  securityContext: {{fsGroup: 4321}}
  volumes: [{{name: v, {volume}}}]
  containers:
  - name: c
    image: busybox:1.36
    volumeMounts: [{{name: v, mountPath: /v}}]
    command: [/bin/sh, -c, 'sleep 1000']
---
"
    )
}

#[test]
fn a_driver_serves_pods() {
    let mut machine = Machine::with_server();
    let kubelet = machine.directory.path().join("kubelet");
    let sockets = kubelet.join("plugins").join(NAME);
    std::fs::create_dir_all(&sockets).expect("a directory");
    // One that takes its registration, and then hangs.
    let hung = Driver {
        name: "hung.skiff.dev",
        inside: machine.inside.pid().as_raw(),
        endpoint: format!("/var/lib/kubelet/plugins/{NAME}/hung.sock"),
        asked: Arc::default(),
    };
    let _silent = std::os::unix::net::UnixListener::bind(sockets.join("hung.sock")).expect("a socket");
    let _hung = hung.listen(kubelet.join("plugins_registry").join("hung.sock"));
    eventually("it is asked who it is", LIMIT, || {
        if hung.asked("GetInfo").is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
    });
    let driver = Driver {
        name: NAME,
        inside: machine.inside.pid().as_raw(),
        endpoint: format!("/var/lib/kubelet/plugins/{NAME}/csi.sock"),
        asked: Arc::default(),
    };
    let _listening = driver.listen(sockets.join("csi.sock"));
    let _registering = driver.listen(kubelet.join("plugins_registry").join("test.sock"));
    let node = "{.spec.drivers[0].name} {.spec.drivers[0].nodeID} {.spec.drivers[0].topologyKeys[0]} {.spec.drivers[0].allocatable.count}";
    machine.until(&["csinode", "node-1"], node, "test.skiff.dev id-of-node test.skiff.dev/zone 7");
    machine.until(&["node", "node-1"], "{.metadata.labels.test\\.skiff\\.dev/zone}", "z");
    eventually("the driver is told", LIMIT, || {
        let told = driver.asked("NotifyRegistrationStatus");
        if told.iter().any(|status| text(status, 1) == "1") { Ok(()) } else { Err(format!("{told:?}")) }
    });
    // Its volumes are attached first: the test is the attacher, too.
    machine.apply(&format!("{}{}", volume("disk"), pod("first", "persistentVolumeClaim: {claimName: disk}")));
    let attachment = eventually("the attachment", LIMIT, || {
        let name = machine.jsonpath(&["volumeattachments"], "{.items[0].metadata.name}")?;
        if name.starts_with("csi-") { Ok(name) } else { Err(name) }
    });
    assert!(driver.asked("NodeStageVolume").is_empty());
    let attached = "{\"status\": {\"attached\": true, \"attachmentMetadata\": {\"path\": \"/dev/xyz\"}}}";
    machine.kubectl(&[
        "patch",
        "volumeattachment",
        &attachment,
        "--subresource=status",
        "--type=merge",
        "-p",
        attached,
    ]);
    machine.until(&["pod", "first"], "{.status.phase}", "Running");
    let in_use = "{.status.volumesInUse}";
    machine.until(&["node", "node-1"], in_use, "[\"kubernetes.io/csi/test.skiff.dev^handle-disk\"]");
    let staged = driver.asked("NodeStageVolume").remove(0);
    assert_eq!((text(&staged, 1).as_str(), map(&staged, 2)["path"].as_str()), ("handle-disk", "/dev/xyz"));
    assert_eq!(map(&staged, 6)["colour"], "blue");
    let published = driver.asked("NodePublishVolume").remove(0);
    assert_eq!(text(&published, 3), text(&staged, 3));
    let target = text(&published, 4);
    assert!(
        target.starts_with("/var/lib/kubelet/pods/") && target.ends_with("/volumes/kubernetes.io~csi/disk/mount"),
        "{target}"
    );
    // fsGroup, as there is a file system type and one writer.
    let inside = |script: &str| machine.kubectl(&["exec", "first", "--", "sh", "-c", script]);
    assert_eq!(inside("stat -c %g /v; echo kept > /v/f").trim(), "4321");
    // A second pod shares what is staged.
    machine.apply(&pod("second", "persistentVolumeClaim: {claimName: disk}"));
    machine.until(&["pod", "second"], "{.status.phase}", "Running");
    assert_eq!(machine.kubectl(&["exec", "second", "--", "cat", "/v/f"]), "kept\n");
    // Whoever made the volume makes it larger; the node does the rest, as the volume is used.
    let larger = r#"{"spec": {"capacity": {"storage": "2Gi"}}}"#;
    machine.kubectl(&["patch", "pv", "disk", "--type=merge", "-p", larger]);
    let pending = r#"{"status": {"allocatedResourceStatuses": {"storage": "NodeResizePending"},
        "conditions": [{"type": "FileSystemResizePending", "status": "True"}]}}"#;
    machine.kubectl(&["patch", "pvc", "disk", "--subresource=status", "--type=merge", "-p", pending]);
    // The node looks once a minute, and when the pod changes.
    machine.kubectl(&["label", "pod", "second", "look=again"]);
    let size = "{.status.capacity.storage} {.status.allocatedResourceStatuses.storage} {.status.conditions}";
    eventually("the claim has grown", LIMIT * 3, || match machine.jsonpath(&["pvc", "disk"], size)?.trim_end() {
        "2Gi" | "2Gi  []" => Ok(()),
        other => Err(other.to_owned()),
    });
    let expanded = driver.asked("NodeExpandVolume").remove(0);
    assert_eq!((text(&expanded, 1).as_str(), text(&expanded, 4)), ("handle-disk", text(&staged, 3)));
    assert_eq!(text(&all(&expanded, 3)[0], 1), (2_u64 << 30).to_string());
    machine.kubectl(&["delete", "pod", "first"]);
    assert_eq!(driver.asked("NodeUnpublishVolume").len(), 1);
    assert!(driver.asked("NodeUnstageVolume").is_empty());
    // Killed and started again, the agent finds driver and volume.
    machine.end_server(Signal::SIGKILL);
    machine.start(&[]);
    machine.wait_ready();
    machine.kubectl(&["delete", "pod", "second"]);
    let unstaged = driver.asked("NodeUnstageVolume");
    assert_eq!((unstaged.len(), text(&unstaged[0], 2)), (1, text(&staged, 3)));
    eventually("it is detached", LIMIT, || {
        let left = machine.try_kubectl(&["get", "volumeattachments", "-o", "name"])?;
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    eventually("nothing is in use", LIMIT, || {
        let left = machine.jsonpath(&["node", "node-1"], in_use)?;
        if left.contains("handle") { Err(left) } else { Ok(()) }
    });
    // Volumes in the manifest: only for drivers that say so, which may hear of the pod.
    let inline = format!("csi: {{driver: {NAME}, volumeAttributes: {{size: small}}}}");
    machine.apply(&pod("inline", &inline));
    let refused = format!("volume mode \"Ephemeral\" not supported by driver {NAME} (only supports [\"Persistent\"])");
    eventually("it is refused", LIMIT, || {
        let told = machine.try_kubectl(&["get", "events", "-o", "jsonpath={.items[*].message}"])?;
        if told.contains(&refused) { Ok(()) } else { Err(told) }
    });
    machine.apply(&format!(
        "apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {{name: {NAME}}}
spec: {{attachRequired: false, podInfoOnMount: true, volumeLifecycleModes: [Ephemeral], tokenRequests: [{{audience: vault}}]}}
"
    ));
    machine.until(&["pod", "inline"], "{.status.phase}", "Running");
    assert_eq!(machine.kubectl(&["exec", "inline", "--", "cat", "/v/f"]), "inline\n");
    let published = driver.asked("NodePublishVolume").pop().expect("published");
    let attributes = map(&published, 8);
    assert_eq!(attributes["csi.storage.k8s.io/pod.name"], "inline");
    assert_eq!(attributes["csi.storage.k8s.io/ephemeral"], "true");
    assert_eq!(attributes["size"], "small");
    assert!(attributes["csi.storage.k8s.io/serviceAccount.tokens"].starts_with("{\"vault\":{"));
    machine.kubectl(&["delete", "pod", "inline"]);
    assert_eq!(driver.asked("NodeUnpublishVolume").len(), 3);
    let mounts = machine.inside.must(&["cat", "/proc/self/mounts"]);
    assert!(!mounts.contains("kubernetes.io~csi") && !mounts.contains("globalmount"), "{mounts}");
    // A driver that goes is told of as gone.
    std::fs::remove_file(kubelet.join("plugins_registry/test.sock")).expect("removed");
    machine.until(&["csinode", "node-1"], "{.spec.drivers}", "[]");
}
