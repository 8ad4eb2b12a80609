//! Control groups, both worlds behind one set of verbs: pure v2, and v1 (also hybrid, where v2 has no controllers).
//!
//! A path is relative to the root of the hierarchy (`/kubepods/burstable/pod1`), the same in each hierarchy of v1.

mod weight;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

use crate::{mark, process};

/// What a group may use; `None` leaves a value as it is, -1 is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    pub cpu_shares: Option<u64>,
    /// A group of groups: their shares are counted together, and where memory runs out one of them ends, not all.
    pub holds_groups: bool,
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub memory_bytes: Option<i64>,
    pub pids: Option<i64>,
    /// The CPUs to run on, as `0-3,8`.
    pub cpus: Option<String>,
    /// Bytes by the size of their pages; pages of other sizes are not given at all.
    pub huge_pages: Option<BTreeMap<u64, i64>>,
}

/// What a group has used, and uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    /// Without the page cache that could go at once.
    pub memory_working_set_bytes: u64,
    pub memory_rss_bytes: u64,
    /// The page cache, all of it.
    pub memory_cache_bytes: u64,
    pub pids: u64,
    /// Periods in which it could run, in which its quota was used up, and how long it waited then.
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
    pub oom_kills: u64,
}

/// The hierarchies of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroups {
    /// Mount point of each controller; some share one.
    V1 {
        controllers: BTreeMap<String, PathBuf>,
    },
    V2 {
        mount: PathBuf,
    },
}

const V1_CONTROLLERS: [&str; 9] =
    ["memory", "cpu", "cpuacct", "pids", "devices", "freezer", "blkio", "cpuset", "hugetlb"];

/// Turned on for the children of each group above ours.
const V2_CONTROLLERS: [&str; 6] = ["cpu", "memory", "pids", "cpuset", "io", "hugetlb"];

/// Far below the limit of open files.
const MAX_PIDFDS: usize = 256;

fn at(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    // Not `fs::write`, which would create: that is refused as a matter of rights, not as a file that is not there.
    let mut file = fs::OpenOptions::new().write(true).open(path).map_err(at(path))?;
    io::Write::write_all(&mut file, value.as_bytes()).map_err(at(path))
}

fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map_err(at(path))
}

impl Cgroups {
    /// Reads the table of mounts.
    pub fn detect() -> io::Result<Self> {
        Self::from_mountinfo(&read(Path::new("/proc/self/mountinfo"))?)
            .ok_or_else(|| io::Error::other("no cgroup file system is mounted; mount cgroup2 on /sys/fs/cgroup"))
    }

