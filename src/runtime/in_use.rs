//! Which images have to stay: those of containers, and those that are mounted as volumes. The disk says it, so that every
//! process on the machine says the same.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skiff_linux::mount;

use crate::ImageId;
use crate::images::sha256;
use crate::record::{self, ContainerRecord, RECORD, names};

/// Below the data directory: a note for each image that is shown somewhere on the host.
pub const MOUNTED: &str = "mounted";

#[derive(Debug, Serialize, Deserialize)]
struct Mounted {
    image: ImageId,
    target: PathBuf,
}

/// The images that containers need, ended ones too, and those that are mounted.
pub fn images_in_use(data_directory: &Path) -> io::Result<Vec<ImageId>> {
    let containers = data_directory.join("containers");
    let record = |id: String| record::read::<ContainerRecord>(&containers.join(id).join(RECORD));
    let records = names(&containers)?.into_iter().filter_map(record);
    let mut found: Vec<ImageId> = records.flat_map(|record| record.config.needs()).collect();
    let notes = notes(data_directory)?;
    if !notes.is_empty() {
        let mounts = mount::mounts_below(Path::new("/"))?;
        found.extend(notes.into_iter().filter(|(_, note)| mounts.contains(&note.target)).map(|(_, note)| note.image));
    }
    Ok(found)
}

fn notes(data_directory: &Path) -> io::Result<Vec<(PathBuf, Mounted)>> {
    let directory = data_directory.join(MOUNTED);
    let all = names(&directory)?.into_iter().map(|name| directory.join(name));
    Ok(all.filter_map(|path| record::read(&path).map(|note| (path, note))).collect())
}

fn path(data_directory: &Path, target: &Path) -> PathBuf {
    let name = sha256(target.as_os_str().as_encoded_bytes());
    data_directory.join(MOUNTED).join(format!("{}.json", name.trim_start_matches("sha256:")))
}

/// The image that is shown there, as far as it was noted.
pub fn mounted(data_directory: &Path, target: &Path) -> Option<ImageId> {
    record::read::<Mounted>(&path(data_directory, target)).map(|note| note.image)
}

/// Notes what is about to be mounted, and forgets what is not mounted any more. Nobody else may be between these two.
pub fn note(data_directory: &Path, image: &ImageId, target: &Path) -> io::Result<()> {
    forget_unmounted(data_directory)?;
    std::fs::create_dir_all(data_directory.join(MOUNTED))?;
    record::write(&path(data_directory, target), &Mounted { image: image.clone(), target: target.to_owned() })
}

/// For who may have been killed between an unmount and its note, too.
pub fn forget_unmounted(data_directory: &Path) -> io::Result<()> {
    if notes(data_directory)?.is_empty() {
        return Ok(());
    }
    let mounts = mount::mounts_below(Path::new("/"))?;
    forget(data_directory, |target| !mounts.contains(target))
}

/// Forgets where images were mounted. Others may do the same meanwhile.
pub fn forget(data_directory: &Path, which: impl Fn(&PathBuf) -> bool) -> io::Result<()> {
    for (path, _) in notes(data_directory)?.iter().filter(|(_, note)| which(&note.target)) {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
