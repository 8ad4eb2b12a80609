//! Gives every node a range of addresses for its pods.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use skiff_api::ObjectKey;
use skiff_client::{Change, Client, EventKind, EventRecorder, Lister, Next, PatchKind, Queue, Reconciler, Result};

use crate::{Context, drive};

pub fn start(context: &Context) {
    let nodes = context.informers.lister::<Node>();
    let queue = Queue::new(NodeIpam::NAME);
    let ipam = Arc::new(NodeIpam {
        client: context.client("node-controller"),
        events: context.events("node-controller", "cidrAllocator"),
        nodes: nodes.clone(),
        ranges: Ranges { base: context.options.cluster_cidr, mask: context.options.node_cidr_mask },
        given: Mutex::default(),
    });
    let (seeing, adding) = (ipam.clone(), queue.clone());
    nodes.subscribe(move |change| match change {
        Change::Added(node) | Change::Modified { new: node, .. } => {
            if pod_cidr(node).is_none() {
                adding.add(ObjectKey::of(&**node));
            }
        }
        Change::Deleted(node) => {
            let mut given = seeing.given.lock().expect("nothing panics while it holds the ranges");
            given.remove(node.metadata.name.as_deref().unwrap_or_default());
        }
    });
    // One worker: two must not give the same range.
    drive(context, ipam, queue, 1, async move { nodes.synced().await });
}

struct NodeIpam {
    client: Client,
    events: EventRecorder,
    nodes: Lister<Node>,
    ranges: Ranges,
    /// What the cache may not show yet, by node.
    given: Mutex<HashMap<String, u32>>,
}

impl Reconciler for NodeIpam {
    const NAME: &'static str = "node-ipam-controller";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(node) = self.nodes.get(key) else { return Ok(Next::Done) };
        if pod_cidr(&node).is_some() {
            return Ok(Next::Done);
        }
        let number = {
            let nodes = self.nodes.list();
            let mut given = self.given.lock().expect("nothing panics while it holds the ranges");
            let shown = nodes.iter().filter_map(|node| self.ranges.number(pod_cidr(node)?));
            let used: Vec<u32> =
                shown.chain(given.iter().filter(|(n, _)| **n != *key.name).map(|(_, used)| *used)).collect();
            let number = given.get(&*key.name).copied().or_else(|| plan_range(&self.ranges, &used));
            if let Some(number) = number {
                given.insert(key.name.to_string(), number);
            }
            number
        };
        let Some(number) = number else {
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.events.record(EventRecorder::reference(&*node), EventKind::Normal, "CIDRNotAvailable", message);
            tracing::error!(node = %key.name, "the cluster's range of pod addresses is used up");
            return Ok(Next::Done);
        };
        let cidr = self.ranges.cidr(number);
        let patch = json!({"metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}});
        match self.client.all::<Node>().patch(&key.name, PatchKind::Strategic, &patch).await {
            Ok(_) => Ok(Next::Done),
            Err(error) if error.is_not_found() => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }
}

fn pod_cidr(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.pod_cidr.as_deref().filter(|cidr| !cidr.is_empty())
}

/// The cluster's range, cut into equal ones for nodes.
struct Ranges {
    base: (Ipv4Addr, u8),
    mask: u8,
}

impl Ranges {
    fn count(&self) -> u32 {
        1u32.checked_shl(u32::from(self.mask.saturating_sub(self.base.1))).unwrap_or(u32::MAX)
    }

    fn start(&self) -> u32 {
        u32::from(self.base.0) & u32::MAX.checked_shl(32 - u32::from(self.base.1)).unwrap_or(0)
    }

    fn size_bits(&self) -> u32 {
        32 - u32::from(self.mask.min(32))
    }

    fn cidr(&self, number: u32) -> String {
        format!("{}/{}", Ipv4Addr::from(self.start() + (number << self.size_bits())), self.mask)
    }

    /// Which of the ranges this is; none, if it lies elsewhere.
    fn number(&self, cidr: &str) -> Option<u32> {
        let address: Ipv4Addr = cidr.split('/').next()?.parse().ok()?;
        let number = u32::from(address).checked_sub(self.start())? >> self.size_bits();
        (number < self.count()).then_some(number)
    }
}

/// The first range that is free.
fn plan_range(ranges: &Ranges, used: &[u32]) -> Option<u32> {
    (0..ranges.count()).find(|number| !used.contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_first_free_range() {
        let check = |base: &str, prefix: u8, mask: u8, used: &[&str], expect: Option<&str>| {
            let ranges = Ranges { base: (base.parse().expect("an address"), prefix), mask };
            let used: Vec<u32> = used.iter().filter_map(|cidr| ranges.number(cidr)).collect();
            assert_eq!(plan_range(&ranges, &used).map(|n| ranges.cidr(n)).as_deref(), expect, "{base} {used:?}");
        };
        check("10.42.0.0", 16, 24, &[], Some("10.42.0.0/24"));
        check("10.42.0.0", 16, 24, &["10.42.0.0/24", "10.42.2.0/24"], Some("10.42.1.0/24"));
        check("10.42.0.0", 16, 24, &["10.9.0.0/24"], Some("10.42.0.0/24"));
        check("10.42.7.9", 23, 24, &["10.42.6.0/24"], Some("10.42.7.0/24"));
        check("10.42.6.0", 23, 24, &["10.42.6.0/24", "10.42.7.0/24"], None);
        check("10.42.6.0", 24, 24, &[], Some("10.42.6.0/24"));
        check("0.0.0.0", 0, 8, &[], Some("0.0.0.0/8"));
    }
}
