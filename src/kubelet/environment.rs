//! The environment of a container: services, `envFrom`, `env`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};

use crate::env_file;
use crate::expand::expand;
use crate::fields::{self, Facts};
use crate::pod;

/// The ConfigMaps and Secrets that a pod refers to, as they are now; a missing one is `None`.
pub(crate) trait Objects: Sync {
    fn config_map(&self, name: &str) -> Option<std::sync::Arc<ConfigMap>>;
    fn secret(&self, name: &str) -> Option<std::sync::Arc<Secret>>;
}

/// Why an environment can't be made: `CreateContainerConfigError`'s message.
type Result<T> = std::result::Result<T, String>;

/// All variables of a container in the order in which they are set; names are unique.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    objects: &dyn Objects,
    files: &env_file::Files,
    services: &BTreeMap<String, String>,
) -> Result<Vec<(String, String)>> {
    let mut set = Variables::default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(from) = &source.config_map_ref {
            match objects.config_map(&from.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        set.put(format!("{prefix}{key}"), value.clone());
                    }
                }
                None if from.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", from.name)),
            }
        }
        if let Some(from) = &source.secret_ref {
            match objects.secret(&from.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        set.put(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if from.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", from.name)),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value_from, variable.value.as_deref()) {
            (_, Some(text)) if !text.is_empty() => {
                expand(text, |name| set.get(name).or_else(|| services.get(name).cloned()))
            }
            (Some(source), _) => match source_value(pod, container, facts, objects, files, source)? {
                Some(value) => value,
                None => continue,
            },
            _ => String::new(),
        };
        set.put(variable.name.clone(), value);
    }
    // What the manifest sets goes before what services suggest.
    for (name, value) in services {
        if set.get(name).is_none() {
            set.put(name.clone(), value.clone());
        }
    }
    Ok(set.0)
}

#[derive(Default)]
struct Variables(Vec<(String, String)>);

impl Variables {
    fn get(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
    }

    fn put(&mut self, name: String, value: String) {
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some(entry) => entry.1 = value,
            None => self.0.push((name, value)),
        }
    }
}

/// `None`: optional, and not there.
fn source_value(
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    objects: &dyn Objects,
    files: &env_file::Files,
    source: &EnvVarSource,
) -> Result<Option<String>> {
    if let Some(selector) = &source.field_ref {
        return fields::field(pod, facts, selector).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        return fields::resource(pod, facts, Some(container), selector).map(Some);
    }
    if let Some(selector) = &source.config_map_key_ref {
        let optional = selector.optional == Some(true);
        let Some(map) = objects.config_map(&selector.name) else {
            return if optional { Ok(None) } else { Err(format!("configmap {:?} not found", selector.name)) };
        };
        return match map.data.as_ref().and_then(|d| d.get(&selector.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(format!(
                "couldn't find key {} in ConfigMap {}/{}",
                selector.key,
                pod::namespace(pod),
                selector.name
            )),
        };
    }
    if let Some(selector) = &source.secret_key_ref {
        let optional = selector.optional == Some(true);
        let Some(secret) = objects.secret(&selector.name) else {
            return if optional { Ok(None) } else { Err(format!("secret {:?} not found", selector.name)) };
        };
        return match secret.data.as_ref().and_then(|d| d.get(&selector.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => {
                Err(format!("couldn't find key {} in Secret {}/{}", selector.key, pod::namespace(pod), selector.name))
            }
        };
    }
    if let Some(selector) = &source.file_key_ref {
        let of = (selector.volume_name.clone(), selector.path.clone());
        let text = files.get(&of).ok_or("the file was not read")?.clone()?;
        let value = env_file::value(&text, &selector.key).map_err(|error| {
            tracing::warn!(pod = %pod::format(pod), error, "a file of variables can't be understood");
            "couldn't parse env file".to_owned()
        })?;
        return match value.is_empty() {
            false => Ok(Some(value)),
            true if selector.optional == Some(true) => Ok(None),
            true => Err(format!("environment variable key {:?} not found in file {:?}", selector.key, selector.path)),
        };
    }
    Ok(None)
}

/// The variables that tell a container of the services of its namespace (`enableServiceLinks`), and always of the
/// API server.
pub(crate) fn service_variables<'a>(
    namespace: &str,
    links: bool,
    services: impl IntoIterator<Item = &'a Service>,
) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for service in services {
        let (name, of) = (service.metadata.name.as_deref(), service.metadata.namespace.as_deref());
        let master = name == Some("kubernetes") && of == Some("default");
        // A pod's own namespace may have a service of that name too: it goes first.
        if !(master || links && of == Some(namespace)) {
            continue;
        }
        let mut own = BTreeMap::new();
        one_service(service, &mut own);
        for (key, value) in own {
            if of == Some(namespace) {
                variables.insert(key, value);
            } else {
                variables.entry(key).or_insert(value);
            }
        }
    }
    variables
}

