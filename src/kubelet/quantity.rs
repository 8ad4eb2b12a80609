//! Amounts of resources as whole units and as thousandths, rounded up.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

fn parse(quantity: &Quantity) -> skiff_api::quantity::Quantity {
    // The API server lets no other text pass.
    quantity.0.parse().unwrap_or(skiff_api::quantity::Quantity::ZERO)
}

/// Whole units.
pub(crate) fn value(quantity: &Quantity) -> i64 {
    parse(quantity).value()
}

/// Thousandths.
pub(crate) fn milli(quantity: &Quantity) -> i64 {
    parse(quantity).milli_value()
}

pub(crate) fn is_zero(quantity: &Quantity) -> bool {
    parse(quantity).is_zero()
}

/// Thousandths, written as `like` is.
pub(crate) fn from_milli(amount: i64, like: &Quantity) -> Quantity {
    Quantity(skiff_api::quantity::Quantity::from_milli(amount, parse(like).format()).to_string())
}
