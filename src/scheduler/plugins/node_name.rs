use crate::framework::{Filter, Happening, Refusal};
use crate::snapshot::{NodeInfo, PodInfo};

/// A pod that names its node fits that one only.
pub struct NodeName;

impl Filter for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        match pod.spec().node_name.as_deref() {
            None | Some("") => Ok(()),
            Some(name) if name == node.name() => Ok(()),
            Some(_) => Err(Refusal::final_("node(s) didn't match the requested node name")),
        }
    }

    fn wakes(&self) -> Happening {
        Happening::NODE_ADDED
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{info, pod};
    use serde_json::json;

    #[test]
    fn fits_the_named_node() {
        for (name, expect) in [("", true), ("n", true), ("m", false)] {
            let pod = pod("a", json!({"containers": [], "nodeName": name}));
            assert_eq!(NodeName.filter(&pod, &info("n", json!({}))).is_ok(), expect, "{name}");
        }
    }
}
