//! This process as Prometheus' client libraries tell of it; from `/proc`.

use std::fs;

/// Of the times in `/proc`, per second: fixed for programs, whatever the kernel's own rate is.
const TICKS: f64 = 100.0;

/// Name, kind, what it says, value.
pub(super) type Figure = (&'static str, &'static str, &'static str, f64);

/// What can be read; blocks for a moment.
pub(super) fn figures() -> Vec<Figure> {
    let mut all = Vec::new();
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    if let Some(seconds) = cpu_seconds(&text("/proc/self/stat")) {
        let help = "Total user and system CPU time spent in seconds.";
        all.push(("process_cpu_seconds_total", "counter", help, seconds));
    }
    let status = text("/proc/self/status");
    for (field, name, help) in [
        ("VmRSS:", "process_resident_memory_bytes", "Resident memory size in bytes."),
        ("VmSize:", "process_virtual_memory_bytes", "Virtual memory size in bytes."),
    ] {
        if let Some(bytes) = kilobytes(&status, field) {
            all.push((name, "gauge", help, bytes * 1024.0));
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        all.push(("process_open_fds", "gauge", "Number of open file descriptors.", open.count() as f64));
    }
    if let Some(most) = open_files(&text("/proc/self/limits")) {
        all.push(("process_max_fds", "gauge", "Maximum number of open file descriptors.", most));
    }
    all
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name may hold anything, spaces and parentheses too.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / TICKS)
}

fn kilobytes(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

fn open_files(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says() {
        let stat = "42 (a) b) R 1 1 1 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 4 0 123 1000 200";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(kilobytes("Name:\tx\nVmRSS:\t    2048 kB\n", "VmRSS:"), Some(2048.0));
        assert_eq!(
            open_files("Limit\nMax open files            1024                 4096                 files\n"),
            Some(1024.0)
        );
        let names: Vec<&str> = figures().iter().map(|figure| figure.0).collect();
        assert_eq!(names.len(), 5, "{names:?}");
    }
}
