//! Service.

mod defaults;
mod validate;
mod warnings;

use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use crate::field::Errors;
use crate::kinds::adapter::{FieldOf, Kind};
use crate::kinds::facts::{AGE, Facts, NAME, text, wide};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::{self, Row};
use crate::names;
use crate::strategy::Subresource;

pub(super) struct Services;

impl Kind for Services {
    type Typed = core::Service;
    const FACTS: Facts = Facts {
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[Subresource::Special("proxy"), Subresource::Status],
        columns: &[
            NAME,
            text("Type", "How the service is exposed."),
            text("Cluster-IP", "Its address inside the cluster."),
            text("External-IP", "Its addresses or name for the outside."),
            text("Port(s)", "Its ports, with the node port behind a colon."),
            AGE,
            wide("Selector", "The labels of the pods behind it."),
        ],
        // Since 1.36 it may start with a digit.
        name: names::name_is_label,
        create_on_update: true,
        ..Facts::new("", "v1", "services", "Service")
    };
    const FIELDS: &'static [(&'static str, FieldOf)] = &[
        ("spec.clusterIP", |o| o.text("spec.clusterIP").to_owned()),
        ("spec.type", |o| o.text("spec.type").to_owned()),
    ];
    const FIELD_LABELS: &'static [&'static str] = &["spec.clusterIP", "spec.type"];

    fn default(object: &mut Value) {
        defaults::service(object);
    }

    fn prepare_create(object: &mut Value) {
        defaults::prepare_create(object);
    }

    fn prepare_update(object: &mut Value, old: &Value) {
        defaults::prepare_update(object, old);
    }

    /// The mode of a balancer's address has a default too.
    fn prepare_status_update(object: &mut Value, _old: &Value) {
        let ingress = object.pointer_mut("/status/loadBalancer/ingress").and_then(Value::as_array_mut);
        for one in ingress.into_iter().flatten().filter_map(Value::as_object_mut) {
            if !one.lacks("ip") {
                one.fill("ipMode", "VIP");
            }
        }
    }

    fn validate(service: &core::Service, errors: &mut Errors) {
        validate::service(service, errors);
    }

    fn validate_update(service: &core::Service, old: &core::Service, errors: &mut Errors) {
        validate::update(service, old, errors);
        validate::service(service, errors);
    }

    const VALIDATES_ANNOTATIONS: bool = true;
    const VALIDATES_STATUS: bool = true;

    fn validate_status_update(service: &core::Service, _old: &core::Service, errors: &mut Errors) {
        validate::status(service, errors);
    }

    fn warnings(service: &Value, _old: Option<&Value>) -> Vec<String> {
        warnings::service(service)
    }

    fn status_warnings(service: &Value) -> Vec<String> {
        crate::kinds::warnings::balancer(service)
    }

    fn cells(service: &Value, row: &mut Row) {
        row.name(service);
        row.push(service.text("spec.type"));
        let cluster_ip = match service.list("spec.clusterIPs").first().and_then(Value::as_str) {
            Some(ip) => ip,
            None => service.text("spec.clusterIP"),
        };
        row.or(cluster_ip, "<none>");
        row.push(external_ips(service));
        row.or(&ports(service), "<none>");
        row.age(service);
        row.push(row::labels(service.map("spec.selector")));
    }
}

fn external_ips(service: &Value) -> String {
    let asked: Vec<&str> = service.list("spec.externalIPs").iter().filter_map(Value::as_str).collect();
    match service.text("spec.type") {
        "ClusterIP" | "NodePort" if asked.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => asked.join(","),
        "LoadBalancer" => {
            let ingress = service.list("status.loadBalancer.ingress").iter();
            let mut ips: Vec<&str> = ingress
                .map(|i| if i.text("ip").is_empty() { i.text("hostname") } else { i.text("ip") })
                .filter(|i| !i.is_empty())
                .collect();
            ips.sort_unstable();
            ips.dedup();
            ips.extend(asked);
            if ips.is_empty() { "<pending>".to_owned() } else { ips.join(",") }
        }
        "ExternalName" => service.text("spec.externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn ports(service: &Value) -> String {
    let port = |p: &Value| {
        let (number, protocol) = (p.int("port"), p.text("protocol"));
        match p.int("nodePort") {
            0 => format!("{number}/{protocol}"),
            node_port => format!("{number}:{node_port}/{protocol}"),
        }
    };
    service.list("spec.ports").iter().map(port).collect::<Vec<_>>().join(",")
}
