//! Jobs, cron jobs, quotas, priority classes, disruption budgets and ingresses made from flags.

use clap::Args;
use serde_json::{Map, Value, json};
use skiff_api::quantity::Quantity;
use skiff_api::selector::LabelSelector;

use crate::server::{Server, path};
use crate::writing::Writing;
use crate::{Failure, Result};

#[derive(Args)]
pub struct Job {
    name: String,
    /// Image name to run
    #[arg(long, default_value = "")]
    image: String,
    /// The cron job to create a job from: cronjob/NAME
    #[arg(long, default_value = "")]
    from: String,
    #[arg(last = true)]
    command: Vec<String>,
    #[command(flatten)]
    writing: Writing,
}

impl Job {
    pub async fn object(self, server: &Server) -> Result<(Value, Writing)> {
        if self.image.is_empty() == self.from.is_empty() {
            return Err(Failure::text("either --image or --from must be specified"));
        }
        if !self.from.is_empty() {
            if !self.command.is_empty() {
                return Err(Failure::text("cannot specify --from and command"));
            }
            let object = self.of_cron_job(server).await?;
            return Ok((object, self.writing));
        }
        let spec = json!({"template": {"metadata": {}, "spec": {"containers": [container(&self.name, &self.image, &self.command)], "restartPolicy": "Never"}}});
        let object = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": self.name}, "spec": spec});
        Ok((object, self.writing))
    }

    async fn of_cron_job(&self, server: &Server) -> Result<Value> {
        let (ty, name) = self.from.split_once('/').unwrap_or(("", &self.from));
        let resource = server.discovery().await?.find(ty)?;
        if resource.kind != "CronJob" {
            return Err(Failure::text("from must be an existing cronjob"));
        }
        let cron = server.get(&path(resource, Some(&server.namespace), name, "")).await?;
        let template = &cron["spec"]["jobTemplate"];
        let mut annotations: Map<String, Value> =
            template["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
        annotations.insert("cronjob.kubernetes.io/instantiate".to_owned(), "manual".into());
        let mut metadata = json!({"name": self.name, "annotations": annotations, "ownerReferences": [{
            "apiVersion": "batch/v1", "kind": "CronJob", "name": cron["metadata"]["name"], "uid": cron["metadata"]["uid"], "controller": true}]});
        if let Some(labels) = template["metadata"].get("labels") {
            metadata["labels"] = labels.clone();
        }
        Ok(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]}))
    }
}

fn container(name: &str, image: &str, command: &[String]) -> Value {
    let mut container = json!({"name": name, "image": image, "resources": {}});
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    container
}

#[derive(Args)]
pub struct CronJob {
    name: String,
    /// Image name to run
    #[arg(long)]
    image: String,
    /// When it runs, as in crontab(5)
    #[arg(long)]
    schedule: String,
    /// OnFailure or Never
    #[arg(long, default_value = "OnFailure")]
    restart: String,
    #[arg(last = true)]
    command: Vec<String>,
    #[command(flatten)]
    writing: Writing,
}

impl CronJob {
    pub fn object(self) -> Result<(Value, Writing)> {
        let pod =
            json!({"containers": [container(&self.name, &self.image, &self.command)], "restartPolicy": self.restart});
        let job = json!({"metadata": {"name": self.name}, "spec": {"template": {"metadata": {}, "spec": pod}}});
        let object = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": self.name},
            "spec": {"schedule": self.schedule, "jobTemplate": job}});
        Ok((object, self.writing))
    }
}

#[derive(Args)]
pub struct Quota {
    name: String,
    /// Limits: RESOURCE=QUANTITY,...
    #[arg(long, default_value = "")]
    hard: String,
    /// Scopes that must all match what the quota tracks
    #[arg(long, value_delimiter = ',')]
    scopes: Vec<String>,
    #[command(flatten)]
    writing: Writing,
}

impl Quota {
    pub fn object(self) -> Result<(Value, Writing)> {
        let mut object =
            json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": self.name}, "spec": {}});
        let mut hard = Map::new();
        for part in self.hard.split(',').filter(|part| !part.is_empty()) {
            let (name, amount) = part
                .split_once('=')
                .ok_or_else(|| Failure::text(format!("Invalid argument syntax {part}, expected <resource>=<value>")))?;
            let quantity: Quantity = amount.parse().map_err(|e| Failure::text(format!("{e}")))?;
            hard.insert(name.to_owned(), quantity.to_string().into());
        }
        if !hard.is_empty() {
            object["spec"]["hard"] = Value::Object(hard);
        }
        if self.scopes.iter().any(String::is_empty) {
            return Err(Failure::text("invalid resource quota scope \"\""));
        }
        if !self.scopes.is_empty() {
            object["spec"]["scopes"] = json!(self.scopes);
        }
        Ok((object, self.writing))
    }
}

