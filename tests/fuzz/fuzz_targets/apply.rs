//! Server-side apply: a live object (with whatever `managedFields`) and a configuration, of a kind.
#![no_main]

use std::borrow::Cow;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use skiff_api::decode::conform;
use skiff_api::managed::{Applying, Set, Versions, Writer, apply, track};
use skiff_api::schema::Type;
use skiff_fuzz::{documents, of_kind};

struct Only<'a>(&'a Type);

impl Versions for Only<'_> {
    fn convert<'a>(&self, object: &'a Value, _api_version: &str) -> Option<Cow<'a, Value>> {
        Some(Cow::Borrowed(object))
    }

    fn schema(&self, _api_version: &str) -> Option<Type> {
        Some(self.0.clone())
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((descriptor, ty, body)) = of_kind(data) else { return };
    let gvk = &descriptor.gvk;
    let api_version = gvk.api_version();
    let mut all = documents(body).filter_map(|mut document| {
        let entries = document.as_object_mut()?;
        entries.insert("apiVersion".to_owned(), api_version.clone().into());
        entries.insert("kind".to_owned(), gvk.kind.to_string().into());
        conform(document, gvk, ty).ok().map(|read| read.value)
    });
    let (Some(mut live), Some(applied)) = (all.next(), all.next()) else { return };
    let ignored = Set::default();
    let writer = |manager: &'static str| Writer {
        manager,
        api_version: &api_version,
        subresource: "",
        now: "2024-01-01T00:00:00Z",
        ignored: &ignored,
    };
    // Validation lets nothing be stored that could not be applied itself: list items without their keys and the like.
    let mut plain = live.clone();
    if let Some(metadata) = plain.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    if apply(None, &plain, &Applying { gvk, writer: writer("made"), force: false }, &Only(ty)).is_err() {
        return;
    }
    track(None, &mut live, &writer("made"), &Only(ty));
    let go = |live: &Value, manager, force| {
        apply(Some(live), &applied, &Applying { gvk, writer: writer(manager), force }, &Only(ty))
    };
    drop(go(&live, "kubectl", false));
    let Ok(once) = go(&live, "fuzz", true) else { return };
    assert_eq!(go(&once, "fuzz", false).expect("all of it is its own"), once, "twice is once");
});
