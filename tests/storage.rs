//! Volumes that outlive pods, on a real node: the built-in class, volumes by hand, stateful sets.

mod harness;

use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::{Machine, eventually};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(60);
const STORAGE: &str = "/var/lib/skiff/storage";

fn claim(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}{more}}}
---
"
    )
}

/// A pod that runs a script to its end, with a volume at /v.
fn pod(name: &str, volume: &str, more: &str, mount: &str, script: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  volumes: [{{name: v, {volume}}}]
  {more}
  containers:
  - name: c
    image: busybox:1.36
    {mount}
    command: [/bin/sh, -c, {:?}]
---
",
        format!("exec 2>&1; {script}")
    )
}

const MOUNT: &str = "volumeMounts: [{name: v, mountPath: /v}]";

fn of_claim(claim: &str) -> String {
    format!("persistentVolumeClaim: {{claimName: {claim}}}")
}

/// What a pod said when it has ended well.
#[track_caller]
fn said(machine: &Machine, pod: &str) -> String {
    machine.until(&["pod", pod], "{.status.phase}", "Succeeded");
    machine.kubectl(&["logs", pod]).trim().to_owned()
}

/// The directory of a claim's volume, as the test sees it.
fn directory(machine: &Machine, claim: &str) -> PathBuf {
    let name = machine.jsonpath(&["pvc", claim], "{.spec.volumeName}").expect("a claim");
    let path = machine.jsonpath(&["pv", &name], "{.spec.local.path}").expect("a volume");
    assert_eq!(path, format!("{STORAGE}/{name}_default_{claim}"));
    machine.directory.path().join(Path::new(&path).strip_prefix("/var/lib").expect("below /var/lib"))
}

#[track_caller]
fn gone(machine: &Machine, what: &[&str]) {
    eventually(&format!("{what:?} is gone"), LIMIT, || {
        let arguments = [&["get"], what, &["--ignore-not-found", "-o", "name"]].concat();
        let found = machine.try_kubectl(&arguments)?;
        if found.is_empty() { Ok(()) } else { Err(found) }
    });
}

fn has_event(machine: &Machine, about: &str, message: &str) {
    eventually(message, LIMIT, || {
        let selector = format!("involvedObject.name={about}");
        let told = machine.try_kubectl(&[
            "get",
            "events",
            "--field-selector",
            &selector,
            "-o",
            "jsonpath={.items[*].message}",
        ])?;
        if told.contains(message) { Ok(()) } else { Err(told) }
    });
}

