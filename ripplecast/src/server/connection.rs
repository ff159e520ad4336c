//! One accepted socket: HTTP/1.1 on it, until a WebSocket or an event stream takes it away.

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
    OverTls, Place,
    pace::{Pace, Paced, PacedBody, PlacedBody, Socket},
    tls::{Goodbye, Tls},
};
use crate::{
    engine::{Admissions, Permit},
    hand_off::{OwnPace, Taken, Takeover},
    headers::{Authority, TrustedProxies},
    log::{cut, limited},
    response::plain,
};

/// What the connections are told, and how far the server has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Requests are taken.
    Serving,
    /// Requests in flight finish, and nothing else begins.
    Draining,
    /// Whatever is left ends now.
    Aborting,
}

/// What is asked of each connection and its requests.
pub(super) struct Limits {
    /// How a request's body must come.
    pub(super) body: Pace,
    /// How a response must be taken.
    pub(super) write: Pace,
    /// Proxies, whose clients are many.
    pub(super) trusted: TrustedProxies,
    /// Requests in progress that trusted proxies forward, by the address of the client.
    pub(super) forwarded: Arc<Admissions>,
}

impl Limits {
    /// Counts a request that a trusted proxy forwards, for its client: its socket is the proxy's, and counts for no
    /// address.
    #[expect(
        clippy::result_large_err,
        reason = "the response goes straight to the client; a box would be unpacked at once"
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
                "too many requests of one address are in progress behind a proxy; more are refused \
                 (max_http_connections_per_address)"
            );
            plain(429, "Too many requests from your address are in progress; try again when some are done.\n")
        })
    }
}

/// One accepted socket and what serving it takes.
pub(super) struct Connection<S = TcpStream> {
    /// The socket, or what is spoken over it.
    pub(super) stream: S,
    /// Who is at the other end.
    pub(super) peer: SocketAddr,
    /// The application.
    pub(super) router: Router,
    /// Tells when to finish. The sender going away means that nobody waits any more.
    pub(super) stage: watch::Receiver<Stage>,
    /// Given back when hyper lets the socket go.
    pub(super) place: Place,
    /// What is asked of it.
    pub(super) limits: Arc<Limits>,
}

impl Connection {
    /// Serves requests over the bare socket. A WebSocket or an event stream takes the socket along, and leaves nothing here.
    pub(super) async fn run_plain(self, http: http1::Builder) {
        let Some(Freed { socket, rest, taken }) = self.serve(http, Some(Takeover::default())).await else {
            return;
        };
        match socket.into_std() {
            Ok(socket) => taken.accepted.begin(socket, rest, taken.preface),
            Err(error) => limited!(WARN, %error, "the socket of a connection could not be taken over"),
        }
    }

    /// Does the TLS handshake, here and not in the accept loop, and then serves requests inside.
    pub(super) async fn run_tls(self, tls: Tls, goodbye: Goodbye, limit: Duration, http: http1::Builder) {
        let Self { stream, peer, router, mut stage, place, limits } = self;
        let shaken = tokio::select! {
            shaken = timeout(limit, tls.accept(stream, goodbye)) => shaken,
            _ = stage.wait_for(|stage| *stage != Stage::Serving) => return,
        };
        match shaken {
            Ok(Ok(stream)) => {
                let connection = Connection { stream, peer, router, stage, place, limits };
                connection.serve(http, None).await;
            }
            Ok(Err(error)) => limited!(DEBUG, %peer, error = %cut(error), "a TLS handshake failed"),
            Err(_) => limited!(DEBUG, %peer, "a TLS handshake took too long"),
        }
    }
}

