//! Bodies in protobuf, with and without their envelope: what is read is what JSON could have said.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_api::decode::{Media, conform, decode, protobuf_kind};
use skiff_fuzz::{has_fraction, of_kind};

fn field(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

fuzz_target!(|data: &[u8]| {
    let Some((descriptor, ty, body)) = of_kind(data) else { return };
    protobuf_kind(body);
    drop(decode(body, Media::Protobuf, &descriptor.gvk, Some(ty)));
    let mut enveloped = b"k8s\0".to_vec();
    field(2, body, &mut enveloped);
    let Ok(once) = decode(&enveloped, Media::Protobuf, &descriptor.gvk, Some(ty)) else { return };
    let twice = conform(once.value.clone(), &descriptor.gvk, ty).expect("what was read is of the kind");
    assert!(twice.strict.is_empty(), "{:?}", twice.strict);
    if !has_fraction(&once.value) {
        assert_eq!(twice.value, once.value);
    }
});
