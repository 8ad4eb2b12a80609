//! What pods have left in directories that other kubelets of the machine may have things in, too: each pod's directory
//! carries a mark, and only what carries it is ours to remove.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use skiff_linux::mark;

use crate::options::Options;
use crate::volume::tree;

/// Where pods have things; each entry of the first two is one pod's.
#[derive(Debug, Clone)]
pub struct PodPlaces {
    /// `/var/lib/kubelet/pods`.
    pub pods: PathBuf,
    /// `/var/log/pods`.
    pub logs: PathBuf,
    /// `/var/log/containers`: links into the former.
    pub links: PathBuf,
}

impl PodPlaces {
    pub(crate) fn of(options: &Options) -> Self {
        Self {
            pods: options.pods_directory(),
            logs: options.log_directory.clone(),
            links: options.containers_log_directory.clone(),
        }
    }

    /// Marks what a pod of ours has here, for one of a version that set no marks. Nothing where it has nothing.
    pub fn claim(&self, uid: &str, log_directory: &Path) -> io::Result<()> {
        let pod = self.pods.join(uid);
        for (directory, parent) in [(pod.as_path(), &self.pods), (log_directory, &self.logs)] {
            // A name that leads elsewhere is no pod's.
            if directory.parent() == Some(parent) && directory.file_name().is_some() && directory.is_dir() {
                mark::set(directory).or_else(|error| unmarked(directory, error))?;
            }
        }
        Ok(())
    }

    /// The names of our pods' directories, below `pods` and below `logs`.
    pub(crate) fn ours(&self) -> io::Result<[Vec<String>; 2]> {
        Ok([ours(&self.pods)?, ours(&self.logs)?])
    }

    /// Removes the logs of one pod, the links to them first: from the directory they are known as ours.
    pub(crate) fn remove_logs(&self, name: &str) -> io::Result<()> {
        let directory = self.logs.join(name);
        for (link, _) in
            links(&self.links, &link_prefix(name))?.into_iter().filter(|(_, to)| to.starts_with(&directory))
        {
            fs::remove_file(link)?;
        }
        tree::remove_tree(&directory)
    }

    /// Removes our links whose log is no more.
    pub(crate) fn remove_dangling_links(&self) -> io::Result<()> {
        for (link, target) in links(&self.links, "")? {
            let pod = target.strip_prefix(&self.logs).ok().and_then(|path| path.iter().next());
            if pod.is_some_and(|name| mark::is_set(&self.logs.join(name))) && !target.exists() {
                fs::remove_file(link)?;
            }
        }
        Ok(())
    }

    /// Removes the directories of our pods, for when none runs; what they have said stays.
    pub fn remove_pods(&self) -> Result<(), Vec<String>> {
        self.remove(false)
    }

    /// Removes everything of ours, for when no pod is to stay.
    pub fn remove_all(&self) -> Result<(), Vec<String>> {
        self.remove(true)
    }

    /// The directories themselves go where nothing else is in them. Goes on where something can't be removed, and says
    /// what.
    fn remove(&self, with_logs: bool) -> Result<(), Vec<String>> {
        let mut failures = Vec::new();
        let mut note = |place: &Path, result: io::Result<()>| {
            if let Err(error) = result {
                failures.push(format!("{}: {error}", place.display()));
            }
        };
        match self.ours() {
            Ok([pods, logs]) => {
                for name in pods {
                    let pod = self.pods.join(name);
                    note(&pod, tree::remove_tree(&pod));
                }
                for name in logs.into_iter().filter(|_| with_logs) {
                    note(&self.logs.join(&name), self.remove_logs(&name));
                }
            }
            Err(error) => note(&self.logs, Err(error)),
        }
        for directory in [&self.pods, &self.logs, &self.links] {
            match fs::remove_dir(directory) {
                Err(error)
                    if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty)
                        // Mounted there by the operator.
                        && error.kind() != io::ErrorKind::ResourceBusy =>
                {
                    note(directory, Err(error));
                }
                _ => {}
            }
        }
        if let Some(root) = self.pods.parent() {
            // Empty ones were made by the agent; others are somebody's, or of a driver that is there still.
            for directory in [root.join("plugins_registry"), root.to_owned()] {
                let _ = fs::remove_dir(directory);
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }
}

/// Makes a pod's directory, marked as ours.
pub(crate) fn ensure_ours(directory: &Path, mode: u32) -> io::Result<()> {
    tree::ensure_directory(directory, mode)?;
    mark::set(directory).or_else(|error| unmarked(directory, error))
}

/// A file system without extended attributes takes pods all the same.
fn unmarked(directory: &Path, error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ENOTSUP | libc::EPERM) => {
            tracing::warn!(
                directory = %directory.display(), %error,
                "a pod's directory can't be marked by an extended attribute: what a crash leaves of it stays"
            );
            Ok(())
        }
        _ => {
            let why = format!("mark {} by an extended attribute: {error}", directory.display());
            Err(io::Error::new(error.kind(), why))
        }
    }
}

