//! `kubectl top`: what the metrics API tells, where a cluster has one.

use clap::{Args, Subcommand};
use serde_json::Value;
use skiff_api::quantity::Quantity;

use crate::print::Table;
use crate::server::{Server, with_query};
use crate::{Failure, Result};

const ROOT: &str = "/apis/metrics.k8s.io/v1beta1";

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Display resource (CPU/memory) usage of nodes
    #[command(visible_alias = "nodes", alias = "no")]
    Node {
        #[command(flatten)]
        which: Which,
        /// Print shares of what the nodes have, not of what pods may take
        #[arg(long)]
        show_capacity: bool,
    },
    /// Display resource (CPU/memory) usage of pods
    #[command(visible_alias = "pods", alias = "po")]
    Pod {
        #[command(flatten)]
        which: Which,
        /// List pods of all namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        /// A row for each container
        #[arg(long)]
        containers: bool,
        /// Print the sum of all pods
        #[arg(long)]
        sum: bool,
    },
}

#[derive(Args)]
struct Which {
    name: Option<String>,
    /// Selector (label query) to filter on
    #[arg(short = 'l', long, default_value = "")]
    selector: String,
    /// cpu or memory
    #[arg(long, default_value = "")]
    sort_by: String,
    /// Don't print headers
    #[arg(long)]
    no_headers: bool,
}

/// Millicores and bytes.
type Usage = (i64, i64);

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    if !server.discovery().await?.versions.iter().any(|version| version.starts_with("metrics.k8s.io/")) {
        return Err(Failure::text("Metrics API not available"));
    }
    match arguments.what {
        What::Node { which, show_capacity } => {
            nodes(server, &which, if show_capacity { "capacity" } else { "allocatable" }).await
        }
        What::Pod { which, all_namespaces, containers, sum } => {
            let namespace = (!all_namespaces).then_some(server.namespace.as_str());
            pods(server, &which, namespace, containers, sum).await
        }
    }
}

impl Which {
    async fn get(&self, server: &Server, collection: &str) -> Result<Vec<Value>> {
        if let Some(name) = &self.name {
            return Ok(vec![server.get(&format!("{collection}/{}", skiff_client::percent_encoded(name))).await?]);
        }
        let list = server.get(&with_query(collection, &[("labelSelector", &self.selector)])).await?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    fn sort<T>(&self, rows: &mut [(T, Usage)]) -> Result {
        match self.sort_by.as_str() {
            "" => {}
            "cpu" => rows.sort_by_key(|(_, usage)| -usage.0),
            "memory" => rows.sort_by_key(|(_, usage)| -usage.1),
            _ => return Err(Failure::text("--sort-by accepts only cpu or memory")),
        }
        Ok(())
    }
}

fn usage(value: &Value) -> Usage {
    let amount = |name: &str| value[name].as_str().and_then(|text| text.parse().ok()).unwrap_or(Quantity::ZERO);
    (amount("cpu").milli_value(), amount("memory").value())
}

fn shown((cpu, memory): Usage) -> [String; 2] {
    [format!("{cpu}m"), format!("{}Mi", memory / (1024 * 1024))]
}

/// `whole`: the field of what the usage is a share of.
async fn nodes(server: &Server, which: &Which, whole: &str) -> Result {
    let metrics = which.get(server, &format!("{ROOT}/nodes")).await?;
    let mut rows: Vec<(String, Usage)> = metrics
        .iter()
        .map(|node| (node["metadata"]["name"].as_str().unwrap_or_default().to_owned(), usage(&node["usage"])))
        .collect();
    which.sort(&mut rows)?;
    let mut table = Table::default();
    if !which.no_headers {
        table.row(["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"].map(str::to_owned));
    }
    for (name, used) in rows {
        let node = server.get(&format!("/api/v1/nodes/{}", skiff_client::percent_encoded(&name))).await?;
        let there = usage(&node["status"][whole]);
        let percent =
            |used: i64, all: i64| if all == 0 { "<unknown>".to_owned() } else { format!("{}%", used * 100 / all) };
        let [cpu, memory] = shown(used);
        table.row([name, cpu, percent(used.0, there.0), memory, percent(used.1, there.1)]);
    }
    print!("{table}");
    Ok(())
}

async fn pods(server: &Server, which: &Which, namespace: Option<&str>, containers: bool, sum: bool) -> Result {
    let collection = match namespace {
        Some(namespace) => format!("{ROOT}/namespaces/{}/pods", skiff_client::percent_encoded(namespace)),
        None => format!("{ROOT}/pods"),
    };
    let metrics = which.get(server, &collection).await?;
    if metrics.is_empty() {
        match namespace {
            Some(namespace) => eprintln!("No resources found in {namespace} namespace."),
            None => eprintln!("No resources found"),
        }
        return Ok(());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut rows: Vec<(Vec<String>, Usage)> = Vec::new();
    for pod in &metrics {
        let mut name = vec![text(&pod["metadata"]["name"])];
        if namespace.is_none() {
            name.insert(0, text(&pod["metadata"]["namespace"]));
        }
        let each = pod["containers"].as_array().into_iter().flatten();
        if containers {
            rows.extend(each.map(|container| {
                ([name.clone(), vec![text(&container["name"])]].concat(), usage(&container["usage"]))
            }));
        } else {
            let total = each.map(|container| usage(&container["usage"])).fold((0, 0), add);
            rows.push((name, total));
        }
    }
    which.sort(&mut rows)?;
    let mut header: Vec<&str> = if namespace.is_none() { vec!["NAMESPACE"] } else { Vec::new() };
    header.extend(if containers { ["POD", "NAME"].as_slice() } else { ["NAME"].as_slice() });
    let columns = header.len();
    header.extend(["CPU(cores)", "MEMORY(bytes)"]);
    let mut table = Table::default();
    if !which.no_headers {
        table.row(header.into_iter().map(str::to_owned));
    }
    let total = rows.iter().map(|(_, usage)| *usage).fold((0, 0), add);
    for (name, used) in rows {
        table.row(name.into_iter().chain(shown(used)));
    }
    if sum {
        let blank = |count: usize| vec![String::new(); count];
        table.row(blank(columns).into_iter().chain(["________".to_owned(), "________".to_owned()]));
        table.row(blank(columns).into_iter().chain(shown(total)));
    }
    print!("{table}");
    Ok(())
}

fn add(a: Usage, b: Usage) -> Usage {
    (a.0 + b.0, a.1 + b.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn usage_is_millicores_and_mebibytes() {
        let used = usage(&json!({"cpu": "12345678n", "memory": "2097152"}));
        assert_eq!(used, (13, 2 * 1024 * 1024));
        assert_eq!(shown(used), ["13m", "2Mi"]);
    }
}
