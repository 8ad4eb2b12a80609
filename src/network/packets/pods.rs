use std::net::Ipv4Addr;

use skiff_linux::net::netns;

use super::world::{NODE, OUTSIDE, ask, ask_from, cidr, is_refused, on_a_node, serve, tool};
use crate::{Error, HostPort, Network, Protocol};

fn host_port(host_port: u16, host_ip: Ipv4Addr) -> HostPort {
    HostPort { protocol: Protocol::Tcp, host_ip, host_port, container_port: 8080 }
}

#[test]
fn pods_reach_each_other_the_host_and_the_world() {
    on_a_node(|world| async move {
        let network = world.network().await;
        let a = world.pod(&network, "a").await;
        let b = world.pod(&network, "b").await;
        assert_eq!([a.ip, b.ip], [Ipv4Addr::new(10, 42, 0, 2), Ipv4Addr::new(10, 42, 0, 3)]);
        assert_eq!(ask(Some(&a.path), b.ip, 8080).expect("pod to pod"), format!("b {}", a.ip));
        assert_eq!(ask(Some(&a.path), a.ip, 8080).expect("pod to itself"), format!("a {}", a.ip));
        assert_eq!(ask(None, a.ip, 8080).expect("host to pod"), "a 10.42.0.1");
        serve(None, "node", 7070);
        assert_eq!(ask(Some(&a.path), NODE, 7070).expect("pod to host"), format!("node {}", a.ip));
        assert_eq!(
            ask(Some(&a.path), Ipv4Addr::new(10, 42, 0, 1), 7070).expect("to the gateway"),
            format!("node {}", a.ip)
        );
        serve(Some(&world.outside()), "outside", 7070);
        assert_eq!(ask(Some(&a.path), OUTSIDE, 7070).expect("pod to the world"), format!("outside {NODE}"));
        // An address that no pod has.
        let gone = ask(Some(&a.path), Ipv4Addr::new(10, 42, 0, 99), 8080).expect_err("nobody");
        assert_eq!(gone.kind(), std::io::ErrorKind::HostUnreachable, "{gone}");
    });
}

#[test]
fn attach_and_detach_are_idempotent_and_survive_a_restart() {
    on_a_node(|world| async move {
        let network = world.network().await;
        let a = world.pod(&network, "a").await;
        let b = world.pod(&network, "b").await;
        for _ in 0..2 {
            let again = network.attach("a", &a.path, &[]).await.expect("attached again");
            assert_eq!(again, [std::net::IpAddr::from(a.ip)]);
        }
        assert_eq!(ask(Some(&b.path), a.ip, 8080).expect("still there"), format!("a {}", b.ip));
        drop(network);

        let network = world.network().await;
        assert_eq!(ask(Some(&b.path), a.ip, 8080).expect("a restart changes nothing"), format!("a {}", b.ip));
        let again = network.attach("a", &a.path, &[]).await.expect("attached again");
        assert_eq!(again, [std::net::IpAddr::from(a.ip)]);

        for _ in 0..2 {
            network.detach("a").await.expect("detached");
        }
        assert!(ask(Some(&b.path), a.ip, 8080).is_err());
        network.retain(&["b".to_owned()]).await.expect("kept one");
        let links = tool("ip", &["-o", "link"]);
        assert_eq!(links.matches("skf").count(), 1, "{links}");
        assert_eq!(ask(None, b.ip, 8080).expect("b is untouched"), "b 10.42.0.1");
    });
}

#[test]
fn what_a_crash_left_is_mended() {
    on_a_node(|world| async move {
        let network = world.network().await;
        // A plain file in place of the namespace.
        let path = world.pod_path("a");
        std::fs::write(&path, b"").expect("writable");
        let error = network.attach("a", &path, &[]).await.expect_err("no namespace");
        assert!(error.to_string().ends_with("is not a network namespace but a plain file"), "{error}");
        let a = world.pod(&network, "a").await;
        assert_eq!(a.ip, Ipv4Addr::new(10, 42, 0, 3), "the address of the failed attach is not used at once");

        // The sandbox died with its namespace, and its successor has the same name.
        netns::remove(&path).expect("removed");
        let held = world.pod(&network, "a").await;
        assert_eq!(held.ip, a.ip);
        assert_eq!(ask(None, a.ip, 8080).expect("the new one"), "a 10.42.0.1");

        // Only the pod's end of some other pair is there.
        network.detach("a").await.expect("detached");
        network.retain(&[]).await.expect("all gone");
        tool("ip", &["link", "add", "stray", "type", "veth", "peer", "name", "eth0", "netns", &pin(&world, "b")]);
        let b = network.attach("b", &world.pod_path("b"), &[]).await.expect("attached over a stray link");
        serve(Some(&world.pod_path("b")), "b", 8080);
        let std::net::IpAddr::V4(b) = b[0] else { panic!("{b:?}") };
        assert_eq!(ask(None, b, 8080).expect("reached"), "b 10.42.0.1");
    });
}

