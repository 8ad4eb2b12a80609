//! Node selectors: which nodes the terms of an affinity mean.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

/// What a selector asks of a node.
pub trait Selected {
    fn name(&self) -> &str;
    fn label(&self, key: &str) -> Option<&str>;
}

/// One of the terms must match.
pub fn matches(selector: &NodeSelector, node: &dyn Selected) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

/// All requirements of a term must hold; a term without any selects nothing.
pub fn term_matches(term: &NodeSelectorTerm, node: &dyn Selected) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // The only field there is.
    let field = |key: &str| (key == "metadata.name").then(|| node.name());
    (!labels.is_empty() || !fields.is_empty())
        && labels.iter().all(|requirement| holds(requirement, node.label(&requirement.key)))
        && fields.iter().all(|requirement| field(&requirement.key).is_some_and(|name| holds(requirement, Some(name))))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let among = |value: &str| values.iter().any(|v| v == value);
    let compared = || {
        let [limit] = values else { return None };
        Some(value?.parse::<i64>().ok()?.cmp(&limit.parse::<i64>().ok()?))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(among),
        "NotIn" => !value.is_some_and(among),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared().is_some_and(std::cmp::Ordering::is_gt),
        "Lt" => compared().is_some_and(std::cmp::Ordering::is_lt),
        _ => false,
    }
}
