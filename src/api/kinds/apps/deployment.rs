//! Deployment.

use k8s_openapi::api::apps::v1 as apps;
use serde_json::Value;

use crate::kinds::adapter::Kind;
use crate::kinds::facts::{AGE, Facts, NAME, text, wide};
use crate::kinds::peek::Peek;
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
