//! Shared by the tests: a server to talk to, clients that we did not write, and waiting that no timing decides.

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
    Close, Connection, ConnectionId, Dropped, Frame, Hub, HubBuilder, Result, Sent, Stats, ws::Handler,
};
use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot, task::JoinHandle, time::timeout};
use tungstenite::{Message, WebSocket};

/// Far longer than anything here takes, so that a hang fails instead of waiting for the harness.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Whose accept loop serves the endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Server {
    /// That of [`ripplecast::App`].
    Own,
    /// A plain `axum::serve`, in an application that has nothing of ours but a [`Hub`].
    Axum,
}

/// Both.
pub(crate) const SERVERS: [Server; 2] = [Server::Own, Server::Axum];

/// A server that runs, on a runtime of its own, so that the test's thread is free to block.
pub(crate) struct Site {
    pub(crate) addr: SocketAddr,
    pub(crate) hub: Hub,
    pub(crate) runtime: Runtime,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Site {
    /// Our own server with `shards` shards and all else by default.
    pub(crate) fn own(shards: usize, routes: impl FnOnce(&Hub, Router) -> Router) -> Self {
        Self::start(Server::Own, |hub| hub.shards(shards), routes)
    }

    /// Serves `routes` on a free port of loopback.
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

    /// A client of `path`.
    pub(crate) fn connect(&self, path: &str) -> Client {
        connect(self.addr, path)
    }

    /// A socket that has done the handshake of `path`, for frames that no client would send.
    pub(crate) fn raw(&self, path: &str) -> TcpStream {
        let mut stream = dial(self.addr);
        upgrade(&mut stream, path);
        stream
    }

    /// Shuts down, and checks that every connection which was opened was closed.
    pub(crate) fn stop(self) -> Stats {
        let Self { hub, runtime, stop, ended, .. } = self;
        let _ = stop.send(());
        let ended = runtime.block_on(async { timeout(PATIENCE, ended).await });
        ended.expect("the server does not stop").unwrap();
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
    /// Changes it, or looks at it.
    pub(crate) fn with<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let changed = change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
        changed
    }

    /// Waits until `look` finds what it looks for.
    #[track_caller]
    pub(crate) fn wait<R>(&self, what: &str, mut look: impl FnMut(&mut T) -> Option<R>) -> R {
        let deadline = Instant::now() + PATIENCE;
        let mut value = self.0.0.lock().unwrap();
        loop {
            if let Some(found) = look(&mut value) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain: {what}");
            value = self.0.1.wait_timeout(value, left).unwrap().0;
        }
    }
}

/// Waits until `look` says yes, for what tells nobody when it changes.
#[track_caller]
pub(crate) fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !look() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Pushes once the shard has space.
pub(crate) fn insist(mut push: impl FnMut() -> Sent) {
    eventually("the mailbox to have space", || match push() {
        Sent::Dropped(Dropped::Overloaded) => false,
        sent => {
            assert_eq!(sent, Sent::Queued);
            true
        }
    });
}

// ----- a handler that tells what was called -----

/// What was called, for all connections of an endpoint.
#[derive(Default)]
pub(crate) struct Calls {
    pub(crate) opened: Vec<Connection>,
    pub(crate) messages: Vec<(ConnectionId, Frame)>,
    pub(crate) closed: Vec<(ConnectionId, Close)>,
}

/// Echoes every message, and writes down what is called.
#[derive(Clone, Default)]
pub(crate) struct Echo(pub(crate) Seen<Calls>);

impl Echo {
    /// The connection that was opened as number `n`, from 0.
    #[track_caller]
    pub(crate) fn opened(&self, n: usize) -> Connection {
        self.0.wait("on_open", |calls| calls.opened.get(n).cloned())
    }

    /// The close that was the `n`th, from 0: its code and reason.
    #[track_caller]
    pub(crate) fn closed(&self, n: usize) -> (u16, String) {
        let close = self.0.wait("on_close", |calls| calls.closed.get(n).map(|(_, close)| close.clone()));
        (close.code.get(), close.reason.into_owned())
    }

    /// The close of one connection.
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

    async fn on_message(&self, conn: Connection, frame: Frame) -> Result<()> {
        self.0.with(|calls| calls.messages.push((conn.id(), frame.clone())));
        conn.push(frame).ignore();
        Ok(())
    }

