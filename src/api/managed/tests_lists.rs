//! Lists of objects, sets and maps, with items that are there twice and keys that have defaults.

use serde_json::{Value, json};

use super::tests::{Apply, Force, Refuse, Update, check, nested};
use super::*;

#[test]
fn duplicates() {
    let numbers = |items: &[i64]| json!({ "numbers": items });
    check(
        "owned once",
        vec![Update("a", numbers(&[1, 1, 3]))],
        numbers(&[1, 1, 3]),
        &[("a", json!({"f:numbers": {".": {}, "v:1": {}, "v:3": {}}}))],
    );
    for (before, after) in [(&[1, 3][..], &[1, 1, 3][..]), (&[1, 1, 3], &[1, 3])] {
        check(
            "taken by who changes them",
            vec![Update("a", numbers(before)), Update("b", numbers(after))],
            numbers(after),
            &[("a", json!({"f:numbers": {".": {}, "v:3": {}}})), ("b", json!({"f:numbers": {"v:1": {}}}))],
        );
    }
    check(
        "merged into one",
        vec![
            Update("u", numbers(&[1, 1, 3, 4])),
            Refuse("a", numbers(&[1]), &[".numbers[=1]"]),
            Force("a", numbers(&[1])),
        ],
        numbers(&[1, 3, 4]),
        &[("u", json!({"f:numbers": {".": {}, "v:3": {}, "v:4": {}}})), ("a", json!({"f:numbers": {"v:1": {}}}))],
    );
    check(
        "left alone",
        vec![Update("u", numbers(&[1, 1, 3])), Apply("a", numbers(&[5]))],
        numbers(&[1, 1, 3, 5]),
        &[("u", json!({"f:numbers": {".": {}, "v:1": {}, "v:3": {}}})), ("a", json!({"f:numbers": {"v:5": {}}}))],
    );
    let twice = |value: i64| json!({"list": [{"name": "a", "value": 1}, {"name": "a", "value": value}, {"name": "b", "value": 3}]});
    let item = || json!({".": {}, "f:name": {}, "f:value": {}});
    check(
        "keyed items",
        vec![Update("a", twice(2)), Update("b", twice(9))],
        twice(9),
        &[
            ("a", json!({"f:list": {".": {}, r#"k:{"name":"b"}"#: item()}})),
            ("b", json!({"f:list": {r#"k:{"name":"a"}"#: {}}})),
        ],
    );
    let one = json!({"list": [{"name": "a", "value": 3}]});
    check(
        "keyed items merged into one",
        vec![Update("u", twice(2)), Refuse("a", one.clone(), &[".list[name=\"a\"]"]), Force("a", one)],
        json!({"list": [{"name": "a", "value": 3}, {"name": "b", "value": 3}]}),
        &[
            ("u", json!({"f:list": {".": {}, r#"k:{"name":"b"}"#: item()}})),
            ("a", json!({"f:list": {r#"k:{"name":"a"}"#: item()}})),
        ],
    );
}

#[test]
fn keyed_lists_and_maps() {
    let lists = |items: &[(&str, &[&str])]| {
        let items: Vec<Value> = items
            .iter()
            .map(|(name, values)| match values {
                [] => json!({"name": name}),
                values => json!({"name": name, "value": values}),
            })
            .collect();
        json!({ "listOfLists": items })
    };
    check(
        "an item of two, without the parts of one",
        vec![
            Apply("one", lists(&[("a", &[]), ("b", &["c"])])),
            Apply("two/v2", lists(&[("b", &["d"])])),
            Update("c/v2", lists(&[("a", &[]), ("b", &["c", "d", "e"])])),
            Apply("one/v3", lists(&[("a", &[])])),
        ],
        lists(&[("a", &[]), ("b", &["d", "e"])]),
        &[
            ("one/v3", json!({"f:listOfLists": {r#"k:{"name":"a"}"#: {".": {}, "f:name": {}}}})),
            (
                "two/v2",
                json!({"f:listOfLists": {r#"k:{"name":"b"}"#: {".": {}, "f:name": {}, "f:value": {r#"v:"d""#: {}}}}}),
            ),
            ("c/v2", json!({"f:listOfLists": {r#"k:{"name":"b"}"#: {"f:value": {r#"v:"e""#: {}}}}})),
        ],
    );
    check(
        "an item goes with what others left in it",
        vec![Apply("one", lists(&[("a", &[]), ("b", &["c"])])), Apply("one", lists(&[("a", &[])]))],
        lists(&[("a", &[])]),
        &[("one", json!({"f:listOfLists": {r#"k:{"name":"a"}"#: {".": {}, "f:name": {}}}}))],
    );
    let maps = |key: &str, inner: &str| json!({"mapOfMaps": {key: {inner: "x"}}});
    check(
        "a key changes",
        vec![Apply("a", maps("k", "i")), Apply("a", maps("k", "j"))],
        maps("k", "j"),
        &[("a", json!({"f:mapOfMaps": {"f:k": {".": {}, "f:j": {}}}}))],
    );
    check(
        "an outer key changes",
        vec![Apply("a", maps("k", "i")), Apply("a", maps("l", "i"))],
        maps("l", "i"),
        &[("a", json!({"f:mapOfMaps": {"f:l": {".": {}, "f:i": {}}}}))],
    );
    let inner = json!({"name": "a", "value": 1});
    check("a struct goes", vec![Apply("a", json!({"struct": inner})), Apply("a", json!({}))], json!({}), &[]);
    check(
        "what a controller put into it stays",
        vec![
            Apply("a", json!({"struct": {"name": "a"}})),
            Update("c", json!({"struct": inner})),
            Apply("a", json!({})),
        ],
        json!({"struct": {"value": 1}}),
        &[("c", json!({"f:struct": {"f:value": {}}}))],
    );
    for empty in [json!({}), Value::Null] {
        check(
            "an empty struct is what is left of it",
            vec![Apply("a", json!({"struct": {"name": "a"}})), Apply("a", json!({"struct": empty}))],
            json!({ "struct": empty }),
            &[("a", json!({"f:struct": {}}))],
        );
    }
    check(
        "a struct that another one took over",
        vec![
            Apply("a", json!({"struct": {"name": "a"}})),
            Update("c", json!({"struct": {"name": "b", "value": 1}})),
            Apply("a", json!({"struct": null})),
        ],
        json!({"struct": {"name": "b", "value": 1}}),
        &[("a", json!({"f:struct": {}})), ("c", json!({"f:struct": {"f:name": {}, "f:value": {}}}))],
    );
}

#[test]
fn keys_with_defaults() {
    let key = |port: i64, protocol: &str| format!("k:{{\"port\":{port},\"protocol\":\"{protocol}\"}}");
    let ports = |items: Value| json!({ "ports": items });
    check(
        "a default is part of the key",
        vec![Apply("a", ports(json!([{"port": 80}])))],
        ports(json!([{"port": 80}])),
        &[("a", json!({"f:ports": {key(80, "TCP"): {".": {}, "f:port": {}}}}))],
    );
    let both = ports(json!([{"port": 80}, {"port": 80, "protocol": "UDP"}]));
    check(
        "two of a port",
        vec![Apply("a", both.clone())],
        both,
        &[(
            "a",
            json!({"f:ports": {key(80, "TCP"): {".": {}, "f:port": {}}, key(80, "UDP"): {".": {}, "f:port": {}, "f:protocol": {}}}}),
        )],
    );
    check(
        "the same item, with and without it",
        vec![
            Apply("one", ports(json!([{"port": 80, "protocol": "TCP", "name": "foo"}]))),
            Refuse("two", ports(json!([{"port": 80, "name": "bar"}])), &[r#".ports[port=80,protocol="TCP"].name"#]),
        ],
        ports(json!([{"port": 80, "protocol": "TCP", "name": "foo"}])),
        &[("one", json!({"f:ports": {key(80, "TCP"): {".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}}}}))],
    );
    let ty = nested("v1");
    let ty = Typed::root(Some(&ty));
    for (object, expect) in [
        (ports(json!([{"port": 80}, {"port": 80}])), r#".ports: duplicate entries for key [port=80,protocol="TCP"]"#),
        (ports(json!([{"port": 1}, {"port": 1, "protocol": "TCP"}])), "duplicate entries for key"),
        (
            json!({"list": [{"value": 1}]}),
            ".list: element 0: associative list with keys has an element that omits all key",
        ),
        (json!({"list": [null]}), "associative list with keys may not have a null element"),
        (json!({"set": [["a"]]}), ".set: element 0: not supported: associative list with lists as elements"),
        (json!({"struct": {"nosuch": 1}}), ".struct.nosuch: field not declared in schema"),
        (json!({"number": "x"}), ".number: expected numeric (int or float), got string"),
        (json!({"text": 8080}), ".text: expected string, got &value.valueUnstructured{Value:8080}"),
        (json!({"set": "x"}), ".set: expected list, got &{x}"),
        (json!({"map": ["x", 1]}), ".map: expected map, got &{[x 1]}"),
    ] {
        let error = super::check::check(&object, ty).expect_err(expect);
        assert!(error.contains(expect), "{error}");
    }
    assert_eq!(super::check::check(&json!({"anything": {"x": [1, {"y": null}]}, "struct": null}), ty), Ok(()));
}
