//! Takes connections, no more at once than there are places: who waits, waits in the kernel's queue.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use skiff_base::Scope;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// For the head of a request, the idle time before it included.
const HEADER_LIMIT: Duration = Duration::from_secs(180);
const PING_AFTER: Duration = Duration::from_secs(30);

/// A connection, whatever it goes over: one copy of the protocols for all.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// What answers.
pub(crate) type Handler = Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// Where connections come from.
pub(crate) trait Listener: Send + Sync + 'static {
    type Stream: Send;
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = Self::accept(self).await?;
        // Else the end of an exec waits for the acknowledgement of its output, which the other side delays.
        if let Err(e) = stream.set_nodelay(true) {
            tracing::debug!(error = %e, "a connection may hold back what is written");
        }
        Ok(stream)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    async fn accept(&self) -> io::Result<UnixStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

/// Speaks HTTP, of whatever version the other side begins with, until the connection ends; why it ended early.
pub(crate) async fn speak(stream: Box<dyn Stream>, handler: Handler) -> Result<(), String> {
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING_AFTER);
    builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await.map_err(|e| e.to_string())
}

/// Serves in the scope until it stops; the end of `serve` gives the place back.
pub(crate) fn take<L: Listener, F>(
    scope: &Scope,
    listener: L,
    places: usize,
    serve: impl Fn(L::Stream) -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let (own, stop) = (scope.clone(), scope.token().clone());
    let places = Arc::new(Semaphore::new(places));
    scope.spawn(async move {
        loop {
            let next = async {
                let place = places.clone().acquire_owned().await;
                (place, listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = stop.cancelled() => return,
                next = next => next,
            };
            match accepted {
                Ok(stream) => {
                    let (served, stop) = (serve(stream), stop.clone());
                    own.spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = served => {}
                        }
                        drop(place);
                    });
                }
                Err(e) => {
                    // Out of descriptors, mostly: let others give some back.
                    tracing::warn!(error = %e, "a connection can't be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn the_last_one_waits_for_a_place() {
        let scope = Scope::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (begun, mut begins) = mpsc::channel(8);
        take(&scope, listener, 2, move |mut stream| {
            let begun = begun.clone();
            async move {
                assert!(stream.nodelay().expect("an option"), "what is written waits for nothing");
                begun.send(stream.peer_addr().expect("a peer")).await.expect("listened to");
                drop(stream.read(&mut [0]).await);
            }
        });
        let first = TcpStream::connect(address).await.expect("connected");
        let second = TcpStream::connect(address).await.expect("connected");
        let third = TcpStream::connect(address).await.expect("connected");
        let served = [begins.recv().await, begins.recv().await].map(|peer| peer.expect("served"));
        assert!(!served.contains(&third.local_addr().expect("bound")));
        assert!(begins.try_recv().is_err(), "there is no third place");
        drop(first);
        assert_eq!(begins.recv().await, Some(third.local_addr().expect("bound")));
        drop(second);
        scope.stop().await;
    }
}
