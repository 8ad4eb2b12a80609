//! The facts of a kind, as a constant.

use crate::names::{self, NameRule};
use crate::strategy::{Column, Subresource};

/// What upstream's REST storage and API types say of one kind.
pub(crate) struct Facts {
    pub group: &'static str,
    pub version: &'static str,
    pub resource: &'static str,
    pub kind: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    pub subresources: &'static [Subresource],
    pub verbs: &'static [&'static str],
    pub columns: &'static [Col],
    /// The key prefix in the store, where it is not the resource's own.
    pub storage: Option<&'static str>,
    pub name: NameRule,
    /// Whether `metadata.generation` counts changes of everything but metadata and status.
    pub generation: bool,
    /// Whether a new object may bring its status along (nodes do).
    pub status_on_create: bool,
    pub create_on_update: bool,
    pub unconditional_update: bool,
}

/// All verbs that a plain kind answers.
pub(crate) const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl Facts {
    /// A namespaced kind without subresources; the rest is given with struct update syntax.
    pub const fn new(group: &'static str, version: &'static str, resource: &'static str, kind: &'static str) -> Self {
        Self {
            group,
            version,
            resource,
            kind,
            short_names: &[],
            categories: &[],
            namespaced: true,
            subresources: &[],
            verbs: ALL_VERBS,
            columns: &[NAME, AGE],
            storage: None,
            name: names::name_is_subdomain,
            generation: false,
            status_on_create: false,
            create_on_update: false,
            unconditional_update: true,
        }
    }

    pub fn has_status(&self) -> bool {
        self.subresources.contains(&Subresource::Status)
    }
}

/// One printer column, as a constant.
pub(crate) struct Col {
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    priority: i32,
    description: &'static str,
}

/// The column of the object's name.
pub(crate) const NAME: Col = Col {
    name: "Name",
    kind: "string",
    format: "name",
    priority: 0,
    description: "The name of the object, unique among its kind in a namespace.",
};
/// The column of the object's age.
pub(crate) const AGE: Col = text("Age", "How long ago the object was created.");

/// A column that is always shown.
pub(crate) const fn text(name: &'static str, description: &'static str) -> Col {
    Col { name, kind: "string", format: "", priority: 0, description }
}

/// What kinds without a printer of their own show beside the name.
pub(crate) const CREATED_AT: Col =
    Col { name: "Created At", kind: "date", format: "", priority: 0, description: "When the object was created." };

/// A column of yes and no that is always shown.
pub(crate) const fn boolean(name: &'static str, description: &'static str) -> Col {
    Col { name, kind: "boolean", format: "", priority: 0, description }
}

/// A column of numbers that is always shown.
pub(crate) const fn integer(name: &'static str, description: &'static str) -> Col {
    Col { name, kind: "integer", format: "", priority: 0, description }
}

/// A column of times that is always shown.
pub(crate) const fn date(name: &'static str, description: &'static str) -> Col {
    Col { name, kind: "date", format: "", priority: 0, description }
}

/// A column that only `-o wide` shows.
pub(crate) const fn wide(name: &'static str, description: &'static str) -> Col {
    Col { name, kind: "string", format: "", priority: 1, description }
}

impl Col {
    /// The same, shown with `-o wide` only.
    pub const fn wide(self) -> Self {
        Col { priority: 1, ..self }
    }

    /// The same, marked as a name.
    pub const fn named(self) -> Self {
        Col { format: "name", ..self }
    }

    pub fn to_column(&self) -> Column {
        Column {
            name: self.name.to_owned(),
            kind: self.kind.to_owned(),
            format: self.format.to_owned(),
            description: self.description.to_owned(),
            priority: self.priority,
        }
    }
}
