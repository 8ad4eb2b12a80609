//! The quality-of-service class: how much the pod has promised to need at most.

use serde_json::Value;

use crate::kinds::peek::Peek;
use crate::quantity::Quantity;

const COUNTED: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed` (limits everywhere, equal to the requests), `BestEffort` (nothing at all), or `Burstable`.
pub(super) fn class(pod: &Value) -> &'static str {
    let amount = |holder: &Value, list: &str, name: &str| -> Option<Quantity> {
        let text = holder.at("resources").get(list)?.get(name)?.as_str()?;
        text.parse::<Quantity>().ok().filter(|q| !q.is_zero())
    };
    let spec = pod.at("spec");
    let holders: Vec<&Value> = if spec.at("resources").is_object() {
        vec![spec]
    } else {
        spec.list("containers").iter().chain(spec.list("initContainers")).collect()
    };
    let asks = |h: &&Value| COUNTED.iter().any(|n| amount(h, "requests", n).or(amount(h, "limits", n)).is_some());
    if !holders.iter().any(asks) {
        return "BestEffort";
    }
    let bounded = |h: &&Value| {
        COUNTED.iter().all(|n| {
            let limit = amount(h, "limits", n);
            limit.is_some() && amount(h, "requests", n).is_none_or(|r| Some(r) == limit)
        })
    };
    if holders.iter().all(bounded) { "Guaranteed" } else { "Burstable" }
}
