//! Archives of images: `docker save` and OCI layout, in a tar that may be compressed.
//!
//! The archive is first laid out in a temporary directory beside the snapshots, under numbers (its
//! own names are a stranger's), since its index may stand behind what it points to.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;

use super::layer::{compare, decompress, sha256, unpack_verified};
use super::manifest::{chain_names, pick_platform};
use super::{Inner, Reference, Unpacked, bounded, config_record};

const JSON_LIMIT: u64 = 8 << 20;

/// An image of the archive, its tags, and its digest references.
pub type Found = (Unpacked, Vec<String>, Vec<String>);

pub fn import(inner: &Inner, archive: &Path) -> io::Result<Vec<Found>> {
    let staged = inner.stage()?;
    let contents = Contents::lay_out(archive, &staged.path)?;
    if contents.has("manifest.json") {
        docker(inner, &contents)
    } else if contents.has("index.json") {
        oci(inner, &contents)
    } else {
        Err(invalid("neither manifest.json (docker save) nor index.json (OCI) is in it"))
    }
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// The files of an archive by their names in it.
struct Contents {
    files: HashMap<PathBuf, PathBuf>,
}

impl Contents {
    fn lay_out(archive: &Path, directory: &Path) -> io::Result<Self> {
        let (mut tar, budget) = bounded::archive(decompress(File::open(archive)?)?);
        let (mut files, mut links) = (HashMap::new(), Vec::new());
        for (count, entry) in tar.entries()?.enumerate() {
            // What tar says of a file that is something else holds pieces of that file.
            let mut entry = entry.map_err(|error| match count {
                0 if error.raw_os_error().is_none() => {
                    invalid("this is no tar archive, as `docker save` or `skopeo copy` make them")
                }
                _ => error,
            })?;
            budget.enter(&entry)?;
            let name = normal(&entry.path()?);
            match entry.header().entry_type() {
                tar::EntryType::Regular => {
                    let place = directory.join(files.len().to_string());
                    io::copy(&mut entry, &mut File::create_new(&place)?)?;
                    files.insert(name, place);
                }
                // Older `docker save` links equal layers.
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let target = entry.link_name()?.ok_or_else(|| invalid("a link without a target"))?;
                    let hard = entry.header().entry_type() == tar::EntryType::Link;
                    let base = if hard { Path::new("") } else { name.parent().unwrap_or(Path::new("")) };
                    links.push((name.clone(), normal(&base.join(target))));
                }
                _ => {}
            }
        }
        for (name, target) in links {
            if let Some(place) = files.get(&target).cloned() {
                files.insert(name, place);
            }
        }
        Ok(Self { files })
    }

    fn has(&self, name: &str) -> bool {
        self.files.contains_key(Path::new(name))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let place = self.files.get(&normal(Path::new(name))).ok_or_else(|| invalid(format!("{name} is missing")))?;
        File::open(place)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(name)?.take(JSON_LIMIT).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn blob(&self, digest: &str) -> io::Result<Vec<u8>> {
        let bytes = self.read(&blob_name(digest))?;
        compare("blob", digest, &sha256(&bytes))?;
        Ok(bytes)
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        Ok(self.open(name)?.metadata()?.len())
    }
}

fn blob_name(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// Without `.`, and with `..` resolved by name; the archive's names stay inside the archive.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

fn docker(inner: &Inner, contents: &Contents) -> io::Result<Vec<Found>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        config: String,
        repo_tags: Option<Vec<String>>,
        layers: Vec<String>,
    }
    let entries: Vec<Entry> = serde_json::from_slice(&contents.read("manifest.json")?)?;
    let mut found = Vec::new();
    for entry in entries {
        let config = contents.read(&entry.config)?;
        let layers: Vec<(String, Option<String>)> = entry.layers.into_iter().map(|name| (name, None)).collect();
        let image = unpack_image(inner, contents, &config, &layers)?;
        found.push((image, completed(entry.repo_tags.unwrap_or_default())?, Vec::new()));
    }
    Ok(found)
}

