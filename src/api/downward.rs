//! The downward API's pure part: what an object's metadata and a container's amounts say, as text.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::field::go_quote;
use crate::quantity::Quantity;

/// The value at a path of a `fieldRef` into the metadata. `None`: the path leads elsewhere. The error is upstream's
/// sentence.
pub fn metadata_field(meta: &ObjectMeta, path: &str) -> Option<Result<String, String>> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Some(Err(format!("invalid fieldPath with subscript {path:?}"))),
        };
        return Some(Ok(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default()));
    }
    Some(Ok(match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        _ => return None,
    }))
}

/// `key="value"` lines in the order of the keys.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", go_quote(v))).collect();
    lines.join("\n")
}

/// The value of a `resourceFieldRef` into a container. What has no limit may use what `allocatable` says.
pub fn container_resource(
    container: &Container,
    selector: &ResourceFieldSelector,
    allocatable: &BTreeMap<String, Text>,
) -> Result<String, String> {
    let (kind, name) = selector
        .resource
        .split_once('.')
        .filter(|(kind, _)| matches!(*kind, "limits" | "requests"))
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let resources = container.resources.as_ref();
    let limit = resources.and_then(|r| r.limits.as_ref()).and_then(|l| l.get(name));
    let asked = if kind == "limits" {
        limit.or_else(|| allocatable.get(name))
    } else {
        resources.and_then(|r| r.requests.as_ref()).and_then(|r| r.get(name)).or(limit)
    };
    // The API server lets no other text pass.
    let parse = |text: &Text| text.0.parse().unwrap_or(Quantity::ZERO);
    let unit = Quantity::from_int(1, crate::quantity::Format::DecimalSi);
    let divisor = selector.divisor.as_ref().map(parse).filter(|divisor| !divisor.is_zero()).unwrap_or(unit);
    // CPUs are counted in thousandths, bytes whole.
    let count = |quantity: &Quantity| if name == "cpu" { quantity.milli_value() } else { quantity.value() };
    let (amount, divisor) = (asked.map_or(0, |asked| count(&parse(asked))), count(&divisor).max(1));
    Ok((amount / divisor + i64::from(amount % divisor != 0)).to_string())
}
