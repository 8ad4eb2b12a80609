//! From a change of plans to steps. Chains come before the elements that lead to them, and go after; elements are
//! deleted before others are added, so that an address may move from one owner to another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use skiff_linux::net::conntrack::Forwarded;
use skiff_linux::net::nft::Rule;

use super::model::{Fragment, Key, Owner, SetName, Shared, Value};

pub(super) type Fragments = BTreeMap<Owner, Fragment>;

/// How many owners ask for what can be shared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct References {
    elements: BTreeMap<(SetName, Key), usize>,
    chains: BTreeMap<Shared, usize>,
}

/// The difference between two rule sets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    pub delete_elements: BTreeMap<SetName, Vec<(Key, Value)>>,
    pub add_sets: BTreeMap<String, u64>,
    /// Without their rules, so that rules may lead to any of them.
    pub add_chains: Vec<String>,
    pub flush_chains: Vec<String>,
    pub add_rules: Vec<(String, ChainRules)>,
    pub add_elements: BTreeMap<SetName, Vec<(Key, Value)>>,
    pub delete_chains: Vec<String>,
    pub delete_sets: Vec<String>,
    /// When the steps are done.
    pub forget: BTreeSet<Forwarded>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum ChainRules {
    Shared(Shared),
    Own(Vec<Rule>),
}

/// What turns the fragments `old` of some owners into `new` ones; `references` counts what all owners share, and
/// is brought up to date.
pub(super) fn plan_change<'a>(
    changes: impl Iterator<Item = (Option<&'a Fragment>, Option<&'a Fragment>)>,
    references: &mut References,
) -> Steps {
    let nothing = Fragment::default();
    let mut steps = Steps::default();
    let mut wanted = BTreeSet::new();
    // Whether what is shared was there before.
    let mut elements = BTreeMap::new();
    let mut chains = BTreeMap::new();
    for (old, new) in changes {
        let (old, new) = (old.unwrap_or(&nothing), new.unwrap_or(&nothing));
        change_elements(&mut steps, old, new);
        change_chains(&mut steps, old, new);
        steps.forget.extend(old.forwarded.difference(&new.forwarded));
        wanted.extend(new.forwarded.iter().copied());
        count(&mut references.elements, &old.shared_elements, &new.shared_elements, &mut elements);
        count(&mut references.chains, &old.shared_chains, &new.shared_chains, &mut chains);
    }
    steps.forget.retain(|forwarded| !wanted.contains(forwarded));
    for ((set, key), was) in elements {
        match (was, references.elements.contains_key(&(set, key))) {
            (false, true) => steps.add_elements.entry(set).or_default().push((key, Value::Nothing)),
            (true, false) => steps.delete_elements.entry(set).or_default().push((key, Value::Nothing)),
            _ => {}
        }
    }
    // In this order each leads to earlier ones only.
    for (chain, was) in chains.into_iter().rev() {
        match (was, references.chains.contains_key(&chain)) {
            (false, true) => {
                steps.add_chains.push(chain.name());
                steps.add_rules.push((chain.name(), ChainRules::Shared(chain)));
            }
            (true, false) => steps.delete_chains.push(chain.name()),
            _ => {}
        }
    }
    steps
}

/// Counts references, and notes of each one touched whether there were any before.
fn count<T: Copy + Ord>(
    references: &mut BTreeMap<T, usize>,
    old: &BTreeSet<T>,
    new: &BTreeSet<T>,
    touched: &mut BTreeMap<T, bool>,
) {
    for gone in old.difference(new) {
        touched.entry(*gone).or_insert(true);
        if let Some(count) = references.get_mut(gone) {
            *count -= 1;
            if *count == 0 {
                references.remove(gone);
            }
        }
    }
    for added in new.difference(old) {
        let count = references.entry(*added).or_default();
        touched.entry(*added).or_insert(*count > 0);
        *count += 1;
    }
}

