//! ControllerRevision.

use k8s_openapi::api::apps::v1 as apps;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{immutable, nonnegative};
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

    fn validate(revision: &apps::ControllerRevision, errors: &mut Errors) {
        if revision.data.as_ref().is_none_or(|d| d.0.is_null()) {
            errors.required(&Path::new("data"), "data is mandatory");
        }
        nonnegative(revision.revision, &Path::new("revision"), errors);
    }

    fn validate_update(revision: &apps::ControllerRevision, old: &apps::ControllerRevision, errors: &mut Errors) {
        let data = |r: &apps::ControllerRevision| r.data.as_ref().map(|d| d.0.clone());
        immutable(&data(revision), &data(old), &Path::new("data"), errors);
        Self::validate(revision, errors);
    }

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
