//! What becomes of a number of pods that metrics ask for: bounds, rates and windows, a pure function of what was
//! recommended and done before.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

const DOWN_WINDOW_S: i64 = 300;
/// Without rules: at most twice as many at once, or this many.
const UP_FACTOR: i32 = 2;
const UP_LEAST: i32 = 4;
/// Longer than any window or period may be.
const REMEMBERED: SignedDuration = SignedDuration::from_secs(3600);

/// What is remembered of one autoscaler.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    recommended: Vec<(Timestamp, i32)>,
    /// By how many pods it grew, or (negative) shrank.
    changes: Vec<(Timestamp, i32)>,
}

impl History {
    /// What is there counts as the first recommendation.
    pub fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommended.is_empty() {
            self.recommended.push((now, current));
        }
    }

    pub fn changed(&mut self, by: i32, now: Timestamp) {
        self.changes.push((now, by));
    }

    fn forget(&mut self, now: Timestamp) {
        let is_recent = |(at, _): &(Timestamp, i32)| now.duration_since(*at) <= REMEMBERED;
        self.recommended.retain(is_recent);
        self.changes.retain(is_recent);
    }

    /// How many pods there were before what was done in the period.
    fn before(&self, current: i32, period_s: i32, now: Timestamp) -> i32 {
        let period = SignedDuration::from_secs(i64::from(period_s));
        let within = self.changes.iter().filter(|(at, _)| now.duration_since(*at) < period);
        current - within.map(|(_, by)| by).sum::<i32>()
    }
}

/// Reason and message.
type Words = (&'static str, &'static str);

#[derive(Debug, Clone, PartialEq)]
pub struct Limited {
    pub replicas: i32,
    /// Of the condition AbleToScale.
    pub able: Words,
    /// Of the condition ScalingLimited, and whether it holds.
    pub limited: (bool, Words),
}

pub struct Bounds {
    pub current: i32,
    pub min: i32,
    pub max: i32,
}

const READY: Words = ("ReadyForNewScale", "recommended size matches current size");
const UP_STABLE: Words = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN_STABLE: Words = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const UP_LIMIT: Words = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: Words =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: Words = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Words = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const WITHIN: Words = ("DesiredWithinRange", "the desired count is within the acceptable range");

/// What is to be done about a recommendation, which is remembered.
pub fn limit(
    history: &mut History,
    behavior: Option<&HorizontalPodAutoscalerBehavior>,
    bounds: &Bounds,
    wanted: i32,
    now: Timestamp,
) -> Limited {
    history.forget(now);
    let (up, down) = match behavior {
        None => (0, DOWN_WINDOW_S),
        Some(behavior) => {
            let window = |rules: &Option<HPAScalingRules>, default| {
                rules.as_ref().and_then(|r| r.stabilization_window_seconds).map_or(default, i64::from)
            };
            (window(&behavior.scale_up, 0), window(&behavior.scale_down, DOWN_WINDOW_S))
        }
    };
    let within = |window_s: i64| {
        let window = SignedDuration::from_secs(window_s);
        let recent = history.recommended.iter().filter(move |(at, _)| now.duration_since(*at) < window);
        recent.map(|(_, replicas)| *replicas).chain([wanted])
    };
    let lowest = within(up).min().unwrap_or(wanted);
    let highest = within(down).max().unwrap_or(wanted);
    let stable = match behavior {
        None => highest,
        Some(_) => bounds.current.max(lowest).min(highest),
    };
    history.recommended.push((now, wanted));
    let able = match () {
        () if stable == wanted => READY,
        () if behavior.is_some() && wanted >= bounds.current => UP_STABLE,
        () => DOWN_STABLE,
    };
    let (replicas, words) = match behavior {
        None => by_default(bounds, stable),
        Some(behavior) => by_rules(history, behavior, bounds, stable, now),
    };
    Limited { replicas, able, limited: (replicas != stable, words) }
}

fn by_default(bounds: &Bounds, wanted: i32) -> (i32, Words) {
    let rate = bounds.current.saturating_mul(UP_FACTOR).max(UP_LEAST);
    let (most, words) = if bounds.max > rate { (rate, UP_LIMIT) } else { (bounds.max, TOO_MANY) };
    match () {
        () if wanted < bounds.min => (bounds.min, TOO_FEW),
        () if wanted > most => (most, words),
        () => (wanted, WITHIN),
    }
}

fn by_rules(
    history: &History,
    behavior: &HorizontalPodAutoscalerBehavior,
    bounds: &Bounds,
    wanted: i32,
    now: Timestamp,
) -> (i32, Words) {
    let current = bounds.current;
    if wanted > current {
        let rate = rate(history, behavior.scale_up.as_ref(), current, true, now).max(current);
        let (most, words) = if bounds.max > rate { (rate, UP_LIMIT) } else { (bounds.max, TOO_MANY) };
        return if wanted > most { (most, words) } else { (wanted, WITHIN) };
    }
    if wanted < current {
        let rate = rate(history, behavior.scale_down.as_ref(), current, false, now).min(current);
        let (least, words) = if bounds.min < rate { (rate, DOWN_LIMIT) } else { (bounds.min, TOO_FEW) };
        return if wanted < least { (least, words) } else { (wanted, WITHIN) };
    }
    (wanted, WITHIN)
}

