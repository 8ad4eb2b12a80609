//! The `events.k8s.io` group: the core group's events in another shape.

mod event;

use crate::kinds::adapter::describe;
use crate::strategy::Descriptor;

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![describe::<event::Events>()]
}
