//! The one path of all requests on objects: built-in kinds and custom resources, over HTTP and in process.

mod apply;
pub(crate) mod continuation;
pub(crate) mod create;
pub(crate) mod delete;
mod evict;
mod get;
pub(crate) mod list;
pub(crate) mod list_options;
pub(crate) mod options;
pub(crate) mod ownership;
pub(crate) mod patch;
pub(crate) mod scale;
mod signing;
mod socket;
pub(crate) mod special;
pub(crate) mod update;
mod watch;

use crate::reply::Reply;

pub(crate) fn warn_all(reply: &mut Reply, warnings: &[String]) {
    for (at, warning) in warnings.iter().enumerate() {
        // The same sentence once.
        if !warnings[..at].contains(warning) {
            reply.warn(warning);
        }
    }
}
