//! Images of containers: whether to pull, with which credentials, and how it is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod, Secret};
use serde_json::Value;
use skiff_base::chain;
use skiff_client::EventKind;
use skiff_runtime::{Error, Image, RegistryAuth};
use tokio::sync::oneshot;

use crate::context::Context;
use crate::pod::{self, Role};
use crate::pulled::{self, Access, SecretCredential, repository};

/// Why a container could not be started, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StartError {
    /// The waiting reason of the container's status.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl StartError {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// The API server sets the default; this is the same one, for pods that did not come through it.
pub(crate) fn pull_policy(image: &str, given: Option<&str>) -> PullPolicy {
    match given {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        _ => {
            let last = image.rsplit('/').next().unwrap_or_default();
            let tagged = last.contains(':') && !last.ends_with(":latest");
            if tagged || image.contains('@') { PullPolicy::IfNotPresent } else { PullPolicy::Always }
        }
    }
}

/// What a status shows as the id of an image: where it came from by digest, else its own id.
pub(crate) fn image_id(image: &Image, reference: &str) -> String {
    let repository = repository(reference);
    let own = image.digests.iter().find(|d| d.split('@').next() == Some(repository));
    own.or_else(|| image.digests.first()).cloned().unwrap_or_else(|| image.id.0.clone())
}

/// Makes sure that the image of a container is here.
pub(crate) async fn ensure(
    ctx: &Arc<Context>,
    pod: &Pod,
    role: Role,
    container: &Container,
    secrets: &[Arc<Secret>],
) -> Result<Image, StartError> {
    let wanted = container.image.as_deref().unwrap_or_default();
    let tell = |kind, reason: &str, message: String| {
        ctx.container_event(pod, role, &container.name, kind, reason, message);
    };
    tell_missing(ctx, pod, secrets);
    fetch(ctx, wanted, pull_policy(wanted, container.image_pull_policy.as_deref()), secrets, &tell).await
}

/// The same for an image whose files are a volume.
pub(crate) async fn ensure_for_volume(
    ctx: &Arc<Context>,
    pod: &Pod,
    source: &ImageVolumeSource,
    secrets: &[Arc<Secret>],
) -> Result<Image, StartError> {
    let wanted = source.reference.as_deref().unwrap_or_default();
    let tell = |kind, reason: &str, message: String| ctx.event(pod, kind, reason, message);
    tell_missing(ctx, pod, secrets);
    fetch(ctx, wanted, pull_policy(wanted, source.pull_policy.as_deref()), secrets, &tell).await
}

async fn fetch(
    ctx: &Arc<Context>,
    wanted: &str,
    policy: PullPolicy,
    secrets: &[Arc<Secret>],
    tell: &(impl Fn(EventKind, &str, String) + Sync),
) -> Result<Image, StartError> {
    let reference = ctx.engine.normalize(wanted).map_err(|e| {
        let why = match e {
            Error::InvalidReference { why, .. } => why,
            e => chain(&e).to_string(),
        };
        let message =
            format!("Failed to apply default image tag {wanted:?}: couldn't parse image name {wanted:?}: {why}");
        tell(EventKind::Warning, "InspectFailed", message.clone());
        tell(EventKind::Warning, "Failed", "Error: InvalidImageName".to_owned());
        StartError::new("InvalidImageName", message)
    })?;
    let present = ctx.engine.image(&reference).await.map_err(|e| {
        let message = format!("Failed to inspect image {wanted:?}: {}", chain(&e));
        tell(EventKind::Warning, "InspectFailed", message.clone());
        tell(EventKind::Warning, "Failed", "Error: ImageInspectError".to_owned());
        StartError::new("ImageInspectError", message)
    })?;
    let credentials = plan_credentials(secrets, &reference);
    let never = |message: String| {
        tell(EventKind::Warning, "ErrImageNeverPull", message.clone());
        tell(EventKind::Warning, "Failed", "Error: ErrImageNeverPull".to_owned());
        Err(StartError::new("ErrImageNeverPull", message))
    };
    match (policy, present) {
        (PullPolicy::IfNotPresent | PullPolicy::Never, Some(image)) => {
            if may_use(ctx, &reference, &image, &credentials).await {
                let message =
                    format!("Container image {wanted:?} already present on machine and can be accessed by the pod");
                tell(EventKind::Normal, "Pulled", message);
                return Ok(image);
            }
            if policy == PullPolicy::Never {
                return never(format!(
                    "Container image {wanted:?} is present with pull policy of Never but does not have the proper \
                     credentials"
                ));
            }
            pull(ctx, wanted, &reference, credentials, tell).await
        }
        (PullPolicy::Never, None) => {
            never(format!("Container image {wanted:?} is not present with pull policy of Never"))
        }
        (PullPolicy::IfNotPresent, None) | (PullPolicy::Always, _) => {
            pull(ctx, wanted, &reference, credentials, tell).await
        }
    }
}

