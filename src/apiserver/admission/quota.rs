//! ResourceQuota: what is used is counted up in the quotas' status, by compare-and-swap, before the object is
//! committed, and counted down again if that fails. So two writers never use the same room.

use std::sync::{Arc, Weak};

use serde_json::Value;
use skiff_api::quota::{Amounts, Scopes, add, amounts, concerns, minus, shown, to_value, unsaid, usage};
use skiff_api::{ApiError, Object, ObjectKey};
use skiff_base::chain;

use super::request::{Operation, Request};
use crate::server::Server;
use crate::storage::{self, Written};

/// How often a quota is tried when others change it at the same time.
const TRIES: u32 = 1000;

/// What was counted up; counted down again when dropped, unless [`Reservation::keep`] was called.
#[derive(Default)]
pub(crate) struct Reservation {
    server: Weak<Server>,
    taken: Vec<(ObjectKey, Amounts)>,
}

impl Reservation {
    pub fn none() -> Self {
        Self::default()
    }

    /// The object is committed.
    pub fn keep(mut self) {
        self.taken.clear();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        let Some(server) = self.server.upgrade().filter(|_| !taken.is_empty()) else { return };
        let scope = server.scope.clone();
        scope.spawn(async move {
            for (key, amounts) in taken {
                let back = |quota: &mut Value| {
                    let used = minus(&self::amounts(&quota["status"]["used"]), &amounts);
                    quota["status"]["used"] = to_value(&used);
                    Ok(true)
                };
                if let Err(error) = swap(&server, &key, None, back).await {
                    // The controller counts anew anyway.
                    tracing::warn!(quota = %key, error = %chain(&error), "give back to the quota");
                }
            }
        });
    }
}

/// What a request uses, and for updates what it used before.
struct Use<'a> {
    group: &'a str,
    resource: &'a str,
    object: &'a Value,
    old: Option<&'a Value>,
    added: Amounts,
}

impl<'a> Use<'a> {
    fn of(request: &'a Request<'_>, object: &'a Value) -> Option<Self> {
        let (group, resource) = (request.row.group(), request.row.resource());
        // Events end by themselves, and are upstream's only resource without quota.
        if !request.row.descriptor.namespaced || resource == "events" {
            return None;
        }
        let measured = match (group, resource) {
            ("", "pods") => request.subresource == "resize",
            ("", "services" | "persistentvolumeclaims") => request.subresource.is_empty(),
            _ => false,
        };
        let counts = match request.operation {
            Operation::Create => request.subresource.is_empty(),
            Operation::Update => measured,
            Operation::Delete | Operation::Connect => false,
        };
        if !counts {
            return None;
        }
        let now = skiff_base::time::now();
        let old = request.old.filter(|_| request.operation == Operation::Update);
        let mut added = usage(group, resource, object, now);
        if let Some(old) = old {
            added = minus(&added, &usage(group, resource, old, now));
        }
        added.retain(|_, amount| !amount.is_zero());
        Some(Self { group, resource, object, old, added })
    }

    /// What the use changes of a quota: its new `status.used`; nothing where it is not concerned.
    fn plan(&self, quota: &Value) -> Result<Option<Amounts>, String> {
        let scopes = Scopes::of(quota);
        if !scopes.match_(self.group, self.resource, self.object) {
            return Ok(None);
        }
        let name = quota["metadata"]["name"].as_str().unwrap_or_default();
        let mut hard = amounts(&quota["status"]["hard"]);
        hard.retain(|resource, _| concerns(self.group, self.resource, resource));
        if self.old.is_none()
            && let Some(why) = unsaid(self.resource, self.object, hard.keys())
        {
            return Err(format!("failed quota: {name}: {why}"));
        }
        let used = amounts(&quota["status"]["used"]);
        let unknown: Vec<&str> = hard.keys().filter(|key| !used.contains_key(*key)).map(String::as_str).collect();
        if !unknown.is_empty() {
            return Err(format!("status unknown for quota: {name}, resources: {}", unknown.join(",")));
        }
        let requested: Amounts = hard.keys().filter_map(|key| Some((key.clone(), *self.added.get(key)?))).collect();
        if requested.is_empty() {
            return Ok(None);
        }
        let mut new = used.clone();
        add(&mut new, &requested);
        // What becomes less may do so, however much is used.
        let exceeds = |(key, amount): &(&String, &skiff_api::quantity::Quantity)| {
            !amount.is_negative() && new.get(*key) > hard.get(*key)
        };
        let exceeded: Vec<&String> = requested.iter().filter(exceeds).map(|(key, _)| key).collect();
        if exceeded.is_empty() {
            return Ok(Some(requested));
        }
        let of = |all: &Amounts| shown(exceeded.iter().filter_map(|key| all.get_key_value(*key)));
        let (asked, used, hard) = (of(&requested), of(&used), of(&hard));
        Err(format!("exceeded quota: {name}, requested: {asked}, used: {used}, limited: {hard}"))
    }
}

