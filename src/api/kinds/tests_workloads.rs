//! Jobs, cron jobs, daemon sets and stateful sets: defaults, mistakes, changes, rows.

use serde_json::{Value, json};

use super::tests::{cells, created, kind};
use super::tests_validation::{texts, validate, validate_update, with};

fn template(restart: &str) -> Value {
    json!({"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": restart, "containers": [{"name": "c", "image": "i:1"}]}})
}

fn job() -> Value {
    json!({"metadata": {"name": "j", "namespace": "n", "uid": "u"}, "spec": {"template": template("Never")}})
}

fn cron_job() -> Value {
    json!({"metadata": {"name": "c", "namespace": "n"},
        "spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": template("Never")}}}})
}

fn set() -> Value {
    json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": template("Always")}})
}

#[test]
fn job_defaults() {
    let made = created("batch", "Job", job());
    let labels = json!({"a": "b", "batch.kubernetes.io/controller-uid": "u", "batch.kubernetes.io/job-name": "j",
        "controller-uid": "u", "job-name": "j"});
    assert_eq!(made["spec"]["template"]["metadata"]["labels"], labels);
    assert_eq!(made["metadata"]["labels"], json!({"a": "b"}));
    let mut spec = made["spec"].clone();
    spec.as_object_mut().expect("a spec").remove("template");
    assert_eq!(
        spec,
        json!({"completions": 1, "parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": false,
            "manualSelector": false, "podReplacementPolicy": "TerminatingOrFailed",
            "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}})
    );
    assert_eq!(validate("batch", "Job", job()), Vec::<String>::new());
    let queue = created("batch", "Job", with(job(), &[("/spec/parallelism", json!(3))]));
    assert_eq!(queue["spec"].get("completions"), None);
    let per_index = [("/spec/backoffLimitPerIndex", json!(1)), ("/spec/completionMode", json!("Indexed"))];
    assert_eq!(created("batch", "Job", with(job(), &per_index))["spec"]["backoffLimit"], i32::MAX);
}

#[test]
fn wrong_jobs() {
    let indexed = |more: Value| {
        let mut spec = json!({"completionMode": "Indexed", "completions": 5, "template": template("Never")});
        spec.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        vec![("/spec", spec)]
    };
    let rule = |rule: Value| vec![("/spec/podFailurePolicy", json!({"rules": [rule]}))];
    for (changes, expect) in [
        (
            vec![("/spec/parallelism", json!(-1))],
            vec!["spec.parallelism: Invalid value: -1: must be greater than or equal to 0"],
        ),
        (
            vec![("/spec/template/spec/restartPolicy", json!("Always"))],
            vec![r#"spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never""#],
        ),
        (
            vec![("/spec/completionMode", json!("Indexed")), ("/spec/parallelism", json!(1))],
            vec!["spec.completions: Required value: when completion mode is Indexed"],
        ),
        (
            vec![("/spec/backoffLimitPerIndex", json!(1))],
            vec!["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"],
        ),
        (
            indexed(json!({"maxFailedIndexes": 6, "backoffLimitPerIndex": 1})),
            vec!["spec.maxFailedIndexes: Invalid value: 6: must be less than or equal to completions"],
        ),
        (
            indexed(json!({"parallelism": 100_001})),
            vec![
                "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed",
            ],
        ),
        (
            rule(json!({"action": "Frob", "onExitCodes": {"operator": "In", "values": [0, 0]}})),
            vec![
                r#"spec.podFailurePolicy.rules[0].action: Unsupported value: "Frob": supported values: "Count", "FailIndex", "FailJob", "Ignore""#,
                "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Duplicate value: 0",
            ],
        ),
        (
            rule(json!({"action": "FailIndex"})),
            vec![
                r#"spec.podFailurePolicy.rules[0].action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set"#,
                "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
            ],
        ),
        (
            indexed(
                json!({"successPolicy": {"rules": [{"succeededIndexes": "0-9"}, {"succeededIndexes": "0,2", "succeededCount": 3}]}}),
            ),
            vec![
                r#"spec.successPolicy.rules[0].succeededIndexes: Invalid value: "0-9": error parsing succeededIndexes: too large index: "9""#,
                "spec.successPolicy.rules[1].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of \
                 indexes in the specified succeededIndexes field)",
            ],
        ),
        (
            vec![("/spec/managedBy", json!("me"))],
            vec![r#"spec.managedBy: Invalid value: "me": must be a domain-prefixed path (such as "acme.io/foo")"#],
        ),
        (vec![("/spec/manualSelector", json!(true))], vec!["spec.selector: Required value"]),
    ] {
        assert_eq!(validate("batch", "Job", with(job(), &changes)), expect, "{changes:?}");
    }
    let stolen = json!({"a": "b", "job-name": "other"});
    let wrong = validate("batch", "Job", with(job(), &[("/spec/template/metadata/labels", stolen)]));
    assert!(wrong[0].starts_with("spec.template.metadata.labels[job-name]: Invalid value: "), "{wrong:?}");
    assert!(wrong[0].ends_with(": must be 'j'"), "{wrong:?}");
}

#[test]
fn changes_of_jobs() {
    let suspended = with(job(), &[("/spec/suspend", json!(true))]);
    let indexed = with(
        job(),
        &[("/spec/completionMode", json!("Indexed")), ("/spec/completions", json!(2)), ("/spec/parallelism", json!(2))],
    );
    let tandem = "spec.completions: Invalid value: 3: can only be modified in tandem with spec.parallelism";
    for (old, changes, expect) in [
        (job(), vec![("/spec/parallelism", json!(7)), ("/spec/suspend", json!(true))], vec![]),
        (job(), vec![("/spec/completions", json!(2))], vec!["spec.completions: Invalid value: 2: field is immutable"]),
        (indexed.clone(), vec![("/spec/completions", json!(3)), ("/spec/parallelism", json!(3))], vec![]),
        (indexed, vec![("/spec/completions", json!(3))], vec![tandem]),
        (suspended, vec![("/spec/template/spec/nodeSelector", json!({"a": "b"}))], vec![]),
    ] {
        assert_eq!(validate_update("batch", "Job", old, &changes), expect, "{changes:?}");
    }
    let wrong = validate_update("batch", "Job", job(), &[("/spec/template/spec/nodeSelector", json!({"a": "b"}))]);
    assert!(wrong.len() == 1 && wrong[0].ends_with(": field is immutable"), "{wrong:?}");
}

#[test]
fn statuses_of_jobs() {
    let condition = |of: &str| json!({"type": of, "status": "True"});
    let old = created("batch", "Job", job());
    for (status, expect) in [
        (json!({"active": 1, "ready": 1, "startTime": "2024-01-01T00:00:00Z"}), vec![]),
        (
            json!({"active": 1, "ready": 2}),
            vec!["status.ready: Invalid value: 2: cannot set more ready pods than active"],
        ),
        (
            json!({"conditions": [condition("Complete"), condition("SuccessCriteriaMet")], "startTime": "2024-01-01T00:00:00Z"}),
            vec!["status.completionTime: Required value: completionTime is required for Complete jobs"],
        ),
        (
            json!({"conditions": [condition("Failed")], "startTime": "2024-01-01T00:00:00Z"}),
            vec![
                "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
            ],
        ),
        (
            json!({"completedIndexes": "1"}),
            vec![
                r#"status.completedIndexes: Invalid value: "1": cannot set non-empty completedIndexes when non-indexed completion mode"#,
                r#"status.completedIndexes: Invalid value: "1": error parsing completedIndexes: too large index: "1""#,
            ],
        ),
    ] {
        let new = with(old.clone(), &[("/status", status.clone())]);
        assert_eq!(texts(kind("batch", "Job").strategy.validate_status_update(&new, &old)), expect, "{status}");
    }
}

#[test]
fn cron_jobs() {
    let made = created("batch", "CronJob", cron_job());
    let spec = &made["spec"];
    assert_eq!(
        [
            &spec["concurrencyPolicy"],
            &spec["suspend"],
            &spec["successfulJobsHistoryLimit"],
            &spec["failedJobsHistoryLimit"]
        ],
        [&json!("Allow"), &json!(false), &json!(3), &json!(1)]
    );
    assert_eq!(spec["jobTemplate"]["spec"].get("completions"), None);
    assert_eq!(spec["jobTemplate"]["spec"]["template"]["spec"]["dnsPolicy"], "ClusterFirst");
    let long = "c".repeat(53);
    for (changes, expect) in [
        (vec![], vec![]),
        (vec![("/spec/schedule", json!(""))], vec!["spec.schedule: Required value".to_owned()]),
        (
            vec![("/spec/schedule", json!("* * * *"))],
            vec![r#"spec.schedule: Invalid value: "* * * *": expected exactly 5 fields, found 4: [* * * *]"#.to_owned()],
        ),
        (
            vec![("/spec/schedule", json!("TZ=UTC @hourly"))],
            vec![r#"spec.schedule: Invalid value: "TZ=UTC @hourly": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"#.to_owned()],
        ),
        (
            vec![("/spec/timeZone", json!("Local"))],
            vec![
                r#"spec.timeZone: Invalid value: "Local": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"#.to_owned(),
            ],
        ),
        (
            vec![("/spec/concurrencyPolicy", json!("Queue"))],
            vec![r#"spec.concurrencyPolicy: Unsupported value: "Queue": supported values: "Allow", "Forbid", "Replace""#.to_owned()],
        ),
        (
            vec![("/spec/jobTemplate/spec/selector", json!({"matchLabels": {"a": "b"}}))],
            vec![
                r#"spec.jobTemplate.spec.selector: Invalid value: {"matchLabels":{"a":"b"}}: `selector` will be auto-generated"#.to_owned(),
            ],
        ),
        (
            vec![("/metadata/name", json!(long))],
            vec![format!(r#"metadata.name: Invalid value: "{long}": must be no more than 52 characters"#)],
        ),
    ] {
        assert_eq!(validate("batch", "CronJob", with(cron_job(), &changes)), expect, "{changes:?}");
    }
}

#[test]
fn daemon_sets() {
    let made = created("apps", "DaemonSet", set());
    assert_eq!(
        made["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
    );
    assert_eq!(made["metadata"]["annotations"], json!({"deprecated.daemonset.template.generation": "1"}));
    for (changes, expect) in [
        (vec![], vec![]),
        (
            vec![("/spec/updateStrategy", json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}))],
            vec![
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
            ],
        ),
        (
            vec![("/spec/updateStrategy", json!({"rollingUpdate": {"maxUnavailable": 0}}))],
            vec!["spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"],
        ),
        (
            vec![("/spec/template/spec/restartPolicy", json!("Never"))],
            vec![r#"spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always""#],
        ),
        (
            vec![("/spec/selector", json!({}))],
            vec!["spec.selector: Invalid value: {}: empty selector is invalid for daemonset"],
        ),
    ] {
        assert_eq!(validate("apps", "DaemonSet", with(set(), &changes)), expect, "{changes:?}");
    }
    let strategy = &kind("apps", "DaemonSet").strategy;
    for (image, expect) in [("i:1", "1"), ("i:2", "2")] {
        let mut new = with(made.clone(), &[("/spec/template/spec/containers/0/image", json!(image))]);
        strategy.prepare_update(&mut new, &made);
        assert_eq!(new["metadata"]["annotations"]["deprecated.daemonset.template.generation"], expect);
    }
}

#[test]
fn stateful_sets() {
    let claim = json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let made = created("apps", "StatefulSet", with(set(), &[("/spec/volumeClaimTemplates", json!([claim]))]));
    let mut spec = made["spec"].clone();
    spec.as_object_mut().expect("a spec").retain(|key, _| !matches!(key.as_str(), "template" | "selector"));
    assert_eq!(
        spec,
        json!({"replicas": 1, "revisionHistoryLimit": 10, "podManagementPolicy": "OrderedReady",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
            "volumeClaimTemplates": [{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "v"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeMode": "Filesystem"},
                "status": {"phase": "Pending"}}]})
    );
    assert_eq!(made["status"], json!({"replicas": 0, "availableReplicas": 0}));
    for (changes, expect) in [
        (vec![], vec![]),
        (
            vec![("/spec/podManagementPolicy", json!("Random"))],
            vec![r#"spec.podManagementPolicy: Invalid value: "Random": must be 'OrderedReady' or 'Parallel'"#],
        ),
        (
            vec![("/spec/updateStrategy", json!({"type": "OnDelete", "rollingUpdate": {"partition": 1}}))],
            vec![
                r#"spec.updateStrategy.rollingUpdate: Invalid value: {"partition":1}: only allowed for updateStrategy 'RollingUpdate'"#,
            ],
        ),
        (
            vec![("/spec/persistentVolumeClaimRetentionPolicy", json!({"whenScaled": "Keep"}))],
            vec![
                r#"spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: "Keep": supported values: "Delete", "Retain""#,
            ],
        ),
        (
            vec![("/spec/selector", Value::Null)],
            vec![
                "spec.selector: Required value",
                r#"spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`"#,
            ],
        ),
        (
            vec![("/spec/template/spec/activeDeadlineSeconds", json!(1))],
            vec![
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in StatefulSet is not Supported",
            ],
        ),
    ] {
        assert_eq!(validate("apps", "StatefulSet", with(set(), &changes)), expect, "{changes:?}");
    }
    assert_eq!(validate_update("apps", "StatefulSet", set(), &[("/spec/replicas", json!(3))]), Vec::<String>::new());
    let wrong = validate_update("apps", "StatefulSet", set(), &[("/spec/serviceName", json!("other"))]);
    assert!(wrong.len() == 1 && wrong[0].starts_with("spec: Forbidden: updates to statefulset spec"), "{wrong:?}");
}

#[test]
fn rows_of_workloads() {
    let meta = json!({"name": "x", "creationTimestamp": "2024-01-01T23:59:00Z"});
    let containers = json!({"spec": {"containers": [{"name": "c", "image": "i"}], "nodeSelector": {"k": "v"}}});
    for (group, of, object, expect) in [
        (
            "batch",
            "Job",
            json!({"metadata": meta, "spec": {"completions": 3, "template": containers},
                "status": {"succeeded": 1, "startTime": "2024-01-01T23:59:30Z"}}),
            json!(["x", "Running", "1/3", "30s", "60s", "c", "i", "<none>"]),
        ),
        (
            "batch",
            "Job",
            json!({"metadata": meta, "spec": {"parallelism": 2}, "status": {"succeeded": 2, "startTime": "2024-01-01T23:59:30Z",
                "completionTime": "2024-01-01T23:59:35Z", "conditions": [{"type": "Complete", "status": "True"}]}}),
            json!(["x", "Complete", "2/1 of 2", "5s", "60s", "", "", "<none>"]),
        ),
        (
            "batch",
            "CronJob",
            json!({"metadata": meta, "spec": {"schedule": "@daily", "suspend": false, "jobTemplate": {"spec": {"template": containers}}},
                "status": {"active": [{}], "lastScheduleTime": "2024-01-01T23:59:30Z"}}),
            json!(["x", "@daily", "<none>", "False", 1, "30s", "60s", "c", "i", "<none>"]),
        ),
        (
            "apps",
            "DaemonSet",
            json!({"metadata": meta, "spec": {"template": containers, "selector": {"matchLabels": {"a": "b"}}},
                "status": {"desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberReady": 1}}),
            json!(["x", 3, 2, 1, 0, 0, "k=v", "60s", "c", "i", "a=b"]),
        ),
        (
            "apps",
            "StatefulSet",
            json!({"metadata": meta, "spec": {"replicas": 3, "template": containers}, "status": {"readyReplicas": 2}}),
            json!(["x", "2/3", "60s", "c", "i"]),
        ),
    ] {
        assert_eq!(Value::from(cells(group, of, object)), expect, "{of}");
    }
}

#[test]
fn defaults_of_what_is_said_in_part() {
    let strategy = |strategy: Value| {
        let set = json!({"metadata": {"name": "s"}, "spec": {"updateStrategy": strategy}});
        created("apps", "StatefulSet", set)["spec"]["updateStrategy"].clone()
    };
    assert_eq!(strategy(json!({})), json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}));
    assert_eq!(strategy(json!({"type": "RollingUpdate"})), json!({"type": "RollingUpdate"}));

    let policy = json!({"rules": [{"onPodConditions": [{"type": "A"}]}]});
    let cron = json!({"metadata": {"name": "c"}, "spec": {"jobTemplate": {"spec": {"podFailurePolicy": policy}}}});
    let job = created("batch", "CronJob", cron)["spec"]["jobTemplate"]["spec"].clone();
    assert_eq!(job["podFailurePolicy"]["rules"][0]["onPodConditions"], json!([{"type": "A", "status": "True"}]));
    assert_eq!(job["backoffLimit"], Value::Null);

    let pod = |resources: Value| {
        let container = |cpu: &str| {
            json!({"name": "a", "image": "i", "resources": {"requests": {"cpu": cpu, "example.com/x": "1"},
                "limits": {"hugepages-2Mi": "2Mi", "example.com/x": "1"}}})
        };
        let pod = json!({"metadata": {"name": "p"}, "spec": {"resources": resources,
            "containers": [container("1"), container("500m")], "initContainers": [container("2")]}});
        created("", "Pod", pod)["spec"]["resources"].clone()
    };
    assert_eq!(
        pod(json!({"limits": {"memory": "1Gi"}})),
        json!({"limits": {"memory": "1Gi", "hugepages-2Mi": "4Mi"},
            "requests": {"cpu": "2", "memory": "1Gi", "hugepages-2Mi": "4Mi"}})
    );
    let asked = json!({"requests": {"cpu": "3", "hugepages-2Mi": "8Mi"}});
    assert_eq!(pod(asked.clone()), asked);
    assert_eq!(pod(json!({})), json!({}));
}
