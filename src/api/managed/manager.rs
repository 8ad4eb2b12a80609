//! The rules of requests around a write: what of `managedFields` a client may say, objects that have no owners yet,
//! and kubectl's annotation.

use serde_json::{Map, Value, json};

use super::check::check;
use super::entries;
use super::fields::{Comparison, fields_of};
use super::owners::{Owners, is_reset};
use super::set::Set;
use super::shape::Typed;
use super::write::{self, Conflict, Versions, Writer};
use crate::resource::{Gvk, kind_text};
use crate::schema::Type;
use crate::status::{ApiError, Cause, Details};

const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Whose applies know the annotation of client-side apply, and keep it.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const ANNOTATIONS_MAX_B: usize = 256 << 10;

/// Writes into `new` who owns what, after a create (`live: None`), update or patch. `new` may bring `managedFields` of its
/// own: they replace the live ones where they can be read, and `[]` forgets all owners.
pub fn track(live: Option<&Value>, new: &mut Value, writer: &Writer<'_>, versions: &dyn Versions) {
    let given = new.get_mut("metadata").and_then(Value::as_object_mut).and_then(|m| m.remove("managedFields"));
    let given = given.filter(|_| writer.subresource.is_empty()).unwrap_or(Value::Null);
    let Err(given) = track_standing(live, given, new, writer, versions) else { return };
    let owners = match Owners::parse(&given) {
        _ if is_reset(&given) => Owners::default(),
        Some(owners) if !owners.is_empty() => owners,
        _ => live.map(Owners::of).unwrap_or_default(),
    };
    // What nobody owned stays so, until the first apply.
    if owners.is_empty() && live.is_some() {
        return;
    }
    let nothing = json!({});
    write::update(live.unwrap_or(&nothing), new, writer, owners, versions).write(new);
}

/// The same where the list of the live object stands and one version tells all; if not, what was given is given back.
fn track_standing(
    live: Option<&Value>,
    given: Value,
    new: &mut Value,
    writer: &Writer<'_>,
    versions: &dyn Versions,
) -> Result<(), Value> {
    let standing = live.and_then(|live| live.get("metadata")?.get("managedFields"));
    let (Some(live), Some(Value::Array(entries))) = (live, standing) else { return Err(given) };
    let schema = versions.schema(writer.api_version);
    let stands = given.is_null() || Some(&given) == standing;
    if entries.is_empty() || !stands || !matches!(schema, Some(Type::Builtin(_))) {
        return Err(given);
    }
    let ours = Comparison::of(live, new, Typed::root(schema.as_ref())).without_trees(writer.ignored);
    let mut list = match given {
        Value::Array(list) => list,
        _ => entries.clone(),
    };
    if entries::update(&mut list, ours, writer).is_none() {
        return Err(Value::Array(list));
    }
    if let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut)
        && !list.is_empty()
    {
        metadata.insert("managedFields".to_owned(), Value::Array(list));
    }
    Ok(())
}

/// One request to apply.
pub struct Applying<'a> {
    /// What the endpoint serves.
    pub gvk: &'a Gvk,
    pub writer: Writer<'a>,
    pub force: bool,
}

/// Why a configuration was not applied.
#[derive(Debug)]
pub enum Refused {
    Conflicts(Vec<Conflict>),
    Bad(ApiError),
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Conflicts(conflicts) => conflict_error(conflicts),
            Refused::Bad(error) => error,
        }
    }
}