fn change_elements(steps: &mut Steps, old: &Fragment, new: &Fragment) {
    for ((set, key), value) in &old.elements {
        if new.elements.get(&(*set, *key)) != Some(value) {
            steps.delete_elements.entry(*set).or_default().push((*key, value.clone()));
        }
    }
    for ((set, key), value) in &new.elements {
        if old.elements.get(&(*set, *key)) != Some(value) {
            steps.add_elements.entry(*set).or_default().push((*key, value.clone()));
        }
    }
}

fn change_chains(steps: &mut Steps, old: &Fragment, new: &Fragment) {
    let rules_in = |fragment: &'_ Fragment, name: &str| {
        fragment.chains.iter().find(|(known, _)| known == name).map(|(_, rules)| rules.clone())
    };
    for (name, rules) in &new.chains {
        match rules_in(old, name) {
            Some(same) if same == *rules => continue,
            Some(_) => steps.flush_chains.push(name.clone()),
            None => steps.add_chains.push(name.clone()),
        }
        steps.add_rules.push((name.clone(), ChainRules::Own(rules.clone())));
    }
    for (name, _) in old.chains.iter().rev() {
        if rules_in(new, name).is_none() {
            steps.delete_chains.push(name.clone());
        }
    }
    for (name, timeout_ms) in &new.sets {
        match old.sets.get(name) {
            // A set's time is part of its rules too; an old set with another default would do no harm.
            Some(_) => {}
            None => drop(steps.add_sets.insert(name.clone(), *timeout_ms)),
        }
    }
    steps.delete_sets.extend(old.sets.keys().filter(|name| !new.sets.contains_key(*name)).cloned());
}

