//! `pods/exec`, `pods/attach`, `pods/portforward`: passed on to the kubelet of the pod's node as upgraded connections.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use skiff_api::{ApiError, Gvk};
use skiff_base::chain;

use super::forward::{outbound, upgrade_of};
use crate::admission::{self, Operation, Request};
use crate::auth::Attributes;
use crate::call::{Call, Query, Target, encode};
use crate::error::method_not_allowed;
use crate::path::warn_all;
use crate::registry::Row;
use crate::reply::Reply;
use crate::server::Server;

impl Server {
    pub(crate) async fn pod_stream(&self, call: &Call, row: &Arc<Row>, target: &Target) -> Result<Reply, ApiError> {
        if !matches!(call.method, Method::GET | Method::POST) {
            return Err(method_not_allowed());
        }
        if call.method == Method::GET {
            // A WebSocket begins with GET; whoever may only read must not run commands with it.
            let create = Attributes {
                verb: "create",
                resource: "pods",
                subresource: &target.subresource,
                namespace: &target.namespace,
                name: &target.name,
                ..Attributes::default()
            };
            self.authorize(call, &create).await?;
        }
        let pod = self.current(row, &target.key()).await?.value();
        let asked = Request {
            server: self,
            user: &call.user,
            row,
            operation: Operation::Connect,
            subresource: &target.subresource,
            of: Some(options_kind(&target.subresource)),
            key: target.key(),
            old: None,
            dry_run: false,
            options: &Value::Null,
        };
        let mut warnings = Vec::new();
        admission::connect(&asked, &connect_options(&target.subresource, &call.query), &mut warnings).await?;
        let path = match target.subresource.as_str() {
            "portforward" => format!("/portForward/{}/{}{}", target.namespace, target.name, ports(&call.query)),
            kind => {
                let container = choose_container(&pod, call.query.get("container"))?;
                format!(
                    "/{kind}/{}/{}/{container}{}",
                    target.namespace,
                    target.name,
                    options(&call.query, kind == "exec")
                )
            }
        };
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        if node.is_empty() {
            return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", target.name)));
        }
        let kubelet = self.kubelet(node)?;
        if upgrade_of(&call.headers).is_none() {
            return Err(ApiError::bad_request("Upgrade request required"));
        }
        let request = outbound(call, call.method.clone(), &path, &kubelet).map_err(ApiError::internal)?;
        let sent = self.send_upstream(&kubelet, request).await;
        let (response, sender) =
            sent.map_err(|e| ApiError::internal(format!("error dialing backend: {}", chain(&e))))?;
        let mut reply = self.pass_back(call, response, sender);
        warn_all(&mut reply, &warnings);
        Ok(reply)
    }
}

fn options_kind(subresource: &str) -> Gvk {
    let kind = match subresource {
        "portforward" => "PodPortForwardOptions",
        "exec" => "PodExecOptions",
        _ => "PodAttachOptions",
    };
    Gvk::new("", "v1", kind)
}

/// What webhooks are asked about.
fn connect_options(subresource: &str, query: &Query) -> Value {
    let kind = &*options_kind(subresource).kind;
    if subresource == "portforward" {
        let ports: Vec<i64> = query.all("ports").flat_map(|p| p.split(',')).filter_map(|p| p.parse().ok()).collect();
        return json!({"kind": kind, "apiVersion": "v1", "ports": ports});
    }
    let is_exec = subresource == "exec";
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    for flag in ["stdin", "stdout", "stderr", "tty"].into_iter().filter(|flag| query.flag(flag)) {
        options[flag] = true.into();
    }
    if let Some(container) = query.get("container") {
        options["container"] = container.into();
    }
    if is_exec {
        options["command"] = query.all("command").collect::<Vec<_>>().into();
    }
    options
}

/// With the question mark, as kubelets read them.
fn options(query: &Query, command: bool) -> String {
    let mut pairs: Vec<String> = Vec::new();
    for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if query.flag(ours) {
            pairs.push(format!("{theirs}=1"));
        }
    }
    if command {
        pairs.extend(query.all("command").map(|word| format!("command={}", encode(word))));
    }
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

fn ports(query: &Query) -> String {
    let all: Vec<&str> = query.all("ports").collect();
    if all.is_empty() { String::new() } else { format!("?port={}", encode(&all.join(","))) }
}

/// The container that is meant, as upstream chooses.
pub(crate) fn choose_container(pod: &Value, asked: Option<&str>) -> Result<String, ApiError> {
    let names = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers.filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    };
    let containers = names("containers");
    let all = [names("initContainers"), containers.clone(), names("ephemeralContainers")].concat();
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    match (asked, containers.as_slice()) {
        (Some(asked), _) if all.iter().any(|known| known == asked) => Ok(asked.to_owned()),
        (Some(asked), _) => Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}"))),
        (None, [only]) => Ok(only.clone()),
        (None, _) => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            all.join(" ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhooks_see_what_is_asked_for() {
        let query = Query::parse("stdin=true&tty=false&container=c&command=ls&command=-l&ports=80,81");
        assert_eq!(
            connect_options("exec", &query),
            json!({"kind": "PodExecOptions", "apiVersion": "v1", "stdin": true, "container": "c", "command": ["ls", "-l"]})
        );
        assert_eq!(
            connect_options("attach", &query),
            json!({"kind": "PodAttachOptions", "apiVersion": "v1", "stdin": true, "container": "c"})
        );
        assert_eq!(
            connect_options("portforward", &query),
            json!({"kind": "PodPortForwardOptions", "apiVersion": "v1", "ports": [80, 81]})
        );
    }

    #[test]
    fn chooses_as_upstream() {
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}],
            "initContainers": [{"name": "i"}]}});
        assert_eq!(choose_container(&one, None).as_deref(), Ok("a"));
        assert_eq!(choose_container(&two, Some("i")).as_deref(), Ok("i"));
        for (asked, expect) in [
            (None, "a container name must be specified for pod p, choose one of: [i a b]"),
            (Some("x"), "container x is not valid for pod p"),
        ] {
            assert_eq!(choose_container(&two, asked).expect_err("refused").message, expect);
        }
    }

    #[test]
    fn options_as_kubelets_read_them() {
        let of = |query: &str| options(&Query::parse(query), true);
        assert_eq!(
            of("command=sh&command=-c&command=a%20%26b&stdin=true&stdout=1&stderr=false&tty=0&container=c"),
            "?input=1&output=1&command=sh&command=-c&command=a%20%26b"
        );
        assert_eq!(of(""), "");
        assert_eq!(ports(&Query::parse("ports=80&ports=81,82")), "?port=80%2C81%2C82");
        assert_eq!(ports(&Query::parse("")), "");
    }
}
