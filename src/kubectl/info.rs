//! What the server is and has: `api-resources`, `api-versions`, `cluster-info`, `version`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::discovery::Resource;
use crate::print::{Table, structured};
use crate::server::Server;
use crate::{Failure, Result, dump};

/// The version of the API that this client was made for.
const CLIENT: &str = "v1.36.0";

#[derive(Args, Debug)]
pub struct Resources {
    /// Only this group; empty is the core group
    #[arg(long)]
    api_group: Option<String>,
    /// true or false: only (not) namespaced resources
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    namespaced: Option<bool>,
    /// Only those that support these verbs
    #[arg(long, value_delimiter = ',')]
    verbs: Vec<String>,
    /// Only those that belong to these categories
    #[arg(long, value_delimiter = ',')]
    categories: Vec<String>,
    /// Don't print headers
    #[arg(long)]
    no_headers: bool,
    /// wide, name, json or yaml
    #[arg(short, long, default_value = "")]
    output: String,
    /// name or kind
    #[arg(long, default_value = "")]
    sort_by: String,
}

/// A type as the server's own lists have it.
fn described(resource: &Resource) -> Value {
    let mut shown = json!({"name": resource.name, "singularName": resource.singular, "namespaced": resource.namespaced,
        "version": resource.version, "kind": resource.kind, "verbs": resource.verbs});
    if !resource.group.is_empty() {
        shown["group"] = resource.group.as_str().into();
    }
    for (field, words) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
        if !words.is_empty() {
            shown[field] = json!(words);
        }
    }
    shown
}

pub async fn resources(server: &Server, arguments: Resources) -> Result {
    if !matches!(arguments.sort_by.as_str(), "" | "name" | "kind") {
        return Err(Failure::text("--sort-by accepts only name or kind"));
    }
    let discovery = server.discovery().await?;
    // Of a type in several versions, the preferred one, which comes first.
    let preferred = |resource: &&Resource| {
        let same = |other: &&Resource| other.group == resource.group && other.name == resource.name;
        discovery.resources.iter().find(same).is_some_and(|first| std::ptr::eq(first, *resource))
    };
    let mut found: Vec<_> = discovery
        .resources
        .iter()
        .filter(preferred)
        .filter(|resource| arguments.api_group.as_ref().is_none_or(|group| *group == resource.group))
        .filter(|resource| arguments.namespaced.is_none_or(|namespaced| namespaced == resource.namespaced))
        .filter(|resource| arguments.verbs.iter().all(|verb| resource.verbs.contains(verb)))
        .filter(|resource| arguments.categories.iter().all(|category| resource.categories.contains(category)))
        .collect();
    match arguments.sort_by.as_str() {
        "kind" => found.sort_by_key(|resource| resource.kind.clone()),
        "name" => found.sort_by_key(|resource| resource.name.clone()),
        _ => found.sort_by_key(|resource| (resource.group.clone(), resource.name.clone())),
    }
    let wide = match arguments.output.as_str() {
        "name" => {
            found.iter().for_each(|resource| println!("{}", resource.qualified()));
            return Ok(());
        }
        "wide" => true,
        "" => false,
        format @ ("json" | "yaml") => {
            let resources: Vec<Value> = found.into_iter().map(described).collect();
            let list =
                json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "", "resources": resources});
            print!("{}", structured(&list, format)?);
            return Ok(());
        }
        other => {
            return Err(Failure::text(format!(
                "unable to match a printer suitable for the output format {other:?}, allowed formats are: json,kyaml,name,wide,yaml"
            )));
        }
    };
    let mut table = Table::default();
    let mut header = vec!["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"];
    if wide {
        header.extend(["VERBS", "CATEGORIES"]);
    }
    if !arguments.no_headers {
        table.row(header.into_iter().map(str::to_owned));
    }
    for resource in found {
        let mut row = vec![
            resource.name.clone(),
            resource.short_names.join(","),
            resource.api_version(),
            resource.namespaced.to_string(),
            resource.kind.clone(),
        ];
        if wide {
            row.extend([resource.verbs.join(","), resource.categories.join(",")]);
        }
        table.row(row);
    }
    print!("{table}");
    Ok(())
}

pub async fn versions(server: &Server) -> Result {
    let mut versions = server.discovery().await?.versions.clone();
    versions.sort();
    versions.iter().for_each(|version| println!("{version}"));
    Ok(())
}

#[derive(Args, Debug)]
pub struct ClusterInfo {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Dump relevant information for debugging and diagnosis
    Dump(dump::Dump),
}

pub async fn cluster(server: &Server, arguments: ClusterInfo) -> Result {
    if let Some(Command::Dump(arguments)) = arguments.command {
        return dump::dump(server, &arguments).await;
    }
    server.text("/version").await?;
    println!("Kubernetes control plane is running at {}", server.url);
    let services = server
        .get("/api/v1/namespaces/kube-system/services?labelSelector=kubernetes.io%2Fcluster-service%3Dtrue")
        .await?;
    for service in services["items"].as_array().into_iter().flatten() {
        let name = service["metadata"]["name"].as_str().unwrap_or_default();
        let shown = service["metadata"]["labels"]["kubernetes.io/name"].as_str().unwrap_or(name);
        let port = &service["spec"]["ports"][0];
        let scheme = if port["name"] == "https" || port["port"] == 443 { "https:" } else { "" };
        let port = match port["name"].as_str().filter(|port| !port.is_empty()) {
            Some(port) => format!(":{port}"),
            None if scheme.is_empty() => String::new(),
            None => ":".to_owned(),
        };
        println!(
            "{shown} is running at {}/api/v1/namespaces/kube-system/services/{scheme}{name}{port}/proxy",
            server.url
        );
    }
    println!("\nTo further debug and diagnose cluster problems, use 'kubectl cluster-info dump'.");
    Ok(())
}

#[derive(Args, Debug)]
pub struct Version {
    /// Only this client's version, without asking the server
    #[arg(long)]
    pub client: bool,
    /// yaml or json
    #[arg(short, long, default_value = "")]
    output: String,
}

fn client() -> Value {
    json!({"gitVersion": CLIENT, "major": "1", "minor": "36", "platform": format!("linux/{}", std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"))})
}

pub fn client_version(arguments: &Version) -> Result {
    if arguments.output.is_empty() {
        println!("Client Version: {CLIENT}");
        return Ok(());
    }
    print!("{}", structured(&json!({"clientVersion": client()}), &arguments.output)?);
    Ok(())
}

pub async fn version(server: &Server, arguments: &Version) -> Result {
    if arguments.output.is_empty() {
        println!("Client Version: {CLIENT}");
        let version = server.get("/version").await?;
        println!("Server Version: {}", version["gitVersion"].as_str().unwrap_or("unknown"));
        return Ok(());
    }
    let version = server.get("/version").await?;
    print!("{}", structured(&json!({"clientVersion": client(), "serverVersion": version}), &arguments.output)?);
    Ok(())
}
