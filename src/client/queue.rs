use std::fmt::Debug;
use std::hash::Hash;
use std::marker::PhantomData;
use std::time::Duration;

/// Keys that wait for work, each at most once (client-go's rate-limited work queue).
///
/// A key is in at most one of {waiting, running}; one that is added while it runs is queued again
/// when it is done. Failures back off per key (5 ms to 1000 s) and through a bucket (10/s, burst 100).
/// Cloning gives another handle on the same queue.
#[derive(Clone)]
pub struct Queue<K> {
    todo: PhantomData<K>,
}

impl<K: Clone + Debug + Eq + Hash + Send + Sync + 'static> Queue<K> {
    pub fn new(name: &'static str) -> Self {
        let _ = name;
        todo!("client helper")
    }

    pub fn add(&self, key: K) {
        let _ = key;
        todo!("client helper")
    }

    pub fn add_after(&self, key: K, wait: Duration) {
        let _ = (key, wait);
        todo!("client helper")
    }
}
