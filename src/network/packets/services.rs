use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::world::{
    NODE, OUTSIDE, Pod, UdpClient, World, ask, cidr, is_refused, is_silent, on_a_node, serve, serve_at, tool,
};
use crate::{Endpoint, Network, Protocol, ServicePort, ServiceRules};

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 20);
const EXTERNAL_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const NODE_PORT: u16 = 30080;

fn service(endpoints: &[Endpoint]) -> ServicePort {
    ServicePort {
        protocol: Protocol::Tcp,
        cluster_ips: vec![CLUSTER_IP.into()],
        external_ips: vec![EXTERNAL_IP.into()],
        port: 80,
        node_port: Some(NODE_PORT),
        endpoints: endpoints.to_vec(),
        local_endpoints: endpoints.to_vec(),
        internal_local: false,
        external_local: false,
        affinity_s: None,
        source_ranges: vec![],
    }
}

fn local(pod: &Pod) -> Endpoint {
    Endpoint { ip: pod.ip, port: 8080 }
}

async fn apply(network: &Network, services: &[(&str, ServicePort)]) {
    let services = services.iter().map(|(name, service)| ((*name).to_owned(), service.clone())).collect();
    network.apply_services(ServiceRules { services }).await.expect("applied");
}

/// Which servers answer, out of enough tries to see three of them.
fn answers(from: Option<&Path>, ip: Ipv4Addr, port: u16) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..40 {
        let answer = ask(from, ip, port).expect("an answer");
        *seen.entry(answer.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    seen
}

fn names(seen: &BTreeMap<String, usize>) -> BTreeSet<&str> {
    seen.keys().map(String::as_str).collect()
}

async fn three(world: &World, network: &Network) -> [Pod; 3] {
    [world.pod(network, "a").await, world.pod(network, "b").await, world.pod(network, "c").await]
}

fn out(world: &World) -> std::path::PathBuf {
    world.route_outside(cidr("10.43.0.0/16"));
    world.route_outside(cidr("203.0.113.0/24"));
    world.outside()
}

#[test]
fn every_way_in_spreads_over_all_endpoints() {
    on_a_node(|world| async move {
        let network = world.network().await;
        let pods = three(&world, &network).await;
        apply(&network, &[("default/web:", service(&[local(&pods[0]), local(&pods[1]), local(&pods[2])]))]).await;
        let outside = out(&world);
        let ways: [(&str, Option<&Path>, Ipv4Addr, u16); 8] = [
            ("host to cluster IP", None, CLUSTER_IP, 80),
            ("pod to cluster IP", Some(&pods[0].path), CLUSTER_IP, 80),
            ("outside to cluster IP", Some(&outside), CLUSTER_IP, 80),
            ("host to node port", None, NODE, NODE_PORT),
            ("pod to node port", Some(&pods[0].path), NODE, NODE_PORT),
            ("outside to node port", Some(&outside), NODE, NODE_PORT),
            ("pod to external IP", Some(&pods[0].path), EXTERNAL_IP, 80),
            ("outside to external IP", Some(&outside), EXTERNAL_IP, 80),
        ];
        for (way, from, ip, port) in ways {
            let seen = answers(from, ip, port);
            assert_eq!(names(&seen), BTreeSet::from(["a", "b", "c"]), "{way}: {seen:?}");
        }
        // A port that the service does not have, and an address that no service has.
        assert!(is_refused(Some(&pods[0].path), CLUSTER_IP, 81));
        assert!(is_refused(None, CLUSTER_IP, 81));
        assert!(is_silent(Some(&pods[0].path), Ipv4Addr::new(10, 43, 9, 9), 80));
        // The tool reads everything that was written.
        let listed = tool("nft", &["list", "ruleset"]);
        assert!(listed.contains("10.43.0.20 . tcp . 80 : goto spread-3"), "{listed}");
        assert!(!listed.contains("[invalid"), "{listed}");
    });
}

#[test]
fn the_host_may_be_an_endpoint_and_lend_its_address() {
    on_a_node(|world| async move {
        let network = world.network().await;
        let a = world.pod(&network, "a").await;
        let outside = out(&world);
        serve(None, "host", 6443);
        let endpoints = [Endpoint { ip: NODE, port: 6443 }];
        apply(&network, &[("default/kubernetes:https", service(&endpoints))]).await;
        let host = BTreeSet::from(["host"]);
        for (from, ip, port) in [
            (None, CLUSTER_IP, 80),
            (Some(&a.path), CLUSTER_IP, 80),
            (Some(&outside), CLUSTER_IP, 80),
            (None, NODE, NODE_PORT),
            (Some(&a.path), NODE, NODE_PORT),
            (Some(&outside), NODE, NODE_PORT),
        ] {
            assert_eq!(names(&answers(from.map(|p| p.as_path()), ip, port)), host, "{from:?} {ip} {port}");
        }

        // A load balancer's address is the node's own.
        let balanced = ServicePort { external_ips: vec![NODE.into()], ..service(&[local(&a)]) };
        apply(&network, &[("default/web:", balanced.clone())]).await;
        for from in [None, Some(&a.path), Some(&outside)] {
            let seen = answers(from.map(|p| p.as_path()), NODE, 80);
            assert_eq!(names(&seen), BTreeSet::from(["a"]), "{from:?}");
        }
        let empty = ServicePort { endpoints: vec![], local_endpoints: vec![], ..balanced };
        apply(&network, &[("default/web:", empty)]).await;
        assert!(is_refused(Some(&outside), NODE, 80));
    });
}

#[test]
fn who_sees_which_source() {
    on_a_node(|world| async move {
        let network = world.network().await;
        let a = world.pod(&network, "a").await;
        let b = world.pod(&network, "b").await;
        apply(&network, &[("default/web:", service(&[local(&a)]))]).await;
        let outside = out(&world);
        let node = format!("a {NODE}");
        assert_eq!(ask(Some(&b.path), CLUSTER_IP, 80).expect("a pod"), format!("a {}", b.ip));
        assert_eq!(ask(None, CLUSTER_IP, 80).expect("the host"), "a 10.42.0.1");
        assert_eq!(ask(Some(&a.path), CLUSTER_IP, 80).expect("a hairpin"), node);
        assert_eq!(ask(Some(&outside), CLUSTER_IP, 80).expect("a stranger"), node);
        assert_eq!(ask(Some(&outside), NODE, NODE_PORT).expect("by the node port"), node);

        // With externalTrafficPolicy Local the source is preserved.
        let preserving = ServicePort { external_local: true, ..service(&[local(&a)]) };
        apply(&network, &[("default/web:", preserving)]).await;
        assert_eq!(ask(Some(&outside), NODE, NODE_PORT).expect("outside"), format!("a {OUTSIDE}"));
        assert_eq!(ask(Some(&outside), EXTERNAL_IP, 80).expect("outside"), format!("a {OUTSIDE}"));
        assert_eq!(ask(Some(&b.path), NODE, NODE_PORT).expect("a pod"), format!("a {}", b.ip));
        assert_eq!(ask(None, NODE, NODE_PORT).expect("the host"), node);
    });
}

#[test]
fn traffic_policies_choose_among_local_endpoints() {
    on_a_node(|world| async move {
        let network = world.network().await;
        let pods = three(&world, &network).await;
        let client = world.pod(&network, "client").await;
        // As if b and c were on another node.
        let mixed = [local(&pods[1]), local(&pods[0]), local(&pods[2])];
        let local_endpoints = vec![local(&pods[0])];
        let service = ServicePort { internal_local: true, external_local: true, local_endpoints, ..service(&mixed) };
        apply(&network, &[("default/web:", service.clone())]).await;
        let outside = out(&world);
        assert_eq!(names(&answers(Some(&client.path), CLUSTER_IP, 80)), BTreeSet::from(["a"]));
        assert_eq!(names(&answers(Some(&outside), NODE, NODE_PORT)), BTreeSet::from(["a"]));
        // For pods and the host, an external way is as good as the cluster IP of an ordinary service.
        assert_eq!(names(&answers(Some(&client.path), NODE, NODE_PORT)), BTreeSet::from(["a", "b", "c"]));
        assert_eq!(names(&answers(None, NODE, NODE_PORT)), BTreeSet::from(["a", "b", "c"]));

        // No local one: silence, so that load balancers notice. None at all: a refusal.
        let (endpoints, local_endpoints) = (vec![local(&pods[1])], vec![]);
        apply(&network, &[("default/web:", ServicePort { endpoints, local_endpoints, ..service.clone() })]).await;
        assert!(is_silent(Some(&client.path), CLUSTER_IP, 80));
        assert!(is_silent(Some(&outside), NODE, NODE_PORT));
        assert_eq!(names(&answers(Some(&client.path), NODE, NODE_PORT)), BTreeSet::from(["b"]));
        apply(&network, &[("default/web:", ServicePort { endpoints: vec![], local_endpoints: vec![], ..service })])
            .await;
        for (from, ip, port) in [
            (Some(&client.path), CLUSTER_IP, 80),
            (None, CLUSTER_IP, 80),
            (Some(&outside), NODE, NODE_PORT),
            (Some(&client.path), NODE, NODE_PORT),
            (Some(&outside), EXTERNAL_IP, 80),
        ] {
            assert!(is_refused(from.map(|p| p.as_path()), ip, port), "{from:?} {ip} {port}");
        }
    });
}

#[test]
fn affinity_keeps_a_client_at_its_endpoint() {
    on_a_node(|world| async move {
        let network = world.network().await;
        let pods = three(&world, &network).await;
        let endpoints: Vec<Endpoint> = pods.iter().map(local).collect();
        let service = ServicePort { affinity_s: Some(600), ..service(&endpoints) };
        apply(&network, &[("default/web:", service.clone())]).await;
        let outside = out(&world);
        let first = answers(Some(&outside), NODE, NODE_PORT);
        assert_eq!(first.len(), 1, "{first:?}");
        assert_eq!(answers(Some(&outside), EXTERNAL_IP, 80), first, "the same client by another way");
        let pod = answers(Some(&pods[0].path), CLUSTER_IP, 80);
        assert_eq!(pod.len(), 1, "{pod:?}");

        // Another endpoint goes: nothing changes. The client's one goes: it moves, once.
        let keep = first.keys().next().expect("one").as_str();
        let index = ["a", "b", "c"].iter().position(|name| *name == keep).expect("one of them");
        let without = |gone: usize| {
            let endpoints = endpoints.iter().enumerate().filter(|(i, _)| *i != gone).map(|(_, e)| *e).collect();
            ServicePort { endpoints, ..service.clone() }
        };
        apply(&network, &[("default/web:", without((index + 1) % 3))]).await;
        assert_eq!(answers(Some(&outside), NODE, NODE_PORT), first);
        apply(&network, &[("default/web:", without(index))]).await;
        let moved = answers(Some(&outside), NODE, NODE_PORT);
        assert!(moved.len() == 1 && moved != first, "{moved:?}");
        let listed = tool("nft", &["list", "ruleset"]);
        assert!(!listed.contains(&format!("{}-8080", pods[index].ip)), "{listed}");
    });
}

#[test]
fn udp_clients_leave_an_endpoint_that_is_gone() {
    on_a_node(|world| async move {
        let network = world.network().await;
        let pods = three(&world, &network).await;
        let udp = |pods: &[&Pod]| ServicePort {
            protocol: Protocol::Udp,
            ..service(&pods.iter().map(|p| local(p)).collect::<Vec<_>>())
        };
        apply(&network, &[("default/dns:", udp(&[&pods[0]]))]).await;
        let outside = out(&world);
        let clients = [
            (UdpClient::new(None), CLUSTER_IP, 80),
            (UdpClient::new(Some(&pods[2].path)), CLUSTER_IP, 80),
            (UdpClient::new(Some(&outside)), NODE, NODE_PORT),
        ];
        for (client, ip, port) in &clients {
            assert!(client.ask(*ip, *port).expect("an answer").starts_with("a "), "{ip}:{port}");
        }
        apply(&network, &[("default/dns:", udp(&[&pods[0], &pods[1]]))]).await;
        for (client, ip, port) in &clients {
            assert!(
                client.ask(*ip, *port).expect("an answer").starts_with("a "),
                "one more changes nothing for {ip}:{port}"
            );
        }
        apply(&network, &[("default/dns:", udp(&[&pods[1]]))]).await;
        for (client, ip, port) in &clients {
            assert!(client.ask(*ip, *port).expect("an answer").starts_with("b "), "{ip}:{port}");
        }
    });
}

#[test]
fn source_ranges_keep_others_out() {
    on_a_node(|world| async move {
        let network = world.network().await;
        let a = world.pod(&network, "a").await;
        let outside = out(&world);
        let ranged = |range| ServicePort { source_ranges: vec![cidr(range)], ..service(&[local(&a)]) };
        apply(&network, &[("default/web:", ranged("192.168.77.0/24"))]).await;
        assert!(ask(Some(&outside), EXTERNAL_IP, 80).is_ok());
        apply(&network, &[("default/web:", ranged("192.168.78.0/24"))]).await;
        assert!(is_silent(Some(&outside), EXTERNAL_IP, 80));
        assert!(ask(Some(&outside), CLUSTER_IP, 80).is_ok(), "ranges are about external addresses");
    });
}

#[test]
fn services_outlive_this_process_and_changes_during_traffic() {
    on_a_node(|world| async move {
        let network = world.network().await;
        let pods = three(&world, &network).await;
        let with = |pods: &[&Pod]| service(&pods.iter().map(|p| local(p)).collect::<Vec<_>>());
        apply(&network, &[("default/web:", with(&[&pods[0], &pods[1]]))]).await;
        drop(network);
        let network = world.network().await;
        assert_eq!(names(&answers(None, CLUSTER_IP, 80)), BTreeSet::from(["a", "b"]), "the old rules serve");
        let d = world.pod(&network, "d").await;
        assert!(ask(Some(&d.path), d.ip, 8080).is_ok());

        // A client that asks all the time never fails while the endpoints come and go.
        let stop = Arc::new(AtomicBool::new(false));
        let (path, until) = (pods[2].path.clone(), stop.clone());
        let client = std::thread::spawn(move || {
            let mut asked = 0;
            while !until.load(Relaxed) {
                ask(Some(&path), CLUSTER_IP, 80).expect("an answer");
                asked += 1;
            }
            asked
        });
        for round in 0..60 {
            let set: Vec<&Pod> = (0..=round % 3).map(|i| &pods[(i + round) % 3]).collect();
            apply(&network, &[("default/web:", with(&set))]).await;
        }
        stop.store(true, Relaxed);
        let asked = client.join().expect("no request failed");
        assert!(asked > 0);
    });
}

/// How many messages the kernel gets is told by how much of the rule set changes; so its handles are looked at.
fn rules_with_handles() -> String {
    tool("nft", &["-a", "list", "table", "ip", "skiff"])
}

#[test]
fn a_restart_changes_only_what_has_changed() {
    on_a_node(|world| async move {
        let network = world.network().await;
        let pods = three(&world, &network).await;
        let with = |pods: &[&Pod]| service(&pods.iter().map(|p| local(p)).collect::<Vec<_>>());
        let affine = |pods: &[&Pod]| ServicePort {
            affinity_s: Some(600),
            cluster_ips: vec![Ipv4Addr::new(10, 43, 0, 30).into()],
            external_ips: vec![],
            node_port: Some(30081),
            ..with(pods)
        };
        let udp = |pods: &[&Pod]| ServicePort { protocol: Protocol::Udp, ..with(pods) };
        let all = |pods: &[&Pod]| [("d/dns:", udp(pods)), ("d/kept:", affine(pods)), ("d/web:", with(pods))];
        let [a, b, c] = &pods;
        apply(&network, &all(&[a, b])).await;
        let client = UdpClient::new(Some(&c.path));
        let kept = answers(Some(&c.path), Ipv4Addr::new(10, 43, 0, 30), 80);
        let first = client.ask(CLUSTER_IP, 80).expect("an answer");
        let before = rules_with_handles();
        drop(network);

        let network = world.network().await;
        apply(&network, &all(&[a, b])).await;
        let chains = |text: &str| -> Vec<String> {
            // The rules of affinity are written anew, the chains and their clients stay.
            let own =
                |line: &&str| line.contains("handle") && !line.contains("10.42.0.") && !line.contains("goto service-");
            text.lines().filter(own).map(str::to_owned).collect()
        };
        assert_eq!(chains(&rules_with_handles()), chains(&before), "nothing was made anew");
        assert_eq!(answers(Some(&c.path), Ipv4Addr::new(10, 43, 0, 30), 80), kept, "clients keep their endpoint");
        assert_eq!(client.ask(CLUSTER_IP, 80).expect("an answer"), first);
        drop(network);

        // Meanwhile an endpoint and a service went away, and an endpoint came.
        let network = world.network().await;
        let gone = if first.starts_with("a ") { a } else { b };
        let left = if first.starts_with("a ") { [b, c] } else { [a, c] };
        apply(&network, &[all(&left)[0].clone(), all(&left)[2].clone()]).await;
        assert!(!rules_with_handles().contains(&format!(": {} . 8080", gone.ip)));
        assert!(!rules_with_handles().contains("10.43.0.30"));
        assert!(!rules_with_handles().contains("clients-"));
        assert_eq!(answers(None, CLUSTER_IP, 80).len(), 2);
        assert!(ask(Some(&gone.path), gone.ip, 8080).is_ok());
        let moved = client.ask(CLUSTER_IP, 80).expect("an answer");
        assert_ne!(moved.split(' ').next(), first.split(' ').next(), "UDP clients leave the endpoint that is gone");
        apply(&network, &all(&left)).await;
        assert_eq!(answers(Some(&a.path), Ipv4Addr::new(10, 43, 0, 30), 80).len(), 1);
    });
}

#[test]
fn two_services_with_one_address_do_not_break_the_others() {
    on_a_node(|world| async move {
        let network = world.network().await;
        let a = world.pod(&network, "a").await;
        let b = world.pod(&network, "b").await;
        let other = ServicePort { cluster_ips: vec![Ipv4Addr::new(10, 43, 0, 21).into()], ..service(&[local(&b)]) };
        apply(&network, &[("default/a:", service(&[local(&a)])), ("default/b:", other.clone())]).await;
        let outside = out(&world);
        assert_eq!(names(&answers(Some(&outside), EXTERNAL_IP, 80)), BTreeSet::from(["a"]), "the first one has it");
        assert_eq!(names(&answers(None, Ipv4Addr::new(10, 43, 0, 21), 80)), BTreeSet::from(["b"]));
        apply(&network, &[("default/b:", other)]).await;
        assert_eq!(names(&answers(Some(&outside), EXTERNAL_IP, 80)), BTreeSet::from(["b"]), "then the second one");
        assert_eq!(names(&answers(Some(&outside), NODE, NODE_PORT)), BTreeSet::from(["b"]));
    });
}

#[test]
fn the_node_answers_names_itself_also_on_another_port() {
    on_a_node(|world| async move {
        let network = world.network().await;
        let a = world.pod(&network, "a").await;
        let dns = world.options.dns_ip;
        serve(None, "names", 53);
        // An object of the API with the same address changes nothing.
        let shadow = ServicePort { cluster_ips: vec![dns.into()], port: 53, ..service(&[]) };
        apply(&network, &[("kube-system/kube-dns:dns", shadow)]).await;
        assert_eq!(ask(Some(&a.path), dns, 53).expect("a pod"), format!("names {}", a.ip));
        assert!(ask(None, dns, 53).expect("the host").starts_with("names "));

        serve_at(None, dns, "elsewhere", 10053);
        network.set_dns_port(10053).await.expect("set");
        assert_eq!(ask(Some(&a.path), dns, 53).expect("a pod"), format!("elsewhere {}", a.ip));
        assert!(ask(None, dns, 53).expect("the host").starts_with("elsewhere "));
        assert!(UdpClient::new(Some(&a.path)).ask(dns, 53).expect("by UDP").starts_with("elsewhere "));
        network.set_dns_port(53).await.expect("set");
        assert!(ask(Some(&a.path), dns, 53).expect("a pod").starts_with("names "));
    });
}