#[test]
fn the_default_class_keeps_what_pods_write() {
    let mut machine = Machine::with_server();
    let class = machine.kubectl(&["get", "storageclass", "--no-headers"]);
    let columns: Vec<&str> = class.split_whitespace().take(6).collect();
    assert_eq!(
        columns,
        ["local-path", "(default)", "rancher.io/local-path", "Delete", "WaitForFirstConsumer", "false"]
    );
    machine.apply(&claim("data", ""));
    has_event(&machine, "data", "waiting for first consumer to be created before binding");
    assert_eq!(
        machine.jsonpath(&["pvc", "data"], "{.status.phase} {.spec.storageClassName}").as_deref(),
        Ok("Pending local-path")
    );
    let group = "securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}";
    machine.apply(&pod("writer", &of_claim("data"), group, MOUNT, "echo kept > /v/f; stat -c %g /v/f"));
    assert_eq!(said(&machine, "writer"), "2000");
    machine.until(&["pvc", "data"], "{.status.phase} {.status.capacity.storage}", "Bound 1Mi");
    let place = directory(&machine, "data");
    assert_eq!(std::fs::read_to_string(place.join("f")).expect("the data"), "kept\n");
    machine.kubectl(&["delete", "pod", "writer"]);
    // Another pod finds it, also by a part of it, and may be kept from writing.
    machine.apply(&pod("reader", &of_claim("data"), "", MOUNT, "cat /v/f"));
    assert_eq!(said(&machine, "reader"), "kept");
    let part = "volumeMounts: [{name: v, mountPath: /v, subPath: new/part}]";
    machine.apply(&pod("part", &of_claim("data"), group, part, "echo deep > /v/x"));
    said(&machine, "part");
    assert_eq!(std::fs::read_to_string(place.join("new/part/x")).expect("the data"), "deep\n");
    let read_only = "persistentVolumeClaim: {claimName: data, readOnly: true}";
    machine.apply(&pod("looker", read_only, "", MOUNT, "touch /v/y || cat /v/f"));
    assert_eq!(said(&machine, "looker"), "touch: /v/y: Read-only file system\nkept");
    let more = "{\"spec\": {\"resources\": {\"requests\": {\"storage\": \"2Mi\"}}}}";
    let refused = machine.try_kubectl(&["patch", "pvc", "data", "-p", more]).expect_err("it can't grow");
    assert!(refused.contains("the storageclass that provisions the pvc must support resize"), "{refused}");
    // Where the class lets claims grow, a directory is as large as it is said to be.
    machine.kubectl(&["patch", "storageclass", "local-path", "-p", "{\"allowVolumeExpansion\": true}"]);
    machine.kubectl(&["patch", "pvc", "data", "-p", more]);
    machine.until(&["pvc", "data"], "{.status.capacity.storage}", "2Mi");
    has_event(&machine, "data", "Resize volume succeeded");
    // A claim in use stays, also over a restart of the server, until the last pod is gone.
    machine.apply(&pod("user", &of_claim("data"), "", MOUNT, "sleep 1000"));
    machine.until(&["pod", "user"], "{.status.phase}", "Running");
    machine.kubectl(&["delete", "pod", "reader", "part", "looker"]);
    machine.kubectl(&["delete", "pvc", "data", "--wait=false"]);
    machine.until(&["pvc", "data"], "{.metadata.finalizers}", "[\"kubernetes.io/pvc-protection\"]");
    machine.end_server(Signal::SIGKILL);
    machine.start(&[]);
    machine.wait_ready();
    assert!(place.join("f").exists());
    assert_eq!(machine.kubectl(&["exec", "user", "--", "cat", "/v/f"]), "kept\n");
    let volume = machine.jsonpath(&["pvc", "data"], "{.spec.volumeName}").expect("a claim");
    machine.kubectl(&["delete", "pod", "user"]);
    gone(&machine, &["pvc", "data"]);
    gone(&machine, &["pv", &volume]);
    assert!(!place.exists() && place.parent().expect("a parent").exists());
}

#[test]
fn stateful_sets_keep_their_data() {
    let machine = Machine::with_server();
    let set = |replicas: u32, policy: &str| {
        format!(
            "apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  replicas: {replicas}
  serviceName: db
  selector: {{matchLabels: {{app: db}}}}
  {policy}
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: busybox:1.36
        volumeMounts: [{{name: data, mountPath: /v}}]
        command: [/bin/sh, -c, 'echo $HOSTNAME >> /v/log; sleep 1000']
"
        )
    };
    machine.apply(&set(2, ""));
    machine.until(&["statefulset", "db"], "{.status.readyReplicas}", "2");
    let log = |pod: &str| machine.try_kubectl(&["exec", pod, "--", "cat", "/v/log"]);
    assert_eq!(log("db-1").as_deref(), Ok("db-1\n"));
    let uid = machine.jsonpath(&["pod", "db-1"], "{.metadata.uid}").expect("a pod");
    machine.kubectl(&["delete", "pod", "db-1"]);
    eventually("the pod is there again", LIMIT, || {
        let (again, log) = (machine.jsonpath(&["pod", "db-1"], "{.metadata.uid}")?, log("db-1")?);
        if again != uid && log == "db-1\ndb-1\n" { Ok(()) } else { Err(log) }
    });
    // A claim that is deleted with its pod is made anew, and the pod gets that one.
    machine.kubectl(&["delete", "pvc", "data-db-1", "--wait=false"]);
    machine.kubectl(&["delete", "pod", "db-1"]);
    eventually("the pod has another volume", LIMIT, || {
        let log = log("db-1")?;
        if log == "db-1\n" { Ok(()) } else { Err(log) }
    });
    // Claims stay when pods go, unless the set says otherwise.
    machine.apply(&set(1, "persistentVolumeClaimRetentionPolicy: {whenScaled: Delete, whenDeleted: Delete}"));
    gone(&machine, &["pod", "db-1"]);
    gone(&machine, &["pvc", "data-db-1"]);
    machine.until(&["pvc", "data-db-0"], "{.metadata.ownerReferences[0].kind}", "StatefulSet");
    machine.kubectl(&["delete", "statefulset", "db"]);
    gone(&machine, &["pvc", "data-db-0"]);
    gone(&machine, &["pv"]);
}

