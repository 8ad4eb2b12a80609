//! DeviceClass.

use k8s_openapi::api::resource::v1 as resource;

use super::check::{each, raw_object};
use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::csi_driver_name;
use crate::kinds::core::pod::validate::is_extended_resource;
use crate::kinds::facts::Facts;

pub(super) const CONFIGS_MAX: usize = 32;
const SELECTORS_MAX: usize = 32;
const EXPRESSION_MAX_B: usize = 10 * 1024;
const PARAMETERS_MAX_B: usize = 10 * 1024;

pub(super) struct DeviceClasses;

impl Kind for DeviceClasses {
    type Typed = resource::DeviceClass;
    const FACTS: Facts = Facts {
        namespaced: false,
        generation: true,
        ..Facts::new("resource.k8s.io", "v1", "deviceclasses", "DeviceClass")
    };

    fn validate(class: &resource::DeviceClass, errors: &mut Errors) {
        let (spec, path) = (&class.spec, Path::new("spec"));
        selectors(spec.selectors.as_deref().unwrap_or_default(), &path.child("selectors"), errors);
        let configs = spec.config.as_deref().unwrap_or_default();
        each(configs, CONFIGS_MAX, &path.child("config"), errors, |config, path, errors| {
            configuration(config.opaque.as_ref(), path, errors);
        });
        if let Some(name) = spec.extended_resource_name.as_ref().filter(|name| !is_extended_resource(name)) {
            errors.invalid(&path.child("extendedResourceName"), name, "must be a valid extended resource name");
        }
    }
}

/// What devices must be like, of classes and requests. The expressions are for those who allocate devices.
pub(super) fn selectors(selectors: &[resource::DeviceSelector], list: &Path<'_>, errors: &mut Errors) {
    each(selectors, SELECTORS_MAX, list, errors, |selector, path, errors| {
        let path = path.child("cel");
        let Some(cel) = &selector.cel else { return errors.required(&path, "") };
        let path = path.child("expression");
        if cel.expression.is_empty() {
            errors.required(&path, "");
        } else if cel.expression.len() > EXPRESSION_MAX_B {
            errors.too_long(&path, EXPRESSION_MAX_B);
        }
    });
}

/// What a driver is told, of classes, claims and allocations.
pub(super) fn configuration(
    opaque: Option<&resource::OpaqueDeviceConfiguration>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let path = path.child("opaque");
    let Some(opaque) = opaque else { return errors.required(&path, "") };
    csi_driver_name(&opaque.driver, &path.child("driver"), errors);
    raw_object(&opaque.parameters, PARAMETERS_MAX_B, &path.child("parameters"), errors);
}
