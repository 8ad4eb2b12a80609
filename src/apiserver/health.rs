//! `/version`, `/healthz`, `/livez`, `/readyz`, and the old ComponentStatuses.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use skiff_api::{ApiError, Object};

use crate::cache::Entry;
use crate::call::{Call, Target};
use crate::encode::{self, Encoder, IncludeObject, ListMeta};
use crate::negotiate::negotiate;
use crate::path::list;
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;

/// The version of Kubernetes whose API this is.
pub const KUBERNETES: &str = "v1.36.0";

/// `/version`.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "36",
        "gitVersion": format!("{KUBERNETES}+skiff{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_architecture()),
    })
}

fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

impl Server {
    /// The checks of `healthz`, `livez` or `readyz`, and how they come out.
    pub(crate) fn checks(&self, kind: &str) -> Vec<(&'static str, bool)> {
        let running = !self.scope.token().is_cancelled();
        let mut checks = vec![("ping", true), ("store", self.caught_up())];
        if kind != "livez" {
            checks.push(("poststarthook/start-system-namespaces", self.ready.load(Ordering::Acquire)));
        }
        if kind == "readyz" {
            checks.push(("shutdown", running));
        }
        checks
    }

    /// `kind` is `healthz`, `livez` or `readyz`; `check` one of its checks, or empty.
    pub(crate) fn health(&self, call: &Call, kind: &str, check: &str) -> Reply {
        let checks = self.checks(kind);
        if !check.is_empty() {
            return match checks.iter().find(|(name, _)| *name == check) {
                Some((_, true)) => Reply::text(200, "ok"),
                Some((_, false)) => Reply::text(500, format!("internal server error: {check} is not ready\n")),
                None => Reply::text(404, "404 page not found\n"),
            };
        }
        let good = checks.iter().all(|(_, good)| *good);
        if good && !call.query.has("verbose") {
            return Reply::text(200, "ok");
        }
        let mut text = String::new();
        for (name, good) in &checks {
            let line = if *good { format!("[+]{name} ok\n") } else { format!("[-]{name} failed: not ready\n") };
            text.push_str(&line);
        }
        text.push_str(&format!("{kind} check {}\n", if good { "passed" } else { "failed" }));
        Reply::text(if good { 200 } else { 500 }, text)
    }
    fn caught_up(&self) -> bool {
        self.cache.revision() >= self.store.compacted().0
    }

    /// What the server knows of: its store. Scheduler and controllers live and die with it, in one process.
    pub(crate) fn component_statuses(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let wanted = negotiate(call.header(http::header::ACCEPT), true)?;
        let encoder = Encoder::new(row, wanted.form, IncludeObject::parse(call.query.get("includeObject"))?);
        let gvk = &row.descriptor.gvk;
        let health = match self.caught_up() {
            true => json!({"type": "Healthy", "status": "True", "message": "ok"}),
            false => json!({"type": "Healthy", "status": "False", "message": "", "error": "is not ready"}),
        };
        let store = json!({
            "apiVersion": gvk.api_version(), "kind": &*gvk.kind, "metadata": {"name": "store"}, "conditions": [health],
        });
        let revision = self.cache.revision();
        let store = Object::parse(Object::canonical(&store), revision)
            .map_err(|e| ApiError::internal(skiff_base::chain(&e)))?;
        if target.name.is_empty() {
            let filter = list::filter(&call.query, target, row)?;
            let entry = Entry::new(Arc::new(store));
            let objects = filter.matches(&entry).then(|| entry.object.clone()).into_iter().collect();
            return Ok(encode::list(objects, &ListMeta { revision, ..ListMeta::default() }, &encoder, wanted));
        }
        match target.name == *store.meta.name {
            true => Ok(encode::object(200, &store, &encoder, wanted.encoding)),
            false => Err(ApiError::not_found("", "componentstatus", &target.name)),
        }
    }
}
