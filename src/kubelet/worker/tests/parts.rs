//! What a pod is made of: images, volumes, hooks, probes, resources, containers that come later.

use std::path::Path;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use skiff_api::Gvr;
use skiff_client::{Selector, Transport as _, Update};
use skiff_runtime::{ContainerId, ImageId};

use crate::testing::{World, one};

#[tokio::test]
async fn images_that_can_not_be_had() {
    let world = World::new().await;
    world.machine.lock().broken.push("gone:1".into());
    let mut broken = one("Always", json!({"image": "gone:1"}));
    broken["imagePullSecrets"] = json!([{"name": "one"}, {"name": "two"}, {"name": ""}]);
    world.api.put(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "two", "namespace": "default"}}));
    world.create("broken", broken);
    world.create("never", one("Always", json!({"image": "gone:1", "imagePullPolicy": "Never"})));
    world.create("invalid", one("Always", json!({"image": "not valid"})));
    let reason =
        |w: &World, name: &str| w.pod(name)["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    world.eventually("ErrImageNeverPull", |w| reason(w, "never") == "ErrImageNeverPull").await;
    world.eventually("InvalidImageName", |w| reason(w, "invalid") == "InvalidImageName").await;
    world.eventually("ErrImagePull", |w| reason(w, "broken") == "ErrImagePull").await;
    world.eventually("ImagePullBackOff", |w| reason(w, "broken") == "ImagePullBackOff").await;
    let message = "Unable to retrieve some image pull secrets (one); attempting to pull the image may not succeed.";
    let events = world.api.objects("/api/v1/events");
    let told = |e: &Value| e["reason"] == "FailedToRetrieveImagePullSecret" && e["message"] == message;
    assert!(events.iter().any(told), "{events:#?}");
    // It can be deleted while it waits.
    world.delete("broken", 0);
    world.eventually("it is gone", |w| w.pod("broken").is_null()).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn a_pull_that_has_begun_goes_on_without_its_pod() {
    let world = World::new().await;
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    world.machine.lock().slow.insert("slow:1".to_owned(), gate.clone());
    let marks = world.options().data_directory.join("pulling");
    let under_way = || marks.read_dir().map_or(0, Iterator::count);
    world.create("p", one("Always", json!({"image": "slow:1"})));
    world.eventually("a pull", |w| w.log().contains(&"pull slow:1".to_owned())).await;
    assert_eq!(under_way(), 1);
    world.delete("p", 0);
    world.eventually("the pod is gone", |w| w.pod("p").is_null() && w.machine.lock().sandboxes.is_empty()).await;
    gate.notify_one();
    world.eventually("it has ended", |_| under_way() == 0).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn volumes_wait_for_their_objects_and_follow_them() {
    let world = World::new().await;
    let mut spec = one(
        "Always",
        json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}],
        "env": [{"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "k"}}}]}),
    );
    spec["volumes"] = json!([{"name": "v", "configMap": {"name": "map"}}]);
    world.machine.lock().held = vec!["it is busy"];
    let mut feed = world.api.observe(&Gvr::of::<Pod>(), &Selector::default());
    world.create("p", spec);
    world.eventually("it says what is missing", |w| w.reasons().contains(&"FailedMount".to_owned())).await;
    // What was made before that was known goes, is not told of, and frees its address however often that is tried.
    world.eventually("it has no sandbox", |w| w.log().last().is_some_and(|line| line == "remove sandbox")).await;
    assert_eq!(world.log(), ["sandbox", "detach", "remove sandbox"]);
    let events = world.api.objects("/api/v1/events");
    let message =
        "error killing pod: failed to \"KillPodSandbox\" for \"uid-p\" with KillPodSandboxError: \"it is busy\"";
    assert!(events.iter().any(|e| e["reason"] == "FailedKillPod" && e["message"] == message), "{events:#?}");
    let map = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map", "namespace": "default"}, "data": {"k": value}});
    world.api.put(map("1"));
    let mut status = json!(null);
    while status["phase"] != "Running" {
        if let Update::Put(pod) = feed.next().await.expect("the feed never ends") {
            status = pod.value()["status"].clone();
            let ready = status["conditions"][0].clone();
            let shown = ready["type"] == "PodReadyToStartContainers" && ready["status"] == "True";
            assert!(status["podIP"].is_null() && !shown || status["phase"] == "Running", "{status:#}");
        }
    }
    assert_eq!((&status["podIP"], world.machine.lock().sandboxes.len()), (&json!("10.42.0.5"), 1));
    let config = world.machine.lock().configs.values().next().cloned().expect("created");
    assert!(config.env.contains(&("KEY".into(), "1".into())), "{:?}", config.env);
    let mount = config.mounts.iter().find(|m| m.container_path == Path::new("/v")).expect("mounted").clone();
    assert!(mount.read_only);
    let read = || std::fs::read_to_string(mount.host_path.join("k")).unwrap_or_default();
    assert_eq!(read(), "1");
    world.api.put(map("2"));
    world.eventually("the file follows", |_| read() == "2").await;
    world.scope.stop().await;
}

#[tokio::test]
async fn hooks_and_probes() {
    let world = World::new().await;
    let spec = one(
        "Always",
        json!({
        "lifecycle": {"postStart": {"exec": {"command": ["greet"]}}, "preStop": {"exec": {"command": ["part"]}}},
        "startupProbe": {"exec": {"command": ["up"]}},
        "livenessProbe": {"exec": {"command": ["false"]}, "failureThreshold": 1}}),
    );
    world.create("p", spec);
    // It starts, fails its first liveness probe, and is started again.
    world.eventually("a second start", |w| w.log().contains(&"start c#1".to_owned())).await;
    let log = world.log();
    assert_eq!(
        log[..8],
        ["sandbox", "start c#0", "exec greet", "exec up", "exec false", "exec part", "stop c 7s", "start c#1"]
    );
    world
        .eventually("events", |w| {
            w.reasons().contains(&"Unhealthy".to_owned()) && w.reasons().contains(&"Killing".to_owned())
        })
        .await;
    world.scope.stop().await;
}

#[tokio::test]
async fn what_a_hook_was_is_nobodys_business() {
    let world = World::new().await;
    let hook = json!({"exec": {"command": ["false", "password"]}});
    let start = one("Never", json!({"lifecycle": {"postStart": hook}}));
    world.create("start", start);
    world.create("stop", one("Never", json!({"lifecycle": {"preStop": hook}})));
    world.phase("stop", "Running").await;
    world.delete("stop", 5);
    let told = |w: &World, reason: &str| {
        let events = w.api.objects("/api/v1/events");
        events.iter().filter(|e| e["reason"] == reason).map(|e| e["message"].clone()).collect::<Vec<_>>()
    };
    for (reason, message) in
        [("FailedPostStartHook", "PostStartHook failed"), ("FailedPreStopHook", "PreStopHook failed")]
    {
        world.eventually(reason, |w| told(w, reason) == [message]).await;
    }
    world.scope.stop().await;
}

#[tokio::test]
async fn a_hook_that_fails_is_why_its_container_waits() {
    let world = World::new().await;
    let hook =
        |policy: &str| one(policy, json!({"lifecycle": {"postStart": {"exec": {"command": ["false", "word"]}}}}));
    let mut feed = world.api.observe(&Gvr::of::<Pod>(), &Selector::default());
    world.create("p", hook("Always"));
    let mut reasons = Vec::new();
    while reasons.last().is_none_or(|reason| reason != "CrashLoopBackOff") {
        let Update::Put(pod) = feed.next().await.expect("the feed never ends") else { continue };
        let container = &pod.value()["status"]["containerStatuses"][0];
        let waiting = &container["state"]["waiting"];
        let Some(reason) = waiting["reason"].as_str().filter(|reason| *reason != "ContainerCreating") else { continue };
        assert_eq!(container["lastState"]["terminated"]["exitCode"], 143, "{container:#}");
        assert_eq!(pod.value()["status"]["phase"], "Running");
        if reason == "PostStartHookError" {
            let message = "Exec lifecycle hook ([false word]) for Container \"c\" in Pod \"p_default(uid-p)\" failed - error: \
                command 'false word' exited with 1: , message: \"\"";
            assert_eq!(waiting["message"], message);
        }
        reasons.push(reason.to_owned());
    }
    reasons.dedup();
    assert_eq!(reasons, ["PostStartHookError", "CrashLoopBackOff"]);
    // One that is not started again has ended.
    world.create("once", hook("Never"));
    world.phase("once", "Failed").await;
    let state = world.pod("once")["status"]["containerStatuses"][0]["state"].clone();
    assert_eq!((&state["terminated"]["exitCode"], &state["waiting"]), (&json!(143), &Value::Null));
    world.scope.stop().await;
}

#[tokio::test]
async fn ephemeral_containers_look_into_a_pod() {
    let world = World::new().await;
    world.create("p", one("Never", json!({})));
    world.phase("p", "Running").await;
    let mut pod = world.pod("p");
    pod["spec"]["ephemeralContainers"] = json!([
        {"name": "debug", "image": "here:1", "targetContainerName": "c", "env": [{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "k"}}}]},
        {"name": "blind", "image": "here:1", "targetContainerName": "nobody"}]);
    world.api.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late", "namespace": "default"}, "data": {"k": "v"}}));
    world.api.put(pod);
    let state = |w: &World, at: usize| w.pod("p")["status"]["ephemeralContainerStatuses"][at]["state"].clone();
    world.eventually("it runs", |w| !state(w, 0)["running"].is_null()).await;
    world
        .eventually("the other can't", |w| {
            state(w, 1)["waiting"]["message"] == "unable to find target container nobody"
        })
        .await;
    let config = world.machine.lock().configs.values().find(|c| c.name == "debug").cloned().expect("created");
    assert_eq!(config.target, Some(ContainerId("c1".into())));
    assert!(config.env.contains(&("K".into(), "v".into())));
    world.machine.end("debug", 1);
    world.eventually("it is over", |w| state(w, 0)["terminated"]["exitCode"] == 1).await;
    assert_eq!(world.pod("p")["status"]["phase"], "Running");
    // Nobody waits for one that still runs.
    let mut pod = world.pod("p");
    pod["spec"]["ephemeralContainers"][1] = json!({"name": "second", "image": "here:1"});
    world.api.put(pod);
    world.eventually("it runs", |w| w.log().contains(&"start second#0".to_owned())).await;
    world.machine.end("c", 0);
    world.phase("p", "Succeeded").await;
    assert!(world.log().contains(&"stop second 7s".to_owned()), "{:?}", world.log());
    assert_eq!(world.log().iter().filter(|l| l.starts_with("start debug")).count(), 1);
    world.scope.stop().await;
}

