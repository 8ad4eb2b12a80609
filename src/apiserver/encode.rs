//! Objects to bytes, in the form that the client wants. JSON of stored objects is spliced, never parsed;
//! only tables and versions other than the stored one look inside.

use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use serde_json::{Map, Value, json};
use skiff_api::strategy::Descriptor;
use skiff_api::{ApiError, Object};

use crate::convert;
use crate::negotiate::{Encoding, Form, Wanted};
use crate::registry::Row;
use crate::reply::Reply;

/// A long list is sent in pieces of about this size.
const PIECE: usize = 256 << 10;

/// What a table's rows hold beside their cells (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    None,
    Metadata,
    Object,
}

impl IncludeObject {
    pub fn parse(text: Option<&str>) -> Result<Self, ApiError> {
        match text {
            None | Some("Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(ApiError::bad_request(format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

/// What makes two clients' frames of a change the same bytes.
#[derive(Clone)]
pub(crate) struct Shape {
    descriptor: Arc<Descriptor>,
    form: Form,
    include: IncludeObject,
}

impl PartialEq for Shape {
    fn eq(&self, other: &Self) -> bool {
        let same_include = self.include == other.include || !self.is_table();
        Arc::ptr_eq(&self.descriptor, &other.descriptor) && self.form == other.form && same_include
    }
}

impl Shape {
    pub fn is_table(&self) -> bool {
        matches!(self.form, Form::Table(_))
    }
}

/// How one row's objects are written for one client.
#[derive(Clone)]
pub(crate) struct Encoder {
    pub row: Arc<Row>,
    pub form: Form,
    pub include: IncludeObject,
}

impl Encoder {
    pub fn new(row: &Arc<Row>, form: Form, include: IncludeObject) -> Self {
        Self { row: row.clone(), form, include }
    }

    pub fn shape(&self) -> Shape {
        Shape { descriptor: self.row.descriptor.clone(), form: self.form, include: self.include }
    }

    /// Whether objects go out as the bytes they are stored in.
    pub fn is_plain(&self) -> bool {
        // Custom resources come here in the row's version.
        self.form == Form::Object && (self.row.home.is_none() || self.row.custom.is_some())
    }

    /// Appends one object in this form: itself, its metadata, or a table of one row.
    pub fn write(&self, object: &Object, columns: bool, out: &mut Vec<u8>) {
        if self.is_plain() {
            return object.write_json(out);
        }
        let value = self.value(object);
        let value = match self.form {
            Form::Object => value,
            Form::Metadata(version) => partial(value, version),
            Form::Table(version) => {
                let mut meta = Map::new();
                meta.insert("resourceVersion".into(), object.revision.to_string().into());
                let mut table = self.table(version, meta, columns);
                table["rows"] = Value::Array(vec![self.table_row(value, version)]);
                table
            }
        };
        write_value(&value, out);
    }

    /// The object in this row's version.
    pub fn value(&self, object: &Object) -> Value {
        convert::to_row(object.value(), &self.row)
    }

    fn table(&self, version: &str, meta: Map<String, Value>, columns: bool) -> Value {
        let mut table = json!({
            "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": meta, "columnDefinitions": [],
        });
        if columns {
            let columns = self.row.descriptor.columns.iter().map(|c| {
                json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority})
            });
            table["columnDefinitions"] = columns.collect();
        } else {
            table["columnDefinitions"] = Value::Null;
        }
        table
    }

    fn table_row(&self, value: Value, version: &str) -> Value {
        let cells = self.row.descriptor.strategy.cells(&value, skiff_base::time::now());
        table_row(cells, value, self.include, version)
    }

    /// The object of a bookmark.
    pub fn bookmark(&self, revision: u64, initial_end: bool) -> Value {
        let mut meta = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let gvk = &self.row.descriptor.gvk;
        match self.form {
            Form::Object => json!({"kind": gvk.kind, "apiVersion": gvk.api_version(), "metadata": meta}),
            Form::Metadata(version) => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": meta})
            }
            Form::Table(version) => {
                let api_version = format!("meta.k8s.io/{version}");
                let object = json!({"kind": "PartialObjectMetadata", "apiVersion": api_version, "metadata": meta});
                json!({
                    "kind": "Table", "apiVersion": api_version,
                    "metadata": {"resourceVersion": revision.to_string()},
                    "columnDefinitions": null, "rows": [{"cells": [], "object": object}],
                })
            }
        }
    }
}

/// A row of a table, with as much of its object as the client asks for.
pub(crate) fn table_row(cells: Vec<Value>, value: Value, include: IncludeObject, version: &str) -> Value {
    let object = match include {
        IncludeObject::None => return json!({ "cells": cells }),
        IncludeObject::Metadata => partial(value, version),
        IncludeObject::Object => value,
    };
    json!({ "cells": cells, "object": object })
}

/// The metadata alone.
pub(crate) fn partial(mut value: Value, version: &str) -> Value {
    let metadata = value.get_mut("metadata").map(Value::take).unwrap_or_default();
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
    })
}

