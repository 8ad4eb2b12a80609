//! Certificate signing requests: those of kubelets are approved ([`approve`]), approved ones are signed ([`sign`]), and
//! none stays for ever ([`clean`]). One reconciler does all three, in this order, with upstream's one identity.
//!
//! ```text
//! pending -- approved --> signed: a certificate, or the condition Failed --.
//!    |  '--- denied ----------------------------------------------------> gone after an hour
//!    '------------------------------------------------------------------> gone after a day
//! ```

mod approve;
mod clean;
mod sign;

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use serde_json::{Value, json};
use skiff_api::ObjectKey;
use skiff_base::{chain, time};
use skiff_client::{Change, Client, DeleteOptions, Error, Lister, Next, Queue, Reconciler, Result};
use skiff_pki::{ClusterPki, Request};
use tracing::{info, warn};

use crate::{Context, drive};

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
/// How long a kubelet that may not have its certificate waits until that is asked again: as long as it has waited, within
/// these.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(1000));

pub fn start(context: &Context) {
    let requests = context.informers.lister::<CertificateSigningRequest>();
    let queue = Queue::new(Certificates::NAME);
    let adding = queue.clone();
    requests.subscribe(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            adding.add(ObjectKey::of(&**change.object()));
        }
    });
    let controller = Arc::new(Certificates {
        client: context.client("certificate-controller"),
        requests: requests.clone(),
        pki: context.options.pki.clone(),
    });
    drive(context, controller, queue, 2, async move { requests.synced().await });
}

struct Certificates {
    client: Client,
    requests: Lister<CertificateSigningRequest>,
    pki: Arc<ClusterPki>,
}

impl Reconciler for Certificates {
    const NAME: &'static str = "certificatesigningrequest-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(request) = self.requests.get(key) else { return Ok(Next::Done) };
        let now = time::now();
        let left = clean::plan_stay(&request, now);
        if left.is_zero() {
            info!(request = %key, "its time is over");
            let options = DeleteOptions { uid: request.metadata.uid.clone(), ..DeleteOptions::default() };
            settled(self.client.all::<CertificateSigningRequest>().delete(&key.name, &options).await)?;
            return Ok(Next::Done);
        }
        let parsed = match Request::parse(&request.spec.request.0) {
            Ok(parsed) => parsed,
            Err(error) => {
                warn!(request = %key, error = %chain(&error), "it can't be read");
                return Ok(Next::After(left));
            }
        };
        if let Some(again) = self.approve(&request, &parsed).await? {
            return Ok(Next::After(again.min(left)));
        }
        match sign::plan_sign(&request, &parsed, now, &self.pki) {
            Ok(None) => Ok(Next::After(left)),
            Ok(Some(status)) => {
                let signed = CertificateSigningRequest { status: Some(status), ..(*request).clone() };
                let done = self.client.all::<CertificateSigningRequest>().update_status(&signed).await;
                settled(done.map(drop))?;
                Ok(Next::After(left))
            }
            Err(error) => {
                warn!(request = %key, error = %chain(&error), "it can't be signed");
                Ok(Next::After(left.min(ASK_AGAIN.1)))
            }
        }
    }
}

impl Certificates {
    /// Approves what a kubelet asks for and may have. `Some`: when to ask again whether it may.
    async fn approve(&self, request: &CertificateSigningRequest, parsed: &Request) -> Result<Option<Duration>> {
        let claims = approve::plan_claims(request, parsed);
        for claim in &claims {
            if !self.may(request, claim.subresource).await? {
                continue;
            }
            let mut approved = request.clone();
            conditions(&mut approved).push(CertificateSigningRequestCondition {
                type_: "Approved".to_owned(),
                status: "True".to_owned(),
                reason: Some("AutoApproved".to_owned()),
                message: Some(claim.message.to_owned()),
                ..CertificateSigningRequestCondition::default()
            });
            let name = request.metadata.name.as_deref().unwrap_or_default();
            let path = format!("{PATH}/{}/approval", skiff_client::percent_encoded(name));
            let body = serde_json::to_value(&approved).map_err(|error| Error::Decode(error.into()))?;
            let done: Result<Value> = self.client.call(Method::PUT, &path, Some(&body)).await;
            // What was written comes back and is signed then.
            settled(done.map(drop))?;
            return Ok(Some(ASK_AGAIN.1));
        }
        let waited = request.metadata.creation_timestamp.as_ref().map(|at| time::now().duration_since(at.0));
        let waited = waited.and_then(|waited| Duration::try_from(waited).ok()).unwrap_or_default();
        Ok((!claims.is_empty()).then(|| waited.clamp(ASK_AGAIN.0, ASK_AGAIN.1)))
    }

