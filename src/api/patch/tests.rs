use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::resource::Gvk;
use crate::schema;

fn deployment() -> Type {
    schema::lookup(&Gvk::new("apps", "v1", "Deployment")).expect("a built-in kind")
}

/// A Deployment around a pod spec.
fn around(pod: Value) -> Value {
    json!({ "spec": { "template": { "spec": pod } } })
}

fn merge(original: Value, patch: Value) -> Result<Value, String> {
    let merged = strategic_merge(&around(original), &around(patch), &deployment()).map_err(|e| e.message)?;
    Ok(merged["spec"]["template"]["spec"].clone())
}

#[test]
fn strategic_merge_follows_the_documentation() {
    for (what, original, patch, expect) in [
        (
            "items merge by name; new ones come first, as upstream does",
            json!({"containers": [{"name": "a", "image": "1", "args": ["x", "y"]}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "image": "2", "args": ["z"]}, {"name": "c"}]}),
            json!({"containers": [{"name": "a", "image": "2", "args": ["z"]}, {"name": "c"}, {"name": "b"}]}),
        ),
        (
            "a null deletes",
            json!({"hostname": "h", "containers": [{"name": "a", "image": "1"}]}),
            json!({"hostname": null, "subdomain": null, "containers": [{"name": "a", "image": null}]}),
            json!({"containers": [{"name": "a"}]}),
        ),
        (
            "$patch: delete in a list",
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b"}]}),
        ),
        (
            "$patch: replace in a list",
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}),
            json!({"containers": [{"name": "c"}]}),
        ),
        (
            "$patch: replace of a map",
            json!({"securityContext": {"runAsUser": 1, "fsGroup": 2}}),
            json!({"securityContext": {"$patch": "replace", "runAsUser": 3}}),
            json!({"securityContext": {"runAsUser": 3}}),
        ),
        (
            "lists without a strategy are replaced",
            json!({"tolerations": [{"key": "a"}, {"key": "b"}]}),
            json!({"tolerations": [{"key": "c"}]}),
            json!({"tolerations": [{"key": "c"}]}),
        ),
        (
            "ports merge by containerPort",
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80}, {"containerPort": 81}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "web"}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "web"}, {"containerPort": 81}]}]}),
        ),
        (
            "$retainKeys drops the other source of a volume",
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
        ),
        (
            "$setElementOrder with a change; an item of the server's own stays before what it was before",
            json!({"containers": [{"name": "a"}, {"name": "own"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "x"}]}),
            json!({"containers": [{"name": "own"}, {"name": "b", "image": "x"}, {"name": "a"}]}),
        ),
        (
            "$setElementOrder alone",
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
            json!({"containers": [{"name": "b"}, {"name": "a"}]}),
        ),
        (
            "directives that meet nothing vanish",
            json!({}),
            json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "b", "ports": null}], "nodeSelector": {"$patch": "delete"}}),
            json!({"containers": [{"name": "b"}]}),
        ),
    ] {
        assert_eq!(merge(original, patch), Ok(expect), "{what}");
    }
}

#[test]
fn values_in_lists_merge_as_a_set() {
    let original = json!({"metadata": {"finalizers": ["a", "b", "c"]}});
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "finalizers": ["d"],
        "$setElementOrder/finalizers": ["d", "a"]}});
    let merged = strategic_merge(&original, &patch, &deployment()).expect("merges");
    assert_eq!(merged, json!({"metadata": {"finalizers": ["d", "a", "c"]}}));
}

#[test]
fn wrong_patches_say_what_is_wrong() {
    for (patch, expect) in [
        (json!({"containers": [{"image": "x"}]}), "does not contain declared merge key: name"),
        (
            json!({"containers": [{"name": "a", "$patch": "merge"}]}),
            "merging lists cannot yet be specified in the patch",
        ),
        (json!({"securityContext": {"$patch": "x"}}), "unknown patch type \"x\""),
        (
            json!({"volumes": [{"name": "v", "$retainKeys": ["name"], "emptyDir": {}}]}),
            "invalid patch format of retainKeys",
        ),
    ] {
        let original = json!({"containers": [{"name": "a"}], "securityContext": {}, "volumes": [{"name": "v"}]});
        let error = merge(original, patch).expect_err("refused");
        assert!(error.contains(expect), "{error}");
    }
    let error = json_patch(&json!({}), &json!([{"op": "remove", "path": "/a"}])).expect_err("refused");
    assert_eq!((error.code, error.reason.as_str()), (422, "Invalid"));
    assert_eq!(json_patch(&json!({}), &json!({"a": 1})).expect_err("refused").code, 400);
    let added = json_patch(&json!({"a": [1]}), &json!([{"op": "add", "path": "/a/-", "value": 2}]));
    assert_eq!(added, Ok(json!({"a": [1, 2]})));
    assert_eq!(merge_patch(json!({"a": {"b": 1, "c": 2}}), &json!({"a": {"b": null}})), json!({"a": {"c": 2}}));
}

