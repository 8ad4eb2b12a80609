//! What the runtime is told of a container.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, SecurityContext, VolumeDevice, VolumeMount};
use skiff_runtime::{
    AppArmor, ContainerConfig, ContainerId, GivenDevice, Image, ImageId, Mount, Propagation, SeLinux, Seccomp, Security,
};

use crate::context::Context;
use crate::env_file;
use crate::environment::{self, Objects};
use crate::expand::expand;
use crate::fields::Facts;
use crate::image::{self, StartError};
use crate::options::message_file;
use crate::pod::{self, annotation, label};
use crate::resources;
use crate::sandbox::{HOSTNAME_FILE, HOSTS_FILE, RESOLV_FILE};
use crate::slot;
use crate::volume::{Volumes, subpath, tree};

const DEFAULT_MESSAGE_PATH: &str = "/dev/termination-log";

/// What is known when a container is about to be created.
pub(crate) struct Inputs<'a> {
    pub(crate) ctx: &'a Arc<Context>,
    pub(crate) pod: &'a Arc<Pod>,
    pub(crate) container: &'a Container,
    pub(crate) image: &'a Image,
    pub(crate) attempt: u32,
    pub(crate) facts: &'a Facts,
    pub(crate) objects: &'a dyn Objects,
    pub(crate) volumes: &'a Volumes,
    /// The container into whose processes it looks.
    pub(crate) target: Option<ContainerId>,
}

/// Decides the configuration and makes what it needs on the host: sub-paths, the termination message file.
pub(crate) async fn configure(inputs: Inputs<'_>) -> Result<ContainerConfig, StartError> {
    let failed = |message: String| StartError::new("CreateContainerConfigError", message);
    let Inputs { ctx, pod, container, image, attempt, facts, objects, volumes, target } = inputs;
    check_non_root(pod, container, &image.user).map_err(failed)?;
    let mut files = env_file::Files::default();
    if env_file::references(container).next().is_some() {
        let (of, from) = (container.clone(), volumes.clone());
        let read = tokio::task::spawn_blocking(move || env_file::read(&of, &from)).await;
        files = read.map_err(|e| failed(e.to_string()))?;
    }
    let edits = ctx.devices.edits(pod, container).await.map_err(failed)?;
    let env = environment(ctx, pod, container, facts, objects, &files).map_err(failed)?;
    let env = add_variables(edits.env, env);
    let variable = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());

    let wanted = plan_mounts(container, volumes, pod::has_user_namespace(pod), variable).map_err(failed)?;
    let mut devices = plan_devices(container, volumes).map_err(failed)?;
    devices.extend(edits.devices);
    let directory = ctx.options.pod_directory(&pod::uid(pod));
    let message = message_file(&directory, &container.name, attempt);
    let logs = ctx.options.pod_log_directory(pod).join(&container.name);
    let (name, files) = (container.name.clone(), message.clone());
    let own_directory = directory.clone();
    let made = tokio::task::spawn_blocking(move || make_mounts(wanted, &own_directory, &name, &files, &logs)).await;
    let mut mounts = made.unwrap_or_else(|e| Err(e.to_string())).map_err(failed)?;

    let taken: Vec<PathBuf> = mounts.iter().map(|m| m.container_path.clone()).collect();
    let of_plugins = edits.mounts.into_iter().filter(|mount| !taken.contains(&mount.container));
    mounts.extend(of_plugins.map(|mount| Mount {
        host_path: mount.host,
        container_path: mount.container,
        read_only: mount.read_only,
        ..Mount::default()
    }));
    let mut add = |host: PathBuf, path: &str| {
        if !taken.iter().any(|t| t == Path::new(path)) {
            let container_path = PathBuf::from(path);
            mounts.push(Mount { host_path: host, container_path, relabel: true, ..Mount::default() });
        }
    };
    add(directory.join(HOSTS_FILE), "/etc/hosts");
    add(directory.join(RESOLV_FILE), "/etc/resolv.conf");
    add(directory.join(HOSTNAME_FILE), "/etc/hostname");
    let message_path = container.termination_message_path.as_deref().filter(|p| !p.is_empty());
    let message_path = message_path.unwrap_or(DEFAULT_MESSAGE_PATH);
    add(message, message_path);
    // A mount below another one comes after it.
    mounts.sort_by_key(|m| m.container_path.components().count());

    let mut resources = resources::container(pod, container, ctx.memory_capacity);
    ctx.cpus.limit(&pod::uid(pod), &container.name, &mut resources);
    let expanded = |list: &Option<Vec<String>>| {
        list.as_ref().filter(|l| !l.is_empty()).map(|l| l.iter().map(|word| expand(word, variable)).collect())
    };
    let reference = container.image.clone().unwrap_or_default();
    Ok(ContainerConfig {
        name: container.name.clone(),
        attempt,
        image: image.id.clone(),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().filter(|d| !d.is_empty()),
        mounts,
        devices,
        resources,
        security: security(pod, container, &ctx.options.root_directory),
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        stop_signal: container.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
        log_path: Path::new(&container.name).join(format!("{attempt}.log")),
        target,
        images: container
            .volume_mounts
            .iter()
            .flatten()
            .filter_map(|mount| volumes.mounted.get(&mount.name)?.image.clone())
            .collect(),
        labels: labels(pod, &container.name),
        annotations: annotations(pod, container, image, &reference, message_path, edits.annotations),
        env,
    })
}

