//! postStart and preStop handlers.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use skiff_base::chain;
use skiff_client::EventKind;
use skiff_runtime::ContainerId;

use crate::context::Context;
use crate::http_get::{self, NO_TLS};
use crate::pod;

/// A hook without a limit of its own gives up after this long.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a handler to its end. The error is for the log and the pod's status: it says what was run and what that wrote,
/// which may be nobody's business who reads events.
pub(crate) async fn run(
    ctx: &Context,
    pod: &Pod,
    container: &Container,
    id: &ContainerId,
    pod_ip: &str,
    handler: &LifecycleHandler,
) -> Result<(), String> {
    let whose = || format!("for Container {:?} in Pod {:?} failed - error:", container.name, pod::format(pod));
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let failed = |why: String, said: &str| {
            format!("Exec lifecycle hook ([{}]) {} {why}, message: {said:?}", command.join(" "), whose())
        };
        let result = ctx.engine.exec_sync(id, &command, None).await.map_err(|e| failed(chain(&e).to_string(), ""))?;
        if result.exit_code != 0 {
            let error = String::from_utf8_lossy(&result.stderr).into_owned();
            let (command, code) = (command.join(" "), result.exit_code);
            let said = String::from_utf8_lossy(&result.stdout).into_owned() + &error;
            return Err(failed(format!("command '{command}' exited with {code}: {error}"), &said));
        }
        return Ok(());
    }
    if let Some(action) = &handler.http_get {
        let path = action.path.as_deref().unwrap_or_default();
        let failed = |why: String| format!("HTTP lifecycle hook ({path}) {} {why}", whose());
        let mut target = http_get::plan_target(container, action, pod_ip, "kube-lifecycle/1.36").map_err(failed)?;
        // Whatever the answer says: that there is one is enough, as upstream.
        let why = match http_get::get(&target, HTTP_TIMEOUT).await {
            Ok(_) => return Ok(()),
            Err(why) => why,
        };
        if target.https && why.ends_with(NO_TLS) {
            target.https = false;
            target.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
            if http_get::get(&target, HTTP_TIMEOUT).await.is_ok() {
                let host = target.authority();
                let message =
                    format!("request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded");
                ctx.event(pod, EventKind::Warning, "LifecycleHTTPFallback", message);
                return Ok(());
            }
        }
        return Err(failed(why));
    }
    if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("Cannot run handler: invalid handler: it names neither exec, httpGet nor sleep".to_owned())
}