    fn from_mountinfo(table: &str) -> Option<Self> {
        let mut controllers = BTreeMap::new();
        let mut unified = None;
        for line in table.lines() {
            let (left, right) = line.split_once(" - ")?;
            let mount = PathBuf::from(left.split(' ').nth(4)?);
            let mut right = right.split(' ');
            match (right.next()?, right.nth(1)?) {
                ("cgroup", options) => {
                    for controller in options.split(',').filter(|option| V1_CONTROLLERS.contains(option)) {
                        controllers.entry(controller.to_owned()).or_insert_with(|| mount.clone());
                    }
                }
                ("cgroup2", _) => {
                    unified.get_or_insert(mount);
                }
                _ => {}
            }
        }
        if controllers.is_empty() { unified.map(|mount| Self::V2 { mount }) } else { Some(Self::V1 { controllers }) }
    }

    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2 { .. })
    }

    /// The directory of the group in each hierarchy.
    pub fn directories(&self, path: &str) -> Vec<PathBuf> {
        let relative = path.trim_start_matches('/');
        match self {
            Self::V2 { mount } => vec![mount.join(relative)],
            Self::V1 { controllers } => {
                let mut mounts: Vec<&PathBuf> = controllers.values().collect();
                mounts.sort();
                mounts.dedup();
                mounts.into_iter().map(|mount| mount.join(relative)).collect()
            }
        }
    }

    /// The directory of the group where that controller is, if it is anywhere.
    pub fn directory(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let relative = path.trim_start_matches('/');
        match self {
            Self::V2 { mount } => Some(mount.join(relative)),
            Self::V1 { controllers } => controllers.get(controller).map(|mount| mount.join(relative)),
        }
    }

    /// Names under which the hierarchies are found below `/sys/fs/cgroup`, with their directory of the group.
    pub fn named_directories(&self, path: &str) -> Vec<(String, PathBuf)> {
        let relative = path.trim_start_matches('/');
        match self {
            Self::V2 { mount } => vec![(String::new(), mount.join(relative))],
            Self::V1 { controllers } => {
                let mounts: std::collections::BTreeSet<&PathBuf> = controllers.values().collect();
                let named = mounts
                    .into_iter()
                    .filter_map(|mount| Some((mount.file_name()?.to_str()?.to_owned(), mount.join(relative))));
                named.collect()
            }
        }
    }

    /// Makes the group and those above it.
    pub fn ensure(&self, path: &str) -> io::Result<()> {
        match self {
            Self::V2 { mount } => ensure_v2(mount, path),
            Self::V1 { controllers } => {
                for directory in self.directories(path) {
                    fs::create_dir_all(&directory).map_err(at(&directory))?;
                }
                if let Some(mount) = controllers.get("cpuset") {
                    inherit_cpuset(mount, path)?;
                }
                Ok(())
            }
        }
    }

    /// Makes the group and those above it, and marks it as ours as far as the kernel can.
    pub fn ensure_ours(&self, path: &str) -> io::Result<()> {
        self.ensure(path)?;
        for directory in self.directories(path) {
            // Without a mark it is no less a group; only after a crash nobody would know whose.
            let _ = mark::set(&directory);
        }
        Ok(())
    }

    /// Whether the group was made by [`Cgroups::ensure_ours`]; others have groups of the same names.
    pub fn is_ours(&self, path: &str) -> bool {
        self.directories(path).iter().any(|directory| mark::is_set(directory))
    }

    /// Takes back what [`Cgroups::ensure`] had to do to the root of a v2 hierarchy that is no real root (in a container):
    /// its processes go back into it. Only while no group of ours is left, since a group with processes of its own
    /// controls none below it.
    pub fn restore_root(&self) -> io::Result<()> {
        let Self::V2 { mount } = self else { return Ok(()) };
        let leaf = mount.join(LEAF);
        if !mark::is_set(&leaf) {
            return Ok(());
        }
        let control = mount.join("cgroup.subtree_control");
        let enabled: Vec<String> = read(&control)?.split_whitespace().map(|name| format!("-{name}")).collect();
        if !enabled.is_empty() {
            write(&control, &enabled.join(" "))?;
        }
        move_all(&leaf, mount)?;
        fs::remove_dir(&leaf).map_err(at(&leaf))
    }

    /// Removes the group where it is empty in each hierarchy: neither processes nor groups are in it.
    pub fn remove_empty(&self, path: &str) {
        for directory in self.directories(path) {
            // One that is not empty is somebody's.
            let _ = fs::remove_dir(directory);
        }
    }

    /// Names of the groups in a group.
    pub fn children(&self, path: &str) -> Vec<String> {
        let of = |directory: &PathBuf| subdirectories(directory).unwrap_or_default();
        let all = self.directories(path).iter().flat_map(of).collect::<Vec<_>>();
        let names = all.iter().filter_map(|child| Some(child.file_name()?.to_str()?.to_owned()));
        names.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }

    /// Moves a process (0: the caller) into the group.
    pub fn add(&self, path: &str, pid: Pid) -> io::Result<()> {
        for directory in self.directories(path) {
            let file = directory.join("cgroup.procs");
            match write(&file, &pid.as_raw().to_string()) {
                // A hierarchy that came later, or whose group is gone: the others hold the process.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_v2() => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Moves a process into the group, or where processes may not be in it (v2: what runs there has made groups below),
    /// into the one where `other` is.
    pub fn add_beside(&self, path: &str, other: Pid, pid: Pid) -> io::Result<()> {
        match (self.add(path, pid), self) {
            (Err(error), Self::V2 { .. }) if error.kind() == io::ErrorKind::ResourceBusy => {
                let text = read(Path::new(&format!("/proc/{other}/cgroup")))?;
                let group = text.lines().find_map(|line| line.strip_prefix("0::")).ok_or(error)?;
                self.add(group, pid)
            }
            (result, _) => result,
        }
    }

    /// Sets limits. Gives back what the kernel has no controller for.
    pub fn limit(&self, path: &str, limits: &Limits) -> io::Result<Vec<&'static str>> {
        let mut missing = Vec::new();
        let files = match self {
            Self::V1 { .. } => plan_v1(limits),
            Self::V2 { .. } => plan_v2(limits),
        };
        for Setting { controller, file, value, optional } in files {
            let Some(directory) = self.directory(controller, path) else {
                if !optional {
                    missing.push(controller);
                }
                continue;
            };
            let file = directory.join(&*file);
            match write(&file, &value) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if !optional {
                        missing.push(controller);
                    }
                }
                Err(_) if optional => {}
                // v1 wants memory <= memory+swap at every moment: when rising, the sum goes first.
                Err(error) if file.ends_with("memory.limit_in_bytes") => {
                    write(&directory.join("memory.memsw.limit_in_bytes"), &value).map_err(|_| error)?;
                    write(&file, &value)?;
                }
                Err(error) => return Err(error),
            }
        }
        missing.dedup();
        Ok(missing)
    }

    /// The processes of the group and of those below it.
    pub fn processes(&self, path: &str) -> io::Result<Vec<Pid>> {
        let preferred = ["pids", "memory", "devices", "cpu"];
        let Some(directory) = preferred.iter().find_map(|name| self.directory(name, path)) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        collect_processes(&directory, &mut found)?;
        Ok(found)
    }

    /// Sends SIGKILL to every process of the group and of those below it; how many there were (0 also: no group).
    pub fn kill(&self, path: &str) -> io::Result<usize> {
        let processes = self.processes(path)?;
        if processes.is_empty() {
            return Ok(0);
        }
        if let Self::V2 { mount } = self {
            let file = mount.join(path.trim_start_matches('/')).join("cgroup.kill");
            if write(&file, "1").is_ok() {
                return Ok(processes.len());
            }
        }
        kill_listed(&processes, || self.processes(path))?;
        Ok(processes.len())
    }

    /// Removes the group and those below it; fails while there are processes.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        if path.trim_matches('/').is_empty() {
            return Err(io::Error::other("the root group can't be removed"));
        }
        let mut result = Ok(());
        for directory in self.directories(path) {
            if let Err(error) = remove_tree(&directory) {
                result = Err(error);
            }
        }
        result
    }

    /// How many processes of the group the kernel has killed because memory ran out.
    pub fn oom_kills(&self, path: &str) -> u64 {
        let file = if self.is_v2() { "memory.events" } else { "memory.oom_control" };
        let Some(directory) = self.directory("memory", path) else { return 0 };
        read(&directory.join(file)).ok().and_then(|text| field(&text, "oom_kill")).unwrap_or(0)
    }

    /// What the group has used; 0 where there is no controller. Fails if there is no group.
    pub fn usage(&self, path: &str) -> io::Result<Usage> {
        if !self.directories(path).iter().any(|directory| directory.exists()) {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no cgroup {path}")));
        }
        let text = |controller: &str, file: &str| -> io::Result<String> {
            let Some(directory) = self.directory(controller, path) else { return Ok(String::new()) };
            match read(&directory.join(file)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
                result => result,
            }
        };
        let number = |controller: &str, file: &str| -> io::Result<u64> {
            Ok(text(controller, file)?.trim().parse().unwrap_or(0))
        };
        let (stat, cpu_stat) = (text("memory", "memory.stat")?, text("cpu", "cpu.stat")?);
        let cpu_field = |name: &str| field(&cpu_stat, name).unwrap_or(0);
        let (cpu_ns, memory_bytes, [inactive, rss, cache]) = if self.is_v2() {
            let cpu = cpu_field("usage_usec") * 1000;
            let memory = number("memory", "memory.current")?;
            (cpu, memory, ["inactive_file", "anon", "file"])
        } else {
            let cpu = number("cpuacct", "cpuacct.usage")?;
            let memory = number("memory", "memory.usage_in_bytes")?;
            (cpu, memory, ["total_inactive_file", "total_rss", "total_cache"])
        };
        let memory_field = |name: &str| field(&stat, name).unwrap_or(0);
        Ok(Usage {
            cpu_ns,
            memory_bytes,
            memory_working_set_bytes: memory_bytes.saturating_sub(memory_field(inactive)),
            memory_rss_bytes: memory_field(rss),
            memory_cache_bytes: memory_field(cache),
            pids: number("pids", "pids.current").unwrap_or(0),
            periods: cpu_field("nr_periods"),
            throttled_periods: cpu_field("nr_throttled"),
            throttled_ns: cpu_field("throttled_time") + cpu_field("throttled_usec") * 1000,
            oom_kills: self.oom_kills(path),
        })
    }

    /// Allows the group the devices of the list and no others. On v1 through files, on v2 by a program that stays
    /// with the group.
    pub fn limit_devices(&self, path: &str, rules: &[DeviceRule]) -> io::Result<()> {
        match self {
            Self::V2 { mount } => {
                let group = fs::File::open(mount.join(path.trim_start_matches('/')))?;
                crate::device_filter::attach(std::os::fd::AsFd::as_fd(&group), rules)
            }
            Self::V1 { .. } => {
                let Some(directory) = self.directory("devices", path) else {
                    return Err(io::Error::other("the cgroup controller `devices` is not mounted"));
                };
                write(&directory.join("devices.deny"), "a")?;
                rules.iter().try_for_each(|rule| write(&directory.join("devices.allow"), &rule.to_string()))
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceType {
    Block,
    Character,
}

/// A device that may be used; `None` means any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    pub kind: DeviceType,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub read: bool,
    pub write: bool,
    pub make: bool,
}

impl std::fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        let kind = if self.kind == DeviceType::Block { 'b' } else { 'c' };
        write!(f, "{kind} {}:{} ", number(self.major), number(self.minor))?;
        for (set, letter) in [(self.read, "r"), (self.write, "w"), (self.make, "m")] {
            if set {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// The sizes of huge pages that the machine knows, and how many of each it has set aside.
pub fn huge_pages() -> BTreeMap<u64, u64> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return BTreeMap::new() };
    let of = |name: &str| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok();
    let one = |entry: fs::DirEntry| {
        let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
        Some((of(entry.file_name().to_str()?)? * 1024, count))
    };
    entries.filter_map(|entry| one(entry.ok()?)).collect()
}

/// As the files of the groups name it: `2MB`.
fn page_size(bytes: u64) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 30) => format!("{}GB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}MB", bytes >> 20),
        _ => format!("{}KB", bytes >> 10),
    }
}

