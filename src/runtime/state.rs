//! What the agent knows, kept current by the supervisor's events.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use skiff_linux::cgroup::Cgroups;
use tokio::sync::{Notify, broadcast};
use tracing::{info, warn};

use crate::images::ImageStore;
use crate::link::{Link, start_supervisor, upgrade_supervisor};
use crate::protocol::{Call, Event, ExitRecord, Known, Layout, timestamp};
use crate::record::{self, ContainerRecord, RECORD, SandboxRecord};
use crate::{
    Container, ContainerId, ContainerState, ContainerUser, Error, ImageId, RuntimeEvent, RuntimeOptions, SandboxId,
    recover,
};

/// Finished execs whose exit nobody has asked for yet; the oldest go.
const MAX_FINISHED_EXECS: usize = 1000;
/// How often a supervisor that ends while it is asked is followed by the next.
const MAX_ATTEMPTS: u32 = 50;
const RETRY: std::time::Duration = std::time::Duration::from_millis(20);

pub struct ContainerEntry {
    pub record: ContainerRecord,
    pub pid: Option<i32>,
    pub started_ns: Option<i64>,
    pub exit: Option<ExitRecord>,
    pub user: Option<ContainerUser>,
    /// The supervisor knows it.
    pub known: bool,
}

impl ContainerEntry {
    pub fn state(&self) -> ContainerState {
        match (&self.exit, self.started_ns, self.known) {
            (Some(exit), ..) => ContainerState::Exited(exit.exit()),
            (None, Some(started), true) => ContainerState::Running { started: timestamp(started) },
            (None, None, true) => ContainerState::Created,
            (None, _, false) => ContainerState::Unknown,
        }
    }

    pub fn container(&self) -> Container {
        let config = &self.record.config;
        Container {
            id: ContainerId(self.record.id.clone()),
            sandbox: SandboxId(self.record.sandbox.clone()),
            name: config.name.clone(),
            attempt: config.attempt,
            image: ImageId(config.image.0.clone()),
            image_ref: self.record.image_ref.clone(),
            state: self.state(),
            created: timestamp(self.record.created_ns),
            pid: self.pid.filter(|_| self.exit.is_none()),
            log_path: self.record.log_path.clone(),
            user: self.user.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }
    }
}

#[derive(Default)]
pub struct ExecEntry {
    pub exit: Option<(i32, bool)>,
    /// Our handle on its terminal, for its size.
    pub terminal: Option<OwnedFd>,
}

#[derive(Default)]
pub struct Tables {
    pub sandboxes: HashMap<String, SandboxRecord>,
    pub containers: HashMap<String, ContainerEntry>,
    pub execs: HashMap<String, ExecEntry>,
}

pub struct Inner {
    pub options: RuntimeOptions,
    pub layout: Layout,
    pub cgroups: Cgroups,
    pub images: ImageStore,
    pub events: broadcast::Sender<RuntimeEvent>,
    /// Something in the tables has changed.
    pub changed: Notify,
    tables: Mutex<Tables>,
    link: Mutex<Option<Arc<Link>>>,
    /// A supervisor that we started, to be reaped when it ends.
    supervisor: Mutex<Option<Child>>,
    /// Whether this process looks after the node (others, like a command line, only look on).
    pub owner: Option<nix::fcntl::Flock<std::fs::File>>,
    /// The supervisor was told to end: no other one is started.
    pub ended: AtomicBool,
}

impl Inner {
    pub fn new(
        options: RuntimeOptions,
        layout: Layout,
        cgroups: Cgroups,
        images: ImageStore,
        owner: Option<nix::fcntl::Flock<std::fs::File>>,
    ) -> Self {
        Self {
            options,
            layout,
            cgroups,
            images,
            events: broadcast::channel(1024).0,
            changed: Notify::new(),
            tables: Mutex::default(),
            link: Mutex::new(None),
            supervisor: Mutex::new(None),
            owner,
            ended: AtomicBool::new(false),
        }
    }