async fn may_use(ctx: &Context, reference: &str, image: &Image, credentials: &[Credential]) -> bool {
    let shown: Vec<SecretCredential> = credentials.iter().map(|c| c.source.clone()).collect();
    match ctx.pulled.access(reference, image, &shown) {
        Access::Granted => true,
        Access::Verify => false,
        Access::Remember(credential) => {
            if let Err(error) = ctx.pulled.grant(reference, image, Some(&credential)).await {
                tracing::warn!(reference, %error, "who may use an image can't be written down");
            }
            true
        }
    }
}

async fn pull(
    ctx: &Arc<Context>,
    wanted: &str,
    reference: &str,
    credentials: Vec<Credential>,
    tell: &(impl Fn(EventKind, &str, String) + Sync),
) -> Result<Image, StartError> {
    tell(EventKind::Normal, "Pulling", format!("Pulling image {wanted:?}"));
    let asked = Instant::now();
    let (report, pulled) = oneshot::channel();
    let (own, name) = (ctx.clone(), reference.to_owned());
    ctx.scope.spawn(async move { pull_to_the_end(&own, &name, credentials, report).await });
    let pulled = match pulled.await {
        Ok(pulled) => pulled,
        // The agent stops, and this ends with it.
        Err(_) => std::future::pending().await,
    };
    match pulled {
        Ok((image, took)) => {
            let (took, whole, size) = (go_time(took), go_time(asked.elapsed()), image.size_bytes);
            let message = format!(
                "Successfully pulled image {wanted:?} in {took} ({whole} including waiting). Image size: {size} bytes."
            );
            tell(EventKind::Normal, "Pulled", message);
            Ok(image)
        }
        Err(failure) => {
            tell(EventKind::Warning, "Failed", format!("Failed to pull image {wanted:?}: {failure}"));
            tell(EventKind::Warning, "Failed", "Error: ErrImagePull".to_owned());
            Err(StartError::new("ErrImagePull", failure))
        }
    }
}

/// An image, and how long it took.
type Pull = Result<(Image, Duration), String>;

/// What has begun goes on to its end, whether or not somebody still waits for it: who may use the image has to be written
/// down. Nobody needs what waits for its turn and is asked for no more. When the agent stops, the next one finds the mark.
async fn pull_to_the_end(
    ctx: &Context,
    reference: &str,
    credentials: Vec<Credential>,
    mut report: oneshot::Sender<Pull>,
) {
    let pull = async {
        let _turn = tokio::select! {
            () = report.closed() => return,
            turn = ctx.pulls.acquire() => turn.expect("the semaphore is never closed"),
        };
        let begun = Instant::now();
        let pulled = match ctx.pulled.begin(reference).await {
            Ok(()) => pull_with(ctx, reference, credentials).await,
            Err(error) => Err(format!("failed to record image pull intent: {error}")),
        };
        match &pulled {
            Ok(_) => ctx.status_changed.notify_one(),
            Err(_) => ctx.pulled.failed(reference).await,
        }
        // Who waited may have gone.
        drop(report.send(pulled.map(|image| (image, begun.elapsed()))));
    };
    tokio::select! {
        () = ctx.scope.token().cancelled() => {}
        () = pull => {}
    }
}

