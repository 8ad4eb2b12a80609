//! The paths of a kind, with an operation for each verb.

use serde_json::{Map, Value, json};

use super::Flavour;
use crate::resource::Gvk;
use crate::schema;
use crate::strategy::{Descriptor, Subresource};

const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
static PRODUCES: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Query parameters: name, type, description.
type Parameter = (&'static str, &'static str, &'static str);

const DRY_RUN: Parameter =
    ("dryRun", "string", "When present, nothing is persisted. The only value is All: all stages are processed.");
const MANAGER: Parameter =
    ("fieldManager", "string", "The name of the actor that makes these changes, for the ownership of fields.");
const VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What to do about unknown or duplicate fields: Ignore, Warn (the default) or Strict.",
);
const FORCE: Parameter = ("force", "boolean", "Take over fields that others own. Only for apply patches.");
const SELECTION: [Parameter; 8] = [
    ("continue", "string", "Where to go on, from the metadata of the last answer."),
    ("fieldSelector", "string", "Restricts the objects by their fields. Defaults to everything."),
    ("labelSelector", "string", "Restricts the objects by their labels. Defaults to everything."),
    ("limit", "integer", "The most objects in one answer."),
    ("resourceVersion", "string", "How old an answer may be."),
    ("resourceVersionMatch", "string", "How resourceVersion is applied: Exact or NotOlderThan."),
    ("sendInitialEvents", "boolean", "Begin a watch with the objects that exist, and a bookmark behind them."),
    ("timeoutSeconds", "integer", "Ends the request after this many seconds."),
];
const WATCHING: [Parameter; 2] = [
    ("allowWatchBookmarks", "boolean", "Ask for bookmark events in a watch."),
    ("watch", "boolean", "Watch for changes, and answer with a stream of events."),
];
const DELETION: [Parameter; 4] = [
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "Seconds until the object is deleted. Zero means now."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("propagationPolicy", "string", "How dependents are treated: Orphan, Background or Foreground."),
];

/// One operation, before it is put into a flavour.
struct Operation<'a> {
    /// `x-kubernetes-action`.
    action: &'static str,
    method: &'static str,
    /// The beginning of the operation's id, e.g. `list`.
    id: &'static str,
    about: String,
    parameters: Vec<Parameter>,
    body: Option<&'a str>,
    /// The definition of the answer; `None`: a text.
    answer: Option<&'a str>,
}

pub fn of(descriptor: &Descriptor, flavour: Flavour) -> Vec<(String, Value)> {
    let Some(kind) = definition_name(descriptor) else { return Vec::new() };
    let list = list_name(descriptor, &kind);
    let Descriptor { gvk, gvr, namespaced, .. } = descriptor;
    let site = Site { gvk, namespaced: *namespaced, custom: is_custom(descriptor), flavour };
    let collection = match namespaced {
        true => format!("{}/namespaces/{{namespace}}/{}", gvr.root_path(), gvr.resource),
        false => format!("{}/{}", gvr.root_path(), gvr.resource),
    };
    let can = |operation: &Operation<'_>, verb: &str| {
        debug_assert!(!operation.id.is_empty());
        descriptor.verbs.iter().any(|v| v == verb)
    };
    let all = collection_operations(gvk, &kind, &list).into_iter();
    let on_all: Vec<_> = all.filter(|(verb, operation)| can(operation, verb)).map(|(_, o)| o).collect();
    let one = object_operations(gvk, &kind, true).into_iter();
    let on_one: Vec<_> = one.filter(|(verb, operation)| can(operation, verb)).map(|(_, o)| o).collect();
    let mut paths = Vec::new();
    let mut add = |path: String, operations: &[Operation<'_>], suffix: &str, of: &Gvk| {
        if !operations.is_empty() {
            paths.push((path.clone(), site.item(&path, operations, suffix, of)));
        }
    };
    add(collection.clone(), &on_all, "", gvk);
    add(format!("{collection}/{{name}}"), &on_one, "", gvk);
    for subresource in &descriptor.subresources {
        match subresource {
            Subresource::Status => {
                let operations: Vec<_> = object_operations(gvk, &kind, false).into_iter().map(|(_, o)| o).collect();
                add(format!("{collection}/{{name}}/status"), &operations, "Status", gvk);
            }
            Subresource::Scale => {
                let gvk = Gvk::new("autoscaling", "v1", "Scale");
                let Some(scale) = definition_of(&gvk) else { continue };
                let operations: Vec<_> = object_operations(&gvk, &scale, false).into_iter().map(|(_, o)| o).collect();
                add(format!("{collection}/{{name}}/scale"), &operations, "Scale", &gvk);
            }
            Subresource::Special(name) => {
                let of = special_kind(name).unwrap_or_else(|| gvk.clone());
                let Some(body) = definition_of(&of) else { continue };
                add(format!("{collection}/{{name}}/{name}"), &special(name, &of, &body), &capitalized(name), &of);
            }
        }
    }
    if *namespaced && descriptor.verbs.iter().any(|v| v == "list") {
        let operations: Vec<_> = collection_operations(gvk, &kind, &list)
            .into_iter()
            .filter(|(verb, _)| *verb == "list")
            .map(|(_, o)| o)
            .collect();
        let everywhere = Site { namespaced: false, ..site };
        let path = format!("{}/{}", gvr.root_path(), gvr.resource);
        paths.push((path.clone(), everywhere.item(&path, &operations, "ForAllNamespaces", gvk)));
    }
    paths
}

