//! What upstream's kubelet is told by flags or its configuration file, by the names of its flags (`--kubelet-arg`): when
//! the node is under pressure, when images go, where static pods are.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};
use skiff_api::duration;
use skiff_api::quantity::Quantity;

use crate::cpus::CpuSet;
use crate::reservation::{self, Amounts};

/// What of the machine may run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    MemoryAvailable,
    NodefsAvailable,
    NodefsInodesFree,
    ImagefsAvailable,
    ImagefsInodesFree,
    PidAvailable,
}

impl Signal {
    pub(crate) const ALL: [Self; 6] = [
        Self::MemoryAvailable,
        Self::NodefsAvailable,
        Self::NodefsInodesFree,
        Self::ImagefsAvailable,
        Self::ImagefsInodesFree,
        Self::PidAvailable,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::NodefsAvailable => "nodefs.available",
            Self::NodefsInodesFree => "nodefs.inodesFree",
            Self::ImagefsAvailable => "imagefs.available",
            Self::ImagefsInodesFree => "imagefs.inodesFree",
            Self::PidAvailable => "pid.available",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.name() == name)
    }
}

/// How much there has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// Bytes, inodes or processes.
    Absolute(i64),
    /// Of the capacity, 0 to 1.
    Share(f64),
}

impl Amount {
    pub(crate) fn of(self, capacity: i64) -> i64 {
        match self {
            Self::Absolute(amount) => amount,
            Self::Share(share) => (capacity as f64 * share) as i64,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(number) => {
                number.parse().ok().filter(|n| (0.0..=100.0).contains(n)).map(|n: f64| Self::Share(n / 100.0))
            }
            None => text.parse::<Quantity>().ok().filter(|q| !q.is_negative()).map(|q| Self::Absolute(q.value())),
        }
    }

