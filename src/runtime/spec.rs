//! The OCI configuration that libcontainer reads, made from a plan.
//!
//! Left out on purpose, since our entry step ([`crate::supervisor`]'s `entry`) does it right: capabilities,
//! `noNewPrivileges`, seccomp, the propagation of single mounts, `/sys/fs/cgroup`; and resources, since the groups are ours.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use skiff_linux::cgroup::{Cgroups, DeviceRule, DeviceType};

use crate::plan::{ContainerPlan, ProcessPlan};
use crate::{GivenDevice, Mount, Propagation};

/// A device to be made in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub path: PathBuf,
    pub kind: DeviceType,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub read_only: bool,
}

/// The configuration. `joined`: another container's process namespace.
pub fn plan_spec(
    plan: &ContainerPlan,
    process: &ProcessPlan,
    devices: &[Device],
    joined: Option<&Path>,
    cgroups: &Cgroups,
) -> Value {
    let shared = plan.mounts.iter().any(|mount| mount.propagation == Propagation::Bidirectional);
    let devices: Vec<Value> = devices
        .iter()
        .map(|device| {
            json!({
                "path": device.path, "type": if device.kind == DeviceType::Block { "b" } else { "c" },
                "major": device.major, "minor": device.minor, "fileMode": device.mode,
                "uid": device.uid, "gid": device.gid,
            })
        })
        .collect();
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": plan.rootfs(), "readonly": plan.read_only_root },
        "process": {
            "terminal": process.tty,
            "user": { "uid": process.uid, "gid": process.gid, "umask": 0o022, "additionalGids": process.groups },
            "args": process.args,
            "env": [],
            "cwd": process.working_dir,
        },
        "mounts": plan_mounts(plan),
        "linux": {
            "cgroupsPath": plan.cgroup,
            "namespaces": plan_namespaces(plan, joined, cgroups),
            "rootfsPropagation": if shared { "shared" } else { "slave" },
            "maskedPaths": plan.masked_paths,
            "readonlyPaths": plan.readonly_paths,
            "devices": devices,
        },
    })
}

/// `joined`: another container's process namespace.
fn plan_namespaces(plan: &ContainerPlan, joined: Option<&Path>, cgroups: &Cgroups) -> Vec<Value> {
    let sandbox = &plan.sandbox;
    let mut namespaces = vec![json!({ "type": "mount" })];
    for (wanted, kind, name) in
        [(sandbox.network, "network", "net"), (sandbox.ipc, "ipc", "ipc"), (sandbox.uts(), "uts", "uts")]
    {
        if wanted {
            namespaces.push(json!({ "type": kind, "path": sandbox.namespace(name) }));
        }
    }
    if let Some(joined) = joined {
        namespaces.push(json!({ "type": "pid", "path": joined }));
    } else if sandbox.process {
        namespaces.push(json!({ "type": "pid", "path": sandbox.namespace("pid") }));
    } else if !sandbox.host_pid {
        namespaces.push(json!({ "type": "pid" }));
    }
    // As upstream: private on v2 only.
    if cgroups.is_v2() && !plan.privileged {
        namespaces.push(json!({ "type": "cgroup" }));
    }
    namespaces
}

fn mount(kind: &str, source: &Path, target: &Path, options: &[&str]) -> Value {
    json!({ "type": kind, "source": source, "destination": target, "options": options })
}