/// Whether a CustomResourceDefinition made the kind.
pub fn is_custom(descriptor: &Descriptor) -> bool {
    !descriptor.strategy.identity().is_empty()
}

/// The name of the definition of a row's kind: `com.example.stable.v1.CronTab` of a custom one.
pub fn definition_name(descriptor: &Descriptor) -> Option<String> {
    if is_custom(descriptor) {
        Some(custom_name(&descriptor.gvk, &descriptor.gvk.kind))
    } else {
        definition_of(&descriptor.gvk)
    }
}

/// The name of the definition of a row's list.
pub fn list_name(descriptor: &Descriptor, kind: &str) -> String {
    if is_custom(descriptor) { custom_name(&descriptor.gvk, &descriptor.list_kind) } else { format!("{kind}List") }
}

fn custom_name(gvk: &Gvk, kind: &str) -> String {
    let mut group: Vec<&str> = gvk.group.split('.').collect();
    group.reverse();
    format!("{}.{}.{kind}", group.join("."), gvk.version)
}

/// The name of a kind's definition.
pub fn definition_of(gvk: &Gvk) -> Option<String> {
    Some(schema::lookup(gvk)?.object()?.name.to_string())
}

/// The kind that a subresource takes, where it isn't the object's own.
pub fn special_kind(name: &str) -> Option<Gvk> {
    match name {
        "binding" => Some(Gvk::new("", "v1", "Binding")),
        "eviction" => Some(Gvk::new("policy", "v1", "Eviction")),
        "token" => Some(Gvk::new("authentication.k8s.io", "v1", "TokenRequest")),
        _ => None,
    }
}

fn special<'a>(name: &str, of: &Gvk, kind: &'a str) -> Vec<Operation<'a>> {
    let write = vec![DRY_RUN, MANAGER, VALIDATION];
    let operation = |action, method, id, parameters, body, answer| Operation {
        action,
        method,
        id,
        about: format!("{id} {name} of the specified {}", of.kind),
        parameters,
        body,
        answer,
    };
    match name {
        "binding" | "eviction" | "token" => vec![operation("post", "post", "create", write, Some(kind), Some(kind))],
        "finalize" => vec![operation("put", "put", "replace", write, Some(kind), Some(kind))],
        "approval" | "ephemeralcontainers" | "resize" => {
            object_operations(of, kind, false).into_iter().map(|(_, operation)| operation).collect()
        }
        "log" => vec![operation("get", "get", "read", Vec::new(), None, None)],
        _ => vec![
            operation("connect", "get", "connectGet", Vec::new(), None, None),
            operation("connect", "post", "connectPost", Vec::new(), None, None),
        ],
    }
}

