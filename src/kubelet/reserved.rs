//! What of the machine is not for pods: what operators keep for the system and for Kubernetes, and what eviction keeps
//! free. As upstream: pods are scheduled by what is left of all three; their common group is held to what is left of the
//! first two, so that a pod that takes more than it asked for is ended before the system suffers.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Told;
use skiff_api::quantity::{Format, Quantity};
use skiff_runtime::Resources;

use crate::machine::MachineFacts;
use crate::reservation::Amounts;
use crate::resources;
use crate::settings::{Settings, Signal};

/// For the system and for Kubernetes.
fn kept(settings: &Settings) -> Amounts {
    let mut sum = settings.system_reserved.clone();
    for (name, amount) in &settings.kube_reserved {
        add(&mut sum, name, *amount);
    }
    if let Some(cpus) = &settings.exclusive_cpus_but {
        let cpus = i64::try_from(cpus.len()).unwrap_or(i64::MAX);
        sum.insert("cpu".to_owned(), Quantity::from_int(cpus, Format::DecimalSi));
    }
    sum
}

pub(crate) fn is_anything(settings: &Settings) -> bool {
    kept(settings).values().any(|amount| !amount.is_zero())
}

/// With what eviction keeps free, and with memory that is set aside as huge pages: it is nothing else.
pub(crate) fn withheld(facts: &MachineFacts, settings: &Settings) -> Amounts {
    let mut sum = kept(settings);
    let bytes = |amount: i64| Quantity::from_int(amount, Format::BinarySi);
    for threshold in settings.thresholds.iter().filter(|threshold| threshold.is_hard) {
        match threshold.signal {
            Signal::MemoryAvailable => add(&mut sum, "memory", bytes(threshold.value.of(facts.memory_bytes))),
            Signal::NodefsAvailable => add(&mut sum, "ephemeral-storage", bytes(threshold.value.of(facts.disk_bytes))),
            _ => {}
        }
    }
    let huge: u64 = facts.huge_pages.iter().map(|(size, count)| size * count).sum();
    add(&mut sum, "memory", bytes(i64::try_from(huge).unwrap_or(i64::MAX)));
    sum
}

fn add(sum: &mut Amounts, name: &str, amount: Quantity) {
    let all = sum.entry(name.to_owned()).or_insert(Quantity::ZERO);
    *all = all.plus(amount);
}

/// What is kept has to be there.
pub(crate) fn check(facts: &MachineFacts, settings: &Settings) -> Result<(), String> {
    let wrong = kept(settings).into_iter().filter_map(|(name, amount)| {
        let all = facts.amount(&name)?;
        all.minus(amount).is_negative().then(|| {
            format!(
                "Resource {name:?} has a reservation of {amount} but capacity of {all}. Expected capacity >= reservation."
            )
        })
    });
    let wrong: Vec<String> = wrong.collect();
    if wrong.is_empty() { Ok(()) } else { Err(format!("invalid Node Allocatable configuration. {}", wrong.join(" "))) }
}

/// What pods may have of the machine.
pub(crate) fn allocatable(facts: &MachineFacts, settings: &Settings) -> BTreeMap<String, Told> {
    let mut left = facts.capacity(settings.max_pods);
    for (name, withheld) in withheld(facts, settings) {
        if let (Some(amount), Some(all)) = (left.get_mut(&name), facts.amount(&name)) {
            let rest = all.minus(withheld);
            amount.0 = if rest.is_negative() { Quantity::ZERO } else { rest }.to_string();
        }
    }
    left
}

/// What all pods together are held to. What is not kept is not limited, also where it was before.
pub(crate) fn limits_of_pods(facts: &MachineFacts, settings: &Settings) -> Resources {
    let kept = kept(settings);
    let left = |name: &str| Some(facts.amount(name)?.minus(*kept.get(name).filter(|amount| !amount.is_zero())?));
    let milli = left("cpu").map_or(facts.cpus * 1000, |cpu| cpu.milli_value());
    Resources {
        cpu_shares: Some(resources::shares(milli)),
        memory_limit_bytes: Some(left("memory").map_or(-1, |memory| memory.value())),
        pids_limit: Some(left("pid").map_or(-1, |pids| pids.value())),
        ..Resources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(arguments: &[&str]) -> Settings {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        Settings::parse(&arguments).expect("valid")
    }

    fn machine() -> MachineFacts {
        let mut facts = MachineFacts::default();
        (facts.cpus, facts.memory_bytes, facts.disk_bytes, facts.processes) = (4, 8 << 30, 100 << 30, 32_768);
        facts
    }

    #[test]
    fn pods_get_what_is_left() {
        let arguments = [
            "kube-reserved=cpu=200m,memory=1Gi,ephemeral-storage=1Gi",
            "system-reserved=memory=512Mi,pid=768",
            "eviction-hard=memory.available<512Mi,nodefs.available<10%",
        ];
        let settings = settings(&arguments);
        let left = allocatable(&machine(), &settings);
        let shown = ["cpu", "memory", "ephemeral-storage", "pods"].map(|name| left[name].0.as_str());
        assert_eq!(shown, ["3800m", "6Gi", "89Gi", "110"]);
        // Eviction acts before the group's limit does.
        let limits = limits_of_pods(&machine(), &settings);
        assert_eq!(limits.cpu_shares, Some(3891));
        assert_eq!((limits.memory_limit_bytes, limits.pids_limit), (Some(6656 << 20), Some(32_000)));
        assert_eq!(check(&machine(), &settings), Ok(()));
    }

    #[test]
    fn nothing_is_kept_unless_it_is_asked_for() {
        let settings = settings(&["eviction-hard="]);
        let left = allocatable(&machine(), &settings);
        assert_eq!([&*left["cpu"].0, &*left["memory"].0, &*left["ephemeral-storage"].0], ["4", "8Gi", "100Gi"]);
        let limits = limits_of_pods(&machine(), &settings);
        assert_eq!((limits.cpu_shares, limits.memory_limit_bytes, limits.pids_limit), (Some(4096), Some(-1), Some(-1)));
    }

    #[test]
    fn what_is_not_there_can_not_be_kept() {
        let settings = settings(&["kube-reserved=memory=6Gi", "system-reserved=memory=3Gi"]);
        assert_eq!(
            check(&machine(), &settings).expect_err("too much"),
            "invalid Node Allocatable configuration. Resource \"memory\" has a reservation of 9Gi but capacity of 8Gi. \
             Expected capacity >= reservation."
        );
    }

    #[test]
    fn huge_pages_are_no_other_memory() {
        let facts = MachineFacts {
            memory_bytes: 8 << 30,
            huge_pages: [(2 << 20, 512), (1 << 30, 0)].into(),
            ..MachineFacts::default()
        };
        let (all, given) = (facts.capacity(110), allocatable(&facts, &Settings::default()));
        let text = |list: &BTreeMap<String, Told>, name: &str| list[name].0.clone();
        assert_eq!(
            [text(&all, "hugepages-2Mi"), text(&all, "hugepages-1Gi"), text(&all, "memory")],
            ["1Gi", "0", "8Gi"]
        );
        assert_eq!([text(&given, "hugepages-2Mi"), text(&given, "memory")], ["1Gi", "7068Mi"]);
    }
}
