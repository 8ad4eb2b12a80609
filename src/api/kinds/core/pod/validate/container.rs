//! Containers of all sorts: their names, ports, environment and mounts.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;

use super::{Context, probe, resources, security};
use crate::field::{Errors, Path};
use crate::kinds::checks::{
    PROTOCOLS, descending_path, dns_label, dns_subdomain, no_backsteps, one_of, one_of_if_set, port_number,
    qualified_name, required, text,
};
use crate::names;

const MESSAGE_POLICIES: &[&str] = &["FallbackToLogsOnError", "File"];
const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const PROPAGATIONS: &[&str] = &["Bidirectional", "HostToContainer", "None"];
const RECURSIVE_READ_ONLY: &[&str] = &["Disabled", "Enabled", "IfPossible"];
const RESTART_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const NOT_FOR_INIT: &str = "may not be set for init containers without restartPolicy=Always";
const NOT_FOR_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";

pub(super) fn containers(context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("containers");
    if context.spec.containers.is_empty() {
        return errors.required(&list, "");
    }
    let mut names = BTreeSet::new();
    for (i, container) in context.spec.containers.iter().enumerate() {
        let path = list.index(i);
        common(context, container, &path, errors);
        if !names.insert(container.name.as_str()) {
            errors.duplicate(&path.child("name"), &container.name);
        }
        probe::lifecycle_and_probes(context.spec, container, &path, errors);
        restart_policy(container, &path, errors);
    }
    host_ports(context.spec.containers.iter().enumerate(), &list, errors);
}

pub(super) fn init_containers(context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("initContainers");
    let mut names: BTreeSet<&str> = context.spec.containers.iter().map(|c| c.name.as_str()).collect();
    for (i, container) in context.spec.init_containers.iter().flatten().enumerate() {
        let path = list.index(i);
        common(context, container, &path, errors);
        restart_policy(container, &path, errors);
        if names.contains(container.name.as_str()) {
            errors.duplicate(&path.child("name"), &container.name);
        } else if !container.name.is_empty() {
            names.insert(&container.name);
        }
        // They run one by one, so that each is alone with its ports.
        host_ports(std::iter::once((0, container)), &list, errors);
        if text(&container.restart_policy) == "Always" {
            probe::lifecycle_and_probes(context.spec, container, &path, errors);
        } else {
            let set = [
                ("lifecycle", container.lifecycle.is_some()),
                ("livenessProbe", container.liveness_probe.is_some()),
                ("readinessProbe", container.readiness_probe.is_some()),
                ("startupProbe", container.startup_probe.is_some()),
            ];
            for (field, _) in set.into_iter().filter(|(_, set)| *set) {
                errors.forbidden(&path.child(field), NOT_FOR_INIT);
            }
        }
        let policies = container.resize_policy.iter().flatten().enumerate();
        let restarts = policies.filter(|(_, policy)| policy.restart_policy == "RestartContainer");
        let resize = path.child("resizePolicy");
        for (i, policy) in restarts.filter(|_| text(&container.restart_policy) != "Always") {
            let message = "must not be set to 'RestartContainer' for non-sidecar initContainers";
            errors.invalid(&resize.index(i).child("restartPolicy"), &policy.restart_policy, message);
        }
    }
}

