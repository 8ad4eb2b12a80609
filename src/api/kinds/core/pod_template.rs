//! PodTemplate.

use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::core::pod;
use crate::kinds::facts::{Facts, NAME, text};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::{self, Row};

pub(super) struct PodTemplates;

impl Kind for PodTemplates {
    type Typed = core::PodTemplate;
    const FACTS: Facts = Facts {
        columns: &[
            NAME,
            text("Containers", "Names of the containers of the template."),
            text("Images", "Images of the containers of the template."),
            text("Pod Labels", "The labels of its pods."),
        ],
        generation: true,
        ..Facts::new("", "v1", "podtemplates", "PodTemplate")
    };

    fn default(object: &mut Value) {
        if let Some(template) = object.as_object_mut().and_then(|o| o.object("template")) {
            pod::defaults::pod_template(template);
        }
    }

    fn validate(object: &core::PodTemplate, errors: &mut Errors) {
        let empty = core::PodTemplateSpec::default();
        pod::validate::template(object.template.as_ref().unwrap_or(&empty), &Path::new("template"), errors);
    }

    fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        pod::warnings::template(object, old, "template", &mut out);
        out
    }

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.containers(object.at("template.spec"));
        row.push(row::labels(object.map("template.metadata.labels")));
    }
}
