//! How long requests stay: those that were answered an hour, others a day, none longer than its certificate.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use super::{condition, is_issued};

const ANSWERED: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// How long it stays from now on; zero: it goes.
pub(super) fn plan_stay(request: &CertificateSigningRequest, now: Timestamp) -> Duration {
    let updated = |kind: &str| condition(request, kind).and_then(|condition| condition.last_update_time.as_ref());
    let mut ends = Vec::new();
    if is_issued(request) {
        ends.extend(updated("Approved").map(|at| at.0 + ANSWERED));
        let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
        if condition(request, "Approved").is_some() {
            ends.extend(certificate.and_then(|certificate| skiff_pki::ends(&certificate.0)));
        }
    }
    ends.extend(["Denied", "Failed"].into_iter().filter_map(updated).map(|at| at.0 + ANSWERED));
    let undecided = request.status.as_ref().and_then(|s| s.conditions.as_ref()).is_none_or(Vec::is_empty);
    if undecided {
        ends.extend(request.metadata.creation_timestamp.as_ref().map(|at| at.0 + PENDING));
    }
    // What waits for a signer elsewhere is looked at again when it changes.
    let end = ends.into_iter().min().unwrap_or(now + PENDING);
    Duration::try_from(end.duration_since(now)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::certificates::tests::request;

    #[test]
    fn nothing_stays_for_ever() {
        let now: Timestamp = "2026-01-01T00:30:00Z".parse().expect("a time");
        let verdict = |kind: &str, at: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": at}]);
        let (before, after) = ("2025-12-31T23:30:00Z", "2026-01-01T00:00:00Z");
        for (status, expect) in [
            (json!({}), 23 * 3600 + 1800),
            (json!({"conditions": verdict("Denied", before)}), 0),
            (json!({"conditions": verdict("Denied", after)}), 1800),
            (json!({"conditions": verdict("Failed", before)}), 0),
            (json!({"conditions": verdict("Approved", before)}), 24 * 3600),
            (json!({"conditions": verdict("Approved", after), "certificate": "YQ=="}), 1800),
            (json!({"conditions": verdict("Approved", before), "certificate": "YQ=="}), 0),
        ] {
            let request = request(json!({ "/status": status }));
            assert_eq!(plan_stay(&request, now), Duration::from_secs(expect), "{status}");
        }
    }
}
