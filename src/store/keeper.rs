//! The thread that writes checkpoints, and the rule for when one is due.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use skiff_base::chain;
use tokio::sync::oneshot;

use crate::checkpoint::{CheckpointError, Cut, Generation, Meta};
use crate::state::State;

/// A generation below this is not worth a new one.
const SMALL_BYTES: u64 = 32 << 20;
/// A generation may take this many times what is live.
const SLACK: u64 = 3;

/// Nothing takes so long but an error that sled waits for.
const WRITE_LIMIT: Duration = Duration::from_secs(300);

type Done = oneshot::Sender<Result<Meta, CheckpointError>>;

/// Asks the thread for checkpoints; it ends when the last handle is gone.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    jobs: SyncSender<Job>,
}

enum Job {
    Checkpoint { full: bool, done: Done },
    Trim,
    Stop { done: oneshot::Sender<()> },
}

struct Thread {
    directory: PathBuf,
    state: Arc<State>,
    /// None: the last one failed; the next checkpoint writes a new one from memory.
    generation: Option<Generation>,
    next_number: u64,
}

impl Keeper {
    pub fn start(directory: PathBuf, state: Arc<State>, generation: Option<Generation>) -> std::io::Result<Keeper> {
        let (jobs, queue) = sync_channel(8);
        let next_number = generation.as_ref().map_or(1, |generation| generation.number() + 1);
        let thread = Thread { directory, state, generation, next_number };
        thread::Builder::new().name("skiff-keep".into()).spawn(move || thread.run(&queue))?;
        Ok(Keeper { jobs })
    }

    /// Brings everything applied so far to disk; returns what is there then. None: the thread has ended.
    pub async fn checkpoint(&self, full: bool) -> Option<Result<Meta, CheckpointError>> {
        let (done, answer) = oneshot::channel();
        self.jobs.send(Job::Checkpoint { full, done }).ok()?;
        answer.await.ok()
    }

    /// Gives freed memory back to the system, when the thread comes to it.
    pub fn trim(&self) {
        // One that is busy does so by itself, after each checkpoint.
        let _ = self.jobs.try_send(Job::Trim);
    }

    /// Closes the generation.
    pub async fn stop(&self) {
        let (done, answer) = oneshot::channel();
        if self.jobs.send(Job::Stop { done }).is_ok() {
            drop(answer.await);
        }
    }
}

impl Thread {
    fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Checkpoint { full, done } => {
                    let result = self.checkpoint(full);
                    // sled needs several times what it writes, for a moment.
                    skiff_linux::memory::trim();
                    if let Err(e) = &result {
                        // What is in it now is not known; memory has everything.
                        self.generation = None;
                        tracing::warn!(error = %chain(e), "write a checkpoint; the log keeps what it would hold");
                    }
                    drop(done.send(result));
                }
                Job::Trim => skiff_linux::memory::trim(),
                Job::Stop { done } => {
                    drop(self.generation.take());
                    // Who asked may have gone away.
                    return done.send(()).unwrap_or(());
                }
            }
        }
    }

    fn checkpoint(&mut self, full: bool) -> Result<Meta, CheckpointError> {
        let bloated = self.generation.as_ref().is_some_and(|generation| {
            let bytes = generation.bytes_on_disk();
            bytes > SMALL_BYTES && bytes > SLACK * self.state.live_bytes()
        });
        let update = self.generation.take().filter(|_| !full && !bloated);
        let cut = if update.is_some() { self.state.cut_changes() } else { self.state.cut_all() };
        let (directory, number) = (self.directory.clone(), self.next_number);
        let fresh = update.is_none();
        if fresh {
            self.next_number += 1;
        }
        let write = move || match update {
            Some(mut generation) => generation.update(&cut).map(|()| (generation, cut)),
            None => Generation::create(&directory, number, &cut).map(|generation| (generation, cut)),
        };
        let (generation, cut) = with_limit(write)?;
        if fresh {
            // Not on the other thread: one that was left behind must not do this later.
            generation.make_current(&self.directory)?;
        }
        self.generation = Some(generation);
        Ok(self.kept(cut))
    }

    fn kept(&self, cut: Cut) -> Meta {
        tracing::debug!(revision = cut.meta.revision.0, keys = cut.keys.len(), "checkpoint");
        self.state.set_kept(cut.meta.clone());
        cut.meta
    }
}

/// Runs on a thread that is left behind if it does not come to an end.
fn with_limit<T: Send + 'static>(
    write: impl FnOnce() -> Result<T, CheckpointError> + Send + 'static,
) -> Result<T, CheckpointError> {
    let (done, result) = sync_channel(1);
    // Nobody listens to a result that comes too late.
    let run = move || done.send(write()).unwrap_or(());
    let failed = |source| CheckpointError::Io { path: "(a thread)".into(), source };
    thread::Builder::new().name("skiff-checkpoint".into()).spawn(run).map_err(failed)?;
    result.recv_timeout(WRITE_LIMIT).unwrap_or(Err(CheckpointError::Hangs(WRITE_LIMIT.as_secs())))
}
