//! Custom resources on a whole server: upstream's kubectl, owners, namespaces, restarts.

mod harness;

use std::fs;
use std::time::Duration;

use harness::{Machine, eventually, result};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(60);

const DEFINITIONS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.sea.example.com}
spec:
  group: sea.example.com
  scope: Namespaced
  names: {plural: boats, kind: Boat, shortNames: [bo], categories: [fleet]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.sails, statusReplicasPath: .status.sails}}
    additionalPrinterColumns:
    - {name: Sails, type: integer, jsonPath: .spec.sails}
    - {name: Harbour, type: string, jsonPath: .spec.harbour, priority: 1}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        description: Boat floats.
        type: object
        properties:
          spec:
            description: What the boat shall be.
            type: object
            required: [sails]
            properties:
              sails: {description: How many there are., type: integer, minimum: 0}
              harbour: {type: string, enum: [north, south], default: north}
              crew:
                description: Who sails it.
                type: array
                items: {type: object, properties: {name: {type: string}}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: harbours.sea.example.com}
spec:
  group: sea.example.com
  scope: Cluster
  names: {plural: harbours, kind: Harbour}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
"#;

const EXPLAINED: &str = r#"GROUP:      sea.example.com
KIND:       Boat
VERSION:    v1

DESCRIPTION:
    Boat floats.
    
FIELDS:
  apiVersion	<string>
  kind	<string>
  metadata	<ObjectMeta>
    annotations	<map[string]string>
    creationTimestamp	<string>
    deletionGracePeriodSeconds	<integer>
    deletionTimestamp	<string>
    finalizers	<[]string>
    generateName	<string>
    generation	<integer>
    labels	<map[string]string>
    managedFields	<[]ManagedFieldsEntry>
      apiVersion	<string>
      fieldsType	<string>
      fieldsV1	<FieldsV1>
      manager	<string>
      operation	<string>
      subresource	<string>
      time	<string>
    name	<string>
    namespace	<string>
    ownerReferences	<[]OwnerReference>
      apiVersion	<string> -required-
      blockOwnerDeletion	<boolean>
      controller	<boolean>
      kind	<string> -required-
      name	<string> -required-
      uid	<string> -required-
    resourceVersion	<string>
    selfLink	<string>
    uid	<string>
  spec	<Object>
    crew	<[]Object>
      name	<string>
    harbour	<string>
    enum: north, south
    sails	<integer> -required-

"#;

/// Upstream's kubectl in the machine: both outputs.
fn kubectl(machine: &Machine, arguments: &[&str]) -> Result<String, String> {
    result(&machine.command("kubectl").args(arguments).output().expect("run kubectl (Debian: kubernetes-client)"))
}

fn apply(machine: &Machine, manifest: &str) -> Result<String, String> {
    let file = machine.directory.path().join("custom.yaml");
    fs::write(&file, manifest).expect("write the manifest");
    kubectl(machine, &["apply", "-f", &file.to_string_lossy()])
}

fn boat(namespace: &str, name: &str, more: &str) -> String {
    format!(
        "apiVersion: sea.example.com/v1\nkind: Boat\nmetadata: {{name: {name}, namespace: {namespace}{more}}}\nspec: {{sails: 2}}\n"
    )
}

