//! From the first sandbox to the last record.

use std::path::Path;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use skiff_api::Gvr;
use skiff_client::{Client, Selector, Transport as _, Update};
use skiff_runtime::{ContainerId, ContainerState, RuntimeEvent, SandboxId, SandboxState};

use crate::pod::PodUid;
use crate::testing::{World, one};
use crate::worker::Ending;

#[tokio::test]
async fn runs_and_is_deleted() {
    let world = World::new().await;
    world.create("a", one("Always", json!({})));
    world.phase("a", "Running").await;
    let status = world.pod("a")["status"].clone();
    assert_eq!(status["podIP"], "10.42.0.5");
    assert_eq!(status["containerStatuses"][0]["ready"], true);
    assert_eq!(status["containerStatuses"][0]["containerID"], "skiff://c1");
    let config = world.machine.lock().configs.values().next().cloned().expect("created");
    let mounted: Vec<String> = config.mounts.iter().map(|m| m.container_path.display().to_string()).collect();
    assert_eq!(mounted, ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/dev/termination-log"]);
    world.eventually("events", |w| w.reasons() == ["Created", "Pulled", "Started"]).await;

    world.delete("a", 5);
    world.eventually("it is gone", |w| w.pod("a").is_null()).await;
    // The fake server ends the object with the next status write, which may come before the container's end: from then
    // on nobody waits for it.
    world.eventually("the sandbox is gone", |w| w.machine.lock().sandboxes.is_empty()).await;
    let (stops, rest): (Vec<String>, Vec<String>) =
        world.log().into_iter().partition(|line| ["stop c 5s", "stop c 1s"].contains(&line.as_str()));
    assert_eq!(rest, ["sandbox", "start c#0", "detach", "remove sandbox"]);
    assert!(!stops.is_empty(), "its container was stopped");
    let log = world.log();
    let at = |what: &str| log.iter().position(|line| line.starts_with(what));
    assert!(at("stop c") < at("detach"), "{log:?}");
    let options = world.options();
    let empty = |directory: &Path| directory.read_dir().map_or(0, Iterator::count) == 0;
    world
        .eventually("nothing is left", |_| {
            empty(&options.root_directory.join("pods"))
                && empty(&options.log_directory)
                && empty(&options.containers_log_directory)
        })
        .await;
    world.scope.stop().await;
}

#[tokio::test]
async fn that_it_runs_and_is_ready_is_one_write() {
    let world = World::new().await;
    let mut feed = world.api.observe(&Gvr::of::<Pod>(), &Selector::default());
    world.create("a", one("Always", json!({})));
    let mut status = json!(null);
    while status["phase"] != "Running" {
        if let Update::Put(pod) = feed.next().await.expect("the feed never ends") {
            status = pod.value()["status"].clone();
        }
    }
    assert_eq!(status["containerStatuses"][0]["ready"], true, "{status:#}");
    world.scope.stop().await;
}

#[tokio::test]
async fn ends_by_itself_and_keeps_its_records() {
    let world = World::new().await;
    world.create("job", one("Never", json!({})));
    world.phase("job", "Running").await;
    world.machine.end("c", 3);
    world.phase("job", "Failed").await;
    let state = world.pod("job")["status"]["containerStatuses"][0]["state"]["terminated"].clone();
    assert_eq!((state["exitCode"].as_i64(), state["reason"].as_str()), (Some(3), Some("Error")));
    assert_eq!(world.machine.lock().containers.len(), 1);
    world.delete("job", 30);
    world.eventually("it is gone", |w| w.pod("job").is_null()).await;
    world.eventually("so are its records", |w| w.machine.lock().containers.is_empty()).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn crash_loops_and_says_so() {
    let world = World::new().await;
    world.create("crash", one("Always", json!({})));
    world.phase("crash", "Running").await;
    world.machine.end("c", 1);
    world.eventually("a second start", |w| w.log().contains(&"start c#1".to_owned())).await;
    world.machine.end("c", 1);
    let reason = |w: &World| w.pod("crash")["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    world.eventually("CrashLoopBackOff", |w| reason(w) == "CrashLoopBackOff").await;
    let status = world.pod("crash")["status"]["containerStatuses"][0].clone();
    assert_eq!(status["restartCount"], 1);
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(
        status["state"]["waiting"]["message"],
        "back-off 10s restarting failed container=c pod=crash_default(uid-crash)"
    );
    world.eventually("an event", |w| w.reasons().contains(&"BackOff".to_owned())).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn init_containers_and_sidecars_in_order() {
    let world = World::new().await;
    let mut spec = one("Never", json!({}));
    spec["initContainers"] = json!([{"name": "i", "image": "here:1"},
        {"name": "s", "image": "here:1", "restartPolicy": "Always"}]);
    world.create("p", spec);
    world.eventually("the first init container", |w| w.log().contains(&"start i#0".to_owned())).await;
    world.machine.end("i", 0);
    world.phase("p", "Running").await;
    world.machine.end("c", 0);
    world.phase("p", "Succeeded").await;
    assert_eq!(world.log()[..5], ["sandbox", "start i#0", "start s#0", "start c#0", "stop s 7s"]);
    world.scope.stop().await;
}

#[tokio::test]
async fn survives_a_restart_of_the_agent() {
    let mut world = World::new().await;
    world.create("a", one("Always", json!({})));
    world.create("b", one("Always", json!({})));
    world.phase("a", "Running").await;
    world.phase("b", "Running").await;
    let before = world.log();
    world.scope.stop().await;
    // While nobody looks, one ends, and one is removed from the API.
    let mut pod = world.pod("b");
    pod["metadata"]["finalizers"] = json!([]);
    let of_a = {
        let machine = world.machine.lock();
        machine.containers.values().find(|c| c.labels["io.kubernetes.pod.name"] == "a").expect("it runs").id.clone()
    };
    let client = Client::new(world.api.clone());
    client.namespaced::<Pod>("default").delete("b", &Default::default()).await.expect("deleted");
    world.restart().await;
    world.eventually("the orphan is ended", |w| w.machine.lock().sandboxes.len() == 1).await;
    assert_eq!(world.log()[before.len()..], ["stop c 7s", "detach", "remove sandbox"]);
    assert!(world.machine.lock().containers.contains_key(&of_a));

    world.machine.exit(&of_a, 1);
    world.eventually("it is started again", |w| w.log().contains(&"start c#1".to_owned())).await;
    world.eventually("and told", |w| w.pod("a")["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn what_ends_without_an_agent_has_the_last_word_too() {
    let mut world = World::new().await;
    world.create("file", one("Never", json!({})));
    world.create("log", one("Never", json!({"terminationMessagePolicy": "FallbackToLogsOnError"})));
    for name in ["file", "log"] {
        world.phase(name, "Running").await;
    }
    world.scope.stop().await;
    let message = crate::options::message_file(&world.options().pod_directory(&PodUid("uid-file".into())), "c", 0);
    std::fs::write(message, "bye").expect("a message");
    let log = world.options().log_directory.join("default_log_uid-log/c/0.log");
    std::fs::create_dir_all(log.parent().expect("a directory")).expect("a directory");
    std::fs::write(log, "2024-01-01T00:00:00.0Z stdout F broken\n").expect("a log");
    let all: Vec<ContainerId> = world.machine.lock().containers.keys().cloned().collect();
    for id in &all {
        world.machine.exit(id, 3);
    }
    world.restart().await;
    for (name, message) in [("file", "bye"), ("log", "broken\n")] {
        world.phase(name, "Failed").await;
        assert_eq!(world.pod(name)["status"]["containerStatuses"][0]["state"]["terminated"]["message"], message);
    }
    world.scope.stop().await;
}

#[tokio::test]
async fn a_pod_that_the_api_ends_ends() {
    let mut world = World::new().await;
    let end = |world: &World, name: &str| {
        let mut pod = world.pod(name);
        pod["status"]["phase"] = json!("Failed");
        pod["status"]["reason"] = json!("ByHand");
        world.api.put(pod);
    };
    let ended = |world: &World, name: &str| {
        let status = world.pod(name)["status"].clone();
        let ready = |c: &serde_json::Value| c["type"] == "Ready" && c["status"] == "True";
        status["phase"] == "Failed"
            && status["reason"] == "ByHand"
            && status["containerStatuses"][0]["ready"] == false
            && status["containerStatuses"][0]["state"]["terminated"].is_object()
            && !status["conditions"].as_array().expect("conditions").iter().any(ready)
    };
    for name in ["a", "b", "c"] {
        world.create(name, one("Always", json!({})));
        world.phase(name, "Running").await;
    }
    end(&world, "a");
    world.eventually("it has ended, and says so", |w| ended(w, "a")).await;
    world.scope.stop().await;
    // While nobody looks; of one of them nothing is left.
    let of_c = |c: &skiff_runtime::Container| c.labels["io.kubernetes.pod.name"] == "c";
    world.machine.lock().containers.retain(|_, container| !of_c(container));
    for name in ["b", "c"] {
        end(&world, name);
    }
    world.restart().await;
    for name in ["b", "c"] {
        world.eventually("it has ended, and says so", |w| ended(w, name)).await;
    }
    assert!(!world.log().contains(&"start c#1".to_owned()), "nothing begins anew");
    world.scope.stop().await;
}

#[tokio::test]
async fn the_ids_of_a_directory_that_is_swept_are_free_again() {
    let mut world = World::new().await;
    world.scope.stop().await;
    // Of a pod that is gone, the directory alone is left.
    let pods = world.options().pods_directory();
    let write = |name: &str| {
        let directory = pods.join(name);
        crate::leftovers::ensure_ours(&directory, 0o750).expect("a directory");
        let mappings = json!([{"hostId": 7 << 16, "containerId": 0, "length": 1 << 16}]);
        let text = json!({"uidMappings": mappings, "gidMappings": mappings}).to_string();
        std::fs::write(directory.join("userns"), text).expect("a file");
    };
    write("uid-gone");
    world.restart().await;
    world.eventually("it is swept", |_| !pods.join("uid-gone").exists()).await;
    write("uid-next");
    let ctx = world.ctx();
    world.eventually("another has them", |_| ctx.user_namespaces.ensure(&PodUid("uid-next".into())).is_ok()).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn an_agent_ends_between_two_words_about_a_container() {
    let mut world = World::new().await;
    world.create("a", one("Always", json!({})));
    world.create(
        "probed",
        one("Always", json!({"readinessProbe": {"exec": {"command": ["no"]}, "periodSeconds": 3600}})),
    );
    world.phase("a", "Running").await;
    world.phase("probed", "Running").await;
    world.scope.stop().await;
    for name in ["a", "probed"] {
        let mut pod = world.pod(name);
        let status = &mut pod["status"]["containerStatuses"][0];
        (status["started"], status["ready"]) = (json!(false), json!(false));
        world.api.put(pod);
    }
    // Of a container that an agent made and had no time to tell of.
    let link = world.options().containers_log_directory.join("a_default_c-unknown.log");
    let log = world.options().log_directory.join("default_a_uid-a/c/0.log");
    std::os::unix::fs::symlink(log, &link).expect("a link");
    world.restart().await;
    let status = |w: &World, name: &str| w.pod(name)["status"]["containerStatuses"][0].clone();
    world.eventually("it is ready", |w| status(w, "a")["ready"] == true && status(w, "a")["started"] == true).await;
    world.eventually("it has started", |w| status(w, "probed")["started"] == true).await;
    assert_eq!(status(&world, "probed")["ready"], false, "that is for its probe to say");
    world.delete("a", 0);
    world.eventually("the link is gone", |_| link.symlink_metadata().is_err()).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn a_container_that_was_ready_can_become_unready_later() {
    let mut world = World::new().await;
    let probe = json!({"exec": {"command": ["false"]}, "failureThreshold": 1});
    world.create("a", one("Always", json!({"readinessProbe": probe})));
    world.phase("a", "Running").await;
    world.scope.stop().await;
    let mut pod = world.pod("a");
    pod["status"]["containerStatuses"][0]["ready"] = json!(true);
    world.api.put(pod);
    world.restart().await;
    let ready = |w: &World| w.pod("a")["status"]["containerStatuses"][0]["ready"].clone();
    world.eventually("its probe is heard", |w| ready(w) == false).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn a_container_that_never_began_is_made_anew() {
    for state in [ContainerState::Created, ContainerState::Unknown] {
        let mut world = World::new().await;
        world.create("once", one("Never", json!({})));
        world.phase("once", "Running").await;
        // As if the agent had ended between the two calls.
        world.scope.stop().await;
        let id = {
            let mut machine = world.machine.lock();
            let container = machine.containers.values_mut().next().expect("created");
            container.state = state;
            container.id.clone()
        };
        world.restart().await;
        world.eventually("another begins", |w| w.log().contains(&"start c#1".to_owned())).await;
        world.phase("once", "Running").await;
        world.eventually("the first is removed", |w| !w.machine.lock().containers.contains_key(&id)).await;
        world.scope.stop().await;
    }
}

#[tokio::test]
async fn what_ends_while_an_agent_begins() {
    let mut world = World::new().await;
    for name in ["container", "sandbox"] {
        world.create(name, one("Always", json!({})));
        world.phase(name, "Running").await;
    }
    world.scope.stop().await;
    // The next agent has just listed what there is.
    let ids = |w: &World| {
        let machine = w.machine.lock();
        let own = |name: &str| {
            machine.containers.values().find(|c| c.labels["io.kubernetes.pod.name"] == name).cloned().expect("created")
        };
        (own("container").id, own("sandbox").sandbox)
    };
    let (container, sandbox) = ids(&world);
    world.machine.lock().ends_once_listed = Some((container, sandbox));
    world.restart().await;
    let count = |w: &World, name: &str| w.pod(name)["status"]["containerStatuses"][0]["restartCount"].clone();
    world.eventually("the container begins anew", |w| count(w, "container") == 1).await;
    world.eventually("and all of the other pod", |w| count(w, "sandbox") == 1).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn a_lost_sandbox_is_made_anew() {
    let world = World::new().await;
    world.create("a", one("Always", json!({})));
    world.create("once", one("Never", json!({})));
    world.phase("a", "Running").await;
    world.phase("once", "Running").await;
    // Process 1 of their namespaces ends, and with it all others; the word of the one comes before the other's.
    let lost: Vec<(SandboxId, ContainerId)> = {
        let mut machine = world.machine.lock();
        machine.sandboxes.values_mut().for_each(|s| s.state = SandboxState::NotReady);
        machine.log.clear();
        machine.containers.values().map(|c| (c.sandbox.clone(), c.id.clone())).collect()
    };
    for (sandbox, container) in lost {
        drop(world.machine.events.send(RuntimeEvent::SandboxEnded(sandbox)));
        world.machine.exit(&container, 137);
    }
    world.eventually("a second start", |w| w.log().contains(&"start c#1".to_owned())).await;
    world.phase("once", "Failed").await;
    let status = |w: &World| w.pod("a")["status"]["containerStatuses"][0].clone();
    world.eventually("it is told", |w| status(w)["restartCount"] == 1 && status(w)["ready"] == true).await;
    assert_eq!(status(&world)["lastState"]["terminated"]["exitCode"], 137);
    assert!(world.reasons().contains(&"SandboxChanged".to_owned()), "{:?}", world.reasons());
    assert_eq!(world.log().iter().filter(|line| *line == "sandbox").count(), 1, "{:?}", world.log());
    world.scope.stop().await;
}

#[tokio::test]
async fn what_another_kubelet_has_stays() {
    let mut world = World::new().await;
    world.scope.stop().await;
    let options = world.options();
    let others = [options.root_directory.join("pods/uid-other"), options.log_directory.join("default_other_uid-other")];
    let ours = [options.root_directory.join("pods/uid-ours"), options.log_directory.join("default_ours_uid-ours")];
    for directory in others.iter().chain(&ours) {
        std::fs::create_dir_all(directory).expect("a directory");
    }
    for directory in &ours {
        skiff_linux::mark::set(directory).expect("marked");
    }
    world.start().await;
    world.eventually("ours are swept", |_| ours.iter().all(|directory| !directory.exists())).await;
    assert!(others.iter().all(|directory| directory.exists()));
    world.scope.stop().await;
}

#[tokio::test]
async fn a_deadline_ends_a_pod() {
    let world = World::new().await;
    let mut spec = one("Always", json!({}));
    spec["activeDeadlineSeconds"] = json!(1);
    world.create("p", spec);
    world.phase("p", "Failed").await;
    assert_eq!(world.pod("p")["status"]["reason"], "DeadlineExceeded");
    assert!(world.log().contains(&"stop c 7s".to_owned()), "{:?}", world.log());
    world.scope.stop().await;
}

#[tokio::test]
async fn an_evicted_pod_fails_in_upstreams_words() {
    let world = World::new().await;
    world.create("a", one("Always", json!({})));
    world.phase("a", "Running").await;
    let message = "The node was low on resource: memory. ".to_owned();
    let disrupted = Some(message.clone());
    let ending = Ending { reason: "Evicted", message: message.clone(), grace_s: 1, disrupted, hold: None };
    assert!(world.pods().end(&PodUid("uid-a".into()), ending).await);
    world.phase("a", "Failed").await;
    let status = world.pod("a")["status"].clone();
    assert_eq!((&status["reason"], &status["message"]), (&json!("Evicted"), &json!(message)));
    assert!(world.log().contains(&"stop c 1s".to_owned()), "{:?}", world.log());
    world.scope.stop().await;
}

#[tokio::test]
async fn room_is_made_for_a_critical_pod() {
    let world = World::new().await;
    let spec = |cpu: &str, critical: bool| {
        let mut spec = one("Always", json!({"resources": {"requests": {"cpu": cpu}}}));
        spec["priority"] = json!(if critical { 2_000_000_000 } else { 0 });
        spec
    };
    world.create("large", spec("1500m", false));
    world.create("small", spec("400m", false));
    world.phase("large", "Running").await;
    world.phase("small", "Running").await;
    world.create("none", spec("200m", false));
    world.phase("none", "Failed").await;
    assert_eq!(world.pod("none")["status"]["reason"], "OutOfcpu");

    let mut feed = world.api.observe(&Gvr::of::<Pod>(), &Selector::default());
    world.create("critical", spec("1", true));
    world.phase("critical", "Running").await;
    let status = world.pod("large")["status"].clone();
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("Preempting")));
    assert_eq!(status["message"], "Preempted in order to admit critical pod");
    // The fake server keeps the last conditions only.
    let mut told = json!(null);
    while told.is_null() {
        if let Update::Put(pod) = feed.next().await.expect("the feed never ends") {
            let conditions = pod.value()["status"]["conditions"].as_array().cloned().unwrap_or_default();
            told = conditions.into_iter().find(|c| c["type"] == "DisruptionTarget").unwrap_or_default();
        }
    }
    assert_eq!(told["message"], "Pod was preempted by Kubelet to accommodate a critical pod.");
    assert_eq!(world.pod("small")["status"]["phase"], "Running");
    assert!(world.reasons().contains(&"Preempting".to_owned()), "{:?}", world.reasons());

    world.create("hopeless", spec("5", true));
    world.phase("hopeless", "Failed").await;
    let status = world.pod("hopeless")["status"].clone();
    assert_eq!(status["reason"], "UnexpectedAdmissionError");
    let why = "Pod was rejected: Unexpected error while attempting to recover from admission failure: preemption: error finding a set \
        of pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: 4000), ]";
    assert_eq!(status["message"], why);
    // Nobody ended in vain.
    assert_eq!(world.pod("small")["status"]["phase"], "Running");

    // What cannot be had takes nothing from who comes after it.
    world.create("hopeless-too", spec("5", true));
    world.create("late", spec("900m", true));
    world.phase("late", "Running").await;
    world.phase("hopeless-too", "Failed").await;
    assert_eq!(world.pod("small")["status"]["reason"], "Preempting");
    assert_eq!(world.pod("critical")["status"]["phase"], "Running");
    world.scope.stop().await;
}

#[tokio::test]
async fn a_pod_that_the_node_does_not_take() {
    let world = World::new().await;
    let mut spec = one("Always", json!({}));
    spec["securityContext"] = json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]});
    world.create("p", spec);
    world.phase("p", "Failed").await;
    let status = world.pod("p")["status"].clone();
    assert_eq!(status["reason"], "SysctlForbidden");
    assert_eq!(status["message"], "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted");
    world.eventually("an event", |w| w.reasons() == ["SysctlForbidden"]).await;
    assert_eq!(world.log(), Vec::<String>::new());
    world.delete("p", 0);
    world.eventually("it is gone", |w| w.pod("p").is_null()).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn pods_that_want_another_node() {
    let world = World::new().await;
    let node = |labels: serde_json::Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "labels": labels}, "spec": {}});
    world.api.put(node(json!({"disk": "ssd"})));
    let selecting = |disk: &str| {
        let mut spec = one("Always", json!({"ports": [{"containerPort": 80, "hostPort": 80}]}));
        spec["nodeSelector"] = json!({"disk": disk});
        spec
    };
    for (name, disk, reason) in [("a", "ssd", ""), ("b", "hdd", "NodeAffinity"), ("c", "ssd", "NodePorts")] {
        world.create(name, selecting(disk));
        world.phase(name, if reason.is_empty() { "Running" } else { "Failed" }).await;
        assert_eq!(world.pod(name)["status"]["reason"].as_str().unwrap_or_default(), reason, "{name}");
    }
    // What runs is not judged anew; its port is free once it has ended.
    world.api.put(node(json!({"disk": "hdd"})));
    world.delete("a", 0);
    world.eventually("it is gone", |w| w.pod("a").is_null()).await;
    world.create("d", selecting("hdd"));
    world.phase("d", "Running").await;
    world.scope.stop().await;
}

#[tokio::test]
async fn the_nodes_status_is_written_again_where_that_failed() {
    let world = World::new().await;
    world.api.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}, "spec": {}}));
    for request in ["GET /api/v1/nodes/node-1", "PATCH /api/v1/nodes/node-1/status"] {
        world.api.fail_next(request, skiff_api::ApiError::internal("the server goes down"));
    }
    let ctx = world.ctx();
    world.scope.spawn(crate::heartbeat::follow_status(ctx.clone(), Default::default()));
    ctx.status_changed.notify_one();
    let told = |w: &World| !w.api.objects("/api/v1/nodes")[0]["status"]["conditions"].is_null();
    world.eventually("it is told", told).await;
    world.scope.stop().await;
}

