//! `kubectl expose`: a service for what runs already.

use clap::Args;
use serde_json::{Map, Value, json};

use crate::create::Making;
use crate::server::Server;
use crate::targets::{Found, Selection};
use crate::writing::Writing;
use crate::{Failure, Result};

#[derive(Args, Debug)]
pub struct Arguments {
    /// TYPE NAME or TYPE/NAME
    words: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// The name of the new service
    #[arg(long)]
    name: Option<String>,
    /// The port that the service should serve on
    #[arg(long)]
    port: Option<u16>,
    /// The port of the containers, by number or name
    #[arg(long)]
    target_port: Option<String>,
    /// The protocol of the service
    #[arg(long, default_value = "TCP")]
    protocol: String,
    /// ClusterIP, NodePort, LoadBalancer
    #[arg(long = "type", default_value = "")]
    ty: String,
    /// The address of the service, or 'None'
    #[arg(long)]
    cluster_ip: Option<String>,
    /// A further address at which the service is reached
    #[arg(long)]
    external_ip: Option<String>,
    /// None or ClientIP
    #[arg(long)]
    session_affinity: Option<String>,
    /// Remember the configuration in an annotation, for a later apply
    #[arg(long)]
    save_config: bool,
    #[command(flatten)]
    writing: Writing,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    for found in arguments.selection.find(server, &arguments.words, Some(&server.namespace)).await? {
        let service = arguments.service(&found)?;
        let (writing, save_config) = (&arguments.writing, arguments.save_config);
        let making = Making { writing, manager: "kubectl-expose", save_config };
        making.make(server, service, "created").await?;
    }
    Ok(())
}

impl Arguments {
    fn service(&self, found: &Found) -> Result<Value> {
        let object = &found.object;
        let selector = match found.resource.kind.as_str() {
            "Pod" => &object["metadata"]["labels"],
            "Service" | "ReplicationController" => &object["spec"]["selector"],
            "Deployment" | "ReplicaSet" => &object["spec"]["selector"]["matchLabels"],
            kind => return Err(Failure::text(format!("cannot expose a {kind}"))),
        };
        let selector: Map<String, Value> = selector.as_object().cloned().unwrap_or_default();
        if selector.is_empty() {
            return Err(Failure::text(
                "couldn't retrieve selectors via --selector flag or introspection: no labels to select by",
            ));
        }
        let target = |default: u16| match &self.target_port {
            Some(port) => port.parse::<u16>().map_or_else(|_| Value::from(port.as_str()), Value::from),
            None => Value::from(default),
        };
        let declared = declared_ports(found);
        let ports: Vec<Value> = match self.port {
            Some(port) => vec![json!({"port": port, "protocol": self.protocol, "targetPort": target(port)})],
            None if declared.is_empty() => {
                return Err(Failure::text(
                    "couldn't find port via --port flag or introspection\nSee 'kubectl expose -h' for help and examples",
                ));
            }
            None => declared
                .iter()
                .enumerate()
                .map(|(nth, (port, protocol))| {
                    let mut entry = json!({"port": port, "protocol": protocol, "targetPort": target(*port)});
                    if declared.len() > 1 {
                        entry["name"] = format!("port-{}", nth + 1).into();
                    }
                    entry
                })
                .collect(),
        };
        let name = self.name.clone().unwrap_or_else(|| found.name().to_owned());
        let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": selector, "ports": ports}});
        if let Some(labels) = object["metadata"].get("labels") {
            service["metadata"]["labels"] = labels.clone();
        }
        if !self.ty.is_empty() {
            service["spec"]["type"] = self.ty.as_str().into();
        }
        if let Some(address) = &self.cluster_ip {
            service["spec"]["clusterIP"] = address.as_str().into();
        }
        if let Some(address) = &self.external_ip {
            service["spec"]["externalIPs"] = json!([address]);
        }
        match self.session_affinity.as_deref() {
            None | Some("") => {}
            Some(affinity @ ("None" | "ClientIP")) => service["spec"]["sessionAffinity"] = affinity.into(),
            Some(other) => return Err(Failure::text(format!("unknown session affinity: {other}"))),
        }
        Ok(service)
    }
}

/// The ports that the containers (or the service) declare.
fn declared_ports(found: &Found) -> Vec<(u16, String)> {
    let spec = &found.object["spec"];
    let read = |ports: &Value, field: &str| -> Vec<(u16, String)> {
        let port = |entry: &Value| {
            Some((u16::try_from(entry[field].as_u64()?).ok()?, entry["protocol"].as_str().unwrap_or("TCP").to_owned()))
        };
        ports.as_array().into_iter().flatten().filter_map(port).collect()
    };
    match found.resource.kind.as_str() {
        "Service" => read(&spec["ports"], "port"),
        kind => {
            let pod = if kind == "Pod" { spec } else { &spec["template"]["spec"] };
            pod["containers"]
                .as_array()
                .into_iter()
                .flatten()
                .flat_map(|container| read(&container["ports"], "containerPort"))
                .collect()
        }
    }
}
