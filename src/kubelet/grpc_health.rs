//! The one call of the gRPC health checking protocol that probes make (`grpc.health.v1.Health/Check`).

use std::time::Duration;

use jiff::SignedDuration;
use skiff_base::Backoff;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::backoff::go_duration;
use crate::grpc::proto::{Fields, Message};
use crate::grpc::{self, DEADLINE_EXCEEDED, UNIMPLEMENTED};
use crate::http_get;

/// Of `HealthCheckResponse.ServingStatus`.
const SERVING: u64 = 1;
/// Waits between tries to connect.
const FIRST_TRY: Duration = Duration::from_millis(20);
const LAST_TRY: Duration = Duration::from_secs(1);

/// The error is in upstream's words.
pub(crate) async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    let until = Instant::now() + timeout;
    let (address, limit) = (http_get::authority(host, port), SignedDuration::try_from(timeout).unwrap_or_default());
    let limit = go_duration(limit);
    let late = |_| format!("timeout: failed to connect service {address:?} within {limit}: context deadline exceeded");
    let stream = timeout_at(until, connect(host, port)).await.map_err(late)?;
    let slow = |_| Err(format!("timeout: health rpc did not complete within {limit}"));
    timeout_at(until, ask(stream, &address, service, &limit)).await.unwrap_or_else(slow)
}

/// Who does not listen may do so in a moment.
async fn connect(host: &str, port: u16) -> TcpStream {
    let mut backoff = Backoff::new(FIRST_TRY, LAST_TRY);
    loop {
        if let Ok(stream) = skiff_resolver::dial(host, port).await {
            return stream;
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

async fn ask(stream: TcpStream, address: &str, service: &str, limit: &str) -> Result<(), String> {
    let request = Message::new().text(1, service);
    let base = format!("http://{address}");
    let answer = grpc::call(Box::new(stream), &base, "/grpc.health.v1.Health/Check", request).await;
    let answer = answer.map_err(|failure| match failure.code {
        UNIMPLEMENTED => {
            let why = failure.message;
            format!("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {why}")
        }
        DEADLINE_EXCEEDED => format!("timeout: health rpc did not complete within {limit}"),
        _ => format!("error: health rpc probe failed: {failure}"),
    })?;
    let name = match Fields::parse(&answer).unwrap_or_default().number(1) {
        SERVING => return Ok(()),
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    };
    Err(format!("service unhealthy (responded with {name:?})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_is_asked_again_until_time_is_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        // Who accepts and says nothing.
        let limit = Duration::from_secs(1);
        let error = check("127.0.0.1", port, "", limit).await.expect_err("silence");
        assert_eq!(error, "timeout: health rpc did not complete within 1s");
        drop(listener);
        let error = check("127.0.0.1", port, "", limit).await.expect_err("nobody");
        let expect =
            format!("timeout: failed to connect service \"127.0.0.1:{port}\" within 1s: context deadline exceeded");
        assert_eq!(error, expect);
    }
}
