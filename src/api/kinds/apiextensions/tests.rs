use serde_json::{Value, json};

use super::validate;
use crate::field::Errors;

fn crd(change: impl FnOnce(&mut Value)) -> Value {
    let mut crd = json!({
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "listKind": "CronTabList"},
            "conversion": {"strategy": "None"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}}}]},
        "status": {"acceptedNames": {"plural": "", "kind": ""}, "storedVersions": ["v1"], "conditions": []},
    });
    change(&mut crd);
    crd
}

fn texts(errors: Errors) -> Vec<String> {
    errors.into_causes().iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
}

fn check(change: impl FnOnce(&mut Value), expect: &[&str]) {
    let mut errors = Errors::new();
    validate::create(&crd(change), &mut errors);
    assert_eq!(texts(errors), expect);
}

fn check_schema(change: impl FnOnce(&mut Value), expect: &[&str]) {
    check(|crd| change(&mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]), expect);
}

const SPEC: &str = "spec.validation.openAPIV3Schema.properties[spec]";

#[test]
fn definitions() {
    check(|_| {}, &[]);
    check(
        |crd| crd["metadata"]["name"] = json!("x.stable.example.com"),
        &[r#"metadata.name: Invalid value: "x.stable.example.com": must be spec.names.plural+"."+spec.group"#],
    );
    check(
        |crd| {
            crd["spec"]["group"] = json!("stable");
            crd["metadata"]["name"] = json!("crontabs.stable");
        },
        &[r#"spec.group: Invalid value: "stable": should be a domain with at least one dot"#],
    );
    check(
        |crd| crd["spec"]["scope"] = json!("Both"),
        &[r#"spec.scope: Unsupported value: "Both": supported values: "Cluster", "Namespaced""#],
    );
    check(
        |crd| crd["spec"]["versions"][0]["storage"] = json!(false),
        &[r#"spec.versions: Invalid value: ["v1"]: must have exactly one version marked as storage version"#],
    );
    check(
        |crd| drop(crd["spec"]["versions"][0].as_object_mut().expect("a map").remove("schema")),
        &["spec.versions[0].schema.openAPIV3Schema: Required value"],
    );
    check(
        |crd| crd["spec"]["names"]["listKind"] = json!("CronTab"),
        &[r#"spec.names.listKind: Invalid value: "CronTab": kind and listKind may not be the same"#],
    );
    check(
        |crd| crd["spec"]["preserveUnknownFields"] = json!(true),
        &[
            "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to \
           true in spec.versions[*].schema instead",
        ],
    );
    check(
        |crd| crd["status"]["storedVersions"] = json!(["v1", "v0"]),
        &[
            r#"status.storedVersions[1]: Invalid value: "v0": missing from spec.versions; v0 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v0 and removes v0 from status.storedVersions"#,
        ],
    );
    check(
        |crd| {
            crd["spec"]["group"] = json!("x.k8s.io");
            crd["metadata"]["name"] = json!("crontabs.x.k8s.io");
        },
        &[
            r#"metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation "api-approved.kubernetes.io", see https://github.com/kubernetes/enhancements/pull/1111"#,
        ],
    );
}

#[test]
fn versions_subresources_and_columns() {
    let version = |crd: &mut Value, key: &str, value: Value| crd["spec"]["versions"][0][key] = value;
    check(
        |crd| {
            version(crd, "subresources", json!({"scale": {"specReplicasPath": ".status.x", "statusReplicasPath": "y"}}))
        },
        &[
            r#"spec.subresources.scale.specReplicasPath: Invalid value: ".status.x": should be a json path under .spec"#,
            r#"spec.subresources.scale.statusReplicasPath: Invalid value: "y": must be a simple json path starting with ."#,
        ],
    );
    check(
        |crd| {
            version(
                crd,
                "additionalPrinterColumns",
                json!([{"name": "A", "type": "x", "jsonPath": "spec"}, {"type": "date"}]),
            )
        },
        &[
            r#"spec.additionalPrinterColumns[0].type: Invalid value: "x": must be one of boolean,date,integer,number,string"#,
            r#"spec.additionalPrinterColumns[0].JSONPath: Invalid value: "spec": must be a simple json path starting with ."#,
            "spec.additionalPrinterColumns[1].name: Required value",
            "spec.additionalPrinterColumns[1].JSONPath: Required value",
        ],
    );
    check(
        |crd| {
            version(
                crd,
                "selectableFields",
                json!([{"jsonPath": ".spec.replicas"}, {"jsonPath": ".spec"}, {"jsonPath": ".x"}]),
            )
        },
        &[
            r#"spec.selectableFields[1].jsonPath: Invalid value: ".spec": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."#,
            r#"spec.selectableFields[2].jsonPath: Invalid value: ".x": is an invalid path: does not refer to a valid field (x)"#,
        ],
    );
    check(
        |crd| version(crd, "deprecationWarning", json!("old")),
        &[r#"spec.versions[0].deprecationWarning: Invalid value: "old": can only be set for deprecated versions"#],
    );
    let webhook = |config: Value| json!({"strategy": "Webhook", "webhook": {"clientConfig": config, "conversionReviewVersions": ["v1"]}});
    check(|crd| crd["spec"]["conversion"] = webhook(json!({"url": "https://a.b/c"})), &[]);
    check(
        |crd| crd["spec"]["conversion"] = webhook(json!({"url": "http://a.b/c?d"})),
        &[
            r#"spec.conversion.webhookClientConfig.url: Invalid value: "http": 'https' is the only allowed URL scheme; desired format: https://host[/path]"#,
            r#"spec.conversion.webhookClientConfig.url: Invalid value: "d": query parameters are not permitted in the URL"#,
        ],
    );
    check(
        |crd| {
            crd["spec"]["conversion"] =
                webhook(json!({"service": {"name": "", "namespace": "n", "port": 0, "path": "/a//b"}}))
        },
        &[
            "spec.conversion.webhookClientConfig.service.name: Required value: service name is required",
            "spec.conversion.webhookClientConfig.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
            r#"spec.conversion.webhookClientConfig.service.path: Invalid value: "/a//b": segment[1] may not be empty"#,
        ],
    );
    check(
        |crd| crd["spec"]["conversion"] = json!({"strategy": "Webhook"}),
        &[
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
            "spec.conversion.conversionReviewVersions: Required value",
        ],
    );
}

#[test]
fn structural_schemas() {
    check_schema(
        |schema| schema["properties"]["spec"] = json!({"properties": {"a": {"type": "array"}}}),
        &[
            &format!("{SPEC}.properties[a].items: Required value: must be specified"),
            &format!("{SPEC}.type: Required value: must not be empty for specified object fields"),
        ],
    );
    check_schema(
        |schema| {
            schema["oneOf"] = json!([{"type": "object", "required": ["a"]}, {"properties": {"b": {"minimum": 1}}}])
        },
        &[
            "spec.validation.openAPIV3Schema.oneOf[0].type: Forbidden: must be empty to be structural",
            "spec.validation.openAPIV3Schema.properties[b]: Required value: because it is defined in spec.validation.openAPIV3Schema.oneOf[1].properties[b]",
        ],
    );
    check_schema(
        |schema| {
            schema["properties"]["metadata"] = json!({"type": "object", "properties": {"labels": {"type": "object"}}})
        },
        &[
            "spec.validation.openAPIV3Schema.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
        ],
    );
    check_schema(
        |schema| schema["properties"]["spec"] = json!({"type": "string", "pattern": "("}),
        &[&format!(
            "{SPEC}.pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: unclosed group: `(`"
        )],
    );
    for spec in [
        json!({"x-kubernetes-int-or-string": true}),
        json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
        json!({"x-kubernetes-int-or-string": true, "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"pattern": "a"}]}),
        json!({"x-kubernetes-preserve-unknown-fields": true}),
        json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
    ] {
        check_schema(|schema| schema["properties"]["spec"] = spec, &[]);
    }
    check_schema(
        |schema| {
            schema["properties"]["spec"] =
                json!({"type": "object", "$ref": "#/x", "properties": {"a": {"type": "string"}}})
        },
        &[&format!("{SPEC}.$ref: Forbidden: $ref is not supported")],
    );
    check_schema(
        |schema| schema["properties"]["spec"] = json!({"type": "object", "additionalProperties": {"type": "string"}, "properties": {"a": {"type": "string"}}}),
        &[&format!("{SPEC}.additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive")],
    );
}

#[test]
fn lists_and_defaults() {
    let list = |more: Value| {
        let mut list = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "object"}}}});
        list.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        list
    };
    check_schema(|schema| schema["properties"]["spec"] = list(json!({})), &[]);
    check_schema(
        |schema| schema["properties"]["spec"] = list(json!({"x-kubernetes-list-map-keys": ["v", "w"]})),
        &[
            &format!(
                "{SPEC}.items.properties[v].type: Invalid value: \"object\": must be a scalar type if parent array's x-kubernetes-list-type is map"
            ),
            &format!(
                "{SPEC}.x-kubernetes-list-map-keys: Invalid value: [\"v\",\"w\"]: entries must all be names of item properties"
            ),
            &format!(
                "{SPEC}.items.properties[v].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
            ),
        ],
    );
    check_schema(
        |schema| {
            schema["properties"]["spec"] =
                json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}})
        },
        &[&format!(
            "{SPEC}.properties[a].default: Invalid value: \"string\":  in body must be of type integer: \"string\""
        )],
    );
    check_schema(
        |schema| {
            schema["properties"]["spec"] =
                json!({"type": "object", "default": {"b": 1}, "properties": {"a": {"type": "integer"}}})
        },
        &[&format!("{SPEC}.default: Invalid value: {{\"b\":1}}: must not have unknown fields")],
    );
    check_schema(
        |schema| schema["properties"]["kind"] = json!({"type": "string", "default": "x"}),
        &["spec.validation.openAPIV3Schema.properties[kind].default: Forbidden: must not be set in top-level kind"],
    );
}

