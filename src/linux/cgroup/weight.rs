//! Shares of the CPU's time: what a group has beside others, where all want more than there is.

use std::io;
use std::sync::{Mutex, PoisonError};

use super::{Cgroups, read, subdirectories, write};

/// What every group has at least, and at most.
const V1: (&str, u64, u64) = ("cpu.shares", 2, 262_144);
const V2: (&str, u64, u64) = ("cpu.weight", 1, 10_000);

/// Shares of v1 (usual 1024) as a weight of v2 (usual 100), by the curve that runc and crun agreed on: it meets both
/// ends and the usual value.
pub(super) fn by_curve(shares: u64) -> u64 {
    match shares {
        0..=2 => V2.1,
        262_144.. => V2.2,
        shares => {
            let log = (shares as f64).log2();
            10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

/// The same in proportion, as upstream's kubelet counts for its own groups (KEP-2254): a sum stays the sum.
pub(super) fn in_proportion(shares: u64) -> u64 {
    (shares.clamp(V1.1, V1.2) - V1.1) * (V2.2 - V2.1) / (V1.2 - V1.1) + V2.1
}

/// Of several together. Those that have the least do not count: however many, they are the last to get something.
fn together(each: impl IntoIterator<Item = u64>, (_, least, most): (&str, u64, u64)) -> u64 {
    let more: u64 = each.into_iter().map(|value| value.saturating_sub(least)).sum();
    (least + more).min(most)
}

impl Cgroups {
    /// Gives a group as much as the groups right below it have together; one that is not there has nothing.
    pub fn weigh_by_children(&self, path: &str) -> io::Result<()> {
        match self.weigh(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn weigh(&self, path: &str) -> io::Result<()> {
        // Between the look and the writing no other may write what it saw before.
        static WEIGHING: Mutex<()> = Mutex::new(());
        let _alone = WEIGHING.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = if self.is_v2() { V2 } else { V1 };
        let Some(directory) = self.directory("cpu", path) else { return Ok(()) };
        let children = subdirectories(&directory)?;
        // One may go meanwhile.
        let each = children.iter().filter_map(|child| read(&child.join(kind.0)).ok()?.trim().parse().ok());
        write(&directory.join(kind.0), &together(each, kind).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights() {
        // Shares, by the curve, in proportion.
        let table = [(0, 1, 1), (2, 1, 1), (51, 11, 2), (102, 17, 4), (1024, 100, 39), (262_144, 10_000, 10_000)];
        for (shares, curve, proportion) in table {
            assert_eq!((by_curve(shares), in_proportion(shares)), (curve, proportion), "{shares}");
        }
        assert_eq!(in_proportion(1_000_000), 10_000);
    }

    #[test]
    fn sums() {
        for (each, expect) in
            [(vec![], 2), (vec![2, 2, 2], 2), (vec![2, 102, 1024], 1124), (vec![262_144, 1024], 262_144)]
        {
            assert_eq!(together(each.clone(), V1), expect, "{each:?}");
        }
        assert_eq!(together([1, 4, 39], V2), 42);
    }
}