/// Verb and operation, on the collection.
fn collection_operations<'a>(gvk: &Gvk, kind: &'a str, list: &'a str) -> Vec<(&'static str, Operation<'a>)> {
    let name = &gvk.kind;
    let listing: Vec<Parameter> = SELECTION.into_iter().chain(WATCHING).collect();
    let deleting: Vec<Parameter> = SELECTION.into_iter().chain(DELETION).collect();
    let about = |text: &str| format!("{text} {name}");
    let operation = |action, method, id, about, parameters, body, answer| Operation {
        action,
        method,
        id,
        about,
        parameters,
        body,
        answer,
    };
    vec![
        ("list", operation("list", "get", "list", about("list or watch objects of kind"), listing, None, Some(list))),
        (
            "create",
            operation(
                "post",
                "post",
                "create",
                about("create a"),
                vec![DRY_RUN, MANAGER, VALIDATION],
                Some(kind),
                Some(kind),
            ),
        ),
        (
            "deletecollection",
            operation(
                "deletecollection",
                "delete",
                "deleteCollection",
                about("delete collection of"),
                deleting,
                Some(DELETE_OPTIONS),
                Some(STATUS),
            ),
        ),
    ]
}

const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const RESOURCES: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList";

/// Verb and operation, on one object; `whole`: with its deletion.
fn object_operations<'a>(gvk: &Gvk, kind: &'a str, whole: bool) -> Vec<(&'static str, Operation<'a>)> {
    let name = &gvk.kind;
    let about = |text: &str| format!("{text} the specified {name}");
    let operation = |action, method, id, about, parameters, body, answer| Operation {
        action,
        method,
        id,
        about,
        parameters,
        body,
        answer,
    };
    let mut operations = vec![
        ("get", operation("get", "get", "read", about("read"), Vec::new(), None, Some(kind))),
        (
            "update",
            operation(
                "put",
                "put",
                "replace",
                about("replace"),
                vec![DRY_RUN, MANAGER, VALIDATION],
                Some(kind),
                Some(kind),
            ),
        ),
        (
            "patch",
            operation(
                "patch",
                "patch",
                "patch",
                about("partially update"),
                vec![DRY_RUN, MANAGER, VALIDATION, FORCE],
                Some(PATCH),
                Some(kind),
            ),
        ),
    ];
    if whole {
        let delete = operation(
            "delete",
            "delete",
            "delete",
            about("delete"),
            DELETION.to_vec(),
            Some(DELETE_OPTIONS),
            Some(STATUS),
        );
        operations.push(("delete", delete));
    }
    operations
}

/// Where operations stand.
#[derive(Clone, Copy)]
struct Site<'a> {
    gvk: &'a Gvk,
    namespaced: bool,
    /// Of a custom resource: no strategic patch, no protobuf.
    custom: bool,
    flavour: Flavour,
}

impl Site<'_> {
    fn item(&self, path: &str, operations: &[Operation<'_>], suffix: &str, of: &Gvk) -> Value {
        let mut item = Map::new();
        for operation in operations {
            item.insert(operation.method.to_owned(), self.operation(operation, suffix, of));
        }
        let in_path = |name: &str, description: &str| {
            parameter(
                self.flavour,
                json!({"name": name, "in": "path", "required": true, "description": description}),
                "string",
            )
        };
        let mut parameters = Vec::new();
        if path.contains("{name}") {
            parameters.push(in_path("name", &format!("name of the {}", self.gvk.kind)));
        }
        if self.namespaced {
            parameters.push(in_path("namespace", "object name and auth scope, such as for teams and projects"));
        }
        parameters.push(query(self.flavour, ("pretty", "string", "If 'true', then the output is pretty printed.")));
        item.insert("parameters".to_owned(), Value::Array(parameters));
        Value::Object(item)
    }

    fn operation(&self, operation: &Operation<'_>, suffix: &str, of: &Gvk) -> Value {
        let v2 = self.flavour == Flavour::Swagger2;
        let owner = format!("{}{}", camel(&self.gvk.group), capitalized(&self.gvk.version));
        let scope = if self.namespaced { "Namespaced" } else { "" };
        let mut parameters: Vec<Value> = operation.parameters.iter().map(|p| query(self.flavour, *p)).collect();
        let mut out = json!({
            "description": operation.about,
            "operationId": format!("{}{owner}{scope}{}{suffix}", operation.id, self.gvk.kind),
            "tags": [format!("{}_{}", lower_camel(&self.gvk.group), self.gvk.version)],
            "x-kubernetes-action": operation.action,
            "x-kubernetes-group-version-kind": {"group": &*of.group, "version": &*of.version, "kind": &*of.kind},
        });
        if let Some(body) = operation.body {
            let required = body != DELETE_OPTIONS;
            if v2 {
                parameters.push(json!({"name": "body", "in": "body", "required": required, "schema": reference(self.flavour, body)}));
                out["consumes"] = json!(self.consumes(body));
            } else {
                let types = self.consumes(body);
                let content: Map<String, Value> = types
                    .into_iter()
                    .map(|media| (media.to_owned(), json!({"schema": reference(self.flavour, body)})))
                    .collect();
                out["requestBody"] = json!({"required": required, "content": content});
            }
        }
        if !parameters.is_empty() {
            out["parameters"] = Value::Array(parameters);
        }
        if v2 {
            out["produces"] = json!(self.produces());
            out["schemes"] = json!(["https"]);
        }
        let codes: &[(&str, &str)] = match operation.action {
            "post" => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
            "put" | "patch" => &[("200", "OK"), ("201", "Created")],
            "delete" => &[("200", "OK"), ("202", "Accepted")],
            _ => &[("200", "OK")],
        };
        out["responses"] = responses(self.flavour, codes, operation.answer, self.produces());
        out
    }

    fn consumes(&self, body: &str) -> Vec<&'static str> {
        match (body == PATCH, self.custom) {
            (true, _) => PATCHES.into_iter().filter(|patch| !self.custom || !patch.contains("strategic")).collect(),
            (false, true) => PRODUCES[..2].to_vec(),
            (false, false) => vec!["*/*"],
        }
    }

    fn produces(&self) -> &'static [&'static str] {
        if self.custom { &PRODUCES[..2] } else { &PRODUCES }
    }
}