#[test]
fn updates() {
    let established =
        |crd: &mut Value| crd["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
    let old = crd(established);
    let mut new = old.clone();
    new["spec"]["scope"] = json!("Cluster");
    new["spec"]["names"]["plural"] = json!("tabs");
    let mut errors = Errors::new();
    validate::update(&new, &old, &mut errors);
    assert_eq!(
        texts(errors),
        [
            r#"spec.scope: Invalid value: "Cluster": field is immutable"#,
            r#"spec.names.plural: Invalid value: "tabs": field is immutable"#,
        ]
    );
    // What was accepted once is borne.
    let loose = |crd: &mut Value| {
        established(crd);
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}});
    };
    let old = crd(loose);
    let mut errors = Errors::new();
    validate::update(&old, &old, &mut errors);
    assert_eq!(texts(errors), Vec::<String>::new());
}

#[test]
fn warnings() {
    let with_rules = crd(|crd| {
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = json!({"type": "object",
            "x-kubernetes-validations": [{"rule": "true"}], "properties": {"a": {"type": "string", "format": "odd"},
                "b": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object", "x-kubernetes-map-type": "atomic"}}}});
    });
    assert_eq!(
        super::warnings::of(&with_rules, None),
        [
            r#"unrecognized format "odd""#,
            r#"x-kubernetes-list-type: set for items of type "object" is not supported by server-side apply or CEL validation rules"#,
            "spec.versions[v1]: x-kubernetes-validations are stored and published, but not enforced by this server",
        ]
    );
    assert_eq!(super::warnings::of(&with_rules, Some(&with_rules)), Vec::<String>::new());
}