    fn show(self) -> String {
        match self {
            Self::Absolute(amount) => amount.to_string(),
            Self::Share(share) => format!("{}%", share * 100.0),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    pub(crate) signal: Signal,
    pub(crate) value: Amount,
    /// How long it is to last before pods go; zero for a hard threshold.
    pub(crate) grace: Duration,
    pub(crate) is_hard: bool,
    /// How much more than the value there has to be before it is over.
    pub(crate) min_reclaim: Option<Amount>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub(crate) thresholds: Vec<Threshold>,
    /// How long a condition stays after its cause.
    pub(crate) pressure_transition: Duration,
    /// The longest grace period of a pod that a soft threshold ends.
    pub(crate) max_pod_grace_s: i64,
    /// Percent of the disk in use.
    pub(crate) image_gc_high: u8,
    pub(crate) image_gc_low: u8,
    pub(crate) image_min_age: Duration,
    /// How often the machine is looked at.
    pub(crate) housekeeping: Duration,
    /// Manifests of pods that run without an API server's leave.
    pub(crate) pod_manifest_path: Option<PathBuf>,
    pub(crate) max_pods: u32,
    /// Containers may have CPUs for themselves, but for these; `None`: all share all.
    pub(crate) exclusive_cpus_but: Option<CpuSet>,
    /// What is not for pods.
    pub(crate) kube_reserved: Amounts,
    pub(crate) system_reserved: Amounts,
    /// How long pods may take when the machine goes down: seconds from a priority on, the lowest first. None: the node
    /// takes no part in that.
    pub(crate) shutdown: Vec<(i32, i64)>,
}

/// Upstream's; but for the disk k3s' thresholds, which small disks can live with.
impl Default for Settings {
    fn default() -> Self {
        let mut settings = Self {
            thresholds: Vec::new(),
            pressure_transition: Duration::from_secs(5 * 60),
            max_pod_grace_s: 0,
            image_gc_high: 85,
            image_gc_low: 80,
            image_min_age: Duration::from_secs(2 * 60),
            housekeeping: Duration::from_secs(10),
            pod_manifest_path: None,
            max_pods: 110,
            exclusive_cpus_but: None,
            kube_reserved: Amounts::new(),
            system_reserved: Amounts::new(),
            shutdown: Vec::new(),
        };
        let more = Some(Amount::Share(0.10));
        let hard = [
            (Signal::MemoryAvailable, Amount::Absolute(100 << 20), None),
            (Signal::NodefsAvailable, Amount::Share(0.05), more),
            (Signal::NodefsInodesFree, Amount::Share(0.05), None),
            (Signal::ImagefsAvailable, Amount::Share(0.05), more),
            (Signal::ImagefsInodesFree, Amount::Share(0.05), None),
        ];
        let of = |(signal, value, min_reclaim)| Threshold { min_reclaim, ..Threshold::hard(signal, value) };
        settings.thresholds = hard.map(of).into();
        settings
    }
}

impl Threshold {
    pub(crate) fn hard(signal: Signal, value: Amount) -> Self {
        Self { signal, value, grace: Duration::ZERO, is_hard: true, min_reclaim: None }
    }
}

impl Settings {
    /// From `name=value` (dashes before the name are fine). What is not known is an error: it would be ignored.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut settings = Self::default();
        let (mut soft, mut graces, mut reclaims) = (Vec::new(), Vec::new(), Vec::new());
        let (mut static_cpus, mut reserved_cpus) = (false, CpuSet::default());
        let (mut all, mut critical) = (None, None);
        for argument in arguments {
            let (name, value) = argument
                .trim_start_matches("--")
                .split_once('=')
                .ok_or_else(|| format!("{argument:?} is not of the form name=value"))?;
            let wrong = |what: &str| format!("{name}: {value:?} is no {what}");
            let time =
                || duration::parse_ns(value).ok().and_then(|ns| u64::try_from(ns).ok()).map(Duration::from_nanos);
            let time = || time().ok_or_else(|| wrong("duration such as 30s or 5m"));
            let percent = || value.parse::<u8>().ok().filter(|n| *n <= 100).ok_or_else(|| wrong("percentage"));
            match name {
                "eviction-hard" => {
                    let hard = thresholds(value, '<', Amount::parse).map_err(|why| format!("{name}: {why}"))?;
                    settings.thresholds = hard.into_iter().map(|(s, v)| Threshold::hard(s, v)).collect();
                }
                "eviction-soft" => {
                    soft = thresholds(value, '<', Amount::parse).map_err(|why| format!("{name}: {why}"))?;
                }
                "eviction-soft-grace-period" => {
                    let parse = |text: &str| duration::parse_ns(text).ok().and_then(|ns| u64::try_from(ns).ok());
                    graces = thresholds(value, '=', parse).map_err(|why| format!("{name}: {why}"))?;
                }
                "eviction-minimum-reclaim" => {
                    reclaims = thresholds(value, '=', Amount::parse).map_err(|why| format!("{name}: {why}"))?;
                }
                "eviction-pressure-transition-period" => settings.pressure_transition = time()?,
                "eviction-max-pod-grace-period" => {
                    settings.max_pod_grace_s = value.parse().map_err(|_| wrong("number of seconds"))?;
                }
                "image-gc-high-threshold" => settings.image_gc_high = percent()?,
                "image-gc-low-threshold" => settings.image_gc_low = percent()?,
                "minimum-image-ttl-duration" => settings.image_min_age = time()?,
                "housekeeping-interval" => settings.housekeeping = time()?.max(Duration::from_millis(100)),
                "pod-manifest-path" => settings.pod_manifest_path = Some(PathBuf::from(value)),
                "cpu-manager-policy" if ["none", "static"].contains(&value) => static_cpus = value == "static",
                "cpu-manager-policy" => return Err(wrong("policy: there are none and static")),
                "memory-manager-policy" if value == "None" => {}
                "memory-manager-policy" => {
                    return Err(wrong("policy: there is None, memory is not given by NUMA nodes"));
                }
                "reserved-cpus" => reserved_cpus = value.parse::<CpuSet>().map_err(|why| format!("{name}: {why}"))?,
                "kube-reserved" | "system-reserved" => {
                    let amounts = reservation::parse(value).map_err(|why| format!("{name}: {why}"))?;
                    match name {
                        "kube-reserved" => settings.kube_reserved = amounts,
                        _ => settings.system_reserved = amounts,
                    }
                }
                "max-pods" => settings.max_pods = value.parse().map_err(|_| wrong("number of pods"))?,
                "shutdown-grace-period" => all = Some(time()?),
                "shutdown-grace-period-critical-pods" => critical = Some(time()?),
                "shutdown-grace-period-by-pod-priority" => {
                    settings.shutdown = priorities(value).ok_or_else(|| wrong("list such as 0=20s,100000=10s"))?;
                }
                other => {
                    return Err(format!("{other:?} is not known: there are {}", KNOWN.join(", ")));
                }
            }
        }
        for (signal, value) in soft {
            let grace = graces.iter().find(|(of, _)| *of == signal).map(|(_, ns)| Duration::from_nanos(*ns));
            let grace = grace.ok_or_else(|| {
                format!("grace period must be specified for the soft eviction threshold {}", signal.name())
            })?;
            settings.thresholds.push(Threshold { grace, is_hard: false, ..Threshold::hard(signal, value) });
        }
        for threshold in &mut settings.thresholds {
            let given = reclaims.iter().find(|(of, _)| *of == threshold.signal).map(|(_, amount)| *amount);
            threshold.min_reclaim = given.or(threshold.min_reclaim);
        }
        match (static_cpus, reserved_cpus.is_empty()) {
            (true, true) => {
                return Err(
                    "cpu-manager-policy=static needs reserved-cpus: CPUs that no container has for itself".to_owned()
                );
            }
            (true, false) => settings.exclusive_cpus_but = Some(reserved_cpus),
            (false, false) => return Err("reserved-cpus is for cpu-manager-policy=static".to_owned()),
            (false, true) => {}
        }
        match (all, critical) {
            (None, None) => {}
            _ if !settings.shutdown.is_empty() => {
                return Err(
                    "shutdown-grace-period-by-pod-priority goes without the other shutdown-grace-periods".to_owned()
                );
            }
            (all, critical) => {
                let (all, critical) = (all.unwrap_or_default(), critical.unwrap_or_default());
                settings.shutdown = shutdown(all.as_secs(), critical.as_secs())?;
            }
        }
        if settings.image_gc_low >= settings.image_gc_high {
            return Err(format!(
                "image-gc-low-threshold {} has to be below image-gc-high-threshold {}",
                settings.image_gc_low, settings.image_gc_high
            ));
        }
        Ok(settings)
    }

    /// As KubeletConfiguration has it, for `/configz`.
    pub(crate) fn show(&self) -> Map<String, Value> {
        let seconds = |time: Duration| format!("{}s", time.as_secs_f64());
        let of = |is_hard: bool| -> Map<String, Value> {
            let own = self.thresholds.iter().filter(|t| t.is_hard == is_hard);
            own.map(|t| (t.signal.name().to_owned(), t.value.show().into())).collect()
        };
        let amounts = |of: &Amounts| -> Map<String, Value> {
            of.iter().map(|(name, amount)| (name.clone(), amount.to_string().into())).collect()
        };
        let value = json!({
            "evictionHard": of(true), "evictionSoft": of(false),
            "evictionPressureTransitionPeriod": seconds(self.pressure_transition),
            "evictionMaxPodGracePeriod": self.max_pod_grace_s,
            "imageGCHighThresholdPercent": self.image_gc_high, "imageGCLowThresholdPercent": self.image_gc_low,
            "imageMinimumGCAge": seconds(self.image_min_age), "maxPods": self.max_pods,
            "staticPodPath": self.pod_manifest_path,
            "memoryManagerPolicy": "None",
            "cpuManagerPolicy": if self.exclusive_cpus_but.is_some() { "static" } else { "none" },
            "kubeReserved": amounts(&self.kube_reserved), "systemReserved": amounts(&self.system_reserved),
            "reservedSystemCPUs": self.exclusive_cpus_but.as_ref().map(CpuSet::to_string),
            "shutdownGracePeriodByPodPriority": self.shutdown.iter().map(|(priority, seconds)| {
                json!({"priority": priority, "shutdownGracePeriodSeconds": seconds})
            }).collect::<Vec<_>>(),
        });
        match value {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

const KNOWN: [&str; 20] = [
    "eviction-hard",
    "eviction-soft",
    "eviction-soft-grace-period",
    "eviction-minimum-reclaim",
    "eviction-pressure-transition-period",
    "eviction-max-pod-grace-period",
    "image-gc-high-threshold",
    "image-gc-low-threshold",
    "minimum-image-ttl-duration",
    "housekeeping-interval",
    "pod-manifest-path",
    "max-pods",
    "cpu-manager-policy",
    "reserved-cpus",
    "kube-reserved",
    "system-reserved",
    "memory-manager-policy",
    "shutdown-grace-period",
    "shutdown-grace-period-critical-pods",
    "shutdown-grace-period-by-pod-priority",
];

/// `priority=duration,...`, by priority.
fn priorities(text: &str) -> Option<Vec<(i32, i64)>> {
    let one = |part: &str| {
        let (priority, time) = part.split_once('=')?;
        let seconds = duration::parse_ns(time.trim()).ok()? / 1_000_000_000;
        (seconds >= 0).then_some((priority.trim().parse().ok()?, seconds))
    };
    let mut all = text.split(',').map(one).collect::<Option<Vec<_>>>()?;
    all.sort_unstable();
    Some(all)
}

/// As upstream has it: of the whole time the last part is the critical pods'.
fn shutdown(all_s: u64, critical_s: u64) -> Result<Vec<(i32, i64)>, String> {
    if all_s == 0 && critical_s == 0 {
        return Ok(Vec::new());
    }
    let seconds = |s: u64| i64::try_from(s).unwrap_or(i64::MAX);
    match all_s.checked_sub(critical_s) {
        Some(others) => Ok(vec![(0, seconds(others)), (SYSTEM_CRITICAL, seconds(critical_s))]),
        None => Err(format!(
            "shutdown-grace-period-critical-pods {critical_s}s has to be at most shutdown-grace-period {all_s}s"
        )),
    }
}

/// The priority from which on pods are critical.
const SYSTEM_CRITICAL: i32 = 2_000_000_000;

/// `signal<value,...`; an empty text is none.
fn thresholds<T>(text: &str, between: char, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<(Signal, T)>, String> {
    let mut found: Vec<(Signal, T)> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (signal, value) =
            part.split_once(between).ok_or_else(|| format!("{part:?} is not of the form signal{between}value"))?;
        let signal = Signal::parse(signal.trim()).ok_or_else(|| {
            let known = Signal::ALL.map(Signal::name).join(", ");
            format!("{signal:?} is not known: there are {known}")
        })?;
        if found.iter().any(|(other, _)| *other == signal) {
            return Err(format!("{} is there twice", signal.name()));
        }
        found.push((signal, parse(value.trim()).ok_or_else(|| format!("{value:?} can't be read"))?));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Settings, String> {
        Settings::parse(&arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn thresholds_are_read() {
        assert_eq!(parse(&[]), Ok(Settings::default()));
        let settings = parse(&[
            "eviction-hard=memory.available<1Gi,nodefs.available<5%",
            "--eviction-soft=memory.available<2Gi",
            "eviction-soft-grace-period=memory.available=1m30s",
            "eviction-minimum-reclaim=memory.available=500Mi",
        ])
        .expect("valid");
        let reclaim = Some(Amount::Absolute(500 << 20));
        assert_eq!(
            settings.thresholds,
            [
                Threshold {
                    min_reclaim: reclaim,
                    ..Threshold::hard(Signal::MemoryAvailable, Amount::Absolute(1 << 30))
                },
                Threshold::hard(Signal::NodefsAvailable, Amount::Share(0.05)),
                Threshold {
                    grace: Duration::from_secs(90),
                    is_hard: false,
                    min_reclaim: reclaim,
                    ..Threshold::hard(Signal::MemoryAvailable, Amount::Absolute(2 << 30))
                },
            ]
        );
        assert_eq!(Amount::Share(0.1).of(1000), 100);
        assert_eq!(settings.show()["evictionHard"]["nodefs.available"], "5%");
        assert!(parse(&["eviction-hard="]).expect("none").thresholds.is_empty());
    }

    #[test]
    fn the_end_of_the_machine() {
        for (arguments, expected) in [
            (
                &["shutdown-grace-period=30s", "shutdown-grace-period-critical-pods=10s"][..],
                &[(0, 20), (SYSTEM_CRITICAL, 10)][..],
            ),
            (&["shutdown-grace-period=1m"], &[(0, 60), (SYSTEM_CRITICAL, 0)]),
            (&["shutdown-grace-period=0s"], &[]),
            (&["shutdown-grace-period-by-pod-priority=1000=5s,0=1m"], &[(0, 60), (1000, 5)]),
        ] {
            assert_eq!(parse(arguments).expect("valid").shutdown, expected, "{arguments:?}");
        }
        let both = ["shutdown-grace-period-by-pod-priority=0=5s", "shutdown-grace-period=5s"];
        assert!(parse(&both).expect_err("both").contains("goes without"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (argument, expect) in [
            ("eviction-hard", "name=value"),
            ("eviction-hard=memory<1Gi", "\"memory\" is not known: there are memory.available"),
            ("eviction-hard=memory.available<x", "can't be read"),
            ("eviction-hard=memory.available<101%", "can't be read"),
            ("eviction-hard=memory.available=1Gi", "signal<value"),
            ("eviction-hard=memory.available<1,memory.available<2", "twice"),
            ("eviction-soft=memory.available<1Gi", "grace period must be specified"),
            ("image-gc-high-threshold=101", "no percentage"),
            ("image-gc-high-threshold=80", "has to be below"),
            ("eviction-pressure-transition-period=5", "no duration"),
            ("cpu-manager-policy=static", "needs reserved-cpus"),
            ("cpu-manager-policy=other", "there are none and static"),
            ("memory-manager-policy=Static", "there is None"),
            ("reserved-cpus=0", "is for cpu-manager-policy=static"),
            ("reserved-cpus=x", "no list of CPUs"),
            ("shutdown-grace-period-critical-pods=5s", "has to be at most"),
            ("shutdown-grace-period-by-pod-priority=low=5s", "no list such as"),
            ("cgroup-driver=systemd", "is not known: there are eviction-hard"),
        ] {
            let error = parse(&[argument]).expect_err(argument);
            assert!(error.contains(expect), "{argument}: {error}");
        }
    }
}
