//! Volumes that outlive their pods: directories and devices of this machine, and what an NFS server has.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{HostPathVolumeSource, NFSVolumeSource, Pod, Volume};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use skiff_base::chain;

use super::claim::Claimed;
use super::{Mounted, tree};
use crate::context::Context;
use crate::pod;
use crate::unsupported;

/// What is behind a volume.
#[derive(Debug, PartialEq)]
pub(crate) enum Source {
    /// Shown as it is.
    HostPath {
        path: PathBuf,
        kind: Option<String>,
    },
    /// A directory, or a device with a file system.
    Local {
        path: PathBuf,
        fs_type: Option<String>,
    },
    Nfs {
        server: String,
        path: String,
        read_only: bool,
    },
}

/// How the group of a pod gets a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ownership {
    pub(crate) group: u32,
    /// Only where the root of the volume is not the group's yet.
    pub(crate) on_mismatch: bool,
}

/// The ownership that a pod asks for.
pub(crate) fn ownership(pod: &Pod) -> Option<Ownership> {
    let context = pod::spec(pod).security_context.as_ref()?;
    let group = u32::try_from(context.fs_group?).ok()?;
    Some(Ownership { group, on_mismatch: context.fs_group_change_policy.as_deref() == Some("OnRootMismatch") })
}

/// One such volume, decided.
#[derive(Debug)]
pub(crate) enum Mounting {
    HostPath(HostPathVolumeSource),
    Local { path: PathBuf, fs_type: Option<String>, target: PathBuf, options: Options, ownership: Option<Ownership> },
    Nfs { server: String, address: IpAddr, path: String, target: PathBuf, options: Options, node_ip: IpAddr },
    Device(PathBuf),
}

/// Decides how a volume of the pod comes about; `None` where it is of a kind that is not for here.
pub(crate) async fn plan(
    ctx: &Context,
    pod: &Pod,
    volume: &Volume,
    claimed: Option<&Claimed>,
    directory: &Path,
) -> Result<Option<(Mounted, Mounting)>, String> {
    let source = match claimed {
        Some(claimed) => source(claimed).map_err(|kind| format!("{kind} volumes are not supported by this node"))?,
        None => match &volume.nfs {
            Some(nfs) => nfs_source(nfs),
            None => return Ok(None),
        },
    };
    let read_only = claimed.is_some_and(|claimed| claimed.read_only);
    // Upstream names the directory of a claim's volume by the volume.
    let name = claimed.map_or(volume.name.as_str(), Claimed::name);
    let target = |plugin: &str| directory.join("volumes").join(format!("kubernetes.io~{plugin}")).join(name);
    let asked = claimed.and_then(|claimed| claimed.volume.spec.as_ref()?.mount_options.clone()).unwrap_or_default();
    let shown = |path: &Path, read_only: bool| Mounted {
        path: path.to_owned(),
        read_only,
        relabel: false,
        image: None,
        device: None,
    };
    let block = claimed.is_some_and(Claimed::is_block);
    Ok(Some(match source {
        Source::HostPath { path, .. } | Source::Local { path, .. } if block => {
            (Mounted { device: Some(path.clone()), ..shown(&path, read_only) }, Mounting::Device(path))
        }
        Source::HostPath { path, kind } => {
            let host = HostPathVolumeSource { path: path.to_string_lossy().into_owned(), type_: kind };
            (shown(&path, read_only), Mounting::HostPath(host))
        }
        Source::Local { path, fs_type } => {
            let target = target("local-volume");
            let options = Options::parse(&asked, read_only);
            let shown = Mounted { relabel: !read_only, ..shown(&target, read_only) };
            (shown, Mounting::Local { path, fs_type, target, options, ownership: ownership(pod) })
        }
        Source::Nfs { .. } if block => return Err("nfs volumes have no block devices".to_owned()),
        Source::Nfs { server, path, read_only: source_read_only } => {
            let target = target("nfs");
            let read_only = read_only || source_read_only;
            let found = skiff_resolver::resolve(&server).await;
            let found = found.map_err(|e| format!("mount failed: {server}: {}", chain(&e)))?;
            let address = *found.first().ok_or_else(|| format!("mount failed: {server} has no address"))?;
            let options = Options::parse(&asked, read_only);
            let node_ip = ctx.options.node_ip.into();
            (shown(&target, read_only), Mounting::Nfs { server, address, path, target, options, node_ip })
        }
    }))
}

