//! The text of Prometheus.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use skiff_api::ApiError;

use super::{Metrics, escaped, process};
use crate::call::Call;
use crate::error::{method_not_allowed, path_not_found};
use crate::health;
use crate::reply::Reply;
use crate::server::Server;

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("writing to memory");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(self.0, "{name}{labels} {value}").expect("writing to memory");
    }
}

impl Metrics {
    fn write(&self, text: &mut Text) {
        let name = "apiserver_request_total";
        text.head(
            name,
            "counter",
            "Counter of apiserver requests broken out for each verb, dry run value, group, \
            version, resource, scope, component, and HTTP response code.",
        );
        self.requests.each(|series| series.write_count(name, &mut text.0));
        for (name, help) in [
            (
                "apiserver_request_duration_seconds",
                "Response latency distribution in seconds for each verb, dry run \
                value, group, version, resource, subresource, scope and component.",
            ),
            (
                "apiserver_request_sli_duration_seconds",
                "The same under the name that service levels go by; the time of \
                webhooks is in it.",
            ),
        ] {
            text.head(name, "histogram", help);
            self.durations.each(|series| series.write_times(name, &mut text.0));
        }
        let name = "apiserver_current_inflight_requests";
        text.head(name, "gauge", "Number of requests that are being answered, by kind; watches are not counted.");
        for (kind, gauge) in ["readOnly", "mutating"].into_iter().zip(&self.in_flight) {
            text.line(name, &[("request_kind", kind)], gauge.load(Ordering::Relaxed) as f64);
        }
        let name = "process_start_time_seconds";
        text.head(name, "gauge", "Start time of the process since unix epoch in seconds.");
        text.line(name, &[], self.started.as_millisecond() as f64 / 1000.0);
    }
}

impl Server {
    /// `/metrics` and what is behind it.
    pub(crate) async fn metrics_text(&self, call: &Call, rest: &[&str]) -> Result<Reply, ApiError> {
        if !matches!(call.method, http::Method::GET | http::Method::HEAD) {
            return Err(method_not_allowed());
        }
        let mut text = Text(String::new());
        match rest {
            [] => {
                self.metrics.write(&mut text);
                self.write_objects(&mut text);
                self.write_services(&mut text);
                // Reads files of the kernel.
                let figures = tokio::task::spawn_blocking(process::figures).await.map_err(ApiError::internal)?;
                for (name, kind, help, value) in figures {
                    text.head(name, kind, help);
                    text.line(name, &[], value);
                }
                write_build(&mut text);
            }
            ["slis"] => self.write_checks(&mut text),
            _ => return Err(path_not_found()),
        }
        Ok(Reply::new(200, CONTENT_TYPE, text.0))
    }

    /// How many objects there are.
    fn write_objects(&self, text: &mut Text) {
        let registry = self.registry.load();
        // A resource of several versions is one.
        let stored: Vec<_> = registry
            .rows()
            .iter()
            .filter(|row| row.home.is_none())
            .map(|row| (row.group().to_owned(), row.resource().to_owned(), row.cache.len() as f64))
            .collect();
        let name = "apiserver_storage_objects";
        text.head(name, "gauge", "Number of stored objects, by kind.");
        for (group, resource, count) in &stored {
            let dotted = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
            text.line(name, &[("resource", &dotted)], *count);
        }
        let name = "apiserver_resource_objects";
        text.head(name, "gauge", "Number of stored objects, by group and resource.");
        for (group, resource, count) in &stored {
            text.line(name, &[("group", group), ("resource", resource)], *count);
        }
    }

    /// Which other servers can't be used.
    fn write_services(&self, text: &mut Text) {
        let name = "aggregator_unavailable_apiservice";
        text.head(
            name,
            "gauge",
            "Gauge of APIServices which are marked as unavailable broken down by APIService name.",
        );
        for remote in &self.aggregation.table().remotes {
            text.line(name, &[("name", &remote.name)], if remote.available { 0.0 } else { 1.0 });
        }
    }

    fn write_checks(&self, text: &mut Text) {
        let name = "kubernetes_healthcheck";
        text.head(name, "gauge", "This metric records the result of a single healthcheck.");
        for kind in ["healthz", "livez", "readyz"] {
            for (check, good) in self.checks(kind) {
                text.line(name, &[("name", check), ("type", kind)], if good { 1.0 } else { 0.0 });
            }
        }
    }
}

fn write_build(text: &mut Text) {
    let name = "kubernetes_build_info";
    text.head(name, "gauge", "A metric with a constant '1' value labeled by the version of the build.");
    let version = health::version();
    let of = |field: &str| version[field].as_str().unwrap_or_default().to_owned();
    let labels = [
        ("build_date", of("buildDate")),
        ("compiler", of("compiler")),
        ("git_commit", of("gitCommit")),
        ("git_tree_state", of("gitTreeState")),
        ("git_version", of("gitVersion")),
        ("go_version", of("goVersion")),
        ("major", of("major")),
        ("minor", of("minor")),
        ("platform", of("platform")),
    ];
    let labels: Vec<(&str, &str)> = labels.iter().map(|(label, value)| (*label, value.as_str())).collect();
    text.line(name, &labels, 1.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_quoted() {
        let mut text = Text(String::new());
        text.line("n", &[("a", "x\"y\\z\n"), ("b", "")], 1.5);
        text.line("m", &[], 2.0);
        assert_eq!(text.0, "n{a=\"x\\\"y\\\\z\\n\",b=\"\"} 1.5\nm 2\n");
    }
}
