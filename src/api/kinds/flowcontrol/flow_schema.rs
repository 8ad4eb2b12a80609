//! FlowSchema.

use k8s_openapi::api::flowcontrol::v1 as flowcontrol;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{dns_subdomain, text};
use crate::kinds::facts::{self, AGE, Facts, NAME};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::Row;
use crate::names;
use crate::strategy::Subresource;

const PRECEDENCE: i32 = 1000;
const PRECEDENCE_MAX: i32 = 10_000;
const SUBJECTS: &[&str] = &["Group", "ServiceAccount", "User"];
const SPEC: Path<'static> = Path::new("spec");

pub(super) struct FlowSchemas;

impl Kind for FlowSchemas {
    type Typed = flowcontrol::FlowSchema;
    const FACTS: Facts = Facts {
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: &[
            NAME,
            facts::text("PriorityLevel", "The level of its requests."),
            facts::text("MatchingPrecedence", "Who of several that match has the word: the least."),
            facts::text("DistinguisherMethod", "What makes one flow of several."),
            AGE,
            facts::text("MissingPL", "Whether its level is missing."),
        ],
        generation: true,
        ..Facts::new("flowcontrol.apiserver.k8s.io", "v1", "flowschemas", "FlowSchema")
    };

    fn default(schema: &mut Value) {
        if let Some(spec) = spec_of(schema) {
            spec.fill("matchingPrecedence", PRECEDENCE);
        }
    }

    fn validate(schema: &flowcontrol::FlowSchema, errors: &mut Errors) {
        let empty = flowcontrol::FlowSchemaSpec::default();
        let spec = schema.spec.as_ref().unwrap_or(&empty);
        let precedence = spec.matching_precedence.unwrap_or(0);
        let path = SPEC.child("matchingPrecedence");
        if precedence <= 0 {
            errors.invalid(&path, precedence, "must be a positive value");
        }
        if precedence > PRECEDENCE_MAX {
            errors.invalid(&path, precedence, &format!("must not be greater than {PRECEDENCE_MAX}"));
        }
        if precedence == 1 && text(&schema.metadata.name) != "exempt" {
            errors.invalid(&path, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
        }
        if let Some(method) = &spec.distinguisher_method
            && !["ByNamespace", "ByUser"].contains(&method.type_.as_str())
        {
            errors.not_supported(&SPEC.child("distinguisherMethod"), method, &["ByNamespace", "ByUser"]);
        }
        let level = &spec.priority_level_configuration.name;
        let path = SPEC.child("priorityLevelConfiguration.name");
        if level.is_empty() {
            errors.required(&path, "must reference a priority level");
        } else {
            dns_subdomain(level, &path, errors);
        }
        for (i, rule) in spec.rules.iter().flatten().enumerate() {
            self::rule(rule, &SPEC.child("rules").index(i), errors);
        }
    }

    fn cells(schema: &Value, row: &mut Row) {
        let dangling = schema.list("status.conditions").iter().find(|c| c.text("type") == "Dangling");
        row.name(schema);
        row.push(schema.text("spec.priorityLevelConfiguration.name"));
        row.push(schema.int("spec.matchingPrecedence"));
        row.or(schema.text("spec.distinguisherMethod.type"), "<none>");
        row.age(schema);
        row.push(dangling.map_or("?", |c| c.text("status")));
    }
}

fn rule(rule: &flowcontrol::PolicyRulesWithSubjects, path: &Path<'_>, errors: &mut Errors) {
    if rule.subjects.is_empty() {
        errors.required(&path.child("subjects"), "subjects must contain at least one value");
    }
    for (i, subject) in rule.subjects.iter().enumerate() {
        self::subject(subject, &path.child("subjects").index(i), errors);
    }
    let resources = rule.resource_rules.as_deref().unwrap_or_default();
    let others = rule.non_resource_rules.as_deref().unwrap_or_default();
    if resources.is_empty() && others.is_empty() {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (i, rule) in resources.iter().enumerate() {
        let list = path.child("resourceRules");
        let path = list.index(i);
        for (field, values, needed) in [
            ("verbs", &rule.verbs, "verbs must contain at least one value"),
            ("apiGroups", &rule.api_groups, "resource rules must supply at least one api group"),
            ("resources", &rule.resources, "resource rules must supply at least one resource"),
        ] {
            star_is_alone(values, needed, &path.child(field), errors);
        }
        let namespaces = rule.namespaces.as_deref().unwrap_or_default();
        if namespaces.is_empty() && rule.cluster_scope != Some(true) {
            let message = "resource rules that are not cluster scoped must supply at least one namespace";
            errors.required(&path.child("namespaces"), message);
        }
        for (j, namespace) in namespaces.iter().enumerate().filter(|(_, n)| *n != "*") {
            errors.invalid_each(&path.child("namespaces").index(j), namespace, names::dns_label(namespace));
        }
    }
    for (i, rule) in others.iter().enumerate() {
        let list = path.child("nonResourceRules");
        let path = list.index(i);
        star_is_alone(&rule.verbs, "verbs must contain at least one value", &path.child("verbs"), errors);
        let needed = "nonResourceURLs must contain at least one value";
        star_is_alone(&rule.non_resource_urls, needed, &path.child("nonResourceURLs"), errors);
    }
}

fn star_is_alone(values: &[String], needed: &str, path: &Path<'_>, errors: &mut Errors) {
    if values.is_empty() {
        errors.required(path, needed);
    } else if values.len() > 1 && values.iter().any(|v| v == "*") {
        errors.invalid(path, values, "if '*' is present, must not specify other values");
    }
}

fn subject(subject: &flowcontrol::Subject, path: &Path<'_>, errors: &mut Errors) {
    let fields = [
        ("ServiceAccount", "serviceAccount", subject.service_account.is_some()),
        ("User", "user", subject.user.is_some()),
        ("Group", "group", subject.group.is_some()),
    ];
    let Some((kind, field, there)) = fields.iter().find(|(kind, ..)| *kind == subject.kind) else {
        return errors.not_supported(&path.child("kind"), &subject.kind, SUBJECTS);
    };
    if !there {
        errors.required(&path.child(field), &format!("{field} is required when subject kind is '{kind}'"));
    }
    for (_, other, _) in fields.iter().filter(|(_, other, there)| *there && other != field) {
        errors.forbidden(&path.child(other), &format!("{other} is forbidden when subject kind is not '{kind}'"));
    }
}