#[test]
fn apply_keeps_what_others_set_and_deletes_what_was_dropped() {
    let original = around(
        json!({"hostname": "h", "containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]}),
    );
    let modified = around(json!({"containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}]}));
    let current = around(json!({"hostname": "h", "dnsPolicy": "ClusterFirst", "containers": [
        {"name": "a", "image": "1", "imagePullPolicy": "Always", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}, {"name": "injected"}]}));
    let patch = three_way(Some(&original), &modified, &current, Some(&deployment())).expect("a patch");
    assert_eq!(
        patch,
        around(json!({"hostname": null, "$setElementOrder/containers": [{"name": "a"}], "containers": [
            {"name": "a", "image": "2", "$setElementOrder/env": [{"name": "Y"}], "env": [{"name": "Y", "value": "2"}, {"name": "X", "$patch": "delete"}]},
            {"name": "b", "$patch": "delete"}]}))
    );
    let merged = strategic_merge(&current, &patch, &deployment()).expect("merges");
    assert_eq!(
        merged,
        around(json!({"dnsPolicy": "ClusterFirst", "containers": [
            {"name": "a", "image": "2", "imagePullPolicy": "Always", "env": [{"name": "Y", "value": "2"}]}, {"name": "injected"}]}))
    );
}

#[test]
fn apply_without_a_schema_is_a_merge_patch() {
    let original = json!({"spec": {"a": 1, "gone": 1, "list": [1]}});
    let modified = json!({"spec": {"a": 2, "list": [1, 2]}});
    let current = json!({"spec": {"a": 1, "gone": 1, "other": 1, "list": [1]}});
    let patch = three_way(Some(&original), &modified, &current, None).expect("a patch");
    assert_eq!(patch, json!({"spec": {"a": 2, "gone": null, "list": [1, 2]}}));
    let merged = merge_patch(current, &patch);
    assert_eq!(merged, json!({"spec": {"a": 2, "other": 1, "list": [1, 2]}}));
    assert_eq!(three_way(Some(&modified), &modified, &merged, None), Ok(json!({})));
}

fn pod_spec() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[A-C]", "[a-b]{0,1}", 0..3)
        .prop_map(|map| map.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>());
    let container =
        (env, prop::option::of("[x-z]"), prop::collection::vec("[a-c]", 0..2)).prop_map(|(env, image, args)| {
            let mut container = json!({"env": env, "args": args});
            if let Some(image) = image {
                container["image"] = image.into();
            }
            container
        });
    let containers = prop::collection::hash_map("[a-d]", container, 0..4).prop_map(|map| {
        map.into_iter()
            .map(|(name, mut c)| {
                c["name"] = name.into();
                c
            })
            .collect::<Vec<_>>()
    });
    (containers, prop::collection::btree_map("[a-c]", "[a-c]", 0..3), any::<bool>(), prop::option::of(0..2u8)).prop_map(
        |(containers, selector, network, volume)| {
            let mut spec = json!({"containers": containers, "nodeSelector": selector});
            if network {
                spec["hostNetwork"] = true.into();
            }
            match volume {
                Some(0) => spec["volumes"] = json!([{"name": "v", "emptyDir": {}}]),
                Some(_) => spec["volumes"] = json!([{"name": "v", "hostPath": {"path": "/"}}]),
                None => {}
            }
            around(spec)
        },
    )
}

/// Whether everything in `part` is in `whole`, and items of merged lists in the order of `part`.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, value)| whole.get(name).is_some_and(|found| contains(found, value)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            let mut rest = whole.iter();
            part.iter().all(|wanted| rest.any(|found| contains(found, wanted)))
        }
        _ => whole == part,
    }
}

proptest! {
    #[test]
    fn applying_gets_there_and_a_second_time_is_nothing(first in pod_spec(), second in pod_spec()) {
        let ty = deployment();
        let patch = three_way(Some(&first), &second, &first, Some(&ty)).expect("a patch");
        let reached = strategic_merge(&first, &patch, &ty).expect("merges");
        prop_assert!(contains(&reached, &second), "{reached} lacks parts of {second}");
        prop_assert!(contains(&second, &reached), "{reached} has more than {second}");
        prop_assert_eq!(three_way(Some(&second), &second, &reached, Some(&ty)).expect("a patch"), json!({}));
        prop_assert_eq!(strategic_merge(&reached, &patch, &ty).expect("merges"), reached);
    }

    #[test]
    fn what_others_own_survives(mine in pod_spec(), live in pod_spec()) {
        let ty = deployment();
        let patch = three_way(None, &mine, &live, Some(&ty)).expect("a patch");
        let reached = strategic_merge(&live, &patch, &ty).expect("merges");
        prop_assert!(contains(&reached, &mine), "{reached} lacks parts of {mine}");
        for container in live["spec"]["template"]["spec"]["containers"].as_array().expect("a list") {
            let found = reached["spec"]["template"]["spec"]["containers"].as_array().expect("a list").iter().any(|c| c["name"] == container["name"]);
            prop_assert!(found);
        }
    }

    #[test]
    fn no_patch_panics(original in pod_spec(), patch in pod_spec(), key in "\\$?[a-z/]{0,12}", directive in "[a-z]{0,7}") {
        let mut patch = patch;
        patch["spec"]["template"]["spec"][key] = json!([directive]);
        patch["spec"]["template"]["$patch"] = directive.into();
        drop(strategic_merge(&original, &patch, &deployment()));
        drop(three_way(Some(&original), &patch, &original, Some(&deployment())));
    }
}

#[test]
fn a_json_patch_reads_like_upstreams() {
    let document = json!({"metadata": {}, "list": ["a", "b"], "none": null});
    let check = |operation: Value, expect: Option<Value>| {
        let patched = json_patch(&document, &json!([operation])).ok().map(|patched| patched["list"].clone());
        assert_eq!(patched, expect, "{operation}");
    };
    let same = || Some(json!(["a", "b"]));
    // What is absent is null; what it would be in has to be there.
    check(json!({"op": "test", "path": "/metadata/finalizers", "value": null}), same());
    check(json!({"op": "test", "path": "/none", "value": null}), same());
    check(json!({"op": "test", "path": "/metadata/a/b", "value": null}), None);
    check(json!({"op": "test", "path": "/list/2", "value": null}), None);
    check(json!({"op": "test", "path": "/metadata/finalizers", "value": []}), None);
    // From the end of a list.
    check(json!({"op": "test", "path": "/list/-1", "value": "b"}), same());
    check(json!({"op": "remove", "path": "/list/-1"}), Some(json!(["a"])));
    check(json!({"op": "remove", "path": "/list/-3"}), None);
    check(json!({"op": "replace", "path": "/list/-2", "value": "c"}), Some(json!(["c", "b"])));
    check(json!({"op": "add", "path": "/list/-1", "value": "c"}), Some(json!(["a", "b", "c"])));
    check(json!({"op": "add", "path": "/list/-3", "value": "c"}), Some(json!(["c", "a", "b"])));
    check(json!({"op": "add", "path": "/list/-4", "value": "c"}), None);
    check(json!({"op": "copy", "from": "/list/-1", "path": "/list/0"}), Some(json!(["b", "a", "b"])));
    check(json!({"op": "move", "from": "/list/-1", "path": "/list/0"}), Some(json!(["b", "a"])));
    check(json!({"op": "add", "path": "/list/-", "value": "c"}), Some(json!(["a", "b", "c"])));
}

#[test]
fn a_json_patch_cannot_fill_the_memory() {
    let copy = json!({"op": "copy", "from": "/a", "path": "/a/-"});
    let doubling = Value::Array(vec![copy; 40]);
    let original = json!({"a": ["x".repeat(1000)]});
    assert_eq!(json_patch(&original, &doubling).expect_err("too large").code, 422);
    let long = Value::Array(vec![json!({"op": "test", "path": "/a/0", "value": "x"}); 10_001]);
    let error = json_patch(&original, &long).expect_err("too many");
    assert_eq!(error.code, 413);
    assert_eq!(
        error.message,
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"
    );
    let few = json!([{"op": "copy", "from": "/a", "path": "/c"}, {"op": "remove", "path": "/a"}]);
    assert_eq!(json_patch(&original, &few).expect("small"), json!({"c": original["a"]}));
}

#[test]
fn a_selector_with_the_strategy_replace_is_one_value() {
    let ty = schema::lookup(&Gvk::new("policy", "v1", "PodDisruptionBudget")).expect("a built-in kind");
    let budget = |labels: Value| json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": labels}}});
    let merged =
        strategic_merge(&budget(json!({"a": "1"})), &json!({"spec": {"selector": {"matchLabels": {"b": "2"}}}}), &ty);
    assert_eq!(merged.expect("merges"), budget(json!({"b": "2"})));
    let (was, wanted) = (budget(json!({"a": "1"})), budget(json!({"a": "1", "b": "2"})));
    let patch = three_way(Some(&was), &wanted, &was, Some(&ty)).expect("a patch");
    assert_eq!(patch, json!({"spec": {"selector": {"matchLabels": {"a": "1", "b": "2"}}}}));
}
