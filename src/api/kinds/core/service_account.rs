//! ServiceAccount.

use k8s_openapi::api::core::v1 as core;

use crate::kinds::adapter::Kind;
use crate::kinds::facts::Facts;
use crate::strategy::Subresource;

pub(super) struct ServiceAccounts;

impl Kind for ServiceAccounts {
    type Typed = core::ServiceAccount;
    const FACTS: Facts = Facts {
        short_names: &["sa"],
        subresources: &[Subresource::Special("token")],
        ..Facts::new("", "v1", "serviceaccounts", "ServiceAccount")
    };
}
