//! The whole store in one process: what it promises to its callers.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use crate::{
    Compare, Consistency, Error, Op, Options, Range, Record, Revision, Store, Txn, TxnOutcome, VALUE_LIMIT, Watch,
    WatchEvent,
};

pub(crate) fn key(text: impl AsRef<str>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref().as_bytes())
}

pub(crate) fn put(k: impl AsRef<str>, value: impl AsRef<str>) -> Txn {
    Txn { compares: vec![], ops: vec![Op::Put { key: key(k), value: key(value) }] }
}

pub(crate) fn delete(k: impl AsRef<str>) -> Txn {
    Txn { compares: vec![], ops: vec![Op::Delete { key: key(k) }] }
}

pub(crate) fn everything() -> Range {
    Range { start: Bytes::new(), end: Bytes::from_static(&[0xff]) }
}

pub(crate) async fn open(directory: &Path) -> Store {
    Store::open(Options::new(directory)).await.unwrap()
}

pub(crate) async fn commit(store: &Store, txn: Txn) -> Revision {
    match store.txn(txn).await.unwrap() {
        TxnOutcome::Committed { revision } => revision,
        refused => panic!("{refused:?}"),
    }
}

pub(crate) async fn all(store: &Store) -> Vec<Record> {
    store.list(&everything(), None, None, Consistency::ReadIndex).await.unwrap().records
}

/// The next batch of events; the store answers at once, so this limit only ends a test that hangs.
async fn next(watch: &mut Watch) -> Vec<WatchEvent> {
    tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("no event").unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_records_and_revisions() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    assert_eq!(commit(&store, put("/a", "1")).await, Revision(1));
    assert_eq!(commit(&store, put("/b", "1")).await, Revision(2));
    assert_eq!(commit(&store, put("/a", "2")).await, Revision(3));
    assert_eq!(commit(&store, delete("/b")).await, Revision(4));
    let before = all(&store).await;
    assert_eq!(before, [Record { key: key("/a"), value: key("2"), created: Revision(1), modified: Revision(3) }]);
    store.close().await;

    let store = open(directory.path()).await;
    assert_eq!((all(&store).await, store.revision(), store.compacted()), (before, Revision(4), Revision(4)));
    assert_eq!(commit(&store, put("/c", "1")).await, Revision(5));
    store.close().await;
}