pub(crate) fn write_value(value: &Value, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out, value).expect("a JSON value encodes, and memory takes it");
}

/// One object as an answer.
pub(crate) fn object(status: u16, object: &Object, encoder: &Encoder, encoding: Encoding) -> Reply {
    let mut out = Vec::with_capacity(object.raw().len() + 64);
    encoder.write(object, true, &mut out);
    encoded(status, out, encoding)
}

/// Any value as an answer.
pub(crate) fn value(status: u16, value: &Value, encoding: Encoding) -> Reply {
    encoded(status, value.to_string().into_bytes(), encoding)
}

fn encoded(status: u16, json: Vec<u8>, encoding: Encoding) -> Reply {
    match encoding {
        Encoding::Json => Reply::json(status, json),
        Encoding::Yaml => {
            let value: Value = serde_json::from_slice(&json).expect("these bytes were written as JSON");
            let text = serde_yaml::to_string(&value).expect("a JSON value is YAML too");
            Reply::new(status, encoding.content_type(), text)
        }
    }
}

/// The metadata of a list.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListMeta {
    pub revision: u64,
    pub next: Option<String>,
    pub remaining: Option<u64>,
}

impl ListMeta {
    fn map(&self) -> Map<String, Value> {
        let mut meta = Map::new();
        meta.insert("resourceVersion".into(), self.revision.to_string().into());
        if let Some(next) = &self.next {
            meta.insert("continue".into(), next.as_str().into());
        }
        if let Some(remaining) = self.remaining {
            meta.insert("remainingItemCount".into(), remaining.into());
        }
        meta
    }
}

/// A list as an answer.
pub(crate) fn list(objects: Vec<Arc<Object>>, meta: &ListMeta, encoder: &Encoder, wanted: Wanted) -> Reply {
    if let Form::Table(version) = wanted.form {
        let mut table = encoder.table(version, meta.map(), true);
        table["rows"] = objects.iter().map(|o| encoder.table_row(encoder.value(o), version)).collect();
        return value(200, &table, wanted.encoding);
    }
    let descriptor = &encoder.row.descriptor;
    let (kind, api_version) = match wanted.form {
        Form::Metadata(version) => ("PartialObjectMetadataList".to_owned(), format!("meta.k8s.io/{version}")),
        _ => (descriptor.list_kind.clone(), descriptor.gvk.api_version()),
    };
    let head = json!({"kind": kind, "apiVersion": api_version, "metadata": meta.map()}).to_string();
    let mut first = head.into_bytes();
    first.pop();
    first.extend_from_slice(b",\"items\":[");
    let pieces = ListPieces { objects, at: 0, encoder: encoder.clone(), first: Some(first), ended: false };
    let size: usize = pieces.objects.iter().map(|o| o.raw().len() + 40).sum();
    if size <= PIECE || wanted.encoding == Encoding::Yaml {
        let mut whole = Vec::with_capacity(size + 256);
        for piece in pieces {
            whole.extend_from_slice(&piece);
        }
        return encoded(200, whole, wanted.encoding);
    }
    let mut reply = Reply::pieces(crate::reply::JSON, pieces.into_stream());
    reply.list = true;
    reply
}

/// Writes a list piece by piece, so that its bytes are never in memory as a whole.
struct ListPieces {
    objects: Vec<Arc<Object>>,
    at: usize,
    encoder: Encoder,
    first: Option<Vec<u8>>,
    ended: bool,
}

impl Iterator for ListPieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut out = self.first.take().unwrap_or_default();
        out.reserve(PIECE.min(self.objects[self.at..].iter().take(64).map(|o| o.raw().len() + 64).sum()));
        while self.at < self.objects.len() && out.len() < PIECE {
            if self.at > 0 {
                out.push(b',');
            }
            self.encoder.write(&self.objects[self.at], false, &mut out);
            self.at += 1;
        }
        if self.at == self.objects.len() {
            self.ended = true;
            out.extend_from_slice(b"]}");
        }
        Some(Bytes::from(out))
    }
}

impl ListPieces {
    fn into_stream(self) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
        futures::stream::iter(self.map(Ok))
    }
}

/// `Status` of success.
pub(crate) fn success(details: Value) -> Value {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if !details.is_null() {
        status["details"] = details;
    }
    status
}
