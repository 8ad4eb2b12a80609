//! The `storage.k8s.io` group.

mod csi_driver;
mod csi_node;
mod csi_storage_capacity;
mod storage_class;
mod volume_attachment;
mod volume_attributes_class;

use std::collections::BTreeMap;

use crate::field::{Errors, Path};
use crate::kinds::adapter::describe;
use crate::names;
use crate::strategy::Descriptor;

const PARAMETERS_MAX: usize = 512;
const PARAMETERS_MAX_B: usize = 256 * 1024;

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![
        describe::<csi_driver::CsiDrivers>(),
        describe::<csi_node::CsiNodes>(),
        describe::<csi_storage_capacity::CsiStorageCapacities>(),
        describe::<storage_class::StorageClasses>(),
        describe::<volume_attachment::VolumeAttachments>(),
        describe::<volume_attributes_class::VolumeAttributesClasses>(),
    ]
}

fn provisioner(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
    } else {
        errors.invalid_each(path, name, names::qualified_name(&name.to_lowercase()));
    }
}

fn parameters(parameters: &BTreeMap<String, String>, path: &Path<'_>, errors: &mut Errors) {
    if parameters.len() > PARAMETERS_MAX {
        return errors.too_long(path, PARAMETERS_MAX);
    }
    for key in parameters.keys().filter(|key| key.is_empty()) {
        errors.invalid(path, key, "field can not be empty.");
    }
    if parameters.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > PARAMETERS_MAX_B {
        errors.too_long(path, PARAMETERS_MAX_B);
    }
}
