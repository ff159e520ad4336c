//! Shared by the tests of rooms, event streams and the API: a server, a scripted handler and clients.
//!
//! Clients block and run on the test's own threads, so that only the server uses the server's runtime. Every
//! wait is for an event; [`PATIENCE`] only turns a hang into a failure.

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use ripplecast::{App, AppBuilder, Connection, Error, Hub, Message, Result, ws::Handler};
use tokio::{runtime::Runtime, sync::oneshot};
use tungstenite::{
    Message as WsMessage, WebSocket,
    client::{IntoClientRequest as _, client_with_config},
    error::Error as WsError,
    handshake::HandshakeError,
    http::{HeaderName, HeaderValue},
    protocol::WebSocketConfig,
};

/// Far longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A server on a free loopback port with its own runtime of four workers. Dropping it shuts it down and
/// checks that every opened connection was closed.
pub(crate) struct TestServer {
    pub(crate) addr: SocketAddr,
    pub(crate) hub: Hub,
    runtime: Option<Runtime>,
    /// Shuts down our own accept loop.
    _stop: oneshot::Sender<()>,
}

impl TestServer {
    /// Starts our own accept loop.
    pub(crate) fn start(builder: AppBuilder, routes: impl FnOnce(App) -> App) -> Self {
        let runtime = runtime();
        let (stop, stopped) = oneshot::channel::<()>();
        let (addr, hub) = runtime.block_on(async {
            let bound = routes(builder.build().await.unwrap()).bind("127.0.0.1:0").await.unwrap();
            let (addr, hub) = (bound.local_addr(), bound.hub());
            tokio::spawn(bound.serve_with_shutdown(async { drop(stopped.await) }));
            (addr, hub)
        });
        Self { addr, hub, runtime: Some(runtime), _stop: stop }
    }

    /// Starts a server with a number of shards, each a task or a thread.
    pub(crate) fn with_shards(shards: usize, threads: bool, routes: impl FnOnce(App) -> App) -> Self {
        Self::start(App::builder().hub(|hub| hub.shards(shards).dedicated_threads(threads)), routes)
    }

    /// Starts a plain `axum::serve` in another application.
    pub(crate) fn under_axum(routes: impl FnOnce(&Hub) -> axum::Router) -> Self {
        let runtime = runtime();
        let (stop, _) = oneshot::channel::<()>();
        let (addr, hub) = runtime.block_on(async {
            let hub = Hub::builder().shards(2).build().unwrap();
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let router = routes(&hub);
            tokio::spawn(async move { axum::serve(listener, router).await });
            (addr, hub)
        });
        Self { addr, hub, runtime: Some(runtime), _stop: stop }
    }

    /// Returns the server's runtime, for publishers that are tasks.
    pub(crate) fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().unwrap()
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let patient =
            async { tokio::time::timeout(PATIENCE, future).await.expect("the future did not complete") };
        self.runtime().block_on(patient)
    }

    /// Returns the number of members of a room.
    pub(crate) fn len(&self, room: &str) -> usize {
        self.block_on(self.hub.room(room).len()).unwrap()
    }

    /// Opens a WebSocket.
    pub(crate) fn tab(&self, path: &str) -> Tab {
        Tab::open(self.addr, path, &[]).unwrap()
    }

    /// Opens a WebSocket and waits until the server has performed `steps`.
    pub(crate) fn scripted(&self, path: &str, steps: &str) -> Tab {
        let mut tab = self.tab(path);
        tab.run(steps);
        tab
    }

    /// Returns the server's side of a connection with a [`Script`].
    pub(crate) fn connection(&self, tab: &mut Tab) -> Connection {
        tab.say("id");
        self.hub.connection(tab.text().parse().unwrap()).unwrap()
    }

    /// Opens an event stream.
    pub(crate) fn events(&self, path: &str) -> EventStream {
        EventStream::open(self.addr, path)
    }

    /// Sends a plain request and returns the whole response.
    pub(crate) fn http(&self, method: &str, path: &str) -> Reply {
        self.http_with(method, path, "")
    }

    /// Sends a plain request with additional header lines, each ended by `\r\n`.
    pub(crate) fn http_with(&self, method: &str, path: &str, headers: &str) -> Reply {
        let mut stream = connect(self.addr);
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: 0\r\n{headers}\r\n",
            self.addr
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        let (head, body) = all.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let runtime = self.runtime.take().unwrap();
        if !std::thread::panicking() {
            let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, self.hub.shutdown()).await });
            ended.expect("the shutdown did not end");
            let stats = self.hub.stats();
            assert_eq!(stats.opened, stats.closed, "exactly one on_close for each on_open");
            assert_eq!(stats.connections, 0);
        }
        runtime.shutdown_background();
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap()
}

/// The response to a plain request.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Status line and headers, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// A handler that performs the steps sent by its peer, separated by `;`, all within one call of `on_message`.
pub(crate) struct Script(pub(crate) Hub);

