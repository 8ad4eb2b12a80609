//! Taints of nodes, and which pods tolerate them.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// The first toleration that tolerates the taint.
pub fn toleration_of<'a>(tolerations: Option<&'a [Toleration]>, taint: &Taint) -> Option<&'a Toleration> {
    tolerations.unwrap_or_default().iter().find(|toleration| does_tolerate(toleration, taint))
}

/// Whether one of the tolerations tolerates the taint.
pub fn tolerates(tolerations: Option<&[Toleration]>, taint: &Taint) -> bool {
    toleration_of(tolerations, taint).is_some()
}

fn does_tolerate(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &'_ Option<String>| field.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let (asked, held) = (text(&toleration.value), taint.value.as_deref().unwrap_or_default());
    match toleration.operator.as_deref() {
        None | Some("" | "Equal") => asked == held,
        Some("Exists") => true,
        Some(operator @ ("Lt" | "Gt")) => match (held.parse::<i64>(), asked.parse::<i64>()) {
            (Ok(held), Ok(asked)) => (operator == "Lt" && held < asked) || (operator == "Gt" && held > asked),
            _ => false,
        },
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn tolerations_match_taints() {
        let taint = Taint { key: "k".into(), value: Some("5".into()), effect: "NoSchedule".into(), time_added: None };
        let check = |toleration: Value, expect: bool| {
            let typed: Toleration = serde_json::from_value(toleration.clone()).expect("a toleration");
            assert_eq!(tolerates(Some(&[typed]), &taint), expect, "{toleration}");
        };
        check(json!({"key": "k", "operator": "Equal", "value": "5", "effect": "NoSchedule"}), true);
        check(json!({"key": "k", "value": "5"}), true);
        check(json!({"key": "k", "value": "6"}), false);
        check(json!({"key": "k", "operator": "Exists"}), true);
        check(json!({"operator": "Exists"}), true);
        check(json!({"operator": "Exists", "effect": "NoExecute"}), false);
        check(json!({"key": "other", "operator": "Exists"}), false);
        check(json!({"key": "k", "operator": "Gt", "value": "4"}), true);
        check(json!({"key": "k", "operator": "Lt", "value": "4"}), false);
        assert!(!tolerates(None, &taint));
    }
}
