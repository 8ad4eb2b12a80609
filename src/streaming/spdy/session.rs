//! A SPDY connection: streams that the peer opens come out of [`Session::accept`], one's own are made by
//! [`Session::open`].
//!
//! ```text
//!  a stream has two halves, each open until: what comes     FIN read, RST read, nobody reads it
//!                                            what goes      FIN written, RST read or written
//!  with both ended it is forgotten
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use skiff_base::{CancellationToken, Scope};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{Semaphore, mpsc};

use super::frame::{CANCEL, PROTOCOL_ERROR, REFUSED_STREAM};
use super::{Decoder, Frame, Headers};
use crate::pipe::{FRAMES, Out, PIECES, Piece, Wire, send, write};
use crate::websocket::{self, CLOSE_NORMAL};
use crate::{Connection, Gone, Incoming, Outgoing, Role};

/// What is read at once.
const READ: usize = 16 * 1024;
/// Bytes that all streams of a connection may hold for their readers.
const ROOM: usize = 1 << 20;
/// More streams at a time are refused.
const MAX_STREAMS: usize = 1024;
/// Streams that wait to be accepted before the connection is no longer read.
const BACKLOG: usize = 16;
/// How long the peer may take to close a connection that has ended.
const LINGER: Duration = Duration::from_secs(10);

/// A stream and both its ends.
pub struct NewStream {
    pub headers: Headers,
    pub incoming: Incoming,
    pub outgoing: Outgoing,
}

struct Stream {
    incoming: Option<mpsc::Sender<Piece>>,
    writes: bool,
    /// Cancelled by a reset.
    gone: CancellationToken,
}

type Table = Arc<Mutex<HashMap<u32, Stream>>>;

fn lock(table: &Table) -> MutexGuard<'_, HashMap<u32, Stream>> {
    table.lock().expect("nobody panics while holding it")
}

/// Forgets a stream without open halves.
fn tidy(table: &mut HashMap<u32, Stream>, id: u32) {
    if table.get(&id).is_some_and(|stream| stream.incoming.is_none() && !stream.writes) {
        table.remove(&id);
    }
}

pub struct Session {
    role: Role,
    tunnel: bool,
    next: u32,
    table: Table,
    out: mpsc::Sender<Out>,
    accepted: mpsc::Receiver<NewStream>,
    gone: CancellationToken,
}

impl Session {
    /// Begins to read and write. With a `tunnel` the bytes are in WebSocket's messages.
    pub fn start(io: impl Connection, role: Role, tunnel: bool, scope: &Scope) -> Self {
        let (out, frames) = mpsc::channel(FRAMES);
        let gone = scope.token().child_token();
        let (reading, writing) = tokio::io::split(io);
        scope.spawn(write(writing, Wire::spdy(tunnel.then_some(role)), frames, gone.clone()));
        let table = Table::default();
        let (accept, accepted) = mpsc::channel(BACKLOG);
        let reader = Reader {
            role,
            last: 0,
            table: table.clone(),
            out: out.downgrade(),
            accept,
            room: Arc::new(Semaphore::new(ROOM)),
            gone: gone.clone(),
        };
        let (token, streams) = (gone.clone(), table.clone());
        let tunnel_decoder = tunnel.then(|| websocket::Decoder::new(role));
        scope.spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                read = reader.read(reading, tunnel_decoder) => if let Err(error) = read {
                    tracing::debug!(error = %skiff_base::chain(&*error), "read from a peer");
                }
            }
            token.cancel();
            // Their readers see the end.
            lock(&streams).clear();
        });
        Self { role, tunnel, next: if role == Role::Client { 1 } else { 2 }, table, out, accepted, gone }
    }

    /// The next stream that the peer opens, replied to; `None` when the connection is gone.
    pub async fn accept(&mut self) -> Option<NewStream> {
        tokio::select! {
            biased;
            () = self.gone.cancelled() => None,
            stream = self.accepted.recv() => stream,
        }
    }

    /// Opens a stream. The peer's reply is not waited for.
    pub async fn open(&mut self, headers: Headers) -> Result<NewStream, Gone> {
        let id = self.next;
        self.next += 2;
        let (incoming, outgoing) = make(id, &self.table, &self.out, &self.gone, true, true);
        let opened = send(
            &self.out,
            &self.gone,
            Frame::Open { stream: id, headers: headers.clone(), fin: false, one_way: false }.into(),
        );
        opened.await?;
        Ok(NewStream { headers, incoming, outgoing })
    }

    /// Cancelled when the connection is gone.
    pub fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// Whether a stream is open.
    pub fn is_used(&self) -> bool {
        !lock(&self.table).is_empty()
    }

    /// Ends the connection, behind everything that was written; gives the peer time to read it.
    pub async fn finish(self) {
        let said = async {
            send(&self.out, &self.gone, Frame::GoAway { last: 0 }.into()).await?;
            match self.tunnel {
                true => send(&self.out, &self.gone, Out::Close(CLOSE_NORMAL)).await,
                false => Ok(()),
            }
        };
        // Go's client closes the connection once all its streams have ended; it loses what it has not looked at yet
        // when we do.
        if said.await.is_ok() && self.role == Role::Server {
            drop(tokio::time::timeout(LINGER, self.gone.cancelled()).await);
        } else {
            tokio::task::yield_now().await;
        }
        self.gone.cancel();
    }
}

