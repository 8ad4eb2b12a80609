//! Exec and attach: a program's streams joined to a client's, until either is gone.
//!
//! A client that leaves ends no command: the command finds its input at its end, its output closed (SIGPIPE), and its
//! terminal hung up (SIGHUP), as upstream.

use std::io;
use std::pin::pin;

use bytes::{Buf, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::json;
use skiff_base::{CancellationToken, chain};
use skiff_runtime::{ContainerId, Error, ExecStreams, Runtime};
use skiff_streaming::{Incoming, Outgoing, Remote};
use tokio::sync::OwnedSemaphorePermit;

use super::descriptor::{Input, Output, terminal};

/// More of a message that changes the terminal's size is not waited for.
const MAX_RESIZE: usize = 4096;

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Code(i32),
    /// It could not be run, or not be attached to.
    Failed(String),
}

/// Runs a command in a container, with the client's streams. The connection gives its place back when it ends, however
/// long the command goes on.
pub(super) async fn exec(
    runtime: &Runtime,
    id: &ContainerId,
    command: &[String],
    tty: bool,
    mut remote: Remote,
    place: OwnedSemaphorePermit,
) {
    let failed = |why: String| End::Failed(format!("error executing command in container: {why}"));
    let streams = match runtime.exec(id, command, tty, remote.stdin.is_some()).await {
        Ok(streams) => streams,
        Err(error) => {
            let end = failed(exec_failure(&error));
            let status = status(&end, remote.json_status);
            return remote.finish(status).await;
        }
    };
    let exec_id = streams.id.clone();
    let gone = remote.gone().clone();
    // Waited for whatever happens: else the runtime would keep its end for ever.
    let mut exit = pin!(runtime.exec_wait(&exec_id));
    let run = async {
        let ended = CancellationToken::new();
        let mut pumps = pin!(join(runtime, &exec_id, streams, &mut remote, &ended, false));
        let mut pumped = None;
        let code = loop {
            tokio::select! {
                code = &mut exit => break code,
                result = &mut pumps, if pumped.is_none() => pumped = Some(result),
            }
        };
        ended.cancel();
        let pumped = match pumped {
            Some(result) => result,
            None => pumps.await,
        };
        match (code, pumped) {
            (Ok(code), Ok(())) => End::Code(code),
            (Err(error), _) => failed(chain(&error).to_string()),
            (_, Err(error)) => failed(error.to_string()),
        }
    };
    let end = tokio::select! {
        end = run => Some(end),
        () = gone.cancelled() => None,
    };
    if let Some(end) = end {
        let status = status(&end, remote.json_status);
        return remote.finish(status).await;
    }
    // With the future above all of the program's streams were closed, but for one.
    runtime.hang_up(&exec_id);
    drop((remote, place));
    if let Err(error) = exit.await {
        tracing::debug!(exec = exec_id, error = %chain(&error), "the end of a command");
    }
}

/// Joins a client to a container that runs, until the container ends.
pub(super) async fn attach(runtime: &Runtime, id: &ContainerId, mut remote: Remote, _place: OwnedSemaphorePermit) {
    let failed = |why: String| End::Failed(format!("error attaching to container: {why}"));
    let end = match runtime.attach(id, remote.stdin.is_some()).await {
        Ok(streams) => {
            let (gone, ended) = (remote.gone().clone(), CancellationToken::new());
            tokio::select! {
                joined = join(runtime, &id.0, streams, &mut remote, &ended, true) => match joined {
                    Ok(()) => End::Code(0),
                    Err(error) => failed(error.to_string()),
                },
                () = gone.cancelled() => return,
            }
        }
        Err(error) => failed(chain(&error).to_string()),
    };
    let status = status(&end, remote.json_status);
    remote.finish(status).await;
}

/// The program's streams. A terminal is input and output in one.
struct Program {
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
}

impl Program {
    fn new(streams: ExecStreams) -> io::Result<Self> {
        if let Some(both) = streams.tty {
            let (stdin, stdout) = terminal(both)?;
            return Ok(Self { stdin: Some(stdin), stdout: Some(stdout), stderr: None });
        }
        Ok(Self {
            stdin: streams.stdin.map(Input::new).transpose()?,
            stdout: streams.stdout.map(Output::new).transpose()?,
            stderr: streams.stderr.map(Output::new).transpose()?,
        })
    }
}

/// Carries bytes both ways: input until the program has `ended`, output until then and until what it left is read.
/// With `to_output_end` the end of the output is the end of the program.
async fn join(
    runtime: &Runtime,
    target: &str,
    streams: ExecStreams,
    remote: &mut Remote,
    ended: &CancellationToken,
    to_output_end: bool,
) -> io::Result<()> {
    let Program { stdin, stdout, stderr } = Program::new(streams)?;
    let (typed, sizes) = (remote.stdin.take(), remote.resize.take());
    let input = async {
        // Its end closes the program's stdin, if that is no terminal.
        let (Some(typed), Some(stdin)) = (typed, stdin) else { return };
        feed(typed, stdin).await;
    };
    let sizes = async {
        if let Some(sizes) = sizes {
            resize(runtime, target, sizes).await;
        }
    };
    let inputs = async {
        tokio::select! {
            _ = async { tokio::join!(input, sizes) } => {}
            () = ended.cancelled() => {}
        }
    };
    let outputs = async {
        let shown =
            tokio::join!(show(stdout, remote.stdout.as_ref(), ended), show(stderr, remote.stderr.as_ref(), ended));
        if to_output_end {
            ended.cancel();
        }
        shown
    };
    let ((), (stdout, stderr)) = tokio::join!(inputs, outputs);
    stdout.and(stderr)
}

