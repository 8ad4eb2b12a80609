//! The versioned map against a model that keeps a whole map per revision.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use crate::mvcc::{HISTORY_BYTES, Mvcc};
use crate::{Compare, Error, Op, Range, Record, Revision, Txn, TxnOutcome, WatchEvent};

#[derive(Debug, Clone)]
enum Step {
    Txn(Txn, u64),
    Compact(u64),
}

#[derive(Default)]
struct Model {
    revision: u64,
    compacted: u64,
    /// The map after each revision that changed it.
    maps: BTreeMap<u64, BTreeMap<Bytes, Record>>,
    events: Vec<(u64, WatchEvent)>,
}

impl Model {
    fn at(&self, revision: u64) -> BTreeMap<Bytes, Record> {
        self.maps.range(..=revision).next_back().map(|(_, map)| map.clone()).unwrap_or_default()
    }

    fn now(&self) -> BTreeMap<Bytes, Record> {
        self.at(u64::MAX)
    }

    fn apply(&mut self, txn: &Txn, floor: u64) -> TxnOutcome {
        let mut map = self.now();
        for (failed, compare) in txn.compares.iter().enumerate() {
            let (key, holds) = match compare {
                Compare::Absent { key } => (key, !map.contains_key(key)),
                Compare::Present { key } => (key, map.contains_key(key)),
                Compare::Modified { key, at } => (key, map.get(key).is_some_and(|record| record.modified == *at)),
            };
            if !holds {
                let current = map.get(key).cloned();
                return TxnOutcome::Refused { failed, current, revision: Revision(self.revision) };
            }
        }
        let next = Revision(self.revision.max(floor) + 1);
        // The last op on a key decides, in the order of those last ops.
        let before = map.clone();
        let mut events = Vec::new();
        for (i, op) in txn.ops.iter().enumerate() {
            let key = match op {
                Op::Put { key, .. } | Op::Delete { key } => key,
            };
            let overridden = txn.ops[i + 1..].iter().any(|later| match later {
                Op::Put { key: other, .. } | Op::Delete { key: other } => other == key,
            });
            if overridden {
                continue;
            }
            match op {
                Op::Put { key, value } => {
                    let previous = before.get(key).cloned();
                    let created = previous.as_ref().map_or(next, |previous| previous.created);
                    let record = Record { key: key.clone(), value: value.clone(), created, modified: next };
                    map.insert(key.clone(), record.clone());
                    events.push((next.0, WatchEvent::Put { record, previous }));
                }
                Op::Delete { key } => {
                    if let Some(previous) = map.remove(key) {
                        events.push((next.0, WatchEvent::Delete { revision: next, previous }));
                    }
                }
            }
        }
        if !events.is_empty() {
            self.revision = next.0;
            self.maps.insert(next.0, map);
            self.events.append(&mut events);
        }
        TxnOutcome::Committed { revision: Revision(self.revision) }
    }
}

fn keys() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["", "/a", "/a/1", "/a/2", "/b", "/b\u{0}"]).prop_map(Bytes::from_static_str)
}

