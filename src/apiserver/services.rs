//! Cluster addresses and node ports of Services: one owner each.
//!
//! The allocator is memory derived from the stored Services. A write reserves before it commits and
//! gives back if it fails, under one short lock that no await crosses, so two writers never get the same.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::Rng as _;
use serde_json::{Value, json};
use skiff_api::ApiError;
use skiff_api::status::Cause;

use crate::meta;
use crate::registry::Row;

type Protocol = String;

/// One thing that is taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Item {
    Address(Ipv4Addr),
    Port(Protocol, u16),
}

pub(crate) struct Allocator {
    network: (Ipv4Addr, u8),
    /// Given only to those who ask for them.
    reserved: Vec<Ipv4Addr>,
    ports: RangeInclusive<u16>,
    /// With the uid of the owner.
    taken: Mutex<HashMap<Item, String>>,
}

/// What a write has reserved; given back when dropped, unless [`Reservation::keep`] was called.
pub(crate) struct Reservation {
    allocator: Arc<Allocator>,
    added: Vec<Item>,
    /// What the owner no longer needs once the write is done.
    freed: Vec<Item>,
    owner: String,
}

impl Reservation {
    /// The write is committed.
    pub fn keep(mut self) {
        self.added.clear();
        let freed = std::mem::take(&mut self.freed);
        self.allocator.release(&freed, &self.owner);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.allocator.release(&self.added, &self.owner);
    }
}

impl Allocator {
    pub fn new(network: (Ipv4Addr, u8), reserved: Vec<Ipv4Addr>, ports: RangeInclusive<u16>) -> Self {
        Self { network, reserved, ports, taken: Mutex::new(HashMap::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Item, String>> {
        self.taken.lock().expect("nothing panics while it holds the allocator")
    }

    /// Takes what the stored Services hold.
    pub fn load<'a>(&self, services: impl Iterator<Item = &'a Value>) {
        let mut taken = self.lock();
        for service in services {
            for item in items(service) {
                taken.insert(item, meta::text(service, "uid").to_owned());
            }
        }
    }

    /// The Service is gone.
    pub fn forget(&self, row: &Row, service: &Value) {
        if row.is("", "services") {
            self.release(&items(service), meta::text(service, "uid"));
        }
    }

    fn release(&self, items: &[Item], owner: &str) {
        if items.is_empty() {
            return;
        }
        let mut taken = self.lock();
        for item in items {
            if taken.get(item).is_some_and(|o| o == owner) {
                taken.remove(item);
            }
        }
    }

    /// Fills addresses and ports in, or checks and takes those that were asked for.
    pub fn reserve(self: &Arc<Self>, service: &mut Value, old: Option<&Value>) -> Result<Reservation, ApiError> {
        let owner = meta::text(service, "uid").to_owned();
        let held: Vec<Item> = old.map(items).unwrap_or_default();
        let mut reservation =
            Reservation { allocator: self.clone(), added: Vec::new(), freed: Vec::new(), owner: owner.clone() };
        let invalid = |cause: Cause| ApiError::invalid("", "Service", meta::text(service, "name"), vec![cause]);
        let mut plan = Plan { allocator: self, owner: &owner, held: &held, added: &mut reservation.added };
        let mut new = service.clone();
        prepare_addresses(&mut new, old);
        plan.addresses(&mut new).map_err(invalid)?;
        plan.ports(&mut new, old).map_err(invalid)?;
        let now = items(&new);
        reservation.freed = held.into_iter().filter(|item| !now.contains(item)).collect();
        *service = new;
        Ok(reservation)
    }

    fn contains(&self, address: Ipv4Addr) -> bool {
        let (first, size) = self.span();
        let offset = u32::from(address).wrapping_sub(u32::from(first));
        // Neither the network's own address nor the broadcast address.
        offset >= 1 && offset < size - 1
    }

    fn span(&self) -> (Ipv4Addr, u32) {
        let (network, prefix) = self.network;
        let size = 1u32.checked_shl(32 - u32::from(prefix)).unwrap_or(u32::MAX);
        (Ipv4Addr::from(u32::from(network) & !(size - 1)), size)
    }
}

struct Plan<'a> {
    allocator: &'a Arc<Allocator>,
    owner: &'a str,
    held: &'a [Item],
    added: &'a mut Vec<Item>,
}

impl Plan<'_> {
    /// True if it is the owner's now.
    fn take(&mut self, item: Item) -> bool {
        self.held.contains(&item) || self.added.contains(&item) || self.take_new(item)
    }

