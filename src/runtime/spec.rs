//! The OCI configuration that libcontainer reads, made from a plan.
//!
//! Left out on purpose, since our entry step ([`crate::supervisor`]'s `entry`) does it right: capabilities,
//! `noNewPrivileges`, seccomp, the propagation of single mounts, `/sys/fs/cgroup`; and resources, since the groups are ours.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use skiff_linux::cgroup::{Cgroups, DeviceRule, DeviceType};

use crate::plan::{ContainerPlan, ProcessPlan, SandboxPlan};
use crate::{GivenDevice, Mount, Propagation};

/// A device to be made in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Where the host has it.
    pub host: PathBuf,
    pub path: PathBuf,
    pub kind: DeviceType,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub read_only: bool,
}

/// A directory or a file that the container sees at another path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    pub source: PathBuf,
    pub target: PathBuf,
    pub read_only: bool,
    /// Without devices, programs and set-user-id bits.
    pub inert: bool,
    /// In a user namespace, its files have the ids there that they have on disk.
    pub mapped: bool,
    /// Where `source` is in an image.
    pub image: Option<String>,
}

/// Where libcontainer finds what is made before it begins.
#[derive(Debug)]
pub struct Made {
    pub root: PathBuf,
    pub binds: Vec<Bind>,
    pub devices: Vec<Device>,
    /// The pod's namespaces by their names below `/proc/self/ns`, and another container's process namespace as `pid`.
    pub namespaces: BTreeMap<&'static str, PathBuf>,
}

/// The configuration.
pub fn plan_spec(plan: &ContainerPlan, process: &ProcessPlan, made: &Made, cgroups: &Cgroups) -> Value {
    let shared = plan.mounts.iter().any(|mount| mount.propagation == Propagation::Bidirectional);
    let devices: Vec<Value> = made
        .devices
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
        "root": { "path": made.root, "readonly": plan.read_only_root },
        "process": {
            "terminal": process.tty,
            "user": { "uid": process.uid, "gid": process.gid, "umask": 0o022, "additionalGids": process.groups },
            "args": process.args,
            "env": [],
            "cwd": process.working_dir,
        },
        "mounts": plan_mounts(plan, &made.binds),
        "linux": {
            "cgroupsPath": plan.cgroup,
            "namespaces": plan_namespaces(plan, &made.namespaces, cgroups),
            "rootfsPropagation": if shared { "shared" } else { "slave" },
            "maskedPaths": plan.masked_paths,
            "readonlyPaths": plan.readonly_paths,
            "devices": devices,
        },
    })
}

/// The namespaces of the pod that the container joins.
pub fn joined_namespaces(plan: &SandboxPlan) -> impl Iterator<Item = &'static str> {
    let wanted = [
        (plan.ids.is_some(), "user"),
        (plan.network, "net"),
        (plan.ipc, "ipc"),
        (plan.uts(), "uts"),
        (plan.process, "pid"),
    ];
    wanted.into_iter().filter_map(|(wanted, name)| wanted.then_some(name))
}

