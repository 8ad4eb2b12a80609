use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use skiff_base::chain;
use skiff_linux::net::nft::{self, Batch, Chain, Family, Set, SetData, Type};
use skiff_linux::net::{Protocol, Socket, conntrack, route};

use super::adopt;
use super::base;
use super::diff::{ChainRules, Fragments, References, Steps, plan_change};
use super::model::{Fragment, Key, Owner, SetName, Value, element};
use super::probe::{self, Features};
use super::service::{plan_node, plan_service};
use crate::{Error, NetworkOptions, ServicePort, ServicePortKey, ServiceRules};

/// Our table, in each family.
pub(crate) const TABLE: &str = "skiff";
pub(super) const FAMILY: Family = Family::Ip;

/// The state of the thread that owns our table: what was asked for, and whether the kernel has it.
pub(crate) struct Table {
    socket: Socket,
    options: NetworkOptions,
    features: Features,
    fragments: Fragments,
    /// What the services' fragments were planned from.
    services: BTreeMap<ServicePortKey, ServicePort>,
    references: References,
    kernel: Kernel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    /// An earlier process's rules, which serve until the services are known. They are what this program would make
    /// of the same services, or not.
    Left { same: bool },
    /// What was asked for.
    Current,
    /// Something else.
    Unknown,
}

impl Table {
    /// Makes the table, or leaves the one that is there until the services are known.
    pub(crate) fn open(options: &NetworkOptions, features: Features, fragments: Fragments) -> Result<Self, Error> {
        let mut socket = Socket::open(Protocol::Netfilter).map_err(Error::netlink("open a netfilter socket"))?;
        let exists = nft::table_exists(&mut socket, FAMILY, TABLE);
        let exists = exists.map_err(Error::netlink("ask the kernel for nf_tables (is it built in, or loaded?)"))?;
        let chains = nft::chains(&mut socket, FAMILY, TABLE).map_err(Error::netlink("read the rule set"))?;
        let same = chains.contains(&adopt::layout(options, features));
        let mut table = Self {
            socket,
            options: options.clone(),
            features,
            fragments,
            services: BTreeMap::new(),
            references: References::default(),
            kernel: if exists { Kernel::Left { same } } else { Kernel::Unknown },
        };
        if !exists {
            table.make()?;
        }
        table.ensure_node_addresses()?;
        Ok(table)
    }

    /// The number by which events name this socket.
    pub(crate) fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Makes the table show exactly these services.
    pub(crate) fn show_services(&mut self, rules: ServiceRules) -> Result<(), Error> {
        let mut changes = BTreeMap::new();
        for name in self.services.keys().filter(|name| !rules.services.contains_key(*name)) {
            changes.insert(Owner::Service(name.clone()), None);
        }
        for (name, service) in &rules.services {
            if self.services.get(name) != Some(service) {
                changes
                    .insert(Owner::Service(name.clone()), Some(plan_service(name, service, self.options.cluster_cidr)));
            }
        }
        self.services = rules.services;
        self.change(changes, true)
    }

    /// Makes the table show other fragments of some owners. `complete`: every service is known now.
    pub(crate) fn change(&mut self, changes: BTreeMap<Owner, Option<Fragment>>, complete: bool) -> Result<(), Error> {
        let pairs = changes.iter().map(|(owner, new)| (self.fragments.get(owner), new.as_ref()));
        let steps = plan_change(pairs, &mut self.references);
        for (owner, new) in changes {
            match new {
                Some(fragment) => drop(self.fragments.insert(owner, fragment)),
                None => drop(self.fragments.remove(&owner)),
            }
        }
        match self.kernel {
            Kernel::Current => {
                if let Err(error) = self.apply(&steps) {
                    tracing::warn!(error = %chain(&error), "the rule set is not as it was left; making it anew");
                    self.make()?;
                }
            }
            Kernel::Left { .. } if !complete => {
                if let Err(error) = self.apply(&steps) {
                    tracing::info!(error = %chain(&error), "an earlier rule set stays as it is until services are known");
                }
            }
            Kernel::Left { same: true } => {
                if let Err(error) = self.adopt() {
                    tracing::warn!(error = %chain(&error), "an earlier rule set can't be taken over; making it anew");
                    self.make()?;
                }
            }
            Kernel::Left { same: false } | Kernel::Unknown => self.make()?,
        }
        self.forget(&steps);
        Ok(())
    }

