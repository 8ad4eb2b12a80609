//! Custom resources, from the definition to the end of its objects.

use serde_json::{Value, json};

use super::Cluster;
use super::kubectl::{config_of, kubectl};

pub(super) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

pub(super) fn crd(change: impl FnOnce(&mut Value)) -> Value {
    let mut crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "description": "A cron job.", "properties": {
                    "spec": {"type": "object", "description": "What shall be.", "required": ["cronSpec"], "properties": {
                        "cronSpec": {"type": "string", "pattern": "^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$", "description": "When."},
                        "replicas": {"type": "integer", "minimum": 1, "maximum": 10, "default": 2},
                        "image": {"type": "string"}}},
                    "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}},
                "additionalPrinterColumns": [{"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]}]},
    });
    change(&mut crd);
    crd
}

pub(super) fn tab(name: &str) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name},
        "spec": {"cronSpec": "* * * * */5", "image": "i"}})
}

impl Cluster {
    /// Waits until the definition's condition is so.
    pub(super) async fn until_condition(&self, name: &str, kind: &str, status: &str) -> Value {
        let path = format!("{DEFINITIONS}/{name}");
        let what = format!("{kind} is {status}");
        self.eventually(&what, &path, |definition| {
            let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
            conditions.into_iter().any(|c| c["type"] == kind && c["status"] == status)
        })
        .await
    }

    /// Asks until the answer is as wanted, and gives it.
    pub(super) async fn eventually(&self, what: &str, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let limit = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let (_, answer) = self.ask("GET", path, Value::Null).await;
            if wanted(&answer) {
                return answer;
            }
            assert!(tokio::time::Instant::now() < limit, "{what}: {answer}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn define(&self, crd: Value) -> Value {
        let name = crd["metadata"]["name"].as_str().expect("a name").to_owned();
        self.create(DEFINITIONS, crd).await;
        self.until_condition(&name, "Established", "True").await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_life_of_a_definition() {
    let cluster = Cluster::start().await;
    let defined = cluster.define(crd(|_| {})).await;
    let names = &defined["spec"]["names"];
    assert_eq!((&names["singular"], &names["listKind"]), (&json!("crontab"), &json!("CronTabList")));
    assert_eq!(defined["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(defined["status"]["acceptedNames"], *names);
    assert_eq!(defined["status"]["storedVersions"], json!(["v1"]));
    let said: Vec<String> = defined["status"]["conditions"]
        .as_array()
        .expect("conditions")
        .iter()
        .map(|c| format!("{} {} {} {}", c["type"], c["status"], c["reason"], c["message"]).replace('"', ""))
        .collect();
    assert_eq!(
        said,
        [
            "NamesAccepted True NoConflicts no conflicts found",
            "Established True InitialNamesAccepted the initial names have been accepted",
        ]
    );

    let created = cluster.create(TABS, tab("a")).await;
    assert_eq!(created["spec"]["replicas"], 2, "the default");
    assert_eq!((&created["metadata"]["generation"], &created["kind"]), (&json!(1), &json!("CronTab")));
    let path = format!("{TABS}/a");
    assert_eq!(cluster.get(&path).await, created);
    let list = cluster.get(TABS).await;
    assert_eq!((&list["kind"], &list["items"][0]), (&json!("CronTabList"), &created));

    // The status is a part of its own.
    let mut changed = created.clone();
    changed["spec"]["image"] = "j".into();
    changed["status"] = json!({"replicas": 1});
    let (status, updated) = cluster.ask("PUT", &path, changed.clone()).await;
    assert_eq!((status, updated.get("status"), &updated["metadata"]["generation"]), (200, None, &json!(2)));
    changed["metadata"]["resourceVersion"] = updated["metadata"]["resourceVersion"].clone();
    changed["spec"]["image"] = "k".into();
    let (status, updated) = cluster.ask("PUT", &format!("{path}/status"), changed).await;
    assert_eq!((status, &updated["status"]["replicas"], &updated["spec"]["image"]), (200, &json!(1), &json!("j")));

    // It ends with its objects.
    let (status, _) = cluster.ask("DELETE", &format!("{DEFINITIONS}/crontabs.stable.example.com"), Value::Null).await;
    assert_eq!(status, 200);
    cluster.eventually("withdrawn", "/apis/stable.example.com/v1", |answer| answer["code"] == 404).await;
    let (status, _) = cluster.ask("GET", &path, Value::Null).await;
    assert_eq!(status, 404);
    // The same again finds nothing of before.
    cluster.define(crd(|_| {})).await;
    assert_eq!(cluster.get(TABS).await["items"], json!([]));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_works_with_custom_resources() {
    let cluster = Cluster::start().await;
    let config = config_of(&cluster);
    let definition = crd(|_| {}).to_string();
    let object = tab("t").to_string();
    for (arguments, input, expect) in [
        ("get crontabs", "", "the server doesn't have a resource type \"crontabs\""),
        ("apply -f -", object.as_str(), "no matches for kind \"CronTab\" in version \"stable.example.com/v1\""),
        (
            "apply -f -",
            definition.as_str(),
            "customresourcedefinition.apiextensions.k8s.io/crontabs.stable.example.com created",
        ),
        ("wait --for=condition=established crd crontabs.stable.example.com", "", "condition met"),
        ("get crd", "", "crontabs.stable.example.com"),
        ("get crds -o wide", "", "CREATED AT"),
        ("apply -f -", object.as_str(), "crontab.stable.example.com/t created"),
        ("apply -f -", object.as_str(), "crontab.stable.example.com/t unchanged"),
        ("get ct", "", "SPEC"),
        ("get ct t", "", "* * * * */5"),
        ("get all", "", "crontab.stable.example.com/t"),
        ("patch ct t --type=merge -p {\"spec\":{\"replicas\":3}}", "", "patched"),
        ("get ct t -o jsonpath={.spec.replicas}", "", "3"),
        (
            "patch ct t --type=merge -p {\"spec\":{\"replicas\":\"x\"}}",
            "",
            "spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\"",
        ),
        ("patch ct t --type=json -p [{\"op\":\"remove\",\"path\":\"/spec/image\"}]", "", "patched"),
        ("label ct t a=b", "", "labeled"),
        ("explain crontab.spec", "", "cronSpec"),
        ("explain crontab --recursive", "", "replicas"),
        ("delete ct t", "", "crontab.stable.example.com \"t\" deleted"),
        ("delete crd crontabs.stable.example.com", "", "deleted"),
        // kubectl still has the discovery of before.
        ("get crontabs", "", "the server could not find the requested resource"),
    ] {
        let words: Vec<&str> = arguments.split(' ').collect();
        let (_, text) = kubectl(&config, &words, input).await;
        assert!(text.contains(expect), "kubectl {arguments}: {text}");
    }
    cluster.stop().await;
}