pub(crate) fn apply(mounting: &Mounting) -> io::Result<()> {
    match mounting {
        Mounting::HostPath(source) => super::ensure_host_path(source),
        Mounting::Local { path, fs_type, target, options, ownership } => {
            ensure_local(path, fs_type.as_deref(), target, options, *ownership)
        }
        Mounting::Nfs { server, address, path, target, options, node_ip } => {
            ensure_nfs((server, *address), path, target, options, *node_ip)
        }
        Mounting::Device(path) => check_device(path),
    }
}

/// The source of a claim's volume; the name of its kind where this node mounts no such volumes.
pub(crate) fn source(claimed: &Claimed) -> Result<Source, String> {
    let Some(spec) = &claimed.volume.spec else { return Err("unknown".to_owned()) };
    if let Some(host) = &spec.host_path {
        return Ok(Source::HostPath { path: PathBuf::from(&host.path), kind: host.type_.clone() });
    }
    if let Some(local) = &spec.local {
        let fs_type = local.fs_type.clone().filter(|kind| !kind.is_empty());
        return Ok(Source::Local { path: PathBuf::from(&local.path), fs_type });
    }
    match &spec.nfs {
        Some(nfs) => Ok(nfs_source(nfs)),
        None => Err(unsupported::source_of_volume(spec)),
    }
}

pub(crate) fn nfs_source(nfs: &NFSVolumeSource) -> Source {
    Source::Nfs { server: nfs.server.clone(), path: nfs.path.clone(), read_only: nfs.read_only == Some(true) }
}

/// Options of mount(8), as the kernel wants them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    flags: MsFlags,
    /// What is the file system's own.
    data: Vec<String>,
}

impl Options {
    pub(crate) fn parse(options: &[String], read_only: bool) -> Self {
        let mut parsed = Self { flags: MsFlags::empty(), data: Vec::new() };
        for option in options.iter().flat_map(|option| option.split(',')).filter(|option| !option.is_empty()) {
            let (flag, set) = match option {
                "defaults" => continue,
                "ro" => (MsFlags::MS_RDONLY, true),
                "rw" => (MsFlags::MS_RDONLY, false),
                "nosuid" => (MsFlags::MS_NOSUID, true),
                "suid" => (MsFlags::MS_NOSUID, false),
                "nodev" => (MsFlags::MS_NODEV, true),
                "dev" => (MsFlags::MS_NODEV, false),
                "noexec" => (MsFlags::MS_NOEXEC, true),
                "exec" => (MsFlags::MS_NOEXEC, false),
                "sync" => (MsFlags::MS_SYNCHRONOUS, true),
                "async" => (MsFlags::MS_SYNCHRONOUS, false),
                "dirsync" => (MsFlags::MS_DIRSYNC, true),
                "noatime" => (MsFlags::MS_NOATIME, true),
                "atime" => (MsFlags::MS_NOATIME, false),
                "nodiratime" => (MsFlags::MS_NODIRATIME, true),
                "diratime" => (MsFlags::MS_NODIRATIME, false),
                "relatime" => (MsFlags::MS_RELATIME, true),
                "strictatime" => (MsFlags::MS_STRICTATIME, true),
                other => {
                    parsed.data.push(other.to_owned());
                    continue;
                }
            };
            parsed.flags.set(flag, set);
        }
        parsed.flags.set(MsFlags::MS_RDONLY, read_only || parsed.flags.contains(MsFlags::MS_RDONLY));
        parsed
    }
}

/// Shows a directory, or the file system of a device, at `target`; what is mounted there stays.
pub(crate) fn ensure_local(
    path: &Path,
    fs_type: Option<&str>,
    target: &Path,
    options: &Options,
    ownership: Option<Ownership>,
) -> io::Result<()> {
    let kind = fs::metadata(path).map_err(|e| match e.kind() {
        // Upstream's words.
        io::ErrorKind::NotFound => io::Error::new(e.kind(), format!("path {:?} does not exist", path.display())),
        _ => e,
    })?;
    tree::ensure_directory(target, 0o750)?;
    let ownership = ownership.filter(|_| !options.flags.contains(MsFlags::MS_RDONLY));
    let unfinished = unfinished(target);
    match (is_mounted(target)?, ownership) {
        (true, Some(ownership)) if unfinished.exists() => return finish(target, ownership, &unfinished),
        (true, _) => return Ok(()),
        (false, Some(_)) => fs::write(&unfinished, [])?,
        (false, None) => {}
    }
    if kind.file_type().is_block_device() {
        mount_device(path, fs_type.unwrap_or("ext4"), target, options)?;
    } else if kind.is_dir() {
        tree::bind(path, target)?;
    } else {
        return Err(io::Error::other(format!("{:?} is neither a directory nor a block device", path.display())));
    }
    ownership.map_or(Ok(()), |ownership| finish(target, ownership, &unfinished))
}

