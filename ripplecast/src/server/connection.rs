//! One accepted socket: serves HTTP/1.1 until the socket is handed off to a WebSocket or an event stream.

use std::{
    convert::Infallible,
    future::{pending, poll_fn, ready},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version, header};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tower_service::Service as _;

use super::{
    ConnectionPlace,
    goodbyes::Goodbye,
    pace::{Pace, Paced, PacedBody, PacedSocket, PlacedBody},
    tls::Tls,
};
use crate::{
    engine::{Admissions, Permit},
    hand_off::{HandOff, HandedOff, OwnPace},
    headers::{Authority, OverTls, TrustedProxies},
    log::{cut, limited},
    response::plain,
};

/// The stage of the server's life, as its connections see it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerStage {
    /// Accepts requests.
    Serving,
    /// Finishes requests in flight and accepts no new ones.
    Draining,
    /// Drops whatever is left.
    Aborting,
}

/// Limits of each connection and its requests.
pub(super) struct Limits {
    pub(super) body: Pace,
    pub(super) write: Pace,
    pub(super) trusted: TrustedProxies,
    /// Requests in progress through trusted proxies, by the client's address.
    pub(super) forwarded: Arc<Admissions>,
}

impl Limits {
    /// Counts a request through a trusted proxy for the forwarded client: the socket belongs to the proxy and
    /// counts for no address.
    #[expect(
        clippy::result_large_err,
        reason = "the response goes straight to the client; a box would be unboxed at once"
    )]
    fn admit(&self, peer: SocketAddr, headers: &HeaderMap) -> Result<Option<Permit>, Response> {
        if !self.trusted.contains(peer.ip()) {
            return Ok(None);
        }
        let client = self.trusted.peer(Some(peer.ip()), headers);
        let Some(address) = client.addr.filter(|_| client.is_forwarded) else { return Ok(None) };
        self.forwarded.admit(Some(address)).map(Some).map_err(|_| {
            limited!(
                WARN,
                %address,
                "too many requests in progress from one address behind a proxy; further ones are rejected \
                 (max_http_connections_per_address)"
            );
            plain(
                429,
                "Too many requests from your address are in progress; try again when some have finished.\n",
            )
        })
    }
}

/// One accepted socket with everything that serving it needs.
pub(super) struct HttpConnection<S = TcpStream> {
    /// The socket, or the TLS stream over it.
    pub(super) stream: S,
    pub(super) peer: SocketAddr,
    pub(super) router: Router,
    /// If the sender is dropped, nobody is waiting for the connection any more.
    pub(super) stage: watch::Receiver<ServerStage>,
    /// Released when hyper lets go of the socket.
    pub(super) place: ConnectionPlace,
    pub(super) limits: Arc<Limits>,
}

impl HttpConnection {
    /// Serves requests over the raw socket. A hand-off to a WebSocket or an event stream ends
    /// this task.
    pub(super) async fn run_plain(self, http: http1::Builder) {
        let Some(Released { socket, rest, handed_off }) = self.serve(http, Some(HandOff::default())).await
        else {
            return;
        };
        match socket.into_std() {
            Ok(socket) => handed_off.pending.begin(socket, rest, handed_off.preface),
            Err(error) => limited!(WARN, %error, "can't hand off the socket of a connection"),
        }
    }

    /// Performs the TLS handshake, here rather than in the accept loop, and then serves requests over it.
    pub(super) async fn run_tls(self, tls: Tls, goodbye: Goodbye, limit: Duration, http: http1::Builder) {
        let Self { stream, peer, router, mut stage, place, limits } = self;
        let shaken = tokio::select! {
            shaken = timeout(limit, tls.accept(stream, goodbye)) => shaken,
            _ = stage.wait_for(|stage| *stage != ServerStage::Serving) => return,
        };
        match shaken {
            Ok(Ok(stream)) => {
                let connection = HttpConnection { stream, peer, router, stage, place, limits };
                connection.serve(http, None).await;
            }
            Ok(Err(error)) => limited!(DEBUG, %peer, error = %cut(error), "a TLS handshake failed"),
            Err(_) => limited!(DEBUG, %peer, "a TLS handshake took too long"),
        }
    }
}

