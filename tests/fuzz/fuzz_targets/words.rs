//! Texts with a grammar of their own: quantities, durations, schedules, names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_api::quantity::Quantity;
use skiff_api::{cron, duration, names};

fuzz_target!(|text: &str| {
    if let Ok(quantity) = text.parse::<Quantity>() {
        let canonical = quantity.to_string();
        let again: Quantity = canonical.parse().unwrap_or_else(|error| panic!("{canonical}: {error}"));
        assert_eq!(again.to_string(), canonical);
        let _ = (quantity.value(), quantity.milli_value(), quantity.as_f64());
        let _ = quantity.plus(again).minus(quantity).rounded_to_milli();
    }
    if let Ok(ns) = duration::parse_ns(text) {
        let shown = duration::format_ns(ns);
        assert_eq!(duration::parse_ns(&shown).ok(), Some(ns), "{shown}");
    }
    let (_, schedule) = cron::split_zone(text);
    if let Ok(fields) = cron::Schedule::parse(schedule) {
        let start = "2024-02-28T23:59:30Z".parse().expect("a time");
        if let Some(next) = fields.next(start, &jiff::tz::TimeZone::UTC) {
            assert!(next > start);
        }
    }
    for check in [names::dns_label, names::dns_subdomain, names::qualified_name, names::label_value, names::config_key]
    {
        check(text);
    }
});
