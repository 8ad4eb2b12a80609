//! RuntimeClass: what the class of a pod's runtime takes for itself, and the nodes that have it.

use serde_json::{Map, Value};
use skiff_api::ApiError;
use skiff_api::quota::amounts;

use super::request::Request;

pub(super) async fn fill(request: &Request<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let name = pod["spec"]["runtimeClassName"].as_str().unwrap_or_default().to_owned();
    let class = if name.is_empty() { None } else { Some(find(request, &name).await?) };
    plan(pod, class.as_ref()).map_err(|why| request.forbidden(&why))
}

async fn find(request: &Request<'_>, name: &str) -> Result<Value, ApiError> {
    request.server.cache.fresh().await?;
    let found = request.server.resource("node.k8s.io/runtimeclasses").find("", name);
    let why = || request.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found"));
    Ok(found.ok_or_else(why)?.value())
}

fn plan(pod: &mut Value, class: Option<&Value>) -> Result<(), String> {
    let given = amounts(&pod["spec"]["overhead"]);
    let fixed = class.map(|class| &class["overhead"]["podFixed"]).filter(|fixed| fixed.is_object());
    match fixed {
        Some(fixed) => {
            if !given.is_empty() && given != amounts(fixed) {
                return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
            }
            pod["spec"]["overhead"] = fixed.clone();
        }
        None if !given.is_empty() => {
            return Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into());
        }
        None => {}
    }
    match class.map(|class| &class["scheduling"]).filter(|scheduling| scheduling.is_object()) {
        Some(scheduling) => schedule(pod, scheduling),
        None => Ok(()),
    }
}

fn schedule(pod: &mut Value, scheduling: &Value) -> Result<(), String> {
    let wanted = scheduling["nodeSelector"].as_object().cloned().unwrap_or_default();
    if !wanted.is_empty() {
        let mut all: Map<String, Value> = pod["spec"]["nodeSelector"].as_object().cloned().unwrap_or_default();
        for (key, value) in wanted {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            if let Some(own) = all.get(&key).filter(|own| **own != value) {
                let (class, own) = (text(&value), text(own));
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {class}; pod.spec.nodeSelector[{key}] = {own}"
                ));
            }
            all.insert(key, value);
        }
        pod["spec"]["nodeSelector"] = all.into();
    }
    let mut tolerations = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    let before = tolerations.len();
    for toleration in scheduling["tolerations"].as_array().into_iter().flatten() {
        if !tolerations.contains(toleration) {
            tolerations.push(toleration.clone());
        }
    }
    if tolerations.len() > before {
        pod["spec"]["tolerations"] = tolerations.into();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(spec: Value, class: Option<Value>, expect: Result<Value, &str>) {
        let mut pod = json!({"spec": spec});
        let planned = plan(&mut pod, class.as_ref()).map(|()| pod["spec"].take());
        assert_eq!(planned, expect.map_err(str::to_owned), "{class:?}");
    }

    #[test]
    fn overhead_is_the_class_to_say() {
        let class = || Some(json!({"overhead": {"podFixed": {"cpu": "250m"}}}));
        check(json!({}), None, Ok(json!({})));
        check(json!({}), class(), Ok(json!({"overhead": {"cpu": "250m"}})));
        check(json!({"overhead": {"cpu": "0.25"}}), class(), Ok(json!({"overhead": {"cpu": "250m"}})));
        let differs = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
        check(json!({"overhead": {"cpu": "1"}}), class(), Err(differs));
        let without = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
        check(json!({"overhead": {"cpu": "1"}}), Some(json!({})), Err(without));
        check(json!({"overhead": {"cpu": "1"}}), None, Err(without));
    }

    #[test]
    fn pods_go_where_their_runtime_is() {
        let toleration = json!({"key": "a", "operator": "Exists"});
        let class = || Some(json!({"scheduling": {"nodeSelector": {"r": "kata"}, "tolerations": [toleration]}}));
        let full = json!({"nodeSelector": {"r": "kata", "x": "y"}, "tolerations": [toleration]});
        check(json!({"nodeSelector": {"x": "y"}}), class(), Ok(full.clone()));
        check(full.clone(), class(), Ok(full));
        let conflict = "conflict: runtimeClass.scheduling.nodeSelector[r] = kata; pod.spec.nodeSelector[r] = runc";
        check(json!({"nodeSelector": {"r": "runc"}}), class(), Err(conflict));
    }
}
