//! Scales what autoscalers point at, by what its pods use.
//!
//! Every 15 seconds, for each autoscaler: `metrics` asks, `calculate` turns what is measured into a number of pods,
//! `limits` holds it to bounds, rates and windows; here the scale is read and written and the status told.

mod calculate;
mod limits;
mod metrics;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, HPAScalingRules, HorizontalPodAutoscaler,
    HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus, MetricIdentifier,
    MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricStatus, PodsMetricStatus,
    ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use skiff_api::ObjectKey;
use skiff_api::quantity::{self, Format};
use skiff_api::selector::LabelSelector;
use skiff_base::{chain, time};
use skiff_client::{Change, Client, EventKind, EventRecorder, Lister, Next, Queue, Reconciler, Result};

use crate::discovery::{Discovered, discover};
use crate::{Context, drive};
use calculate::{Proposal, Target, Tolerances};
use limits::{Bounds, History};

const WORKERS: usize = 2;
const ACCOUNT: &str = "horizontal-pod-autoscaler";
/// Upstream's `--horizontal-pod-autoscaler-sync-period`.
const PERIOD: Duration = Duration::from_secs(15);
/// Upstream's `--horizontal-pod-autoscaler-tolerance`.
const TOLERANCE: f64 = 0.1;

type Hpa = HorizontalPodAutoscaler;

pub fn start(context: &Context) {
    let autoscalers = context.informers.lister::<Hpa>();
    let pods = context.informers.lister::<Pod>();
    let queue = Queue::new(Controller::NAME);
    let controller = Arc::new(Controller {
        client: context.client(ACCOUNT),
        events: context.events(ACCOUNT, "horizontal-pod-autoscaler"),
        autoscalers: autoscalers.clone(),
        pods: pods.clone(),
        histories: Mutex::default(),
    });
    let (adding, forgetting) = (queue.clone(), controller.clone());
    autoscalers.subscribe(move |change| {
        let key = ObjectKey::of(&**change.object());
        match change {
            // What is told is no reason to measure again.
            Change::Modified { old, new } if old.spec == new.spec && old.metadata.uid == new.metadata.uid => {}
            Change::Deleted(_) => drop(forgetting.lock().remove(&key)),
            Change::Added(_) | Change::Modified { .. } => adding.add(key),
        }
    });
    drive(context, controller, queue, WORKERS, async move {
        autoscalers.synced().await;
        pods.synced().await;
    });
}

struct Controller {
    client: Client,
    events: EventRecorder,
    autoscalers: Lister<Hpa>,
    pods: Lister<Pod>,
    histories: Mutex<HashMap<ObjectKey, History>>,
}

/// Why nothing could be measured: the reason of the condition, and its message.
struct Unknown {
    reason: &'static str,
    why: String,
}

/// One metric, measured.
struct Measured {
    proposal: Proposal,
    /// As events call it.
    name: String,
    status: MetricStatus,
}

/// What is scaled.
struct Scaled {
    path: String,
    scale: Value,
    discovered: Discovered,
}

impl Scaled {
    fn number(&self, part: &str) -> i32 {
        self.scale[part]["replicas"].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0)
    }
}

impl Controller {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, History>> {
        self.histories.lock().expect("no holder of this lock panics")
    }

    fn warn(&self, hpa: &Hpa, reason: &str, message: impl Into<String>) {
        self.events.record(EventRecorder::reference(hpa), EventKind::Warning, reason, message);
    }

    async fn scaled(&self, namespace: &str, spec: &HorizontalPodAutoscalerSpec) -> Result<Scaled, String> {
        let target = &spec.scale_target_ref;
        let version = target.api_version.as_deref().unwrap_or_default();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let discovered = discover(&self.client).await.map_err(|e| chain(&e).to_string())?;
        let of_kind = discovered.resources.iter().find(|r| *r.gvk.kind == *target.kind && *r.gvk.group == *group);
        let of_kind = of_kind.ok_or_else(|| format!("no matches for kind {:?} in group {group:?}", target.kind))?;
        let path = format!("{}/scale", of_kind.path(namespace, &target.name));
        let scale = self.client.call(Method::GET, &path, None).await.map_err(|e| chain(&e).to_string())?;
        Ok(Scaled { path, scale, discovered })
    }

