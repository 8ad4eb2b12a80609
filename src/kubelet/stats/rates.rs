//! How fast CPU time is used: the difference of two samples. Nothing samples on its own: whoever asks leaves a sample for
//! the next one, and only the first one for a while waits for a second sample.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::{Usage, collect};
use crate::context::Context;
use crate::pods::Pods;

/// Samples nearer to each other tell little.
const MIN_WINDOW: Duration = Duration::from_secs(10);
/// And what was used longer ago tells nothing of now.
const MAX_WINDOW: Duration = Duration::from_secs(90);
/// The window of who asks first.
const FIRST_WINDOW: Duration = Duration::from_secs(1);

/// CPU time by container, and of the node.
#[derive(Debug, Clone)]
struct Sample {
    at: Instant,
    node_ns: u64,
    containers: HashMap<String, u64>,
}

impl Sample {
    fn of(usage: &Usage, at: Instant) -> Self {
        let mut containers = HashMap::new();
        usage.each(|_, c| {
            containers.insert(c.id.clone(), c.stats.cpu_usage_ns);
        });
        Self { at, node_ns: usage.node.cpu_ns, containers }
    }
}

#[derive(Default)]
pub(crate) struct Rates {
    /// The latest last, at least [`MIN_WINDOW`] apart.
    samples: Mutex<VecDeque<Sample>>,
}

impl Rates {
    /// Usage with rates, and the time that they are measured over. Without an earlier sample there are none, unless
    /// `wait`.
    pub(crate) async fn collect(
        &self,
        ctx: &Context,
        pods: &Pods,
        wait: bool,
    ) -> Result<(Usage, Option<Duration>), skiff_runtime::Error> {
        let mut usage = collect(ctx, pods).await?;
        let mut sample = Sample::of(&usage, Instant::now());
        let mut base = self.base(sample.at);
        if base.is_none() && wait {
            base = Some(sample);
            tokio::time::sleep(FIRST_WINDOW).await;
            usage = collect(ctx, pods).await?;
            sample = Sample::of(&usage, Instant::now());
        }
        let window = base.map(|base| {
            let window = sample.at - base.at;
            fill(&mut usage, &base, window);
            window
        });
        self.keep(sample);
        Ok((usage, window))
    }

    fn base(&self, now: Instant) -> Option<Sample> {
        let samples = self.samples.lock().expect("no holder of this lock panics");
        let fits = |s: &&Sample| (MIN_WINDOW..=MAX_WINDOW).contains(&now.duration_since(s.at));
        samples.iter().rev().find(fits).cloned()
    }

    fn keep(&self, sample: Sample) {
        let mut samples = self.samples.lock().expect("no holder of this lock panics");
        samples.retain(|s| sample.at.duration_since(s.at) <= MAX_WINDOW);
        if samples.back().is_none_or(|last| sample.at.duration_since(last.at) >= MIN_WINDOW) {
            samples.push_back(sample);
        }
    }
}

fn rate(used_ns: u64, window: Duration) -> u64 {
    let window_ns = window.as_nanos().max(1);
    u64::try_from(u128::from(used_ns) * 1_000_000_000 / window_ns).unwrap_or(u64::MAX)
}

fn fill(usage: &mut Usage, base: &Sample, window: Duration) {
    usage.node.cpu_rate = Some(rate(usage.node.cpu_ns.saturating_sub(base.node_ns), window));
    let now = usage.at;
    for container in usage.pods.iter_mut().flat_map(|pod| &mut pod.containers) {
        let used = container.stats.cpu_usage_ns;
        container.cpu_rate = match base.containers.get(&container.id) {
            Some(before) => Some(rate(used.saturating_sub(*before), window)),
            // It began after the sample.
            None => {
                let age = Duration::try_from(now.duration_since(container.started)).unwrap_or_default();
                (age >= FIRST_WINDOW).then(|| rate(used, age))
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        let rates = Rates::default();
        let begun = Instant::now();
        let at = |s: u64| begun + Duration::from_secs(s);
        let sample = |s: u64| Sample { at: at(s), node_ns: s, containers: HashMap::new() };
        // The moment, and of when the sample is that it is compared with.
        for (now, expected) in
            [(0, None), (5, None), (12, Some(0)), (25, Some(12)), (85, Some(25)), (94, Some(25)), (200, None)]
        {
            assert_eq!(rates.base(at(now)).map(|s| s.node_ns), expected, "at {now}");
            rates.keep(sample(now));
        }
    }

    #[test]
    fn rates_of_what_is_new_and_of_what_is_known() {
        let mut usage = super::super::tests::usage();
        let at = Instant::now();
        let mut base = Sample::of(&usage, at);
        base.node_ns -= 1_000_000_000;
        base.containers.insert("1".into(), 1_000_000_000);
        usage.pods[0].containers[1].id = "2".into();
        usage.at += jiff::SignedDuration::from_secs(3);
        fill(&mut usage, &base, Duration::from_secs(2));
        assert_eq!(usage.node.cpu_rate, Some(500_000_000));
        let rates: Vec<Option<u64>> = usage.pods[0].containers.iter().map(|c| c.cpu_rate).collect();
        assert_eq!(rates, [Some(250_000_000), Some(500_000_000)]);
        assert_eq!((usage.pods[0].cpu_rate(), usage.pods[1].cpu_rate()), (Some(750_000_000), Some(0)));
    }
}