/// Beside the place of a volume while it is not the group's in whole; no volume has such a name.
fn unfinished(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push("~unfinished");
    name.into()
}

fn finish(target: &Path, ownership: Ownership, unfinished: &Path) -> io::Result<()> {
    give(target, ownership)?;
    fs::remove_file(unfinished)
}

/// By the kernel's list: a directory that is bound to its place has the device of what is around it.
fn is_mounted(target: &Path) -> io::Result<bool> {
    Ok(skiff_linux::mount::mounts_below(target)?.iter().any(|point| point == target))
}

fn mount_device(device: &Path, fs_type: &str, target: &Path, options: &Options) -> io::Result<()> {
    let data = options.data.join(",");
    match mount(Some(device), target, Some(fs_type), options.flags, Some(data.as_str())) {
        Ok(()) => Ok(()),
        Err(Errno::EINVAL) => Err(io::Error::other(format!(
            "mount failed: {} has no file system of type {fs_type} (a node makes none: mkfs.{fs_type} does)",
            device.display()
        ))),
        Err(e) => Err(io::Error::other(format!("mount failed: {}: {}", device.display(), e.desc()))),
    }
}

/// What is the group's by its root is taken for the group's in whole, where that was asked for.
pub(crate) fn give(path: &Path, ownership: Ownership) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let root = fs::metadata(path)?;
    let matches = root.gid() == ownership.group && root.mode() & 0o2770 == 0o2770;
    if ownership.on_mismatch && matches { Ok(()) } else { tree::give_to_group(path, ownership.group) }
}

/// The versions that are tried where none is asked for, as mount.nfs does.
const NFS_VERSIONS: [&str; 4] = ["4.2", "4.1", "4.0", "3"];

/// Mounts what an NFS server has, by the kernel's own client.
pub(crate) fn ensure_nfs(
    server: (&str, IpAddr),
    path: &str,
    target: &Path,
    options: &Options,
    node_ip: IpAddr,
) -> io::Result<()> {
    tree::ensure_directory(target, 0o750)?;
    if is_mounted(target)? {
        return Ok(());
    }
    let named = options.data.iter().any(|option| option.starts_with("vers=") || option.starts_with("nfsvers="));
    let versions: Vec<Option<&str>> = if named { vec![None] } else { NFS_VERSIONS.into_iter().map(Some).collect() };
    let what = format!("{}:{path}", server.0);
    let mut last = Errno::EINVAL;
    for version in versions {
        let mut data = options.data.clone();
        data.extend(version.map(|version| format!("vers={version}")));
        data.push(format!("addr={}", server.1));
        if version.is_none_or(|version| version.starts_with('4')) {
            data.push(format!("clientaddr={node_ip}"));
        }
        match mount(Some(what.as_str()), target, Some("nfs"), options.flags, Some(data.join(",").as_str())) {
            Ok(()) => return Ok(()),
            Err(e) => last = e,
        }
        // Another version may be what the server speaks.
        if !matches!(last, Errno::EPROTONOSUPPORT | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EPROTO) {
            break;
        }
    }
    let why = match last {
        Errno::ENODEV => "the kernel of this node has no NFS client (module nfs)",
        other => other.desc(),
    };
    Err(io::Error::other(format!("mount failed: {what}: {why}")))
}

