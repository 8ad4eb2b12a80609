//! Which CPUs a container gets for itself: pure.

use std::collections::BTreeMap;

use super::set::CpuSet;

/// Where a CPU is: its package, and its core there.
pub(super) type Place = (u32, u32);

/// So many of the free CPUs, as near to each other as can be: whole packages, whole cores, then from where least is free.
pub(super) fn take(free: &CpuSet, count: usize, places: &BTreeMap<u32, Place>) -> Option<CpuSet> {
    if free.len() < count {
        return None;
    }
    let place = |cpu: &u32| places.get(cpu).copied().unwrap_or((0, *cpu));
    let (mut left, mut taken) = (free.clone(), CpuSet::default());
    let groups: [&dyn Fn(Place) -> Place; 2] = [&|(package, _)| (package, 0), &|place| place];
    for group in groups {
        let mut all: BTreeMap<Place, Vec<u32>> = BTreeMap::new();
        for cpu in places.keys() {
            all.entry(group(place(cpu))).or_default().push(*cpu);
        }
        // Of packages that others use already first.
        let mut whole: Vec<Vec<u32>> =
            all.into_values().filter(|cpus| cpus.iter().all(|cpu| left.0.contains(cpu))).collect();
        whole.sort_by_key(|cpus| (free_beside(&left, cpus[0], &place), cpus[0]));
        for cpus in whole.into_iter().filter(|cpus| !cpus.is_empty()) {
            if cpus.len() <= count - taken.len() {
                left.0.retain(|cpu| !cpus.contains(cpu));
                taken.0.extend(cpus);
            }
        }
    }
    while taken.len() < count {
        let of_core = |cpu: u32| left.0.iter().filter(|other| place(other) == place(&cpu)).count();
        let next = left.0.iter().copied().min_by_key(|cpu| (free_beside(&left, *cpu, &place), of_core(*cpu), *cpu))?;
        left.0.remove(&next);
        taken.0.insert(next);
    }
    Some(taken)
}

/// How many are free in a CPU's package.
fn free_beside(left: &CpuSet, cpu: u32, place: &dyn Fn(&u32) -> Place) -> usize {
    left.0.iter().filter(|other| place(other).0 == place(&cpu).0).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_to_each_other() {
        // Two packages of two cores of two threads: 0 and 4 are of one core, as Linux counts them.
        let places: BTreeMap<u32, Place> = (0..8).map(|cpu| (cpu, (cpu % 4 / 2, cpu % 2))).collect();
        let check = |free: &str, count: usize, expect: Option<&str>| {
            let found = take(&free.parse().expect("a set"), count, &places).map(|set| set.to_string());
            assert_eq!(found.as_deref(), expect, "{count} of {free}");
        };
        check("0-7", 4, Some("0-1,4-5"));
        check("0-7", 2, Some("0,4"));
        check("1-7", 2, Some("1,5"));
        check("1-7", 1, Some("4"));
        check("1-7", 5, Some("2-4,6-7"));
        check("0-7", 8, Some("0-7"));
        check("0-1", 3, None);
        // A machine that does not tell.
        assert_eq!(
            take(&"0-3".parse().expect("a set"), 2, &BTreeMap::new()).map(|set| set.to_string()).as_deref(),
            Some("0-1")
        );
    }
}