/// With each credential that fits; with none (but what `registries.yaml` says) where there is none.
async fn pull_with(ctx: &Context, reference: &str, credentials: Vec<Credential>) -> Result<Image, String> {
    let mut tries: Vec<Option<Credential>> = credentials.into_iter().map(Some).collect();
    if tries.is_empty() {
        tries.push(None);
    }
    let mut failure = String::new();
    for credential in tries {
        match ctx.engine.pull(reference, credential.as_ref().map(|c| &c.auth)).await {
            Ok(image) => {
                ctx.pulled.done(reference, &image, credential.map(|c| c.source)).await;
                return Ok(image);
            }
            Err(e) => failure = chain(&e).to_string(),
        }
    }
    Err(failure)
}

/// As Go prints a duration that is rounded to milliseconds: `345ms`, `1.2s`, `2m3.4s`.
fn go_time(took: Duration) -> String {
    let ms = took.as_millis();
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let (minutes, rest) = (ms / 60_000, ms % 60_000);
    let fraction = format!("{:03}", rest % 1000);
    let fraction = fraction.trim_end_matches('0');
    let seconds = rest / 1000;
    let seconds = if fraction.is_empty() { format!("{seconds}s") } else { format!("{seconds}.{fraction}s") };
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, m) => format!("{m}m{seconds}"),
        (h, m) => format!("{h}h{m}m{seconds}"),
    }
}

/// What a pull secret holds for a registry.
struct Credential {
    auth: RegistryAuth,
    source: SecretCredential,
}

/// The credentials in image pull secrets that are for the registry of `reference`, the most specific first.
fn plan_credentials(secrets: &[Arc<Secret>], reference: &str) -> Vec<Credential> {
    let mut found: Vec<(usize, Credential)> = Vec::new();
    for secret in secrets {
        let data = |key: &str| {
            let bytes = &secret.data.as_ref()?.get(key)?.0;
            serde_json::from_slice::<Value>(bytes).ok()
        };
        let entries = match secret.type_.as_deref() {
            Some("kubernetes.io/dockercfg") => data(".dockercfg"),
            _ => data(".dockerconfigjson").map(|mut v| v["auths"].take()),
        };
        for (registry, entry) in entries.as_ref().and_then(Value::as_object).into_iter().flatten() {
            if let Some(length) = registry_matches(registry, reference) {
                found.extend(
                    credentials(entry).map(|auth| (length, Credential { source: source(secret, &auth), auth })),
                );
            }
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, credential)| credential).collect()
}

