//! ResourceSlice.

use std::collections::BTreeSet;

use k8s_openapi::api::resource::v1 as resource;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::{FieldOf, Kind};
use crate::kinds::checks::{csi_driver_name, dns_label, dns_subdomain, immutable, text};
use crate::kinds::facts::{self, AGE, Facts, NAME};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;

const DEVICES_MAX: usize = 128;
const SPEC: Path<'static> = Path::new("spec");

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

    fn validate(slice: &resource::ResourceSlice, errors: &mut Errors) {
        let spec = &slice.spec;
        csi_driver_name(&spec.driver, &SPEC.child("driver"), errors);
        let pool = SPEC.child("pool");
        if spec.pool.name.is_empty() {
            errors.required(&pool.child("name"), "");
        }
        for part in spec.pool.name.split('/').filter(|part| !part.is_empty()) {
            dns_subdomain(part, &pool.child("name"), errors);
        }
        if spec.pool.resource_slice_count <= 0 {
            let path = pool.child("resourceSliceCount");
            errors.invalid(&path, spec.pool.resource_slice_count, "must be greater than zero");
        }
        if spec.pool.generation < 0 {
            let path = pool.child("generation");
            errors.invalid(&path, spec.pool.generation, "must be greater than or equal to zero");
        }
        where_it_is(spec, errors);
        let list = SPEC.child("devices");
        let devices = spec.devices.as_deref().unwrap_or_default();
        if devices.len() > DEVICES_MAX {
            errors.too_many(&list, devices.len(), DEVICES_MAX);
        }
        let mut names = BTreeSet::new();
        for (i, device) in devices.iter().enumerate() {
            let path = list.index(i);
            dns_label(&device.name, &path.child("name"), errors);
            if !names.insert(&device.name) {
                errors.duplicate(&path, &device.name);
            }
        }
    }

    fn validate_update(slice: &resource::ResourceSlice, old: &resource::ResourceSlice, errors: &mut Errors) {
        Self::validate(slice, errors);
        immutable(&slice.spec.driver, &old.spec.driver, &SPEC.child("driver"), errors);
        immutable(&slice.spec.pool.name, &old.spec.pool.name, &SPEC.child("pool.name"), errors);
        immutable(&slice.spec.node_name, &old.spec.node_name, &SPEC.child("nodeName"), errors);
    }

    fn cells(slice: &Value, row: &mut Row) {
        row.name(slice);
        row.or(slice.text("spec.nodeName"), "<unset>");
        row.push(slice.text("spec.driver"));
        row.push(slice.text("spec.pool.name"));
        row.age(slice);
    }
}

fn where_it_is(spec: &resource::ResourceSliceSpec, errors: &mut Errors) {
    let set = [
        ("nodeName", !text(&spec.node_name).is_empty()),
        ("nodeSelector", spec.node_selector.is_some()),
        ("allNodes", spec.all_nodes == Some(true)),
        ("perDeviceNodeSelection", spec.per_device_node_selection == Some(true)),
    ];
    let words = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let given: Vec<String> = set.iter().filter(|(_, set)| *set).map(|(field, _)| format!("`{field}`")).collect();
    match given.len() {
        0 => errors.required(&SPEC, words),
        1 => {}
        _ => {
            errors.invalid(&SPEC, format!("{{{}}}", given.join(", ")), &format!("{words}, but multiple fields are set"))
        }
    }
}
