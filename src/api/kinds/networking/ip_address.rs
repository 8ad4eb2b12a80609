//! IPAddress.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1 as networking;
use serde_json::Value;

use super::segment;
use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{dns_subdomain, immutable, text};
use crate::kinds::facts::{self, Facts, NAME};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;
use crate::names;

pub(super) struct IpAddresses;

impl Kind for IpAddresses {
    type Typed = networking::IPAddress;
    const FACTS: Facts = Facts {
        short_names: &["ip"],
        namespaced: false,
        columns: &[NAME, facts::text("ParentRef", "Whose address it is.")],
        name: canonical_address,
        generation: true,
        ..Facts::new("networking.k8s.io", "v1", "ipaddresses", "IPAddress")
    };

    fn validate_create(address: &networking::IPAddress, raw: &Value, errors: &mut Errors) {
        let path = Path::new("spec.parentRef");
        if !raw.at("spec.parentRef").is_object() {
            return errors.required(&path, "");
        }
        Self::validate(address, errors);
    }

    fn validate(address: &networking::IPAddress, errors: &mut Errors) {
        let path = Path::new("spec.parentRef");
        let parent = &address.spec.parent_ref;
        if !text(&parent.group).is_empty() {
            dns_subdomain(text(&parent.group), &path.child("group"), errors);
        }
        segment(&parent.resource, &path.child("resource"), errors);
        segment(&parent.name, &path.child("name"), errors);
        if !text(&parent.namespace).is_empty() {
            let namespace = text(&parent.namespace);
            errors.invalid_each(&path.child("namespace"), namespace, names::path_segment(namespace));
        }
    }

    fn validate_update(address: &networking::IPAddress, old: &networking::IPAddress, errors: &mut Errors) {
        immutable(&address.spec.parent_ref, &old.spec.parent_ref, &Path::new("spec.parentRef"), errors);
    }

    fn cells(address: &Value, row: &mut Row) {
        let parent = address.at("spec.parentRef");
        let mut resource = parent.text("resource").to_lowercase();
        if !parent.text("group").is_empty() {
            resource = format!("{resource}.{}", parent.text("group").to_lowercase());
        }
        let parts = [resource.as_str(), parent.text("namespace"), parent.text("name")];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        row.name(address);
        row.or(&parts.join("/"), "<none>");
    }
}

/// The name is the address, in its one form.
fn canonical_address(name: &str, _prefix: bool) -> Vec<String> {
    match name.parse::<IpAddr>() {
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
        Ok(address) if address.to_string() != name => vec![format!("must be in canonical form (\"{address}\")")],
        Ok(_) => Vec::new(),
    }
}