/// For each size of the machine: what is given, else nothing. Reservations count where the kernel counts them.
fn plan_huge_pages(limits: &Limits, suffix: &str, sizes: impl IntoIterator<Item = u64>) -> Vec<Setting> {
    let Some(given) = &limits.huge_pages else { return Vec::new() };
    let files = sizes.into_iter().flat_map(|size| {
        let value = given.get(&size).copied().unwrap_or(0).to_string();
        let name = page_size(size);
        [format!("hugetlb.{name}.{suffix}"), format!("hugetlb.{name}.rsvd.{suffix}")].map(|file| Setting {
            controller: "hugetlb",
            file: file.into(),
            value: value.clone(),
            optional: true,
        })
    });
    files.collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Setting {
    controller: &'static str,
    file: Cow<'static, str>,
    value: String,
    /// Missing support is no news (swap accounting).
    optional: bool,
}

fn plan_v1(limits: &Limits) -> Vec<Setting> {
    let mut plan = Vec::new();
    let mut set = |controller, file: &'static str, value: String, optional| {
        plan.push(Setting { controller, file: file.into(), value, optional });
    };
    if let Some(shares) = limits.cpu_shares {
        set("cpu", "cpu.shares", shares.max(2).to_string(), false);
    }
    if let Some(period) = limits.cpu_period_us {
        set("cpu", "cpu.cfs_period_us", period.to_string(), false);
    }
    if let Some(quota) = limits.cpu_quota_us {
        set("cpu", "cpu.cfs_quota_us", quota.to_string(), false);
    }
    if let Some(bytes) = limits.memory_bytes {
        set("memory", "memory.limit_in_bytes", bytes.to_string(), false);
        set("memory", "memory.memsw.limit_in_bytes", bytes.to_string(), true);
    }
    if let Some(pids) = limits.pids {
        set("pids", "pids.max", if pids <= 0 { "max".to_owned() } else { pids.to_string() }, false);
    }
    if let Some(cpus) = &limits.cpus {
        set("cpuset", "cpuset.cpus", cpus.clone(), false);
    }
    plan.extend(plan_huge_pages(limits, "limit_in_bytes", huge_pages().into_keys()));
    plan
}

