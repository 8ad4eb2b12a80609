//! What is wrong with a pod, or with the pod template of a workload.

mod container;
mod probe;
mod resources;
mod scheduling;
mod security;
mod status;
pub(in crate::kinds::core) mod update;
mod volume;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;

use crate::field::{Errors, Path};
use crate::kinds::checks::{dns_label, dns_subdomain, ip, labels_of, one_of, one_of_if_set, text};
use crate::metadata;
use crate::names;
use crate::selector::LabelSelector;

pub(in crate::kinds) use resources::{
    any_resource_name, is_extended_resource, is_hugepages, is_native, requirements, resource_name, resource_value,
};
pub(in crate::kinds::core) use scheduling::taint_effect;
pub(in crate::kinds) use scheduling::{node_selector, tolerations};
pub(super) use status::status_update;
pub(in crate::kinds::core) use volume::same_source;

const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const HOSTNAME_MAX: usize = 64;
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCHES_MAX_CHARS: usize = 2048;
const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What the parts of a pod must know of the rest.
struct Context<'a> {
    spec: &'a core::PodSpec,
    /// Whether it is a pod already, with its name where it has one, or only a template.
    pod: Option<&'a str>,
    /// The volumes by name; those that are wrong are left out.
    volumes: BTreeMap<&'a str, &'a core::Volume>,
    claims: BTreeSet<&'a str>,
    host_users: bool,
}

/// A whole pod.
pub(super) fn pod(pod: &core::Pod, errors: &mut Errors) {
    let Some(spec) = &pod.spec else { return errors.required(&Path::new("spec"), "") };
    let path = Path::new("spec");
    annotations(pod.metadata.annotations.as_ref(), spec, &Path::new("metadata").child("annotations"), errors);
    pod_spec(spec, Some(text(&pod.metadata.name)), &path, errors);
    if text(&spec.service_account_name).is_empty() {
        for (i, volume) in spec.volumes.iter().flatten().enumerate() {
            let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
            for (j, _) in sources.enumerate().filter(|(_, s)| s.service_account_token.is_some()) {
                errors.forbidden(
                    &path.child("volumes").index(i).child("projected.sources").index(j).child("serviceAccountToken"),
                    "must not be specified when serviceAccountName is not set",
                );
            }
        }
    }
    for (list, containers) in
        [("containers", Some(&spec.containers)), ("initContainers", spec.init_containers.as_ref())]
    {
        for (i, container) in containers.into_iter().flatten().enumerate() {
            container::image_has_no_spaces(text(&container.image), &path.child(list).index(i), errors);
        }
    }
}

