//! Ingress.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::networking::v1 as networking;
use serde_json::{Value, json};

use super::segment;
use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{dns_label, dns_subdomain, ip, port_number, text};
use crate::kinds::facts::{self, AGE, Facts, NAME};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;
use crate::kinds::warnings;
use crate::names;
use crate::strategy::Subresource;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
const BAD_SEQUENCES: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const BAD_SUFFIXES: &[&str] = &["/..", "/."];
const HOSTS_SHOWN: usize = 3;
const SPEC: Path<'static> = Path::new("spec");

pub(super) struct Ingresses;

impl Kind for Ingresses {
    type Typed = networking::Ingress;
    const FACTS: Facts = Facts {
        short_names: &["ing"],
        subresources: &[Subresource::Status],
        columns: &[
            NAME,
            facts::text("Class", "Whose task it is."),
            facts::text("Hosts", "The hosts that it is for."),
            facts::text("Address", "Where it is reached."),
            facts::text("Ports", "The ports that are open."),
            AGE,
        ],
        generation: true,
        ..Facts::new("networking.k8s.io", "v1", "ingresses", "Ingress")
    };

    fn prepare_create(ingress: &mut Value) {
        if let Some(map) = ingress.as_object_mut() {
            map.insert("status".to_owned(), json!({"loadBalancer": {}}));
        }
    }

    fn validate_create(ingress: &networking::Ingress, _raw: &Value, errors: &mut Errors) {
        Self::validate(ingress, errors);
        let annotation = ingress.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION));
        let class = ingress.spec.as_ref().and_then(|s| s.ingress_class_name.as_ref());
        if let (Some(annotation), Some(class)) = (annotation, class)
            && annotation != class
        {
            let path = Path::new("annotations");
            let message = "must match `ingressClassName` when both are specified";
            errors.invalid(&path.child(CLASS_ANNOTATION), annotation, message);
        }
    }

    fn validate(ingress: &networking::Ingress, errors: &mut Errors) {
        let empty = networking::IngressSpec::default();
        let spec = ingress.spec.as_ref().unwrap_or(&empty);
        let rules = spec.rules.as_deref().unwrap_or_default();
        if rules.is_empty() && spec.default_backend.is_none() {
            errors.invalid(&SPEC, rules, "either `defaultBackend` or `rules` must be specified");
        }
        if let Some(default) = &spec.default_backend {
            backend(default, &SPEC.child("defaultBackend"), errors);
        }
        for (i, rule) in rules.iter().enumerate() {
            self::rule(rule, &SPEC.child("rules").index(i), errors);
        }
        for (i, tls) in spec.tls.iter().flatten().enumerate() {
            let list = SPEC.child("tls");
            let path = list.index(i);
            for (j, name) in tls.hosts.iter().flatten().enumerate() {
                host(name, &path.child("hosts").index(j), errors);
            }
            if !text(&tls.secret_name).is_empty() {
                dns_subdomain(text(&tls.secret_name), &path.child("secretName"), errors);
            }
        }
        if let Some(class) = &spec.ingress_class_name {
            dns_subdomain(class, &SPEC.child("ingressClassName"), errors);
        }
    }

    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(ingress: &networking::Ingress, _old: &networking::Ingress, errors: &mut Errors) {
        let balancer = ingress.status.as_ref().and_then(|s| s.load_balancer.as_ref());
        let path = Path::new("status");
        let list = path.child("loadBalancer.ingress");
        for (i, one) in balancer.iter().flat_map(|b| b.ingress.iter().flatten()).enumerate() {
            let path = list.index(i);
            if !text(&one.ip).is_empty() {
                ip(text(&one.ip), &path.child("ip"), errors);
            }
            let host = text(&one.hostname);
            if !host.is_empty() {
                dns_subdomain(host, &path.child("hostname"), errors);
                not_an_address(host, &path.child("hostname"), errors);
            }
        }
    }

    fn warnings(ingress: &Value, old: Option<&Value>) -> Vec<String> {
        let annotated = ingress.at("metadata.annotations").get(CLASS_ANNOTATION).is_some();
        if old.is_none() && annotated && ingress.at("spec.ingressClassName").is_null() {
            let message =
                "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead";
            return vec![message.to_owned()];
        }
        Vec::new()
    }

    fn status_warnings(ingress: &Value) -> Vec<String> {
        warnings::balancer(ingress)
    }

    fn cells(ingress: &Value, row: &mut Row) {
        row.name(ingress);
        row.or(ingress.text("spec.ingressClassName"), "<none>");
        row.push(hosts(ingress.list("spec.rules")));
        let addresses: BTreeSet<&str> = ingress
            .list("status.loadBalancer.ingress")
            .iter()
            .map(|i| if i.text("ip").is_empty() { i.text("hostname") } else { i.text("ip") })
            .filter(|address| !address.is_empty())
            .collect();
        row.push(addresses.into_iter().collect::<Vec<_>>().join(","));
        row.push(if ingress.count("spec.tls") > 0 { "80, 443" } else { "80" });
        row.age(ingress);
    }
}

