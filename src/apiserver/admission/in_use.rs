//! StorageObjectInUseProtection: new volumes and claims carry the finalizers that keep them while they are used.

use serde_json::{Value, json};

use super::request::{Operation, Request};

const KINDS: [(&str, &str); 2] =
    [("persistentvolumes", "kubernetes.io/pv-protection"), ("persistentvolumeclaims", "kubernetes.io/pvc-protection")];

/// Says whether it has set one.
pub(super) fn fill(request: &Request<'_>, object: &mut Value) -> bool {
    let kind = KINDS.iter().find(|(resource, _)| request.is(Operation::Create, "", resource));
    kind.is_some_and(|(_, finalizer)| guard(object, finalizer))
}

fn guard(object: &mut Value, finalizer: &str) -> bool {
    let finalizers = &mut object["metadata"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(list) if list.iter().any(|one| one == finalizer) => return false,
        Some(list) => list.push(json!(finalizer)),
        None => *finalizers = json!([finalizer]),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finalizers_are_set_once() {
        for (finalizers, expect) in
            [(json!(null), json!(["f"])), (json!(["f"]), json!(["f"])), (json!(["other"]), json!(["other", "f"]))]
        {
            let mut object = json!({"metadata": {"finalizers": finalizers}});
            guard(&mut object, "f");
            assert_eq!(object["metadata"]["finalizers"], expect);
        }
    }
}
