//! Validation of a CustomResourceDefinition. The paths are those of upstream's internal form, where what all versions have
//! in common stands at the top: `spec.validation`, `spec.subresources`, `spec.additionalPrinterColumns`.

use serde_json::{Value, json};

use super::approval::approval;
use super::conversion::{ca_bundle_is_valid, conversion};
use super::default_rules::defaults;
use super::schema_of;
use super::schema_rules::{self, Place, Strictness};
use super::structural::{any, unsupported, violations};
use super::versions::{SELECTABLE_MAX, printer_column, selectable, subresources};
use crate::custom::conditions::is_true;
use crate::custom::schema::Kind;
use crate::field::{Errors, Path};
use crate::kinds::peek::Peek;
use crate::names;

const SPEC: Path<'static> = Path::new("spec");

/// What an update may leave as it was.
#[derive(Clone, Copy)]
struct Options {
    recognized_review_versions: bool,
    schemas_required: bool,
    structural: bool,
    pruned_defaults: bool,
    bad_authority: bool,
    strict: Strictness,
}

pub fn create(object: &Value, errors: &mut Errors) {
    let name = object.text("metadata.name");
    let required = format!("{}.{}", object.text("spec.names.plural"), object.text("spec.group"));
    if name != required {
        errors.invalid(&Path::new("metadata.name"), name, r#"must be spec.names.plural+"."+spec.group"#);
    }
    let strict = Strictness { valid_types: true, atomic_sets: true, key_defaults: true };
    let options = Options {
        recognized_review_versions: true,
        schemas_required: true,
        structural: true,
        pruned_defaults: true,
        bad_authority: true,
        strict,
    };
    spec(object, None, options, errors);
    status(object, errors);
    stored_versions(object, errors);
    approval(object, None, errors);
    if object.flag("spec.preserveUnknownFields") {
        preserve(errors);
    }
}

pub fn update(object: &Value, old: &Value, errors: &mut Errors) {
    let every = |test: &dyn Fn(&Value) -> bool| {
        old.list("spec.versions").iter().filter_map(schema_of).any(|schema| any(Some(schema), test))
    };
    let strict = Strictness {
        valid_types: !every(&|s| {
            let kind = s.text("type");
            !kind.is_empty() && Kind::parse(kind).is_none()
        }),
        atomic_sets: !every(&|s| schema_rules::not_atomic(s).is_some()),
        key_defaults: !every(&|s| {
            let mut errors = Errors::new();
            schema_rules::keys(s, &SPEC, &mut errors);
            !errors.is_empty()
        }),
    };
    let reviews = old.list("spec.conversion.webhook.conversionReviewVersions");
    let bundle = old.text("spec.conversion.webhook.clientConfig.caBundle");
    let options = Options {
        recognized_review_versions: reviews.is_empty() || reviews.iter().any(|v| v == "v1" || v == "v1beta1"),
        schemas_required: old.list("spec.versions").iter().all(|version| schema_of(version).is_some()),
        structural: !old.list("spec.versions").iter().filter_map(schema_of).any(is_not_structural),
        pruned_defaults: !old.list("spec.versions").iter().filter_map(schema_of).any(has_unpruned_defaults),
        bad_authority: !is_true(old, "Established") || !bundle.is_empty() && !ca_bundle_is_valid(bundle),
        strict,
    };
    spec(object, Some(old), options, errors);
    let mut immutable = |path: &str| {
        if object.at(path) != old.at(path) {
            errors.invalid(&Path::new(path), object.at(path), "field is immutable");
        }
    };
    if is_true(old, "Established") {
        immutable("spec.scope");
        immutable("spec.names.kind");
    }
    immutable("spec.group");
    immutable("spec.names.plural");
    status(object, errors);
    stored_versions(object, errors);
    approval(object, Some(old), errors);
    if object.flag("spec.preserveUnknownFields") && !old.flag("spec.preserveUnknownFields") {
        preserve(errors);
    }
}

fn preserve(errors: &mut Errors) {
    let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
    errors.invalid(&SPEC.child("preserveUnknownFields"), true, why);
}

fn is_not_structural(schema: &Value) -> bool {
    unsupported(schema).is_some() || !violations(schema, &SPEC).is_empty()
}

fn has_unpruned_defaults(schema: &Value) -> bool {
    let mut errors = Errors::new();
    defaults(schema, true, false, &SPEC, true, &mut errors);
    errors.into_causes().iter().any(|cause| cause.message.ends_with("must not have unknown fields"))
}

pub fn status(object: &Value, errors: &mut Errors) {
    let status = Path::new("status");
    name_forms(object.at("status.acceptedNames"), &status.child("acceptedNames"), errors);
}

fn stored_versions(object: &Value, errors: &mut Errors) {
    let status = Path::new("status");
    let path = status.child("storedVersions");
    let stored = object.list("status.storedVersions");
    if stored.is_empty() {
        return errors.invalid(&path, json!([]), "must have at least one stored version");
    }
    let versions = object.list("spec.versions");
    for version in versions.iter().filter(|version| version.flag("storage")) {
        let name = version.text("name");
        if !stored.iter().any(|stored| stored == name) {
            errors.invalid(&path, stored, &format!("must have the storage version {name}"));
        }
    }
    for (index, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version.get("name") == Some(name)) {
            let name = name.as_str().unwrap_or_default();
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {name} and removes {name} from \
                 status.storedVersions"
            );
            errors.invalid(&path.index(index), name, &why);
        }
    }
}

