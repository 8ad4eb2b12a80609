//! ServiceCIDR.

use k8s_openapi::api::networking::v1 as networking;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::{Kind, keep_meta};
use crate::kinds::checks::{IMMUTABLE, canonical_cidr};
use crate::kinds::facts::{AGE, Facts, NAME, text};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;
use crate::strategy::Subresource;

pub(super) struct ServiceCidrs;

impl Kind for ServiceCidrs {
    type Typed = networking::ServiceCIDR;
    const FACTS: Facts = Facts {
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: &[NAME, text("CIDRs", "The addresses that services can have."), AGE],
        generation: true,
        ..Facts::new("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR")
    };

    fn validate(range: &networking::ServiceCIDR, errors: &mut Errors) {
        let path = Path::new("spec.cidrs");
        let cidrs = ranges(range);
        if cidrs.is_empty() {
            return errors.required(&path, "at least one CIDR required");
        }
        if cidrs.len() > 2 {
            return errors.invalid(&path, cidrs, "may only hold up to 2 values");
        }
        for (i, text) in cidrs.iter().enumerate() {
            canonical_cidr(text, &path.index(i), errors);
        }
        if let [first, second] = cidrs
            && first.contains(':') == second.contains(':')
        {
            let message = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            errors.invalid(&path, cidrs, message);
        }
    }

    fn prepare_status_update(range: &mut Value, old: &Value) {
        keep_meta(range, old);
    }

    /// A second family may come; else it stays.
    fn validate_update(range: &networking::ServiceCIDR, old: &networking::ServiceCIDR, errors: &mut Errors) {
        let path = Path::new("spec.cidrs");
        let (new, old) = (ranges(range), ranges(old));
        if new.len() != old.len() && (old.len(), new.len()) != (1, 2) {
            return errors.invalid(&path, new, IMMUTABLE);
        }
        for (i, (new, _)) in new.iter().zip(old).enumerate().filter(|(_, (new, old))| new != old) {
            errors.invalid(&path.index(i), new, IMMUTABLE);
        }
        if new.len() != old.len() {
            Self::validate(range, errors);
        }
    }

    fn cells(range: &Value, row: &mut Row) {
        let cidrs: Vec<&str> = range.list("spec.cidrs").iter().filter_map(Value::as_str).collect();
        row.name(range);
        row.push(cidrs.join(","));
        row.age(range);
    }
}

fn ranges(range: &networking::ServiceCIDR) -> &[String] {
    range.spec.as_ref().and_then(|s| s.cidrs.as_deref()).unwrap_or_default()
}
