//! Which requests are those of kubelets for certificates to speak to the API with.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use skiff_pki::Request;

use super::sign::{KUBELET_CLIENT, check_kubelet_client};
use super::{condition, is_issued};

/// A permission that is enough.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// Of `certificatesigningrequests`.
    pub subresource: &'static str,
    /// Of the condition.
    pub message: &'static str,
}

const OWN: Claim = Claim {
    subresource: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
const ANY: Claim = Claim {
    subresource: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

/// What may be asked whether the request may be approved; nothing where that is for others to say.
pub(super) fn plan_claims(request: &CertificateSigningRequest, parsed: &Request) -> Vec<Claim> {
    let decided = ["Approved", "Denied"].into_iter().any(|verdict| condition(request, verdict).is_some());
    if decided || is_issued(request) || request.spec.signer_name != KUBELET_CLIENT {
        return Vec::new();
    }
    let usages = request.spec.usages.as_deref().unwrap_or_default();
    if check_kubelet_client(parsed, usages).is_err() {
        return Vec::new();
    }
    let own = request.spec.username.as_deref() == Some(parsed.common_name.as_str());
    own.then_some(OWN).into_iter().chain([ANY]).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::certificates::tests::{KUBELET, request};

    #[test]
    fn whose_requests_are_looked_at() {
        let parsed = Request::parse(KUBELET.as_bytes()).expect("a request");
        for (changes, expect) in [
            (json!({}), vec![OWN, ANY]),
            (json!({"/spec/username": "system:bootstrap:abcdef"}), vec![ANY]),
            (json!({"/spec/signerName": "kubernetes.io/kube-apiserver-client"}), vec![]),
            (json!({"/spec/usages": ["client auth", "server auth"]}), vec![]),
            (json!({"/status": {"conditions": [{"type": "Denied", "status": "True"}]}}), vec![]),
        ] {
            assert_eq!(plan_claims(&request(changes.clone()), &parsed), expect, "{changes}");
        }
    }
}
