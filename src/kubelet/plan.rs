//! What to do with the containers of a pod: a pure function of the pod and of what is seen of it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerRestartRuleOnExitCodes, Pod};

use crate::pod::{self, RestartPolicy, Role};

const RESTART_ALL: &str = "RestartAllContainers";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unhealthy {
    Liveness,
    Startup,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Life {
    /// Never created in this sandbox.
    Absent,
    /// Its image is fetched, it is created, or its postStart hook runs.
    Starting,
    Running {
        /// Its startup probe has succeeded (or it has none).
        started: bool,
        unhealthy: Option<Unhealthy>,
        /// It was made from another definition than the pod has now.
        outdated: bool,
    },
    Stopping,
    Exited {
        code: i32,
        finished: Timestamp,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerView {
    pub(crate) life: Life,
    /// How long to wait after an exit before it is started again.
    pub(crate) backoff: SignedDuration,
    /// When a start that failed (image, configuration) may be tried again.
    pub(crate) not_before: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Start {
        name: String,
    },
    Kill {
        name: String,
        because: Option<Unhealthy>,
        message: String,
    },
    /// It waits before its next start.
    BackOff {
        name: String,
        wait: SignedDuration,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    /// When time alone changes the plan.
    pub(crate) wake: Option<Timestamp>,
    /// Nothing will ever run again: what is left (sidecars) is to be stopped.
    pub(crate) ended: bool,
    /// A container has ended so that all are to begin anew.
    pub(crate) reset: bool,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }

    fn start(&mut self, container: &Container, view: &ContainerView, now: Timestamp) {
        match view.not_before.filter(|at| *at > now) {
            Some(at) => self.wake_at(at),
            None => self.actions.push(Action::Start { name: container.name.clone() }),
        }
    }

    fn restart(&mut self, container: &Container, view: &ContainerView, finished: Timestamp, now: Timestamp) {
        let due = finished + view.backoff;
        if view.backoff.is_zero() || due <= now {
            self.start(container, view, now);
        } else {
            self.actions.push(Action::BackOff { name: container.name.clone(), wait: view.backoff });
            self.wake_at(due);
        }
    }

    fn check_running(&mut self, container: &Container, life: &Life, restarts: bool) {
        let Life::Running { unhealthy, outdated, .. } = life else { return };
        let name = &container.name;
        let (why, restarts) = match unhealthy {
            _ if *outdated => (format!("Container {name} definition changed"), true),
            Some(Unhealthy::Liveness) => (format!("Container {name} failed liveness probe"), restarts),
            Some(Unhealthy::Startup) => (format!("Container {name} failed startup probe"), restarts),
            None => return,
        };
        let message = if restarts { format!("{why}, will be restarted") } else { why };
        self.actions.push(Action::Kill { name: name.clone(), because: *unhealthy, message });
    }
}

/// What the first rule that is for `code` has done: `Restart`, `RestartAllContainers`.
fn rule(container: &Container, code: i32) -> Option<&str> {
    let matching = container.restart_policy_rules.iter().flatten().find(|rule| {
        let is_listed = |codes: &ContainerRestartRuleOnExitCodes| {
            let listed = codes.values.iter().flatten().any(|value| *value == code);
            (codes.operator == "In") == listed
        };
        rule.exit_codes.as_ref().is_some_and(is_listed)
    });
    matching.map(|rule| rule.action.as_str())
}

/// Whether all containers of the pod begin anew when this one ends with `code`.
pub(crate) fn resets(container: &Container, code: i32) -> bool {
    rule(container, code) == Some(RESTART_ALL)
}

/// Whether that can be.
pub(crate) fn may_reset(pod: &Pod) -> bool {
    let mut rules = pod::containers(pod).flat_map(|(_, container)| container.restart_policy_rules.iter().flatten());
    rules.any(|rule| rule.action == RESTART_ALL)
}

/// Whether a container that ended with `code` is started again.
pub(crate) fn restarts(pod: &Pod, role: Role, container: &Container, code: i32) -> bool {
    if role == Role::Sidecar {
        return true;
    }
    if rule(container, code).is_some() {
        return true;
    }
    let policy = match container.restart_policy.as_deref() {
        Some("Always") => RestartPolicy::Always,
        Some("OnFailure") => RestartPolicy::OnFailure,
        Some("Never") => RestartPolicy::Never,
        _ => pod::restart_policy(pod),
    };
    match (role, policy) {
        // Init containers that succeeded are done.
        (Role::Init, RestartPolicy::Always) => code != 0,
        (Role::Ephemeral, _) => false,
        (_, RestartPolicy::Always) => true,
        (_, RestartPolicy::OnFailure) => code != 0,
        (_, RestartPolicy::Never) => false,
    }
}

/// A container that is not in `views` is absent.
pub(crate) fn plan_containers(pod: &Pod, views: &BTreeMap<String, ContainerView>, now: Timestamp) -> Plan {
    let absent = ContainerView { life: Life::Absent, backoff: SignedDuration::ZERO, not_before: None };
    let view = |container: &Container| views.get(&container.name).unwrap_or(&absent);
    let mut plan = Plan::default();
    let mains: Vec<&Container> = pod::containers(pod).filter(|(role, _)| *role == Role::Main).map(|(_, c)| c).collect();

    let resets = |c: &Container| matches!(view(c).life, Life::Exited { code, .. } if resets(c, code));
    if pod::containers(pod).any(|(_, container)| resets(container)) {
        return Plan { reset: true, ..plan };
    }
    let ended = mains.iter().all(|c| match view(c).life {
        Life::Exited { code, .. } => !restarts(pod, Role::Main, c, code),
        _ => false,
    });
    if ended {
        return Plan { ended: true, ..plan };
    }

    let begun = mains.iter().any(|c| view(c).life != Life::Absent);
    if !plan_inits(pod, &view, begun, now, &mut plan) {
        return plan;
    }

    // A postStart hook holds up the containers behind it.
    let mut held = false;
    for container in mains {
        let hook = container.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some());
        let view = view(container);
        match &view.life {
            Life::Absent if held => {}
            Life::Absent => {
                plan.start(container, view, now);
                held |= hook;
            }
            Life::Starting => held |= hook,
            life @ Life::Running { .. } => {
                // It is judged as a failure, whatever code it ends with.
                plan.check_running(container, life, restarts(pod, Role::Main, container, 137));
            }
            Life::Stopping => {}
            Life::Exited { code, finished } => {
                if restarts(pod, Role::Main, container, *code) {
                    plan.restart(container, view, *finished, now);
                }
            }
        }
    }
    plan
}

/// Containers that were added to look into the pod: each is started once, whatever the others do.
pub(crate) fn plan_ephemeral(
    containers: &[Container],
    target: impl Fn(&str) -> Option<String>,
    views: &BTreeMap<String, ContainerView>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let absent = ContainerView { life: Life::Absent, backoff: SignedDuration::ZERO, not_before: None };
    for container in containers {
        let view = views.get(&container.name).unwrap_or(&absent);
        // One that is being started is there in a moment.
        let target = target(&container.name).and_then(|target| views.get(&target));
        let waits = target.is_some_and(|target| target.life == Life::Starting);
        if view.life == Life::Absent && !waits {
            plan.start(container, view, now);
        }
    }
}

/// Init containers and sidecars; true when the main containers may start. After these have `begun`, only the
/// sidecars are looked after.
fn plan_inits<'a>(
    pod: &Pod,
    view: &impl Fn(&Container) -> &'a ContainerView,
    begun: bool,
    now: Timestamp,
    plan: &mut Plan,
) -> bool {
    for (role, container) in pod::containers(pod).filter(|(role, _)| *role != Role::Main) {
        if begun && role == Role::Init {
            continue;
        }
        let view = view(container);
        let done = match &view.life {
            Life::Absent => {
                plan.start(container, view, now);
                false
            }
            Life::Starting | Life::Stopping => false,
            life @ Life::Running { started, .. } => {
                if role == Role::Sidecar {
                    plan.check_running(container, life, true);
                }
                role == Role::Sidecar && *started
            }
            Life::Exited { code: 0, .. } if role == Role::Init => true,
            Life::Exited { code, finished } => {
                if restarts(pod, role, container, *code) {
                    plan.restart(container, view, *finished, now);
                } else {
                    plan.ended = true;
                }
                false
            }
        };
        if !done && !begun {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: i64 = 1_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn sample(policy: &str, inits: Value, mains: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"},
            "spec": {"restartPolicy": policy, "initContainers": inits, "containers": mains}}))
        .expect("a pod")
    }

    fn running() -> Life {
        Life::Running { started: true, unhealthy: None, outdated: false }
    }

    fn exited(code: i32) -> Life {
        Life::Exited { code, finished: at(NOW - 5) }
    }

    /// `+a` starts, `-a` kills, `~a` waits, `END` ends, `@5` wakes in 5 s.
    fn plan(pod: &Pod, lives: &[(&str, Life, i64)]) -> String {
        let views = lives
            .iter()
            .map(|(name, life, backoff)| {
                let view = ContainerView {
                    life: life.clone(),
                    backoff: SignedDuration::from_secs(*backoff),
                    not_before: None,
                };
                ((*name).to_owned(), view)
            })
            .collect();
        let plan = plan_containers(pod, &views, at(NOW));
        let mut out: Vec<String> = plan
            .actions
            .iter()
            .map(|a| match a {
                Action::Start { name } => format!("+{name}"),
                Action::Kill { name, .. } => format!("-{name}"),
                Action::BackOff { name, .. } => format!("~{name}"),
            })
            .collect();
        if plan.ended {
            out.push("END".into());
        }
        if plan.reset {
            out.push("RESET".into());
        }
        if let Some(wake) = plan.wake {
            out.push(format!("@{}", wake.as_second() - NOW));
        }
        out.join(" ")
    }

    #[test]
    fn main_containers() {
        let mains = json!([{"name": "a"}, {"name": "b"}]);
        let unhealthy = |u| Life::Running { started: true, unhealthy: Some(u), outdated: false };
        for (policy, lives, expected) in [
            ("Always", vec![], "+a +b"),
            ("Always", vec![("a", Life::Starting, 0)], "+b"),
            ("Always", vec![("a", running(), 0), ("b", running(), 0)], ""),
            ("Always", vec![("a", exited(0), 0), ("b", running(), 0)], "+a"),
            ("Always", vec![("a", exited(1), 10), ("b", running(), 0)], "~a @5"),
            ("Always", vec![("a", exited(1), 5), ("b", running(), 0)], "+a"),
            ("Always", vec![("a", Life::Stopping, 0), ("b", running(), 0)], ""),
            ("Always", vec![("a", unhealthy(Unhealthy::Liveness), 0), ("b", running(), 0)], "-a"),
            ("OnFailure", vec![("a", exited(0), 0), ("b", exited(2), 0)], "+b"),
            ("OnFailure", vec![("a", exited(0), 0), ("b", exited(0), 0)], "END"),
            ("Never", vec![("a", exited(1), 0), ("b", running(), 0)], ""),
            ("Never", vec![("a", exited(1), 0), ("b", exited(0), 0)], "END"),
            ("Never", vec![("a", unhealthy(Unhealthy::Startup), 0), ("b", running(), 0)], "-a"),
        ] {
            assert_eq!(plan(&sample(policy, json!([]), mains.clone()), &lives), expected, "{policy} {lives:?}");
        }
    }

    #[test]
    fn init_containers_in_order_and_sidecars_beside() {
        let inits = json!([{"name": "i"}, {"name": "s", "restartPolicy": "Always"}, {"name": "j"}]);
        let mains = json!([{"name": "m"}]);
        let starting_up = Life::Running { started: false, unhealthy: None, outdated: false };
        for (policy, lives, expected) in [
            ("Always", vec![], "+i"),
            ("Always", vec![("i", running(), 0)], ""),
            ("Always", vec![("i", exited(1), 10)], "~i @5"),
            ("Always", vec![("i", exited(1), 0)], "+i"),
            ("Never", vec![("i", exited(1), 0)], "END"),
            ("Always", vec![("i", exited(0), 0)], "+s"),
            ("Always", vec![("i", exited(0), 0), ("s", starting_up, 0)], ""),
            ("Always", vec![("i", exited(0), 0), ("s", running(), 0)], "+j"),
            ("Always", vec![("i", exited(0), 0), ("s", exited(0), 0), ("j", running(), 0)], "+s"),
            ("Always", vec![("i", exited(0), 0), ("s", running(), 0), ("j", exited(0), 0)], "+m"),
            ("Never", vec![("i", exited(0), 0), ("s", exited(1), 0), ("j", exited(0), 0), ("m", running(), 0)], "+s"),
            // The record of an init container may be gone once the main ones have begun.
            ("Always", vec![("s", running(), 0), ("m", running(), 0)], ""),
            ("Never", vec![("i", exited(0), 0), ("s", running(), 0), ("j", exited(0), 0), ("m", exited(0), 0)], "END"),
        ] {
            assert_eq!(plan(&sample(policy, inits.clone(), mains.clone()), &lives), expected, "{policy} {lives:?}");
        }
    }

    #[test]
    fn one_may_have_all_begin_anew() {
        let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}},
            {"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0, 2]}}]);
        let source = |name: &str| json!({"name": name, "restartPolicy": "Never", "restartPolicyRules": rules});
        let pod = sample("Never", json!([source("i")]), json!([source("a"), {"name": "b"}]));
        assert!(may_reset(&pod) && !may_reset(&sample("Never", json!([]), json!([{"name": "b"}]))));
        for (lives, expected) in [
            (vec![("i", exited(0), 0), ("a", exited(1), 0), ("b", running(), 0)], "+a"),
            (vec![("i", exited(0), 0), ("a", exited(2), 0), ("b", running(), 0)], ""),
            (vec![("i", exited(0), 0), ("a", exited(42), 0), ("b", running(), 0)], "RESET"),
            (vec![("i", exited(0), 0), ("a", exited(42), 0), ("b", exited(0), 0)], "RESET"),
            (vec![("i", exited(42), 0)], "RESET"),
            (vec![("i", exited(2), 0)], "END"),
            (vec![("i", exited(0), 0), ("a", exited(0), 0), ("b", exited(42), 0)], "END"),
        ] {
            assert_eq!(plan(&pod, &lives), expected, "{lives:?}");
        }
    }

    #[test]
    fn a_hook_holds_up_those_behind() {
        let mains = json!([{"name": "a", "lifecycle": {"postStart": {"exec": {"command": ["x"]}}}}, {"name": "b"}]);
        let pod = sample("Always", json!([]), mains);
        assert_eq!(plan(&pod, &[]), "+a");
        assert_eq!(plan(&pod, &[("a", Life::Starting, 0)]), "");
        assert_eq!(plan(&pod, &[("a", running(), 0)]), "+b");
    }

    #[test]
    fn ephemeral_containers_start_once() {
        let one = |name: &str| Container { name: name.to_owned(), ..Container::default() };
        let view = |life, not_before| ContainerView { life, backoff: SignedDuration::ZERO, not_before };
        let views = [
            ("done".to_owned(), view(exited(1), None)),
            ("up".to_owned(), view(running(), None)),
            ("waits".to_owned(), view(Life::Absent, Some(at(NOW + 7)))),
        ];
        let mut plan = Plan::default();
        let all = [one("new"), one("done"), one("up"), one("waits")];
        let views: BTreeMap<String, ContainerView> = views.into();
        plan_ephemeral(&all, |_| None, &views, at(NOW), &mut plan);
        assert_eq!(plan.actions, [Action::Start { name: "new".to_owned() }]);
        assert_eq!(plan.wake, Some(at(NOW + 7)));
        // Whose target is being started waits for it; whose target does not run is told so.
        for (life, starts) in [(Life::Starting, 0), (running(), 1), (exited(1), 1)] {
            let (views, mut plan) = ([("main".to_owned(), view(life, None))].into(), Plan::default());
            plan_ephemeral(&[one("new")], |_| Some("main".to_owned()), &views, at(NOW), &mut plan);
            assert_eq!(plan.actions.len(), starts);
        }
    }

    #[test]
    fn failed_starts_wait() {
        let pod = sample("Always", json!([]), json!([{"name": "a"}]));
        let view = ContainerView { life: Life::Absent, backoff: SignedDuration::ZERO, not_before: Some(at(NOW + 20)) };
        let plan = plan_containers(&pod, &[("a".to_owned(), view)].into(), at(NOW));
        assert_eq!((plan.actions.len(), plan.wake), (0, Some(at(NOW + 20))));
    }

    #[test]
    fn messages_and_own_policies() {
        let pod = sample(
            "Always",
            json!([]),
            json!([{"name": "a"}, {"name": "b", "restartPolicy": "Never",
            "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]),
        );
        let outdated = ContainerView {
            life: Life::Running { started: true, unhealthy: None, outdated: true },
            backoff: SignedDuration::ZERO,
            not_before: None,
        };
        let sick = ContainerView {
            life: Life::Running { started: true, unhealthy: Some(Unhealthy::Liveness), outdated: false },
            ..outdated.clone()
        };
        let plan = plan_containers(&pod, &[("a".to_owned(), outdated), ("b".to_owned(), sick)].into(), at(NOW));
        let messages: Vec<&str> = plan
            .actions
            .iter()
            .map(|a| match a {
                Action::Kill { message, .. } => message.as_str(),
                _ => "",
            })
            .collect();
        assert_eq!(
            messages,
            ["Container a definition changed, will be restarted", "Container b failed liveness probe"]
        );
        let b = &pod::spec(&pod).containers[1];
        assert!(restarts(&pod, Role::Main, b, 42) && !restarts(&pod, Role::Main, b, 1));
    }
}