    /// True if it was nobody's, not even another port's of the same Service, and is the owner's now.
    fn take_new(&mut self, item: Item) -> bool {
        let mut taken = self.allocator.lock();
        if taken.contains_key(&item) {
            return false;
        }
        taken.insert(item.clone(), self.owner.to_owned());
        self.added.push(item);
        true
    }

    fn addresses(&mut self, service: &mut Value) -> Result<(), Cause> {
        let spec = &service["spec"];
        let asked = spec["clusterIP"].as_str().unwrap_or_default().to_owned();
        if spec["type"] == "ExternalName" || asked == "None" {
            return Ok(());
        }
        let address = if asked.is_empty() {
            self.next_address()?
        } else {
            self.asked_address(&asked)?;
            asked
        };
        service["spec"]["clusterIP"] = address.as_str().into();
        service["spec"]["clusterIPs"] = json!([address]);
        Ok(())
    }

    fn asked_address(&mut self, text: &str) -> Result<(), Cause> {
        let fail = |why: String| {
            Err(Cause {
                reason: "FieldValueInvalid".into(),
                message: format!("Invalid value: {}: failed to allocate IP {text}: {why}", json!([text])),
                field: "spec.clusterIPs".into(),
            })
        };
        let Ok(address) = text.parse::<Ipv4Addr>() else {
            return fail("the provided address is not an IPv4 address of this cluster's family".into());
        };
        if self.held.contains(&Item::Address(address)) {
            return Ok(());
        }
        if !self.allocator.contains(address) {
            let (first, _) = self.allocator.span();
            let network = format!("{first}/{}", self.allocator.network.1);
            return fail(format!(
                "the provided network does not match the current range or the provided IP ({text}) is not in the \
                 valid range. The range of valid IPs is {network}"
            ));
        }
        if !self.take(Item::Address(address)) {
            return fail("provided IP is already allocated".into());
        }
        Ok(())
    }

    fn next_address(&mut self) -> Result<String, Cause> {
        let (first, size) = self.allocator.span();
        let usable = size.saturating_sub(2).max(1);
        let start = rand::rng().random_range(0..usable);
        for step in 0..usable {
            let address = Ipv4Addr::from(u32::from(first) + 1 + (start + step) % usable);
            if !self.allocator.reserved.contains(&address) && self.take_new(Item::Address(address)) {
                return Ok(address.to_string());
            }
        }
        Err(Cause {
            reason: "InternalError".into(),
            message: "Internal error: failed to allocate a serviceIP: range is full".into(),
            field: "spec.clusterIPs".into(),
        })
    }

