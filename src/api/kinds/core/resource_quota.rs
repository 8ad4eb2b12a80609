//! ResourceQuota.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::IMMUTABLE;
use crate::kinds::core::pod::{defaults::resource_list, validate};
use crate::kinds::facts::{AGE, Facts, NAME, text};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::Row;
use crate::quantity::Quantity;
use crate::strategy::Subresource;

/// Names without a domain that a quota can be of.
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const COMPUTE: &[&str] = &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
const OPPOSITES: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];
const ONLY_EXISTS: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
     ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
     ResourceQuotaScopeCrossNamespacePodAffinity";

pub(super) struct ResourceQuotas;

impl Kind for ResourceQuotas {
    type Typed = core::ResourceQuota;
    const FACTS: Facts = Facts {
        short_names: &["quota"],
        subresources: &[Subresource::Status],
        columns: &[
            NAME,
            text("Request", "What is used and allowed, but for limits."),
            text("Limit", "The sums of limits, used and allowed."),
            AGE,
        ],
        ..Facts::new("", "v1", "resourcequotas", "ResourceQuota")
    };

    fn default(quota: &mut Value) {
        if let Some(hard) = spec_of(quota).and_then(|s| s.existing("hard")) {
            resource_list(hard);
        }
    }

    fn validate(quota: &core::ResourceQuota, errors: &mut Errors) {
        let Some(spec) = &quota.spec else { return };
        let path = Path::new("spec");
        amounts(spec.hard.as_ref(), &path.child("hard"), errors);
        scopes(spec, &path, errors);
        selector(spec, &path.child("scopeSelector"), errors);
    }

    fn validate_update(quota: &core::ResourceQuota, old: &core::ResourceQuota, errors: &mut Errors) {
        Self::validate(quota, errors);
        let scopes = |q: &core::ResourceQuota| q.spec.as_ref().and_then(|s| s.scopes.clone()).unwrap_or_default();
        let (new, old) = (scopes(quota), scopes(old));
        let sorted = |list: &[String]| list.iter().cloned().collect::<BTreeSet<String>>();
        if sorted(&new) != sorted(&old) {
            errors.invalid(&Path::new("spec").child("scopes"), &new, IMMUTABLE);
        }
    }

    fn prepare_status_update(quota: &mut Value, _old: &Value) {
        let Some(status) = quota.as_object_mut().and_then(|q| q.existing("status")) else { return };
        for list in ["hard", "used"] {
            if let Some(list) = status.existing(list) {
                resource_list(list);
            }
        }
    }

    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(quota: &core::ResourceQuota, _old: &core::ResourceQuota, errors: &mut Errors) {
        let Some(status) = &quota.status else { return };
        let path = Path::new("status");
        amounts(status.hard.as_ref(), &path.child("hard"), errors);
        amounts(status.used.as_ref(), &path.child("used"), errors);
    }

    fn warnings(quota: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some() {
            return Vec::new();
        }
        let hard = |name: &str| quota.at("spec.hard").get(name)?.as_str()?.parse::<Quantity>().ok();
        let mut out = Vec::new();
        for name in ["cpu", "memory", "storage", "ephemeral-storage"] {
            let mut asked = format!("requests.{name}");
            if hard(&asked).is_none() && matches!(name, "cpu" | "memory") {
                name.clone_into(&mut asked);
            }
            let limit_name = format!("limits.{name}");
            if let Some((request, limit)) = hard(&asked).zip(hard(&limit_name)).filter(|(r, l)| r > l) {
                out.push(format!("ResourceQuota {asked} ({request}) should be less than {limit_name} ({limit})"));
            }
        }
        out
    }

    fn cells(quota: &Value, row: &mut Row) {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        let hard: BTreeMap<_, _> = quota.map("status.hard").into_iter().flatten().collect();
        for (name, hard) in hard {
            let used = quota.at("status.used").get(name).and_then(Value::as_str).unwrap_or("0");
            let list = if name.starts_with("limits") { &mut limits } else { &mut requests };
            list.push(format!("{name}: {used}/{}", hard.as_str().unwrap_or("0")));
        }
        row.name(quota);
        row.push(requests.join(", "));
        row.push(limits.join(", "));
        row.age(quota);
    }
}

fn amounts(amounts: Option<&BTreeMap<String, QuantityText>>, path: &Path<'_>, errors: &mut Errors) {
    for (name, amount) in amounts.into_iter().flatten() {
        let path = path.key(name);
        let before = errors.len();
        validate::any_resource_name(name, &path, errors);
        if errors.len() == before && !name.contains('/') && !is_standard(name) {
            errors.invalid(&path, name, "must be a standard resource for quota");
        }
        validate::resource_value(name, amount, &path, errors);
    }
}

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name) || validate::is_hugepages(name) || name.starts_with("requests.hugepages-")
}

/// Whether objects of a scope have that resource.
fn goes_with(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => resource == "pods" || COMPUTE.contains(&resource),
    }
}

fn fits_all(scope: &str, spec: &core::ResourceQuotaSpec) -> bool {
    spec.hard.iter().flat_map(|h| h.keys()).all(|name| !is_standard(name) || goes_with(scope, name))
}

fn conflicting(scopes: &BTreeSet<&str>) -> bool {
    OPPOSITES.iter().any(|pair| pair.iter().all(|scope| scopes.contains(scope)))
}

fn scopes(spec: &core::ResourceQuotaSpec, path: &Path<'_>, errors: &mut Errors) {
    let list = spec.scopes.as_deref().unwrap_or_default();
    let path = path.child("scopes");
    for scope in list {
        if !SCOPES.contains(&scope.as_str()) {
            errors.invalid(&path, list, "unsupported scope");
        } else if !fits_all(scope, spec) {
            errors.invalid(&path, list, "unsupported scope applied to resource");
        }
    }
    if conflicting(&list.iter().map(String::as_str).collect()) {
        errors.invalid(&path, list, "conflicting scopes");
    }
}

fn selector(spec: &core::ResourceQuotaSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(selector) = &spec.scope_selector else { return };
    let requirements = selector.match_expressions.as_deref().unwrap_or_default();
    let path = path.child("matchExpressions");
    for requirement in requirements {
        let scope = requirement.scope_name.as_str();
        let values = requirement.values.as_deref().unwrap_or_default();
        if !SCOPES.contains(&scope) {
            errors.invalid(&path.child("scopeName"), scope, "unsupported scope");
        } else if !fits_all(scope, spec) {
            errors.invalid(&path, selector, "unsupported scope applied to resource");
        }
        let free = matches!(scope, "PriorityClass" | "VolumeAttributesClass");
        if !free && SCOPES.contains(&scope) && requirement.operator != "Exists" {
            errors.invalid(&path.child("operator"), &requirement.operator, ONLY_EXISTS);
        }
        match requirement.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                let message = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.required(&path.child("values"), message);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let message = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.invalid(&path.child("values"), values, message);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
    }
    if conflicting(&requirements.iter().map(|r| r.scope_name.as_str()).collect()) {
        errors.invalid(&path, spec.scopes.as_deref().unwrap_or_default(), "conflicting scopes");
    }
}
