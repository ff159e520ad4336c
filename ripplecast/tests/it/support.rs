//! Shared by the tests: a server, third-party clients, and waiting that does not depend on timing.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Condvar, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::Router;
use ripplecast::{
    Close, Connection, ConnectionId, Dropped, Hub, HubBuilder, Message, Result, Sent, stats::Stats,
    ws::Handler,
};
use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot, task::JoinHandle, time::timeout};
use tungstenite::{Message as WsMessage, WebSocket};

/// Far longer than anything here takes, so that a hang fails the test before the harness stops it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The accept loop that serves the endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Server {
    /// The one of [`ripplecast::App`].
    Own,
    /// A plain `axum::serve`, in an application that uses only a [`Hub`].
    Axum,
}

pub(crate) const SERVERS: [Server; 2] = [Server::Own, Server::Axum];

/// A running server with its own runtime, so that the test's thread may block.
pub(crate) struct Site {
    pub(crate) addr: SocketAddr,
    pub(crate) hub: Hub,
    pub(crate) runtime: Runtime,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Site {
    /// Starts our own server with `shards` shards and otherwise default settings.
    pub(crate) fn own(shards: usize, routes: impl FnOnce(&Hub, Router) -> Router) -> Self {
        Self::start(Server::Own, |hub| hub.shards(shards), routes)
    }

    /// Serves an [`Echo`] at `/`, and returns it.
    pub(crate) fn echo(server: Server, settings: impl FnOnce(HubBuilder) -> HubBuilder) -> (Self, Echo) {
        let echo = Echo::default();
        let handler = echo.clone();
        (Self::start(server, settings, |hub, router| router.route("/", hub.ws(handler))), echo)
    }

    /// Serves `routes` on a free loopback port.
    pub(crate) fn start(
        server: Server,
        settings: impl FnOnce(HubBuilder) -> HubBuilder,
        routes: impl FnOnce(&Hub, Router) -> Router,
    ) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        let (addr, hub, ended) = runtime.block_on(async {
            match server {
                Server::Own => {
                    let app = ripplecast::App::builder().hub(settings).build().await.unwrap();
                    let hub = app.hub();
                    let bound = app.merge(routes(&hub, Router::new())).bind("127.0.0.1:0").await.unwrap();
                    let addr = bound.local_addr();
                    let serve = async { bound.serve_with_shutdown(stopped).await.unwrap() };
                    (addr, hub, tokio::spawn(serve))
                }
                Server::Axum => {
                    let hub = settings(Hub::builder()).build().unwrap();
                    let router = routes(&hub, Router::new());
                    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                    let addr = listener.local_addr().unwrap();
                    let at_the_end = hub.clone();
                    let ended = tokio::spawn(async move {
                        let service = router.into_make_service_with_connect_info::<SocketAddr>();
                        axum::serve(listener, service).with_graceful_shutdown(stopped).await.unwrap();
                        at_the_end.shutdown().await;
                    });
                    (addr, hub, ended)
                }
            }
        });
        Self { addr, hub, runtime, stop, ended }
    }

    /// Connects a client to `path`.
    pub(crate) fn connect(&self, path: &str) -> Client {
        connect(self.addr, path)
    }

    /// Opens a socket that has completed the handshake at `path`, for frames that no client library would
    /// send.
    pub(crate) fn raw(&self, path: &str) -> TcpStream {
        let mut stream = dial(self.addr);
        upgrade(&mut stream, path);
        stream
    }

    /// Shuts down and checks that every opened connection was closed.
    pub(crate) fn stop(self) -> Stats {
        let Self { hub, runtime, stop, ended, .. } = self;
        let _ = stop.send(());
        let ended = runtime.block_on(async { timeout(PATIENCE, ended).await });
        ended.expect("the server did not stop").unwrap();
        let stats = hub.stats();
        assert_eq!((stats.connections, stats.closed), (0, stats.opened), "{stats:?}");
        stats
    }
}

// ----- waiting -----

/// A value that callbacks change and a test waits for.
pub(crate) struct Seen<T>(Arc<(Mutex<T>, Condvar)>);

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Default> Default for Seen<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Seen<T> {
    /// Changes or reads the value.
    pub(crate) fn with<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let changed = change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
        changed
    }

    /// Waits until `look` returns a value.
    #[track_caller]
    pub(crate) fn wait<R>(&self, what: &str, mut look: impl FnMut(&mut T) -> Option<R>) -> R {
        let deadline = Instant::now() + PATIENCE;
        let mut value = self.0.0.lock().unwrap();
        loop {
            if let Some(found) = look(&mut value) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "timed out: {what}");
            value = self.0.1.wait_timeout(value, left).unwrap().0;
        }
    }
}

/// Polls until `look` returns true, for state that sends no notification.
#[track_caller]
pub(crate) fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !look() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Retries a push until the mailbox has space.
pub(crate) fn insist(mut push: impl FnMut() -> Sent) {
    eventually("the mailbox to have space", || match push() {
        Sent::Dropped(Dropped::Overloaded) => false,
        sent => {
            assert_eq!(sent, Sent::Queued);
            true
        }
    });
}

