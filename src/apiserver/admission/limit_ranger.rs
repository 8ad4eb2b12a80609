//! LimitRanger: what pods and claims get and may ask for in a namespace with LimitRanges.

use std::sync::Arc;

use serde_json::{Map, Value};
use skiff_api::quantity::Quantity;
use skiff_api::quota::pod::{List, containers, total};
use skiff_api::quota::{Amounts, amounts};
use skiff_api::{ApiError, Object};

use super::request::{Operation, Request};
use crate::meta;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Above this upstream compares ratios by whole numbers.
const MAX_MILLI: i64 = i64::MAX / 1000;

/// The limits of the namespace, by the name of their LimitRange.
async fn ranges(request: &Request<'_>) -> Result<Vec<Value>, ApiError> {
    request.server.cache.fresh().await?;
    let all = request.server.resource("limitranges").all();
    let ours = |range: &&Arc<Object>| range.meta.namespace == request.key.namespace;
    Ok(all.iter().filter(ours).map(|range| range.value()).collect())
}

fn items(range: &Value) -> impl Iterator<Item = &Value> {
    range["spec"]["limits"].as_array().into_iter().flatten()
}

/// Gives the containers of a new pod what they don't say themselves.
pub(super) async fn fill(request: &Request<'_>, pod: &mut Value) -> Result<(), ApiError> {
    for range in ranges(request).await? {
        fill_from(&range, pod);
    }
    Ok(())
}

/// Refuses what is beyond the limits.
pub(super) async fn check(request: &Request<'_>, object: &Value) -> Result<(), ApiError> {
    let of_pod = request.is(Operation::Create, "", "pods")
        || (request.operation == Operation::Update && request.row.is("", "pods") && request.subresource == "resize");
    let of_claim = request.subresource.is_empty() && request.row.is("", "persistentvolumeclaims");
    if !of_pod && !of_claim {
        return Ok(());
    }
    // What goes anyway may let go of its finalizers, whatever limits there are now.
    if request.old.is_some_and(meta::is_deleting) {
        return Ok(());
    }
    for range in ranges(request).await? {
        let mut wrong = if of_pod { check_pod(&range, object) } else { check_claim(&range, object) };
        dedup(&mut wrong);
        match wrong.as_slice() {
            [] => {}
            [one] => return Err(request.forbidden(one)),
            many => return Err(request.forbidden(&format!("[{}]", many.join(", ")))),
        }
    }
    Ok(())
}

/// Every sentence once, as upstream's lists of errors.
fn dedup(wrong: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    wrong.retain(|text| seen.insert(text.clone()));
}

