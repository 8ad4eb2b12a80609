//! `/openapi/v2` and `/openapi/v3`: documents that are made when asked for, and forgotten when nobody
//! asked for a while, since together they are the largest thing in memory of an idle server.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, ETAG, EXPIRES, IF_NONE_MATCH, LOCATION, VARY};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use skiff_api::ApiError;
use skiff_api::openapi::{Others, hash, v2_document, v2_protobuf, v3_document, v3_index};
use skiff_api::strategy::Descriptor;

use crate::call::Call;
use crate::discovery::hex;
use crate::documents::KEEP;
use crate::error::{method_not_allowed, not_acceptable, path_not_found};
use crate::registry::Registry;
use crate::reply::{JSON, Reply};
use crate::server::Server;

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// The same in the form of RFC 2045, which knows no `@`: answers name it so.
const V2_PROTOBUF_DOTTED: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

impl Server {
    pub(crate) async fn openapi(&self, call: &Call) -> Result<Reply, ApiError> {
        if call.method != http::Method::GET && call.method != http::Method::HEAD {
            return Err(method_not_allowed());
        }
        let registry = self.registry.load_full();
        let segments: Vec<&str> = call.segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["openapi", "v2"] => self.v2(call, &registry).await,
            ["openapi", "v3"] => Ok(Reply::value(200, &self.index(&registry))),
            ["openapi", "v3", path @ ..] => {
                if let Some(remote) = self.aggregation.remote(&call.segments[2..]) {
                    return self.aggregated(call, &remote).await;
                }
                match path {
                    ["api", version] => self.v3(call, &registry, "", version),
                    ["apis", group, version] => self.v3(call, &registry, group, version),
                    _ => Err(path_not_found()),
                }
            }
            _ => Err(path_not_found()),
        }
    }

    /// What is served here, and what other servers said of theirs.
    fn index(&self, registry: &Registry) -> Value {
        let mut index = v3_index(&versions(registry));
        for remote in &self.aggregation.table().remotes {
            let path = remote.path();
            let path = path.trim_start_matches('/');
            match &remote.found.openapi {
                Some(url) => index["paths"][path] = json!({"serverRelativeURL": url}),
                None => drop(index["paths"].as_object_mut().and_then(|paths| paths.remove(path))),
            }
        }
        index
    }

    async fn v2(&self, call: &Call, registry: &Registry) -> Result<Reply, ApiError> {
        let accept = call.header(http::header::ACCEPT).unwrap_or("*/*");
        let mut wanted = accept.split(',').map(|entry| entry.split(';').next().unwrap_or_default().trim());
        let media = wanted.find_map(|media| match media {
            V2_PROTOBUF | V2_PROTOBUF_DOTTED => Some(V2_PROTOBUF_DOTTED),
            "application/json" | "*/*" | "application/*" | "" => Some(JSON),
            _ => None,
        });
        let media = media.ok_or_else(not_acceptable)?;
        let descriptors: Vec<&Descriptor> = registry.rows().iter().map(|r| &*r.descriptor).collect();
        let swaggers = self.swaggers().await;
        let others: Vec<&Others> = swaggers.iter().map(|swagger| &*swagger.others).collect();
        let mut hash = hash(&descriptors);
        if !swaggers.is_empty() {
            let all: Vec<&str> = [hash.as_str()].into_iter().chain(swaggers.iter().map(|s| &*s.hash)).collect();
            hash = hex(&Sha256::digest(all.concat()));
        }
        let make = if media == JSON { v2_document } else { v2_protobuf };
        Ok(self.document(call, &format!("v2 {media}"), &hash, media, || make(&descriptors, &others)))
    }

    fn v3(&self, call: &Call, registry: &Registry, group: &str, version: &str) -> Result<Reply, ApiError> {
        let descriptors = of_version(registry, group, version);
        if descriptors.is_empty() {
            return Err(path_not_found());
        }
        let accept = call.header(http::header::ACCEPT).unwrap_or("*/*");
        if !accept.split(',').any(|e| {
            matches!(e.split(';').next().map(str::trim), Some("application/json" | "*/*" | "application/*" | ""))
        }) {
            return Err(not_acceptable());
        }
        let make = || v3_document(group, version, &descriptors);
        let hash = hash(&descriptors);
        // What is kept for ever under a name of its own must be what the name says.
        if let Some(asked) = call.query.get("hash").filter(|asked| *asked != hash) {
            tracing::debug!(asked, "an OpenAPI document of another time");
            let mut reply = Reply::new(301, JSON, Bytes::new());
            reply.set(LOCATION, &format!("{}?hash={hash}", call.path));
            return Ok(reply);
        }
        let mut reply = self.document(call, &format!("v3 {group}/{version}"), &hash, JSON, make);
        if call.query.has("hash") {
            reply.set(CACHE_CONTROL, "public, immutable");
            reply.set(EXPIRES, "Thu, 31 Dec 2099 23:59:59 GMT");
        }
        Ok(reply)
    }

    fn document(&self, call: &Call, name: &str, hash: &str, media: &str, make: impl FnOnce() -> Vec<u8>) -> Reply {
        let tag = format!("\"{hash}\"");
        let known = call.header(IF_NONE_MATCH).is_some_and(|tags| tags.split(',').any(|t| t.trim() == tag));
        let mut reply = if known {
            Reply::new(304, media, Bytes::new())
        } else {
            let bytes = self.documents.get(name, hash, make);
            self.tidy_documents_later();
            Reply::new(200, media, bytes)
        };
        reply.set(ETAG, &tag);
        reply.set(VARY, "Accept");
        reply
    }

    fn tidy_documents_later(&self) {
        let Some(server) = self.me.upgrade() else { return };
        self.scope.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(KEEP + Duration::from_secs(1)) => {
                    server.documents.tidy();
                    server.aggregation.swaggers.tidy();
                }
                () = server.scope.token().cancelled() => {}
            }
        });
    }
}

/// The group versions as paths, with the hashes of their documents.
fn versions(registry: &Registry) -> Vec<(String, String)> {
    let groups = registry.groups().into_iter();
    let all = groups.flat_map(|(group, versions)| versions.into_iter().map(move |version| (group, version)));
    all.map(|(group, version)| {
        let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
        (path, hash(&of_version(registry, group, version)))
    })
    .collect()
}

fn of_version<'a>(registry: &'a Registry, group: &str, version: &str) -> Vec<&'a Descriptor> {
    let rows = registry.rows().iter().map(|r| &*r.descriptor);
    rows.filter(|d| &*d.gvr.group == group && &*d.gvr.version == version).collect()
}
