//! Taking over the rule set of an earlier process. Replacing a whole table catches packets between two of its chains,
//! and forgets which client has which endpoint; so what is there is read, and only the difference is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use skiff_linux::net::conntrack::Forwarded;
use skiff_linux::net::nft::{self, Batch, Chain, Element, ElementData};
use skiff_linux::net::{Result, Socket};

use super::base;
use super::diff::{ChainRules, Steps};
use super::model::{By, SetName, Shared};
use super::probe::Features;
use super::table::{FAMILY, TABLE, clients_set, encode_rules};
use crate::NetworkOptions;
use crate::names::hash;

const UDP: u8 = 17;

/// The name of an empty chain that tells of what kind a rule set is: it follows from all rules that do not follow from
/// a chain's name.
pub(super) fn layout(options: &NetworkOptions, features: Features) -> String {
    let shared = [By::Address, By::NodePort].map(|by| {
        let spread = |local| Shared::Spread { by, count: 2, local };
        let all = [
            spread(false),
            spread(true),
            Shared::Masquerade { by, count: 2 },
            Shared::MasqueradeHosts { by, count: 2 },
        ];
        all.map(|chain| (chain.name(), chain.rules(options.cluster_cidr)))
    });
    let all = format!("{:?} {:?} {shared:?}", base::chains(options, features), SetName::ALL.map(SetName::set));
    format!("layout-{:016x}", hash(&all))
}

/// What the kernel has.
pub(super) struct Observed {
    chains: BTreeSet<String>,
    sets: BTreeSet<String>,
    elements: BTreeMap<SetName, BTreeMap<Vec<u8>, ElementData>>,
}

pub(super) fn observe(socket: &mut Socket) -> Result<Observed> {
    let mut elements = BTreeMap::new();
    for set in SetName::ALL {
        let found = nft::elements(socket, FAMILY, TABLE, set.name())?;
        elements.insert(set, found.into_iter().map(|element| (element.key, element.data)).collect());
    }
    let chains = nft::chains(socket, FAMILY, TABLE)?.into_iter().collect();
    let sets = nft::sets(socket, FAMILY, TABLE)?.into_iter().collect();
    Ok(Observed { chains, sets, elements })
}

/// Writes what turns `observed` into the rule set that `wanted` makes from nothing, and gives the connections whose
/// endpoint went away meanwhile.
pub(super) fn encode(
    observed: &Observed,
    wanted: &Steps,
    (options, features): (&NetworkOptions, Features),
    chains: &mut Batch,
    rest: &mut Batch,
) -> BTreeSet<Forwarded> {
    encode_chains(observed, wanted, options, chains);
    let mut forgotten = BTreeSet::new();
    let mut added = Vec::new();
    for set in SetName::ALL {
        let old = &observed.elements[&set];
        let list = wanted.add_elements.get(&set).map(Vec::as_slice).unwrap_or_default();
        let new: BTreeMap<Vec<u8>, ElementData> = list.iter().map(|(key, value)| (key.bytes(), value.data())).collect();
        let gone: Vec<Element> = difference(old, &new);
        forgotten.extend(gone.iter().filter_map(|element| forwarded(set, element)));
        rest.delete_elements(TABLE, set.name(), &gone);
        added.push((set, difference(&new, old)));
    }
    for (set, elements) in added {
        rest.add_elements(TABLE, set.name(), &elements);
    }
    let fixed: BTreeSet<String> = base::chains(options, features).into_iter().map(|(chain, _)| chain.name).collect();
    let is_wanted =
        |name: &String| fixed.contains(name) || *name == layout(options, features) || wanted.add_chains.contains(name);
    let gone: Vec<&String> = observed.chains.iter().filter(|name| !is_wanted(name)).collect();
    // Emptied first, they lead nowhere, and can go in any order.
    gone.iter().for_each(|name| rest.flush_chain(TABLE, name));
    gone.iter().for_each(|name| rest.delete_chain(TABLE, name));
    let known = |name: &String| SetName::ALL.iter().any(|set| set.name() == name) || wanted.add_sets.contains_key(name);
    observed.sets.iter().filter(|name| !known(name)).for_each(|name| rest.delete_set(TABLE, name));
    forgotten
}

fn encode_chains(observed: &Observed, wanted: &Steps, options: &NetworkOptions, batch: &mut Batch) {
    for (name, timeout_ms) in &wanted.add_sets {
        if !observed.sets.contains(name) {
            batch.add_set(TABLE, &clients_set(name, *timeout_ms));
        }
    }
    for name in wanted.add_chains.iter().filter(|name| !observed.chains.contains(*name)) {
        batch.add_chain(TABLE, &Chain { name: name.clone(), hook: None });
    }
    for (name, rules) in &wanted.add_rules {
        match rules {
            // The name says it all.
            ChainRules::Shared(_) if observed.chains.contains(name) => continue,
            ChainRules::Own(_) if observed.chains.contains(name) => batch.flush_chain(TABLE, name),
            _ => {}
        }
        encode_rules(name, rules, options, batch);
    }
}

/// The elements of `a` that `b` lacks, or has with other data.
fn difference(a: &BTreeMap<Vec<u8>, ElementData>, b: &BTreeMap<Vec<u8>, ElementData>) -> Vec<Element> {
    let lacking = a.iter().filter(|(key, data)| b.get(*key) != Some(data));
    lacking.map(|(key, data)| Element { key: key.clone(), data: data.clone() }).collect()
}

/// The connections without an end of their own that an element sent to an endpoint.
fn forwarded(set: SetName, element: &Element) -> Option<Forwarded> {
    let (address, key) = match set {
        SetName::Endpoints => (Some(Ipv4Addr::from(*element.key.first_chunk::<4>()?)), element.key.get(4..)?),
        SetName::NodeEndpoints => (None, &element.key[..]),
        _ => return None,
    };
    let ElementData::Value(to) = &element.data else { return None };
    let port = |bytes: &[u8]| Some(u16::from_be_bytes(bytes.get(4..6)?.try_into().ok()?));
    let endpoint = Ipv4Addr::from(*to.first_chunk::<4>()?);
    (key.first() == Some(&UDP)).then_some(())?;
    Some(Forwarded { protocol: UDP, address, port: port(key)?, endpoint, endpoint_port: port(to)? })
}
