//! `kubectl describe`: a page about each object, with its events.

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;
use skiff_api::duration::human_since;

use crate::server::{JSON, Server, with_query};
use crate::targets::{Found, Selection, Target, list, parse};
use crate::{Failure, Result};

mod access;
mod batch;
mod generic;
mod network;
mod node;
mod page;
mod pod;
mod policy;
mod scaling;
mod service;
mod storage;
mod traffic;
mod workload;

pub use access::rules;
use page::Page;
pub use page::aligned;
pub use pod::downward;

/// Kinds whose pages upstream ends without events.
const EVENTLESS: [&str; 9] = [
    "Secret",
    "Namespace",
    "NetworkPolicy",
    "Role",
    "ClusterRole",
    "RoleBinding",
    "ClusterRoleBinding",
    "ResourceQuota",
    "LimitRange",
];

#[derive(Args, Debug)]
pub struct Arguments {
    /// TYPE[/NAME-PREFIX] [NAME-PREFIX ...]
    words: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Describe in all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Display events; without it, only of a single object that was named in full
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    show_events: Option<bool>,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    let (found, by_prefix) = arguments.find(server).await?;
    let with_events = arguments.show_events.unwrap_or(found.len() == 1 && !by_prefix);
    if found.is_empty() {
        let place =
            if arguments.all_namespaces { String::new() } else { format!(" in {} namespace", server.namespace) };
        eprintln!("No resources found{place}.");
        return Ok(());
    }
    for (nth, found) in found.iter().enumerate() {
        if nth > 0 && !by_prefix {
            println!("\n");
        }
        let mut page = Page::default();
        match found.resource.kind.as_str() {
            "Pod" => pod::write(&mut page, &found.object),
            "Deployment" => workload::deployment(server, &mut page, found).await?,
            "ReplicaSet" | "ReplicationController" => workload::replicas(server, &mut page, found).await?,
            "DaemonSet" => workload::daemon_set(server, &mut page, found).await?,
            "StatefulSet" => workload::stateful_set(server, &mut page, found).await?,
            "Job" => batch::job(&mut page, &found.object),
            "CronJob" => batch::cron_job(&mut page, &found.object),
            "Service" => service::write(server, &mut page, found).await?,
            "Endpoints" => network::endpoints(&mut page, &found.object),
            "EndpointSlice" => network::slice(&mut page, &found.object),
            "Ingress" => network::ingress(server, &mut page, found).await?,
            "IngressClass" => network::ingress_class(&mut page, &found.object),
            "Node" => node::write(server, &mut page, found).await?,
            "ServiceAccount" => access::service_account(&mut page, &found.object),
            "Role" | "ClusterRole" => access::role(&mut page, &found.object),
            "RoleBinding" | "ClusterRoleBinding" => access::binding(&mut page, &found.object),
            "ResourceQuota" => policy::quota(&mut page, &found.object),
            "LimitRange" => policy::limit_range(&mut page, &found.object),
            "PodDisruptionBudget" => policy::disruption_budget(&mut page, &found.object),
            "PriorityClass" => policy::priority_class(&mut page, &found.object),
            "StorageClass" => storage::storage_class(&mut page, &found.object),
            "VolumeAttributesClass" => storage::attributes_class(&mut page, &found.object),
            "PersistentVolume" => storage::volume(&mut page, &found.object),
            "PersistentVolumeClaim" => storage::claim(server, &mut page, found).await?,
            "CSINode" => storage::csi_node(&mut page, &found.object),
            "HorizontalPodAutoscaler" => scaling::write(&mut page, &found.object),
            "NetworkPolicy" => traffic::policy(&mut page, &found.object),
            "IPAddress" => traffic::ip_address(&mut page, &found.object),
            "ServiceCIDR" => traffic::service_cidr(&mut page, &found.object),
            "CertificateSigningRequest" => access::signing_request(&mut page, &found.object),
            "ConfigMap" => generic::config_map(&mut page, &found.object),
            "Secret" => generic::secret(&mut page, &found.object),
            "Namespace" => {
                generic::namespace(&mut page, &found.object);
                limits(server, &mut page, found.name()).await?;
            }
            _ => generic::write(&mut page, &found.object),
        }
        let has_events = !EVENTLESS.contains(&found.resource.kind.as_str());
        if with_events && has_events {
            events(server, &mut page, found).await?;
        }
        print!("{}", page.text());
        if by_prefix {
            println!();
        }
    }
    Ok(())
}

/// The text of a pod template, as the history of a rollout shows it: with its tabs.
pub fn template(template: &Value) -> String {
    let mut page = Page::default();
    workload::template(&mut page, template);
    page.lines().to_owned()
}