/// What all versions have in common, if they do.
fn common<'a>(versions: &'a [Value], key: &str) -> Option<&'a Value> {
    let first = versions.first()?.get(key)?;
    versions.iter().all(|version| version.get(key) == Some(first)).then_some(first)
}

fn spec(object: &Value, old: Option<&Value>, mut options: Options, errors: &mut Errors) {
    let spec = object.at("spec");
    group(spec.text("group"), errors);
    scope(spec.text("scope"), errors);
    let preserve = spec.flag("preserveUnknownFields");
    let versions = spec.list("versions");
    let all = SPEC.child("versions");
    if options.schemas_required || !preserve {
        for (index, version) in versions.iter().enumerate().filter(|(_, version)| schema_of(version).is_none()) {
            let at = all.index(index);
            let at = at.child("schema.openAPIV3Schema");
            if options.schemas_required {
                errors.required(&at, "");
            } else if version.flag("served") {
                errors.required(&at, "because otherwise all fields are pruned");
            }
        }
    }
    let with =
        |test: &dyn Fn(&Value) -> bool| versions.iter().filter_map(schema_of).any(|schema| any(Some(schema), test));
    options.structural |= !preserve;
    if with(&|schema| schema.get("default").is_some()) {
        options.structural = true;
        if preserve {
            let why = "must be false in order to use defaults in the schema";
            errors.invalid(&SPEC.child("preserveUnknownFields"), true, why);
        }
    }
    options.structural |= with(&has_extensions);
    let too_many = |version: &Value| {
        old.is_some_and(|old| {
            old.list("spec.versions").iter().any(|before| {
                before.get("name") == version.get("name")
                    && before.count("selectableFields") > SELECTABLE_MAX
                    && before.get("selectableFields") == version.get("selectableFields")
            })
        })
    };
    for (index, version) in versions.iter().enumerate() {
        version_names(version, &all.index(index), errors);
    }
    per_version(versions, options, &too_many, errors);
    version_set(versions, &all, errors);
    let spec_names = spec.at("names");
    let at = SPEC.child("names");
    for key in ["plural", "singular", "kind", "listKind"] {
        if spec_names.text(key).is_empty() {
            errors.required(&at.child(key), "");
        }
    }
    name_forms(spec_names, &at, errors);
    conversion(spec, preserve, options.bad_authority, options.recognized_review_versions, errors);
}

fn group(group: &str, errors: &mut Errors) {
    let path = SPEC.child("group");
    let wrong = names::dns_subdomain(group);
    if group.is_empty() {
        errors.required(&path, "");
    } else if !wrong.is_empty() {
        errors.invalid(&path, group, &wrong.join(","));
    } else if !group.contains('.') {
        errors.invalid(&path, group, "should be a domain with at least one dot");
    }
}

