//! `kubectl create` (from files, or by a generator) and `kubectl replace`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use skiff_api::ApiError;

use crate::apply::{creating, remembering};
use crate::delete::wait_until_gone;
use crate::discovery::Resource;
use crate::failure::{api_error, is_not_found};
use crate::manifest::{Files, Manifest};
use crate::server::{Server, path};
use crate::targets::Found;
use crate::writing::{DryRun, Writing};
use crate::{Failure, Result};

mod access;
mod generators;
mod workload;

pub use generators::decoded;

const MANAGER: &str = "kubectl-create";

#[derive(Args)]
#[command(args_conflicts_with_subcommands = false, subcommand_negates_reqs = true)]
pub struct Arguments {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    writing: Writing,
    /// Remember the configuration in an annotation, for a later apply
    #[arg(long, global = true)]
    save_config: bool,
    #[command(subcommand)]
    generator: Option<Generator>,
}

impl Arguments {
    /// Whether `--user` names a subject.
    pub fn names_subjects(&self) -> bool {
        matches!(self.generator, Some(Generator::RoleBinding(_) | Generator::ClusterRoleBinding(_)))
    }
}

#[derive(Subcommand)]
enum Generator {
    /// Create a namespace with the specified name
    #[command(visible_alias = "ns")]
    Namespace(generators::Named),
    /// Create a service account with the specified name
    #[command(name = "serviceaccount", visible_alias = "sa")]
    ServiceAccount(generators::Named),
    /// Create a deployment with the specified name
    #[command(visible_alias = "deploy")]
    Deployment(generators::Deployment),
    /// Create a config map from files, directories or literal values
    #[command(name = "configmap", visible_alias = "cm")]
    ConfigMap(generators::Data),
    /// Create a secret
    #[command(subcommand)]
    Secret(generators::Secret),
    /// Create a service
    #[command(subcommand, visible_alias = "svc")]
    Service(generators::Service),
    /// Create a job with the specified name
    Job(workload::Job),
    /// Create a cron job with the specified name
    #[command(name = "cronjob", visible_alias = "cj")]
    CronJob(workload::CronJob),
    /// Create an ingress with the specified name
    #[command(visible_alias = "ing")]
    Ingress(workload::Ingress),
    /// Create a quota with the specified name
    #[command(visible_alias = "resourcequota")]
    Quota(workload::Quota),
    /// Create a priority class with the specified name
    #[command(name = "priorityclass", visible_alias = "pc")]
    PriorityClass(workload::PriorityClass),
    /// Create a pod disruption budget with the specified name
    #[command(name = "poddisruptionbudget", visible_alias = "pdb")]
    DisruptionBudget(workload::DisruptionBudget),
    /// Create a role with single rule
    Role(access::Role),
    /// Create a cluster role
    #[command(name = "clusterrole")]
    ClusterRole(access::ClusterRole),
    /// Create a role binding for a particular role or cluster role
    #[command(name = "rolebinding")]
    RoleBinding(access::Binding),
    /// Create a cluster role binding for a particular cluster role
    #[command(name = "clusterrolebinding")]
    ClusterRoleBinding(access::Binding),
    /// Request a service account token
    Token(access::Token),
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    if let Some(generator) = arguments.generator {
        let (object, writing) = match generator {
            Generator::Namespace(named) => named.object("Namespace"),
            Generator::ServiceAccount(named) => named.object("ServiceAccount"),
            Generator::Deployment(deployment) => deployment.object()?,
            Generator::ConfigMap(data) => data.object("ConfigMap", "data", "binaryData", None)?,
            Generator::Secret(secret) => secret.object()?,
            Generator::Service(service) => service.object()?,
            Generator::Job(job) => job.object(server).await?,
            Generator::CronJob(cron_job) => cron_job.object()?,
            Generator::Ingress(ingress) => ingress.object()?,
            Generator::Quota(quota) => quota.object()?,
            Generator::PriorityClass(class) => class.object(),
            Generator::DisruptionBudget(budget) => budget.object()?,
            Generator::Role(role) => role.object(server).await?,
            Generator::ClusterRole(role) => role.object(server).await?,
            Generator::RoleBinding(binding) => binding.object("RoleBinding")?,
            Generator::ClusterRoleBinding(binding) => binding.object("ClusterRoleBinding")?,
            Generator::Token(_) if arguments.save_config => {
                return Err(Failure::text("unknown flag: --save-config"));
            }
            Generator::Token(token) => return token.make(server).await,
        };
        let making = Making { writing: &writing, manager: MANAGER, save_config: arguments.save_config };
        return making.make(server, object, "created").await;
    }
    if arguments.files.is_empty() {
        return Err(Failure::text("must specify one of -f and -k"));
    }
    let manifests = arguments.files.read()?;
    if manifests.is_empty() {
        return Err(Failure::text("no objects passed to create"));
    }
    let mut failed = None;
    for mut manifest in manifests {
        let made = async {
            let resource = manifest.place(server).await?;
            let object = if arguments.save_config { remembering(&manifest.object) } else { manifest.object.clone() };
            post(server, resource, &object, &arguments.writing, MANAGER, "created")
                .await
                .map_err(|e| creating(e, &manifest.source))
        };
        if let Err(e) = made.await
            && let Some(previous) = failed.replace(e)
        {
            eprintln!("{}", crate::failure::sentence(&previous));
        }
    }
    failed.map_or(Ok(()), Err)
}

