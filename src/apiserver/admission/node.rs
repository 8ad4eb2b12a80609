//! TaintNodesByCondition: a new node takes no pods until it is known to be ready.

use serde_json::{Value, json};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) fn create(node: &mut Value) {
    let taints = &node["spec"]["taints"];
    let has = taints.as_array().into_iter().flatten().any(|t| t["key"] == NOT_READY && t["effect"] == "NoSchedule");
    if has {
        return;
    }
    let mut taints = taints.as_array().cloned().unwrap_or_default();
    taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    node["spec"]["taints"] = taints.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_once() {
        let mut node = json!({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}});
        create(&mut node);
        create(&mut node);
        assert_eq!(node["spec"]["taints"].as_array().map(Vec::len), Some(2));
        let mut bare = json!({});
        create(&mut bare);
        assert_eq!(bare["spec"]["taints"][0]["key"], NOT_READY);
    }
}
