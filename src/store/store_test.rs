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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_at_old_revisions_until_they_are_compacted() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    for i in 1..=5 {
        commit(&store, put(format!("/k{i}"), "v")).await;
    }
    let at = |revision| {
        let store = store.clone();
        async move { store.list(&everything(), Some(Revision(revision)), None, Consistency::Local).await }
    };
    assert_eq!(at(3).await.unwrap().records.len(), 3);
    let first = store.list(&everything(), Some(Revision(4)), Some(3), Consistency::Local).await.unwrap();
    assert_eq!((first.records.len(), first.remaining, first.revision), (3, 1, Revision(4)));

    store.compact(Revision(4));
    assert!(matches!(at(3).await, Err(Error::Compacted { asked: Revision(3), oldest: Revision(4) })));
    assert_eq!(at(4).await.unwrap().records.len(), 4);
    assert!(matches!(store.watch(key("/"), Revision(3)), Err(Error::Compacted { .. })));
    assert!(store.watch(key("/"), Revision(4)).is_ok());

    // A revision to come is waited for.
    let future = tokio::spawn(at(6));
    commit(&store, put("/k6", "v")).await;
    assert_eq!(future.await.unwrap().unwrap().records.len(), 6);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_yields_each_event_of_its_prefix_once_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    commit(&store, put("/pods/a", "1")).await;
    commit(&store, put("/nodes/n", "1")).await;
    let mut pods = store.watch(key("/pods/"), Revision(0)).unwrap();
    let mut future = store.watch(key("/pods/"), Revision(4)).unwrap();
    commit(&store, put("/pods/a", "2")).await;
    let both = Txn { compares: vec![], ops: vec![delete("/pods/a").ops.remove(0), put("/pods/b", "1").ops.remove(0)] };
    commit(&store, both).await;
    commit(&store, put("/pods/b", "2")).await;

    let record = |k: &str, value: &str, created, modified| Record {
        key: key(k),
        value: key(value),
        created: Revision(created),
        modified: Revision(modified),
    };
    let (a1, a2) = (record("/pods/a", "1", 1, 1), record("/pods/a", "2", 1, 3));
    let (b1, b2) = (record("/pods/b", "1", 4, 4), record("/pods/b", "2", 4, 5));
    let update = WatchEvent::Put { record: b2, previous: Some(b1.clone()) };
    let expect = [
        WatchEvent::Put { record: a1.clone(), previous: None },
        WatchEvent::Put { record: a2.clone(), previous: Some(a1) },
        WatchEvent::Delete { revision: Revision(4), previous: a2 },
        WatchEvent::Put { record: b1, previous: None },
        update.clone(),
    ];
    let mut events = Vec::new();
    while events.len() < expect.len() {
        let mut batch = next(&mut pods).await;
        let progress = batch.pop();
        assert!(matches!(progress, Some(WatchEvent::Progress { .. })), "a batch ends with progress: {progress:?}");
        assert!(!batch.is_empty());
        events.append(&mut batch);
    }
    assert_eq!(events, expect);
    assert_eq!(next(&mut future).await, [update, WatchEvent::Progress { revision: Revision(5) }]);

    commit(&store, put("/nodes/n", "2")).await;
    store.mark_progress();
    assert_eq!(next(&mut pods).await, [WatchEvent::Progress { revision: Revision(6) }]);
    store.close().await;
    assert!(matches!(pods.next().await, Some(Err(Error::Stopped))));
    assert!(pods.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_under_load_miss_nothing() {
    const WRITERS: u64 = 4;
    const WRITES: u64 = 200;
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            for i in 0..WRITES {
                commit(&store, put(format!("/w/{writer}/{}", i % 7), i.to_string())).await;
            }
        }));
    }
    let mut watchers = Vec::new();
    for _ in 0..8 {
        // Each starts somewhere in the middle.
        let from = store.revision();
        let mut watch = store.watch(key("/w/"), from).unwrap();
        watchers.push(tokio::spawn(async move {
            let mut last = from.0;
            while last < WRITERS * WRITES {
                for event in next(&mut watch).await {
                    match event {
                        WatchEvent::Put { record, .. } => {
                            assert_eq!(record.modified.0, last + 1);
                            last += 1;
                        }
                        WatchEvent::Progress { revision } => assert_eq!(revision.0, last),
                        other @ WatchEvent::Delete { .. } => panic!("{other:?}"),
                    }
                }
            }
        }));
        tokio::task::yield_now().await;
    }
    for task in writers.into_iter().chain(watchers) {
        task.await.unwrap();
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_does_not_keep_up_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { volatile: vec![key("/v/")], ..Options::new(directory.path()) };
    let store = Store::open(options).await.unwrap();
    let mut slow = store.watch(key("/v/"), Revision(0)).unwrap();
    let mut other = store.watch(key("/o/"), Revision(0)).unwrap();
    commit(&store, put("/o/1", "1")).await;
    // Volatile writes make many events quickly.
    for i in 0..=crate::watch::QUEUE_EVENTS {
        commit(&store, put("/v/k", i.to_string())).await;
    }
    assert!(matches!(slow.next().await, Some(Err(Error::Lagged(events))) if events == crate::watch::QUEUE_EVENTS));
    assert!(slow.next().await.is_none());
    assert_eq!(next(&mut other).await.len(), 2, "others go on");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compares_decide_and_say_what_stands_there() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let create = |value: &str| Txn { compares: vec![Compare::Absent { key: key("/k") }], ..put("/k", value) };
    commit(&store, create("1")).await;
    let stands = Record { key: key("/k"), value: key("1"), created: Revision(1), modified: Revision(1) };
    let refused = TxnOutcome::Refused { failed: 0, current: Some(stands.clone()), revision: Revision(1) };
    assert_eq!(store.txn(create("2")).await.unwrap(), refused);
    let update = |at| Txn { compares: vec![Compare::Modified { key: key("/k"), at: Revision(at) }], ..put("/k", "3") };
    assert_eq!(store.txn(update(7)).await.unwrap(), refused);
    assert_eq!(commit(&store, update(1)).await, Revision(2));
    let absent = Txn { compares: vec![Compare::Present { key: key("/other") }], ..put("/k", "4") };
    let refused = TxnOutcome::Refused { failed: 0, current: None, revision: Revision(2) };
    assert_eq!(store.txn(absent).await.unwrap(), refused);
    // A deletion of nothing is no change.
    assert_eq!(commit(&store, delete("/other")).await, Revision(2));
    assert_eq!(store.get(b"/k", Consistency::ReadIndex).await.unwrap().0.unwrap().value, "3");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_survive_log_and_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let value = |fill: u8, length: usize| Bytes::from((0..length).map(|i| fill ^ (i >> 8) as u8).collect::<Vec<_>>());
    let large = |k: &str, value: Bytes| Txn { compares: vec![], ops: vec![Op::Put { key: key(k), value }] };
    let limit = VALUE_LIMIT - "/k1".len();
    let too_large = store.txn(large("/k1", value(1, limit + 1))).await;
    assert!(matches!(too_large, Err(Error::TooLarge { limit: VALUE_LIMIT, .. })), "{too_large:?}");
    let three = Txn {
        compares: vec![],
        ops: ["/k1", "/k2", "/k3"].map(|k| Op::Put { key: key(k), value: value(1, limit) }).into(),
    };
    assert!(matches!(store.txn(three).await, Err(Error::TooLarge { limit: crate::TXN_LIMIT, .. })));

    // Shrinking and growing, over several checkpoints and a replay of the log.
    let lengths = [limit, 10, 65_536, 65_537, 200_000, 0];
    let mut expect = Vec::new();
    for round in 0..lengths.len() {
        expect.clear();
        for (i, _) in lengths.iter().enumerate() {
            let value = value(round as u8, lengths[(i + round) % lengths.len()]);
            commit(&store, large(&format!("/k{i}"), value.clone())).await;
            expect.push(value);
        }
        commit(&store, if round % 2 == 0 { put("/gone", "1") } else { delete("/gone") }).await;
        if round % 2 == 1 {
            store.checkpoint().await.unwrap();
        }
    }
    commit(&store, delete("/k5")).await;
    expect.pop();
    let before = all(&store).await;
    assert_eq!(before.iter().map(|record| record.value.clone()).collect::<Vec<_>>(), expect);
    store.close().await;
    let store = open(directory.path()).await;
    assert!(all(&store).await == before, "the checkpoint gives back what it was given");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volatile_keys_reach_no_disk_and_their_revisions_never_come_again() {
    let directory = tempfile::tempdir().unwrap();
    let options = || Options { volatile: vec![key("/leases/")], ..Options::new(directory.path()) };
    let store = Store::open(options()).await.unwrap();
    commit(&store, put("/durable", "1")).await;
    let mut watch = store.watch(key("/leases/"), Revision(1)).unwrap();
    let written = store.log_bytes();
    let mut last = Revision(1);
    for i in 0..50 {
        let revision = commit(&store, put("/leases/n1", i.to_string())).await;
        assert_eq!(revision.0, last.0 + 1);
        last = revision;
    }
    assert_eq!(store.log_bytes(), written, "nothing was written");
    assert_eq!(next(&mut watch).await.len(), 51);
    // A durable write in between takes the next revision, in memory and on disk.
    let durable = commit(&store, put("/durable", "2")).await;
    assert_eq!(durable.0, last.0 + 1);
    let last = commit(&store, put("/leases/n1", "last")).await;
    let mixed = Txn { compares: vec![Compare::Present { key: key("/leases/n1") }], ..put("/durable", "3") };
    assert!(matches!(store.txn(mixed).await, Err(Error::MixedVolatile)));
    store.close().await;

    let store = Store::open(options()).await.unwrap();
    let records = all(&store).await;
    assert_eq!(records.len(), 1, "the lease is gone");
    assert_eq!(records[0].modified, durable);
    assert!(store.revision() > last, "{:?} was given out before", store.revision());
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_used_once_and_closed_handles_say_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let second = Store::open(Options::new(directory.path())).await;
    assert!(matches!(second, Err(Error::InUse(path)) if path == directory.path()));
    let other = store.clone();
    store.close().await;
    assert!(matches!(other.txn(put("/a", "1")).await, Err(Error::Stopped)));
    open(directory.path()).await.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_caller_went_away_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    for i in 0..100 {
        let pair = ["/a", "/b"].map(|k| Op::Put { key: key(k), value: key(i.to_string()) });
        let txn = store.txn(Txn { compares: vec![], ops: pair.into() });
        tokio::select! {
            biased;
            _ = txn => {}
            () = tokio::task::yield_now() => {}
        }
    }
    commit(&store, put("/c", "1")).await;
    let records = all(&store).await;
    assert_eq!(records[0].value, records[1].value);
    let free = store.free_log_space();
    assert!(free.is_some(), "every write gave its space back");
    store.close().await;
}

fn log_files(directory: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> =
        std::fs::read_dir(directory.join("log")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_starts_do_not_pile_up_log_files() {
    let directory = tempfile::tempdir().unwrap();
    for start in 1..=8u64 {
        let store = open(directory.path()).await;
        assert_eq!(commit(&store, put("/k", start.to_string())).await, Revision(start));
        eventually("few files", || log_files(directory.path()).len() <= 5).await;
        store.crash().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_purged_behind_checkpoints_and_its_files_are_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let value = "x".repeat(1 << 20);
    let files = || log_files(directory.path());
    for round in 0..6 {
        for i in 0..10 {
            commit(&store, put(format!("/k{i}"), &value)).await;
        }
        store.checkpoint().await.unwrap();
        store.log_purged().await;
        assert!(files().len() <= 4, "round {round}: {:?}", files());
    }
    let before = all(&store).await;
    store.close().await;
    let store = open(directory.path()).await;
    assert!(all(&store).await == before);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_compacted_when_it_is_old() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { keep_history: Duration::from_millis(20), ..Options::new(directory.path()) };
    let store = Store::open(options).await.unwrap();
    for round in 1..=2u64 {
        commit(&store, put("/k", round.to_string())).await;
        eventually("compacted", || store.compacted() == Revision(round)).await;
    }
    assert_eq!(all(&store).await.len(), 1);
    store.close().await;
}