#[derive(Args)]
pub struct PriorityClass {
    name: String,
    /// The value of this priority class
    #[arg(long, default_value = "0", allow_negative_numbers = true)]
    value: i32,
    /// Whether this class is the default priority
    #[arg(long)]
    global_default: bool,
    /// When the class should be used
    #[arg(long, default_value = "")]
    description: String,
    /// PreemptLowerPriority or Never
    #[arg(long, default_value = "PreemptLowerPriority")]
    preemption_policy: String,
    #[command(flatten)]
    writing: Writing,
}

impl PriorityClass {
    pub fn object(self) -> (Value, Writing) {
        let mut object = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": self.name},
            "value": self.value, "preemptionPolicy": self.preemption_policy});
        if self.global_default {
            object["globalDefault"] = true.into();
        }
        if !self.description.is_empty() {
            object["description"] = self.description.into();
        }
        (object, self.writing)
    }
}

#[derive(Args)]
pub struct DisruptionBudget {
    name: String,
    /// How many pods must stay: a number or a percentage
    #[arg(long, default_value = "")]
    min_available: String,
    /// How many pods may be gone: a number or a percentage
    #[arg(long, default_value = "")]
    max_unavailable: String,
    /// The labels of the pods
    #[arg(long, default_value = "")]
    selector: String,
    #[command(flatten)]
    writing: Writing,
}

impl DisruptionBudget {
    pub fn object(self) -> Result<(Value, Writing)> {
        if self.selector.is_empty() {
            return Err(Failure::text("a selector must be specified"));
        }
        let (field, text) = match (self.min_available.as_str(), self.max_unavailable.as_str()) {
            ("", "") => return Err(Failure::text("one of min-available or max-unavailable must be specified")),
            (least, "") => ("minAvailable", least),
            ("", most) => ("maxUnavailable", most),
            _ => return Err(Failure::text("min-available and max-unavailable cannot be both specified")),
        };
        let count = text.parse::<i32>().map_or_else(|_| Value::from(text), Value::from);
        let mut labels = Map::new();
        for requirement in
            LabelSelector::parse(&self.selector).map_err(|e| Failure::text(e.to_string()))?.requirements()
        {
            let text = requirement.to_string();
            let (key, value) = text.split_once('=').filter(|(key, _)| !key.ends_with('!')).ok_or_else(|| {
                Failure::text(format!("{text}: only equality-based selector requirements are supported"))
            })?;
            labels.insert(key.to_owned(), value.trim_start_matches('=').into());
        }
        let object = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": self.name},
            "spec": {(field): count, "selector": {"matchLabels": labels}}});
        Ok((object, self.writing))
    }
}

#[derive(Args)]
pub struct Ingress {
    name: String,
    /// Ingress class to be used
    #[arg(long, default_value = "")]
    class: String,
    /// HOST/PATH=SERVICE:PORT[,tls[=SECRET]]
    #[arg(long)]
    rule: Vec<String>,
    /// SERVICE:PORT
    #[arg(long, default_value = "")]
    default_backend: String,
    /// KEY=VALUE
    #[arg(long)]
    annotation: Vec<String>,
    #[command(flatten)]
    writing: Writing,
}

