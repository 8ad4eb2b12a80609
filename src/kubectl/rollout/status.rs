//! How far a rollout is, in upstream's words.

use serde_json::Value;

/// The sentence, and whether the rollout is done; an error ends it.
pub fn of(kind: &str, object: &Value) -> Result<(String, bool), String> {
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64).unwrap_or_default();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let observed = number("/metadata/generation") <= number("/status/observedGeneration");
    let going = |text: String| Ok((text, false));
    match kind {
        "Deployment" => deployment(name, object, observed),
        "DaemonSet" => {
            if object["spec"]["updateStrategy"]["type"] != "RollingUpdate" {
                return Err("rollout status is only available for RollingUpdate strategy type".into());
            }
            let (desired, updated, available) = (
                number("/status/desiredNumberScheduled"),
                number("/status/updatedNumberScheduled"),
                number("/status/numberAvailable"),
            );
            if !observed {
                return going("Waiting for daemon set spec update to be observed...".into());
            }
            if updated < desired {
                return going(format!(
                    "Waiting for daemon set {name:?} rollout to finish: {updated} out of {desired} new pods have been updated..."
                ));
            }
            if available < desired {
                return going(format!(
                    "Waiting for daemon set {name:?} rollout to finish: {available} of {desired} updated pods are available..."
                ));
            }
            Ok((format!("daemon set {name:?} successfully rolled out"), true))
        }
        "StatefulSet" => {
            if object["spec"]["updateStrategy"]["type"] != "RollingUpdate" {
                return Err("rollout status is only available for RollingUpdate strategy type".into());
            }
            let (replicas, ready, updated) =
                (number("/spec/replicas"), number("/status/readyReplicas"), number("/status/updatedReplicas"));
            let partition = number("/spec/updateStrategy/rollingUpdate/partition");
            let revision = object["status"]["updateRevision"].as_str().unwrap_or_default();
            if !observed {
                return going("Waiting for statefulset spec update to be observed...".into());
            }
            if ready < replicas {
                return going(format!("Waiting for {} pods to be ready...", replicas - ready));
            }
            if partition > 0 {
                if updated < replicas - partition {
                    return going(format!(
                        "Waiting for partitioned roll out to finish: {updated} out of {} new pods have been updated...",
                        replicas - partition
                    ));
                }
                return Ok((format!("partitioned roll out complete: {updated} new pods have been updated..."), true));
            }
            if object["status"]["updateRevision"] != object["status"]["currentRevision"] {
                return going(format!(
                    "waiting for statefulset rolling update to complete {updated} pods at revision {revision}..."
                ));
            }
            Ok((
                format!(
                    "statefulset rolling update complete {} pods at revision {revision}...",
                    number("/status/currentReplicas")
                ),
                true,
            ))
        }
        other => Err(format!("no status viewer has been implemented for {other}")),
    }
}

fn deployment(name: &str, object: &Value, observed: bool) -> Result<(String, bool), String> {
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64).unwrap_or_default();
    if !observed {
        return Ok(("Waiting for deployment spec update to be observed...".into(), false));
    }
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let progress = conditions.rfind(|condition| condition["type"] == "Progressing");
    if progress.is_some_and(|condition| condition["reason"] == "ProgressDeadlineExceeded") {
        return Err(format!("deployment {name:?} exceeded its progress deadline"));
    }
    let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let (all, updated, available) =
        (number("/status/replicas"), number("/status/updatedReplicas"), number("/status/availableReplicas"));
    let text = if updated < wanted {
        format!("{updated} out of {wanted} new replicas have been updated...")
    } else if all > updated {
        format!("{} old replicas are pending termination...", all - updated)
    } else if available < updated {
        format!("{available} of {updated} updated replicas are available...")
    } else {
        return Ok((format!("deployment {name:?} successfully rolled out"), true));
    };
    Ok((format!("Waiting for deployment {name:?} rollout to finish: {text}"), false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn deployments_tell_where_they_are() {
        let text = |status: Value| {
            let object = json!({"metadata": {"name": "d", "generation": 2}, "spec": {"replicas": 3}, "status": status});
            of("Deployment", &object)
        };
        let going = |text: &str| Ok((format!("Waiting for deployment \"d\" rollout to finish: {text}"), false));
        assert_eq!(
            text(json!({"observedGeneration": 1})),
            Ok(("Waiting for deployment spec update to be observed...".into(), false))
        );
        assert_eq!(
            text(json!({"observedGeneration": 2, "updatedReplicas": 1})),
            going("1 out of 3 new replicas have been updated...")
        );
        assert_eq!(
            text(json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 4})),
            going("1 old replicas are pending termination...")
        );
        assert_eq!(
            text(json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 2})),
            going("2 of 3 updated replicas are available...")
        );
        assert_eq!(
            text(json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3})),
            Ok(("deployment \"d\" successfully rolled out".into(), true))
        );
        let stuck = json!({"observedGeneration": 2, "conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]});
        assert_eq!(text(stuck), Err("deployment \"d\" exceeded its progress deadline".into()));
    }
}
