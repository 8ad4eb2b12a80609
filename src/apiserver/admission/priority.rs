//! Priority: the class' number goes into the pod; one class at most is the default one, the system's classes stay.

use serde_json::Value;
use skiff_api::ApiError;
use skiff_api::kinds::scheduling::SYSTEM_CLASSES;

use super::request::{Operation, Request};
use crate::meta;

const CLASSES: &str = "scheduling.k8s.io/priorityclasses";
const DEFAULT_PREEMPTION: &str = "PreemptLowerPriority";

pub(super) async fn create(request: &Request<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let (priority, preemption) = match SYSTEM_CLASSES.iter().find(|(system, ..)| *system == name) {
        Some((_, priority, _)) => (i64::from(*priority), DEFAULT_PREEMPTION.to_owned()),
        None => by_class(request, pod, &name).await?,
    };
    if pod["spec"]["priority"].as_i64().is_some_and(|given| given != priority) {
        return Err(request.forbidden(&format!(
            "the integer value of priority ({}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name",
            pod["spec"]["priority"]
        )));
    }
    if pod["spec"]["preemptionPolicy"].as_str().is_some_and(|given| given != preemption) {
        return Err(request.forbidden(&format!(
            "the string value of PreemptionPolicy ({}) must not be provided in pod spec; priority admission \
             controller computed {preemption} from the given PriorityClass name",
            pod["spec"]["preemptionPolicy"].as_str().unwrap_or_default()
        )));
    }
    pod["spec"]["priority"] = priority.into();
    pod["spec"]["preemptionPolicy"] = preemption.into();
    Ok(())
}

async fn by_class(request: &Request<'_>, pod: &mut Value, name: &str) -> Result<(i64, String), ApiError> {
    request.server.cache.fresh().await?;
    let class = if name.is_empty() {
        default_of(&all(request)).cloned()
    } else {
        let Some(found) = request.server.resource(CLASSES).find("", name) else {
            return Err(request.forbidden(&format!("no PriorityClass with name {name} was found")));
        };
        Some(found.value())
    };
    let Some(class) = class else { return Ok((0, DEFAULT_PREEMPTION.to_owned())) };
    pod["spec"]["priorityClassName"] = meta::text(&class, "name").into();
    let preemption = class["preemptionPolicy"].as_str().unwrap_or(DEFAULT_PREEMPTION);
    Ok((class["value"].as_i64().unwrap_or(0), preemption.to_owned()))
}

fn all(request: &Request<'_>) -> Vec<Value> {
    request.server.resource(CLASSES).all().iter().map(|class| class.value()).collect()
}

/// Where there are several by mistake, the one of the least priority.
fn default_of(classes: &[Value]) -> Option<&Value> {
    let defaults = classes.iter().filter(|class| class["globalDefault"] == true);
    defaults.min_by_key(|class| class["value"].as_i64().unwrap_or(0))
}

/// What an update of a pod leaves out stays as it was.
pub(super) fn keep(pod: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy"] {
        if pod["spec"].get(field).is_none_or(Value::is_null)
            && let Some(was) = old["spec"].get(field)
        {
            pod["spec"][field] = was.clone();
        }
    }
}

pub(super) async fn check_class(request: &Request<'_>, class: Option<&Value>) -> Result<(), ApiError> {
    if !request.row.is("scheduling.k8s.io", "priorityclasses") {
        return Ok(());
    }
    let name = &*request.key.name;
    if request.operation == Operation::Delete {
        let is_system = SYSTEM_CLASSES.iter().any(|(system, ..)| *system == name);
        let why = "this is a system priority class and cannot be deleted";
        return if is_system { Err(request.forbidden(why)) } else { Ok(()) };
    }
    if class.is_none_or(|class| class["globalDefault"] != true) {
        return Ok(());
    }
    request.server.cache.fresh().await?;
    match default_of(&all(request)).map(|class| meta::text(class, "name")).filter(|default| *default != name) {
        None => Ok(()),
        Some(default) => {
            let why = format!("PriorityClass {default} is already marked as default. Only one default can exist");
            Err(request.forbidden(&why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_default_class_is_the_least_of_several() {
        let class = |name: &str, value: i64, default: bool| json!({"metadata": {"name": name}, "value": value, "globalDefault": default});
        let classes = [class("a", 1, false), class("b", 9, true), class("c", 5, true)];
        assert_eq!(default_of(&classes).map(|class| meta::text(class, "name")), Some("c"));
        assert_eq!(default_of(&classes[..1]), None);
    }

    #[test]
    fn updates_keep_the_priority() {
        let old = json!({"spec": {"priority": 5, "preemptionPolicy": "Never"}});
        let mut new = json!({"spec": {"preemptionPolicy": "PreemptLowerPriority"}});
        keep(&mut new, &old);
        assert_eq!(new["spec"], json!({"priority": 5, "preemptionPolicy": "PreemptLowerPriority"}));
    }
}