#[tokio::test]
async fn pods_are_resized_as_far_as_there_is() {
    let world = World::new().await;
    let resources = |cpu: &str, memory: &str| json!({"requests": {"cpu": cpu}, "limits": {"memory": memory}});
    world.create("other", one("Always", json!({"resources": {"requests": {"cpu": "1"}}})));
    world.create(
        "p",
        one(
            "Always",
            json!({"resources": resources("500m", "64Mi"),
        "resizePolicy": [{"resourceName": "memory", "restartPolicy": "NotRequired"}]}),
        ),
    );
    world.phase("p", "Running").await;
    world.phase("other", "Running").await;
    let resize = |cpu: &str, memory: &str| {
        let mut pod = world.pod("p");
        pod["spec"]["containers"][0]["resources"] = resources(cpu, memory);
        world.api.put(pod);
    };
    let given = |w: &World| w.pod("p")["status"]["containerStatuses"][0]["resources"].clone();
    let condition = |w: &World, kind: &str| {
        let conditions = w.pod("p")["status"]["conditions"].as_array().cloned().unwrap_or_default();
        // The fake server merges no lists: an order to delete stays as it is.
        conditions.into_iter().find(|c| c["type"] == kind && c["$patch"].is_null()).unwrap_or(Value::Null)
    };
    world.machine.lock().log.clear();
    resize("1", "128Mi");
    world.eventually("it is told", |w| given(w) == resources("1", "128Mi")).await;
    let expect = ["pod None Some(-1)", "container Some(1024) Some(134217728)", "pod Some(1024) Some(134217728)"];
    assert_eq!(world.log(), expect);
    // Less than it uses: it says so, and keeps what it has.
    resize("1", "16Mi");
    world.eventually("an error", |w| condition(w, "PodResizeInProgress")["reason"] == "Error").await;
    assert_eq!(given(&world), resources("1", "128Mi"));
    resize("1500m", "128Mi");
    world.eventually("it waits", |w| condition(w, "PodResizePending")["reason"] == "Deferred").await;
    resize("3", "128Mi");
    world.eventually("it never comes", |w| condition(w, "PodResizePending")["reason"] == "Infeasible").await;
    resize("1500m", "128Mi");
    world.delete("other", 0);
    world.eventually("room came", |w| given(w) == resources("1500m", "128Mi")).await;
    world
        .eventually("no conditions are left", |w| {
            condition(w, "PodResizePending").is_null() && condition(w, "PodResizeInProgress").is_null()
        })
        .await;
    assert_eq!(world.pod("p")["status"]["containerStatuses"][0]["restartCount"], 0);
    world.eventually("the other is gone", |w| w.machine.lock().sandboxes.len() == 1).await;
    // Where a container can't be changed, the pod is not left without limits.
    world.machine.lock().stuck = true;
    world.machine.lock().log.clear();
    resize("1500m", "192Mi");
    world.eventually("an error", |w| condition(w, "PodResizeInProgress")["reason"] == "Error").await;
    let expect = ["pod None Some(-1)", "container Some(1536) Some(201326592)", "pod Some(1536) Some(201326592)"];
    assert_eq!(world.log()[..3], expect);
    world.machine.lock().stuck = false;
    // Where the container wants to begin anew for it, it does.
    let mut pod = world.pod("p");
    pod["spec"]["containers"][0]["resizePolicy"] =
        json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    pod["spec"]["containers"][0]["resources"] = resources("1500m", "256Mi");
    world.api.put(pod);
    world.eventually("it begins anew", |w| w.log().contains(&"start c#1".to_owned())).await;
    world.eventually("with more", |w| given(w) == resources("1500m", "256Mi")).await;
    // The pod has room for it before it is there.
    assert_eq!(world.log()[world.log().len() - 2..], ["pod Some(1536) Some(268435456)", "start c#1"]);
    world.scope.stop().await;
}

