//! Security contexts, and what the operating system of the pod rules out.

use k8s_openapi::api::core::v1 as core;

use crate::field::{Errors, Path};
use crate::kinds::checks::{descending_path, id, one_of_if_set, text};

const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const SYSCTL_MAX: usize = 253;
const APP_ARMOR_MAX_B: usize = 4095;
const NOT_ON_LINUX: &str = "windows options cannot be set for a linux pod";
const NOT_ON_WINDOWS: &str = "cannot be set for a windows pod";

pub(super) fn pod(spec: &core::PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let host_users = spec.host_users != Some(false);
    if !host_users {
        let shared = [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)];
        for (field, _) in shared.into_iter().filter(|(_, set)| *set == Some(true)) {
            errors.forbidden(&path.child(field), "when `hostUsers` is false");
        }
    }
    let path = path.child("securityContext");
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let message = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.child("shareProcessNamespace"), true, message);
    }
    let Some(context) = &spec.security_context else { return };
    let ids = [("fsGroup", context.fs_group), ("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)];
    for (field, value) in ids {
        if let Some(value) = value {
            id(value, &path.child(field), errors);
        }
    }
    for (i, group) in context.supplemental_groups.iter().flatten().enumerate() {
        id(*group, &path.child("supplementalGroups").index(i), errors);
    }
    sysctls(spec, context, &path.child("sysctls"), errors);
    one_of_if_set(
        &context.fs_group_change_policy,
        &["Always", "OnRootMismatch"],
        &path.child("fsGroupChangePolicy"),
        errors,
    );
    one_of_if_set(
        &context.supplemental_groups_policy,
        &["Merge", "Strict"],
        &path.child("supplementalGroupsPolicy"),
        errors,
    );
    one_of_if_set(
        &context.se_linux_change_policy,
        &["MountOption", "Recursive"],
        &path.child("seLinuxChangePolicy"),
        errors,
    );
    seccomp(context.seccomp_profile.as_ref(), &path.child("seccompProfile"), errors);
    app_armor(context.app_armor_profile.as_ref(), &path.child("appArmorProfile"), errors);
}

fn is_sysctl_name(name: &str) -> bool {
    let segment = |s: &str| {
        let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
        edge(s.bytes().next()) && edge(s.bytes().last()) && s.bytes().all(inner)
    };
    name.len() <= SYSCTL_MAX && name.split(['.', '/']).all(segment)
}

fn sysctls(spec: &core::PodSpec, context: &core::PodSecurityContext, list: &Path<'_>, errors: &mut Errors) {
    let mut seen = std::collections::BTreeSet::new();
    for (i, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let element = list.index(i);
        let (path, name) = (element.child("name"), sysctl.name.as_str());
        if name.is_empty() {
            errors.required(&path, "");
        } else if !is_sysctl_name(name) {
            let segment = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
            let message =
                format!("must have at most {SYSCTL_MAX} characters and match regex ^({segment}[\\./])*{segment}$");
            errors.invalid(&path, name, &message);
        } else if seen.contains(name) {
            errors.duplicate(&path, name);
        }
        seen.insert(name);
        let dotted = name.replace('/', ".");
        if spec.host_network == Some(true) && dotted.starts_with("net.") {
            errors.invalid(&path, name, "may not be specified when 'hostNetwork' is true");
        }
        let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."].iter().any(|p| dotted.starts_with(p));
        if spec.host_ipc == Some(true) && ipc {
            errors.invalid(&path, name, "may not be specified when 'hostIPC' is true");
        }
    }
}

pub(super) fn container(context: &core::SecurityContext, host_users: bool, path: &Path<'_>, errors: &mut Errors) {
    for (field, value) in [("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)] {
        if let Some(value) = value {
            id(value, &path.child(field), errors);
        }
    }
    one_of_if_set(&context.proc_mount, &["Default", "Unmasked"], &path.child("procMount"), errors);
    if host_users && text(&context.proc_mount) == "Unmasked" {
        errors.invalid(&path.child("procMount"), "Unmasked", "`hostUsers` must be false to use `Unmasked`");
    }
    seccomp(context.seccomp_profile.as_ref(), &path.child("seccompProfile"), errors);
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            let message = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, context, message);
        }
        let added = context.capabilities.iter().flat_map(|c| c.add.iter().flatten());
        if added.into_iter().any(|c| c == "CAP_SYS_ADMIN") {
            let message = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, context, message);
        }
    }
    app_armor(context.app_armor_profile.as_ref(), &path.child("appArmorProfile"), errors);
}

