//! LimitRange.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;
use serde_json::{Map, Value};

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::core::pod::{defaults::resource_list, validate};
use crate::kinds::facts::{CREATED_AT, Facts, NAME};
use crate::kinds::peek::{Fill, spec_of};
use crate::kinds::row::Row;
use crate::names;
use crate::quantity::Quantity;

const TYPES: &[&str] = &["Container", "PersistentVolumeClaim", "Pod"];

pub(super) struct LimitRanges;

impl Kind for LimitRanges {
    type Typed = core::LimitRange;
    const FACTS: Facts = Facts {
        short_names: &["limits"],
        columns: &[NAME, CREATED_AT],
        create_on_update: true,
        ..Facts::new("", "v1", "limitranges", "LimitRange")
    };

    fn default(object: &mut Value) {
        let Some(spec) = spec_of(object) else { return };
        for limit in spec.items("limits") {
            for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
                if let Some(list) = limit.existing(list) {
                    resource_list(list);
                }
            }
            if limit.get("type").and_then(Value::as_str) == Some("Container") {
                follow(limit, "max", "default");
                follow(limit, "default", "defaultRequest");
                follow(limit, "min", "defaultRequest");
            }
        }
    }

    fn validate(range: &core::LimitRange, errors: &mut Errors) {
        let spec = Path::new("spec");
        let list = spec.child("limits");
        let mut types = BTreeSet::new();
        for (i, limit) in range.spec.iter().flat_map(|s| &s.limits).enumerate() {
            let path = list.index(i);
            type_name(&limit.type_, &path.child("type"), errors);
            if !types.insert(&limit.type_) {
                errors.duplicate(&path.child("type"), &limit.type_);
            }
            item(limit, &path, errors);
        }
    }

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.created_at(object);
    }
}

/// What `to` lacks and `from` has.
fn follow(limit: &mut Map<String, Value>, from: &str, to: &str) {
    let Some(from) = limit.get(from).and_then(Value::as_object).filter(|m| !m.is_empty()).cloned() else { return };
    if let Some(to) = limit.object(to) {
        for (name, value) in from {
            to.entry(name).or_insert(value);
        }
    }
}

fn type_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let wrong = names::qualified_name(name);
    if wrong.is_empty() && !name.contains('/') && !TYPES.contains(&name) {
        errors.invalid(path, name, "must be a standard limit type or fully qualified");
    }
    errors.invalid_each(path, name, wrong);
}

fn resource(of_type: &str, name: &str, path: &Path<'_>, errors: &mut Errors) {
    match of_type {
        "Pod" | "Container" => validate::resource_name(name, path, errors),
        _ => validate::any_resource_name(name, path, errors),
    }
}

type Amounts = BTreeMap<String, QuantityText>;

fn item(limit: &core::LimitRangeItem, path: &Path<'_>, errors: &mut Errors) {
    let lists: [(&str, &Option<Amounts>); 5] = [
        ("max", &limit.max),
        ("min", &limit.min),
        ("default", &limit.default),
        ("defaultRequest", &limit.default_request),
        ("maxLimitRequestRatio", &limit.max_limit_request_ratio),
    ];
    let of_pods = limit.type_ == "Pod";
    let mut keys = BTreeSet::new();
    for (field, list) in lists {
        if of_pods && matches!(field, "default" | "defaultRequest") {
            if list.as_ref().is_some_and(|l| !l.is_empty()) {
                errors.forbidden(&path.child(field), "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for name in list.iter().flat_map(|l| l.keys()) {
            resource(&limit.type_, name, &path.child(field).key(name), errors);
            keys.insert(name.as_str());
        }
    }
    let has_storage = |list: &Option<Amounts>| list.as_ref().is_some_and(|l| l.contains_key("storage"));
    if limit.type_ == "PersistentVolumeClaim" && !has_storage(&limit.min) && !has_storage(&limit.max) {
        let message = "either minimum or maximum storage value is required, but neither was provided";
        errors.required(&path.child("limits"), message);
    }
    for name in keys {
        amounts(limit, name, path, errors);
    }
}

/// How the amounts of one resource go together.
fn amounts(limit: &core::LimitRangeItem, name: &str, path: &Path<'_>, errors: &mut Errors) {
    let of = |list: &Option<Amounts>| -> Option<Quantity> { list.as_ref()?.get(name)?.0.parse().ok() };
    let [max, min, default, request, ratio] =
        [&limit.max, &limit.min, &limit.default, &limit.default_request, &limit.max_limit_request_ratio].map(of);
    let mut ordered = |small: Option<Quantity>, big: Option<Quantity>, field: &str, shown, words: [&str; 2]| {
        if let (Some(small), Some(big)) = (small, big)
            && small > big
        {
            let message = format!("{} value {small} is greater than {} value {big}", words[0], words[1]);
            let shown: Option<Quantity> = shown;
            errors.invalid(&path.child(field).key(name), shown.map(|q| q.to_string()), &message);
        }
    };
    ordered(min, max, "min", min, ["min", "max"]);
    ordered(min, request, "defaultRequest", request, ["min", "default request"]);
    ordered(request, max, "defaultRequest", request, ["default request", "max"]);
    ordered(request, default, "defaultRequest", request, ["default request", "default limit"]);
    ordered(min, default, "default", min, ["min", "default"]);
    ordered(default, max, "default", max, ["default", "max"]);
    if let Some(ratio) = ratio {
        let ratio_path = path.child("maxLimitRequestRatio");
        if ratio.as_f64() < 1.0 {
            errors.invalid(&ratio_path.key(name), ratio.to_string(), &format!("ratio {ratio} is less than 1"));
        }
        if let (Some(min), Some(max)) = (min, max) {
            let limit = max.as_f64() / min.as_f64();
            if ratio.as_f64() > limit {
                let message = format!("ratio {ratio} is greater than max/min = {limit:.6}");
                errors.invalid(&ratio_path.key(name), ratio.to_string(), &message);
            }
        }
    }
    if let (Some(default), Some(request)) = (default, request)
        && (!validate::is_native(name) || validate::is_hugepages(name))
        && default != request
    {
        let message = format!("default value {default} must equal to defaultRequest value {request} in {name}");
        errors.invalid(&path.child("defaultRequest").key(name), request.to_string(), &message);
    }
}
