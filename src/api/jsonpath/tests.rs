use super::*;
use serde_json::json;

#[test]
fn expressions_of_the_documentation() {
    let list = json!({"kind": "List", "items": [
        {"kind": "None", "metadata": {"name": "127.0.0.1", "labels": {"kubernetes.io/hostname": "a"}}, "status": {"capacity": {"cpu": "4"}, "addresses": [{"type": "LegacyHostIP", "address": "127.0.0.1"}]}},
        {"kind": "None", "metadata": {"name": "127.0.0.2"}, "status": {"capacity": {"cpu": "8"}, "addresses": [{"type": "LegacyHostIP", "address": "127.0.0.2"}, {"type": "another", "address": "127.0.0.3"}]}}],
        "users": [{"name": "myself", "user": {}}, {"name": "e2e", "user": {"username": "admin", "password": "secret"}}], "n": 3, "ok": true});
    for (template, expect) in [
        ("kind is {.kind}", "kind is List"),
        ("{['kind']}", "List"),
        ("{..name}", "127.0.0.1 127.0.0.2 myself e2e"),
        ("{.items[*].metadata.name}", "127.0.0.1 127.0.0.2"),
        ("{.users[0].name}", "myself"),
        ("{.users[-1].name}", "e2e"),
        ("{.items[*]['metadata.name', 'kind']}", "None None"),
        ("{.users[?(@.name==\"e2e\")].user.password}", "secret"),
        ("{.users[?(@.user.username)].name}", "e2e"),
        (
            "{range .items[*]}[{.metadata.name}, {.status.capacity}] {end}",
            "[127.0.0.1, {\"cpu\":\"4\"}] [127.0.0.2, {\"cpu\":\"8\"}] ",
        ),
        ("{.items[0].metadata.labels.kubernetes\\.io/hostname}", "a"),
        ("{.items[0].metadata.labels['kubernetes.io/hostname']}", "a"),
        ("{range .items[*]}{.metadata.name}{\"\\n\"}{end}", "127.0.0.1\n127.0.0.2\n"),
        ("{.items[0:1].metadata.name}", "127.0.0.1"),
        ("{.items[:].metadata.name}", "127.0.0.1 127.0.0.2"),
        (".kind", "List"),
        ("{.n} {.ok} {.missing}", "3 true "),
        ("{.items[?(@.status.addresses[0].address!='127.0.0.1')].metadata.name}", "127.0.0.2"),
        ("{$.kind}", "List"),
        ("{.items[0,1].metadata.name}", "127.0.0.1 127.0.0.2"),
    ] {
        let path = JsonPath::parse(template).unwrap_or_else(|e| panic!("{template}: {e}"));
        assert_eq!(path.evaluate(&list).expect("evaluates"), expect, "{template}");
    }
    for template in ["{range .items[*]}", "{.a", "{end}", "{.a[}", "{\"x}"] {
        assert!(JsonPath::parse(template).is_err(), "{template}");
    }
    let error = JsonPath::parse("{.users[7]}").expect("parses").evaluate(&list).expect_err("too large");
    assert_eq!(error.to_string(), "array index out of bounds: index 7, length 2");
}
