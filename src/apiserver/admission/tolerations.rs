//! DefaultTolerationSeconds: pods stay five minutes on a node that is not ready or out of reach.

use serde_json::{Value, json};

const SECONDS: i64 = 300;
const KEYS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub(super) fn fill(pod: &mut Value) {
    if !pod["spec"].is_object() {
        return;
    }
    let mut tolerations = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    let before = tolerations.len();
    for key in KEYS {
        let text = |t: &Value, field: &str| t[field].as_str().unwrap_or_default().to_owned();
        let covers = |t: &Value| {
            (text(t, "key").is_empty() || text(t, "key") == key)
                && (text(t, "effect").is_empty() || text(t, "effect") == "NoExecute")
        };
        if !tolerations.iter().any(covers) {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
            }));
        }
    }
    if tolerations.len() > before {
        pod["spec"]["tolerations"] = tolerations.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_what_is_missing() {
        for (given, expect) in [
            (json!(null), 2),
            (json!([{"operator": "Exists"}]), 1),
            (json!([{"key": KEYS[0], "effect": "NoExecute", "operator": "Exists"}]), 2),
            (json!([{"key": KEYS[0], "effect": "NoSchedule", "operator": "Exists"}]), 3),
        ] {
            let mut pod = json!({"spec": {"tolerations": given}});
            fill(&mut pod);
            let once = pod.clone();
            fill(&mut pod);
            assert_eq!(pod, once);
            assert_eq!(pod["spec"]["tolerations"].as_array().map(Vec::len), Some(expect), "{given}");
        }
    }
}
