//! What the APIServices say, read once per change.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::Value;

const DEFAULT_PORT: u64 = 443;

/// A group version of another server.
pub(crate) struct Remote {
    /// Of the APIService.
    pub name: String,
    pub group: String,
    pub version: String,
    pub service: Reference,
    /// How its server is known, or why it can't be.
    pub tls: Result<Arc<ClientConfig>, String>,
    /// As the condition says.
    pub available: bool,
    pub found: Arc<Found>,
}

/// What another server serves of one group version.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Found {
    /// As the aggregated document of discovery lists them.
    pub resources: Vec<Value>,
    /// Whether the server could be asked last time.
    pub fresh: bool,
    /// Where its OpenAPI v3 document is, as the server's index says.
    pub openapi: Option<String>,
}

impl Remote {
    /// The path of its resource list.
    pub fn path(&self) -> String {
        match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        }
    }

    /// Whether its discovery names this resource and, where it is not empty, subresource.
    pub fn serves(&self, resource: &str, subresource: &str) -> bool {
        let subresources = |known: &Value| known["subresources"].as_array().cloned().unwrap_or_default();
        self.found.resources.iter().filter(|known| known["resource"] == resource).any(|known| {
            subresource.is_empty() || subresources(known).iter().any(|sub| sub["subresource"] == subresource)
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    pub namespace: String,
    pub name: String,
    pub port: u16,
}

impl Reference {
    /// `None`: the APIService is one of this server.
    pub fn of(service: &Value) -> Option<Self> {
        let reference = service["spec"].get("service").filter(|reference| reference.is_object())?;
        let text = |field: &str| reference[field].as_str().unwrap_or_default().to_owned();
        let port = reference["port"].as_u64().unwrap_or(DEFAULT_PORT);
        Some(Self { namespace: text("namespace"), name: text("name"), port: u16::try_from(port).unwrap_or_default() })
    }

    /// The name that its certificate must be of.
    pub fn host(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }
}

/// How a group and its version are to be sorted: higher comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Priority {
    pub group: i64,
    pub version: i64,
}

impl Priority {
    pub fn of(service: &Value) -> Self {
        let number = |field: &str| service["spec"][field].as_i64().unwrap_or_default();
        Self { group: number("groupPriorityMinimum"), version: number("versionPriority") }
    }
}

#[derive(Default)]
pub(crate) struct Table {
    /// In the order of their names.
    pub remotes: Vec<Arc<Remote>>,
    /// By the name of the APIService, of this server and others.
    pub priorities: HashMap<String, Priority>,
}

impl Table {
    /// Whether this server serves everything itself.
    pub fn is_empty(&self) -> bool {
        self.remotes.is_empty()
    }

    pub fn find(&self, group: &str, version: &str) -> Option<&Arc<Remote>> {
        self.remotes.iter().find(|remote| remote.group == group && remote.version == version)
    }

    pub fn priority(&self, group: &str, version: &str) -> Option<Priority> {
        self.priorities.get(&format!("{version}.{group}")).copied()
    }
}

pub(super) fn text<'a>(service: &'a Value, field: &str) -> &'a str {
    service["spec"][field].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn services_of_others_are_told_from_our_own() {
        assert_eq!(Reference::of(&json!({"spec": {"group": "apps", "service": null}})), None);
        let service = json!({"spec": {"service": {"namespace": "a", "name": "s"}, "groupPriorityMinimum": 100, "versionPriority": 5}});
        let reference = Reference::of(&service).expect("another's");
        assert_eq!((reference.port, reference.host().as_str()), (443, "s.a.svc"));
        assert_eq!(Priority::of(&service), Priority { group: 100, version: 5 });
    }
}