/// How far the rules let it go.
fn rate(history: &History, rules: Option<&HPAScalingRules>, current: i32, up: bool, now: Timestamp) -> i32 {
    let unlimited = if up { i32::MAX } else { 0 };
    let Some(rules) = rules else { return unlimited };
    let select = rules.select_policy.as_deref().unwrap_or("Max");
    if select == "Disabled" {
        return current;
    }
    let policies = rules.policies.as_deref().unwrap_or_default();
    let proposals = policies.iter().map(|policy| {
        let before = history.before(current, policy.period_seconds, now);
        let by = match policy.type_.as_str() {
            "Pods" => f64::from(policy.value),
            _ => f64::from(before) * f64::from(policy.value) / 100.0,
        };
        // The more generous whole number upwards, and the less generous one of what stays downwards.
        if up { (f64::from(before) + by).ceil() as i32 } else { (f64::from(before) - by) as i32 }
    });
    let widest = if up { proposals.clone().max() } else { proposals.clone().min() };
    let narrowest = if up { proposals.min() } else { proposals.max() };
    if select == "Min" { narrowest } else { widest }.unwrap_or(unlimited)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(100_000 + s).expect("in range")
    }

    fn bounds(current: i32) -> Bounds {
        Bounds { current, min: 1, max: 10 }
    }

    #[test]
    fn without_rules() {
        for (current, wanted, replicas, able, limited) in [
            (3, 3, 3, "ReadyForNewScale", (false, "DesiredWithinRange")),
            (3, 5, 5, "ReadyForNewScale", (false, "DesiredWithinRange")),
            (1, 9, 4, "ReadyForNewScale", (true, "ScaleUpLimit")),
            (6, 20, 10, "ReadyForNewScale", (true, "TooManyReplicas")),
            (3, 0, 3, "ScaleDownStabilized", (false, "DesiredWithinRange")),
        ] {
            let mut history = History::default();
            history.begin(current, at(0));
            let found = limit(&mut history, None, &bounds(current), wanted, at(1));
            let told = (found.replicas, found.able.0, (found.limited.0, found.limited.1.0));
            assert_eq!(told, (replicas, able, limited), "{current} -> {wanted}");
        }
    }

    #[test]
    fn it_shrinks_when_nothing_more_was_wanted_for_a_while() {
        let mut history = History::default();
        history.begin(5, at(0));
        for (second, wanted, replicas) in [(15, 2, 5), (200, 4, 5), (299, 2, 5), (301, 2, 4), (501, 2, 2)] {
            let found = limit(&mut history, None, &bounds(5), wanted, at(second));
            assert_eq!(found.replicas, replicas, "at {second}");
        }
        assert_eq!(limit(&mut history, None, &bounds(2), 0, at(2000)).limited, (true, TOO_FEW));
    }

    #[test]
    fn rules() {
        let behavior = |up: serde_json::Value, down: serde_json::Value| -> HorizontalPodAutoscalerBehavior {
            serde_json::from_value(json!({"scaleUp": up, "scaleDown": down})).expect("a behaviour")
        };
        let rule = |window: i32, select: &str, policies: &[(&str, i32)]| {
            let policies: Vec<_> = policies
                .iter()
                .map(|(kind, value)| json!({"type": kind, "value": value, "periodSeconds": 60}))
                .collect();
            json!({"stabilizationWindowSeconds": window, "selectPolicy": select, "policies": policies})
        };
        let free = || rule(0, "Max", &[("Percent", 1000)]);
        let four = rule(0, "Max", &[("Pods", 4), ("Percent", 50)]);
        let least = rule(0, "Min", &[("Pods", 4), ("Percent", 50)]);
        for (what, behavior, current, changed, wanted, replicas, words) in [
            ("the most of the policies", behavior(four.clone(), free()), 4, 0, 9, 8, "ScaleUpLimit"),
            ("the least of them", behavior(least.clone(), free()), 4, 0, 9, 6, "ScaleUpLimit"),
            ("what was added counts", behavior(four.clone(), free()), 8, 4, 10, 8, "ScaleUpLimit"),
            ("never", behavior(rule(0, "Disabled", &[]), free()), 4, 0, 9, 4, "ScaleUpLimit"),
            ("downwards", behavior(free(), four.clone()), 9, 0, 1, 4, "ScaleDownLimit"),
            ("downwards, the least", behavior(free(), least), 9, 0, 1, 5, "ScaleDownLimit"),
            ("what was removed counts", behavior(free(), four), 5, -4, 1, 4, "ScaleDownLimit"),
            ("never downwards", behavior(free(), rule(0, "Disabled", &[])), 4, 0, 1, 4, "ScaleDownLimit"),
            ("as far as the bounds", behavior(free(), free()), 4, 0, 0, 1, "TooFewReplicas"),
        ] {
            let mut history = History::default();
            history.changed(changed, at(-30));
            let found = limit(&mut history, Some(&behavior), &bounds(current), wanted, at(0));
            assert_eq!((found.replicas, found.limited.1.0), (replicas, words), "{what}");
        }
        let slow = behavior(rule(60, "Max", &[("Pods", 100)]), free());
        let mut history = History::default();
        history.begin(2, at(0));
        let found = limit(&mut history, Some(&slow), &bounds(2), 8, at(30));
        assert_eq!((found.replicas, found.able.0), (2, "ScaleUpStabilized"));
        assert_eq!(limit(&mut history, Some(&slow), &bounds(2), 8, at(61)).replicas, 8);
    }
}