fn one_service(service: &Service, variables: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let prefix = variable_name(service.metadata.name.as_deref().unwrap_or_default());
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    variables.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    variables.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for (index, port) in ports.iter().enumerate() {
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            variables.insert(format!("{prefix}_SERVICE_PORT_{}", variable_name(name)), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let (lower, number) = (protocol.to_lowercase(), port.port);
        let url = format!("{lower}://{host}:{number}");
        if index == 0 {
            variables.insert(format!("{prefix}_PORT"), url.clone());
        }
        let stem = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        variables.insert(format!("{stem}_PROTO"), lower);
        variables.insert(format!("{stem}_PORT"), number.to_string());
        variables.insert(format!("{stem}_ADDR"), ip.to_owned());
        variables.insert(stem, url);
    }
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    struct Fixed;

    impl Objects for Fixed {
        fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
            let map = json!({"metadata": {"name": name}, "data": {"KEY": "from-map", "other.key": "x"}});
            (name == "map").then(|| Arc::new(serde_json::from_value(map).expect("a ConfigMap")))
        }

        fn secret(&self, name: &str) -> Option<Arc<Secret>> {
            let secret = json!({"metadata": {"name": name}, "data": {"password": "c2VjcmV0"}});
            (name == "secret").then(|| Arc::new(serde_json::from_value(secret).expect("a Secret")))
        }
    }

    fn run(container: serde_json::Value) -> Result<Vec<(String, String)>> {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [container]}}),
        )
        .expect("a pod");
        let facts = Facts {
            host_ip: "192.0.2.1".parse().expect("an address"),
            pod_ips: vec!["10.42.0.7".parse().expect("an address")],
            allocatable: BTreeMap::new(),
        };
        let services = [("SVC_SERVICE_HOST".to_owned(), "10.43.0.9".to_owned())].into();
        environment(&pod, &pod::spec(&pod).containers[0], &facts, &Fixed, &Default::default(), &services)
    }

    #[test]
    fn variables() {
        let svc = ("SVC_SERVICE_HOST", "10.43.0.9");
        for (container, expected) in [
            (json!({"name": "c"}), Ok(vec![svc])),
            (
                json!({"name": "c", "env": [
                    {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(SVC_SERVICE_HOST)$(C)"}, {"name": "A", "value": "2"}, {"name": "E"}]}),
                Ok(vec![("A", "2"), ("B", "110.43.0.9$(C)"), ("E", ""), svc]),
            ),
            (
                json!({"name": "c", "envFrom": [{"prefix": "P_", "configMapRef": {"name": "map"}}, {"secretRef": {"name": "secret"}}],
                    "env": [{"name": "P_KEY", "value": "mine"}, {"name": "SVC_SERVICE_HOST", "value": "override"}]}),
                Ok(vec![
                    ("P_KEY", "mine"),
                    ("P_other.key", "x"),
                    ("password", "secret"),
                    ("SVC_SERVICE_HOST", "override"),
                ]),
            ),
            (
                json!({"name": "c", "env": [
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "M", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "KEY"}}},
                    {"name": "S", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "password"}}},
                    {"name": "O", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": true}}}]}),
                Ok(vec![("IP", "10.42.0.7"), ("M", "from-map"), ("S", "secret"), svc]),
            ),
            (
                json!({"name": "c", "env": [{"name": "M", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k"}}}]}),
                Err("configmap \"none\" not found"),
            ),
            (
                json!({"name": "c", "env": [{"name": "M", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "k"}}}]}),
                Err("couldn't find key k in Secret n/secret"),
            ),
            (json!({"name": "c", "envFrom": [{"secretRef": {"name": "none"}}]}), Err("secret \"none\" not found")),
        ] {
            let expected = expected
                .map(|v| v.into_iter().map(|(a, b)| (a.to_owned(), b.to_owned())).collect::<Vec<_>>())
                .map_err(str::to_owned);
            assert_eq!(run(container.clone()), expected, "{container}");
        }
    }

    #[test]
    fn services_of_the_namespace_and_the_api_server() {
        let service = |namespace: &str, name: &str, ip: &str| -> Service {
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace},
                "spec": {"clusterIP": ip, "ports": [{"name": "web-1", "port": 80}, {"port": 53, "protocol": "UDP"}]}}))
            .expect("a Service")
        };
        let all = [
            service("n", "my-app", "10.43.0.5"),
            service("n", "headless", "None"),
            service("other", "far", "10.43.0.6"),
            service("default", "kubernetes", "10.43.0.1"),
        ];
        let found = service_variables("n", true, &all);
        for (name, value) in [
            ("MY_APP_SERVICE_HOST", "10.43.0.5"),
            ("MY_APP_SERVICE_PORT", "80"),
            ("MY_APP_SERVICE_PORT_WEB_1", "80"),
            ("MY_APP_PORT", "tcp://10.43.0.5:80"),
            ("MY_APP_PORT_80_TCP", "tcp://10.43.0.5:80"),
            ("MY_APP_PORT_80_TCP_PROTO", "tcp"),
            ("MY_APP_PORT_80_TCP_PORT", "80"),
            ("MY_APP_PORT_80_TCP_ADDR", "10.43.0.5"),
            ("MY_APP_PORT_53_UDP", "udp://10.43.0.5:53"),
            ("KUBERNETES_SERVICE_HOST", "10.43.0.1"),
        ] {
            assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!found.keys().any(|k| k.starts_with("FAR") || k.starts_with("HEADLESS")), "{found:?}");
        assert!(service_variables("n", false, &all).keys().all(|k| k.starts_with("KUBERNETES")));
    }
}
