//! CSINode.

use std::collections::BTreeSet;

use k8s_openapi::api::storage::v1 as storage;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{csi_driver_name, immutable, nonnegative, qualified_name};
use crate::kinds::facts::{AGE, Facts, NAME, integer};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;

const NODE_ID_MAX: usize = 256;

pub(super) struct CsiNodes;

impl Kind for CsiNodes {
    type Typed = storage::CSINode;
    const FACTS: Facts = Facts {
        namespaced: false,
        columns: &[NAME, integer("Drivers", "How many drivers are there on the node."), AGE],
        unconditional_update: false,
        ..Facts::new("storage.k8s.io", "v1", "csinodes", "CSINode")
    };

    fn validate(node: &storage::CSINode, errors: &mut Errors) {
        let spec = Path::new("spec");
        let list = spec.child("drivers");
        let mut names = BTreeSet::new();
        for (i, driver) in node.spec.drivers.iter().enumerate() {
            let path = list.index(i);
            csi_driver_name(&driver.name, &path.child("name"), errors);
            let id = path.child("nodeID");
            if driver.node_id.is_empty() {
                errors.required(&id, "");
            }
            if driver.node_id.len() > NODE_ID_MAX {
                let message = format!("must be {NODE_ID_MAX} characters or less");
                errors.invalid(&id, &driver.node_id, &message);
            }
            if let Some(count) = driver.allocatable.as_ref().and_then(|a| a.count) {
                nonnegative(count, &path.child("allocatable.count"), errors);
            }
            let mut keys = BTreeSet::new();
            for key in driver.topology_keys.iter().flatten() {
                if key.is_empty() {
                    errors.required(&path, "");
                }
                if !keys.insert(key) {
                    errors.duplicate(&path, key);
                }
                qualified_name(key, &path, errors);
            }
            if !names.insert(&driver.name) {
                errors.duplicate(&path.child("name"), &driver.name);
            }
        }
    }

    fn validate_update(node: &storage::CSINode, old: &storage::CSINode, errors: &mut Errors) {
        Self::validate(node, errors);
        let spec = Path::new("spec");
        // What is installed stays as it is, but for its limits; it may go and others may come.
        let installed =
            |driver: &storage::CSINodeDriver| storage::CSINodeDriver { allocatable: None, ..driver.clone() };
        for before in &old.spec.drivers {
            for driver in node.spec.drivers.iter().filter(|driver| driver.name == before.name) {
                immutable(&installed(driver), &installed(before), &spec.child("drivers"), errors);
            }
        }
    }

    fn cells(node: &Value, row: &mut Row) {
        row.name(node);
        row.push(node.count("spec.drivers"));
        row.age(node);
    }
}
