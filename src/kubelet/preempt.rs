//! Room for a critical pod: where the node has too little of something for it, others end. As upstream's kubelet: pods of the
//! lowest class of service that suffice, as few as possible. One critical pod after the other, since each counts what the
//! one before has freed.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use skiff_base::CancellationToken;
use skiff_client::EventKind;
use tokio::sync::{mpsc, oneshot};

use crate::context::Context;
use crate::pod::{self, PodUid};
use crate::pods::Pods;
use crate::resize::{self, Share};
use crate::resources::{self, Qos};
use crate::worker::Ending;

/// Critical pods that wait for room.
pub(crate) const WAITING: usize = 16;
const REASON: &str = "Preempting";
const MESSAGE: &str = "Preempted in order to admit critical pod";
const DISRUPTED: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";

/// A critical pod for which there is no room.
pub(crate) struct Request {
    pub(crate) pod: Arc<Pod>,
    /// It is to end itself.
    pub(crate) ending: CancellationToken,
    /// Told when there is room, or why there is none.
    pub(crate) answer: oneshot::Sender<Result<(), String>>,
}

/// A resource, and how much of it is missing.
type Need = (String, i64);

/// One that could end.
#[derive(Debug, Clone)]
struct Candidate {
    uid: PodUid,
    qos: Qos,
    share: Share,
}

/// Makes room as it is asked for, until the agent stops.
pub(crate) async fn keep(ctx: Arc<Context>, pods: Arc<Pods>, mut requests: mpsc::Receiver<Request>) {
    let stop = ctx.scope.token().clone();
    let work = async {
        while let Some(request) = requests.recv().await {
            let made = make_room(&ctx, &pods, &request).await;
            // One that is deleted meanwhile does not hear it.
            drop(request.answer.send(made));
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

async fn make_room(ctx: &Context, pods: &Pods, request: &Request) -> Result<(), String> {
    let uid = pod::uid(&request.pod);
    // From here on nobody else takes what is freed; those who wait for their turn do not count before.
    let wanted = resize::share(&request.pod);
    ctx.shares.promise(&uid, wanted.clone());
    let made = find_room(ctx, pods, request, &uid, &wanted).await;
    // Who is to end has given back already, and so gives this back too.
    if made.is_err() || request.ending.is_cancelled() {
        ctx.shares.release(&uid);
    }
    made
}

async fn find_room(ctx: &Context, pods: &Pods, request: &Request, uid: &PodUid, wanted: &Share) -> Result<(), String> {
    if request.ending.is_cancelled() {
        return Ok(());
    }
    // Anew: others may have ended for the one before.
    let lacks = ctx.shares.lacks(uid, wanted, &ctx.capacity());
    let needs: Vec<Need> = lacks.into_iter().map(|l| (l.resource, l.wanted - (l.capacity - l.used))).collect();
    let others: Vec<Arc<Pod>> = pods.pods().into_iter().filter(|pod| pod::uid(pod) != *uid).collect();
    let candidate = |pod: &Arc<Pod>| {
        let uid = pod::uid(pod);
        let share = ctx.shares.of(&uid)?;
        goes_before(&request.pod, pod).then(|| Candidate { uid, qos: resources::qos(pod), share })
    };
    let victims = plan_victims(others.iter().filter_map(candidate).collect(), &needs)
        .map_err(|why| format!("preemption: error finding a set of pods to preempt: {why}"))?;
    let victims = others.iter().filter(|pod| victims.contains(&pod::uid(pod)));
    let signal = needs.first().map(|(resource, _)| resource.clone()).unwrap_or_default();
    join_all(victims.map(|victim| end(ctx, pods, victim, &signal))).await;
    Ok(())
}

/// Returns when the pod has given back what it had, or takes longer than it may.
async fn end(ctx: &Context, pods: &Pods, victim: &Pod, signal: &str) {
    let uid = pod::uid(victim);
    tracing::info!(pod = %pod::format(victim), resource = signal, "a pod ends in favour of a critical one");
    ctx.event(victim, EventKind::Warning, REASON, MESSAGE);
    let grace_s = pod::grace_s(victim);
    let ending = Ending {
        reason: REASON,
        message: MESSAGE.to_owned(),
        grace_s,
        disrupted: Some(DISRUPTED.to_owned()),
        hold: None,
    };
    let mut freed = ctx.shares.freed();
    pods.end(&uid, ending).await;
    ctx.counters.preempted(signal);
    let gone = async { while ctx.shares.of(&uid).is_some() && freed.changed().await.is_ok() {} };
    // As upstream: half as long again as its grace, and then without it.
    let limit = Duration::from_secs(u64::try_from(grace_s + grace_s / 2).unwrap_or(0).max(10));
    if tokio::time::timeout(limit, gone).await.is_err() {
        tracing::warn!(pod = %pod::format(victim), "a pod does not end in favour of a critical one");
    }
}

/// Whether a pod may end for another: no critical one for a lesser, and of two alike the one of lower priority.
fn goes_before(critical: &Pod, other: &Pod) -> bool {
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

fn plan_victims(candidates: Vec<Candidate>, needs: &[Need]) -> Result<Vec<PodUid>, String> {
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
