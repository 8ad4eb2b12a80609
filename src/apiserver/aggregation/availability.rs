//! Whether another server can be used: upstream's reasons of the condition `Available`.

use futures::future::join_all;
use serde_json::{Value, json};

use super::Remote;
use super::forward::TIMED_OUT;
use super::table::Reference;
use crate::address::{port_name, ready};
use crate::server::Server;

/// A failed question is repeated by so many at once: another endpoint may answer.
const MORE_ATTEMPTS: usize = 4;

/// What the condition is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub available: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Verdict {
    pub fn local() -> Self {
        Self { available: true, reason: "Local", message: "Local APIServices are always available".to_owned() }
    }

    fn passed() -> Self {
        Self { available: true, reason: "Passed", message: "all checks passed".to_owned() }
    }

    fn not(reason: &'static str, message: String) -> Self {
        Self { available: false, reason, message }
    }
}

/// What there is to say without asking; `None`: its server is to be asked.
pub(super) fn plan_without_asking(at: &Reference, service: Option<&Value>, slices: &[Value]) -> Option<Verdict> {
    let Reference { namespace, name, port } = at;
    let Some(service) = service else {
        let message = format!("service/{name} in {namespace:?} is not present");
        return Some(Verdict::not("ServiceNotFound", message));
    };
    let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP");
    if kind != "ClusterIP" {
        return None;
    }
    let Some(port_name) = port_name(service, *port) else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Some(Verdict::not("ServicePortError", message));
    };
    if slices.is_empty() {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Some(Verdict::not("EndpointsNotFound", message));
    }
    if slices.iter().all(|slice| ready(slice, port_name).is_empty()) {
        let message = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
        );
        return Some(Verdict::not("MissingEndpoints", message));
    }
    None
}

/// The status with the condition, if it does not say so yet.
pub(super) fn plan_status(status: &Value, verdict: &Verdict, now: &str) -> Option<Value> {
    let word = if verdict.available { "True" } else { "False" };
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let old = conditions.iter().position(|condition| condition["type"] == "Available");
    let since = match old.map(|at| &conditions[at]) {
        Some(known) if known["status"] == word => {
            if known["reason"] == verdict.reason && known["message"] == *verdict.message {
                return None;
            }
            known["lastTransitionTime"].as_str().unwrap_or(now).to_owned()
        }
        _ => now.to_owned(),
    };
    let condition = json!({"type": "Available", "status": word, "lastTransitionTime": since,
        "reason": verdict.reason, "message": verdict.message});
    match old {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
    let mut status = if status.is_object() { status.clone() } else { json!({}) };
    status["conditions"] = conditions.into();
    Some(status)
}

impl Server {
    pub(super) async fn check_remote(&self, remote: &Remote) -> Verdict {
        let at = &remote.service;
        let service = self.resource("services").find(&at.namespace, &at.name).map(|service| service.value());
        let slices = self.slices_of(&at.namespace, &at.name);
        if let Some(verdict) = plan_without_asking(at, service.as_ref(), &slices) {
            return verdict;
        }
        let first = self.answers(remote).await;
        match &first {
            Ok(()) => return Verdict::passed(),
            // The others wait for this answer: it is asked for again later, not at once.
            Err(why) if why.ends_with(TIMED_OUT) => return Verdict::not("FailedDiscoveryCheck", why.clone()),
            Err(_) => {}
        }
        let more = join_all((0..MORE_ATTEMPTS).map(|_| self.answers(remote))).await;
        if more.iter().any(Result::is_ok) {
            return Verdict::passed();
        }
        let why = more.into_iter().chain([first]).find_map(Result::err);
        Verdict::not("FailedDiscoveryCheck", why.unwrap_or_default())
    }

    /// Whether it answers what every API server must.
    async fn answers(&self, remote: &Remote) -> Result<(), String> {
        let path = remote.path();
        let answer = self.ask_remote(remote, &path, "application/json", "").await?;
        if answer.status.is_success() {
            return Ok(());
        }
        let Ok((host, port)) = self.address_of(&remote.service.namespace, &remote.service.name, remote.service.port)
        else {
            return Err(format!("bad status: {}", answer.status.as_u16()));
        };
        let url = format!("https://{host}:{port}{path}");
        let why = format!("bad status from {url}: {}", answer.status.as_u16());
        Err(format!("failing or missing response from {url}: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_as_upstream() {
        let at = Reference { namespace: "a".to_owned(), name: "s".to_owned(), port: 443 };
        let service = json!({"spec": {"ports": [{"port": 443, "name": "https"}]}});
        let slice = json!({"ports": [{"name": "https", "port": 8443}], "endpoints": [{"addresses": ["10.0.0.1"]}]});
        let empty = json!({"ports": [{"name": "https", "port": 8443}], "endpoints": []});
        let check = |service: Option<&Value>, slices: &[Value], expect: Option<(&str, &str)>| {
            let verdict = plan_without_asking(&at, service, slices);
            assert_eq!(verdict.as_ref().map(|v| (v.reason, v.message.as_str())), expect);
            assert!(verdict.is_none_or(|verdict| !verdict.available));
        };
        check(None, &[], Some(("ServiceNotFound", "service/s in \"a\" is not present")));
        let other = json!({"spec": {"ports": [{"port": 80}]}});
        check(
            Some(&other),
            std::slice::from_ref(&slice),
            Some(("ServicePortError", "service/s in \"a\" is not listening on port 443")),
        );
        check(Some(&service), &[], Some(("EndpointsNotFound", "cannot find endpointslices for service/s in \"a\"")));
        let message = "endpointslices for service/s in \"a\" have no addresses with port name \"https\"";
        check(Some(&service), std::slice::from_ref(&empty), Some(("MissingEndpoints", message)));
        check(Some(&service), &[empty, slice], None);
        check(Some(&json!({"spec": {"type": "ExternalName"}})), &[], None);
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let no = Verdict::not("ServiceNotFound", "gone".to_owned());
        let first = plan_status(&json!(null), &no, "t1").expect("new");
        let condition = |status: &Value| status["conditions"][0].clone();
        assert_eq!(
            condition(&first),
            json!({"type": "Available", "status": "False", "lastTransitionTime": "t1", "reason": "ServiceNotFound",
                "message": "gone"})
        );
        assert_eq!(plan_status(&first, &no, "t2"), None);
        let other = Verdict::not("MissingEndpoints", "none".to_owned());
        let second = plan_status(&first, &other, "t2").expect("another reason");
        assert_eq!(condition(&second)["lastTransitionTime"], "t1");
        let third = plan_status(&second, &Verdict::passed(), "t3").expect("available");
        assert_eq!(
            (&condition(&third)["lastTransitionTime"], &condition(&third)["status"]),
            (&json!("t3"), &json!("True"))
        );
    }
}
