//! ControllerRevision.

use k8s_openapi::api::apps::v1 as apps;
use serde_json::Value;

use crate::kinds::adapter::Kind;
use crate::kinds::facts::{AGE, Facts, NAME, text};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;

pub(super) struct ControllerRevisions;

impl Kind for ControllerRevisions {
    type Typed = apps::ControllerRevision;
    const FACTS: Facts = Facts {
        columns: &[
            NAME,
            text("Controller", "Whose history this is."),
            text("Revision", "Its number in the history."),
            AGE,
        ],
        ..Facts::new("apps", "v1", "controllerrevisions", "ControllerRevision")
    };

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.push(controller(object));
        row.push(object.int("revision"));
        row.age(object);
    }
}

fn controller(object: &Value) -> String {
    let owner = object.list("metadata.ownerReferences").iter().find(|o| o.flag("controller"));
    owner.map_or_else(
        || "<none>".to_owned(),
        |owner| {
            let (kind, name) = (owner.text("kind").to_lowercase(), owner.text("name"));
            match owner.text("apiVersion").split_once('/') {
                Some((group, _)) => format!("{kind}.{group}/{name}"),
                None => format!("{kind}/{name}"),
            }
        },
    )
}