/// How a command makes the objects of its own.
pub struct Making<'a> {
    pub writing: &'a Writing,
    pub manager: &'a str,
    /// Remember the configuration in an annotation.
    pub save_config: bool,
}

impl Making<'_> {
    /// Creates an object that a command made, in the namespace of the command; `told` is the word for it.
    pub async fn make(&self, server: &Server, mut object: Value, told: &str) -> Result {
        let (writing, manager) = (self.writing, self.manager);
        let (api_version, kind) =
            (object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default());
        let what = if manager == MANAGER { of_a_failure(&object) } else { None };
        let here = writing.dry_run()? == DryRun::Client;
        let resource = match server.discovery().await?.of_kind(api_version, kind) {
            Some(resource) => resource.clone(),
            // What is only printed needs no server that has it.
            None if here => Resource { namespaced: !CLUSTER_SCOPED.contains(&kind), ..Resource::of_object(&object) },
            None => {
                return Err(Failure::text(format!("the server has no kind {kind:?} in version {api_version:?}")));
            }
        };
        // An object that is only printed goes where it is sent, as upstream.
        if resource.namespaced && (server.namespace_given || !here) {
            object["metadata"]["namespace"] = server.namespace.as_str().into();
        }
        if here {
            with_empty_parts(&mut object);
        }
        if self.save_config {
            object = remembering(&object);
        }
        post(server, &resource, &object, writing, manager, told).await.map_err(|e| match (api_error(&e), what) {
            (Some(error), Some(what)) => Failure::text(format!("{what} {}", error.message)),
            _ => e,
        })
    }
}

/// What generators say before the server's refusal. Some say nothing, and one forgets the colon, as upstream's.
fn of_a_failure(object: &Value) -> Option<String> {
    let what = match object["kind"].as_str().unwrap_or_default() {
        "Namespace" | "Role" | "ClusterRole" => return None,
        "Secret" => return Some("failed to create secret".to_owned()),
        "Service" => format!("{} service", object["spec"]["type"].as_str().unwrap_or_default()),
        "ResourceQuota" => "quota".to_owned(),
        "PodDisruptionBudget" => "poddisruptionbudgets".to_owned(),
        kind => kind.to_ascii_lowercase(),
    };
    Some(format!("failed to create {what}:"))
}

/// Kinds of generators that live in no namespace.
const CLUSTER_SCOPED: [&str; 4] = ["Namespace", "ClusterRole", "ClusterRoleBinding", "PriorityClass"];

/// Parts that upstream's typed objects always have, empty: an object that is printed shows them.
fn with_empty_parts(object: &mut Value) {
    let (field, part) = match object["kind"].as_str().unwrap_or_default() {
        "Pod" => {
            object["spec"]["dnsPolicy"] = "ClusterFirst".into();
            ("status", json!({}))
        }
        "Deployment" | "Job" | "CronJob" | "ResourceQuota" => ("status", json!({})),
        "Service" | "Ingress" => ("status", json!({"loadBalancer": {}})),
        "Namespace" => {
            object["spec"] = json!({});
            ("status", json!({}))
        }
        "PodDisruptionBudget" => {
            ("status", json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}))
        }
        "ClusterRole" if object.get("aggregationRule").is_some() => ("rules", Value::Null),
        _ => return,
    };
    object[field] = part;
}

