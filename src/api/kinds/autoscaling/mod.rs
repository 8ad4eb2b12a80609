//! The `autoscaling` group: one kind in two versions, stored in the newer one's form.

mod convert;
mod horizontal_pod_autoscaler;
mod horizontal_pod_autoscaler_v1;
mod validate;

use crate::kinds::adapter::describe;
use crate::strategy::Descriptor;

/// The first is the one that is stored and preferred.
pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![
        describe::<horizontal_pod_autoscaler::HorizontalPodAutoscalers>(),
        describe::<horizontal_pod_autoscaler_v1::HorizontalPodAutoscalersV1>(),
    ]
}
