//! What the machine is.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skiff_api::quantity;

use crate::userns;

#[derive(Debug, Clone, Default)]
pub(crate) struct MachineFacts {
    pub(crate) cpus: i64,
    pub(crate) memory_bytes: i64,
    pub(crate) disk_bytes: i64,
    /// How many there may be.
    pub(crate) processes: i64,
    pub(crate) user_namespaces: bool,
    /// Those set aside, by the size of a page.
    pub(crate) huge_pages: BTreeMap<u64, u64>,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) boot_id: String,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
}

impl MachineFacts {
    /// Reads them; what can't be read stays empty.
    pub(crate) fn read(root_directory: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let meminfo = text("/proc/meminfo");
        let memory_kib: i64 = meminfo
            .lines()
            .find_map(|l| l.strip_prefix("MemTotal:"))
            .and_then(|l| l.trim().strip_suffix(" kB"))
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        let release = text("/etc/os-release");
        let os_image = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
        let cpus = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).ok().flatten().unwrap_or(1);
        let disk = nix::sys::statvfs::statvfs(root_directory).ok();
        let disk_bytes = disk.map_or(0, |d| (d.blocks() as i64).saturating_mul(d.fragment_size() as i64));
        Self {
            cpus,
            memory_bytes: memory_kib * 1024,
            disk_bytes,
            processes: processes(Path::new("/proc")).and_then(|n| i64::try_from(n).ok()).unwrap_or(i64::MAX),
            user_namespaces: userns::is_supported(),
            huge_pages: skiff_linux::cgroup::huge_pages(),
            machine_id: text("/etc/machine-id"),
            system_uuid: text("/sys/class/dmi/id/product_uuid"),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            kernel: text("/proc/sys/kernel/osrelease"),
            os_image: os_image.trim_matches('"').to_owned(),
        }
    }

    pub(crate) fn capacity(&self, max_pods: u32) -> BTreeMap<String, Quantity> {
        let own = ["cpu", "memory", "ephemeral-storage"].into_iter();
        let mut capacity: BTreeMap<String, Quantity> = own
            .filter_map(|name| Some((name.to_owned(), Quantity(self.amount(name)?.to_string()))))
            .chain([("pods".to_owned(), Quantity(max_pods.to_string()))])
            .collect();
        let huge =
            |(size, count): (&u64, &u64)| (format!("hugepages-{}", binary(*size)), Quantity(binary(size * count)));
        capacity.extend(self.huge_pages.iter().map(huge));
        capacity
    }

    /// One of the machine's own resources.
    pub(crate) fn amount(&self, name: &str) -> Option<quantity::Quantity> {
        let (amount, format) = match name {
            "cpu" => (self.cpus, quantity::Format::DecimalSi),
            "memory" => (self.memory_bytes, quantity::Format::BinarySi),
            "ephemeral-storage" => (self.disk_bytes, quantity::Format::BinarySi),
            "pid" => (self.processes, quantity::Format::DecimalSi),
            _ => return None,
        };
        Some(quantity::Quantity::from_int(amount, format))
    }
}

/// `2Mi`.
fn binary(bytes: u64) -> String {
    let (shift, unit) = [(30, "Gi"), (20, "Mi"), (10, "Ki")]
        .into_iter()
        .find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift))
        .unwrap_or((0, ""));
    format!("{}{unit}", bytes >> shift)
}

/// How many processes and threads there may be.
pub(crate) fn processes(proc: &Path) -> Option<u64> {
    let limit = |name: &str| std::fs::read_to_string(proc.join(name)).ok()?.trim().parse().ok();
    ["sys/kernel/pid_max", "sys/kernel/threads-max"].into_iter().filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_facts_are_there() {
        let facts = MachineFacts::read(Path::new("/"));
        assert!(facts.cpus >= 1 && facts.memory_bytes > 1 << 20 && facts.disk_bytes > 1 << 20, "{facts:?}");
        assert!(!facts.kernel.is_empty() && !facts.boot_id.is_empty(), "{facts:?}");
    }
}
