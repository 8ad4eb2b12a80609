//! What a status update of a pod may not bring about.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as core;

use super::container::may_restart_all;
use crate::field::{Errors, Path};
use crate::kinds::checks::{IMMUTABLE, dns_subdomain, id, ip, is_ipv6, qualified_name, text};

const STATUS: Path<'static> = Path::new("status");
/// Conditions of the system, which have names of their own.
const SYSTEM_CONDITIONS: [&str; 3] = ["Initialized", "PodScheduled", "Ready"];
const NOT_A_GENERATION: &str = "must be a non-negative integer";

pub(in crate::kinds::core::pod) fn status_update(new: &core::Pod, old: &core::Pod, errors: &mut Errors) {
    let (Some(status), Some(spec)) = (&new.status, &old.spec) else { return };
    let empty = core::PodStatus::default();
    let before = old.status.as_ref().unwrap_or(&empty);
    conditions(status, errors);
    nominated(status, before, spec, errors);
    if let Some(generation) = status.observed_generation.filter(|g| *g < 0) {
        errors.invalid(&STATUS.child("observedGeneration"), generation, NOT_A_GENERATION);
    }
    if status.qos_class != before.qos_class {
        errors.invalid(&STATUS.child("qosClass"), text(&status.qos_class), IMMUTABLE);
    }
    let none = Vec::new();
    let init = spec.init_containers.as_ref().unwrap_or(&none);
    let lists = [
        ("containerStatuses", &status.container_statuses, &before.container_statuses, &spec.containers),
        ("initContainerStatuses", &status.init_container_statuses, &before.init_container_statuses, init),
        (
            "ephemeralContainerStatuses",
            &status.ephemeral_container_statuses,
            &before.ephemeral_container_statuses,
            &none,
        ),
    ];
    // Then any may come back to life.
    let restarts_all = may_restart_all(&spec.containers) || may_restart_all(init);
    for (list, new, old, containers) in lists {
        let (new, old) = (new.as_deref().unwrap_or_default(), old.as_deref().unwrap_or_default());
        let list = STATUS.child(list);
        if !restarts_all {
            stays_terminated(text(&spec.restart_policy), containers, (new, old), &list, errors);
        }
        users(new, &list, errors);
    }
    claims(status, spec, errors);
    addresses(status, errors);
}

fn conditions(status: &core::PodStatus, errors: &mut Errors) {
    let list = STATUS.child("conditions");
    for (i, condition) in status.conditions.iter().flatten().enumerate() {
        if let Some(generation) = condition.observed_generation.filter(|g| *g < 0) {
            errors.invalid(&list.index(i).child("observedGeneration"), generation, NOT_A_GENERATION);
        }
        if !SYSTEM_CONDITIONS.contains(&condition.type_.as_str()) {
            qualified_name(&condition.type_, &list.index(i).child("Type"), errors);
        }
    }
}

fn nominated(status: &core::PodStatus, before: &core::PodStatus, spec: &core::PodSpec, errors: &mut Errors) {
    let node = text(&status.nominated_node_name);
    if node.is_empty() || node == text(&before.nominated_node_name) {
        return;
    }
    let path = STATUS.child("nominatedNodeName");
    dns_subdomain(node, &path, errors);
    if !text(&spec.node_name).is_empty() {
        errors.forbidden(&path, "may not be set on pods that are already bound to a node");
    }
}

/// A container that will not be restarted can't come back to life. None of the ephemeral ones will be.
fn stays_terminated(
    pod_policy: &str,
    containers: &[core::Container],
    (new, old): (&[core::ContainerStatus], &[core::ContainerStatus]),
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (i, before) in old.iter().enumerate() {
        let Some(ended) = before.state.as_ref().and_then(|s| s.terminated.as_ref()) else { continue };
        let own = containers.iter().find(|c| c.name == before.name);
        if own.is_some_and(|container| restarts(container, pod_policy, ended.exit_code)) {
            continue;
        }
        let now = new.iter().find(|s| s.name == before.name);
        if now.is_some_and(|s| s.state.as_ref().is_none_or(|s| s.terminated.is_none())) {
            errors.forbidden(&path.index(i).child("state"), "may not be transitioned to non-terminated state");
        }
    }
}

fn restarts(container: &core::Container, pod_policy: &str, exit_code: i32) -> bool {
    let policy = match text(&container.restart_policy) {
        "" => pod_policy,
        own => own,
    };
    let has_rules = container.restart_policy_rules.as_ref().is_some_and(|rules| !rules.is_empty());
    has_rules || policy == "Always" || policy == "OnFailure" && exit_code != 0
}

fn users(statuses: &[core::ContainerStatus], list: &Path<'_>, errors: &mut Errors) {
    for (i, status) in statuses.iter().enumerate() {
        let Some(user) = status.user.as_ref().and_then(|user| user.linux.as_ref()) else { continue };
        let path = list.index(i);
        let path = path.child("linux");
        id(user.uid, &path.child("uid"), errors);
        id(user.gid, &path.child("gid"), errors);
        for (j, group) in user.supplemental_groups.iter().flatten().enumerate() {
            id(*group, &path.child("supplementalGroups").index(j), errors);
        }
    }
}

fn claims(status: &core::PodStatus, spec: &core::PodSpec, errors: &mut Errors) {
    let known: BTreeSet<&str> = spec.resource_claims.iter().flatten().map(|claim| claim.name.as_str()).collect();
    let list = STATUS.child("resourceClaimStatuses");
    let mut seen = BTreeSet::new();
    for (i, claim) in status.resource_claim_statuses.iter().flatten().enumerate() {
        let path = list.index(i);
        if !known.contains(claim.name.as_str()) {
            let message = "must match the name of an entry in `spec.resourceClaims`";
            errors.invalid(&path.child("name"), &claim.name, message);
        }
        if !seen.insert(&claim.name) {
            errors.duplicate(&path.child("name"), &claim.name);
        }
        if let Some(name) = &claim.resource_claim_name {
            dns_subdomain(name, &path.child("resourceClaimName"), errors);
        }
    }
}

fn addresses(status: &core::PodStatus, errors: &mut Errors) {
    let pods: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    one_of_each_family(&pods, &STATUS.child("podIPs"), errors);
    let hosts: Vec<&str> = status.host_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    let list = STATUS.child("hostIPs");
    if let Some(first) = hosts.first().filter(|first| **first != text(&status.host_ip)) {
        errors.invalid(&list.index(0).child("ip"), *first, "must be equal to `hostIP`");
    }
    one_of_each_family(&hosts, &list, errors);
}

fn one_of_each_family(ips: &[&str], list: &Path<'_>, errors: &mut Errors) {
    for (i, address) in ips.iter().enumerate() {
        ip(address, &list.index(i), errors);
    }
    let sixes = ips.iter().filter(|ip| is_ipv6(ip)).count();
    if ips.len() > 1 && (ips.len() > 2 || sixes != 1) {
        errors.invalid(list, ips, "may specify no more than one IP for each IP family");
    }
}
