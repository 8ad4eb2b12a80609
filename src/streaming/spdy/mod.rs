//! SPDY/3.1, as far as Kubernetes' clients use it: streams that the client opens, data both ways, half-close, reset.
//!
//! [`frame`](self) and `headers` turn bytes into frames and back without a connection, `session` runs one.
//!
//! Two peculiarities of the only other end there is (the Go library of kubectl and its kin), which SPDY's draft does
//! not have: it keeps no windows, so waiting for its WINDOW_UPDATE would be waiting for ever. What we may send is
//! bounded by the connection alone; what it sends is given credit for, which others need and it ignores. And it drops
//! what comes before its stream was replied to, so the reply always goes first.

mod frame;
mod headers;
mod session;

pub use frame::{Decoder, Encoder, Frame};
pub use session::{NewStream, Session};

/// Names are lower case; a name may come several times.
pub type Headers = Vec<(String, String)>;

/// The value of the first header of a name.
pub fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}
