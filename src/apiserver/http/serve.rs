//! One HTTP request: its limits, its identity, its body; then the path of all requests.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use skiff_api::ApiError;
use tracing::Instrument;

use super::bearer::{self, Shown};
use super::{compress, pretty};
use crate::auth::{API_AUDIENCE, User, impersonate};
use crate::call::{Call, is_watch};
use crate::flow::{self, Permit};
use crate::proxy::forward::upgrade_of;
use crate::proxy::wire::{Peer, Wire, is_passed_on};
use crate::reply::{Payload, Reply};
use crate::server::Server;
use crate::storage::MAX_OBJECT;

const REQUEST_LIMIT: Duration = Duration::from_secs(60);
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// Of the body of a refused request.
const PASSED_OVER: usize = 64 << 20;
const BODY_LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn serve(
    server: Arc<Server>,
    certificate: Option<Arc<User>>,
    mut request: Request<Incoming>,
) -> Response<Payload> {
    let audit_id = name_request(request.headers_mut());
    let head = request.method() == Method::HEAD;
    let encodings = request.headers().get(http::header::ACCEPT_ENCODING).cloned();
    let pretty = pretty::is_wanted(&request);
    let multiplexed = request.version() == http::Version::HTTP_2;
    let mut unread = None;
    let mut reply = match answer(&server, certificate, request, &mut unread).await {
        Ok(reply) => reply,
        Err(error) => error.into(),
    };
    if pretty {
        reply = pretty::pretty(reply).await;
    }
    if let Some(body) = unread.filter(|body| multiplexed && !body.is_end_stream()) {
        pass_over(body).await;
    }
    let mut reply = compress::compress(reply, encodings.as_ref());
    if head {
        reply.body = Payload::Whole(Bytes::new());
    }
    let mut response = Response::new(reply.body);
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    let cache = http::HeaderValue::from_static("no-cache, private");
    response.headers_mut().entry(http::header::CACHE_CONTROL).or_insert(cache);
    response.headers_mut().insert(AUDIT_ID, audit_id);
    response
}

/// The request's name, which the client may have given it.
fn name_request(headers: &mut HeaderMap) -> HeaderValue {
    let given = headers.get(AUDIT_ID).filter(|id| !id.is_empty()).cloned();
    let id = given.unwrap_or_else(|| {
        HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).expect("digits and dashes are a header's value")
    });
    headers.insert(AUDIT_ID, id.clone());
    id
}

async fn answer(
    server: &Arc<Server>,
    certificate: Option<Arc<User>>,
    mut request: Request<Incoming>,
    unread: &mut Option<Incoming>,
) -> Result<Reply, ApiError> {
    let path = request.uri().path();
    let aggregated = server.aggregation.takes(path);
    let passed_on = is_passed_on(path) || aggregated;
    // What takes a seat until its answer begins.
    let begins = aggregated || is_watch(request.method(), request.uri());
    let long = passed_on || begins || is_log(request.method(), request.uri());
    let taken_over = passed_on || (long && upgrade_of(request.headers()).is_some());
    let upgrade = taken_over.then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let shown = bearer::take(&mut parts.headers);
    let source = parts.extensions.get::<Peer>().map(|peer| peer.0);
    let (user, impersonator) = match who(server, certificate, &shown, &parts.headers) {
        Ok(known) => known,
        Err((user, error)) => {
            *unread = Some(body);
            let mut call = Call::new(parts.method, &parts.uri, parts.headers, Bytes::new(), user);
            call.source = source;
            return Ok(server.refuse(&call, error.into()).await);
        }
    };
    let mut call = Call::new(parts.method, &parts.uri, parts.headers, Bytes::new(), user);
    (call.source, call.impersonator) = (source, impersonator);
    match upgrade {
        Some(upgrade) => call.wire = Wire::new(upgrade, body, source, parts.uri.query().unwrap_or_default()),
        None => *unread = Some(body),
    }
    if long && !begins {
        return carry_out(server, call, unread, None, true).await;
    }
    let class = server.flow.classify(&call);
    let reply = match server.flow.admit(&class).await {
        Ok(permit) => carry_out(server, call, unread, permit, begins).await,
        Err(flow::Refused) => Ok(server.refuse(&call, flow::too_many()).await),
    };
    let mut reply = reply.unwrap_or_else(Reply::from);
    class.mark(&mut reply.headers);
    Ok(reply)
}

