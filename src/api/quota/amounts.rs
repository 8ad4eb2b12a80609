//! Lists of resources: adding, comparing, showing.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::quantity::{Format, Quantity};

/// Quantities by the name of the resource.
pub type Amounts = BTreeMap<String, Quantity>;

/// What is no quantity is left out: the API server has let none through.
pub fn amounts(value: &Value) -> Amounts {
    let pairs = value.as_object().into_iter().flatten();
    pairs.filter_map(|(name, amount)| Some((name.clone(), quantity(amount)?))).collect()
}

pub fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

pub fn count(number: usize) -> Quantity {
    Quantity::from_int(i64::try_from(number).unwrap_or(i64::MAX), Format::DecimalSi)
}

pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = to.get(name).copied().unwrap_or(Quantity::ZERO).plus(*amount);
        to.insert(name.clone(), sum);
    }
}

/// What `from` is without `less`; may be below zero.
pub fn minus(from: &Amounts, less: &Amounts) -> Amounts {
    let mut rest = from.clone();
    for (name, amount) in less {
        let left = rest.get(name).copied().unwrap_or(Quantity::ZERO).minus(*amount);
        rest.insert(name.clone(), left);
    }
    rest
}

/// The greater of both, for each resource.
pub fn at_least(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        if to.get(name).is_none_or(|mine| mine < amount) {
            to.insert(name.clone(), *amount);
        }
    }
}

/// `cpu=1,memory=2Gi`, in upstream's order.
pub fn shown<'a>(all: impl IntoIterator<Item = (&'a String, &'a Quantity)>) -> String {
    all.into_iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

/// The JSON form.
pub fn to_value(all: &Amounts) -> Value {
    all.iter()
        .map(|(name, amount)| (name.clone(), Value::from(amount.to_string())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
