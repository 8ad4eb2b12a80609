//! Living with other owners of rules: putting ours back when they are flushed, and getting pods' packets past
//! chains that drop what they do not know.

use std::time::Duration;

use skiff_base::chain;
use skiff_linux::net::nft::{self, Batch, Event, Family, Rule, Verdict};
use skiff_linux::net::{Group, Protocol, Socket};
use tokio_util::sync::CancellationToken;

use crate::rules::{TABLE, Table};
use crate::worker::Worker;
use crate::{Cidr, Error, NetworkOptions};

/// Where iptables keeps its filter, in its nf_tables form.
const FOREIGN_TABLE: &str = "filter";
const FOREIGN_CHAINS: [&str; 2] = ["FORWARD", "INPUT"];
/// By which our rules in the foreign chain are known.
const COMMENT: &str = "skiff: traffic of pods";
/// Someone who rebuilds rules does so in several transactions.
const SETTLE: Duration = Duration::from_millis(20);

/// Runs until `stop`; without events from the kernel it logs so, and returns.
pub(crate) async fn run(table: &Worker<Table>, options: &NetworkOptions, stop: CancellationToken) {
    let keeping = async {
        tokio::join!(
            async {
                if let Err(error) = watch_rules(table, options).await {
                    tracing::error!(error = %chain(&error), "rules that others remove are not put back");
                }
            },
            async {
                if let Err(error) = watch_addresses(table).await {
                    tracing::error!(error = %chain(&error), "changes of the node's addresses are not seen");
                }
            }
        )
    };
    stop.run_until_cancelled(keeping).await;
    // What the thread was asked for last is done before this ends, so that nobody undoes it too early.
    if let Err(error) = table.call(|_| Ok(())).await {
        tracing::debug!(error = %chain(&error), "the network ended before its keeper");
    }
}

async fn watch_rules(table: &Worker<Table>, options: &NetworkOptions) -> Result<(), Error> {
    let failed = || Error::netlink("watch the nf_tables rule set");
    let for_foreign = options.clone();
    let events = table
        .call(move |table| {
            // On the thread that has our namespace.
            let events = Socket::listen(Protocol::Netfilter, Group::Nftables).map_err(failed())?;
            events.ignore(table.port()).map_err(failed())?;
            ensure_foreign(&for_foreign)?;
            warn_about_others(for_foreign.cluster_cidr);
            Ok(events)
        })
        .await?;
    let watching = || Error::io("watch the nf_tables rule set");
    let mut events = events.into_async().map_err(watching())?;
    loop {
        let mut ready = events.readable_mut().await.map_err(watching())?;
        let changed = drain(ready.get_inner_mut());
        ready.clear_ready();
        if !changed.ours && !changed.foreign {
            continue;
        }
        tokio::time::sleep(SETTLE).await;
        let again = drain(events.get_mut());
        if changed.ours || again.ours {
            tracing::warn!("another program changed the table {TABLE}; making it anew");
            if let Err(error) = table.call(Table::replace_all).await {
                tracing::error!(error = %chain(&error), "make the rule set anew");
            }
        }
        let options = options.clone();
        if let Err(error) = table.call(move |_| ensure_foreign(&options)).await {
            tracing::error!(error = %chain(&error), "let the traffic of pods pass the chains of others");
        }
    }
}

