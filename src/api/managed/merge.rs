//! An applied configuration merged into a live object, and fields taken out of one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::element::Element;
use super::set::Set;
use super::shape::{Shape, Typed, element_of, entries, is_hollow, items};
use crate::schema::ListType;

/// The live value with everything that the configuration says. What it does not mention stays.
pub fn merge(live: &Value, applied: &Value, ty: Typed<'_>) -> Value {
    let is_other =
        !live.is_null() && !applied.is_null() && std::mem::discriminant(live) != std::mem::discriminant(applied);
    let shape = ty.shape(if applied.is_null() { live } else { applied });
    if is_other || is_hollow(Some(live)) && is_hollow(Some(applied)) {
        return applied.clone();
    }
    match shape {
        Shape::Leaf => applied.clone(),
        Shape::List(list) => Value::Array(merge_items(items(Some(live)), items(Some(applied)), list, ty)),
        Shape::Fields(_) | Shape::Map => {
            let mut merged = entries(Some(live)).cloned().unwrap_or_default();
            for (name, value) in entries(Some(applied)).into_iter().flatten() {
                let value = match merged.get(name) {
                    Some(found) => merge(found, value, ty.entry(name)),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
    }
}

/// A list's items by their element, in order. Those that are there twice are listed twice, and stand for no value.
struct Keyed<'a> {
    order: Vec<(Element, &'a Value)>,
    /// `None`: twice.
    by_element: BTreeMap<Element, Option<&'a Value>>,
    /// Items older than the schema, which have no element.
    others: Vec<&'a Value>,
}

impl<'a> Keyed<'a> {
    fn of(items: &'a [Value], list: &ListType) -> Self {
        let (mut order, mut others) = (Vec::with_capacity(items.len()), Vec::new());
        for item in items {
            match element_of(list, item) {
                Ok(element) => order.push((element, item)),
                Err(_) => others.push(item),
            }
        }
        let mut by_element = BTreeMap::new();
        for (element, item) in &order {
            by_element.entry(element.clone()).and_modify(|found| *found = None).or_insert(Some(*item));
        }
        Self { order, by_element, others }
    }

    fn has(&self, element: &Element) -> bool {
        self.by_element.contains_key(element)
    }
}

/// The order of the configuration holds among its items; the others keep their places between them.
fn merge_items(live: &[Value], applied: &[Value], list: &ListType, ty: Typed<'_>) -> Vec<Value> {
    let (live, applied) = (Keyed::of(live, list), Keyed::of(applied, list));
    let join = |element: &Element, value: &Value| match live.by_element.get(element) {
        Some(Some(found)) => merge(found, value, ty.item()),
        _ => value.clone(),
    };
    // The shared items, in the order in which they have to come.
    let mut shared = applied.order.iter().map(|(element, _)| element).filter(|element| live.has(element)).peekable();
    let mut done: BTreeSet<&Element> = BTreeSet::new();
    let mut merged = Vec::with_capacity(live.order.len().max(applied.order.len()));
    let mut left = live.order.iter().peekable();
    let mut right = applied.order.iter().peekable();
    loop {
        if let (Some((a, _)), Some((b, value))) = (left.peek(), right.peek()) {
            if a == b {
                merged.push(join(b, value));
                done.insert(b);
                shared.next();
                left.next();
                right.next();
                continue;
            }
            if applied.has(a) && shared.peek().is_some_and(|next| *next != a) {
                // Its turn comes later, or is over.
                left.next();
                continue;
            }
        }
        if let Some((a, item)) = left.peek() {
            if !applied.has(a) {
                merged.push((*item).clone());
                left.next();
                continue;
            }
            if done.contains(a) {
                left.next();
            }
        }
        match right.next() {
            Some((b, value)) => {
                merged.push(join(b, value));
                done.insert(b);
                if shared.peek() == Some(&b) {
                    shared.next();
                }
            }
            None if left.peek().is_none() => {
                merged.extend(live.others.into_iter().cloned());
                return merged;
            }
            None => {}
        }
    }
}

/// What is left of a container that loses its last part.
#[derive(Clone, Copy)]
pub enum Rest<'a> {
    /// Null: nothing is left of it, yet it is not what the set named.
    Null,
    /// What the configuration has there, if anything.
    Applied(Option<&'a Value>),
}

impl<'a> Rest<'a> {
    fn value(self) -> Option<Value> {
        match self {
            Self::Null => Some(Value::Null),
            Self::Applied(applied) => applied.cloned(),
        }
    }

    fn entry(self, name: &str) -> Self {
        match self {
            Self::Null => self,
            Self::Applied(applied) => Self::Applied(applied.and_then(|applied| applied.get(name))),
        }
    }

    fn item(self, list: &ListType, element: &Element) -> Self {
        match self {
            Self::Null => self,
            Self::Applied(applied) => {
                let is_it = |item: &&'a Value| element_of(list, item).is_ok_and(|found| found == *element);
                Self::Applied(items(applied).iter().find(is_it))
            }
        }
    }
}

/// A value without the fields of a set. `None`: nothing is left.
pub fn remove(value: &Value, fields: &Set, ty: Typed<'_>, rest: Rest<'_>) -> Option<Value> {
    if is_hollow(Some(value)) {
        return Some(value.clone());
    }
    let kept = match ty.shape(value) {
        Shape::Leaf => value.clone(),
        Shape::List(list) => {
            let keep = |item: &Value| {
                let Ok(element) = element_of(list, item) else { return Some(item.clone()) };
                match fields.get(&element) {
                    Some(node) if node.member => None,
                    Some(node) => remove(item, &node.below, ty.item(), rest.item(list, &element)),
                    None => Some(item.clone()),
                }
            };
            Value::Array(items(Some(value)).iter().filter_map(keep).collect())
        }
        Shape::Fields(_) | Shape::Map => {
            let keep = |(name, entry): (&String, &Value)| {
                let kept = match fields.get(&Element::field(name)) {
                    Some(node) if node.member => None,
                    Some(node) => remove(entry, &node.below, ty.entry(name), rest.entry(name)),
                    None => Some(entry.clone()),
                };
                Some((name.clone(), kept?))
            };
            Value::Object(entries(Some(value)).into_iter().flatten().filter_map(keep).collect::<Map<_, _>>())
        }
    };
    if is_hollow(Some(&kept)) { rest.value() } else { Some(kept) }
}
