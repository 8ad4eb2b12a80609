//! Has others end for critical pods, one critical pod after the other.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use skiff_client::EventKind;
use tokio::sync::mpsc;

use super::Request;
use super::plan::{Candidate, Need, goes_before, plan_victims};
use crate::context::Context;
use crate::pod::{self, PodUid};
use crate::pods::Pods;
use crate::resize::{self, Share};
use crate::resources;
use crate::worker::Ending;

const REASON: &str = "Preempting";
const MESSAGE: &str = "Preempted in order to admit critical pod";
const DISRUPTED: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";

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