// ----- a handler that records its calls -----

/// The calls for all connections of an endpoint.
#[derive(Default)]
pub(crate) struct Calls {
    pub(crate) opened: Vec<Connection>,
    pub(crate) messages: Vec<(ConnectionId, Message)>,
    pub(crate) closed: Vec<(ConnectionId, Close)>,
}

/// Echoes every message and records all calls.
#[derive(Clone, Default)]
pub(crate) struct Echo(pub(crate) Seen<Calls>);

impl Echo {
    /// Waits for the connection opened as number `n`, from 0.
    #[track_caller]
    pub(crate) fn opened(&self, n: usize) -> Connection {
        self.0.wait("on_open", |calls| calls.opened.get(n).cloned())
    }

    /// Waits for the close number `n`, from 0, and returns its code and reason.
    #[track_caller]
    pub(crate) fn closed(&self, n: usize) -> (u16, String) {
        let close = self.0.wait("on_close", |calls| calls.closed.get(n).map(|(_, close)| close.clone()));
        (close.code.get(), close.reason.into_owned())
    }

    /// Waits for the close of one connection.
    #[track_caller]
    pub(crate) fn closed_of(&self, id: ConnectionId) -> (u16, String) {
        let close = self.0.wait("on_close", |calls| {
            calls.closed.iter().find(|(closed, _)| *closed == id).map(|(_, close)| close.clone())
        });
        (close.code.get(), close.reason.into_owned())
    }
}

impl Handler for Echo {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        self.0.with(|calls| calls.opened.push(conn));
        Ok(())
    }

    async fn on_message(&self, conn: Connection, message: Message) -> Result<()> {
        self.0.with(|calls| calls.messages.push((conn.id(), message.clone())));
        conn.push(message).ignore();
        Ok(())
    }

    async fn on_close(&self, conn: Connection, close: Close) -> Result<()> {
        self.0.with(|calls| calls.closed.push((conn.id(), close)));
        Ok(())
    }
}

// ----- clients -----

/// A third-party client.
pub(crate) type Client = WebSocket<TcpStream>;

/// Connects a socket that times out after [`PATIENCE`].
pub(crate) fn dial(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Connects a client to `path`.
pub(crate) fn connect(addr: SocketAddr, path: &str) -> Client {
    tungstenite::client(format!("ws://{addr}{path}"), dial(addr)).unwrap().0
}

/// Receives the next text or binary message.
#[track_caller]
pub(crate) fn receive<S: Read + Write>(client: &mut WebSocket<S>) -> WsMessage {
    let deadline = Instant::now() + PATIENCE; // pings alone keep a connection alive
    loop {
        assert!(Instant::now() < deadline, "no message arrives");
        let message = client.read().unwrap();
        if message.is_text() || message.is_binary() {
            return message;
        }
        assert!(!message.is_close(), "{message:?}");
    }
}

/// Receives the next text message.
#[track_caller]
pub(crate) fn text<S: Read + Write>(client: &mut WebSocket<S>) -> String {
    let message = receive(client);
    assert!(message.is_text(), "{message:?}");
    message.into_text().unwrap().as_str().to_owned()
}

/// Checks that a message is echoed.
#[track_caller]
pub(crate) fn check_echo<S: Read + Write>(client: &mut WebSocket<S>) {
    client.send(WsMessage::text("still here?")).unwrap();
    assert_eq!(text(client), "still here?");
}

/// Receives the close frame, checks that the server then closes the socket, and returns the code and reason.
#[track_caller]
pub(crate) fn ending<S: Read + Write>(client: &mut WebSocket<S>) -> (u16, String) {
    let deadline = Instant::now() + PATIENCE;
    let close = loop {
        assert!(Instant::now() < deadline, "no close frame arrives");
        match client.read().unwrap() {
            WsMessage::Close(close) => break close,
            WsMessage::Ping(_) | WsMessage::Pong(_) => {}
            message => panic!("expected a close frame, received {message:?}"),
        }
    };
    let close = close.map_or((1005, String::new()), |close| (close.code.into(), close.reason.to_string()));
    match client.read() {
        Err(tungstenite::Error::ConnectionClosed) => close,
        other => panic!("expected the end of the connection, got {other:?}"),
    }
}

/// Returns the head of an upgrade request.
pub(crate) fn request(path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: here.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

/// The log of this process.
pub(crate) struct Log {
    written: Arc<Mutex<Vec<u8>>>,
    begun: Instant,
}

impl Log {
    /// Records what all threads of the process log from now on, including those of servers. Shared by all
    /// tests.
    pub(crate) fn keep() -> &'static Self {
        static LOG: LazyLock<Log> = LazyLock::new(|| {
            let log = Log { written: Arc::default(), begun: Instant::now() };
            let written = Written(log.written.clone());
            let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
            let lines = lines.with_writer(move || written.clone()).finish();
            tracing::subscriber::set_global_default(lines).unwrap();
            log
        });
        &LOG
    }

    /// Runs `run`, and returns the lines with `what` that this thread logs meanwhile. Other tests don't add to them.
    pub(crate) fn of_this_thread(what: &str, run: impl FnOnce()) -> Vec<String> {
        let log = Self { written: Arc::default(), begun: Instant::now() };
        let written = Written(log.written.clone());
        let lines = tracing_subscriber::fmt().with_ansi(false).with_writer(move || written.clone()).finish();
        tracing::subscriber::with_default(lines, run);
        log.lines(what)
    }

    /// Returns the lines with `what`.
    pub(crate) fn lines(&self, what: &str) -> Vec<String> {
        let log = String::from_utf8(self.written.lock().unwrap().clone()).unwrap();
        log.lines().filter(|line| line.contains(what)).map(str::to_owned).collect()
    }

    /// Checks that lines with `what` are short and at most one per 10 s. Returns them.
    #[track_caller]
    pub(crate) fn check_limited(&self, what: &str) -> Vec<String> {
        let most = 1 + self.begun.elapsed().as_secs() as usize / 10;
        let mut lines = self.lines(what);
        lines.retain(|line| line.contains("ripplecast"));
        assert!((1..=most).contains(&lines.len()), "{} lines contain {what:?}", lines.len());
        assert!(lines.iter().all(|line| line.len() < 600), "{lines:?}");
        lines
    }
}

/// The writer of the log.
#[derive(Clone)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads exactly the head of a response, in lower case.
pub(crate) fn head(stream: &mut impl Read) -> String {
    let mut got = Vec::new();
    let mut byte = [0];
    while !got.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        got.push(byte[0]);
    }
    String::from_utf8(got).unwrap().to_ascii_lowercase()
}

