//! Documents of OpenAPI that somebody asked for lately: each is large, and soon nobody asks any more.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use skiff_api::openapi::Others;

/// For so long a document is kept, and one of another server is taken to be what it was.
pub(crate) const KEEP: Duration = Duration::from_secs(60);

/// Of this server: what was not asked for lately goes.
#[derive(Default)]
pub(crate) struct Documents(Mutex<Vec<Kept>>);

struct Kept {
    name: String,
    hash: String,
    used: Instant,
    bytes: Bytes,
}

impl Documents {
    pub fn get(&self, name: &str, hash: &str, make: impl FnOnce() -> Vec<u8>) -> Bytes {
        let mut kept = self.0.lock().expect("nothing panics with the documents");
        if let Some(found) = kept.iter_mut().find(|k| k.name == name && k.hash == hash) {
            found.used = Instant::now();
            return found.bytes.clone();
        }
        drop(kept);
        let bytes = Bytes::from(make());
        let entry = Kept { name: name.to_owned(), hash: hash.to_owned(), used: Instant::now(), bytes: bytes.clone() };
        let mut kept = self.0.lock().expect("nothing panics with the documents");
        kept.retain(|k| k.name != entry.name);
        kept.push(entry);
        bytes
    }

    pub fn tidy(&self) {
        let mut kept = self.0.lock().expect("nothing panics with the documents");
        kept.retain(|k| k.used.elapsed() < KEEP);
    }
}

/// What one APIService adds to the document.
#[derive(Clone)]
pub(crate) struct Swagger {
    pub hash: String,
    pub others: Arc<Others>,
}

/// Of other servers, by the name of the APIService: what was fetched lately.
#[derive(Default)]
pub(crate) struct Swaggers(Mutex<Vec<(String, Instant, Swagger)>>);

impl Swaggers {
    pub fn get(&self, name: &str) -> Option<Swagger> {
        let kept = self.0.lock().expect("nothing panics with the documents");
        kept.iter().find(|(of, at, _)| of == name && at.elapsed() < KEEP).map(|(_, _, swagger)| swagger.clone())
    }

    pub fn put(&self, name: &str, swagger: Swagger) {
        let mut kept = self.0.lock().expect("nothing panics with the documents");
        kept.retain(|(of, _, _)| of != name);
        kept.push((name.to_owned(), Instant::now(), swagger));
    }

    pub fn tidy(&self) {
        self.0.lock().expect("nothing panics with the documents").retain(|(_, at, _)| at.elapsed() < KEEP);
    }
}