    /// Makes the whole table anew; with less, where the kernel can't do all of it.
    fn make(&mut self) -> Result<(), Error> {
        let Err(error) = self.replace_all() else { return Ok(()) };
        let features = probe::probe()?;
        if features == self.features {
            return Err(error);
        }
        tracing::warn!(?features, "this kernel's nf_tables can't do everything");
        self.features = features;
        self.replace_all()
    }

    /// Whether someone has to tell the node's addresses.
    pub(crate) fn needs_node_addresses(&self) -> bool {
        !self.features.fib
    }

    /// Where the kernel can't tell the node's addresses, lists them.
    pub(crate) fn ensure_node_addresses(&mut self) -> Result<(), Error> {
        if !self.needs_node_addresses() {
            return Ok(());
        }
        let read = || route::addresses(&mut Socket::open(Protocol::Route)?);
        let found = read().map_err(Error::netlink("read the node's addresses"))?;
        let ips: Vec<Ipv4Addr> =
            found.iter().filter_map(|a| if let IpAddr::V4(ip) = a.ip { Some(ip) } else { None }).collect();
        let fragment = plan_node(&ips);
        if self.fragments.get(&Owner::Node) == Some(&fragment) {
            return Ok(());
        }
        self.change(BTreeMap::from([(Owner::Node, Some(fragment))]), false)
    }

    /// Turns an earlier process's rule set into what is asked for now, without a moment in between.
    fn adopt(&mut self) -> Result<(), Error> {
        let failed = || Error::netlink("take over the nf_tables rule set");
        let observed = adopt::observe(&mut self.socket).map_err(failed())?;
        let mut references = References::default();
        let wanted = plan_change(self.fragments.values().map(|new| (None, Some(new))), &mut references);
        let (mut chains, mut rest) = (Batch::new(FAMILY), Batch::new(FAMILY));
        let mut forgotten = adopt::encode(&observed, &wanted, (&self.options, self.features), &mut chains, &mut rest);
        tracing::info!(messages = chains.len() + rest.len(), "taking over the rule set");
        chains.commit(&mut self.socket).map_err(failed())?;
        rest.commit(&mut self.socket).map_err(failed())?;
        self.references = references;
        self.kernel = Kernel::Current;
        for fragment in self.fragments.values() {
            forgotten.retain(|connections| !fragment.forwarded.contains(connections));
        }
        self.forget(&Steps { forget: forgotten, ..Steps::default() });
        Ok(())
    }

    /// Makes the whole table anew, in one transaction.
    pub(crate) fn replace_all(&mut self) -> Result<(), Error> {
        self.kernel = Kernel::Unknown;
        let mut batch = Batch::new(FAMILY);
        batch.add_table(TABLE);
        batch.delete_table(TABLE);
        batch.add_table(TABLE);
        SetName::ALL.iter().for_each(|set| batch.add_set(TABLE, &set.set()));
        batch.add_chain(TABLE, &Chain { name: adopt::layout(&self.options, self.features), hook: None });
        let chains = base::chains(&self.options, self.features);
        chains.iter().for_each(|(chain, _)| batch.add_chain(TABLE, chain));
        for (chain, rules) in &chains {
            rules.iter().for_each(|rule| batch.add_rule(TABLE, &chain.name, rule));
        }
        let mut references = References::default();
        let steps = plan_change(self.fragments.values().map(|new| (None, Some(new))), &mut references);
        encode_chains(&steps, &self.options, &mut batch);
        encode_elements(&steps, &mut batch);
        batch.commit(&mut self.socket).map_err(Error::netlink("make the nf_tables rule set"))?;
        self.references = references;
        self.kernel = Kernel::Current;
        Ok(())
    }