/// Only where the rule set has to be told the node's addresses.
async fn watch_addresses(table: &Worker<Table>) -> Result<(), Error> {
    let listen = |table: &mut Table| {
        if !table.needs_node_addresses() {
            return Ok(None);
        }
        let events = Socket::listen(Protocol::Route, Group::Addresses);
        table.ensure_node_addresses()?;
        events.map(Some).map_err(Error::netlink("watch the node's addresses"))
    };
    let Some(events) = table.call(listen).await? else { return Ok(()) };
    let watching = || Error::io("watch the node's addresses");
    let mut events = events.into_async().map_err(watching())?;
    loop {
        let mut ready = events.readable_mut().await.map_err(watching())?;
        // What they say is read anew anyway, also when some were lost.
        while !matches!(ready.get_inner_mut().receive(), Err(e) if e.errno == nix::errno::Errno::EAGAIN) {}
        ready.clear_ready();
        table.call(Table::ensure_node_addresses).await?;
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Changed {
    ours: bool,
    foreign: bool,
}

/// Reads all events that wait, and tells which tables others changed; our own changes cause none.
fn drain(events: &mut Socket) -> Changed {
    let mut changed = Changed::default();
    loop {
        let replies = match events.receive() {
            Ok(replies) => replies,
            Err(error) if error.errno == nix::errno::Errno::EAGAIN => return changed,
            // Events were lost: it may have been anything.
            Err(_) => return Changed { ours: true, foreign: true },
        };
        for event in replies.iter().filter_map(Event::read) {
            changed.ours |= event.is_about(Family::Ip, TABLE);
            changed.foreign |= event.is_about(Family::Ip, FOREIGN_TABLE);
        }
    }
}

/// Docker, ufw and others make the host drop what no rule of theirs accepts. An accept in our own table does not
/// help against that; so where such a chain is, it gets rules of ours.
fn ensure_foreign(options: &NetworkOptions) -> Result<(), Error> {
    let failed = |chain: &str| Error::netlink(format!("accept the traffic of pods in {FOREIGN_TABLE} {chain}"));
    for (chain, wanted) in foreign_rules(options) {
        let mut socket = Socket::open(Protocol::Netfilter).map_err(failed(chain))?;
        let drops = nft::drops_by_default(&mut socket, Family::Ip, FOREIGN_TABLE, chain).map_err(failed(chain))?;
        if drops != Some(true) {
            continue;
        }
        let present = nft::rules(&mut socket, Family::Ip, FOREIGN_TABLE, chain).map_err(failed(chain))?;
        let is_ours = |rule: &&nft::FoundRule| rule.comment.as_deref() == Some(COMMENT);
        if present.iter().filter(is_ours).count() == wanted.len() {
            continue;
        }
        tracing::info!(chain, "a chain of another program drops what it does not know; letting pods pass");
        let mut batch = Batch::new(Family::Ip);
        for old in present.iter().filter(is_ours) {
            batch.delete_rule(FOREIGN_TABLE, chain, old.handle);
        }
        for rule in wanted {
            batch.insert_rule(FOREIGN_TABLE, chain, &rule.verdict(Verdict::Accept).comment(COMMENT));
        }
        batch.commit(&mut socket).map_err(failed(chain))?;
    }
    Ok(())
}

/// What pods need of other programs' chains: to be forwarded; and of the host itself, its DNS server and services
/// whose endpoint it is (the API server), but nothing else that listens there.
fn foreign_rules(options: &NetworkOptions) -> [(&'static str, Vec<Rule>); 2] {
    let (pods, services) = (options.cluster_cidr, options.service_cidr);
    let from_pods = || Rule::new().source_in(pods.address, pods.prefix_len);
    [
        ("FORWARD", vec![from_pods(), Rule::new().destination_in(pods.address, pods.prefix_len)]),
        ("INPUT", vec![from_pods().original_destination_in(services.address, services.prefix_len)]),
    ]
}

/// Says what to do about rules that can't be looked through, and may drop the traffic of pods.
fn warn_about_others(cluster: Cidr) {
    let firewalld = Socket::open(Protocol::Netfilter)
        .and_then(|mut socket| nft::drops_by_default(&mut socket, Family::Inet, "firewalld", "filter_FORWARD"));
    if matches!(firewalld, Ok(Some(_))) {
        tracing::warn!(
            "firewalld is running and may reject the traffic of pods: \
            firewall-cmd --permanent --zone=trusted --add-source={cluster} && firewall-cmd --reload"
        );
    }
    let legacy = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    if legacy.lines().any(|table| table == "filter") {
        tracing::warn!(
            "iptables-legacy has a filter table; where its chain FORWARD drops by default, pods need: \
            iptables-legacy -I FORWARD -s {cluster} -j ACCEPT && iptables-legacy -I FORWARD -d {cluster} -j ACCEPT"
        );
    }
}

/// Takes our rules out of the foreign chains.
pub(crate) fn remove_foreign() -> Vec<Error> {
    let remove = |chain: &str| {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        let mut batch = Batch::new(Family::Ip);
        for rule in nft::rules(&mut socket, Family::Ip, FOREIGN_TABLE, chain)? {
            if rule.comment.as_deref() == Some(COMMENT) {
                batch.delete_rule(FOREIGN_TABLE, chain, rule.handle);
            }
        }
        batch.commit(&mut socket)
    };
    let failed = |chain| Error::netlink(format!("remove our rules from {FOREIGN_TABLE} {chain}"));
    FOREIGN_CHAINS.iter().filter_map(|chain| remove(chain).map_err(failed(chain)).err()).collect()
}