fn source(secret: &Secret, auth: &RegistryAuth) -> SecretCredential {
    let meta = &secret.metadata;
    SecretCredential {
        uid: meta.uid.clone().unwrap_or_default(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        credential_hash: pulled::hash(auth),
    }
}

/// How specific an entry is that covers an image; `None` where it doesn't.
fn registry_matches(entry: &str, reference: &str) -> Option<usize> {
    let bare = entry.strip_prefix("https://").or_else(|| entry.strip_prefix("http://")).unwrap_or(entry);
    let bare = bare.trim_end_matches('/');
    let bare = ["/v1", "/v2"].iter().find_map(|v| bare.strip_suffix(v)).unwrap_or(bare);
    let bare = match bare {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let (own_host, own_path) = repository(reference).split_once('/')?;
    // `*` stands for one label of the host's name.
    let labels = |host: &str| host.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (want, have) = (labels(host), labels(own_host));
    let host_fits = want.len() == have.len() && want.iter().zip(&have).all(|(w, h)| w == "*" || w == h);
    let path_fits = path.is_empty() || own_path == path || own_path.strip_prefix(path)?.starts_with('/');
    (host_fits && path_fits).then_some(bare.len())
}

fn credentials(entry: &Value) -> Option<RegistryAuth> {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let mut auth =
        RegistryAuth { username: text("username"), password: text("password"), identity_token: text("identitytoken") };
    if let Some(encoded) = entry["auth"].as_str().filter(|a| !a.is_empty()) {
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (username, password) = decoded.split_once(':')?;
        auth.username = username.to_owned();
        auth.password = password.trim_end_matches('\0').to_owned();
    }
    (!auth.username.is_empty() || !auth.identity_token.is_empty()).then_some(auth)
}

/// `secrets` are those that the pod names and that there are.
fn tell_missing(ctx: &Context, pod: &Pod, secrets: &[Arc<Secret>]) {
    let is_there = |name: &str| secrets.iter().any(|secret| secret.metadata.name.as_deref() == Some(name));
    let missing: Vec<&str> = pull_secrets(pod).filter(|name| !is_there(name)).collect();
    if !missing.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            missing.join(", ")
        );
        ctx.event(pod, EventKind::Warning, "FailedToRetrieveImagePullSecret", message);
    }
}

/// The names of the secrets that hold credentials for the images of a pod.
pub(crate) fn pull_secrets(pod: &Pod) -> impl Iterator<Item = &str> {
    pod::spec(pod).image_pull_secrets.iter().flatten().map(|s| s.name.as_str()).filter(|n| !n.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn policies() {
        for (image, policy, expected) in [
            ("busybox", None, PullPolicy::Always),
            ("busybox:latest", None, PullPolicy::Always),
            ("busybox:1.36", None, PullPolicy::IfNotPresent),
            ("localhost:5000/busybox", None, PullPolicy::Always),
            ("localhost:5000/busybox:1", None, PullPolicy::IfNotPresent),
            ("busybox@sha256:00", None, PullPolicy::IfNotPresent),
            ("busybox", Some("Never"), PullPolicy::Never),
            ("busybox:1.36", Some("Always"), PullPolicy::Always),
        ] {
            assert_eq!(pull_policy(image, policy), expected, "{image}");
        }
    }

    #[test]
    fn durations_as_go_writes_them() {
        for (ms, expected) in
            [(7, "7ms"), (999, "999ms"), (1000, "1s"), (1230, "1.23s"), (61_500, "1m1.5s"), (3_600_000, "1h0m0s")]
        {
            assert_eq!(go_time(Duration::from_millis(ms)), expected);
        }
    }

    #[test]
    fn credentials_by_registry() {
        let encoded = base64::engine::general_purpose::STANDARD.encode("bob:p:w");
        let config = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": encoded},
            "registry:5000": {"username": "any", "password": "x"},
            "registry:5000/team": {"username": "team", "password": "x"},
            "*.example.com": {"username": "wild", "password": "x"}}});
        let secret: Secret = serde_json::from_value(json!({"metadata": {}, "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": base64::engine::general_purpose::STANDARD.encode(config.to_string())}}))
        .expect("a Secret");
        let secrets = [Arc::new(secret)];
        for (reference, expected) in [
            ("docker.io/library/busybox:latest", vec!["bob"]),
            ("registry:5000/team/app:1", vec!["team", "any"]),
            ("registry:5000/teammate/app:1", vec!["any"]),
            ("eu.example.com/a@sha256:0", vec!["wild"]),
            ("example.com/a:1", vec![]),
        ] {
            let users: Vec<String> =
                plan_credentials(&secrets, reference).into_iter().map(|c| c.auth.username).collect();
            assert_eq!(users, expected, "{reference}");
        }
        assert_eq!(plan_credentials(&secrets, "docker.io/library/busybox:latest")[0].auth.password, "p:w");
    }
}
