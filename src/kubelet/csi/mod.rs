//! Volumes of CSI drivers that run on this node.
//!
//! `register` takes drivers that were found by their sockets and tells the cluster of them; `request` writes what they
//! are asked; `volume` stages and publishes, and takes back; `expand` lets grow. What was published is recorded beside its place
//! (`vol_data.json`, upstream's name), so that a later run finds and ends it.

mod expand;
pub(crate) mod register;
mod request;
pub(crate) mod volume;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::grpc::proto::Message;
use crate::grpc::{self, Failure};

/// As upstream: how long a driver may take for one call.
const LIMIT: Duration = Duration::from_secs(120);

/// One that can be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Driver {
    socket: PathBuf,
    /// It prepares a volume for the node before it is given to pods.
    stages: bool,
    /// It gives volumes to groups by itself.
    mount_group: bool,
    /// It tells apart whether one pod or many of a node use a volume.
    single_node_modes: bool,
    /// It has a part in making a volume larger.
    expands: bool,
}

impl Driver {
    async fn call(&self, method: &str, request: Message) -> Result<Bytes, Failure> {
        grpc::unix(&self.socket, &format!("/csi.v1.Node/{method}"), request, LIMIT).await
    }
}

/// Of CSI: major, minor, patch.
type Version = [u32; 3];

/// A driver, and how it came to be known.
struct Registered {
    driver: Arc<Driver>,
    version: Version,
    /// The socket that told of it.
    by: PathBuf,
}

/// The drivers of this node, by name.
#[derive(Default)]
pub(crate) struct Drivers {
    known: Mutex<BTreeMap<String, Registered>>,
    came: watch::Sender<()>,
    /// One at a time works on a volume: staged by one pod, it must not be taken away by another.
    turns: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// What is staged, as far as this agent has seen it; drivers take a second word of what was before.
    staged: Mutex<HashSet<String>>,
    /// What the node's status last said to be in use.
    told: Mutex<Option<Vec<String>>>,
}

/// A volume's name among all drivers'.
fn volume_key(driver: &str, handle: &str) -> String {
    format!("{driver}^{handle}")
}

/// Whether a driver may come in the place of one of the same name: only with a higher version, or by the same socket.
fn check_turn(known: &BTreeMap<String, Registered>, name: &str, version: Version, by: &Path) -> Result<(), String> {
    match known.get(name) {
        Some(other) if other.by != by && other.version >= version => Err(format!(
            "RegisterPlugin for CSI driver {name:?} failed. Another driver with the same name is already registered \
             with a higher supported version: {:?}",
            other.version.map(|part| part.to_string()).join(".")
        )),
        _ => Ok(()),
    }
}

impl Drivers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Registered>> {
        self.known.lock().expect("no holder of this lock panics")
    }

    /// Told when a driver has come.
    pub(crate) fn arrivals(&self) -> watch::Receiver<()> {
        self.came.subscribe()
    }

    fn check_turn(&self, name: &str, version: Version, by: &Path) -> Result<(), String> {
        check_turn(&self.lock(), name, version, by)
    }

    /// Others may have come while this one was asked.
    fn put(&self, name: &str, registered: Registered) -> Result<(), String> {
        let mut known = self.lock();
        check_turn(&known, name, registered.version, &registered.by)?;
        known.insert(name.to_owned(), registered);
        drop(known);
        self.came.send_replace(());
        Ok(())
    }

    /// True where it is gone by that: another socket may have told of it since.
    fn remove(&self, name: &str, by: &Path) -> bool {
        let mut known = self.lock();
        known.get(name).is_some_and(|registered| registered.by == by) && known.remove(name).is_some()
    }

    fn get(&self, name: &str) -> Result<Arc<Driver>, String> {
        let found = self.lock().get(name).map(|registered| registered.driver.clone());
        found.ok_or_else(|| format!("driver name {name} not found in the list of registered CSI drivers"))
    }

    fn is_staged(&self, driver: &str, handle: &str) -> bool {
        self.staged.lock().expect("no holder of this lock panics").contains(&volume_key(driver, handle))
    }

    fn set_staged(&self, driver: &str, handle: &str, staged: bool) {
        let (key, mut all) = (volume_key(driver, handle), self.staged.lock().expect("no holder of this lock panics"));
        if staged {
            all.insert(key);
        } else {
            all.remove(&key);
        }
    }

    fn is_told(&self, volumes: &[String]) -> bool {
        let told = self.told.lock().expect("no holder of this lock panics");
        // A node that never had one says nothing.
        told.as_deref().unwrap_or_default() == volumes && (told.is_some() || !volumes.is_empty())
    }

    fn set_told(&self, volumes: Vec<String>) {
        *self.told.lock().expect("no holder of this lock panics") = Some(volumes);
    }

    /// Waits until nobody else works on the volume.
    async fn turn(&self, driver: &str, handle: &str) -> OwnedSemaphorePermit {
        let turn = {
            let mut turns = self.turns.lock().expect("no holder of this lock panics");
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(volume_key(driver, handle)).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
        };
        turn.acquire_owned().await.expect("it is never closed")
    }
}

#[cfg(test)]
mod tests;
