//! Tokens of lists in chunks: as they come, and around whatever JSON is in them.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "the server uses the rest")]
#[path = "../../../src/apiserver/path/continuation.rs"]
mod continuation;

use continuation::Continuation;

fuzz_target!(|text: &str| {
    for token in [text.to_owned(), URL_SAFE_NO_PAD.encode(text)] {
        for (namespaced, namespace) in [(true, ""), (true, "ns"), (false, "")] {
            if let Ok(read) = Continuation::decode(&token, namespaced, namespace) {
                assert!(namespace.is_empty() || &*read.from.namespace == namespace, "another namespace");
                drop(Continuation::decode(&read.encode(namespace), namespaced, namespace));
            }
        }
    }
});