/// What only holds at creation.
pub(super) fn created(pod: &core::Pod, errors: &mut Errors) {
    let Some(spec) = &pod.spec else { return };
    let path = Path::new("spec");
    if spec.ephemeral_containers.as_ref().is_some_and(|c| !c.is_empty()) {
        errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    if !text(&spec.node_name).is_empty() && spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()) {
        errors.forbidden(&path.child("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
}

/// The template of a workload whose pods must have the labels that its selector asks for, and restart always.
pub(in crate::kinds) fn workload_template(
    template: Option<&core::PodTemplateSpec>,
    selector: &LabelSelector,
    kind: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(template) = template else { return errors.required(path, "") };
    let empty = BTreeMap::new();
    let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref()).unwrap_or(&empty);
    if !selector.is_everything() && !selector.matches(labels) {
        errors.invalid(&path.child("metadata.labels"), labels, "`selector` does not match template `labels`");
    }
    self::template(template, path, errors);
    let Some(spec) = &template.spec else { return };
    let restart = text(&spec.restart_policy);
    if restart != "Always" {
        errors.not_supported(&path.child("spec.restartPolicy"), restart, &["Always"]);
    }
    if spec.active_deadline_seconds.is_some() {
        let message = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden(&path.child("spec.activeDeadlineSeconds"), &message);
    }
}

/// Any pod template.
pub(in crate::kinds) fn template(template: &core::PodTemplateSpec, path: &Path<'_>, errors: &mut Errors) {
    let empty = core::PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&empty);
    if let Some(meta) = &template.metadata {
        if let Some(labels) = &meta.labels {
            labels_of(labels, &path.child("labels"), errors);
        }
        let pairs = meta.annotations.iter().flatten().map(|(k, v)| (k.as_str(), v.as_str()));
        metadata::validate_annotations(pairs, &path.child("annotations"), errors);
        annotations(meta.annotations.as_ref(), spec, &path.child("annotations"), errors);
    }
    pod_spec(spec, None, &path.child("spec"), errors);
    if spec.ephemeral_containers.as_ref().is_some_and(|c| !c.is_empty()) {
        let path = path.child("spec.ephemeralContainers");
        errors.forbidden(&path, "ephemeral containers not allowed in pod template");
    }
}

fn annotations(
    annotations: Option<&BTreeMap<String, String>>,
    spec: &core::PodSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let get = |key: &str| annotations.and_then(|a| a.get(key));
    if let Some(value) = get(MIRROR)
        && text(&spec.node_name).is_empty()
    {
        errors.invalid(&path.key(MIRROR), value, "must set spec.nodeName if mirror pod annotation is set");
    }
    if let Some(cost) = get(DELETION_COST) {
        // Leading zeros and plus signs are refused, so that there is one text per number.
        let plain = cost.parse::<i32>().is_ok_and(|n| n.to_string() == *cost);
        if !plain {
            errors.invalid(&path.key(DELETION_COST), cost, "must be a 32bit integer");
        }
    }
}

fn pod_spec(spec: &core::PodSpec, pod: Option<&str>, path: &Path<'_>, errors: &mut Errors) {
    if spec.termination_grace_period_seconds.is_none() {
        errors.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let context = Context {
        spec,
        pod,
        volumes: volume::volumes(spec.volumes.as_deref().unwrap_or_default(), pod, &path.child("volumes"), errors),
        claims: spec.resource_claims.iter().flatten().map(|c| c.name.as_str()).filter(|n| !n.is_empty()).collect(),
        host_users: spec.host_users != Some(false),
    };
    resources::pod_claims(spec.resource_claims.as_deref().unwrap_or_default(), &path.child("resourceClaims"), errors);
    container::containers(&context, path, errors);
    container::init_containers(&context, path, errors);
    container::ephemeral_containers(&context, path, errors);
    host_network_ports(&context, path, errors);
    one_of(text(&spec.restart_policy), RESTART_POLICIES, &path.child("restartPolicy"), errors);
    one_of(text(&spec.dns_policy), DNS_POLICIES, &path.child("dnsPolicy"), errors);
    if let Some(selector) = &spec.node_selector {
        labels_of(selector, &path.child("nodeSelector"), errors);
    }
    security::pod(spec, path, errors);
    if let Some(affinity) = &spec.affinity {
        scheduling::affinity(affinity, &path.child("affinity"), errors);
    }
    dns_config(spec, &path.child("dnsConfig"), errors);
    scheduling::gates(spec, path, errors);
    scheduling::topology_spread(spec, &path.child("topologySpreadConstraints"), errors);
    single_fields(spec, path, errors);
    scheduling::tolerations(spec.tolerations.as_deref().unwrap_or_default(), &path.child("tolerations"), errors);
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let list = path.child("hostAliases");
        let path = list.index(i);
        ip(&alias.ip, &path.child("ip"), errors);
        for (j, name) in alias.hostnames.iter().flatten().enumerate() {
            dns_subdomain(name, &path.child("hostnames").index(j), errors);
        }
    }
    resources::pod_level(&context, path, errors);
    security::operating_system(spec, path, errors);
    each_container(spec, path, |container, path| {
        container::file_volumes(&context, container, path, errors);
        if !context.host_users && container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
            errors.forbidden(&path.child("volumeDevices"), "when `hostUsers` is false");
        }
    });
}

