//! Roles, bindings and tokens made from flags.

use clap::Args;
use serde_json::{Map, Value, json};

use crate::server::{Server, path};
use crate::set::subjects;
use crate::writing::Writing;
use crate::{Failure, Result};

const GROUP: &str = "rbac.authorization.k8s.io/v1";

const STANDARD_VERBS: [&str; 14] = [
    "*",
    "get",
    "delete",
    "list",
    "create",
    "update",
    "patch",
    "watch",
    "proxy",
    "deletecollection",
    "use",
    "bind",
    "escalate",
    "impersonate",
];

#[derive(Args)]
pub struct Role {
    name: String,
    /// Verb that applies to the resources of the rule
    #[arg(long, value_delimiter = ',')]
    verb: Vec<String>,
    /// Resource that the rule applies to: TYPE[.GROUP][/SUBRESOURCE]
    #[arg(long, value_delimiter = ',')]
    resource: Vec<String>,
    /// Only objects of these names
    #[arg(long)]
    resource_name: Vec<String>,
    #[command(flatten)]
    pub writing: Writing,
}

#[derive(Args)]
pub struct ClusterRole {
    #[command(flatten)]
    role: Role,
    /// A path that is no resource, such as /healthz
    #[arg(long, value_delimiter = ',')]
    non_resource_url: Vec<String>,
    /// Labels of the cluster roles that this one is made of: KEY=VALUE
    #[arg(long, value_delimiter = ',')]
    aggregation_rule: Vec<String>,
}

impl Role {
    pub async fn object(self, server: &Server) -> Result<(Value, Writing)> {
        if self.verb.is_empty() {
            return Err(Failure::text("at least one verb must be specified"));
        }
        self.warn_of_verbs();
        if self.resource.is_empty() {
            return Err(Failure::text("at least one resource must be specified"));
        }
        let rules = self.rules(server).await?;
        let object = json!({"apiVersion": GROUP, "kind": "Role", "metadata": {"name": self.name}, "rules": rules});
        Ok((object, self.writing))
    }

    /// Upstream warns of what may be a slip, and goes on.
    fn warn_of_verbs(&self) {
        for verb in self.verb.iter().filter(|verb| !STANDARD_VERBS.contains(&verb.as_str())) {
            eprintln!("Warning: '{verb}' is not a standard resource verb");
        }
    }

    /// One rule for each group, in the order in which the groups were named.
    async fn rules(&self, server: &Server) -> Result<Vec<Value>> {
        let mut verbs: Vec<&str> = Vec::new();
        for verb in &self.verb {
            if verb == "*" {
                verbs = vec!["*"];
                break;
            }
            if !verbs.contains(&verb.as_str()) {
                verbs.push(verb);
            }
        }
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for word in &self.resource {
            let (ty, subresource) = word.split_once('/').map_or((word.as_str(), ""), |(ty, sub)| (ty, sub));
            if ty.is_empty() {
                return Err(Failure::text("resource must be specified if apiGroup/subresource specified"));
            }
            let (group, name) = match ty {
                "*" => ("*".to_owned(), "*".to_owned()),
                ty => {
                    let resource = server.discovery().await?.find(ty)?;
                    (resource.group.clone(), resource.name.clone())
                }
            };
            let name = if subresource.is_empty() { name } else { format!("{name}/{subresource}") };
            match groups.iter_mut().find(|(known, _)| *known == group) {
                Some((_, names)) if names.contains(&name) => {}
                Some((_, names)) => names.push(name),
                None => groups.push((group, vec![name])),
            }
        }
        let rule = |(group, resources): (String, Vec<String>)| {
            let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources});
            if !self.resource_name.is_empty() {
                rule["resourceNames"] = json!(self.resource_name);
            }
            rule
        };
        Ok(groups.into_iter().map(rule).collect())
    }
}

impl ClusterRole {
    pub async fn object(self, server: &Server) -> Result<(Value, Writing)> {
        let role = &self.role;
        let mut object = json!({"apiVersion": GROUP, "kind": "ClusterRole", "metadata": {"name": role.name}});
        if !self.aggregation_rule.is_empty() {
            if !role.verb.is_empty() || !role.resource.is_empty() || !self.non_resource_url.is_empty() {
                return Err(Failure::text(
                    "aggregation rule must be specified without nonResourceURLs, verbs, resources or resourceNames",
                ));
            }
            let mut labels = Map::new();
            for pair in &self.aggregation_rule {
                let (key, value) = pair
                    .split_once('=')
                    .ok_or_else(|| Failure::text(format!("malformed pair, expect string=string: {pair}")))?;
                labels.insert(key.to_owned(), value.into());
            }
            object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
            object["rules"] = json!([]);
            return Ok((object, self.role.writing));
        }
        if role.verb.is_empty() {
            return Err(Failure::text("at least one verb must be specified"));
        }
        if role.resource.is_empty() && self.non_resource_url.is_empty() {
            return Err(Failure::text("one of resource or nonResourceURL must be specified"));
        }
        if !role.resource.is_empty() {
            role.warn_of_verbs();
        }
        if let Some(url) = self.non_resource_url.iter().find(|url| *url != "*" && !url.starts_with('/')) {
            return Err(Failure::text(format!("nonResourceURL should start with /: {url}")));
        }
        let mut rules = role.rules(server).await?;
        if !self.non_resource_url.is_empty() {
            rules.push(json!({"verbs": role.verb, "nonResourceURLs": self.non_resource_url}));
        }
        object["rules"] = Value::Array(rules);
        Ok((object, self.role.writing))
    }
}