pub(super) fn ephemeral_containers(context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("ephemeralContainers");
    let others: BTreeSet<&str> = context
        .spec
        .containers
        .iter()
        .chain(context.spec.init_containers.iter().flatten())
        .map(|c| c.name.as_str())
        .collect();
    let mut names = others.clone();
    for (i, ephemeral) in context.spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = list.index(i);
        common(context, &as_container(ephemeral), &path, errors);
        image_has_no_spaces(text(&ephemeral.image), &path, errors);
        if !names.insert(&ephemeral.name) {
            errors.duplicate(&path.child("name"), &ephemeral.name);
        }
        let target = text(&ephemeral.target_container_name);
        if !target.is_empty() && !others.contains(target) {
            errors.not_found(&path.child("targetContainerName"), target);
        }
        let empty_resources = core::ResourceRequirements::default();
        let set = [
            ("ports", ephemeral.ports.as_ref().is_some_and(|p| !p.is_empty())),
            ("resources", ephemeral.resources.as_ref().is_some_and(|r| *r != empty_resources)),
            ("livenessProbe", ephemeral.liveness_probe.is_some()),
            ("readinessProbe", ephemeral.readiness_probe.is_some()),
            ("startupProbe", ephemeral.startup_probe.is_some()),
            ("lifecycle", ephemeral.lifecycle.is_some()),
            ("restartPolicy", ephemeral.restart_policy.is_some()),
            ("resizePolicy", ephemeral.resize_policy.as_ref().is_some_and(|p| !p.is_empty())),
        ];
        for (field, _) in set.into_iter().filter(|(_, set)| *set) {
            errors.forbidden(&path.child(field), NOT_FOR_EPHEMERAL);
        }
        for (j, mount) in ephemeral.volume_mounts.iter().flatten().enumerate() {
            for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
                if !text(value).is_empty() {
                    errors.forbidden(&path.child("volumeMounts").index(j).child(field), NOT_FOR_EPHEMERAL);
                }
            }
        }
    }
}

fn as_container(ephemeral: &core::EphemeralContainer) -> core::Container {
    let e = ephemeral.clone();
    core::Container {
        name: e.name,
        image: e.image,
        env: e.env,
        env_from: e.env_from,
        image_pull_policy: e.image_pull_policy,
        ports: e.ports,
        security_context: e.security_context,
        termination_message_policy: e.termination_message_policy,
        volume_devices: e.volume_devices,
        volume_mounts: e.volume_mounts,
        ..core::Container::default()
    }
}

pub(super) fn image_has_no_spaces(image: &str, path: &Path<'_>, errors: &mut Errors) {
    if image.trim() != image {
        errors.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
}

fn common(context: &Context<'_>, container: &core::Container, path: &Path<'_>, errors: &mut Errors) {
    if container.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        dns_label(&container.name, &path.child("name"), errors);
    }
    // A template may leave the image to a later hand, a space at least; so it is only checked for being there.
    required(text(&container.image), &path.child("image"), errors);
    let policy = text(&container.termination_message_policy);
    one_of(policy, MESSAGE_POLICIES, &path.child("terminationMessagePolicy"), errors);
    ports(container.ports.as_deref().unwrap_or_default(), &path.child("ports"), errors);
    env(container.env.as_deref().unwrap_or_default(), &path.child("env"), errors);
    env_from(container.env_from.as_deref().unwrap_or_default(), &path.child("envFrom"), errors);
    mounts(context, container, &path.child("volumeMounts"), errors);
    devices(context, container, &path.child("volumeDevices"), errors);
    one_of(text(&container.image_pull_policy), PULL_POLICIES, &path.child("imagePullPolicy"), errors);
    if let Some(requirements) = &container.resources {
        resources::requirements(requirements, &context.claims, &path.child("resources"), errors);
    }
    resources::resize_policy(context.spec, container, &path.child("resizePolicy"), errors);
    if let Some(security) = &container.security_context {
        security::container(security, context.host_users, &path.child("securityContext"), errors);
    }
}

/// The action of a rule by which all containers of the pod begin anew.
const RESTART_ALL: &str = "RestartAllContainers";

/// Whether a container of the list may have all containers of its pod begin anew.
pub(super) fn may_restart_all(containers: &[core::Container]) -> bool {
    let mut rules = containers.iter().flat_map(|container| container.restart_policy_rules.iter().flatten());
    rules.any(|rule| rule.action == RESTART_ALL)
}

