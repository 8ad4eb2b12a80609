//! Requests and limits: quality of service, cgroup values, out-of-memory scores.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skiff_runtime::Resources;

use crate::pod::{self, PodUid, Role};
use crate::quantity;
use crate::resize::Share;

const CPU_PERIOD_US: u64 = 100_000;
const MIN_QUOTA_US: i64 = 1_000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
/// Pods of this priority and above are critical to the node.
const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

pub(crate) fn has_critical_priority(pod: &Pod) -> bool {
    pod::spec(pod).priority.is_some_and(|p| p >= SYSTEM_CRITICAL_PRIORITY)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

type Quantities = BTreeMap<String, Quantity>;
type Given<'a> = Option<&'a ResourceRequirements>;

fn amount<'a>(of: Given<'a>, limits: bool, resource: &str) -> Option<&'a Quantity> {
    let lists = of?;
    let list = if limits { lists.limits.as_ref() } else { lists.requests.as_ref() };
    list?.get(resource).filter(|q| !quantity::is_zero(q))
}

/// A request falls back to its limit, as the API server's defaults have it.
fn request<'a>(of: Given<'a>, resource: &str) -> Option<&'a Quantity> {
    amount(of, false, resource).or_else(|| amount(of, true, resource))
}

/// What is given to the pod as a whole.
fn whole(pod: &Pod) -> Given<'_> {
    pod::spec(pod).resources.as_ref()
}

/// The limit of a container: its own, else that of the whole pod.
fn limit<'a>(pod: &'a Pod, container: &'a Container, resource: &str) -> Option<&'a Quantity> {
    amount(container.resources.as_ref(), true, resource).or_else(|| amount(whole(pod), true, resource))
}

pub(crate) fn cpu_request_milli(container: &Container) -> i64 {
    request(container.resources.as_ref(), "cpu").map_or(0, quantity::milli)
}

pub(crate) fn memory_request(container: &Container) -> i64 {
    request(container.resources.as_ref(), "memory").map_or(0, quantity::value)
}

