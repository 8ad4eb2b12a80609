//! `skiff killall` and `skiff uninstall`: nothing of ours stays on the machine, and nothing of others goes.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::PlaceArgs;
use crate::server::{require_root, runtime_options};

/// How long `skiff server` may take to stop.
const STOP_LIMIT: std::time::Duration = std::time::Duration::from_secs(20);

pub fn kill_all(place: &PlaceArgs) -> Result<ExitCode> {
    require_root("skiff killall")?;
    let places = stop_everything(place)?;
    places.remove_pods().map_err(left_by_pods)?;
    println!(
        "Every container and process of Skiff on this machine has ended; the data is still in {}.",
        place.data_dir.display()
    );
    Ok(ExitCode::SUCCESS)
}

pub fn uninstall(place: &PlaceArgs) -> Result<ExitCode> {
    require_root("skiff uninstall")?;
    remove_unit();
    stop_everything(place)?.remove_all().map_err(left_by_pods)?;
    let mut failures = Vec::new();
    let mut remove = |path: &Path| {
        if let Err(error) = remove_tree(path) {
            failures.push(format!("{error:#}"));
        }
    };
    remove(&place.data_dir);
    remove(&place.write_kubeconfig);
    if let Some(directory) = place.write_kubeconfig.parent().filter(|d| d.ends_with("skiff")) {
        remove(directory);
    }
    for file in INSTALLED {
        remove(Path::new(file));
    }
    remove_client_links();
    if !failures.is_empty() {
        bail!("not everything could be removed:\n  {}", failures.join("\n  "));
    }
    println!("Skiff is removed from this machine.");
    Ok(ExitCode::SUCCESS)
}

/// What install.sh has put there, and what the server has put beside it.
const INSTALLED: [&str; 6] = [
    "/etc/systemd/system/skiff.service",
    "/etc/init.d/skiff",
    "/etc/conf.d/skiff",
    "/usr/local/bin/skiff",
    "/var/log/skiff.log",
    "/etc/systemd/logind.conf.d/99-skiff.conf",
];

fn remove_client_links() {
    for name in ["kubectl", "crictl", "ctr"] {
        let link = Path::new("/usr/local/bin").join(name);
        let ours = std::fs::read_link(&link).is_ok_and(|target| target.file_name().is_some_and(|name| name == "skiff"));
        if ours && let Err(error) = std::fs::remove_file(&link) {
            eprintln!("skiff: remove {}: {error}", link.display());
        }
    }
}

/// The unit must not start what we are about to end. No helper program is executed: the links that
/// enable a unit are files.
fn remove_unit() {
    for link in ["/etc/systemd/system/multi-user.target.wants/skiff.service", "/etc/runlevels/default/skiff"] {
        match std::fs::remove_file(link) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => eprintln!("skiff: remove {link}: {error}"),
        }
    }
}

fn left_by_pods(failures: Vec<String>) -> anyhow::Error {
    anyhow::anyhow!("remove what pods left:\n  {}", failures.join("\n  "))
}

/// Returns where pods of ours have left things.
fn stop_everything(place: &PlaceArgs) -> Result<skiff_kubelet::PodPlaces> {
    stop_server(&place.run_dir.join("server.pid"))?;
    // Another kubelet of this machine has its pods beside ours.
    let places = skiff_kubelet::PodPlaces {
        pods: place.real_kubelet_dir()?.join("pods"),
        logs: "/var/log/pods".into(),
        links: "/var/log/containers".into(),
    };
    let options = runtime_options(place, None);
    // Only by the records the pods of earlier versions are known.
    for sandbox in skiff_runtime::Runtime::recorded_sandboxes(&options).context("read the records of sandboxes")? {
        places.claim(&sandbox.pod_uid, &sandbox.log_directory).context("mark what pods have")?;
    }
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    tokio.block_on(async {
        // The links of pods go with their namespaces; what stays of the network is asked for last.
        skiff_runtime::Runtime::kill_all(&options).await.context("end the containers")?;
        skiff_network::Network::remove_all(&place.data_dir.join("agent/network")).await.context("remove the network")
    })?;
    unmount_below(&place.run_dir)?;
    remove_tree(&place.run_dir)?;
    Ok(places)
}

