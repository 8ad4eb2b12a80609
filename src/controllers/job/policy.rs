//! The policies that say what a failed pod means, and when enough has succeeded.

use k8s_openapi::api::batch::v1::{JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use skiff_api::kinds::batch::Indexes;

use crate::pod;

/// What a failed pod means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Count,
    Ignore,
    FailIndex,
    /// With a message.
    FailJob(String),
}

pub fn judge(spec: &JobSpec, failed: &Pod) -> Verdict {
    let rules = spec.pod_failure_policy.as_ref().map_or(&[][..], |policy| &policy.rules);
    // A pod that is only being deleted has not told yet.
    if pod::phase(failed) != "Failed" {
        return Verdict::Count;
    }
    for (i, rule) in rules.iter().enumerate() {
        let Some(why) = matches(rule, failed) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{why} matching FailJob rule at index {i}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// Which part of the pod the rule is about, in upstream's words.
fn matches(rule: &PodFailurePolicyRule, failed: &Pod) -> Option<String> {
    let meta = &failed.metadata;
    let name = |text: &Option<String>| text.clone().unwrap_or_default();
    let pod_name = format!("{}/{}", name(&meta.namespace), name(&meta.name));
    let status = failed.status.as_ref()?;
    if let Some(codes) = &rule.on_exit_codes {
        let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
        let (container, code) = all.filter_map(|c| Some((c, exit_code(c, codes)?))).next()?;
        return Some(format!("Container {} for pod {pod_name} failed with exit code {code}", container.name));
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let wanted = rule.on_pod_conditions.as_deref().unwrap_or_default();
    let found = conditions.iter().find(|condition| {
        wanted.iter().any(|pattern| {
            pattern.type_ == condition.type_ && pattern.status.as_deref().unwrap_or("True") == condition.status
        })
    })?;
    Some(format!("Pod {pod_name} has condition {}", found.type_))
}

fn exit_code(container: &ContainerStatus, codes: &PodFailurePolicyOnExitCodesRequirement) -> Option<i32> {
    if codes.container_name.as_ref().is_some_and(|name| *name != container.name) {
        return None;
    }
    let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
    let listed = codes.values.contains(&code);
    // Success is no failure, whatever is listed.
    (code != 0 && (codes.operator == "In") == listed).then_some(code)
}

/// The first rule of the success policy that is met.
pub fn met_rule(spec: &JobSpec, completed: &Indexes) -> Option<usize> {
    let completions = spec.completions.unwrap_or(0);
    spec.success_policy.as_ref()?.rules.iter().position(|rule| {
        let wanted =
            rule.succeeded_indexes.as_deref().map(|text| Indexes::parse(text, completions).unwrap_or_default());
        let (have, all) = match &wanted {
            Some(wanted) => (wanted.iter().filter(|index| completed.contains(*index)).count(), wanted.count()),
            None => (completed.iter().count(), completions),
        };
        let needed = rule.succeeded_count.unwrap_or(all);
        i32::try_from(have).is_ok_and(|have| have >= needed)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn failed(code: i32, conditions: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "status": {"phase": "Failed",
            "conditions": conditions, "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"terminated": {"exitCode": code}}}]}}))
        .expect("a pod")
    }

    #[test]
    fn rules_are_asked_in_order() {
        let spec: JobSpec = serde_json::from_value(json!({"template": {}, "podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 2]}},
        ]}}))
        .expect("a spec");
        let disrupted = json!([{"type": "DisruptionTarget", "status": "True"}]);
        for (code, conditions, expect) in [
            (42, disrupted, Verdict::Ignore),
            (
                42,
                json!([]),
                Verdict::FailJob(
                    "Container c for pod n/p failed with exit code 42 matching FailJob rule at index 1".into(),
                ),
            ),
            (7, json!([]), Verdict::FailIndex),
            (1, json!([]), Verdict::Count),
        ] {
            assert_eq!(judge(&spec, &failed(code, conditions)), expect, "{code}");
        }
    }

    #[test]
    fn enough_has_succeeded() {
        let spec: JobSpec =
            serde_json::from_value(json!({"template": {}, "completions": 5, "successPolicy": {"rules": [
                {"succeededIndexes": "0,2-3", "succeededCount": 2}, {"succeededCount": 4}, {"succeededIndexes": "4"},
            ]}}))
            .expect("a spec");
        for (completed, expect) in
            [(vec![], None), (vec![0, 1], None), (vec![0, 3], Some(0)), (vec![4], Some(2)), (vec![0, 1, 4], Some(2))]
        {
            assert_eq!(met_rule(&spec, &Indexes::of(completed.clone())), expect, "{completed:?}");
        }
    }
}
