//! APIService.

use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;
use serde_json::Value;

use crate::field::{Errors, Path, go_quote};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{dns_subdomain, port_number, required, text};
use crate::kinds::facts::{self, AGE, Facts, NAME};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::Row;
use crate::names;
use crate::strategy::Subresource;

const SPEC: Path<'static> = Path::new("spec");
const GROUP_PRIORITY_MAX: i32 = 20_000;
const VERSION_PRIORITY_MAX: i32 = 1000;

pub(super) struct ApiServices;

impl Kind for ApiServices {
    type Typed = apiregistration::APIService;
    const FACTS: Facts = Facts {
        categories: &["api-extensions"],
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: &[
            NAME,
            facts::text("Service", "Who serves this version of this group."),
            facts::text("Available", "Whether it is served."),
            AGE,
        ],
        name: names::name_is_path_segment,
        unconditional_update: false,
        ..Facts::new("apiregistration.k8s.io", "v1", "apiservices", "APIService")
    };

    fn default(service: &mut Value) {
        if let Some(reference) = spec_of(service).and_then(|s| s.existing("service")) {
            reference.fill("port", 443);
        }
    }

    fn validate(service: &apiregistration::APIService, errors: &mut Errors) {
        let empty = apiregistration::APIServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&empty);
        let (group, version) = (text(&spec.group), text(&spec.version));
        let name = text(&service.metadata.name);
        let needed = format!("{version}.{group}");
        if name != needed {
            let message = format!("must be `spec.version+\".\"+spec.group`: {}", go_quote(&needed));
            errors.invalid(&Path::new("metadata").child("name"), name, &message);
        }
        if group.is_empty() && version != "v1" {
            errors.required(&SPEC.child("group"), "only v1 may have an empty group and it better be legacy kube");
        }
        if !group.is_empty() {
            dns_subdomain(group, &SPEC.child("group"), errors);
        }
        errors.invalid_each(&SPEC.child("version"), version, names::dns_label_1035(version));
        for (field, value, max) in [
            ("groupPriorityMinimum", spec.group_priority_minimum, GROUP_PRIORITY_MAX),
            ("versionPriority", spec.version_priority, VERSION_PRIORITY_MAX),
        ] {
            if value <= 0 || value > max {
                errors.invalid(&SPEC.child(field), value, &format!("must be positive and less than {max}"));
            }
        }
        let bundle = spec.ca_bundle.as_ref().map_or(0, |b| b.0.len());
        let insecure = spec.insecure_skip_tls_verify == Some(true);
        let insecure_path = SPEC.child("insecureSkipTLSVerify");
        let Some(reference) = &spec.service else {
            if bundle > 0 {
                let message = "local APIServices may not have a caBundle";
                errors.invalid(&SPEC.child("caBundle"), format!("{bundle} bytes"), message);
            }
            if insecure {
                errors.invalid(&insecure_path, true, "local APIServices may not have insecureSkipTLSVerify");
            }
            return;
        };
        let path = SPEC.child("service");
        required(text(&reference.namespace), &path.child("namespace"), errors);
        required(text(&reference.name), &path.child("name"), errors);
        port_number(reference.port.unwrap_or(0), &path.child("port"), errors);
        if insecure && bundle > 0 {
            errors.invalid(&insecure_path, true, "may not be true if caBundle is present");
        }
    }

    fn cells(service: &Value, row: &mut Row) {
        let reference = service.at("spec.service");
        let available = service.list("status.conditions").iter().find(|c| c.text("type") == "Available");
        row.name(service);
        row.push(if reference.is_object() {
            format!("{}/{}", reference.text("namespace"), reference.text("name"))
        } else {
            "Local".to_owned()
        });
        row.push(match available {
            None => "Unknown".to_owned(),
            Some(condition) if condition.text("status") == "True" => "True".to_owned(),
            Some(condition) => format!("{} ({})", condition.text("status"), condition.text("reason")),
        });
        row.age(service);
    }
}
