use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::schema;

fn deployment() -> (Gvk, Type) {
    let gvk = Gvk::new("apps", "v1", "Deployment");
    let ty = schema::lookup(&gvk).expect("a built-in kind");
    (gvk, ty)
}

fn json_of(text: &str) -> Result<Decoded, ApiError> {
    let (gvk, ty) = deployment();
    decode(text.as_bytes(), Media::Json, &gvk, Some(&ty))
}

#[test]
fn strict_sentences_are_upstreams() {
    let text = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","labels":{"a":"1","a":"2"}},
      "spec":{"unknown1":"v","unknownDupe":1,"unknownDupe":2,"paused":true,"paused":false,"Replicas":3,
        "template":{"spec":{"containers":[{"name":"x"},{"name":"n","unknownNested":1,"imagePullPolicy":"Always","imagePullPolicy":"Never"}]}}}}"#;
    let decoded = json_of(text).expect("decodes");
    let nested = "spec.template.spec.containers[1]";
    assert_eq!(
        decoded.strict_error(&deployment().0).expect("strict").message,
        format!(
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: \
             duplicate field \"metadata.labels.a\", unknown field \"spec.unknown1\", unknown field \"spec.unknownDupe\", \
             duplicate field \"spec.paused\", unknown field \"spec.Replicas\", unknown field \"{nested}.unknownNested\", \
             duplicate field \"{nested}.imagePullPolicy\""
        )
    );
    assert_eq!(
        decoded.value,
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "2"}},
            "spec": {"template": {"spec": {"containers": [{"name": "x"}, {"name": "n", "imagePullPolicy": "Never"}]}}}})
    );
}