fn ours(directory: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in entries(directory)? {
        if entry.file_type()?.is_dir()
            && mark::is_set(&entry.path())
            && let Ok(name) = entry.file_name().into_string()
        {
            found.push(name);
        }
    }
    Ok(found)
}

/// How the links to the logs of a pod begin, whose directory is `<namespace>_<name>_<uid>`.
fn link_prefix(directory: &str) -> String {
    let mut parts = directory.split('_');
    let (namespace, pod) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    format!("{pod}_{namespace}_")
}

/// Links whose names begin so, and where they lead.
fn links(directory: &Path, prefix: &str) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let found = entries(directory)?.into_iter();
    let links = found.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()));
    let links = links.map(|entry| entry.path());
    Ok(links.filter_map(|link| fs::read_link(&link).ok().map(|target| (link, target))).collect())
}

/// None where there is no directory.
fn entries(directory: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A pod's directory, its log, and the link to it.
    fn pod(places: &PodPlaces, uid: &str, ours: bool) {
        let logs = places.logs.join(format!("default_{uid}_{uid}"));
        for directory in [places.pods.join(uid), logs.clone()] {
            if ours {
                ensure_ours(&directory, 0o755).expect("marked");
            } else {
                fs::create_dir_all(&directory).expect("a directory");
            }
        }
        fs::create_dir_all(logs.join("c")).expect("a directory");
        fs::write(logs.join("c/0.log"), "said").expect("a log");
        fs::create_dir_all(&places.links).expect("a directory");
        symlink(logs.join("c/0.log"), places.links.join(link(uid))).expect("a link");
    }

    fn link(uid: &str) -> String {
        format!("{uid}_default_c-0.log")
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = entries(directory)
            .expect("listed")
            .into_iter()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn only_what_is_ours_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let places = PodPlaces { pods: at("pods"), logs: at("logs"), links: at("links") };
        places.remove_all().expect("nothing is there");
        pod(&places, "mine", true);
        pod(&places, "gone", true);
        pod(&places, "other", false);
        assert_eq!(places.ours().expect("listed")[0].len(), 2);
        // A link of ours and one of theirs lost their logs.
        fs::remove_file(places.logs.join("default_gone_gone/c/0.log")).expect("removed");
        fs::remove_file(places.logs.join("default_other_other/c/0.log")).expect("removed");
        places.remove_dangling_links().expect("swept");
        assert_eq!(names(&places.links), ["mine", "other"].map(link));
        places.remove_all().expect("removed");
        assert_eq!(names(&places.pods), ["other"]);
        assert_eq!(names(&places.logs), ["default_other_other"]);
        assert_eq!(names(&places.links), ["other"].map(link));
        // Logs outlast their pods.
        pod(&places, "mine", true);
        places.remove_pods().expect("removed");
        assert_eq!(names(&places.pods), ["other"]);
        assert_eq!(names(&places.logs), ["default_mine_mine", "default_other_other"]);
        assert_eq!(names(&places.links), ["mine", "other"].map(link));
        places.remove_all().expect("removed");
        // One of an earlier version, which set no marks; names that lead elsewhere claim nothing.
        pod(&places, "early", false);
        places.claim("early", &places.logs.join("default_early_early")).expect("claimed");
        for uid in ["", "..", "none"] {
            places.claim(uid, directory.path()).expect("nothing to claim");
        }
        assert_eq!(places.ours().expect("listed"), [vec!["early".to_owned()], vec!["default_early_early".to_owned()]]);
        assert!(!mark::is_set(directory.path()) && !mark::is_set(&places.pods) && !mark::is_set(&places.logs));
        fs::remove_dir_all(directory.path()).expect("emptied");
        pod(&places, "mine", true);
        places.remove_all().expect("removed");
        assert_eq!(names(directory.path()), Vec::<String>::new());
    }
}
