use super::*;
use serde_json::{Value, json};
use skiff_api::ApiError;
use skiff_client::Informers;
use skiff_client::fake::FakeTransport;

fn node(name: &str, cpu: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}}})
}

fn pod(name: &str, cpu: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

/// Runs the scheduler on what `prepare` puts there, until `done` says so.
async fn play(prepare: impl FnOnce(&FakeTransport), mut done: impl FnMut(&FakeTransport) -> bool) {
    let fake = Arc::new(FakeTransport::new());
    prepare(&fake);
    let scope = Scope::new();
    let informers = Informers::new(Client::new(fake.clone()), scope.clone());
    crate::start(&informers, &scope);
    let limit = Instant::now() + std::time::Duration::from_secs(20);
    while !done(&fake) {
        assert!(Instant::now() < limit, "{:#?}", fake.requests());
        tokio::task::yield_now().await;
    }
    scope.stop().await;
}

fn pods(fake: &FakeTransport) -> Vec<Value> {
    fake.objects("/api/v1/pods")
}

fn event(fake: &FakeTransport, message: &str) -> bool {
    fake.objects("/api/v1/events").iter().any(|event| event["message"] == message)
}

#[tokio::test]
async fn binds_and_tells() {
    let prepare = |fake: &FakeTransport| {
        fake.put(node("n", "4"));
        fake.put(pod("a", "1"));
    };
    play(prepare, |fake| {
        pods(fake)[0]["spec"]["nodeName"] == "n" && event(fake, "Successfully assigned default/a to n")
    })
    .await;
}

#[tokio::test]
async fn says_why_not_and_tries_again_when_a_node_comes() {
    let prepare = |fake: &FakeTransport| {
        fake.put(node("small", "1"));
        fake.put(pod("a", "2"));
    };
    let mut told = false;
    play(prepare, |fake| {
        let condition = &pods(fake)[0]["status"]["conditions"][0];
        let message = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 \
                       Preemption is not helpful for scheduling.";
        if !told && condition["message"] == message && event(fake, message) {
            assert_eq!((&condition["reason"], &condition["status"]), (&json!("Unschedulable"), &json!("False")));
            told = true;
            fake.put(node("big", "4"));
        }
        told && pods(fake)[0]["spec"]["nodeName"] == "big"
    })
    .await;
}

#[tokio::test]
async fn room_is_taken_at_once_and_given_back_when_a_binding_fails() {
    let prepare = |fake: &FakeTransport| {
        fake.put(node("n", "1"));
        fake.put(pod("a", "1"));
        fake.put(pod("b", "1"));
        fake.fail_next("POST /api/v1/namespaces/default/pods/a/binding", ApiError::internal("no"));
    };
    let mut seen = 0;
    play(prepare, |fake| {
        let bound = pods(fake).iter().filter(|pod| pod["spec"]["nodeName"] == "n").count();
        seen = seen.max(bound);
        assert!(bound <= 1, "they don't fit together");
        bound == 1 && event(fake, "binding rejected: Internal error occurred: no")
    })
    .await;
    assert_eq!(seen, 1);
}

#[tokio::test]
async fn leaves_the_pods_of_others_alone() {
    let prepare = |fake: &FakeTransport| {
        fake.put(node("n", "4"));
        let mut other = pod("other", "1");
        other["spec"]["schedulerName"] = json!("mine");
        fake.put(other);
        let mut over = pod("over", "1");
        over["status"]["phase"] = json!("Failed");
        fake.put(over);
        fake.put(pod("z", "1"));
    };
    play(prepare, |fake| pods(fake).iter().any(|pod| pod["spec"]["nodeName"] == "n")).await;
}

#[tokio::test]
async fn an_important_pod_takes_the_place_of_a_lesser_one() {
    let prepare = |fake: &FakeTransport| {
        fake.put(node("n", "1"));
        let mut lesser = pod("lesser", "1");
        lesser["spec"]["nodeName"] = json!("n");
        fake.put(lesser);
        let mut important = pod("important", "1");
        important["spec"]["priority"] = json!(1000);
        important["spec"]["schedulerName"] = json!("default-scheduler");
        fake.put(important);
    };
    let mut shown = Vec::new();
    play(prepare, |fake| {
        let pods = pods(fake);
        for pod in &pods {
            let (name, status) = (&pod["metadata"]["name"], &pod["status"]);
            let condition = &status["conditions"][0];
            if name == "lesser" && condition.is_object() {
                assert_eq!(
                    (&condition["type"], &condition["reason"], &condition["message"]),
                    (
                        &json!("DisruptionTarget"),
                        &json!("PreemptionByScheduler"),
                        &json!("default-scheduler: preempting to accommodate a higher priority pod")
                    )
                );
            }
            if name == "important" && status["nominatedNodeName"] == "n" && shown.is_empty() {
                shown.push(condition["message"].clone());
            }
        }
        pods.len() == 1 && pods[0]["spec"]["nodeName"] == "n" && !shown.is_empty()
    })
    .await;
    assert_eq!(shown, ["0/1 nodes are available: 1 Insufficient cpu."]);
}

#[tokio::test]
async fn a_pod_waits_for_the_one_it_wants_to_be_near() {
    let terms = json!([{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let prepare = |fake: &FakeTransport| {
        let mut one = node("one", "4");
        one["metadata"]["labels"] = json!({"zone": "1"});
        fake.put(one);
        fake.put(node("two", "4"));
        let mut near = pod("near", "1");
        near["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = terms;
        fake.put(near);
    };
    let mut told = false;
    let message = "0/2 nodes are available: 2 node(s) didn't match pod affinity rules. preemption: 0/2 nodes are \
                   available: 2 Preemption is not helpful for scheduling.";
    play(prepare, |fake| {
        let pods = pods(fake);
        let near = pods.iter().find(|pod| pod["metadata"]["name"] == "near").expect("it is there");
        if !told && near["status"]["conditions"][0]["message"] == message {
            told = true;
            let mut web = pod("web", "1");
            web["metadata"]["labels"] = json!({"app": "web"});
            web["spec"]["nodeSelector"] = json!({"zone": "1"});
            fake.put(web);
        }
        told && near["spec"]["nodeName"] == "one"
    })
    .await;
}

/// 1,000 pods onto 100 nodes; the promise of under a second is measured by the benchmarks.
#[tokio::test]
async fn places_many_pods_evenly() {
    let prepare = |fake: &FakeTransport| {
        (0..100).for_each(|n| fake.put(node(&format!("n{n}"), "4")));
        (0..1000).for_each(|n| fake.put(pod(&format!("p{n}"), "100m")));
    };
    play(prepare, |fake| {
        let bindings = fake.requests().iter().filter(|request| request.ends_with("/binding")).count();
        if bindings < 1000 {
            return false;
        }
        let mut count = std::collections::HashMap::new();
        for pod in pods(fake) {
            *count.entry(pod["spec"]["nodeName"].to_string()).or_insert(0) += 1;
        }
        assert_eq!(count.len(), 100);
        assert!(count.values().all(|count| (8..=12).contains(count)), "{count:?}");
        true
    })
    .await;
}