pub(super) async fn reserve(request: &Request<'_>, object: &Value) -> Result<Reservation, ApiError> {
    let server = request.server;
    let mut reservation = Reservation { server: server.me.clone(), taken: Vec::new() };
    let all = server.resource("resourcequotas").all();
    let quotas: Vec<Arc<Object>> =
        all.into_iter().filter(|quota| quota.meta.namespace == request.key.namespace).collect();
    if quotas.is_empty() {
        return Ok(reservation);
    }
    let Some(wanted) = Use::of(request, object).filter(|wanted| !wanted.added.is_empty()) else {
        return Ok(reservation);
    };
    for quota in quotas {
        let key = quota.key();
        let mut taken = None;
        let take = |quota: &mut Value| {
            taken = wanted.plan(quota).map_err(|why| request.forbidden(&why))?;
            let Some(requested) = &taken else { return Ok(false) };
            let mut used = amounts(&quota["status"]["used"]);
            add(&mut used, requested);
            quota["status"]["used"] = to_value(&used);
            Ok(!request.dry_run)
        };
        swap(server, &key, Some(quota), take).await?;
        if let Some(requested) = taken.filter(|_| !request.dry_run) {
            reservation.taken.push((key, requested));
        }
    }
    Ok(reservation)
}

/// Changes a quota where `change` says so; starts over when someone else was faster. A quota that is gone limits
/// nothing.
async fn swap(
    server: &Server,
    key: &ObjectKey,
    known: Option<Arc<Object>>,
    mut change: impl FnMut(&mut Value) -> Result<bool, ApiError>,
) -> Result<(), ApiError> {
    let Some(known) = known.or_else(|| server.resource("resourcequotas").get(key)) else { return Ok(()) };
    let (mut value, mut revision) = (stored(known.value()), known.revision);
    for _ in 0..TRIES {
        if !change(&mut value)? {
            return Ok(());
        }
        let store_key = storage::key("resourcequotas", key);
        match storage::replace(&server.store, store_key, revision, Object::canonical(&value)).await? {
            Written::At(_) => return Ok(()),
            Written::Conflict(None) => return Ok(()),
            Written::Conflict(Some(record)) => {
                revision = record.modified.0;
                let current = Object::parse(record.value, revision).map_err(|e| ApiError::internal(chain(&e)))?;
                value = stored(current.value());
            }
        }
    }
    Err(ApiError::conflict("", "resourcequotas", &key.name, "too many others change it at the same time"))
}

/// The object as it is stored: its revision is no part of it.
fn stored(mut value: Value) -> Value {
    crate::meta::of(&mut value).remove("resourceVersion");
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wanted<'a>(resource: &'a str, object: &'a Value, old: Option<&'a Value>) -> Use<'a> {
        let now = skiff_base::time::now();
        let mut added = usage("", resource, object, now);
        if let Some(old) = old {
            added = minus(&added, &usage("", resource, old, now));
        }
        added.retain(|_, amount| !amount.is_zero());
        Use { group: "", resource, object, old, added }
    }

    fn quota(spec: Value, hard: Value, used: Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": spec, "status": {"hard": hard, "used": used}})
    }

    #[test]
    fn quotas_take_refuse_and_stay_out() {
        let pod = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]}});
        let check = |quota: Value, expect: Result<Option<&str>, &str>| {
            let plan = wanted("pods", &pod, None).plan(&quota);
            let plan = plan.map(|taken| taken.map(|taken| shown(&taken)));
            assert_eq!(plan.as_ref().map(Option::as_deref).map_err(String::as_str), expect);
        };
        let hard = json!({"pods": "2", "requests.cpu": "1", "services": "0"});
        let used = |pods: &str, cpu: &str| json!({"pods": pods, "requests.cpu": cpu, "services": "0"});
        check(quota(json!({}), hard.clone(), used("1", "500m")), Ok(Some("pods=1,requests.cpu=500m")));
        check(
            quota(json!({}), hard.clone(), used("2", "600m")),
            Err("exceeded quota: q, requested: pods=1,requests.cpu=500m, used: pods=2,requests.cpu=600m, limited: \
                 pods=2,requests.cpu=1"),
        );
        check(
            quota(json!({}), hard.clone(), used("1", "600m")),
            Err("exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1"),
        );
        check(quota(json!({"scopes": ["Terminating"]}), hard.clone(), used("2", "1")), Ok(None));
        check(
            quota(json!({}), hard, json!({"pods": "0"})),
            Err("status unknown for quota: q, resources: requests.cpu"),
        );
        check(quota(json!({}), json!({"services": "0"}), json!({"services": "0"})), Ok(None));
        check(
            quota(json!({}), json!({"limits.cpu": "1"}), json!({"limits.cpu": "0"})),
            Err("failed quota: q: must specify limits.cpu for: c"),
        );
        check(quota(json!({}), json!({}), json!({})), Ok(None));
    }

    #[test]
    fn updates_take_the_difference() {
        let service = |kind: &str| json!({"spec": {"type": kind, "ports": [{"port": 1}]}});
        let (cluster, node) = (service("ClusterIP"), service("NodePort"));
        let hard = json!({"services": "1", "services.nodeports": "0"});
        let full =
            |nodeports: &str| quota(json!({}), hard.clone(), json!({"services": "1", "services.nodeports": nodeports}));
        assert_eq!(wanted("services", &cluster, Some(&cluster)).plan(&full("0")), Ok(None));
        assert_eq!(
            wanted("services", &node, Some(&cluster)).plan(&full("0")),
            Err("exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=0, limited: \
                 services.nodeports=0"
                .to_owned())
        );
        let back = wanted("services", &cluster, Some(&node)).plan(&full("1")).expect("less is always allowed");
        assert_eq!(shown(&back.expect("it changes")), "services.nodeports=-1");
    }
}
