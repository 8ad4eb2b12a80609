//! PersistentVolumeClaim.

use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use super::persistent_volume::{
    ACCESS, ATTRIBUTES, CLASS, CLASS_ANNOTATION, MODE, STATUS, VOLUME_MODES, access_modes, canonical_capacity, class,
    phase, short_modes,
};
use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{
    dns_label, dns_subdomain, immutable, label_selector, nonnegative_quantity, one_of_if_set, positive_quantity,
    qualified_name, required, text,
};
use crate::kinds::core::pod::{defaults, validate};
use crate::kinds::facts::{self, AGE, Facts, NAME};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::Row;
use crate::kinds::warnings;
use crate::quantity::Quantity;
use crate::strategy::Subresource;

const SPEC: Path<'static> = Path::new("spec");
const SEALED: &str =
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

const RESIZE_STATES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

pub(super) struct PersistentVolumeClaims;

impl Kind for PersistentVolumeClaims {
    type Typed = core::PersistentVolumeClaim;
    const FACTS: Facts = Facts {
        short_names: &["pvc"],
        subresources: &[Subresource::Status],
        columns: &[
            NAME,
            STATUS,
            facts::text("Volume", "The volume that it is bound to."),
            facts::text("Capacity", "How big that is."),
            ACCESS,
            CLASS,
            ATTRIBUTES,
            AGE,
            MODE,
        ],
        ..Facts::new("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
    };

    fn default(claim: &mut Value) {
        if let Some(spec) = spec_of(claim) {
            defaults::claim_spec(spec);
        }
    }

    /// The two ways to name a data source say the same.
    fn prepare_create(claim: &mut Value) {
        let Some(map) = claim.as_object_mut() else { return };
        map.insert("status".to_owned(), json!({"phase": "Pending"}));
        let Some(spec) = map.existing("spec") else { return };
        match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
            (Some(source), None) if source.is_object() => {
                spec.insert("dataSourceRef".to_owned(), source);
            }
            (None, Some(source)) if source.is_object() && source.text("namespace").is_empty() => {
                spec.insert("dataSource".to_owned(), source);
            }
            _ => {}
        }
    }

    fn prepare_status_update(claim: &mut Value, _old: &Value) {
        canonical_capacity(claim.as_object_mut().and_then(|c| c.existing("status")));
    }

    fn validate(claim: &core::PersistentVolumeClaim, errors: &mut Errors) {
        let empty = core::PersistentVolumeClaimSpec::default();
        claim_spec(claim.spec.as_ref().unwrap_or(&empty), &SPEC, errors);
    }

    fn validate_update(claim: &core::PersistentVolumeClaim, old: &core::PersistentVolumeClaim, errors: &mut Errors) {
        Self::validate(claim, errors);
        update(claim, old, errors);
    }

    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(
        claim: &core::PersistentVolumeClaim,
        _old: &core::PersistentVolumeClaim,
        errors: &mut Errors,
    ) {
        let Some(status) = &claim.status else { return };
        let path = Path::new("status");
        for (name, amount) in status.capacity.iter().flatten() {
            nonnegative_quantity(amount, &path.child("capacity").key(name), errors);
        }
        let states = path.child("allocatedResourceStatuses");
        for (name, state) in status.allocated_resource_statuses.iter().flatten() {
            resource_key(name, &states, errors);
            if !RESIZE_STATES.contains(&state.as_str()) {
                errors.not_supported(&states, name, RESIZE_STATES);
            }
        }
        let amounts = path.child("allocatedResources");
        for (name, amount) in status.allocated_resources.iter().flatten() {
            if resource_key(name, &amounts, errors) {
                nonnegative_quantity(amount, &amounts.key(name), errors);
            }
        }
    }

    fn warnings(claim: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        let class = "deprecated since v1.8; use \"storageClassName\" attribute instead";
        warnings::annotations(claim, &[(CLASS_ANNOTATION, class)], "", &mut out);
        warnings::claim(claim.at("spec"), "spec", &mut out);
        out
    }

    fn cells(claim: &Value, row: &mut Row) {
        let volume = claim.text("spec.volumeName");
        row.name(claim);
        row.push(phase(claim));
        row.push(volume);
        row.push(if volume.is_empty() { "" } else { claim.text("status.capacity.storage") });
        row.push(if volume.is_empty() { String::new() } else { short_modes(claim.list("status.accessModes")) });
        row.push(class(claim));
        row.or(claim.text("spec.volumeAttributesClassName"), "<unset>");
        row.age(claim);
        row.or(claim.text("spec.volumeMode"), "<unset>");
    }
}

/// What is claimed, also by templates of claims.
pub(in crate::kinds) fn claim_spec(spec: &core::PersistentVolumeClaimSpec, path: &Path<'_>, errors: &mut Errors) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if let Some(selector) = &spec.selector {
        label_selector(selector, &path.child("selector"), errors);
    }
    access_modes(modes, "at least 1 access mode is required", path, errors);
    let resources = path.child("resources");
    match spec.resources.as_ref().and_then(|r| r.requests.as_ref()?.get("storage")) {
        None => errors.required(&resources.key("storage"), ""),
        Some(amount) => {
            positive_quantity(amount, &resources.key("storage"), errors);
        }
    }
    if let Some(class) = spec.storage_class_name.as_ref().filter(|c| !c.is_empty()) {
        dns_subdomain(class, &path.child("storageClassName"), errors);
    }
    one_of_if_set(&spec.volume_mode, VOLUME_MODES, &path.child("volumeMode"), errors);
    data_sources(spec, path, errors);
    if let Some(class) = spec.volume_attributes_class_name.as_ref().filter(|c| !c.is_empty()) {
        dns_subdomain(class, &path.child("volumeAttributesClassName"), errors);
    }
}