/// A stream's entry in the table and its two ends.
fn make(
    id: u32,
    table: &Table,
    out: &mpsc::Sender<Out>,
    gone: &CancellationToken,
    reads: bool,
    writes: bool,
) -> (Incoming, Outgoing) {
    let (sender, receiver) = mpsc::channel(PIECES);
    let token = gone.child_token();
    let stream = Stream { incoming: reads.then_some(sender), writes, gone: token.clone() };
    lock(table).insert(id, stream);
    let (streams, resetter) = (table.clone(), out.downgrade());
    let ended = move |closed: bool| {
        let mut table = lock(&streams);
        if let Some(stream) = table.get_mut(&id) {
            stream.writes = false;
            // Dropped in the middle: the peer is not to take what it has for all. When there is no room for the word,
            // the connection is about to end as well.
            if !closed
                && writes
                && let Some(out) = resetter.upgrade()
            {
                drop(out.try_send(Frame::Reset { stream: id, reason: CANCEL }.into()));
                stream.incoming = None;
            }
        }
        tidy(&mut table, id);
    };
    let outgoing = Outgoing { stream: id, out: out.clone(), gone: token, ended: Some(Box::new(ended)) };
    (Incoming::new(receiver, Some((id, out.clone()))), outgoing)
}

type Problem = Box<dyn std::error::Error + Send + Sync>;

struct Reader {
    role: Role,
    /// The newest stream of the peer.
    last: u32,
    table: Table,
    /// Weak: a reader alone keeps no writer alive.
    out: mpsc::WeakSender<Out>,
    accept: mpsc::Sender<NewStream>,
    room: Arc<Semaphore>,
    gone: CancellationToken,
}

impl Reader {
    async fn read(
        mut self,
        mut io: impl AsyncRead + Unpin,
        mut tunnel: Option<websocket::Decoder>,
    ) -> Result<(), Problem> {
        let (mut raw, mut input, mut decoder) = (BytesMut::new(), BytesMut::new(), Decoder::default());
        loop {
            let source = if tunnel.is_some() { &mut raw } else { &mut input };
            source.reserve(READ);
            if io.read_buf(source).await? == 0 {
                return Ok(());
            }
            let mut closed = false;
            while let Some(tunnel) = &mut tunnel
                && let Some(event) = tunnel.next(&mut raw)?
            {
                match event {
                    websocket::Event::Data { bytes, .. } => input.extend_from_slice(&bytes),
                    websocket::Event::Ping(payload) => self.tell(Out::Pong(payload)).await,
                    websocket::Event::Pong => {}
                    websocket::Event::Close(code) => {
                        self.tell(Out::Close(code.unwrap_or(CLOSE_NORMAL))).await;
                        closed = true;
                    }
                }
            }
            while let Some(frame) = decoder.next(&mut input)? {
                self.take(frame).await?;
            }
            if closed {
                return Ok(());
            }
        }
    }

