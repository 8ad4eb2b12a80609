//! The definitions that operators' charts bring: big schemas, several versions, columns, scales. Made here in the style of
//! what cert-manager, Argo CD and the Prometheus operator generate, and given to a real server by the clients that people
//! use for it.

mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::{Machine, eventually, result, skiff};
use serde_json::{Map, Value, json};

const LIMIT: Duration = Duration::from_secs(60);
/// More than an annotation may hold, and so more than client-side apply can handle.
const LARGE: usize = 300 << 10;

fn client(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients").join(name);
    assert!(path.exists(), "{} is missing: tests/clients/install puts it there", path.display());
    path
}

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

/// Objects in objects, as the affinities and sources of pods are.
fn deep(depth: usize, description: &str) -> Value {
    let mut fields = Map::new();
    for n in 0..4 {
        fields.insert(format!("field{n}"), text(description));
    }
    fields.insert("weight".into(), json!({"type": "integer", "format": "int32", "minimum": 0}));
    fields.insert(
        "quantity".into(),
        json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}],
        "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?[0-9]+))?$"}),
    );
    fields.insert("labels".into(), json!({"type": "object", "additionalProperties": {"type": "string"}}));
    if depth > 0 {
        fields.insert("below".into(), deep(depth - 1, description));
        fields.insert(
            "terms".into(),
            json!({"type": "array", "x-kubernetes-list-type": "atomic", "items": deep(depth - 1, description)}),
        );
    }
    json!({"type": "object", "description": description, "properties": fields})
}

/// Fields like `containers`, until there is enough of them.
fn fields_of(bytes: usize) -> Map<String, Value> {
    let description = "What this is for, when it is looked at, and what becomes of it when it is not given. ".repeat(2);
    let (mut fields, mut size) = (Map::new(), 0);
    while size < bytes {
        let mut item = deep(5, &description);
        item["required"] = json!(["name"]);
        item["properties"]["name"] = text("It is the key.");
        item["properties"]["policy"] = json!({"type": "string", "enum": ["Always", "Never"], "default": "Always"});
        let list = json!({"type": "array", "description": description, "items": item,
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]});
        size += list.to_string().len();
        fields.insert(format!("containers{}", fields.len()), list);
    }
    fields
}

fn conditions() -> Value {
    json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"], "items": {"type": "object",
        "required": ["type", "status"], "properties": {"type": {"type": "string"}, "reason": {"type": "string"},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]}, "observedGeneration": {"type": "integer", "format": "int64"}}}})
}

fn schema(spec: Value, status: Value) -> Value {
    json!({"openAPIV3Schema": {"type": "object", "required": ["spec"], "description": "It is made by an operator.", "properties": {
        "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
        "spec": spec, "status": status}}})
}

fn definition(group: &str, names: Value, versions: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{group}", names["plural"].as_str().expect("a name")), "labels": {"suite": "operators"}},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": versions}})
}