fn plan_v2(limits: &Limits) -> Vec<Setting> {
    let mut plan = Vec::new();
    let mut set = |controller, file: &'static str, value: String, optional| {
        plan.push(Setting { controller, file: file.into(), value, optional });
    };
    let or_max = |value: i64| if value <= 0 { "max".to_owned() } else { value.to_string() };
    if let Some(shares) = limits.cpu_shares {
        let weight = if limits.holds_groups { weight::in_proportion(shares) } else { weight::by_curve(shares) };
        set("cpu", "cpu.weight", weight.to_string(), false);
    }
    if limits.cpu_quota_us.is_some() || limits.cpu_period_us.is_some() {
        let period = limits.cpu_period_us.unwrap_or(100_000);
        set("cpu", "cpu.max", format!("{} {period}", or_max(limits.cpu_quota_us.unwrap_or(-1))), false);
    }
    if let Some(bytes) = limits.memory_bytes {
        set("memory", "memory.max", or_max(bytes), false);
        let together = if limits.holds_groups { "0" } else { "1" };
        set("memory", "memory.oom.group", together.to_owned(), true);
    }
    // Nothing of a pod goes to a disk that nobody asked for, with and without a limit.
    set("memory", "memory.swap.max", "0".to_owned(), true);
    if let Some(pids) = limits.pids {
        set("pids", "pids.max", or_max(pids), false);
    }
    if let Some(cpus) = &limits.cpus {
        set("cpuset", "cpuset.cpus", cpus.clone(), false);
    }
    plan.extend(plan_huge_pages(limits, "max", huge_pages().into_keys()));
    plan
}

