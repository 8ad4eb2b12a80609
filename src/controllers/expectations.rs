use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use skiff_api::ObjectKey;

/// After this time something was lost, and the truth is looked at again.
const LIFETIME: Duration = Duration::from_secs(300);

/// What a controller has done and not yet seen in its cache. While there is any, it must not count its
/// objects: it would create or delete the same ones again.
#[derive(Default)]
pub struct Expectations {
    open: Mutex<HashMap<ObjectKey, Open>>,
}

struct Open {
    creations: usize,
    deletions: HashSet<String>,
    since: Instant,
}

impl Expectations {
    pub fn expect_creations(&self, owner: &ObjectKey, count: usize) {
        self.expect(owner, count, []);
    }

    /// By uid.
    pub fn expect_deletions(&self, owner: &ObjectKey, uids: impl IntoIterator<Item = String>) {
        self.expect(owner, 0, uids);
    }

    /// Both at once: what was expected before is forgotten.
    pub fn expect(&self, owner: &ObjectKey, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let open = Open { creations, deletions: deletions.into_iter().collect(), since: Instant::now() };
        self.open.lock().expect("nothing panics while it holds the expectations").insert(owner.clone(), open);
    }

    /// Seen, or failed and not to be seen.
    pub fn created(&self, owner: &ObjectKey) {
        self.change(owner, |open| open.creations = open.creations.saturating_sub(1));
    }

    /// Seen, or failed and not to be seen.
    pub fn deleted(&self, owner: &ObjectKey, uid: &str) {
        self.change(owner, |open| {
            open.deletions.remove(uid);
        });
    }

    /// Whether the cache shows all that was done.
    pub fn are_met(&self, owner: &ObjectKey) -> bool {
        let open = self.open.lock().expect("nothing panics while it holds the expectations");
        open.get(owner)
            .is_none_or(|open| (open.creations == 0 && open.deletions.is_empty()) || open.since.elapsed() > LIFETIME)
    }

    pub fn forget(&self, owner: &ObjectKey) {
        self.open.lock().expect("nothing panics while it holds the expectations").remove(owner);
    }

    fn change(&self, owner: &ObjectKey, change: impl FnOnce(&mut Open)) {
        if let Some(open) = self.open.lock().expect("nothing panics while it holds the expectations").get_mut(owner) {
            change(open);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_met_when_everything_was_seen() {
        let expectations = Expectations::default();
        let (a, b) = (ObjectKey::new("x", "a"), ObjectKey::new("x", "b"));
        assert!(expectations.are_met(&a));
        expectations.expect_creations(&a, 2);
        expectations.created(&b);
        expectations.created(&a);
        assert!(!expectations.are_met(&a) && expectations.are_met(&b));
        expectations.created(&a);
        expectations.created(&a);
        assert!(expectations.are_met(&a));
        expectations.expect_deletions(&a, ["1".to_owned(), "2".to_owned()]);
        expectations.deleted(&a, "1");
        expectations.deleted(&a, "1");
        assert!(!expectations.are_met(&a));
        expectations.forget(&a);
        assert!(expectations.are_met(&a));
    }
}
