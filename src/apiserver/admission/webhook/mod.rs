//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: others are asked before something is written.

mod question;
mod review;
mod rounds;
mod rules;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::Metadata;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ValidatingWebhookConfiguration,
    WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as TypedSelector, ObjectMeta};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skiff_api::decode::{conform, reason};
use skiff_api::patch::json_patch;
use skiff_api::selector::LabelSelector;
use skiff_api::{ApiError, Object, schema};
use skiff_base::chain;

pub(super) use self::rounds::Rounds;
use self::rules::Asked;
use super::request::{Operation, Request};
use crate::audit::{self, Level};
use crate::convert::conform_custom;
use crate::hook::Hook;
use crate::registry::Row;
use crate::server::Server;

const MUTATING: &str = "admissionregistration.k8s.io/mutatingwebhookconfigurations";
const VALIDATING: &str = "admissionregistration.k8s.io/validatingwebhookconfigurations";
const DEFAULT_TIMEOUT_S: i32 = 10;
const DEFAULT_PORT: i32 = 443;

/// One webhook of either kind.
struct Webhook {
    /// The configuration that it is of.
    configuration: String,
    name: String,
    client: WebhookClientConfig,
    rules: Vec<RuleWithOperations>,
    matches_equivalent: bool,
    fails_open: bool,
    namespaces: Option<TypedSelector>,
    objects: Option<TypedSelector>,
    side_effects: String,
    timeout: Duration,
    versions: Vec<String>,
    reinvoked: bool,
    mutates: bool,
}

macro_rules! webhook {
    ($configuration:expr, $hook:expr, $reinvoked:expr, $mutates:expr) => {
        Webhook {
            configuration: $configuration.metadata.name.clone().unwrap_or_default(),
            name: $hook.name.clone(),
            client: $hook.client_config.clone(),
            rules: $hook.rules.clone().unwrap_or_default(),
            matches_equivalent: $hook.match_policy.as_deref() != Some("Exact"),
            fails_open: $hook.failure_policy.as_deref() == Some("Ignore"),
            namespaces: $hook.namespace_selector.clone(),
            objects: $hook.object_selector.clone(),
            side_effects: $hook.side_effects.clone(),
            timeout: Duration::from_secs(
                u64::try_from($hook.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_S)).unwrap_or(1).max(1),
            ),
            versions: $hook.admission_review_versions.clone(),
            reinvoked: $reinvoked,
            mutates: $mutates,
        }
    };
}

/// Whether there are any at all, so that deletes must know what they delete.
pub(crate) fn exist(server: &Server) -> bool {
    [MUTATING, VALIDATING].iter().any(|kind| !server.resource(kind).all().is_empty())
}

fn typed<K>(object: &Arc<Object>) -> Option<Arc<K>>
where
    K: DeserializeOwned + Metadata<Ty = ObjectMeta> + Send + Sync + 'static,
{
    match object.typed::<K>() {
        Ok(typed) => Some(typed),
        Err(error) => {
            tracing::error!(configuration = %object.key(), error = %chain(&error), "webhooks can't be read");
            None
        }
    }
}

/// By the names of their configurations, then in their order.
fn mutating(request: &Request<'_>) -> Vec<Webhook> {
    let all = request.server.resource(MUTATING).all();
    let mut hooks = Vec::new();
    for of in all.iter().filter_map(typed::<MutatingWebhookConfiguration>) {
        let again = |hook: &MutatingWebhook| hook.reinvocation_policy.as_deref() == Some("IfNeeded");
        hooks.extend(of.webhooks.iter().flatten().map(|hook| webhook!(of, hook, again(hook), true)));
    }
    hooks
}

fn validating(request: &Request<'_>) -> Vec<Webhook> {
    let all = request.server.resource(VALIDATING).all();
    let mut hooks = Vec::new();
    for of in all.iter().filter_map(typed::<ValidatingWebhookConfiguration>) {
        hooks.extend(of.webhooks.iter().flatten().map(|hook| webhook!(of, hook, false, false)));
    }
    hooks
}

/// Who is asked, is never about being asked; nor are reviews.
fn is_exempt(row: &Row) -> bool {
    matches!(row.group(), "authentication.k8s.io" | "authorization.k8s.io")
        || (row.group() == "admissionregistration.k8s.io"
            && (row.resource().ends_with("webhookconfigurations") || row.resource().contains("admissionpolic")))
}

/// Asks the validating webhooks, all at once; the first refusal in their order counts.
pub(super) async fn validate(
    request: &Request<'_>,
    object: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    let hooks = if is_exempt(request.row) { Vec::new() } else { validating(request) };
    let asking = hooks.iter().enumerate().map(|(at, hook)| async move {
        let (mut object, mut warnings) = (object.cloned(), Vec::new());
        let answer = ask(request, hook, &mut object, &mut warnings, (0, at)).await;
        (answer, warnings)
    });
    for (answer, told) in join_all(asking).await {
        warnings.extend(told);
        answer?;
    }
    Ok(())
}

