//! A template of JSONPath, then the document that it is asked of.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use skiff_api::jsonpath::JsonPath;

fuzz_target!(|text: &str| {
    let (template, document) = text.split_once('\n').unwrap_or((text, ""));
    let document: Value =
        serde_json::from_str(document).unwrap_or_else(|_| json!({"a": [{"b": 1}, {"b": "x"}], "c": {"d": [1, 2, 3]}}));
    for path in [JsonPath::parse(template), JsonPath::parse_path(template)].into_iter().flatten() {
        drop(path.evaluate(&document));
        drop(path.all(&document));
        drop(path.values(&document));
    }
});
