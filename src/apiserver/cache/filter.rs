//! Which objects a list or a watch is about.

use std::sync::Arc;
use std::sync::OnceLock;

use skiff_api::selector::{FieldSelector, LabelSelector};
use skiff_api::strategy::Strategy;
use skiff_api::{ApiError, Object};

/// An object in the cache, with what selectors look at.
pub(crate) struct Entry {
    pub object: Arc<Object>,
    /// The values of the strategy's field selectors, in its order: made when first asked for.
    fields: OnceLock<Box<[String]>>,
}

impl Entry {
    pub fn new(object: Arc<Object>) -> Self {
        Self { object, fields: OnceLock::new() }
    }

    fn field(&self, strategy: &dyn Strategy, path: &str) -> Option<String> {
        match path {
            "metadata.name" => return Some(self.object.meta.name.to_string()),
            "metadata.namespace" => return Some(self.object.meta.namespace.to_string()),
            _ => {}
        }
        let at = strategy.field_index(path)?;
        let fields = self.fields.get_or_init(|| {
            let value = self.object.value();
            strategy.field_labels().iter().map(|label| strategy.field(&value, label).unwrap_or_default()).collect()
        });
        fields.get(at).cloned()
    }
}

/// A namespace and selectors.
#[derive(Clone)]
pub(crate) struct Filter {
    /// Empty: all.
    pub namespace: String,
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    strategy: Arc<dyn Strategy>,
}

impl Filter {
    pub fn new(namespace: &str, labels: &str, fields: &str, strategy: &Arc<dyn Strategy>) -> Result<Self, ApiError> {
        let labels = LabelSelector::parse(labels).map_err(|e| ApiError::bad_request(e.to_string()))?;
        let fields = FieldSelector::parse(fields).map_err(|e| ApiError::bad_request(e.to_string()))?;
        fields.check_fields(&strategy.selectable()).map_err(|e| ApiError::bad_request(e.to_string()))?;
        Ok(Self { namespace: namespace.to_owned(), labels, fields, strategy: strategy.clone() })
    }

    /// Whether it has selectors beyond the namespace.
    pub fn selects(&self) -> bool {
        !self.labels.is_everything() || !self.fields.is_everything()
    }

    /// The one name it asks for.
    pub fn name(&self) -> Option<&str> {
        self.fields.requires_exact("metadata.name")
    }

    pub fn matches(&self, entry: &Entry) -> bool {
        let meta = &entry.object.meta;
        (self.namespace.is_empty() || *meta.namespace == *self.namespace)
            && self.labels.matches(&meta.labels)
            && (self.fields.is_everything() || self.fields.matches(|path| entry.field(&*self.strategy, path)))
    }
}