fn plan_mounts(plan: &ContainerPlan) -> Vec<Value> {
    let access = if plan.privileged { "rw" } else { "ro" };
    let file_system = |kind: &str, target: &str, options: &[&str]| {
        (PathBuf::from(target), mount(kind, Path::new(kind), Path::new(target), options))
    };
    let mut mounts = vec![
        file_system("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        file_system("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        file_system("devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        file_system("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        file_system("sysfs", "/sys", &["nosuid", "noexec", "nodev", access]),
    ];
    let shm = if plan.sandbox.ipc { plan.sandbox.directory.join("shm") } else { PathBuf::from("/dev/shm") };
    let bind = |source: PathBuf, target: &str, options: &[&str]| {
        (PathBuf::from(target), mount("bind", &source, Path::new(target), options))
    };
    mounts.push(bind(shm, "/dev/shm", &["rbind", "nosuid", "noexec", "nodev"]));
    mounts.push(bind(plan.sandbox.directory.join("hostname"), "/etc/hostname", &["rbind"]));

    // What the pod mounts at the same place replaces ours.
    mounts.retain(|(target, _)| !plan.mounts.iter().any(|own| own.container_path == *target));
    let mut own: Vec<&Mount> = plan.mounts.iter().collect();
    own.sort_by_key(|mount| mount.container_path.components().count());
    let own = own.into_iter().map(|own| {
        let options = if own.read_only { ["rbind", "ro"] } else { ["rbind", "rw"] };
        mount("bind", &own.host_path, &own.container_path, &options)
    });
    mounts.into_iter().map(|(_, mount)| mount).chain(own).collect()
}

/// What may be opened: what every container has, and its own devices. Making nodes is allowed: one that may not be
/// opened is of no use.
pub fn plan_device_rules(devices: &[Device], privileged: bool) -> Vec<DeviceRule> {
    let rule = |kind, major, minor| DeviceRule { kind, major, minor, read: true, write: true, make: true };
    if privileged {
        return vec![rule(DeviceType::Block, None, None), rule(DeviceType::Character, None, None)];
    }
    let make_only = |kind| DeviceRule { read: false, write: false, ..rule(kind, None, None) };
    let mut rules = vec![make_only(DeviceType::Character), make_only(DeviceType::Block)];
    // null, zero, full, random, urandom, tty, console, ptmx, and the terminals of devpts.
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule(DeviceType::Character, Some(major), Some(minor)));
    }
    rules.push(rule(DeviceType::Character, Some(136), None));
    rules.extend(devices.iter().map(|device| {
        let rule = rule(device.kind, Some(device.major), Some(device.minor));
        DeviceRule { write: !device.read_only, ..rule }
    }));
    rules
}

/// A device to be made at `path`; `None` where that is something else.
fn device_of(path: &Path, metadata: &std::fs::Metadata, read_only: bool) -> Option<Device> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let kind = metadata.file_type();
    (kind.is_block_device() || kind.is_char_device()).then(|| Device {
        path: path.to_owned(),
        kind: if kind.is_block_device() { DeviceType::Block } else { DeviceType::Character },
        major: nix::sys::stat::major(metadata.rdev()) as u32,
        minor: nix::sys::stat::minor(metadata.rdev()) as u32,
        mode: metadata.mode() & 0o777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        read_only,
    })
}

