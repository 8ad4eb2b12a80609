//! The one call of the gRPC health checking protocol that probes make (`grpc.health.v1.Health/Check`).

use std::time::Duration;

use crate::grpc::proto::{Fields, Message};
use crate::grpc::{self, UNIMPLEMENTED};

/// Of `HealthCheckResponse.ServingStatus`.
const SERVING: u64 = 1;

pub(crate) async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    let unreachable = || format!("timeout: failed to connect service \"{host}:{port}\" within {}s", timeout.as_secs());
    match tokio::time::timeout(timeout, ask(host, port, service)).await {
        Ok(result) => result,
        Err(_) => Err(unreachable()),
    }
}

async fn ask(host: &str, port: u16, service: &str) -> Result<(), String> {
    let stream = skiff_resolver::dial(host, port).await.map_err(|e| e.to_string())?;
    let request = Message::new().text(1, service);
    let base = format!("http://{host}:{port}");
    let answer = grpc::call(Box::new(stream), &base, "/grpc.health.v1.Health/Check", request).await;
    let answer = answer.map_err(|failure| match failure.code {
        UNIMPLEMENTED => "server doesn't implement the grpc health protocol (grpc.health.v1.Health)".to_owned(),
        _ => format!("service {service:?}: {failure}"),
    })?;
    let name = match Fields::parse(&answer).unwrap_or_default().number(1) {
        SERVING => return Ok(()),
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    };
    Err(format!("service unhealthy (responded with {name:?})"))
}