fn ensure_v2(mount: &Path, path: &str) -> io::Result<()> {
    let mut directory = mount.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let control = directory.join("cgroup.subtree_control");
        let available = read(&directory.join("cgroup.controllers"))?;
        let enabled = read(&control)?;
        let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
        for name in V2_CONTROLLERS.iter().filter(|name| has(&available, name) && !has(&enabled, name)) {
            let enabled = write(&control, &format!("+{name}"));
            // Only leaves may hold processes. In a container the root of what we see is no real root, and has ours.
            if enabled.is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy) && directory == mount {
                move_down(mount)?;
                // What still can't be had is told when a limit needs it.
                let _ = write(&control, &format!("+{name}"));
            }
        }
        directory.push(part);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(&directory)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// Where the processes of the root of a container's hierarchy go.
const LEAF: &str = "init";

/// Moves the processes of a group into a leaf below it; [`Cgroups::restore_root`] takes it back.
fn move_down(directory: &Path) -> io::Result<()> {
    let leaf = directory.join(LEAF);
    match fs::create_dir(&leaf) {
        // One that somebody else has made is not ours to remove.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => {
            made.map_err(at(&leaf))?;
            let _ = mark::set(&leaf);
        }
    }
    move_all(directory, &leaf)
}

fn move_all(from: &Path, to: &Path) -> io::Result<()> {
    for pid in read(&from.join("cgroup.procs"))?.lines() {
        // It may have ended; kernel threads stay.
        let _ = write(&to.join("cgroup.procs"), pid);
    }
    Ok(())
}

