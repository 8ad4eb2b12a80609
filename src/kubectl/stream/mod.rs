//! Commands that hold a connection: exec, attach, cp, port-forward.
//!
//! Bottom-up: `terminal` is the user's one; this file joins streams to a program in a container and tells how it ended;
//! `exec` (and attach), `attached` (`run -i`), `cp` and `forward` are the commands.

mod attached;
mod cp;
mod exec;
mod forward;
pub mod terminal;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use skiff_base::Scope;
use skiff_streaming::channels::{Channels, ERROR, Protocol, RESIZE, STDERR, STDIN, STDOUT};
use skiff_streaming::{Incoming, Outgoing, Role};
use tokio::sync::mpsc;

use crate::server::Server;
use crate::{Failure, Result};

pub use attached::{Attached, attach_or_say_why, run_attached, until};
pub use cp::{Cp, cp};
pub use exec::{Attach, Exec, Session, attach, exec, pod_path};
pub use forward::{PortForward, port_forward};

/// The server cuts off who says nothing for long.
const PING_EVERY: Duration = Duration::from_secs(5);
const CHANNELS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// What is read and written on this side.
struct Ends<O, E> {
    /// Ends when its sender is dropped.
    input: Option<mpsc::Receiver<Bytes>>,
    output: O,
    errors: E,
    /// Then changes of the terminal's size are told.
    tty: bool,
}

/// Joins the streams of an exec or attach until it ends. An exit code that is not 0 is an error.
async fn exchange<O, E>(server: &Server, path: &str, ends: Ends<O, E>) -> Result
where
    O: FnMut(&[u8]) -> io::Result<()>,
    E: FnMut(&[u8]) -> io::Result<()>,
{
    let scope = Scope::new();
    let (chosen, io) = server.upgrade(path, &CHANNELS).await?;
    let protocol = Protocol::of(&chosen).ok_or_else(|| Failure::text(format!("the server chose {chosen:?}")))?;
    let mut channels = Channels::start(io, Role::Client, protocol, &[STDOUT, STDERR, ERROR], &scope);
    let (stdin, resize) = (channels.outgoing(STDIN), channels.outgoing(RESIZE));
    let [out, err, status] = [STDOUT, STDERR, ERROR].map(|number| channels.incoming(number));
    let told = async {
        let mut all = Vec::new();
        let status = async {
            collect(status, &mut all).await;
            Ok(())
        };
        tokio::try_join!(copy(out, ends.output), copy(err, ends.errors), status)?;
        Ok::<_, io::Error>(all)
    };
    let background = async {
        tokio::join!(feed(ends.input, stdin), terminal::tell_sizes(ends.tty, resize), ping(&channels));
        std::future::pending::<()>().await;
    };
    let told = tokio::select! {
        told = told => told,
        () = background => unreachable!("it never ends"),
    };
    let told = told.map_err(|error| match error.kind() {
        // Who reads the output has read enough.
        io::ErrorKind::BrokenPipe => Failure::Silent.into(),
        _ => Failure::text(format!("write the output: {error}")),
    })?;
    let code = channels.closed().await;
    scope.token().cancel();
    match serde_json::from_slice::<Value>(&told) {
        Ok(status) => outcome(&status),
        Err(_) if !told.is_empty() => Err(Failure::text(String::from_utf8_lossy(&told).into_owned())),
        Err(_) if code == Some(1000) => Ok(()),
        Err(_) => Err(Failure::text("the connection to the server was lost")),
    }
}

/// What the server's last word means.
fn outcome(status: &Value) -> Result {
    if status["status"] == "Success" {
        return Ok(());
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let code = causes.filter(|cause| cause["reason"] == "ExitCode").find_map(|cause| cause["message"].as_str());
    match code.and_then(|code| code.parse::<u8>().ok()) {
        Some(code) if status["reason"] == "NonZeroExitCode" => Err(Failure::Exited(code).into()),
        _ => Err(Failure::text(status["message"].as_str().unwrap_or("the command failed").to_owned())),
    }
}

async fn copy(from: Option<Incoming>, mut to: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    while let Some(bytes) = from.next().await {
        to(&bytes)?;
    }
    Ok(())
}

async fn collect(from: Option<Incoming>, all: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    while let Some(bytes) = from.next().await {
        all.extend_from_slice(&bytes);
    }
}

async fn feed(input: Option<mpsc::Receiver<Bytes>>, stdin: Outgoing) {
    let Some(mut input) = input else { return };
    while let Some(bytes) = input.recv().await {
        if stdin.write(bytes).await.is_err() {
            return;
        }
    }
    // A connection that is gone is seen by who reads it.
    let _ = stdin.close().await;
}

async fn ping(channels: &Channels) {
    loop {
        tokio::time::sleep(PING_EVERY).await;
        if channels.ping().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn last_words() {
        let said = |status: Value| outcome(&status).err().map(|error| crate::failure::sentence(&error));
        assert_eq!(said(json!({"status": "Success"})), None);
        assert_eq!(
            said(json!({"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [
                {"reason": "ExitCode", "message": "3"}]}})),
            Some("command terminated with exit code 3".to_owned())
        );
        assert_eq!(
            said(json!({"status": "Failure", "reason": "InternalError", "message": "Internal error occurred: x"})),
            Some("error: Internal error occurred: x".to_owned())
        );
    }
}