    async fn tell(&self, what: impl Into<Out>) {
        if let Some(out) = self.out.upgrade() {
            // A writer that is gone has told.
            drop(out.send(what.into()).await);
        }
    }

    async fn take(&mut self, frame: Frame) -> Result<(), Problem> {
        match frame {
            Frame::Open { stream, headers, fin, one_way } => self.open(stream, headers, fin, one_way).await?,
            Frame::Data { stream, bytes, fin } => {
                self.deliver(stream, bytes).await?;
                if fin {
                    self.end(stream);
                }
            }
            Frame::Reply { stream, fin, .. } | Frame::Headers { stream, fin, .. } if fin => self.end(stream),
            Frame::Reset { stream, .. } => {
                if let Some(stream) = lock(&self.table).remove(&stream) {
                    stream.gone.cancel();
                }
            }
            // Odd ones are a client's, and come back to it when they are ours.
            Frame::Ping(id) if (id % 2 == 1) == (self.role == Role::Server) => self.tell(Frame::Ping(id)).await,
            Frame::Reply { .. }
            | Frame::Headers { .. }
            | Frame::Ping(_)
            | Frame::GoAway { .. }
            | Frame::Window { .. }
            | Frame::Settings => {}
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, headers: Headers, fin: bool, one_way: bool) -> Result<(), Problem> {
        let theirs = (id % 2 == 1) == (self.role == Role::Server);
        if !theirs || id <= self.last {
            self.tell(Frame::Reset { stream: id, reason: PROTOCOL_ERROR }).await;
            return Ok(());
        }
        self.last = id;
        let many = lock(&self.table).len() >= MAX_STREAMS;
        let Some(out) = self.out.upgrade().filter(|_| !many) else {
            self.tell(Frame::Reset { stream: id, reason: REFUSED_STREAM }).await;
            return Ok(());
        };
        if !one_way {
            self.tell(Frame::Reply { stream: id, headers: Headers::new(), fin: false }).await;
        }
        let (incoming, outgoing) = make(id, &self.table, &out, &self.gone, !fin, !one_way);
        self.accept.send(NewStream { headers, incoming, outgoing }).await.map_err(|_| Gone.into())
    }

    async fn deliver(&self, id: u32, bytes: Bytes) -> Result<(), Problem> {
        let sender = lock(&self.table).get(&id).and_then(|stream| stream.incoming.clone());
        let Some(sender) = sender.filter(|_| !bytes.is_empty()) else { return Ok(()) };
        // Pieces are as long as what is read at once, at most.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(ROOM as u32);
        let room = tokio::select! {
            room = self.room.clone().acquire_many_owned(length) => room?,
            () = sender.closed() => return Ok(()),
        };
        if sender.send(Piece { bytes, _room: Some(room) }).await.is_err() {
            self.end(id);
        }
        Ok(())
    }

    fn end(&self, id: u32) {
        let mut table = lock(&self.table);
        if let Some(stream) = table.get_mut(&id) {
            stream.incoming = None;
        }
        tidy(&mut table, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    fn pair(tunnel: bool, scope: &Scope) -> (Session, Session) {
        let (client, server) = tokio::io::duplex(1000);
        (Session::start(client, Role::Client, tunnel, scope), Session::start(server, Role::Server, tunnel, scope))
    }

    fn named(name: &str) -> Headers {
        vec![("name".to_owned(), name.to_owned())]
    }

    async fn all(mut incoming: Incoming) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(bytes) = incoming.next().await {
            all.extend_from_slice(&bytes);
        }
        all
    }

    #[tokio::test]
    async fn many_streams_each_with_two_halves() {
        for tunnel in [false, true] {
            let scope = Scope::new();
            let (mut client, mut server) = pair(tunnel, &scope);
            let echo = scope.spawn({
                let scope = scope.clone();
                async move {
                    while let Some(NewStream { mut incoming, outgoing, headers }) = server.accept().await {
                        scope.spawn(async move {
                            outgoing.write(headers[0].1.clone().into()).await.expect("written");
                            while let Some(bytes) = incoming.next().await {
                                outgoing.write(bytes).await.expect("written");
                            }
                            // After the peer's half has ended, ours has not.
                            outgoing.write(Bytes::from_static(b"end")).await.expect("written");
                            outgoing.close().await.expect("closed");
                        });
                    }
                }
            });
            let mut tasks = Vec::new();
            for number in 0..50usize {
                let name = format!("stream {number}");
                let NewStream { incoming, outgoing, .. } = client.open(named(&name)).await.expect("opened");
                let body = vec![number as u8; number * 1000];
                tasks.push(scope.spawn(async move {
                    let expect = [name.as_bytes(), &body, b"end"].concat();
                    let write = async {
                        outgoing.write(body.into()).await.expect("written");
                        outgoing.close().await.expect("closed");
                    };
                    let ((), got) = tokio::join!(write, all(incoming));
                    assert_eq!(got, expect);
                }));
            }
            for task in tasks {
                task.await.expect("no panic");
            }
            assert!(!client.is_used());
            client.finish().await;
            echo.await.expect("no panic");
            scope.stop().await;
        }
    }

    #[tokio::test]
    async fn resets_and_vanishing_peers() {
        let scope = Scope::new();
        let (mut client, mut server) = pair(false, &scope);
        let one = client.open(named("one")).await.expect("opened");
        let there = server.accept().await.expect("a stream");
        assert_eq!(super::super::header(&there.headers, "name"), Some("one"));
        drop(one);
        assert_eq!(all(there.incoming).await, b"");
        there.outgoing.gone().await;
        assert_eq!(there.outgoing.write(Bytes::from_static(b"x")).await, Err(Gone));
        assert!(!server.is_used());
        let two = client.open(named("two")).await.expect("opened");
        let there = server.accept().await.expect("a stream");
        drop((client, two));
        assert_eq!(all(there.incoming).await, b"");
        assert!(server.accept().await.is_none());
        scope.stop().await;
    }

    #[tokio::test]
    async fn who_does_not_read_stops_the_writer() {
        let scope = Scope::new();
        let (mut client, mut server) = pair(false, &scope);
        let stalled = client.open(named("stalled")).await.expect("opened");
        let there = server.accept().await.expect("a stream");
        let chunk = Bytes::from(vec![b'x'; 10_000]);
        let mut sent = 0;
        while tokio::time::timeout(Duration::from_millis(200), stalled.outgoing.write(chunk.clone())).await.is_ok() {
            sent += chunk.len();
            assert!(sent < 4_000_000, "there is no bound");
        }
        // Who reads no more lets the rest go by.
        drop(there.incoming);
        stalled.outgoing.write(chunk).await.expect("written");
        stalled.outgoing.close().await.expect("closed");
        scope.stop().await;
    }

    #[tokio::test]
    async fn pings_floods_and_garbage() {
        let scope = Scope::new();
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut server = Session::start(server, Role::Server, false, &scope);
        let accept = scope.spawn(async move {
            let mut streams = Vec::new();
            while let Some(stream) = server.accept().await {
                streams.push(stream);
            }
            streams.len()
        });
        let (mut encoder, mut out) = (super::super::Encoder::default(), BytesMut::new());
        for stream in (1..4001).step_by(2) {
            let open = Frame::Open { stream, headers: Headers::new(), fin: false, one_way: false };
            encoder.encode(&open, &mut out);
        }
        encoder.encode(&Frame::Ping(7), &mut out);
        client.write_all(&out).await.expect("written");
        let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
        let (mut replies, mut refusals) = (0, 0);
        loop {
            match decoder.next(&mut input).expect("fine") {
                Some(Frame::Reply { .. }) => replies += 1,
                Some(Frame::Reset { reason: REFUSED_STREAM, .. }) => refusals += 1,
                Some(Frame::Ping(7)) => break,
                Some(other) => panic!("{other:?}"),
                None => assert!(client.read_buf(&mut input).await.expect("read") > 0),
            }
        }
        assert_eq!((replies, refusals), (MAX_STREAMS, 2000 - MAX_STREAMS));
        client.write_all(&[0xff; 100]).await.expect("written");
        assert_eq!(accept.await.expect("no panic"), MAX_STREAMS);
        scope.stop().await;
    }
}