#[test]
fn wrong_types_are_gos_sentences() {
    let prefix = "Deployment in version \"v1\" cannot be handled as a Deployment: ";
    for (spec, expect) in [
        (
            json!({"replicas": "3"}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({"replicas": 1.5}),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({"template": {"spec": {"containers": [{"env": [{"name": "a", "value": 1}]}]}}}),
            "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string",
        ),
        (
            json!({"selector": {"matchLabels": {"a": true}}}),
            "json: cannot unmarshal bool into Go struct field LabelSelector.spec.selector.matchLabels of type string",
        ),
        (json!([]), "json: cannot unmarshal array into Go struct field Deployment.spec of type v1.DeploymentSpec"),
        (
            json!({"template": {"spec": {"containers": {}}}}),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            json!({"template": {"spec": {"overhead": {"cpu": "x"}}}}),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ] {
        let error = json_of(&json!({"spec": spec}).to_string()).expect_err("refused");
        assert_eq!((error.code, error.message), (400, format!("{prefix}{expect}")));
    }
}

#[test]
fn kinds_are_checked_and_filled_in() {
    let decoded = json_of("{}").expect("the Python client sends neither");
    assert_eq!(decoded.value, json!({"apiVersion": "apps/v1", "kind": "Deployment"}));
    assert_eq!(decoded.gvk, None);
    for (text, expect) in [
        (
            r#"{"apiVersion":"v1","kind":"Pod"}"#,
            r#"Pod in version "v1" cannot be handled as a Deployment: converting (v1.Pod) to (v1.Deployment): unknown conversion"#,
        ),
        (
            r#"{"apiVersion":"apps/v1beta1","kind":"Deployment"}"#,
            "the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)",
        ),
        (
            "{",
            "the object provided is unrecognized (must be of type Deployment): couldn't get version/kind; json parse error: EOF while parsing an object at line 1 column 1",
        ),
    ] {
        assert_eq!(json_of(text).expect_err("refused").message, expect);
    }
    assert!(json_of("7").is_err() && json_of("null").is_err());
}

#[test]
fn zero_values_stay_only_where_they_mean_something() {
    let text = json!({"metadata": {"name": "x", "creationTimestamp": null, "labels": {}, "namespace": ""},
        "spec": {"replicas": 0, "paused": false, "minReadySeconds": 0,
            "strategy": {"rollingUpdate": {"maxUnavailable": 0}}, "template": {"spec": {"containers": [],
            "terminationGracePeriodSeconds": 0, "hostNetwork": false, "enableServiceLinks": false,
            "volumes": [{"name": "v", "emptyDir": {}}], "nodeSelector": {"a": null}}}}});
    let value = json_of(&text.to_string()).expect("decodes").value;
    assert_eq!(value["metadata"], json!({"name": "x"}));
    assert_eq!(
        value["spec"],
        json!({"replicas": 0, "strategy": {"rollingUpdate": {"maxUnavailable": 0}}, "template": {"spec": {"containers": [], "terminationGracePeriodSeconds": 0,
            "enableServiceLinks": false, "volumes": [{"name": "v", "emptyDir": {}}], "nodeSelector": {"a": ""}}}})
    );
}

#[test]
fn yaml_reads_like_kubernetes() {
    let (gvk, ty) = deployment();
    let text = "apiVersion: apps/v1\nkind: Deployment\nspec:\n  paused: yes\n  paused: on\n  bad: 1\n  template:\n    spec:\n      volumes:\n      - name: v\n        configMap: {defaultMode: 0644}\n";
    let decoded = decode(text.as_bytes(), Media::Yaml, &gvk, Some(&ty)).expect("decodes");
    assert_eq!(decoded.value["spec"]["paused"], json!(true));
    assert_eq!(decoded.value["spec"]["template"]["spec"]["volumes"][0]["configMap"]["defaultMode"], json!(420));
    assert_eq!(
        decoded.strict,
        ["yaml: unmarshal errors:\n  line 5: key \"paused\" already set in map", "unknown field \"spec.bad\""]
    );
}

#[test]
fn scalars_become_canonical() {
    let gvk = Gvk::new("", "v1", "Secret");
    let ty = schema::lookup(&gvk).expect("a built-in kind");
    let read = |value: Value| decode(value.to_string().as_bytes(), Media::Json, &gvk, Some(&ty));
    let secret =
        json!({"metadata": {"creationTimestamp": "2020-01-01T02:00:00.5+02:00"}, "data": {"a": "aGk=", "b": ""}});
    let value = read(secret).expect("decodes").value;
    assert_eq!(value["metadata"]["creationTimestamp"], "2020-01-01T00:00:00Z");
    assert_eq!(value["data"], json!({"a": "aGk=", "b": ""}));
    let error = read(json!({"data": {"a": "a$b="}})).expect_err("refused");
    assert!(error.message.ends_with("illegal base64 data at input byte 1"), "{}", error.message);
}

/// A protobuf message from (tag, bytes | number).
fn message(fields: &[(u8, Part<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, part) in fields {
        match part {
            Part::Number(number) => tests_encode::number(&mut out, u32::from(*tag), *number),
            Part::Bytes(bytes) => tests_encode::bytes(&mut out, u32::from(*tag), bytes),
        }
    }
    out
}

enum Part<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn pod_in_protobuf() -> Vec<u8> {
    use Part::{Bytes, Number};
    let label = message(&[(1, Bytes(b"app")), (2, Bytes(b"x"))]);
    let time = message(&[(1, Number(1_577_836_800)), (2, Number(0))]);
    let meta = message(&[(1, Bytes(b"p")), (2, Bytes(b"")), (3, Bytes(b"ns")), (8, Bytes(&time)), (11, Bytes(&label))]);
    let quantity = message(&[(1, Bytes(b"100m"))]);
    let limit = message(&[(1, Bytes(b"cpu")), (2, Bytes(&quantity))]);
    let resources = message(&[(1, Bytes(&limit))]);
    let port = message(&[(1, Bytes(b"")), (2, Number(0)), (3, Number(80)), (4, Bytes(b"TCP")), (5, Bytes(b""))]);
    let target = message(&[(1, Number(0)), (2, Number(8080)), (3, Bytes(b""))]);
    let named = message(&[(1, Number(1)), (2, Number(0)), (3, Bytes(b"web"))]);
    let get = |port: &[u8]| message(&[(1, Bytes(b"/")), (2, Bytes(port))]);
    let probe =
        |port: &[u8]| message(&[(1, Bytes(&message(&[(2, Bytes(&get(port)))]))), (2, Number(0)), (3, Number(2))]);
    let container = message(&[
        (1, Bytes(b"c")),
        (3, Bytes(b"sh")),
        (3, Bytes(b"-c")),
        (6, Bytes(&port)),
        (8, Bytes(&resources)),
        (10, Bytes(&probe(&target))),
        (11, Bytes(&probe(&named))),
        (16, Number(0)),
    ]);
    let volume = message(&[(1, Bytes(b"v")), (2, Bytes(&message(&[(2, Bytes(&[]))])))]);
    let seconds = (-5i64).cast_unsigned();
    let spec =
        message(&[(1, Bytes(&volume)), (2, Bytes(&container)), (4, Number(0)), (5, Number(seconds)), (11, Number(0))]);
    let pod = message(&[(1, Bytes(&meta)), (2, Bytes(&spec)), (99, Number(1))]);
    let kind = message(&[(1, Bytes(b"v1")), (2, Bytes(b"Pod"))]);
    let envelope = message(&[(1, Bytes(&kind)), (2, Bytes(&pod)), (3, Bytes(b"")), (4, Bytes(b""))]);
    [b"k8s\0".as_slice(), &envelope].concat()
}

/// Also where the object was read before, with the owners of its fields.
#[test]
fn every_kind_has_its_metadata_in_protobuf() {
    use Part::Bytes;
    let owned = message(&[(1, Bytes(br#"{"f:a":{}}"#))]);
    let entry = message(&[(1, Bytes(b"m")), (2, Bytes(b"Update")), (6, Bytes(b"FieldsV1")), (7, Bytes(&owned))]);
    let meta = message(&[(1, Bytes(b"x")), (17, Bytes(&entry))]);
    let object = message(&[(1, Bytes(&meta))]);
    for descriptor in crate::kinds::builtin() {
        let gvk = &descriptor.gvk;
        let Some(ty) = schema::lookup(gvk).filter(|ty| ty.object().is_some_and(|o| o.field("metadata").is_some()))
        else {
            continue;
        };
        let kind = message(&[(1, Bytes(gvk.api_version().as_bytes())), (2, Bytes(gvk.kind.as_bytes()))]);
        let body = [b"k8s\0".as_slice(), &message(&[(1, Bytes(&kind)), (2, Bytes(&object))])].concat();
        let read = decode(&body, Media::Protobuf, gvk, Some(&ty)).unwrap_or_else(|e| panic!("{gvk:?}: {}", e.message));
        assert_eq!(
            read.value["metadata"],
            json!({"name": "x", "managedFields": [{"manager": "m", "operation": "Update", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:a": {}}}]}),
            "{gvk:?}"
        );
    }
}

#[test]
fn protobuf_reads_without_gos_noise() {
    let gvk = Gvk::new("", "v1", "Pod");
    let ty = schema::lookup(&gvk).expect("a built-in kind");
    let value = decode(&pod_in_protobuf(), Media::Protobuf, &gvk, Some(&ty)).expect("decodes").value;
    let probe = |port: Value| json!({"httpGet": {"path": "/", "port": port}, "timeoutSeconds": 2});
    assert_eq!(
        value,
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "ns", "creationTimestamp": "2020-01-01T00:00:00Z", "labels": {"app": "x"}},
            "spec": {"volumes": [{"name": "v", "emptyDir": {}}], "terminationGracePeriodSeconds": 0, "activeDeadlineSeconds": -5,
                "containers": [{"name": "c", "command": ["sh", "-c"], "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "100m"}}, "livenessProbe": probe(json!(8080)), "readinessProbe": probe(json!("web"))}]}})
    );
    // What it reads is canonical: reading it again as JSON changes nothing.
    assert_eq!(conform(value.clone(), &gvk, &ty).expect("conforms").value, value);
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), flips in prop::collection::vec((0usize..400, any::<u8>()), 0..8)) {
        let (gvk, ty) = deployment();
        for media in [Media::Json, Media::Yaml, Media::Protobuf] {
            drop(decode(&bytes, media, &gvk, Some(&ty)));
        }
        drop(decode(&[b"k8s\0".as_slice(), &bytes].concat(), Media::Protobuf, &gvk, Some(&ty)));
        // A real object with a few wrong bytes gets further.
        let gvk = Gvk::new("", "v1", "Pod");
        let ty = schema::lookup(&gvk).expect("a built-in kind");
        let mut pod = pod_in_protobuf();
        let length = pod.len();
        for (at, byte) in flips {
            pod[at % length] = byte;
        }
        drop(decode(&pod, Media::Protobuf, &gvk, Some(&ty)));
        for def in ["JSONSchemaProps", "CustomResourceDefinition"] {
            let ty = schema::definition(&format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.{def}")).expect("known");
            drop(protobuf::object(ty.object().expect("an object"), &bytes));
        }
    }

    #[test]
    fn reading_twice_changes_nothing(replicas in any::<i32>(), name in "[a-z]{0,3}", labels in prop::collection::btree_map("[a-z]{1,3}", "[a-z]{0,3}", 0..3), paused: bool) {
        let text = json!({"metadata": {"name": name, "labels": labels}, "spec": {"replicas": replicas, "paused": paused, "x": 1}}).to_string();
        let once = json_of(&text).expect("decodes");
        let (gvk, ty) = deployment();
        let twice = conform(once.value.clone(), &gvk, &ty).expect("conforms");
        prop_assert_eq!(&twice.value, &once.value);
        prop_assert!(twice.strict.is_empty() && once.strict.len() == 1);
    }
}

#[test]
fn metadata_alone() {
    for (metadata, expect) in [
        (
            json!({"name": true}),
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.name of type string",
        ),
        (
            json!({"name": "a", "namespace": 123}),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.namespace of type string",
        ),
        (
            json!({"name": "a", "labels": {"a": 1}}),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            json!("x"),
            "json: cannot unmarshal string into Go struct field metadataOnlyObject.metadata of type v1.ObjectMeta",
        ),
    ] {
        assert_eq!(check_metadata(&json!({"metadata": metadata})), Err(expect.to_owned()), "{metadata}");
    }
    for good in [json!({}), json!({"metadata": null}), json!({"metadata": {"name": "a", "namespace": null, "mine": 1}})]
    {
        assert_eq!(check_metadata(&good), Ok(()), "{good}");
    }
}
