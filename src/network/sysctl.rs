use std::fs;

use crate::Error;

/// Many small connections of pods and services; upstream's proxy reckons with this per core.
const CONNECTIONS_PER_CORE: usize = 32 * 1024;
const CONNECTIONS_AT_LEAST: usize = 128 * 1024;

/// Makes the host forward packets, in the calling thread's network namespace.
pub(crate) fn ensure_forwarding() -> Result<(), Error> {
    write("/proc/sys/net/ipv4/ip_forward", "1")
}

/// Makes the host track enough connections. It does so at all only once a rule asks for it.
pub(crate) fn ensure_connections() {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let wanted = (cores * CONNECTIONS_PER_CORE).max(CONNECTIONS_AT_LEAST);
    let limit = "/proc/sys/net/netfilter/nf_conntrack_max";
    let current = fs::read_to_string(limit).ok().and_then(|text| text.trim().parse::<usize>().ok());
    if current.is_some_and(|current| current < wanted)
        && let Err(error) = fs::write(limit, wanted.to_string())
    {
        // Only the host's own namespace may; inside another one the host's limit holds.
        tracing::debug!(limit, %error, "leaving the number of tracked connections as it is");
    }
}

fn write(path: &str, value: &str) -> Result<(), Error> {
    if fs::read_to_string(path).is_ok_and(|text| text.trim() == value) {
        return Ok(());
    }
    fs::write(path, value).map_err(Error::io(format!("write {value} to {path}")))
}
