//! POST `pods/<name>/eviction`: a delete that the pod's disruption budget allows.
//!
//! The budget's controller says how many pods may go; each eviction takes one off and leaves the pod's name behind, so that
//! the controller counts the pod as gone before it is.

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_api::selector::LabelSelector;
use skiff_api::status::Cause;
use skiff_api::{ApiError, ObjectKey};

use super::change::Change;
use super::delete::check_preconditions;
use super::options::{DeleteOptions, WriteOptions};
use super::ownership::Ownership;
use super::part::Part;
use super::special::read;
use super::warn_all;
use super::writes::TRIES;
use crate::admission::{self, Operation, Request};
use crate::auth::User;
use crate::call::{Call, Target};
use crate::encode;
use crate::error::retry_after;
use crate::meta;
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;

/// So many evictions may wait for the controller to notice them.
const DISRUPTED_MAX: usize = 2000;
const RETRY_AFTER_S: u32 = 10;
const VIOLATES: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const SEVERAL: &str =
    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";

impl Server {
    pub(crate) async fn evict(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        let mut warnings = Vec::new();
        let gvk = skiff_api::Gvk::new("policy", "v1", "Eviction");
        let (eviction, options) = read(call, &gvk, &mut warnings)?;
        if meta::text(&eviction, "name") != target.name {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
        }
        let key = target.key();
        let asked = Request {
            server: self,
            user: &call.user,
            row,
            operation: Operation::Create,
            subresource: "eviction",
            of: Some(gvk),
            key: key.clone(),
            old: None,
            dry_run: options.dry_run || eviction["deleteOptions"]["dryRun"].is_array(),
            options: &options.shown("CreateOptions"),
        };
        let eviction = admission::ask(&asked, eviction, &mut warnings).await?;
        let mut delete = DeleteOptions::from_value(&eviction["deleteOptions"])?;
        delete.dry_run |= options.dry_run;
        delete.admitted = true;
        let mut reply = self.evict_allowed(call, row, &key, delete).await?;
        warn_all(&mut reply, &warnings);
        Ok(reply)
    }

    async fn evict_allowed(
        &self,
        call: &Call,
        row: &Arc<Row>,
        key: &ObjectKey,
        mut delete: DeleteOptions,
    ) -> Result<Reply, ApiError> {
        let asked = delete.resource_version.is_some();
        let mut tries = 0;
        let (pod, value) = loop {
            let pod = self.current(row, key).await?;
            let value = pod.value();
            if !counts_no_more(&value) {
                break (pod, value);
            }
            let mut delete = delete.clone();
            // It must not have become ready meanwhile.
            if value["status"]["phase"] == "Pending" && !asked {
                delete.resource_version = Some(pod.revision.to_string());
            }
            match self.evict_now(&call.user, row, key, delete).await {
                Err(error) if error.is_conflict() && !asked && tries < TRIES => tries += 1,
                done => return done,
            }
        };
        self.cache.fresh().await?;
        let budgets = self.budgets_of(&value);
        let [budget] = budgets.as_slice() else {
            if !budgets.is_empty() {
                return Err(ApiError::new(500, "", SEVERAL));
            }
            return self.evict_now(&call.user, row, key, delete).await;
        };
        let free = is_free(&value, budget);
        let name = meta::text(budget, "name").to_owned();
        if !free {
            self.take_disruption(&call.user, key, &name, delete.dry_run).await?;
        }
        if free && !asked {
            delete.resource_version = Some(pod.revision.to_string());
        }
        match self.evict_now(&call.user, row, key, delete).await {
            Err(error) if error.is_conflict() && free && !asked => Err(still_processing(&name)),
            done => done,
        }
    }

    /// Deletes the pod; before, its status says why, for who counts failures.
    async fn evict_now(
        &self,
        user: &User,
        row: &Arc<Row>,
        key: &ObjectKey,
        mut delete: DeleteOptions,
    ) -> Result<Reply, ApiError> {
        if !delete.dry_run {
            let options = WriteOptions::default();
            let change = Change { row, key, part: Part::Own, user, ownership: Ownership::Keep, options: &options };
            let make = |pod: &Value| {
                let text = |field: &str| meta::text(pod, field);
                check_preconditions(row, text("name"), text("uid"), text("resourceVersion"), &delete)?;
                Ok(as_target(pod, &skiff_base::time::now_rfc3339()))
            };
            let pod = self.change(&change, &mut Vec::new(), make).await?;
            // It is this write that has made another version of it.
            if delete.resource_version.is_some() {
                delete.resource_version = Some(pod.revision.to_string());
            }
        }
        self.delete_object(user, row, key, &delete, &mut Vec::new()).await?;
        Ok(Reply::value(201, &encode::success(Value::Null)))
    }

    /// The budgets that the pod is under.
    fn budgets_of(&self, pod: &Value) -> Vec<Value> {
        let label = |key: &str| pod["metadata"]["labels"][key].as_str();
        let all = self.resource("policy/poddisruptionbudgets").all();
        let own = all.iter().filter(|b| *b.meta.namespace == *meta::text(pod, "namespace")).map(|b| b.value());
        own.filter(|budget| {
            // An empty selector means every pod, none at all means none.
            let selector = &budget["spec"]["selector"];
            selector.is_object() && LabelSelector::from_value(selector).is_ok_and(|s| s.matches_with(label))
        })
        .collect()
    }