fn fill_from(range: &Value, pod: &mut Value) {
    let (mut requests, mut limits) = (Map::new(), Map::new());
    for item in items(range).filter(|item| item["type"] == "Container") {
        requests.extend(item["defaultRequest"].as_object().cloned().unwrap_or_default());
        limits.extend(item["default"].as_object().cloned().unwrap_or_default());
    }
    let mut told = Vec::new();
    for (field, what) in [("containers", "container"), ("initContainers", "init container")] {
        let list = pod.pointer_mut(&format!("/spec/{field}")).and_then(Value::as_array_mut);
        for container in list.into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            let lists = [("requests", "request", &requests), ("limits", "limit", &limits)];
            for (list, word, defaults) in lists {
                let set = fill_list(container, list, defaults);
                if !set.is_empty() {
                    told.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !told.is_empty() {
        let told = format!("LimitRanger plugin set: {}", told.join("; "));
        pod["metadata"]["annotations"][ANNOTATION] = told.into();
    }
}

/// The names of what was set, sorted.
fn fill_list(container: &mut Value, list: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let mut set = Vec::new();
    for (name, amount) in defaults {
        let given = &container["resources"][list];
        if given.get(name).is_none() {
            container["resources"][list][name] = amount.clone();
            set.push(name.clone());
        }
    }
    set.sort();
    set
}

fn check_pod(range: &Value, pod: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for item in items(range) {
        match item["type"].as_str() {
            Some("Container") => {
                for container in containers(pod, "containers").chain(containers(pod, "initContainers")) {
                    let resources = &container["resources"];
                    wrong.extend(check_item(item, &List::Requests.of(resources), &List::Limits.of(resources)));
                }
            }
            Some("Pod") => {
                wrong.extend(check_item(item, &total(pod, List::Requests), &total(pod, List::Limits)));
            }
            _ => {}
        }
    }
    wrong
}

fn check_claim(range: &Value, claim: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let requests = List::Requests.of(&claim["spec"]["resources"]);
    for item in items(range).filter(|item| item["type"] == "PersistentVolumeClaim") {
        for (name, least) in amounts(&item["min"]) {
            wrong.extend(below(&name, "PersistentVolumeClaim", least, requests.get(&name), None));
        }
        for (name, most) in amounts(&item["max"]) {
            let said = format!("maximum {name} usage per PersistentVolumeClaim is {most}");
            match requests.get(&name) {
                None => wrong.push(format!("{said}.  No request is specified")),
                Some(request) if *request > most => wrong.push(format!("{said}, but request is {request}")),
                Some(_) => {}
            }
        }
    }
    wrong
}

fn check_item(item: &Value, requests: &Amounts, limits: &Amounts) -> Vec<String> {
    let what = item["type"].as_str().unwrap_or_default();
    let mut wrong = Vec::new();
    for (name, least) in amounts(&item["min"]) {
        wrong.extend(below(&name, what, least, requests.get(&name), limits.get(&name)));
    }
    for (name, most) in amounts(&item["max"]) {
        wrong.extend(above(&name, what, most, requests.get(&name), limits.get(&name)));
    }
    for (name, ratio) in amounts(&item["maxLimitRequestRatio"]) {
        wrong.extend(too_far_apart(&name, what, ratio, requests.get(&name), limits.get(&name)));
    }
    wrong
}

fn below(
    name: &str,
    what: &str,
    least: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let said = format!("minimum {name} usage per {what} is {least}");
    match (request, limit) {
        (None, _) => Some(format!("{said}.  No request is specified")),
        (Some(request), _) if *request < least => Some(format!("{said}, but request is {request}")),
        (_, Some(limit)) if *limit < least => Some(format!("{said}, but limit is {limit}")),
        _ => None,
    }
}

fn above(
    name: &str,
    what: &str,
    most: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let said = format!("maximum {name} usage per {what} is {most}");
    match (request, limit) {
        (_, None) => Some(format!("{said}.  No limit is specified")),
        (_, Some(limit)) if *limit > most => Some(format!("{said}, but limit is {limit}")),
        (Some(request), _) if *request > most => Some(format!("{said}, but request is {request}")),
        _ => None,
    }
}

fn too_far_apart(
    name: &str,
    what: &str,
    ratio: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let said = format!("{name} max limit to request ratio per {what} is {ratio}, but");
    let Some(request) = request.filter(|request| !request.is_zero()) else {
        return Some(format!("{said} no request is specified or request is 0"));
    };
    let Some(limit) = limit.filter(|limit| !limit.is_zero()) else {
        return Some(format!("{said} no limit is specified or limit is 0"));
    };
    let observed = limit.as_f64() / request.as_f64();
    let most = if ratio.value() <= MAX_MILLI { ratio.as_f64() } else { ratio.value() as f64 };
    (observed > most).then(|| format!("{said} provided ratio is {observed:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn range(items: Value) -> Value {
        json!({"spec": {"limits": items}})
    }

    #[test]
    fn containers_get_what_they_do_not_say() {
        let defaults = range(json!([{"type": "Container", "default": {"cpu": "500m", "memory": "500Mi"},
            "defaultRequest": {"cpu": "100m", "memory": "200Mi"}}, {"type": "Pod", "max": {"cpu": "2"}}]));
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1", "memory": "1Gi"}}}],
            "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "1", "memory": "1"}, "limits": {"cpu": "1"}}}]}});
        fill_from(&defaults, &mut pod);
        let resources = |list: &str, at: usize| pod["spec"][list][at]["resources"].clone();
        assert_eq!(
            resources("containers", 0),
            json!({"requests": {"cpu": "100m", "memory": "200Mi"}, "limits": {"cpu": "500m", "memory": "500Mi"}})
        );
        assert_eq!(resources("containers", 1)["requests"], json!({"cpu": "1", "memory": "200Mi"}));
        assert_eq!(resources("initContainers", 0)["limits"], json!({"cpu": "1", "memory": "500Mi"}));
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu, memory request for container a; cpu, memory limit for container a; memory \
             request for container b; memory limit for init container i"
        );
        let once = pod.clone();
        fill_from(&defaults, &mut pod);
        assert_eq!(pod, once);
    }

    #[test]
    fn limits_are_told_in_upstreams_words() {
        let check = |item: Value, resources: Value, expect: &[&str]| {
            let pod = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
            assert_eq!(check_pod(&range(json!([item])), &pod), expect, "{item} {resources}");
        };
        let min = json!({"type": "Container", "min": {"cpu": "100m"}});
        check(min.clone(), json!({}), &["minimum cpu usage per Container is 100m.  No request is specified"]);
        let little = json!({"requests": {"cpu": "50m"}});
        check(min.clone(), little, &["minimum cpu usage per Container is 100m, but request is 50m"]);
        check(min, json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}), &[]);
        let max = json!({"type": "Pod", "max": {"memory": "1Gi"}});
        check(max.clone(), json!({}), &["maximum memory usage per Pod is 1Gi.  No limit is specified"]);
        let much = json!({"limits": {"memory": "2Gi"}});
        check(max, much, &["maximum memory usage per Pod is 1Gi, but limit is 2Gi"]);
        let ratio = json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}});
        check(
            ratio.clone(),
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "250m"}}),
            &["cpu max limit to request ratio per Container is 2, but provided ratio is 2.500000"],
        );
        check(ratio.clone(), json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}), &[]);
        check(
            ratio,
            json!({"limits": {"cpu": "1"}}),
            &["cpu max limit to request ratio per Container is 2, but no request is specified or request is 0"],
        );
    }

    #[test]
    fn pods_are_measured_as_a_whole_and_claims_by_their_storage() {
        let container = json!({"name": "c", "resources": {"limits": {"cpu": "600m"}, "requests": {"cpu": "600m"}}});
        let pod = json!({"spec": {"containers": [container, container]}});
        let of_pod = range(json!([{"type": "Pod", "max": {"cpu": "1"}}, {"type": "Container", "max": {"cpu": "1"}}]));
        assert_eq!(check_pod(&of_pod, &pod), ["maximum cpu usage per Pod is 1, but limit is 1200m"]);
        let of_claim =
            range(json!([{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}]));
        let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        let check = |size: &str, expect: &[&str]| assert_eq!(check_claim(&of_claim, &claim(size)), expect);
        check("500Mi", &["minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 500Mi"]);
        check("3Gi", &["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"]);
        check("2Gi", &[]);
    }
}
