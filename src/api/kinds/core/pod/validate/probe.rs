//! Probes and lifecycle hooks.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::field::{Errors, Path};
use crate::kinds::checks::{nonnegative, port_number_or_name, required, text};

const SCHEMES: &[&str] = &["HTTP", "HTTPS"];
const ONE_HANDLER: &str = "may not specify more than 1 handler type";

pub(super) fn lifecycle_and_probes(
    spec: &core::PodSpec,
    container: &core::Container,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let grace = spec.termination_grace_period_seconds;
    if let Some(lifecycle) = &container.lifecycle {
        let path = path.child("lifecycle");
        for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
            if let Some(hook) = hook {
                self::hook(hook, grace, &path.child(field), errors);
            }
        }
    }
    if let Some(probe) = &container.liveness_probe {
        self::probe(probe, &path.child("livenessProbe"), errors);
        succeeds_once(probe, &path.child("livenessProbe"), errors);
    }
    if let Some(probe) = &container.readiness_probe {
        let path = path.child("readinessProbe");
        self::probe(probe, &path, errors);
        if let Some(seconds) = probe.termination_grace_period_seconds {
            errors.invalid(
                &path.child("terminationGracePeriodSeconds"),
                seconds,
                "must not be set for readinessProbes",
            );
        }
    }
    if let Some(probe) = &container.startup_probe {
        self::probe(probe, &path.child("startupProbe"), errors);
        succeeds_once(probe, &path.child("startupProbe"), errors);
    }
}

fn succeeds_once(probe: &core::Probe, path: &Path<'_>, errors: &mut Errors) {
    let threshold = probe.success_threshold.unwrap_or(0);
    if threshold != 1 {
        errors.invalid(&path.child("successThreshold"), threshold, "must be 1");
    }
}

fn probe(probe: &core::Probe, path: &Path<'_>, errors: &mut Errors) {
    let mut handlers = 0;
    let mut one_more = |field: &str, errors: &mut Errors| {
        handlers += 1;
        if handlers > 1 {
            errors.forbidden(&path.child(field), ONE_HANDLER);
        }
        handlers == 1
    };
    if let Some(action) = &probe.exec
        && one_more("exec", errors)
    {
        exec(action, &path.child("exec"), errors);
    }
    if let Some(action) = &probe.http_get
        && one_more("httpGet", errors)
    {
        http_get(action, &path.child("httpGet"), errors);
    }
    if let Some(action) = &probe.tcp_socket
        && one_more("tcpSocket", errors)
    {
        port_number_or_name(&action.port, &path.child("tcpSocket.port"), errors);
    }
    if let Some(action) = &probe.grpc
        && one_more("grpc", errors)
    {
        port_number_or_name(&IntOrString::Int(action.port), &path.child("grpc.port"), errors);
    }
    if handlers == 0 {
        errors.required(path, "must specify a handler type");
    }
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (field, value) in numbers {
        nonnegative(value.unwrap_or(0), &path.child(field), errors);
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|s| *s <= 0) {
        errors.invalid(&path.child("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
}

fn hook(hook: &core::LifecycleHandler, grace: Option<i64>, path: &Path<'_>, errors: &mut Errors) {
    let mut handlers = 0;
    let mut one_more = |field: &str, errors: &mut Errors| {
        handlers += 1;
        if handlers > 1 {
            errors.forbidden(&path.child(field), ONE_HANDLER);
        }
        handlers == 1
    };
    if let Some(action) = &hook.exec
        && one_more("exec", errors)
    {
        exec(action, &path.child("exec"), errors);
    }
    if let Some(action) = &hook.http_get
        && one_more("httpGet", errors)
    {
        http_get(action, &path.child("httpGet"), errors);
    }
    if let Some(action) = &hook.tcp_socket
        && one_more("tcpSocket", errors)
    {
        port_number_or_name(&action.port, &path.child("tcpSocket.port"), errors);
    }
    if let Some(action) = &hook.sleep
        && one_more("sleep", errors)
        && let Some(grace) = grace
        && !(0..=grace).contains(&action.seconds)
    {
        let message = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.invalid(&path.child("sleep"), action.seconds, &message);
    }
    if handlers == 0 {
        errors.required(path, "must specify a handler type");
    }
}

fn exec(action: &core::ExecAction, path: &Path<'_>, errors: &mut Errors) {
    if action.command.as_ref().is_none_or(Vec::is_empty) {
        errors.required(&path.child("command"), "");
    }
}

fn http_get(action: &core::HTTPGetAction, path: &Path<'_>, errors: &mut Errors) {
    required(text(&action.path), &path.child("path"), errors);
    port_number_or_name(&action.port, &path.child("port"), errors);
    let scheme = text(&action.scheme);
    if !SCHEMES.contains(&scheme) {
        errors.not_supported(&path.child("scheme"), scheme, SCHEMES);
    }
    for header in action.http_headers.iter().flatten() {
        let good = !header.name.is_empty() && header.name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
        if !good {
            errors.invalid(
                &path.child("httpHeaders"),
                &header.name,
                "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for \
                 validation is '[-A-Za-z0-9]+')",
            );
        }
    }
}
