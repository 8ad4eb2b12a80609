use super::*;
use crate::slot::StartFailure;
use crate::slot::tests::run;
use jiff::SignedDuration;
use serde_json::json;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn exit(code: i32) -> RunState {
    let reason = if code == 0 { "Completed" } else { "Error" };
    RunState::Exited(Exit {
        started: Some(at(90)),
        finished: at(95),
        code,
        signal: None,
        reason: reason.into(),
        message: String::new(),
    })
}

fn slot(state: Option<RunState>) -> Slot {
    Slot { current: state.map(|s| run(0, s)), ..Slot::default() }
}

fn up() -> Option<RunState> {
    Some(RunState::Running { since: at(90) })
}

fn status_of(policy: &str, inits: Value, slots: &[(&str, Slot)], terminal: bool) -> PodStatus {
    let spec = json!({"restartPolicy": policy, "initContainers": inits, "containers": [{"name": "m", "image": "i"}]});
    status_of_spec(spec, slots, terminal)
}

fn status_of_spec(spec: Value, slots: &[(&str, Slot)], terminal: bool) -> PodStatus {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1}, "spec": spec}))
    .expect("a pod");
    plan_status(&Seen {
        pod: &pod,
        last: &PodStatus::default(),
        slots: &slots.iter().map(|(n, s)| ((*n).to_owned(), s.clone())).collect(),
        sandbox_ready: true,
        pod_ips: &["10.42.0.2".parse().expect("an address")],
        host_ip: "192.0.2.1".parse().expect("an address"),
        terminal,
        failed: None,
        rejected: false,
        resetting: false,
        disrupted: None,
        given: &pod,
        resize_pending: None,
        resizing: None,
        devices: &|_| None,
        now: at(100),
    })
}

/// Phase, and the true conditions by their initials.
fn short(status: &PodStatus) -> String {
    let mut out = status.phase.clone().unwrap_or_default();
    for condition in status.conditions.iter().flatten().filter(|c| c.status == "True") {
        out.push_str(match condition.type_.as_str() {
            "PodReadyToStartContainers" => " S",
            "Initialized" => " I",
            "Ready" => " R",
            "ContainersReady" => " C",
            _ => "",
        });
    }
    out
}

#[test]
fn phases_and_conditions() {
    let init = json!([{"name": "i"}]);
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    let again = json!([{"name": "i", "restartPolicy": "Never", "restartPolicyRules": rules}]);
    let never = json!([{"name": "i", "restartPolicy": "Never"}]);
    let waits = |code| Slot { crash_loop: Some(SignedDuration::from_secs(20)), ..slot(Some(exit(code))) };
    let side = json!([{"name": "s", "restartPolicy": "Always"}]);
    let none = json!([]);
    for (policy, inits, slots, terminal, expected) in [
        ("Always", &none, vec![], false, "Pending S I"),
        ("Always", &none, vec![("m", slot(up()))], false, "Running S I R C"),
        ("Always", &none, vec![("m", slot(Some(exit(1))))], false, "Running S I"),
        ("OnFailure", &none, vec![("m", slot(Some(exit(1))))], false, "Running S I"),
        ("OnFailure", &none, vec![("m", slot(Some(exit(0))))], false, "Succeeded S I"),
        ("Never", &none, vec![("m", slot(Some(exit(1))))], false, "Failed S I"),
        ("Always", &none, vec![("m", slot(Some(exit(143))))], true, "Failed S I"),
        ("Always", &none, vec![("m", slot(Some(exit(0))))], true, "Succeeded S I"),
        ("Always", &init, vec![], false, "Pending S"),
        ("Always", &init, vec![("i", slot(up()))], false, "Pending S"),
        ("Always", &init, vec![("i", slot(Some(exit(1))))], false, "Pending S"),
        ("Never", &init, vec![("i", slot(Some(exit(1))))], false, "Failed S"),
        ("Never", &again, vec![("i", slot(Some(exit(1))))], false, "Failed S"),
        ("Never", &again, vec![("i", slot(Some(exit(42))))], false, "Pending S"),
        ("Never", &again, vec![("i", waits(42))], false, "Pending S"),
        ("Always", &never, vec![("i", slot(Some(exit(1))))], false, "Failed S"),
        ("Always", &init, vec![("i", slot(Some(exit(0)))), ("m", slot(up()))], false, "Running S I R C"),
        ("Always", &side, vec![("s", slot(up()))], false, "Pending S I"),
        ("Always", &side, vec![("s", slot(up())), ("m", slot(up()))], false, "Running S I R C"),
        ("Always", &side, vec![("s", slot(Some(exit(1)))), ("m", slot(up()))], false, "Running S I"),
        // The sidecar is still being stopped.
        ("Never", &side, vec![("s", slot(up())), ("m", slot(Some(exit(0))))], false, "Running S I"),
        ("Never", &side, vec![("s", slot(Some(exit(0)))), ("m", slot(Some(exit(0))))], true, "Succeeded S I"),
    ] {
        let status = status_of(policy, inits.clone(), &slots, terminal);
        assert_eq!(short(&status), expected, "{policy} {inits} {slots:?}");
    }
}

