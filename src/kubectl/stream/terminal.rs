//! The user's terminal: keys as they are typed, and its size.

use std::io::{self, IsTerminal, Read};

use bytes::Bytes;
use nix::sys::termios::{self, SetArg, Termios};
use serde_json::json;
use skiff_streaming::Outgoing;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Pieces of the input that wait to be sent.
const PIECES: usize = 4;
const READ: usize = 32 * 1024;

/// While it lives every key is a byte; then all is as before.
pub struct Raw(Termios);

impl Raw {
    /// `None`: stdin is no terminal.
    pub fn enter() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// Reads stdin on a thread of its own, which ends with the process: a read can't be taken back.
pub fn stdin() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(PIECES);
    std::thread::spawn(move || {
        let mut buffer = vec![0; READ];
        loop {
            match io::stdin().read(&mut buffer) {
                Ok(length) if length > 0 => {
                    if sender.blocking_send(Bytes::copy_from_slice(&buffer[..length])).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    });
    receiver
}

/// Columns and rows, where there is a terminal.
pub fn size() -> Option<(u16, u16)> {
    terminal_size::terminal_size().map(|(width, height)| (width.0, height.0))
}

/// Tells the terminal's size, now and whenever it changes.
pub async fn tell_sizes(tty: bool, resize: Outgoing) {
    let Some(mut changes) = tty.then(|| signal(SignalKind::window_change()).ok()).flatten() else { return };
    loop {
        if let Some((width, height)) = size() {
            let size = format!("{}\n", json!({"Width": width, "Height": height}));
            if resize.write(size.into()).await.is_err() {
                return;
            }
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}
