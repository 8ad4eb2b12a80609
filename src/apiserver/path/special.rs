//! Subresources that are actions: binding, finalize, token.

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_api::status::Cause;
use skiff_api::{ApiError, Gvk, ObjectKey, kind_text, schema};

use super::change::Change;
use super::options::{Write, WriteOptions, read_object};
use super::ownership::{Author, Ownership};
use super::part::Part;
use super::warn_all;
use super::writes::check_name;
use crate::admission::{self, Operation, Request};
use crate::auth::{API_AUDIENCE, ISSUER, node_of_user};
use crate::call::{Call, Target};
use crate::encode;
use crate::meta;
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;

const SHORTEST_TOKEN_S: i64 = 600;
const LONGEST_TOKEN_S: i64 = 1 << 32;
const DEFAULT_TOKEN_S: i64 = 3600;
/// What pods ask for unless they say otherwise: the seconds mark such a token.
const WARNED_TOKEN_S: i64 = 3607;
const EXTENDED_TOKEN_S: i64 = 365 * 24 * 3600;

/// Reads a body of a kind that is no resource of its own.
pub(super) fn read(call: &Call, gvk: &Gvk, warnings: &mut Vec<String>) -> Result<(Value, WriteOptions), ApiError> {
    let options = WriteOptions::of(&call.query, Write::Create)?;
    let value = read_object(call, gvk, schema::lookup(gvk).as_ref(), options.validation, warnings)?;
    Ok((value, options))
}

