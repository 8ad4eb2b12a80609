//! What is wrong with what became of a claim.

use std::collections::BTreeSet;

use k8s_openapi::api::resource::v1 as resource;
use serde_json::Value;

use super::check::{binding_conditions, each, each_once, pool_name, raw_object, uid};
use super::claim_spec::Requests;
use super::device_class::{CONFIGS_MAX, configuration};
use crate::field::{Errors, Path};
use crate::kinds::checks::{conditions, csi_driver_name, dns_label, immutable, interface_address, required, text};
use crate::kinds::core::pod::validate::node_selector;
use crate::kinds::peek::Peek;

const RESERVED_MAX: usize = 256;
const RESULTS_MAX: usize = 32;
const CONDITIONS_MAX: usize = 8;
const DATA_MAX_B: usize = 10 * 1024;
const ADDRESSES_MAX: usize = 16;
const INTERFACE_NAME_MAX_B: usize = 256;
const HARDWARE_ADDRESS_MAX_B: usize = 128;

/// A device, or a share of one, in upstream's notation.
fn device_id(driver: &str, pool: &str, device: &str, share: &str) -> String {
    let separator = if share.is_empty() { "" } else { "/" };
    format!("{driver}/{pool}/{device}{separator}{share}")
}

pub(super) fn update(claim: &resource::ResourceClaim, old: &resource::ResourceClaim, errors: &mut Errors) {
    let Some(status) = &claim.status else { return };
    let path = Path::new("status");
    let reserved = status.reserved_for.as_deref().unwrap_or_default();
    let list = path.child("reservedFor");
    each_once(
        reserved,
        RESERVED_MAX,
        &list,
        errors,
        |user| user.uid.as_str(),
        |user, path, errors| {
            for (field, value) in [("resource", &user.resource), ("name", &user.name), ("uid", &user.uid)] {
                required(value, &path.child(field), errors);
            }
        },
    );
    devices(status, &path.child("devices"), errors);
    let old_status = old.status.as_ref();
    if !reserved.is_empty() {
        let before = old_status.and_then(|s| s.reserved_for.as_deref()).unwrap_or_default();
        if status.allocation.is_none() {
            errors.forbidden(&list, "may not be specified when `allocated` is not set");
        } else if claim.metadata.deletion_timestamp.is_some() && reserved.iter().any(|user| !before.contains(user)) {
            let message = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.forbidden(&list, message);
        }
    }
    let path = path.child("allocation");
    match (&status.allocation, old_status.and_then(|s| s.allocation.as_ref())) {
        (Some(new), Some(old)) => immutable(new, old, &path, errors),
        (Some(new), None) => allocation(new, &Requests::of(&claim.spec), &path, errors),
        (None, _) => {}
    }
}

fn results(allocation: &resource::AllocationResult) -> &[resource::DeviceRequestAllocationResult] {
    allocation.devices.as_ref().and_then(|d| d.results.as_deref()).unwrap_or_default()
}

fn devices(status: &resource::ResourceClaimStatus, list: &Path<'_>, errors: &mut Errors) {
    let results = status.allocation.as_ref().map(results).unwrap_or_default();
    let allocated: BTreeSet<String> =
        results.iter().map(|r| device_id(&r.driver, &r.pool, &r.device, text(&r.share_id))).collect();
    let id = |d: &resource::AllocatedDeviceStatus| device_id(&d.driver, &d.pool, &d.device, text(&d.share_id));
    let devices = status.devices.as_deref().unwrap_or_default();
    each_once(devices, usize::MAX, list, errors, id, |device, path, errors| {
        csi_driver_name(&device.driver, &path.child("driver"), errors);
        pool_name(&device.pool, &path.child("pool"), errors);
        dns_label(&device.device, &path.child("device"), errors);
        if let Some(share) = &device.share_id {
            uid(share, &path.child("shareID"), errors);
        }
        if !allocated.contains(&id(device)) {
            errors.invalid(path, id(device), "must be an allocated device in the claim");
        }
        let list = path.child("conditions");
        let found = device.conditions.as_deref().unwrap_or_default();
        if found.len() > CONDITIONS_MAX {
            errors.too_many(&list, found.len(), CONDITIONS_MAX);
        }
        conditions(found, &list, errors);
        if let Some(data) = device.data.as_ref().filter(|data| !data.0.is_null()) {
            raw_object(data, DATA_MAX_B, &path.child("data"), errors);
        }
        if let Some(network) = &device.network_data {
            self::network(network, &path.child("networkData"), errors);
        }
    });
}

fn network(data: &resource::NetworkDeviceData, path: &Path<'_>, errors: &mut Errors) {
    for (field, value, max) in [
        ("interfaceName", &data.interface_name, INTERFACE_NAME_MAX_B),
        ("hardwareAddress", &data.hardware_address, HARDWARE_ADDRESS_MAX_B),
    ] {
        if text(value).len() > max {
            errors.too_long(&path.child(field), max);
        }
    }
    let addresses = data.ips.as_deref().unwrap_or_default();
    each_once(addresses, ADDRESSES_MAX, &path.child("ips"), errors, String::as_str, |address, path, errors| {
        interface_address(address, path, errors);
    });
}

/// A new allocation: one that is there may not change.
fn allocation(allocation: &resource::AllocationResult, known: &Requests<'_>, path: &Path<'_>, errors: &mut Errors) {
    let devices = path.child("devices");
    each(results(allocation), RESULTS_MAX, &devices.child("results"), errors, |result, path, errors| {
        known.reference(&result.request, &path.child("request"), errors);
        csi_driver_name(&result.driver, &path.child("driver"), errors);
        pool_name(&result.pool, &path.child("pool"), errors);
        dns_label(&result.device, &path.child("device"), errors);
        binding_conditions(&result.binding_conditions, &result.binding_failure_conditions, path, errors);
        if let Some(share) = &result.share_id {
            uid(share, &path.child("shareID"), errors);
        }
    });
    let configs = allocation.devices.as_ref().and_then(|d| d.config.as_deref()).unwrap_or_default();
    each(configs, 2 * CONFIGS_MAX, &devices.child("config"), errors, |config, path, errors| {
        match config.source.as_str() {
            "" => errors.required(&path.child("source"), ""),
            "FromClaim" | "FromClass" => {}
            other => errors.not_supported(&path.child("source"), other, &["FromClaim", "FromClass"]),
        }
        known.references(&config.requests, &path.child("requests"), errors);
        configuration(config.opaque.as_ref(), path, errors);
    });
    if let Some(selector) = &allocation.node_selector {
        node_selector(selector, &path.child("nodeSelector"), errors);
    }
}

/// Of devices that are given back, what was told of them goes, too.
pub(super) fn forget_given_back(claim: &mut Value, old: &Value) {
    let id = |device: &Value| {
        device_id(device.text("driver"), device.text("pool"), device.text("device"), device.text("shareID"))
    };
    let allocated = |claim: &Value| -> BTreeSet<String> {
        claim.list("status.allocation.devices.results").iter().map(id).collect()
    };
    let given_back: BTreeSet<String> = allocated(old).difference(&allocated(claim)).cloned().collect();
    let Some(status) = claim.get_mut("status").and_then(Value::as_object_mut) else { return };
    let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut) else { return };
    if given_back.is_empty() {
        return;
    }
    devices.retain(|device| !given_back.contains(&id(device)));
    if devices.is_empty() {
        status.remove("devices");
    }
}
