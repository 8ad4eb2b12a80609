//! Deployment.

use k8s_openapi::api::apps::v1 as apps;
use serde_json::Value;

use crate::kinds::adapter::{self, Kind};
use crate::kinds::core::pod;
use crate::kinds::facts::{AGE, Facts, NAME, text, wide};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::{self, Row};
use crate::strategy::Subresource;

pub(super) struct Deployments;

impl Kind for Deployments {
    type Typed = apps::Deployment;
    const FACTS: Facts = Facts {
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[Subresource::Scale, Subresource::Status],
        columns: &[
            NAME,
            text("Ready", "How many of the pods asked for are ready."),
            text("Up-to-date", "How many pods have the newest template."),
            text("Available", "How many pods have been ready for long enough."),
            AGE,
            wide("Containers", "Names of the containers of the template."),
            wide("Images", "Images of the containers of the template."),
            wide("Selector", "The labels of its pods."),
        ],
        generation: true,
        ..Facts::new("apps", "v1", "deployments", "Deployment")
    };

    fn default(object: &mut Value) {
        pod::defaults::template(object);
        let Some(spec) = spec_of(object) else { return };
        spec.fill("replicas", 1);
        spec.fill("revisionHistoryLimit", 10);
        spec.fill("progressDeadlineSeconds", 600);
        let Some(strategy) = spec.object("strategy") else { return };
        strategy.fill("type", "RollingUpdate");
        if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate")
            && let Some(rolling) = strategy.object("rollingUpdate")
        {
            rolling.fill("maxUnavailable", "25%");
            rolling.fill("maxSurge", "25%");
        }
    }

    /// Annotations count as content here: the revision of the history is one.
    fn prepare_update(object: &mut Value, old: &Value) {
        if object.at("metadata.annotations") != old.at("metadata.annotations") {
            adapter::bump_generation(object, old);
        }
    }

    fn prepare_status_update(object: &mut Value, old: &Value) {
        adapter::keep_labels(object, old);
    }

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.push(format!("{}/{}", object.int("status.readyReplicas"), object.int("spec.replicas")));
        row.push(object.int("status.updatedReplicas"));
        row.push(object.int("status.availableReplicas"));
        row.age(object);
        row.containers(object.at("spec.template.spec"));
        row.push(row::selector(object.at("spec.selector")));
    }
}
