//! `/metrics`: what the server did and how it is, in Prometheus' text, under upstream's names.
//!
//! A request costs a hash, a look into a table and a few atomic additions ([`table`]); everything else is found out when
//! somebody asks ([`text`], [`process`]).

mod process;
mod table;
mod text;

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use http::header::CONTENT_TYPE;
use jiff::Timestamp;

use self::table::{Series, Table};
use crate::call::Call;
use crate::request::RequestInfo;

/// Combinations of labels that are told apart; what comes later is counted as one that says nothing.
const SERIES: usize = 1024;
/// Subresources that are connections.
const CONNECTIONS: [&str; 4] = ["exec", "attach", "portforward", "proxy"];

pub(crate) struct Metrics {
    /// By everything and the status code.
    requests: Table,
    /// By the same without the code.
    durations: Table,
    /// Read-only ones, and those that change something.
    in_flight: [AtomicI64; 2],
    started: Timestamp,
}

/// One request while it is answered; it is under way no more when this is dropped.
pub(crate) struct InFlight<'a> {
    gauge: Option<&'a AtomicI64>,
    since: Instant,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(gauge) = self.gauge {
            gauge.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What requests are told apart by.
#[derive(Hash, Default)]
struct Labels<'a> {
    verb: &'static str,
    dry_run: bool,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
    scope: &'static str,
}

impl<'a> Labels<'a> {
    fn of(call: &Call, info: &'a RequestInfo) -> Self {
        let Some(target) = &info.target else { return Self { verb: verb(call, info), ..Self::default() } };
        let scope = match (target.name.is_empty(), target.namespace.is_empty()) {
            (false, _) => "resource",
            (true, _) if info.verb == "create" => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
        Self {
            verb: verb(call, info),
            dry_run: call.query.get("dryRun").is_some(),
            group: &target.group,
            version: &target.version,
            resource: &target.resource,
            subresource: &target.subresource,
            scope,
        }
    }

    fn text(&self) -> String {
        format!(
            "verb=\"{}\",dry_run=\"{}\",group=\"{}\",version=\"{}\",resource=\"{}\",subresource=\"{}\",scope=\"{}\",\
             component=\"apiserver\"",
            self.verb,
            if self.dry_run { "All" } else { "" },
            escaped(self.group),
            escaped(self.version),
            escaped(self.resource),
            escaped(self.subresource),
            self.scope,
        )
    }
}

/// Upstream's word for what is done.
fn verb(call: &Call, info: &RequestInfo) -> &'static str {
    let is_apply = || call.header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/apply-patch"));
    let connects = || info.target.as_ref().is_some_and(|target| CONNECTIONS.contains(&&*target.subresource));
    match info.verb {
        "get" | "create" | "update" | "patch" | "delete" if connects() => "CONNECT",
        "get" | "head" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" if is_apply() => "APPLY",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    }
}

impl Metrics {
    pub fn new() -> Self {
        Self {
            requests: Table::new(SERIES),
            durations: Table::new(SERIES),
            in_flight: Default::default(),
            started: skiff_base::time::now(),
        }
    }

    /// A request begins.
    pub fn begin(&self, info: &RequestInfo) -> InFlight<'_> {
        let gauge = match info.verb {
            "watch" => None,
            "get" | "list" | "head" | "options" | "" => Some(&self.in_flight[0]),
            _ => Some(&self.in_flight[1]),
        };
        if let Some(gauge) = gauge {
            gauge.fetch_add(1, Ordering::Relaxed);
        }
        InFlight { gauge, since: Instant::now() }
    }

    /// It was answered. `is_served` says whether there is such a resource: names that anybody may make up are not kept.
    pub fn answered(
        &self,
        call: &Call,
        info: &RequestInfo,
        begun: &InFlight<'_>,
        code: u16,
        is_served: impl Fn() -> bool,
    ) {
        let mut labels = Labels::of(call, info);
        let mut hasher = DefaultHasher::new();
        labels.hash(&mut hasher);
        if info.target.is_some() && !self.durations.has(hasher.finish()) && !is_served() {
            labels = Labels { verb: labels.verb, ..Labels::default() };
            hasher = DefaultHasher::new();
            labels.hash(&mut hasher);
        }
        let timed = !matches!(labels.verb, "WATCH" | "CONNECT");
        let duration = self.durations.find(hasher.finish(), || Series::new(labels.text(), true));
        if timed {
            duration.observe(begun.since.elapsed());
        }
        code.hash(&mut hasher);
        let request =
            self.requests.find(hasher.finish(), || Series::new(format!("{},code=\"{code}\"", labels.text()), false));
        request.count();
    }
}

/// As it may stand between quotes.
fn escaped(text: &str) -> Cow<'_, str> {
    match text.contains(['\\', '"', '\n']) {
        true => Cow::Owned(text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")),
        false => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::User;
    use bytes::Bytes;
    use http::{HeaderMap, Method};
    use std::sync::Arc;

    fn call(method: Method, path: &str) -> Call {
        let user = Arc::new(User::new("u", &[]));
        Call::new(method, &path.parse().expect("a path"), HeaderMap::new(), Bytes::new(), user)
    }

    #[test]
    fn requests_are_told_apart() {
        let metrics = Metrics::new();
        let ask = |method: Method, path: &str, code: u16, served: bool| {
            let call = call(method, path);
            let info = RequestInfo::of(&call);
            let begun = metrics.begin(&info);
            metrics.answered(&call, &info, &begun, code, || served);
        };
        let pods = "/api/v1/namespaces/a/pods";
        ask(Method::GET, pods, 200, true);
        ask(Method::GET, &format!("{pods}?limit=1"), 200, true);
        ask(Method::POST, &format!("{pods}?dryRun=All"), 201, true);
        ask(Method::GET, "/apis/made/up/things", 404, false);
        ask(Method::GET, "/version", 200, false);
        let mut text = String::new();
        metrics.requests.each(|series| series.write_count("n", &mut text));
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        let rest = "component=\"apiserver\"";
        assert_eq!(
            lines,
            [
                format!(
                    "n{{verb=\"GET\",dry_run=\"\",group=\"\",version=\"\",resource=\"\",subresource=\"\",scope=\"\",{rest},code=\"200\"}} 1"
                ),
                format!(
                    "n{{verb=\"LIST\",dry_run=\"\",group=\"\",version=\"\",resource=\"\",subresource=\"\",scope=\"\",{rest},code=\"404\"}} 1"
                ),
                format!(
                    "n{{verb=\"LIST\",dry_run=\"\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"\",scope=\"namespace\",{rest},code=\"200\"}} 2"
                ),
                format!(
                    "n{{verb=\"POST\",dry_run=\"All\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"\",scope=\"resource\",{rest},code=\"201\"}} 1"
                ),
            ]
        );
        assert_eq!(metrics.in_flight.each_ref().map(|gauge| gauge.load(Ordering::Relaxed)), [0, 0]);
    }
}
