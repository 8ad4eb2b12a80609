//! The fields of a value: which it has, and how two values differ.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::element::{Element, compare_values};
use super::set::{Node, Set};
use super::shape::{Shape, Typed, element_of, entries, is_hollow, items};

/// All fields that a configuration sets.
pub fn fields_of(value: &Value, ty: Typed<'_>) -> Set {
    node_of(value, ty).below
}

fn node_of(value: &Value, ty: Typed<'_>) -> Node {
    match ty.shape(value) {
        Shape::Leaf => Node::leaf(),
        Shape::List(list) => {
            let mut seen: BTreeMap<Element, Node> = BTreeMap::new();
            for item in items(Some(value)) {
                // A list with an item that has no key was refused, or is older than its schema.
                let Ok(element) = element_of(list, item) else { continue };
                seen.entry(element)
                    // Of items that are there twice only the place is owned.
                    .and_modify(|node| *node = Node::leaf())
                    .or_insert_with(|| Node { member: true, ..node_of(item, ty.item()) });
            }
            Node { member: false, below: Set::collect(seen) }
        }
        Shape::Fields(_) | Shape::Map => {
            let entry = |(name, value): (&String, &Value)| {
                let mut node = node_of(value, ty.entry(name));
                node.member |= value.is_null() || value.as_object().is_some_and(Map::is_empty) || !ty.declares(name);
                (Element::field(name), node)
            };
            Node { member: false, below: Set::collect(entries(Some(value)).into_iter().flatten().map(entry)) }
        }
    }
}

/// What became of a value's fields. No field is in two of the sets, unless its value changed its kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    pub removed: Set,
    pub modified: Set,
    pub added: Set,
}

impl Comparison {
    pub fn of(old: &Value, new: &Value, ty: Typed<'_>) -> Self {
        let parts = compare(Some(old), Some(new), ty);
        Self { removed: parts.removed.below, modified: parts.modified.below, added: parts.added.below }
    }

    pub fn is_same(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    /// Without some fields and everything below them.
    pub fn without_trees(self, fields: &Set) -> Self {
        if fields.is_empty() {
            return self;
        }
        Self {
            removed: self.removed.without_trees(fields),
            modified: self.modified.without_trees(fields),
            added: self.added.without_trees(fields),
        }
    }

    /// Everything that the new value says otherwise than the old one.
    pub fn written(self) -> Set {
        self.modified.union(self.added)
    }
}

#[derive(Default)]
struct Parts {
    removed: Node,
    modified: Node,
    added: Node,
}

impl Parts {
    fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    /// A value that is owned as a whole.
    fn of_leaf(old: Option<&Value>, new: Option<&Value>) -> Self {
        let mut parts = Self::default();
        match (old, new) {
            (None, _) => parts.added.member = true,
            (_, None) => parts.removed.member = true,
            (Some(old), Some(new)) => parts.modified.member = compare_values(old, new).is_ne(),
        }
        parts
    }

    fn collect(children: impl IntoIterator<Item = (Element, Parts)>) -> Self {
        let (mut removed, mut modified, mut added) = (Vec::new(), Vec::new(), Vec::new());
        for (element, parts) in children {
            let lists = [(&mut removed, parts.removed), (&mut modified, parts.modified), (&mut added, parts.added)];
            let mut lists = lists.into_iter().filter(|(_, node)| !node.is_empty()).peekable();
            // Mostly there is one, which takes the element as it is.
            let mut element = Some(element);
            while let Some((list, node)) = lists.next() {
                let this = if lists.peek().is_some() { element.clone() } else { element.take() };
                list.extend(this.map(|element| (element, node)));
            }
        }
        let node = |nodes| Node { member: false, below: Set::collect(nodes) };
        Self { removed: node(removed), modified: node(modified), added: node(added) }
    }
}

/// At least one of the two is there.
fn compare(old: Option<&Value>, new: Option<&Value>, ty: Typed<'_>) -> Parts {
    // Most of an object stays as it is.
    if old == new {
        return Parts::default();
    }
    let null = &Value::Null;
    let (a, b) = (old.unwrap_or(null), new.unwrap_or(null));
    // Null takes the other's shape.
    let shape = ty.shape(if b.is_null() { a } else { b });
    if !a.is_null() && !b.is_null() && std::mem::discriminant(a) != std::mem::discriminant(b) {
        return compare_kinds(a, b, ty);
    }
    if matches!(shape, Shape::Leaf) || is_hollow(old) && is_hollow(new) {
        return Parts::of_leaf(old, new);
    }
    let mut parts = match shape {
        Shape::List(list) => {
            let keyed = |value: Option<&'_ Value>| {
                let mut by_key: BTreeMap<Element, Vec<usize>> = BTreeMap::new();
                for (at, item) in items(value).iter().enumerate() {
                    if let Ok(element) = element_of(list, item) {
                        by_key.entry(element).or_default().push(at);
                    }
                }
                by_key
            };
            compare_items(keyed(old), items(old), keyed(new), items(new), ty.item())
        }
        _ => compare_entries(old, new, ty),
    };
    parts.added.member |= old.is_none();
    parts.removed.member |= new.is_none();
    parts
}

