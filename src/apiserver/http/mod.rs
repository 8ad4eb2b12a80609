//! The wire: TLS, HTTP/1.1 and HTTP/2, limits.

mod bearer;
pub(crate) mod compress;
mod listen;
mod places;
mod pretty;
mod serve;
pub(crate) mod tls;

pub(crate) use listen::accept_all;
