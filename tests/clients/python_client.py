"""The official Python client against a Skiff server: KUBECONFIG names it. Ends with 0 if everything holds."""

import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

NAMESPACE = "python-client"


def refused(status, reason, call, *arguments, **options):
    """The call has to fail with this status and reason."""
    try:
        call(*arguments, **options)
    except ApiException as error:
        assert error.status == status and f'"reason":"{reason}"' in error.body.replace(" ", ""), (error.status, error.body)
        return
    raise AssertionError(f"{call.__name__} was not refused with {status} {reason}")


def settings(name, **data):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels={"suite": "python"}), data=data)


def crud(core):
    made = core.create_namespaced_config_map(NAMESPACE, settings("a", key="1"))
    assert made.metadata.uid and made.metadata.resource_version
    refused(409, "AlreadyExists", core.create_namespaced_config_map, NAMESPACE, settings("a"))
    refused(404, "NotFound", core.read_namespaced_config_map, "none", NAMESPACE)
    refused(422, "Invalid", core.create_namespaced_config_map, NAMESPACE, settings("No Name"))
    core.create_namespaced_config_map(NAMESPACE, settings("b"))
    listed = core.list_namespaced_config_map(NAMESPACE, label_selector="suite=python")
    assert [item.metadata.name for item in listed.items] == ["a", "b"]
    first = core.list_namespaced_config_map(NAMESPACE, label_selector="suite=python", limit=1)
    assert first.metadata._continue
    rest = core.list_namespaced_config_map(
        NAMESPACE, label_selector="suite=python", limit=1, _continue=first.metadata._continue
    )
    assert [item.metadata.name for item in first.items + rest.items] == ["a", "b"]
    made.data["key"] = "2"
    replaced = core.replace_namespaced_config_map("a", NAMESPACE, made)
    assert replaced.data == {"key": "2"}
    # The version is the old one.
    refused(409, "Conflict", core.replace_namespaced_config_map, "a", NAMESPACE, made)
    dry = core.patch_namespaced_config_map("a", NAMESPACE, {"data": {"key": "3"}}, dry_run="All")
    assert dry.data["key"] == "3"
    assert core.read_namespaced_config_map("a", NAMESPACE).data["key"] == "2"


def patches(core, apps):
    container = client.V1Container(name="main", image="busybox:1.36", command=["sleep", "3600"])
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels={"app": "p"}), spec=client.V1PodSpec(containers=[container])
    )
    spec = client.V1DeploymentSpec(replicas=0, selector={"matchLabels": {"app": "p"}}, template=template)
    apps.create_namespaced_deployment(NAMESPACE, client.V1Deployment(metadata={"name": "p"}, spec=spec))
    # A dictionary is a strategic merge patch: containers are merged by their names.
    body = {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "busybox:1.36"}]}}}}
    patched = apps.patch_namespaced_deployment("p", NAMESPACE, body)
    assert {c.name for c in patched.spec.template.spec.containers} == {"main", "side"}
    # A list is a JSON patch.
    body = [{"op": "replace", "path": "/spec/paused", "value": True}]
    refused(422, "Invalid", apps.patch_namespaced_deployment, "p", NAMESPACE, body)
    body[0]["op"] = "add"
    assert apps.patch_namespaced_deployment("p", NAMESPACE, body).spec.paused
    body = {"spec": {"paused": None, "template": {"spec": {"containers": [{"name": "one", "image": "busybox:1.36"}]}}}}
    merged = apps.patch_namespaced_deployment("p", NAMESPACE, body, _content_type="application/merge-patch+json")
    assert not merged.spec.paused and [c.name for c in merged.spec.template.spec.containers] == ["one"]
    scale = apps.patch_namespaced_deployment_scale("p", NAMESPACE, {"spec": {"replicas": 0}})
    assert scale.spec.replicas in (0, None)
    apps.delete_namespaced_deployment("p", NAMESPACE, propagation_policy="Foreground")


