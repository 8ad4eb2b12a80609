use std::net::Ipv4Addr;

use tokio_util::sync::CancellationToken;

use super::world::{NODE, OUTSIDE, ask, eventually, is_silent, on_a_node, serve, tool};
use crate::rules::Features;
use crate::{Endpoint, HostPort, Network, Protocol, ServicePort, ServiceRules};

/// Does what it is told beside the keeper.
async fn kept<F: Future<Output = ()>>(network: &Network, test: F) {
    let stop = CancellationToken::new();
    tokio::join!(network.keep(stop.clone()), async {
        test.await;
        stop.cancel();
    });
}

fn services(ip: Ipv4Addr, port: u16, endpoints: &[Endpoint]) -> ServiceRules {
    let service = ServicePort {
        protocol: Protocol::Tcp,
        cluster_ips: vec![ip.into()],
        external_ips: vec![],
        port,
        node_port: None,
        endpoints: endpoints.to_vec(),
        local_endpoints: vec![],
        internal_local: false,
        external_local: false,
        affinity_s: None,
        source_ranges: vec![],
    };
    ServiceRules { services: [("default/kubernetes:https".to_owned(), service)].into() }
}

fn ruleset() -> String {
    tool("nft", &["list", "ruleset"])
}

#[test]
fn a_flush_is_seen_and_mended() {
    on_a_node(|world| async move {
        let network = world.network().await;
        let a = world.pod(&network, "a").await;
        network.apply_services(crate::ServiceRules::default()).await.expect("applied");
        serve(Some(&world.outside()), "outside", 7070);
        let before = ruleset();
        kept(&network, async {
            // So that the keeper listens.
            tokio::task::yield_now().await;
            for spoil in [
                &["flush", "ruleset"][..],
                &["delete", "table", "ip", "skiff"],
                &["flush", "table", "ip", "skiff"],
                &["flush", "set", "ip", "skiff", "hairpin"],
                &["insert", "rule", "ip", "skiff", "filter-forward", "drop"],
            ] {
                eventually("listening", || tool("cat", &["/proc/thread-self/net/netlink"]).contains("00000040")).await;
                tool("nft", spoil);
                assert_ne!(ruleset(), before, "{spoil:?}");
                eventually(&format!("mended after {spoil:?}"), || ruleset() == before).await;
            }
        })
        .await;
        assert!(ask(Some(&a.path), OUTSIDE, 7070).is_ok());
    });
}

#[test]
fn our_own_changes_are_no_strangers() {
    on_a_node(|world| async move {
        let network = world.network().await;
        network.apply_services(ServiceRules::default()).await.expect("applied");
        let handle = || {
            let listed = tool("nft", &["-a", "list", "table", "ip", "skiff"]);
            listed.lines().next().map(str::to_owned)
        };
        let before = handle();
        kept(&network, async {
            eventually("listening", || tool("cat", &["/proc/thread-self/net/netlink"]).contains("00000040")).await;
            let endpoint = |n: u32| Endpoint { ip: Ipv4Addr::from(0x0a2a_0000 + n), port: 8080 };
            let mut many = ServiceRules::default();
            for n in 0..3000 {
                let endpoints: Vec<Endpoint> = (0..8).map(|i| endpoint(8 * n + i)).collect();
                let one = services(Ipv4Addr::from(0x0a2b_0100 + n), 80, &endpoints).services;
                many.services.extend(one.into_values().map(|service| (format!("default/{n}:"), service)));
            }
            network.apply_services(many).await.expect("applied");
            network.apply_services(ServiceRules::default()).await.expect("applied");
            // A stranger's change comes after ours in the same queue: once it is mended, ours have been looked at.
            tool("nft", &["add", "table", "ip", "filter"]);
            tool(
                "nft",
                &["add", "chain", "ip", "filter", "FORWARD", "{ type filter hook forward priority 0; policy drop; }"],
            );
            eventually("let through", || ruleset().contains("skiff: traffic of pods")).await;
            assert_eq!(handle(), before, "the table was not made anew");
        })
        .await;
    });
}

#[test]
fn a_foreign_chain_that_drops_lets_pods_pass() {
    const DOCKER: &str = "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; \
        add chain ip filter INPUT { type filter hook input priority 0; policy drop; }";
    on_a_node(|world| async move {
        let network = world.network().await;
        let a = world.pod(&network, "a").await;
        let b = world.pod(&network, "b").await;
        serve(Some(&world.outside()), "outside", 7070);
        tool("nft", &[DOCKER]);
        kept(&network, async {
            eventually("let through", || ruleset().matches("skiff: traffic of pods").count() == 3).await;
            assert!(ask(Some(&a.path), b.ip, 8080).is_ok());
            // Replies to the host need a rule of theirs, which such programs have.
            tool("nft", &["add", "rule", "ip", "filter", "INPUT", "ct", "state", "established", "accept"]);
            assert!(ask(Some(&a.path), OUTSIDE, 7070).is_ok());
            // The host's names and the API server, but nothing else of the host.
            serve(None, "host", 53);
            serve(None, "host", 6443);
            let endpoint = vec![Endpoint { ip: NODE, port: 6443 }];
            let api = Ipv4Addr::new(10, 43, 0, 1);
            network.apply_services(services(api, 443, &endpoint)).await.expect("applied");
            assert!(ask(Some(&a.path), world.options.dns_ip, 53).is_ok());
            assert!(ask(Some(&a.path), api, 443).is_ok());
            assert!(is_silent(Some(&a.path), NODE, 6443));
            // Docker starts anew.
            tool("nft", &["flush", "table", "ip", "filter"]);
            eventually("let through again", || ruleset().matches("skiff: traffic of pods").count() == 3).await;
        })
        .await;
        drop(network);
        Network::remove_all(&world.options.data_directory).await.expect("removed");
        assert!(!ruleset().contains("skiff"), "{}", ruleset());
        assert!(ruleset().contains("policy drop"), "what is theirs stays");
    });
}

#[test]
fn without_fib_the_nodes_addresses_are_listed() {
    on_a_node(|world| async move {
        let network = Network::open_with(world.options.clone(), Features { fib: false }).await.expect("opens");
        let port =
            HostPort { protocol: Protocol::Tcp, host_ip: Ipv4Addr::UNSPECIFIED, host_port: 80, container_port: 8080 };
        world.pod_with_ports(&network, "a", &[port]).await;
        let outside = world.outside();
        assert!(ask(Some(&outside), NODE, 80).is_ok());
        assert!(!ruleset().contains("fib"));
        kept(&network, async {
            let more = Ipv4Addr::new(192, 168, 77, 9);
            eventually("listening", || tool("cat", &["/proc/thread-self/net/netlink"]).lines().count() > 3).await;
            tool("ip", &["address", "add", "192.168.77.9/32", "dev", "up0"]);
            eventually("a new address is listed", || ruleset().contains("192.168.77.9")).await;
            assert!(ask(Some(&outside), more, 80).is_ok());
            tool("ip", &["address", "del", "192.168.77.9/32", "dev", "up0"]);
            eventually("an old one is not", || !ruleset().contains("192.168.77.9")).await;
        })
        .await;
    });
}
