//! Takes connections, no more at once than there are places: who waits, waits in the kernel's queue.

use std::sync::Arc;
use std::time::Duration;

use skiff_base::Scope;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Serves in the scope until it stops; the end of `serve` gives the place back.
pub(crate) fn take<F>(
    scope: &Scope,
    listener: TcpListener,
    places: usize,
    serve: impl Fn(TcpStream) -> F + Send + 'static,
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
                Ok((stream, _)) => {
                    // Else the end of an exec waits for the acknowledgement of its output, which the other side delays.
                    if let Err(e) = stream.set_nodelay(true) {
                        tracing::debug!(error = %e, "a connection may hold back what is written");
                    }
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
