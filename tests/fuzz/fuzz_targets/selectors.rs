//! Selectors of labels and fields.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_api::selector::{FieldSelector, LabelSelector};

fuzz_target!(|text: &str| {
    if let Ok(selector) = LabelSelector::parse(text) {
        selector.matches_with(|_| None);
        selector.matches_with(|_| Some("b"));
        // As it is shown it means the same.
        let shown = selector.to_string();
        let again = LabelSelector::parse(&shown).unwrap_or_else(|error| panic!("{shown}: {error}"));
        assert_eq!(again.to_string(), shown);
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        selector.matches(|field| Some(field.to_owned()));
        drop(selector.check_fields(&["metadata.name"]));
    }
    if let Ok(value) = serde_json::from_str(text) {
        drop(LabelSelector::from_value(&value));
    }
});