fn plan_namespaces(plan: &ContainerPlan, joined: &BTreeMap<&str, PathBuf>, cgroups: &Cgroups) -> Vec<Value> {
    let mut namespaces = vec![json!({ "type": "mount" })];
    namespaces.extend(joined.iter().map(|(name, path)| {
        let kind = if *name == "net" { "network" } else { name };
        json!({ "type": kind, "path": path })
    }));
    if !joined.contains_key("pid") && !plan.sandbox.host_pid {
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

/// What the container sees of the host, in the order of mounting: the pod's own after what all have.
pub fn plan_binds(plan: &ContainerPlan) -> Vec<Bind> {
    let shm = if plan.sandbox.ipc { plan.sandbox.directory.join("shm") } else { PathBuf::from("/dev/shm") };
    let bind = |source: PathBuf, target: &str, inert: bool| Bind {
        source,
        target: PathBuf::from(target),
        read_only: false,
        inert,
        // That one was made with the right ids.
        mapped: !inert,
        image: None,
    };
    let hostname = bind(plan.sandbox.directory.join("hostname"), "/etc/hostname", false);
    let usual = [bind(shm, "/dev/shm", true), hostname].into_iter().filter(|usual| !is_taken(plan, &usual.target));
    let mut own: Vec<&Mount> = plan.mounts.iter().collect();
    own.sort_by_key(|mount| mount.container_path.components().count());
    let own = own.into_iter().map(|own| Bind {
        source: own.host_path.clone(),
        target: own.container_path.clone(),
        read_only: own.read_only,
        inert: false,
        mapped: true,
        image: own.image.as_ref().map(|image| image.0.clone()),
    });
    usual.chain(own).collect()
}

/// What the pod mounts at the same place replaces ours.
fn is_taken(plan: &ContainerPlan, target: &Path) -> bool {
    plan.mounts.iter().any(|own| own.container_path == target)
}

fn plan_mounts(plan: &ContainerPlan, binds: &[Bind]) -> Vec<Value> {
    let access = if plan.privileged { "rw" } else { "ro" };
    let file_systems: [(&str, &str, &[&str]); 5] = [
        ("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        ("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        ("sysfs", "/sys", &["nosuid", "noexec", "nodev", access]),
    ];
    let file_systems = file_systems.into_iter().filter(|(_, target, _)| !is_taken(plan, Path::new(target)));
    let file_systems =
        file_systems.map(|(kind, target, options)| mount(kind, Path::new(kind), Path::new(target), options));
    let binds = binds.iter().map(|bind| {
        let mut options = vec!["rbind"];
        if bind.inert {
            options.extend(["nosuid", "noexec", "nodev"]);
        }
        if bind.read_only {
            options.push("ro");
        }
        mount("bind", &bind.source, &bind.target, &options)
    });
    file_systems.chain(binds).collect()
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
fn device_of(host: &Path, path: &Path, metadata: &std::fs::Metadata, read_only: bool) -> Option<Device> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let kind = metadata.file_type();
    (kind.is_block_device() || kind.is_char_device()).then(|| Device {
        host: host.to_owned(),
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

/// A device, or a directory that may have some.
struct Look {
    host: PathBuf,
    container: PathBuf,
    read_only: bool,
    /// It was asked for by name: others may go while we look.
    named: bool,
}

/// Reads what the host has at these paths; a directory gives every device below it.
pub fn host_devices(given: &[GivenDevice]) -> std::io::Result<Vec<Device>> {
    use std::os::unix::fs::FileTypeExt;
    let mut found: Vec<Device> = Vec::new();
    // From the end: what was given a place of its own keeps it.
    let mut queue: Vec<Look> = Vec::new();
    for one in given {
        let (host, container, read_only) = match one {
            GivenDevice::Same(path) => (path, path, false),
            GivenDevice::At { host, container, read_only } => (host, container, *read_only),
        };
        let look = Look { host: host.clone(), container: container.clone(), read_only, named: true };
        match one {
            GivenDevice::Same(_) => queue.insert(0, look),
            GivenDevice::At { .. } => queue.push(look),
        }
    }
    while let Some(Look { host, container, read_only, named }) = queue.pop() {
        let at = |error: std::io::Error| std::io::Error::new(error.kind(), format!("{}: {error}", host.display()));
        let gone = |error: &std::io::Error| !named && error.kind() == std::io::ErrorKind::NotFound;
        let metadata = match std::fs::metadata(&host) {
            Err(error) if gone(&error) => continue,
            found => found.map_err(at)?,
        };
        if metadata.is_dir() {
            let entries = match std::fs::read_dir(&host) {
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
                    let container = container.join(entry.file_name());
                    queue.push(Look { host: entry.path(), container, read_only, named: false });
                }
            }
        } else if let Some(device) = device_of(&host, &container, &metadata, read_only) {
            if !found.iter().any(|other| other.path == container) {
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
            host: "/dev/fuse".into(),
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
