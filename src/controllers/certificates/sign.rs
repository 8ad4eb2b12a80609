//! Upstream's four signers: what each demands of a request, and by which authority it signs.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_pki::{ClusterPki, Error, Request};

use super::{condition, conditions, is_issued};

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const LEGACY: &str = "kubernetes.io/legacy-unknown";
/// Who asks for nothing, or for more, gets this.
const LONGEST: SignedDuration = SignedDuration::from_hours(365 * 24);
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);
const NODE: &str = "system:node:";

/// The status of a request that was approved and is to be signed now; `None`: nothing is to be done.
pub(super) fn plan_sign(
    request: &CertificateSigningRequest,
    parsed: &Request,
    now: Timestamp,
    pki: &ClusterPki,
) -> Result<Option<CertificateSigningRequestStatus>, Error> {
    let has = |kind: &str| condition(request, kind).is_some();
    if !has("Approved") || has("Denied") || has("Failed") || is_issued(request) {
        return Ok(None);
    }
    let usages = request.spec.usages.as_deref().unwrap_or_default();
    let checked = match request.spec.signer_name.as_str() {
        CLIENT => check_client(usages),
        KUBELET_CLIENT => check_kubelet_client(parsed, usages),
        KUBELET_SERVING => check_kubelet_serving(parsed, usages),
        // As upstream: requests from before signers had names.
        LEGACY => Ok(()),
        _ => return Ok(None),
    };
    let mut signed = request.clone();
    if let Err(message) = checked {
        conditions(&mut signed).push(CertificateSigningRequestCondition {
            type_: "Failed".to_owned(),
            status: "True".to_owned(),
            reason: Some("SignerValidationFailure".to_owned()),
            message: Some(message),
            last_update_time: Some(Time(now)),
            ..CertificateSigningRequestCondition::default()
        });
        return Ok(signed.status);
    }
    let asked = request.spec.expiration_seconds.map(|seconds| SignedDuration::from_secs(seconds.into()));
    let life = asked.map_or(LONGEST, |asked| asked.clamp(SHORTEST, LONGEST));
    let certificate = match request.spec.signer_name.as_str() {
        CLIENT | KUBELET_CLIENT => pki.sign_client_request(parsed, usages, life, now)?,
        _ => pki.sign_server_request(parsed, usages, life, now)?,
    };
    let mut status = signed.status.unwrap_or_default();
    status.certificate = Some(ByteString(certificate.into_bytes()));
    Ok(Some(status))
}

fn check_client(usages: &[String]) -> Result<(), String> {
    for usage in usages {
        if !["digital signature", "key encipherment", "client auth"].contains(&usage.as_str()) {
            return Err(format!("invalid usage for client certificate: {usage}"));
        }
    }
    match usages.iter().any(|usage| usage == "client auth") {
        true => Ok(()),
        false => Err("missing required usage for client certificate: client auth".to_owned()),
    }
}

pub(super) fn check_kubelet_client(parsed: &Request, usages: &[String]) -> Result<(), String> {
    check_nodes(parsed)?;
    for (there, what) in [
        (!parsed.dns_names.is_empty(), "DNS"),
        (parsed.has_emails, "Email"),
        (!parsed.ips.is_empty(), "IP"),
        (parsed.has_uris, "URI"),
    ] {
        if there {
            return Err(format!("{what} subjectAltNames are not allowed"));
        }
    }
    check_node(parsed)?;
    check_usages(usages, "client auth")
}