def watches(core):
    version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version

    def change():
        core.create_namespaced_config_map(NAMESPACE, settings("w"))
        core.patch_namespaced_config_map("w", NAMESPACE, {"data": {"a": "b"}})
        core.delete_namespaced_config_map("w", NAMESPACE)

    thread = threading.Thread(target=change)
    thread.start()
    seen = []
    changes = watch.Watch()
    for event in changes.stream(
        core.list_namespaced_config_map, NAMESPACE, resource_version=version, field_selector="metadata.name=w",
        timeout_seconds=60,
    ):
        seen.append(event["type"])
        if event["type"] == "DELETED":
            changes.stop()
    thread.join()
    assert seen == ["ADDED", "MODIFIED", "DELETED"], seen


def pods(core):
    command = ["sh", "-c", "echo one; echo two"]
    spec = client.V1PodSpec(
        restart_policy="Never", containers=[client.V1Container(name="c", image="busybox:1.36", command=command)]
    )
    core.create_namespaced_pod(NAMESPACE, client.V1Pod(metadata=client.V1ObjectMeta(name="logs"), spec=spec))
    changes = watch.Watch()
    phase = None
    for event in changes.stream(
        core.list_namespaced_pod, NAMESPACE, field_selector="metadata.name=logs", timeout_seconds=60
    ):
        phase = event["object"].status.phase
        if phase in ("Succeeded", "Failed"):
            changes.stop()
    assert phase == "Succeeded", phase
    assert core.read_namespaced_pod_log("logs", NAMESPACE) == "one\ntwo\n"
    assert core.read_namespaced_pod_log("logs", NAMESPACE, tail_lines=1) == "two\n"


def streams(core):
    """Commands and connections by WebSockets."""
    probe = client.V1Probe(http_get=client.V1HTTPGetAction(port=8080, path="/passwd"), period_seconds=1)
    server = client.V1Container(
        name="c", image="busybox:1.36", command=["httpd", "-f", "-p", "8080", "-h", "/etc"], readiness_probe=probe
    )
    spec = client.V1PodSpec(termination_grace_period_seconds=0, containers=[server])
    core.create_namespaced_pod(NAMESPACE, client.V1Pod(metadata=client.V1ObjectMeta(name="runs"), spec=spec))
    running = watch.Watch()
    for event in running.stream(
        core.list_namespaced_pod, NAMESPACE, field_selector="metadata.name=runs", timeout_seconds=60
    ):
        conditions = event["object"].status.conditions or []
        if any(condition.type == "Ready" and condition.status == "True" for condition in conditions):
            running.stop()
    command = ["sh", "-c", "echo out; echo err >&2; cat; exit 3"]
    shell = stream(
        core.connect_get_namespaced_pod_exec, "runs", NAMESPACE, command=command, stdin=True, stdout=True, stderr=True,
        tty=False, _preload_content=False,
    )
    out = err = ""
    shell.write_stdin("in\n")
    while shell.is_open():
        shell.update(timeout=10)
        out += shell.read_stdout() if shell.peek_stdout() else ""
        err += shell.read_stderr() if shell.peek_stderr() else ""
        if "in" in out and "err" in err:
            break
    assert "out" in out and "err" in err, (out, err)
    shell.close()
    ended = stream(
        core.connect_get_namespaced_pod_exec, "runs", NAMESPACE, command=["sh", "-c", "exit 3"], stdout=True, stderr=True,
        _preload_content=False,
    )
    ended.run_forever(timeout=60)
    assert ended.returncode == 3, ended.returncode
    forwarded = portforward(core.connect_get_namespaced_pod_portforward, "runs", NAMESPACE, ports="8080")
    connection = forwarded.socket(8080)
    connection.setblocking(True)
    connection.sendall(b"GET /passwd HTTP/1.0\r\n\r\n")
    answer = b""
    while piece := connection.recv(4096):
        answer += piece
    connection.close()
    assert b" 200 OK" in answer and b"root:x:0:0" in answer, answer
    assert forwarded.error(8080) is None, forwarded.error(8080)


