//! Requests, limits, claims, and references to them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;

use super::Context;
use crate::field::{Errors, Path};
use crate::kinds::checks::{NEGATIVE, dns_label, dns_subdomain, one_of, quantity, text};
use crate::names;
pub(in crate::kinds) use crate::names::{is_extended_resource, is_native_resource as is_native};
use crate::quantity::Quantity;

const FIELD_RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const BYTE_DIVISORS: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Names without a domain that are known, though not all are of use for containers.
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "persistentvolumeclaims",
    "configmaps",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "services.nodeports",
    "services.loadbalancers",
];

/// Resources that are counted in whole numbers.
const COUNTED: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

pub(in crate::kinds) fn is_hugepages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// A resource of any use.
pub(in crate::kinds) fn any_resource_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let wrong = names::qualified_name(name);
    let good_form = wrong.is_empty();
    errors.invalid_each(path, name, wrong);
    if good_form && !name.contains('/') && !STANDARD.contains(&name) && !is_hugepages(name) {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
    }
}

/// A resource that a container can ask for.
pub(in crate::kinds) fn resource_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    any_resource_name(name, path, errors);
    if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_hugepages(name) {
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended_resource(name) {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

/// An amount of a resource: not negative, and whole where halves make no sense.
pub(in crate::kinds) fn resource_value(
    name: &str,
    value: &QuantityText,
    path: &Path<'_>,
    errors: &mut Errors,
) -> Quantity {
    let amount = quantity(value, path, errors);
    if amount.is_negative() {
        errors.invalid(path, amount.to_string(), NEGATIVE);
    }
    if (is_extended_resource(name) || COUNTED.contains(&name)) && amount.milli_value() % 1000 != 0 {
        errors.invalid(path, amount.to_string(), "must be an integer");
    }
    amount
}

/// Huge pages come whole.
fn whole_pages(name: &str, amount: Quantity, path: &Path<'_>, errors: &mut Errors) {
    let size: Option<Quantity> = name.strip_prefix("hugepages-").and_then(|s| s.parse().ok());
    if let Some(size) = size.filter(|s| s.value() > 0)
        && amount.value() % size.value() != 0
    {
        let message = format!("{amount} is not positive integer multiple of {name}");
        errors.invalid(path, amount.to_string(), &message);
    }
}

pub(in crate::kinds) fn requirements(
    requirements: &core::ResourceRequirements,
    claims: &BTreeSet<&str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    checked_requirements(requirements, resource_name, claims, path, errors);
}

fn checked_requirements(
    requirements: &core::ResourceRequirements,
    check_name: fn(&str, &Path<'_>, &mut Errors),
    claims: &BTreeSet<&str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    let empty = BTreeMap::new();
    let limits = requirements.limits.as_ref().unwrap_or(&empty);
    let requests = requirements.requests.as_ref().unwrap_or(&empty);
    for (name, value) in limits {
        check_name(name, &limits_path.key(name), errors);
        let limit = resource_value(name, value, &limits_path.key(name), errors);
        whole_pages(name, limit, &limits_path.key(name), errors);
    }
    for (name, value) in requests {
        check_name(name, &requests_path.key(name), errors);
        let request = resource_value(name, value, &requests_path.key(name), errors);
        let overcommit = is_native(name) && !is_hugepages(name);
        match limits.get(name).and_then(|l| l.0.parse::<Quantity>().ok()) {
            Some(limit) if request != limit && !overcommit => {
                let message = format!("must be equal to {name} limit of {limit}");
                errors.invalid(&requests_path, request.to_string(), &message);
            }
            Some(limit) if request > limit => {
                let message = format!("must be less than or equal to {name} limit of {limit}");
                errors.invalid(&requests_path, request.to_string(), &message);
            }
            None if !overcommit => {
                errors.required(&limits_path, "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
        whole_pages(name, request, &requests_path.key(name), errors);
    }
    let mut all = limits.keys().chain(requests.keys());
    if all.clone().any(|n| is_hugepages(n)) && !all.any(|n| n == "cpu" || n == "memory") {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
    claim_names(requirements, claims, &path.child("claims"), errors);
}

fn claim_names(
    requirements: &core::ResourceRequirements,
    claims: &BTreeSet<&str>,
    list: &Path<'_>,
    errors: &mut Errors,
) {
    let mut seen = BTreeSet::new();
    for (i, claim) in requirements.claims.iter().flatten().enumerate() {
        let name = claim.name.as_str();
        if name.is_empty() {
            errors.required(&list.index(i), "");
            continue;
        }
        let path = list.index(i);
        let request = text(&claim.request);
        if seen.contains(&(name, "")) {
            errors.duplicate(&path, name);
        } else {
            if !request.is_empty() {
                dns_label(request, &path.child("request"), errors);
            }
            if seen.contains(&(name, request)) {
                errors.duplicate(&path, format!("{name}/{request}"));
            } else if request.is_empty() && seen.iter().any(|(claim, _)| *claim == name) {
                errors.duplicate(&path, name);
            }
            seen.insert((name, request));
        }
        if !claims.contains(name) {
            let known = match claims.is_empty() {
                true => " which is empty".to_owned(),
                false => format!(": {}", claims.iter().copied().collect::<Vec<_>>().join(", ")),
            };
            errors.not_found_because(
                &path,
                name,
                &format!("must be one of the names in pod.spec.resourceClaims{known}"),
            );
        }
    }
}

pub(super) fn pod_claims(claims: &[core::PodResourceClaim], list: &Path<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let path = list.index(i);
        if claim.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !seen.insert(claim.name.as_str()) {
            errors.duplicate(&path.child("name"), &claim.name);
        } else {
            dns_label(&claim.name, &path.child("name"), errors);
        }
        let message = match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(_), Some(_)) => {
                Some("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
            }
            (None, None) => Some("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            _ => None,
        };
        if let Some(message) = message {
            errors.invalid(&path, claim, message);
        }
        let names = [
            ("resourceClaimName", &claim.resource_claim_name),
            ("resourceClaimTemplateName", &claim.resource_claim_template_name),
        ];
        for (field, name) in names.iter().filter_map(|(f, n)| Some((f, n.as_ref()?))) {
            dns_subdomain(name, &path.child(field), errors);
        }
    }
}

pub(super) fn resize_policy(spec: &core::PodSpec, container: &core::Container, list: &Path<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, policy) in container.resize_policy.iter().flatten().enumerate() {
        if !seen.insert(policy.resource_name.as_str()) {
            errors.duplicate(&list.index(i), &policy.resource_name);
        }
        one_of(&policy.resource_name, &["cpu", "memory"], list, errors);
        one_of(&policy.restart_policy, &["NotRequired", "RestartContainer"], list, errors);
        if text(&spec.restart_policy) == "Never" && policy.restart_policy != "NotRequired" {
            let message = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.invalid(list, &policy.restart_policy, message);
        }
    }
}

/// What the pod as a whole asks for, and the overhead of its runtime.
pub(super) fn pod_level(context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(overhead) = &context.spec.overhead {
        let path = path.child("overhead.limits");
        for (name, value) in overhead {
            resource_name(name, &path.key(name), errors);
            resource_value(name, value, &path.key(name), errors);
        }
    }
    let Some(resources) = &context.spec.resources else { return };
    let path = path.child("resources");
    if context.spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return errors.forbidden(&path, "may not be set for a windows pod");
    }
    if resources.claims.as_ref().is_some_and(|c| !c.is_empty()) {
        errors.forbidden(&path.child("claims"), "claims may not be set for Resources at pod-level");
    }
    checked_requirements(resources, pod_resource_name, &context.claims, &path, errors);
    for (name, value) in resources.requests.iter().flatten() {
        let Some(sum) = asked_together(context.spec, |r| r.requests.as_ref(), name) else { continue };
        if value.0.parse::<Quantity>().is_ok_and(|request| sum > request) {
            let message = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.invalid(&path.child("requests").key(name), &value.0, &message);
        }
    }
    for (name, value) in resources.limits.iter().flatten() {
        let Ok(limit) = value.0.parse::<Quantity>() else { continue };
        let sum = asked_together(context.spec, |r| r.limits.as_ref(), name).filter(|_| is_hugepages(name));
        if let Some(sum) = sum.filter(|sum| *sum > limit) {
            let message = format!("must be greater than or equal to aggregate container limits of {sum}");
            errors.invalid(&path.child("limits").key(name), &value.0, &message);
        }
        for (i, container) in context.spec.containers.iter().enumerate() {
            if let Some(own) = amount_of(container, &|r| r.limits.as_ref(), name).filter(|own| *own > limit) {
                let list = path.child("containers");
                let path = list.index(i);
                let path = path.key(name);
                let message = format!("must be less than or equal to pod limits of {limit}");
                errors.invalid(&path.child("limits"), own.to_string(), &message);
            }
        }
    }
}

/// A resource that a pod as a whole can ask for.
fn pod_resource_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let before = errors.len();
    any_resource_name(name, path, errors);
    if errors.len() == before && !matches!(name, "cpu" | "memory") && !is_hugepages(name) {
        errors.not_supported(path, name, &["cpu", "hugepages-", "memory"]);
    }
}

type Amounts = BTreeMap<String, QuantityText>;

fn amount_of(
    container: &core::Container,
    list: &impl Fn(&core::ResourceRequirements) -> Option<&Amounts>,
    name: &str,
) -> Option<Quantity> {
    list(container.resources.as_ref()?)?.get(name)?.0.parse().ok()
}

/// What the containers of a pod ask for at most at one time: all that stay, or one that starts beside those that stay.
fn asked_together(
    spec: &core::PodSpec,
    list: impl Fn(&core::ResourceRequirements) -> Option<&Amounts>,
    name: &str,
) -> Option<Quantity> {
    let zero = || Quantity::ZERO;
    let mut together = spec.containers.iter().filter_map(|c| amount_of(c, &list, name)).reduce(Quantity::plus);
    let (mut staying, mut starting): (Option<Quantity>, Option<Quantity>) = (None, None);
    for container in spec.init_containers.iter().flatten() {
        let Some(own) = amount_of(container, &list, name) else { continue };
        let with_others = staying.unwrap_or_else(zero).plus(own);
        if text(&container.restart_policy) == "Always" {
            staying = Some(with_others);
            together = Some(together.unwrap_or_else(zero).plus(own));
        }
        starting = Some(starting.filter(|most| *most > with_others).unwrap_or(with_others));
    }
    match (together, starting) {
        (Some(together), Some(starting)) if starting > together => Some(starting),
        (together, starting) => together.or(starting),
    }
}

/// A resource of a container, as the downward API hands it out.
pub(super) fn resource_field_ref(
    field: &core::ResourceFieldSelector,
    in_volume: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let resource = field.resource.as_str();
    let hugepages = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if in_volume && text(&field.container_name).is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !FIELD_RESOURCES.contains(&resource) && !hugepages {
        errors.not_supported(&path.child("resource"), resource, FIELD_RESOURCES);
    }
    let Some(divisor) = &field.divisor else { return };
    let divisor = quantity(divisor, &path.child("divisor"), errors);
    if divisor.is_zero() {
        return;
    }
    let shown = divisor.to_string();
    let what = match resource {
        "limits.cpu" | "requests.cpu" => {
            if !matches!(shown.as_str(), "1m" | "1") {
                let message = "only divisor's values 1m and 1 are supported with the cpu resource";
                errors.invalid(&path.child("divisor"), resource, message);
            }
            return;
        }
        "limits.memory" | "requests.memory" => "memory",
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => "local ephemeral storage",
        _ if hugepages => "hugepages",
        _ => return,
    };
    if !BYTE_DIVISORS.contains(&shown.as_str()) {
        let message =
            format!("only divisor's values {} are supported with the {what} resource", BYTE_DIVISORS.join(", "));
        errors.invalid(&path.child("divisor"), resource, &message);
    }
}