#[test]
fn one_that_never_ran_has_a_start() {
    let exit = |reason: &str, started| Exit {
        started,
        finished: at(95),
        code: 128,
        signal: None,
        reason: reason.into(),
        message: String::new(),
    };
    assert_eq!(started(&exit("StartError", None)), Some(Timestamp::UNIX_EPOCH));
    assert_eq!(started(&exit("Error", Some(at(90)))), Some(at(90)));
    assert_eq!(started(&exit("ContainerStatusUnknown", None)), None);
}

#[test]
fn an_evicted_pod_says_for_whom_when_it_has_ended() {
    let pod = json!({"metadata": {}, "spec": {"containers": [{"name": "m"}]}});
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    let status = |last: &PodStatus, state, terminal, why| {
        plan_status(&Seen {
            pod: &pod,
            last,
            slots: &BTreeMap::from([("m".to_owned(), slot(state))]),
            sandbox_ready: false,
            pod_ips: &[],
            host_ip: "192.0.2.1".parse().expect("an address"),
            terminal,
            failed: why,
            rejected: false,
            resetting: false,
            disrupted: why.map(|(_, message)| message),
            given: &pod,
            resize_pending: None,
            resizing: None,
            devices: &|_| None,
            now: at(100),
        })
    };
    let is_told = |status: &PodStatus| status.conditions.iter().flatten().any(|c| c.type_ == "DisruptionTarget");
    let (begun, why) = (PodStatus::default(), Some(("Evicted", "why")));
    let ends = status(&begun, up(), false, why);
    assert_eq!((ends.phase.as_deref(), ends.reason.as_deref(), ends.message.as_deref()), (Some("Running"), None, None));
    assert!(!is_told(&ends));
    let ended = status(&ends, Some(exit(143)), true, why);
    let told = ended.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget").expect("the condition");
    assert_eq!((told.status.as_str(), told.reason.as_deref()), ("True", Some("TerminationByKubelet")));
    assert_eq!((ended.phase.as_deref(), ended.reason.as_deref()), (Some("Failed"), Some("Evicted")));
    // The next agent does not know why, and takes nothing back.
    let next = status(&ended, Some(exit(143)), true, None);
    assert_eq!((next.reason, next.message), (ended.reason, ended.message));
}

