//! A client's connection, for who takes it over.

use std::any::Any;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

/// Callers in the same process have none of it.
#[derive(Default)]
pub(crate) struct Wire {
    upgrade: Mutex<Option<OnUpgrade>>,
    body: Mutex<Option<Incoming>>,
    /// What ends with the connection, once that is taken over.
    held: Held,
    pub peer: Option<IpAddr>,
    /// As it was written.
    pub query: String,
}

/// Shared by a call and who carries its connection.
pub(crate) type Held = Arc<Mutex<Vec<Box<dyn Any + Send>>>>;

/// How a connection's other end is put into a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub IpAddr);

impl Wire {
    pub fn new(upgrade: OnUpgrade, body: Incoming, peer: Option<IpAddr>, query: &str) -> Self {
        let (upgrade, body) = (Mutex::new(Some(upgrade)), Mutex::new(Some(body)));
        Self { upgrade, body, held: Held::default(), peer, query: query.to_owned() }
    }

    /// To be taken once.
    pub fn take_upgrade(&self) -> Option<OnUpgrade> {
        self.upgrade.lock().expect("nobody panics while holding it").take()
    }

    /// Keeps something until the connection that was taken over ends.
    pub fn hold(&self, thing: Box<dyn Any + Send>) {
        self.held.lock().expect("nobody panics while holding it").push(thing);
    }

    /// For whoever carries the connection: what is held goes with the last of these.
    pub fn held(&self) -> Held {
        self.held.clone()
    }

    /// The body that was not read; to be taken once.
    pub fn take_body(&self) -> Option<Incoming> {
        self.body.lock().expect("nobody panics while holding it").take()
    }
}

/// Whether a path is one whose connection is passed on: its body is not read here.
pub(crate) fn is_passed_on(path: &str) -> bool {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match segments.as_slice() {
        ["api", "v1", "nodes", _, subresource, ..] => *subresource == "proxy",
        ["api", "v1", "namespaces", _, "pods", _, subresource, ..] => {
            matches!(*subresource, "exec" | "attach" | "portforward" | "proxy")
        }
        ["api", "v1", "namespaces", _, "services", _, subresource, ..] => *subresource == "proxy",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (path, expect) in [
            ("/api/v1/namespaces/a/pods/p/exec", true),
            ("/api/v1/namespaces/a/pods/p/proxy/x/y", true),
            ("/api/v1/namespaces/a/services/s/proxy/", true),
            ("/api/v1/nodes/n/proxy/logs/", true),
            ("/api/v1/namespaces/a/services/s/exec", false),
            ("/api/v1/namespaces/a/pods/p/log", false),
            ("/api/v1/namespaces/a/pods/exec", false),
            ("/apis/apps/v1/namespaces/a/pods/p/exec", false),
        ] {
            assert_eq!(is_passed_on(path), expect, "{path}");
        }
    }
}
