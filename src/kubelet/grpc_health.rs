//! The one call of the gRPC health checking protocol that probes make (`grpc.health.v1.Health/Check`).

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::http_get;

/// Of `HealthCheckResponse.ServingStatus`.
const SERVING: u8 = 1;

pub(crate) async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    let unreachable = || format!("timeout: failed to connect service \"{host}:{port}\" within {}s", timeout.as_secs());
    match tokio::time::timeout(timeout, ask(host, port, service)).await {
        Ok(result) => result,
        Err(_) => Err(unreachable()),
    }
}

async fn ask(host: &str, port: u16, service: &str) -> Result<(), String> {
    let stream = http_get::connect(host, port).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
    let request = Request::post(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::USER_AGENT, "kube-probe/1.36")
        .header(header::TE, "trailers")
        .body(Full::new(message(service)))
        .map_err(|e| e.to_string())?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = |headers: &http::HeaderMap| {
            let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
            (text("grpc-status"), text("grpc-message"))
        };
        let (mut code, mut why) = status(response.headers());
        let body = response.into_body().collect().await.map_err(|e| e.to_string())?;
        if let Some(trailers) = body.trailers() {
            (code, why) = status(trailers);
        }
        if code != "0" {
            return Err(match code.as_str() {
                "12" => "server doesn't implement the grpc health protocol (grpc.health.v1.Health)".to_owned(),
                _ => format!("service {service:?}: rpc error: code = {code} desc = {why}"),
            });
        }
        match serving_status(&body.to_bytes()) {
            Some(SERVING) => Ok(()),
            status => {
                let name = match status {
                    Some(2) => "NOT_SERVING",
                    Some(3) => "SERVICE_UNKNOWN",
                    _ => "UNKNOWN",
                };
                Err(format!("service unhealthy (responded with {name:?})"))
            }
        }
    };
    tokio::pin!(talk, connection);
    tokio::select! {
        result = &mut talk => result,
        ended = &mut connection => match ended {
            Ok(()) => talk.await,
            Err(e) => Err(e.to_string()),
        },
    }
}

/// `HealthCheckRequest{service = 1}` in a frame.
fn message(service: &str) -> Bytes {
    let mut body = BytesMut::new();
    if !service.is_empty() {
        body.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            body.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        body.put_u8(length as u8);
        body.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(5 + body.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(body.len()).unwrap_or(0));
    frame.put(body);
    frame.freeze()
}

/// `status = 1` of a framed `HealthCheckResponse`; absent is 0 (UNKNOWN).
fn serving_status(frame: &[u8]) -> Option<u8> {
    match frame.get(5..)? {
        [0x08, status, ..] => Some(*status),
        _ => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(&message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(serving_status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(serving_status(&[]), None);
    }
}