/// Ends the server that wrote the file and holds its lock; without the lock, the number in it is a stranger's.
fn stop_server(file: &Path) -> Result<()> {
    let Some(pid) = running_server(file)? else { return Ok(()) };
    kill(pid, Signal::SIGTERM).context("stop the server")?;
    let deadline = std::time::Instant::now() + STOP_LIMIT;
    while running_server(file)? == Some(pid) {
        if std::time::Instant::now() > deadline {
            kill(pid, Signal::SIGKILL).context("kill the server")?;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}

fn running_server(file: &Path) -> Result<Option<Pid>> {
    let mut opened = match std::fs::File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
    };
    let mut text = String::new();
    opened.read_to_string(&mut text).with_context(|| format!("read {}", file.display()))?;
    let held = Flock::lock(opened, FlockArg::LockSharedNonblock).is_err();
    Ok(text.trim().parse().ok().filter(|_| held).map(Pid::from_raw))
}

/// Unmounts everything mounted below (and at) a directory, innermost first, without touching what is
/// in it.
fn unmount_below(directory: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    for point in plan_unmounts(&mounts, directory) {
        nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH)
            .with_context(|| format!("unmount {}", point.display()))?;
    }
    Ok(())
}

fn plan_unmounts(mountinfo: &str, directory: &Path) -> Vec<PathBuf> {
    let mut points: Vec<PathBuf> = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(directory))
        .collect();
    points.reverse();
    points
}

/// Removes a tree, never across a mount: a foreign mount in it is somebody's data.
fn remove_tree(path: &Path) -> Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("look at {}", path.display())),
    };
    if !metadata.is_dir() {
        return std::fs::remove_file(path).with_context(|| format!("remove {}", path.display()));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let inside = plan_unmounts(&mounts, path);
    if let Some(point) = inside.iter().find(|point| point.as_path() != path) {
        bail!("{} is still mounted: unmount it, then call this again", point.display());
    }
    if inside.is_empty() {
        return std::fs::remove_dir_all(path).with_context(|| format!("remove {}", path.display()));
    }
    // The directory itself is a mount of the operator's: it stays, its content is ours.
    for entry in std::fs::read_dir(path).with_context(|| format!("read {}", path.display()))? {
        remove_tree(&entry.with_context(|| format!("read {}", path.display()))?.path())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmounts_innermost_first_and_only_below() {
        let mounts = "1 0 8:1 / / rw - ext4 a rw\n2 1 0:5 / /run/skiff/a rw - tmpfs t rw\n3 2 0:6 / /run/skiff/a/b\\040c rw - tmpfs t rw\n\
                      4 1 0:7 / /run/skiffer rw - tmpfs t rw\n";
        assert_eq!(
            plan_unmounts(mounts, Path::new("/run/skiff")),
            [PathBuf::from("/run/skiff/a/b c"), PathBuf::from("/run/skiff/a")]
        );
    }

    #[test]
    fn a_number_without_its_lock_is_a_stranger() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("server.pid");
        assert_eq!(running_server(&file).expect("no file"), None);
        std::fs::write(&file, format!("{}\n", std::process::id())).expect("written");
        assert_eq!(running_server(&file).expect("a stale file"), None);
        let server = std::fs::File::open(&file).expect("opened");
        let locked = Flock::lock(server, FlockArg::LockExclusiveNonblock).expect("locked");
        assert_eq!(running_server(&file).expect("a server"), Some(Pid::this()));
        drop(locked);
        assert_eq!(running_server(&file).expect("it ended"), None);
    }

    #[test]
    fn a_tree_goes_and_links_are_not_followed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (ours, other) = (directory.path().join("ours"), directory.path().join("other"));
        std::fs::create_dir_all(ours.join("a")).expect("mkdir");
        std::fs::create_dir(&other).expect("mkdir");
        std::fs::write(other.join("data"), "x").expect("write");
        std::os::unix::fs::symlink(&other, ours.join("a/link")).expect("symlink");
        remove_tree(&ours).expect("removed");
        assert!(!ours.exists() && other.join("data").exists());
        remove_tree(&ours).expect("removing nothing is fine");
    }
}
