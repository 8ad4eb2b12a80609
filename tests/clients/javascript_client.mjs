// The official JavaScript client against a Skiff server: KUBECONFIG names it. Ends with 0 if everything holds.

import assert from "node:assert/strict";
import { createServer } from "node:net";
import { PassThrough } from "node:stream";
import { text } from "node:stream/consumers";

import * as k8s from "@kubernetes/client-node";

const namespace = "javascript-client";
const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);

const settings = (name, data = {}) => ({ metadata: { name, labels: { suite: "javascript" } }, data });
const as = (type) => k8s.setHeaderOptions("Content-Type", type);

/** The call has to fail with this status and reason. */
async function refused(code, reason, call) {
    const error = await call.then(() => undefined, (error) => error);
    assert.equal(error?.code, code, String(error));
    const body = typeof error.body === "string" ? JSON.parse(error.body) : error.body;
    assert.equal(body.reason, reason);
}

async function crud() {
    const made = await core.createNamespacedConfigMap({ namespace, body: settings("a", { key: "1" }) });
    assert.ok(made.metadata.uid);
    await refused(409, "AlreadyExists", core.createNamespacedConfigMap({ namespace, body: settings("a") }));
    await refused(404, "NotFound", core.readNamespacedConfigMap({ namespace, name: "none" }));
    await refused(422, "Invalid", core.createNamespacedConfigMap({ namespace, body: settings("No Name") }));
    const listed = await core.listNamespacedConfigMap({ namespace, labelSelector: "suite=javascript" });
    assert.deepEqual(listed.items.map((item) => item.metadata.name), ["a"]);
    const replaced = await core.replaceNamespacedConfigMap({ namespace, name: "a", body: { ...made, data: { key: "2" } } });
    assert.equal(replaced.data.key, "2");
    await refused(409, "Conflict", core.replaceNamespacedConfigMap({ namespace, name: "a", body: made }));
}

async function patches() {
    const containers = [{ name: "main", image: "busybox:1.36" }];
    const template = { metadata: { labels: { app: "p" } }, spec: { containers } };
    const spec = { replicas: 0, selector: { matchLabels: { app: "p" } }, template };
    await apps.createNamespacedDeployment({ namespace, body: { metadata: { name: "p" }, spec } });
    const patch = (body, type) => apps.patchNamespacedDeployment({ namespace, name: "p", body }, as(type));
    const names = (deployment) => deployment.spec.template.spec.containers.map((container) => container.name).sort();
    const more = { spec: { template: { spec: { containers: [{ name: "side", image: "busybox:1.36" }] } } } };
    assert.deepEqual(names(await patch(more, k8s.PatchStrategy.StrategicMergePatch)), ["main", "side"]);
    assert.deepEqual(names(await patch(more, k8s.PatchStrategy.MergePatch)), ["side"]);
    const pause = [{ op: "add", path: "/spec/paused", value: true }];
    assert.equal((await patch(pause, k8s.PatchStrategy.JsonPatch)).spec.paused, true);
    await apps.deleteNamespacedDeployment({ namespace, name: "p" });
}

async function watches() {
    const { metadata } = await core.listNamespacedConfigMap({ namespace });
    const seen = [];
    await new Promise((resolve, reject) => {
        const path = `/api/v1/namespaces/${namespace}/configmaps`;
        const query = { resourceVersion: metadata.resourceVersion, fieldSelector: "metadata.name=w" };
        const told = (type) => {
            seen.push(type);
            if (type === "DELETED") resolve();
        };
        new k8s.Watch(config).watch(path, query, told, (error) => (seen.includes("DELETED") ? undefined : reject(error))).then(async (request) => {
            await core.createNamespacedConfigMap({ namespace, body: settings("w") });
            await core.patchNamespacedConfigMap({ namespace, name: "w", body: { data: { a: "b" } } }, as(k8s.PatchStrategy.MergePatch));
            await core.deleteNamespacedConfigMap({ namespace, name: "w" });
            return request;
        }).catch(reject);
    });
    assert.deepEqual(seen, ["ADDED", "MODIFIED", "DELETED"]);
}

async function informer() {
    const list = () => core.listNamespacedConfigMap({ namespace });
    const cache = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, list);
    const added = new Promise((resolve) => cache.on("add", (object) => object.metadata.name === "later" && resolve()));
    await cache.start();
    await core.createNamespacedConfigMap({ namespace, body: settings("later") });
    await added;
    await cache.stop();
}

async function pods() {
    const command = ["sh", "-c", "echo one; echo two"];
    const spec = { restartPolicy: "Never", containers: [{ name: "c", image: "busybox:1.36", command }] };
    await core.createNamespacedPod({ namespace, body: { metadata: { name: "logs" }, spec } });
    const phase = await new Promise((resolve, reject) => {
        const told = (_, pod) => ["Succeeded", "Failed"].includes(pod.status.phase) && resolve(pod.status.phase);
        const query = { fieldSelector: "metadata.name=logs" };
        new k8s.Watch(config).watch(`/api/v1/namespaces/${namespace}/pods`, query, told, reject).catch(reject);
    });
    assert.equal(phase, "Succeeded");
    const out = new PassThrough();
    const read = text(out);
    await new k8s.Log(config).log(namespace, "logs", "c", out, { follow: true });
    assert.equal(await read, "one\ntwo\n");
}

