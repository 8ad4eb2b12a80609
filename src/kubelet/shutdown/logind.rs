//! logind: it waits for whoever holds one of its inhibitor locks before the machine goes down, as long as its own limit
//! lets it. See systemd's "Inhibitor Locks". Blocking.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use skiff_linux::bus::{Bus, SYSTEM, Value, Word};

const LOGIN: [&str; 3] = ["org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"];
const SYSTEMD: [&str; 3] =
    ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];
const SIGNAL: &str = "PrepareForShutdown";
/// logind reads its configuration when it comes to it.
const READS: u32 = 5;

/// Where it is found; others only in tests.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) bus: PathBuf,
    /// Where its limit is raised.
    pub(crate) override_file: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self { bus: SYSTEM.into(), override_file: "/etc/systemd/logind.conf.d/99-skiff.conf".into() }
    }
}

pub(crate) fn connect(places: &Places) -> io::Result<Bus> {
    let mut bus = Bus::connect(&places.bus)?;
    bus.hello()?;
    Ok(bus)
}

/// A lock that holds up the end of the machine while it is open.
pub(crate) fn inhibit(bus: &mut Bus) -> io::Result<OwnedFd> {
    let words = ["shutdown", "skiff", "Pods of this node end", "delay"].map(Word::Text);
    bus.call([LOGIN[0], LOGIN[1], LOGIN[2], "Inhibit"], &words)?.descriptor()
}

/// From now on [`next`] tells.
pub(crate) fn subscribe(bus: &mut Bus) -> io::Result<()> {
    bus.subscribe(LOGIN[2], SIGNAL)
}

/// Waits until the machine is about to go down, or not to after all.
pub(crate) fn next(bus: &mut Bus) -> io::Result<bool> {
    loop {
        let signal = bus.signal()?;
        if signal.member == SIGNAL {
            return Ok(signal.number()? != 0);
        }
    }
}

fn limit(bus: &mut Bus) -> io::Result<Duration> {
    match bus.property([LOGIN[0], LOGIN[1], LOGIN[2], "InhibitDelayMaxUSec"])? {
        Value::Number(us) => Ok(Duration::from_micros(us)),
        Value::Text(_) => Err(io::Error::other("InhibitDelayMaxUSec is no number")),
    }
}

/// Raises the limit where it is lower than what is needed.
pub(crate) fn ensure_limit(bus: &mut Bus, places: &Places, needed: Duration) -> io::Result<()> {
    if limit(bus)? >= needed {
        return Ok(());
    }
    if let Some(directory) = places.override_file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let text = format!(
        "# Written by skiff, for its shutdown-grace-period.\n[Login]\nInhibitDelayMaxSec={}\n",
        needed.as_secs()
    );
    skiff_base::file::replace(&places.override_file, text.as_bytes(), 0o644)?;
    let unit = [Word::Text("systemd-logind.service"), Word::Text("all"), Word::Number(libc::SIGHUP)];
    bus.call([SYSTEMD[0], SYSTEMD[1], SYSTEMD[2], "KillUnit"], &unit)?;
    let mut wait = Duration::from_millis(100);
    for _ in 0..READS {
        std::thread::sleep(wait);
        if limit(bus)? >= needed {
            return Ok(());
        }
        wait *= 2;
    }
    Err(io::Error::other(format!(
        "logind keeps its InhibitDelayMaxSec below the {} seconds that pods may take",
        needed.as_secs()
    )))
}
