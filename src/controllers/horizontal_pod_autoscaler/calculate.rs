//! How many pods a metric asks for: a pure function of the pods, of what is measured, and of the clock.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use skiff_api::quantity::Quantity;

/// A pod that began less long ago is looked at closely: it may be busy with beginning.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
const INITIAL_READINESS_DELAY: SignedDuration = SignedDuration::from_secs(30);

/// Deviations below which nothing changes, as shares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerances {
    pub down: f64,
    pub up: f64,
}

impl Tolerances {
    fn bears(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// What one pod was measured to use, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    pub milli: i64,
    pub at: Timestamp,
    pub window: SignedDuration,
}

pub type Samples = BTreeMap<String, Sample>;

/// What a metric comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Proposal {
    pub replicas: i32,
    /// Percent of the request; only of a utilization.
    pub utilization: Option<i32>,
    /// The average of a pod in thousandths, or the value.
    pub milli: i64,
}

/// What the pods are held against.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// Percent of what is requested of a resource, in one container or in all.
    Utilization { percent: i32, resource: &'a str, container: Option<&'a str> },
    /// Thousandths for each pod; of CPU, pods that just began are not looked at.
    Average { milli: i64, is_cpu: bool },
}

struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

fn is_settling(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let status = pod.status.as_ref();
    let ready = status.and_then(|s| s.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready"));
    let started = status.and_then(|s| s.start_time.as_ref());
    let (Some(ready), Some(started)) = (ready, started) else { return true };
    let unready = ready.status == "False";
    let changed = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    if started.0 + CPU_INITIALIZATION > now {
        return unready || sample.at < changed + sample.window;
    }
    unready && started.0 + INITIAL_READINESS_DELAY > changed
}

fn group(pods: &[&Pod], samples: &Samples, is_cpu: bool, now: Timestamp) -> Groups {
    let mut groups = Groups { ready: 0, unready: BTreeSet::new(), missing: BTreeSet::new(), ignored: BTreeSet::new() };
    for pod in pods {
        let name = name(pod).to_owned();
        if pod.metadata.deletion_timestamp.is_some() || phase(pod) == "Failed" {
            groups.ignored.insert(name);
        } else if phase(pod) == "Pending" {
            groups.unready.insert(name);
        } else if let Some(sample) = samples.get(&name) {
            if is_cpu && is_settling(pod, sample, now) {
                groups.unready.insert(name);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.insert(name);
        }
    }
    groups
}

/// The requests of pods in thousandths.
fn requests(pods: &[&Pod], resource: &str, container: Option<&str>) -> Result<BTreeMap<String, i64>, String> {
    let mut all = BTreeMap::new();
    for pod in pods {
        let Some(spec) = &pod.spec else { continue };
        // What is asked for the pod as a whole stands for the sum of its containers.
        if let Some(whole) = of_whole(spec, resource).filter(|_| container.is_none()) {
            all.insert(name(pod).to_owned(), whole);
            continue;
        }
        let sidecars = spec.init_containers.iter().flatten();
        let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let mut sum = 0i64;
        for own in spec.containers.iter().chain(sidecars).filter(|c| container.is_none_or(|name| c.name == name)) {
            let milli = request(own, resource).ok_or_else(|| {
                format!("missing request for {resource} in container {} of Pod {}", own.name, name(pod))
            })?;
            sum = sum.saturating_add(milli);
        }
        all.insert(name(pod).to_owned(), sum);
    }
    Ok(all)
}

fn request(container: &Container, resource: &str) -> Option<i64> {
    milli(container.resources.as_ref()?.requests.as_ref()?, resource)
}

/// With what the pod needs beside its containers.
fn of_whole(spec: &PodSpec, resource: &str) -> Option<i64> {
    let asked = milli(spec.resources.as_ref()?.requests.as_ref()?, resource)?;
    let overhead = spec.overhead.as_ref().and_then(|overhead| milli(overhead, resource));
    Some(asked.saturating_add(overhead.unwrap_or(0)))
}

fn milli(amounts: &BTreeMap<String, Amount>, resource: &str) -> Option<i64> {
    amounts.get(resource)?.0.parse::<Quantity>().ok().map(|quantity| quantity.milli_value())
}

fn ceil(replicas: f64) -> i32 {
    // What is no number is nothing, what is too much is the most: `as` saturates.
    replicas.ceil() as i32
}

/// Of all samples against the target: the ratio, the utilization, and the average.
fn ratio(
    samples: &Samples,
    target: Target<'_>,
    requests: &BTreeMap<String, i64>,
) -> Result<(f64, Option<i32>, i64), String> {
    match target {
        Target::Average { milli, .. } => {
            let total: i64 = samples.values().map(|sample| sample.milli).sum();
            let average = total / i64::try_from(samples.len().max(1)).unwrap_or(i64::MAX);
            Ok((average as f64 / milli as f64, None, average))
        }
        Target::Utilization { percent, .. } => {
            let known = samples.iter().filter_map(|(pod, sample)| Some((sample.milli, *requests.get(pod)?)));
            let (mut used, mut requested, mut count) = (0i64, 0i64, 0i64);
            for (milli, request) in known {
                (used, requested, count) = (used + milli, requested + request, count + 1);
            }
            if requested == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let utilization = i32::try_from(used * 100 / requested).unwrap_or(i32::MAX);
            Ok((f64::from(utilization) / f64::from(percent), Some(utilization), used / count))
        }
    }
}

/// Of what is measured for each pod.
pub fn per_pod(
    current: i32,
    pods: &[&Pod],
    mut samples: Samples,
    target: Target<'_>,
    tolerances: Tolerances,
    now: Timestamp,
) -> Result<Proposal, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let is_cpu = match target {
        Target::Utilization { resource, .. } => resource == "cpu",
        Target::Average { is_cpu, .. } => is_cpu,
    };
    let groups = group(pods, &samples, is_cpu, now);
    for gone in groups.ignored.iter().chain(&groups.unready) {
        samples.remove(gone);
    }
    let requests = match target {
        Target::Utilization { resource, container, .. } => requests(pods, resource, container)?,
        Target::Average { .. } => BTreeMap::new(),
    };
    if samples.is_empty() {
        return Err("did not receive metrics for any ready pods".to_owned());
    }
    let (before, utilization, milli) = ratio(&samples, target, &requests)?;
    let told = |replicas: i32| Proposal { replicas, utilization, milli };
    // Those that just begin use nothing yet, when more are wanted.
    let unready = !groups.unready.is_empty() && before > 1.0;
    if !unready && groups.missing.is_empty() {
        let replicas = if tolerances.bears(before) { current } else { ceil(before * groups.ready as f64) };
        return Ok(told(replicas));
    }
    let fill = |milli: i64| Sample { milli, at: now, window: SignedDuration::ZERO };
    for pod in &groups.missing {
        if before < 1.0 {
            // At least what was asked for, so that nothing goes for lack of knowledge.
            let full = match target {
                Target::Utilization { percent, .. } => {
                    requests.get(pod).copied().unwrap_or(0) * i64::from(percent.max(100)) / 100
                }
                Target::Average { milli, .. } => milli,
            };
            samples.insert(pod.clone(), fill(full));
        } else if before > 1.0 || matches!(target, Target::Average { .. }) {
            samples.insert(pod.clone(), fill(0));
        }
    }
    if unready {
        for pod in &groups.unready {
            samples.insert(pod.clone(), fill(0));
        }
    }
    let (after, ..) = ratio(&samples, target, &requests)?;
    if tolerances.bears(after) || (before < 1.0 && after > 1.0) || (before > 1.0 && after < 1.0) {
        return Ok(told(current));
    }
    let replicas = ceil(after * samples.len() as f64);
    let turns = (after < 1.0 && replicas > current) || (after > 1.0 && replicas < current);
    Ok(told(if turns { current } else { replicas }))
}

/// Of one value that is to be so much in all.
pub fn value(current: i32, pods: &[&Pod], milli: i64, target: i64, tolerances: Tolerances) -> Result<Proposal, String> {
    let ratio = milli as f64 / target as f64;
    let replicas = if current == 0 {
        ceil(ratio)
    } else if tolerances.bears(ratio) {
        current
    } else {
        if pods.is_empty() {
            let why = "no pods returned by selector while calculating replica count";
            return Err(format!("unable to calculate ready pods: {why}"));
        }
        let is_ready = |pod: &&&Pod| {
            let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
            phase(pod) == "Running" && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
        };
        ceil(ratio * pods.iter().filter(is_ready).count() as f64)
    };
    Ok(Proposal { replicas, utilization: None, milli })
}

/// Of one value that is to be so much for each pod.
pub fn average(present: i32, milli: i64, target: i64, tolerances: Tolerances) -> Proposal {
    let ratio = milli as f64 / (target as f64 * f64::from(present));
    let replicas = if tolerances.bears(ratio) { present } else { ceil(milli as f64 / target as f64) };
    let milli = (milli as f64 / f64::from(present)).ceil() as i64;
    Proposal { replicas, utilization: None, milli }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const TOLERANCES: Tolerances = Tolerances { down: 0.1, up: 0.1 };

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).expect("in range")
    }

    fn pod(name: &str, phase: &str, ready: &str, age_s: i64) -> Pod {
        let at = |s: i64| (now() - SignedDuration::from_secs(s)).to_string();
        let value = json!({"metadata": {"name": name}, "spec": {"containers": [
                {"name": "c", "resources": {"requests": {"cpu": "100m"}}}, {"name": "d", "resources": {"requests": {"cpu": "100m"}}}]},
            "status": {"phase": phase, "startTime": at(age_s),
                "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": at(age_s - 1)}]}});
        serde_json::from_value(value).expect("a pod")
    }

    fn samples(used: &[(&str, i64)]) -> Samples {
        let sample = |milli| Sample { milli, at: now(), window: SignedDuration::from_secs(15) };
        used.iter().map(|(name, milli)| ((*name).to_owned(), sample(*milli))).collect()
    }

    #[test]
    fn requests_of_a_whole_pod() {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": "100m"}}});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {
            "containers": [container, {"name": "silent"}], "overhead": {"cpu": "10m"},
            "resources": {"requests": {"cpu": "500m"}}}}))
        .expect("a pod");
        let of = |resource, container| requests(&[&pod], resource, container).map(|all| all["a"]);
        assert_eq!(of("cpu", None), Ok(510));
        assert_eq!(of("cpu", Some("c")), Ok(100));
        assert_eq!(of("memory", None), Err("missing request for memory in container c of Pod a".to_owned()));
    }

    #[test]
    fn utilization_of_requests() {
        let steady = ["a", "b", "c"].map(|name| pod(name, "Running", "True", 3600));
        let mut more = steady.to_vec();
        more.push(pod("new", "Running", "False", 20));
        let mut gone = steady.to_vec();
        gone.push(pod("failed", "Failed", "False", 3600));
        gone.push(pod("pending", "Pending", "False", 3600));
        for (what, pods, used, expected) in [
            ("as it should be", &steady[..], vec![("a", 100), ("b", 100), ("c", 100)], Ok((3, 50))),
            ("within the tolerance", &steady, vec![("a", 110), ("b", 110), ("c", 110)], Ok((3, 55))),
            ("twice as much", &steady, vec![("a", 200), ("b", 200), ("c", 200)], Ok((6, 100))),
            ("a third", &steady, vec![("a", 33), ("b", 33), ("c", 33)], Ok((1, 16))),
            ("one is missing: up", &steady, vec![("a", 200), ("b", 200)], Ok((4, 100))),
            ("one is missing: down", &steady, vec![("a", 20), ("b", 20)], Ok((3, 10))),
            ("a new one counts as idle", &more, vec![("a", 200), ("b", 200), ("c", 200), ("new", 900)], Ok((6, 100))),
            ("a new one holds nothing up", &more, vec![("a", 33), ("b", 33), ("c", 33), ("new", 900)], Ok((1, 16))),
            (
                "those that ended do not count",
                &gone,
                vec![("a", 100), ("b", 100), ("c", 100), ("failed", 900)],
                Ok((3, 50)),
            ),
            ("nothing is known", &steady, vec![], Err("did not receive metrics for any ready pods")),
            ("nobody is there", &[], vec![], Err("no pods returned by selector while calculating replica count")),
        ] {
            let pods: Vec<&Pod> = pods.iter().collect();
            let target = Target::Utilization { percent: 50, resource: "cpu", container: None };
            let found = per_pod(3, &pods, samples(&used), target, TOLERANCES, now());
            let found = found.map(|p| (p.replicas, p.utilization.unwrap_or(-1)));
            assert_eq!(found, expected.map_err(str::to_owned), "{what}");
        }
        let target = Target::Utilization { percent: 50, resource: "memory", container: None };
        let error = per_pod(3, &steady.iter().collect::<Vec<_>>(), samples(&[("a", 1)]), target, TOLERANCES, now());
        assert_eq!(error, Err("missing request for memory in container c of Pod a".to_owned()));
        let target = Target::Utilization { percent: 50, resource: "cpu", container: Some("d") };
        let one = per_pod(1, &[&steady[0]], samples(&[("a", 100)]), target, TOLERANCES, now()).expect("known");
        assert_eq!((one.replicas, one.utilization, one.milli), (2, Some(100), 100));
    }

    #[test]
    fn averages_and_values() {
        let pods = ["a", "b"].map(|name| pod(name, "Running", "True", 3600));
        let pods: Vec<&Pod> = pods.iter().collect();
        let target = Target::Average { milli: 100, is_cpu: false };
        for (used, expected) in
            [(vec![("a", 300), ("b", 100)], 4), (vec![("a", 105), ("b", 105)], 2), (vec![("a", 20)], 2)]
        {
            let found = per_pod(2, &pods, samples(&used), target, TOLERANCES, now()).expect("known");
            assert_eq!(found.replicas, expected, "{used:?}");
        }
        assert_eq!(value(2, &pods, 300, 100, TOLERANCES).map(|p| p.replicas), Ok(6));
        assert_eq!(value(0, &[], 250, 100, TOLERANCES).map(|p| p.replicas), Ok(3));
        assert!(value(2, &[], 300, 100, TOLERANCES).is_err());
        let found = average(2, 500, 100, TOLERANCES);
        assert_eq!((found.replicas, found.milli), (5, 250));
        assert_eq!(average(2, 210, 100, TOLERANCES).replicas, 2);
        let tight = Tolerances { down: 0.1, up: 0.0 };
        assert_eq!(average(2, 210, 100, tight).replicas, 3);
    }

    #[test]
    fn samples_of_young_pods_wait_for_a_whole_window() {
        let ready = |age_s: i64| {
            let mut pod = serde_json::to_value(pod("a", "Running", "True", age_s)).expect("JSON");
            pod["status"]["conditions"][0]["lastTransitionTime"] =
                Value::from((now() - SignedDuration::from_secs(10)).to_string());
            serde_json::from_value::<Pod>(pod).expect("a pod")
        };
        for (window_s, expected) in [(5, false), (15, true)] {
            let sample = Sample { milli: 1, at: now(), window: SignedDuration::from_secs(window_s) };
            assert_eq!(is_settling(&ready(60), &sample, now()), expected);
            assert!(!is_settling(&ready(3600), &sample, now()), "it has been there for long");
        }
    }
}
