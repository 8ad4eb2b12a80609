//! Streams in WebSocket messages: the first byte of a message is the number of its channel.
//!
//! `v5.channel.k8s.io` (KEP 4006) can end a channel (a message of 255 and its number); the older ones (`v4`, the first
//! one, and their forms in base64, for browsers) can't: there only the connection's end ends a channel.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use skiff_base::{CancellationToken, Scope};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

use crate::pipe::{FRAMES, Out, PIECES, Piece, Wire, send, write};
use crate::websocket::{self, CLOSE_NORMAL, CLOSE_PROTOCOL_ERROR, Decoder, Event};
use crate::{Connection, Gone, Incoming, Outgoing, Role, Violation};

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
pub const ERROR: u8 = 3;
pub const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// What is read at once.
const READ: usize = 16 * 1024;
/// While a channel's reader is busy, pings behind its data can't be seen: a pong nobody asked for keeps the peer.
const BUSY_PONG: Duration = Duration::from_secs(10);
/// How long the peer may take to close a connection that has ended.
const LINGER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol {
    pub base64: bool,
    /// Channels can be closed.
    pub closes: bool,
    /// What is sent on the channel of errors is a status in JSON, and not a sentence.
    pub json_status: bool,
}

impl Protocol {
    pub const V5: Self = Self { base64: false, closes: true, json_status: true };

    /// By the name in `Sec-WebSocket-Protocol`; no name is the first protocol.
    pub fn of(name: &str) -> Option<Self> {
        let (base64, closes, json_status) = match name {
            "v5.channel.k8s.io" => return Some(Self::V5),
            "v4.channel.k8s.io" => (false, false, true),
            "v4.base64.channel.k8s.io" => (true, false, true),
            "channel.k8s.io" | "" => (false, false, false),
            "base64.channel.k8s.io" => (true, false, false),
            _ => return None,
        };
        Some(Self { base64, closes, json_status })
    }

    /// Appends a message; `fin` says that the channel ends with it.
    pub(crate) fn encode(self, role: Role, channel: u8, bytes: &[u8], fin: bool, out: &mut BytesMut) {
        match (fin && bytes.is_empty(), self.base64) {
            // Servers end channels with the connection: kubectl does not know it of them.
            (true, _) if self.closes && role == Role::Client => {
                websocket::encode_binary(role, &[&[CLOSE, channel]], out)
            }
            (true, _) => {}
            (false, false) => websocket::encode_binary(role, &[&[channel], bytes], out),
            (false, true) => websocket::encode_text(role, &format!("{channel}{}", STANDARD.encode(bytes)), out),
        }
    }
}

/// Puts a channel's bytes together from the pieces of messages.
struct Messages {
    protocol: Protocol,
    /// Of the message that is arriving.
    channel: Option<u8>,
    /// Characters of base64 that make no whole byte yet.
    rest: BytesMut,
}

#[derive(Debug, PartialEq, Eq)]
enum Said {
    Data(u8, Bytes),
    End(u8),
    Nothing,
}

impl Messages {
    fn take(&mut self, first: bool, last: bool, mut bytes: Bytes) -> Result<Said, Violation> {
        if first {
            self.channel = None;
            self.rest.clear();
        }
        if bytes.is_empty() && !(last && self.channel == Some(CLOSE)) {
            return Ok(Said::Nothing);
        }
        let channel = match self.channel {
            Some(channel) => channel,
            None => {
                let number = bytes.get_u8();
                let number = if self.protocol.base64 { number.wrapping_sub(b'0') } else { number };
                *self.channel.insert(number)
            }
        };
        if channel == CLOSE && self.protocol.closes {
            self.rest.extend_from_slice(&bytes[..bytes.len().min(1)]);
            return Ok(if last {
                self.rest.first().map_or(Said::Nothing, |ended| Said::End(*ended))
            } else {
                Said::Nothing
            });
        }
        if self.protocol.base64 {
            bytes = self.decode(&bytes, last)?;
        }
        Ok(if bytes.is_empty() { Said::Nothing } else { Said::Data(channel, bytes) })
    }