impl Arguments {
    /// Exact names, or else all names that begin so, which is told.
    async fn find(&self, server: &Server) -> Result<(Vec<Found>, bool)> {
        let namespace = (!self.all_namespaces).then_some(server.namespace.as_str());
        if !self.selection.files.is_empty() {
            return Ok((self.selection.find(server, &self.words, namespace).await?, false));
        }
        let targets = parse(server.discovery().await?, &self.words)?;
        if targets.is_empty() {
            return Err(Failure::text(
                "You must specify the type of resource to describe. Use \"kubectl api-resources\" for a complete list of supported resources.",
            ));
        }
        let (mut found, mut by_prefix) = (Vec::new(), false);
        for Target { resource, names, .. } in targets {
            if names.is_empty() {
                for object in self.selection.list(server, &resource, namespace).await? {
                    found.push(Found { resource: resource.clone(), object });
                }
            }
            for name in names {
                match server.object(&resource, namespace, &name, JSON).await {
                    Ok(object) => found.push(Found { resource: resource.clone(), object }),
                    Err(e) if crate::failure::is_not_found(&e) => {
                        let all = list(server, &resource, namespace, "", "").await?;
                        let begins =
                            |object: &Value| object["metadata"]["name"].as_str().is_some_and(|n| n.starts_with(&name));
                        let mut similar = all.into_iter().filter(begins).peekable();
                        if similar.peek().is_none() {
                            return Err(e);
                        }
                        by_prefix = true;
                        found.extend(similar.map(|object| Found { resource: resource.clone(), object }));
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        Ok((found, by_prefix))
    }
}

/// What limits a namespace, where the server has such types.
async fn limits(server: &Server, page: &mut Page, namespace: &str) -> Result {
    let mut found = [Vec::new(), Vec::new()];
    for (ty, found) in ["resourcequotas", "limitranges"].into_iter().zip(&mut found) {
        if let Ok(resource) = server.discovery().await?.find(ty) {
            *found = list(server, resource, Some(namespace), "", "").await?;
        }
    }
    policy::of_namespace(page, &found[0], &found[1]);
    Ok(())
}

async fn events(server: &Server, page: &mut Page, found: &Found) -> Result {
    let mut fields = format!("involvedObject.name={}", found.name());
    // A node's events name it by its name, not by its uid.
    if found.resource.kind != "Node" {
        let uid = found.object["metadata"]["uid"].as_str().unwrap_or_default();
        fields += &format!(",involvedObject.uid={uid}");
    } else {
        fields += ",involvedObject.kind=Node";
    }
    let base = match found.namespace() {
        Some(namespace) => format!("/api/v1/namespaces/{namespace}/events"),
        None => "/api/v1/events".to_owned(),
    };
    let list = match server.get(&with_query(&base, &[("fieldSelector", &fields), ("limit", "500")])).await {
        Ok(list) => list,
        // Who may see the object may still not see its events.
        Err(e) => {
            page.line(format!("Events:\t<unknown> ({e})"));
            return Ok(());
        }
    };
    let mut events: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
    if events.is_empty() {
        page.line("Events:\t<none>");
        return Ok(());
    }
    events.sort_by_key(|event| last_seen(event));
    page.line("Events:");
    page.line("  Type\tReason\tAge\tFrom\tMessage");
    page.line("  ----\t------\t----\t----\t-------");
    let now = Timestamp::now();
    for event in events {
        let text = |field: &str| event[field].as_str().unwrap_or_default();
        let age = |at: Option<Timestamp>| at.map_or_else(|| "<unknown>".to_owned(), |at| human_since(at, now));
        let series = event["series"]["count"].as_i64();
        let count = series.or_else(|| event["count"].as_i64()).unwrap_or(1);
        let first = time(&event["eventTime"]).or_else(|| time(&event["firstTimestamp"]));
        let when = if count > 1 || series.is_some() {
            format!("{} (x{count} over {})", age(last_seen(event)), age(first))
        } else {
            age(first.or_else(|| last_seen(event)))
        };
        let from = event["source"]["component"]
            .as_str()
            .filter(|from| !from.is_empty())
            .unwrap_or_else(|| text("reportingComponent"));
        let part = event["involvedObject"]["fieldPath"].as_str().filter(|path| !path.is_empty());
        let part = part.map(|path| format!("{path}: ")).unwrap_or_default();
        let message = text("message").trim();
        page.line(format!("  {}\t{}\t{when}\t{from}\t{part}{message}", text("type"), text("reason")));
    }
    Ok(())
}

fn last_seen(event: &Value) -> Option<Timestamp> {
    time(&event["series"]["lastObservedTime"])
        .or_else(|| time(&event["lastTimestamp"]))
        .or_else(|| time(&event["eventTime"]))
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// RFC 1123 with the zone in numbers, as upstream prints times.
fn date(value: &Value) -> String {
    time(value).map_or_else(|| "<unset>".to_owned(), |at| at.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string())
}
