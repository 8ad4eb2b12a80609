//! How long to wait before pods that failed are replaced: the longer, the more of them failed without one that succeeded.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::facts::{finished_at, has_failed, has_succeeded};

const FIRST_S: i64 = 10;
const LONGEST_S: i64 = 600;

/// What is left to wait, from the pods' own times.
pub fn plan_wait<'a>(pods: impl Iterator<Item = &'a Pod>, only_failed: bool, now: Timestamp) -> Option<Duration> {
    let mut ends: Vec<(Timestamp, bool)> = pods
        .filter(|pod| has_succeeded(pod) || has_failed(pod, only_failed))
        .map(|pod| (finished_at(pod, now), has_succeeded(pod)))
        .collect();
    ends.sort_unstable();
    let failures = ends.iter().rev().take_while(|(_, succeeded)| !succeeded).count();
    let (last, _) = ends.last().filter(|_| failures > 0)?;
    let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(16);
    let delay = (FIRST_S << doublings).min(LONGEST_S);
    let left = *last + SignedDuration::from_secs(delay) - now;
    Duration::try_from(left).ok().filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn failures_in_a_row_double_it() {
        let pod = |phase: &str, at: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {}, "status": {"phase": phase, "containerStatuses": [{"name": "c",
                "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 1, "finishedAt": at}}}]}}))
            .expect("a pod")
        };
        let now = "2024-01-01T00:00:30Z".parse().expect("a time");
        let failed = |second: u32| pod("Failed", &format!("2024-01-01T00:00:{second:02}Z"));
        let done = |second: u32| pod("Succeeded", &format!("2024-01-01T00:00:{second:02}Z"));
        for (pods, expect) in [
            (vec![], None),
            (vec![done(29)], None),
            (vec![failed(25)], Some(5)),
            (vec![failed(10)], None),
            (vec![failed(5), failed(20)], Some(10)),
            (vec![failed(5), done(10), failed(29)], Some(9)),
            (vec![failed(1), failed(2), failed(3), failed(4)], Some(54)),
        ] {
            let wait = plan_wait(pods.iter(), false, now);
            assert_eq!(wait, expect.map(Duration::from_secs), "{} pods", pods.len());
        }
    }
}
