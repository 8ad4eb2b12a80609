//! What this kernel's nf_tables can do, tried out where it does no harm.

use std::net::Ipv4Addr;

use nix::sched::{CloneFlags, unshare};
use skiff_linux::net::nft::{Batch, Chain, CtKey, Expr, Family, FibOf, Hook, HookPoint, Rule, Verdict};
use skiff_linux::net::{Protocol, Socket};

use super::model::{SetName, dnat_to_loaded};
use super::table::clients_set;
use crate::Error;

const TABLE: &str = "probe";
const CHAIN: &str = "probe";
const CLIENTS: &str = "clients";

/// What there is a way around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features {
    /// The kernel tells whether an address is one of this node's. Else they are listed in a set.
    pub fib: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self { fib: true }
    }
}

/// Tries everything that the rules need in a network namespace of its own. An error says what is missing.
pub(super) fn probe() -> Result<Features, Error> {
    let tried = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(std::io::Error::from)
            .map_err(Error::io("make a network namespace"))?;
        let mut socket = Socket::open(Protocol::Netfilter).map_err(Error::netlink("open a netfilter socket"))?;
        Ok(trials().into_iter().filter(|trial| !trial.works(&mut socket)).map(|trial| trial.name).collect::<Vec<_>>())
    });
    let missing: Vec<&str> = match tried.join() {
        Ok(missing) => missing?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    conclude(&missing)
}

fn conclude(missing: &[&str]) -> Result<Features, Error> {
    let needed: Vec<String> = missing.iter().filter(|name| **name != "fib").map(|name| format!("nft_{name}")).collect();
    if needed.is_empty() {
        return Ok(Features { fib: missing.is_empty() });
    }
    let list = needed.join(", ");
    Err(Error::Invalid(format!(
        "this kernel's nf_tables lacks {list}: load these modules (modprobe), or use a kernel that has them"
    )))
}

/// A rule with one expression that may be a module of its own.
struct Trial {
    name: &'static str,
    kind: &'static str,
    point: HookPoint,
    rule: Rule,
}

fn trials() -> Vec<Trial> {
    use HookPoint::{Input, Postrouting, Prerouting};
    let trial = |name, kind, point, rule| Trial { name, kind, point, rule };
    let anywhere = Ipv4Addr::UNSPECIFIED;
    let state = Expr::Ct { key: CtKey::State, original: false, to: 0 };
    let remember = Expr::Remember { set: CLIENTS.to_owned(), from: 0, timeout_ms: 1000 };
    vec![
        trial("chain_nat", "nat", Prerouting, Rule::new().verdict(Verdict::Accept)),
        trial("ct", "filter", Prerouting, Rule::new().then(state)),
        trial("fib", "filter", Prerouting, Rule::new().local(FibOf::Destination)),
        trial("numgen", "filter", Prerouting, Rule::new().then(Expr::Random { modulus: 2, offset: 0, to: 0 })),
        trial("reject", "filter", Input, Rule::new().then(Expr::Reject)),
        trial("masq", "nat", Postrouting, Rule::new().then(Expr::Masquerade)),
        trial("nat", "nat", Prerouting, {
            let address = Expr::Immediate { to: 0, value: anywhere.octets().to_vec() };
            let port = Expr::Immediate { to: 1, value: vec![0, 80] };
            Rule::new().then(address).then(port).then(dnat_to_loaded())
        }),
        trial("dynset", "filter", Prerouting, Rule::new().load_source(0).then(remember)),
        trial("lookup", "filter", Prerouting, {
            let map = Expr::VerdictMap { map: SetName::ServiceIps.name().to_owned(), from: 0 };
            Rule::new().load_destination(0).load_protocol_and_port(1).then(map)
        }),
    ]
}

impl Trial {
    fn works(&self, socket: &mut Socket) -> bool {
        let mut batch = Batch::new(Family::Ip);
        batch.add_table(TABLE);
        batch.add_set(TABLE, &clients_set(CLIENTS, 1000));
        batch.add_set(TABLE, &SetName::ServiceIps.set());
        let hook = Some(Hook { kind: self.kind, point: self.point, priority: 0 });
        batch.add_chain(TABLE, &Chain { name: CHAIN.to_owned(), hook });
        batch.add_rule(TABLE, CHAIN, &self.rule);
        batch.delete_table(TABLE);
        let result = batch.commit(socket);
        if let Err(error) = &result {
            tracing::info!(expression = self.name, %error, "the kernel refuses this in nf_tables");
        }
        result.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_everything() {
        assert_eq!(probe().expect("probed"), Features { fib: true });
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(conclude(&["fib"]).expect("there is a way around"), Features { fib: false });
        let error = conclude(&["fib", "numgen", "masq"]).expect_err("no way around");
        assert_eq!(
            error.to_string(),
            "this kernel's nf_tables lacks nft_numgen, nft_masq: load these modules (modprobe), or use a kernel that has them"
        );
    }
}