/// A device for a volume without a file system.
pub(crate) fn check_device(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.file_type().is_block_device() {
        return Ok(());
    }
    Err(io::Error::other(format!("{} is no block device", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn options_of_mount() {
        let parse = |options: &[&str], read_only: bool| {
            let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
            Options::parse(&options, read_only)
        };
        let found = parse(&["ro,noatime", "vers=4.1", "hard", "defaults"], false);
        assert_eq!(found.flags, MsFlags::MS_RDONLY | MsFlags::MS_NOATIME);
        assert_eq!(found.data, ["vers=4.1", "hard"]);
        assert_eq!(parse(&["rw"], true).flags, MsFlags::MS_RDONLY);
        assert_eq!(parse(&["nosuid", "suid"], false).flags, MsFlags::empty());
    }

    #[test]
    fn local_directories() {
        let directory = tempfile::tempdir().expect("a directory");
        let (data, target) = (directory.path().join("data"), directory.path().join("pod/target"));
        fs::create_dir(&data).expect("a directory");
        fs::write(data.join("f"), "kept").expect("a file");
        let options = Options::parse(&[], false);
        let ensure = |ownership: Option<Ownership>| ensure_local(&data, None, &target, &options, ownership);
        let group = |on_mismatch: bool| Some(Ownership { group: 3000, on_mismatch });
        ensure(group(false)).expect("mounted (needs root)");
        assert_eq!(fs::read_to_string(target.join("f")).expect("shown"), "kept");
        assert_eq!(fs::metadata(data.join("f")).expect("metadata").gid(), 3000);
        ensure(group(false)).expect("idempotent");
        assert_eq!(skiff_linux::mount::mounts_below(&target).expect("mounts").len(), 1);
        // What is the group's by its root is left as it is.
        skiff_linux::mount::ensure_unmounted_below(&target).expect("unmounted");
        std::os::unix::fs::chown(data.join("f"), None, Some(0)).expect("given back");
        ensure(group(true)).expect("mounted");
        assert_eq!(fs::metadata(data.join("f")).expect("metadata").gid(), 0);
        skiff_linux::mount::ensure_unmounted_below(&target).expect("unmounted");
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("a mode");
        ensure(group(true)).expect("mounted");
        assert_eq!(fs::metadata(data.join("f")).expect("metadata").gid(), 3000);
        skiff_linux::mount::ensure_unmounted_below(&target).expect("unmounted");
        assert!(data.join("f").exists());
        // What could not be given in whole is not taken for given, neither at once nor by its root.
        let mut deep = data.join("deep");
        fs::create_dir(&deep).expect("a directory");
        for _ in 0..510 {
            deep.push("d");
            fs::create_dir(&deep).expect("a directory");
        }
        for on_mismatch in [false, true] {
            std::os::unix::fs::chown(data.join("f"), None, Some(0)).expect("given back");
            std::os::unix::fs::chown(&data, None, Some(0)).expect("given back");
            for attempt in 0..2 {
                let why = ensure(group(on_mismatch)).expect_err("too deep").to_string();
                assert!(why.contains("too deep"), "{attempt}: {why}");
            }
            skiff_linux::mount::ensure_unmounted_below(&target).expect("unmounted");
        }
        ensure(group(true)).expect_err("still too deep");
        fs::remove_dir_all(data.join("deep")).expect("removed");
        ensure(group(true)).expect("given");
        assert_eq!(fs::metadata(data.join("f")).expect("metadata").gid(), 3000);
        assert!(!unfinished(&target).exists());
        skiff_linux::mount::ensure_unmounted_below(&target).expect("unmounted");
        let none = directory.path().join("none");
        let why = ensure_local(&none, None, &target, &options, None).expect_err("there is none").to_string();
        assert_eq!(why, format!("path {:?} does not exist", none.display()));
        assert!(ensure_local(&data.join("f"), None, &target, &options, None).is_err());
        assert!(check_device(&data).is_err());
    }

    #[test]
    fn what_is_behind_a_volume() {
        let claimed = |spec: serde_json::Value| Claimed {
            volume: serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).expect("a volume"),
            claim: Default::default(),
            read_only: false,
        };
        let local = claimed(json!({"local": {"path": "/d", "fsType": "xfs"}, "capacity": {"storage": "1Gi"}}));
        assert_eq!(source(&local), Ok(Source::Local { path: "/d".into(), fs_type: Some("xfs".to_owned()) }));
        let nfs = claimed(json!({"nfs": {"server": "s", "path": "/p"}}));
        assert_eq!(source(&nfs), Ok(Source::Nfs { server: "s".into(), path: "/p".into(), read_only: false }));
        let other =
            claimed(json!({"iscsi": {"targetPortal": "t", "iqn": "i", "lun": 0}, "accessModes": ["ReadWriteOnce"]}));
        assert_eq!(source(&other), Err("iscsi".to_owned()));
    }
}
