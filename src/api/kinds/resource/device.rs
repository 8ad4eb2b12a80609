//! What is wrong with a device that is offered.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;

use super::check::{LABEL_KEY_MAX, attribute_name, binding_conditions, counter_name, each, each_once, entries};
use super::claim_spec::taint;
use crate::field::{Errors, Path};
use crate::kinds::checks::{dns_label, dns_subdomain, quantity, text};
use crate::kinds::core::pod::validate::node_selector;
use crate::quantity::Quantity;

const ATTRIBUTES_AND_CAPACITIES_MAX: usize = 32;
/// A domain, a slash and an identifier.
const NAME_SHOWN_MAX: usize = 63 + 1 + 32;
const VALUE_MAX_B: usize = 64;
const TAINTS_MAX: usize = 16;
const CONSUMPTIONS_MAX: usize = 2;
const COUNTERS_MAX: usize = 32;
const OPTIONS_MAX: usize = 10;

pub(super) fn device(
    device: &resource::Device,
    old: Option<&resource::Device>,
    placed_one_by_one: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let none = BTreeMap::new();
    let attributes = device.attributes.as_ref().unwrap_or(&none);
    dns_label(&device.name, &path.child("name"), errors);
    let count = attributes.len() + device.capacity.as_ref().map_or(0, BTreeMap::len);
    if count > ATTRIBUTES_AND_CAPACITIES_MAX {
        let message =
            format!("the total number of attributes and capacities must not exceed {ATTRIBUTES_AND_CAPACITIES_MAX}");
        errors.invalid(path, count, &message);
    }
    let place = path.child("attributes");
    entries(attributes, usize::MAX, NAME_SHOWN_MAX, &place, errors, attribute_name, attribute);
    let shared = device.allow_multiple_allocations == Some(true);
    let none = BTreeMap::new();
    let capacities = device.capacity.as_ref().unwrap_or(&none);
    let place = path.child("capacity");
    entries(capacities, usize::MAX, NAME_SHOWN_MAX, &place, errors, attribute_name, |capacity, path, errors| {
        capacity_policy(capacity, shared, &path.child("requestPolicy"), errors);
    });
    if old.is_none_or(|old| old.taints != device.taints) {
        each(device.taints.as_deref().unwrap_or_default(), TAINTS_MAX, &path.child("taints"), errors, taint);
    }
    let consumptions = device.consumes_counters.as_deref().unwrap_or_default();
    let list = path.child("consumesCounters");
    each_once(
        consumptions,
        CONSUMPTIONS_MAX,
        &list,
        errors,
        |c| c.counter_set.as_str(),
        |c, path, errors| {
            counter_name(&c.counter_set, &path.child("counterSet"), errors);
            counters(&c.counters, &path.child("counters"), errors);
        },
    );
    placement(device, placed_one_by_one, path, errors);
    binding_conditions(&device.binding_conditions, &device.binding_failure_conditions, path, errors);
}

pub(super) fn counters(counters: &BTreeMap<String, resource::Counter>, path: &Path<'_>, errors: &mut Errors) {
    if counters.is_empty() {
        return errors.required(path, "");
    }
    entries(counters, COUNTERS_MAX, LABEL_KEY_MAX, path, errors, dns_label, |_, _, _| {});
}

fn placement(device: &resource::Device, one_by_one: bool, path: &Path<'_>, errors: &mut Errors) {
    if !one_by_one {
        if device.node_name.is_some() || device.node_selector.is_some() || device.all_nodes.is_some() {
            let message = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set \
                           to true in the ResourceSlice spec";
            errors.invalid(path, (), message);
        }
        return;
    }
    let mut given = Vec::new();
    if let Some(name) = &device.node_name {
        let path = path.child("nodeName");
        if name.is_empty() {
            errors.invalid(&path, name, "must not be empty");
        } else {
            given.push("`nodeName`");
            dns_subdomain(name, &path, errors);
        }
    }
    if let Some(selector) = &device.node_selector {
        given.push("`nodeSelector`");
        node_selector(selector, &path.child("nodeSelector"), errors);
    }
    match device.all_nodes {
        Some(true) => given.push("`allNodes`"),
        Some(false) => errors.invalid(&path.child("allNodes"), false, "must be either unset or set to true"),
        None => {}
    }
    let message = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is \
                   set to true in the ResourceSlice spec";
    match given.len() {
        0 => errors.required(path, message),
        1 => {}
        _ => errors.invalid(path, format!("{{{}}}", given.join(", ")), message),
    }
}

fn attribute(attribute: &resource::DeviceAttribute, path: &Path<'_>, errors: &mut Errors) {
    if text(&attribute.string).len() > VALUE_MAX_B {
        errors.too_long(&path.child("string"), VALUE_MAX_B);
    }
    if let Some(version) = &attribute.version {
        let path = path.child("version");
        if !is_semantic_version(version) {
            errors.invalid(&path, version, "must be a string compatible with semver.org spec 2.0.0");
        }
        if version.len() > VALUE_MAX_B {
            errors.too_long(&path, VALUE_MAX_B);
        }
    }
    let given =
        [attribute.bool.is_some(), attribute.int.is_some(), attribute.string.is_some(), attribute.version.is_some()];
    match given.into_iter().filter(|given| *given).count() {
        0 => errors.invalid(path, "", "exactly one value must be specified"),
        1 => {}
        _ => errors.invalid(path, attribute, "exactly one value must be specified"),
    }
}

