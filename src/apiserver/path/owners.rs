//! Owner references that came twice.

use serde_json::Value;

use crate::meta;

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    Not,
    /// Mutating admission had its say.
    Mutating,
}

/// Leaves one of each reference; with the warning about it. The same owner in other words stays, as upstream: nobody knows
/// what follows which.
pub(super) fn dedup_owners(object: &mut Value, admitted: Admitted) -> Option<String> {
    // Most objects have one owner, or none.
    let owners = object["metadata"]["ownerReferences"].as_array().filter(|owners| owners.len() > 1)?;
    let mut kept: Vec<Value> = Vec::with_capacity(owners.len());
    let mut twice = Vec::new();
    for owner in owners {
        match kept.contains(owner) {
            true => twice.push(owner["uid"].as_str().unwrap_or_default().to_owned()),
            false => kept.push(owner.clone()),
        }
    }
    if twice.is_empty() {
        return None;
    }
    meta::set(object, "ownerReferences", kept);
    let when = match admitted {
        Admitted::Not => "",
        Admitted::Mutating => " after mutating admission happens",
    };
    Some(format!(
        ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may \
         reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        twice.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_of_each_is_left() {
        let owner = |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid});
        let check = |owners: Vec<Value>, left: usize, uids: Option<&str>| {
            let mut object = json!({"metadata": {"ownerReferences": owners}});
            let told = dedup_owners(&mut object, Admitted::Mutating);
            assert_eq!(object["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(left), "{object}");
            assert_eq!(told.as_deref().and_then(|told| told.rsplit_once(": ")).map(|(_, uids)| uids), uids);
        };
        check(vec![owner("a", "1")], 1, None);
        check(vec![owner("a", "1"), owner("b", "1")], 2, None);
        check(vec![owner("a", "1"), owner("b", "2"), owner("a", "1"), owner("b", "2")], 2, Some("1, 2"));
        assert_eq!(dedup_owners(&mut json!({}), Admitted::Not), None);
    }
}