fn environment(
    ctx: &Context,
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    objects: &dyn Objects,
    files: &env_file::Files,
) -> Result<Vec<(String, String)>, String> {
    let links = pod::spec(pod).enable_service_links != Some(false);
    let namespace = pod::namespace(pod);
    let mut services = if links { ctx.services.in_namespace(namespace) } else { Vec::new() };
    services.extend(ctx.services.get(&skiff_api::ObjectKey::new("default", "kubernetes")));
    let services = environment::service_variables(namespace, links, services.iter().map(|s| &**s));
    environment::environment(pod, container, facts, objects, files, &services)
}

/// What the pod says goes before what plugins say.
fn add_variables(of_plugins: BTreeMap<String, String>, own: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut all: Vec<_> = of_plugins.into_iter().filter(|(name, _)| !own.iter().any(|(own, _)| own == name)).collect();
    all.extend(own);
    all
}

fn labels(pod: &Pod, container: &str) -> BTreeMap<String, String> {
    [
        (label::POD_NAME, pod::name(pod).to_owned()),
        (label::POD_NAMESPACE, pod::namespace(pod).to_owned()),
        (label::POD_UID, pod::uid(pod).0),
        (label::CONTAINER_NAME, container.to_owned()),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into()
}

fn annotations(
    pod: &Pod,
    container: &Container,
    image: &Image,
    reference: &str,
    message_path: &str,
    of_plugins: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let policy = container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned());
    let own = [
        (annotation::HASH, slot::hash(container)),
        (annotation::MESSAGE_PATH, message_path.to_owned()),
        (annotation::MESSAGE_POLICY, policy),
        (annotation::GRACE, pod::grace_s(pod).to_string()),
        (annotation::IMAGE, reference.to_owned()),
        (annotation::IMAGE_ID, image::image_id(image, reference)),
    ];
    let mut all = of_plugins;
    all.extend(own.map(|(k, v)| (k.to_owned(), v)));
    all
}

/// A volume mount, decided: `sub_path` is still to be resolved inside the volume.
#[derive(Debug, PartialEq, Eq)]
struct WantedMount {
    volume: String,
    host: PathBuf,
    sub_path: Option<String>,
    container_path: PathBuf,
    read_only: bool,
    propagation: Propagation,
    relabel: bool,
    recursive: bool,
    /// The image in which `sub_path` is, in place of `host`.
    image: Option<ImageId>,
}

