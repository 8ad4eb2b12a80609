use crate::framework::{Filter, Happening, Refusal};
use crate::snapshot::{NodeInfo, PodInfo};

/// A port of the node is taken by one pod only.
pub struct NodePorts;

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let taken = |wanted| node.pods.values().any(|other| other.ports.iter().any(|port| port.conflicts(wanted)));
        if pod.ports.iter().any(taken) {
            return Err(Refusal::until_pods_go("node(s) didn't have free ports for the requested pod ports"));
        }
        Ok(())
    }

    fn wakes(&self) -> Happening {
        Happening::NODE_ADDED.or(Happening::POD_GONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{info, pod};
    use serde_json::{Value, json};

    #[test]
    fn ports_conflict_by_address_protocol_and_number() {
        let with = |name: &str, port: Value| pod(name, json!({"containers": [{"name": "c", "ports": [port]}]}));
        let check = |held: Value, wanted: Value, expect: bool| {
            let mut node = info("n", json!({}));
            node.add(with("held", held.clone()));
            assert_eq!(NodePorts.filter(&with("new", wanted.clone()), &node).is_ok(), expect, "{held} {wanted}");
        };
        let port = |ip: &str, protocol: &str, port: i32| json!({"containerPort": 1, "hostPort": port, "hostIP": ip, "protocol": protocol});
        check(port("", "TCP", 80), port("", "TCP", 80), false);
        check(port("", "TCP", 80), port("", "TCP", 81), true);
        check(port("", "TCP", 80), port("", "UDP", 80), true);
        check(port("10.0.0.1", "TCP", 80), port("10.0.0.2", "TCP", 80), true);
        check(port("10.0.0.1", "TCP", 80), port("0.0.0.0", "TCP", 80), false);
        check(json!({"containerPort": 80}), json!({"containerPort": 80}), true);
    }
}
