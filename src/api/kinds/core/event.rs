//! Event of the core group; `events.k8s.io` shows the same objects in another shape.

use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::{FieldOf, Kind};
use crate::kinds::checks::{qualified_name, required, text as text_of};
use crate::kinds::facts::{Col, Facts, NAME, text, wide};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;

const WORD_MAX: usize = 128;
const NOTE_MAX: usize = 1024;

pub(super) struct Events;

pub(in crate::kinds) const COLUMNS: &[Col] = &[
    text("Last Seen", "How long ago it was last seen."),
    text("Type", "Normal or Warning."),
    text("Reason", "Why it happened, in one word."),
    text("Object", "What it is about."),
    wide("Subobject", "The part of the object that it is about."),
    wide("Source", "Who reports it."),
    text("Message", "What happened, for people."),
    wide("First Seen", "How long ago it was first seen."),
    wide("Count", "How often it was seen."),
    NAME.wide(),
];

impl Kind for Events {
    type Typed = core::Event;
    const FACTS: Facts = Facts {
        short_names: &["ev"],
        columns: COLUMNS,
        create_on_update: true,
        storage: Some("events"),
        ..Facts::new("", "v1", "events", "Event")
    };
    const FIELDS: &'static [(&'static str, FieldOf)] = &[
        ("involvedObject.kind", |o| o.text("involvedObject.kind").to_owned()),
        ("involvedObject.namespace", |o| o.text("involvedObject.namespace").to_owned()),
        ("involvedObject.name", |o| o.text("involvedObject.name").to_owned()),
        ("involvedObject.uid", |o| o.text("involvedObject.uid").to_owned()),
        ("involvedObject.apiVersion", |o| o.text("involvedObject.apiVersion").to_owned()),
        ("involvedObject.resourceVersion", |o| o.text("involvedObject.resourceVersion").to_owned()),
        ("involvedObject.fieldPath", |o| o.text("involvedObject.fieldPath").to_owned()),
        ("reason", |o| o.text("reason").to_owned()),
        ("reportingComponent", |o| o.text("reportingComponent").to_owned()),
        ("source", |o| source(o).to_owned()),
        ("type", |o| o.text("type").to_owned()),
    ];
    const FIELD_LABELS: &'static [&'static str] = &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ];

    fn validate(event: &core::Event, errors: &mut Errors) {
        let own = text_of(&event.metadata.namespace);
        let about = text_of(&event.involved_object.namespace);
        let is_new = event.event_time.is_some();
        same_namespace(own, about, is_new, errors);
        if is_new {
            let note = text_of(&event.message);
            new_fields(
                &[
                    ("reportingComponent", text_of(&event.reporting_component)),
                    ("reportingInstance", text_of(&event.reporting_instance)),
                    ("action", text_of(&event.action)),
                    ("reason", text_of(&event.reason)),
                ],
                ("message", note),
                errors,
            );
        }
    }

    fn cells(object: &Value, row: &mut Row) {
        cells(object, row);
    }
}

/// An event stands where what it is about stands. New ones know of no other namespaces for objects of the cluster.
pub(in crate::kinds) fn same_namespace(own: &str, about: &str, is_new: bool, errors: &mut Errors) {
    let agrees = match (about, is_new) {
        ("", false) => matches!(own, "" | "default"),
        ("", true) => matches!(own, "" | "default" | "kube-system"),
        _ => is_new || own == about,
    };
    if !agrees {
        let path = Path::new("involvedObject");
        errors.invalid(&path.child("namespace"), about, "does not match event.namespace");
    }
}

/// What events with a time of microseconds must say, and how long it may be. The first field is who reports.
pub(in crate::kinds) fn new_fields(fields: &[(&str, &str)], note: (&str, &str), errors: &mut Errors) {
    for (i, (field, value)) in fields.iter().enumerate() {
        let path = Path::new(field);
        required(value, &path, errors);
        if i == 0 {
            qualified_name(value, &path, errors);
        } else if value.len() > WORD_MAX {
            errors.invalid(&path, "", &format!("can have at most {WORD_MAX} characters"));
        }
    }
    let (field, note) = note;
    if note.len() > NOTE_MAX {
        errors.invalid(&Path::new(field), "", &format!("can have at most {NOTE_MAX} characters"));
    }
}

fn source(event: &Value) -> &str {
    let component = event.text("source.component");
    if component.is_empty() { event.text("reportingComponent") } else { component }
}

/// The row of an event in the core shape.
pub(in crate::kinds) fn cells(event: &Value, row: &mut Row) {
    let one_of = |a: &'static str, b: &'static str| if event.text(a).is_empty() { b } else { a };
    let first = row.since(event.text(one_of("firstTimestamp", "eventTime")));
    let (mut last, mut count) = (first.clone(), event.int("count").max(1));
    if !event.text("lastTimestamp").is_empty() {
        last = row.since(event.text("lastTimestamp"));
    }
    if event.at("series").is_object() {
        last = row.since(event.text("series.lastObservedTime"));
        count = event.int("series.count");
    }
    let kind = event.text("involvedObject.kind").to_lowercase();
    let object = match event.text("involvedObject.name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let host = event.text(one_of("source.host", "reportingInstance"));
    let from = source(event);
    row.push(last);
    row.push(event.text("type"));
    row.push(event.text("reason"));
    row.push(object);
    row.push(event.text("involvedObject.fieldPath"));
    row.push(if host.is_empty() { from.to_owned() } else { format!("{from}, {host}") });
    row.push(event.text("message").trim());
    row.push(first);
    row.push(count);
    row.name(event);
}
