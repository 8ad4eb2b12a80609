//! Openraft's own checks of what it expects from a log and a state machine.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use crate::Options;
use crate::log::Log;
use crate::machine::Machine;
use crate::raft::TypeConfig;
use crate::store::Parts;

struct Builder;

/// Ends and removes the store.
struct Guard {
    _directory: tempfile::TempDir,
}

impl StoreBuilder<TypeConfig, Log, Machine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, Log, Machine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let options = Options::new(directory.path());
        let parts = tokio::task::spawn_blocking(move || Parts::open(options)).await.unwrap().unwrap();
        let machine = Machine { state: parts.state, log: parts.log.shared.clone(), keeper: parts.keeper };
        Ok((Guard { _directory: directory }, parts.log, machine))
    }
}

#[test]
fn openraft_accepts_the_log_and_the_state_machine() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}