/// `mapped`: for a pod with a user namespace.
fn plan_mounts(
    container: &Container,
    volumes: &Volumes,
    mapped: bool,
    variable: impl Fn(&str) -> Option<String> + Copy,
) -> Result<Vec<WantedMount>, String> {
    let one = |mount: &VolumeMount| {
        let volume = volumes.mounted.get(&mount.name).ok_or_else(|| {
            format!("cannot find volume {:?} to mount into container {:?}", mount.name, container.name)
        })?;
        let sub_path = match mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
            Some(expression) => {
                let path = expand(expression, variable);
                // A reference that stayed is one to a variable that is not set.
                if path.contains("$(") {
                    return Err(format!("failed to expand subPathExpr {expression:?}"));
                }
                Some(path)
            }
            None => mount.sub_path.clone().filter(|p| !p.is_empty()),
        };
        if sub_path.as_deref().is_some_and(|p| p.starts_with('/')) {
            return Err("error SubPath must not be an absolute path".to_owned());
        }
        let path = Path::new(&mount.mount_path);
        let container_path = if path.is_absolute() { path.to_path_buf() } else { Path::new("/").join(path) };
        Ok(WantedMount {
            volume: mount.name.clone(),
            host: volume.path.clone(),
            sub_path,
            container_path,
            read_only: volume.read_only || mount.read_only == Some(true),
            relabel: volume.relabel,
            recursive: pod::is_recursive(mount),
            image: volume.image.clone().filter(|_| mapped),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::Private,
            },
        })
    };
    container.volume_mounts.iter().flatten().map(one).collect()
}

/// Volumes without a file system, as devices.
fn plan_devices(container: &Container, volumes: &Volumes) -> Result<Vec<GivenDevice>, String> {
    let one = |device: &VolumeDevice| {
        let volume = volumes.mounted.get(&device.name);
        let host = volume.and_then(|volume| Some((volume.device.clone()?, volume.read_only)));
        let (host, read_only) = host.ok_or_else(|| {
            format!("cannot find volume {:?} to pass into container {:?}", device.name, container.name)
        })?;
        Ok(GivenDevice::At { host, container: PathBuf::from(&device.device_path), read_only })
    };
    container.volume_devices.iter().flatten().map(one).collect()
}

fn make_mounts(
    wanted: Vec<WantedMount>,
    pod_directory: &Path,
    container: &str,
    message: &Path,
    logs: &Path,
) -> Result<Vec<Mount>, String> {
    let mut mounts = Vec::new();
    for (index, mount) in wanted.into_iter().enumerate() {
        let host_path = match &mount.sub_path {
            // The runtime looks it up in the image.
            path if mount.image.is_some() => PathBuf::from(path.as_deref().unwrap_or("/")),
            None => mount.host,
            Some(path) => {
                let target =
                    pod_directory.join("volume-subpaths").join(&mount.volume).join(container).join(index.to_string());
                subpath::ensure(&mount.host, path, &target).map_err(|e| {
                    format!(
                        "failed to prepare subPath for volumeMount {:?} of container {container:?}: {e}",
                        mount.volume
                    )
                })?
            }
        };
        mounts.push(Mount {
            host_path,
            container_path: mount.container_path,
            read_only: mount.read_only,
            propagation: mount.propagation,
            relabel: mount.relabel,
            recursive: mount.recursive,
            image: mount.image,
        });
    }
    let make = |what: &str, done: std::io::Result<()>| done.map_err(|e| format!("make the {what}: {e}"));
    if let Some(parent) = message.parent() {
        make("directory of termination messages", tree::ensure_directory(parent, 0o755))?;
    }
    make("termination message file", write_open(message))?;
    make("log directory", tree::ensure_directory(logs, 0o755))?;
    Ok(mounts)
}

/// An empty file that any user of the container may write to.
fn write_open(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, [])?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
}

/// Upstream's `verifyRunAsNonRoot`; `image_user` as the image has it.
fn check_non_root(pod: &Pod, container: &Container, image_user: &str) -> Result<(), String> {
    let own = container.security_context.as_ref();
    let shared = pod::spec(pod).security_context.as_ref();
    let wanted = own.and_then(|s| s.run_as_non_root).or_else(|| shared.and_then(|s| s.run_as_non_root));
    if wanted != Some(true) {
        return Ok(());
    }
    let whose = format!("(pod: {:?}, container: {})", pod::format(pod), container.name);
    let user = own.and_then(|s| s.run_as_user).or_else(|| shared.and_then(|s| s.run_as_user));
    let image_user = image_user.split(':').next().unwrap_or_default();
    match (user, image_user) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {whose}")),
        (Some(_), _) => Ok(()),
        (None, "" | "0") => Err(format!("container has runAsNonRoot and image will run as root {whose}")),
        (None, name) if name.parse::<i64>().is_err() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {whose}"
        )),
        (None, _) => Ok(()),
    }
}