/// `ip` finds namespaces by name in one directory only.
fn pin(world: &super::world::World, name: &str) -> String {
    netns::create(&world.pod_path(name)).expect("a namespace");
    world.pod_path(name).to_string_lossy().into_owned()
}

#[test]
fn host_ports_lead_to_their_pod() {
    on_a_node(|world| async move {
        let network = world.network().await;
        let any = Ipv4Addr::UNSPECIFIED;
        let ports = [
            host_port(80, any),
            host_port(81, NODE),
            host_port(82, Ipv4Addr::new(192, 168, 77, 9)),
            host_port(83, Ipv4Addr::LOCALHOST),
        ];
        let a = world.pod_with_ports(&network, "a", &ports).await;
        let b = world.pod(&network, "b").await;
        let outside = world.outside();
        assert_eq!(ask(Some(&outside), NODE, 80).expect("from outside"), format!("a {OUTSIDE}"));
        assert_eq!(ask(Some(&outside), NODE, 81).expect("by its address"), format!("a {OUTSIDE}"));
        assert!(is_refused(Some(&outside), NODE, 82), "another address");
        assert_eq!(ask(None, NODE, 80).expect("from the host"), format!("a {NODE}"));
        let answer = ask_from(NODE, Ipv4Addr::LOCALHOST, 83).expect("from the host's address to its loopback");
        assert_eq!(answer, format!("a {NODE}"));
        assert_eq!(ask(Some(&b.path), NODE, 80).expect("from a pod"), format!("a {}", b.ip));
        assert_eq!(ask(Some(&a.path), NODE, 80).expect("from itself"), format!("a {NODE}"));
        let taken = network.attach("c", &world.pod_path("b"), &[host_port(81, any)]).await.expect_err("taken");
        assert_eq!(taken.to_string(), "host port 81/tcp is in use by sandbox a");
        network.detach("a").await.expect("detached");
        assert!(is_refused(Some(&outside), NODE, 80));
    });
}

#[test]
fn remove_all_leaves_no_trace() {
    on_a_node(|world| async move {
        let before = [tool("nft", &["list", "ruleset"]), tool("ip", &["-o", "-br", "link"]), tool("ip", &["route"])];
        let network = world.network().await;
        world.pod_with_ports(&network, "a", &[host_port(80, Ipv4Addr::UNSPECIFIED)]).await;
        assert!(tool("nft", &["list", "ruleset"]).contains("table ip skiff"));
        drop(network);
        for _ in 0..2 {
            Network::remove_all(&world.options.data_directory).await.expect("removed");
        }
        let after = [tool("nft", &["list", "ruleset"]), tool("ip", &["-o", "-br", "link"]), tool("ip", &["route"])];
        assert_eq!(before, after);
        assert!(!world.options.data_directory.join("leases").exists());
    });
}

#[test]
fn wrong_options_are_refused() {
    on_a_node(|world| async move {
        type Change = fn(&mut crate::NetworkOptions);
        let cases: [(Change, &str); 4] = [
            (
                |o| o.pod_cidr = cidr("10.99.0.0/24"),
                "the node's pod network 10.99.0.0/24 is not in the cluster's 10.42.0.0/16",
            ),
            (|o| o.dns_ip = NODE, "the DNS server's address 192.168.77.1 is not in the services' network 10.43.0.0/16"),
            (
                |o| {
                    o.service_cidr = cidr("10.42.128.0/17");
                    o.dns_ip = Ipv4Addr::new(10, 42, 128, 10);
                },
                "the networks of pods 10.42.0.0/16 and of services 10.42.128.0/17 overlap",
            ),
            (|o| o.pod_cidr = cidr("10.42.0.0/31"), "the node's pod network 10.42.0.0/31 is too small"),
        ];
        for (change, message) in cases {
            let mut options = world.options.clone();
            change(&mut options);
            match Network::open(options).await {
                Err(Error::Invalid(text)) => assert_eq!(text, message),
                other => panic!("{message}: {:?}", other.err()),
            }
        }
    });
}