impl Server {
    /// POST `pods/<name>/binding`, or `bindings` (the name is in the body then).
    pub(crate) async fn bind(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let mut warnings = Vec::new();
        let (binding, options) = read(call, &Gvk::new("", "v1", "Binding"), &mut warnings)?;
        if !target.name.is_empty() && meta::text(&binding, "name") != target.name {
            return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
        }
        let asked = Request {
            server: self,
            user: &call.user,
            row,
            operation: Operation::Create,
            subresource: "binding",
            of: Some(Gvk::new("", "v1", "Binding")),
            key: ObjectKey::new(&target.namespace, meta::text(&binding, "name")),
            old: None,
            dry_run: options.dry_run,
            options: &options.shown("CreateOptions"),
        };
        let binding = admission::ask(&asked, binding, &mut warnings).await?;
        let name = meta::text(&binding, "name").to_owned();
        let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
        let kind = binding["target"]["kind"].as_str().unwrap_or_default();
        let invalid = |field: &str, reason: &str, message: String| {
            let cause = Cause { reason: reason.into(), message, field: field.into() };
            Err(ApiError::invalid("", "Binding", &name, vec![cause]))
        };
        if !kind.is_empty() && kind != "Node" {
            let message = format!(r#"Unsupported value: {kind:?}: supported values: "Node""#);
            return invalid("target.kind", "FieldValueNotSupported", message);
        }
        if node.is_empty() {
            return invalid("target.name", "FieldValueRequired", "Required value".into());
        }
        let key = ObjectKey::new(&target.namespace, &name);
        let uid = meta::text(&binding, "uid").to_owned();
        let change =
            Change { row, key: &key, part: Part::Own, user: &call.user, ownership: Ownership::Keep, options: &options };
        let bound = self.change(&change, &mut warnings, |pod| bound_to(pod, &node, &uid, &binding)).await;
        bound.map_err(|mut e| {
            // Upstream's binding conflicts speak of the subresource.
            e.message = e.message.replacen("on pods \"", "on pods/binding \"", 1);
            e
        })?;
        let mut reply = Reply::value(201, &encode::success(Value::Null));
        warn_all(&mut reply, &warnings);
        Ok(reply)
    }

    /// PUT `namespaces/<name>/finalize`: only `spec.finalizers` is taken.
    pub(crate) async fn finalize(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let options = WriteOptions::of(&call.query, Write::Update)?;
        let author = Author::of(call, &options, "finalize");
        let mut warnings = Vec::new();
        let gvk = &row.descriptor.gvk;
        let value = read_object(call, gvk, row.schema.as_ref(), options.validation, &mut warnings)?;
        check_name(&value, &target.name)?;
        let key = target.key();
        let finalizers = value["spec"].get("finalizers").cloned();
        let given = (meta::text(&value, "uid").to_owned(), meta::text(&value, "resourceVersion").to_owned());
        let ownership = Ownership::Track(&author);
        let change = Change { row, key: &key, part: Part::Own, user: &call.user, ownership, options: &options };
        let object = self
            .change(&change, &mut warnings, |old| {
                let mut new = old.clone();
                match &finalizers {
                    Some(list) => new["spec"]["finalizers"] = list.clone(),
                    None => drop(new["spec"].as_object_mut().and_then(|s| s.remove("finalizers"))),
                }
                for (field, value) in [("uid", &given.0), ("resourceVersion", &given.1)] {
                    if !value.is_empty() {
                        meta::set(&mut new, field, value.as_str());
                    }
                }
                Ok(new)
            })
            .await?;
        Ok(Reply::json(200, object.json()))
    }

    /// POST `serviceaccounts/<name>/token`: a TokenRequest.
    pub(crate) async fn request_token(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let mut warnings = Vec::new();
        let gvk = Gvk::new("authentication.k8s.io", "v1", "TokenRequest");
        let (mut request, options) = read(call, &gvk, &mut warnings)?;
        let account = self.current(row, &target.key()).await?;
        if request["spec"]["expirationSeconds"].is_null() {
            request["spec"]["expirationSeconds"] = DEFAULT_TOKEN_S.into();
        }
        let asked = Request {
            server: self,
            user: &call.user,
            row,
            operation: Operation::Create,
            subresource: "token",
            of: Some(gvk),
            key: target.key(),
            old: None,
            dry_run: options.dry_run,
            options: &options.shown("CreateOptions"),
        };
        let mut request = admission::ask(&asked, request, &mut warnings).await?;
        let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_TOKEN_S);
        let invalid = |field: &str, message: String| {
            let cause = Cause { reason: "FieldValueInvalid".into(), message, field: field.into() };
            Err(ApiError::invalid("authentication.k8s.io", "TokenRequest", "", vec![cause]))
        };
        if seconds < SHORTEST_TOKEN_S {
            let message = format!("Invalid value: {seconds}: may not specify a duration less than 10 minutes");
            return invalid("spec.expirationSeconds", message);
        }
        if seconds > LONGEST_TOKEN_S {
            let message = format!("Invalid value: {seconds}: may not specify a duration larger than 2^32 seconds");
            return invalid("spec.expirationSeconds", message);
        }
        let mut audiences =
            meta::texts(&request["spec"]["audiences"]).iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
        if audiences.is_empty() {
            audiences.push(API_AUDIENCE.to_owned());
        }
        for (field, what, own) in [("name", "name", &target.name), ("namespace", "namespace", &target.namespace)] {
            let given = meta::text(&request, field);
            if !given.is_empty() && given != own {
                let message = format!("Invalid value: {given:?}: must match the service account {what} if specified");
                return invalid(&format!("metadata.{field}"), message);
            }
        }
        let bound = self.bound_object(&request["spec"]["boundObjectRef"], target).await?;
        if let Some(node) = node_of_user(&call.user) {
            self.check_node_token(&call.user, node, target, &request["spec"], &bound)
                .map_err(|why| ApiError::forbidden("", "serviceaccounts", &target.name, &why))?;
        }
        // Clients of before tokens ended read theirs once: such a token lives on, and it is told who uses it.
        let is_pods = bound.iter().any(|(what, _)| *what == "pod");
        let extends = is_pods && seconds == WARNED_TOKEN_S && audiences == [API_AUDIENCE];
        let life = if extends { EXTENDED_TOKEN_S } else { seconds };
        let now = skiff_base::time::now();
        let mut private = json!({
            "namespace": target.namespace,
            "serviceaccount": {"name": target.name, "uid": &*account.meta.uid},
        });
        for (what, reference) in bound {
            private[what] = reference;
        }
        if extends {
            private["warnafter"] = (now.as_second() + seconds).into();
        }
        let claims = json!({
            "iss": ISSUER, "sub": format!("system:serviceaccount:{}:{}", target.namespace, target.name),
            "aud": audiences, "iat": now.as_second(), "nbf": now.as_second(), "exp": now.as_second() + life,
            "jti": uuid::Uuid::new_v4().to_string(), "kubernetes.io": private,
        });
        let expires = now.saturating_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(now);
        request["spec"]["audiences"] = json!(audiences);
        request["spec"]["expirationSeconds"] = seconds.into();
        let token = match options.dry_run {
            true => String::new(),
            false => self
                .options
                .pki
                .service_account_key()
                .sign(&claims)
                .map_err(|e| ApiError::internal(skiff_base::chain(&e)))?,
        };
        request["status"] = json!({"token": token, "expirationTimestamp": skiff_base::time::rfc3339(expires)});
        let map = meta::of(&mut request);
        map.insert("name".into(), target.name.as_str().into());
        map.insert("namespace".into(), target.namespace.as_str().into());
        map.insert("creationTimestamp".into(), skiff_base::time::rfc3339(now).into());
        let mut reply = Reply::value(201, &request);
        warn_all(&mut reply, &warnings);
        Ok(reply)
    }

