//! Create, get, update, delete: codes, bodies, metadata.

use serde_json::{Value, json};

use super::{CONFIG_MAPS, Cluster, config_map, pod, with_account};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_life_of_an_object() {
    let cluster = Cluster::start().await;
    let created = cluster.create(CONFIG_MAPS, config_map("a")).await;
    let meta = &created["metadata"];
    assert_eq!((&created["kind"], &created["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    assert_eq!(meta["namespace"], "default");
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        assert!(meta[field].as_str().is_some_and(|v| !v.is_empty()), "{field}: {meta}");
    }
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(cluster.get(&path).await, created);

    // Nothing changed: nothing is written.
    let (status, same) = cluster.ask("PUT", &path, created.clone()).await;
    assert_eq!((status, &same), (200, &created));
    let mut changed = created.clone();
    changed["data"]["k"] = "w".into();
    let (status, updated) = cluster.ask("PUT", &path, changed.clone()).await;
    assert_eq!((status, &updated["data"]["k"]), (200, &json!("w")));
    assert_ne!(updated["metadata"]["resourceVersion"], meta["resourceVersion"]);
    assert_eq!(updated["metadata"]["uid"], meta["uid"]);

    // The old revision is a conflict now; without one it is not.
    let (status, error) = cluster.ask("PUT", &path, changed.clone()).await;
    assert_eq!((status, &error["reason"]), (409, &json!("Conflict")));
    assert_eq!(
        error["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes \
         to the latest version and try again"
    );
    changed["metadata"] = json!({"name": "a"});
    assert_eq!(cluster.ask("PUT", &path, changed).await.0, 200);

    let (status, deleted) = cluster.ask("DELETE", &path, Value::Null).await;
    assert_eq!(status, 200);
    assert_eq!((&deleted["kind"], &deleted["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(deleted["details"], json!({"name": "a", "kind": "configmaps", "uid": meta["uid"]}));
    let (status, error) = cluster.ask("GET", &path, Value::Null).await;
    assert_eq!(status, 404);
    assert_eq!(error["message"], "configmaps \"a\" not found");
    assert_eq!(error["details"], json!({"name": "a", "kind": "configmaps"}));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, config_map("a")).await;
    let with = |field: &str, value: Value| {
        let mut object = config_map("b");
        object["metadata"][field] = value;
        object
    };
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let a = format!("{CONFIG_MAPS}/a");
    for (method, path, body, status, reason, message) in [
        ("POST", CONFIG_MAPS, config_map("a"), 409, "AlreadyExists", "configmaps \"a\" already exists"),
        (
            "POST",
            CONFIG_MAPS,
            with("namespace", json!("other")),
            400,
            "BadRequest",
            "the namespace of the provided object does not match",
        ),
        (
            "POST",
            CONFIG_MAPS,
            with("resourceVersion", json!("7")),
            400,
            "BadRequest",
            "resourceVersion should not be set",
        ),
        ("POST", CONFIG_MAPS, config_map("UPPER"), 422, "Invalid", "metadata.name: Invalid value: \"UPPER\""),
        (
            "POST",
            CONFIG_MAPS,
            json!({"kind": "Secret", "apiVersion": "v1"}),
            400,
            "BadRequest",
            "cannot be handled as a ConfigMap",
        ),
        (
            "POST",
            deployments,
            json!({"apiVersion": "apps/v1beta1"}),
            400,
            "BadRequest",
            "the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)",
        ),
        ("POST", CONFIG_MAPS, json!("text"), 400, "BadRequest", "cannot be handled as a ConfigMap"),
        (
            "POST",
            "/api/v1/namespaces/nope/configmaps",
            config_map("a"),
            404,
            "NotFound",
            "namespaces \"nope\" not found",
        ),
        (
            "POST",
            "/api/v1/configmaps",
            config_map("a"),
            405,
            "MethodNotAllowed",
            "the server does not allow this method",
        ),
        (
            "PUT",
            &a,
            json!({}),
            400,
            "BadRequest",
            "the name of the object (a based on URL) was undeterminable: name must be provided",
        ),
        (
            "PUT",
            &a,
            config_map("b"),
            400,
            "BadRequest",
            "the name of the object (b) does not match the name on the URL (a)",
        ),
        ("PUT", &a, with("name", json!("a")).tap("uid", "other"), 409, "Conflict", "UID in precondition: other"),
        (
            "DELETE",
            &a,
            json!({"preconditions": {"uid": "other"}}),
            409,
            "Conflict",
            "the UID in the precondition (other)",
        ),
        (
            "DELETE",
            &a,
            json!({"preconditions": {"resourceVersion": "1"}}),
            409,
            "Conflict",
            "Operation cannot be fulfilled on ConfigMap \"a\": the ResourceVersion in the precondition (1) does not match",
        ),
        ("DELETE", &a, json!({"propagationPolicy": "Odd"}), 422, "Invalid", "Unsupported value: \"Odd\""),
        ("DELETE", "/api/v1/namespaces/default", Value::Null, 403, "Forbidden", "this namespace may not be deleted"),
        (
            "PATCH",
            &a,
            json!({}),
            415,
            "UnsupportedMediaType",
            "accepted media types include: application/json-patch+json",
        ),
        ("POST", &a, config_map("a"), 405, "MethodNotAllowed", ""),
        (
            "POST",
            &format!("{CONFIG_MAPS}?dryRun=Maybe"),
            config_map("c"),
            422,
            "Invalid",
            "dryRun: Unsupported value: [\"Maybe\"]: supported values: \"All\"",
        ),
        (
            "GET",
            "/api/v1/pods?fieldSelector=spec.odd=x",
            Value::Null,
            400,
            "BadRequest",
            "field label not supported: spec.odd",
        ),
    ] {
        let (got, value) = cluster.ask(method, path, body).await;
        let what = format!("{method} {path}: {value}");
        assert_eq!(got, status, "{what}");
        assert_eq!(value["kind"], "Status", "{what}");
        assert_eq!(value["status"], "Failure", "{what}");
        assert_eq!(value["code"], status, "{what}");
        assert_eq!(value["reason"], reason, "{what}");
        assert!(value["message"].as_str().is_some_and(|m| m.contains(message)), "{what}");
    }
    for path in ["/nosuch", "/apis/nosuch/v1/pods", "/apis/apps/v1/nosuch", &format!("{a}/status")] {
        let (status, value) = cluster.ask("GET", path, Value::Null).await;
        let told = (status, value["reason"].as_str(), value["message"].as_str());
        assert_eq!(told, (404, Some("NotFound"), Some("the server could not find the requested resource")), "{path}");
    }
    cluster.stop().await;
}

trait Tap {
    fn tap(self, field: &str, value: &str) -> Value;
}

impl Tap for Value {
    fn tap(mut self, field: &str, value: &str) -> Value {
        self["metadata"][field] = value.into();
        self
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_names_and_dry_runs() {
    let cluster = Cluster::start().await;
    let mut object = config_map("");
    object["metadata"] = json!({"generateName": "gen-"});
    let first = cluster.create(CONFIG_MAPS, object.clone()).await;
    let name = first["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("gen-") && name.len() == 9, "{name}");

    let dry = cluster.create(&format!("{CONFIG_MAPS}?dryRun=All"), config_map("dry")).await;
    assert!(dry["metadata"]["uid"].is_string() && dry["metadata"].get("resourceVersion").is_none(), "{dry}");
    assert_eq!(cluster.ask("GET", &format!("{CONFIG_MAPS}/dry"), Value::Null).await.0, 404);
    let path = format!("{CONFIG_MAPS}/{name}");
    let (status, _) = cluster.ask("DELETE", &format!("{path}?dryRun=All"), Value::Null).await;
    assert_eq!(status, 200);
    let (_, patched) = cluster.patch(&format!("{path}?dryRun=All"), "merge", json!({"data": {"k": "dry"}})).await;
    assert_eq!(patched["data"]["k"], "dry");
    assert_eq!(cluster.get(&path).await, first);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finalizers_hold_an_object() {
    let cluster = Cluster::start().await;
    let mut object = config_map("f");
    object["metadata"]["finalizers"] = json!(["example.com/a"]);
    cluster.create(CONFIG_MAPS, object).await;
    let path = format!("{CONFIG_MAPS}/f");
    let (status, ending) = cluster.ask("DELETE", &path, Value::Null).await;
    assert_eq!((status, &ending["kind"]), (200, &json!("ConfigMap")));
    assert!(ending["metadata"]["deletionTimestamp"].is_string());
    // Again changes nothing.
    let (_, again) = cluster.ask("DELETE", &path, Value::Null).await;
    assert_eq!(again["metadata"]["resourceVersion"], ending["metadata"]["resourceVersion"]);
    let (status, _) = cluster.patch(&path, "merge", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(status, 200);
    assert_eq!(cluster.ask("GET", &path, Value::Null).await.0, 404);

    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        cluster.create(CONFIG_MAPS, config_map("g")).await;
        let path = format!("{CONFIG_MAPS}/g");
        let (_, ending) = cluster.ask("DELETE", &path, json!({"propagationPolicy": policy})).await;
        assert_eq!(ending["metadata"]["finalizers"], json!([finalizer]));
        let (_, last) = cluster.patch(&path, "json", json!([{"op": "remove", "path": "/metadata/finalizers"}])).await;
        assert_eq!(last["metadata"]["name"], "g", "{last}");
        assert_eq!(cluster.ask("GET", &path, Value::Null).await.0, 404);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_end_gracefully_once_they_run() {
    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    let pods = "/api/v1/namespaces/default/pods";
    cluster.create(pods, pod("unbound")).await;
    let (_, gone) = cluster.ask("DELETE", &format!("{pods}/unbound"), Value::Null).await;
    assert_eq!(gone["kind"], "Status", "a pod without a node ends at once: {gone}");

    cluster.create(pods, pod("p")).await;
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let (status, bound) = cluster.ask("POST", &format!("{pods}/p/binding"), binding.clone()).await;
    assert_eq!((status, &bound["status"]), (201, &json!("Success")));
    let (status, error) = cluster.ask("POST", &format!("{pods}/p/binding"), binding).await;
    assert_eq!(status, 409);
    assert_eq!(
        error["message"],
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n\""
    );
    let path = format!("{pods}/p");
    let (_, ending) = cluster.ask("DELETE", &path, Value::Null).await;
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 30);
    let (_, sooner) = cluster.ask("DELETE", &path, json!({"gracePeriodSeconds": 5})).await;
    assert_eq!(sooner["metadata"]["deletionGracePeriodSeconds"], 5);
    assert!(sooner["metadata"]["deletionTimestamp"].as_str() < ending["metadata"]["deletionTimestamp"].as_str());
    let (_, later) = cluster.ask("DELETE", &path, json!({"gracePeriodSeconds": 60})).await;
    assert_eq!(later["metadata"]["deletionGracePeriodSeconds"], 5);
    // A negative period is an old way to say "soon", not "at once"; and who sends a body has said everything in it.
    let (_, soon) = cluster.ask("DELETE", &format!("{path}?gracePeriodSeconds=-1"), Value::Null).await;
    assert_eq!(soon["metadata"]["deletionGracePeriodSeconds"], 1, "{soon}");
    let (_, same) =
        cluster.ask("DELETE", &format!("{path}?gracePeriodSeconds=0"), json!({"kind": "DeleteOptions"})).await;
    assert_eq!(same["metadata"]["deletionGracePeriodSeconds"], 1, "{same}");
    let (_, gone) = cluster.ask("DELETE", &path, json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(gone["status"], "Success", "{gone}");
    assert_eq!(cluster.ask("GET", &path, Value::Null).await.0, 404);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_end_when_they_are_finalized() {
    let cluster = Cluster::start().await;
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "t"}});
    let created = cluster.create("/api/v1/namespaces", space).await;
    assert_eq!(created["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(created["status"]["phase"], "Active");
    assert_eq!(created["metadata"]["labels"]["kubernetes.io/metadata.name"], "t");
    let (_, mut ending) = cluster.ask("DELETE", "/api/v1/namespaces/t", Value::Null).await;
    assert_eq!(ending["status"]["phase"], "Terminating");
    let (status, error) = cluster.ask("POST", "/api/v1/namespaces/t/configmaps", config_map("a")).await;
    assert_eq!((status, &error["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")));
    ending["spec"]["finalizers"] = json!([]);
    let (status, done) = cluster.ask("PUT", "/api/v1/namespaces/t/finalize", ending).await;
    assert_eq!(status, 200, "{done}");
    assert_eq!(cluster.ask("GET", "/api/v1/namespaces/t", Value::Null).await.0, 404);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_filled_in() {
    let cluster = Cluster::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let mut other = pod("o");
    other["spec"]["serviceAccountName"] = "nosuch".into();
    let (status, error) = cluster.ask("POST", pods, other).await;
    assert_eq!(status, 403);
    assert_eq!(
        error["message"],
        "pods \"o\" is forbidden: error looking up service account default/nosuch: serviceaccount \"nosuch\" not found"
    );
    with_account(&cluster).await;
    let mut sandboxed = pod("q");
    sandboxed["spec"]["runtimeClassName"] = "gvisor".into();
    let (status, error) = cluster.ask("POST", pods, sandboxed).await;
    assert_eq!(status, 403);
    assert_eq!(error["message"], "pods \"q\" is forbidden: pod rejected: RuntimeClass \"gvisor\" not found");
    let created = cluster.create(pods, pod("p")).await;
    let spec = &created["spec"];
    assert_eq!((&spec["serviceAccountName"], &spec["priority"]), (&json!("default"), &json!(0)));
    assert_eq!(spec["tolerations"].as_array().map(Vec::len), Some(2));
    let mount = &spec["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(mount["name"], spec["volumes"][0]["name"]);
    assert_eq!(created["status"]["phase"], "Pending");
    let mut system = pod("s");
    system["spec"]["priorityClassName"] = "system-node-critical".into();
    assert_eq!(cluster.create(pods, system).await["spec"]["priority"], 2_000_001_000);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    let node = cluster.create("/api/v1/nodes", node).await;
    assert_eq!(node["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    cluster.stop().await;
}

/// A client that says nothing of the pods of a v1 ReplicationController leaves them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replication_controllers_leave_their_pods_by_default() {
    let cluster = Cluster::start().await;
    let path = "/api/v1/namespaces/default/replicationcontrollers";
    for (name, body, expect) in [
        ("silent", Value::Null, json!(["orphan"])),
        ("background", json!({"propagationPolicy": "Background"}), Value::Null),
        ("foreground", json!({"propagationPolicy": "Foreground"}), json!(["foregroundDeletion"])),
    ] {
        let template = json!({"metadata": {"labels": {"a": name}}, "spec": pod("p")["spec"]});
        let object = json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name},
            "spec": {"replicas": 1, "selector": {"a": name}, "template": template}});
        cluster.create(path, object).await;
        let (status, deleted) = cluster.ask("DELETE", &format!("{path}/{name}"), body).await;
        assert_eq!((status, &deleted["metadata"]["finalizers"]), (200, &expect), "{deleted}");
    }
    cluster.stop().await;
}