impl<S: PacedSocket> HttpConnection<S> {
    /// Serves requests until the peer, a limit, an upgrade or the server ends the connection. If an endpoint
    /// has asked `hand_off` for the socket, returns the socket and its new owner.
    async fn serve(self, http: http1::Builder, hand_off: Option<HandOff>) -> Option<Released<S>> {
        let Self { stream, peer, router, mut stage, place, limits } = self;
        let _place = place;
        let free = Arc::new(AtomicBool::new(false));
        let stream = Paced::new(stream, limits.write, Arc::clone(&free));
        let notes = Notes { began: AtomicBool::new(false), free, hand_off, handed_off: Mutex::new(None) };
        let requests = Requests { router, peer, limits: &limits, notes: &notes };
        let mut connection = http.serve_connection(TokioIo::new(stream), requests).with_upgrades();
        // The connection is polled first, so that a request that arrived before the shutdown is served.
        let ended = tokio::select! {
            biased;
            ended = notes.serve(&mut connection) => Some(ended),
            _ = stage.wait_for(|stage| *stage != ServerStage::Serving) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            // No complete request head has arrived, and hyper would wait for the rest of it.
            None if !notes.began.load(Ordering::Relaxed) => return None,
            None => {
                Pin::new(&mut connection).graceful_shutdown();
                tokio::select! {
                    biased;
                    ended = notes.serve(&mut connection) => ended,
                    _ = stage.wait_for(|stage| *stage == ServerStage::Aborting) => return None,
                }
            }
        };
        match ended {
            Ended::ByItself(Ok(())) => None,
            Ended::ByItself(Err(error)) => {
                limited!(DEBUG, %peer, error = %cut(error), "connection ended");
                None
            }
            Ended::HandedOff(handed_off) => connection.into_parts().map(|parts| Released {
                socket: parts.io.into_inner().into_inner(),
                rest: parts.read_buf,
                handed_off,
            }),
        }
    }
}

/// The state of one connection while hyper serves it.
struct Notes {
    /// Set at the first request. hyper doesn't distinguish a connection that is serving one from one with
    /// half a head.
    began: AtomicBool,
    /// Shared with the socket; set while its peer need not keep [pace](Paced).
    free: Arc<AtomicBool>,
    /// Lets endpoints ask for the socket; `None` over TLS.
    hand_off: Option<HandOff>,
    /// The endpoint that asked. hyper never answers its request.
    handed_off: Mutex<Option<HandedOff>>,
}

/// A socket that hyper has released.
struct Released<S> {
    socket: S,
    /// Bytes read after the request.
    rest: Bytes,
    /// The new owner.
    handed_off: HandedOff,
}

enum Ended {
    /// The connection was closed, upgraded or failed.
    ByItself(hyper::Result<()>),
    /// The socket is handed off to a shard.
    HandedOff(HandedOff),
}

impl Notes {
    /// Serves requests until hyper's part ends.
    async fn serve(&self, connection: &mut (impl Future<Output = hyper::Result<()>> + Unpin)) -> Ended {
        poll_fn(|cx| match Pin::new(&mut *connection).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Ended::ByItself(ended)),
            Poll::Pending => self
                .handed_off
                .lock()
                .take()
                .map_or(Poll::Pending, |handed_off| Poll::Ready(Ended::HandedOff(handed_off))),
        })
        .await
    }
}

/// The application as a hyper service for one connection.
struct Requests<'a> {
    router: Router,
    /// For axum's `ConnectInfo`.
    peer: SocketAddr,
    limits: &'a Limits,
    notes: &'a Notes,
}

impl<'a> hyper::service::Service<Request<Incoming>> for Requests<'a> {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send + 'a>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.notes.began.store(true, Ordering::Relaxed);
        if let Err(bad) = Authority::check(request.version(), request.uri(), request.headers()) {
            return Box::pin(ready(Ok(bad.into())));
        }
        self.notes.free.store(false, Ordering::Relaxed);
        let place = match self.limits.admit(self.peer, request.headers()) {
            Ok(place) => place,
            Err(refusal) => return Box::pin(ready(Ok(refusal))),
        };
        request.extensions_mut().insert(ConnectInfo(self.peer));
        if self.notes.hand_off.is_none() {
            request.extensions_mut().insert(OverTls);
        }
        let hand_off = self.notes.hand_off.as_ref().filter(|_| request.version() == Version::HTTP_11);
        if let Some(hand_off) = hand_off {
            request.extensions_mut().insert(hand_off.clone());
        }
        let mut late = None;
        let request = request.map(|body| {
            if body.is_end_stream() {
                return Body::empty();
            }
            let late = late.insert(Arc::new(AtomicBool::new(false)));
            Body::new(PacedBody::new(body, self.limits.body, Arc::clone(late)))
        });
        // Cloning only increments a count; tower's `call` needs its own router.
        let answer = self.router.clone().call(request);
        let (notes, peer) = (self.notes, self.peer);
        Box::pin(async move {
            let mut response = answer.await?;
            if late.is_some_and(|late| late.load(Ordering::Relaxed)) {
                limited!(DEBUG, %peer, "the body of a request arrived too slowly");
                return Ok(too_slow());
            }
            if response.status() == StatusCode::SWITCHING_PROTOCOLS
                || response.extensions().get::<OwnPace>().is_some()
            {
                notes.free.store(true, Ordering::Relaxed);
            }
            if let Some(hand_off) = hand_off {
                let handed_off = poll_fn(|cx| Poll::Ready(hand_off.grant(&mut response, cx))).await;
                if handed_off.is_some() {
                    *notes.handed_off.lock() = handed_off;
                    return pending().await; // the connection leaves hyper before it writes anything
                }
            }
            Ok(match place {
                Some(place) => response.map(|body| Body::new(PlacedBody::new(body, place))),
                None => response,
            })
        })
    }
}

/// Returns the response to a request whose body arrived too slowly, whatever the application answered.
fn too_slow() -> Response {
    let mut response = plain(408, "The request body arrived too slowly.\n");
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