fn operation(request: &Request<'_>) -> &'static str {
    match request.operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

/// Asks one webhook, of a place in a round. `None`: it is not concerned, or could not be asked and lets all pass then. Else
/// whether it has changed the object.
async fn ask(
    request: &Request<'_>,
    hook: &Webhook,
    object: &mut Option<Value>,
    warnings: &mut Vec<String>,
    (round, place): (usize, usize),
) -> Result<Option<bool>, ApiError> {
    let Some(row) = concerned(request, hook) else { return Ok(None) };
    if !is_selected(request, hook, object.as_ref())? {
        return Ok(None);
    }
    if request.dry_run && !matches!(hook.side_effects.as_str(), "None" | "NoneOnDryRun") {
        return Err(ApiError::bad_request(format!("admission webhook {:?} does not support dry run", hook.name)));
    }
    let verdict = match call(request, hook, &row, object.as_ref()).await {
        Ok(verdict) => verdict,
        Err(why) => {
            let why = format!("failed calling webhook {:?}: {why}", hook.name);
            if hook.fails_open {
                tracing::warn!(webhook = hook.name, error = why, "ignored, as its failurePolicy says");
                let kind = if hook.mutates { "mutation" } else { "validating" };
                let key = format!("failed-open.{kind}.webhook.admission.k8s.io/round_{round}_index_{place}");
                audit::note(Level::Metadata, || (key, hook.name.clone()));
                return Ok(None);
            }
            return Err(ApiError::internal(why));
        }
    };
    warnings.extend(verdict.warnings);
    for (key, value) in verdict.annotations {
        audit::note(Level::Metadata, || (format!("{}/{key}", hook.name), value));
    }
    let told = |changed: bool, patch: Option<&Value>| {
        if !hook.mutates {
            return;
        }
        let of = |field: &str, value: Value| {
            let mut note = json!({"configuration": hook.configuration, "webhook": hook.name});
            note[field] = value;
            note
        };
        let at = format!("webhook.admission.k8s.io/round_{round}_index_{place}");
        audit::note(Level::Metadata, || (format!("mutation.{at}"), of("mutated", changed.into()).to_string()));
        if let Some(patch) = patch.filter(|_| changed) {
            audit::note(Level::Request, || {
                let mut note = of("patch", patch.clone());
                note["patchType"] = "JSONPatch".into();
                (format!("patch.{at}"), note.to_string())
            });
        }
    };
    if !verdict.allowed {
        return Err(review::denied(&hook.name, &verdict.result));
    }
    let Some(patch) = verdict.patch.filter(|patch| patch.as_array().is_some_and(|steps| !steps.is_empty())) else {
        told(false, None);
        return Ok(Some(false));
    };
    let Some(old) = object.as_mut() else {
        let why = format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            hook.name
        );
        return Err(ApiError::internal(why));
    };
    let shown = between(request, old, request.row, &row).await?;
    let patched = json_patch(&shown, &patch).map_err(|error| ApiError::internal(error.message))?;
    if patched == shown {
        told(false, Some(&patch));
        return Ok(Some(false));
    }
    let mut read = read_again(request, &row, patched)?;
    let changed = read != shown;
    if request.of.is_none() {
        row.descriptor.strategy.default(&mut read);
    }
    *old = between(request, &read, &row, request.row).await?;
    told(changed, Some(&patch));
    Ok(Some(changed))
}

/// What a webhook has left, in the form that everything has that came from a client: without unknown fields and nulls, with
/// quantities as they are written. What is no object of its kind any more is an error of the webhook's.
fn read_again(request: &Request<'_>, row: &Row, patched: Value) -> Result<Value, ApiError> {
    let found = request.of.as_ref().map(schema::lookup);
    let (gvk, schema) = match (&request.of, &found) {
        (Some(of), Some(schema)) => (of, schema.as_ref()),
        _ => (&row.descriptor.gvk, row.schema.as_ref()),
    };
    let Some(schema) = schema else { return Ok(patched) };
    let read = conform(patched, gvk, schema).and_then(|mut decoded| {
        if request.of.is_none() {
            conform_custom(&mut decoded, row)?;
        }
        Ok(decoded.value)
    });
    read.map_err(|error| ApiError::internal(reason(&error, gvk).unwrap_or(&error.message)))
}

/// The row in whose version the webhook wants to see the object; `None`: its rules don't match.
fn concerned(request: &Request<'_>, hook: &Webhook) -> Option<Arc<Row>> {
    let registry = request.server.registry.load();
    let namespaced = request.row.descriptor.namespaced;
    let matches = |row: &Row| {
        let asked = Asked {
            operation: operation(request),
            group: row.group(),
            version: &row.descriptor.gvr.version,
            resource: row.resource(),
            subresource: request.subresource,
            namespaced,
        };
        asked.matches_any(&hook.rules)
    };
    let gvr = &request.row.descriptor.gvr;
    let own = registry.find(&gvr.group, &gvr.version, &gvr.resource)?;
    if matches(own) {
        return Some(own.clone());
    }
    let same = |row: &&Arc<Row>| row.descriptor.storage == own.descriptor.storage;
    registry.rows().iter().filter(same).find(|row| hook.matches_equivalent && matches(row)).cloned()
}

/// The same object in another version.
async fn between(request: &Request<'_>, object: &Value, from: &Row, to: &Row) -> Result<Value, ApiError> {
    if request.of.is_some() || from.descriptor.gvr == to.descriptor.gvr {
        return Ok(object.clone());
    }
    let server = request.server;
    let mut stored = object.clone();
    crate::meta::of(&mut stored).remove("resourceVersion");
    let home = Object::parse(server.to_home(&stored, from).await?, 0).map_err(|e| ApiError::internal(chain(&e)))?;
    let mut value = server.to_row(&Arc::new(home), to).await?;
    crate::meta::keep(&mut value, object, "resourceVersion");
    value["apiVersion"] = to.descriptor.gvk.api_version().into();
    value["kind"] = (&*to.descriptor.gvk.kind).into();
    Ok(value)
}

fn labels(object: &Value) -> BTreeMap<String, String> {
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// By the labels of the object, or what it was, and of its namespace.
fn is_selected(request: &Request<'_>, hook: &Webhook, object: Option<&Value>) -> Result<bool, ApiError> {
    let selector = |selector: &Option<TypedSelector>| match selector {
        None => Ok(LabelSelector::everything()),
        some => LabelSelector::from_typed(some.as_ref()).map_err(|e| ApiError::internal(&e)),
    };
    let (namespaces, objects) = (selector(&hook.namespaces)?, selector(&hook.objects)?);
    let candidates = [object, request.old];
    let selected =
        objects.is_everything() || candidates.iter().flatten().any(|object| objects.matches(&labels(object)));
    if !selected || namespaces.is_everything() {
        return Ok(selected);
    }
    if request.row.is("", "namespaces") {
        let namespace = object.or(request.old);
        return Ok(namespace.is_some_and(|namespace| namespaces.matches(&labels(namespace))));
    }
    if !request.row.descriptor.namespaced {
        return Ok(true);
    }
    let found = request.server.resource("namespaces").find("", &request.key.namespace);
    let found = found.ok_or_else(|| ApiError::not_found("", "namespaces", &request.key.namespace))?;
    Ok(namespaces.matches(&found.meta.labels))
}

async fn call(
    request: &Request<'_>,
    hook: &Webhook,
    row: &Row,
    object: Option<&Value>,
) -> Result<review::Verdict, String> {
    let Some(version) = hook.versions.iter().find(|version| matches!(version.as_str(), "v1" | "v1beta1")) else {
        return Err(format!(
            "webhook does not accept known AdmissionReview versions (v1, v1beta1): {:?}",
            hook.versions
        ));
    };
    let uid = uuid::Uuid::new_v4().to_string();
    let shown = async |object: Option<&Value>| match object {
        Some(object) => between(request, object, request.row, row).await.map_err(|error| error.message),
        None => Ok(Value::Null),
    };
    let (object, old) = (shown(object).await?, shown(request.old).await?);
    let question = json!({
        "kind": "AdmissionReview",
        "apiVersion": format!("admission.k8s.io/{version}"),
        "request": question::question(request, row, &uid, &object, &old),
    });
    let client = &hook.client;
    let service = client.service.as_ref();
    let port = service.and_then(|service| service.port).unwrap_or(DEFAULT_PORT);
    let at = Hook {
        url: client.url.as_deref(),
        service: service.map(|service| {
            let path = service.path.as_deref().unwrap_or_default();
            (service.namespace.as_str(), service.name.as_str(), path, u16::try_from(port).unwrap_or(0))
        }),
        ca_bundle: client.ca_bundle.as_ref().map_or(&[], |bundle| &bundle.0),
    };
    let answer = request.server.call_hook(&at, &question, hook.timeout).await;
    let answer = answer.map_err(|why| format!("failed to call webhook: {why}"))?;
    review::read(&answer, version, &uid, hook.mutates)
        .map_err(|why| format!("received invalid webhook response: {why}"))
}
