//! Serves an axum application: axum's own server, with the shutdown that open connections need.

use std::{
    future::{Future, IntoFuture as _},
    net::SocketAddr,
    pin::pin,
    time::Duration,
};

use axum::Router;
use tokio::{net::TcpListener, sync::oneshot, time::timeout};

use crate::{Hub, Result, engine::tune, shutdown_signal};

/// Time for requests in flight and the hub to finish once shutdown has begun. It stays below the 10 s that
/// supervisors commonly allow before they kill a process.
const DRAIN_LIMIT: Duration = Duration::from_millis(9_000);

/// Serves an axum router until Ctrl-C or SIGTERM, and shuts the hub down. This is `axum::serve` with what
/// the endpoints of a hub need:
///
/// - The hub learns the addresses of clients (`into_make_service_with_connect_info`), so its limits per
///   address apply.
/// - After the signal, the hub closes every WebSocket with 1001 and ends every event stream, and requests in
///   flight may finish. `axum::serve` alone waits for open event streams without a limit.
/// - This returns within 10 s, even if a request does not finish. A second signal ends the process at once.
///
/// It needs no feature of the crate. [`App::run`](crate::App::run) has its own accept loop, which also limits slow clients.
///
/// ```no_run
/// # async fn example(router: axum::Router) -> ripplecast::Result<()> {
/// use ripplecast::{Hub, ws};
/// use tokio::net::TcpListener;
///
/// let hub = Hub::builder().build()?;
/// let router = router.route("/chat", hub.ws(ws::handlers().on_open(async |conn| conn.join("chat"))));
/// ripplecast::serve(TcpListener::bind("127.0.0.1:8080").await?, router, &hub).await
/// # }
/// ```
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) when the signals can't be watched.
pub async fn serve(listener: TcpListener, router: Router, hub: &Hub) -> Result<()> {
    let signal = shutdown_signal()?;
    serve_with_shutdown(listener, router, hub, signal).await
}

/// Serves as [`serve`] does, until `shutdown` completes instead of a signal. Dropping the future stops
/// accepting; open connections belong to the hub and to axum's tasks, and stay open until [`Hub::shutdown`].
///
/// ```no_run
/// # async fn example(listener: tokio::net::TcpListener, router: axum::Router, hub: ripplecast::Hub) -> ripplecast::Result<()> {
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let shutdown = async { drop(stopped.await) };
/// ripplecast::serve_with_shutdown(listener, router, &hub, shutdown).await
/// # }
/// ```
///
/// # Errors
/// None at present: errors while accepting are logged by axum and do not stop it.
pub async fn serve_with_shutdown(
    listener: TcpListener,
    router: Router,
    hub: &Hub,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    serve_within(DRAIN_LIMIT, listener, router, hub, shutdown).await
}

/// Serves until `shutdown` completes and everything has ended, or `limit` after that.
async fn serve_within(
    limit: Duration,
    listener: TcpListener,
    router: Router,
    hub: &Hub,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    tune(&listener);
    let (stop, stopped) = oneshot::channel::<()>();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let serving = axum::serve(listener, service).with_graceful_shutdown(async { drop(stopped.await) });
    let mut serving = pin!(serving.into_future());
    tokio::select! {
        ended = &mut serving => return Ok(ended?),
        () = shutdown => {}
    }
    let _ = stop.send(());
    let all = async { tokio::join!(serving, hub.shutdown()).0 };
    match timeout(limit, all).await {
        Ok(ended) => Ok(ended?),
        Err(_) => {
            tracing::warn!("shutdown took too long; some requests have not finished");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use axum::routing::get;

    use super::*;

    #[tokio::test]
    async fn a_request_that_never_finishes_does_not_hold_up_the_shutdown() {
        let hub = Hub::builder().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (begun, mut beginning) = tokio::sync::mpsc::unbounded_channel();
        let router = Router::new().route(
            "/",
            get(move || {
                begun.send(()).unwrap();
                std::future::pending::<()>()
            }),
        );
        let mut client = std::net::TcpStream::connect(addr).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let shutdown = async { beginning.recv().await.unwrap() };
        let limit = Duration::from_millis(100);
        let served = serve_within(limit, listener, router, &hub, shutdown);
        timeout(Duration::from_secs(60), served).await.expect("the server did not stop").unwrap();
    }
}