pub(crate) fn qos(pod: &Pod) -> Qos {
    let (mut any, mut guaranteed) = (false, true);
    let all: Vec<Given<'_>> = match whole(pod) {
        Some(whole) => vec![Some(whole)],
        None => pod::containers(pod).map(|(_, container)| container.resources.as_ref()).collect(),
    };
    for one in all {
        for resource in ["cpu", "memory"] {
            let (limit, request) = (amount(one, true, resource), request(one, resource));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && limit.map(quantity::milli) == request.map(quantity::milli);
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// The pod's cgroup below the root.
pub(crate) fn cgroup_parent(qos: Qos, uid: &PodUid) -> String {
    format!("/kubepods/{}/pod{uid}", qos.as_str().to_lowercase())
}

pub(crate) fn shares(milli: i64) -> u64 {
    let milli = u64::try_from(milli).unwrap_or(0);
    if milli == 0 { MIN_SHARES } else { (milli * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES) }
}

fn quota_us(milli: i64) -> i64 {
    (milli * CPU_PERIOD_US as i64 / 1000).max(MIN_QUOTA_US)
}

/// What one container may use; `memory_capacity` is the node's, in bytes.
pub(crate) fn container(pod: &Pod, container: &Container, memory_capacity: i64) -> Resources {
    let cpu_limit = limit(pod, container, "cpu").map(quantity::milli);
    let cpu = amount(container.resources.as_ref(), false, "cpu").map(quantity::milli).or(cpu_limit).unwrap_or(0);
    let own = [whole(pod), container.resources.as_ref()].into_iter().flatten();
    let limited = own.filter_map(|given| given.limits.as_ref()).flatten();
    Resources {
        cpu_shares: Some(shares(cpu)),
        cpu_quota_us: cpu_limit.map(quota_us),
        cpu_period_us: cpu_limit.map(|_| CPU_PERIOD_US),
        memory_limit_bytes: limit(pod, container, "memory").map(quantity::value),
        pids_limit: None,
        oom_score_adj: Some(oom_score_adj(pod, container, memory_capacity)),
        cpus: None,
        huge_pages: Some(huge_pages(limited)),
    }
}

/// Guaranteed and critical ones go last; of the others, the more is asked for, the later.
fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i32 {
    match qos(pod) {
        _ if has_critical_priority(pod) => -997,
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let adjust = 1000 - 1000 * counted_memory(pod, container) / memory_capacity.max(1);
            i32::try_from(adjust.clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// What a container's memory is judged by: its request, and its part of what the pod asks for beyond its containers'. A
/// sidecar goes no sooner than the main container that asks for least.
fn counted_memory(pod: &Pod, container: &Container) -> i64 {
    let of_role = |wanted: Role| pod::containers(pod).filter(move |(role, _)| *role == wanted).map(|(_, c)| c);
    let beyond = amount(whole(pod), false, "memory").map_or(0, |asked| {
        let count = of_role(Role::Main).chain(of_role(Role::Sidecar)).count();
        let rest = quantity::value(asked) - aggregate(pod, |c| Some(memory_request(c))).unwrap_or(0);
        rest.max(0) / i64::try_from(count).unwrap_or(1).max(1)
    });
    let own = memory_request(container);
    let least = of_role(Role::Main).map(memory_request).min().unwrap_or(0);
    let sidecar = of_role(Role::Sidecar).any(|sidecar| sidecar.name == container.name);
    beyond + if sidecar { own.max(least) } else { own }
}

/// What a pod needs at once, of one resource: the main containers and the sidecars together, or an init container
/// and the sidecars before it, whichever is more. `None` where a container says nothing (a limit is no limit then).
pub(crate) fn aggregate(pod: &Pod, one: impl Fn(&Container) -> Option<i64>) -> Option<i64> {
    let (mut sidecars, mut init_peak, mut main) = (0i64, 0i64, 0i64);
    for (role, container) in pod::containers(pod) {
        let amount = one(container)?;
        match role {
            Role::Sidecar => {
                sidecars = sidecars.saturating_add(amount);
                init_peak = init_peak.max(sidecars);
            }
            Role::Init => init_peak = init_peak.max(sidecars.saturating_add(amount)),
            Role::Main => main = main.saturating_add(amount),
            // It has no share of its own.
            Role::Ephemeral => {}
        }
    }
    Some(init_peak.max(main.saturating_add(sidecars)))
}

fn overhead<'a>(pod: &'a Pod, resource: &str) -> Option<&'a Quantity> {
    pod::spec(pod).overhead.as_ref()?.get(resource)
}

/// What a pod is promised.
pub(crate) fn requests(pod: &Pod) -> Share {
    let of_whole = |resource: &str| request(whole(pod), resource);
    let memory = of_whole("memory").map(quantity::value).or_else(|| aggregate(pod, |c| Some(memory_request(c))));
    Share {
        cpu_milli: cpu_requests_milli(pod),
        memory_bytes: memory.unwrap_or(0) + overhead(pod, "memory").map_or(0, quantity::value),
        others: other_requests(pod),
    }
}

fn cpu_requests_milli(pod: &Pod) -> i64 {
    let of_whole = request(whole(pod), "cpu").map(quantity::milli);
    let cpu = of_whole.or_else(|| aggregate(pod, |c| Some(cpu_request_milli(c))));
    cpu.unwrap_or(0) + overhead(pod, "cpu").map_or(0, quantity::milli)
}

/// Beside CPU and memory; of these a pod as a whole is given huge pages only.
fn other_requests(pod: &Pod) -> BTreeMap<String, i64> {
    let given = pod::containers(pod).map(|(_, container)| container.resources.as_ref()).chain([whole(pod)]).flatten();
    let lists = given.flat_map(|given| given.requests.iter().chain(&given.limits)).chain(&pod::spec(pod).overhead);
    let names: BTreeSet<&String> = lists.flatten().map(|(name, _)| name).collect();
    let amount = |name: &&String| {
        let of = |given: Given<'_>| request(given, name).map(quantity::value);
        let of_whole = page_size(name).and_then(|_| of(whole(pod)));
        let sum = of_whole.or_else(|| aggregate(pod, |c| Some(of(c.resources.as_ref()).unwrap_or(0))));
        sum.unwrap_or(0).saturating_add(overhead(pod, name).map_or(0, quantity::value))
    };
    let others = names.into_iter().filter(|name| !["cpu", "memory"].contains(&name.as_str()));
    others.map(|name| (name.clone(), amount(&name))).filter(|(_, amount)| *amount > 0).collect()
}

/// Upstream's `PodRequests` or `PodLimits`: what is given to the pod as a whole, else what its containers have together, and
/// its overhead (beside a limit only).
fn sums(pod: &Pod, limits: bool) -> Quantities {
    let of = |given: Given<'_>| {
        let lists = given.map(|given| if limits { &given.limits } else { &given.requests });
        lists.and_then(|list| list.clone()).unwrap_or_default()
    };
    let mut all = of(whole(pod));
    for (name, example) in pod::containers(pod).flat_map(|(_, container)| of(container.resources.as_ref())) {
        let one = |c: &Container| Some(amount(c.resources.as_ref(), limits, &name).map_or(0, quantity::milli));
        let sum = quantity::from_milli(aggregate(pod, one).unwrap_or(0), &example);
        all.entry(name).or_insert(sum);
    }
    for (name, more) in pod::spec(pod).overhead.iter().flatten() {
        let given = all.get(name).map_or(0, quantity::milli);
        if given > 0 || !limits {
            all.insert(name.clone(), quantity::from_milli(given.saturating_add(quantity::milli(more)), more));
        }
    }
    all
}

/// What a pod is given at least, its overhead included.
pub(crate) fn allocated(pod: &Pod) -> Option<Quantities> {
    Some(sums(pod, false)).filter(|all| !all.is_empty())
}

/// What a pod has, as its status tells it: once it runs, of CPU and memory what its cgroup says (`given` is the pod with what
/// its containers have now), and what is given to it as a whole.
pub(crate) fn told(given: &Pod, runs: bool) -> ResourceRequirements {
    let list = |list: Quantities| Some(list).filter(|list| !list.is_empty());
    if !runs {
        return ResourceRequirements {
            requests: list(sums(given, false)),
            limits: list(sums(given, true)),
            claims: None,
        };
    }
    let group = pod(given);
    let mut told = whole(given).cloned().unwrap_or_default();
    let (mut requests, mut limits) = (told.requests.take().unwrap_or_default(), told.limits.take().unwrap_or_default());
    let cpu = |milli: i64| quantity::from_milli(milli, &Quantity("1".to_owned()));
    let memory = |bytes: i64| quantity::from_milli(bytes.saturating_mul(1000), &Quantity("1Ki".to_owned()));
    // The least that a cgroup has is no request, and no limit.
    let request = cpu_requests_milli(given);
    if request > MIN_SHARES as i64 {
        requests.insert("cpu".to_owned(), cpu(request));
    }
    if let (false, Some(sum)) = (requests.contains_key("memory"), sums(given, false).remove("memory")) {
        requests.insert("memory".to_owned(), sum);
    }
    if let Some(quota) = group.cpu_quota_us.filter(|quota| *quota > MIN_QUOTA_US) {
        limits.insert("cpu".to_owned(), cpu(quota * 1000 / CPU_PERIOD_US as i64));
    }
    if let Some(limit) = group.memory_limit_bytes {
        limits.insert("memory".to_owned(), memory(limit));
    }
    ResourceRequirements { requests: list(requests), limits: list(limits), ..told }
}

/// What a pod as a whole was given by an earlier agent, as the status of one that runs tells it: of what `asked` names, and
/// without its overhead.
pub(crate) fn given_as_whole(
    pod: &Pod,
    asked: &ResourceRequirements,
    told: &ResourceRequirements,
) -> ResourceRequirements {
    let pick = |asked: &Option<Quantities>, told: &Option<Quantities>, of_group: &[&str]| {
        let one = |(name, asked): (&String, &Quantity)| {
            let told = told.as_ref()?.get(name)?;
            let more = overhead(pod, name).filter(|_| of_group.contains(&name.as_str())).map_or(0, quantity::milli);
            let given = quantity::milli(told).saturating_sub(more);
            // As it is written, where that is the same.
            let same = quantity::milli(asked) == given;
            Some((name.clone(), if same { asked.clone() } else { quantity::from_milli(given, told) }))
        };
        asked.as_ref().map(|asked| asked.iter().filter_map(one).collect())
    };
    ResourceRequirements {
        requests: pick(&asked.requests, &told.requests, &["cpu"]),
        limits: pick(&asked.limits, &told.limits, &["cpu", "memory"]),
        claims: asked.claims.clone(),
    }
}

/// Limits of the pod's own cgroup.
pub(crate) fn pod(pod: &Pod) -> Resources {
    let limit = |resource: &str, count: fn(&Quantity) -> i64| {
        let of_whole = amount(whole(pod), true, resource).map(count);
        let limit = of_whole.or_else(|| aggregate(pod, |c| amount(c.resources.as_ref(), true, resource).map(count)));
        limit.map(|limit| limit + overhead(pod, resource).map_or(0, count))
    };
    let (cpu_limit, memory_limit) = (limit("cpu", quantity::milli), limit("memory", quantity::value));
    // These are never more than is asked for.
    let sum = |name: &String| {
        let of = |c: &Container| Some(request(c.resources.as_ref(), name).map_or(0, quantity::value));
        (name.clone(), Quantity(aggregate(pod, of).unwrap_or(0).to_string()))
    };
    let sums: BTreeMap<String, Quantity> = huge_page_names(pod).into_iter().map(sum).collect();
    let of_whole = whole(pod).into_iter().flat_map(|given| given.requests.iter().chain(&given.limits)).flatten();
    Resources {
        cpu_shares: Some(shares(cpu_requests_milli(pod))),
        cpu_quota_us: cpu_limit.map(quota_us),
        cpu_period_us: cpu_limit.map(|_| CPU_PERIOD_US),
        memory_limit_bytes: memory_limit,
        pids_limit: None,
        oom_score_adj: None,
        cpus: None,
        huge_pages: Some(huge_pages(sums.iter().chain(of_whole))),
    }
}

/// `hugepages-2Mi`: the size of the pages.
pub(crate) fn page_size(resource: &str) -> Option<u64> {
    let size = Quantity(resource.strip_prefix("hugepages-")?.to_owned());
    u64::try_from(quantity::value(&size)).ok().filter(|size| *size > 0)
}

/// Of amounts by their names, a later one wins.
fn huge_pages<'a>(amounts: impl IntoIterator<Item = (&'a String, &'a Quantity)>) -> BTreeMap<u64, i64> {
    amounts.into_iter().filter_map(|(name, amount)| Some((page_size(name)?, quantity::value(amount)))).collect()
}

/// The names of all huge pages that a pod asks for.
pub(crate) fn huge_page_names(pod: &Pod) -> BTreeSet<&String> {
    let all = pod::containers(pod).map(|(_, container)| container.resources.as_ref()).chain([whole(pod)]);
    let lists = all.flatten().flat_map(|given| given.requests.iter().chain(&given.limits));
    lists.flatten().map(|(name, _)| name).filter(|name| page_size(name).is_some()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn sample(containers: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": containers}})).expect("a pod")
    }

    #[test]
    fn classes() {
        let full = json!({"limits": {"cpu": "1", "memory": "64Mi"}});
        for (resources, expected) in [
            (vec![json!({})], Qos::BestEffort),
            (vec![json!({"requests": {"cpu": "0"}})], Qos::BestEffort),
            (vec![full.clone()], Qos::Guaranteed),
            (
                vec![
                    json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}),
                ],
                Qos::Guaranteed,
            ),
            (vec![json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}})], Qos::Burstable),
            (vec![full, json!({})], Qos::Burstable),
            (vec![json!({"requests": {"memory": "1Mi"}})], Qos::Burstable),
        ] {
            let containers: Vec<Value> =
                resources.iter().enumerate().map(|(i, r)| json!({"name": format!("c{i}"), "resources": r})).collect();
            assert_eq!(qos(&sample(json!(containers))), expected, "{resources:?}");
        }
    }

    #[test]
    fn cgroup_values() {
        let pod = sample(json!([
            {"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "250m", "memory": "512Mi"}}},
            {"name": "b", "resources": {"limits": {"cpu": "1m"}}}]));
        let memory = 1 << 30;
        let a = container(&pod, &pod::spec(&pod).containers[0], memory);
        assert_eq!((a.cpu_shares, a.cpu_quota_us, a.cpu_period_us), (Some(102), Some(25_000), Some(100_000)));
        assert_eq!((a.memory_limit_bytes, a.oom_score_adj), (Some(512 << 20), Some(750)));
        let b = container(&pod, &pod::spec(&pod).containers[1], memory);
        assert_eq!((b.cpu_shares, b.cpu_quota_us, b.oom_score_adj), (Some(2), Some(1_000), Some(999)));
        let whole = super::pod(&pod);
        assert_eq!((whole.cpu_shares, whole.cpu_quota_us, whole.memory_limit_bytes), (Some(103), Some(25_100), None));
    }

    #[test]
    fn huge_pages_are_limited_by_their_size() {
        let small = |amount: &str| json!({"limits": {"memory": "1Gi", "hugepages-2Mi": amount}});
        let pod = sample(
            json!([{"name": "a", "resources": small("4Mi")}, {"name": "b", "resources": small("2Mi")}, {"name": "c"}]),
        );
        let of = |n: usize| container(&pod, &pod::spec(&pod).containers[n], 1 << 30).huge_pages;
        assert_eq!(of(0), Some(BTreeMap::from([(2 << 20, 4 << 20)])));
        assert_eq!(of(2), Some(BTreeMap::new()));
        assert_eq!(super::pod(&pod).huge_pages, Some(BTreeMap::from([(2 << 20, 6 << 20)])));
        assert_eq!(
            (page_size("hugepages-1Gi"), page_size("memory"), page_size("hugepages-")),
            (Some(1 << 30), None, None)
        );
    }

    #[test]
    fn what_is_allocated() {
        let of = |whole: Value, overhead: Value| -> Option<Value> {
            let containers = json!([
                {"name": "a", "resources": {"requests": {"cpu": "250m", "memory": "64Mi", "ephemeral-storage": "1Gi"}}},
                {"name": "b", "resources": {"requests": {"cpu": "1", "memory": "64Mi"}}}]);
            let spec = json!({"resources": whole, "overhead": overhead, "containers": containers});
            let pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod");
            allocated(&pod).map(|found| json!(found))
        };
        let overhead = json!({"cpu": "100m", "memory": "16Mi"});
        for (whole, overhead, expected) in [
            (Value::Null, Value::Null, Some(json!({"cpu": "1250m", "memory": "128Mi", "ephemeral-storage": "1Gi"}))),
            (
                Value::Null,
                overhead.clone(),
                Some(json!({"cpu": "1350m", "memory": "144Mi", "ephemeral-storage": "1Gi"})),
            ),
            (
                json!({"requests": {"cpu": "2"}}),
                Value::Null,
                Some(json!({"cpu": "2", "memory": "128Mi", "ephemeral-storage": "1Gi"})),
            ),
            (
                json!({"requests": {"cpu": "2", "memory": "256Mi"}}),
                overhead.clone(),
                Some(json!({"cpu": "2100m", "memory": "272Mi", "ephemeral-storage": "1Gi"})),
            ),
            (
                json!({"limits": {"memory": "1Gi"}}),
                overhead,
                Some(json!({"cpu": "1350m", "memory": "144Mi", "ephemeral-storage": "1Gi"})),
            ),
        ] {
            assert_eq!(of(whole.clone(), overhead), expected, "{whole}");
        }
    }

    #[test]
    fn the_pod_as_a_whole() {
        let of = |whole: Value, containers: Value| -> Pod {
            let spec = json!({"resources": whole, "containers": containers});
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
        };
        let one = |resources: Value| json!([{"name": "a", "resources": resources}, {"name": "b"}]);
        let half = json!({"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}});
        let equal = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}});
        for (whole, containers, expected) in [
            (half.clone(), one(json!({})), Qos::Burstable),
            (equal, one(json!({"requests": {"cpu": "100m"}})), Qos::Guaranteed),
            (json!({"limits": {"cpu": "1"}}), one(json!({})), Qos::Burstable),
            (json!({"requests": {"hugepages-2Mi": "2Mi"}}), one(json!({})), Qos::BestEffort),
        ] {
            assert_eq!(qos(&of(whole.clone(), containers)), expected, "{whole}");
        }
        let pod = of(half, one(json!({"requests": {"memory": "256Mi"}, "limits": {"cpu": "250m"}})));
        let group = super::pod(&pod);
        assert_eq!(
            (group.cpu_shares, group.cpu_quota_us, group.memory_limit_bytes),
            (Some(512), Some(100_000), Some(1 << 30))
        );
        assert_eq!(requests(&pod), Share { cpu_milli: 500, memory_bytes: 512 << 20, ..Share::default() });
        // A limit of its own, else the pod's; of what the pod asks for beyond, each has the same part.
        let memory = 1 << 30;
        let [a, b] = [0, 1].map(|n| container(&pod, &pod::spec(&pod).containers[n], memory));
        assert_eq!((a.cpu_shares, a.cpu_quota_us, a.memory_limit_bytes), (Some(256), Some(25_000), Some(1 << 30)));
        assert_eq!((b.cpu_shares, b.cpu_quota_us, b.memory_limit_bytes), (Some(1024), Some(100_000), Some(1 << 30)));
        assert_eq!((a.oom_score_adj, b.oom_score_adj), (Some(625), Some(875)));
    }

    #[test]
    fn what_a_pod_that_runs_has() {
        let of = |spec: Value| -> Pod { serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a pod") };
        for (spec, expected) in [
            // The least that there is, and what has no limit in one container.
            (json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "2m"}}}]}), json!({})),
            (
                json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "100m", "memory": "1Mi"}}}, {"name": "b"}]}),
                json!({"requests": {"cpu": "100m"}}),
            ),
            (
                json!({"overhead": {"memory": "1Mi", "cpu": "50m"},
                    "containers": [{"name": "a", "resources": {"requests": {"cpu": "1", "memory": "1Mi"}, "limits": {"cpu": "1", "memory": "3Mi"}}}]}),
                json!({"requests": {"cpu": "1050m", "memory": "2Mi"}, "limits": {"cpu": "1050m", "memory": "4Mi"}}),
            ),
        ] {
            assert_eq!(json!(told(&of(spec.clone()), true)), expected, "{spec}");
        }
        // What is told of a whole pod is read again by the next agent.
        let whole = json!({"requests": {"cpu": "100m", "memory": "0.5Gi"}, "limits": {"memory": "1024Mi"}});
        let pod = of(json!({"overhead": {"memory": "1Mi", "cpu": "50m"}, "resources": whole,
            "containers": [{"name": "a", "resources": {"limits": {"cpu": "50m"}}}]}));
        let asked = pod::spec(&pod).resources.clone().expect("asked");
        assert_eq!(given_as_whole(&pod, &asked, &told(&pod, true)), asked);
    }

    #[test]
    fn all_that_is_asked_for_counts() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {
            "overhead": {"ephemeral-storage": "1"},
            "resources": {"limits": {"hugepages-2Mi": "6Mi"}},
            "initContainers": [{"name": "i", "resources": {"limits": {"example.com/dongle": "3"}}}],
            "containers": [
                {"name": "a", "resources": {"limits": {"example.com/dongle": "1", "hugepages-2Mi": "2Mi"}}},
                {"name": "b", "resources": {"requests": {"example.com/dongle": "1", "ephemeral-storage": "10"}}}]}}))
        .expect("a pod");
        let expected = [("ephemeral-storage", 11), ("example.com/dongle", 3), ("hugepages-2Mi", 6 << 20)];
        assert_eq!(requests(&pod).others, expected.map(|(name, amount)| (name.to_owned(), amount)).into());
    }

    #[test]
    fn a_sidecar_goes_no_sooner_than_who_needs_it() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {
            "initContainers": [{"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "m", "resources": {"requests": {"memory": "512Mi"}}}]}}))
        .expect("a pod");
        let sidecar = pod::spec(&pod).init_containers.as_ref().map(|list| container(&pod, &list[0], 1 << 30));
        assert_eq!(sidecar.and_then(|sidecar| sidecar.oom_score_adj), Some(500));
    }

    #[test]
    fn init_containers_count_while_they_run() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {
            "initContainers": [
                {"name": "i", "resources": {"requests": {"cpu": "700m"}}},
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "200m"}}},
                {"name": "j", "resources": {"requests": {"cpu": "300m"}}}],
            "containers": [{"name": "m", "resources": {"requests": {"cpu": "400m"}}}]}}))
        .expect("a pod");
        assert_eq!(aggregate(&pod, |c| Some(cpu_request_milli(c))), Some(700));
    }
}
