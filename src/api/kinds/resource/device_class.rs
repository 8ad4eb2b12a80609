//! DeviceClass.

use k8s_openapi::api::resource::v1 as resource;

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::facts::Facts;
use crate::names;

const SELECTORS_MAX: usize = 32;

pub(super) struct DeviceClasses;

impl Kind for DeviceClasses {
    type Typed = resource::DeviceClass;
    const FACTS: Facts = Facts {
        namespaced: false,
        generation: true,
        ..Facts::new("resource.k8s.io", "v1", "deviceclasses", "DeviceClass")
    };

    fn validate(class: &resource::DeviceClass, errors: &mut Errors) {
        let path = Path::new("spec");
        selectors(class.spec.selectors.as_deref().unwrap_or_default(), &path.child("selectors"), errors);
        if let Some(name) = &class.spec.extended_resource_name {
            errors.invalid_each(&path.child("extendedResourceName"), name, names::qualified_name(name));
        }
    }
}

/// What devices must be like, of classes and requests.
pub(super) fn selectors(selectors: &[resource::DeviceSelector], list: &Path<'_>, errors: &mut Errors) {
    if selectors.len() > SELECTORS_MAX {
        errors.too_many(list, selectors.len(), SELECTORS_MAX);
    }
    for (i, selector) in selectors.iter().enumerate() {
        let path = list.index(i);
        if selector.cel.as_ref().is_none_or(|cel| cel.expression.is_empty()) {
            errors.required(&path.child("cel"), "");
        }
    }
}
