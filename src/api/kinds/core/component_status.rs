//! ComponentStatus: how the parts of the control plane are. Read only, made for each request, stored never.

use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use crate::kinds::adapter::Kind;
use crate::kinds::facts::{Facts, NAME, text};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;

pub(super) struct ComponentStatuses;

impl Kind for ComponentStatuses {
    type Typed = core::ComponentStatus;
    const FACTS: Facts = Facts {
        short_names: &["cs"],
        namespaced: false,
        verbs: &["get", "list"],
        columns: &[
            NAME,
            text("Status", "Whether it is well: Healthy, Unhealthy or Unknown."),
            text("Message", "What it says of itself."),
            text("Error", "What went wrong when it was asked."),
        ],
        ..Facts::new("", "v1", "componentstatuses", "ComponentStatus")
    };

    fn deprecation() -> Option<&'static str> {
        Some("v1 ComponentStatus is deprecated in v1.19+")
    }

    fn cells(object: &Value, row: &mut Row) {
        let health = object.list("conditions").iter().find(|c| c.text("type") == "Healthy");
        row.name(object);
        row.push(match health.map(|c| c.text("status")) {
            None => "Unknown",
            Some("True") => "Healthy",
            Some(_) => "Unhealthy",
        });
        row.push(health.map_or("", |c| c.text("message")));
        row.push(health.map_or("", |c| c.text("error")));
    }
}
