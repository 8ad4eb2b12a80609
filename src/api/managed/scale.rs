//! The owners of an object as its `scale` sees them, and back: all that the two share is the number of replicas.

use super::element::Element;
use super::owners::{Owner, Owners};
use super::set::Set;

const SCALE_VERSION: &str = "autoscaling/v1";

fn in_scale() -> Set {
    Set::of_fields(&[&["spec", "replicas"]])
}

/// Those who own the replicas, as owners of the scale. `replicas` says where they are in a version.
pub fn to_scale(parent: &Owners, replicas: &dyn Fn(&str) -> Option<Vec<Element>>) -> Owners {
    let holders =
        parent.0.iter().filter(|owner| replicas(&owner.api_version).is_some_and(|path| owner.fields.has(&path)));
    Owners(
        holders
            .map(|owner| Owner { api_version: SCALE_VERSION.to_owned(), fields: in_scale(), ..owner.clone() })
            .collect(),
    )
}

/// The owners of the object after a write to its scale, in the version of the endpoint.
pub fn to_parent(
    parent: Owners,
    mut scale: Owners,
    api_version: &str,
    replicas: &dyn Fn(&str) -> Option<Vec<Element>>,
) -> Owners {
    let same =
        |a: &Owner, b: &Owner| a.manager == b.manager && a.operation == b.operation && a.subresource == b.subresource;
    let mut owners = Owners::default();
    for mut owner in parent.0 {
        if let Some(path) = replicas(&owner.api_version).filter(|path| owner.fields.has(path)) {
            match scale.0.iter().position(|held| same(held, &owner)) {
                Some(at) => owner.time = scale.0.remove(at).time,
                None => {
                    let mut taken = Set::default();
                    taken.insert(&path);
                    owner.fields = std::mem::take(&mut owner.fields).difference(&taken);
                }
            }
        }
        if !owner.fields.is_empty() {
            owners.put(owner);
        }
    }
    let Some(path) = replicas(api_version) else { return owners };
    for holder in scale.0.into_iter().filter(|holder| !holder.fields.intersection(&in_scale()).is_empty()) {
        let mut fields = Set::default();
        fields.insert(&path);
        let mut owner = Owner { api_version: api_version.to_owned(), fields, ..holder };
        if let Some(before) = owners.take(&owner) {
            owner.fields = owner.fields.union(before.fields);
        }
        owners.put(owner);
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::managed::Operation;

    fn owner(manager: &str, operation: Operation, version: &str, fields: &[&[&str]]) -> Owner {
        Owner {
            manager: manager.into(),
            operation,
            api_version: version.into(),
            subresource: String::new(),
            time: None,
            fields: Set::of_fields(fields),
        }
    }

    fn replicas(version: &str) -> Option<Vec<Element>> {
        (version == "apps/v1").then(|| vec![Element::field("spec"), Element::field("replicas")])
    }

    #[test]
    fn replicas_change_hands() {
        use Operation::{Apply, Update};
        let (both, only): (&[&[&str]], &[&[&str]]) = (&[&["spec", "replicas"], &["spec", "x"]], &[&["spec", "x"]]);
        let path: &[&[&str]] = &[&["spec", "replicas"]];
        let parent = Owners(vec![
            owner("a", Apply, "apps/v1", both),
            owner("b", Update, "apps/v1", only),
            owner("c", Update, "apps/v0", both),
        ]);
        let scale = to_scale(&parent, &replicas);
        assert_eq!(scale, Owners(vec![owner("a", Apply, SCALE_VERSION, path)]));
        assert_eq!(to_parent(parent.clone(), scale, "apps/v1", &replicas), parent, "nothing was taken");
        let mut taker = owner("hpa", Update, SCALE_VERSION, path);
        taker.subresource = "scale".into();
        let after = to_parent(parent.clone(), Owners(vec![taker.clone()]), "apps/v1", &replicas);
        taker.api_version = "apps/v1".into();
        assert_eq!(
            after,
            Owners(vec![owner("a", Apply, "apps/v1", only), parent.0[1].clone(), parent.0[2].clone(), taker])
        );
    }
}
