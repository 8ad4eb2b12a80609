use super::*;
use serde_json::json;

fn texts(schema: &Value, value: &Value, old: Option<&Value>) -> Vec<String> {
    let causes = check(value, &Schema::parse(schema), old, "");
    causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
}

#[test]
fn sentences_are_upstreams() {
    let root = |spec: Value| json!({"type": "object", "properties": {"spec": spec}});
    let check = |spec: Value, value: Value, expect: &[&str]| {
        assert_eq!(texts(&root(spec.clone()), &json!({"spec": value}), None), expect, "{spec}");
    };
    let integer = json!({"type": "integer", "minimum": 1, "maximum": 10});
    check(integer.clone(), json!(5), &[]);
    check(
        integer.clone(),
        json!("x"),
        &[r#"spec: Invalid value: "string": spec in body must be of type integer: "string""#],
    );
    check(integer.clone(), json!(0), &["spec: Invalid value: 0: spec in body should be greater than or equal to 1"]);
    check(integer, json!(11), &["spec: Invalid value: 11: spec in body should be less than or equal to 10"]);
    check(
        json!({"type": "integer"}),
        json!(1.5),
        &[
            r#"spec: Invalid value: "number": spec in body must be of type integer: "number""#,
            r#"<nil>: Invalid value: "": Checked value must be of type integer (default format) in spec"#,
        ],
    );
    check(
        json!({"type": "string"}),
        json!(null),
        &[r#"spec: Invalid value: "null": spec in body must be of type string: "null""#],
    );
    check(json!({"type": "string", "nullable": true}), json!(null), &[]);
    check(
        json!({"type": "string", "pattern": "^a+$", "minLength": 2}),
        json!("b"),
        &[r#"spec: Invalid value: "b": spec in body should be at least 2 chars long"#],
    );
    check(
        json!({"type": "string", "pattern": "^a+$"}),
        json!("b"),
        &[r#"spec: Invalid value: "b": spec in body should match '^a+$'"#],
    );
    check(json!({"type": "string", "maxLength": 1}), json!("bb"), &["spec: Too long: may not be more than 1 byte"]);
    check(
        json!({"type": "string", "enum": ["b", "a"]}),
        json!("c"),
        &[r#"spec: Unsupported value: "c": supported values: "a", "b""#],
    );
    check(
        json!({"type": "string", "format": "date-time"}),
        json!("now"),
        &[r#"spec: Invalid value: "now": spec in body must be of type date-time: "now""#],
    );
    check(json!({"type": "string", "format": "no-such"}), json!("now"), &[]);
    check(
        json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}),
        json!({}),
        &["spec.a: Required value"],
    );
    check(
        json!({"type": "array", "maxItems": 1, "items": {"type": "string"}}),
        json!(["a", 1]),
        &[
            r#"spec[1]: Invalid value: "integer": spec[1] in body must be of type string: "integer""#,
            "spec: Too many: 2: must have at most 1 item",
        ],
    );
    check(
        json!({"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 2}),
        json!({"a": 1}),
        &[
            "spec: Invalid value: 1: spec in body should have at least 2 properties",
            r#"spec.a: Invalid value: "integer": spec.a in body must be of type string: "integer""#,
        ],
    );
    check(json!({"type": "number", "multipleOf": 0.1}), json!(0.3), &[]);
    check(
        json!({"type": "number", "multipleOf": 2}),
        json!(3),
        &["spec: Invalid value: 3: spec in body should be a multiple of 2"],
    );
    check(
        json!({"x-kubernetes-int-or-string": true}),
        json!(true),
        &[r#"spec: Invalid value: "boolean": spec in body must be of type integer,string: "boolean""#],
    );
    check(json!({"x-kubernetes-int-or-string": true}), json!("80%"), &[]);
    check(
        json!({"type": "integer", "format": "int32"}),
        json!(3_000_000_000_i64),
        &[r#"<nil>: Invalid value: "": Checked value must be of type integer with format int32 in spec"#],
    );
}

#[test]
fn alternatives_tell_of_the_best() {
    let one_of = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
    assert_eq!(texts(&one_of, &json!({"a": "1"}), None), Vec::<String>::new());
    assert_eq!(
        texts(&one_of, &json!({}), None),
        [
            r#"<nil>: Invalid value: "": "" must validate one and only one schema (oneOf). Found none valid"#,
            "a: Required value",
        ]
    );
    assert_eq!(
        texts(&one_of, &json!({"a": "1", "b": "2"}), None),
        [r#"<nil>: Invalid value: "": "" must validate one and only one schema (oneOf). Found 2 valid alternatives"#]
    );
    let not = json!({"type": "object", "not": {"required": ["a"]}});
    assert_eq!(
        texts(&not, &json!({"a": 1}), None),
        [r#"<nil>: Invalid value: "": "" must not validate the schema (not)"#]
    );
    let all = json!({"type": "object", "allOf": [{"required": ["a"]}, {"required": ["b"]}]});
    assert_eq!(
        texts(&all, &json!({"a": 1}), None),
        ["b: Required value", r#"<nil>: Invalid value: "": "" must validate all the schemas (allOf)"#]
    );
}

#[test]
fn what_was_there_before_is_forgiven() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "integer"}, "b": {"type": "integer"},
        "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items":
            {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}}}});
    let old = json!({"a": "x", "b": 1, "l": [{"k": "1", "v": "x"}]});
    let new = json!({"a": "x", "b": "y", "l": [{"k": "2", "v": "y"}, {"k": "1", "v": "x"}]});
    assert_eq!(
        texts(&schema, &new, Some(&old)),
        [
            r#"b: Invalid value: "string": b in body must be of type integer: "string""#,
            r#"l[0].v: Invalid value: "string": l[0].v in body must be of type integer: "string""#,
        ]
    );
}
