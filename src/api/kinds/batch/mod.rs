//! The `batch` group.

mod cron_job;
mod indexes;
mod job;
mod job_status;
mod job_validate;

use crate::kinds::adapter::describe;
use crate::strategy::Descriptor;

pub use indexes::{Indexes, IndexesError};

pub(super) fn descriptors() -> Vec<Descriptor> {
    vec![describe::<cron_job::CronJobs>(), describe::<job::Jobs>()]
}
