//! The other end of a connection: whether it is still there.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};

/// Gives a peer that vanished without a word up after about two minutes, also where nothing is sent to it (an idle
/// port-forward).
pub fn notice_dead_peers(socket: &impl AsFd) -> io::Result<()> {
    const IDLE_S: u32 = 60;
    const INTERVAL_S: u32 = 15;
    const PROBES: u32 = 4;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &IDLE_S)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &INTERVAL_S)?;
    Ok(setsockopt(socket, sockopt::TcpKeepCount, &PROBES)?)
}
