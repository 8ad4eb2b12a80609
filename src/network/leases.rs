//! Which sandbox has which address, one small file each, so that a restart knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Cidr, Error, HostPort};

/// The network's own address, and the gateway.
const RESERVED: u32 = 2;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Lease {
    pub sandbox_id: String,
    pub address: Ipv4Addr,
    pub host_ports: Vec<HostPort>,
}

/// The leases of this node. Nothing is synced to the disk: a lease outlives this process, but no reboot
/// (its sandbox does not either).
#[derive(Debug)]
pub(crate) struct Leases {
    directory: PathBuf,
    cidr: Cidr,
    by_sandbox: BTreeMap<String, Lease>,
    taken: BTreeSet<Ipv4Addr>,
    /// Where the search for a free address goes on, so that one is used again as late as possible.
    next: u32,
}

impl Leases {
    /// Reads what is there. A file that is no lease (a crash's leftover) is removed.
    pub(crate) fn open(data_directory: &Path, cidr: Cidr) -> Result<Self, Error> {
        let directory = data_directory.join("leases");
        fs::create_dir_all(&directory).map_err(Error::io(format!("make the directory {}", directory.display())))?;
        let mut leases = Self { directory, cidr, by_sandbox: BTreeMap::new(), taken: BTreeSet::new(), next: RESERVED };
        let read_error = || Error::io(format!("read the address leases in {}", leases.directory.display()));
        let mut newest = None;
        for entry in fs::read_dir(&leases.directory).map_err(read_error())? {
            let entry = entry.map_err(read_error())?;
            match read(&entry.path()) {
                Ok(lease) if cidr.contains(lease.address) && leases.taken.insert(lease.address) => {
                    let written = entry.metadata().and_then(|meta| meta.modified()).ok();
                    newest = newest.max(Some((written, lease.address)));
                    leases.by_sandbox.insert(lease.sandbox_id.clone(), lease);
                }
                other => {
                    tracing::warn!(file = %entry.path().display(), lease = ?other, network = %cidr, "removing an unusable address lease");
                    fs::remove_file(entry.path()).map_err(read_error())?;
                }
            }
        }
        if let Some((_, address)) = newest {
            leases.next = cidr.index_of(address) + 1;
        }
        Ok(leases)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.by_sandbox.values()
    }

    pub(crate) fn get(&self, sandbox_id: &str) -> Option<&Lease> {
        self.by_sandbox.get(sandbox_id)
    }

    /// The sandbox's lease: the one it has, or a new one.
    pub(crate) fn take(&mut self, sandbox_id: &str, host_ports: &[HostPort]) -> Result<Lease, Error> {
        if sandbox_id.is_empty() || sandbox_id.starts_with('.') || sandbox_id.contains('/') {
            return Err(Error::Invalid(format!("{sandbox_id:?} is no sandbox id")));
        }
        self.check_host_ports(sandbox_id, host_ports)?;
        let address = match self.by_sandbox.get(sandbox_id) {
            Some(lease) if lease.host_ports == host_ports => return Ok(lease.clone()),
            Some(lease) => lease.address,
            None => self.free_address()?,
        };
        let lease = Lease { sandbox_id: sandbox_id.to_owned(), address, host_ports: host_ports.to_vec() };
        let content = serde_json::to_vec(&lease).expect("a lease is plain data");
        // Whole or not at all, but for a crash right here; what that leaves is no lease, and removed at the next start.
        fs::write(self.directory.join(sandbox_id), content)
            .map_err(Error::io(format!("write an address lease in {}", self.directory.display())))?;
        self.taken.insert(address);
        self.by_sandbox.insert(sandbox_id.to_owned(), lease.clone());
        Ok(lease)
    }