#[derive(Args)]
pub struct Binding {
    name: String,
    /// The cluster role that is bound
    #[arg(long, default_value = "")]
    clusterrole: String,
    /// The role that is bound
    #[arg(long, default_value = "")]
    role: String,
    #[arg(long)]
    user: Vec<String>,
    #[arg(long)]
    group: Vec<String>,
    /// NAMESPACE:NAME
    #[arg(long = "serviceaccount")]
    service_account: Vec<String>,
    #[command(flatten)]
    writing: Writing,
}

impl Binding {
    pub fn object(self, kind: &str) -> Result<(Value, Writing)> {
        let (role_kind, role) = match (self.clusterrole.as_str(), self.role.as_str()) {
            ("", "") | (_, "") if kind == "ClusterRoleBinding" && self.clusterrole.is_empty() => {
                return Err(Failure::text("clusterrole must be specified"));
            }
            (cluster, "") if !cluster.is_empty() => ("ClusterRole", cluster),
            ("", role) if !role.is_empty() && kind == "RoleBinding" => ("Role", role),
            _ => return Err(Failure::text("exactly one of clusterrole or role must be specified")),
        };
        let mut object = json!({"apiVersion": GROUP, "kind": kind, "metadata": {"name": self.name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role}});
        if let Some(account) = self.service_account.iter().find(|account| account.starts_with(':')) {
            return Err(Failure::text(format!("serviceaccount must be <namespace>:<name>, not {account}")));
        }
        if !(self.user.is_empty() && self.group.is_empty() && self.service_account.is_empty()) {
            object["subjects"] = subjects(&self.user, &self.group, &self.service_account, "")?.into();
        }
        Ok((object, self.writing))
    }
}

#[derive(Args)]
pub struct Token {
    /// The service account
    name: String,
    /// Audience of the requested token
    #[arg(long)]
    audience: Vec<String>,
    /// Requested lifetime of the token, e.g. 10m
    #[arg(long, default_value = "0s")]
    duration: String,
    /// Bind the token to an object of this kind: Pod, Secret, Node
    #[arg(long, default_value = "")]
    bound_object_kind: String,
    #[arg(long, default_value = "")]
    bound_object_name: String,
    #[arg(long, default_value = "")]
    bound_object_uid: String,
    #[command(flatten)]
    writing: Writing,
}

impl Token {
    pub async fn make(self, server: &Server) -> Result {
        let spec = self.spec()?;
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let accounts = server.discovery().await?.find("serviceaccounts")?.clone();
        let at = path(&accounts, Some(&server.namespace), &self.name, "token");
        let mut made = server.post(&at, &request).await.map_err(|e| match crate::failure::api_error(&e) {
            Some(error) => Failure::text(format!("failed to create token: {}", error.message)),
            None => e,
        })?;
        let token = made["status"]["token"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            return Err(Failure::text("failed to create token: no token in server response"));
        }
        if made["spec"].get("boundObjectRef").is_none() {
            // The type says it even where there is none.
            made["spec"]["boundObjectRef"] = Value::Null;
        }
        self.writing.printing.print(&made, &accounts, || token)
    }

    fn spec(&self) -> Result<Value> {
        let mut spec = json!({});
        let limit = crate::wait::duration(&self.duration)?
            .ok_or_else(|| Failure::text("--duration must be greater than or equal to 0"))?;
        if limit.subsec_nanos() > 0 {
            return Err(Failure::text("--duration cannot be expressed in units less than seconds"));
        }
        if limit.as_secs() > 0 {
            spec["expirationSeconds"] = limit.as_secs().into();
        }
        if !self.audience.is_empty() {
            spec["audiences"] = json!(self.audience);
        }
        match self.bound_object_kind.as_str() {
            "" if !self.bound_object_name.is_empty() => {
                return Err(Failure::text("--bound-object-name can only be set if --bound-object-kind is provided"));
            }
            "" => {}
            kind @ ("Pod" | "Secret" | "Node") => {
                if self.bound_object_name.is_empty() {
                    return Err(Failure::text("--bound-object-name is required if --bound-object-kind is provided"));
                }
                spec["boundObjectRef"] = json!({"apiVersion": "v1", "kind": kind, "name": self.bound_object_name});
                if !self.bound_object_uid.is_empty() {
                    spec["boundObjectRef"]["uid"] = self.bound_object_uid.as_str().into();
                }
            }
            _ => return Err(Failure::text("supported --bound-object-kind values are Node, Pod, Secret")),
        }
        Ok(spec)
    }
}