    async fn take_disruption(&self, user: &User, pod: &ObjectKey, budget: &str, dry_run: bool) -> Result<(), ApiError> {
        let registry = self.registry.load();
        let Some(row) = registry.find("policy", "v1", "poddisruptionbudgets") else { return Ok(()) };
        let key = ObjectKey::new(&pod.namespace, budget);
        let options = WriteOptions { dry_run, ..WriteOptions::default() };
        let change = Change { row, key: &key, part: Part::Own, user, ownership: Ownership::Keep, options: &options };
        self.change(&change, &mut Vec::new(), |budget| take(budget, &pod.name, &skiff_base::time::now_rfc3339()))
            .await?;
        Ok(())
    }
}

/// A pod whose end disturbs nobody.
fn counts_no_more(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending")) || meta::is_deleting(pod)
}

/// Whether the budget lets this pod go without counting it: one that is not ready, where enough others are healthy or the
/// budget does not ask.
fn is_free(pod: &Value, budget: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
    let count = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let healthy = count("currentHealthy") >= count("desiredHealthy") && count("desiredHealthy") > 0;
    !ready && (budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || healthy)
}

fn too_many(cause: String) -> ApiError {
    let mut error = ApiError::new(429, "TooManyRequests", VIOLATES);
    error.details.get_or_insert_default().causes =
        vec![Cause { reason: "DisruptionBudget".into(), message: cause, field: String::new() }];
    error
}

fn still_processing(budget: &str) -> ApiError {
    let error = too_many(format!("The disruption budget {budget} is still being processed by the server."));
    retry_after(error, RETRY_AFTER_S)
}

/// The budget after one more pod went, or why none may.
fn take(budget: &Value, pod: &str, now: &str) -> Result<Value, ApiError> {
    let name = meta::text(budget, "name");
    let status = &budget["status"];
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    if count("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        return Err(still_processing(name));
    }
    let forbid = |why: &str| Err(ApiError::forbidden("policy", "poddisruptionbudget", name, why));
    let allowed = count("disruptionsAllowed");
    if allowed < 0 {
        return forbid("pdb disruptions allowed is negative");
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > DISRUPTED_MAX) {
        return forbid("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(too_many(format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            count("desiredHealthy"),
            count("currentHealthy")
        )));
    }
    let mut new = budget.clone();
    new["status"]["disruptionsAllowed"] = (allowed - 1).into();
    new["status"]["disruptedPods"][pod] = now.into();
    if allowed == 1 {
        no_more(&mut new, now);
    }
    Ok(new)
}

fn no_more(budget: &mut Value, now: &str) {
    let generation = budget["status"]["observedGeneration"].clone();
    let condition = json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "observedGeneration": generation, "lastTransitionTime": now});
    put_condition(budget, condition);
}

/// The pod whose status says that it is evicted, since when it first said so.
fn as_target(pod: &Value, now: &str) -> Value {
    let conditions = pod["status"]["conditions"].as_array();
    let told = conditions.into_iter().flatten().find(|c| c["type"] == "DisruptionTarget" && c["status"] == "True");
    let since = told.map_or_else(|| now.into(), |told| told["lastTransitionTime"].clone());
    let mut new = pod.clone();
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": since});
    put_condition(&mut new, condition);
    new
}

/// In the place of the one of its type.
fn put_condition(object: &mut Value, condition: Value) {
    let mut conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    match conditions.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(found) => *found = condition,
        None => conditions.push(condition),
    }
    object["status"]["conditions"] = conditions.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(status: Value) -> Value {
        json!({"metadata": {"name": "b", "generation": 1}, "status": status})
    }

    #[test]
    fn each_eviction_takes_one() {
        let two = budget(json!({"observedGeneration": 1, "disruptionsAllowed": 2}));
        let one = take(&two, "p", "now").expect("two are allowed");
        assert_eq!(
            one["status"],
            json!({"observedGeneration": 1, "disruptionsAllowed": 1, "disruptedPods": {"p": "now"}})
        );
        let none = take(&one, "q", "later").expect("one is allowed");
        assert_eq!(none["status"]["disruptedPods"], json!({"p": "now", "q": "later"}));
        assert_eq!(none["status"]["conditions"][0]["reason"], "InsufficientPods");
        let error = take(&none, "r", "later").expect_err("none is allowed");
        assert_eq!((error.code, error.message.as_str()), (429, VIOLATES));
    }

    #[test]
    fn why_none_may_go() {
        for (status, code, expect) in [
            (json!({"disruptionsAllowed": 1}), 429, "The disruption budget b is still being processed by the server."),
            (
                json!({"observedGeneration": 1, "desiredHealthy": 3, "currentHealthy": 3}),
                429,
                "The disruption budget b needs 3 healthy pods and has 3 currently",
            ),
            (json!({"observedGeneration": 1, "disruptionsAllowed": -1}), 403, "pdb disruptions allowed is negative"),
        ] {
            let error = take(&budget(status.clone()), "p", "now").expect_err(expect);
            let causes = error.details.as_ref().map(|d| d.causes.clone()).unwrap_or_default();
            let said = causes.first().map_or(error.message.as_str(), |c| c.message.as_str());
            assert!(error.code == code && said.ends_with(expect), "{status}: {said}");
        }
    }

    #[test]
    fn unready_pods_go_where_enough_are_healthy() {
        let pod = |ready: &str| json!({"status": {"conditions": [{"type": "Ready", "status": ready}]}});
        let healthy = json!({"status": {"currentHealthy": 2, "desiredHealthy": 2}});
        let short = json!({"status": {"currentHealthy": 1, "desiredHealthy": 2}});
        let any = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}, "status": {"desiredHealthy": 2}});
        for (ready, budget, expect) in [
            ("True", &healthy, false),
            ("False", &healthy, true),
            ("False", &short, false),
            ("False", &any, true),
            ("True", &any, false),
        ] {
            assert_eq!(is_free(&pod(ready), budget), expect, "{ready} {budget}");
        }
    }
}