    /// The largest of what the metrics ask for. Those that can't be had stop it from shrinking.
    async fn measure(&self, hpa: &Hpa, spec: &HorizontalPodAutoscalerSpec, scaled: &Scaled, now: Timestamp) -> Asked {
        let namespace = hpa.metadata.namespace.as_deref().unwrap_or_default();
        let selector = scaled.scale["status"]["selector"].as_str().unwrap_or_default();
        let parsed = match selector {
            "" => Err("the HPA target's scale is missing a selector".to_owned()),
            text => {
                LabelSelector::parse(text).map_err(|e| format!("the HPA target's scale has an invalid selector: {e}"))
            }
        };
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(why) => {
                let reason = if selector.is_empty() { "SelectorRequired" } else { "InvalidSelector" };
                self.warn(hpa, reason, why.clone());
                let condition = ("InvalidSelector", why.clone());
                return Asked { statuses: Vec::new(), best: Err((condition, why)) };
            }
        };
        let all = self.pods.in_namespace(namespace);
        let none = std::collections::BTreeMap::new();
        let own = all.iter().filter(|pod| parsed.matches(pod.metadata.labels.as_ref().unwrap_or(&none)));
        let pods: Vec<&Pod> = own.map(|pod| &**pod).collect();
        let (current, metrics) = (scaled.number("spec"), spec.metrics.as_deref().unwrap_or_default());
        let mut best: Option<(i32, String)> = None;
        let (mut statuses, mut unknown) = (Vec::new(), Vec::new());
        for metric in metrics {
            let asked = Asking { controller: self, namespace, selector, scaled, pods: &pods, spec, now };
            match asked.metric(metric).await {
                Ok(measured) => {
                    if best.as_ref().is_none_or(|(replicas, _)| measured.proposal.replicas > *replicas) {
                        best = Some((measured.proposal.replicas, measured.name));
                    }
                    statuses.push(measured.status);
                }
                Err(failure) => {
                    self.warn(hpa, failure.reason, failure.why.clone());
                    unknown.push(failure);
                }
            }
        }
        let shrinks = best.as_ref().is_some_and(|(replicas, _)| *replicas < current);
        match (best, unknown.first()) {
            (Some(best), None) => Asked { statuses, best: Ok(best) },
            (Some(best), Some(_)) if !shrinks => Asked { statuses, best: Ok(best) },
            (_, Some(first)) => {
                let message = format!("the HPA was unable to compute the replica count: {}", first.why);
                let why = format!(
                    "invalid metrics ({} invalid out of {}), first error is: {}",
                    unknown.len(),
                    metrics.len(),
                    first.why
                );
                Asked { statuses, best: Err(((first.reason, message), why)) }
            }
            (None, None) => Asked { statuses, best: Ok((current, String::new())) },
        }
    }

    /// The status that is to be told, and the scale that was written.
    async fn autoscale(&self, key: &ObjectKey, hpa: &Hpa) -> HorizontalPodAutoscalerStatus {
        let now = time::now();
        let spec = &hpa.spec;
        let mut status = hpa.status.clone().unwrap_or_default();
        let mut conditions = Conditions { list: status.conditions.take().unwrap_or_default(), now };
        let namespace = hpa.metadata.namespace.as_deref().unwrap_or_default();
        let mut scaled = match self.scaled(namespace, spec).await {
            Ok(scaled) => scaled,
            Err(why) => {
                self.warn(hpa, "FailedGetScale", why.clone());
                let message = format!("the HPA controller was unable to get the target's current scale: {why}");
                conditions.set("AbleToScale", false, "FailedGetScale", message);
                status.conditions = Some(conditions.list);
                return status;
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        conditions.set("AbleToScale", true, "SucceededGetScale", message.to_owned());
        let current = scaled.number("spec");
        let bounds = Bounds { current, min: spec.min_replicas.unwrap_or(1), max: spec.max_replicas };
        let mut history = self.lock().remove(key).unwrap_or_default();
        history.begin(current, now);

        let (mut desired, mut reason) = (current, String::new());
        if current == 0 && bounds.min != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            conditions.set("ScalingActive", false, "ScalingDisabled", message.to_owned());
            status.current_metrics = None;
        } else if current > bounds.max {
            (desired, reason) = (bounds.max, "Current number of replicas above Spec.MaxReplicas".to_owned());
        } else if current < bounds.min {
            (desired, reason) = (bounds.min, "Current number of replicas below Spec.MinReplicas".to_owned());
        } else {
            let asked = self.measure(hpa, spec, &scaled, now).await;
            match asked.best {
                Ok((wanted, metric)) => {
                    status.current_metrics = Some(asked.statuses);
                    let message = format!("the HPA was able to successfully calculate a replica count from {metric}");
                    conditions.set("ScalingActive", true, "ValidMetricFound", message);
                    let limited = limits::limit(&mut history, spec.behavior.as_ref(), &bounds, wanted, now);
                    conditions.set("AbleToScale", true, limited.able.0, limited.able.1.to_owned());
                    let (holds, words) = limited.limited;
                    conditions.set("ScalingLimited", holds, words.0, words.1.to_owned());
                    desired = limited.replicas;
                    if wanted > current {
                        reason = format!("{metric} above target");
                    } else if wanted < current {
                        reason = "All metrics below target".to_owned();
                    }
                }
                Err(((reason, message), why)) => {
                    conditions.set("ScalingActive", false, reason, message);
                    self.warn(hpa, "FailedComputeMetricsReplicas", why);
                    self.lock().insert(key.clone(), history);
                    status.current_replicas = Some(current);
                    status.conditions = Some(conditions.list);
                    return status;
                }
            }
        }
        if desired != current {
            match self.rescale(&mut scaled, desired).await {
                Ok(()) => {
                    let message = format!("the HPA controller was able to update the target scale to {desired}");
                    conditions.set("AbleToScale", true, "SucceededRescale", message);
                    let told = format!("New size: {desired}; reason: {reason}");
                    self.events.record(EventRecorder::reference(hpa), EventKind::Normal, "SuccessfulRescale", told);
                    history.changed(desired - current, now);
                    status.last_scale_time = Some(whole_seconds(now));
                }
                Err(why) => {
                    self.warn(hpa, "FailedRescale", format!("New size: {desired}; reason: {reason}; error: {why}"));
                    let message = format!("the HPA controller was unable to update the target scale: {why}");
                    conditions.set("AbleToScale", false, "FailedUpdateScale", message);
                    desired = status.desired_replicas;
                }
            }
        }
        self.lock().insert(key.clone(), history);
        status.current_replicas = Some(current);
        status.desired_replicas = desired;
        status.observed_generation = hpa.metadata.generation.or(status.observed_generation);
        status.conditions = Some(conditions.list);
        status
    }

    async fn rescale(&self, scaled: &mut Scaled, replicas: i32) -> Result<(), String> {
        scaled.scale["spec"]["replicas"] = replicas.into();
        let written = self.client.call::<Value>(Method::PUT, &scaled.path, Some(&scaled.scale)).await;
        written.map(drop).map_err(|e| chain(&e).to_string())
    }
}

