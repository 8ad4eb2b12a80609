//! Asks systemd whether the machine goes down.

use std::io;
use std::path::Path;

use skiff_linux::bus::{Bus, SYSTEMD, Value};

/// Whether systemd is about to stop everything; not where there is no systemd, or it does not say.
pub fn machine_goes_down() -> bool {
    if !Path::new(SYSTEMD).exists() {
        return false;
    }
    match system_state() {
        Ok(state) => state == Value::Text("stopping".to_owned()),
        Err(error) => {
            tracing::warn!(%error, "systemd does not say whether the machine goes down");
            false
        }
    }
}

fn system_state() -> io::Result<Value> {
    let manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];
    Bus::connect(Path::new(SYSTEMD))?.property([manager[0], manager[1], manager[2], "SystemState"])
}
