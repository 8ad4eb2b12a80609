//! ResourceSlice.

use k8s_openapi::api::resource::v1 as resource;
use serde_json::Value;

use super::check::{counter_name, each_once, pool_name};
use super::device;
use crate::field::{Errors, Path};
use crate::kinds::adapter::{FieldOf, Kind};
use crate::kinds::checks::{csi_driver_name, dns_subdomain, immutable};
use crate::kinds::core::pod::validate::node_selector;
use crate::kinds::facts::{self, AGE, Facts, NAME};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::Row;

const DEVICES_MAX: usize = 128;
/// Of devices with taints, or that share counters.
const ADVANCED_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;
const SPEC: Path<'static> = Path::new("spec");
const NOT_TRUE: &str = "must be either unset or set to true";

pub(super) struct ResourceSlices;

impl Kind for ResourceSlices {
    type Typed = resource::ResourceSlice;
    const FACTS: Facts = Facts {
        namespaced: false,
        columns: &[
            NAME,
            facts::text("Node", "The node whose devices they are."),
            facts::text("Driver", "Who offers them."),
            facts::text("Pool", "What they are part of."),
            AGE,
        ],
        generation: true,
        ..Facts::new("resource.k8s.io", "v1", "resourceslices", "ResourceSlice")
    };
    const FIELDS: &'static [(&'static str, FieldOf)] = &[
        ("spec.nodeName", |o| o.text("spec.nodeName").to_owned()),
        ("spec.driver", |o| o.text("spec.driver").to_owned()),
    ];
    const FIELD_LABELS: &'static [&'static str] = &["spec.nodeName", "spec.driver"];

    fn prepare_create(slice: &mut Value) {
        drop_alpha(slice);
    }

    fn prepare_update(slice: &mut Value, _old: &Value) {
        drop_alpha(slice);
    }

    fn validate(slice: &resource::ResourceSlice, errors: &mut Errors) {
        validate(slice, None, errors);
    }

    fn validate_update(slice: &resource::ResourceSlice, old: &resource::ResourceSlice, errors: &mut Errors) {
        validate(slice, Some(&old.spec), errors);
    }

    fn warnings(slice: &Value, _old: Option<&Value>) -> Vec<String> {
        let driver = slice.text("spec.driver");
        let upper = driver.bytes().any(|b| b.is_ascii_uppercase());
        let warning =
            || format!("spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters");
        upper.then(warning).into_iter().collect()
    }

    fn cells(slice: &Value, row: &mut Row) {
        row.name(slice);
        row.push(slice.text("spec.nodeName"));
        row.push(slice.text("spec.driver"));
        row.push(slice.text("spec.pool.name"));
        row.age(slice);
    }
}

/// What upstream takes only behind gates that are shut.
fn drop_alpha(slice: &mut Value) {
    let Some(spec) = spec_of(slice) else { return };
    for device in spec.items("devices") {
        device.remove("nodeAllocatableResourceMappings");
        let attributes = device.existing("attributes").into_iter().flat_map(|a| a.values_mut());
        for attribute in attributes.filter_map(Value::as_object_mut) {
            for list in ["bools", "ints", "strings", "versions"] {
                attribute.remove(list);
            }
        }
    }
}

fn validate(slice: &resource::ResourceSlice, old: Option<&resource::ResourceSliceSpec>, errors: &mut Errors) {
    let spec = &slice.spec;
    csi_driver_name(&spec.driver, &SPEC.child("driver"), errors);
    let pool = SPEC.child("pool");
    pool_name(&spec.pool.name, &pool.child("name"), errors);
    if spec.pool.resource_slice_count <= 0 {
        let path = pool.child("resourceSliceCount");
        errors.invalid(&path, spec.pool.resource_slice_count, "must be greater than zero");
    }
    if spec.pool.generation < 0 {
        errors.invalid(&pool.child("generation"), spec.pool.generation, "must be greater than or equal to zero");
    }
    if let Some(old) = old {
        immutable(&spec.pool.name, &old.pool.name, &pool.child("name"), errors);
        immutable(&spec.driver, &old.driver, &SPEC.child("driver"), errors);
        immutable(&spec.node_name, &old.node_name, &SPEC.child("nodeName"), errors);
    }
    where_it_is(spec, errors);
    if spec.shared_counters.is_some() && spec.devices.is_some() {
        errors.invalid(&SPEC, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let devices = spec.devices.as_deref().unwrap_or_default();
    let some = |list: bool| if list { ADVANCED_DEVICES_MAX } else { DEVICES_MAX };
    let max = some(devices.iter().any(|device| {
        device.taints.as_ref().is_some_and(|taints| !taints.is_empty())
            || device.consumes_counters.as_ref().is_some_and(|counters| !counters.is_empty())
    }));
    let one_by_one = spec.per_device_node_selection == Some(true);
    each_once(
        devices,
        max,
        &SPEC.child("devices"),
        errors,
        |d| d.name.as_str(),
        |device, path, errors| {
            let before = old.and_then(|old| old.devices.iter().flatten().find(|d| d.name == device.name));
            device::device(device, before, one_by_one, path, errors);
        },
    );
    let sets = spec.shared_counters.as_deref().unwrap_or_default();
    let list = SPEC.child("sharedCounters");
    each_once(
        sets,
        COUNTER_SETS_MAX,
        &list,
        errors,
        |set| set.name.as_str(),
        |set, path, errors| {
            counter_name(&set.name, &path.child("name"), errors);
            device::counters(&set.counters, &path.child("counters"), errors);
        },
    );
}

fn where_it_is(spec: &resource::ResourceSliceSpec, errors: &mut Errors) {
    let mut given = Vec::new();
    if let Some(name) = &spec.node_name {
        let path = SPEC.child("nodeName");
        if name.is_empty() {
            errors.invalid(&path, name, "must be either unset or set to a non-empty string");
        } else {
            given.push("`nodeName`");
            dns_subdomain(name, &path, errors);
        }
    }
    if let Some(selector) = &spec.node_selector {
        given.push("`nodeSelector`");
        let path = SPEC.child("nodeSelector");
        node_selector(selector, &path, errors);
        if selector.node_selector_terms.len() != 1 {
            let path = path.child("nodeSelectorTerms");
            errors.invalid(&path, &selector.node_selector_terms, "must have exactly one node selector term");
        }
    }
    for (field, shown, flag) in [
        ("allNodes", "`allNodes`", spec.all_nodes),
        ("perDeviceNodeSelection", "`perDeviceNodeSelection`", spec.per_device_node_selection),
    ] {
        match flag {
            Some(true) => given.push(shown),
            Some(false) => errors.invalid(&SPEC.child(field), false, NOT_TRUE),
            None => {}
        }
    }
    let words = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match given.len() {
        0 => errors.required(&SPEC, words),
        1 => {}
        _ => {
            errors.invalid(&SPEC, format!("{{{}}}", given.join(", ")), &format!("{words}, but multiple fields are set"))
        }
    }
}
