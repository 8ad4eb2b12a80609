//! Priority: the class' number goes into the pod.

use serde_json::Value;
use skiff_api::ApiError;

use crate::meta;
use crate::server::Server;

/// The classes that exist without an object.
const SYSTEM: [(&str, i64); 2] = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
const DEFAULT_PREEMPTION: &str = "PreemptLowerPriority";

pub(super) fn create(server: &Server, pod: &mut Value) -> Result<(), ApiError> {
    let name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let (priority, preemption) = match SYSTEM.iter().find(|(system, _)| *system == name) {
        Some((_, priority)) => (*priority, DEFAULT_PREEMPTION.to_owned()),
        None => by_class(server, pod, &name)?,
    };
    let forbid = |why: String| Err(ApiError::forbidden("", "pods", meta::text(pod, "name"), &why));
    if pod["spec"]["priority"].as_i64().is_some_and(|given| given != priority) {
        return forbid(format!(
            "the integer value of priority ({}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name",
            pod["spec"]["priority"]
        ));
    }
    if pod["spec"]["preemptionPolicy"].as_str().is_some_and(|given| given != preemption) {
        return forbid(format!(
            "the string value of PreemptionPolicy ({}) must not be provided in pod spec; priority admission \
             controller computed {preemption} from the given PriorityClass name",
            pod["spec"]["preemptionPolicy"].as_str().unwrap_or_default()
        ));
    }
    pod["spec"]["priority"] = priority.into();
    pod["spec"]["preemptionPolicy"] = preemption.into();
    Ok(())
}

fn by_class(server: &Server, pod: &mut Value, name: &str) -> Result<(i64, String), ApiError> {
    let classes = server.resource("scheduling.k8s.io/priorityclasses");
    let class = if name.is_empty() {
        classes.all().into_iter().map(|c| c.value()).find(|c| c["globalDefault"] == true)
    } else {
        let Some(found) = classes.find("", name) else {
            let why = format!("no PriorityClass with name {name} was found");
            return Err(ApiError::forbidden("", "pods", meta::text(pod, "name"), &why));
        };
        Some(found.value())
    };
    let Some(class) = class else { return Ok((0, DEFAULT_PREEMPTION.to_owned())) };
    pod["spec"]["priorityClassName"] = meta::text(&class, "name").into();
    let preemption = class["preemptionPolicy"].as_str().unwrap_or(DEFAULT_PREEMPTION);
    Ok((class["value"].as_i64().unwrap_or(0), preemption.to_owned()))
}