#[test]
fn resources_are_told_of_every_pod() {
    let told = |spec: Value, run: Option<RunState>| {
        let status = status_of_spec(spec, &[("m", slot(run))], false);
        let own = status.container_statuses.unwrap_or_default().remove(0);
        json!([status.resources, status.allocated_resources, own.resources, own.allocated_resources])
    };
    let main = |resources: Value| json!({"containers": [{"name": "m", "image": "i", "resources": resources}]});
    let (empty, none) = (json!({}), Value::Null);
    let sample = json!({"requests": {"cpu": "100m", "memory": "32Mi", "ephemeral-storage": "1Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}});
    let mut with_overhead = main(sample.clone());
    with_overhead["overhead"] = json!({"cpu": "50m"});
    let mut whole = main(json!({}));
    whole["resources"] = json!({"requests": {"memory": "16Mi"}, "limits": {"cpu": "1"}});
    for (spec, run, expected) in [
        (main(empty.clone()), None, json!([empty, none, none, none])),
        // A run of which nothing else is known has what it was made with.
        (main(empty.clone()), up(), json!([empty, none, empty, none])),
        (main(sample.clone()), None, json!([sample, sample["requests"], none, none])),
        (main(sample.clone()), Some(exit(1)), json!([null, sample["requests"], sample, sample["requests"]])),
        (
            with_overhead,
            None,
            json!([{"requests": {"cpu": "150m", "memory": "32Mi", "ephemeral-storage": "1Mi"}, "limits": {"cpu": "250m", "memory": "64Mi"}},
                {"cpu": "150m", "memory": "32Mi", "ephemeral-storage": "1Mi"}, none, none]),
        ),
        (
            whole,
            up(),
            json!([{"requests": {"memory": "16Mi", "cpu": "1"}, "limits": {"cpu": "1"}}, {"memory": "16Mi"}, empty, none]),
        ),
    ] {
        let mut found = told(spec.clone(), run);
        if expected[0].is_null() {
            found[0] = Value::Null;
        }
        assert_eq!(found, expected, "{spec}");
    }
}

#[test]
fn policies_of_containers() {
    for (mut own, ended, expected) in [
        (json!({"restartPolicy": "Never"}), exit(1), "Failed"),
        (json!({"restartPolicy": "Never"}), exit(0), "Succeeded"),
        (
            json!({"restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}),
            exit(42),
            "Running",
        ),
        (json!({"restartPolicy": "OnFailure"}), exit(1), "Running"),
        (
            json!({"restartPolicy": "Never", "restartPolicyRules": [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]}),
            exit(42),
            "Running",
        ),
    ] {
        own["name"] = json!("m");
        let spec = json!({"restartPolicy": "Always", "containers": [own.clone()]});
        let status = status_of_spec(spec, &[("m", slot(Some(ended)))], false);
        assert_eq!(status.phase.as_deref(), Some(expected), "{own}");
    }
}

/// Nor does a reset: those that it ended have not failed.
#[test]
fn an_init_container_that_is_tried_again_fails_no_pod() {
    let init = |own: Value| {
        let mut init = json!({"name": "i"});
        init.as_object_mut().expect("an object").extend(own.as_object().expect("an object").clone());
        json!([init])
    };
    let waits = |reason: &str| {
        let mut previous = run(0, exit(137));
        if let RunState::Exited(exit) = &mut previous.state {
            exit.reason = reason.to_owned();
        }
        Slot { previous: Some(previous), current: None, ..Slot::default() }
    };
    let status = status_of("Never", init(json!({"restartPolicy": "OnFailure"})), &[("i", slot(Some(exit(1))))], false);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    for (reason, expected) in [("Error", "Failed"), ("RestartingAllContainers", "Pending")] {
        let status = status_of("Never", init(json!({})), &[("i", waits(reason))], false);
        assert_eq!(status.phase.as_deref(), Some(expected), "{reason}");
    }
}

#[test]
fn waiting_reasons() {
    let state = |status: &PodStatus| {
        let container = &status.container_statuses.as_ref().expect("statuses")[0];
        let waiting = container.state.clone().expect("a state").waiting.expect("waiting");
        let last = container.last_state.clone().and_then(|s| s.terminated).map(|t| t.exit_code);
        (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default(), last)
    };
    let crash = Slot { crash_loop: Some(SignedDuration::from_secs(20)), ..slot(Some(exit(3))) };
    let status = status_of("Always", json!([]), &[("m", crash)], false);
    let message = "back-off 20s restarting failed container=m pod=p_n(u)".to_owned();
    assert_eq!(state(&status), ("CrashLoopBackOff".into(), message, Some(3)));
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let failure = StartFailure { reason: "ErrImagePull", message: "no".into(), not_before: at(110), at: at(100) };
    let status = status_of("Always", json!([]), &[("m", Slot { failure: Some(failure), ..Slot::default() })], false);
    assert_eq!(state(&status), ("ErrImagePull".into(), "no".into(), None));
    let status = status_of("Always", json!([{"name": "i"}]), &[], false);
    assert_eq!(state(&status).0, "PodInitializing");
}

#[test]
fn patches_say_only_what_changed() {
    let before = status_of("Always", json!([]), &[], false);
    let after = status_of("Always", json!([]), &[("m", slot(up()))], false);
    assert_eq!(plan_patch("u", &before, &before), None);
    let patch = plan_patch("u", &before, &after).expect("a change");
    let status = patch["status"].as_object().expect("a status");
    assert_eq!(status.keys().collect::<Vec<_>>(), ["conditions", "containerStatuses", "phase"]);
    let types: Vec<&str> =
        status["conditions"].as_array().expect("a list").iter().filter_map(|c| c["type"].as_str()).collect();
    assert_eq!(types, ["Ready", "ContainersReady"]);
    assert_eq!(status["conditions"][0]["message"], Value::Null);
    assert_eq!(patch["metadata"]["uid"], "u");
}

#[test]
fn the_server_makes_of_a_patch_what_was_meant() {
    let schema = skiff_api::schema::lookup(&skiff_api::Gvk::new("", "v1", "Pod")).expect("pods are known");
    let mut slot_of_m = slot(up());
    slot_of_m.previous = Some(run(0, exit(1)));
    let mut moved = status_of("Always", json!([]), &[("m", slot_of_m)], false);
    moved.pod_ips = Some(vec![PodIP { ip: "10.42.0.9".into() }]);
    moved.pod_ip = Some("10.42.0.9".into());
    let mut gone = status_of("Always", json!([]), &[("m", slot(Some(exit(0))))], true);
    (gone.pod_ip, gone.pod_ips, gone.reason) = (None, None, Some("Evicted".into()));
    let mut resizing = status_of("Always", json!([]), &[("m", slot(up()))], false);
    resizing.conditions.get_or_insert_default().push(PodCondition {
        type_: RESIZE_CONDITIONS[0].to_owned(),
        status: "True".to_owned(),
        ..PodCondition::default()
    });
    let with = |resources: Value| {
        let spec = json!({"containers": [{"name": "m", "image": "i", "resources": resources}]});
        status_of_spec(spec, &[], false)
    };
    let steps = [
        resizing,
        with(json!({"requests": {"cpu": "1", "ephemeral-storage": "1Gi"}, "limits": {"memory": "1Gi"}})),
        with(json!({"requests": {"cpu": "1"}})),
        status_of("Always", json!([]), &[], false),
        status_of("Always", json!([]), &[("m", slot(up()))], false),
        moved,
        gone,
        status_of("Always", json!([]), &[("m", slot(up()))], false),
    ];
    let foreign = json!({"type": "example.com/gate", "status": "True"});
    let mut object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": "u"},
        "status": {"phase": "Pending", "conditions": [foreign]}});
    let mut before: PodStatus = serde_json::from_value(object["status"].clone()).expect("a status");
    for (step, wanted) in steps.iter().enumerate() {
        let patch = plan_patch("u", &before, wanted).expect("a change");
        object = skiff_api::patch::strategic_merge(&object, &patch, &schema).expect("a patch");
        let conditions = object["status"]["conditions"].as_array().expect("a list").clone();
        assert!(conditions.contains(&foreign), "step {step}: {conditions:?}");
        let mut own = object["status"].clone();
        own["conditions"] = conditions.into_iter().filter(|c| *c != foreign).collect();
        assert_eq!(own, serde_json::to_value(wanted).expect("JSON"), "step {step}: {patch}");
        before = wanted.clone();
    }
}
