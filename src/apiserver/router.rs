//! From a call to the code that answers it: one match over the path.

use std::sync::Arc;

use futures::FutureExt as _;
use http::Method;
use skiff_api::ApiError;
use skiff_api::strategy::Subresource;

use crate::audit;
use crate::auth::{Attributes, Decision};
use crate::call::{Call, Target};
use crate::error::{method_not_allowed, path_not_found};
use crate::path::part::Part;
use crate::registry::Row;
use crate::reply::Reply;
use crate::request::RequestInfo;
use crate::reviews;
use crate::server::Server;

/// Those of built-in kinds and of custom resources; the first is the resource itself.
const SUBRESOURCES: [&str; 15] = [
    "",
    "approval",
    "attach",
    "binding",
    "ephemeralcontainers",
    "eviction",
    "exec",
    "finalize",
    "log",
    "portforward",
    "proxy",
    "resize",
    "scale",
    "status",
    "token",
];

/// `apis/GROUP/VERSION/namespaces/NAMESPACE/RESOURCE/NAME/SUBRESOURCE`
const TARGET_SEGMENTS: usize = 8;

impl Server {
    pub(crate) async fn handle(&self, call: &Call) -> Reply {
        let info = RequestInfo::of(call);
        let begun = self.metrics.begin(&info);
        let reply = self.recorded(call, &info).await;
        let is_served = || info.target.as_ref().is_some_and(|target| self.serves(target));
        self.metrics.answered(call, &info, &begun, reply.status.as_u16(), is_served);
        reply
    }

    /// Whether the names that the target gives are ones that are served: strangers may ask for anything, too, and
    /// metrics keep every name that they are told.
    fn serves(&self, target: &Target) -> bool {
        if let Some(remote) = self.aggregation.table().find(&target.group, &target.version) {
            return remote.serves(&target.resource, &target.subresource);
        }
        SUBRESOURCES.contains(&target.subresource.as_str())
            && (self.registry.load().find(&target.group, &target.version, &target.resource).is_some()
                || reviews::find(target).is_some())
    }

    async fn recorded(&self, call: &Call, info: &RequestInfo) -> Reply {
        let recorder = self.audit.as_ref().and_then(|audit| audit.begin(call, info));
        let Some(recorder) = recorder else { return self.respond(call, info).await };
        recorder.received().await;
        let reply = audit::noting(recorder.notes(), self.respond(call, info)).await;
        recorder.responded(call, reply).await
    }

    /// The answer to a request that goes no further than this.
    pub(crate) async fn refuse(&self, call: &Call, reply: Reply) -> Reply {
        let info = RequestInfo::of(call);
        let begun = self.metrics.begin(&info);
        // Strangers may ask for anything: what they name is not told apart.
        self.metrics.answered(call, &info, &begun, reply.status.as_u16(), || false);
        match self.audit.as_ref().and_then(|audit| audit.begin(call, &info)) {
            Some(recorder) => recorder.responded(call, reply).await,
            None => reply,
        }
    }

    async fn respond(&self, call: &Call, info: &RequestInfo) -> Reply {
        // Boxed: the tree of all that can follow is too deep for one type.
        match self.route(call, info).boxed().await {
            Ok(reply) => reply,
            Err(error) => error.into(),
        }
    }

    async fn route(&self, call: &Call, info: &RequestInfo) -> Result<Reply, ApiError> {
        if let Some(remote) = self.aggregation.remote(&call.segments) {
            // The other server gets the path as it was written; what it reads there must be what was authorized here.
            let is_told_otherwise = |part: &String| part.contains('/') || matches!(part.as_str(), "." | "..");
            if call.segments.iter().take(TARGET_SEGMENTS).any(is_told_otherwise) {
                return Err(path_not_found());
            }
            self.authorize(call, &info.attributes()).await?;
            return self.aggregated(call, &remote).await;
        }
        match &info.target {
            Some(target) => self.resource_request(call, target, info).await,
            None => self.other_request(call, info).await,
        }
    }

