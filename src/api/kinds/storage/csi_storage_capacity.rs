//! CSIStorageCapacity.

use k8s_openapi::api::storage::v1 as storage;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{dns_subdomain, immutable, label_selector, nonnegative_quantity};
use crate::kinds::core::pod::defaults::canonical_quantity;
use crate::kinds::facts::{Facts, NAME, text};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;
use crate::kinds::warnings;

pub(super) struct CsiStorageCapacities;

impl Kind for CsiStorageCapacities {
    type Typed = storage::CSIStorageCapacity;
    const FACTS: Facts = Facts {
        columns: &[
            NAME,
            text("StorageClassName", "The class whose volumes it is about."),
            text("Capacity", "How much there is."),
        ],
        unconditional_update: false,
        ..Facts::new("storage.k8s.io", "v1", "csistoragecapacities", "CSIStorageCapacity")
    };

    fn default(capacity: &mut Value) {
        let Some(map) = capacity.as_object_mut() else { return };
        canonical_quantity(map, "capacity");
        canonical_quantity(map, "maximumVolumeSize");
    }

    fn validate(capacity: &storage::CSIStorageCapacity, errors: &mut Errors) {
        if let Some(selector) = &capacity.node_topology {
            label_selector(selector, &Path::new("nodeTopology"), errors);
        }
        dns_subdomain(&capacity.storage_class_name, &Path::new("storageClassName"), errors);
        if let Some(amount) = &capacity.capacity {
            nonnegative_quantity(amount, &Path::new("capacity"), errors);
        }
    }

    fn validate_update(new: &storage::CSIStorageCapacity, old: &storage::CSIStorageCapacity, errors: &mut Errors) {
        immutable(&new.node_topology, &old.node_topology, &Path::new("nodeTopology"), errors);
        immutable(&new.storage_class_name, &old.storage_class_name, &Path::new("storageClassName"), errors);
    }

    fn warnings(capacity: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        warnings::expressions(capacity.at("nodeTopology"), "matchExpressions", false, "nodeTopology", &mut out);
        for (label, _) in capacity.map("nodeTopology.matchLabels").into_iter().flatten() {
            if let Some(what) = warnings::old_label(label) {
                out.push(format!("nodeTopology.matchLabels.{label}: {what}"));
            }
        }
        out
    }

    fn cells(capacity: &Value, row: &mut Row) {
        row.name(capacity);
        row.push(capacity.text("storageClassName"));
        row.or(capacity.text("capacity"), "<unset>");
    }
}