#[tokio::test]
async fn events_tell_of_resizes() {
    let mut world = World::new().await;
    let resources = |cpu: &str, memory: &str| json!({"requests": {"cpu": cpu}, "limits": {"memory": memory}});
    world.create("other", one("Always", json!({"resources": {"requests": {"cpu": "1"}}})));
    world.create("p", one("Always", json!({"resources": resources("500m", "64Mi")})));
    world.phase("p", "Running").await;
    world.phase("other", "Running").await;
    let told = |w: &World, reason: &str, generation: i64, error: &str| {
        let events = w.api.objects("/api/v1/events");
        let own = events.iter().filter(|e| e["reason"] == reason);
        let end = match error {
            "" => format!("\"generation\":{generation}}}"),
            _ => format!("\"generation\":{generation},\"error\":\"{error}\"}}"),
        };
        own.filter(|e| e["message"].as_str().is_some_and(|message| message.ends_with(&end))).count()
    };
    let less = "attempting to set container memory limit (16777216) below current usage (20971520)";
    let lack = "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000";
    let never = "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000";
    for (generation, cpu, memory, expected) in [
        (2, "1", "128Mi", vec![("ResizeStarted", ""), ("ResizeCompleted", "")]),
        (3, "1", "16Mi", vec![("ResizeStarted", ""), ("ResizeError", less)]),
        (4, "1500m", "128Mi", vec![("ResizeDeferred", lack)]),
        (5, "3", "128Mi", vec![("ResizeInfeasible", never)]),
    ] {
        let mut pod = world.pod("p");
        pod["metadata"]["generation"] = json!(generation);
        pod["spec"]["containers"][0]["resources"] = resources(cpu, memory);
        world.api.put(pod);
        for (reason, error) in expected {
            world.eventually(reason, |w| told(w, reason, generation, error) == 1).await;
        }
    }
    assert_eq!(told(&world, "ResizeCompleted", 3, ""), 0);
    // The fake server merges no lists: the conditions of a resize that another agent takes up are put in.
    world.scope.stop().await;
    let mut pod = world.pod("p");
    pod["metadata"]["generation"] = json!(6);
    pod["spec"]["containers"][0]["resources"] = resources("750m", "128Mi");
    pod["status"]["conditions"] = json!([{"type": "PodResizeInProgress", "status": "True", "observedGeneration": 6}]);
    world.api.put(pod);
    world.start().await;
    world.eventually("its end is told", |w| told(w, "ResizeCompleted", 6, "") == 1).await;
    assert_eq!(told(&world, "ResizeStarted", 6, ""), 0);
    world.scope.stop().await;
}