    /// Whether who made the request may create that subresource of requests.
    async fn may(&self, request: &CertificateSigningRequest, subresource: &str) -> Result<bool> {
        let spec = &request.spec;
        let text = |text: &str| Some(text.to_owned());
        let review = SubjectAccessReviewSpec {
            user: spec.username.clone(),
            uid: spec.uid.clone(),
            groups: spec.groups.clone(),
            extra: spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: text("certificates.k8s.io"),
                resource: text("certificatesigningrequests"),
                subresource: text(subresource),
                verb: text("create"),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        };
        let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": review});
        let answer: SubjectAccessReview = self.client.call(Method::POST, REVIEWS, Some(&body)).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

/// Someone else was faster: what they did comes as a change.
fn settled(done: Result<()>) -> Result<()> {
    match done {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

fn conditions(request: &mut CertificateSigningRequest) -> &mut Vec<CertificateSigningRequestCondition> {
    request.status.get_or_insert_with(CertificateSigningRequestStatus::default).conditions.get_or_insert_default()
}

/// The condition of a type, where it is true.
fn condition<'a>(request: &'a CertificateSigningRequest, kind: &str) -> Option<&'a CertificateSigningRequestCondition> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind && condition.status != "False")
}

fn is_issued(request: &CertificateSigningRequest) -> bool {
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    certificate.is_some_and(|certificate| !certificate.0.is_empty())
}

#[cfg(test)]
pub(crate) mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;

    use super::*;
    use crate::testing::Stage;

    /// Of a kubelet's key on the node `n`, for the organization `system:nodes`; without alternative names.
    pub(crate) const KUBELET: &str = include_str!("kubelet.csr");

    pub(crate) fn request(changes: Value) -> CertificateSigningRequest {
        let mut object = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"request": BASE64.encode(KUBELET), "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
                "usages": ["client auth", "digital signature"], "username": "system:node:n"}});
        for (pointer, value) in changes.as_object().into_iter().flatten() {
            let (at, field) = pointer.rsplit_once('/').expect("a pointer");
            object.pointer_mut(at).expect("there")[field] = value.clone();
        }
        serde_json::from_value(object).expect("a request")
    }

    #[tokio::test]
    async fn kubelets_get_what_they_may_have() {
        let stage = Stage::new();
        let now = time::now_rfc3339();
        let asked = serde_json::to_value(request(json!({"/metadata/creationTimestamp": now}))).expect("encodes");
        stage.put(asked);
        super::start(&stage.context());
        // The stage's reviews have no status: nobody may.
        stage.until("asked", |fake| fake.requests().iter().any(|line| line.contains("subjectaccessreviews"))).await;
        assert!(stage.fake.objects(PATH)[0]["status"].is_null());
        let verdict = json!([{"type": "Approved", "status": "True", "lastUpdateTime": now}]);
        let mut approved = stage.fake.objects(PATH)[0].clone();
        approved["status"] = json!({"conditions": verdict});
        stage.put(approved);
        stage.until("signed", |fake| fake.objects(PATH)[0]["status"]["certificate"].is_string()).await;
        assert_eq!(stage.fake.objects(PATH)[0]["status"]["conditions"], verdict);
        let old = request(json!({}));
        stage.put(serde_json::to_value(&old).expect("encodes"));
        stage.until("taken away", |fake| fake.objects(PATH).is_empty()).await;
        stage.end().await;
    }
}
