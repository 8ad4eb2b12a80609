use tokio_util::sync::CancellationToken;

use super::world::{OUTSIDE, ask, eventually, on_a_node, serve, tool};
use crate::Network;

/// Does what it is told beside the keeper.
async fn kept<F: Future<Output = ()>>(network: &Network, test: F) {
    let stop = CancellationToken::new();
    tokio::join!(network.keep(stop.clone()), async {
        test.await;
        stop.cancel();
    });
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
fn a_foreign_chain_that_drops_lets_pods_pass() {
    const DOCKER: &str =
        "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }";
    on_a_node(|world| async move {
        let network = world.network().await;
        let a = world.pod(&network, "a").await;
        let b = world.pod(&network, "b").await;
        serve(Some(&world.outside()), "outside", 7070);
        tool("nft", &[DOCKER]);
        kept(&network, async {
            eventually("let through", || ruleset().matches("skiff: traffic of pods").count() == 2).await;
            assert!(ask(Some(&a.path), b.ip, 8080).is_ok());
            assert!(ask(Some(&a.path), OUTSIDE, 7070).is_ok());
            // Docker starts anew.
            tool("nft", &["flush", "table", "ip", "filter"]);
            eventually("let through again", || ruleset().matches("skiff: traffic of pods").count() == 2).await;
        })
        .await;
        drop(network);
        Network::remove_all(&world.options.data_directory).await.expect("removed");
        assert!(!ruleset().contains("skiff"), "{}", ruleset());
        assert!(ruleset().contains("policy drop"), "what is theirs stays");
    });
}
