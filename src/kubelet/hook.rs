//! postStart and preStop handlers.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use skiff_base::chain;
use skiff_runtime::ContainerId;

use crate::context::Context;
use crate::http_get;

/// A hook without a limit of its own gives up after this long.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a handler to its end. The error is for the log alone: it says what was run and what that wrote, which may be
/// nobody's business who reads events.
pub(crate) async fn run(
    ctx: &Context,
    container: &Container,
    id: &ContainerId,
    pod_ip: &str,
    kind: &str,
    handler: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let failed = |why: String| format!("{kind} handler {command:?} failed: {why}");
        let result = ctx.engine.exec_sync(id, &command, None).await.map_err(|e| failed(chain(&e).to_string()))?;
        if result.exit_code != 0 {
            let mut output = result.stdout;
            output.extend(result.stderr);
            let output = String::from_utf8_lossy(&output);
            return Err(failed(format!("command exited with {}: {output}", result.exit_code)));
        }
        return Ok(());
    }
    if let Some(action) = &handler.http_get {
        let target = http_get::plan_target(container, action, pod_ip, "kube-lifecycle/1.36")?;
        let answer = http_get::get(&target, HTTP_TIMEOUT).await?;
        if answer.status >= 400 {
            return Err(format!("{kind} handler: HTTP status {}", answer.status));
        }
        return Ok(());
    }
    if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err(format!("{kind} handler: invalid handler: it names neither exec, httpGet nor sleep"))
}