fn hosts(rules: &[Value]) -> String {
    let all: Vec<&str> = rules.iter().map(|r| r.text("host")).filter(|h| !h.is_empty()).collect();
    match all.len() {
        0 => "*".to_owned(),
        n if n > HOSTS_SHOWN => format!("{} + {} more...", all[..HOSTS_SHOWN].join(","), n - HOSTS_SHOWN),
        _ => all.join(","),
    }
}

fn not_an_address(host: &str, path: &Path<'_>, errors: &mut Errors) {
    if host.parse::<IpAddr>().is_ok() {
        errors.invalid(path, host, "must be a DNS name, not an IP address");
    }
}

fn host(host: &str, path: &Path<'_>, errors: &mut Errors) {
    if host.contains('*') {
        errors.invalid_each(path, host, names::wildcard_subdomain(host));
    } else {
        dns_subdomain(host, path, errors);
    }
}

fn rule(rule: &networking::IngressRule, path: &Path<'_>, errors: &mut Errors) {
    let name = text(&rule.host);
    if !name.is_empty() {
        not_an_address(name, &path.child("host"), errors);
        host(name, &path.child("host"), errors);
    }
    let Some(http) = &rule.http else { return };
    let list = path.child("http.paths");
    if http.paths.is_empty() {
        errors.required(&list, "");
    }
    for (i, one) in http.paths.iter().enumerate() {
        http_path(one, &list.index(i), errors);
    }
}

fn http_path(one: &networking::HTTPIngressPath, path: &Path<'_>, errors: &mut Errors) {
    let (kind, text) = (one.path_type.as_str(), text(&one.path));
    let at = path.child("path");
    match kind {
        "" => return errors.required(&path.child("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                errors.invalid(&at, text, "must be an absolute path");
            }
            for bad in BAD_SEQUENCES.iter().filter(|bad| text.contains(**bad)) {
                errors.invalid(&at, text, &format!("must not contain '{bad}'"));
            }
            for bad in BAD_SUFFIXES.iter().filter(|bad| text.ends_with(**bad)) {
                errors.invalid(&at, text, &format!("cannot end with '{bad}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                errors.invalid(&at, text, "must be an absolute path");
            }
        }
        other => errors.not_supported(&path.child("pathType"), other, PATH_TYPES),
    }
    backend(&one.backend, &path.child("backend"), errors);
}

fn backend(backend: &networking::IngressBackend, path: &Path<'_>, errors: &mut Errors) {
    match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (None, None) => errors.invalid(path, "", "resource or service backend is required"),
        (Some(resource), None) => {
            let path = path.child("resource");
            if let Some(group) = &resource.api_group {
                dns_subdomain(group, &path.child("apiGroup"), errors);
            }
            segment(&resource.kind, &path.child("kind"), errors);
            segment(&resource.name, &path.child("name"), errors);
        }
        (None, Some(service)) => {
            if service.name.is_empty() {
                errors.required(&path.child("service.name"), "");
            } else {
                dns_label(&service.name, &path.child("service.name"), errors);
            }
            let port = service.port.clone().unwrap_or_default();
            match (text(&port.name), port.number.unwrap_or(0)) {
                ("", 0) => errors.required(path, "port name or number is required"),
                ("", number) => port_number(number, &path.child("service.port.number"), errors),
                (name, 0) => errors.invalid_each(&path.child("service.port.name"), name, names::port_name(name)),
                _ => errors.invalid(path, "", "cannot set both port name & port number"),
            }
        }
    }
}
