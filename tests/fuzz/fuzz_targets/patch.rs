//! An object, a patch, and a third document for the three-way patch; of a kind and of none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use skiff_api::decode::conform;
use skiff_api::patch::{json_patch, merge_patch, strategic_merge, three_way};
use skiff_fuzz::{documents, of_kind};

fuzz_target!(|data: &[u8]| {
    let Some((descriptor, ty, body)) = of_kind(data) else { return };
    let mut all = documents(body);
    let (Some(object), Some(patch)) = (all.next(), all.next()) else { return };
    let third = all.next();
    drop(json_patch(&object, &patch));
    let merged = merge_patch(object.clone(), &patch);
    assert_eq!(merge_patch(merged.clone(), &patch), merged, "twice is once");
    for object in
        [Ok(object.clone()), conform(object, &descriptor.gvk, ty).map(|read| read.value)].into_iter().flatten()
    {
        drop(strategic_merge(&object, &patch, ty));
        for schema in [Some(ty), None] {
            let Ok(patch) = three_way(third.as_ref(), &patch, &object, schema) else { continue };
            match schema {
                Some(schema) => drop(strategic_merge(&object, &patch, schema)),
                None => drop::<Value>(merge_patch(object.clone(), &patch)),
            }
        }
    }
});
