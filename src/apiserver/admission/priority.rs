//! Priority: the class' number goes into the pod.

use serde_json::Value;
use skiff_api::ApiError;
use skiff_api::kinds::scheduling::SYSTEM_CLASSES;

use crate::meta;
use crate::registry::Row;
use crate::server::Server;

const DEFAULT_PREEMPTION: &str = "PreemptLowerPriority";

pub(super) fn create(server: &Server, pod: &mut Value) -> Result<(), ApiError> {
    let name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    // Pods of the system may come before its classes have been made.
    let (priority, preemption) = match SYSTEM_CLASSES.iter().find(|(system, ..)| *system == name) {
        Some((_, priority, _)) => (i64::from(*priority), DEFAULT_PREEMPTION.to_owned()),
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

/// The system's own classes stay.
pub(super) fn delete(row: &Row, name: &str) -> Result<(), ApiError> {
    if row.is("scheduling.k8s.io", "priorityclasses") && SYSTEM_CLASSES.iter().any(|(system, ..)| *system == name) {
        let why = "this is a system priority class and cannot be deleted";
        return Err(ApiError::forbidden(row.group(), row.resource(), name, why));
    }
    Ok(())
}