    fn ports(&mut self, service: &mut Value, old: Option<&Value>) -> Result<(), Cause> {
        let old_ports = |i: usize| old.map_or(Value::Null, |o| o["spec"]["ports"][i].clone());
        let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
        let allocates = service["spec"]["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true);
        let needs = kind == "NodePort" || (kind == "LoadBalancer" && allocates);
        let keeps = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
        let had = old.is_some_and(|o| matches!(o["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer")));
        if keeps && had {
            keep_ports(service, old);
        }
        // One port may serve TCP and UDP: the second protocol gets the number of the first.
        let mut by_number: HashMap<i64, u16> = HashMap::new();
        for (i, port) in
            service.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten().enumerate()
        {
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            let given = port["nodePort"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(0);
            if !keeps {
                // A type that has no node ports drops those that it had; asking for one is refused by validation.
                let unchanged = had && old_ports(i)["nodePort"] == port["nodePort"];
                if (given == 0 || unchanged)
                    && let Some(map) = port.as_object_mut()
                {
                    map.remove("nodePort");
                }
                continue;
            }
            let number = port["port"].as_i64().unwrap_or(0);
            if given != 0 {
                self.asked_port(i, &protocol, given)?;
                by_number.insert(number, given);
            } else if needs {
                let same = by_number.get(&number).copied().filter(|p| self.take(Item::Port(protocol.clone(), *p)));
                let chosen = match same {
                    Some(port) => port,
                    None => self.next_port(i, &protocol)?,
                };
                by_number.insert(number, chosen);
                port["nodePort"] = chosen.into();
            }
        }
        self.health_check_port(service, &kind)
    }

    fn health_check_port(&mut self, service: &mut Value, kind: &str) -> Result<(), Cause> {
        let local = kind == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local";
        let given = service["spec"]["healthCheckNodePort"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(0);
        if !local {
            if let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) {
                spec.remove("healthCheckNodePort");
            }
            return Ok(());
        }
        let chosen = if given != 0 && self.take(Item::Port("TCP".into(), given)) {
            given
        } else if given != 0 {
            return Err(port_cause("spec.healthCheckNodePort".into(), given, "provided port is already allocated"));
        } else {
            self.next_port(0, "TCP")?
        };
        service["spec"]["healthCheckNodePort"] = chosen.into();
        Ok(())
    }

    fn asked_port(&mut self, i: usize, protocol: &str, port: u16) -> Result<(), Cause> {
        let field = format!("spec.ports[{i}].nodePort");
        let item = Item::Port(protocol.to_owned(), port);
        if self.held.contains(&item) {
            return Ok(());
        }
        let range = &self.allocator.ports;
        if !range.contains(&port) {
            let why = format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                range.start(),
                range.end()
            );
            return Err(port_cause(field, port, &why));
        }
        if !self.take(item) {
            return Err(port_cause(field, port, "provided port is already allocated"));
        }
        Ok(())
    }

    fn next_port(&mut self, i: usize, protocol: &str) -> Result<u16, Cause> {
        let (first, last) = (*self.allocator.ports.start(), *self.allocator.ports.end());
        let count = u32::from(last - first) + 1;
        let start = rand::rng().random_range(0..count);
        for step in 0..count {
            let port = first + u16::try_from((start + step) % count).expect("smaller than the count of ports");
            if self.take_new(Item::Port(protocol.to_owned(), port)) {
                return Ok(port);
            }
        }
        Err(Cause {
            reason: "InternalError".into(),
            message: "Internal error: failed to allocate a nodePort: range is full".into(),
            field: format!("spec.ports[{i}].nodePort"),
        })
    }
}

fn port_cause(field: String, port: u16, why: &str) -> Cause {
    Cause { reason: "FieldValueInvalid".into(), message: format!("Invalid value: {port}: {why}"), field }
}

/// `clusterIP` and `clusterIPs` say the same, and follow the type; families are filled in.
fn prepare_addresses(service: &mut Value, old: Option<&Value>) {
    let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if spec.get("type").and_then(Value::as_str) == Some("ExternalName") {
        let was = old.map_or("", |o| o["spec"]["clusterIP"].as_str().unwrap_or_default());
        let kept = spec.get("clusterIP").and_then(Value::as_str).is_some_and(|ip| ip == was || ip.is_empty());
        if kept {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            spec.remove(field);
        }
        return;
    }
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut address = text(spec.get("clusterIP"));
    if address.is_empty() {
        address = text(spec.get("clusterIPs").and_then(|list| list.get(0)));
    }
    if address.is_empty()
        && let Some(old) = old
        && old["spec"]["type"] != "ExternalName"
    {
        // A client that knows nothing of the address keeps it.
        address = text(old["spec"].get("clusterIP"));
    }
    if !address.is_empty() {
        spec.insert("clusterIP".to_owned(), address.as_str().into());
        spec.insert("clusterIPs".to_owned(), json!([address]));
    }
    spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
    spec.entry("ipFamilyPolicy").or_insert_with(|| json!("SingleStack"));
}

/// A client that knows nothing of the node ports keeps them, as upstream: by the names of the ports.
fn keep_ports(service: &mut Value, old: Option<&Value>) {
    let number = |port: &Value| port["nodePort"].as_u64().filter(|n| *n != 0);
    let name = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
    let Some(old) = old.map(|o| &o["spec"]) else { return };
    let before: HashMap<String, u64> =
        old["ports"].as_array().into_iter().flatten().filter_map(|p| Some((name(p), number(p)?))).collect();
    let Some(spec) = service.get_mut("spec") else { return };
    let mut used: Vec<u64> = spec["ports"].as_array().into_iter().flatten().filter_map(number).collect();
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if number(port).is_none()
            && let Some(had) = before.get(&name(port)).filter(|had| !used.contains(had))
        {
            port["nodePort"] = (*had).into();
            used.push(*had);
        }
    }
    if spec["healthCheckNodePort"].as_u64().unwrap_or(0) == 0
        && let Some(had) = old["healthCheckNodePort"].as_u64().filter(|n| *n != 0)
    {
        spec["healthCheckNodePort"] = had.into();
    }
}