    /// What the token dies with: claims by name.
    async fn bound_object(&self, reference: &Value, target: &Target) -> Result<Vec<(&'static str, Value)>, ApiError> {
        if !reference.is_object() {
            return Ok(Vec::new());
        }
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let (what, storage, namespace) = match (text("apiVersion"), text("kind")) {
            ("v1", "Pod") => ("pod", "pods", target.namespace.as_str()),
            ("v1", "Secret") => ("secret", "secrets", target.namespace.as_str()),
            ("v1", "Node") => ("node", "nodes", ""),
            (version, kind) => {
                let kind = kind_text(version, kind);
                return Err(ApiError::bad_request(format!("cannot bind token to object of type {kind}")));
            }
        };
        self.cache.fresh().await?;
        let Some(object) = self.resource(storage).find(namespace, text("name")) else {
            return Err(ApiError::not_found("", storage, text("name")));
        };
        let uid = text("uid");
        if !uid.is_empty() && *object.meta.uid != *uid {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            );
            return Err(ApiError::conflict("", text("kind"), text("name"), &why));
        }
        let mut bound = vec![(what, json!({"name": text("name"), "uid": &*object.meta.uid}))];
        if what == "pod" {
            let pod = object.value();
            let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
            if account != target.name {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    target.name
                )));
            }
            let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            match self.resource("nodes").find("", node) {
                Some(found) => bound.push(("node", json!({"name": node, "uid": &*found.meta.uid}))),
                None if node.is_empty() => {}
                None => bound.push(("node", json!({"name": node}))),
            }
        }
        Ok(bound)
    }
}

/// The pod on its node.
fn bound_to(pod: &Value, node: &str, uid: &str, binding: &Value) -> Result<Value, ApiError> {
    let name = meta::text(pod, "name");
    let conflict = |why: String| Err(ApiError::conflict("", "pods", name, &why));
    if !uid.is_empty() && uid != meta::text(pod, "uid") {
        return conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::text(pod, "uid")
        ));
    }
    if meta::is_deleting(pod) {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let current = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if !current.is_empty() {
        return conflict(format!("pod {name} is already assigned to node {current:?}"));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut new = pod.clone();
    new["spec"]["nodeName"] = node.into();
    // The promise of a node is kept, or void.
    if let Some(status) = new["status"].as_object_mut() {
        status.remove("nominatedNodeName");
    }
    for field in ["annotations", "labels"] {
        for (key, value) in binding["metadata"][field].as_object().into_iter().flatten() {
            new["metadata"][field][key] = value.clone();
        }
    }
    let now = skiff_base::time::now_rfc3339();
    let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    match conditions.iter_mut().find(|c| c["type"] == "PodScheduled") {
        Some(condition) => *condition = scheduled,
        None => conditions.push(scheduled),
    }
    new["status"]["conditions"] = conditions.into();
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_bound_once() {
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {}});
        let bound = bound_to(&pod, "n", "u", &json!({"metadata": {"annotations": {"a": "b"}}})).expect("free");
        assert_eq!(bound["spec"]["nodeName"], "n");
        assert_eq!(bound["status"]["conditions"][0]["status"], "True");
        assert_eq!(bound["metadata"]["annotations"]["a"], "b");
        for (pod, uid, expect) in [
            (bound, "", "already assigned to node \"n\""),
            (pod.clone(), "other", "Precondition failed"),
            (json!({"metadata": {"name": "p", "deletionTimestamp": "t"}}), "", "is being deleted"),
        ] {
            let error = bound_to(&pod, "n", uid, &json!({})).expect_err(expect);
            assert!(error.is_conflict() && error.message.contains(expect), "{}", error.message);
        }
    }
}