/// A new cpuset of v1 has no CPUs and takes no process: it gets those of the group above.
fn inherit_cpuset(mount: &Path, path: &str) -> io::Result<()> {
    let mut directory = mount.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let parent = directory.clone();
        directory.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if read(&directory.join(file))?.trim().is_empty() {
                write(&directory.join(file), read(&parent.join(file))?.trim())?;
            }
        }
    }
    Ok(())
}

fn subdirectories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(at(directory)(error)),
    }
}

fn collect_processes(directory: &Path, into: &mut Vec<Pid>) -> io::Result<()> {
    match read(&directory.join("cgroup.procs")) {
        Ok(text) => into.extend(text.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw)),
        // ENODEV: it was removed between opening and reading.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    subdirectories(directory)?.iter().try_for_each(|child| collect_processes(child, into))
}

/// Sends SIGKILL to those that are still in the list when it is read again: a number that somebody else reaped may be
/// another process' by now, but not while a descriptor of ours is that process.
fn kill_listed(processes: &[Pid], list: impl Fn() -> io::Result<Vec<Pid>>) -> io::Result<()> {
    for some in processes.chunks(MAX_PIDFDS) {
        // Those that are gone have none.
        let open: Vec<_> = some.iter().filter_map(|pid| Some((*pid, process::pidfd_open(*pid).ok()?))).collect();
        let listed = list()?;
        for (_, pidfd) in open.iter().filter(|(pid, _)| listed.contains(pid)) {
            let _ = process::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
        }
    }
    Ok(())
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    match fs::remove_dir(directory) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    subdirectories(directory)?.iter().try_for_each(|child| remove_tree(child))?;
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(directory)(error)),
        _ => Ok(()),
    }
}