def by_discovery(api):
    maps = dynamic.DynamicClient(api).resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dynamic"}, "data": {"a": "1"}}
    assert maps.create(namespace=NAMESPACE, body=body).data.a == "1"
    patch = {"metadata": {"name": "dynamic"}, "data": {"a": "2"}}
    patched = maps.patch(namespace=NAMESPACE, body=patch, content_type="application/merge-patch+json")
    assert patched.data.a == "2"


def applies(core):
    """Server-side apply: owners of fields, and what they say when two want the same."""

    def apply(manager, force, **data):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": data}
        return core.patch_namespaced_config_map(
            "applied", NAMESPACE, body, field_manager=manager, force=force, _content_type="application/apply-patch+yaml"
        )

    made = apply("one", False, a="1", b="1")
    owners = [(entry.manager, entry.operation) for entry in made.metadata.managed_fields]
    assert owners == [("one", "Apply")], owners
    refused(409, "Conflict", apply, "two", False, a="2")
    taken = apply("two", True, a="2")
    assert taken.data == {"a": "2", "b": "1"}
    # What an owner no longer applies goes.
    left = apply("one", False)
    assert left.data == {"a": "2"}, left.data


def custom_resources(api):
    definitions = client.ApiextensionsV1Api(api)
    schema = {
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {"sails": {"type": "integer", "minimum": 1}}}},
    }
    version = client.V1CustomResourceDefinitionVersion(
        name="v1", served=True, storage=True, schema={"openAPIV3Schema": schema}
    )
    names = client.V1CustomResourceDefinitionNames(plural="boats", singular="boat", kind="Boat", list_kind="BoatList")
    spec = client.V1CustomResourceDefinitionSpec(
        group="python.example", names=names, scope="Namespaced", versions=[version]
    )
    definition = client.V1CustomResourceDefinition(metadata={"name": "boats.python.example"}, spec=spec)
    definitions.create_custom_resource_definition(definition)
    changes = watch.Watch()
    for event in changes.stream(
        definitions.list_custom_resource_definition, field_selector="metadata.name=boats.python.example",
        timeout_seconds=60,
    ):
        conditions = (event["object"].status and event["object"].status.conditions) or []
        if any(condition.type == "Established" and condition.status == "True" for condition in conditions):
            changes.stop()
    boats = client.CustomObjectsApi(api)
    place = ("python.example", "v1", NAMESPACE, "boats")
    boat = {"apiVersion": "python.example/v1", "kind": "Boat", "metadata": {"name": "a"}, "spec": {"sails": 2}}
    assert boats.create_namespaced_custom_object(*place, boat)["spec"] == {"sails": 2}
    boat["metadata"]["name"], boat["spec"]["sails"] = "b", 0
    refused(422, "Invalid", boats.create_namespaced_custom_object, *place, boat)
    patched = boats.patch_namespaced_custom_object(*place, "a", {"spec": {"sails": 3}})
    assert patched["spec"]["sails"] == 3
    assert [item["metadata"]["name"] for item in boats.list_namespaced_custom_object(*place)["items"]] == ["a"]
    definitions.delete_custom_resource_definition("boats.python.example")


def main():
    config.load_kube_config()
    api = client.ApiClient()
    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    assert client.VersionApi(api).get_code().major == "1"
    assert "apps" in [group.name for group in client.ApisApi(api).get_api_versions().groups]
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    crud(core)
    patches(core, apps)
    watches(core)
    by_discovery(api)
    applies(core)
    custom_resources(api)
    pods(core)
    streams(core)
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="suite=python")
    assert not core.list_namespaced_config_map(NAMESPACE, label_selector="suite=python").items
    core.delete_namespace(NAMESPACE)


main()