impl Handler for Script {
    async fn on_message(&self, conn: Connection, message: Message) -> Result<()> {
        for step in message.as_text().unwrap_or_default().split(';') {
            self.step(&conn, step.trim()).await?;
        }
        Ok(())
    }
}

impl Script {
    async fn step(&self, conn: &Connection, step: &str) -> Result<()> {
        let (word, rest) = step.split_once(' ').unwrap_or((step, ""));
        let rest = rest.to_owned();
        let pushed = match word {
            "join" => return conn.join(&rest),
            "leave" => conn.push(format!("left {}", conn.leave(&rest))),
            "len" => conn.push(format!("len {}", self.0.room(&rest).len().await?)),
            "id" => conn.push(conn.id().to_string()),
            "identify" => return conn.identify(&rest).await.map(|_| ()),
            "own" => conn.push(rest),
            "all" => self.0.broadcast(rest),
            "room" => {
                let (room, text) = rest.split_once(' ').unwrap_or_default();
                self.0.room(room).push(text.to_owned())
            }
            "task" => {
                let conn = conn.clone();
                tokio::spawn(async move { conn.push(rest) })
                    .await
                    .map_err(|error| Error::other(error.to_string()))?
            }
            "yield" => {
                tokio::task::yield_now().await;
                return Ok(());
            }
            "close" => conn.close(ripplecast::CloseCode::NORMAL, rest),
            _ => return Err(Error::other(format!("no such step: {step}"))),
        };
        if pushed.is_queued() { Ok(()) } else { Err(Error::other(format!("{step}: {pushed:?}"))) }
    }
}

/// A WebSocket client, by tungstenite.
pub(crate) struct Tab {
    pub(crate) socket: WebSocket<TcpStream>,
    /// The server's close frame: code and reason.
    pub(crate) close: Option<(u16, String)>,
}

impl Tab {
    /// Opens a WebSocket; the error is the response that rejects it.
    pub(crate) fn open(
        addr: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Box<RefusedBy>> {
        let mut request = format!("ws://{addr}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            let (name, value) =
                (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
            request.headers_mut().insert(name, value);
        }
        // The default of 128 KiB per client is too much for a thousand clients.
        let config = WebSocketConfig::default().read_buffer_size(4096);
        match client_with_config(request, connect(addr), Some(config)) {
            Ok((socket, _)) => Ok(Self { socket, close: None }),
            Err(HandshakeError::Failure(WsError::Http(response))) => Err(response),
            Err(other) => panic!("the handshake failed: {other}"),
        }
    }

    pub(crate) fn say(&mut self, text: impl Into<String>) {
        self.socket.send(WsMessage::text(text.into())).unwrap();
    }

    /// Lets a [`Script`] perform `steps` and waits until it is done. Messages received before are discarded.
    pub(crate) fn run(&mut self, steps: &str) {
        self.say(format!("{steps}; own done"));
        while self.text() != "done" {}
    }

    /// Receives the next message; `None` when the connection has ended.
    pub(crate) fn next(&mut self) -> Option<WsMessage> {
        let begin = Instant::now();
        loop {
            assert!(begin.elapsed() < PATIENCE, "only pings were received");
            match self.socket.read() {
                Ok(message @ (WsMessage::Text(_) | WsMessage::Binary(_))) => return Some(message),
                Ok(WsMessage::Close(frame)) => {
                    self.close = frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
                }
                Ok(_) => {}
                Err(WsError::Io(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    panic!("nothing was received");
                }
                Err(_) => return None,
            }
        }
    }

    /// Receives the next message, which must be text.
    pub(crate) fn text(&mut self) -> String {
        match self.next() {
            Some(WsMessage::Text(text)) => text.as_str().to_owned(),
            other => panic!("expected text, received {other:?}, {:?}", self.close),
        }
    }

    /// Receives all texts before `last`.
    pub(crate) fn until(&mut self, last: &str) -> Vec<String> {
        let mut log = Vec::new();
        loop {
            let text = self.text();
            if text == last {
                return log;
            }
            log.push(text);
        }
    }

    /// Receives all texts up to and including the first that starts with `last`.
    pub(crate) fn until_beginning(&mut self, last: &str) -> Vec<String> {
        let mut log = vec![self.text()];
        while !log.last().is_some_and(|text| text.starts_with(last)) {
            log.push(self.text());
        }
        log
    }

    /// Receives everything up to the end of the connection.
    pub(crate) fn rest(&mut self) -> Vec<String> {
        let mut log = Vec::new();
        while let Some(message) = self.next() {
            log.push(message.to_text().unwrap().to_owned());
        }
        log
    }

    /// Closes the connection with the complete handshake.
    pub(crate) fn close(mut self) {
        self.socket.close(None).unwrap();
        while self.next().is_some() {}
    }
}

/// The response that rejects a WebSocket.
pub(crate) type RefusedBy = tungstenite::http::Response<Option<Vec<u8>>>;

/// An event stream, parsed as the HTML standard (section 9.2) specifies.
pub(crate) struct EventStream {
    /// Status line and headers, in lower case.
    pub(crate) head: String,
    /// Whether the last chunk, or the end of a body without chunks, was received: the stream ended and was
    /// not cut off.
    pub(crate) ended: bool,
    reader: BufReader<TcpStream>,
    /// Whether the body is chunked; otherwise it lasts as long as the connection.
    chunked: bool,
    /// Unread bytes of the current chunk.
    chunk: usize,
    /// Whether the last byte was a carriage return, so that a following line feed belongs to the same line
    /// end.
    after_return: bool,
}

/// An item of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Comment(String),
    Event(Event),
}

/// A dispatched block of fields.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    /// `event:`, if any.
    pub(crate) name: Option<String>,
    /// All `data:` lines, joined by line feeds.
    pub(crate) data: Option<String>,
    pub(crate) retry: Option<String>,
}

impl EventStream {
    pub(crate) fn open(addr: SocketAddr, path: &str) -> Self {
        Self::open_on(connect(addr), path)
    }

