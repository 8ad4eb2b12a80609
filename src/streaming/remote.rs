//! The streams of one exec or attach, over channels or SPDY.

use std::time::Duration;

use bytes::Bytes;
use skiff_base::{CancellationToken, Scope};

use crate::channels::{self, Channels};
use crate::spdy::{NewStream, Session, header};
use crate::{Connection, Incoming, Outgoing, Role};

/// How long a client may take to open its streams.
const STREAMS_LIMIT: Duration = Duration::from_secs(30);
/// Versions of the protocol on SPDY, the best first.
pub const SPDY_VERSIONS: [&str; 4] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Then there may be changes of the terminal's size.
    pub tty: bool,
}

/// The server's ends.
pub struct Remote {
    pub stdin: Option<Incoming>,
    pub stdout: Option<Outgoing>,
    pub stderr: Option<Outgoing>,
    pub resize: Option<Incoming>,
    /// Whether the end is told as a status in JSON, or as a sentence that only failures have.
    pub json_status: bool,
    error: Outgoing,
    /// The other halves of what is only read. Go's client stops writing to a stream whose other half has ended.
    unused: Vec<Outgoing>,
    connection: Kind,
}

enum Kind {
    Channels(Channels),
    Spdy(Session),
}

impl Remote {
    pub async fn over_channels(
        io: impl Connection,
        protocol: channels::Protocol,
        wanted: Wanted,
        scope: &Scope,
    ) -> Self {
        let mut readable = Vec::new();
        readable.extend(wanted.stdin.then_some(channels::STDIN));
        readable.extend(wanted.tty.then_some(channels::RESIZE));
        let mut all = Channels::start(io, Role::Server, protocol, &readable, scope);
        let out = |wanted: bool, channel| wanted.then(|| all.outgoing(channel));
        let (stdout, stderr) = (out(wanted.stdout, channels::STDOUT), out(wanted.stderr, channels::STDERR));
        let error = all.outgoing(channels::ERROR);
        // Clients take the first message, which is empty, as the word that the connection is there.
        let first = stdout.as_ref().or(stderr.as_ref()).unwrap_or(&error);
        // Whether it is gone is seen where it is read.
        let _ = first.write(Bytes::new()).await;
        Self {
            stdin: all.incoming(channels::STDIN),
            resize: all.incoming(channels::RESIZE),
            stdout,
            stderr,
            json_status: protocol.json_status,
            error,
            unused: Vec::new(),
            connection: Kind::Channels(all),
        }
    }

    /// Waits for the streams that the client opens; says what it did not open in time. `version` is one of
    /// [`SPDY_VERSIONS`].
    pub async fn over_spdy(io: impl Connection, version: &str, wanted: Wanted, scope: &Scope) -> Result<Self, String> {
        let mut session = Session::start(io, Role::Server, false, scope);
        let resizes = wanted.tty && matches!(version, "v4.channel.k8s.io" | "v3.channel.k8s.io");
        let expected =
            1 + [wanted.stdin, wanted.stdout, wanted.stderr, resizes].iter().filter(|wanted| **wanted).count();
        let (mut stdin, mut stdout, mut stderr, mut error, mut resize) = (None, None, None, None, None);
        let all = async {
            for _ in 0..expected {
                let NewStream { headers, incoming, outgoing } =
                    session.accept().await.ok_or_else(|| "the client has gone away".to_owned())?;
                match header(&headers, "streamtype").unwrap_or_default() {
                    "stdin" => stdin = Some((incoming, outgoing)),
                    "stdout" => stdout = Some(outgoing),
                    "stderr" => stderr = Some(outgoing),
                    "error" => error = Some(outgoing),
                    "resize" => resize = Some((incoming, outgoing)),
                    other => return Err(format!("unexpected stream type: {other:?}")),
                }
            }
            Ok(())
        };
        tokio::time::timeout(STREAMS_LIMIT, all)
            .await
            .map_err(|_| "timed out waiting for client to create streams".to_owned())??;
        let Some(error) = error else { return Err("the client opened no error stream".to_owned()) };
        let mut unused = Vec::new();
        let mut read = |stream: Option<(Incoming, Outgoing)>| {
            let (incoming, outgoing) = stream?;
            unused.push(outgoing);
            Some(incoming)
        };
        let (stdin, resize) = (read(stdin), read(resize));
        let json_status = version == SPDY_VERSIONS[0];
        Ok(Self { stdin, stdout, stderr, resize, json_status, error, unused, connection: Kind::Spdy(session) })
    }

