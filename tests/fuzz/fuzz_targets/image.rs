//! The documents of an image: index, manifest, configuration.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest};

#[allow(dead_code, reason = "the image store uses the rest")]
#[path = "../../../src/runtime/images/bounded.rs"]
mod bounded;
#[allow(dead_code, reason = "the image store uses the rest")]
#[path = "../../../src/runtime/images/layer.rs"]
mod layer;
#[path = "../../../src/runtime/images/manifest.rs"]
mod manifest;
#[allow(dead_code, reason = "the image store uses the rest")]
#[path = "../../../src/runtime/images/unpack.rs"]
mod unpack;

fuzz_target!(|data: &[u8]| {
    if let Ok(index) = ImageIndex::from_reader(data) {
        manifest::pick_platform(index.manifests());
    }
    drop(ImageManifest::from_reader(data));
    if let Ok(configuration) = ImageConfiguration::from_reader(data) {
        for name in manifest::chain_names(configuration.rootfs().diff_ids()).into_iter().flatten() {
            assert!(name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name:?}");
        }
    }
});
