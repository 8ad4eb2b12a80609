//! Connections that leave HTTP behind.

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;

use crate::http_transport::HttpTransport;
use crate::{Error, Result};

/// What a server said to a request for an upgrade.
pub enum Upgraded {
    /// With the headers of its answer.
    Switched(Response<()>, TokioIo<hyper::upgrade::Upgraded>),
    Refused(Response<Bytes>),
}

impl HttpTransport {
    /// Asks on a connection of its own; the request names the protocol.
    pub async fn upgrade(&self, request: Request<()>) -> Result<Upgraded> {
        let other = |e: hyper::Error| Error::Transport(e.into());
        let uri: Uri = self.server().parse().map_err(|e| Error::Config(format!("the server is no URL: {e}")))?;
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let mut request = self.prepare(request.map(|()| Empty::<Bytes>::new()))?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        *request.uri_mut() = path.parse().map_err(|e| Error::Config(format!("{path:?} can't be asked for: {e}")))?;
        let host = host.parse().map_err(|_| Error::Config("the server's name can't stand in a header".into()))?;
        request.headers_mut().insert(header::HOST, host);
        let stream = self.connect_http1(uri).await.map_err(|e| Error::Transport(e.into()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(other)?;
        let mut connection = std::pin::pin!(connection.with_upgrades());
        let mut answer = std::pin::pin!(sender.send_request(request));
        let mut ended = false;
        let response = tokio::select! {
            response = &mut answer => response.map_err(other)?,
            // The connection is given up with the answer: that is there then.
            end = &mut connection => {
                end.map_err(other)?;
                ended = true;
                answer.await.map_err(other)?
            }
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (head, body) = response.into_parts();
            let mut collect = std::pin::pin!(body.collect());
            let body = async {
                tokio::select! {
                    body = &mut collect => body,
                    // What has arrived before can still be read.
                    end = &mut connection, if !ended => {
                        end?;
                        collect.await
                    }
                }
            };
            let body = body.await.map_err(other)?;
            return Ok(Upgraded::Refused(Response::from_parts(head, body.to_bytes())));
        }
        let (head, ()) = Response::new(()).into_parts();
        let mut switched = Response::from_parts(head, ());
        *switched.headers_mut() = response.headers().clone();
        let upgraded = hyper::upgrade::on(response);
        if !ended {
            connection.await.map_err(other)?;
        }
        let upgraded = upgraded.await.map_err(other)?;
        Ok(Upgraded::Switched(switched, TokioIo::new(upgraded)))
    }
}