/// Those that run first, and those that run.
fn each_container(spec: &core::PodSpec, path: &Path<'_>, mut visit: impl FnMut(&core::Container, &Path<'_>)) {
    let init = spec.init_containers.as_deref().unwrap_or_default();
    for (list, containers) in [("initContainers", init), ("containers", &spec.containers)] {
        for (i, container) in containers.iter().enumerate() {
            visit(container, &path.child(list).index(i));
        }
    }
}

fn single_fields(spec: &core::PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let subdomains = [
        ("serviceAccountName", &spec.service_account_name),
        ("nodeName", &spec.node_name),
        ("priorityClassName", &spec.priority_class_name),
        ("runtimeClassName", &spec.runtime_class_name),
    ];
    for (field, value) in subdomains {
        let name = text(value);
        // An empty runtime class is a mistake, an empty one of the others is none.
        if !name.is_empty() || field == "runtimeClassName" && value.is_some() {
            dns_subdomain(name, &path.child(field), errors);
        }
    }
    for (field, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if !text(value).is_empty() {
            dns_label(text(value), &path.child(field), errors);
        }
    }
    if let Some(name) = &spec.hostname_override {
        let path = path.child("hostnameOverride");
        if spec.set_hostname_as_fqdn == Some(true) {
            errors.forbidden(&path, "may not be specified when setHostnameAsFQDN is true");
        }
        if spec.host_network == Some(true) {
            errors.forbidden(&path, "may not be specified when hostNetwork is true");
        }
        if name.len() > HOSTNAME_MAX {
            errors.too_long(&path, HOSTNAME_MAX);
        }
        dns_subdomain(name, &path, errors);
    }
    if let Some(seconds) = spec.active_deadline_seconds.filter(|s| !(1..=i64::from(i32::MAX)).contains(s)) {
        errors.invalid(&path.child("activeDeadlineSeconds"), seconds, "must be between 1 and 2147483647, inclusive");
    }
    one_of_if_set(&spec.preemption_policy, &["PreemptLowerPriority", "Never"], &path.child("preemptionPolicy"), errors);
}

/// On the host's network a container's port is the host's port; templates may leave it out.
fn host_network_ports(context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    if context.spec.host_network != Some(true) {
        return;
    }
    for (i, container) in context.spec.containers.iter().enumerate() {
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let host_port = port.host_port.unwrap_or(0);
            if (context.pod.is_some() || host_port != 0) && host_port != port.container_port {
                errors.invalid(
                    &path.child("containers").index(i).child("ports").index(j).child("hostPort"),
                    host_port,
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
    }
}

fn dns_config(spec: &core::PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let config = spec.dns_config.as_ref();
    let nameservers = config.and_then(|c| c.nameservers.as_deref()).unwrap_or_default();
    if text(&spec.dns_policy) == "None" && config.is_none() {
        return errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
    }
    if text(&spec.dns_policy) == "None" && nameservers.is_empty() {
        let message = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        return errors.required(&path.child("nameservers"), message);
    }
    let Some(config) = config else { return };
    if nameservers.len() > NAMESERVERS_MAX {
        let message = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.invalid(&path.child("nameservers"), nameservers, &message);
    }
    for (i, server) in nameservers.iter().enumerate() {
        ip(server, &path.child("nameservers").index(i), errors);
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    if searches.len() > SEARCHES_MAX {
        let message = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.invalid(&path.child("searches"), searches, &message);
    }
    if searches.join(" ").len() > SEARCHES_MAX_CHARS {
        let message =
            format!("must not have more than {SEARCHES_MAX_CHARS} characters (including spaces) in the search list");
        errors.invalid(&path.child("searches"), searches, &message);
    }
    for (i, search) in searches.iter().enumerate() {
        // A single dot switches the search off; underscores occur in the wild.
        let name = search.strip_suffix('.').unwrap_or(search);
        if search != "." && !names::dns_subdomain(&name.replace('_', "a")).is_empty() {
            dns_subdomain(name, &path.child("searches").index(i), errors);
        }
    }
    for (i, option) in config.options.iter().flatten().enumerate() {
        if text(&option.name).is_empty() {
            errors.required(&path.child("options").index(i), "must not be empty");
        }
    }
}
