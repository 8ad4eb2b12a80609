//! Which devices a container gets: pure. The sentences are upstream's.

use std::collections::BTreeSet;

type Ids = BTreeSet<String>;

/// What is known of one resource when a container asks for some of it.
pub(super) struct Offer<'a> {
    pub(super) resource: &'a str,
    /// The pod and the container, for messages.
    pub(super) whose: (&'a str, &'a str),
    pub(super) required: usize,
    /// What the container was given before.
    pub(super) had: Option<&'a Ids>,
    pub(super) healthy: &'a Ids,
    /// By whichever container.
    pub(super) used: &'a Ids,
    /// Of init containers of the same pod, which have ended by then.
    pub(super) reusable: Option<&'a Ids>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// It has what it wants.
    Nothing,
    /// These, and so many of those that are available that there are enough.
    Give { taken: Ids, available: Ids },
}

pub(super) fn choose(offer: &Offer<'_>) -> Result<Choice, String> {
    let Offer { resource, required, .. } = *offer;
    let none = Ids::new();
    let had = offer.had.unwrap_or(&none);
    if offer.had.is_some() && had.len() != required {
        let (pod, container, count) = (offer.whose.0, offer.whose.1, had.len());
        return Err(format!(
            "pod {pod:?} container {container:?} changed request for resource {resource:?} from {count} to {required}"
        ));
    }
    if offer.healthy.is_empty() {
        return Err(format!("no healthy devices present; cannot allocate unhealthy devices {resource}"));
    }
    if !offer.healthy.is_superset(had) {
        return Err(format!(
            "previously allocated devices are no longer healthy; cannot allocate unhealthy devices {resource}"
        ));
    }
    if offer.had.is_some() {
        return Ok(Choice::Nothing);
    }
    let taken: Ids = offer.reusable.into_iter().flatten().take(required).cloned().collect();
    let needed = required - taken.len();
    let available: Ids = offer.healthy.difference(offer.used).cloned().collect();
    if available.len() < needed {
        return Err(format!(
            "requested number of devices unavailable for {resource}. Requested: {needed}, Available: {}",
            available.len()
        ));
    }
    Ok(Choice::Give { taken, available })
}

/// Takes the rest of what is required, what the plugin prefers first.
pub(super) fn complete(taken: Ids, available: &Ids, preferred: &[String], required: usize) -> Ids {
    let first = preferred.iter().filter(|id| available.contains(*id));
    let mut given = taken;
    for id in first.chain(available) {
        if given.len() >= required {
            break;
        }
        given.insert(id.clone());
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &str) -> Ids {
        list.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn who_gets_what() {
        let check = |required: usize, had: Option<&str>, [healthy, used, reusable]: [&str; 3], expect: &str| {
            let (had, healthy, used, reusable) = (had.map(ids), ids(healthy), ids(used), ids(reusable));
            let offer = Offer {
                resource: "x.io/d",
                whose: ("u", "c"),
                required,
                had: had.as_ref(),
                healthy: &healthy,
                used: &used,
                reusable: Some(&reusable),
            };
            let found = match choose(&offer) {
                Ok(Choice::Nothing) => "nothing".to_owned(),
                Ok(Choice::Give { taken, available }) => {
                    Vec::from_iter(complete(taken, &available, &["c".into(), "zz".into()], required)).join(" ")
                }
                Err(why) => why,
            };
            assert_eq!(found, expect);
        };
        check(1, None, ["a b c", "", ""], "c");
        check(2, None, ["a b c", "c", ""], "a b");
        check(2, None, ["a b c", "b", "b"], "b c");
        check(1, None, ["a b", "a b", "b"], "b");
        check(1, Some("a"), ["a b", "a", ""], "nothing");
        check(
            3,
            None,
            ["a b c", "c", ""],
            "requested number of devices unavailable for x.io/d. Requested: 3, Available: 2",
        );
        check(1, None, ["", "", ""], "no healthy devices present; cannot allocate unhealthy devices x.io/d");
        let ill = "previously allocated devices are no longer healthy; cannot allocate unhealthy devices x.io/d";
        check(1, Some("a"), ["b", "a", ""], ill);
        let changed = "pod \"u\" container \"c\" changed request for resource \"x.io/d\" from 1 to 2";
        check(2, Some("a"), ["a b", "a", ""], changed);
    }
}