#[test]
fn pods_read_whom_to_trust() {
    let machine = Machine::with_server();
    let authority = machine.jsonpath(&["configmap", "kube-root-ca.crt"], "{.data.ca\\.crt}").expect("an authority");
    let bundle = |name: &str, labels: &str, signer: &str| {
        let text: String = authority.lines().map(|line| format!("    {line}\n")).collect();
        let head = "apiVersion: certificates.k8s.io/v1beta1\nkind: ClusterTrustBundle\nmetadata:";
        format!(
            "{head} {{name: {name}, labels: {labels}}}\nspec:\n  {signer}\n  trustBundle: |\n    # of the cluster\n{text}---\n"
        )
    };
    machine.apply(&format!(
        "{}{}{}",
        bundle("plain", "{}", ""),
        bundle("\"example.com:s:one\"", "{a: b}", "signerName: example.com/s"),
        bundle("\"example.com:s:two\"", "{a: b}", "signerName: example.com/s"),
    ));
    machine.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: trusts}
spec:
  terminationGracePeriodSeconds: 0
  volumes:
  - name: t
    projected:
      sources:
      - clusterTrustBundle: {name: plain, path: plain.pem}
      - clusterTrustBundle: {signerName: example.com/s, labelSelector: {matchLabels: {a: b}}, path: signer.pem}
      - clusterTrustBundle: {name: none, path: none.pem, optional: true}
  containers:
  - {name: c, image: busybox:1.36, command: [sleep, '1000'], volumeMounts: [{name: t, mountPath: /t}]}
",
    );
    machine.until(&["pod", "trusts"], "{.status.phase}", "Running");
    for (file, expect) in [("plain.pem", authority.trim()), ("signer.pem", authority.trim()), ("none.pem", "")] {
        let read = machine.try_kubectl(&["exec", "trusts", "--", "cat", &format!("/t/{file}")]).expect("a file");
        assert_eq!(read.trim(), expect, "{file}");
    }
}

#[test]
fn volumes_by_hand() {
    let machine = Machine::with_server();
    machine.inside.must(&[
        "sh",
        "-ec",
        "mkdir -p /run/disk /run/host; echo here > /run/disk/f; mknod /run/block b 7 250",
    ]);
    let volume = |name: &str, spec: &str| {
        format!(
            "apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}, labels: {{is: {name}}}}}
spec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], {spec}}}
---
"
        )
    };
    let on_node = "nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node-1]}]}]}}";
    let elsewhere = on_node.replace("node-1", "node-2");
    let late = "apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: by-hand}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---
