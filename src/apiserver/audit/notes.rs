//! Annotations: what happened to a request on its way, told by whoever knows.

use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};

use super::policy::Level;

tokio::task_local! {
    /// Of the request that this task is answering, if it is recorded.
    static NOTES: Arc<Notes>;
}

/// The notes on one request.
pub(crate) struct Notes {
    level: Level,
    told: Mutex<Map<String, Value>>,
}

impl Notes {
    pub fn new(level: Level) -> Arc<Self> {
        Arc::new(Self { level, told: Mutex::default() })
    }

    pub fn take(&self) -> Map<String, Value> {
        std::mem::take(&mut self.told.lock().expect("nothing panics while it notes"))
    }
}

/// Answers a request whose notes are taken.
pub(crate) async fn noting<T>(notes: Arc<Notes>, answer: impl Future<Output = T>) -> T {
    NOTES.scope(notes, answer).await
}

/// Adds an annotation, a name and its text, to the record of the request that is being answered, if it is recorded with that
/// much. The first text for a name counts, as upstream.
pub(crate) fn note(level: Level, told: impl FnOnce() -> (String, String)) {
    // Outside of a recorded request nobody reads notes.
    let _ = NOTES.try_with(|notes| {
        if notes.level >= level {
            let (name, text) = told();
            let mut all = notes.told.lock().expect("nothing panics while it notes");
            all.entry(name).or_insert_with(|| text.into());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn notes_are_kept_where_they_are_read() {
        let text = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        note(Level::Metadata, || unreachable!("nobody reads it"));
        let notes = Notes::new(Level::Metadata);
        noting(notes.clone(), async {
            note(Level::Metadata, || text("a", "first"));
            note(Level::Metadata, || text("a", "second"));
            note(Level::Request, || unreachable!("it is too much"));
        })
        .await;
        assert_eq!(Value::Object(notes.take()), serde_json::json!({"a": "first"}));
    }
}
