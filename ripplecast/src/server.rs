//! The accept loop: HTTP/1.1 with the limits that `axum::serve` leaves out, over TLS or not, and a shutdown that ends.
//!
//! Each connection is one task for as long as it speaks HTTP. A WebSocket endpoint takes the socket out of hyper, and
//! the task ends there: what this file counts and drains are the connections that hyper still holds.

pub(crate) mod files;
pub(crate) mod forwarded;
pub(crate) mod signals;
pub(crate) mod tls;

pub(crate) use forwarded::ForwardedPeer;
pub use forwarded::TrustedProxies;
pub use tls::Tls;

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

use axum::{Router, extract::ConnectInfo, response::Response};
use http::{Request, Version};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};
use tower_service::Service as _;

use parking_lot::Mutex;

use self::tls::{Goodbye, Goodbyes};
use crate::{
    sse::Takeover,
    ws::upgrade::{Tuned, tune},
};

/// Longest request head, in bytes; a longer one gets 431. Setting: `max_header`. Cookies and tokens fit, a flood does not.
const MAX_HEADER: usize = 16 * 1024;
/// Time in which a whole request head must come, and so the time that an idle connection is kept for its next
/// request; before it, the same for a TLS handshake. Setting: `header_timeout`. A phone on a poor link needs two or
/// three, a drip of bytes would take for ever.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Sockets that hyper may hold at once. Setting: `max_http_connections`. Each costs some 10 KiB; more wait in the
/// kernel's queue until one ends. Open event streams count, upgraded WebSockets do not.
const MAX_CONNECTIONS: usize = 65_536;
/// Pause after the system had no descriptor or memory for a connection: time for others to give theirs back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Least time between two warnings about the same trouble with accepting: it lasts, and the log should be readable.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// Time in which requests in flight and the hub must finish once shutdown has begun. With `ABORT_LIMIT` it stays below
/// the 10 s that supervisors commonly allow before they kill.
const DRAIN_LIMIT: Duration = Duration::from_millis(8_500);
/// Time in which the tasks that did not finish must have been dropped.
const ABORT_LIMIT: Duration = Duration::from_millis(500);
/// Time in which the last bytes of TLS connections must have left once all else has finished: a moment's work, except
/// for peers that take nothing.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);
/// The least that hyper takes as the size of its buffer.
const MIN_BUFFER: usize = 8 * 1024;

/// The settings of the accept loop.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Longest request head, in bytes.
    max_header: usize,
    /// Time in which a whole request head must come.
    header_timeout: Duration,
    /// Sockets that hyper may hold at once.
    max_connections: usize,
    /// Time in which everything must finish once shutdown has begun.
    drain_limit: Duration,
    /// The certificate, where TLS is spoken.
    tls: Option<Tls>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            max_header: MAX_HEADER,
            header_timeout: HEADER_TIMEOUT,
            max_connections: MAX_CONNECTIONS,
            drain_limit: DRAIN_LIMIT,
            tls: None,
        }
    }
}

impl Server {
    /// Longest request head, in bytes: request line and headers together.
    pub(crate) fn max_header(mut self, bytes: usize) -> Self {
        self.max_header = bytes;
        self
    }

    /// Time in which a whole request head must come, counted from the end of the request before it.
    pub(crate) fn header_timeout(mut self, time: Duration) -> Self {
        self.header_timeout = time;
        self
    }

