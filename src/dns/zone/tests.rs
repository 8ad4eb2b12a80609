use serde_json::{Value, json};

use super::*;
use crate::wire::{CNAME, NS, PTR, SOA, TXT};

/// Services and slices as they are written in manifests.
struct Objects {
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
}

impl Objects {
    fn new() -> Self {
        let service = |name: &str, spec: Value| {
            let object = json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
            Arc::new(serde_json::from_value(object).expect("a service"))
        };
        let http = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        let services = vec![
            service("web", json!({"clusterIP": "10.43.0.20", "clusterIPs": ["10.43.0.20", "fd00::20"], "ports": http})),
            service(
                "set",
                json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "http", "port": 80}]}),
            ),
            service("empty", json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": []})),
            service("out", json!({"type": "ExternalName", "externalName": "Example.ORG."})),
            service("in", json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"})),
            service("address", json!({"type": "ExternalName", "externalName": "192.0.2.7"})),
        ];
        let slice = |service: &str, endpoints: Value| {
            let object = json!({
                "metadata": {"namespace": "default", "name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
                "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
            });
            Arc::new(serde_json::from_value(object).expect("a slice"))
        };
        let slices = vec![
            slice("web", json!([{"addresses": ["10.42.0.9"]}])),
            slice(
                "set",
                json!([
                    {"addresses": ["10.42.0.5"], "hostname": "set-0", "conditions": {"ready": true}},
                    {"addresses": ["10.42.0.6"], "conditions": {"ready": true}},
                    {"addresses": ["10.42.0.7"], "hostname": "set-2", "conditions": {"ready": false}},
                ]),
            ),
            slice("empty", json!([{"addresses": ["10.42.0.8"], "conditions": {"ready": false}}])),
        ];
        Self { services, slices }
    }
}

fn name_of(slice: &EndpointSlice) -> &str {
    &slice.metadata.labels.as_ref().expect("labels")["kubernetes.io/service-name"]
}

impl Source for Objects {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        let is_it = |s: &&Arc<Service>| namespace == "default" && s.metadata.name.as_deref() == Some(name);
        self.services.iter().find(is_it).cloned()
    }

    fn slices(&self, namespace: &str, name: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices.iter().filter(|s| namespace == "default" && name_of(s) == name).cloned().collect()
    }

    fn has_namespace(&self, name: &str) -> bool {
        name == "default"
    }

    fn services_at(&self, ip: IpAddr) -> Vec<Arc<Service>> {
        let has = |s: &&Arc<Service>| {
            let ips = s.spec.as_ref().and_then(|spec| spec.cluster_ips.clone()).unwrap_or_default();
            ips.contains(&ip.to_string())
        };
        self.services.iter().filter(has).cloned().collect()
    }

    fn slices_at(&self, ip: IpAddr) -> Vec<Arc<EndpointSlice>> {
        let has = |s: &&Arc<EndpointSlice>| s.endpoints.iter().flatten().any(|e| e.addresses.contains(&ip.to_string()));
        self.slices.iter().filter(has).cloned().collect()
    }

    fn service_of(&self, slice: &EndpointSlice) -> Option<Arc<Service>> {
        self.service("default", name_of(slice))
    }
}

fn zone() -> Zone {
    let networks = ["10.43.0.0/16", "10.42.0.0/16"].map(|n| n.parse().expect("a network"));
    Zone::new("cluster.local.", "10.43.0.10".parse().expect("an address"), networks.to_vec())
}

/// An answer as `code: records`, the additional ones after `+`.
fn show(found: &Found) -> String {
    let data = |record: &Record| match &record.data {
        Data::A(ip) => ip.to_string(),
        Data::Aaaa(ip) => ip.to_string(),
        Data::Cname(name) | Data::Ns(name) | Data::Ptr(name) | Data::Txt(name) => name.clone(),
        Data::Srv { weight, port, target, .. } => format!("{weight} {port} {target}"),
        Data::Soa { server, .. } => server.clone(),
    };
    let list = |records: &[Record]| {
        let mut texts: Vec<String> = records.iter().map(data).collect();
        texts.sort();
        texts.join(", ")
    };
    match found {
        Found::Elsewhere => "elsewhere".to_owned(),
        Found::Alias { target, .. } => format!("alias {target}"),
        Found::Answer(answer) => {
            assert!(answer.authoritative);
            // An answer without records tells how long to remember that.
            assert_eq!(answer.answers.is_empty(), answer.authorities.iter().any(|r| r.data.kind() == SOA));
            let more =
                if answer.additionals.is_empty() { String::new() } else { format!(" + {}", list(&answer.additionals)) };
            format!("{:?}: {}{more}", answer.code, list(&answer.answers)).trim_end().to_owned()
        }
    }
}

