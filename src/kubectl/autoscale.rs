//! `kubectl autoscale`.

use clap::Args;
use serde_json::{Value, json};

use crate::create::Making;
use crate::server::Server;
use crate::targets::{Found, Selection};
use crate::writing::{DryRun, Writing};
use crate::{Failure, Result};

#[derive(Args, Debug)]
pub struct Arguments {
    /// TYPE NAME or TYPE/NAME
    words: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// The most replicas
    #[arg(long, default_value = "-1", allow_negative_numbers = true)]
    max: i32,
    /// The fewest replicas; negative: the server's default
    #[arg(long, default_value = "-1", allow_negative_numbers = true)]
    min: i32,
    /// The CPU that each pod should use, in percent of what it requests
    #[arg(long, default_value = "-1", allow_negative_numbers = true)]
    cpu_percent: i32,
    /// The same as a percentage (70%), or an average amount (500m)
    #[arg(long, default_value = "")]
    cpu: String,
    /// The memory that each pod should use: a percentage, or an average amount
    #[arg(long, default_value = "")]
    memory: String,
    /// The name of the new object
    #[arg(long, default_value = "")]
    name: String,
    /// Remember the configuration in an annotation, for a later apply
    #[arg(long)]
    save_config: bool,
    #[command(flatten)]
    writing: Writing,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    let (min, max) = (arguments.min, arguments.max);
    if arguments.cpu_percent >= 0 {
        eprintln!(
            "Flag --cpu-percent has been deprecated, Use --cpu with percentage or resource quantity format (e.g., '70%' for utilization or '500m' for milliCPU)."
        );
    }
    if max < 1 {
        return Err(Failure::text(format!("--max=MAXPODS is required and must be at least 1, max: {max}")));
    }
    if max < min {
        return Err(Failure::text(format!(
            "--max=MAXPODS must be larger or equal to --min=MINPODS, max: {max}, min: {min}"
        )));
    }
    if arguments.cpu_percent > 0 && !arguments.cpu.is_empty() {
        return Err(Failure::text("--cpu-percent and --cpu are mutually exclusive"));
    }
    let found = arguments.selection.find(server, &arguments.words, Some(&server.namespace)).await?;
    if found.is_empty() {
        return Err(Failure::text("no objects passed to autoscale"));
    }
    for found in found {
        if !found.resource.subresources.iter().any(|subresource| subresource == "scale") {
            let kind = &found.resource.kind;
            return Err(Failure::text(format!("cannot autoscale a {kind}: it has no scale")));
        }
        let told = if arguments.writing.dry_run()? == DryRun::Client { "created" } else { "autoscaled" };
        let (writing, save_config) = (&arguments.writing, arguments.save_config);
        let making = Making { writing, manager: "kubectl-autoscale", save_config };
        making.make(server, arguments.object(&found)?, told).await?;
    }
    Ok(())
}

impl Arguments {
    fn object(&self, found: &Found) -> Result<Value> {
        let name = if self.name.is_empty() { found.name() } else { &self.name };
        let resource = &found.resource;
        let mut spec = json!({"maxReplicas": self.max,
            "scaleTargetRef": {"apiVersion": resource.api_version(), "kind": resource.kind, "name": found.name()}});
        if self.min > 0 {
            spec["minReplicas"] = self.min.into();
        }
        let mut metrics = Vec::new();
        if self.cpu_percent > 0 {
            metrics.push(metric("cpu", &format!("{}%", self.cpu_percent))?);
        }
        for (resource, text) in [("cpu", &self.cpu), ("memory", &self.memory)] {
            if !text.is_empty() {
                metrics.push(metric(resource, text)?);
            }
        }
        if !metrics.is_empty() {
            spec["metrics"] = Value::Array(metrics);
        }
        Ok(
            json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name}, "spec": spec}),
        )
    }
}

/// `70%` of what is requested, or an average amount.
fn metric(resource: &str, text: &str) -> Result<Value> {
    let target = match text.strip_suffix('%') {
        Some(percent) => {
            let percent: u32 = percent
                .parse()
                .ok()
                .filter(|percent| *percent > 0)
                .ok_or_else(|| Failure::text(format!("invalid {resource} percentage: {text}")))?;
            json!({"type": "Utilization", "averageUtilization": percent})
        }
        None => {
            let amount: skiff_api::quantity::Quantity =
                text.parse().map_err(|e| Failure::text(format!("invalid {resource} quantity {text:?}: {e}")))?;
            json!({"type": "AverageValue", "averageValue": amount.to_string()})
        }
    };
    Ok(json!({"type": "Resource", "resource": {"name": resource, "target": target}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_percentages_or_amounts() {
        let target = |text: &str| metric("cpu", text).map(|metric| metric["resource"]["target"].clone());
        assert_eq!(target("70%").expect("valid"), json!({"type": "Utilization", "averageUtilization": 70}));
        assert_eq!(target("0.5").expect("valid"), json!({"type": "AverageValue", "averageValue": "500m"}));
        assert!(target("0%").is_err() && target("much").is_err());
    }
}
