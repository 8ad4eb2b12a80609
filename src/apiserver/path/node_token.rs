//! NodeRestriction's part of tokens: those of a node last no longer than a pod that is its own, and are for whom the pod
//! needs them.

use serde_json::Value;

use crate::auth::{Attributes, Decision, User};
use crate::call::Target;
use crate::server::Server;

impl Server {
    /// `bound` is what the token dies with; the error is a sentence.
    pub(super) fn check_node_token(
        &self,
        user: &User,
        node: &str,
        target: &Target,
        spec: &Value,
        bound: &[(&str, Value)],
    ) -> Result<(), String> {
        let reference = &spec["boundObjectRef"];
        check_binding(node, reference, bound)?;
        let audience = one_audience(&spec["audiences"])?;
        let name = reference["name"].as_str().unwrap_or_default();
        let pod = self.resource("pods").find(&target.namespace, name).map(|pod| pod.value()).unwrap_or_default();
        let found = self.pod_needs_audience(&target.namespace, &pod, audience);
        if found.map_err(|why| format!("error validating audience {audience:?}: {why}"))? {
            return Ok(());
        }
        let asked = Attributes {
            verb: "request-serviceaccounts-token-audience",
            namespace: &target.namespace,
            resource: audience,
            name: &target.name,
            ..Attributes::default()
        };
        match self.authorizer.decide(user, &asked) {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(_) => Err(format!(
                "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this \
                 audience",
                user.name
            )),
        }
    }

    /// Whether a volume of the pod holds such a token, or a driver of its volumes gets one.
    fn pod_needs_audience(&self, namespace: &str, pod: &Value, audience: &str) -> Result<bool, String> {
        let mut errors = Vec::new();
        for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
            if projects(volume, audience) {
                return Ok(true);
            }
            match self.driver_of(namespace, pod, volume).and_then(|driver| match driver {
                Some(driver) => self.driver_needs(&driver, audience),
                None => Ok(false),
            }) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(why) => errors.push(why),
            }
        }
        match errors.as_slice() {
            [] => Ok(false),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    /// The CSI driver of a volume.
    fn driver_of(&self, namespace: &str, pod: &Value, volume: &Value) -> Result<Option<String>, String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let claim = if volume["ephemeral"]["volumeClaimTemplate"].is_object() {
            format!("{}-{}", text(&pod["metadata"]["name"]), text(&volume["name"]))
        } else if volume["persistentVolumeClaim"].is_object() {
            text(&volume["persistentVolumeClaim"]["claimName"])
        } else {
            return Ok(volume["csi"]["driver"].as_str().map(str::to_owned));
        };
        let found = self.resource("persistentvolumeclaims").find(namespace, &claim);
        let found = found.ok_or_else(|| format!("persistentvolumeclaim {claim:?} not found"))?.value();
        let name = text(&found["spec"]["volumeName"]);
        let volume = self.resource("persistentvolumes").find("", &name);
        let volume = volume.ok_or_else(|| format!("persistentvolume {name:?} not found"))?.value();
        Ok(volume["spec"]["csi"]["driver"].as_str().map(str::to_owned))
    }

    fn driver_needs(&self, driver: &str, audience: &str) -> Result<bool, String> {
        let found = self.resource("storage.k8s.io/csidrivers").find("", driver);
        let found = found.ok_or_else(|| format!("csidriver.storage.k8s.io {driver:?} not found"))?.value();
        let mut tokens = found["spec"]["tokenRequests"].as_array().into_iter().flatten();
        Ok(tokens.any(|token| token["audience"].as_str().unwrap_or_default() == audience))
    }
}

fn check_binding(node: &str, reference: &Value, bound: &[(&str, Value)]) -> Result<(), &'static str> {
    if !bound.iter().any(|(what, _)| *what == "pod") {
        return Err("node requested token not bound to a pod");
    }
    if reference["uid"].as_str().is_none_or(str::is_empty) {
        return Err("node requested token with a pod binding without a uid");
    }
    if !bound.iter().any(|(what, held)| *what == "node" && held["name"] == node) {
        return Err("node requested token bound to a pod scheduled on a different node");
    }
    Ok(())
}

/// Empty: the API server's own.
fn one_audience(audiences: &Value) -> Result<&str, &'static str> {
    match audiences.as_array().map(Vec::as_slice).unwrap_or_default() {
        [] => Ok(""),
        [one] => Ok(one.as_str().unwrap_or_default()),
        _ => Err("node may only request 0 or 1 audiences"),
    }
}

fn projects(volume: &Value, audience: &str) -> bool {
    let mut sources = volume["projected"]["sources"].as_array().into_iter().flatten();
    sources.any(|source| {
        let token = &source["serviceAccountToken"];
        token.is_object() && token["audience"].as_str().unwrap_or_default() == audience
    })
}
