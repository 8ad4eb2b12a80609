//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction and ClusterTrustBundleAttest; and that who asks for a certificate is who
//! made the request, whatever the request says.

use base64::Engine as _;
use serde_json::{Map, Value};
use skiff_api::ApiError;
use skiff_api::status::Cause;

use super::request::{Operation, Request};
use crate::auth::{Attributes, User, only_lets_go};

const GROUP: &str = "certificates.k8s.io";
const BUNDLE_MAX_B: usize = 1 << 20;
/// The signer of what speaks to the API. Its certificates give no one everything.
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const MASTERS: &str = "system:masters";
pub(super) const KUBELET_SIGNERS: [&str; 2] =
    ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];

pub(super) fn create(user: &User, request: &mut Value) {
    let Some(spec) = request.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    spec.insert("username".to_owned(), user.name.as_str().into());
    if !user.uid.is_empty() {
        spec.insert("uid".to_owned(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        spec.insert("groups".to_owned(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        let extra: Map<String, Value> =
            user.extra.iter().map(|(key, values)| (key.clone(), values.clone().into())).collect();
        spec.insert("extra".to_owned(), extra.into());
    }
}

pub(super) async fn check(request: &Request<'_>, object: &Value) -> Result<(), ApiError> {
    if request.row.is(GROUP, "clustertrustbundles") {
        return check_bundle(request, object).await;
    }
    if !request.row.is(GROUP, "certificatesigningrequests") {
        return Ok(());
    }
    let Some(old) = request.old else { return check_subject(request, object) };
    let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
    let changed = |field: &str| old["status"][field] != object["status"][field];
    let verb = match (request.operation, request.subresource) {
        (Operation::Update, "approval") => "approve",
        (Operation::Update, "status") if changed("certificate") || changed("conditions") => "sign",
        _ => return Ok(()),
    };
    match may(request, verb, signer).await? {
        true => Ok(()),
        false => Err(request.forbidden(&format!("user not permitted to {verb} requests with signerName {signer:?}"))),
    }
}

/// The anchors of a signer are for those to tell who may attest for it; and whoever tells them, they are to be some.
async fn check_bundle(request: &Request<'_>, object: &Value) -> Result<(), ApiError> {
    let changed = |field: &str| request.old.is_none_or(|old| old["spec"][field] != object["spec"][field]);
    let signer = object["spec"]["signerName"].as_str().unwrap_or_default();
    let lets_go = request.old.is_some_and(|old| only_lets_go(old, object));
    if !signer.is_empty() && !lets_go && !may(request, "attest", signer).await? {
        return Err(request.forbidden(&format!("user not permitted to attest for signerName {signer:?}")));
    }
    if !changed("trustBundle") {
        return Ok(());
    }
    let text = object["spec"]["trustBundle"].as_str().unwrap_or_default();
    let wrong = match text.len() > BUNDLE_MAX_B {
        true => vec![("FieldValueTooLong", format!("Too long: may not be more than {BUNDLE_MAX_B} bytes"))],
        false => skiff_pki::check_anchors(text)
            .into_iter()
            .map(|why| ("FieldValueInvalid", format!("Invalid value: \"<value omitted>\": {why}")))
            .collect(),
    };
    let cause =
        |(reason, message): (&str, String)| Cause { reason: reason.into(), message, field: "spec.trustBundle".into() };
    let causes: Vec<Cause> = wrong.into_iter().map(cause).collect();
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(GROUP, "ClusterTrustBundle", crate::meta::text(object, "name"), causes))
}

/// Who approves, signs or attests needs that verb on the signer, or on all of the signer's domain.
async fn may(request: &Request<'_>, verb: &str, signer: &str) -> Result<bool, ApiError> {
    let domain = format!("{}/*", signer.split_once('/').map_or(signer, |(domain, _)| domain));
    let is_allowed = || {
        [signer, &domain].into_iter().any(|name| {
            let asked = Attributes { verb, group: GROUP, resource: "signers", name, ..Attributes::default() };
            request.server.authorizer.is_allowed(request.user, &asked)
        })
    };
    if is_allowed() {
        return Ok(true);
    }
    // A role that was granted a moment ago counts.
    request.server.cache.fresh().await?;
    Ok(is_allowed())
}

pub(super) fn parse(object: &Value) -> Result<skiff_pki::Request, skiff_pki::Error> {
    let text = object["spec"]["request"].as_str().unwrap_or_default();
    skiff_pki::Request::parse(&base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default())
}

fn check_subject(request: &Request<'_>, object: &Value) -> Result<(), ApiError> {
    if request.operation != Operation::Create || object["spec"]["signerName"] != CLIENT_SIGNER {
        return Ok(());
    }
    let parsed = parse(object).map_err(|error| request.forbidden(&format!("failed to parse CSR: {error}")))?;
    if parsed.organizations.iter().any(|group| group == MASTERS) {
        return Err(request.forbidden(&format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed")));
    }
    Ok(())
}