fn scope(scope: &str, errors: &mut Errors) {
    match scope {
        "Cluster" | "Namespaced" => {}
        "" => errors.required(&SPEC.child("scope"), ""),
        other => errors.not_supported(&SPEC.child("scope"), other, &["Cluster", "Namespaced"]),
    }
}

fn has_extensions(schema: &Value) -> bool {
    ["x-kubernetes-embedded-resource", "x-kubernetes-int-or-string"].iter().any(|key| schema.flag(key))
        || schema.get("x-kubernetes-preserve-unknown-fields").is_some()
        || schema.get("x-kubernetes-list-type").is_some()
        || schema.count("x-kubernetes-list-map-keys") > 0
        || schema.count("x-kubernetes-validations") > 0
}

fn version_names(version: &Value, path: &Path<'_>, errors: &mut Errors) {
    let name = version.text("name");
    let wrong = names::dns_label_1035(name);
    if !wrong.is_empty() {
        errors.invalid(&path.child("name"), name, &wrong.join(","));
    }
    let Some(warning) = version.get("deprecationWarning").and_then(Value::as_str) else { return };
    let path = path.child("deprecationWarning");
    if !version.flag("deprecated") {
        return errors.invalid(&path, warning, "can only be set for deprecated versions");
    }
    if warning.len() > 256 {
        errors.invalid(&path, warning, "must be <= 256 characters long");
    }
    if warning.is_empty() {
        errors.invalid(&path, warning, "must not be an empty string");
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| c.is_control() || c.is_whitespace() && *c != ' ') {
        let why = format!("must only contain printable UTF-8 characters; non-printable character found at index {at}");
        errors.invalid(&path, warning, &why);
    }
}

/// Schemas, subresources, columns and selectable fields: each at the top where all versions agree.
fn per_version(versions: &[Value], options: Options, too_many: &dyn Fn(&Value) -> bool, errors: &mut Errors) {
    let all = SPEC.child("versions");
    let has_status = |version: &Value| version.at("subresources.status").is_object();
    let shared = |key: &str| common(versions, key).is_some();
    let mut schema_at = |version: &Value, path: &Path<'_>, status: bool| {
        if let Some(schema) = schema_of(version) {
            validation(schema, status, options, path, errors);
        }
    };
    match (shared("schema"), versions) {
        (true, [first, ..]) => schema_at(first, &SPEC.child("validation"), versions.iter().any(has_status)),
        _ => {
            for (index, version) in versions.iter().enumerate() {
                schema_at(version, &all.index(index).child("schema"), has_status(version));
            }
        }
    }
    let at_each = |key: &str, check: &mut dyn FnMut(&Value, &Path<'_>)| match (shared(key), versions) {
        (true, [first, ..]) => check(first, &SPEC.child(key)),
        _ => {
            for (index, version) in versions.iter().enumerate() {
                check(version, &all.index(index).child(key));
            }
        }
    };
    at_each("subresources", &mut |version, path| subresources(version.at("subresources"), path, errors));
    at_each("additionalPrinterColumns", &mut |version, path| {
        for (index, column) in version.list("additionalPrinterColumns").iter().enumerate() {
            printer_column(column, &path.index(index), errors);
        }
    });
    at_each("selectableFields", &mut |version, path| {
        if version.count("selectableFields") == 0 {
            return;
        }
        match schema_of(version) {
            Some(schema) => selectable(version.list("selectableFields"), schema, path, too_many(version), errors),
            None => errors.invalid(path, "", "may only be set when `version.schema.openAPIV3Schema` is not included"),
        }
    });
}

fn version_set(versions: &[Value], path: &Path<'_>, errors: &mut Errors) {
    let names: Vec<&str> = versions.iter().map(|version| version.text("name")).collect();
    let twice = names.iter().enumerate().any(|(index, name)| names[..index].contains(name));
    // The whole list would be told, schemas and all; the names say as much.
    if twice {
        errors.invalid(path, &names, "must contain unique version names");
    }
    if versions.iter().filter(|version| version.flag("storage")).count() != 1 {
        errors.invalid(path, &names, "must have exactly one version marked as storage version");
    }
}