impl<S: Socket> Connection<S> {
    /// Serves requests until the peer, a limit, an upgrade or the server ends it, or until somebody has asked `takeover`
    /// for the socket, which is then returned with what is to be done with it.
    async fn serve(self, http: http1::Builder, takeover: Option<Takeover>) -> Option<Freed<S>> {
        let Self { stream, peer, router, mut stage, place, limits } = self;
        let _place = place;
        let free = Arc::new(AtomicBool::new(false));
        let stream = Paced::new(stream, limits.write, Arc::clone(&free));
        let notes = Notes { began: AtomicBool::new(false), free, takeover, taken: Mutex::new(None) };
        let requests = Requests { router, peer, limits: &limits, notes: &notes };
        let mut connection = http.serve_connection(TokioIo::new(stream), requests).with_upgrades();
        // The connection goes first, so that a request that has come before the shutdown is seen.
        let ended = tokio::select! {
            biased;
            ended = notes.drive(&mut connection) => Some(ended),
            _ = stage.wait_for(|stage| *stage != Stage::Serving) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            // Not one whole request head has come, and hyper would wait for the rest of it.
            None if !notes.began.load(Ordering::Relaxed) => return None,
            None => {
                Pin::new(&mut connection).graceful_shutdown();
                tokio::select! {
                    biased;
                    ended = notes.drive(&mut connection) => ended,
                    _ = stage.wait_for(|stage| *stage == Stage::Aborting) => return None,
                }
            }
        };
        match ended {
            Ended::ByItself(Ok(())) => None,
            Ended::ByItself(Err(error)) => {
                limited!(DEBUG, %peer, error = %cut(error), "connection ended");
                None
            }
            Ended::Taken(taken) => connection.into_parts().map(|parts| Freed {
                socket: parts.io.into_inner().into_inner(),
                rest: parts.read_buf,
                taken,
            }),
        }
    }
}

/// What is noted of one connection while hyper serves it.
struct Notes {
    /// Set at the first request: hyper doesn't tell a connection that serves one from one with half a head.
    began: AtomicBool,
    /// Shared with the socket: set while its peer need not keep [pace](Paced).
    free: Arc<AtomicBool>,
    /// Where the socket may be asked for; not where TLS is spoken on it.
    takeover: Option<Takeover>,
    /// Who has asked. That request is never answered by hyper.
    taken: Mutex<Option<Taken>>,
}

/// A socket that hyper has let go of.
struct Freed<S> {
    /// The socket.
    socket: S,
    /// What was read from it behind the request.
    rest: Bytes,
    /// Who gets it.
    taken: Taken,
}

/// How hyper's part of a connection ended.
enum Ended {
    /// It was closed, upgraded or failed.
    ByItself(hyper::Result<()>),
    /// The socket goes to a shard.
    Taken(Taken),
}

impl Notes {
    /// Serves requests until one of the ends.
    async fn drive(&self, connection: &mut (impl Future<Output = hyper::Result<()>> + Unpin)) -> Ended {
        poll_fn(|cx| match Pin::new(&mut *connection).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Ended::ByItself(ended)),
            Poll::Pending => {
                self.taken.lock().take().map_or(Poll::Pending, |taken| Poll::Ready(Ended::Taken(taken)))
            }
        })
        .await
    }
}

/// The application, as hyper calls it for one connection.
struct Requests<'a> {
    /// The application.
    router: Router,
    /// Who asks, for axum's `ConnectInfo`.
    peer: SocketAddr,
    /// What is asked of each request.
    limits: &'a Limits,
    /// What is noted of the connection.
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
        if self.notes.takeover.is_none() {
            request.extensions_mut().insert(OverTls);
        }
        let takeover = self.notes.takeover.as_ref().filter(|_| request.version() == Version::HTTP_11);
        if let Some(takeover) = takeover {
            request.extensions_mut().insert(takeover.clone());
        }
        let mut late = None;
        let request = request.map(|body| {
            if body.is_end_stream() {
                return Body::empty();
            }
            let late = late.insert(Arc::new(AtomicBool::new(false)));
            Body::new(PacedBody::new(body, self.limits.body, Arc::clone(late)))
        });
        // A clone is one count more; tower's `call` wants a router of its own.
        let answer = self.router.clone().call(request);
        let (notes, peer) = (self.notes, self.peer);
        Box::pin(async move {
            let mut response = answer.await?;
            if late.is_some_and(|late| late.load(Ordering::Relaxed)) {
                limited!(DEBUG, %peer, "the body of a request came too slowly");
                return Ok(too_slow());
            }
            if response.status() == StatusCode::SWITCHING_PROTOCOLS
                || response.extensions().get::<OwnPace>().is_some()
            {
                notes.free.store(true, Ordering::Relaxed);
            }
            if let Some(takeover) = takeover {
                let taken = poll_fn(|cx| Poll::Ready(takeover.taken(&mut response, cx))).await;
                if taken.is_some() {
                    *notes.taken.lock() = taken;
                    return pending().await; // hyper is left before it would write anything
                }
            }
            Ok(match place {
                Some(place) => response.map(|body| Body::new(PlacedBody::new(body, place))),
                None => response,
            })
        })
    }
}

/// The answer to a request whose body came too slowly, whatever the application made of that.
fn too_slow() -> Response {
    let mut response = plain(408, "The body of the request came too slowly.\n");
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