#[tokio::test]
async fn the_nodes_status_tells_of_images_that_come_past_the_agent() {
    let world = World::new().await;
    world.api.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}, "spec": {}}));
    let records = world.directory.path().join("records");
    std::fs::create_dir(&records).expect("a directory");
    world.machine.lock().records = records.clone();
    world.scope.spawn(crate::heartbeat::follow_status(world.ctx(), Default::default()));
    let node = |w: &World| w.api.objects("/api/v1/nodes")[0]["status"].clone();
    world.eventually("it is told", |w| !node(w)["conditions"].is_null()).await;
    world.machine.lock().images.push("here:imported".to_owned());
    std::fs::write(records.join("one.json"), "{}").expect("written");
    world.eventually("the image too", |w| node(w)["images"][0]["names"][0] == "here:imported").await;
    world.scope.stop().await;
}

#[tokio::test]
async fn the_node_is_registered_once() {
    let world = World::new().await;
    let client = Client::new(world.api.clone());
    let facts = crate::machine::MachineFacts::read(Path::new("/"));
    let options = world.options();
    let (pressure, devices) = (Default::default(), [("x.io/d".to_owned(), [3, 2])].into());
    let seen = crate::node::Seen {
        facts: &facts,
        images: &[],
        ready: crate::node::BEGINS,
        pressure: &pressure,
        devices: &devices,
    };
    let ctx = world.ctx();
    let recorder = &ctx.recorder;
    let node: Node = crate::node::ensure(&client, recorder, &options, &seen, true).await.expect("registered");
    let again = crate::node::ensure(&client, recorder, &options, &seen, false).await.expect("found");
    assert_eq!(node.metadata.uid, again.metadata.uid);
    let amounts = |node: &Node| {
        let status = node.status.clone().expect("a status");
        [status.capacity, status.allocatable].map(|list| list.expect("amounts").remove("x.io/d").map(|amount| amount.0))
    };
    assert_eq!(amounts(&again), [Some("3".to_owned()), Some("2".to_owned())]);
    // What a machine of that name had before is not this one's.
    let none = Default::default();
    let unseen = crate::node::Seen { devices: &none, ..seen };
    let reset = crate::node::ensure(&client, recorder, &options, &unseen, true).await.expect("found");
    assert_eq!(amounts(&reset), [Some("0".to_owned()), Some("0".to_owned())]);
    let ready = crate::node::Seen { ready: Ok(()), ..seen };
    let ready = crate::node::write_status(&client, &options, &again, &ready).await.expect("written");
    let conditions = ready.status.and_then(|s| s.conditions).expect("conditions");
    assert!(conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    // The next start is after one of the machine.
    assert_eq!(world.reasons(), Vec::<String>::new());
    let mut old = world.api.objects("/api/v1/nodes").remove(0);
    old["status"]["nodeInfo"]["bootID"] = json!("another");
    world.api.put(old);
    crate::node::ensure(&client, recorder, &options, &seen, false).await.expect("found");
    world.eventually("an event", |w| w.reasons() == ["Rebooted"]).await;
    assert_eq!(ready.metadata.labels.expect("labels")["kubernetes.io/hostname"], "node-1");
    world.scope.stop().await;
}
