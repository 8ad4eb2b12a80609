//! The checks of the level `baseline`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::finding::{Finding, bad_values, containers, finding, name, named, plural, quoted, setters, text_in, those};

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// With the minor version from which they are harmless.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Whether the pod's users are none of the node's.
pub(super) fn has_user_namespace(pod: &Value) -> bool {
    pod["spec"]["hostUsers"] == false
}

pub(super) fn app_armor(pod: &Value, _minor: u32) -> Option<Finding> {
    let (of_pod, bad, values) =
        bad_values(pod, |c| text_in(c, "appArmorProfile", "type"), |v| matches!(v, "RuntimeDefault" | "Localhost"));
    let mut annotations: Vec<String> = pod["metadata"]["annotations"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with(APPARMOR_ANNOTATION))
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(_, value)| !value.is_empty() && *value != "runtime/default" && !value.starts_with("localhost/"))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    annotations.sort();
    let mut who: Vec<String> = setters(of_pod, &bad).into_iter().collect();
    if !annotations.is_empty() {
        who.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    if who.is_empty() {
        return None;
    }
    let all: Vec<String> = values.into_iter().chain(annotations).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", all.len());
    finding(reason, format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(&all)))
}

pub(super) fn capabilities(pod: &Value, _minor: u32) -> Option<Finding> {
    let added = |container: &Value| -> Vec<String> {
        let list = container["securityContext"]["capabilities"]["add"].as_array();
        let names = list.into_iter().flatten().filter_map(Value::as_str).filter(|name| !CAPABILITIES.contains(name));
        names.map(str::to_owned).collect()
    };
    let bad = those(pod, |container| !added(container).is_empty());
    let all: BTreeSet<String> = containers(pod).flat_map(added).collect();
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must not include {} in securityContext.capabilities.add", named(&bad), quoted(&all));
    finding("non-default capabilities", detail)
}

pub(super) fn host_namespaces(pod: &Value, _minor: u32) -> Option<Finding> {
    let fields = ["hostNetwork", "hostPID", "hostIPC"];
    let set: Vec<String> =
        fields.iter().filter(|field| pod["spec"][**field] == true).map(|field| format!("{field}=true")).collect();
    if set.is_empty() { None } else { finding("host namespaces", set.join(", ")) }
}

pub(super) fn host_paths(pod: &Value, _minor: u32) -> Option<Finding> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let bad: Vec<String> = volumes.filter(|volume| volume["hostPath"].is_object()).map(name).collect();
    if bad.is_empty() {
        return None;
    }
    finding("hostPath volumes", format!("{} {}", plural("volume", "volumes", bad.len()), quoted(&bad)))
}

pub(super) fn host_ports(pod: &Value, _minor: u32) -> Option<Finding> {
    let ports = |container: &Value| -> Vec<String> {
        let list = container["ports"].as_array().into_iter().flatten();
        list.filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0).map(|p| p.to_string()).collect()
    };
    let bad = those(pod, |container| !ports(container).is_empty());
    let all: BTreeSet<String> = containers(pod).flat_map(ports).collect();
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {}",
        named(&bad),
        plural("uses", "use", bad.len()),
        plural("hostPort", "hostPorts", all.len()),
        all.into_iter().collect::<Vec<_>>().join(", ")
    );
    finding("hostPort", detail)
}

pub(super) fn host_probes(pod: &Value, _minor: u32) -> Option<Finding> {
    let hosts = |container: &Value| -> Vec<String> {
        let handlers = [
            &container["livenessProbe"],
            &container["readinessProbe"],
            &container["startupProbe"],
            &container["lifecycle"]["postStart"],
            &container["lifecycle"]["preStop"],
        ];
        let host = |handler: &Value, kind: &str| handler[kind]["host"].as_str().map(str::to_owned);
        let all = handlers.iter().flat_map(|handler| [host(handler, "httpGet"), host(handler, "tcpSocket")]);
        all.flatten().filter(|host| !host.is_empty()).collect()
    };
    let mut bad = those(pod, |container| !hosts(container).is_empty());
    bad.sort();
    let all: BTreeSet<String> = containers(pod).flat_map(hosts).collect();
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {}",
        named(&bad),
        plural("uses", "use", bad.len()),
        plural("probe or lifecycle host", "probe or lifecycle hosts", all.len()),
        quoted(&all)
    );
    finding("probe or lifecycle host", detail)
}

