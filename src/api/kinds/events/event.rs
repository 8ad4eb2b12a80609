//! Event of `events.k8s.io`. Stored in the core group's shape: most fields only have other names.

use k8s_openapi::api::core::v1::EventSource;
use k8s_openapi::api::events::v1 as events;
use serde_json::{Map, Value};

use crate::field::{Errors, Path};
use crate::kinds::adapter::{FieldOf, Kind};
use crate::kinds::checks::{immutable, text};
use crate::kinds::core::event as core_event;
use crate::kinds::facts::Facts;
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;

/// (here, in the core shape)
const RENAMED: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

const IMMUTABLE_FIELDS: &[&str] = &[
    "regarding",
    "reason",
    "note",
    "deprecatedSource",
    "deprecatedFirstTimestamp",
    "deprecatedLastTimestamp",
    "deprecatedCount",
    "type",
    "eventTime",
    "action",
    "related",
    "reportingController",
    "reportingInstance",
];

pub(super) struct Events;

impl Kind for Events {
    type Typed = events::Event;
    const FACTS: Facts = Facts {
        short_names: &["ev"],
        columns: core_event::COLUMNS,
        create_on_update: true,
        storage: Some("events"),
        ..Facts::new("events.k8s.io", "v1", "events", "Event")
    };
    const CONVERTS: bool = true;
    const FIELDS: &'static [(&'static str, FieldOf)] = &[
        ("regarding.kind", |o| o.text("regarding.kind").to_owned()),
        ("regarding.namespace", |o| o.text("regarding.namespace").to_owned()),
        ("regarding.name", |o| o.text("regarding.name").to_owned()),
        ("regarding.uid", |o| o.text("regarding.uid").to_owned()),
        ("regarding.apiVersion", |o| o.text("regarding.apiVersion").to_owned()),
        ("regarding.resourceVersion", |o| o.text("regarding.resourceVersion").to_owned()),
        ("regarding.fieldPath", |o| o.text("regarding.fieldPath").to_owned()),
        ("reason", |o| o.text("reason").to_owned()),
        ("reportingController", |o| o.text("reportingController").to_owned()),
        ("type", |o| o.text("type").to_owned()),
    ];
    const FIELD_LABELS: &'static [&'static str] = &[
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reason",
        "reportingController",
        "type",
    ];

    fn validate(event: &events::Event, errors: &mut Errors) {
        as_in_core(event, errors);
        series(event, errors);
        if event.event_time.is_none() {
            errors.required(&Path::new("eventTime"), "");
        }
        let kind = text(&event.type_);
        if !matches!(kind, "Normal" | "Warning") {
            errors.invalid(&Path::new("type"), "", &format!("has invalid value: {kind}"));
        }
        let empty = EventSource::default();
        let old = [
            ("firstTimestamp", event.deprecated_first_timestamp.is_some()),
            ("lastTimestamp", event.deprecated_last_timestamp.is_some()),
            ("count", event.deprecated_count.unwrap_or(0) != 0),
            ("source", event.deprecated_source.as_ref().is_some_and(|s| *s != empty)),
        ];
        for (field, _) in old.into_iter().filter(|(_, set)| *set) {
            errors.invalid(&Path::new(field), "", "needs to be unset");
        }
    }

    /// Only the series may go on. What may not is told by the names of the core group.
    fn validate_update(event: &events::Event, old: &events::Event, errors: &mut Errors) {
        as_in_core(event, errors);
        if event.series != old.series {
            series(event, errors);
        }
        let (new, old) = [event, old].map(|e| serde_json::to_value(e).unwrap_or_default()).into();
        for field in IMMUTABLE_FIELDS {
            let in_core = RENAMED.iter().find(|(here, _)| here == field).map_or(*field, |(_, core)| core);
            let told = if *field == "reportingController" { field } else { in_core };
            immutable(new.at(field), old.at(field), &Path::new(told), errors);
        }
    }

    fn encode_stored(object: &mut Value) {
        rename(object, "v1", |(here, core)| (here, core));
        // The core version always shows these two.
        if let Some(map) = object.as_object_mut() {
            map.entry("involvedObject").or_insert_with(|| Value::Object(Map::new()));
            map.entry("eventTime").or_insert(Value::Null);
        }
    }

    fn decode_stored(object: &mut Value) {
        rename(object, "events.k8s.io/v1", |(here, core)| (core, here));
    }

    fn cells(object: &Value, row: &mut Row) {
        let mut core = object.clone();
        Self::encode_stored(&mut core);
        core_event::cells(&core, row);
    }
}

/// What holds for events of both groups.
fn as_in_core(event: &events::Event, errors: &mut Errors) {
    let about = event.regarding.as_ref().map_or("", |r| text(&r.namespace));
    let is_new = event.event_time.is_some();
    core_event::same_namespace(text(&event.metadata.namespace), about, is_new, errors);
    if is_new {
        core_event::new_fields(
            &[
                ("reportingController", text(&event.reporting_controller)),
                ("reportingInstance", text(&event.reporting_instance)),
                ("action", text(&event.action)),
                ("reason", text(&event.reason)),
            ],
            ("message", text(&event.note)),
            errors,
        );
    }
}

fn series(event: &events::Event, errors: &mut Errors) {
    if event.series.as_ref().is_some_and(|series| series.count < 2) {
        errors.invalid(&Path::new("series.count"), "", "should be at least 2");
    }
}

fn rename(
    object: &mut Value,
    api_version: &str,
    way: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Some(map): Option<&mut Map<String, Value>> = object.as_object_mut() else { return };
    if map.get("apiVersion").and_then(Value::as_str) == Some(api_version) {
        return;
    }
    map.insert("apiVersion".to_owned(), api_version.into());
    for (from, to) in RENAMED.iter().copied().map(way) {
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}