    async fn on_close(&self, conn: Connection, close: Close) -> Result<()> {
        self.0.with(|calls| calls.closed.push((conn.id(), close)));
        Ok(())
    }
}

// ----- clients -----

/// A client that we did not write.
pub(crate) type Client = WebSocket<TcpStream>;

/// A socket that gives up after [`PATIENCE`].
pub(crate) fn dial(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A client of `path`.
pub(crate) fn connect(addr: SocketAddr, path: &str) -> Client {
    tungstenite::client(format!("ws://{addr}{path}"), dial(addr)).unwrap().0
}

/// The next text or binary message.
#[track_caller]
pub(crate) fn receive<S: Read + Write>(client: &mut WebSocket<S>) -> Message {
    let deadline = Instant::now() + PATIENCE; // pings alone keep a connection alive
    loop {
        assert!(Instant::now() < deadline, "no message comes");
        let message = client.read().unwrap();
        if message.is_text() || message.is_binary() {
            return message;
        }
        assert!(!message.is_close(), "{message:?}");
    }
}

/// The next text message.
#[track_caller]
pub(crate) fn text<S: Read + Write>(client: &mut WebSocket<S>) -> String {
    let message = receive(client);
    assert!(message.is_text(), "{message:?}");
    message.into_text().unwrap().as_str().to_owned()
}

/// Checks that an echo comes back.
#[track_caller]
pub(crate) fn check_echo<S: Read + Write>(client: &mut WebSocket<S>) {
    client.send(Message::text("still here?")).unwrap();
    assert_eq!(text(client), "still here?");
}

/// The close frame that is next, after which the server closes the socket: its code and reason.
#[track_caller]
pub(crate) fn ending<S: Read + Write>(client: &mut WebSocket<S>) -> (u16, String) {
    let deadline = Instant::now() + PATIENCE;
    let close = loop {
        assert!(Instant::now() < deadline, "no close frame comes");
        match client.read().unwrap() {
            Message::Close(close) => break close,
            Message::Ping(_) | Message::Pong(_) => {}
            message => panic!("{message:?} came, and no close frame"),
        }
    };
    let close = close.map_or((1005, String::new()), |close| (close.code.into(), close.reason.to_string()));
    match client.read() {
        Err(tungstenite::Error::ConnectionClosed) => close,
        other => panic!("{other:?} instead of the end"),
    }
}

/// The head of an upgrade request.
pub(crate) fn request(path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: here.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

/// What this process logs.
pub(crate) struct Log {
    written: Arc<Mutex<Vec<u8>>>,
    begun: Instant,
}

impl Log {
    /// Keeps what is logged from now on, by all threads of the process: servers have their own. One for all tests.
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

    /// Checks that lines that say `what` are short, and no more than one, and one for each 10 s since. Returns them.
    #[track_caller]
    pub(crate) fn check_limited(&self, what: &str) -> Vec<String> {
        let log = String::from_utf8(self.written.lock().unwrap().clone()).unwrap();
        let most = 1 + self.begun.elapsed().as_secs() as usize / 10;
        let lines = log.lines().filter(|line| line.contains("ripplecast") && line.contains(what));
        let lines: Vec<_> = lines.map(str::to_owned).collect();
        assert!((1..=most).contains(&lines.len()), "{} lines say {what:?}", lines.len());
        assert!(lines.iter().all(|line| line.len() < 600), "{lines:?}");
        lines
    }
}

/// Where the lines go.
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

/// Reads the head of a response, in lower case, and not a byte more.
pub(crate) fn head(stream: &mut impl Read) -> String {
    let mut got = Vec::new();
    let mut byte = [0];
    while !got.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        got.push(byte[0]);
    }
    String::from_utf8(got).unwrap().to_ascii_lowercase()
}

/// Does the handshake of `path`.
pub(crate) fn upgrade(stream: &mut (impl Read + Write), path: &str) {
    stream.write_all(request(path, "").as_bytes()).unwrap();
    let head = head(stream);
    assert!(head.starts_with("http/1.1 101 "), "{head}");
}

/// The first byte of a text frame that is a whole message.
pub(crate) const TEXT: u8 = 0x81;
/// The same for binary, close, ping and pong.
pub(crate) const BINARY: u8 = 0x82;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;
pub(crate) const PONG: u8 = 0x8a;

/// The header of a masked frame that says to have `len` bytes; the mask is all zeros.
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

/// A whole frame as a client sends it.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len() as u64);
    frame.extend_from_slice(payload);
    frame
}

/// A close frame as a client sends it.
pub(crate) fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

/// Reads one frame as a server sends it: its first byte and its payload. Pings are left out, which come to a connection that
/// has been silent for long.
pub(crate) fn read_frame(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    loop {
        match read_any(stream)? {
            (PING, _) => {}
            frame => return Ok(frame),
        }
    }
}

/// The same, and pings too.
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

/// Reads frames up to the close frame, and then the end of the stream: the code and the reason of the former.
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

/// Resets a connection: its peer sees an error, and no end.
pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

// ----- processes -----

/// Runs a test in a process of its own, so that what it measures of the process is not that of other tests.
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
    assert!(out.contains("1 passed"), "no test is called {name}: {out}");
}

/// Bytes of memory that this process has in use.
pub(crate) fn resident() -> usize {
    const PAGE: usize = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * PAGE
}

// ----- files -----

/// A directory of this test alone.
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

    /// Puts a file there at once, as those do who renew certificates.
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