async fn post(
    server: &Server,
    resource: &Resource,
    object: &Value,
    writing: &Writing,
    manager: &str,
    told: &str,
) -> Result {
    if writing.dry_run()? == DryRun::Client {
        return writing.tell(resource, object, told);
    }
    let namespace = object["metadata"]["namespace"].as_str();
    let created = server.post(&writing.query(&path(resource, namespace, "", ""), manager)?, object).await?;
    writing.tell(resource, &created, told)
}

#[derive(Args)]
pub struct Replace {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    writing: Writing,
    /// Remember the configuration in an annotation, for a later apply
    #[arg(long)]
    save_config: bool,
    /// Delete the objects and create them again
    #[arg(long)]
    force: bool,
    /// Replace this subresource (status, scale, resize) of the objects
    #[arg(long, default_value = "")]
    subresource: String,
    /// Seconds that the old objects get, with --force
    #[arg(long, default_value = "-1", allow_negative_numbers = true)]
    grace_period: i64,
}

pub async fn replace(server: &Server, arguments: Replace) -> Result {
    if arguments.files.is_empty() {
        return Err(Failure::text("must specify one of -f and -k"));
    }
    let mut manifests = arguments.files.read()?;
    if arguments.force {
        remove(server, &arguments, &mut manifests).await?;
    }
    // One object that can't be replaced doesn't keep the others from it.
    let mut failed = None;
    for manifest in manifests {
        if let Err(e) = replace_one(server, &arguments, manifest).await
            && let Some(previous) = failed.replace(e)
        {
            eprintln!("{}", crate::failure::sentence(&previous));
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn replace_one(server: &Server, arguments: &Replace, mut manifest: Manifest) -> Result {
    const MANAGER: &str = "kubectl-replace";
    let resource = manifest.place(server).await?;
    let mut object = if arguments.save_config { remembering(&manifest.object) } else { manifest.object.clone() };
    let replacing = |e: anyhow::Error| {
        let plain = api_error(&e).is_some_and(|e: &ApiError| e.reason == "Invalid");
        if plain { e } else { Failure::while_doing(e, format!("error when replacing {:?}", manifest.source)) }
    };
    let at = |name: &str, subresource: &str| path(resource, Some(manifest.namespace()), name, subresource);
    let made = if arguments.force {
        server.post(&arguments.writing.query(&at("", ""), MANAGER)?, &object).await.map_err(replacing)?
    } else if arguments.writing.dry_run()? == DryRun::Client {
        object
    } else {
        let at = at(manifest.name(), &arguments.subresource);
        if object["metadata"]["resourceVersion"].as_str().unwrap_or_default().is_empty()
            && let Ok(current) = server.get(&at).await
        {
            // Whatever is there is replaced. Where nothing can be read, the write says why.
            object["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"].clone();
        }
        server.put(&arguments.writing.query(&at, MANAGER)?, &object).await.map_err(replacing)?
    };
    arguments.writing.tell(resource, &made, "replaced")
}

/// Deletes what is there of the objects, and waits until it is gone.
async fn remove(server: &Server, arguments: &Replace, manifests: &mut [Manifest]) -> Result {
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
    if arguments.grace_period >= 0 {
        options["gracePeriodSeconds"] = arguments.grace_period.into();
    }
    let mut gone = Vec::new();
    for manifest in manifests {
        let resource = manifest.place(server).await?.clone();
        let found = Found { resource, object: manifest.object.clone() };
        match server.delete(&found.path(""), &options).await {
            Ok(_) => {
                let place =
                    found.namespace().map(|namespace| format!(" from {namespace} namespace")).unwrap_or_default();
                println!("{} {:?} deleted{place}", found.resource.qualified_singular(), found.name());
                gone.push(found);
            }
            Err(e) if is_not_found(&e) => {}
            Err(e) => return Err(e),
        }
    }
    for found in &gone {
        wait_until_gone(server, found).await?;
    }
    Ok(())
}