trait FromStatic {
    fn from_static_str(text: &'static str) -> Bytes;
}

impl FromStatic for Bytes {
    fn from_static_str(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let compare = prop_oneof![
        keys().prop_map(|key| Compare::Absent { key }),
        keys().prop_map(|key| Compare::Present { key }),
        (keys(), 0..12u64).prop_map(|(key, at)| Compare::Modified { key, at: Revision(at) }),
    ];
    let op = prop_oneof![
        3 => (keys(), any::<u8>()).prop_map(|(key, value)| Op::Put { key, value: Bytes::from(vec![value]) }),
        2 => keys().prop_map(|key| Op::Delete { key }),
    ];
    let compares = prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(compare, 1..3)];
    let txn = (compares, prop::collection::vec(op, 0..4), prop_oneof![9 => Just(0u64), 1 => 0..40u64])
        .prop_map(|(compares, ops, floor)| Step::Txn(Txn { compares, ops }, floor));
    let step = prop_oneof![9 => txn, 1 => (0..40u64).prop_map(Step::Compact)];
    prop::collection::vec(step, 1..60)
}

fn everything() -> Range {
    Range { start: Bytes::new(), end: Bytes::from_static(&[0xff]) }
}

fn key_of(event: &WatchEvent) -> &Bytes {
    match event {
        WatchEvent::Put { record, .. } | WatchEvent::Delete { previous: record, .. } => &record.key,
        WatchEvent::Progress { .. } => panic!("no change"),
    }
}

fn check_reads(mvcc: &Mvcc, model: &Model) {
    let part = Range { start: Bytes::from_static(b"/a/"), end: Bytes::from_static(b"/b") };
    for revision in 0..=model.revision {
        let listing = mvcc.list(&everything(), Some(Revision(revision)), None);
        if revision < model.compacted {
            let oldest = Revision(model.compacted);
            assert!(matches!(listing, Err(Error::Compacted { oldest: told, .. }) if told == oldest), "{listing:?}");
            continue;
        }
        let expect = model.at(revision);
        assert_eq!(listing.unwrap().records, expect.values().cloned().collect::<Vec<_>>(), "at {revision}");
        let expect: Vec<_> = expect.range(part.start.clone()..part.end.clone()).map(|(_, r)| r.clone()).collect();
        let limited = mvcc.list(&part, Some(Revision(revision)), Some(1)).unwrap();
        assert_eq!(limited.records, expect.iter().take(1).cloned().collect::<Vec<_>>());
        assert_eq!(limited.remaining as usize, expect.len().saturating_sub(1));

        let events: Vec<_> = mvcc.changes_after(Revision(revision)).unwrap().map(|c| c.event.clone()).collect();
        let expect = model.events.iter().filter(|(at, _)| *at > revision).map(|(_, event)| event.clone());
        assert_eq!(events, expect.collect::<Vec<_>>(), "after {revision}");
        let piece = mvcc.changes(b"/a/", Revision(revision)).unwrap();
        let expect = model.events.iter().filter(|(at, event)| *at > revision && key_of(event).starts_with(b"/a/"));
        assert_eq!(piece.events, expect.map(|(_, event)| event.clone()).collect::<Vec<_>>(), "after {revision}");
        assert_eq!(piece.through, Revision(model.revision));
    }
    for (key, record) in model.now() {
        assert_eq!(mvcc.get(&key), Some(record));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_and_events_are_those_of_the_model(steps in steps()) {
        let mut mvcc = Mvcc::default();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Txn(txn, floor) => {
                    let (outcome, changes) = mvcc.apply(&txn, Revision(floor));
                    let known = model.events.len();
                    prop_assert_eq!(outcome, model.apply(&txn, floor));
                    let events: Vec<_> = changes.iter().map(|c| (c.revision.0, c.event.clone())).collect();
                    prop_assert_eq!(&events[..], &model.events[known..]);
                }
                Step::Compact(to) => {
                    mvcc.compact(Revision(to));
                    model.compacted = model.compacted.max(to.min(model.revision));
                }
            }
            prop_assert_eq!((mvcc.revision().0, mvcc.compacted().0), (model.revision, model.compacted));
        }
        check_reads(&mvcc, &model);
    }
}

#[test]
fn history_is_bounded_by_what_it_holds() {
    let mut mvcc = Mvcc::default();
    let value = Bytes::from(vec![0; 1 << 20]);
    let writes = 3 * HISTORY_BYTES as u64 / (1 << 20);
    for _ in 0..writes {
        let ops = vec![Op::Put { key: Bytes::from_static(b"k"), value: value.clone() }];
        mvcc.apply(&Txn { compares: vec![], ops }, Revision(0));
    }
    let kept = mvcc.changes_after(mvcc.compacted()).unwrap().count() as u64;
    assert!((writes / 5..writes / 3).contains(&kept), "{kept} of {writes} changes are kept");
    assert!(mvcc.list(&everything(), Some(mvcc.compacted()), None).is_ok());
    mvcc.compact(Revision(writes));
    assert!(!mvcc.has_history());
}

#[test]
fn the_history_comes_in_pieces_that_end_with_a_revision() {
    let mut mvcc = Mvcc::default();
    let value = Bytes::from(vec![0; 300 << 10]);
    let keys = ["/a/1", "/b", "/a/2", "/a/3", "/a/4", "/a/5", "/a/6"].map(Bytes::from_static_str);
    for _ in 0..5 {
        let ops = keys.iter().map(|key| Op::Put { key: key.clone(), value: value.clone() }).collect();
        mvcc.apply(&Txn { compares: vec![], ops }, Revision(0));
    }
    let (mut at, mut revisions) = (Revision(0), Vec::new());
    while at < mvcc.revision() {
        let piece = mvcc.changes(b"/a/", at).unwrap();
        assert!(piece.events.len() == 6 && piece.events.iter().all(|event| key_of(event).starts_with(b"/a/")));
        at = piece.through;
        revisions.push(at.0);
    }
    // Four values fill a piece, but no revision is torn.
    assert_eq!(revisions, [1, 2, 3, 4, 5]);
    assert_eq!(mvcc.changes(b"/a/", at).unwrap().events, []);
    assert_eq!(mvcc.changes(b"/a/", Revision(99)).unwrap().through, Revision(99));
    mvcc.compact(Revision(2));
    assert!(matches!(mvcc.changes(b"/a/", Revision(1)), Err(Error::Compacted { .. })));
}
