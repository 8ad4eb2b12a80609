use tokio::sync::{mpsc, oneshot};

use crate::Error;

/// More calls than this wait for their turn to be queued.
const QUEUE: usize = 64;

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A thread that owns a state and does what it is asked to, one call after the other. It ends when the
/// last handle is dropped.
///
/// Netlink calls block for as long as the kernel holds its locks, and their sockets belong to the network
/// namespace of the thread that opened them; so they are made here, not on the runtime's threads.
pub(crate) struct Worker<S> {
    jobs: mpsc::Sender<Job<S>>,
}

impl<S> Clone for Worker<S> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone() }
    }
}

impl<S: Send + 'static> Worker<S> {
    /// Starts the thread, in the namespaces of the calling one; `open` makes the state there.
    pub(crate) async fn start(
        name: &str,
        open: impl FnOnce() -> Result<S, Error> + Send + 'static,
    ) -> Result<Self, Error> {
        let (jobs, mut queue) = mpsc::channel::<Job<S>>(QUEUE);
        let (opened, is_open) = oneshot::channel();
        let run = move || {
            let mut state = match open() {
                Ok(state) => state,
                Err(error) => return drop(opened.send(Err(error))),
            };
            if opened.send(Ok(())).is_err() {
                return;
            }
            while let Some(job) = queue.blocking_recv() {
                job(&mut state);
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(512 * 1024);
        thread.spawn(run).map_err(Error::io("start a network thread"))?;
        is_open.await.map_err(|_| Error::Stopped)??;
        Ok(Self { jobs })
    }

    /// Does `work` on the thread. It is done to its end even if the caller does not wait for it.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut S) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, result) = oneshot::channel();
        let job: Job<S> = Box::new(move |state| {
            // Whoever asked may have gone; the work stands.
            drop(done.send(work(state)));
        });
        self.jobs.send(job).await.map_err(|_| Error::Stopped)?;
        result.await.map_err(|_| Error::Stopped)?
    }
}
