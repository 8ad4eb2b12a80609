//! What commands that change something have in common: dry runs, validation, the manager's name, and what they say.

use clap::Args;
use serde_json::Value;
use skiff_api::{ApiError, patch, schema};
use skiff_client::PatchKind;

use crate::discovery::Resource;
use crate::print::Printing;
use crate::server::{Server, with_query};
use crate::targets::Found;
use crate::{Failure, Result};

#[derive(Args, Debug, Clone, Default)]
pub struct Writing {
    /// Must be "none", "server", or "client": print what would be done
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "client", default_value = "none")]
    pub dry_run: String,
    /// Must be one of: strict (or true), warn, ignore (or false)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "strict")]
    pub validate: Option<String>,
    #[command(flatten)]
    pub printing: Printing,
    /// Name of the manager used to track field ownership
    #[arg(long, default_value = "")]
    pub field_manager: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DryRun {
    No,
    Client,
    Server,
}

impl DryRun {
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::No),
            "client" => Ok(Self::Client),
            "server" => Ok(Self::Server),
            other => Err(Failure::text(format!(
                "Invalid dry-run value ({other}). Must be \"none\", \"server\", or \"client\"."
            ))),
        }
    }

    /// What stands behind the sentence about a change.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::No => "",
            Self::Client => " (dry run)",
            Self::Server => " (server dry run)",
        }
    }
}

impl Writing {
    pub fn dry_run(&self) -> Result<DryRun> {
        DryRun::parse(&self.dry_run)
    }

    /// `default` where nothing is asked for.
    fn validation(&self, default: &'static str) -> Result<&'static str> {
        match self.validate.as_deref().unwrap_or(default) {
            "" => Ok(""),
            "strict" | "true" => Ok("Strict"),
            "warn" => Ok("Warn"),
            "ignore" | "false" => Ok("Ignore"),
            other => Err(Failure::text(format!(
                "invalid - validate option {other:?}; must be one of: strict (or true), warn, ignore (or false)"
            ))),
        }
    }

    /// The path with the parameters of a write of whole objects, which are validated strictly.
    pub fn query(&self, path: &str, manager: &str) -> Result<String> {
        self.query_with(path, manager, "strict")
    }

    /// The same for small changes, whose validation is up to the server.
    pub fn query_change(&self, path: &str, manager: &str) -> Result<String> {
        self.query_with(path, manager, "")
    }

    fn query_with(&self, path: &str, manager: &str, validation: &'static str) -> Result<String> {
        let manager = if self.field_manager.is_empty() { manager } else { &self.field_manager };
        let dry_run = if self.dry_run()? == DryRun::Server { "All" } else { "" };
        Ok(with_query(
            path,
            &[("fieldManager", manager), ("fieldValidation", self.validation(validation)?), ("dryRun", dry_run)],
        ))
    }

    /// Tells what was done, or prints the object.
    pub fn tell(&self, resource: &Resource, object: &Value, what: &str) -> Result {
        let dry = self.dry_run()?.suffix();
        let resource = resource.in_answer(object);
        self.printing.print(object, &resource, || {
            format!("{} {what}{dry}", resource.label(object["metadata"]["name"].as_str().unwrap_or_default()))
        })
    }

    /// The object after a patch: as the server made it, or as it would be.
    pub async fn patch(
        &self,
        server: &Server,
        found: &Found,
        kind: PatchKind,
        body: &Value,
        manager: &str,
    ) -> Result<Value> {
        self.patch_subresource(server, found, "", kind, body, manager).await
    }

    pub async fn patch_subresource(
        &self,
        server: &Server,
        found: &Found,
        subresource: &str,
        kind: PatchKind,
        body: &Value,
        manager: &str,
    ) -> Result<Value> {
        if self.dry_run()? == DryRun::Client {
            return patched(&found.resource, &found.object, kind, body);
        }
        server.patch(&self.query_change(&found.path(subresource), manager)?, kind, body).await
    }

    /// Brings the server's object to `after`, which was made from what was found.
    pub async fn change(&self, server: &Server, found: &Found, after: &Value, manager: &str) -> Result<Value> {
        if self.dry_run()? == DryRun::Client || *after == found.object {
            return Ok(after.clone());
        }
        let (kind, body) = difference(found, after)?;
        self.patch(server, found, kind, &body, manager).await
    }
}

/// The patch that makes `after` of what was found.
pub fn difference(found: &Found, after: &Value) -> Result<(PatchKind, Value)> {
    let schema = schema::lookup(&found.resource.gvk());
    let kind = if schema.is_some() { PatchKind::Strategic } else { PatchKind::Merge };
    let body = patch::three_way(Some(&found.object), after, &found.object, schema.as_ref()).map_err(local)?;
    Ok((kind, body))
}

/// A patch applied here.
pub fn patched(resource: &Resource, object: &Value, kind: PatchKind, body: &Value) -> Result<Value> {
    match kind {
        PatchKind::Json => patch::json_patch(object, body).map_err(local),
        PatchKind::Strategic => match schema::lookup(&resource.gvk()) {
            Some(schema) => patch::strategic_merge(object, body, &schema).map_err(local),
            None => Err(Failure::text(format!(
                "cannot apply strategic merge patch for {} locally, try --type merge",
                resource.gvk_text()
            ))),
        },
        PatchKind::Merge => Ok(patch::merge_patch(object.clone(), body)),
        PatchKind::Apply => Err(Failure::text("an apply patch is merged by the server alone")),
    }
}

pub fn local(error: ApiError) -> anyhow::Error {
    Failure::text(error.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_patch_here_is_the_patch_there() {
        let resource = crate::discovery::tests::sample().find("deploy").expect("known").clone();
        let object =
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b"}]}}}});
        let mut after = object.clone();
        after["spec"]["template"]["spec"]["containers"][0]["image"] = "y".into();
        let found = Found { resource: resource.clone(), object: object.clone() };
        let (kind, body) = difference(&found, &after).expect("a patch");
        assert_eq!(kind, PatchKind::Strategic);
        assert_eq!(patched(&resource, &object, kind, &body).expect("merged"), after);
        let merged = patched(&resource, &object, PatchKind::Merge, &json!({"spec": null})).expect("merged");
        assert_eq!(merged, json!({}));
    }
}