    /// New chains come in a transaction of their own: a packet that began before a transaction still sees a chain of
    /// it as empty, but may see its elements already, and would fall through.
    fn apply(&mut self, steps: &Steps) -> Result<(), Error> {
        let mut chains = Batch::new(FAMILY);
        encode_chains(steps, &self.options, &mut chains);
        let mut rest = Batch::new(FAMILY);
        encode_elements(steps, &mut rest);
        tracing::debug!(messages = chains.len() + rest.len(), "changing the rule set");
        let failed = || Error::netlink("change the nf_tables rule set");
        chains.commit(&mut self.socket).map_err(failed())?;
        rest.commit(&mut self.socket).map_err(failed())
    }

    /// Clients without connections would go on with an endpoint that is gone.
    fn forget(&mut self, steps: &Steps) {
        for connections in &steps.forget {
            if let Err(error) = conntrack::forget(&mut self.socket, connections) {
                tracing::warn!(?connections, error = %chain(&error), "forget connections to an endpoint that is gone");
            }
        }
    }
}

/// What is led to by elements, which come later.
fn encode_chains(steps: &Steps, options: &NetworkOptions, batch: &mut Batch) {
    for (name, timeout_ms) in &steps.add_sets {
        batch.add_set(TABLE, &clients_set(name, *timeout_ms));
    }
    for name in &steps.add_chains {
        batch.add_chain(TABLE, &Chain { name: name.clone(), hook: None });
    }
    for name in &steps.flush_chains {
        batch.flush_chain(TABLE, name);
    }
    for (chain, rules) in &steps.add_rules {
        encode_rules(chain, rules, options, batch);
    }
}

/// The clients that an endpoint keeps.
pub(super) fn clients_set(name: &str, timeout_ms: u64) -> Set {
    let key: &'static [Type] = &[Type::Ipv4];
    Set { name: name.to_owned(), key, data: SetData::None, dynamic_timeout_ms: Some(timeout_ms) }
}

pub(super) fn encode_rules(chain: &str, rules: &ChainRules, options: &NetworkOptions, batch: &mut Batch) {
    match rules {
        ChainRules::Shared(shared) => {
            shared.rules(options.cluster_cidr).iter().for_each(|rule| batch.add_rule(TABLE, chain, rule));
        }
        ChainRules::Own(rules) => rules.iter().for_each(|rule| batch.add_rule(TABLE, chain, rule)),
    }
}

fn encode_elements(steps: &Steps, batch: &mut Batch) {
    let elements = |all: &[(Key, Value)]| all.iter().map(|(key, value)| element(*key, value)).collect::<Vec<_>>();
    for (set, gone) in &steps.delete_elements {
        batch.delete_elements(TABLE, set.name(), &elements(gone));
    }
    for (set, added) in &steps.add_elements {
        batch.add_elements(TABLE, set.name(), &elements(added));
    }
    for name in &steps.delete_chains {
        batch.delete_chain(TABLE, name);
    }
    for name in &steps.delete_sets {
        batch.delete_set(TABLE, name);
    }
}

/// Removes our tables.
pub(crate) fn remove_all() -> Vec<Error> {
    let mut socket = match Socket::open(Protocol::Netfilter) {
        Ok(socket) => socket,
        Err(error) => return vec![Error::netlink("open a netfilter socket")(error)],
    };
    let mut errors = Vec::new();
    for family in [Family::Ip, Family::Ip6] {
        match nft::table_exists(&mut socket, family, TABLE) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(error) => {
                errors.push(Error::netlink("look for our nf_tables table")(error));
                continue;
            }
        }
        let mut batch = Batch::new(family);
        batch.delete_table(TABLE);
        errors.extend(batch.commit(&mut socket).map_err(Error::netlink("delete our nf_tables table")).err());
    }
    errors
}
