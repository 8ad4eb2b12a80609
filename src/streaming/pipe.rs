//! The ends of one stream, and the task that writes for all streams of a connection.

use bytes::{Bytes, BytesMut};
use skiff_base::CancellationToken;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::spdy::Frame;
use crate::{Role, channels, spdy, websocket};

/// Pieces that wait for a reader before its connection is no longer read.
pub(crate) const PIECES: usize = 8;
/// Frames that wait to be written before who writes has to wait.
pub(crate) const FRAMES: usize = 8;
/// What is written at once, about.
const BATCH: usize = 64 * 1024;
/// Credit is given for so much at a time.
const CREDIT: u32 = 16 * 1024;

/// The stream or its connection is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection is gone")]
pub struct Gone;

impl From<Gone> for std::io::Error {
    fn from(gone: Gone) -> Self {
        Self::new(std::io::ErrorKind::BrokenPipe, gone)
    }
}

/// A piece on its way to its reader, with its share of what a connection may hold.
pub(crate) struct Piece {
    pub bytes: Bytes,
    pub _room: Option<OwnedSemaphorePermit>,
}

/// What the peer sends on a stream.
pub struct Incoming {
    pieces: mpsc::Receiver<Piece>,
    /// Whom to tell that bytes were taken, and of which stream.
    credit: Option<(u32, mpsc::Sender<Out>)>,
    owed: u32,
}

impl Incoming {
    pub(crate) fn new(pieces: mpsc::Receiver<Piece>, credit: Option<(u32, mpsc::Sender<Out>)>) -> Self {
        Self { pieces, credit, owed: 0 }
    }

    /// The next bytes; `None` at the stream's end and when the connection is gone. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<Bytes> {
        let piece = self.pieces.recv().await?;
        if let Some((stream, out)) = &self.credit {
            self.owed += piece.bytes.len() as u32;
            // Nobody waits for it (see `spdy`): when there is no room it goes with the next.
            if self.owed >= CREDIT && out.try_send(Frame::Window { stream: *stream, credit: self.owed }.into()).is_ok()
            {
                self.owed = 0;
            }
        }
        Some(piece.bytes)
    }
}

/// What is sent to the peer on a stream.
pub struct Outgoing {
    pub(crate) stream: u32,
    pub(crate) out: mpsc::Sender<Out>,
    /// Of the stream, or of its connection.
    pub(crate) gone: CancellationToken,
    /// Told when it is closed or dropped.
    pub(crate) ended: Option<Box<dyn FnOnce(bool) + Send + Sync>>,
}

impl Outgoing {
    /// Waits until there is room, not until it is sent.
    pub async fn write(&self, bytes: Bytes) -> Result<(), Gone> {
        self.send(Frame::Data { stream: self.stream, bytes, fin: false }).await
    }

    /// Says that nothing more comes.
    pub async fn close(mut self) -> Result<(), Gone> {
        let sent = self.send(Frame::Data { stream: self.stream, bytes: Bytes::new(), fin: true }).await;
        if let Some(ended) = self.ended.take() {
            ended(true);
        }
        sent
    }

    async fn send(&self, frame: Frame) -> Result<(), Gone> {
        send(&self.out, &self.gone, frame.into()).await
    }

    /// When the peer no longer takes anything.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some(ended) = self.ended.take() {
            ended(false);
        }
    }
}

/// Gives to the writer, unless there is nobody to write to.
pub(crate) async fn send(out: &mpsc::Sender<Out>, gone: &CancellationToken, what: Out) -> Result<(), Gone> {
    tokio::select! {
        biased;
        () = gone.cancelled() => Err(Gone),
        sent = out.send(what) => sent.map_err(|_| Gone),
    }
}

/// What there is to write.
pub(crate) enum Out {
    /// A SPDY frame, or in channels `Data` alone.
    Frame(Frame),
    /// Of WebSocket.
    Ping,
    Pong(Bytes),
    Close(u16),
}

impl From<Frame> for Out {
    fn from(frame: Frame) -> Self {
        Self::Frame(frame)
    }
}

/// How frames look on the wire.
pub(crate) enum Wire {
    Channels(Role, channels::Protocol),
    Spdy(spdy::Encoder),
    /// SPDY in WebSocket's messages.
    Tunnel(Role, spdy::Encoder),
}

impl Wire {
    pub(crate) fn spdy(tunnel: Option<Role>) -> Self {
        match tunnel {
            Some(role) => Self::Tunnel(role, spdy::Encoder::default()),
            None => Self::Spdy(spdy::Encoder::default()),
        }
    }

    fn encode(&mut self, what: &Out, buffer: &mut BytesMut) {
        match (self, what) {
            (Self::Channels(role, protocol), Out::Frame(Frame::Data { stream, bytes, fin })) => {
                protocol.encode(*role, *stream as u8, bytes, *fin, buffer);
            }
            // Channels have no other frames.
            (Self::Channels(..), Out::Frame(_)) => {}
            (Self::Spdy(encoder), Out::Frame(frame)) => encoder.encode(frame, buffer),
            (Self::Spdy(_), _) => {}
            (Self::Tunnel(role, encoder), Out::Frame(frame)) => {
                let mut plain = BytesMut::new();
                encoder.encode(frame, &mut plain);
                websocket::encode_binary(*role, &[&plain], buffer);
            }
            (Self::Channels(role, _) | Self::Tunnel(role, _), other) => match other {
                Out::Ping => websocket::encode_ping(*role, buffer),
                Out::Pong(payload) => websocket::encode_pong(*role, payload, buffer),
                Out::Close(code) => websocket::encode_close(*role, *code, buffer),
                Out::Frame(_) => {}
            },
        }
    }
}

/// Writes until nobody is left who could send something, or the connection is gone; then shuts it down.
pub(crate) async fn write(
    mut io: impl AsyncWrite + Unpin,
    mut wire: Wire,
    mut frames: mpsc::Receiver<Out>,
    gone: CancellationToken,
) {
    let work = async {
        let mut buffer = BytesMut::new();
        while let Some(first) = frames.recv().await {
            wire.encode(&first, &mut buffer);
            while buffer.len() < BATCH
                && let Ok(next) = frames.try_recv()
            {
                wire.encode(&next, &mut buffer);
            }
            io.write_all(&buffer).await?;
            io.flush().await?;
            buffer.clear();
        }
        io.shutdown().await
    };
    tokio::select! {
        () = gone.cancelled() => {}
        written = work => if let Err(error) = written {
            tracing::debug!(%error, "write to a peer");
        }
    }
    gone.cancel();
}
