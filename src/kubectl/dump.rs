//! `kubectl cluster-info dump`: what a stranger needs to find a problem, as files or as one text.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use crate::print::structured;
use crate::server::{Server, with_query};
use crate::{Failure, Result};

/// File and path of what is dumped of each namespace.
const KINDS: [(&str, &str); 7] = [
    ("events", "/api/v1/namespaces/NAMESPACE/events"),
    ("replication-controllers", "/api/v1/namespaces/NAMESPACE/replicationcontrollers"),
    ("services", "/api/v1/namespaces/NAMESPACE/services"),
    ("daemonsets", "/apis/apps/v1/namespaces/NAMESPACE/daemonsets"),
    ("deployments", "/apis/apps/v1/namespaces/NAMESPACE/deployments"),
    ("replicasets", "/apis/apps/v1/namespaces/NAMESPACE/replicasets"),
    ("pods", "/api/v1/namespaces/NAMESPACE/pods"),
];

#[derive(Args, Debug)]
pub struct Dump {
    /// Where to output the files; without it, or with '-', they go to stdout
    #[arg(long, default_value = "")]
    output_directory: String,
    /// A comma separated list of namespaces to dump
    #[arg(long, value_delimiter = ',')]
    namespaces: Vec<String>,
    /// Dump all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// json or yaml
    #[arg(short, long, default_value = "json")]
    output: String,
}

pub async fn dump(server: &Server, arguments: &Dump) -> Result {
    let show = |list: &Value| structured(list, &arguments.output);
    arguments.write("nodes", &arguments.output, &show(&server.get("/api/v1/nodes").await?)?)?;
    for namespace in arguments.namespaces(server).await? {
        let mut pods = Vec::new();
        for (file, path) in KINDS {
            let list = server.get(&path.replace("NAMESPACE", &namespace)).await?;
            arguments.write(&format!("{namespace}/{file}"), &arguments.output, &show(&list)?)?;
            if file == "pods" {
                pods = list["items"].as_array().cloned().unwrap_or_default();
            }
        }
        for pod in pods {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let logs = logs(server, &namespace, name, &pod).await;
            arguments.write(&format!("{namespace}/{name}/logs"), "txt", &logs)?;
        }
    }
    if arguments.directory().is_some() {
        println!("Cluster info dumped to {}", arguments.output_directory);
    }
    Ok(())
}

async fn logs(server: &Server, namespace: &str, name: &str, pod: &Value) -> String {
    let mut text = String::new();
    let lists = ["initContainers", "containers"];
    for container in lists.iter().flat_map(|list| pod["spec"][*list].as_array().into_iter().flatten()) {
        let container = container["name"].as_str().unwrap_or_default();
        let about = format!("logs for container {container} of pod {namespace}/{name} ====\n");
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/log");
        let said = server.text(&with_query(&path, &[("container", container)])).await;
        let said = said.unwrap_or_else(|e| format!("Request log error: {e}\n"));
        text.push_str(&format!("==== START {about}{said}==== END {about}"));
    }
    text
}

impl Dump {
    fn directory(&self) -> Option<PathBuf> {
        (!matches!(self.output_directory.as_str(), "" | "-")).then(|| PathBuf::from(&self.output_directory))
    }

    async fn namespaces(&self, server: &Server) -> Result<Vec<String>> {
        if self.all_namespaces {
            let all = server.get("/api/v1/namespaces").await?;
            let names = all["items"].as_array().into_iter().flatten().filter_map(|n| n["metadata"]["name"].as_str());
            return Ok(names.map(str::to_owned).collect());
        }
        Ok(match self.namespaces.is_empty() {
            true => vec!["kube-system".to_owned(), server.namespace.clone()],
            false => self.namespaces.clone(),
        })
    }

    /// What is dumped may hold secrets: only the owner reads it.
    fn write(&self, name: &str, extension: &str, text: &str) -> Result {
        let Some(directory) = self.directory() else {
            print!("{text}");
            return Ok(());
        };
        let path = directory.join(format!("{name}.{extension}"));
        let parent = path.parent().unwrap_or(&directory);
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
        let open = || std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        made.and_then(|()| open()?.write_all(text.as_bytes()))
            .map_err(|e| Failure::text(format!("write {}: {e}", path.display())))
    }
}