/// The number after `name ` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_of_other_sizes_are_not_given() {
        let plan = |given| {
            let limits = Limits { huge_pages: given, ..Limits::default() };
            let plan = plan_huge_pages(&limits, "max", [64 << 10, 2 << 20, 1 << 30]);
            plan.into_iter().filter(|s| !s.file.contains("rsvd")).map(|s| format!("{}={}", s.file, s.value)).collect()
        };
        let none: Vec<String> = plan(None);
        assert!(none.is_empty());
        let expected = ["hugetlb.64KB.max=0", "hugetlb.2MB.max=4194304", "hugetlb.1GB.max=0"];
        let found: Vec<String> = plan(Some(BTreeMap::from([(2 << 20, 4 << 20)])));
        assert_eq!(found, expected);
    }

    #[test]
    fn both_worlds_are_told_apart() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(Cgroups::from_mountinfo(v2), Some(Cgroups::V2 { mount: "/sys/fs/cgroup".into() }));
        let hybrid = "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = Cgroups::from_mountinfo(hybrid).expect("v1");
        assert_eq!(found.directories("/a"), [PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/a")]);
        assert_eq!(found.directory("memory", "/a"), None);
        assert_eq!(Cgroups::from_mountinfo("1 0 0:1 / / rw - ext4 /dev/vda rw\n"), None);
    }

    #[test]
    fn limits_of_v2() {
        let limits = Limits {
            cpu_shares: Some(1024),
            holds_groups: false,
            cpu_quota_us: Some(50_000),
            cpu_period_us: None,
            memory_bytes: Some(1 << 20),
            pids: Some(-1),
            cpus: Some("0-3".to_owned()),
            huge_pages: None,
        };
        let plan: Vec<(Cow<'_, str>, String)> = plan_v2(&limits).into_iter().map(|s| (s.file, s.value)).collect();
        let expect = [
            ("cpu.weight", "100"),
            ("cpu.max", "50000 100000"),
            ("memory.max", "1048576"),
            ("memory.oom.group", "1"),
            ("memory.swap.max", "0"),
            ("pids.max", "max"),
            ("cpuset.cpus", "0-3"),
        ];
        assert_eq!(plan, expect.map(|(file, value)| (Cow::from(file), value.to_owned())));
        let plan = plan_v2(&Limits { holds_groups: true, ..limits });
        let value = |name: &str| plan.iter().find(|s| s.file == name).map(|s| s.value.as_str());
        assert_eq!((value("memory.oom.group"), value("cpu.weight")), (Some("0"), Some("39")));
        for memory_bytes in [None, Some(-1)] {
            let plan = plan_v2(&Limits { memory_bytes, ..Limits::default() });
            assert!(plan.iter().any(|s| s.file == "memory.swap.max" && s.value == "0"), "{plan:?}");
        }
    }

    /// The process is one that got the number of another, which was in the group.
    #[test]
    fn who_has_left_the_group_is_not_killed() {
        let mut sleeper = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
        let pid = Pid::from_raw(sleeper.id() as i32);
        kill_listed(&[pid], || Ok(Vec::new())).expect("nobody");
        // The first signal that ends it is the one that counts.
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("sent");
        let status = sleeper.wait().expect("reaped");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGTERM));
        let mut sleeper = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
        let pid = Pid::from_raw(sleeper.id() as i32);
        kill_listed(&[pid], || Ok(vec![pid])).expect("killed");
        sleeper.wait().expect("reaped");
    }

    #[test]
    fn what_was_moved_down_comes_back() {
        let directory = tempfile::tempdir().expect("a directory");
        nix::mount::mount(Some("none"), directory.path(), Some("cgroup2"), nix::mount::MsFlags::empty(), None::<&str>)
            .expect("cgroup2 (needs root)");
        let root = directory.path().join(format!("skiff-root-{}", std::process::id()));
        fs::create_dir(&root).expect("a group");
        let mut sleeper = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
        let pid = sleeper.id().to_string();
        write(&root.join("cgroup.procs"), &pid).expect("moved");
        let cgroups = Cgroups::V2 { mount: root.clone() };
        let within = |group: &Path| read(&group.join("cgroup.procs")).expect("processes").trim() == pid;
        cgroups.restore_root().expect("nothing was moved");
        move_down(&root).expect("moved down");
        assert!(within(&root.join(LEAF)) && !within(&root));
        cgroups.restore_root().expect("moved back");
        assert!(within(&root) && !root.join(LEAF).exists());
        // Somebody else's group of that name stays.
        fs::create_dir(root.join(LEAF)).expect("a group");
        move_down(&root).expect("moved down");
        cgroups.restore_root().expect("nothing of ours");
        assert!(within(&root.join(LEAF)));
        sleeper.kill().and_then(|()| sleeper.wait()).expect("ended");
        remove_tree(&root).expect("removed");
        nix::mount::umount(directory.path()).expect("unmounted");
    }

    #[test]
    fn a_group_lives_and_goes() {
        let cgroups = Cgroups::detect().expect("cgroups");
        let path = format!("/skiff-test-{}", std::process::id());
        let child = format!("{path}/pod/container");
        cgroups.ensure(&child).expect("made");
        let limits = Limits { memory_bytes: Some(64 << 20), pids: Some(10), ..Limits::default() };
        assert_eq!(cgroups.limit(&child, &limits).expect("limited"), Vec::<&str>::new());
        let file = if cgroups.is_v2() { "memory.max" } else { "memory.limit_in_bytes" };
        let memory = cgroups.directory("memory", &child).expect("memory");
        assert_eq!(read(&memory.join(file)).expect("limit").trim(), (64 << 20).to_string());
        let raised = Limits { memory_bytes: Some(128 << 20), ..Limits::default() };
        cgroups.limit(&child, &raised).expect("raised");
        assert_eq!(read(&memory.join(file)).expect("limit").trim(), (128 << 20).to_string());

        let mut sleeper = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
        cgroups.add(&child, Pid::from_raw(sleeper.id() as i32)).expect("moved");
        assert_eq!(cgroups.processes(&path).expect("processes"), [Pid::from_raw(sleeper.id() as i32)]);
        assert!(cgroups.usage(&child).expect("usage").pids >= 1);
        assert!(cgroups.remove(&path).is_err());
        assert_eq!(cgroups.kill(&path).expect("killed"), 1);
        sleeper.wait().expect("reaped");
        cgroups.remove(&path).expect("removed");
        assert!(!memory.exists());
        assert_eq!(cgroups.kill(&path).expect("nothing"), 0);
    }
}
