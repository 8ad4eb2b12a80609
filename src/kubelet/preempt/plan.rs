//! Who ends for a critical pod.

use k8s_openapi::api::core::v1::Pod;

use crate::pod::{self, PodUid};
use crate::resize::Share;
use crate::resources::Qos;

/// A resource, and how much of it is missing.
pub(super) type Need = (String, i64);

/// One that could end.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub uid: PodUid,
    pub qos: Qos,
    pub share: Share,
}

/// Whether a pod may end for another: no critical one for a lesser, and of two alike the one of lower priority.
pub(super) fn goes_before(critical: &Pod, other: &Pod) -> bool {
    let priority = |pod: &Pod| pod::spec(pod).priority;
    let lesser = pod::is_critical(critical) && !pod::is_critical(other);
    lesser || matches!((priority(critical), priority(other)), (Some(one), Some(other)) if one > other)
}

/// What is still missing when these have ended.
fn left<'a>(needs: &[Need], ended: impl IntoIterator<Item = &'a Candidate> + Clone) -> Vec<Need> {
    let missing = |(resource, amount): &Need| {
        let freed: i64 = ended.clone().into_iter().map(|candidate| candidate.share.of(resource)).sum();
        (resource.clone(), amount - freed)
    };
    needs.iter().map(missing).filter(|(_, amount)| *amount > 0).collect()
}

pub(super) fn plan_victims(candidates: Vec<Candidate>, needs: &[Need]) -> Result<Vec<PodUid>, String> {
    let missing = left(needs, &candidates);
    if !missing.is_empty() {
        return Err(nobody(&missing));
    }
    let of = |qos: Qos| candidates.iter().filter(|c| c.qos == qos).cloned().collect::<Vec<_>>();
    let (best_effort, burstable, guaranteed) = (of(Qos::BestEffort), of(Qos::Burstable), of(Qos::Guaranteed));
    // The better ones only for what all the lesser ones can't give.
    let guaranteed = closest(guaranteed, left(needs, best_effort.iter().chain(&burstable)))?;
    let burstable = closest(burstable, left(needs, best_effort.iter().chain(&guaranteed)))?;
    let best_effort = closest(best_effort, left(needs, burstable.iter().chain(&guaranteed)))?;
    Ok(best_effort.into_iter().chain(burstable).chain(guaranteed).map(|victim| victim.uid).collect())
}

/// One after the other, each the one that leaves the least missing; of equal ones the smallest.
fn closest(mut candidates: Vec<Candidate>, mut needs: Vec<Need>) -> Result<Vec<Candidate>, String> {
    let mut victims = Vec::new();
    while !needs.is_empty() {
        let key = |candidate: &Candidate| (distance(&needs, candidate), size(candidate));
        let order = |(a, x): &(f64, _), (b, y): &(f64, _)| a.total_cmp(b).then_with(|| Ord::cmp(x, y));
        let best = candidates.iter().map(key).enumerate().min_by(|(_, a), (_, b)| order(a, b)).map(|(at, _)| at);
        let victim = candidates.swap_remove(best.ok_or_else(|| nobody(&needs))?);
        needs = left(&needs, [&victim]);
        victims.push(victim);
    }
    Ok(victims)
}

/// Each resource counts alike, however much of it is missing.
fn distance(needs: &[Need], candidate: &Candidate) -> f64 {
    let part = |(resource, amount): &Need| (*amount - candidate.share.of(resource)).max(0) as f64 / *amount as f64;
    needs.iter().map(|need| part(need).powi(2)).sum()
}

fn size(candidate: &Candidate) -> (i64, i64) {
    (candidate.share.memory_bytes, candidate.share.cpu_milli)
}

fn nobody(needs: &[Need]) -> String {
    let needs: String = needs.iter().map(|(resource, amount)| format!("(res: {resource}, q: {amount}), ")).collect();
    format!("no set of running pods found to reclaim resources: [{needs}]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_ends() {
        let of = |name: &str, qos, cpu_milli, memory_bytes| Candidate {
            uid: PodUid(name.to_owned()),
            qos,
            share: Share { cpu_milli, memory_bytes, ..Share::default() },
        };
        let all = [
            of("best", Qos::BestEffort, 0, 0),
            of("burst-1", Qos::Burstable, 100, 100),
            of("burst-2", Qos::Burstable, 200, 50),
            of("burst-3", Qos::Burstable, 200, 40),
            of("sure-1", Qos::Guaranteed, 100, 100),
            of("sure-2", Qos::Guaranteed, 500, 500),
        ];
        let check = |needs: &[(&str, i64)], expected: Result<&[&str], &str>| {
            let needs: Vec<Need> = needs.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect();
            let victims = plan_victims(all.to_vec(), &needs);
            let victims = victims.map(|uids| uids.into_iter().map(|uid| uid.0).collect::<Vec<_>>());
            let expected = expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            assert_eq!(victims, expected.map_err(str::to_owned), "{needs:?}");
        };
        check(&[], Ok(&[]));
        check(&[("pods", 1)], Ok(&["best"]));
        check(&[("cpu", 100)], Ok(&["burst-3"]));
        check(&[("memory", 60)], Ok(&["burst-1"]));
        check(&[("cpu", 300)], Ok(&["burst-3", "burst-2"]));
        // All lesser ones together do not suffice.
        check(&[("cpu", 510)], Ok(&["burst-3", "burst-2", "burst-1", "sure-1"]));
        check(&[("memory", 400)], Ok(&["sure-2"]));
        let nobody = "no set of running pods found to reclaim resources: [(res: cpu, q: 900), ]";
        check(&[("memory", 1), ("cpu", 2000)], Err(nobody));
    }

    #[test]
    fn who_may_end_for_whom() {
        let of = |priority: i32| -> Pod {
            serde_json::from_value(json!({"metadata": {}, "spec": {"priority": priority, "containers": []}}))
                .expect("a pod")
        };
        let critical = 2_000_000_000;
        for (one, other, expected) in
            [(critical, 0, true), (critical, critical, false), (critical + 1000, critical, true), (5, critical, false)]
        {
            assert_eq!(goes_before(&of(one), &of(other)), expected, "{one} {other}");
        }
    }
}