fn data_sources(spec: &core::PersistentVolumeClaimSpec, path: &Path<'_>, errors: &mut Errors) {
    let mut one = |field: &str, group: &Option<String>, kind: &str, name: &str| {
        let path = path.child(field);
        required(name, &path.child("name"), errors);
        required(kind, &path.child("kind"), errors);
        if text(group).is_empty() {
            if kind != "PersistentVolumeClaim" {
                let message = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
                errors.invalid(&path, kind, message);
            }
        } else {
            dns_subdomain(text(group), &path.child("apiGroup"), errors);
        }
    };
    if let Some(source) = &spec.data_source {
        one("dataSource", &source.api_group, &source.kind, &source.name);
    }
    if let Some(source) = &spec.data_source_ref {
        one("dataSourceRef", &source.api_group, &source.kind, &source.name);
    }
    let namespace = spec.data_source_ref.as_ref().map_or("", |r| text(&r.namespace));
    if !namespace.is_empty() {
        dns_label(namespace, &path.child("dataSourceRef.namespace"), errors);
    }
    let (Some(source), Some(reference)) = (&spec.data_source, &spec.data_source_ref) else { return };
    let shown = path.child("dataSource").to_string();
    if !text(&reference.namespace).is_empty() {
        errors.invalid(path, &shown, "may not be specified when dataSourceRef.namespace is specified");
    } else if source.api_group != reference.api_group || source.kind != reference.kind || source.name != reference.name
    {
        errors.invalid(path, &shown, "must match dataSourceRef");
    }
}

fn storage(spec: &core::PersistentVolumeClaimSpec) -> Option<Quantity> {
    spec.resources.as_ref()?.requests.as_ref()?.get("storage")?.0.parse().ok()
}

/// A claim is what it was, but that it can be bound, grow while it is bound, and change its attributes.
fn update(claim: &core::PersistentVolumeClaim, old: &core::PersistentVolumeClaim, errors: &mut Errors) {
    let (Some(new_spec), Some(old_spec)) = (&claim.spec, &old.spec) else { return };
    let mut allowed = new_spec.clone();
    if text(&old_spec.volume_name).is_empty() {
        allowed.volume_name.clone_from(&old_spec.volume_name);
    }
    class_update(claim, old, &mut allowed, errors);
    let bound = claim.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Bound"));
    if bound
        && let Some(requests) = allowed.resources.as_mut().and_then(|r| r.requests.as_mut())
        && let Some(before) = old_spec.resources.as_ref().and_then(|r| r.requests.as_ref()?.get("storage"))
    {
        requests.insert("storage".to_owned(), before.clone());
    }
    if bound {
        allowed.volume_attributes_class_name.clone_from(&old_spec.volume_attributes_class_name);
    }
    let as_value = |spec: &core::PersistentVolumeClaimSpec| serde_json::to_value(spec).unwrap_or_default();
    let mut differences = Vec::new();
    validate::update::diff("spec", &as_value(old_spec), &as_value(&allowed), &mut differences);
    if !differences.is_empty() {
        errors.forbidden(&SPEC, &format!("{SEALED}\n{}", differences.join("\n")));
    }
    let size = old.status.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage")?.0.parse().ok());
    if storage(new_spec) < storage(old_spec) && storage(new_spec) <= Some(size.unwrap_or(Quantity::ZERO)) {
        let path = SPEC.child("resources.requests.storage");
        errors.forbidden(&path, "field can not be less than status.capacity");
    }
    immutable(&new_spec.volume_mode, &old_spec.volume_mode, &Path::new("volumeMode"), errors);
    let in_effect = old.status.as_ref().is_some_and(|s| s.current_volume_attributes_class_name.is_some());
    let attributes = &new_spec.volume_attributes_class_name;
    if in_effect && *attributes != old_spec.volume_attributes_class_name && text(attributes).is_empty() {
        let to = if attributes.is_none() { "nil" } else { "empty string" };
        let message = format!("update to {to} is forbidden when status.currentVolumeAttributesClassName is not nil");
        errors.forbidden(&SPEC.child("volumeAttributesClassName"), &message);
    }
}

/// The class stays, but that a claim without one gets one, which is that of its annotation if it has that.
fn class_update(
    claim: &core::PersistentVolumeClaim,
    old: &core::PersistentVolumeClaim,
    allowed: &mut core::PersistentVolumeClaimSpec,
    errors: &mut Errors,
) {
    let annotation = |claim: &core::PersistentVolumeClaim| {
        claim.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION)).cloned()
    };
    let (before, after) = (annotation(old), annotation(claim));
    let had_none = old.spec.as_ref().is_none_or(|spec| spec.storage_class_name.is_none());
    let wanted = allowed.storage_class_name.clone();
    let is_upgrade = had_none && before.is_some() && wanted == before && (after.is_none() || after == before);
    if !is_upgrade {
        let path = Path::new("metadata");
        let path = path.child("annotations");
        immutable(&text(&after), &text(&before), &path.child(CLASS_ANNOTATION), errors);
    }
    if had_none && (before.is_none() || wanted == before) {
        allowed.storage_class_name = None;
    }
}

/// What an amount of a claim is of: its storage, or something of somebody else's.
fn resource_key(name: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    let before = errors.len();
    qualified_name(name, path, errors);
    if errors.len() == before && validate::is_native(name) && name != "storage" {
        errors.not_supported(path, name, &["storage"]);
    }
    errors.len() == before
}
