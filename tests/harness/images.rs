//! Images made of Debian's busybox, pushed to the registry by its API or written as an archive.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::http::request;
use super::{Machine, OUTSIDE, REGISTRY};

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 49] = [
    "sh",
    "cat",
    "echo",
    "sleep",
    "ls",
    "id",
    "env",
    "hostname",
    "httpd",
    "wget",
    "nslookup",
    "nc",
    "ping",
    "ps",
    "kill",
    "true",
    "false",
    "touch",
    "rm",
    "mkdir",
    "mount",
    "umount",
    "head",
    "tail",
    "grep",
    "seq",
    "dd",
    "test",
    "date",
    "stat",
    "ip",
    "printf",
    "yes",
    "readlink",
    "chmod",
    "chown",
    "mknod",
    "nproc",
    "sync",
    "sort",
    "wc",
    "tr",
    "cut",
    "df",
    "tar",
    "sha256sum",
    "tty",
    "stty",
    "sed",
];

pub struct Image {
    layer: Vec<u8>,
    config: Value,
}

impl Image {
    /// Busybox, with what the image runs and its environment.
    pub fn busybox(entrypoint: &[&str], env: &[&str]) -> Self {
        let layer = busybox_layer();
        let mut all = vec!["PATH=/bin"];
        all.extend(env);
        let config = json!({"architecture": architecture(), "os": "linux",
            "config": {"Entrypoint": entrypoint, "Env": all}, "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}});
        Self { layer, config }
    }

    /// Pushes to the machine's registry; returns the reference for manifests.
    pub fn push(&self, machine: &Machine, name: &str, tag: &str) -> String {
        let config = self.config.to_string().into_bytes();
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(&self.layer), "size": self.layer.len()}]})
        .to_string();
        let (base, layer, tag_owned) = (format!("http://{OUTSIDE}:5000/v2/{name}"), self.layer.clone(), tag.to_owned());
        let pushed = machine.outside.on_thread(move || {
            for blob in [layer, config] {
                let begun = request("POST", &format!("{base}/blobs/uploads/"), &[], &[]).expect("begin an upload");
                let place = begun.header("Location").expect("a place for the blob").to_owned();
                let url = format!("{place}{}digest={}", if place.contains('?') { '&' } else { '?' }, digest(&blob));
                let done =
                    request("PUT", &url, &[("Content-Type", "application/octet-stream")], &blob).expect("upload");
                assert_eq!(done.status, 201, "{}", done.text());
            }
            let kind = ("Content-Type", "application/vnd.oci.image.manifest.v1+json");
            let done = request("PUT", &format!("{base}/manifests/{tag_owned}"), &[kind], manifest.as_bytes())
                .expect("push the manifest");
            assert_eq!(done.status, 201, "{}", done.text());
        });
        pushed.join().expect("pushed");
        format!("{REGISTRY}/{name}:{tag}")
    }

    /// Writes a `docker save` archive.
    pub fn save(&self, path: &Path, tag: &str) {
        let mut builder = Builder::new(std::fs::File::create(path).expect("create the archive"));
        let config = self.config.to_string();
        let manifest = json!([{"Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]).to_string();
        for (name, content) in [
            ("layer.tar", self.layer.as_slice()),
            ("config.json", config.as_bytes()),
            ("manifest.json", manifest.as_bytes()),
        ] {
            builder.append_data(&mut header(EntryType::Regular, 0o644, content.len()), name, content).expect("append");
        }
        builder.finish().expect("finish the archive");
    }
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn busybox_layer() -> Vec<u8> {
    let busybox = std::fs::read(BUSYBOX).expect("read /bin/busybox (tests/run installs busybox-static)");
    let mut builder = Builder::new(Vec::new());
    for (directory, mode) in
        [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("proc", 0o755), ("sys", 0o755), ("dev", 0o755)]
    {
        builder.append_data(&mut header(EntryType::Directory, mode, 0), directory, std::io::empty()).expect("append");
    }
    builder
        .append_data(&mut header(EntryType::Regular, 0o755, busybox.len()), "bin/busybox", busybox.as_slice())
        .expect("append");
    for applet in APPLETS {
        builder
            .append_link(&mut header(EntryType::Symlink, 0o777, 0), format!("bin/{applet}"), "busybox")
            .expect("append");
    }
    for (file, content) in [
        ("etc/passwd", "root:x:0:0:root:/:/bin/sh\nweb:x:1000:1000:web:/:/bin/sh\n"),
        ("etc/group", "root:x:0:\nweb:x:1000:\nextra:x:2000:web\n"),
    ] {
        builder
            .append_data(&mut header(EntryType::Regular, 0o644, content.len()), file, content.as_bytes())
            .expect("append");
    }
    builder.into_inner().expect("finish the layer")
}

fn digest(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