/// The metrics' statuses, and the largest wish with the name of its metric.
struct Asked {
    statuses: Vec<MetricStatus>,
    best: std::result::Result<(i32, String), NoWish>,
}

/// Reason and message of the condition, and the event's message.
type NoWish = ((&'static str, String), String);

fn whole_seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

struct Conditions {
    list: Vec<HorizontalPodAutoscalerCondition>,
    now: Timestamp,
}

impl Conditions {
    /// The time of the last change stays while nothing changes.
    fn set(&mut self, type_: &str, holds: bool, reason: &str, message: String) {
        let status = if holds { "True" } else { "False" };
        let new = |since| HorizontalPodAutoscalerCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: since,
        };
        match self.list.iter_mut().find(|condition| condition.type_ == type_) {
            Some(old) => {
                let since = old.last_transition_time.clone().filter(|_| old.status == status);
                *old = new(since.or_else(|| Some(whole_seconds(self.now))));
            }
            None => self.list.push(new(Some(whole_seconds(self.now)))),
        }
    }
}

/// All that one metric is asked with.
struct Asking<'a> {
    controller: &'a Controller,
    namespace: &'a str,
    selector: &'a str,
    scaled: &'a Scaled,
    pods: &'a [&'a Pod],
    spec: &'a HorizontalPodAutoscalerSpec,
    now: Timestamp,
}

fn milli(quantity: &Quantity) -> i64 {
    quantity.0.parse().unwrap_or(quantity::Quantity::ZERO).milli_value()
}

fn quantity(milli: i64) -> Option<Quantity> {
    Some(Quantity(quantity::Quantity::from_milli(milli, Format::DecimalSi).to_string()))
}