/// `1.2.3-alpha.1+build.5`.
fn is_semantic_version(text: &str) -> bool {
    let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, release) = text.split_once('-').map_or((text, None), |(core, release)| (core, Some(release)));
    let core: Vec<&str> = core.split('.').collect();
    core.len() == 3
        && core.iter().all(|part| !part.is_empty() && number(part))
        && build.is_none_or(|build| build.split('.').all(word))
        && release.is_none_or(|release| {
            release.split('.').all(|part| word(part) && (number(part) || part.bytes().any(|b| !b.is_ascii_digit())))
        })
}

/// What may be asked of a capacity that several share.
fn capacity_policy(capacity: &resource::DeviceCapacity, shared: bool, path: &Path<'_>, errors: &mut Errors) {
    let Some(policy) = &capacity.request_policy else { return };
    if !shared {
        return errors.forbidden(path, "allowMultipleAllocations must be true");
    }
    let whole = parsed(&capacity.value);
    let default = policy.default.as_ref().map(parsed);
    let values = policy.valid_values.as_deref().unwrap_or_default();
    match (values.is_empty(), &policy.valid_range) {
        (false, Some(_)) => {
            let message = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the \
                           same time";
            errors.forbidden(path, message);
        }
        (false, None) => match default {
            None => errors.required(&path.child("default"), "required when validValues is defined"),
            Some(default) => options(values, default, whole, &path.child("validValues"), errors),
        },
        (true, Some(range)) => match default {
            None => errors.required(&path.child("default"), "required when validRange is defined"),
            Some(default) => self::range(range, default, whole, &path.child("validRange"), errors),
        },
        (true, None) => {}
    }
}

/// Decoding has seen to it that it is a quantity.
fn parsed(text: &QuantityText) -> Quantity {
    quantity(text, &Path::new(""), &mut Errors::new())
}

fn options(values: &[QuantityText], default: Quantity, whole: Quantity, list: &Path<'_>, errors: &mut Errors) {
    let amounts: Vec<Quantity> = values.iter().map(parsed).collect();
    for (i, pair) in amounts.windows(2).enumerate() {
        if pair[0] > pair[1] {
            errors.invalid(&list.index(i + 1), pair[1].to_string(), "values must be sorted in ascending order");
        }
    }
    each_once(
        &amounts,
        OPTIONS_MAX,
        list,
        errors,
        |amount| amount.value().to_string(),
        |amount, path, errors| {
            if *amount > whole {
                errors.invalid(path, amount.to_string(), &format!("option is larger than capacity value: {whole}"));
            }
        },
    );
    if !amounts.contains(&default) {
        errors.invalid(list, default.to_string(), "default value is not valid according to the requestPolicy");
    }
}

fn range(
    range: &resource::CapacityRequestPolicyRange,
    default: Quantity,
    whole: Quantity,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let (at_min, at_max, at_step) = (path.child("min"), path.child("max"), path.child("step"));
    if range.min.0.is_empty() {
        return errors.required(&at_min, "required when validRange is defined");
    }
    let (min, max, step) = (parsed(&range.min), range.max.as_ref().map(parsed), range.step.as_ref().map(parsed));
    if min > whole {
        errors.invalid(&at_min, min.to_string(), &format!("min is larger than capacity value: {whole}"));
    }
    if default < min {
        errors.invalid(&at_min, default.to_string(), &format!("default is less than min: {min}"));
    }
    if let Some(max) = max {
        if min > max {
            errors.invalid(&at_max, min.to_string(), &format!("min is larger than max: {max}"));
        }
        if max > whole {
            errors.invalid(&at_max, max.to_string(), &format!("max is larger than capacity value: {whole}"));
        }
        if default > max {
            errors.invalid(&at_max, default.to_string(), &format!("default is more than max: {max}"));
        }
    }
    let Some(step) = step else { return };
    let first = min.plus(step);
    if first > whole {
        errors.invalid(&at_step, step.to_string(), &format!("one step {first} is larger than capacity value: {whole}"));
    }
    for value in [Some(default), max].into_iter().flatten() {
        let (distance, step_value) = (value.value().wrapping_sub(min.value()), step.value());
        if step_value == 0 || distance % step_value != 0 {
            let message = format!("value is not a multiple of a given step ({step}) from ({min})");
            errors.invalid(&at_step, value.to_string(), &message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semantic_versions() {
        for good in ["0.0.0", "1.2.3", "1.2.3-alpha.1", "1.2.3-0a.x-y+b.01", "10.20.30+b"] {
            assert!(is_semantic_version(good), "{good}");
        }
        for bad in ["", "1", "1.2", "1.2.3.4", "01.2.3", "1.2.x", "1.2.3-", "1.2.3-01", "1.2.3+", "v1.2.3", "1..3"] {
            assert!(!is_semantic_version(bad), "{bad}");
        }
    }
}
