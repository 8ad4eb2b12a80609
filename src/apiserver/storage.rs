//! Keys of objects in the store, and writes to them.
//!
//! A key is `<resource>/<namespace>/<name>`, with an empty namespace for cluster-scoped objects; the
//! resource is the descriptor's `storage` and may hold a slash. Names never do.

use bytes::Bytes;
use skiff_api::{ApiError, ObjectKey};
use skiff_store::{Compare, Op, Record, Revision, Store, Txn, TxnOutcome};

use crate::error::from_store;

/// The largest object, as a client may send it.
pub(crate) const MAX_OBJECT: usize = 3 << 20;

pub(crate) fn key(resource: &str, object: &ObjectKey) -> Bytes {
    Bytes::from(format!("{resource}/{}/{}", object.namespace, object.name))
}

/// The resource that a key belongs to.
pub(crate) fn resource_of(key: &[u8]) -> Option<&str> {
    let key = std::str::from_utf8(key).ok()?;
    let (rest, _name) = key.rsplit_once('/')?;
    let (resource, _namespace) = rest.rsplit_once('/')?;
    Some(resource)
}

/// What came of a create.
pub(crate) enum Created {
    At(u64),
    /// Something stands there already.
    Exists,
    /// The object that the new one depends on was changed or removed; what stands there now.
    Moved(Option<Record>),
}

/// An object that must not have changed when another one is committed.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    pub key: Bytes,
    pub at: u64,
}

/// What came of a write.
pub(crate) enum Written {
    At(u64),
    /// Someone else was faster; what stands there now.
    Conflict(Option<Record>),
}

async fn commit(store: &Store, compare: Compare, op: Op) -> Result<Written, ApiError> {
    let txn = Txn { compares: vec![compare], ops: vec![op] };
    match store.txn(txn).await.map_err(|e| from_store(&e))? {
        TxnOutcome::Committed { revision } => Ok(Written::At(revision.0)),
        TxnOutcome::Refused { current, .. } => Ok(Written::Conflict(current)),
    }
}

/// Writes what is not there yet, if `guard` still stands as it did.
pub(crate) async fn create(
    store: &Store,
    key: Bytes,
    value: Bytes,
    guard: Option<&Guard>,
) -> Result<Created, ApiError> {
    let mut compares = vec![Compare::Absent { key: key.clone() }];
    compares.extend(guard.map(|guard| Compare::Modified { key: guard.key.clone(), at: Revision(guard.at) }));
    let txn = Txn { compares, ops: vec![Op::Put { key, value }] };
    Ok(match store.txn(txn).await.map_err(|e| from_store(&e))? {
        TxnOutcome::Committed { revision } => Created::At(revision.0),
        TxnOutcome::Refused { failed: 0, .. } => Created::Exists,
        TxnOutcome::Refused { current, .. } => Created::Moved(current),
    })
}

/// Replaces what was last written at revision `at`.
pub(crate) async fn replace(store: &Store, key: Bytes, at: u64, value: Bytes) -> Result<Written, ApiError> {
    commit(store, Compare::Modified { key: key.clone(), at: Revision(at) }, Op::Put { key, value }).await
}

/// Removes what was last written at revision `at`.
pub(crate) async fn remove(store: &Store, key: Bytes, at: u64) -> Result<Written, ApiError> {
    commit(store, Compare::Modified { key: key.clone(), at: Revision(at) }, Op::Delete { key }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_their_resource() {
        for (resource, object) in [
            ("pods", ObjectKey::new("a", "b")),
            ("nodes", ObjectKey::cluster("n")),
            ("apps/deployments", ObjectKey::new("a", "b.c")),
        ] {
            assert_eq!(resource_of(&key(resource, &object)), Some(resource));
        }
        assert_eq!(resource_of(b"x"), None);
    }
}