async function streams() {
    const readinessProbe = { httpGet: { port: 8080, path: "/passwd" }, periodSeconds: 1 };
    const server = { name: "c", image: "busybox:1.36", command: ["httpd", "-f", "-p", "8080", "-h", "/etc"], readinessProbe };
    const spec = { terminationGracePeriodSeconds: 0, containers: [server] };
    await core.createNamespacedPod({ namespace, body: { metadata: { name: "runs" }, spec } });
    await new Promise((resolve, reject) => {
        const isReady = ({ type, status }) => type === "Ready" && status === "True";
        const told = (_, pod) => pod.status.conditions?.some(isReady) && resolve();
        const query = { fieldSelector: "metadata.name=runs" };
        new k8s.Watch(config).watch(`/api/v1/namespaces/${namespace}/pods`, query, told, reject).catch(reject);
    });
    const [out, err] = [new PassThrough(), new PassThrough()];
    const read = Promise.all([text(out), text(err)]);
    const command = ["sh", "-c", "echo out; echo err >&2; exit 3"];
    const status = await new Promise((resolve, reject) => {
        new k8s.Exec(config).exec(namespace, "runs", "c", command, out, err, null, false, resolve).catch(reject);
    });
    out.end();
    err.end();
    assert.deepEqual(await read, ["out\n", "err\n"]);
    assert.equal(status.status, "Failure");
    assert.equal(status.details.causes[0].message, "3");
    const forward = new k8s.PortForward(config);
    const local = createServer((socket) => forward.portForward(namespace, "runs", [8080], socket, null, socket));
    await new Promise((resolve) => local.listen(0, "127.0.0.1", resolve));
    const answer = await fetch(`http://127.0.0.1:${local.address().port}/passwd`, { headers: { Connection: "close" } });
    assert.equal(answer.status, 200);
    assert.match(await answer.text(), /root:x:0:0/);
    local.close();
}

async function anyKind() {
    const objects = k8s.KubernetesObjectApi.makeApiClient(config);
    const object = { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "any", namespace }, data: { a: "1" } };
    await objects.create(object);
    const read = await objects.read(object);
    assert.equal(read.data.a, "1");
    await objects.delete(object);
}

async function applies() {
    const objects = k8s.KubernetesObjectApi.makeApiClient(config);
    const object = (data) => ({ apiVersion: "v1", kind: "ConfigMap", metadata: { name: "applied", namespace }, data });
    const apply = (manager, force, data) =>
        objects.patch(object(data), undefined, undefined, manager, force, k8s.PatchStrategy.ServerSideApply);
    const made = await apply("one", false, { a: "1" });
    assert.deepEqual(made.metadata.managedFields.map((entry) => [entry.manager, entry.operation]), [["one", "Apply"]]);
    await refused(409, "Conflict", apply("two", false, { a: "2" }));
    assert.equal((await apply("two", true, { a: "2" })).data.a, "2");
}

async function customResources() {
    const definitions = config.makeApiClient(k8s.ApiextensionsV1Api);
    // "default" is a word of the language.
    const properties = { spec: { type: "object", properties: { sails: { type: "integer", minimum: 1, _default: 1 } } } };
    const version = { name: "v1", served: true, storage: true, schema: { openAPIV3Schema: { type: "object", properties } } };
    const names = { plural: "boats", singular: "boat", kind: "Boat", listKind: "BoatList" };
    const name = "boats.javascript.example";
    const spec = { group: "javascript.example", names, scope: "Namespaced", versions: [version] };
    await definitions.createCustomResourceDefinition({ body: { metadata: { name }, spec } });
    await new Promise((resolve, reject) => {
        const isEstablished = ({ type, status }) => type === "Established" && status === "True";
        const told = (_, definition) => definition.status?.conditions?.some(isEstablished) && resolve();
        const path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        new k8s.Watch(config).watch(path, { fieldSelector: `metadata.name=${name}` }, told, reject).catch(reject);
    });
    const boats = config.makeApiClient(k8s.CustomObjectsApi);
    const place = { group: "javascript.example", version: "v1", namespace, plural: "boats" };
    const boat = (name, spec) => ({ apiVersion: "javascript.example/v1", kind: "Boat", metadata: { name }, spec });
    assert.equal((await boats.createNamespacedCustomObject({ ...place, body: boat("a", {}) })).spec.sails, 1);
    await refused(422, "Invalid", boats.createNamespacedCustomObject({ ...place, body: boat("b", { sails: 0 }) }));
    const patch = (body, type) => boats.patchNamespacedCustomObject({ ...place, name: "a", body }, as(type));
    assert.equal((await patch({ spec: { sails: 2 } }, k8s.PatchStrategy.MergePatch)).spec.sails, 2);
    const steps = [{ op: "replace", path: "/spec/sails", value: 3 }];
    assert.equal((await patch(steps, k8s.PatchStrategy.JsonPatch)).spec.sails, 3);
    const listed = await boats.listNamespacedCustomObject(place);
    assert.deepEqual(listed.items.map((item) => item.metadata.name), ["a"]);
    await boats.deleteNamespacedCustomObject({ ...place, name: "a" });
    await refused(404, "NotFound", boats.getNamespacedCustomObject({ ...place, name: "a" }));
    await definitions.deleteCustomResourceDefinition({ name });
}

await core.createNamespace({ body: { metadata: { name: namespace } } });
assert.equal((await config.makeApiClient(k8s.VersionApi).getCode()).major, "1");
await crud();
await patches();
await watches();
await informer();
await anyKind();
await applies();
await customResources();
await pods();
await streams();
await core.deleteNamespace({ name: namespace });
// Watches that are still open would keep the process.
process.exit(0);
