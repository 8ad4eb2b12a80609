//! Joins the two sources to the table: lines of tab-separated columns, read by `schema/facts.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::markers::{Message, MessageField, normal};
use super::openapi::{Kind, Node};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const CRD: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

type Messages = BTreeMap<(String, String), Message>;

/// The facts, and the descriptions in the same order, each ended by a zero byte.
pub fn make(
    definitions: &BTreeMap<String, Node>,
    kinds: &[Kind],
    messages: &Messages,
    pointers: &BTreeSet<(String, String)>,
) -> (String, String) {
    let objects: BTreeMap<&str, usize> = definitions
        .iter()
        .filter(|(name, node)| special(name).is_none() && node.text("type") == "object")
        .enumerate()
        .map(|(index, (name, _))| (name.as_str(), index))
        .collect();
    let mut facts = String::new();
    let mut descriptions = String::new();
    for name in objects.keys() {
        let node = &definitions[*name];
        let module = module_of(name);
        let message = messages.get(&module);
        let atomic = message.is_some_and(|m| has(&m.markers, "structType", "atomic"));
        line(&mut facts, &["T", name, if atomic { "a" } else { "" }]);
        describe(&mut descriptions, node.description());
        let required = required(name, node);
        let Some(Node::Object(properties)) = node.get("properties") else { continue };
        let mut properties: Vec<_> = properties.iter().collect();
        properties.sort_by(|a, b| a.0.cmp(&b.0));
        for (field, schema) in properties {
            describe(&mut descriptions, schema.description());
            let place = message.and_then(|m| find(messages, &module, m, &normal(field)));
            let required = required.contains(&field.as_str());
            let pointer = is_pointer(pointers, &module, field, place.as_ref());
            field_line(&mut facts, field, &code(schema, definitions, &objects), required, pointer, place.as_ref());
        }
    }
    for kind in kinds {
        if let Some(index) = objects.get(kind.definition.as_str()) {
            line(&mut facts, &["K", &kind.group, &kind.version, &kind.kind, &index.to_string()]);
        }
    }
    (facts, descriptions)
}

/// Where a field is in protobuf: the tags that lead there, the field, the message that it really stands in.
struct Place<'a> {
    tags: Vec<u32>,
    field: &'a MessageField,
    message: String,
}

/// Finds a JSON field in a message, or in a message that Go inlines: one that has no name of its own in JSON.
fn find<'a>(messages: &'a Messages, module: &(String, String), message: &'a Message, name: &str) -> Option<Place<'a>> {
    if let Some(field) = message.fields.iter().find(|f| f.name == name) {
        return Some(Place { tags: vec![field.tag], field, message: module.1.clone() });
    }
    message.fields.iter().filter(|f| inlined(&module.1, &f.name)).find_map(|outer| {
        let inner = (module.0.clone(), outer.message.clone()?);
        let mut place = find(messages, &inner, messages.get(&inner)?, name)?;
        place.tags.insert(0, outer.tag);
        Some(place)
    })
}

/// Go's embedded structs with the `inline` tag.
fn inlined(message: &str, field: &str) -> bool {
    matches!(
        (message, field),
        ("volume", "volumesource")
            | ("persistentvolumespec", "persistentvolumesource")
            | ("ephemeralcontainer", "ephemeralcontainercommon")
            | ("probe", "handler")
            | ("ingressrule", "ingressrulevalue")
            | (
                "deviceallocationconfiguration" | "deviceclaimconfiguration" | "deviceclassconfiguration",
                "deviceconfiguration"
            )
            | ("rulewithoperations", "rule")
            | ("namedrulewithoperations", "rulewithoperations")
            | ("configmapenvsource" | "secretenvsource", "localobjectreference")
            | ("configmapkeyselector" | "secretkeyselector", "localobjectreference")
            | ("configmapprojection" | "secretprojection" | "configmapvolumesource", "localobjectreference")
    )
}

fn is_pointer(
    pointers: &BTreeSet<(String, String)>,
    module: &(String, String),
    field: &str,
    place: Option<&Place<'_>>,
) -> bool {
    let package = module.0.rsplit('.').take(2).collect::<Vec<_>>();
    let package = format!("{}/{}", package.last().map_or("", |p| p), package[0]);
    let known = |message: &str| pointers.contains(&(format!("{package}.{}", normal(message)), field.to_owned()));
    known(&module.1) || place.is_some_and(|p| known(&p.message))
}

