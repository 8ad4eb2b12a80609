//! Bodies in JSON: what was read once is read the same again, and filling in defaults and checking survive all of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_api::decode::{Media, conform, decode};
use skiff_fuzz::{has_fraction, of_kind};

fuzz_target!(|data: &[u8]| {
    let Some((descriptor, ty, body)) = of_kind(data) else { return };
    let Ok(once) = decode(body, Media::Json, &descriptor.gvk, Some(ty)) else { return };
    let twice = conform(once.value.clone(), &descriptor.gvk, ty).expect("what was read is of the kind");
    assert!(twice.strict.is_empty(), "{:?}", twice.strict);
    if !has_fraction(&once.value) {
        assert_eq!(twice.value, once.value);
    }
    let mut object = once.value;
    descriptor.strategy.default(&mut object);
    let mut again = object.clone();
    descriptor.strategy.default(&mut again);
    assert_eq!(object, again, "defaults");
    descriptor.strategy.prepare_create(&mut object);
    descriptor.strategy.validate(&object);
    descriptor.strategy.validate_update(&object, &again);
    descriptor.strategy.cells(&object, jiff::Timestamp::UNIX_EPOCH);
});
