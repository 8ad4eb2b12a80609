//! HorizontalPodAutoscaler of v1: it knows the processor only, and carries the rest in annotations.

use k8s_openapi::api::autoscaling::{v1, v2};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::horizontal_pod_autoscaler::{COLUMNS, HorizontalPodAutoscalers};
use super::{convert, validate};
use crate::field::Errors;
use crate::kinds::adapter::Kind;
use crate::kinds::facts::Facts;
use crate::kinds::peek::{Fill, spec_of};
use crate::kinds::row::Row;
use crate::strategy::Subresource;

pub(super) struct HorizontalPodAutoscalersV1;

impl Kind for HorizontalPodAutoscalersV1 {
    type Typed = v1::HorizontalPodAutoscaler;
    const FACTS: Facts = Facts {
        short_names: &["hpa"],
        categories: &["all"],
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        ..Facts::new("autoscaling", "v1", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
    };

    fn default(scaler: &mut Value) {
        if let Some(spec) = spec_of(scaler) {
            spec.fill("minReplicas", 1);
        }
    }

    fn prepare_create(scaler: &mut Value) {
        if let Some(map) = scaler.as_object_mut() {
            map.insert("status".to_owned(), json!({"currentReplicas": 0, "desiredReplicas": 0}));
        }
    }

    fn validate(scaler: &v1::HorizontalPodAutoscaler, errors: &mut Errors) {
        if let Some(scaler) = stored(scaler) {
            validate::spec(&scaler.spec, None, errors);
        }
    }

    fn validate_update(scaler: &v1::HorizontalPodAutoscaler, old: &v1::HorizontalPodAutoscaler, errors: &mut Errors) {
        if let Some(scaler) = stored(scaler) {
            validate::spec(&scaler.spec, stored(old).map(|old| old.spec).as_ref(), errors);
        }
    }

    const VALIDATES_STATUS: bool = true;
    const VALIDATES_ANNOTATIONS: bool = true;

    fn validate_status_update(
        scaler: &v1::HorizontalPodAutoscaler,
        _old: &v1::HorizontalPodAutoscaler,
        errors: &mut Errors,
    ) {
        if let Some(status) = stored(scaler).and_then(|s| s.status) {
            validate::status(&status, errors);
        }
    }

    const CONVERTS: bool = true;

    fn encode_stored(object: &mut Value) {
        if object["apiVersion"] == "autoscaling/v1" {
            convert::to_v2(object);
            HorizontalPodAutoscalers::default(object);
        }
    }

    fn decode_stored(object: &mut Value) {
        if object["apiVersion"] == "autoscaling/v2" {
            convert::to_v1(object);
        }
    }

    fn cells(scaler: &Value, row: &mut Row) {
        let mut scaler = scaler.clone();
        Self::encode_stored(&mut scaler);
        HorizontalPodAutoscalers::cells(&scaler, row);
    }
}

/// The same in the stored form.
fn stored(scaler: &v1::HorizontalPodAutoscaler) -> Option<v2::HorizontalPodAutoscaler> {
    let mut value = serde_json::to_value(scaler).ok()?;
    HorizontalPodAutoscalersV1::encode_stored(&mut value);
    v2::HorizontalPodAutoscaler::deserialize(&value).ok()
}
