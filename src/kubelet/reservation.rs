//! What an operator keeps from pods, as it is written: `cpu=100m,memory=256Mi`.

use std::collections::BTreeMap;

use skiff_api::quantity::Quantity;

/// Amounts by the names of resources.
pub(crate) type Amounts = BTreeMap<String, Quantity>;

/// `cpu=200m,memory=500Mi,...`
pub(crate) fn parse(text: &str) -> Result<Amounts, String> {
    let one = |part: &str| {
        let (name, amount) =
            part.split_once('=').ok_or_else(|| format!("{part:?} is not of the form resource=amount"))?;
        if !["cpu", "memory", "ephemeral-storage", "pid"].contains(&name) {
            return Err(format!("cannot reserve {name:?} resource: there are cpu, memory, ephemeral-storage and pid"));
        }
        let read: Quantity = amount
            .parse()
            .map_err(|why| format!("failed to parse quantity {amount:?} for {name:?} resource: {why}"))?;
        if read.is_negative() {
            return Err(format!("resource quantity for {name:?} cannot be negative: {amount}"));
        }
        Ok((name.to_owned(), read))
    };
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_read() {
        for (text, why) in [
            ("memory", "is not of the form resource=amount"),
            ("gpu=1", "cannot reserve \"gpu\" resource"),
            ("cpu=x", "failed to parse quantity \"x\" for \"cpu\" resource"),
            ("cpu=-1", "resource quantity for \"cpu\" cannot be negative: -1"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