";
    let selected =
        |name: &str, class: &str| format!(", storageClassName: {class}, selector: {{matchLabels: {{is: {name}}}}}");
    machine.apply(&format!(
        "{late}{}{}{}{}{}{}{}{}",
        volume("local", &format!("storageClassName: by-hand, local: {{path: /run/disk}}, {on_node}")),
        volume("far", &format!("storageClassName: by-hand, local: {{path: /run/disk}}, {elsewhere}")),
        volume(
            "host",
            "storageClassName: '', hostPath: {path: /run/host, type: Directory}, persistentVolumeReclaimPolicy: Retain"
        ),
        volume("raw", &format!("storageClassName: by-hand, volumeMode: Block, local: {{path: /run/block}}, {on_node}")),
        claim("local", &selected("local", "by-hand")),
        claim("far", &selected("far", "by-hand")),
        claim("host", &selected("host", "''")),
        claim("raw", &format!("{}, volumeMode: Block", selected("raw", "by-hand"))),
    ));
    // One that waits for no pod is bound at once.
    machine.until(&["pvc", "host"], "{.status.phase} {.spec.volumeName}", "Bound host");
    machine.apply(&format!(
        "{}{}{}{}",
        pod("local", &of_claim("local"), "", MOUNT, "cat /v/f"),
        pod("far", &of_claim("far"), "", MOUNT, "true"),
        pod("host", &of_claim("host"), "", MOUNT, "echo said > /v/f"),
        pod(
            "raw",
            &of_claim("raw"),
            "",
            "volumeDevices: [{name: v, devicePath: /dev/disk}]",
            "stat -c '%F %t:%T' /dev/disk"
        ),
    ));
    assert_eq!(said(&machine, "local"), "here");
    said(&machine, "host");
    assert_eq!(machine.inside.must(&["cat", "/run/host/f"]), "said\n");
    assert_eq!(said(&machine, "raw"), "block special file 7:fa");
    let why = "0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind. \
               preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    machine.until(&["pod", "far"], "{.status.conditions[0].message}", why);
    // What is released is kept for whoever looks at it.
    machine.kubectl(&["delete", "pod", "host"]);
    machine.kubectl(&["delete", "pvc", "host"]);
    machine.until(&["pv", "host"], "{.status.phase}", "Released");
    assert_eq!(machine.inside.must(&["cat", "/run/host/f"]), "said\n");
    machine.kubectl(&["delete", "pv", "host"]);
    // What nobody can do is said.
    let again = "storageClassName: '', hostPath: {path: /run/host}, persistentVolumeReclaimPolicy";
    for (policy, why) in [
        ("Recycle", "No recycler plugin found for the volume!"),
        ("Delete", "error getting deleter volume plugin for volume \"delete\": no deletable volume plugin matched"),
    ] {
        let name = policy.to_lowercase();
        let manifest = [volume(&name, &format!("{again}: {policy}")), claim(&name, &selected(&name, "''"))].concat();
        machine.apply(&manifest);
        machine.until(&["pvc", &name], "{.status.phase}", "Bound");
        machine.kubectl(&["delete", "pvc", &name]);
        machine.until(&["pv", &name], "{.status.phase}", "Failed");
        machine.until(&["pv", &name], "{.status.message}", why);
        assert_eq!(machine.inside.must(&["cat", "/run/host/f"]), "said\n");
        machine.kubectl(&["delete", "pv", &name]);
    }
}

#[test]
fn ephemeral_volumes_and_what_fails() {
    let mut machine = Machine::new();
    machine.start(&["--disable", "local-storage"]);
    machine.wait_ready();
    assert_eq!(machine.kubectl(&["get", "storageclass", "-o", "name"]), "");
    machine.apply(&claim("lonely", ""));
    has_event(&machine, "lonely", "no persistent volumes available for this claim and no storage class is set");
    machine.apply(&pod("waits", &of_claim("lonely"), "", MOUNT, "true"));
    let why = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. \
               preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    machine.until(&["pod", "waits"], "{.status.conditions[0].message}", why);
    // One that was put on the node by hand waits there.
    machine.apply(&pod("placed", &of_claim("lonely"), "nodeName: node-1", MOUNT, "true"));
    has_event(&machine, "placed", "error processing PVC default/lonely: PVC is not bound");
    machine.end_server(Signal::SIGTERM);
    machine.start(&[]);
    machine.wait_ready();
    // A class has come, and the claim takes it.
    machine.until(&["pvc", "lonely"], "{.spec.storageClassName}", "local-path");
    assert_eq!(said(&machine, "waits"), "");
    assert_eq!(said(&machine, "placed"), "");
    let ephemeral = "ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}}";
    machine.apply(&pod("short", ephemeral, "", MOUNT, "echo x > /v/x; ls /v"));
    assert_eq!(said(&machine, "short"), "x");
    let place = directory(&machine, "short-v");
    assert!(place.join("x").exists());
    machine.kubectl(&["delete", "pod", "short"]);
    gone(&machine, &["pvc", "short-v"]);
    eventually("its directory is gone", LIMIT, || if place.exists() { Err("there".to_owned()) } else { Ok(()) });
    // The kernel of the tests may have no NFS client, and there is no server.
    machine.apply(&pod("net", "nfs: {server: 127.0.0.1, path: /x}", "", MOUNT, "true"));
    has_event(&machine, "net", "MountVolume.SetUp failed for volume \"v\" : mount failed: 127.0.0.1:/x: ");
}