    /// Sockets that hyper may hold at once, at least one.
    pub(crate) fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        self
    }

    /// Speaks TLS with this certificate.
    pub(crate) fn tls(mut self, tls: Option<Tls>) -> Self {
        self.tls = tls;
        self
    }

    /// The certificate, where TLS is spoken.
    pub(crate) fn certificate(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Serves `router` until `shutdown` resolves, then stops accepting, lets requests in flight finish while `drain`
    /// runs, and returns when both are done, or after 9 s with what is left cut off.
    ///
    /// Trouble with accepting never ends it. Dropping the future stops accepting and drops every connection that
    /// hyper holds.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        router: Router,
        shutdown: impl Future<Output = ()>,
        drain: impl Future<Output = ()>,
    ) {
        raise_file_limit();
        tune(&listener);
        let places = Arc::new(Semaphore::new(self.max_connections));
        let stage = watch::Sender::new(Stage::Serving);
        let goodbyes = Goodbyes::new();
        // Turns every route into its final form now, not at each request.
        let router = router.with_state(());
        tokio::select! {
            () = shutdown => {}
            never = self.accept_all(&listener, &router, &places, &stage, &goodbyes) => match never {},
            never = self.watch_certificate() => match never {},
        }
        drop(listener);
        stage.send_replace(Stage::Draining);
        let finished = async {
            tokio::join!(drain, self.all_ended(&places));
            // The hub is done with its connections; a task may still be carrying their last bytes.
            let _ = timeout(GOODBYE_LIMIT, goodbyes.all_said()).await;
        };
        if timeout(self.drain_limit, finished).await.is_err() {
            let left = self.max_connections - places.available_permits();
            tracing::warn!(left, "shutdown took too long; what is left is cut off");
            stage.send_replace(Stage::Aborting);
            // Not more than a courtesy: a task that never yields can't be ended, and must not hold the process up.
            let _ = timeout(ABORT_LIMIT, self.all_ended(&places)).await;
        }
    }

    /// Accepts connections, each into a task of its own.
    async fn accept_all(
        &self,
        listener: &TcpListener,
        router: &Router,
        places: &Arc<Semaphore>,
        stage: &watch::Sender<Stage>,
        goodbyes: &Goodbyes,
    ) -> Infallible {
        let http = self.http();
        let mut log = AcceptLog::default();
        loop {
            let place = self.place(places, &mut log).await;
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_peers_fault(&error) => continue,
                Err(error) => {
                    log.failed(&error);
                    drop(place);
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if !cfg!(target_os = "linux") {
                tune(&stream); // elsewhere it is not handed down
            }
            let connection =
                Connection { stream, peer, router: router.clone(), stage: stage.subscribe(), place };
            // Two kinds of tasks, so that plain ones do not have the size of those that hold a TLS connection.
            match &self.tls {
                None => tokio::spawn(connection.run_plain(http.clone())),
                Some(tls) => {
                    let run = connection.run_tls(
                        tls.clone(),
                        goodbyes.one_more(),
                        self.header_timeout,
                        http.clone(),
                    );
                    tokio::spawn(run)
                }
            };
        }
    }

    /// Has a new certificate loaded whenever there is one.
    async fn watch_certificate(&self) -> Infallible {
        match &self.tls {
            Some(tls) => tls.watch().await,
            None => pending().await,
        }
    }

    /// A place for one more connection, waiting for one when all are taken.
    async fn place(&self, places: &Arc<Semaphore>, log: &mut AcceptLog) -> OwnedSemaphorePermit {
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return place;
        }
        log.full(self.max_connections);
        Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Resolves when no connection is left. Nobody else may be asking for places.
    async fn all_ended(&self, places: &Semaphore) {
        let all = u32::try_from(self.max_connections).expect("max_connections keeps within u32");
        let _all = places.acquire_many(all).await.expect("the semaphore is never closed");
    }

    /// What hyper is told about every connection.
    fn http(&self) -> http1::Builder {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_header_size(self.max_header)
            .max_buf_size(self.max_header.max(MIN_BUFFER))
            .keep_alive(true)
            .half_close(false);
        http
    }
}

/// What the connections are told, and how far the server has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Requests are taken.
    Serving,
    /// Requests in flight finish, and nothing else begins.
    Draining,
    /// Whatever is left ends now.
    Aborting,
}

/// One accepted socket and what serving it takes.
struct Connection<S = TcpStream> {
    /// The socket, or what is spoken over it.
    stream: S,
    /// Who is at the other end.
    peer: SocketAddr,
    /// The application.
    router: Router,
    /// Tells when to finish. The sender going away means that nobody waits any more.
    stage: watch::Receiver<Stage>,
    /// This connection's place among `max_connections`, given back when hyper lets the socket go.
    place: OwnedSemaphorePermit,
}

