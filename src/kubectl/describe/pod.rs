use std::collections::BTreeMap;

use serde_json::Value;
use skiff_api::downward;

use super::page::Page;
use super::{date, time};

pub fn write(page: &mut Page, pod: &Value) {
    let (metadata, spec, status) = (&pod["metadata"], &pod["spec"], &pod["status"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    page.field("Name", text(&metadata["name"]));
    page.field("Namespace", text(&metadata["namespace"]));
    if let Some(priority) = spec["priority"].as_i64() {
        page.field("Priority", priority);
    }
    if let Some(class) = spec["priorityClassName"].as_str() {
        page.field("Priority Class Name", class);
    }
    if let Some(account) = spec["serviceAccountName"].as_str() {
        page.field("Service Account", account);
    }
    match spec["nodeName"].as_str() {
        Some(node) => page.field("Node", format!("{node}/{}", text(&status["hostIP"]))),
        None => page.field("Node", "<none>"),
    }
    if status["startTime"].is_string() {
        page.field("Start Time", date(&status["startTime"]));
    }
    page.map("Labels", &metadata["labels"]);
    page.annotations("Annotations", &metadata["annotations"]);
    match time(&metadata["deletionTimestamp"]) {
        Some(_) => {
            page.field("Status", format!("Terminating (since {})", date(&metadata["deletionTimestamp"])));
            page.field("Termination Grace Period", format!("{}s", metadata["deletionGracePeriodSeconds"]));
        }
        None => page.field("Status", text(&status["phase"])),
    }
    for (name, field) in [("Reason", "reason"), ("Message", "message")] {
        if let Some(value) = status[field].as_str() {
            page.field(name, value);
        }
    }
    page.field("IP", text(&status["podIP"]));
    let addresses: Vec<&str> = items(&status["podIPs"]).filter_map(|ip| ip["ip"].as_str()).collect();
    if addresses.is_empty() {
        page.line("IPs:\t<none>");
    } else {
        page.line("IPs:");
        addresses.iter().for_each(|address| page.line(format!("  IP:\t{address}")));
    }
    if let Some(owner) = items(&metadata["ownerReferences"]).find(|owner| owner["controller"] == true) {
        page.field("Controlled By", format!("{}/{}", text(&owner["kind"]), text(&owner["name"])));
    }
    if spec["resources"].is_object() {
        page.line("Resources:");
        resources(page, &spec["resources"], "  ");
    }
    for (title, list, statuses) in [
        ("Init Containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
    ] {
        if items(&spec[list]).next().is_some() {
            page.line(format!("{title}:"));
            for container in items(&spec[list]) {
                let state = items(&status[statuses]).find(|status| status["name"] == container["name"]);
                self::container(page, container, state, Some(pod), "  ");
            }
        }
    }
    if items(&status["conditions"]).next().is_some() {
        page.line("Conditions:\n  Type\tStatus");
        for condition in items(&status["conditions"]) {
            page.line(format!("  {} \t{} ", text(&condition["type"]), text(&condition["status"])));
        }
    }
    volumes(page, spec, "");
    page.field("QoS Class", text(&status["qosClass"]));
    page.map("Node-Selectors", &spec["nodeSelector"]);
    page.several("Tolerations", items(&spec["tolerations"]).map(toleration));
}

pub fn items(value: &Value) -> impl Iterator<Item = &Value> + use<'_> {
    value.as_array().into_iter().flatten()
}

pub fn toleration(toleration: &Value) -> String {
    let text = |field: &str| toleration[field].as_str().unwrap_or_default();
    let mut out = text("key").to_owned();
    if !text("value").is_empty() {
        out += &format!("={}", text("value"));
    }
    if !text("effect").is_empty() {
        out += &format!(":{}", text("effect"));
    }
    if text("operator") == "Exists" && text("value").is_empty() {
        out += if text("key").is_empty() && text("effect").is_empty() { "op=Exists" } else { " op=Exists" };
    }
    if let Some(seconds) = toleration["tolerationSeconds"].as_i64() {
        out += &format!(" for {seconds}s");
    }
    out
}

fn resources(page: &mut Page, resources: &Value, indent: &str) {
    for (name, field) in [("Limits", "limits"), ("Requests", "requests")] {
        let amounts = resources[field].as_object().filter(|amounts| !amounts.is_empty());
        let Some(amounts) = amounts else { continue };
        page.line(format!("{indent}{name}:"));
        for (what, amount) in amounts {
            page.line(format!("{indent}  {what}:\t{}", amount.as_str().unwrap_or_default()));
        }
    }
}

/// `indent` stands before the name: pod templates set it one blank further in.
pub fn container(page: &mut Page, container: &Value, status: Option<&Value>, pod: Option<&Value>, indent: &str) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    page.line(format!("{indent}{}:", text(&container["name"])));
    if let Some(status) = status {
        page.field("    Container ID", text(&status["containerID"]));
    }
    page.field("    Image", text(&container["image"]));
    if let Some(status) = status {
        page.field("    Image ID", text(&status["imageID"]));
    }
    let ports = |field: &str| {
        let list: Vec<String> = items(&container["ports"])
            .map(|port| {
                format!("{}/{}", port[field].as_i64().unwrap_or_default(), port["protocol"].as_str().unwrap_or("TCP"))
            })
            .collect();
        if list.is_empty() { "<none>".to_owned() } else { list.join(", ") }
    };
    let title = if items(&container["ports"]).count() > 1 { "Ports" } else { "Port" };
    page.field(&format!("    {title}"), ports("containerPort"));
    page.field(&format!("    Host {title}"), ports("hostPort"));
    for (name, field) in [("Command", "command"), ("Args", "args")] {
        if items(&container[field]).next().is_some() {
            page.line(format!("    {name}:"));
            items(&container[field])
                .for_each(|word| text(word).lines().for_each(|line| page.line(format!("      {line}"))));
        }
    }
    if let Some(status) = status {
        state(page, "    State", &status["state"]);
        if status["lastState"].as_object().is_some_and(|last| !last.is_empty()) {
            state(page, "    Last State", &status["lastState"]);
        }
        page.field("    Ready", if status["ready"] == true { "True" } else { "False" });
        page.field("    Restart Count", status["restartCount"].as_i64().unwrap_or_default());
    }
    resources(page, &container["resources"], "    ");
    for (name, field) in [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")] {
        if container[field].is_object() {
            page.field(&format!("    {name}"), probe(&container[field]));
        }
    }
    sources(page, &container["envFrom"]);
    if items(&container["env"]).next().is_some() {
        page.line("    Environment:");
        items(&container["env"])
            .for_each(|env| page.line(format!("      {}:\t{}", text(&env["name"]), environment(env, container, pod))));
    } else {
        page.line("    Environment:\t<none>");
    }
    if items(&container["volumeMounts"]).next().is_some() {
        page.line("    Mounts:");
        let mut mounts: Vec<&Value> = items(&container["volumeMounts"]).collect();
        mounts.sort_by_key(|mount| mount["mountPath"].as_str());
        for mount in mounts {
            let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
            let sub = mount["subPath"].as_str().map(|path| format!(",path={path:?}")).unwrap_or_default();
            page.line(format!("      {} from {} ({mode}{sub})", text(&mount["mountPath"]), text(&mount["name"])));
        }
    } else {
        page.line("    Mounts:\t<none>");
    }
}

fn state(page: &mut Page, name: &str, state: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if state["running"].is_object() {
        page.field(name, "Running");
        page.field("      Started", date(&state["running"]["startedAt"]));
    } else if state["terminated"].is_object() {
        let end = &state["terminated"];
        page.field(name, "Terminated");
        for (name, field) in [("Reason", "reason"), ("Message", "message")] {
            if let Some(value) = end[field].as_str().filter(|value| !value.is_empty()) {
                page.field(&format!("      {name}"), value.trim_end());
            }
        }
        page.field("      Exit Code", end["exitCode"].as_i64().unwrap_or_default());
        if let Some(signal) = end["signal"].as_i64().filter(|signal| *signal > 0) {
            page.field("      Signal", signal);
        }
        page.field("      Started", date(&end["startedAt"]));
        page.field("      Finished", date(&end["finishedAt"]));
    } else {
        page.field(name, "Waiting");
        if let Some(reason) = state["waiting"]["reason"].as_str() {
            page.field("      Reason", text(&Value::from(reason)));
        }
    }
}

fn probe(probe: &Value) -> String {
    let number = |field: &str, default: i64| probe[field].as_i64().unwrap_or(default);
    let tail = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds", 0),
        number("timeoutSeconds", 1),
        number("periodSeconds", 10),
        number("successThreshold", 1),
        number("failureThreshold", 3)
    );
    let shown = |value: &Value| crate::print::cell(value);
    if let Some(get) = probe.get("httpGet") {
        let text = |field: &str| get[field].as_str().unwrap_or_default();
        let scheme = get["scheme"].as_str().unwrap_or("HTTP").to_ascii_lowercase();
        let path = text("path").trim_start_matches('/');
        return format!("http-get {scheme}://{}:{}/{path} {tail}", text("host"), shown(&get["port"]));
    }
    if let Some(socket) = probe.get("tcpSocket") {
        return format!("tcp-socket {}:{} {tail}", socket["host"].as_str().unwrap_or_default(), shown(&socket["port"]));
    }
    if let Some(exec) = probe.get("exec") {
        let words: Vec<&str> = items(&exec["command"]).filter_map(Value::as_str).collect();
        return format!("exec [{}] {tail}", words.join(" "));
    }
    if let Some(grpc) = probe.get("grpc") {
        return format!("grpc <pod>:{} {} {tail}", grpc["port"], grpc["service"].as_str().unwrap_or_default());
    }
    format!("unknown {tail}")
}