async fn feed(mut typed: Incoming, mut stdin: Input) {
    while let Some(bytes) = typed.next().await {
        // The program reads no more; what is still typed is not its concern.
        if stdin.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Shows what the program writes; what its own children may write after its end is not waited for.
async fn show(from: Option<Output>, to: Option<&Outgoing>, ended: &CancellationToken) -> io::Result<()> {
    let Some(from) = from else { return Ok(()) };
    loop {
        let bytes = tokio::select! {
            biased;
            bytes = from.read() => bytes?,
            () = ended.cancelled() => match from.try_read()? {
                Some(bytes) => bytes,
                None => return Ok(()),
            },
        };
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(to) = to
            && to.write(bytes).await.is_err()
        {
            return Ok(());
        }
    }
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Takes the sizes that are whole from the front of what has arrived.
fn sizes(arrived: &mut BytesMut) -> Vec<Size> {
    let mut all = Vec::new();
    let mut values = serde_json::Deserializer::from_slice(arrived).into_iter::<Size>();
    let mut nonsense = false;
    // Asked again after an error, the iterator forgets where the last whole value ended.
    let mut read = 0;
    while let Some(value) = values.next() {
        match value {
            Ok(size) => all.push(size),
            Err(error) => {
                nonsense = !error.is_eof();
                break;
            }
        }
        read = values.byte_offset();
    }
    if nonsense || arrived.len() > MAX_RESIZE {
        arrived.clear();
    } else {
        arrived.advance(read);
    }
    all.retain(|size| size.width > 0 && size.height > 0);
    all
}

async fn resize(runtime: &Runtime, target: &str, mut changes: Incoming) {
    let mut arrived = BytesMut::new();
    while let Some(bytes) = changes.next().await {
        arrived.extend_from_slice(&bytes);
        for Size { width, height } in sizes(&mut arrived) {
            if let Err(error) = runtime.resize(target, width, height).await {
                tracing::debug!(target, error = %chain(&error), "resize a terminal");
            }
        }
    }
}

/// What users know from other runtimes.
fn exec_failure(error: &Error) -> String {
    match error {
        Error::Failed { why, .. } => {
            format!("failed to exec in container: exec failed: unable to start container process: {why}")
        }
        other => chain(other).to_string(),
    }
}

/// The last word: a `Status`, or for old protocols a sentence, and that only of a failure.
fn status(end: &End, json: bool) -> Bytes {
    let (message, value) = match end {
        End::Code(0) => (String::new(), json!({"metadata": {}, "status": "Success"})),
        End::Code(code) => {
            let message = format!("command terminated with non-zero exit code: exit status {code}");
            let causes = json!([{"reason": "ExitCode", "message": code.to_string()}]);
            let value = json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": message,
                "details": {"causes": causes}});
            (message, value)
        }
        End::Failed(why) => {
            let message = format!("Internal error occurred: {why}");
            let value = json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "message": message,
                "details": {"causes": [{"message": why}]}, "code": 500});
            (message, value)
        }
    };
    if json { value.to_string().into() } else { message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_in_any_pieces() {
        let mut arrived = BytesMut::from(&b"{\"Width\":80,\"Height\":24}\n{\"Width\":0,\"Height\":1}{\"Wid"[..]);
        assert_eq!(sizes(&mut arrived), [Size { width: 80, height: 24 }]);
        arrived.extend_from_slice(b"th\":100,\"Height\":30}");
        assert_eq!(sizes(&mut arrived), [Size { width: 100, height: 30 }]);
        arrived.extend_from_slice(b"nonsense{\"Width\":1,\"Height\":1}");
        assert_eq!(sizes(&mut arrived), []);
        assert!(arrived.is_empty());
    }

    #[test]
    fn the_last_word() {
        let check = |end: End, text: &str, value: serde_json::Value| {
            assert_eq!(status(&end, false), text);
            assert_eq!(serde_json::from_slice::<serde_json::Value>(&status(&end, true)).expect("JSON"), value);
        };
        check(End::Code(0), "", json!({"metadata": {}, "status": "Success"}));
        check(
            End::Code(3),
            "command terminated with non-zero exit code: exit status 3",
            json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": "command terminated with non-zero exit code: exit status 3",
                "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}),
        );
        check(
            End::Failed("no".to_owned()),
            "Internal error occurred: no",
            json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": "Internal error occurred: no", "details": {"causes": [{"message": "no"}]}}),
        );
    }
}
