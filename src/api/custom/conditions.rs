//! Which names a definition gets, and what its conditions are: decided from all definitions, so that the same
//! definitions give the same answer after a restart.

use serde_json::{Map, Value, json};

/// A definition as far as names go.
#[derive(Debug, Clone)]
pub struct Claim {
    pub name: String,
    pub group: String,
    /// `spec.names`.
    pub wanted: Value,
    /// `status.acceptedNames`.
    pub accepted: Value,
}

/// Names that others of the group have.
#[derive(Debug, Default)]
struct Taken {
    resources: Vec<String>,
    kinds: Vec<String>,
}

fn taken(claims: &[Claim], group: &str) -> Taken {
    let mut taken = Taken::default();
    for claim in claims.iter().filter(|claim| claim.group == group) {
        let text = |key: &str| claim.accepted[key].as_str().unwrap_or_default().to_owned();
        taken.resources.extend([text("plural"), text("singular")]);
        taken.resources.extend(
            claim.accepted["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned),
        );
        taken.kinds.extend([text("kind"), text("listKind")]);
    }
    taken
}

/// The names that the definition at `index` has from now on, and why not all that it wants: reason and message.
pub fn plan_names(claims: &[Claim], index: usize) -> (Value, Option<(&'static str, String)>) {
    let claim = &claims[index];
    let taken = taken(claims, &claim.group);
    let mut names = claim.accepted.as_object().cloned().unwrap_or_default();
    let mut conflict = None;
    let in_use = |name: &str| format!("{name:?} is already in use");
    let rows = [
        ("plural", "PluralConflict", &taken.resources),
        ("singular", "SingularConflict", &taken.resources),
        ("shortNames", "ShortNamesConflict", &taken.resources),
        ("kind", "KindConflict", &taken.kinds),
        ("listKind", "ListKindConflict", &taken.kinds),
    ];
    for (key, reason, used) in rows {
        let (wanted, has) = (claim.wanted.get(key), claim.accepted.get(key));
        if wanted == has {
            continue;
        }
        let clashes: Vec<String> = match wanted {
            Some(Value::Array(wanted)) => {
                let own = |name: &str| has.and_then(Value::as_array).is_some_and(|has| has.iter().any(|h| h == name));
                let clash = |name: &&str| !own(name) && used.iter().any(|used| used == name);
                wanted.iter().filter_map(Value::as_str).filter(clash).map(in_use).collect()
            }
            Some(Value::String(wanted)) => used.contains(wanted).then(|| in_use(wanted)).into_iter().collect(),
            _ => Vec::new(),
        };
        if clashes.is_empty() {
            set(&mut names, key, wanted);
        } else {
            let message = if clashes.len() == 1 { clashes[0].clone() } else { format!("[{}]", clashes.join(", ")) };
            conflict = Some((reason, message));
        }
    }
    set(&mut names, "categories", claim.wanted.get("categories"));
    (Value::Object(names), conflict)
}

fn set(names: &mut Map<String, Value>, key: &str, value: Option<&Value>) {
    match value {
        Some(value) => names.insert(key.to_owned(), value.clone()),
        None => names.remove(key),
    };
}

/// A condition's new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub kind: &'static str,
    pub status: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Condition {
    pub fn new(kind: &'static str, status: bool, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status, reason, message: message.into() }
    }
}

pub fn is_true(crd: &Value, kind: &str) -> bool {
    let conditions = crd.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// NamesAccepted and Established, from what is wrong with the names and with the authority of the conversion webhook.
pub fn plan_conditions(crd: &Value, conflict: Option<(&'static str, String)>, bad_authority: bool) -> Vec<Condition> {
    let accepted = match &conflict {
        None => Condition::new("NamesAccepted", true, "NoConflicts", "no conflicts found"),
        Some((reason, message)) => Condition::new("NamesAccepted", false, reason, message.as_str()),
    };
    let mut conditions = vec![accepted];
    if !is_true(crd, "Established") {
        conditions.push(match (conflict.is_none(), bad_authority) {
            (false, _) => Condition::new("Established", false, "NotAccepted", "not all names are accepted"),
            (true, true) => {
                Condition::new("Established", false, "InvalidCABundle", "The conversion webhook CABundle is invalid")
            }
            (true, false) => {
                Condition::new("Established", true, "InitialNamesAccepted", "the initial names have been accepted")
            }
        });
    }
    conditions
}

/// Whether a condition says this already.
pub fn is_told(crd: &Value, wanted: &Condition) -> bool {
    let conditions = crd.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let status = if wanted.status { "True" } else { "False" };
    conditions.into_iter().any(|known| {
        known["type"] == wanted.kind
            && known["status"] == status
            && known["reason"] == wanted.reason
            && known["message"] == *wanted.message
    })
}

/// What became of the community's word on its own groups, as the condition says it.
pub fn approval_condition(crd: &Value) -> Option<Condition> {
    use crate::kinds::apiextensions::{APPROVAL, Approval, approval_of, is_protected};
    if !is_protected(crd["spec"]["group"].as_str().unwrap_or_default()) {
        return None;
    }
    let given = crd["metadata"]["annotations"][APPROVAL].as_str().unwrap_or_default();
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    let (status, reason, message) = match approval_of(crd) {
        Approval::Approved => (true, "ApprovedAnnotation", format!("approved in {given}")),
        Approval::Bypassed => (false, "UnapprovedAnnotation", format!("not approved: {given:?}")),
        Approval::Missing => {
            (false, "MissingAnnotation", format!("protected groups must have approval annotation {APPROVAL:?}, {see}"))
        }
        Approval::Invalid => (
            false,
            "InvalidAnnotation",
            format!(
                "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \
                 \"unapproved\", {see}"
            ),
        ),
    };
    Some(Condition { kind: "KubernetesAPIApprovalPolicyConformant", status, reason, message })
}

/// Writes a condition into `status.conditions`; its time changes with its status only.
pub fn set_condition(crd: &mut Value, condition: &Condition, now: &str) {
    let status = if condition.status { "True" } else { "False" };
    if !crd["status"].is_object() {
        crd["status"] = json!({});
    }
    if !crd["status"]["conditions"].is_array() {
        crd["status"]["conditions"] = json!([]);
    }
    let Some(all) = crd["status"]["conditions"].as_array_mut() else { return };
    if let Some(known) = all.iter_mut().find(|known| known["type"] == condition.kind) {
        if known["status"] != status || known["lastTransitionTime"].is_null() {
            known["lastTransitionTime"] = now.into();
        }
        known["status"] = status.into();
        known["reason"] = condition.reason.into();
        known["message"] = condition.message.as_str().into();
        return;
    }
    all.push(
        json!({"type": condition.kind, "status": status, "reason": condition.reason, "message": condition.message,
        "lastTransitionTime": now}),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(name: &str, wanted: Value, accepted: Value) -> Claim {
        Claim { name: name.into(), group: "example.com".into(), wanted, accepted }
    }

    fn names(plural: &str, kind: &str, short: &[&str]) -> Value {
        json!({"plural": plural, "singular": plural.trim_end_matches('s'), "kind": kind, "listKind": format!("{kind}List"),
            "shortNames": short})
    }

    #[test]
    fn names_are_given_once() {
        let first = claim("a", names("as", "A", &["x"]), names("as", "A", &["x"]));
        let fresh = claim("b", names("bs", "B", &["y"]), json!({}));
        let (given, conflict) = plan_names(&[first.clone(), fresh], 1);
        assert_eq!((given, conflict), (names("bs", "B", &["y"]), None));
        let clashing = claim("b", names("bs", "A", &["x", "y"]), json!({}));
        let (given, conflict) = plan_names(&[first.clone(), clashing], 1);
        assert_eq!(given, json!({"plural": "bs", "singular": "b"}));
        assert_eq!(conflict, Some(("ListKindConflict", "\"AList\" is already in use".to_owned())));
        let short = claim("b", names("bs", "B", &["x"]), names("bs", "B", &[]));
        let (given, conflict) = plan_names(&[first.clone(), short], 1);
        assert_eq!(given, names("bs", "B", &[]));
        assert_eq!(conflict, Some(("ShortNamesConflict", "\"x\" is already in use".to_owned())));
        let mut elsewhere = claim("b", names("as", "A", &["x"]), json!({}));
        elsewhere.group = "example.org".into();
        assert_eq!(plan_names(&[first, elsewhere], 1).1, None);
    }

    #[test]
    fn conditions_follow_the_names() {
        let texts = |crd: &Value, conflict, bad| -> Vec<String> {
            let all = plan_conditions(crd, conflict, bad);
            all.iter().map(|c| format!("{} {} {}", c.kind, c.status, c.reason)).collect()
        };
        let fresh = json!({});
        assert_eq!(
            texts(&fresh, None, false),
            ["NamesAccepted true NoConflicts", "Established true InitialNamesAccepted"]
        );
        assert_eq!(texts(&fresh, None, true)[1], "Established false InvalidCABundle");
        let conflict = Some(("KindConflict", "x".to_owned()));
        assert_eq!(
            texts(&fresh, conflict.clone(), false),
            ["NamesAccepted false KindConflict", "Established false NotAccepted"]
        );
        let established = json!({"status": {"conditions": [{"type": "Established", "status": "True"}]}});
        assert_eq!(texts(&established, conflict, false), ["NamesAccepted false KindConflict"]);
        let mut crd = json!({});
        set_condition(&mut crd, &Condition::new("A", true, "R", "m"), "t1");
        set_condition(&mut crd, &Condition::new("A", true, "S", "n"), "t2");
        assert_eq!(
            crd["status"]["conditions"],
            json!([{"type": "A", "status": "True", "reason": "S", "message": "n", "lastTransitionTime": "t1"}])
        );
    }
}