/// What a stored Service holds.
fn items(service: &Value) -> Vec<Item> {
    let spec = &service["spec"];
    let mut items: Vec<Item> =
        spec["clusterIP"].as_str().and_then(|ip| ip.parse().ok()).map(Item::Address).into_iter().collect();
    let number = |value: &Value| value.as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0);
    for port in spec["ports"].as_array().into_iter().flatten() {
        if let Some(taken) = number(&port["nodePort"]) {
            items.push(Item::Port(port["protocol"].as_str().unwrap_or("TCP").to_owned(), taken));
        }
    }
    if let Some(taken) = number(&spec["healthCheckNodePort"]) {
        items.push(Item::Port("TCP".into(), taken));
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator() -> Arc<Allocator> {
        Arc::new(Allocator::new((Ipv4Addr::new(10, 43, 0, 0), 29), vec![Ipv4Addr::new(10, 43, 0, 1)], 30_000..=30_003))
    }

    fn service(uid: &str, spec: Value) -> Value {
        json!({"metadata": {"name": "s", "uid": uid}, "spec": spec})
    }

    fn try_reserve(allocator: &Arc<Allocator>, service: &mut Value, old: Option<&Value>) -> Result<(), String> {
        allocator.reserve(service, old).map(Reservation::keep).map_err(|e| e.message)
    }

    #[test]
    fn each_address_has_one_owner() {
        let all = allocator();
        let mut got = Vec::new();
        // 8 addresses less network, broadcast and the reserved one.
        for i in 0..5 {
            let mut s = service(&i.to_string(), json!({"type": "ClusterIP"}));
            try_reserve(&all, &mut s, None).expect("free");
            got.push(s["spec"]["clusterIP"].as_str().expect("an address").to_owned());
        }
        got.sort();
        got.dedup();
        assert_eq!(got.len(), 5);
        let full = try_reserve(&all, &mut service("x", json!({"type": "ClusterIP"})), None);
        assert!(full.expect_err("full").contains("range is full"));
        let taken = try_reserve(&all, &mut service("x", json!({"clusterIP": got[0]})), None).expect_err("taken");
        assert!(taken.contains("provided IP is already allocated"), "{taken}");
        // The reserved one goes to who asks for it; one outside to nobody; headless needs none.
        try_reserve(&all, &mut service("r", json!({"clusterIP": "10.43.0.1"})), None).expect("asked for");
        assert!(try_reserve(&all, &mut service("o", json!({"clusterIP": "10.44.0.1"})), None).is_err());
        try_reserve(&all, &mut service("h", json!({"clusterIP": "None"})), None).expect("headless");
    }

    #[test]
    fn failed_writes_and_changes_of_type_give_back() {
        let all = allocator();
        let mut s = service("a", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30_001}]}));
        drop(all.reserve(&mut s.clone(), None).expect("free"));
        try_reserve(&all, &mut s, None).expect("free again");
        let mut other = service("b", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30_001}]}));
        let error = try_reserve(&all, &mut other.clone(), None).expect_err("taken");
        assert!(
            error.ends_with("spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated"),
            "{error}"
        );
        let mut plain = s.clone();
        plain["spec"]["type"] = "ClusterIP".into();
        try_reserve(&all, &mut plain, Some(&s)).expect("a change of type");
        assert!(plain["spec"]["ports"][0].get("nodePort").is_none());
        assert_eq!(plain["spec"]["clusterIP"], s["spec"]["clusterIP"]);
        try_reserve(&all, &mut other, None).expect("given back");
        let outside = service("c", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}));
        let error = try_reserve(&all, &mut outside.clone(), None).expect_err("outside");
        assert!(error.contains("The range of valid ports is 30000-30003"), "{error}");
    }

    #[test]
    fn each_port_of_a_service_has_a_number_of_its_own() {
        for _ in 0..20 {
            let all = allocator();
            let ports = json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}, {"name": "c", "port": 3}]);
            let mut s = service("a", json!({"type": "NodePort", "ports": ports}));
            try_reserve(&all, &mut s, None).expect("free");
            let mut more = s.clone();
            more["spec"]["ports"].as_array_mut().expect("ports").push(json!({"name": "d", "port": 4}));
            try_reserve(&all, &mut more, Some(&s)).expect("one is free");
            let ports = more["spec"]["ports"].as_array().expect("ports");
            let mut given: Vec<_> = ports.iter().filter_map(|p| p["nodePort"].as_u64()).collect();
            given.sort_unstable();
            assert_eq!(given, [30_000, 30_001, 30_002, 30_003]);
        }
    }

    #[test]
    fn two_protocols_share_a_number() {
        let all = allocator();
        let ports = json!([{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]);
        let mut s = service("a", json!({"type": "NodePort", "ports": ports}));
        try_reserve(&all, &mut s, None).expect("free");
        assert_eq!(s["spec"]["ports"][0]["nodePort"], s["spec"]["ports"][1]["nodePort"]);
        // An update that leaves everything as it is takes nothing more.
        try_reserve(&all, &mut s.clone(), Some(&s)).expect("its own");
    }
}