fn selector_text(metric: &MetricIdentifier) -> String {
    let selector = metric.selector.as_ref().and_then(|s| LabelSelector::from_typed(Some(s)).ok());
    selector.map_or_else(|| "nil".to_owned(), |selector| selector.to_string())
}

impl Asking<'_> {
    fn tolerances(&self) -> Tolerances {
        let of = |rules: Option<&HPAScalingRules>| {
            let own = rules.and_then(|rules| rules.tolerance.as_ref()).map(|t| milli(t) as f64 / 1000.0);
            own.unwrap_or(TOLERANCE)
        };
        let behavior = self.spec.behavior.as_ref();
        Tolerances {
            down: of(behavior.and_then(|b| b.scale_down.as_ref())),
            up: of(behavior.and_then(|b| b.scale_up.as_ref())),
        }
    }

    async fn metric(&self, metric: &MetricSpec) -> std::result::Result<Measured, Unknown> {
        let unknown = |reason| move |why| Unknown { reason, why };
        let nothing = || "neither a utilization target nor a value target was set".to_owned();
        match metric.type_.as_str() {
            "Resource" => {
                let source =
                    metric.resource.as_ref().ok_or_else(nothing).map_err(unknown("FailedGetResourceMetric"))?;
                let found = self.resource(&source.name, None, &source.target).await;
                let (proposal, kind) = found.map_err(unknown("FailedGetResourceMetric"))?;
                let resource = ResourceMetricStatus { name: source.name.clone(), current: current(&proposal, true) };
                let status = MetricStatus { resource: Some(resource), ..of_type("Resource") };
                Ok(Measured { proposal, name: format!("{} resource{kind}", source.name), status })
            }
            "ContainerResource" => {
                let reason = "FailedGetContainerResourceMetric";
                let source = metric.container_resource.as_ref().ok_or_else(nothing).map_err(unknown(reason))?;
                let found = self.resource(&source.name, Some(&source.container), &source.target).await;
                let (proposal, kind) = found.map_err(unknown(reason))?;
                let of = ContainerResourceMetricStatus {
                    name: source.name.clone(),
                    container: source.container.clone(),
                    current: current(&proposal, true),
                };
                let status = MetricStatus { container_resource: Some(of), ..of_type("ContainerResource") };
                Ok(Measured { proposal, name: format!("{} container resource{kind}", source.name), status })
            }
            "Pods" => {
                let reason = "FailedGetPodsMetric";
                let source = metric.pods.as_ref().ok_or_else(nothing).map_err(unknown(reason))?;
                let proposal = self.of_pods(&source.metric, &source.target).await.map_err(unknown(reason))?;
                let of = PodsMetricStatus { metric: source.metric.clone(), current: current(&proposal, true) };
                let status = MetricStatus { pods: Some(of), ..of_type("Pods") };
                Ok(Measured { proposal, name: format!("pods metric {}", source.metric.name), status })
            }
            "Object" => {
                let reason = "FailedGetObjectMetric";
                let source = metric.object.as_ref().ok_or_else(nothing).map_err(unknown(reason))?;
                let client = &self.controller.client;
                let discovered = &self.scaled.discovered;
                let asked =
                    metrics::object(client, discovered, self.namespace, &source.described_object, &source.metric);
                let value = asked.await.map_err(unknown(reason))?;
                let (proposal, averaged) = self.single(value, &source.target).map_err(unknown(reason))?;
                let of = ObjectMetricStatus {
                    described_object: source.described_object.clone(),
                    metric: source.metric.clone(),
                    current: current(&proposal, averaged),
                };
                let status = MetricStatus { object: Some(of), ..of_type("Object") };
                let name = format!("{} metric {}", source.described_object.kind, source.metric.name);
                Ok(Measured { proposal, name, status })
            }
            "External" => {
                let reason = "FailedGetExternalMetric";
                let source = metric.external.as_ref().ok_or_else(nothing).map_err(unknown(reason))?;
                let asked = metrics::external(&self.controller.client, self.namespace, &source.metric);
                let value = asked.await.map_err(unknown(reason))?;
                let (proposal, averaged) = self.single(value, &source.target).map_err(unknown(reason))?;
                let of = ExternalMetricStatus { metric: source.metric.clone(), current: current(&proposal, averaged) };
                let status = MetricStatus { external: Some(of), ..of_type("External") };
                let name = format!("external metric {}({})", source.metric.name, selector_text(&source.metric));
                Ok(Measured { proposal, name, status })
            }
            other => {
                Err(Unknown { reason: "InvalidMetricSourceType", why: format!("unknown metric source type {other:?}") })
            }
        }
    }

    /// And what the event says besides the resource's name.
    async fn resource(
        &self,
        name: &str,
        container: Option<&str>,
        target: &MetricTarget,
    ) -> Result<(Proposal, &'static str), String> {
        let is_cpu = name == "cpu";
        let (against, kind) = match (&target.average_value, target.average_utilization) {
            (Some(value), _) => (Target::Average { milli: milli(value), is_cpu }, ""),
            (None, Some(percent)) => {
                let against = Target::Utilization { percent, resource: name, container };
                (against, " utilization (percentage of request)")
            }
            (None, None) => {
                let why = "neither a utilization target nor a value target was set";
                return Err(format!("invalid resource metric source: {why}"));
            }
        };
        let about = |why: String| format!("failed to get {name} utilization: {why}");
        let client = &self.controller.client;
        let samples = metrics::resource(client, self.namespace, self.selector, name, container).await.map_err(about)?;
        let current = self.scaled.number("spec");
        let found = calculate::per_pod(current, self.pods, samples, against, self.tolerances(), self.now);
        Ok((found.map_err(about)?, kind))
    }

    async fn of_pods(&self, metric: &MetricIdentifier, target: &MetricTarget) -> Result<Proposal, String> {
        let value = target.average_value.as_ref().map(milli).ok_or("invalid pods metric source: no average value")?;
        let (client, discovered) = (&self.controller.client, &self.scaled.discovered);
        let samples = metrics::pods(client, discovered, self.namespace, self.selector, metric).await?;
        let against = Target::Average { milli: value, is_cpu: false };
        calculate::per_pod(self.scaled.number("spec"), self.pods, samples, against, self.tolerances(), self.now)
    }

    /// Of one value; and whether it is told as an average.
    fn single(&self, value: i64, target: &MetricTarget) -> Result<(Proposal, bool), String> {
        match (&target.value, &target.average_value) {
            (_, Some(average)) => {
                let present = self.scaled.number("status");
                Ok((calculate::average(present, value, milli(average), self.tolerances()), true))
            }
            (Some(whole), None) => {
                let current = self.scaled.number("spec");
                Ok((calculate::value(current, self.pods, value, milli(whole), self.tolerances())?, false))
            }
            (None, None) => Err("neither a value target nor an average value target was set".to_owned()),
        }
    }
}