    fn decode(&mut self, bytes: &[u8], last: bool) -> Result<Bytes, Violation> {
        self.rest.extend_from_slice(bytes);
        let whole = if last { self.rest.len() } else { self.rest.len() / 4 * 4 };
        let text = self.rest.split_to(whole);
        let plain = STANDARD.decode(&text).map_err(|_| Violation("a message that is not base64"))?;
        Ok(plain.into())
    }
}

/// A connection in channels. What arrives on a channel that nobody reads is dropped.
pub struct Channels {
    protocol: Protocol,
    readers: Vec<(u8, Incoming)>,
    out: mpsc::Sender<Out>,
    gone: CancellationToken,
    ended: tokio::sync::watch::Receiver<Option<u16>>,
}

impl Channels {
    /// Begins to read and write; `readable` are the channels that the peer writes to.
    pub fn start(io: impl Connection, role: Role, protocol: Protocol, readable: &[u8], scope: &Scope) -> Self {
        let (out, frames) = mpsc::channel(FRAMES);
        let gone = scope.token().child_token();
        let (reading, writing) = tokio::io::split(io);
        scope.spawn(write(writing, Wire::Channels(role, protocol), frames, gone.clone()));
        let (mut readers, mut writers) = (Vec::new(), Vec::new());
        for channel in readable {
            let (sender, receiver) = mpsc::channel(PIECES);
            readers.push((*channel, Incoming::new(receiver, None)));
            writers.push((*channel, Some(sender)));
        }
        let (tell, ended) = tokio::sync::watch::channel(None);
        let messages = Messages { protocol, channel: None, rest: BytesMut::new() };
        // It must not keep the writer alive.
        let reader = Reader { messages, writers, out: out.downgrade(), tell };
        let (token, decoder) = (gone.clone(), Decoder::new(role));
        scope.spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                read = reader.read(reading, decoder) => if let Err(error) = read {
                    tracing::debug!(error = %skiff_base::chain(&*error), "read from a peer");
                }
            }
            token.cancel();
        });
        Self { protocol, readers, out, gone, ended }
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// What the peer writes to a channel; to be taken once.
    pub fn incoming(&mut self, channel: u8) -> Option<Incoming> {
        let at = self.readers.iter().position(|(number, _)| *number == channel)?;
        Some(self.readers.swap_remove(at).1)
    }

    pub fn outgoing(&self, channel: u8) -> Outgoing {
        Outgoing { stream: channel.into(), out: self.out.clone(), gone: self.gone.clone(), ended: None }
    }

    /// Cancelled when the connection is gone.
    pub fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// The code with which the peer closed, once it has.
    pub async fn closed(&mut self) -> Option<u16> {
        let mut ended = self.ended.clone();
        tokio::select! {
            biased;
            code = ended.wait_for(Option::is_some) => code.ok().and_then(|code| *code),
            () = self.gone.cancelled() => *self.ended.borrow(),
        }
    }

    pub async fn ping(&self) -> Result<(), Gone> {
        send(&self.out, &self.gone, Out::Ping).await
    }

    /// Ends the connection as it should be, behind everything that was written.
    pub async fn finish(mut self) {
        if send(&self.out, &self.gone, Out::Close(CLOSE_NORMAL)).await.is_ok() {
            let mut ended = self.ended.clone();
            let closed = async {
                tokio::select! {
                    _ = ended.wait_for(Option::is_some) => {}
                    () = self.gone.cancelled() => {}
                }
            };
            drop(tokio::time::timeout(LINGER, closed).await);
        }
        self.readers.clear();
        self.gone.cancel();
    }
}