fn seccomp(profile: Option<&core::SeccompProfile>, path: &Path<'_>, errors: &mut Errors) {
    let Some(profile) = profile else { return };
    match profile.type_.as_str() {
        "" => errors.required(&path.child("type"), "type is required when seccompProfile is set"),
        other if !PROFILES.contains(&other) => errors.not_supported(&path.child("type"), other, PROFILES),
        _ => {}
    }
    let path = path.child("localhostProfile");
    match (&profile.localhost_profile, profile.type_ == "Localhost") {
        (None, true) => errors.required(&path, "must be set when seccomp type is Localhost"),
        (Some(file), true) => descending_path(file, &path, errors),
        (Some(_), false) => errors.invalid(&path, profile, "can only be set when seccomp type is Localhost"),
        (None, false) => {}
    }
}

fn app_armor(profile: Option<&core::AppArmorProfile>, path: &Path<'_>, errors: &mut Errors) {
    let Some(profile) = profile else { return };
    let name_path = path.child("localhostProfile");
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("", _) => errors.required(&path.child("type"), "type is required when appArmorProfile is set"),
        ("Localhost", None) => errors.required(&name_path, "must be set when AppArmor type is Localhost"),
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                errors.invalid(&name_path, name, "must not be padded with whitespace");
            } else if name.is_empty() {
                errors.required(&name_path, "must be set when AppArmor type is Localhost");
            }
            if name.len() > APP_ARMOR_MAX_B {
                errors.too_long(&name_path, APP_ARMOR_MAX_B);
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            errors.invalid(&name_path, name, "can only be set when AppArmor type is Localhost");
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        (other, _) => errors.not_supported(&path.child("type"), other, PROFILES),
    }
}

/// `spec.os`, and fields that it rules out.
pub(super) fn operating_system(spec: &core::PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(os) = &spec.os else { return };
    let context = spec.security_context.as_ref();
    let security = path.child("securityContext");
    match os.name.as_str() {
        "" => errors.required(&path.child("os.name"), "cannot be empty"),
        "linux" => {
            if context.is_some_and(|c| c.windows_options.is_some()) {
                errors.forbidden(&security.child("windowsOptions"), NOT_ON_LINUX);
            }
            for_each_container(spec, path, |context, path| {
                if context.windows_options.is_some() {
                    errors.forbidden(&path.child("windowsOptions"), NOT_ON_LINUX);
                }
            });
        }
        "windows" => {
            if let Some(c) = context {
                let set = [
                    ("appArmorProfile", c.app_armor_profile.is_some()),
                    ("seLinuxOptions", c.se_linux_options.is_some()),
                    ("seccompProfile", c.seccomp_profile.is_some()),
                    ("fsGroup", c.fs_group.is_some()),
                    ("fsGroupChangePolicy", c.fs_group_change_policy.is_some()),
                    ("sysctls", c.sysctls.as_ref().is_some_and(|s| !s.is_empty())),
                    ("runAsUser", c.run_as_user.is_some()),
                    ("runAsGroup", c.run_as_group.is_some()),
                    ("supplementalGroups", c.supplemental_groups.is_some()),
                    ("supplementalGroupsPolicy", c.supplemental_groups_policy.is_some()),
                ];
                forbid_on_windows(&set, &security, errors);
            }
            let set = [
                ("hostUsers", spec.host_users.is_some()),
                ("hostPID", spec.host_pid == Some(true)),
                ("hostIPC", spec.host_ipc == Some(true)),
                ("shareProcessNamespace", spec.share_process_namespace.is_some()),
            ];
            forbid_on_windows(&set, path, errors);
            for_each_container(spec, path, |c, path| {
                let set = [
                    ("appArmorProfile", c.app_armor_profile.is_some()),
                    ("seLinuxOptions", c.se_linux_options.is_some()),
                    ("seccompProfile", c.seccomp_profile.is_some()),
                    ("capabilities", c.capabilities.is_some()),
                    ("readOnlyRootFilesystem", c.read_only_root_filesystem.is_some()),
                    ("privileged", c.privileged.is_some()),
                    ("allowPrivilegeEscalation", c.allow_privilege_escalation.is_some()),
                    ("procMount", c.proc_mount.is_some()),
                    ("runAsUser", c.run_as_user.is_some()),
                    ("runAsGroup", c.run_as_group.is_some()),
                ];
                forbid_on_windows(&set, path, errors);
            });
        }
        other => errors.not_supported(&path.child("os"), other, &["linux", "windows"]),
    }
}

fn forbid_on_windows(set: &[(&str, bool)], path: &Path<'_>, errors: &mut Errors) {
    for (field, _) in set.iter().filter(|(_, set)| *set) {
        errors.forbidden(&path.child(field), NOT_ON_WINDOWS);
    }
}

fn for_each_container(spec: &core::PodSpec, path: &Path<'_>, mut visit: impl FnMut(&core::SecurityContext, &Path<'_>)) {
    let init = spec.init_containers.as_deref().unwrap_or_default();
    for (list, containers) in [("initContainers", init), ("containers", &spec.containers)] {
        for (i, container) in containers.iter().enumerate() {
            if let Some(context) = &container.security_context {
                visit(context, &path.child(list).index(i).child("securityContext"));
            }
        }
    }
}
