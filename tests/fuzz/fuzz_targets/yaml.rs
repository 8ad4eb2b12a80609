//! Bodies in YAML; what is written is read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_api::decode::{Media, decode};
use skiff_api::yaml;
use skiff_fuzz::{has_fraction, of_kind};

fuzz_target!(|data: &[u8]| {
    let Some((descriptor, ty, body)) = of_kind(data) else { return };
    drop(decode(body, Media::Yaml, &descriptor.gvk, Some(ty)));
    let Ok(text) = std::str::from_utf8(body) else { return };
    for document in yaml::documents(text).into_iter().flatten().filter(|document| !has_fraction(&document.value)) {
        let written = yaml::to_string(&document.value);
        let read = yaml::document(&written).unwrap_or_else(|error| panic!("{error}\n{written}"));
        assert_eq!(read.value, document.value, "{written}");
    }
});
