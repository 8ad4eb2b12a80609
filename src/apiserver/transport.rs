//! The way in for callers of the same process: the same path as over HTTPS, without the wire.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::HeaderMap;
use skiff_api::selector::FieldSelector;
use skiff_api::{ApiError, Gvr};
use skiff_base::{Backoff, chain};
use skiff_client::{Body, Error, Feed, Result, Selector, Transport, Update};
use tracing::warn;

use crate::auth::{Attributes, User};
use crate::cache::{Event, Filter, Seen, Subscription, Told};
use crate::call::Call;
use crate::reply::{Payload, Reply};
use crate::server::Server;

/// A transport with one identity.
#[derive(Clone)]
pub(crate) struct InProcess {
    pub server: Weak<Server>,
    pub user: Arc<User>,
}

#[derive(Debug, thiserror::Error)]
#[error("the API server has stopped")]
struct Stopped;

impl InProcess {
    fn server(&self) -> Result<Arc<Server>> {
        self.server.upgrade().ok_or_else(|| Error::Transport(Box::new(Stopped)))
    }

    async fn answer(&self, request: http::Request<Bytes>) -> Result<Reply> {
        let server = self.server()?;
        let (mut parts, body) = request.into_parts();
        let agent = parts.headers.entry(http::header::USER_AGENT);
        if let (http::header::Entry::Vacant(agent), Ok(name)) = (agent, program(&self.user.name).parse()) {
            agent.insert(name);
        }
        let call = Call::new(parts.method, &parts.uri, parts.headers, body, self.user.clone());
        Ok(server.handle(&call).await)
    }
}

/// The name that a part of this process writes under.
fn program(user: &str) -> &str {
    match user.strip_prefix("system:") {
        Some(node) if node.starts_with("node:") => "kubelet",
        // Each controller has an identity of its own; they are one program.
        Some(account) if account.starts_with("serviceaccount:kube-system:") => "kube-controller-manager",
        Some(name) => name,
        None => user,
    }
}

fn response<B>(status: http::StatusCode, headers: HeaderMap, body: B) -> http::Response<B> {
    let mut response = http::Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

#[async_trait]
impl Transport for InProcess {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>> {
        let reply = self.answer(request).await?;
        let (status, headers, body) = reply.into_whole().await.map_err(|e| Error::Transport(Box::new(e)))?;
        Ok(response(status, headers, body))
    }

    async fn stream(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>> {
        let reply = self.answer(request).await?;
        let body: Body = match reply.body {
            Payload::Whole(bytes) => stream::iter([Ok(bytes)]).boxed(),
            Payload::Pieces(pieces) => pieces.map(|p| p.map_err(|e| Error::Transport(Box::new(e)))).boxed(),
        };
        Ok(response(reply.status, reply.headers, body))
    }

    fn observe(&self, resource: &Gvr, selector: &Selector) -> Feed {
        let is_remote =
            |server: Arc<Server>| server.aggregation.table().find(&resource.group, &resource.version).is_some();
        if self.server.upgrade().is_some_and(is_remote) {
            // There is no cache of it here.
            return skiff_client::observe(Arc::new(self.clone()), resource, selector);
        }
        let observer = Observer {
            server: self.server.clone(),
            user: self.user.clone(),
            resource: resource.clone(),
            selector: selector.clone(),
            watching: None,
            taken: VecDeque::new(),
            backoff: Backoff::new(Duration::from_millis(20), Duration::from_secs(10)),
        };
        stream::unfold(observer, |mut observer| async move { Some((observer.next().await, observer)) }).boxed()
    }
}

/// One observation: it starts over whenever its queue ends.
struct Observer {
    server: Weak<Server>,
    user: Arc<User>,
    resource: Gvr,
    selector: Selector,
    watching: Option<(Subscription, Arc<Filter>)>,
    /// Changes that were taken and not told yet.
    taken: VecDeque<Arc<Event>>,
    backoff: Backoff,
}

impl Observer {
    async fn next(&mut self) -> Update {
        loop {
            if let Some((subscription, filter)) = &mut self.watching {
                if let Some(update) = self.taken.pop_front().map(|event| update(&event, filter)) {
                    match update {
                        Some(update) => return update,
                        None => continue,
                    }
                }
                match subscription.next().await {
                    Told::Changes(changes) => {
                        self.taken.extend(changes);
                        continue;
                    }
                    Told::Behind(_) | Told::Over => self.watching = None,
                }
            }
            match self.start() {
                Ok(update) => {
                    self.backoff.reset();
                    return update;
                }
                Err(error) => {
                    warn!(resource = %self.resource, error = %chain(&error), "observe");
                    tokio::time::sleep(self.backoff.next_wait()).await;
                }
            }
        }
    }

    fn start(&mut self) -> Result<Update> {
        let Some(server) = self.server.upgrade() else { return Err(Error::Transport(Box::new(Stopped))) };
        let Gvr { group, version, resource } = &self.resource;
        let named = FieldSelector::parse(&self.selector.fields).map_err(|e| ApiError::bad_request(e.to_string()))?;
        for verb in ["list", "watch"] {
            let asked = Attributes {
                verb,
                group,
                resource,
                namespace: &self.selector.namespace,
                name: named.requires_exact("metadata.name").unwrap_or_default(),
                fields: Some(&named),
                ..Attributes::default()
            };
            server.authorizer.authorize(&self.user, &asked)?;
        }
        let registry = server.registry.load();
        let row = registry.find(group, version, resource).ok_or_else(crate::error::path_not_found)?;
        let strategy = row.selecting();
        let Selector { namespace, fields, labels } = &self.selector;
        let filter = Arc::new(Filter::new(namespace, labels, fields, strategy)?);
        let (snapshot, subscription) = row.cache.subscribe_all(&filter);
        self.watching = Some((subscription, filter));
        Ok(Update::Replace(snapshot.entries.iter().map(|e| e.object.clone()).collect()))
    }
}

fn update(event: &Event, filter: &Filter) -> Option<Update> {
    Some(match event.seen_by(filter)? {
        Seen::Added(entry) | Seen::Modified(entry) => Update::Put(entry.object.clone()),
        Seen::Deleted { entry, .. } => Update::Delete(entry.object.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_process_write_under_their_programs_names() {
        for (user, expect) in [
            ("system:node:n1", "kubelet"),
            ("system:kube-scheduler", "kube-scheduler"),
            ("system:kube-controller-manager", "kube-controller-manager"),
            ("system:serviceaccount:kube-system:deployment-controller", "kube-controller-manager"),
            ("system:skiff", "skiff"),
            ("somebody", "somebody"),
        ] {
            assert_eq!(program(user), expect, "{user}");
        }
    }
}
