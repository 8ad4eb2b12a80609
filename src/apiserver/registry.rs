//! What is served: a snapshot of all descriptors, found by path.

use std::collections::HashMap;
use std::sync::Arc;

use skiff_api::custom::definition::{Definition, compare_versions};
use skiff_api::schema::{self, Type};
use skiff_api::strategy::{Descriptor, Strategy, Subresource};

use crate::cache::{Cache, ResourceCache};

/// A descriptor with what belongs to it at run time.
pub(crate) struct Row {
    pub descriptor: Arc<Descriptor>,
    /// How bodies are read. Merging goes by the strategy's `merge_type` where there is one: of custom resources this
    /// knows the metadata alone, and their schema does the rest.
    pub schema: Option<Type>,
    pub cache: Arc<ResourceCache>,
    /// The row in whose version the objects are stored; `None`: this one.
    pub home: Option<Arc<Row>>,
    /// What a CustomResourceDefinition says, for the kinds that are not built in.
    pub custom: Option<Arc<Custom>>,
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
        // Of a definition that ends not all verbs are told, but all are answered.
        self.custom.is_some() || self.descriptor.verbs.iter().any(|v| v == verb)
    }

    /// Whose field selectors count: of built-in kinds those of the stored version.
    pub fn selecting(&self) -> &Arc<dyn Strategy> {
        if self.custom.is_some() { &self.descriptor.strategy } else { &self.home().descriptor.strategy }
    }

    /// The row in whose version the objects are stored.
    pub fn home(&self) -> &Row {
        self.home.as_deref().unwrap_or(self)
    }
}

/// A definition with its rows.
pub(crate) struct Defined {
    /// The row of the version that objects are stored in; it may not be served.
    pub home: Arc<Row>,
    /// The preferred version first.
    pub served: Vec<Arc<Row>>,
    /// What it was made from: as long as that is the same, its rows are kept.
    pub made_from: String,
}

/// What the rows of a definition share.
pub(crate) struct Custom {
    pub definition: Definition,
    /// Objects that were written after this revision are in the shape that the definition gives them.
    pub since: u64,
}

#[derive(Default)]
pub(crate) struct Registry {
    rows: Vec<Arc<Row>>,
    /// By `group/version/resource`.
    by_path: HashMap<String, Arc<Row>>,
    definitions: Vec<Arc<Defined>>,
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
                custom: None,
                descriptor,
            });
            registry.add(row);
        }
        registry
    }

    fn add(&mut self, row: Arc<Row>) {
        let gvr = &row.descriptor.gvr;
        let path = format!("{}/{}/{}", gvr.group, gvr.version, gvr.resource);
        self.by_path.insert(path, row.clone());
        self.rows.push(row);
    }

    /// The built-in rows, and those of the definitions behind them. A built-in resource is never replaced.
    pub fn with_definitions(&self, definitions: Vec<Arc<Defined>>) -> Self {
        let mut registry = Self::default();
        self.rows.iter().filter(|row| row.custom.is_none()).for_each(|row| registry.add(row.clone()));
        for row in definitions.iter().flat_map(|defined| &defined.served) {
            let gvr = &row.descriptor.gvr;
            if registry.find(&gvr.group, &gvr.version, &gvr.resource).is_none() {
                registry.add(row.clone());
            }
        }
        registry.definitions = definitions;
        registry
    }

    /// What CustomResourceDefinitions add.
    pub fn definitions(&self) -> &[Arc<Defined>] {
        &self.definitions
    }

    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Row>> {
        self.by_path.get(&format!("{group}/{version}/{resource}"))
    }

    /// Whether definitions alone make the group.
    pub fn is_custom_group(&self, group: &str) -> bool {
        !self.rows.iter().any(|row| row.custom.is_none() && row.group() == group)
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
        for (group, versions) in &mut groups {
            // Of groups that definitions make the order is that of the names.
            if self.is_custom_group(group) {
                versions.sort_by(|a, b| compare_versions(b, a));
            }
        }
        groups
    }
}