    pub(crate) fn open_on(stream: TcpStream, path: &str) -> Self {
        let request = format!("GET {path} HTTP/1.1\r\nhost: here\r\naccept: text/event-stream\r\n\r\n");
        Self::send_on(stream, &request)
    }

    /// Opens a stream with any request.
    pub(crate) fn send_on(mut stream: TcpStream, request: &str) -> Self {
        stream.write_all(request.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "incomplete head: {head}");
        }
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        let chunked = head.contains("\r\ntransfer-encoding: chunked\r\n");
        assert!(chunked || head.contains("\r\nconnection: close"), "{head}");
        Self { head, ended: false, reader, chunked, chunk: 0, after_return: false }
    }

    /// Reads the next byte of the body.
    fn byte(&mut self) -> Option<u8> {
        if !self.chunked {
            let mut byte = [0];
            return match self.reader.read(&mut byte) {
                Ok(1) => Some(byte[0]),
                Ok(_) => {
                    self.ended = true;
                    None
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("nothing was received")
                }
                Err(_) => None,
            };
        }
        if self.chunk == 0 {
            if self.ended {
                return None;
            }
            let mut size = String::new();
            match self.reader.read_line(&mut size) {
                Ok(1..) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("nothing was received")
                }
                _ => return None,
            }
            self.chunk = usize::from_str_radix(size.trim_end(), 16).unwrap();
            self.ended = self.chunk == 0;
            if self.ended {
                return None;
            }
        }
        let mut byte = [0];
        self.reader.read_exact(&mut byte).ok()?;
        self.chunk -= 1;
        if self.chunk == 0 {
            let mut end = [0; 2];
            self.reader.read_exact(&mut end).ok()?;
            assert_eq!(&end, b"\r\n");
        }
        Some(byte[0])
    }

    /// Reads the next bytes of the body, in any chunks.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte().expect("the stream has ended")).collect()
    }

    /// Reads the body up to its end.
    pub(crate) fn rest(mut self) -> Vec<u8> {
        let rest = std::iter::from_fn(|| self.byte()).collect();
        assert!(self.ended, "the body was cut off");
        rest
    }

    /// Reads the next line, with any line end.
    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        loop {
            let byte = self.byte()?;
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\r' | b'\n' => return Some(String::from_utf8(line).unwrap()),
                byte => line.push(byte),
            }
        }
    }

    /// Reads the next comment or event; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Item> {
        let mut event = Event::default();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                if event != Event::default() {
                    return Some(Item::Event(event));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match field {
                "" => return Some(Item::Comment(value)),
                "id" => event.id = Some(value),
                "event" => event.name = Some(value),
                "retry" => event.retry = Some(value),
                "data" => match &mut event.data {
                    Some(data) => *data = format!("{data}\n{value}"),
                    None => event.data = Some(value),
                },
                other => panic!("an unknown field: {other}"),
            }
        }
    }

    /// Reads the next event that a browser would dispatch; `None` at the end.
    pub(crate) fn event(&mut self) -> Option<Event> {
        let begin = Instant::now();
        loop {
            assert!(begin.elapsed() < PATIENCE, "only comments were received");
            match self.next()? {
                Item::Event(event) if event.data.is_some() => return Some(event),
                _ => {}
            }
        }
    }

    /// Reads the data of the next event.
    pub(crate) fn data(&mut self) -> String {
        self.event().expect("the stream has ended").data.unwrap()
    }
}

pub(crate) fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Polls for something that the server does without notification.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(2)); // only to yield the CPU to the server
    }
}

/// Checks that `run` is a contiguous part of `whole`.
pub(crate) fn assert_contiguous(run: &[String], whole: &[String], whose: &str) {
    let Some(first) = run.first() else { return };
    let start =
        whole.iter().position(|text| text == first).unwrap_or_else(|| panic!("{whose}: {first} is missing"));
    let end = (start + run.len()).min(whole.len());
    assert_eq!(run, &whole[start..end], "{whose}");
}