fn security(pod: &Pod, container: &Container, root_directory: &Path) -> Security {
    let none = SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&none);
    let shared = pod::spec(pod).security_context.clone().unwrap_or_default();
    let privileged = own.privileged == Some(true);
    let mut groups = shared.supplemental_groups.clone().unwrap_or_default();
    groups.extend(shared.fs_group);
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let profile = own.seccomp_profile.as_ref().or(shared.seccomp_profile.as_ref());
    let seccomp = match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        _ if privileged => Seccomp::Unconfined,
        Some(("RuntimeDefault", _)) => Seccomp::RuntimeDefault,
        Some(("Localhost", Some(name))) => Seccomp::Localhost(root_directory.join("seccomp").join(name)),
        _ => Seccomp::Unconfined,
    };
    let profile = own.app_armor_profile.as_ref().or(shared.app_armor_profile.as_ref());
    let app_armor = match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        None => AppArmor::Unset,
        Some(("RuntimeDefault", _)) => AppArmor::RuntimeDefault,
        Some(("Localhost", name)) => AppArmor::Localhost(name.unwrap_or_default().to_owned()),
        Some(_) => AppArmor::Unconfined,
    };
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    let se_linux = own.se_linux_options.as_ref().or(shared.se_linux_options.as_ref());
    let se_linux = se_linux.map(|options| SeLinux {
        user: part(&options.user),
        role: part(&options.role),
        kind: part(&options.type_),
        level: part(&options.level),
    });
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    Security {
        run_as_user: own.run_as_user.or(shared.run_as_user),
        run_as_group: own.run_as_group.or(shared.run_as_group),
        supplemental_groups: groups,
        only_given_groups: shared.supplemental_groups_policy.as_deref() == Some("Strict"),
        privileged,
        read_only_root: own.read_only_root_filesystem == Some(true),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        seccomp,
        app_armor,
        se_linux,
        masked_paths: unmasked.then(Vec::new),
        readonly_paths: unmasked.then(Vec::new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::Mounted;
    use serde_json::{Value, json};

    fn sample(pod_context: Value, container: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": pod_context, "containers": [container]}}))
        .expect("a pod")
    }

    #[test]
    fn non_root() {
        for (pod_context, context, image_user, expected) in [
            (json!({}), json!({}), "", ""),
            (json!({"runAsNonRoot": true}), json!({}), "", "container has runAsNonRoot and image will run as root"),
            (json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false}), "", ""),
            (json!({}), json!({"runAsNonRoot": true}), "0:0", "container has runAsNonRoot and image will run as root"),
            (json!({}), json!({"runAsNonRoot": true}), "1000", ""),
            (
                json!({}),
                json!({"runAsNonRoot": true, "runAsUser": 0}),
                "1000",
                "container's runAsUser breaks non-root policy",
            ),
            (json!({"runAsUser": 5}), json!({"runAsNonRoot": true}), "web", ""),
            (
                json!({}),
                json!({"runAsNonRoot": true}),
                "web",
                "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root",
            ),
        ] {
            let pod = sample(pod_context, json!({"name": "c", "securityContext": context}));
            let found = check_non_root(&pod, &pod::spec(&pod).containers[0], image_user);
            let expected = match expected {
                "" => Ok(()),
                text => Err(format!("{text} (pod: \"p_n(u)\", container: c)")),
            };
            assert_eq!(found, expected, "{context} {image_user}");
        }
    }

    #[test]
    fn security_of_pod_and_container() {
        let pod = sample(
            json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4], "seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"name": "c", "securityContext": {"runAsUser": 9, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}}}),
        );
        let found = security(&pod, &pod::spec(&pod).containers[0], Path::new("/k"));
        assert_eq!((found.run_as_user, found.run_as_group), (Some(9), Some(2)));
        assert_eq!(found.supplemental_groups, [4, 3]);
        assert!(found.no_new_privileges && found.read_only_root && !found.privileged);
        assert_eq!(
            (found.add_capabilities, found.drop_capabilities),
            (vec!["NET_ADMIN".to_owned()], vec!["ALL".to_owned()])
        );
        assert_eq!(found.seccomp, Seccomp::RuntimeDefault);
        assert!(!found.only_given_groups);
        let pod = sample(json!({"supplementalGroupsPolicy": "Strict"}), json!({"name": "c"}));
        assert!(security(&pod, &pod::spec(&pod).containers[0], Path::new("/k")).only_given_groups);
        let pod = sample(
            json!({}),
            json!({"name": "c", "securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "p/a.json"}}}),
        );
        let found = security(&pod, &pod::spec(&pod).containers[0], Path::new("/k"));
        assert_eq!(found.seccomp, Seccomp::Localhost("/k/seccomp/p/a.json".into()));
        assert_eq!((found.app_armor, found.se_linux), (AppArmor::Unset, None));
        let pod = sample(
            json!({"appArmorProfile": {"type": "RuntimeDefault"}, "seLinuxOptions": {"level": "s0:c1"}}),
            json!({"name": "c", "securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "tight"}}}),
        );
        let found = security(&pod, &pod::spec(&pod).containers[0], Path::new("/k"));
        assert_eq!(found.app_armor, AppArmor::Localhost("tight".into()));
        assert_eq!(found.se_linux, Some(SeLinux { level: "s0:c1".into(), ..SeLinux::default() }));
    }

    #[test]
    fn mounts() {
        let mounted =
            |path: &str, read_only| Mounted { path: path.into(), read_only, relabel: true, image: None, device: None };
        let volumes = Volumes {
            mounted: [
                ("data".to_owned(), mounted("/v/data", false)),
                ("map".to_owned(), mounted("/v/map", true)),
                ("disk".to_owned(), Mounted { device: Some("/dev/sdx".into()), ..mounted("/dev/sdx", true) }),
            ]
            .into(),
            renew: None,
        };
        let plan = |mount: Value| {
            let pod = sample(json!({}), json!({"name": "c", "volumeMounts": [mount]}));
            plan_mounts(&pod::spec(&pod).containers[0], &volumes, false, |name| (name == "A").then(|| "a".to_owned()))
                .map(|mut list| list.remove(0))
        };
        let map =
            plan(json!({"name": "map", "mountPath": "etc/map", "mountPropagation": "HostToContainer"})).expect("fine");
        assert_eq!((map.read_only, map.container_path.to_str()), (true, Some("/etc/map")));
        assert_eq!(map.propagation, Propagation::HostToContainer);
        let data = plan(json!({"name": "data", "mountPath": "/d", "subPathExpr": "x/$(A)"})).expect("fine");
        assert_eq!((data.read_only, data.sub_path.as_deref(), data.recursive), (false, Some("x/a"), false));
        let recursive = json!({"name": "data", "mountPath": "/d", "readOnly": true, "recursiveReadOnly": "IfPossible"});
        assert!(plan(recursive).expect("fine").recursive);
        let devices = |name: &str| {
            let device = json!({"name": "c", "volumeDevices": [{"name": name, "devicePath": "/dev/x"}]});
            plan_devices(&pod::spec(&sample(json!({}), device)).containers[0], &volumes)
        };
        let given = GivenDevice::At { host: "/dev/sdx".into(), container: "/dev/x".into(), read_only: true };
        assert_eq!(devices("disk"), Ok(vec![given]));
        assert_eq!(devices("data"), Err("cannot find volume \"data\" to pass into container \"c\"".to_owned()));
        for (mount, error) in [
            (json!({"name": "none", "mountPath": "/d"}), "cannot find volume \"none\" to mount into container \"c\""),
            (
                json!({"name": "data", "mountPath": "/d", "subPathExpr": "$(B)"}),
                "failed to expand subPathExpr \"$(B)\"",
            ),
            (
                json!({"name": "data", "mountPath": "/d", "subPath": "/etc"}),
                "error SubPath must not be an absolute path",
            ),
        ] {
            assert_eq!(plan(mount).expect_err("refused"), error);
        }
    }
}
