//! ServiceAccount.

use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use crate::kinds::adapter::Kind;
use crate::kinds::facts::Facts;
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::warnings;
use crate::strategy::Subresource;

const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

pub(super) struct ServiceAccounts;

impl Kind for ServiceAccounts {
    type Typed = core::ServiceAccount;
    const FACTS: Facts = Facts {
        short_names: &["sa"],
        subresources: &[Subresource::Special("token")],
        ..Facts::new("", "v1", "serviceaccounts", "ServiceAccount")
    };

    fn prepare_create(account: &mut Value) {
        names_only(account);
    }

    fn prepare_update(account: &mut Value, _old: &Value) {
        names_only(account);
    }

    fn warnings(account: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        let what = "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets";
        if old.is_none_or(|old| old.at("metadata.annotations").get(ENFORCE_MOUNTABLE).is_none()) {
            warnings::annotations(account, &[(ENFORCE_MOUNTABLE, what)], "", &mut out);
        }
        out
    }
}

/// References to secrets are names; what else stands there would only mislead.
fn names_only(account: &mut Value) {
    for secret in account.as_object_mut().into_iter().flat_map(|a| a.items("secrets")) {
        secret.retain(|key, _| key == "name");
    }
}