    /// One that is gone is fine.
    pub(crate) fn release(&mut self, sandbox_id: &str) -> Result<(), Error> {
        let Some(lease) = self.by_sandbox.get(sandbox_id) else { return Ok(()) };
        match fs::remove_file(self.directory.join(sandbox_id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(format!("remove an address lease in {}", self.directory.display()))(error));
            }
            _ => {}
        }
        self.taken.remove(&lease.address);
        self.by_sandbox.remove(sandbox_id);
        Ok(())
    }

    fn check_host_ports(&self, sandbox_id: &str, host_ports: &[HostPort]) -> Result<(), Error> {
        let overlap = |a: &HostPort, b: &HostPort| {
            let address = a.host_ip == b.host_ip || a.host_ip.is_unspecified() || b.host_ip.is_unspecified();
            address && a.protocol == b.protocol && a.host_port == b.host_port
        };
        for other in self.by_sandbox.values().filter(|lease| lease.sandbox_id != sandbox_id) {
            if let Some(port) = host_ports.iter().find(|a| other.host_ports.iter().any(|b| overlap(a, b))) {
                let (port, protocol) = (port.host_port, port.protocol);
                return Err(Error::Invalid(format!(
                    "host port {port}/{protocol} is in use by sandbox {}",
                    other.sandbox_id
                )));
            }
        }
        Ok(())
    }

    fn free_address(&mut self) -> Result<Ipv4Addr, Error> {
        // The last address is the network's broadcast address to others.
        let end = u32::try_from(self.cidr.size() - 1).unwrap_or(u32::MAX);
        let count = end.saturating_sub(RESERVED);
        let start = if (RESERVED..end).contains(&self.next) { self.next - RESERVED } else { 0 };
        for step in 0..count {
            let index = RESERVED + (start + step) % count;
            let address = self.cidr.nth(index).expect("the index is below the size");
            if !self.taken.contains(&address) {
                self.next = index + 1;
                return Ok(address);
            }
        }
        Err(Error::NoAddress(self.cidr.to_string()))
    }
}

fn read(path: &Path) -> io::Result<Lease> {
    let lease: Lease = serde_json::from_slice(&fs::read(path)?)?;
    match path.file_name().is_some_and(|name| name == lease.sandbox_id.as_str()) {
        true => Ok(lease),
        false => Err(io::Error::other("the lease is another sandbox's")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path) -> Leases {
        Leases::open(directory, "10.42.3.0/29".parse().expect("a network")).expect("opens")
    }

    fn last(lease: Result<Lease, Error>) -> u8 {
        lease.expect("a lease").address.octets()[3]
    }

    #[test]
    fn addresses_go_round_and_survive_a_restart() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut leases = open(directory.path());
        assert_eq!(last(leases.take("a", &[])), 2);
        assert_eq!(last(leases.take("b", &[])), 3);
        assert_eq!(last(leases.take("a", &[])), 2, "the same sandbox has the same address");
        leases.release("a").expect("released");
        leases.release("a").expect("idempotent");
        assert_eq!(last(leases.take("c", &[])), 4, "not the one that was just freed");

        // What a crash between two writes leaves.
        fs::write(directory.path().join("leases/empty"), b"").expect("writable");
        fs::write(directory.path().join("leases/torn"), b"{\"sand").expect("writable");
        let mut leases = open(directory.path());
        assert!(!directory.path().join("leases/torn").exists() && !directory.path().join("leases/empty").exists());
        assert_eq!(leases.iter().map(|l| l.sandbox_id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(last(leases.take("d", &[])), 5);
        assert_eq!(last(leases.take("e", &[])), 6);
        assert_eq!(last(leases.take("f", &[])), 2, "round again");
        let full = leases.take("g", &[]).expect_err("no address is left");
        assert_eq!(full.to_string(), "no address is left in the node's pod network 10.42.3.0/29");
        leases.release("d").expect("released");
        assert_eq!(last(leases.take("g", &[])), 5);
    }

    #[test]
    fn a_sandbox_id_is_a_file_name() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for bad in ["", "../x", "a/b", ".hidden"] {
            assert!(open(directory.path()).take(bad, &[]).is_err(), "{bad:?}");
        }
    }
}