impl Ingress {
    pub fn object(self) -> Result<(Value, Writing)> {
        if self.rule.is_empty() && self.default_backend.is_empty() {
            return Err(Failure::text(
                "not enough information provided: every ingress has to either specify a default-backend (which catches all traffic) or a list of rules (which catch specific paths)",
            ));
        }
        let mut metadata = json!({"name": self.name});
        for annotation in &self.annotation {
            let (key, value) = annotation.split_once('=').ok_or_else(|| {
                Failure::text(format!("annotation {annotation} is invalid and should be in format key=[value]"))
            })?;
            metadata["annotations"][key] = value.into();
        }
        let mut spec = json!({});
        if !self.class.is_empty() {
            spec["ingressClassName"] = self.class.as_str().into();
        }
        if !self.default_backend.is_empty() {
            spec["defaultBackend"] = backend(&self.default_backend)
                .ok_or_else(|| Failure::text("default-backend should be in format servicename:serviceport"))?;
        }
        let (rules, tls) = self.rules()?;
        for (field, list) in [("rules", rules), ("tls", tls)] {
            if !list.is_empty() {
                spec[field] = Value::Array(list);
            }
        }
        let object =
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec});
        Ok((object, self.writing))
    }

    /// The rules, one for each host, and the secrets with the hosts that they are for.
    fn rules(&self) -> Result<(Vec<Value>, Vec<Value>)> {
        let mut rules: Vec<(String, Vec<Value>)> = Vec::new();
        let mut tls: Vec<(String, Vec<String>)> = Vec::new();
        for text in &self.rule {
            let bad = || {
                Failure::text(format!(
                    "rule {text} is invalid and should be in format host/path=svcname:svcport[,tls[=secret]]"
                ))
            };
            let (place, rest) = text.split_once('=').ok_or_else(bad)?;
            let (target, secret) = match rest.split_once(",tls") {
                Some((target, "")) => (target, Some("")),
                Some((target, secret)) => (target, Some(secret.strip_prefix('=').ok_or_else(bad)?)),
                None => (rest, None),
            };
            let (host, at) = place.split_once('/').ok_or_else(bad)?;
            let (at, ty) = match at.strip_suffix('*') {
                Some(at) => (at, "Prefix"),
                None => (at, "Exact"),
            };
            let entry = json!({"path": format!("/{at}"), "pathType": ty, "backend": backend(target).ok_or_else(bad)?});
            match rules.iter_mut().find(|(known, _)| known == host) {
                Some((_, paths)) => paths.push(entry),
                None => rules.push((host.to_owned(), vec![entry])),
            }
            if let Some(secret) = secret {
                match tls.iter_mut().find(|(known, _)| known == secret) {
                    Some((_, hosts)) if host.is_empty() || hosts.iter().any(|known| known == host) => {}
                    Some((_, hosts)) => hosts.push(host.to_owned()),
                    None => tls.push((
                        secret.to_owned(),
                        [host].into_iter().filter(|h| !h.is_empty()).map(str::to_owned).collect(),
                    )),
                }
            }
        }
        let rule = |(host, paths): (String, Vec<Value>)| {
            let mut rule = json!({"http": {"paths": paths}});
            if !host.is_empty() {
                rule["host"] = host.into();
            }
            rule
        };
        let secret = |(secret, hosts): (String, Vec<String>)| {
            let mut entry = json!({});
            if !hosts.is_empty() {
                entry["hosts"] = json!(hosts);
            }
            if !secret.is_empty() {
                entry["secretName"] = secret.into();
            }
            entry
        };
        Ok((rules.into_iter().map(rule).collect(), tls.into_iter().map(secret).collect()))
    }
}

fn backend(text: &str) -> Option<Value> {
    let (service, port) = text.split_once(':').filter(|(service, port)| !service.is_empty() && !port.is_empty())?;
    let port = port.parse::<u16>().map_or_else(|_| json!({ "name": port }), |number| json!({ "number": number }));
    Some(json!({"service": {"name": service, "port": port}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_ingresses_are_grouped_by_host_and_secret() {
        let ingress = |rules: &[&str]| Ingress {
            name: "i".into(),
            class: String::new(),
            rule: rules.iter().map(|rule| (*rule).to_owned()).collect(),
            default_backend: String::new(),
            annotation: vec!["a=b".into()],
            writing: Writing::default(),
        };
        let (object, _) = ingress(&["x.y/a*=s:80,tls=t", "x.y/b=s:http", "/=z:1,tls"]).object().expect("an ingress");
        assert_eq!(
            object["spec"],
            json!({"rules": [
                {"host": "x.y", "http": {"paths": [
                    {"path": "/a", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}},
                    {"path": "/b", "pathType": "Exact", "backend": {"service": {"name": "s", "port": {"name": "http"}}}}]}},
                {"http": {"paths": [{"path": "/", "pathType": "Exact", "backend": {"service": {"name": "z", "port": {"number": 1}}}}]}}],
                "tls": [{"hosts": ["x.y"], "secretName": "t"}, {}]})
        );
        assert!(ingress(&["nonsense"]).object().is_err());
    }

    #[test]
    fn budgets_need_labels_and_one_number() {
        let budget = |least: &str, most: &str, selector: &str| DisruptionBudget {
            name: "b".into(),
            min_available: least.into(),
            max_unavailable: most.into(),
            selector: selector.into(),
            writing: Writing::default(),
        };
        let (object, _) = budget("50%", "", "app=x,tier==y").object().expect("a budget");
        assert_eq!(
            object["spec"],
            json!({"minAvailable": "50%", "selector": {"matchLabels": {"app": "x", "tier": "y"}}})
        );
        assert!(budget("", "", "a=b").object().is_err());
        assert!(budget("1", "1", "a=b").object().is_err());
        assert!(budget("1", "", "a!=b").object().is_err());
    }
}
