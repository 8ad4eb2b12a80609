//! MutatingWebhookConfiguration and ValidatingWebhookConfiguration.

use k8s_openapi::api::admissionregistration::v1 as admission;
use serde_json::Value;

use super::facts;
use super::webhook_validate::{Webhook, webhooks};
use crate::field::Errors;
use crate::field::Path;
use crate::kinds::adapter::Kind;
use crate::kinds::checks::one_of_if_set;
use crate::kinds::facts::{AGE, Col, Facts, NAME, integer};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::Row;

const COLUMNS: &[Col] = &[NAME, integer("Webhooks", "How many webhooks it has."), AGE];
const TIMEOUT_S: i64 = 10;

pub(super) struct MutatingWebhookConfigurations;

impl Kind for MutatingWebhookConfigurations {
    type Typed = admission::MutatingWebhookConfiguration;
    const FACTS: Facts =
        Facts { columns: COLUMNS, ..facts("mutatingwebhookconfigurations", "MutatingWebhookConfiguration") };

    fn default(configuration: &mut Value) {
        defaults(configuration);
        if let Some(map) = configuration.as_object_mut() {
            for webhook in map.items("webhooks") {
                webhook.fill("reinvocationPolicy", "Never");
            }
        }
    }

    fn validate(configuration: &admission::MutatingWebhookConfiguration, errors: &mut Errors) {
        let list = configuration.webhooks.as_deref().unwrap_or_default();
        webhooks(list.iter().map(of_mutating), errors);
        for (i, webhook) in list.iter().enumerate() {
            let policies = &["IfNeeded", "Never"];
            let path = Path::new("webhooks");
            one_of_if_set(&webhook.reinvocation_policy, policies, &path.index(i).child("reinvocationPolicy"), errors);
        }
    }

    fn cells(configuration: &Value, row: &mut Row) {
        cells(configuration, row);
    }
}

pub(super) struct ValidatingWebhookConfigurations;

impl Kind for ValidatingWebhookConfigurations {
    type Typed = admission::ValidatingWebhookConfiguration;
    const FACTS: Facts =
        Facts { columns: COLUMNS, ..facts("validatingwebhookconfigurations", "ValidatingWebhookConfiguration") };

    fn default(configuration: &mut Value) {
        defaults(configuration);
    }

    fn validate(configuration: &admission::ValidatingWebhookConfiguration, errors: &mut Errors) {
        webhooks(configuration.webhooks.iter().flatten().map(of_validating), errors);
    }

    fn cells(configuration: &Value, row: &mut Row) {
        cells(configuration, row);
    }
}

fn cells(configuration: &Value, row: &mut Row) {
    row.name(configuration);
    row.push(configuration.count("webhooks"));
    row.age(configuration);
}

fn defaults(configuration: &mut Value) {
    let Some(map) = configuration.as_object_mut() else { return };
    for webhook in map.items("webhooks") {
        webhook.fill("failurePolicy", "Fail");
        webhook.fill("matchPolicy", "Equivalent");
        webhook.object("namespaceSelector");
        webhook.object("objectSelector");
        webhook.fill("timeoutSeconds", TIMEOUT_S);
        for rule in webhook.items("rules") {
            rule.fill("scope", "*");
        }
        if let Some(service) = webhook.existing("clientConfig").and_then(|c| c.existing("service")) {
            service.fill("port", 443);
        }
    }
}

fn of_mutating(webhook: &admission::MutatingWebhook) -> Webhook<'_> {
    Webhook {
        name: &webhook.name,
        client: &webhook.client_config,
        rules: webhook.rules.as_deref().unwrap_or_default(),
        versions: &webhook.admission_review_versions,
        side_effects: &webhook.side_effects,
        failure_policy: &webhook.failure_policy,
        match_policy: &webhook.match_policy,
        timeout_s: webhook.timeout_seconds,
        selectors: [("namespaceSelector", &webhook.namespace_selector), ("objectSelector", &webhook.object_selector)],
        has_conditions: webhook.match_conditions.as_ref().is_some_and(|c| !c.is_empty()),
    }
}

fn of_validating(webhook: &admission::ValidatingWebhook) -> Webhook<'_> {
    Webhook {
        name: &webhook.name,
        client: &webhook.client_config,
        rules: webhook.rules.as_deref().unwrap_or_default(),
        versions: &webhook.admission_review_versions,
        side_effects: &webhook.side_effects,
        failure_policy: &webhook.failure_policy,
        match_policy: &webhook.match_policy,
        timeout_s: webhook.timeout_seconds,
        selectors: [("namespaceSelector", &webhook.namespace_selector), ("objectSelector", &webhook.object_selector)],
        has_conditions: webhook.match_conditions.as_ref().is_some_and(|c| !c.is_empty()),
    }
}