/// Conditions in columns, categories, rules.
fn certificates() -> Value {
    let mut fields = fields_of(100 << 10);
    fields.insert("secretName".into(), text("Where it is put."));
    fields.insert(
        "dnsNames".into(),
        json!({"type": "array", "x-kubernetes-list-type": "atomic", "items": {"type": "string"}}),
    );
    fields.insert("duration".into(), json!({"type": "string", "default": "2160h"}));
    let spec = json!({"type": "object", "required": ["secretName"], "properties": fields,
        "x-kubernetes-validations": [{"rule": "size(self.dnsNames) > 0", "message": "at least one name"}]});
    let status = json!({"type": "object", "properties": {"conditions": conditions(), "notAfter": {"type": "string", "format": "date-time"}}});
    let columns = json!([
        {"name": "Ready", "type": "string", "jsonPath": r#".status.conditions[?(@.type=="Ready")].status"#},
        {"name": "Secret", "type": "string", "jsonPath": ".spec.secretName"},
        {"name": "Status", "type": "string", "jsonPath": r#".status.conditions[?(@.type=="Ready")].reason"#, "priority": 1},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]);
    let names = json!({"plural": "certificates", "singular": "certificate", "kind": "Certificate", "listKind": "CertificateList",
        "shortNames": ["cert", "certs"], "categories": ["cert-example"]});
    definition(
        "cert.example",
        names,
        json!([{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
        "additionalPrinterColumns": columns, "schema": schema(spec, status)}]),
    )
}

/// No status subresource, fields that anything may be in.
fn applications() -> Value {
    let mut fields = fields_of(LARGE);
    fields.insert("project".into(), text("What it belongs to."));
    fields.insert("values".into(), json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    fields.insert("revision".into(), json!({"x-kubernetes-int-or-string": true}));
    let spec = json!({"type": "object", "required": ["project"], "properties": fields});
    let status = json!({"type": "object", "properties": {"sync": {"type": "object", "properties": {"status": {"type": "string"}}}}});
    let columns = json!([{"name": "Sync Status", "type": "string", "jsonPath": ".status.sync.status"},
        {"name": "Revision", "type": "string", "jsonPath": ".spec.revision", "priority": 10}]);
    let names = json!({"plural": "applications", "singular": "application", "kind": "Application", "shortNames": ["app", "apps"]});
    definition(
        "gitops.example",
        names,
        json!([{"name": "v1alpha1", "served": true, "storage": true,
        "additionalPrinterColumns": columns, "schema": schema(spec, status)}]),
    )
}

/// A scale, a field to select by, and an older version that is on its way out.
fn monitors() -> Value {
    let mut fields = fields_of(LARGE);
    fields.insert("replicas".into(), json!({"type": "integer", "format": "int32", "minimum": 0, "default": 1}));
    fields.insert("shard".into(), text("Which part it looks at."));
    let spec = json!({"type": "object", "properties": fields});
    let status = json!({"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}, "conditions": conditions()}});
    let version = |name: &str, stored: bool| {
        json!({"name": name, "served": true, "storage": stored, "deprecated": !stored,
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector"}},
        "selectableFields": [{"jsonPath": ".spec.shard"}],
        "additionalPrinterColumns": [{"name": "Desired", "type": "integer", "jsonPath": ".spec.replicas"}],
        "schema": schema(spec.clone(), status.clone())})
    };
    let names = json!({"plural": "monitors", "singular": "monitor", "kind": "Monitor", "shortNames": ["mon"], "categories": ["monitoring"]});
    definition("monitoring.example", names, json!([version("v1beta1", false), version("v1", true)]))
}

/// One of each kind.
const OBJECTS: &str = r#"
apiVersion: cert.example/v1
kind: Certificate
metadata: {name: web}
spec:
  secretName: web-tls
  dnsNames: [web.example]
  containers0:
  - {name: a, quantity: 100m, below: {below: {terms: [{field0: x}]}}}
---
apiVersion: gitops.example/v1alpha1
kind: Application
metadata: {name: shop}
spec:
  project: default
  revision: 7
  values: {anything: {goes: [1, two]}}
---
apiVersion: monitoring.example/v1
kind: Monitor
metadata: {name: main}
spec:
  shard: north
  containers0:
  - {name: a, policy: Never}
  - {name: b}
"#;

fn write(machine: &Machine, name: &str, content: &str) -> String {
    let path = machine.directory.path().join(name);
    fs::create_dir_all(path.parent().expect("a directory")).expect("make directories");
    fs::write(&path, content).expect("write the file");
    path.to_string_lossy().into_owned()
}

#[test]
fn kubectl_applies_them_and_uses_them_at_once() {
    let machine = Machine::with_server();
    let definitions = [certificates(), applications(), monitors()];
    assert!(definitions[1..].iter().all(|definition| definition.to_string().len() > LARGE));
    let manifest = json!({"apiVersion": "v1", "kind": "List", "items": definitions}).to_string();
    let (definitions, objects) = (write(&machine, "crds.json", &manifest), write(&machine, "objects.yaml", OBJECTS));
    let programs = [(client("kubectl-1.36"), vec![]), (client("kubectl-1.29"), vec![]), (skiff(), vec!["kubectl"])];
    for (program, before) in programs {
        let run = |line: &str| {
            let words = line.replace("CRDS", &definitions).replace("OBJECTS", &objects);
            let mut command = machine.command(&program);
            let output = command.args(&before).args(words.split(' ')).output().expect("run a kubectl");
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            result(&output).map(|stdout| (stdout, stderr))
        };
        let ok = |line: &str| {
            run(line).unwrap_or_else(|said| panic!("{} {line}: {said}\n{}", program.display(), machine.last_log()))
        };
        let refused = |line: &str| run(line).err().unwrap_or_else(|| panic!("{} {line} was done", program.display()));
        // The annotation of client-side apply can't hold the large ones.
        let said = refused("apply -f CRDS");
        assert!(said.contains("metadata.annotations: Too long: may not be more than 262144 bytes"), "{said}");
        // The small one was made, with a word on its rules.
        assert!(said.contains("x-kubernetes-validations are stored and published, but not enforced"), "{said}");
        ok("apply --server-side --force-conflicts -f CRDS");
        ok("wait --for=condition=Established crd -l suite=operators --timeout=30s");
        ok("apply --server-side -f OBJECTS");
        let (again, _) = ok("apply --server-side -f OBJECTS -o jsonpath={.items[*].metadata.resourceVersion}");
        assert_eq!(ok("apply --server-side -f OBJECTS -o jsonpath={.items[*].metadata.resourceVersion}").0, again);
        for (line, expect) in [
            ("get certs web", "NAME   READY   SECRET    AGE"),
            ("get certs web -o wide", "NAME   READY   SECRET    STATUS   AGE"),
            ("get cert-example -o name", "certificate.cert.example/web"),
            ("get cert web -o jsonpath={.spec.duration}{.spec.containers0[0].policy}", "2160hAlways"),
            ("get applications.gitops.example shop -o wide", "7"),
            ("get app shop -o jsonpath={.spec.values.anything.goes}", r#"[1,"two"]"#),
            ("get monitoring", "NAME   DESIRED"),
            ("get mon --field-selector spec.shard=north -o name", "monitor.monitoring.example/main"),
            ("get monitors.v1beta1.monitoring.example main -o jsonpath={.apiVersion}", "monitoring.example/v1beta1"),
            ("scale monitor main --replicas=3", "scaled"),
            ("get monitor main -o jsonpath={.spec.replicas}", "3"),
            ("explain certificate.spec.secretName", "Where it is put."),
            ("explain monitor.spec.containers0.below.terms.weight", "<integer>"),
            ("explain monitor", "APIVersion defines"),
            ("explain monitor.metadata", "CreationTimestamp is a timestamp"),
            ("explain application --recursive", "containers0"),
            ("describe cert web", "Secret Name:  web-tls"),
            ("api-resources --api-group=monitoring.example", "monitors"),
        ] {
            let (said, _) = ok(line);
            assert!(said.contains(expect), "{line}: {said}");
        }
        assert!(run("get mon --field-selector spec.shard=south -o name").is_ok_and(|(said, _)| said.is_empty()));
        let (_, warned) = ok("get monitors.v1beta1.monitoring.example");
        assert!(warned.contains("monitoring.example/v1beta1 Monitor is deprecated"), "{warned}");
        let said = refused("explain monitor.spec.nosuch");
        assert!(said.contains(r#"field "nosuch" does not exist"#), "{said}");
        // The status has columns of its own, and a way of its own.
        ok(
            r#"patch certificate web --subresource=status --type=merge -p {"status":{"conditions":[{"type":"Ready","status":"True","reason":"Issued"}]}}"#,
        );
        let (table, _) = ok("get certs web -o wide --no-headers");
        assert!(["True", "web-tls", "Issued"].iter().all(|cell| table.contains(cell)), "{table}");
        // What somebody else applies of a list is his, item by item.
        let other = |policy: &str| {
            write(
                &machine,
                "other.yaml",
                &format!(
                    "apiVersion: monitoring.example/v1\nkind: Monitor\nmetadata: {{name: main}}\nspec:\n  containers0:\n  - {{name: c}}\n  - {{name: a, policy: {policy}}}\n"
                ),
            )
        };
        let said = refused(&format!("apply --server-side --field-manager=other -f {}", other("Always")));
        assert!(said.contains(r#"conflict with "kubectl": .spec.containers0[name="a"].policy"#), "{said}");
        ok(&format!("apply --server-side --field-manager=other -f {}", other("Never")));
        assert_eq!(ok("get mon main -o jsonpath={.spec.containers0[*].name}").0, "c a b");
        for (manifest, expect) in [
            (OBJECTS.replace("quantity: 100m", "quantity: much"), "spec.containers0[0].quantity"),
            (OBJECTS.replace("policy: Never", "policy: Often"), r#"supported values: "Always", "Never""#),
            (OBJECTS.replace("project: default", "projekt: default"), r#"spec.projekt: field not declared in schema"#),
            (OBJECTS.replace("  - {name: b}", "  - {name: a}"), "duplicate"),
        ] {
            let file = write(
                &machine,
                "wrong.yaml",
                &manifest
                    .replace("name: web}", "name: x}")
                    .replace("name: shop}", "name: x}")
                    .replace("name: main}", "name: x}"),
            );
            let said = refused(&format!("apply --server-side -f {file}"));
            assert!(said.contains(expect), "{expect}: {said}");
        }
        ok("delete crd -l suite=operators --timeout=60s");
        let said = refused("get certificates.cert.example");
        assert!(said.contains("the server doesn't have a resource type"), "{said}");
    }
}

/// Definitions in `crds/`, objects of them in the templates: they have to be usable when Helm comes to them.
fn helm(program: &str) {
    let machine = Machine::with_server();
    write(&machine, "chart/Chart.yaml", "apiVersion: v2\nname: operators\nversion: 0.1.0\n");
    for (name, definition) in [("a", certificates()), ("b", applications()), ("c", monitors())] {
        write(&machine, &format!("chart/crds/{name}.yaml"), &definition.to_string());
    }
    let template = OBJECTS
        .replace("name: main}", "name: {{ .Release.Name }}}")
        .replace("shard: north", "shard: {{ .Values.shard }}");
    write(&machine, "chart/templates/all.yaml", &template);
    write(&machine, "chart/values.yaml", "shard: north\n");
    let chart = machine.directory.path().join("chart").to_string_lossy().into_owned();
    let run = |line: &str| {
        let line = line.replace("CHART", &chart);
        result(&machine.command(client(program)).args(line.split(' ')).output().expect("run Helm"))
            .unwrap_or_else(|said| panic!("{program} {line}: {said}\n{}", machine.last_log()))
    };
    let shard = || machine.jsonpath(&["monitor", "boat"], "{.spec.shard}");
    run("install boat CHART --wait --timeout 60s");
    assert_eq!(shard().as_deref(), Ok("north"));
    run("upgrade boat CHART --set shard=south --wait --timeout 60s");
    assert_eq!(shard().as_deref(), Ok("south"));
    run("rollback boat 1 --wait --timeout 60s");
    assert_eq!(shard().as_deref(), Ok("north"));
    run("uninstall boat --wait --timeout 60s");
    eventually("the objects are gone", LIMIT, || {
        match machine.jsonpath(&["certificates,applications,monitors"], "{.items[*].metadata.name}") {
            Ok(left) if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        }
    });
    // Helm leaves definitions alone.
    assert_eq!(
        machine.jsonpath(&["crd"], "{.items[*].spec.names.plural}").as_deref(),
        Ok("applications certificates monitors")
    );
}

#[test]
fn helm_3_installs_them_with_their_objects() {
    helm("helm-3");
}

#[test]
fn helm_4_installs_them_with_their_objects() {
    helm("helm-4");
}