fn restart_policy(container: &core::Container, path: &Path<'_>, errors: &mut Errors) {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    one_of_if_set(&container.restart_policy, RESTART_POLICIES, &path.child("restartPolicy"), errors);
    if rules.is_empty() {
        return;
    }
    if container.restart_policy.is_none() {
        errors.required(&path.child("restartPolicy"), "must specify restartPolicy when restart rules are used");
    }
    let list = path.child("restartPolicyRules");
    if rules.len() > RESTART_RULES_MAX {
        errors.too_many(&list, rules.len(), RESTART_RULES_MAX);
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = list.index(i);
        one_of(&rule.action, &["Restart", RESTART_ALL], &path.child("action"), errors);
        match &rule.exit_codes {
            None => errors.required(&path.child("exitCodes"), "must be specified"),
            Some(codes) => {
                one_of(&codes.operator, &["In", "NotIn"], &path.child("exitCodes.operator"), errors);
                let count = codes.values.as_ref().map_or(0, Vec::len);
                if count > EXIT_CODES_MAX {
                    errors.too_many(&path.child("exitCodes.values"), count, EXIT_CODES_MAX);
                }
            }
        }
    }
}

fn ports(ports: &[core::ContainerPort], list: &Path<'_>, errors: &mut Errors) {
    let mut names_seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = list.index(i);
        let name = text(&port.name);
        if !name.is_empty() {
            let wrong = names::port_name(name);
            if wrong.is_empty() && !names_seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
            errors.invalid_each(&path.child("name"), name, wrong);
        }
        if port.container_port == 0 {
            errors.required(&path.child("containerPort"), "");
        } else {
            port_number(port.container_port, &path.child("containerPort"), errors);
        }
        if let Some(number) = port.host_port.filter(|p| *p != 0) {
            port_number(number, &path.child("hostPort"), errors);
        }
        one_of(text(&port.protocol), PROTOCOLS, &path.child("protocol"), errors);
    }
}

/// No two of them want the same port of the host.
fn host_ports<'a>(
    containers: impl Iterator<Item = (usize, &'a core::Container)>,
    list: &Path<'_>,
    errors: &mut Errors,
) {
    let mut seen = BTreeSet::new();
    for (i, container) in containers {
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let Some(number) = port.host_port.filter(|p| *p != 0) else { continue };
            let key = format!("{}/{}/{number}", text(&port.protocol), text(&port.host_ip));
            if seen.contains(&key) {
                errors.duplicate(&list.index(i).child("ports").index(j).child("hostPort"), &key);
            }
            seen.insert(key);
        }
    }
}

fn env(vars: &[core::EnvVar], list: &Path<'_>, errors: &mut Errors) {
    for (i, var) in vars.iter().enumerate() {
        let path = list.index(i);
        if var.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            errors.invalid_each(&path.child("name"), &var.name, names::relaxed_env_var_name(&var.name));
        }
        if let Some(from) = &var.value_from {
            value_from(from, !text(&var.value).is_empty(), &path.child("valueFrom"), errors);
        }
    }
}

