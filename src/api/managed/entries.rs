//! Owners as they stand in the metadata. Most writes leave most of them as they are, and those are not read.

use serde_json::{Map, Value};

use super::element::Element;
use super::fields::Comparison;
use super::owners::{MAX_UPDATERS, Operation};
use super::set::{Node, Set};
use super::write::{Writer, unowned};

/// What [`super::write::update`] does, on a list that was written by it. `None`: more is to be done than this knows (for
/// owners in other versions, for too many updaters); the list is as it was.
pub(super) fn update(list: &mut Vec<Value>, ours: Comparison, writer: &Writer<'_>) -> Option<()> {
    if ours.is_same() {
        return Some(());
    }
    let mut own = writer.owner(Operation::Update);
    let is_own = |entry: &Value| {
        text(entry, "operation") == "Update"
            && text(entry, "manager") == own.manager
            && text(entry, "subresource") == own.subresource
    };
    let place = list.iter().position(is_own);
    let updaters = list.iter().filter(|entry| text(entry, "operation") == "Update").count();
    if updaters + usize::from(place.is_none()) > MAX_UPDATERS {
        return None;
    }
    let mut changed: Vec<(usize, Set)> = Vec::new();
    for (at, entry) in list.iter().enumerate() {
        if text(entry, "apiVersion") != writer.api_version || text(entry, "fieldsType") != "FieldsV1" {
            return None;
        }
        let fields = entry.get("fieldsV1")?;
        let raw = fields.as_object()?;
        // What the writer wrote again stays its own.
        let is_touched = touches(raw, &ours.removed)
            || (place != Some(at) && (touches(raw, &ours.modified) || touches(raw, &ours.added)));
        if is_touched {
            let left = Set::parse(fields).ok()?.difference(&ours.modified);
            changed.push((at, left.difference(&ours.added).difference(&ours.removed)));
        }
    }
    let written = ours.written().difference(unowned());
    let writes = !written.is_empty();
    match place {
        _ if !writes => {}
        None => own.fields = written,
        Some(at) => match changed.iter_mut().find(|(other, _)| *other == at) {
            Some((_, fields)) => *fields = std::mem::take(fields).union(written),
            None => {
                let fields = list[at].get("fieldsV1")?;
                if !fields.as_object().is_some_and(|raw| contains(raw, &written)) {
                    changed.push((at, Set::parse(fields).ok()?.union(written)));
                }
            }
        },
    }
    // Nothing can fail from here on.
    if let Some(at) = place.filter(|_| writes) {
        list[at]["time"] = writer.now.into();
    }
    changed.sort_by_key(|(at, _)| *at);
    for (at, fields) in changed.into_iter().rev() {
        if fields.is_empty() {
            list.remove(at);
        } else {
            list[at]["fieldsV1"] = fields.to_value();
        }
    }
    if !own.fields.is_empty() {
        own.time = Some(writer.now.to_owned());
        list.push(own.to_value());
    }
    // As `Owner::order`; of the operations' names, too, the first comes first.
    let key = |entry: &Value| {
        ["operation", "time", "manager", "apiVersion", "subresource"].map(|field| text(entry, field).to_owned())
    };
    if !list.is_sorted_by_key(key) {
        list.sort_by_cached_key(key);
    }
    Some(())
}

fn text<'a>(entry: &'a Value, field: &str) -> &'a str {
    entry.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The part of a set in JSON form below an element.
fn below<'a>(raw: &'a Map<String, Value>, element: &Element) -> Option<&'a Map<String, Value>> {
    raw.get(&element.text())?.as_object()
}

fn is_member(raw: &Map<String, Value>) -> bool {
    raw.is_empty() || raw.contains_key(".")
}

/// Whether a field is in both.
fn touches(raw: &Map<String, Value>, set: &Set) -> bool {
    set.nodes().any(|(element, Node { member, below: parts })| {
        below(raw, element).is_some_and(|raw| (*member && is_member(raw)) || touches(raw, parts))
    })
}

/// Whether all fields of the set are in the other.
fn contains(raw: &Map<String, Value>, set: &Set) -> bool {
    set.nodes().all(|(element, Node { member, below: parts })| {
        below(raw, element).is_some_and(|raw| (!*member || is_member(raw)) && contains(raw, parts))
    })
}