fn of_type(type_: &str) -> MetricStatus {
    MetricStatus { type_: type_.to_owned(), ..MetricStatus::default() }
}

fn current(proposal: &Proposal, averaged: bool) -> MetricValueStatus {
    MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: quantity(proposal.milli).filter(|_| averaged),
        value: quantity(proposal.milli).filter(|_| !averaged),
    }
}

impl Reconciler for Controller {
    const NAME: &'static str = "horizontal-pod-autoscaler-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(hpa) = self.autoscalers.get(key) else { return Ok(Next::Done) };
        let status = self.autoscale(key, &hpa).await;
        if hpa.status.as_ref() != Some(&status) {
            let mut fresh = (*hpa).clone();
            fresh.status = Some(status);
            match self.client.namespaced::<Hpa>(&key.namespace).update_status(&fresh).await {
                Err(error) if error.is_not_found() => return Ok(Next::Done),
                // Somebody changed it meanwhile: the next turn tells.
                Err(error) if !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
        Ok(Next::After(PERIOD))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::Stage;

    #[tokio::test]
    async fn says_why_it_can_not_scale() {
        let stage = Stage::new();
        stage.put(json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h", "namespace": "x", "uid": "h"},
            "spec": {"minReplicas": 1, "maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Nothing", "name": "d"}}}));
        super::start(&stage.context());
        stage
            .until("the condition", |fake| {
                fake.objects("/apis/autoscaling/v2/horizontalpodautoscalers").iter().any(|hpa| {
                    let conditions = hpa["status"]["conditions"].as_array().cloned().unwrap_or_default();
                    conditions.iter().any(|c| c["type"] == "AbleToScale" && c["reason"] == "FailedGetScale")
                })
            })
            .await;
        stage.end().await;
    }
}
