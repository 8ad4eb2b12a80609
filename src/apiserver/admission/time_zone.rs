//! The time zone of a CronJob must be one that this host's database knows.

use serde_json::Value;
use skiff_api::ApiError;
use skiff_api::status::Cause;

use crate::meta;

pub(super) fn check(cron: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let zone = cron["spec"]["timeZone"].as_str().unwrap_or_default();
    let unchanged = old.is_some_and(|old| old["spec"]["timeZone"] == cron["spec"]["timeZone"]);
    // What has no good form is refused by validation.
    if zone.is_empty() || unchanged || zone.eq_ignore_ascii_case("local") || skiff_base::time::zone(zone).is_some() {
        return Ok(());
    }
    let message = format!("Invalid value: {zone:?}: unknown time zone {zone}");
    let cause = Cause { reason: "FieldValueInvalid".into(), message, field: "spec.timeZone".into() };
    Err(ApiError::invalid("batch", "CronJob", meta::text(cron, "name"), vec![cause]))
}
