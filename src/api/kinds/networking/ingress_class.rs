//! IngressClass.

use k8s_openapi::api::networking::v1 as networking;
use serde_json::Value;

use super::segment;
use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{dns_label, dns_subdomain, domain_prefixed_path, immutable, text};
use crate::kinds::facts::{self, AGE, Facts, NAME};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::Row;

const CONTROLLER_MAX: usize = 250;
const SCOPES: &[&str] = &["Cluster", "Namespace"];
const SPEC: Path<'static> = Path::new("spec");

pub(super) struct IngressClasses;

impl Kind for IngressClasses {
    type Typed = networking::IngressClass;
    const FACTS: Facts = Facts {
        namespaced: false,
        columns: &[
            NAME,
            facts::text("Controller", "Who acts on ingresses of this class."),
            facts::text("Parameters", "What holds more settings."),
            AGE,
        ],
        generation: true,
        ..Facts::new("networking.k8s.io", "v1", "ingressclasses", "IngressClass")
    };

    fn default(class: &mut Value) {
        if let Some(parameters) = spec_of(class).and_then(|s| s.existing("parameters")) {
            parameters.fill("scope", "Cluster");
        }
    }

    fn validate(class: &networking::IngressClass, errors: &mut Errors) {
        let spec = class.spec.as_ref();
        let controller = spec.map_or("", |s| text(&s.controller));
        let path = SPEC.child("controller");
        if controller.len() > CONTROLLER_MAX {
            errors.too_long(&path, CONTROLLER_MAX);
        }
        domain_prefixed_path(controller, &path, errors);
        if let Some(reference) = spec.and_then(|s| s.parameters.as_ref()) {
            parameters(reference, &SPEC.child("parameters"), errors);
        }
    }

    fn validate_update(class: &networking::IngressClass, old: &networking::IngressClass, errors: &mut Errors) {
        let controller = |c: &networking::IngressClass| c.spec.as_ref().and_then(|s| s.controller.clone());
        immutable(&controller(class), &controller(old), &SPEC.child("controller"), errors);
        Self::validate(class, errors);
    }

    fn cells(class: &Value, row: &mut Row) {
        let reference = class.at("spec.parameters");
        let group = reference.text("apiGroup");
        let kind = reference.text("kind");
        row.name(class);
        row.push(class.text("spec.controller"));
        row.push(match (reference.is_object(), group) {
            (false, _) => "<none>".to_owned(),
            (true, "") => format!("{kind}/{}", reference.text("name")),
            (true, group) => format!("{kind}.{group}/{}", reference.text("name")),
        });
        row.age(class);
    }
}

fn parameters(reference: &networking::IngressClassParametersReference, path: &Path<'_>, errors: &mut Errors) {
    if let Some(group) = &reference.api_group {
        dns_subdomain(group, &path.child("apiGroup"), errors);
    }
    segment(&reference.kind, &path.child("kind"), errors);
    segment(&reference.name, &path.child("name"), errors);
    let namespace = path.child("namespace");
    match (reference.scope.as_deref(), &reference.namespace) {
        (None, _) => errors.required(&path.child("scope"), ""),
        (Some("Namespace"), None) => errors.required(&namespace, "`parameters.scope` is set to 'Namespace'"),
        (Some("Namespace"), Some(name)) => dns_label(name, &namespace, errors),
        (Some("Cluster"), Some(_)) => errors.forbidden(&namespace, "`parameters.scope` is set to 'Cluster'"),
        (Some("Cluster"), None) => {}
        (Some(other), _) => errors.not_supported(&path.child("scope"), other, SCOPES),
    }
}