    pub fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().expect("no panic while it is held")
    }

    pub fn link(&self) -> Result<Arc<Link>, Error> {
        let link = self.link.lock().expect("no panic while it is held").clone();
        link.ok_or_else(|| Error::Supervisor(std::io::ErrorKind::NotConnected.into()))
    }

    /// Connects, or starts a supervisor; brings tables and host in line with what it knows. Blocking.
    pub fn connect(&self) -> Result<Arc<Link>, Error> {
        let mut attempts = 0;
        let (link, known, mut events) = loop {
            let link = self.reach()?;
            let mut events = Vec::new();
            match link.call_alone("list containers", Call::List, &mut events) {
                Ok(known) => break (Arc::new(link), known, events),
                // One that is about to end still takes connections.
                Err(Error::Supervisor(error)) if attempts < MAX_ATTEMPTS => {
                    warn!(%error, "the supervisor ended while it was asked");
                    attempts += 1;
                    std::thread::sleep(RETRY);
                }
                Err(error) => return Err(error),
            }
        };
        recover::recover(self, &link, known, &mut events)?;
        for event in events {
            self.apply(event);
        }
        *self.link.lock().expect("no panic while it is held") = Some(link.clone());
        Ok(link)
    }

    fn reach(&self) -> Result<Link, Error> {
        if let Ok(link) = Link::connect(&self.layout) {
            if self.owner.is_some()
                && let Err(error) = upgrade_supervisor(&self.layout)
            {
                info!(error = %skiff_base::chain(&error), "the supervisor stays of the build that it is of, for now");
            }
            return Ok(link);
        }
        let mut supervisor = self.supervisor.lock().expect("no panic while it is held");
        if let Some(old) = &mut *supervisor {
            // Reaps it if it has ended.
            let _ = old.try_wait();
        }
        let (child, link) = start_supervisor(&self.layout, &self.options.cgroup_root)?;
        info!(pid = child.id(), "started the supervisor");
        *supervisor = Some(child);
        // The execs of an earlier one are over.
        for exec in self.tables().execs.values_mut() {
            exec.exit.get_or_insert((255, false));
        }
        Ok(link)
    }

    /// Follows the link until nobody holds `inner` any more; connects again when it is lost.
    pub fn follow(inner: &Weak<Inner>, mut link: Arc<Link>) {
        loop {
            match link.receive() {
                Ok(Some(event)) => match inner.upgrade() {
                    Some(inner) => inner.apply(event),
                    None => return,
                },
                Ok(None) => {}
                Err(error) => {
                    let Some(strong) = inner.upgrade().filter(|inner| !inner.ended.load(Ordering::Relaxed)) else {
                        return;
                    };
                    *strong.link.lock().expect("no panic while it is held") = None;
                    warn!(%error, "the supervisor is gone");
                    drop(strong);
                    let mut backoff = skiff_base::Backoff::new(
                        std::time::Duration::from_millis(10),
                        std::time::Duration::from_secs(10),
                    );
                    link = loop {
                        let Some(strong) = inner.upgrade() else { return };
                        match strong.connect() {
                            Ok(link) => {
                                strong.changed.notify_waiters();
                                // Nobody may be listening.
                                let _ = strong.events.send(RuntimeEvent::Resync);
                                break link;
                            }
                            Err(error) => {
                                warn!(error = %skiff_base::chain(&error), "the supervisor can't be reached");
                            }
                        }
                        drop(strong);
                        std::thread::sleep(backoff.next_wait());
                    };
                }
            }
        }
    }

    fn apply(&self, event: Event) {
        let mut tables = self.tables();
        let told = match event {
            Event::Started { id, at_ns } => tables.containers.get_mut(&id).map(|entry| {
                entry.started_ns = Some(at_ns);
                RuntimeEvent::ContainerStarted(ContainerId(id))
            }),
            Event::Exited { id, exit } => tables.containers.get_mut(&id).map(|entry| {
                entry.exit = Some(exit.clone());
                RuntimeEvent::ContainerExited(ContainerId(id), exit.exit())
            }),
            Event::ExecExited { id, code, timed_out } => {
                if let Some(entry) = tables.execs.get_mut(&id) {
                    entry.exit = Some((code, timed_out));
                    entry.terminal = None;
                }
                let finished: Vec<String> =
                    tables.execs.iter().filter(|(_, exec)| exec.exit.is_some()).map(|(id, _)| id.clone()).collect();
                if finished.len() > MAX_FINISHED_EXECS {
                    for old in finished.iter().filter(|old| **old != id) {
                        tables.execs.remove(old);
                    }
                }
                None
            }
            Event::SandboxEnded { id } => tables.sandboxes.get_mut(&id).map(|record| {
                record.stopped = true;
                if let Err(error) = record::write(&self.layout.sandbox_data(&id).join(RECORD), record) {
                    // It is found out once more by the next start.
                    warn!(sandbox = %id, %error, "the end of a sandbox could not be recorded");
                }
                RuntimeEvent::SandboxEnded(SandboxId(id))
            }),
        };
        drop(tables);
        self.changed.notify_waiters();
        if let Some(told) = told {
            // Nobody may be listening.
            let _ = self.events.send(told);
        }
    }

    /// Takes over what the supervisor says of a container.
    pub fn merge(entry: &mut ContainerEntry, known: &Known) {
        entry.known = true;
        entry.pid = known.pid;
        entry.started_ns = known.started_ns.or(entry.started_ns);
        entry.exit = known.exit.clone().or(entry.exit.take());
        entry.user = known.user.clone().or(entry.user.take());
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(link) = &*self.link.lock().expect("no panic while it is held") {
            // The thread that follows it ends.
            link.close();
        }
    }
}