/// Performs the handshake at `path`.
pub(crate) fn upgrade(stream: &mut (impl Read + Write), path: &str) {
    stream.write_all(request(path, "").as_bytes()).unwrap();
    let head = head(stream);
    assert!(head.starts_with("http/1.1 101 "), "{head}");
}

/// The first byte of an unfragmented text frame.
pub(crate) const TEXT: u8 = 0x81;
/// The same for binary, close, ping and pong.
pub(crate) const BINARY: u8 = 0x82;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;
pub(crate) const PONG: u8 = 0x8a;

/// Returns the header of a masked frame with a length of `len` bytes; the mask is all zeros.
pub(crate) fn header(first: u8, len: u64) -> Vec<u8> {
    let mut header = vec![first];
    match len {
        0..=125 => header.push(0x80 | len as u8),
        126..=0xffff => {
            header.push(0x80 | 126);
            header.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            header.push(0x80 | 127);
            header.extend_from_slice(&len.to_be_bytes());
        }
    }
    header.extend_from_slice(&[0; 4]);
    header
}

/// Returns a frame as a client sends it.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len() as u64);
    frame.extend_from_slice(payload);
    frame
}

/// Returns a close frame as a client sends it.
pub(crate) fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

/// Reads one frame of a server and returns its first byte and payload. Skips pings, which a connection
/// receives after a long silence.
pub(crate) fn read_frame(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    loop {
        match read_any(stream)? {
            (PING, _) => {}
            frame => return Ok(frame),
        }
    }
}

/// Like [`read_frame`], including pings.
pub(crate) fn read_any(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut start = [0; 2];
    stream.read_exact(&mut start)?;
    let len = match start[1] {
        126 => {
            let mut len = [0; 2];
            stream.read_exact(&mut len)?;
            u64::from(u16::from_be_bytes(len))
        }
        127 => {
            let mut len = [0; 8];
            stream.read_exact(&mut len)?;
            u64::from_be_bytes(len)
        }
        len => u64::from(len),
    };
    let mut payload = vec![0; usize::try_from(len).unwrap()];
    stream.read_exact(&mut payload)?;
    Ok((start[0], payload))
}

/// Reads frames up to the close frame, checks that the stream then ends, and returns the code and reason.
#[track_caller]
pub(crate) fn read_close(stream: &mut impl Read) -> (u16, String) {
    loop {
        let (first, payload) = read_frame(stream).unwrap();
        if first == CLOSE {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"", "nothing may follow a close frame");
            let code = u16::from_be_bytes([payload[0], payload[1]]);
            return (code, String::from_utf8(payload[2..].to_vec()).unwrap());
        }
    }
}

/// Resets a connection: its peer sees an error instead of the end.
pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

// ----- processes -----

/// Runs a test in its own process, so that other tests do not affect what it measures.
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    const VARIABLE: &str = "RIPPLECAST_TEST_ALONE";
    if std::env::var(VARIABLE).is_ok_and(|running| running == name) {
        return test();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(VARIABLE, name)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("1 passed"), "no test has the name {name}: {out}");
}

/// Returns the resident memory of this process in bytes.
pub(crate) fn resident() -> usize {
    const PAGE: usize = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * PAGE
}

// ----- files -----

/// A temporary directory.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ripplecast-test-{}-{next}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Creates or replaces a file atomically, as tools that renew certificates do.
    pub(crate) fn put(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.file("new"), content).unwrap();
        std::fs::rename(self.file("new"), self.file(name)).unwrap();
        self.file(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