/// A body that is not read stays in `unread`. What is long (watches, logs, what is passed on) has no limit of time, and
/// its permit is given back when its answer begins.
async fn carry_out(
    server: &Arc<Server>,
    mut call: Call,
    unread: &mut Option<Incoming>,
    permit: Option<Permit>,
    long: bool,
) -> Result<Reply, ApiError> {
    // Nothing that strangers may ask for has a body: theirs takes no memory.
    if let Some(body) = unread.as_mut().filter(|_| !call.user.is_anonymous()) {
        call.body = read_body(&call.headers, body).await?;
        *unread = None;
    }
    let span = tracing::debug_span!("request", method = %call.method, path = call.path, user = call.user.name);
    if long {
        let _permit = permit;
        return Ok(server.handle(&call).instrument(span).await);
    }
    let timed_out = |_| {
        ApiError::new(
            504,
            "Timeout",
            "Timeout: request did not complete within requested timeout - context deadline exceeded",
        )
    };
    if matches!(call.method, Method::GET | Method::HEAD) {
        let _permit = permit;
        return tokio::time::timeout(REQUEST_LIMIT, server.handle(&call).instrument(span)).await.map_err(timed_out);
    }
    // A change goes on to its end though its client goes away: half-way its commit may be under way, and what was
    // reserved for it (the address of a Service) must be kept or given back by what came of that.
    let working = server.clone();
    let change = async move {
        let _permit = permit;
        working.handle(&call).await
    };
    let change = server.scope.spawn(change.instrument(span));
    match tokio::time::timeout(REQUEST_LIMIT, change).await.map_err(timed_out)? {
        Ok(reply) => Ok(reply),
        Err(error) => {
            tracing::error!(%error, "a request panicked");
            Err(ApiError::internal("the request could not be carried out: see the server's log"))
        }
    }
}

fn is_log(method: &Method, uri: &http::Uri) -> bool {
    method == Method::GET && uri.path().ends_with("/log")
}

/// The user whom the request is answered for, and who acts as that one. The error comes with whom it is about.
#[expect(clippy::type_complexity, reason = "used once, here")]
fn who(
    server: &Server,
    certificate: Option<Arc<User>>,
    shown: &Shown,
    headers: &HeaderMap,
) -> Result<(Arc<User>, Option<Arc<User>>), (Arc<User>, ApiError)> {
    let user = identify(server, certificate, shown).map_err(|error| (Arc::new(User::default()), error))?;
    match impersonate(&server.authorizer, &user, headers) {
        Ok(None) => Ok((user, None)),
        Ok(Some(other)) => Ok((Arc::new(other), Some(user))),
        Err(error) => Err((user, error)),
    }
}

fn identify(server: &Server, certificate: Option<Arc<User>>, shown: &Shown) -> Result<Arc<User>, ApiError> {
    if let Some(user) = certificate {
        return Ok(user);
    }
    let token = match shown {
        Shown::Nothing => return Ok(Arc::new(User::anonymous())),
        Shown::Token(token) => token,
        Shown::Nonsense(why) => {
            tracing::debug!(why, "what is shown is no token");
            return Err(ApiError::unauthorized());
        }
    };
    match server.authenticate(token, &[API_AUDIENCE]) {
        Ok(known) => Ok(Arc::new(known.user)),
        Err(refusal) => {
            tracing::debug!(%refusal, "a token is not believed");
            Err(ApiError::unauthorized())
        }
    }
}

/// Reads what nobody wants, within limits. Over HTTP/2 an answer that comes before the request has ended ends both, and
/// curl, for one, then tells of a broken stream and not of the answer.
async fn pass_over(mut body: Incoming) {
    let reading = async {
        let mut left = PASSED_OVER;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            let Some(rest) = left.checked_sub(length) else { return };
            left = rest;
        }
    };
    // Either way there is nothing more to do.
    drop(tokio::time::timeout(BODY_LIMIT, reading).await);
}

async fn read_body(headers: &HeaderMap, body: &mut Incoming) -> Result<Bytes, ApiError> {
    let too_large =
        || ApiError::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {MAX_OBJECT}"));
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_OBJECT) {
        return Err(too_large());
    }
    let read = async {
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| ApiError::bad_request(format!("error reading the body: {e}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if all.len() + first.len() + data.len() > MAX_OBJECT {
                return Err(too_large());
            }
            // Most bodies come in one piece, which then need not be copied.
            if first.is_empty() && all.is_empty() {
                first = data;
            } else {
                all.extend_from_slice(&std::mem::take(&mut first));
                all.extend_from_slice(&data);
            }
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    };
    tokio::time::timeout(BODY_LIMIT, read)
        .await
        .map_err(|_| ApiError::new(408, "Timeout", "the body of the request did not arrive in time"))?
}
