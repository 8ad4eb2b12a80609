//! Ports of the node that pods take.

use k8s_openapi::api::core::v1::PodSpec;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// `0.0.0.0` is every address.
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    pub fn conflicts(&self, other: &Self) -> bool {
        let same_ip = self.ip == other.ip || self.ip == "0.0.0.0" || other.ip == "0.0.0.0";
        same_ip && self.port == other.port && self.protocol == other.protocol
    }

    /// Those of a pod's main containers and sidecars.
    pub fn of(spec: &PodSpec) -> Vec<Self> {
        let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        spec.containers
            .iter()
            .chain(sidecars)
            .flat_map(|container| container.ports.iter().flatten())
            .filter_map(|port| {
                let number = port.host_port.filter(|number| *number > 0)?;
                let ip = port.host_ip.clone().filter(|ip| !ip.is_empty() && ip != "::");
                Some(Self {
                    ip: ip.unwrap_or_else(|| "0.0.0.0".into()),
                    protocol: port.protocol.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "TCP".into()),
                    port: number,
                })
            })
            .collect()
    }
}