impl Connection {
    /// Serves requests over the bare socket. An event stream takes the socket along, and leaves nothing here.
    async fn run_plain(self, http: http1::Builder) {
        let Some((io, taken)) = self.serve(http, true).await else { return };
        let socket = io.into_inner();
        match socket.into_std() {
            Ok(socket) => taken.stream.begin(socket, &taken.head),
            Err(error) => tracing::warn!(%error, "the socket of an event stream could not be taken over"),
        }
    }

    /// Does the TLS handshake, here and not in the accept loop, and then serves requests inside.
    async fn run_tls(self, tls: Tls, goodbye: Goodbye, limit: Duration, http: http1::Builder) {
        let Self { stream, peer, router, mut stage, place } = self;
        let shaken = tokio::select! {
            shaken = timeout(limit, tls.accept(stream, goodbye)) => shaken,
            _ = stage.wait_for(|stage| *stage != Stage::Serving) => return,
        };
        match shaken {
            Ok(Ok(stream)) => {
                let connection = Connection { stream, peer, router, stage, place };
                connection.serve(http, false).await;
            }
            Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Connection<S> {
    /// Serves requests until the peer, a limit, an upgrade or the server ends it, or, if `give_away`, until an event
    /// stream wants the socket, which is then returned with what is to be done with it.
    async fn serve(self, http: http1::Builder, give_away: bool) -> Option<(TokioIo<S>, Taken)> {
        let Self { stream, peer, router, mut stage, place } = self;
        let _place = place;
        let notes = Notes { began: AtomicBool::new(false), give_away, taken: Mutex::new(None) };
        let requests = Requests { router, peer, notes: &notes };
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
                tracing::debug!(%peer, %error, "connection ended");
                None
            }
            Ended::Taken(taken) => connection.into_parts().map(|parts| (parts.io, taken)),
        }
    }
}

/// What is noted of one connection while hyper serves it.
struct Notes {
    /// Set at the first request: hyper doesn't tell a connection that serves one from one with half a head.
    began: AtomicBool,
    /// Whether the socket may be given to an event stream.
    give_away: bool,
    /// The event stream that wants the socket. Its request is never answered by hyper.
    taken: Mutex<Option<Taken>>,
}

/// How hyper's part of a connection ended.
enum Ended {
    /// It was closed, upgraded or failed.
    ByItself(hyper::Result<()>),
    /// An event stream wants the socket.
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

/// An event stream that wants the socket of its request, and the head of its response, which hyper has not written.
struct Taken {
    /// The stream.
    stream: Takeover,
    /// The head. It has no length and no chunks: the stream lasts as long as the connection (RFC 9112, section 6.3).
    head: Vec<u8>,
}

impl Taken {
    /// Writes down the head of a response.
    fn new(stream: Takeover, response: &Response) -> Self {
        let mut head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n".to_vec();
        for (name, value) in response.headers() {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(
            format!("date: {}\r\n\r\n", httpdate::HttpDate::from(SystemTime::now())).as_bytes(),
        );
        Self { stream, head }
    }
}

/// The application, as hyper calls it for one connection.
struct Requests<'a> {
    /// The application.
    router: Router,
    /// Who asks, for axum's `ConnectInfo`.
    peer: SocketAddr,
    /// What is noted of the connection.
    notes: &'a Notes,
}

impl<'a> hyper::service::Service<Request<Incoming>> for Requests<'a> {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send + 'a>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.notes.began.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(ConnectInfo(self.peer));
        request.extensions_mut().insert(Tuned);
        let give_away = self.notes.give_away && request.version() == Version::HTTP_11;
        // A clone is one count more; tower's `call` wants a router of its own.
        let answer = self.router.clone().call(request);
        let notes = self.notes;
        Box::pin(async move {
            let mut response = answer.await?;
            if give_away && let Some(stream) = response.extensions_mut().remove::<Takeover>() {
                *notes.taken.lock() = Some(Taken::new(stream, &response));
                return pending().await; // hyper is left before it would write anything
            }
            Ok(response)
        })
    }
}

/// Warns about trouble with accepting, without filling the log.
#[derive(Default)]
struct AcceptLog {
    /// When the last warning was written.
    last: Option<Instant>,
}

impl AcceptLog {
    /// The system had nothing to accept with.
    fn failed(&mut self, error: &io::Error) {
        if self.may_warn() {
            tracing::warn!("can't accept a connection: {error}{}", accept_advice(error));
        }
    }