fn value_from(from: &core::EnvVarSource, has_value: bool, path: &Path<'_>, errors: &mut Errors) {
    let mut sources = 0;
    if let Some(field) = &from.field_ref {
        sources += 1;
        field_ref(field, ENV_FIELDS, &path.child("fieldRef"), errors);
    }
    if let Some(resource) = &from.resource_field_ref {
        sources += 1;
        resources::resource_field_ref(resource, false, &path.child("resourceFieldRef"), errors);
    }
    if let Some(key) = &from.config_map_key_ref {
        sources += 1;
        key_ref(&key.name, &key.key, &path.child("configMapKeyRef"), errors);
    }
    if let Some(key) = &from.secret_key_ref {
        sources += 1;
        key_ref(&key.name, &key.key, &path.child("secretKeyRef"), errors);
    }
    if let Some(file) = &from.file_key_ref {
        sources += 1;
        file_key(file, &path.child("fileKeyRef"), errors);
    }
    if sources == 0 {
        let message = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
                       `fileKeyRef`";
        errors.invalid(path, "", message);
    } else if has_value {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
pub(super) const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// All fields that the downward API has a name for.
const KNOWN_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase"];

/// A field of the pod itself: one of `allowed`, or a single label or annotation.
pub(super) fn field_ref(field: &core::ObjectFieldSelector, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    let version = text(&field.api_version);
    if version.is_empty() {
        return errors.required(&path.child("apiVersion"), "");
    }
    let wanted = field.field_path.as_str();
    if wanted.is_empty() {
        return errors.required(&path.child("fieldPath"), "");
    }
    if version != "v1" {
        let message = format!("error converting fieldPath: unsupported pod version: {version}");
        return errors.invalid(&path.child("fieldPath"), wanted, &message);
    }
    if let Some((base, subscript)) = wanted.strip_suffix("']").and_then(|w| w.split_once("['")) {
        return match base {
            "metadata.annotations" => qualified_name(&subscript.to_lowercase(), path, errors),
            "metadata.labels" => qualified_name(subscript, path, errors),
            _ if ENV_FIELDS.contains(&base) => errors.invalid(path, base, "does not support subscript"),
            _ => {
                let message = format!("error converting fieldPath: field label does not support subscript: {wanted}");
                errors.invalid(&path.child("fieldPath"), wanted, &message);
            }
        };
    }
    if !ENV_FIELDS.contains(&wanted) && !KNOWN_FIELDS.contains(&wanted) {
        let message = format!("error converting fieldPath: field label not supported: {wanted}");
        return errors.invalid(&path.child("fieldPath"), wanted, &message);
    }
    if !allowed.contains(&wanted) {
        errors.not_supported(&path.child("fieldPath"), wanted, allowed);
    }
}

fn file_key(file: &core::FileKeySelector, path: &Path<'_>, errors: &mut Errors) {
    if file.key.is_empty() {
        errors.required(&path.child("key"), "");
    } else {
        errors.invalid_each(&path.child("key"), &file.key, names::relaxed_env_var_name(&file.key));
    }
    if file.volume_name.is_empty() {
        errors.required(&path.child("volumeName"), "");
    } else {
        dns_label(&file.volume_name, &path.child("volumeName"), errors);
    }
    if file.path.is_empty() {
        errors.required(&path.child("path"), "");
    } else {
        no_backsteps(&file.path, &path.child("path"), errors);
    }
}

/// Files of variables are in volumes of the pod's own.
pub(super) fn file_volumes(context: &Context<'_>, container: &core::Container, path: &Path<'_>, errors: &mut Errors) {
    for (i, variable) in container.env.iter().flatten().enumerate() {
        let Some(file) = variable.value_from.as_ref().and_then(|from| from.file_key_ref.as_ref()) else { continue };
        let list = path.child("env");
        let path = list.index(i);
        let path = path.child("valueFrom.fileKeyRef.volumeName");
        let volumes = context.spec.volumes.as_deref().unwrap_or_default();
        match volumes.iter().find(|volume| volume.name == file.volume_name) {
            None => errors.not_found(&path, &file.volume_name),
            Some(volume) if volume.empty_dir.is_none() => {
                errors.invalid(&path, &file.volume_name, "referenced volume must be of type emptyDir");
            }
            Some(_) => {}
        }
    }
}

fn key_ref(name: &str, key: &str, path: &Path<'_>, errors: &mut Errors) {
    dns_subdomain(name, &path.child("name"), errors);
    if key.is_empty() {
        errors.required(&path.child("key"), "");
    } else {
        errors.invalid_each(&path.child("key"), key, names::config_key(key));
    }
}

fn env_from(sources: &[core::EnvFromSource], list: &Path<'_>, errors: &mut Errors) {
    for (i, source) in sources.iter().enumerate() {
        let path = list.index(i);
        let prefix = text(&source.prefix);
        if !prefix.is_empty() {
            errors.invalid_each(&path.child("prefix"), prefix, names::relaxed_env_var_name(prefix));
        }
        let refs = [
            ("configMapRef", source.config_map_ref.as_ref().map(|r| r.name.as_str())),
            ("secretRef", source.secret_ref.as_ref().map(|r| r.name.as_str())),
        ];
        for (field, name) in refs.iter().filter_map(|(f, n)| Some((f, (*n)?))) {
            let path = path.child(field);
            if name.is_empty() {
                errors.required(&path.child("name"), "");
            } else {
                errors.invalid_each(&path.child("name"), name, names::name_is_subdomain(name, true));
            }
        }
        match refs.iter().filter(|(_, name)| name.is_some()).count() {
            0 => errors.invalid(list, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(list, "", "may not have more than one field specified at a time"),
        }
    }
}

fn mounts(context: &Context<'_>, container: &core::Container, list: &Path<'_>, errors: &mut Errors) {
    let devices: BTreeMap<&str, &str> =
        container.volume_devices.iter().flatten().map(|d| (d.name.as_str(), d.device_path.as_str())).collect();
    let privileged = container.security_context.as_ref().is_some_and(|s| s.privileged == Some(true));
    let mut points = BTreeSet::new();
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = list.index(i);
        required(&mount.name, &path.child("name"), errors);
        if !context.volumes.contains_key(mount.name.as_str()) {
            errors.not_found(&path.child("name"), &mount.name);
        }
        required(&mount.mount_path, &path.child("mountPath"), errors);
        if !points.insert(mount.mount_path.as_str()) {
            errors.invalid(&path.child("mountPath"), &mount.mount_path, "must be unique");
        }
        if devices.contains_key(mount.name.as_str()) {
            errors.invalid(&path.child("name"), &mount.name, "must not already exist in volumeDevices");
        }
        if devices.values().any(|p| *p == mount.mount_path) {
            let message = "must not already exist as a path in volumeDevices";
            errors.invalid(&path.child("mountPath"), &mount.mount_path, message);
        }
        let (sub_path, expression) = (text(&mount.sub_path), text(&mount.sub_path_expr));
        if !sub_path.is_empty() {
            descending_path(sub_path, &list.child("subPath"), errors);
        }
        if !expression.is_empty() {
            if !sub_path.is_empty() {
                let message = "subPathExpr and subPath are mutually exclusive";
                errors.invalid(&path.child("subPathExpr"), expression, message);
            }
            descending_path(expression, &list.child("subPathExpr"), errors);
        }
        one_of_if_set(&mount.mount_propagation, PROPAGATIONS, &list.child("mountPropagation"), errors);
        if text(&mount.mount_propagation) == "Bidirectional" && !privileged {
            let message = "Bidirectional mount propagation is available only to privileged containers";
            errors.forbidden(&list.child("mountPropagation"), message);
        }
        recursive_read_only(mount, &list.child("recursiveReadOnly"), errors);
    }
}

fn recursive_read_only(mount: &core::VolumeMount, path: &Path<'_>, errors: &mut Errors) {
    one_of_if_set(&mount.recursive_read_only, RECURSIVE_READ_ONLY, path, errors);
    if matches!(text(&mount.recursive_read_only), "Enabled" | "IfPossible") {
        if mount.read_only != Some(true) {
            errors.forbidden(path, "may only be specified when readOnly is true");
        }
        if !matches!(text(&mount.mount_propagation), "" | "None") {
            errors.forbidden(path, "may only be specified when mountPropagation is None or not specified");
        }
    }
}

fn devices(context: &Context<'_>, container: &core::Container, list: &Path<'_>, errors: &mut Errors) {
    let mounts = || container.volume_mounts.iter().flatten();
    let (mut paths, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (i, device) in container.volume_devices.iter().flatten().enumerate() {
        let path = list.index(i);
        let (name, device_path) = (device.name.as_str(), device.device_path.as_str());
        required(name, &path.child("name"), errors);
        if !names.insert(name) && !name.is_empty() {
            errors.invalid(&path.child("name"), name, "must be unique");
        }
        match context.volumes.get(name) {
            None => errors.not_found(&path.child("name"), name),
            Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => errors.invalid(
                &path.child("name"),
                name,
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            ),
            Some(_) => {}
        }
        required(device_path, &path.child("devicePath"), errors);
        if !paths.insert(device_path) {
            errors.invalid(&path.child("devicePath"), device_path, "must be unique");
        }
        no_backsteps(device_path, &path.child("devicePath"), errors);
        if mounts().any(|m| m.name == name) {
            errors.invalid(&path.child("name"), name, "must not already exist in volumeMounts");
        }
        if mounts().any(|m| m.mount_path == device_path) {
            let message = "must not already exist as a path in volumeMounts";
            errors.invalid(&path.child("devicePath"), device_path, message);
        }
    }
}