    /// Cancelled when the client is gone.
    pub fn gone(&self) -> &CancellationToken {
        match &self.connection {
            Kind::Channels(channels) => channels.gone(),
            Kind::Spdy(session) => session.gone(),
        }
    }

    /// Ends all streams, then tells the end (nothing: an end without a word) and closes the connection.
    pub async fn finish(self, status: Bytes) {
        let Self { stdin, stdout, stderr, resize, error, unused, connection, .. } = self;
        drop((stdin, resize));
        // That the client has left by itself needs no telling.
        for outgoing in [stdout, stderr].into_iter().flatten().chain(unused) {
            let _ = outgoing.close().await;
        }
        if !status.is_empty() {
            let _ = error.write(status).await;
        }
        let _ = error.close().await;
        match connection {
            Kind::Channels(channels) => channels.finish().await,
            Kind::Spdy(session) => session.finish().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spdy::Headers;

    async fn text(incoming: &mut Incoming) -> String {
        let mut all = Vec::new();
        while let Some(bytes) = incoming.next().await {
            all.extend_from_slice(&bytes);
        }
        String::from_utf8(all).expect("text")
    }

    const WANTED: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: true };

    async fn serve(mut remote: Remote) {
        let typed = text(remote.stdin.as_mut().expect("stdin")).await;
        assert_eq!(typed, "typed");
        assert!(remote.resize.is_some() && remote.json_status);
        remote.stdout.as_ref().expect("stdout").write("out".into()).await.expect("written");
        remote.finish("status".into()).await;
    }

    #[tokio::test]
    async fn over_spdy() {
        let scope = Scope::new();
        let (client, server) = tokio::io::duplex(1000);
        let serving = scope.spawn({
            let scope = scope.clone();
            async move {
                serve(Remote::over_spdy(server, SPDY_VERSIONS[0], WANTED, &scope).await.expect("all streams")).await;
            }
        });
        let mut client = Session::start(client, Role::Client, false, &scope);
        let mut open = async |kind: &str| {
            let headers: Headers = vec![("streamtype".to_owned(), kind.to_owned())];
            client.open(headers).await.expect("opened")
        };
        let (mut error, stdin, mut stdout) = (open("error").await, open("stdin").await, open("stdout").await);
        let (_stderr, _resize) = (open("stderr").await, open("resize").await);
        stdin.outgoing.write("typed".into()).await.expect("written");
        stdin.outgoing.close().await.expect("closed");
        assert_eq!(text(&mut stdout.incoming).await, "out");
        assert_eq!(text(&mut error.incoming).await, "status");
        client.finish().await;
        serving.await.expect("no panic");
        scope.stop().await;
    }

    #[tokio::test]
    async fn over_channels() {
        let scope = Scope::new();
        let (client, server) = tokio::io::duplex(1000);
        let serving = scope.spawn({
            let scope = scope.clone();
            async move {
                serve(Remote::over_channels(server, channels::Protocol::V5, WANTED, &scope).await).await;
            }
        });
        let readable = [channels::STDOUT, channels::STDERR, channels::ERROR];
        let mut client = Channels::start(client, Role::Client, channels::Protocol::V5, &readable, &scope);
        let stdin = client.outgoing(channels::STDIN);
        stdin.write("typed".into()).await.expect("written");
        stdin.close().await.expect("closed");
        assert_eq!(text(&mut client.incoming(channels::STDOUT).expect("there")).await, "out");
        assert_eq!(text(&mut client.incoming(channels::ERROR).expect("there")).await, "status");
        assert_eq!(client.closed().await, Some(crate::websocket::CLOSE_NORMAL));
        drop(client);
        serving.await.expect("no panic");
        scope.stop().await;
    }

    #[tokio::test]
    async fn a_client_that_opens_something_else_is_refused() {
        let scope = Scope::new();
        let (client, server) = tokio::io::duplex(1000);
        let mut client = Session::start(client, Role::Client, false, &scope);
        let headers = vec![("streamtype".to_owned(), "nonsense".to_owned())];
        let _stream = client.open(headers).await.expect("opened");
        let refused = Remote::over_spdy(server, SPDY_VERSIONS[0], WANTED, &scope).await.err();
        assert_eq!(refused.as_deref(), Some("unexpected stream type: \"nonsense\""));
        scope.stop().await;
    }
}