struct Reader {
    messages: Messages,
    writers: Vec<(u8, Option<mpsc::Sender<Piece>>)>,
    out: mpsc::WeakSender<Out>,
    tell: tokio::sync::watch::Sender<Option<u16>>,
}

impl Reader {
    async fn read(
        mut self,
        mut io: impl AsyncRead + Unpin,
        mut decoder: Decoder,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut input = BytesMut::new();
        loop {
            loop {
                let event = match decoder.next(&mut input) {
                    Ok(Some(event)) => event,
                    Ok(None) => break,
                    Err(violation) => {
                        self.control(Out::Close(CLOSE_PROTOCOL_ERROR)).await;
                        return Err(violation.into());
                    }
                };
                match event {
                    Event::Data { first, last, bytes } => match self.messages.take(first, last, bytes)? {
                        Said::Data(channel, bytes) => self.deliver(channel, bytes).await,
                        Said::End(channel) => self.end(channel),
                        Said::Nothing => {}
                    },
                    Event::Ping(payload) => self.control(Out::Pong(payload)).await,
                    Event::Pong => {}
                    Event::Close(code) => {
                        self.control(Out::Close(code.unwrap_or(CLOSE_NORMAL))).await;
                        // Without a code it is 1005, "none was there", in the RFC's words.
                        self.tell.send_replace(Some(code.unwrap_or(1005)));
                        return Ok(());
                    }
                }
            }
            input.reserve(READ);
            if io.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn control(&self, what: Out) {
        if let Some(out) = self.out.upgrade() {
            // A writer that is gone has told.
            drop(out.send(what).await);
        }
    }

    async fn deliver(&mut self, channel: u8, bytes: Bytes) {
        let Some((_, slot)) = self.writers.iter_mut().find(|(number, _)| *number == channel) else { return };
        let Some(sender) = slot.clone() else { return };
        loop {
            let room = tokio::time::timeout(BUSY_PONG, sender.reserve()).await;
            match room {
                Ok(Ok(room)) => return room.send(Piece { bytes, _room: None }),
                // Nobody reads it any more.
                Ok(Err(_)) => return self.end(channel),
                Err(_) => self.control(Out::Pong(Bytes::new())).await,
            }
        }
    }

    fn end(&mut self, channel: u8) {
        if let Some((_, slot)) = self.writers.iter_mut().find(|(number, _)| *number == channel) {
            *slot = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(protocol: Protocol, scope: &Scope) -> (Channels, Channels) {
        let (client, server) = tokio::io::duplex(1000);
        (
            Channels::start(client, Role::Client, protocol, &[STDOUT, STDERR, ERROR], scope),
            Channels::start(server, Role::Server, protocol, &[STDIN, RESIZE], scope),
        )
    }

    async fn all(mut incoming: Incoming) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(bytes) = incoming.next().await {
            all.extend_from_slice(&bytes);
        }
        all
    }

    #[tokio::test]
    async fn streams_end_and_connections_close() {
        for name in ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""] {
            let scope = Scope::new();
            let protocol = Protocol::of(name).expect("known");
            let (mut client, mut server) = pair(protocol, &scope);
            let (stdin, stdout) = (server.incoming(STDIN).expect("there"), client.incoming(STDOUT).expect("there"));
            assert!(server.incoming(STDIN).is_none() && server.incoming(STDOUT).is_none());
            let long = Bytes::from((0..200_000u32).map(|n| n as u8).collect::<Vec<u8>>());
            let (typed, said) = (client.outgoing(STDIN), server.outgoing(STDOUT));
            let (input, output) = (long.clone(), long.clone());
            let writer = scope.spawn(async move {
                typed.write(Bytes::from_static(b"x")).await.expect("written");
                typed.write(input).await.expect("written");
                typed.close().await.expect("closed");
            });
            if protocol.closes {
                assert_eq!(all(stdin).await[1..], long[..]);
            } else {
                let mut stdin = stdin;
                let mut got = 0;
                while got < long.len() + 1 {
                    got += stdin.next().await.expect("more").len();
                }
            }
            writer.await.expect("no panic");
            let answer = scope.spawn(async move {
                said.write(output).await.expect("written");
                drop(said);
                server.finish().await;
            });
            let got = all(stdout).await;
            assert_eq!(got, long, "{name}");
            assert_eq!(client.closed().await, Some(CLOSE_NORMAL));
            drop(client);
            answer.await.expect("no panic");
            scope.stop().await;
        }
    }

    #[tokio::test]
    async fn who_does_not_read_stops_the_writer_and_nobody_else() {
        let scope = Scope::new();
        let (mut client, mut server) = pair(Protocol::V5, &scope);
        let typed = client.outgoing(STDIN);
        let chunk = Bytes::from(vec![b'x'; 10_000]);
        // Until no more goes: everything on the way is bounded.
        let mut sent = 0;
        while tokio::time::timeout(Duration::from_millis(200), typed.write(chunk.clone())).await.is_ok() {
            sent += chunk.len();
            assert!(sent < 2_000_000, "there is no bound");
        }
        server.outgoing(STDOUT).write(Bytes::from_static(b"still here")).await.expect("written");
        let mut stdout = client.incoming(STDOUT).expect("there");
        assert_eq!(stdout.next().await.as_deref(), Some(&b"still here"[..]));
        // Who reads no more lets the rest go by.
        drop(server.incoming(STDIN));
        for _ in 0..100 {
            typed.write(chunk.clone()).await.expect("written");
        }
        scope.stop().await;
    }

    #[tokio::test]
    async fn a_peer_that_vanishes_or_raves_is_gone() {
        use tokio::io::AsyncWriteExt;
        for garbage in [&b""[..], b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n"] {
            let scope = Scope::new();
            let (mut client, server) = tokio::io::duplex(1000);
            let mut server = Channels::start(server, Role::Server, Protocol::V5, &[STDIN], &scope);
            let mut stdin = server.incoming(STDIN).expect("there");
            client.write_all(garbage).await.expect("written");
            if garbage.is_empty() {
                drop(client);
            }
            assert_eq!(stdin.next().await, None);
            server.gone().cancelled().await;
            assert_eq!(server.outgoing(STDOUT).write(Bytes::from_static(b"x")).await, Err(Gone));
            assert_eq!(server.closed().await, None);
            scope.stop().await;
        }
    }

    #[tokio::test]
    async fn pings_are_answered() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let scope = Scope::new();
        let (mut client, server) = tokio::io::duplex(1000);
        let _server = Channels::start(server, Role::Server, Protocol::V5, &[STDIN], &scope);
        let mut ping = BytesMut::from(&[0x89, 0x82, 0, 0, 0, 0, b'h', b'i'][..]);
        client.write_all_buf(&mut ping).await.expect("written");
        let mut pong = [0; 4];
        client.read_exact(&mut pong).await.expect("an answer");
        assert_eq!(pong, [0x8a, 2, b'h', b'i']);
        scope.stop().await;
    }

    proptest! {
        #[test]
        fn base64_in_pieces(bytes in proptest::collection::vec(any::<u8>(), 1..500), cut in 1usize..300) {
            let protocol = Protocol::of("v4.base64.channel.k8s.io").expect("known");
            let mut messages = Messages { protocol, channel: None, rest: BytesMut::new() };
            let text = Bytes::from(format!("1{}", STANDARD.encode(&bytes)));
            let cut = cut.min(text.len() - 1);
            let mut got = Vec::new();
            for (first, last, piece) in [(true, false, text.slice(..cut)), (false, true, text.slice(cut..))] {
                if let Said::Data(channel, bytes) = messages.take(first, last, piece).expect("base64") {
                    prop_assert_eq!(channel, STDOUT);
                    got.extend_from_slice(&bytes);
                }
            }
            prop_assert_eq!(got, bytes);
        }
    }
}
