//! Several byte streams over one connection, as Kubernetes' clients speak it once HTTP has been left behind: for exec,
//! attach and port-forward.
//!
//! ```text
//!  upgrade    which of them a request asks for
//!
//!  Remote     stdin, stdout, stderr, error, resize        spdy::Session    streams that either side opens
//!     |                      \                               |       \
//!  Channels   WebSocket, the first byte of a message         |        tunnel: SPDY in WebSocket messages
//!     |       names the stream (v1, v4, v5, base64)          |       /
//!  websocket  frames (RFC 6455)                           spdy::Decoder, Encoder (SPDY/3.1)
//!      \___________________________________________________/
//!                 pipe: Incoming, Outgoing; the one task that writes
//! ```
//!
//! Bottom-up: [`websocket`] and [`spdy`]'s decoder turn bytes into frames and know nothing of connections; `pipe` has
//! the ends that users hold and the task that writes; [`channels`] and [`spdy`]'s session read a connection and hand
//! out such ends; [`remote`] is an exec or attach over either. `peer` notices who is gone.
//!
//! Invariants: every queue and buffer has a bound, so who does not read is not written to and slows only its own
//! connection; whatever a peer sends ends at most its own connection, never this process; a connection's two tasks end
//! when it is gone, when it was finished, and when the scope stops.
//!
//! Must not know: Kubernetes' objects, HTTP beyond the upgrade's headers.

pub mod channels;
mod peer;
mod pipe;
pub mod remote;
pub mod spdy;
pub mod upgrade;
pub mod websocket;

pub use peer::notice_dead_peers;
pub use pipe::{Gone, Incoming, Outgoing};
pub use remote::Remote;

/// Which side of a connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// What a peer sent that it must not send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the peer broke the protocol: {0}")]
pub struct Violation(pub &'static str);

/// A connection that was upgraded.
pub trait Connection: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static> Connection for T {}
