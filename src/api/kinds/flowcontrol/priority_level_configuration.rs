//! PriorityLevelConfiguration.

use k8s_openapi::api::flowcontrol::v1 as flowcontrol;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::adapter::Kind;
use crate::kinds::checks::{nonnegative, text};
use crate::kinds::facts::{self, AGE, Facts, NAME};
use crate::kinds::peek::{Fill, Peek, spec_of};
use crate::kinds::row::Row;
use crate::strategy::Subresource;

const SHARES: i32 = 30;
const QUEUES_MAX: i32 = 10_000_000;
const SPEC: Path<'static> = Path::new("spec");

pub(super) struct PriorityLevelConfigurations;

impl Kind for PriorityLevelConfigurations {
    type Typed = flowcontrol::PriorityLevelConfiguration;
    const FACTS: Facts = Facts {
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: &[
            NAME,
            facts::text("Type", "Whether requests of this level are limited."),
            facts::text("NominalConcurrencyShares", "Its share of what can be done at once."),
            facts::text("Queues", "How many queues it has."),
            facts::text("HandSize", "How many queues a flow can use."),
            facts::text("QueueLengthLimit", "How long they can get."),
            AGE,
        ],
        generation: true,
        ..Facts::new("flowcontrol.apiserver.k8s.io", "v1", "prioritylevelconfigurations", "PriorityLevelConfiguration")
    };

    fn default(level: &mut Value) {
        let Some(spec) = spec_of(level) else { return };
        match spec.get("type").and_then(Value::as_str) {
            Some("Limited") => {
                let Some(limited) = spec.existing("limited") else { return };
                limited.fill("nominalConcurrencyShares", SHARES);
                limited.fill("lendablePercent", 0);
                let Some(queuing) = limited.existing("limitResponse").and_then(|r| r.existing("queuing")) else {
                    return;
                };
                for (field, value) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
                    queuing.fill(field, value);
                }
            }
            Some("Exempt") => {
                let Some(exempt) = spec.object("exempt") else { return };
                exempt.fill("nominalConcurrencyShares", 0);
                exempt.fill("lendablePercent", 0);
            }
            _ => {}
        }
    }

    fn validate(level: &flowcontrol::PriorityLevelConfiguration, errors: &mut Errors) {
        let empty = flowcontrol::PriorityLevelConfigurationSpec::default();
        let spec = level.spec.as_ref().unwrap_or(&empty);
        let is_exempt = text(&level.metadata.name) == "exempt";
        if is_exempt != (spec.type_ == "Exempt") && matches!(spec.type_.as_str(), "Exempt" | "Limited") {
            let message = "type must be 'Exempt' if and only if name is 'exempt'";
            errors.invalid(&SPEC.child("type"), &spec.type_, message);
        }
        match (spec.type_.as_str(), &spec.limited, &spec.exempt) {
            ("Exempt", Some(_), _) => {
                errors.forbidden(&SPEC.child("limited"), "must be nil if the type is not Limited");
            }
            ("Exempt", None, _) => {}
            ("Limited", _, Some(_)) => {
                errors.forbidden(&SPEC.child("exempt"), "must be nil if the type is Limited");
            }
            ("Limited", None, None) => {
                errors.required(&SPEC.child("limited"), "must not be empty when type is Limited");
            }
            ("Limited", Some(limited), None) => self::limited(limited, &SPEC.child("limited"), errors),
            (other, ..) => errors.not_supported(&SPEC.child("type"), other, &["Exempt", "Limited"]),
        }
    }

    fn cells(level: &Value, row: &mut Row) {
        let limited = level.at("spec.limited");
        let queuing = limited.at("limitResponse.queuing");
        let queued = |field: &str| queuing.at(field).as_i64().map_or_else(|| "<none>".to_owned(), |n| n.to_string());
        row.name(level);
        row.push(level.text("spec.type"));
        match limited.at("nominalConcurrencyShares").as_i64() {
            Some(shares) => row.push(shares),
            None => row.push("<none>"),
        }
        row.push(queued("queues"));
        row.push(queued("handSize"));
        row.push(queued("queueLengthLimit"));
        row.age(level);
    }
}

fn limited(limited: &flowcontrol::LimitedPriorityLevelConfiguration, path: &Path<'_>, errors: &mut Errors) {
    nonnegative(limited.nominal_concurrency_shares.unwrap_or(0), &path.child("nominalConcurrencyShares"), errors);
    if let Some(percent) = limited.lendable_percent.filter(|p| !(0..=100).contains(p)) {
        errors.invalid(&path.child("lendablePercent"), percent, "must be between 0 and 100, inclusive");
    }
    nonnegative(limited.borrowing_limit_percent.unwrap_or(0), &path.child("borrowingLimitPercent"), errors);
    let empty = flowcontrol::LimitResponse::default();
    let response = limited.limit_response.as_ref().unwrap_or(&empty);
    let path = path.child("limitResponse");
    match (response.type_.as_str(), &response.queuing) {
        ("Reject", Some(_)) => {
            errors.forbidden(&path.child("queuing"), "must be nil if limited.limitResponse.type is not Limited");
        }
        ("Reject", None) => {}
        ("Queue", None) => {
            let message = "must not be empty if limited.limitResponse.type is Limited";
            errors.required(&path.child("queuing"), message);
        }
        ("Queue", Some(queuing)) => {
            let path = path.child("queuing");
            let [queues, hand, length] =
                [queuing.queues, queuing.hand_size, queuing.queue_length_limit].map(|n| n.unwrap_or(0));
            for (field, value) in [("queueLengthLimit", length), ("queues", queues), ("handSize", hand)] {
                if value <= 0 {
                    errors.invalid(&path.child(field), value, "must be positive");
                }
            }
            if queues > QUEUES_MAX {
                errors.invalid(&path.child("queues"), queues, &format!("must not be greater than {QUEUES_MAX}"));
            }
            if hand > queues {
                errors.invalid(&path.child("handSize"), hand, &format!("should not be greater than queues ({queues})"));
            }
        }
        (other, _) => errors.not_supported(&path.child("type"), other, &["Queue", "Reject"]),
    }
}