fn responses(
    flavour: Flavour,
    codes: &[(&str, &str)],
    answer: Option<&str>,
    produces: &'static [&'static str],
) -> Value {
    let schema = answer.map_or_else(|| json!({"type": "string"}), |answer| reference(flavour, answer));
    let mut responses = Map::new();
    for (code, text) in codes {
        let response = match flavour {
            Flavour::Swagger2 => json!({"description": text, "schema": schema}),
            Flavour::OpenApi3 => {
                let types = if answer.is_some() { produces } else { &["text/plain"] };
                let content: Map<String, Value> =
                    types.iter().map(|media| ((*media).to_owned(), json!({"schema": schema}))).collect();
                json!({"description": text, "content": content})
            }
        };
        responses.insert((*code).to_owned(), response);
    }
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    Value::Object(responses)
}

pub fn discovery(group: &str, version: &str, flavour: Flavour) -> Value {
    let mut get = json!({
        "description": "get available resources",
        "operationId": format!("get{}{}APIResources", camel(group), capitalized(version)),
        "tags": [format!("{}_{version}", lower_camel(group))],
        "responses": responses(flavour, &[("200", "OK")], Some(RESOURCES), &PRODUCES),
    });
    if flavour == Flavour::Swagger2 {
        get["produces"] = json!(PRODUCES);
        get["consumes"] = json!(PRODUCES);
        get["schemes"] = json!(["https"]);
    }
    json!({ "get": get })
}

fn query(flavour: Flavour, (name, ty, description): Parameter) -> Value {
    parameter(flavour, json!({"name": name, "in": "query", "description": description}), ty)
}

fn parameter(flavour: Flavour, mut parameter: Value, ty: &str) -> Value {
    match flavour {
        Flavour::Swagger2 => {
            parameter["type"] = ty.into();
            parameter["uniqueItems"] = true.into();
        }
        Flavour::OpenApi3 => parameter["schema"] = json!({"type": ty, "uniqueItems": true}),
    }
    parameter
}

/// A reference to a definition.
pub fn reference(flavour: Flavour, definition: &str) -> Value {
    match flavour {
        Flavour::Swagger2 => json!({"$ref": format!("#/definitions/{definition}")}),
        Flavour::OpenApi3 => json!({"$ref": format!("#/components/schemas/{definition}")}),
    }
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

/// `rbac.authorization.k8s.io` to `RbacAuthorization`, the core group to `Core`.
fn camel(group: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    group.split('.').map(capitalized).collect()
}

fn lower_camel(group: &str) -> String {
    let camel = camel(group);
    camel[..1].to_ascii_lowercase() + &camel[1..]
}
