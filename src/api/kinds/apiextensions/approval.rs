//! Groups of the community's own, which nobody else defines kinds in without a word.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::peek::Peek;

pub(crate) const APPROVAL: &str = "api-approved.kubernetes.io";

/// The community's word on a group of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Approval {
    Missing,
    Approved,
    Bypassed,
    Invalid,
}

pub(crate) fn is_protected(group: &str) -> bool {
    let domains = ["k8s.io", "kubernetes.io"];
    domains.iter().any(|domain| group == *domain || group.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')))
}

pub(crate) fn approval_of(object: &Value) -> Approval {
    let text = object.at("metadata.annotations").get(APPROVAL).and_then(Value::as_str).unwrap_or_default();
    let is_url = text.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty() && !rest.is_empty() && !rest.starts_with('/') && !text.contains(char::is_whitespace)
    });
    match text {
        "" => Approval::Missing,
        text if text.starts_with("unapproved") => Approval::Bypassed,
        _ if is_url => Approval::Approved,
        _ => Approval::Invalid,
    }
}

/// Groups of the community need a word of its own.
pub(super) fn approval(object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let state = approval_of(object);
    if !is_protected(object.text("spec.group")) || old.is_some_and(|old| approval_of(old) == state) {
        return;
    }
    let annotations = Path::new("metadata.annotations");
    let path = annotations.key(APPROVAL);
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    match state {
        Approval::Approved | Approval::Bypassed => {}
        Approval::Missing => {
            errors.required(&path, &format!("protected groups must have approval annotation {APPROVAL:?}, {see}"));
        }
        Approval::Invalid => {
            let given = object.at("metadata.annotations").get(APPROVAL).cloned().unwrap_or_default();
            let why = format!(
                "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \
                 \"unapproved\", {see}"
            );
            errors.invalid(&path, given, &why);
        }
    }
}
