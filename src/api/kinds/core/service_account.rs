//! ServiceAccount.

use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use crate::kinds::adapter::Kind;
use crate::kinds::facts::{AGE, Facts, NAME, text};
use crate::kinds::peek::Peek;
use crate::kinds::row::Row;
use crate::strategy::Subresource;

pub(super) struct ServiceAccounts;

impl Kind for ServiceAccounts {
    type Typed = core::ServiceAccount;
    const FACTS: Facts = Facts {
        short_names: &["sa"],
        subresources: &[Subresource::Special("token")],
        columns: &[NAME, text("Secrets", "How many secrets the account lists."), AGE],
        ..Facts::new("", "v1", "serviceaccounts", "ServiceAccount")
    };

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.push(object.count("secrets"));
        row.age(object);
    }
}