/// Reads what the host has at these paths; a directory gives every device below it.
pub fn host_devices(given: &[GivenDevice]) -> std::io::Result<Vec<Device>> {
    use std::os::unix::fs::FileTypeExt;
    let mut found: Vec<Device> = Vec::new();
    // With whether it was asked for by name: others may go while we look.
    let mut queue: Vec<(PathBuf, bool)> = Vec::new();
    for one in given {
        match one {
            GivenDevice::Same(path) => queue.push((path.clone(), true)),
            GivenDevice::At { host, container, read_only } => {
                let at =
                    |error: std::io::Error| std::io::Error::new(error.kind(), format!("{}: {error}", host.display()));
                let device = device_of(container, &std::fs::metadata(host).map_err(at)?, *read_only);
                found.push(device.ok_or_else(|| at(std::io::Error::other("not a device")))?);
            }
        }
    }
    let own = found.len();
    while let Some((path, named)) = queue.pop() {
        let at = |error: std::io::Error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let gone = |error: &std::io::Error| !named && error.kind() == std::io::ErrorKind::NotFound;
        let metadata = match std::fs::metadata(&path) {
            Err(error) if gone(&error) => continue,
            found => found.map_err(at)?,
        };
        let kind = metadata.file_type();
        if kind.is_dir() {
            let entries = match std::fs::read_dir(&path) {
                Err(error) if gone(&error) => continue,
                found => found.map_err(at)?,
            };
            for entry in entries {
                let entry = entry?;
                let kind = match entry.file_type() {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    kind => kind?,
                };
                // These have file systems of their own in the container.
                let own = ["pts", "shm", "mqueue", "fd"].iter().any(|name| entry.file_name() == *name);
                if (kind.is_dir() && !own) || kind.is_block_device() || kind.is_char_device() {
                    queue.push((entry.path(), false));
                }
            }
        } else if let Some(device) = device_of(&path, &metadata, false) {
            // What was given a place of its own keeps it.
            if !found[..own].iter().any(|other| other.path == path) {
                found.push(device);
            }
        } else if named {
            return Err(at(std::io::Error::other("not a device")));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    // These are made or linked for every container.
    found.retain(|device| !["/dev/console", "/dev/ptmx"].iter().any(|path| device.path == Path::new(path)));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let device = Device {
            path: "/dev/fuse".into(),
            kind: DeviceType::Character,
            major: 10,
            minor: 229,
            mode: 0o666,
            uid: 0,
            gid: 0,
            read_only: false,
        };
        let rules: Vec<String> =
            plan_device_rules(std::slice::from_ref(&device), false).iter().map(ToString::to_string).collect();
        assert_eq!(rules[..3], ["c *:* m", "b *:* m", "c 1:3 rwm"]);
        assert_eq!(rules.last().map(String::as_str), Some("c 10:229 rwm"));
        let rules = plan_device_rules(&[Device { read_only: true, ..device }], false);
        assert_eq!(rules.last().map(ToString::to_string).as_deref(), Some("c 10:229 rm"));
        assert_eq!(plan_device_rules(&[], true).len(), 2);
    }

    #[test]
    fn devices_come_and_go_while_they_are_listed() {
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        let directory = tempfile::tempdir().expect("a directory");
        let node = |path: &Path| mknod(path, SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3)).expect("made (needs root)");
        node(&directory.path().join("stays"));
        let (parent, stop) = (directory.path().to_owned(), std::sync::atomic::AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let sub = parent.join("sub");
                    std::fs::create_dir(&sub).expect("a directory");
                    node(&sub.join("node"));
                    node(&parent.join("goes"));
                    std::fs::remove_file(parent.join("goes")).expect("removed");
                    std::fs::remove_dir_all(&sub).expect("removed");
                }
            });
            let listed: Vec<_> = (0..2000).map(|_| host_devices(&[GivenDevice::Same(parent.clone())])).collect();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            for found in listed {
                let found = found.expect("what goes is no failure");
                assert!(found.iter().any(|device| device.path.ends_with("stays")));
            }
        });
    }

    #[test]
    fn devices_of_the_host() {
        let found = host_devices(&["/dev/null".into()]).expect("null");
        assert_eq!((found[0].major, found[0].minor), (1, 3));
        let elsewhere = |host: &str| GivenDevice::At { host: host.into(), container: "/dev/x".into(), read_only: true };
        let found = host_devices(&[elsewhere("/dev/null"), "/dev/zero".into()]).expect("both");
        assert_eq!((found[0].path.as_path(), found[0].minor, found[0].read_only), (Path::new("/dev/x"), 3, true));
        assert_eq!((found[1].path.as_path(), found[1].read_only), (Path::new("/dev/zero"), false));
        assert!(host_devices(&[elsewhere("/etc/passwd")]).is_err());
        assert!(host_devices(&["/etc/passwd".into()]).is_err());
        assert!(host_devices(&["/dev/no-such".into()]).is_err());
    }
}