/// Two values of different kinds, where the type takes both, or one is no longer what the type says.
fn compare_kinds(old: &Value, new: &Value, ty: Typed<'_>) -> Parts {
    let below = |value: &Value| node_of(value, ty).below;
    Parts {
        removed: Node { member: false, below: below(old) },
        modified: Node::leaf(),
        added: Node { member: false, below: below(new) },
    }
}

fn compare_entries(old: Option<&Value>, new: Option<&Value>, ty: Typed<'_>) -> Parts {
    let (old, new) = (entries(old), entries(new));
    let mut names: Vec<&String> = old.into_iter().chain(new).flat_map(Map::keys).collect();
    if old.is_some() && new.is_some() {
        names.sort_unstable();
        names.dedup();
    }
    let children = names.into_iter().filter_map(|name| {
        let (a, b) = (entry_of(old, name, ty), entry_of(new, name, ty));
        let parts = (a.is_some() || b.is_some()).then(|| compare(a, b, ty.entry(name)))?;
        (!parts.is_empty()).then(|| (Element::field(name), parts))
    });
    Parts::collect(children)
}

/// An entry that is in the JSON, or that Go's struct has anyway.
fn entry_of<'v>(map: Option<&'v Map<String, Value>>, name: &str, ty: Typed<'_>) -> Option<&'v Value> {
    let implied = || ty.implied(ty.known_object()?.field(name)?);
    map?.get(name).or_else(implied)
}

fn compare_items(
    old_keys: BTreeMap<Element, Vec<usize>>,
    old: &[Value],
    mut new_keys: BTreeMap<Element, Vec<usize>>,
    new: &[Value],
    ty: Typed<'_>,
) -> Parts {
    let mut children = Vec::with_capacity(old.len().max(new.len()));
    for (element, before) in old_keys {
        let after = new_keys.remove(&element).unwrap_or_default();
        children.push((element, compare_same(&before, old, &after, new, ty)));
    }
    for (element, after) in new_keys {
        children.push((element, compare_same(&[], old, &after, new, ty)));
    }
    Parts::collect(children)
}

/// The items of one key: normally one at most; more are owned as one.
fn compare_same(before: &[usize], old: &[Value], after: &[usize], new: &[Value], ty: Typed<'_>) -> Parts {
    let a = before.first().map(|at| &old[*at]);
    let b = after.first().map(|at| &new[*at]);
    match (before.len(), after.len()) {
        (0 | 1, 0 | 1) => compare(a, b, ty),
        (0 | 1, _) => {
            let mut parts = a.map_or_else(Parts::default, |a| compare(Some(a), None, ty));
            parts.added.member = true;
            parts
        }
        (_, 0 | 1) => {
            let mut parts = b.map_or_else(Parts::default, |b| compare(None, Some(b), ty));
            parts.removed.member = true;
            parts
        }
        _ => {
            let equal = before.len() == after.len()
                && before.iter().zip(after).all(|(a, b)| compare_values(&old[*a], &new[*b]).is_eq());
            Parts { modified: Node { member: !equal, below: Set::default() }, ..Parts::default() }
        }
    }
}