fn field_line(facts: &mut String, name: &str, code: &str, required: bool, pointer: bool, place: Option<&Place<'_>>) {
    let none = Vec::new();
    let markers = place.map_or(&none, |p| &p.field.markers);
    let mut flags = String::new();
    if required {
        flags.push('r');
    }
    // Structs (int-or-string among them) and "anything" are never dropped, since their zero values are written by Go,
    // too, or are pointers.
    if !pointer && !required && code != "x" && !code.starts_with(['#', '*', '|']) {
        flags.push('z');
    }
    for (letter, marker, value) in [
        ('s', "listType", "set"),
        ('M', "listType", "map"),
        ('A', "listType", "atomic"),
        ('a', "mapType", "atomic"),
        ('a', "structType", "atomic"),
    ] {
        if (has(markers, marker, value) || has(markers, &format!("k8s:{marker}"), value)) && !flags.contains(letter) {
            flags.push(letter);
        }
    }
    let strategy = value(markers, "patchStrategy");
    if strategy.contains("merge") {
        flags.push('m');
    }
    if strategy.contains("retainKeys") {
        flags.push('k');
    }
    if strategy.contains("replace") {
        flags.push('R');
    }
    let mut keys: Vec<&str> = Vec::new();
    for (_, key) in markers.iter().filter(|(name, _)| name == "listMapKey" || name == "k8s:listMapKey") {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let tags = place.map_or(String::new(), |p| p.tags.iter().map(u32::to_string).collect::<Vec<_>>().join("."));
    let default = value(markers, "default");
    let default = if default.starts_with("ref(") { "" } else { default };
    line(facts, &["F", name, code, &flags, &tags, value(markers, "patchMergeKey"), &keys.join(","), default]);
}

fn has(markers: &[(String, String)], name: &str, value: &str) -> bool {
    markers.iter().any(|(n, v)| n == name && v == value)
}

fn value<'a>(markers: &'a [(String, String)], name: &str) -> &'a str {
    markers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
}

/// What upstream publishes as required, where k8s-openapi's types say something else: of `metadata`, of names that refer to
/// something, of the time of an event.
fn required<'a>(definition: &str, node: &'a Node) -> Vec<&'a str> {
    let mut required = match node.get("required") {
        Some(Node::List(names)) => {
            names.iter().filter_map(|n| if let Node::Text(text) = n { Some(text.as_str()) } else { None }).collect()
        }
        _ => Vec::new(),
    };
    required.retain(|name| *name != "metadata");
    match definition {
        "io.k8s.api.core.v1.Event" => required.push("metadata"),
        "io.k8s.api.events.v1.Event" => required.push("eventTime"),
        _ if is_reference(definition) => required.retain(|name| *name != "name"),
        _ => {}
    }
    required
}

/// LocalObjectReference and what Go inlines it into.
fn is_reference(definition: &str) -> bool {
    const REFERENCES: [&str; 8] = [
        "ConfigMapEnvSource",
        "ConfigMapKeySelector",
        "ConfigMapProjection",
        "ConfigMapVolumeSource",
        "LocalObjectReference",
        "SecretEnvSource",
        "SecretKeySelector",
        "SecretProjection",
    ];
    definition.strip_prefix("io.k8s.api.core.v1.").is_some_and(|name| REFERENCES.contains(&name))
}

/// Types that aren't objects with fields.
fn special(name: &str) -> Option<&'static str> {
    if let Some(name) = name.strip_prefix(META) {
        return match name {
            "Time" => Some("t"),
            "MicroTime" => Some("u"),
            "FieldsV1" | "Patch" => Some("*"),
            _ => None,
        };
    }
    if let Some(name) = name.strip_prefix(CRD) {
        return match name {
            "JSON" => Some("*"),
            // A schema, or something else; read as a schema where it is an object.
            "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrArray" => Some("|"),
            "JSONSchemaPropsOrStringArray" => Some("*"),
            _ => None,
        };
    }
    match name {
        "io.k8s.apimachinery.pkg.api.resource.Quantity" => Some("q"),
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => Some("x"),
        "io.k8s.apimachinery.pkg.runtime.RawExtension" => Some("*"),
        _ => None,
    }
}

/// The type in the table's notation, see `schema/facts.rs`.
fn code(schema: &Node, definitions: &BTreeMap<String, Node>, objects: &BTreeMap<&str, usize>) -> String {
    if let Node::Reference(name, _) = schema {
        return match (special(name), objects.get(name.as_str())) {
            (Some("|"), _) => format!("|#{}", objects[format!("{CRD}JSONSchemaProps").as_str()]),
            (Some(code), _) => code.to_owned(),
            (None, Some(index)) => format!("#{index}"),
            (None, None) => match definitions.get(name) {
                Some(node) => code(node, definitions, objects),
                None => panic!("{name} is referred to, and not defined"),
            },
        };
    }
    match (schema.text("type"), schema.text("format")) {
        ("string", "byte") => "y".into(),
        ("string", "date-time") => "t".into(),
        ("string", _) => "s".into(),
        ("boolean", _) => "b".into(),
        ("integer", "int32") => "i".into(),
        ("integer", _) => "l".into(),
        ("number", _) => "d".into(),
        ("array", _) => {
            let items = schema.get("items").expect("a list says of what");
            format!("[{}", code(items, definitions, objects))
        }
        ("object", _) => match schema.get("additionalProperties") {
            Some(values) => format!("{{{}", code(values, definitions, objects)),
            None => "*".into(),
        },
        _ => "*".into(),
    }
}

/// `io.k8s.api.core.v1.Pod` to (`api.core.v1`, `pod`): k8s-pb's place.
fn module_of(definition: &str) -> (String, String) {
    let path = definition.trim_start_matches("io.k8s.").replace('-', "_");
    let (module, name) = path.rsplit_once('.').expect("definitions have packages");
    (module.to_owned(), normal(name))
}

fn line(out: &mut String, columns: &[&str]) {
    writeln!(out, "{}", columns.join("\t").trim_end_matches('\t')).expect("writing to memory");
}

fn describe(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\0');
}
