//! What is served: a snapshot of all descriptors, found by path.

use std::collections::HashMap;
use std::sync::Arc;

use skiff_api::schema::{self, Type};
use skiff_api::strategy::{Descriptor, Subresource};

use crate::cache::{Cache, ResourceCache};

/// A descriptor with what belongs to it at run time.
pub(crate) struct Row {
    pub descriptor: Arc<Descriptor>,
    pub schema: Option<Type>,
    pub cache: Arc<ResourceCache>,
    /// The row in whose version the objects are stored; `None`: this one.
    pub home: Option<Arc<Row>>,
}

impl Row {
    /// The group, for messages.
    pub fn group(&self) -> &str {
        &self.descriptor.gvr.group
    }

    pub fn resource(&self) -> &str {
        &self.descriptor.gvr.resource
    }

    pub fn kind(&self) -> &str {
        &self.descriptor.gvk.kind
    }

    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.group() == group && self.resource() == resource
    }

    pub fn has(&self, subresource: Subresource) -> bool {
        self.descriptor.subresources.contains(&subresource)
    }

    pub fn allows(&self, verb: &str) -> bool {
        self.descriptor.verbs.iter().any(|v| v == verb)
    }

    /// The row in whose version the objects are stored.
    pub fn home(&self) -> &Row {
        self.home.as_deref().unwrap_or(self)
    }
}

#[derive(Default)]
pub(crate) struct Registry {
    rows: Vec<Arc<Row>>,
    /// By `group/version/resource`.
    by_path: HashMap<String, Arc<Row>>,
}

impl Registry {
    pub fn new(descriptors: Vec<Arc<Descriptor>>, cache: &Cache) -> Self {
        let mut registry = Self::default();
        for descriptor in descriptors {
            let home = registry.rows.iter().find(|r| r.home.is_none() && r.descriptor.storage == descriptor.storage);
            let row = Arc::new(Row {
                schema: schema::lookup(&descriptor.gvk),
                cache: cache.resource(&descriptor.storage),
                home: home.cloned(),
                descriptor,
            });
            let gvr = &row.descriptor.gvr;
            let path = format!("{}/{}/{}", gvr.group, gvr.version, gvr.resource);
            registry.by_path.insert(path, row.clone());
            registry.rows.push(row);
        }
        registry
    }

    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Row>> {
        self.by_path.get(&format!("{group}/{version}/{resource}"))
    }

    /// In discovery's order.
    pub fn rows(&self) -> &[Arc<Row>] {
        &self.rows
    }

    /// Groups with their versions, in discovery's order.
    pub fn groups(&self) -> Vec<(&str, Vec<&str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for row in &self.rows {
            let (group, version) = (row.group(), &*row.descriptor.gvr.version);
            match groups.iter_mut().find(|(g, _)| *g == group) {
                Some((_, versions)) if versions.contains(&version) => {}
                Some((_, versions)) => versions.push(version),
                None => groups.push((group, vec![version])),
            }
        }
        groups
    }
}