#[test]
fn the_specification() {
    let none = "NameError:";
    let empty = "NoError:";
    let cases = [
        // Services with an address.
        ("web.default.svc.cluster.local", A, "NoError: 10.43.0.20"),
        ("web.default.svc.cluster.local", AAAA, "NoError: fd00::20"),
        ("web.default.svc.cluster.local", TXT, empty),
        (
            "web.default.svc.cluster.local",
            ANY,
            "NoError: 10.43.0.20, 100 53 web.default.svc.cluster.local, 100 80 web.default.svc.cluster.local, fd00::20",
        ),
        (
            "_http._tcp.web.default.svc.cluster.local",
            SRV,
            "NoError: 100 80 web.default.svc.cluster.local + 10.43.0.20, fd00::20",
        ),
        (
            "_dns._udp.web.default.svc.cluster.local",
            SRV,
            "NoError: 100 53 web.default.svc.cluster.local + 10.43.0.20, fd00::20",
        ),
        ("_http._udp.web.default.svc.cluster.local", SRV, none),
        ("_http._tcp.web.default.svc.cluster.local", A, empty),
        ("_tcp.web.default.svc.cluster.local", SRV, empty),
        ("http.tcp.web.default.svc.cluster.local", SRV, none),
        // Headless services.
        ("set.default.svc.cluster.local", A, "NoError: 10.42.0.5, 10.42.0.6"),
        ("set.default.svc.cluster.local", AAAA, empty),
        ("set-0.set.default.svc.cluster.local", A, "NoError: 10.42.0.5"),
        ("10-42-0-6.set.default.svc.cluster.local", A, "NoError: 10.42.0.6"),
        ("set-2.set.default.svc.cluster.local", A, none),
        (
            "_http._tcp.set.default.svc.cluster.local",
            SRV,
            "NoError: 50 8080 10-42-0-6.set.default.svc.cluster.local, 50 8080 set-0.set.default.svc.cluster.local + 10.42.0.5, 10.42.0.6",
        ),
        ("empty.default.svc.cluster.local", A, none),
        // Aliases.
        ("out.default.svc.cluster.local", A, "alias example.org"),
        ("out.default.svc.cluster.local", AAAA, "alias example.org"),
        ("out.default.svc.cluster.local", CNAME, "NoError: example.org"),
        ("out.default.svc.cluster.local", TXT, empty),
        ("in.default.svc.cluster.local", A, "alias web.default.svc.cluster.local"),
        ("address.default.svc.cluster.local", A, "NoError: 192.0.2.7"),
        // Pods.
        ("10-42-0-5.default.pod.cluster.local", A, "NoError: 10.42.0.5"),
        ("fd00--5.default.pod.cluster.local", AAAA, "NoError: fd00::5"),
        ("10-42-0-5.default.pod.cluster.local", AAAA, empty),
        ("nonsense.default.pod.cluster.local", A, none),
        // The zone itself, and names that only others are below.
        ("cluster.local", SOA, "NoError: ns.dns.cluster.local"),
        ("cluster.local", NS, "NoError: ns.dns.cluster.local"),
        ("cluster.local", A, empty),
        ("ns.dns.cluster.local", A, "NoError: 10.43.0.10"),
        ("dns-version.cluster.local", TXT, "NoError: 1.1.0"),
        ("svc.cluster.local", A, empty),
        ("default.svc.cluster.local", A, empty),
        ("default.pod.cluster.local", A, empty),
        // What is not there; the search path of a pod leads here all the time.
        ("gone.default.svc.cluster.local", A, none),
        ("web.other.svc.cluster.local", A, none),
        ("other.svc.cluster.local", A, none),
        ("example.org.default.svc.cluster.local", A, none),
        ("a.b.c.web.default.svc.cluster.local", A, none),
        ("example.org.svc.cluster.local", A, none),
        ("example.org.cluster.local", AAAA, none),
        // Back from an address.
        ("20.0.43.10.in-addr.arpa", PTR, "NoError: web.default.svc.cluster.local"),
        ("20.0.43.10.in-addr.arpa", A, empty),
        ("5.0.42.10.in-addr.arpa", PTR, "NoError: set-0.set.default.svc.cluster.local"),
        ("6.0.42.10.in-addr.arpa", PTR, "NoError: 10-42-0-6.set.default.svc.cluster.local"),
        ("9.0.42.10.in-addr.arpa", PTR, none),
        ("7.0.42.10.in-addr.arpa", PTR, none),
        // Others' names.
        ("8.8.8.8.in-addr.arpa", PTR, "elsewhere"),
        ("43.10.in-addr.arpa", PTR, "elsewhere"),
        ("example.org", A, "elsewhere"),
        ("local", A, "elsewhere"),
        ("notcluster.local", A, "elsewhere"),
        ("", NS, "elsewhere"),
    ];
    let (zone, objects) = (zone(), Objects::new());
    for (name, kind, expect) in cases {
        let labels: Vec<String> = name.split('.').filter(|l| !l.is_empty()).map(str::to_owned).collect();
        assert_eq!(show(&zone.find(&objects, &labels, kind)), expect, "{name} {kind}");
    }
}

#[test]
fn each_member_is_the_first_in_its_turn() {
    let (zone, objects) = (zone(), Objects::new());
    let labels: Vec<String> = "set.default.svc.cluster.local".split('.').map(str::to_owned).collect();
    let first = || match zone.find(&objects, &labels, A) {
        Found::Answer(answer) => answer.answers[0].data.clone(),
        other => panic!("{other:?}"),
    };
    assert_ne!(first(), first());
}