fn check_kubelet_serving(parsed: &Request, usages: &[String]) -> Result<(), String> {
    check_nodes(parsed)?;
    if parsed.dns_names.is_empty() && parsed.ips.is_empty() {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    for (there, what) in [(parsed.has_emails, "Email"), (parsed.has_uris, "URI")] {
        if there {
            return Err(format!("{what} subjectAltNames are not allowed"));
        }
    }
    check_usages(usages, "server auth")?;
    check_node(parsed)
}

fn check_nodes(parsed: &Request) -> Result<(), String> {
    match parsed.organizations == ["system:nodes"] {
        true => Ok(()),
        false => Err("subject organization is not system:nodes".to_owned()),
    }
}

fn check_node(parsed: &Request) -> Result<(), String> {
    match parsed.common_name.starts_with(NODE) {
        true => Ok(()),
        false => Err("subject common name does not begin with system:node:".to_owned()),
    }
}

/// Keys of RSA encipher keys, others need not.
fn check_usages(usages: &[String], side: &str) -> Result<(), String> {
    let mut all = [side, "digital signature", "key encipherment"];
    all.sort_unstable();
    let known = usages.iter().all(|usage| all.contains(&usage.as_str()));
    let needed = [side, "digital signature"].iter().all(|needed| usages.iter().any(|usage| usage == needed));
    match known && needed {
        true => Ok(()),
        false => Err(format!("usages did not match [{}]", all.join(" "))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::certificates::tests::{KUBELET, request};
    use crate::testing::pki;

    const NOW: &str = "2026-06-01T00:00:00Z";

    fn plan(mut changes: Value) -> Option<CertificateSigningRequestStatus> {
        changes["/status"] = changes
            .get("/status")
            .cloned()
            .unwrap_or_else(|| json!({"conditions": [{"type": "Approved", "status": "True", "lastUpdateTime": NOW}]}));
        let parsed = Request::parse(KUBELET.as_bytes()).expect("a request");
        plan_sign(&request(changes), &parsed, NOW.parse().expect("a time"), &pki()).expect("signs")
    }

    #[test]
    fn signers_sign_what_is_theirs() {
        for (changes, hours) in [
            (json!({}), 8760),
            (json!({"/spec/expirationSeconds": 7200}), 2),
            (json!({"/spec/expirationSeconds": 2_000_000_000}), 8760),
            (json!({"/spec/signerName": CLIENT}), 8760),
        ] {
            let status = plan(changes.clone()).expect("a status");
            let certificate = status.certificate.expect("a certificate");
            let ends = skiff_pki::ends(&certificate.0).expect("an end");
            // A long life begins a little before now.
            let before = if hours > 8 { SignedDuration::from_mins(5) } else { SignedDuration::ZERO };
            let now: Timestamp = NOW.parse().expect("a time");
            assert_eq!(ends, now + SignedDuration::from_hours(hours) - before, "{changes}");
            assert_eq!(status.conditions.expect("conditions").len(), 1);
        }
        for changes in [
            json!({"/spec/signerName": "example.com/other"}),
            json!({"/spec/signerName": "kubernetes.io/other"}),
            json!({"/status": {"certificate": "YQ==", "conditions": [{"type": "Approved", "status": "True"}]}}),
            json!({"/status": {"conditions": [{"type": "Denied", "status": "True"}]}}),
            json!({"/status": {}}),
            json!({"/status": {"conditions": [{"type": "Approved", "status": "True"}, {"type": "Failed", "status": "True"}]}}),
        ] {
            assert_eq!(plan(changes.clone()), None, "{changes}");
        }
    }

    #[test]
    fn signers_say_why_not() {
        for (changes, expect) in [
            (
                json!({"/spec/usages": ["client auth"]}),
                "usages did not match [client auth digital signature key encipherment]",
            ),
            (
                json!({"/spec/signerName": CLIENT, "/spec/usages": ["client auth", "server auth"]}),
                "invalid usage for client certificate: server auth",
            ),
            (
                json!({"/spec/signerName": CLIENT, "/spec/usages": ["digital signature"]}),
                "missing required usage for client certificate: client auth",
            ),
            (json!({"/spec/signerName": KUBELET_SERVING}), "DNS or IP subjectAltName is required"),
        ] {
            let status = plan(changes.clone()).expect("a status");
            assert_eq!(status.certificate, None);
            let failed = &status.conditions.expect("conditions")[1];
            assert_eq!(
                (failed.type_.as_str(), failed.reason.as_deref(), failed.message.as_deref()),
                ("Failed", Some("SignerValidationFailure"), Some(expect)),
                "{changes}"
            );
        }
    }
}
