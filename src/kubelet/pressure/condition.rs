//! What the node lacks.

use std::collections::BTreeSet;
use std::sync::Mutex;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Condition {
    Memory,
    Disk,
    Pid,
}

impl Condition {
    pub(crate) const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Pid];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pid => "PIDPressure",
        }
    }
}

/// What the node lacks.
#[derive(Default)]
pub(crate) struct Pressure(Mutex<BTreeSet<Condition>>);

impl Pressure {
    pub(crate) fn now(&self) -> BTreeSet<Condition> {
        self.0.lock().expect("no holder of this lock panics").clone()
    }

    /// What it was.
    pub(super) fn set(&self, conditions: BTreeSet<Condition>) -> BTreeSet<Condition> {
        std::mem::replace(&mut self.0.lock().expect("no holder of this lock panics"), conditions)
    }
}