fn oci(inner: &Inner, contents: &Contents) -> io::Result<Vec<Found>> {
    let index = ImageIndex::from_reader(contents.read("index.json")?.as_slice()).map_err(io::Error::other)?;
    let mut found = Vec::new();
    for entry in index.manifests() {
        let tags = completed(oci_name(entry).into_iter().collect())?;
        let manifest = oci_manifest(contents, entry)?;
        let config = contents.blob(manifest.config().digest().as_ref())?;
        let layers: Vec<(String, Option<String>)> = manifest
            .layers()
            .iter()
            .map(|layer| (blob_name(layer.digest().as_ref()), Some(layer.digest().to_string())))
            .collect();
        let image = unpack_image(inner, contents, &config, &layers)?;
        let digests = tags
            .iter()
            .filter_map(|tag| Reference::parse(tag).ok())
            .map(|r| format!("{}@{}", r.name(), entry.digest()));
        let digests = digests.collect();
        found.push((image, tags, digests));
    }
    Ok(found)
}

fn oci_manifest(contents: &Contents, entry: &Descriptor) -> io::Result<ImageManifest> {
    let bytes = contents.blob(entry.digest().as_ref())?;
    let value: serde_json::Value = serde_json::from_slice(&bytes)?;
    if value.get("manifests").is_none() {
        return ImageManifest::from_reader(bytes.as_slice()).map_err(io::Error::other);
    }
    let index = ImageIndex::from_reader(bytes.as_slice()).map_err(io::Error::other)?;
    let child = pick_platform(index.manifests()).ok_or_else(|| invalid("no image for this platform is in it"))?;
    ImageManifest::from_reader(contents.blob(child.digest().as_ref())?.as_slice()).map_err(io::Error::other)
}