/// One line per message, for tests and logs.
impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elements = |f: &mut fmt::Formatter<'_>, verb: &str, all: &BTreeMap<SetName, Vec<(Key, Value)>>| {
            all.iter().try_for_each(|(set, elements)| {
                elements.iter().try_for_each(|(key, value)| writeln!(f, "{verb} {} {key}{value}", set.name()))
            })
        };
        for name in self.add_sets.keys() {
            writeln!(f, "add set {name}")?;
        }
        for name in &self.add_chains {
            writeln!(f, "add chain {name}")?;
        }
        for name in &self.flush_chains {
            writeln!(f, "flush chain {name}")?;
        }
        elements(f, "delete element", &self.delete_elements)?;
        elements(f, "add element", &self.add_elements)?;
        for name in &self.delete_chains {
            writeln!(f, "delete chain {name}")?;
        }
        for name in &self.delete_sets {
            writeln!(f, "delete set {name}")?;
        }
        for f2 in &self.forget {
            let address = f2.address.map(|ip| ip.to_string()).unwrap_or_else(|| "*".to_owned());
            writeln!(f, "forget {address}:{} -> {}:{}", f2.port, f2.endpoint, f2.endpoint_port)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::rules::service::plan_service;
    use crate::{Endpoint, Protocol, ServicePort};

    fn service(endpoints: &[u8]) -> ServicePort {
        let endpoint = |n: &u8| Endpoint { ip: Ipv4Addr::new(10, 42, 0, *n), port: 8080 };
        let local = endpoints.iter().filter(|n| n.is_multiple_of(2));
        ServicePort {
            protocol: Protocol::Tcp,
            cluster_ips: vec![Ipv4Addr::new(10, 43, 0, 20).into()],
            external_ips: vec![],
            port: 80,
            node_port: None,
            endpoints: endpoints.iter().map(endpoint).collect(),
            local_endpoints: local.map(endpoint).collect(),
            internal_local: false,
            external_local: false,
            affinity_s: None,
            source_ranges: vec![],
        }
    }

    fn web(change: impl FnOnce(&mut ServicePort)) -> Option<(&'static str, ServicePort)> {
        let mut service = service(&[2, 3, 4]);
        change(&mut service);
        Some(("default/web:", service))
    }

    /// The messages that lead from one state of services to the next, from nothing on.
    fn check(states: &[&[Option<(&'static str, ServicePort)>]], expect: &str) {
        let mut fragments = BTreeMap::new();
        let mut references = References::default();
        let mut last = String::new();
        let cluster = crate::packets::options().cluster_cidr;
        for state in states {
            let new: BTreeMap<&str, Fragment> =
                state.iter().flatten().map(|(name, service)| (*name, plan_service(name, service, cluster))).collect();
            let names: BTreeSet<&str> = fragments.keys().chain(new.keys()).copied().collect();
            last = plan_change(names.iter().map(|n| (fragments.get(n), new.get(n))), &mut references).to_string();
            fragments = new;
        }
        let lines: Vec<&str> = expect.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        assert_eq!(last.lines().collect::<Vec<_>>(), lines, "{last}");
        let all = plan_change(fragments.values().map(|f| (Some(f), None)), &mut references).to_string();
        assert_eq!(references, References::default(), "nothing is left: {all}");
    }

    #[test]
    fn a_first_service() {
        check(
            &[&[web(|_| {})]],
            "add chain spread-3
             add element service-ips 10.43.0.20 . tcp . 80 : goto spread-3
             add element endpoints 10.43.0.20 . tcp . 80 . 0x0 : 10.42.0.2 . 8080
             add element endpoints 10.43.0.20 . tcp . 80 . 0x1 : 10.42.0.3 . 8080
             add element endpoints 10.43.0.20 . tcp . 80 . 0x2 : 10.42.0.4 . 8080
             add element cluster-ips 10.43.0.20
             add element cluster-ports 10.43.0.20 . tcp . 80",
        );
    }

    #[test]
    fn no_change_is_no_message() {
        check(&[&[web(|_| {})], &[web(|_| {})]], "");
    }

    #[test]
    fn an_endpoint_replaced_is_one_element() {
        check(
            &[&[web(|_| {})], &[web(|s| s.endpoints[1].ip = Ipv4Addr::new(10, 42, 0, 9))]],
            "delete element endpoints 10.43.0.20 . tcp . 80 . 0x1 : 10.42.0.3 . 8080
             add element endpoints 10.43.0.20 . tcp . 80 . 0x1 : 10.42.0.9 . 8080",
        );
    }

    #[test]
    fn an_endpoint_less_is_another_chain() {
        check(
            &[&[web(|_| {})], &[web(|s| s.endpoints.truncate(2))]],
            "add chain spread-2
             delete element service-ips 10.43.0.20 . tcp . 80 : goto spread-3
             delete element endpoints 10.43.0.20 . tcp . 80 . 0x2 : 10.42.0.4 . 8080
             add element service-ips 10.43.0.20 . tcp . 80 : goto spread-2
             delete chain spread-3",
        );
    }

    #[test]
    fn a_chain_in_use_elsewhere_stays() {
        let other = || Some(("default/other:", ServicePort { port: 81, ..service(&[5, 6, 7]) }));
        check(
            &[&[web(|_| {}), other()], &[other()]],
            "delete element service-ips 10.43.0.20 . tcp . 80 : goto spread-3
             delete element endpoints 10.43.0.20 . tcp . 80 . 0x0 : 10.42.0.2 . 8080
             delete element endpoints 10.43.0.20 . tcp . 80 . 0x1 : 10.42.0.3 . 8080
             delete element endpoints 10.43.0.20 . tcp . 80 . 0x2 : 10.42.0.4 . 8080
             delete element cluster-ports 10.43.0.20 . tcp . 80",
        );
    }

    #[test]
    fn the_last_endpoint_gone_refuses() {
        let clear = |s: &mut ServicePort| {
            s.endpoints.clear();
            s.local_endpoints.clear();
        };
        check(
            &[&[web(|s| s.endpoints.truncate(1))], &[web(clear)]],
            "delete element service-ips 10.43.0.20 . tcp . 80 : goto spread-1
             delete element endpoints 10.43.0.20 . tcp . 80 . 0x0 : 10.42.0.2 . 8080
             add element no-endpoints 10.43.0.20 . tcp . 80 : goto refuse
             delete chain spread-1",
        );
    }

    #[test]
    fn a_local_node_port() {
        let local = |s: &mut ServicePort| {
            s.node_port = Some(30080);
            s.external_local = true;
        };
        check(
            &[&[web(|_| {})], &[web(local)]],
            "add chain port-masquerade-hosts-3
             add chain port-spread-3
             add chain port-spread-local-2
             add element node-ports tcp . 30080 : goto port-masquerade-hosts-3
             add element local-node-ports tcp . 30080 : goto port-spread-local-2
             add element node-endpoints tcp . 30080 . 0x0 : 10.42.0.2 . 8080
             add element node-endpoints tcp . 30080 . 0x1 : 10.42.0.3 . 8080
             add element node-endpoints tcp . 30080 . 0x2 : 10.42.0.4 . 8080
             add element node-endpoints tcp . 30080 . 0x10000 : 10.42.0.2 . 8080
             add element node-endpoints tcp . 30080 . 0x10001 : 10.42.0.4 . 8080",
        );
    }

    #[test]
    fn affinity_has_chains_of_its_own() {
        let id = format!("{:016x}", crate::names::hash("default/web:"));
        let affine = |s: &mut ServicePort, count| {
            s.affinity_s = Some(60);
            s.endpoints.truncate(count);
        };
        check(
            &[&[web(|s| affine(s, 2))], &[web(|s| affine(s, 1))]],
            &format!(
                "flush chain service-{id}
                 delete chain endpoint-{id}-10.42.0.3-8080
                 delete set clients-{id}-10.42.0.3-8080"
            ),
        );
    }

    #[test]
    fn udp_clients_of_a_gone_endpoint_are_forgotten() {
        let udp = |s: &mut ServicePort, count| {
            s.protocol = Protocol::Udp;
            s.endpoints.truncate(count);
            s.local_endpoints.truncate(count);
        };
        check(
            &[&[web(|s| udp(s, 1))], &[web(|s| udp(s, 0))]],
            "delete element service-ips 10.43.0.20 . udp . 80 : goto spread-1
             delete element endpoints 10.43.0.20 . udp . 80 . 0x0 : 10.42.0.2 . 8080
             add element no-endpoints 10.43.0.20 . udp . 80 : goto refuse
             delete chain spread-1
             forget 10.43.0.20:80 -> 10.42.0.2:8080",
        );
    }

    #[test]
    fn an_address_may_move_between_services() {
        let moved = || Some(("default/z:", service(&[2, 3, 4])));
        check(
            &[&[web(|_| {})], &[moved()]],
            "delete element service-ips 10.43.0.20 . tcp . 80 : goto spread-3
             delete element endpoints 10.43.0.20 . tcp . 80 . 0x0 : 10.42.0.2 . 8080
             delete element endpoints 10.43.0.20 . tcp . 80 . 0x1 : 10.42.0.3 . 8080
             delete element endpoints 10.43.0.20 . tcp . 80 . 0x2 : 10.42.0.4 . 8080
             delete element cluster-ports 10.43.0.20 . tcp . 80
             add element service-ips 10.43.0.20 . tcp . 80 : goto spread-3
             add element endpoints 10.43.0.20 . tcp . 80 . 0x0 : 10.42.0.2 . 8080
             add element endpoints 10.43.0.20 . tcp . 80 . 0x1 : 10.42.0.3 . 8080
             add element endpoints 10.43.0.20 . tcp . 80 . 0x2 : 10.42.0.4 . 8080
             add element cluster-ports 10.43.0.20 . tcp . 80",
        );
    }
}