    /// Every place is taken.
    fn full(&mut self, limit: usize) {
        if self.may_warn() {
            tracing::warn!(
                limit,
                "all places for connections are taken; new ones wait (max_http_connections)"
            );
        }
    }

    /// Whether the last warning is long enough ago; if so, this is the last.
    fn may_warn(&mut self) -> bool {
        let now = Instant::now();
        let may = self.last.is_none_or(|last| now.duration_since(last) >= WARN_EVERY);
        if may {
            self.last = Some(now);
        }
        may
    }
}

/// Whether the connection was lost before it was accepted. The next one may be fine.
fn is_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// What to do about a connection that can't be accepted.
fn accept_advice(error: &io::Error) -> &'static str {
    /// The process has no descriptor left; the same number on every Unix.
    const EMFILE: i32 = 24;
    /// The machine has no descriptor left; the same number on every Unix.
    const ENFILE: i32 = 23;
    match error.raw_os_error() {
        Some(EMFILE) if cfg!(unix) => {
            "; raise the limit on open files of this process (`ulimit -n`, or LimitNOFILE= in its systemd unit)"
        }
        Some(ENFILE) if cfg!(unix) => "; raise the limit on open files of this machine (sysctl fs.file-max)",
        _ => "",
    }
}

/// Takes all the open files that the system allows this process: each connection is one, and the usual soft limit of
/// 1,024 is meant for programs that use `select`.
fn raise_file_limit() {
    #[cfg(unix)]
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => tracing::debug!(limit, "open files allowed"),
        Err(error) => tracing::debug!(%error, "can't raise the limit on open files"),
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use axum::{body::Body, routing::get};
    use http::{StatusCode, header};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::{Notify, oneshot},
        task::JoinHandle,
    };

    use super::*;

    /// A server on a free port of loopback.
    struct Running {
        addr: SocketAddr,
        stop: oneshot::Sender<()>,
        ended: JoinHandle<()>,
    }

    impl Running {
        async fn start(server: Server, router: Router) -> Self {
            Self::start_with(server, router, ready(())).await
        }

        async fn start_with(
            server: Server,
            router: Router,
            drain: impl Future<Output = ()> + Send + 'static,
        ) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let (stop, stopped) = oneshot::channel::<()>();
            let shutdown = async {
                let _ = stopped.await;
            };
            Self { addr, stop, ended: tokio::spawn(server.serve(listener, router, shutdown, drain)) }
        }

        async fn client(&self) -> TcpStream {
            TcpStream::connect(self.addr).await.unwrap()
        }

        async fn stop(self) {
            self.stop.send(()).unwrap();
            self.ended.await.unwrap();
        }
    }

    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n";

    /// Reads until `text` has come.
    async fn read_until(client: &mut TcpStream, text: &str) -> String {
        let mut got = Vec::new();
        while !String::from_utf8_lossy(&got).contains(text) {
            let read = client.read_buf(&mut got).await.unwrap();
            assert_ne!(read, 0, "closed after {:?}", String::from_utf8_lossy(&got));
        }
        String::from_utf8(got).unwrap()
    }

    #[tokio::test]
    async fn an_upgrade_hands_over_the_bare_socket_and_gives_its_place_back() {
        async fn upgrade(mut request: axum::extract::Request) -> Response {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let parts = upgrade.await.unwrap().downcast::<TokioIo<TcpStream>>().unwrap();
                let mut stream = parts.io.into_inner();
                stream.write_all(&parts.read_buf).await.unwrap();
                let mut rest = [0; 4];
                stream.read_exact(&mut rest).await.unwrap();
                stream.write_all(&rest).await.unwrap();
            });
            Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header(header::CONNECTION, "upgrade")
                .header(header::UPGRADE, "echo")
                .body(Body::empty())
                .unwrap()
        }
        let router = Router::new().route("/echo", get(upgrade)).route("/", get(async || "hello"));
        let server = Running::start(Server::default().max_connections(1), router).await;
        let mut upgraded = server.client().await;
        let head = "GET /echo HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nearly";
        upgraded.write_all(head.as_bytes()).await.unwrap();
        read_until(&mut upgraded, "\r\n\r\nearly").await;

        // The only place is free again while the upgraded socket lives on.
        let mut plain = server.client().await;
        plain.write_all(GET).await.unwrap();
        read_until(&mut plain, "hello").await;
        drop(plain);

        upgraded.write_all(b"late").await.unwrap();
        assert_eq!(read_until(&mut upgraded, "late").await, "late");
        server.stop().await;
    }

    #[tokio::test]
    async fn more_connections_than_allowed_wait_for_a_place() {
        let router = Router::new().route("/", get(async || "hello"));
        let server = Running::start(Server::default().max_connections(2), router).await;
        let mut first = server.client().await;
        let mut second = server.client().await;
        for client in [&mut first, &mut second] {
            client.write_all(GET).await.unwrap();
            read_until(client, "hello").await;
        }
        let mut third = server.client().await;
        third.write_all(GET).await.unwrap();
        // The two that are in go on as before; only then is a place given up.
        first.write_all(GET).await.unwrap();
        read_until(&mut first, "hello").await;
        let mut byte = [0];
        let early = timeout(Duration::from_millis(50), third.peek(&mut byte)).await;
        assert!(early.is_err(), "served beyond the limit");
        drop(second);
        read_until(&mut third, "hello").await;
        server.stop().await;
    }

    #[tokio::test]
    async fn shutdown_is_bounded_by_neither_a_request_nor_the_hub() {
        let router = Router::new().route("/", get(async || pending::<()>().await));
        let server = Server { drain_limit: Duration::from_millis(50), ..Server::default() };
        let begun = Arc::new(Notify::new());
        let router = router.layer(axum::middleware::from_fn({
            let begun = Arc::clone(&begun);
            move |request, next: axum::middleware::Next| {
                begun.notify_one();
                next.run(request)
            }
        }));
        let server = Running::start_with(server, router, pending()).await;
        let mut client = server.client().await;
        client.write_all(GET).await.unwrap();
        begun.notified().await;
        server.stop().await;
        assert_eq!(client.read(&mut [0; 16]).await.unwrap_or(0), 0, "cut off");
    }

    #[tokio::test]
    async fn the_hub_is_drained_while_requests_finish() {
        let drained = Arc::new(Notify::new());
        let begun = Arc::new(Notify::new());
        let (wait, tell) = (Arc::clone(&drained), Arc::clone(&begun));
        // The request ends only when the hub is drained, and that begins only at shutdown: one after the other would hang.
        let handler = async move || {
            tell.notify_one();
            wait.notified().await;
            "hello"
        };
        let router = Router::new().route("/", get(handler));
        let server =
            Running::start_with(Server::default(), router, async move { drained.notify_one() }).await;
        let mut client = server.client().await;
        client.write_all(GET).await.unwrap();
        begun.notified().await;
        server.stop().await;
        read_until(&mut client, "hello").await;
        assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn dropping_the_server_drops_its_connections() {
        let server = Running::start(Server::default(), Router::new().route("/", get(async || "hello"))).await;
        let mut client = server.client().await;
        client.write_all(GET).await.unwrap();
        read_until(&mut client, "hello").await;
        server.ended.abort();
        assert_eq!(client.read(&mut [0; 16]).await.unwrap_or(0), 0);
    }

    #[test]
    fn trouble_with_accepting_is_told_apart_and_explained() {
        assert!(is_peers_fault(&io::ErrorKind::ConnectionAborted.into()));
        assert!(!is_peers_fault(&io::ErrorKind::OutOfMemory.into()));
        if cfg!(unix) {
            let too_many = io::Error::from_raw_os_error(24);
            assert!(!is_peers_fault(&too_many));
            assert!(accept_advice(&too_many).contains("ulimit -n"));
        }
        let mut log = AcceptLog::default();
        assert!(log.may_warn());
        assert!(!log.may_warn(), "a second warning at once");
    }
}