fn oci_name(entry: &Descriptor) -> Option<String> {
    let annotations = entry.annotations().as_ref()?;
    let full = annotations.get("io.containerd.image.name");
    // `ref.name` may be a whole name or only a tag; a bare tag names no image.
    let short = annotations.get("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':']));
    full.or(short).cloned()
}

fn completed(tags: Vec<String>) -> io::Result<Vec<String>> {
    tags.iter().map(|tag| Reference::parse(tag).map(|r| r.to_string()).map_err(io::Error::other)).collect()
}

/// `layers`: name in the archive and, where known, digest; lowest first.
fn unpack_image(
    inner: &Inner,
    contents: &Contents,
    config: &[u8],
    layers: &[(String, Option<String>)],
) -> io::Result<Unpacked> {
    let parsed = ImageConfiguration::from_reader(config).map_err(io::Error::other)?;
    let diff_ids = parsed.rootfs().diff_ids();
    if diff_ids.len() != layers.len() {
        return Err(invalid("the image's configuration and its list of layers disagree"));
    }
    let snapshots = chain_names(diff_ids).map_err(invalid)?;
    let (mut staged, mut size_bytes) = (BTreeMap::new(), config.len() as u64);
    for (index, ((name, digest), diff_id)) in layers.iter().zip(diff_ids).enumerate() {
        size_bytes += contents.size(name)?;
        if inner.snapshots().join(&snapshots[index]).exists() {
            continue;
        }
        let mut layer = inner.stage()?;
        layer.implied = unpack_verified(contents.open(name)?, &layer.path, digest.as_deref(), diff_id)?;
        staged.insert(index, layer);
    }
    inner.publish(staged, &snapshots)?;
    Ok(Unpacked { id: sha256(config), size_bytes, snapshots, config: config_record(&parsed) })
}

#[cfg(test)]
mod tests {
    use super::super::ImageStore;
    use super::*;
    use crate::ImageId;

    fn file(builder: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_data(&mut header, name, content).expect("append");
    }

    #[test]
    fn a_file_that_is_no_archive() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("passwd");
        std::fs::write(&file, "root:x:0:0:root:/root:/bin/sh\n".repeat(40)).expect("a file");
        let refused = Contents::lay_out(&file, directory.path()).map(drop).expect_err("no archive").to_string();
        assert!(refused.starts_with("this is no tar archive") && !refused.contains("root:"), "{refused}");
    }

    fn layer(name: &str) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        file(&mut builder, name, name.as_bytes());
        builder.into_inner().expect("tar")
    }

    fn config(layers: &[Vec<u8>]) -> Vec<u8> {
        let diff_ids: Vec<String> = layers.iter().map(|l| sha256(l)).collect();
        serde_json::to_vec(&serde_json::json!({"architecture": "amd64", "os": "linux",
            "config": {"Entrypoint": ["/a"], "Env": ["X=1"], "WorkingDir": "/w"}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}))
        .expect("JSON")
    }

    fn docker_archive(tag: &str, layers: &[Vec<u8>]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let names: Vec<String> = (0..layers.len()).map(|i| format!("l{i}/layer.tar")).collect();
        for (name, layer) in names.iter().zip(layers) {
            file(&mut builder, name, layer);
        }
        file(&mut builder, "config.json", &config(layers));
        let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [tag], "Layers": names}]);
        file(&mut builder, "manifest.json", manifest.to_string().as_bytes());
        builder.into_inner().expect("tar")
    }

    fn oci_archive(tag: &str, layers: &[Vec<u8>]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut blob = |media: &str, bytes: &[u8]| {
            let digest = sha256(bytes);
            file(&mut builder, &blob_name(&digest), bytes);
            serde_json::json!({"mediaType": media, "digest": digest, "size": bytes.len()})
        };
        let layers_json: Vec<_> = layers.iter().map(|l| blob("application/vnd.oci.image.layer.v1.tar", l)).collect();
        let config = blob("application/vnd.oci.image.config.v1+json", &config(layers));
        let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers_json});
        let mut entry = blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
        entry["annotations"] = serde_json::json!({"io.containerd.image.name": tag});
        file(
            &mut builder,
            "index.json",
            serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string().as_bytes(),
        );
        builder.into_inner().expect("tar")
    }

    #[tokio::test]
    async fn imports_both_formats_and_shares_layers() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = ImageStore::open(directory.path(), None).expect("open");
        let layers = [layer("one"), layer("two")];
        let archive = directory.path().join("a.tar");
        std::fs::write(&archive, docker_archive("web:v1", &layers)).expect("write");
        let images = store.import(&archive).await.expect("docker archive");
        assert_eq!(images[0].tags, ["docker.io/library/web:v1"]);
        assert_eq!(images[0].config.entrypoint, ["/a"]);
        let lower = store.layers(&images[0].id).expect("layers").lower_directories;
        assert_eq!(std::fs::read(lower[0].join("two")).expect("topmost first"), b"two");

        std::fs::write(&archive, oci_archive("docker.io/library/web:v2", &layers[..1])).expect("write");
        let second = store.import(&archive).await.expect("OCI archive");
        assert_eq!(store.layers(&second[0].id).expect("layers").lower_directories, lower[1..]);
        assert!(second[0].digests[0].starts_with("docker.io/library/web@sha256:"));

        let again = ImageStore::open(directory.path(), None).expect("open again");
        assert_eq!(again.images().expect("images").len(), 2);
        let id = images[0].id.clone();
        let in_use = again.remove("web:v1", move || Ok(vec![id])).await.expect_err("in use");
        assert!(in_use.to_string().contains("used by a container"), "{in_use}");
        // The other handle, as another process would, sees what this one did.
        again.remove("web:v1", || Ok(Vec::new())).await.expect("removed");
        assert!(!lower[0].exists() && lower[1].exists());
        assert_eq!(store.images().expect("images").len(), 1);
        assert!(matches!(again.layers(&ImageId(images[0].id.0.clone())), Err(crate::Error::ImageNotFound(_))));
    }

    /// Whoever has looked at an image, and not said yet that it uses it, is waited for.
    #[tokio::test]
    async fn an_image_that_comes_into_use_stays() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = ImageStore::open(directory.path(), None).expect("open");
        let archive = directory.path().join("a.tar");
        std::fs::write(&archive, docker_archive("web:v1", &[layer("one")])).expect("write");
        let image = store.import(&archive).await.expect("imported").remove(0);
        let users = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let held = store.hold().expect("held");
        let removal = {
            let (store, users) = (store.clone(), users.clone());
            tokio::spawn(
                async move { store.remove("web:v1", move || Ok(users.lock().expect("no panic").clone())).await },
            )
        };
        tokio::task::yield_now().await;
        users.lock().expect("no panic").push(image.id.clone());
        drop(held);
        removal.await.expect("no panic").expect_err("in use");
        store.layers(&image.id).expect("it is there");
    }

    #[tokio::test]
    async fn damaged_records_keep_what_they_may_need() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = ImageStore::open(directory.path(), None).expect("open");
        let archive = directory.path().join("a.tar");
        let mut images = Vec::new();
        for (tag, layers) in [("a:1", [layer("one"), layer("two")]), ("b:1", [layer("six"), layer("ten")])] {
            std::fs::write(&archive, docker_archive(tag, &layers)).expect("write");
            images.extend(store.import(&archive).await.expect("imported"));
        }
        let layers = |image: &crate::Image| store.layers(&image.id).expect("layers").lower_directories;
        let (first, second) = (layers(&images[0]), layers(&images[1]));
        // One of its layers is lost: what runs of the other one goes on.
        std::fs::remove_dir_all(&first[0]).expect("removed");
        let again = ImageStore::open(directory.path(), None).expect("open again");
        assert_eq!(again.images().expect("images").len(), 1);
        again.remove("b:1", || Ok(Vec::new())).await.expect("removed");
        assert!(first[1].exists() && !second[0].exists() && !second[1].exists());
        // A record that says nothing may need any of them.
        std::fs::write(&archive, docker_archive("b:1", &[layer("six"), layer("ten")])).expect("write");
        again.import(&archive).await.expect("imported");
        std::fs::write(directory.path().join("content/images/0.json"), "{").expect("write");
        again.remove("b:1", || Ok(Vec::new())).await.expect("removed");
        assert!(again.images().expect("images").is_empty() && second[0].exists());
    }

    /// What is to go has no name any more, and takes its time when the store is free again.
    #[tokio::test]
    async fn layers_go_while_nobody_waits() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = ImageStore::open(directory.path(), None).expect("open");
        let archive = directory.path().join("a.tar");
        std::fs::write(&archive, docker_archive("web:v1", &[layer("one"), layer("two")])).expect("write");
        store.import(&archive).await.expect("imported");
        let mut records = store.inner.lock_records().expect("records");
        records.by_id.clear();
        let surplus = store.inner.collect(&records).expect("collected");
        drop(records);
        let names = || {
            let all = std::fs::read_dir(directory.path().join("snapshots")).expect("listing");
            all.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect::<Vec<_>>()
        };
        assert!(names().len() == 2 && names().iter().all(|name| name.starts_with("tmp-")), "{:?}", names());
        assert!(store.images().expect("nobody holds it").is_empty());
        drop(surplus);
        assert_eq!(names(), Vec::<String>::new());
    }

    /// What one process deletes, another that begins meanwhile deletes too.
    #[test]
    fn two_processes_delete_the_same() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = ImageStore::open(directory.path(), None).expect("open");
        for _ in 0..10 {
            let surplus: Vec<_> = (0..10).map(|_| store.inner.stage().expect("a directory")).collect();
            for staged in &surplus {
                (0..10).for_each(|name| std::fs::write(staged.path.join(name.to_string()), "").expect("a file"));
            }
            std::thread::scope(|scope| {
                scope.spawn(|| drop(surplus));
                ImageStore::open(directory.path(), None).map(drop).expect("opened");
            });
        }
    }

    #[tokio::test]
    async fn a_damaged_archive_leaves_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = ImageStore::open(directory.path(), None).expect("open");
        let mut bytes = oci_archive("x/y:1", &[layer("one")]);
        let at = bytes.windows(3).position(|w| w == b"one").expect("the layer's file name");
        bytes[at + 512..at + 515].copy_from_slice(b"two");
        let archive = directory.path().join("a.tar");
        // Of several layers, those that were whole do not stay either.
        let mut second = docker_archive("x/y:1", &[layer("one"), layer("two")]);
        let at = second.windows(3).rposition(|w| w == b"two").expect("the second layer's content");
        second[at..at + 3].copy_from_slice(b"six");
        for content in [bytes, second, b"garbage".to_vec(), Vec::new()] {
            std::fs::write(&archive, content).expect("write");
            store.import(&archive).await.expect_err("damaged");
            assert!(store.images().expect("images").is_empty());
            assert_eq!(std::fs::read_dir(directory.path().join("snapshots")).expect("listing").count(), 0);
        }
    }
}