pub(super) fn privileged(pod: &Value, _minor: u32) -> Option<Finding> {
    let bad = those(pod, |container| container["securityContext"]["privileged"] == true);
    if bad.is_empty() {
        return None;
    }
    finding("privileged", format!("{} must not set securityContext.privileged=true", named(&bad)))
}

pub(super) fn proc_mount(pod: &Value, minor: u32) -> Option<Finding> {
    if minor >= 35 && has_user_namespace(pod) { None } else { any_proc_mount(pod, minor) }
}

/// Whatever the users of the pod are.
pub(super) fn any_proc_mount(pod: &Value, _minor: u32) -> Option<Finding> {
    let mount = |container: &Value| {
        container["securityContext"]["procMount"].as_str().filter(|m| *m != "Default").map(str::to_owned)
    };
    let bad = those(pod, |container| mount(container).is_some());
    let all: BTreeSet<String> = containers(pod).filter_map(mount).collect();
    if bad.is_empty() {
        return None;
    }
    finding("procMount", format!("{} must not set securityContext.procMount to {}", named(&bad), quoted(&all)))
}

pub(super) fn se_linux(pod: &Value, minor: u32) -> Option<Finding> {
    let allowed = |kind: &str| {
        matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (minor >= 31 && kind == "container_engine_t")
    };
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut is_bad = |context: &Value| {
        let options = &context["seLinuxOptions"];
        let text = |field: &str| options[field].as_str().unwrap_or_default();
        let wrong = [!allowed(text("type")), !text("user").is_empty(), !text("role").is_empty()];
        if wrong[0] {
            types.insert(text("type").to_owned());
        }
        user |= wrong[1];
        role |= wrong[2];
        wrong.contains(&true)
    };
    let of_pod = is_bad(&pod["spec"]["securityContext"]);
    let bad: Vec<String> = containers(pod).filter(|c| is_bad(&c["securityContext"])).map(name).collect();
    let who = setters(of_pod, &bad)?;
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", "types", types.len()), quoted(&types)));
    }
    if user {
        data.push("user may not be set".to_owned());
    }
    if role {
        data.push("role may not be set".to_owned());
    }
    finding("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {}", data.join("; ")))
}

pub(super) fn is_seccomp(profile: &str) -> bool {
    matches!(profile, "Localhost" | "RuntimeDefault")
}

pub(super) fn seccomp(pod: &Value, minor: u32) -> Option<Finding> {
    if minor < 19 {
        return seccomp_annotations(pod);
    }
    let (of_pod, bad, values) = bad_values(pod, |c| text_in(c, "seccompProfile", "type"), is_seccomp);
    let who = setters(of_pod, &bad)?;
    finding("seccompProfile", format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&values)))
}

fn seccomp_annotations(pod: &Value) -> Option<Finding> {
    let keys = containers(pod).map(|container| format!("{SECCOMP_CONTAINER}{}", name(container)));
    let bad: BTreeSet<String> = std::iter::once(SECCOMP_POD.to_owned())
        .chain(keys)
        .filter_map(|key| Some((pod["metadata"]["annotations"][&key].as_str()?, key)))
        .filter(|(value, _)| {
            !matches!(*value, "runtime/default" | "docker/default") && !value.starts_with("localhost/")
        })
        .map(|(value, key)| format!("{key}={value:?}"))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let all: Vec<String> = bad.into_iter().collect();
    let word = plural("annotation", "annotations", all.len());
    finding("seccompProfile", format!("forbidden {word} {}", all.join(", ")))
}

pub(super) fn sysctls(pod: &Value, minor: u32) -> Option<Finding> {
    let list = pod["spec"]["securityContext"]["sysctls"].as_array().into_iter().flatten();
    let harmless = |name: &String| SYSCTLS.iter().any(|(known, since)| known == name && *since <= minor);
    let bad: Vec<String> = list.map(name).filter(|name| !harmless(name)).collect();
    if bad.is_empty() { None } else { finding("forbidden sysctls", bad.join(", ")) }
}

pub(super) fn windows_host_process(pod: &Value, _minor: u32) -> Option<Finding> {
    let is_set = |holder: &Value| holder["securityContext"]["windowsOptions"]["hostProcess"] == true;
    let who = setters(is_set(&pod["spec"]), &those(pod, is_set))?;
    finding("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