fn define(machine: &Machine) {
    apply(machine, DEFINITIONS).expect("the definitions are created");
    kubectl(machine, &["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]).expect("established");
}

#[test]
fn upstreams_kubectl_works_with_them() {
    let mut machine = Machine::new();
    machine.start(&[]);
    machine.wait_ready();
    let said = kubectl(&machine, &["get", "boats"]).expect_err("nobody knows boats");
    assert!(said.contains("error: the server doesn't have a resource type \"boats\""), "{said}");
    let said = apply(&machine, &boat("default", "a", "")).expect_err("nobody knows boats");
    assert!(said.contains("no matches for kind \"Boat\" in version \"sea.example.com/v1\""), "{said}");
    define(&machine);
    apply(&machine, &boat("default", "a", "")).expect("a boat");
    for (arguments, expect) in [
        ("get bo", "NAME   SAILS   AGE"),
        ("get boats -o wide", "north"),
        ("get fleet", "a"),
        ("get boats.v1.sea.example.com a -o name", "boat.sea.example.com/a"),
        ("api-resources --api-group=sea.example.com", "harbours"),
        ("scale boat a --replicas=4", "scaled"),
        ("get boat a -o jsonpath={.spec.sails}", "4"),
        ("explain boat.spec.sails", "How many there are."),
        ("describe boat a", "Harbour:  north"),
        ("label boat a wind=fair", "labeled"),
        ("get boats -l wind=fair -o name", "boat.sea.example.com/a"),
        ("get crd boats.sea.example.com -o jsonpath={.status.storedVersions[0]}", "v1"),
    ] {
        let words: Vec<&str> = arguments.split(' ').collect();
        let said = kubectl(&machine, &words).unwrap_or_else(|said| panic!("kubectl {arguments}: {said}"));
        assert!(said.contains(expect), "kubectl {arguments}: {said}");
    }
    assert_eq!(kubectl(&machine, &["explain", "boat", "--recursive"]).expect("explained"), EXPLAINED);
    for (manifest, expect) in [
        (boat("default", "b", "").replace("2", "x"), "spec.sails in body must be of type integer: \"string\""),
        (
            boat("default", "b", "").replace("sails: 2", "sails: 2, harbour: west"),
            "supported values: \"north\", \"south\"",
        ),
        (boat("default", "b", "").replace("sails: 2", "sails: 2, oars: 1"), "unknown field \"spec.oars\""),
    ] {
        let said = apply(&machine, &manifest).expect_err("refused");
        assert!(said.contains(expect), "{manifest}: {said}");
    }
    // Nothing is lost, and all of it is served again, when the server comes back.
    machine.end_server(Signal::SIGKILL);
    machine.start(&[]);
    machine.wait_ready();
    assert_eq!(kubectl(&machine, &["get", "boats", "-o", "name"]).as_deref(), Ok("boat.sea.example.com/a\n"));
    kubectl(&machine, &["delete", "crd", "boats.sea.example.com", "--timeout=30s"]).expect("deleted with its boats");
    assert!(kubectl(&machine, &["get", "--raw", "/apis/sea.example.com/v1/boats"]).is_err());
}

#[test]
fn owners_and_namespaces_take_them_along() {
    let mut machine = Machine::new();
    machine.start(&[]);
    machine.wait_ready();
    define(&machine);
    kubectl(&machine, &["create", "namespace", "bay"]).expect("a namespace");
    let harbour = "apiVersion: sea.example.com/v1\nkind: Harbour\nmetadata: {name: north}\nspec: {deep: true}\n";
    apply(&machine, harbour).expect("a harbour");
    let uid = |what: &[&str]| machine.jsonpath(what, "{.metadata.uid}").expect("a uid");
    let owner = |kind: &str, name: &str, uid: &str| {
        format!(", ownerReferences: [{{apiVersion: sea.example.com/v1, kind: {kind}, name: {name}, uid: {uid}}}]")
    };
    // A custom resource owns another, which owns a built-in object.
    apply(&machine, &boat("bay", "owned", &owner("Harbour", "north", &uid(&["harbour", "north"])))).expect("a boat");
    apply(&machine, &boat("bay", "free", "")).expect("a boat");
    let of_boat = owner("Boat", "owned", &uid(&["boat", "owned", "-n", "bay"]));
    let log = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: log, namespace: bay{of_boat}}}\n");
    apply(&machine, &log).expect("a config map");
    kubectl(&machine, &["delete", "harbour", "north"]).expect("deleted");
    let names = |what: &str| machine.jsonpath(&[what, "-n", "bay"], "{.items[*].metadata.name}");
    eventually("the boat and its log go with the harbour", LIMIT, || match (names("boats"), names("configmaps")) {
        (Ok(boats), Ok(maps)) if boats == "free" && maps == "kube-root-ca.crt" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    kubectl(&machine, &["delete", "namespace", "bay", "--timeout=60s"]).expect("the namespace goes with its boats");
    let left = machine.jsonpath(&["boats", "-A"], "{.items[*].metadata.name}");
    assert_eq!(left.as_deref(), Ok(""), "{}", machine.last_log());
    kubectl(&machine, &["delete", "crd", "--all", "--timeout=30s"]).expect("all definitions");
}
