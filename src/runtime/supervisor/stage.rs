//! The files of a container in a user namespace, shown with the ids of that namespace.
//!
//! Its root reaches nothing by a path that the host keeps to itself, and may not map ids. So the creator does, before:
//! what is to be seen is put below a directory of its own mount namespace that everybody may look through.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use skiff_linux::mount;

use crate::plan::ContainerPlan;
use crate::spec::{Bind, Device};

/// Where it may be: every system has one of them, and no part of a container is made below.
const PLACES: [&str; 5] = ["/mnt", "/srv", "/media", "/opt", "/usr"];

/// libcontainer gives these to every container.
const USUAL_DEVICES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

pub struct Stage {
    directory: PathBuf,
    /// Of the image, topmost first.
    pub layers: Vec<PathBuf>,
    pub binds: Vec<Bind>,
}

impl Stage {
    /// Where the root file system is to be mounted.
    pub fn root(&self) -> PathBuf {
        self.directory.join("root")
    }
}

/// In a mount namespace of the caller's own, which hears of the host's later mounts but tells it of none.
pub fn stage(
    plan: &ContainerPlan,
    binds: Vec<Bind>,
    devices: Vec<Device>,
    user_namespace: BorrowedFd<'_>,
) -> io::Result<Stage> {
    mount::set_propagation(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_SLAVE)?;
    let devices =
        devices.into_iter().filter(|device| !USUAL_DEVICES.iter().any(|usual| device.path == Path::new(usual)));
    let devices = devices.map(|device| Bind {
        source: device.host,
        target: device.path,
        read_only: device.read_only,
        inert: false,
        mapped: false,
        image: None,
    });
    let mut binds: Vec<Bind> = binds.into_iter().chain(devices).collect();

    // Opened first: the place may hide what they are made of.
    let mapped = |path: &PathBuf| mount::detached_tree(path, Some(user_namespace));
    let layers = plan.lower_directories.iter().map(mapped).collect::<io::Result<Vec<_>>>()?;
    let images = plan
        .image_layers
        .iter()
        .map(|(id, layers)| Ok((id.as_str(), layers.iter().map(mapped).collect::<io::Result<Vec<_>>>()?)));
    let images = images.collect::<io::Result<BTreeMap<_, _>>>()?;
    let trees = binds.iter().map(|bind| {
        let of_host = || mount::detached_tree(&bind.source, bind.mapped.then_some(user_namespace));
        Ok(if bind.image.is_none() { Some((of_host()?, bind.source.is_dir())) } else { None })
    });
    let trees = trees.collect::<io::Result<Vec<_>>>()?;

    let directory = place(&[&plan.run_directory, &plan.state_directory])?;
    mount::tmpfs(&directory, "mode=755,size=1m")?;
    let mut stage = Stage { layers: Vec::new(), binds: Vec::new(), directory };
    std::fs::create_dir(stage.root())?;
    stage.layers = stage.put_all("layer", &layers)?;
    let mut views = BTreeMap::new();
    for (number, (id, layers)) in images.into_iter().enumerate() {
        views.insert(id, stage.image(number, &layers)?);
    }
    for (number, (bind, tree)) in binds.iter_mut().zip(trees).enumerate() {
        let (tree, is_directory) = match (tree, bind.image.as_ref().and_then(|id| views.get(id.as_str()))) {
            (Some(found), _) => found,
            (None, Some(view)) => inside(view.as_fd(), &bind.source)?,
            (None, None) => return Err(io::Error::other("the layers of a mounted image are not known")),
        };
        mount::restrict(tree.as_fd(), bind.read_only, bind.inert)?;
        bind.source = stage.put(&format!("bind{number}"), tree.as_fd(), is_directory)?;
    }
    stage.binds = binds;
    Ok(stage)
}

fn place(kept: &[&PathBuf]) -> io::Result<PathBuf> {
    let free = |place: &&&str| Path::new(place).is_dir() && !kept.iter().any(|path| path.starts_with(place));
    let found = PLACES.iter().find(free).map(PathBuf::from);
    found.ok_or_else(|| io::Error::other(format!("there is none of the directories {}", PLACES.join(", "))))
}

/// A part of a view as a tree of its own, and whether it is a directory.
fn inside(view: BorrowedFd<'_>, path: &Path) -> io::Result<(OwnedFd, bool)> {
    let part = mount::open_in_root(view, path, libc::O_PATH, 0)?;
    let part = PathBuf::from(format!("/proc/self/fd/{}", part.as_raw_fd()));
    Ok((mount::detached_tree(&part, None)?, part.is_dir()))
}

impl Stage {
    fn put(&self, name: &str, tree: BorrowedFd<'_>, is_directory: bool) -> io::Result<PathBuf> {
        let target = self.directory.join(name);
        if is_directory {
            std::fs::create_dir(&target)?;
        } else {
            std::fs::write(&target, [])?;
        }
        mount::attach(tree, &target)?;
        Ok(target)
    }

    fn put_all(&self, name: &str, trees: &[OwnedFd]) -> io::Result<Vec<PathBuf>> {
        let put = |(number, tree): (usize, &OwnedFd)| self.put(&format!("{name}{number}"), tree.as_fd(), true);
        trees.iter().enumerate().map(put).collect()
    }

    /// The files of an image, as everywhere: read-only, none of them to be executed.
    fn image(&self, number: usize, layers: &[OwnedFd]) -> io::Result<OwnedFd> {
        let name = format!("image{number}");
        let lower = self.put_all(&format!("{name}-layer"), layers)?;
        let target = self.directory.join(name);
        std::fs::create_dir(&target)?;
        mount::read_only_view(&lower, &target)?;
        Ok(std::fs::File::open(&target)?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_hides_nothing_of_the_container() {
        let first = place(&[]).expect("a place");
        let other = place(&[&first.join("run")]).expect("another place");
        assert_ne!(first, other);
        let all = PLACES.map(PathBuf::from);
        assert!(place(&all.each_ref()).is_err());
    }
}