fn pod_lines(world: &World) -> Vec<String> {
    world.log().into_iter().filter(|line| line.starts_with("pod ")).collect()
}

#[tokio::test]
async fn a_pod_keeps_the_memory_that_its_containers_use() {
    let world = World::new().await;
    let whole = |memory: &str| json!({"requests": {"cpu": "500m"}, "limits": {"memory": memory}});
    let mut spec = one("Always", json!({}));
    spec["containers"] = json!([{"name": "c", "image": "here:1"}, {"name": "d", "image": "here:1"}]);
    spec["resources"] = whole("128Mi");
    world.create("p", spec);
    world.phase("p", "Running").await;
    let resize = |memory: &str| {
        let mut pod = world.pod("p");
        pod["spec"]["resources"] = whole(memory);
        world.machine.lock().log.clear();
        world.api.put(pod);
    };
    let error = |w: &World| {
        let conditions = w.pod("p")["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|c| c["type"] == "PodResizeInProgress");
        found.map(|c| c["message"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
    };
    // Each of them uses 20 MiB, less than the limit.
    resize("40Mi");
    let why = "attempting to set pod memory limit (41943040) below current usage (41943040)";
    world.eventually("it is refused", |w| error(w) == why).await;
    assert_eq!((pod_lines(&world), world.pod("p")["status"]["resources"].clone()), (vec![], whole("128Mi")));
    // More came to be in use: the pod gets back what it had.
    world.machine.lock().refused = Some(64 << 20);
    resize("64Mi");
    world.eventually("it is not done", |w| error(w).contains("more is in use")).await;
    assert_eq!(
        pod_lines(&world),
        ["pod None Some(-1)", "pod Some(512) Some(67108864)", "pod Some(512) Some(134217728)"]
    );
    world.scope.stop().await;
}

#[tokio::test]
async fn containers_that_start_meanwhile_are_resized_too() {
    let world = World::new().await;
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    world.machine.lock().slow.insert("slow:1".to_owned(), gate.clone());
    let memory = |amount: &str| json!({"limits": {"memory": amount}});
    let mut spec = one("Always", json!({}));
    spec["containers"] =
        json!([{"name": "c", "image": "here:1", "resources": memory("64Mi")}, {"name": "slow", "image": "slow:1"}]);
    spec["resources"] = memory("128Mi");
    world.create("p", spec.clone());
    spec["containers"][1]["resources"] = memory("64Mi");
    spec["resources"] = Value::Null;
    let resize = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut pod = world.pod(name);
        change(&mut pod["spec"]);
        world.api.put(pod);
    };
    let pulls = |w: &World, count: usize| w.log().iter().filter(|line| *line == "pull slow:1").count() == count;
    let last = |w: &World| pod_lines(w).last().cloned().unwrap_or_default();

    // What the pod as a whole gets while a container waits for its image.
    world.eventually("a pull", |w| pulls(w, 1) && w.log().contains(&"start c#0".to_owned())).await;
    resize("p", &|spec| spec["resources"] = memory("256Mi"));
    world.eventually("it is told", |w| w.pod("p")["status"]["resources"] == memory("256Mi")).await;
    gate.notify_one();
    let limit = "container Some(2) Some(268435456)".to_owned();
    world
        .eventually("that container has it too", |w| {
            let log = w.log();
            let started = log.iter().position(|line| line == "start slow#0");
            started.is_some_and(|at| log[at..].contains(&limit))
        })
        .await;
    world.eventually("nothing is left to do", |w| w.pod("p")["status"]["phase"] == "Running").await;
    world.delete("p", 0);
    world.eventually("it is gone", |w| w.pod("p").is_null()).await;

    // What another container gets meanwhile: the group's limits are not those that the start knew.
    world.machine.lock().log.clear();
    world.create("q", spec);
    world.eventually("a pull", |w| pulls(w, 1) && w.log().contains(&"start c#0".to_owned())).await;
    resize("q", &|spec| spec["containers"][0]["resources"] = memory("80Mi"));
    world.eventually("more", |w| last(w).ends_with("Some(150994944)")).await;
    gate.notify_one();
    world.phase("q", "Running").await;
    world.machine.end("slow", 1);
    world.eventually("another pull", |w| pulls(w, 2)).await;
    resize("q", &|spec| spec["containers"][0]["resources"] = memory("96Mi"));
    world.eventually("still more", |w| last(w).ends_with("Some(167772160)")).await;
    gate.notify_one();
    world.eventually("it starts", |w| w.log().contains(&"start slow#1".to_owned())).await;
    world.eventually("the limit is the newer", |w| last(w).ends_with("Some(167772160)")).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn images_as_volumes() {
    let world = World::new().await;
    let mut spec = one("Always", json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    spec["volumes"] = json!([{"name": "v", "image": {"reference": "model:1", "pullPolicy": "Always"}}]);
    world.create("p", spec);
    world.phase("p", "Running").await;
    assert_eq!(world.log()[..2].iter().filter(|l| *l == "pull model:1").count(), 1, "{:?}", world.log());
    assert!(world.log().contains(&"mount sha256:model:1".to_owned()));
    let config = world.machine.lock().configs.values().next().cloned().expect("created");
    assert_eq!(config.images, [ImageId("sha256:model:1".into())]);
    assert!(config.mounts.iter().any(|m| m.container_path == Path::new("/v") && m.read_only));
    world.scope.stop().await;
}

#[tokio::test]
async fn runtime_classes() {
    let world = World::new().await;
    for (name, handler) in [("plain", "runc"), ("other", "gvisor")] {
        world.api.put(json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": handler}));
    }
    for class in ["plain", "other", "none"] {
        let mut spec = one("Always", json!({}));
        spec["runtimeClassName"] = json!(class);
        world.create(class, spec);
    }
    world.phase("plain", "Running").await;
    let said = |w: &World, text: &str| {
        w.api.objects("/api/v1/events").iter().any(|e| e["message"].as_str().is_some_and(|m| m.contains(text)))
    };
    world.eventually("no such runtime", |w| said(w, "no runtime for \"gvisor\" is configured")).await;
    world.eventually("no such class", |w| said(w, "runtimeclass.node.k8s.io \"none\" not found")).await;
    world.scope.stop().await;
}