/// The object that the configuration makes of the live one, with its `managedFields`.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    request: &Applying<'_>,
    versions: &dyn Versions,
) -> Result<Value, Refused> {
    let schema = versions.schema(request.writer.api_version);
    let ty = Typed::root(schema.as_ref());
    check_request(applied, request.gvk, ty).map_err(Refused::Bad)?;
    let mut base = live.cloned().unwrap_or_else(|| json!({}));
    let mut owners = Owners::of(&base);
    if let Some(metadata) = base.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    if owners.is_empty() && live.is_some() {
        let before = Writer { manager: BEFORE_FIRST_APPLY, ..request.writer.clone() };
        owners = write::update(&json!({}), &base, &before, owners, versions);
    }
    let go = |force| write::apply(&base, applied, &request.writer, owners.clone(), force, versions);
    let mut done = match go(request.force) {
        Ok(done) => done,
        Err(conflicts) if request.writer.manager == KUBECTL => {
            let allowed = allowed_by_annotation(&base, request, ty);
            let left: Vec<Conflict> = conflicts.into_iter().filter(|conflict| !allowed.has(&conflict.path)).collect();
            if !left.is_empty() {
                return Err(Refused::Conflicts(left));
            }
            go(true).map_err(Refused::Conflicts)?
        }
        Err(conflicts) => return Err(Refused::Conflicts(conflicts)),
    };
    if request.writer.manager == KUBECTL {
        renew_annotation(&mut done.object, applied);
    }
    done.owners.write(&mut done.object);
    Ok(done.object)
}

fn check_request(applied: &Value, gvk: &Gvk, ty: Typed<'_>) -> Result<(), ApiError> {
    let text = |field: &str| applied.get(field).and_then(Value::as_str).unwrap_or_default();
    if text("apiVersion") != gvk.api_version() || text("kind") != &*gvk.kind {
        let given = kind_text(text("apiVersion"), text("kind"));
        return Err(ApiError::bad_request(format!("invalid object type: {given}")));
    }
    if applied.pointer("/metadata/managedFields").is_some_and(|given| !given.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    check(applied, ty).map_err(|why| {
        let of = |field: &str| applied["metadata"][field].as_str().unwrap_or_default();
        let (namespace, name, kind) = (of("namespace"), of("name"), kind_text(&gvk.api_version(), &gvk.kind));
        let what = format!("failed to create typed patch object ({namespace}/{name}; {kind})");
        // Upstream gives it no reason.
        ApiError::new(500, "", format!("{what}: {why}"))
    })
}

fn annotation(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str().filter(|text| !text.is_empty())
}

/// The fields that client-side apply set and nobody changed since: taking them over from it is no conflict.
fn allowed_by_annotation(live: &Value, request: &Applying<'_>, ty: Typed<'_>) -> Set {
    let last: Value = annotation(live).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    if last.get("apiVersion").and_then(Value::as_str) != Some(request.writer.api_version) || check(&last, ty).is_err() {
        return Set::default();
    }
    let since = Comparison::of(&last, live, ty);
    fields_of(&last, ty).difference(&since.modified).difference(&since.added).difference(&since.removed)
}

/// Keeps the annotation of client-side apply true, where there is one.
fn renew_annotation(object: &mut Value, applied: &Value) {
    if annotation(object).is_none() {
        return;
    }
    let mut applied = applied.clone();
    drop(annotations(&mut applied).and_then(|annotations| annotations.remove(LAST_APPLIED)));
    let Some(annotations) = annotations(object) else { return };
    annotations.insert(LAST_APPLIED.to_owned(), format!("{applied}\n").into());
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > ANNOTATIONS_MAX_B {
        annotations.remove(LAST_APPLIED);
    }
}

fn annotations(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()
}

fn conflict_error(mut conflicts: Vec<Conflict>) -> ApiError {
    let shown = |conflict: &Conflict| conflict.owner.shown();
    conflicts.sort_by_cached_key(|conflict| (conflict.owner.manager.clone(), shown(conflict)));
    let causes = conflicts.iter().map(|conflict| Cause {
        reason: "FieldManagerConflict".into(),
        message: format!("conflict with {}", shown(conflict)),
        field: conflict.path_text(),
    });
    let causes: Vec<Cause> = causes.collect();
    let message = match conflicts.as_slice() {
        [one] => format!("Apply failed with 1 conflict: conflict with {}: {}", shown(one), one.path_text()),
        many => {
            let mut lines: Vec<String> = Vec::new();
            let mut last = None;
            for conflict in many {
                if last != Some(&conflict.owner) {
                    lines.push(format!("conflicts with {}:", shown(conflict)));
                    last = Some(&conflict.owner);
                }
                lines.push(format!("- {}", conflict.path_text()));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    let mut error = ApiError::new(409, "Conflict", message);
    error.details = Some(Box::new(Details { causes, ..Details::default() }));
    error
}
