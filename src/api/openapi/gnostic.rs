//! The protobuf form of a Swagger document: the messages of gnostic's `OpenAPIv2.proto`, as far as our documents use them.
//! Everything is written from the JSON form. Extensions and defaults travel as YAML, of which JSON is a part.

use serde_json::{Map, Value};

/// Without paths and definitions, which come behind.
pub fn document(head: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, head.get("swagger"));
    if let Some(info) = head.get("info") {
        let mut message = Message::default();
        message.text(1, info.get("title"));
        message.text(2, info.get("version"));
        out.message(2, &message);
    }
    for requirement in list(head.get("security")) {
        out.message(
            12,
            &named_each(1, object(Some(requirement)), |values| {
                let mut array = Message::default();
                list(Some(values)).for_each(|value| array.text(1, Some(value)));
                array
            }),
        );
    }
    let definitions = named_each(1, object(head.get("securityDefinitions")), |definition| {
        let mut key = Message::default();
        for (tag, name) in [(1, "type"), (2, "name"), (3, "in"), (4, "description")] {
            key.text(tag, definition.get(name));
        }
        let mut item = Message::default();
        item.message(2, &key);
        item
    });
    out.message(13, &definitions);
    out.bytes
}

/// Appends `paths` to a document. A message may come in parts, so each path is written and forgotten.
pub fn paths(document: &mut Vec<u8>, paths: impl Iterator<Item = (String, Value)>) {
    for (name, item) in paths {
        let mut part = Message::default();
        part.message(2, &named(&name, &path_item(&item)));
        append(document, 8, &part);
    }
}

/// Appends `definitions` to a document.
pub fn definitions(document: &mut Vec<u8>, definitions: &mut dyn Iterator<Item = (String, Value)>) {
    for (name, definition) in definitions {
        let mut part = Message::default();
        part.message(1, &named(&name, &schema(&definition)));
        append(document, 9, &part);
    }
}

fn append(document: &mut Vec<u8>, tag: u32, part: &Message) {
    let mut out = Message { bytes: std::mem::take(document) };
    out.message(tag, part);
    *document = out.bytes;
}

fn path_item(item: &Value) -> Message {
    let mut out = Message::default();
    for (tag, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(value) = item.get(method) {
            out.message(tag, &operation(value));
        }
    }
    list(item.get("parameters")).for_each(|p| out.message(9, &parameter(p)));
    out
}

fn operation(operation: &Value) -> Message {
    let mut out = Message::default();
    out.texts(1, operation.get("tags"));
    out.text(3, operation.get("description"));
    out.text(5, operation.get("operationId"));
    out.texts(6, operation.get("produces"));
    out.texts(7, operation.get("consumes"));
    list(operation.get("parameters")).for_each(|p| out.message(8, &parameter(p)));
    let responses = named_each(1, object(operation.get("responses")), |response| {
        let mut message = Message::default();
        message.text(1, response.get("description"));
        if let Some(value) = response.get("schema") {
            let mut item = Message::default();
            item.message(1, &schema(value));
            message.message(2, &item);
        }
        let mut value = Message::default();
        value.message(1, &message);
        value
    });
    out.message(9, &responses);
    out.texts(10, operation.get("schemes"));
    out.extensions(13, operation);
    out
}

fn parameter(parameter: &Value) -> Message {
    let place = parameter.get("in").and_then(Value::as_str).unwrap_or_default();
    let mut inner = Message::default();
    if place == "body" {
        inner.text(1, parameter.get("description"));
        inner.text(2, parameter.get("name"));
        inner.text(3, parameter.get("in"));
        inner.flag(4, parameter.get("required"));
        if let Some(value) = parameter.get("schema") {
            inner.message(5, &schema(value));
        }
        return wrapped(1, &wrapped(1, &inner));
    }
    // Query and path parameters differ in the number of the message and of some fields.
    let (number, ty, unique) = if place == "query" { (3, 6, 20) } else { (4, 5, 19) };
    inner.flag(1, parameter.get("required"));
    inner.text(2, parameter.get("in"));
    inner.text(3, parameter.get("description"));
    inner.text(4, parameter.get("name"));
    inner.text(ty, parameter.get("type"));
    inner.flag(unique, parameter.get("uniqueItems"));
    wrapped(1, &wrapped(2, &wrapped(number, &inner)))
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, value.get("$ref"));
    out.text(2, value.get("format"));
    out.text(4, value.get("description"));
    if let Some(default) = value.get("default") {
        out.message(5, &any(default));
    }
    out.texts(19, value.get("required"));
    if let Some(values) = value.get("additionalProperties") {
        out.message(21, &wrapped(1, &schema(values)));
    }
    if let Some(ty) = value.get("type") {
        let mut item = Message::default();
        item.text(1, Some(ty));
        out.message(22, &item);
    }
    if let Some(items) = value.get("items") {
        out.message(23, &wrapped(1, &schema(items)));
    }
    if let Some(Value::Object(properties)) = value.get("properties") {
        out.message(25, &named_each(1, Some(properties), schema));
    }
    out.extensions(31, value);
    out
}

fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(2, Some(&Value::String(format!("{value}\n"))));
    out
}

fn wrapped(tag: u32, inner: &Message) -> Message {
    let mut out = Message::default();
    out.message(tag, inner);
    out
}

fn named(name: &str, value: &Message) -> Message {
    let mut out = Message::default();
    out.raw(1, name.as_bytes());
    out.message(2, value);
    out
}

fn named_each(tag: u32, entries: Option<&Map<String, Value>>, write: impl Fn(&Value) -> Message) -> Message {
    let mut out = Message::default();
    for (name, value) in entries.into_iter().flatten() {
        out.message(tag, &named(name, &write(value)));
    }
    out
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn object(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

#[derive(Default)]
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
            number >>= 7;
        }
        self.bytes.push(u8::try_from(number).expect("seven bits"));
    }

    fn raw(&mut self, tag: u32, bytes: &[u8]) {
        self.varint(u64::from(tag) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    fn message(&mut self, tag: u32, message: &Self) {
        self.raw(tag, &message.bytes);
    }

    fn text(&mut self, tag: u32, value: Option<&Value>) {
        if let Some(Value::String(text)) = value {
            self.raw(tag, text.as_bytes());
        }
    }

    fn texts(&mut self, tag: u32, values: Option<&Value>) {
        list(values).for_each(|value| self.text(tag, Some(value)));
    }

    fn flag(&mut self, tag: u32, value: Option<&Value>) {
        if value == Some(&Value::Bool(true)) {
            self.varint(u64::from(tag) << 3);
            self.varint(1);
        }
    }

    fn extensions(&mut self, tag: u32, value: &Value) {
        for (name, value) in object(Some(value)).into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
            self.message(tag, &named(name, &any(value)));
        }
    }
}