fn name_forms(given: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut form = |key: &str, mixed: bool| {
        let name = given.text(key);
        let wrong = names::dns_label_1035(&if mixed { name.to_lowercase() } else { name.to_owned() });
        if !name.is_empty() && !wrong.is_empty() {
            let prefix = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errors.invalid(&path.child(key), name, &format!("{prefix}{}", wrong.join(",")));
        }
    };
    form("plural", false);
    form("singular", false);
    form("kind", true);
    form("listKind", true);
    let mut list = |key: &str| {
        for (index, name) in given.list(key).iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            let wrong = names::dns_label_1035(name);
            if !wrong.is_empty() {
                errors.invalid(&path.child(key).index(index), name, &wrong.join(","));
            }
        }
    };
    list("shortNames");
    list("categories");
    let kind = given.text("kind");
    if !kind.is_empty() && kind == given.text("listKind") {
        errors.invalid(&path.child("listKind"), kind, "kind and listKind may not be the same");
    }
}

/// `schema` of one version or of all.
fn validation(schema: &Value, has_status: bool, options: Options, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("openAPIV3Schema");
    let before = errors.len();
    if has_status {
        root_with_status(schema, path, errors);
    }
    if schema.flag("nullable") {
        errors.forbidden(&path.child("openAPIV3Schema.nullable"), "nullable cannot be true at the root");
    }
    let mut unreadable = None;
    if options.structural {
        match unsupported(schema) {
            Some(key) => unreadable = Some(format!("OpenAPIV3Schema '{key}' is not supported")),
            None => {
                let found = violations(schema, &at);
                if found.is_empty() {
                    defaults(schema, true, false, &at, options.pruned_defaults, errors);
                }
                found.into_iter().for_each(|cause| errors.push(cause));
            }
        }
    }
    let place = Place { is_root: true, no_defaults: None, in_meta: false };
    schema_rules::check(schema, &at, place, options.strict, errors);
    if let (Some(why), true) = (unreadable, errors.len() == before) {
        errors.invalid(&at, "", &why);
    }
}

/// With a status subresource the status is validated by itself, so nothing at the root may speak of it.
fn root_with_status(schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    const ALLOWED: [(&str, &str); 22] = [
        ("description", "Description"),
        ("type", "Type"),
        ("format", "Format"),
        ("title", "Title"),
        ("maximum", "Maximum"),
        ("exclusiveMaximum", "ExclusiveMaximum"),
        ("minimum", "Minimum"),
        ("exclusiveMinimum", "ExclusiveMinimum"),
        ("maxLength", "MaxLength"),
        ("minLength", "MinLength"),
        ("pattern", "Pattern"),
        ("maxItems", "MaxItems"),
        ("minItems", "MinItems"),
        ("uniqueItems", "UniqueItems"),
        ("multipleOf", "MultipleOf"),
        ("required", "Required"),
        ("items", "Items"),
        ("properties", "Properties"),
        ("externalDocs", "ExternalDocs"),
        ("example", "Example"),
        ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
        ("x-kubernetes-validations", "XValidations"),
    ];
    if !matches!(schema.text("type"), "" | "object") {
        let why =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        return errors.invalid(&path.child("openAPIV3Schema.type"), schema.text("type"), why);
    }
    let zero = |value: &Value| matches!(value, Value::Null | Value::Bool(false)) || value.as_str() == Some("");
    let mut keys = schema.as_object().into_iter().flatten().filter(|(_, value)| !zero(value));
    if keys.any(|(key, _)| !ALLOWED.iter().any(|(allowed, _)| allowed == key)) {
        let names: Vec<&str> = ALLOWED.iter().map(|(_, name)| *name).collect();
        let why = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            names.join(" ")
        );
        errors.invalid(&path.child("openAPIV3Schema"), schema, &why);
    }
}
