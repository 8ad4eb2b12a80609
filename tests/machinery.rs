//! What upstream's conformance asks of the garbage collector, of namespaces and of quotas, on a whole server. No pod here
//! fits any node, so nothing runs but what is asked about.

mod harness;

use std::time::Duration;

use harness::{Machine, eventually, result};

const LIMIT: Duration = Duration::from_secs(60);

const TEMPLATE: &str = "metadata: {labels: {app: NAME}}\n    spec:\n      nodeSelector: {no: node}\n      containers: [{name: c, image: 'busybox:1.36'}]";

fn controller(kind: &str, name: &str, replicas: usize) -> String {
    let (version, selector) = match kind {
        "ReplicationController" => ("v1", "{app: NAME}"),
        _ => ("apps/v1", "{matchLabels: {app: NAME}}"),
    };
    format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: NAME}}\nspec:\n  replicas: {replicas}\n  selector: {selector}\n  template:\n    {TEMPLATE}\n---\n"
    )
    .replace("NAME", name)
}

fn names(machine: &Machine, what: &[&str]) -> Result<Vec<String>, String> {
    let names = machine.jsonpath(what, "{.items[*].metadata.name}")?;
    Ok(names.split_whitespace().map(str::to_owned).collect())
}

#[track_caller]
fn until_count(machine: &Machine, what: &[&str], count: usize) {
    eventually(&format!("{count} of {what:?}"), LIMIT, || match names(machine, what) {
        Ok(names) if names.len() == count => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn garbage_is_collected_as_it_was_asked_for() {
    let machine = Machine::with_server();
    let owners = |what: &[&str]| machine.jsonpath(what, "{.items[*].metadata.ownerReferences[*].name}");

    // In the background: all of it.
    machine.apply(&controller("ReplicationController", "bg", 2));
    until_count(&machine, &["pods", "-l", "app=bg"], 2);
    machine.kubectl(&["delete", "rc", "bg", "--wait=false"]);
    until_count(&machine, &["pods", "-l", "app=bg"], 0);
    machine.apply(&controller("Deployment", "dep", 1));
    until_count(&machine, &["replicasets", "-l", "app=dep"], 1);
    machine.kubectl(&["delete", "deployment", "dep", "--wait=false"]);
    until_count(&machine, &["replicasets,pods", "-l", "app=dep"], 0);

    // Orphans lose their owner, and stay.
    machine.apply(&(controller("ReplicationController", "free", 2) + &controller("Deployment", "loose", 1)));
    until_count(&machine, &["pods", "-l", "app=free"], 2);
    until_count(&machine, &["replicasets", "-l", "app=loose"], 1);
    machine.kubectl(&["delete", "rc/free", "deployment/loose", "--cascade=orphan"]);
    until_count(&machine, &["rc,deployments"], 0);
    for what in [["pods", "-l", "app=free"], ["replicasets", "-l", "app=loose"]] {
        eventually("nobody owns them", LIMIT, || {
            owners(&what).and_then(|owners| owners.is_empty().then_some(()).ok_or(owners))
        });
    }
    assert_eq!(names(&machine, &["pods", "-l", "app=free"]).map(|pods| pods.len()), Ok(2));
    assert_eq!(names(&machine, &["replicasets", "-l", "app=loose"]).map(|sets| sets.len()), Ok(1));

    // In the foreground: the owner waits for what it owns, here for a pod that somebody holds.
    machine.apply(&controller("ReplicationController", "fg", 2));
    until_count(&machine, &["pods", "-l", "app=fg"], 2);
    let held = names(&machine, &["pods", "-l", "app=fg"]).expect("pods").remove(0);
    let hold = |finalizers: &str| {
        machine.kubectl(&[
            "patch",
            "pod",
            &held,
            "--type=merge",
            "-p",
            &format!(r#"{{"metadata":{{"finalizers":{finalizers}}}}}"#),
        ]);
    };
    hold(r#"["example.com/hold"]"#);
    machine.kubectl(&["delete", "rc", "fg", "--cascade=foreground", "--wait=false"]);
    until_count(&machine, &["pods", "-l", "app=fg"], 1);
    assert_eq!(machine.jsonpath(&["rc", "fg"], "{.metadata.finalizers}").as_deref(), Ok(r#"["foregroundDeletion"]"#));
    hold("null");
    until_count(&machine, &["rc"], 0);
    until_count(&machine, &["pods", "-l", "app=fg"], 0);
}

fn map(name: &str, owners: &[(&str, &str)]) -> String {
    let owners = owners.iter().map(|(name, uid)| {
        format!("{{apiVersion: v1, kind: ConfigMap, name: {name}, uid: {uid}, blockOwnerDeletion: true}}")
    });
    let owners: Vec<String> = owners.collect();
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, ownerReferences: [{}]}}\n---\n",
        owners.join(", ")
    )
}

#[test]
fn owners_that_share_and_owners_in_a_circle() {
    let machine = Machine::with_server();
    let uid = |name: &str| machine.jsonpath(&["configmap", name], "{.metadata.uid}").expect("a uid");
    machine.apply(&(map("goes", &[]) + &map("stays", &[])));
    let (goes, stays) = (uid("goes"), uid("stays"));
    machine.apply(&(map("both", &[("goes", &goes), ("stays", &stays)]) + &map("one", &[("goes", &goes)])));
    machine.kubectl(&["delete", "configmap", "goes", "--cascade=foreground", "--timeout=60s"]);
    assert!(machine.jsonpath(&["configmap", "one"], "{.metadata.name}").is_err());
    assert_eq!(machine.jsonpath(&["configmap", "both"], "{.metadata.ownerReferences[*].name}").as_deref(), Ok("stays"));

    machine.apply(&(map("a", &[]) + &map("b", &[]) + &map("c", &[])));
    let (a, b, c) = (uid("a"), uid("b"), uid("c"));
    machine.apply(&(map("a", &[("c", &c)]) + &map("b", &[("a", &a)]) + &map("c", &[("b", &b)])));
    machine.kubectl(&["delete", "configmap", "a", "--cascade=foreground", "--wait=false"]);
    eventually("the circle is gone", LIMIT, || match names(&machine, &["configmaps"]) {
        Ok(left) if !left.iter().any(|name| ["a", "b", "c"].contains(&name.as_str())) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn namespaces_live_and_end() {
    let machine = Machine::with_server();
    let patch = |more: &[&str], patch: &str| {
        machine.kubectl(&[&["patch", "namespace", "life", "-p", patch], more].concat());
    };
    let get = |path: &str| machine.jsonpath(&["namespace", "life"], path);
    machine.kubectl(&["create", "namespace", "life"]);
    patch(&[], r#"{"metadata":{"labels":{"testLabel":"testValue"}}}"#);
    assert_eq!(get("{.metadata.labels.testLabel}").as_deref(), Ok("testValue"));
    // Its status takes conditions, and nothing but the status is taken.
    let condition = r#"{"metadata":{"annotations":{"patched":"true"}},"status":{"conditions":[{"type":"StatusPatch","status":"True","reason":"E2E","message":"Patched by an e2e test"}]}}"#;
    patch(&["--subresource=status", "--type=merge"], condition);
    assert_eq!(get("{.status.conditions[0].message}").as_deref(), Ok("Patched by an e2e test"));
    assert_eq!(get("{.status.phase}").as_deref(), Ok("Active"));
    // A finalizer in the spec, by its own subresource.
    let finalize = |finalizers: &str| {
        let body = machine.directory.path().join("finalize.json");
        let text = format!(
            r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"life"}},"spec":{{"finalizers":{finalizers}}}}}"#
        );
        std::fs::write(&body, text).expect("write the body");
        let mut kubectl = machine.command("kubectl");
        kubectl.args(["replace", "--raw", "/api/v1/namespaces/life/finalize", "-f", &body.to_string_lossy()]);
        result(&kubectl.output().expect("run kubectl")).unwrap_or_else(|said| panic!("finalize {finalizers}: {said}"));
    };
    finalize(r#"["kubernetes","e2e.example.com/fakeFinalizer"]"#);
    assert_eq!(get("{.spec.finalizers[1]}").as_deref(), Ok("e2e.example.com/fakeFinalizer"));
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: life}\nspec: {ports: [{port: 80}]}\n---\n";
    machine.apply(&format!(
        "{service}{}",
        controller("ReplicaSet", "set", 2).replace("{name: set}", "{name: set, namespace: life}")
    ));
    until_count(&machine, &["pods", "-n", "life"], 2);
    machine.kubectl(&["delete", "namespace", "life", "--wait=false"]);
    until_count(&machine, &["pods,services,replicasets,configmaps,serviceaccounts", "-n", "life"], 0);
    // Somebody else's finalizer is all that is left.
    eventually("the server's own is done", LIMIT, || match get("{.status.phase} {.spec.finalizers}") {
        Ok(seen) if seen == r#"Terminating ["e2e.example.com/fakeFinalizer"]"# => Ok(()),
        other => Err(format!("{other:?}")),
    });
    finalize("[]");
    eventually("it is gone", LIMIT, || get("{.metadata.name}").err().map(drop).ok_or_else(|| "it is there".to_owned()));
    // Its name is free again, and it is empty.
    machine.kubectl(&["create", "namespace", "life"]);
    until_count(&machine, &["pods,services", "-n", "life"], 0);

    let many: String = (0..100)
        .map(|n| {
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: many-{n}, labels: {{many: 'true'}}}}\n---\n")
        })
        .collect();
    machine.apply(&many);
    machine.kubectl(&["delete", "namespaces", "-l", "many=true", "--timeout=120s"]);
    until_count(&machine, &["namespaces", "-l", "many=true"], 0);
}

#[test]
fn quotas_follow_the_lives_of_objects() {
    let machine = Machine::with_server();
    let used = |quota: &str, expect: &[(&str, &str)]| {
        for (resource, count) in expect {
            let path = format!("{{.status.used.{}}}", resource.replace('.', r"\."));
            machine.until(&["resourcequota", quota], &path, count);
        }
    };
    machine.apply(
        "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: all}\nspec:\n  hard: {pods: 5, services: 10, services.nodeports: 1, services.loadbalancers: 1, \
         replicationcontrollers: 10, resourcequotas: 3, cpu: 1, memory: 500Mi, configmaps: 10, secrets: 10, persistentvolumeclaims: 10, \
         requests.storage: 10Gi, ephemeral-storage: 50Gi, count/replicasets.apps: 5, requests.example.com/dongle: 3}\n",
    );
    used(
        "all",
        &[
            ("resourcequotas", "1"),
            ("configmaps", "1"),
            ("secrets", "0"),
            ("pods", "0"),
            ("count/replicasets.apps", "0"),
        ],
    );
    let pod = |name: &str, requests: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeSelector: {{no: node}}\n  {more}\n  containers:\n  \
             - {{name: c, image: 'busybox:1.36', resources: {{requests: {{{requests}}}, limits: {{example.com/dongle: 2}}}}}}\n---\n"
        )
    };
    let service = |name: &str, kind: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: {kind}, ports: [{{port: 80}}]}}\n---\n"
        )
    };
    let file = machine.directory.path().join("object.yaml");
    let create = |manifest: &str| {
        std::fs::write(&file, manifest).expect("write the manifest");
        machine.try_kubectl(&["create", "-f", &file.to_string_lossy()])
    };
    let made = |manifest: &str| drop(create(manifest).unwrap_or_else(|said| panic!("{manifest}: {said}")));
    let refused = |manifest: &str, expect: &str| {
        let said = create(manifest).expect_err(manifest);
        assert!(said.contains("exceeded quota: all") && said.contains(expect), "{said}");
    };
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: claim}\nspec: {storageClassName: none, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n";
    made(&service("plain", "ClusterIP"));
    made(&service("port", "NodePort"));
    refused(
        &service("balanced", "LoadBalancer"),
        "services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1",
    );
    made("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n");
    made("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n");
    made(claim);
    made(&controller("ReplicationController", "rc", 0));
    made(&controller("ReplicaSet", "rs", 0));
    made(&pod("fits", "cpu: 500m, memory: 252Mi, ephemeral-storage: 30Gi, example.com/dongle: 2", ""));
    refused(&pod("large", "cpu: 600m, memory: 100Mi, ephemeral-storage: 1Gi, example.com/dongle: 2", ""), "cpu=600m");
    refused(
        &pod("dongles", "cpu: 100m, memory: 100Mi, ephemeral-storage: 1Gi, example.com/dongle: 2", ""),
        "requests.example.com/dongle=2",
    );
    let unsaid = create(&pod("unsaid", "example.com/dongle: 2", "")).expect_err("it says too little");
    assert!(unsaid.contains("failed quota: all: must specify cpu for: c; memory for: c"), "{unsaid}");
    used(
        "all",
        &[
            ("services", "3"),
            ("services.nodeports", "1"),
            ("secrets", "1"),
            ("configmaps", "2"),
            ("persistentvolumeclaims", "1"),
            ("requests.storage", "1Gi"),
            ("replicationcontrollers", "1"),
            ("count/replicasets.apps", "1"),
            ("pods", "1"),
            ("cpu", "500m"),
            ("memory", "252Mi"),
            ("ephemeral-storage", "30Gi"),
            ("requests.example.com/dongle", "2"),
        ],
    );
    let resized = machine.try_kubectl(&[
        "patch",
        "pod",
        "fits",
        "-p",
        r#"{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"100m"}}}]}}"#,
    ]);
    assert!(
        resized.is_err_and(|said| said.contains("pod updates may not change fields")),
        "only its subresource resizes a pod"
    );
    machine.kubectl(&[
        "delete",
        "service/plain",
        "service/port",
        "secret/s",
        "configmap/m",
        "rc/rc",
        "rs/rs",
        "pvc/claim",
        "pod/fits",
    ]);
    used(
        "all",
        &[
            ("services", "1"),
            ("services.nodeports", "0"),
            ("secrets", "0"),
            ("configmaps", "1"),
            ("persistentvolumeclaims", "0"),
            ("requests.storage", "0"),
            ("replicationcontrollers", "0"),
            ("count/replicasets.apps", "0"),
            ("pods", "0"),
            ("cpu", "0"),
            ("memory", "0"),
            ("ephemeral-storage", "0"),
            ("requests.example.com/dongle", "0"),
        ],
    );
    machine.kubectl(&["delete", "resourcequota", "all"]);

    // Scopes: each counts what is in it, and that alone.
    let scoped: String = ["Terminating", "NotTerminating", "BestEffort", "NotBestEffort"]
        .map(|scope| format!("apiVersion: v1\nkind: ResourceQuota\nmetadata: {{name: {}}}\nspec: {{hard: {{pods: 5}}, scopes: [{scope}]}}\n---\n", scope.to_lowercase()))
        .concat();
    machine.apply(&scoped);
    let bare = |name: &str, more: &str, resources: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeSelector: {{no: node}}\n  {more}\n  containers: [{{name: c, image: 'busybox:1.36', resources: {{{resources}}}}}]\n---\n"
        )
    };
    let scopes = |expect: [&str; 4]| {
        for (quota, count) in ["terminating", "notterminating", "besteffort", "notbesteffort"].iter().zip(expect) {
            used(quota, &[("pods", count)]);
        }
    };
    scopes(["0", "0", "0", "0"]);
    made(&bare("long", "", ""));
    scopes(["0", "1", "1", "0"]);
    made(&bare("short", "activeDeadlineSeconds: 3600", "requests: {cpu: 100m}"));
    scopes(["1", "1", "1", "1"]);
    machine.kubectl(&["delete", "pod", "long", "short"]);
    scopes(["0", "0", "0", "0"]);

    // Its own life: changed, its status too, and a list of it deleted.
    machine.kubectl(&[
        "patch",
        "resourcequota",
        "besteffort",
        "-p",
        r#"{"metadata":{"labels":{"kind":"changed"}},"spec":{"hard":{"pods":"7"}}}"#,
    ]);
    machine.until(&["resourcequota", "besteffort"], "{.status.hard.pods}", "7");
    let status = machine.try_kubectl(&[
        "patch",
        "resourcequota",
        "besteffort",
        "--subresource=status",
        "--type=merge",
        "-p",
        r#"{"metadata":{"annotations":{"a":"b"}},"status":{"used":{"pods":"1"}}}"#,
    ]);
    assert!(status.is_ok(), "{status:?}");
    used("besteffort", &[("pods", "0")]);
    machine.kubectl(&["delete", "resourcequotas", "-l", "kind=changed"]);
    assert_eq!(names(&machine, &["resourcequotas"]).map(|left| left.len()), Ok(3));
}