fn sources(page: &mut Page, sources: &Value) {
    if items(sources).next().is_none() {
        return;
    }
    page.line("    Environment Variables from:");
    for source in items(sources) {
        let (kind, reference) = match source.get("configMapRef") {
            Some(reference) => ("ConfigMap", reference),
            None => ("Secret", &source["secretRef"]),
        };
        let prefix = source["prefix"].as_str().map(|prefix| format!(" with prefix '{prefix}'")).unwrap_or_default();
        let optional = reference["optional"] == true;
        page.line(format!(
            "      {}\t{kind}{prefix}\tOptional: {optional}",
            reference["name"].as_str().unwrap_or_default()
        ));
    }
}

/// What a variable is; `object` is the pod whose fields it may show, none for a template.
fn environment(env: &Value, container: &Value, pod: Option<&Value>) -> String {
    let from = &env["valueFrom"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // What can't be told here is left empty, as upstream.
    let object = pod.unwrap_or(&Value::Null);
    let told = pod.is_some() || from.get("fieldRef").is_none();
    let value = if told { downward(object, container, from).unwrap_or_default() } else { String::new() };
    if let Some(field) = from.get("fieldRef") {
        return format!("{value} ({}:{})", field["apiVersion"].as_str().unwrap_or("v1"), text(&field["fieldPath"]));
    }
    if let Some(field) = from.get("resourceFieldRef") {
        let resource = text(&field["resource"]);
        let unlimited = value == "0" && ["limits.cpu", "limits.memory"].contains(&resource.as_str());
        return format!("{} ({resource})", if unlimited { "node allocatable".to_owned() } else { value });
    }
    for (name, kind) in [("secretKeyRef", "in secret"), ("configMapKeyRef", "of config map")] {
        if let Some(key) = from.get(name) {
            return format!(
                "<set to the key '{}' {kind} '{}'>\tOptional: {}",
                text(&key["key"]),
                text(&key["name"]),
                key["optional"] == true
            );
        }
    }
    text(&env["value"])
}

/// The value of a `fieldRef` or `resourceFieldRef`, as far as the objects tell it.
pub fn downward(object: &Value, container: &Value, from: &Value) -> Result<String, String> {
    fn read<'a, T: serde::Deserialize<'a>>(value: &'a Value) -> Result<T, String> {
        T::deserialize(value).map_err(|e| e.to_string())
    }
    if let Some(path) = from["fieldRef"]["fieldPath"].as_str() {
        let found = downward::metadata_field(&read(&object["metadata"])?, path);
        return found.unwrap_or_else(|| Err(format!("unsupported fieldPath: {path}")));
    }
    match from.get("resourceFieldRef") {
        Some(selector) => downward::container_resource(&read(container)?, &read(selector)?, &BTreeMap::new()),
        None => Err("invalid valueFrom".to_owned()),
    }
}

pub fn volumes(page: &mut Page, spec: &Value, indent: &str) {
    if items(&spec["volumes"]).next().is_none() {
        page.line(format!("{indent}Volumes:\t<none>"));
        return;
    }
    page.line(format!("{indent}Volumes:"));
    for volume in items(&spec["volumes"]) {
        let inner = if indent.is_empty() { "  " } else { "   " };
        page.line(format!("{inner}{}:", volume["name"].as_str().unwrap_or_default()));
        let Some((kind, source)) = volume.as_object().into_iter().flatten().find(|(key, _)| *key != "name") else {
            continue;
        };
        let title = match kind.as_str() {
            "emptyDir" => "EmptyDir (a temporary directory that shares a pod's lifetime)",
            "configMap" => "ConfigMap (a volume populated by a ConfigMap)",
            "secret" => "Secret (a volume populated by a Secret)",
            "hostPath" => "HostPath (bare host directory volume)",
            "persistentVolumeClaim" => {
                "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)"
            }
            "projected" => "Projected (a volume that contains injected data from multiple sources)",
            "downwardAPI" => "DownwardAPI (a volume populated by information about the pod)",
            other => other,
        };
        page.field("    Type", title);
        let labels: &[(&str, &str)] = match kind.as_str() {
            "emptyDir" => &[("Medium", "medium"), ("SizeLimit", "sizeLimit")],
            "configMap" => &[("Name", "name"), ("Optional", "optional")],
            "secret" => &[("SecretName", "secretName"), ("Optional", "optional")],
            "hostPath" => &[("Path", "path"), ("HostPathType", "type")],
            "persistentVolumeClaim" => &[("ClaimName", "claimName"), ("ReadOnly", "readOnly")],
            _ => &[],
        };
        for (label, field) in labels {
            let value = match &source[*field] {
                Value::Null if *field == "optional" || *field == "readOnly" => "false".to_owned(),
                Value::Null if *field == "sizeLimit" => "<unset>".to_owned(),
                Value::Null => String::new(),
                value => crate::print::cell(value),
            };
            page.field(&format!("    {label}"), value);
        }
        for part in items(&source["sources"]) {
            projected(page, part);
        }
        if kind == "downwardAPI" {
            page.line("    Items:");
        }
        for item in items(&source["items"]).filter(|_| kind == "downwardAPI") {
            let froms = [&item["fieldRef"]["fieldPath"], &item["resourceFieldRef"]["resource"]];
            for from in froms.into_iter().filter_map(Value::as_str) {
                page.line(format!("      {from} -> {}", item["path"].as_str().unwrap_or_default()));
            }
        }
    }
}

fn projected(page: &mut Page, part: &Value) {
    if let Some(token) = part.get("serviceAccountToken") {
        page.field("    TokenExpirationSeconds", token["expirationSeconds"].as_i64().unwrap_or(3600));
    }
    for (kind, label) in [("configMap", "ConfigMapName"), ("secret", "SecretName")] {
        if let Some(source) = part.get(kind) {
            page.field(&format!("    {label}"), source["name"].as_str().unwrap_or_default());
            page.field("    Optional", source["optional"] == true);
        }
    }
    if part.get("downwardAPI").is_some() {
        page.field("    DownwardAPI", true);
    }
}
