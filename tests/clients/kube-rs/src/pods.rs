//! Logs, commands and connections.

use anyhow::{Context, Result, ensure};
use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, AttachParams, DeleteParams, LogParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::within;

pub async fn streams(client: &Client, namespace: &str) -> Result<()> {
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let script =
        "mkdir /tmp/www; echo ahoy > /tmp/www/index.html; echo one; echo two; exec httpd -f -p 8080 -h /tmp/www";
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "busybox:1.36", "command": ["sh", "-c", script],
            "readinessProbe": {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1}}]}}))?;
    pods.create(&PostParams::default(), &pod).await?;
    let ready = |pod: Option<&Pod>| {
        let conditions = pod.and_then(|pod| pod.status.as_ref()?.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
    };
    within("ready", await_condition(pods.clone(), "web", ready)).await??;

    ensure!(pods.logs("web", &LogParams { tail_lines: Some(1), ..LogParams::default() }).await? == "two\n");
    let follow = LogParams { follow: true, ..LogParams::default() };
    let mut lines = pods.log_stream("web", &follow).await?.lines();
    ensure!(within("a line", lines.try_next()).await?? == Some("one".to_owned()));
    drop(lines);

    let parameters = AttachParams::default().stdin(true).stdout(true).stderr(true);
    let mut shell =
        pods.exec("web", ["sh", "-c", "read word; echo got $word; echo bad >&2; exit 4"], &parameters).await?;
    let (mut input, mut out, mut err) = (
        shell.stdin().context("an input")?,
        shell.stdout().context("an output")?,
        shell.stderr().context("a place for errors")?,
    );
    let status = shell.take_status().context("a status")?;
    input.write_all(b"word\n").await?;
    let (mut said, mut wrong) = (String::new(), String::new());
    within("the output", out.read_to_string(&mut said)).await??;
    within("the errors", err.read_to_string(&mut wrong)).await??;
    ensure!((said.as_str(), wrong.as_str()) == ("got word\n", "bad\n"), "{said:?} {wrong:?}");
    let ended = within("the end", status).await?.context("it says how it ended")?;
    let causes = ended.details.as_ref().and_then(|details| details.causes.as_ref()).into_iter().flatten();
    let codes: Vec<_> = causes.filter(|cause| cause.reason.as_deref() == Some("ExitCode")).collect();
    ensure!(codes.len() == 1 && codes[0].message.as_deref() == Some("4"), "{ended:?}");

    let mut forwarded = pods.portforward("web", &[8080]).await?;
    let mut connection = forwarded.take_stream(8080).context("a connection")?;
    connection.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut answer = Vec::new();
    within("an answer", connection.read_to_end(&mut answer)).await??;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    ensure!(answer.starts_with("HTTP/1.") && answer.ends_with("ahoy\n"), "{answer}");
    drop(connection);
    forwarded.abort();

    let uid = pods.get("web").await?.metadata.uid.context("a uid")?;
    pods.delete("web", &DeleteParams::default()).await?.map_left(|_| ());
    within("gone", await_condition(pods, "web", conditions::is_deleted(&uid))).await??;
    Ok(())
}
