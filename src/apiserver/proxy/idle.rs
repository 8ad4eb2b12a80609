//! Connections to other servers that wait for the next request.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::upstream::Connection;

/// Servers end a connection that nothing comes over, most of them after a minute or more.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// Of all webhooks together.
const KEPT_MAX: usize = 16;

/// Connections that wait for the next question.
#[derive(Default)]
pub(crate) struct Idle(Mutex<VecDeque<Kept>>);

struct Kept {
    to: Place,
    since: Instant,
    connection: Connection,
}

/// Where to connect, who must be there, and by which authority that one is known.
#[derive(Clone, PartialEq)]
pub(crate) struct Place {
    pub host: String,
    pub port: u16,
    pub name: String,
    pub ca_bundle: Vec<u8>,
}

impl Idle {
    pub fn take(&self, to: &Place) -> Option<Connection> {
        let mut kept = self.0.lock().expect("nobody panics while holding it");
        kept.retain(|kept| kept.since.elapsed() < KEPT_FOR && kept.connection.is_ready());
        let at = kept.iter().rposition(|kept| kept.to == *to)?;
        kept.remove(at).map(|kept| kept.connection)
    }

    pub fn keep(&self, to: Place, connection: Connection) {
        let mut kept = self.0.lock().expect("nobody panics while holding it");
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(Kept { to, since: Instant::now(), connection });
    }
}