    /// Refuses, as upstream does, what the user may not do.
    pub(crate) async fn authorize(&self, call: &Call, asked: &Attributes<'_>) -> Result<(), ApiError> {
        let mut decision = self.authorizer.decide(&call.user, asked);
        if matches!(decision, Decision::NoOpinion(_)) {
            // A role that was granted a moment ago may be on its way to the cache. If that can't be awaited, the answer
            // is what is known.
            let _ = self.cache.fresh().await;
            decision = self.authorizer.decide(&call.user, asked);
        }
        let answer = decision.as_result(&call.user, asked);
        // The first question is the request's own.
        let _ = call.decision.set(decision);
        answer
    }

    async fn other_request(&self, call: &Call, info: &RequestInfo) -> Result<Reply, ApiError> {
        self.authorize(call, &info.attributes()).await?;
        if let Some(reply) = self.discovery(call) {
            return reply;
        }
        let segments: Vec<&str> = call.segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            [kind @ ("healthz" | "livez" | "readyz"), check @ ..] => Ok(self.health(call, kind, &check.join("/"))),
            ["metrics", rest @ ..] => self.metrics_text(call, rest).await,
            ["version"] => Ok(Reply::value(200, &crate::health::version())),
            ["openapi", ..] => self.openapi(call).await,
            [".well-known", "openid-configuration"] => Ok(Reply::value(200, &self.openid_configuration())),
            ["openid", "v1", "jwks"] => {
                let keys = self.options.pki.service_account_key().jwks();
                Ok(Reply::new(200, "application/jwk-set+json", keys.to_string()))
            }
            [] => Ok(Reply::value(200, &self.paths())),
            _ => Err(path_not_found()),
        }
    }

    fn openid_configuration(&self) -> serde_json::Value {
        let address = format!("{}:{}", self.options.advertise_ip, self.local.port());
        serde_json::json!({
            "issuer": crate::auth::ISSUER, "jwks_uri": format!("https://{address}/openid/v1/jwks"),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    fn paths(&self) -> serde_json::Value {
        let mut paths = vec!["/api".to_owned(), "/apis".to_owned()];
        for crate::discovery::Group { name, versions } in self.groups() {
            let root = if name.is_empty() { "/api".to_owned() } else { format!("/apis/{name}") };
            paths.extend(versions.iter().map(|version| format!("{root}/{}", version.name)));
            if !name.is_empty() {
                paths.push(root);
            }
        }
        for path in
            ["/healthz", "/livez", "/metrics", "/metrics/slis", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
        {
            paths.push(path.to_owned());
        }
        paths.sort();
        serde_json::json!({ "paths": paths })
    }

    async fn resource_request(&self, call: &Call, target: &Target, info: &RequestInfo) -> Result<Reply, ApiError> {
        let verb = info.verb;
        // What is passed on may be asked in other ways.
        let passed_on = call.method == Method::OPTIONS && target.subresource == "proxy";
        if verb.is_empty() && !passed_on {
            return Err(method_not_allowed());
        }
        self.authorize(call, &info.attributes()).await?;
        if let Some(review) = reviews::find(target) {
            return self.review(call, target, review).await;
        }
        let registry = self.registry.load();
        let found = registry.find(&target.group, &target.version, &target.resource).cloned();
        drop(registry);
        // Bindings are in the registry for discovery; none is ever stored.
        let Some(row) = found.filter(|row| !row.is("", "bindings")) else {
            return match self.measured(call, target, verb).await {
                Some(answer) => answer,
                None => self.without_row(call, target).await,
            };
        };
        let mut reply = self.row_request(call, &row, target, verb).await?;
        if let Some(warning) = row.descriptor.strategy.deprecation() {
            reply.warn(warning);
        }
        Ok(reply)
    }

    async fn row_request(&self, call: &Call, row: &Arc<Row>, target: &Target, verb: &str) -> Result<Reply, ApiError> {
        if row.descriptor.namespaced == target.namespace.is_empty() {
            // Of a namespaced kind all namespaces can be listed and watched, nothing more.
            let all_namespaces =
                row.descriptor.namespaced && matches!(verb, "list" | "watch") && target.name.is_empty();
            if !all_namespaces {
                return Err(if row.descriptor.namespaced && target.name.is_empty() {
                    method_not_allowed()
                } else {
                    path_not_found()
                });
            }
        }
        if !target.subresource.is_empty() {
            return self.subresource_request(call, row, target, verb).await;
        }
        if !row.allows(verb) {
            return Err(method_not_allowed());
        }
        if row.is("", "componentstatuses") {
            return self.component_statuses(call, row, target);
        }
        match verb {
            "get" => self.get(call, row, &target.key()).await,
            "list" => self.list(call, row, target).await,
            "watch" => self.watch(call, row, target).await,
            "create" if target.name.is_empty() => self.create(call, row, target).await,
            "update" if !target.name.is_empty() => self.update(call, row, target, Part::Main).await,
            "patch" if !target.name.is_empty() => self.patch(call, row, target, Part::Main).await,
            "delete" => self.delete(call, row, target).await,
            "deletecollection" => self.delete_collection(call, row, target).await,
            _ => Err(method_not_allowed()),
        }
    }

    /// Resources that hold no objects.
    async fn without_row(&self, call: &Call, target: &Target) -> Result<Reply, ApiError> {
        if target.group.is_empty() && target.resource == "bindings" && !target.namespace.is_empty() {
            if call.method != Method::POST {
                return Err(method_not_allowed());
            }
            let pods = self.registry.load().find("", "v1", "pods").cloned();
            let named = Target { name: String::new(), ..target.clone() };
            return match pods {
                Some(row) => self.bind(call, &row, &named).await,
                None => Err(path_not_found()),
            };
        }
        Err(path_not_found())
    }

    async fn subresource_request(
        &self,
        call: &Call,
        row: &Arc<Row>,
        target: &Target,
        verb: &str,
    ) -> Result<Reply, ApiError> {
        let known = |name: &'static str| row.has(Subresource::Special(name));
        match target.subresource.as_str() {
            "status" if row.has(Subresource::Status) => match verb {
                "get" => self.get(call, row, &target.key()).await,
                "update" => self.update(call, row, target, Part::Status).await,
                "patch" => self.patch(call, row, target, Part::Status).await,
                _ => Err(method_not_allowed()),
            },
            "scale" if row.has(Subresource::Scale) => match verb {
                "get" => self.get_scale(call, row, target).await,
                "update" => self.update_scale(call, row, target).await,
                "patch" => self.patch_scale(call, row, target).await,
                _ => Err(method_not_allowed()),
            },
            "approval" if known("approval") => match verb {
                "get" => self.get(call, row, &target.key()).await,
                "update" => self.update(call, row, target, Part::Approval).await,
                "patch" => self.patch(call, row, target, Part::Approval).await,
                _ => Err(method_not_allowed()),
            },
            "binding" if known("binding") => match verb {
                "create" => self.bind(call, row, target).await,
                _ => Err(method_not_allowed()),
            },
            "eviction" if known("eviction") => match verb {
                "create" => self.evict(call, row, target).await,
                _ => Err(method_not_allowed()),
            },
            "finalize" if known("finalize") => match verb {
                "update" => self.finalize(call, row, target).await,
                _ => Err(method_not_allowed()),
            },
            part @ ("ephemeralcontainers" | "resize") => {
                let Some(part) =
                    ["ephemeralcontainers", "resize"].into_iter().find(|name| *name == part && known(name))
                else {
                    return Err(path_not_found());
                };
                match verb {
                    "get" => self.get(call, row, &target.key()).await,
                    "update" => self.update(call, row, target, Part::Fields(part)).await,
                    "patch" => self.patch(call, row, target, Part::Fields(part)).await,
                    _ => Err(method_not_allowed()),
                }
            }
            "token" if known("token") => match verb {
                "create" => self.request_token(call, row, target).await,
                _ => Err(method_not_allowed()),
            },
            "exec" | "attach" | "portforward" if row.is("", "pods") => self.pod_stream(call, row, target).await,
            "proxy" if known("proxy") => self.proxied(call, row, target).await,
            "log" if known("log") => match verb {
                "get" => self.pod_log(call, row, target).await,
                _ => Err(method_not_allowed()),
            },
            _ => Err(path_not_found()),
        }
    }
}
