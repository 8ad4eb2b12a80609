//! What is changed and refused whatever an object's kind says, under upstream's names and in its order.
//!
//! [`mutate`] comes before the kind's own preparation and validation, [`validate`] after it:
//! NamespaceLifecycle, LimitRanger, ServiceAccount, NodeRestriction, TaintNodesByCondition, PodSecurity, Priority,
//! DefaultTolerationSeconds, DefaultStorageClass, StorageObjectInUseProtection, PersistentVolumeClaimResize, RuntimeClass,
//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction, DefaultIngressClass, MutatingAdmissionWebhook,
//! ValidatingAdmissionWebhook; and last of all ResourceQuota, whose reservation is kept when the object is committed.

mod certificate;
mod claim_resize;
mod default_class;
mod in_use;
mod limit_ranger;
pub(crate) mod namespace;
mod node;
mod node_restriction;
mod pod_security;
mod priority;
mod quota;
mod references;
mod request;
mod runtime_class;
mod service_account;
mod time_zone;
mod tolerations;
mod unavailable;
pub(crate) mod webhook;

use serde_json::Value;
use skiff_api::ApiError;

pub(crate) use quota::Reservation;
pub(crate) use request::{Operation, Request};

/// Fills in, and has others do so; says whether that has changed anything that the kind's defaults may have to look
/// at again. What webhooks changed is filled in once more, and then shown once more to those that asked for that.
pub(crate) async fn mutate(
    request: &Request<'_>,
    object: &mut Value,
    warnings: &mut Vec<String>,
) -> Result<bool, ApiError> {
    let filled = fill(request, object).await?;
    let mut rounds = webhook::Rounds::of(request);
    let changed = rounds.first(request, object, warnings).await?;
    if changed {
        fill(request, object).await?;
        rounds.second(request, object, warnings).await?;
    }
    Ok(filled || changed)
}

async fn fill(request: &Request<'_>, object: &mut Value) -> Result<bool, ApiError> {
    let (server, row) = (request.server, request.row);
    match request.operation {
        Operation::Create => {
            namespace::create(server, row, object).await?;
            unavailable::create(row, object)?;
        }
        Operation::Update => {}
        Operation::Delete | Operation::Connect => return Ok(false),
    }
    node_restriction::check(request, Some(object))?;
    if request.is(Operation::Create, "", "pods") {
        limit_ranger::fill(request, object).await?;
        service_account::create(server, request.user, object).await?;
        priority::create(request, object).await?;
        tolerations::fill(object);
        runtime_class::fill(request, object).await?;
        return Ok(true);
    }
    if request.is(Operation::Update, "", "pods") {
        if let Some(old) = request.old {
            priority::keep(object, old);
        }
        tolerations::fill(object);
        return Ok(true);
    }
    if request.is(Operation::Create, "", "nodes") {
        node::create(object);
        return Ok(true);
    }
    if request.is(Operation::Create, "certificates.k8s.io", "certificatesigningrequests") {
        certificate::create(request.user, object);
        return Ok(true);
    }
    let guarded = in_use::fill(request, object);
    Ok(default_class::fill(request, object).await? || guarded)
}

/// Refuses what may not be, and takes from the quotas what the object needs. `object` is `None` for deletes.
pub(crate) async fn validate(
    request: &Request<'_>,
    object: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Result<Reservation, ApiError> {
    if request.operation == Operation::Delete {
        namespace::delete(request.row, &request.key.name)?;
        node_restriction::check(request, None)?;
        webhook::Rounds::of(request).without_object(request, warnings).await?;
    }
    if let Some(object) = object {
        limit_ranger::check(request, object).await?;
        service_account::check(request, object).await?;
        pod_security::check_request(request, object, warnings)?;
        claim_resize::check(request, object)?;
        if request.subresource.is_empty() && request.row.is("batch", "cronjobs") {
            time_zone::check(object, request.old)?;
        }
    }
    priority::check_class(request, object).await?;
    if let Some(object) = object {
        certificate::check(request, object).await?;
    }
    webhook::validate(request, object, warnings).await?;
    let Some(object) = object else { return Ok(Reservation::none()) };
    quota::reserve(request, object).await
}

/// Asks about what is no object of the kind (`Request::of`), of which webhooks and nodes' limits alone have a say. Gives it as
/// webhooks have left it.
pub(crate) async fn ask(request: &Request<'_>, brought: Value, warnings: &mut Vec<String>) -> Result<Value, ApiError> {
    node_restriction::check(request, Some(&brought))?;
    let mut left = brought;
    let mut rounds = webhook::Rounds::of(request);
    if rounds.first(request, &mut left, warnings).await? {
        node_restriction::check(request, Some(&left))?;
        rounds.second(request, &mut left, warnings).await?;
    }
    webhook::validate(request, Some(&left), warnings).await?;
    Ok(left)
}

/// Asks about a connection. `options` is upstream's kind of the subresource.
pub(crate) async fn connect(
    request: &Request<'_>,
    options: &Value,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    if ask(request, options.clone(), warnings).await? != *options {
        return Err(ApiError::internal("a webhook changed the options of a connection, which is not supported"));
    }
    Ok(())
}
