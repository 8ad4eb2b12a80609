//! Pod.

pub(in crate::kinds) mod defaults;
mod match_label_keys;
mod part;
mod paths;
mod qos;
mod row;
pub(in crate::kinds) mod validate;
pub(in crate::kinds) mod warnings;

use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use crate::field::Errors;
use crate::kinds::adapter::{FieldOf, Kind};
use crate::kinds::facts::{AGE, Facts, NAME, text, wide};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::Row;
use crate::strategy::Subresource;

pub(super) struct Pods;

impl Kind for Pods {
    type Typed = core::Pod;
    const FACTS: Facts = Facts {
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            Subresource::Special("attach"),
            Subresource::Special("binding"),
            Subresource::Special("ephemeralcontainers"),
            Subresource::Special("eviction"),
            Subresource::Special("exec"),
            Subresource::Special("log"),
            Subresource::Special("portforward"),
            Subresource::Special("proxy"),
            Subresource::Special("resize"),
            Subresource::Status,
        ],
        columns: &[
            NAME,
            text("Ready", "How many of its containers are ready."),
            text("Status", "What the pod is doing, or what is wrong with it."),
            text("Restarts", "How often its containers were started anew, and how long ago the last time."),
            AGE,
            wide("IP", "Its address."),
            wide("Node", "The node it is on."),
            wide("Nominated Node", "The node on which room is made for it."),
            wide("Readiness Gates", "How many of its readiness gates are open."),
        ],
        generation: true,
        ..Facts::new("", "v1", "pods", "Pod")
    };
    const FIELDS: &'static [(&'static str, FieldOf)] = &[
        ("spec.nodeName", |o| o.text("spec.nodeName").to_owned()),
        ("spec.restartPolicy", |o| o.text("spec.restartPolicy").to_owned()),
        ("spec.schedulerName", |o| o.text("spec.schedulerName").to_owned()),
        ("spec.serviceAccountName", |o| o.text("spec.serviceAccountName").to_owned()),
        ("spec.hostNetwork", |o| o.flag("spec.hostNetwork").to_string()),
        ("status.phase", |o| o.text("status.phase").to_owned()),
        ("status.podIP", pod_ip),
        ("status.podIPs", pod_ip),
        ("status.nominatedNodeName", |o| o.text("status.nominatedNodeName").to_owned()),
    ];
    const FIELD_LABELS: &'static [&'static str] = &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.podIPs",
        "status.nominatedNodeName",
    ];

    fn default(object: &mut Value) {
        defaults::pod(object);
    }

    fn prepare_create(object: &mut Value) {
        match_label_keys::merge(object);
        let mut status = json!({"phase": "Pending", "qosClass": qos::class(object)});
        if object.count("spec.schedulingGates") > 0 {
            status["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates"}]);
        }
        if let Some(map) = object.as_object_mut() {
            map.insert("status".to_owned(), status);
        }
    }

    fn prepare_status_update(object: &mut Value, old: &Value) {
        let Some(map) = object.as_object_mut() else { return };
        if let Some(meta) = map.existing("metadata") {
            // Node agents of old times lost them on the way.
            match old.at("metadata").get("ownerReferences") {
                Some(owners) => meta.insert("ownerReferences".to_owned(), owners.clone()),
                None => meta.remove("ownerReferences"),
            };
        }
        if let (Some(status), Some(class)) = (map.object("status"), old.at("status").get("qosClass")) {
            status.entry("qosClass").or_insert_with(|| class.clone());
        }
    }

    fn validate(pod: &core::Pod, errors: &mut Errors) {
        validate::pod(pod, errors);
        validate::created(pod, errors);
    }

    fn validate_update(pod: &core::Pod, old: &core::Pod, errors: &mut Errors) {
        validate::pod(pod, errors);
        validate::update::annotations(pod, old, errors);
        if let (Some(new), Some(old)) = (&pod.spec, &old.spec) {
            validate::update::spec(new, old, errors);
        }
    }

    const VALIDATES_ANNOTATIONS: bool = true;
    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(pod: &core::Pod, old: &core::Pod, errors: &mut Errors) {
        validate::status_update(pod, old, errors);
    }

    fn take_part(part: &str, object: &mut Value, wanted: &Value) {
        part::take(part, object, wanted);
    }

    fn validate_part_update(part: &str, pod: &core::Pod, old: &core::Pod, errors: &mut Errors) {
        validate::pod(pod, errors);
        part::validate(part, pod, old, errors);
    }

    fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some() { Vec::new() } else { warnings::pod(object) }
    }

    fn status_warnings(pod: &Value) -> Vec<String> {
        warnings::status(pod)
    }

    fn grace_period_s(object: &Value, asked: Option<i64>) -> Option<i64> {
        Some(grace_period_s(object, asked))
    }

    fn cells(object: &Value, row: &mut Row) {
        row::cells(object, row);
    }
}

fn pod_ip(pod: &Value) -> String {
    pod.list("status.podIPs").first().map_or("", |ip| ip.text("ip")).to_owned()
}

/// What was asked for, else what the pod says; nothing for a pod that no node runs or that has ended.
fn grace_period_s(pod: &Value, asked: Option<i64>) -> i64 {
    let wanted = asked.or_else(|| pod.at("spec.terminationGracePeriodSeconds").as_i64()).unwrap_or(30);
    let ended = matches!(pod.text("status.phase"), "Succeeded" | "Failed");
    if pod.text("spec.nodeName").is_empty() || ended {
        return 0;
    }
    // Negative periods are an old way to say "at once, but still gracefully".
    if wanted < 0 { 1 } else { wanted }
}
