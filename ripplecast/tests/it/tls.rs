//! TLS of our own server: the handshake, `https://` and `wss://`, new certificates, and errors.

mod files;

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::ConnectInfo,
    routing::{get, post},
};
use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use ripplecast::{App, AppBuilder, Error, Hub, Tls, sse, ws};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle, time::timeout};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned, SupportedProtocolVersion,
    crypto::ring,
    pki_types::CertificateDer,
    version::{TLS12, TLS13},
};
use tungstenite::{Message, WebSocket};

use crate::support::{
    Dir, Echo, PATIENCE, check_echo, close_frame, dial, ending, eventually, read_close, receive, text,
    upgrade,
};

type Stream = StreamOwned<ClientConnection, TcpStream>;

// ----- certificates -----

/// A certificate authority for tests.
pub(crate) struct CertAuthority(CertifiedIssuer<'static, KeyPair>);

impl CertAuthority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Issues a certificate for this machine, by name and address.
    pub(crate) fn issue(&self) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        // OpenSSL treats a certificate as self-signed if its issuer has the same name.
        params.distinguished_name.push(DnType::CommonName, "localhost");
        let cert = params.signed_by(&key, &self.0).unwrap();
        Pair { der: cert.der().clone(), cert: cert.pem() + &self.certificate(), key: key.serialize_pem() }
    }

    /// Returns its own certificate as PEM.
    pub(crate) fn certificate(&self) -> String {
        self.0.pem()
    }

    /// Returns a client configuration that trusts only this authority.
    fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(versions).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// A certificate and its key.
pub(crate) struct Pair {
    /// As sent.
    der: CertificateDer<'static>,
    /// The certificate with its chain, as PEM.
    pub(crate) cert: String,
    /// The private key as PEM.
    pub(crate) key: String,
}

impl Dir {
    fn put_pair(&self, pair: &Pair) {
        self.put("cert.pem", &pair.cert);
        self.put("key.pem", &pair.key);
    }
}

// ----- a server and its clients -----

/// A server with TLS and its own runtime: an echo at `/ws`, and a page at `/`.
struct Secure {
    addr: SocketAddr,
    hub: Hub,
    tls: Tls,
    echo: Echo,
    dir: Dir,
    authority: CertAuthority,
    /// The certificate that the server started with.
    first: Pair,
    /// The clients' configuration, which caches earlier sessions.
    client: Arc<ClientConfig>,
    runtime: Runtime,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Secure {
    fn start() -> Self {
        Self::start_with(|app| app, |echo| echo)
    }

    fn start_with(
        settings: impl FnOnce(AppBuilder) -> AppBuilder,
        endpoint: impl FnOnce(ws::Endpoint<Echo>) -> ws::Endpoint<Echo>,
    ) -> Self {
        let (authority, dir, echo) = (CertAuthority::new(), Dir::new(), Echo::default());
        let first = authority.issue();
        dir.put_pair(&first);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async {
            let _ = stopped.await;
        };
        let (addr, hub, tls, ended) = runtime.block_on(async {
            let app = settings(App::builder().tls(dir.file("cert.pem"), dir.file("key.pem")));
            let app = app.build().await.unwrap();
            let tls = app.tls().unwrap();
            let hello = async |ConnectInfo(peer): ConnectInfo<SocketAddr>| format!("hello {peer}");
            let app = app.ws("/ws", endpoint(ws::endpoint(echo.clone()))).route("/", get(hello));
            let app = app.route("/", post(async |body: Bytes| body.len().to_string()));
            let app = app.route("/large", get(async || "x".repeat(LARGE)));
            let app = app.sse("/events", sse::room("r").outbox(64 << 20));
            let bound = app.bind("127.0.0.1:0").await.unwrap();
            let (addr, hub) = (bound.local_addr(), bound.hub());
            let serve = async { bound.serve_with_shutdown(stopped).await.unwrap() };
            (addr, hub, tls, tokio::spawn(serve))
        });
        let client = authority.client(&[&TLS13, &TLS12]);
        Self { addr, hub, tls, echo, dir, authority, first, client, runtime, stop, ended }
    }

    /// Opens a connection and completes its handshake.
    fn dial(&self) -> Stream {
        self.dial_as(&self.client)
    }

    fn dial_as(&self, client: &Arc<ClientConfig>) -> Stream {
        shake(self.addr, client).unwrap()
    }

    /// Opens a WebSocket.
    fn connect(&self) -> WebSocket<Stream> {
        tungstenite::client("wss://localhost/ws", self.dial()).unwrap().0
    }

    #[track_caller]
    fn check(&self) {
        let answer = ask(&mut self.dial());
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\r\n\r\nhello "), "{answer}");
    }

    fn reload(&self) -> ripplecast::Result<()> {
        self.runtime.block_on(self.tls.reload())
    }

    /// Shuts down and drops the runtime at once, as a process does when it ends.
    fn stop(self) {
        let Self { hub, runtime, stop, ended, .. } = self;
        let _ = stop.send(());
        let ended = runtime.block_on(async { timeout(PATIENCE, ended).await });
        runtime.shutdown_background();
        ended.expect("the server did not stop").unwrap();
        let stats = hub.stats();
        assert_eq!((stats.connections, stats.closed), (0, stats.opened), "{stats:?}");
    }
}

/// Connects and completes the handshake.
fn shake(addr: SocketAddr, client: &Arc<ClientConfig>) -> io::Result<Stream> {
    let mut socket = dial(addr);
    let mut tls = ClientConnection::new(client.clone(), "localhost".try_into().unwrap()).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(tls, socket))
}

/// Returns the certificate that the server presented.
fn certificate(stream: &Stream) -> CertificateDer<'static> {
    stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
}

/// Requests the page and reads to the end of the connection, which TLS must signal, too.
#[track_caller]
fn ask(stream: &mut Stream) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Reads until the server closes or resets a raw socket.
fn rest(mut socket: &TcpStream) -> Vec<u8> {
    let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return got,
            Ok(n) => got.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return got,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Returns the first bytes that a client sends.
fn client_hello(client: &Arc<ClientConfig>) -> Vec<u8> {
    let mut tls = ClientConnection::new(client.clone(), "localhost".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    hello
}

// ----- connections that succeed -----

#[test]
fn a_request_is_answered_over_both_versions() {
    let site = Secure::start();
    for (version, name) in [(&TLS13, ProtocolVersion::TLSv1_3), (&TLS12, ProtocolVersion::TLSv1_2)] {
        let client = site.authority.client(&[version]);
        for resumed in [false, true] {
            let mut stream = site.dial_as(&client);
            assert_eq!(stream.conn.protocol_version(), Some(name));
            assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
            assert_eq!(certificate(&stream), site.first.der);
            let hello = format!("\r\n\r\nhello {}", stream.sock.local_addr().unwrap());
            assert!(ask(&mut stream).ends_with(&hello));
            let full = stream.conn.handshake_kind() == Some(tokio_rustls::rustls::HandshakeKind::Full);
            assert_eq!(full, !resumed, "{name:?}");
        }
    }
    // A client without a common version receives an alert.
    let mut h2 = (*site.client).clone();
    h2.alpn_protocols = vec![b"h2".to_vec()];
    let error = shake(site.addr, &Arc::new(h2)).unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    site.check();
    site.stop();
}

#[test]
fn a_plain_page_may_not_connect_over_tls() {
    let site = Secure::start();
    for (origin, expected) in [("http://here.example", "403"), ("https://here.example", "101")] {
        let mut stream = site.dial();
        let request = crate::support::request("/ws", &format!("Origin: {origin}\r\n"));
        stream.write_all(request.as_bytes()).unwrap();
        let head = crate::support::head(&mut stream);
        assert_eq!(head.split(' ').nth(1), Some(expected), "{origin}: {head}");
    }
    site.stop();
}

#[test]
fn hsts_is_sent_only_if_it_is_set() {
    const FIELD: &str = "strict-transport-security";
    let site = Secure::start();
    let answer = ask(&mut site.dial());
    assert!(!answer.to_ascii_lowercase().contains(FIELD), "off by default: {answer}");
    site.stop();

    let site = Secure::start_with(|app| app.hsts(Duration::from_secs(3_600)), |echo| echo);
    let answer = ask(&mut site.dial());
    assert!(answer.contains(&format!("\r\n{FIELD}: max-age=3600\r\n")), "{answer}");
    site.stop();

    // Browsers ignore the header over plain HTTP, so a server with this setting but without TLS does not
    // start.
    let built = Runtime::new().unwrap().block_on(App::builder().hsts(Duration::from_secs(3_600)).build());
    let said = built.unwrap_err().to_string();
    assert!(said.contains("RIPPLECAST_HSTS") && said.contains("3600") && said.contains("tls"), "{said}");
}

#[test]
fn a_websocket_echoes_small_and_large_messages() {
    let site = Secure::start_with(|app| app.hub(|hub| hub.shards(1)), |echo| echo.max_message(4 << 20));
    let mut socket = site.connect();
    for n in 0..100 {
        socket.send(Message::text(format!("{n}"))).unwrap();
    }
    for n in 0..100 {
        assert_eq!(text(&mut socket), format!("{n}"));
    }
    // More than the buffers in between hold, one after the other and in both directions at once.
    let large: Vec<u8> = (0..=250).cycle().take(900_000).collect();
    for _ in 0..3 {
        socket.send(Message::binary(large.clone())).unwrap();
        assert_eq!(receive(&mut socket), Message::binary(large.clone()));
    }
    socket.send(Message::Ping("?".into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong("?".into()));

    // Bytes after the request in the same record are not lost.
    let mut raw = site.dial();
    let early =
        [crate::support::request("/ws", "").as_bytes(), &crate::support::frame(0x81, b"early")].concat();
    raw.write_all(&early).unwrap();
    assert!(crate::support::head(&mut raw).starts_with("http/1.1 101 "));
    assert_eq!(crate::support::read_frame(&mut raw).unwrap(), (0x81, b"early".to_vec()));
    drop((socket, raw));
    site.stop();
}

#[test]
fn a_websocket_is_closed_from_either_side() {
    let site = Secure::start();
    let mut socket = site.connect();
    socket
        .close(Some(tungstenite::protocol::CloseFrame { code: 4001.into(), reason: "bye".into() }))
        .unwrap();
    assert_eq!(ending(&mut socket), (4001, "bye".to_owned()));
    assert_eq!(site.echo.closed(0), (4001, "bye".to_owned()));

    let mut socket = site.connect();
    let conn = site.echo.opened(1);
    assert!(conn.push("last words").is_queued());
    assert!(conn.close(ripplecast::CloseCode::application(4002).unwrap(), "moved").is_queued());
    assert_eq!(text(&mut socket), "last words");
    assert_eq!(ending(&mut socket), (4002, "moved".to_owned()));
    assert_eq!(site.echo.closed(1), (4002, "moved".to_owned()));

    // TLS ends after the close frame: without that, reading to the end would be an error.
    let mut raw = site.dial();
    upgrade(&mut raw, "/ws");
    raw.write_all(&close_frame(1000, "")).unwrap();
    assert_eq!(read_close(&mut raw).0, 1000);
    assert_eq!(site.echo.closed(2).0, 1000);

    // A peer that disconnects without a close frame: with the end of TLS, with only that of TCP, and with a
    // reset.
    let mut polite = site.dial();
    upgrade(&mut polite, "/ws");
    polite.conn.send_close_notify();
    polite.flush().unwrap();
    assert_eq!(site.echo.closed(3).0, 1006);
    let mut curt = site.dial();
    upgrade(&mut curt, "/ws");
    curt.sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(site.echo.closed(4).0, 1006);
    let mut rude = site.dial();
    upgrade(&mut rude, "/ws");
    crate::support::reset(rude.sock);
    assert_eq!(site.echo.closed(5).0, 1006);
    site.stop();
}

#[test]
fn shutdown_closes_everyone_with_1001_and_ends_tls() {
    let site = Secure::start();
    let clients: Vec<_> = (0..200).map(|_| site.connect()).collect();
    eventually("all connections to open", || site.hub.stats().opened == 200);
    let mut idle = site.dial();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert!(crate::support::head(&mut idle).starts_with("http/1.1 200 "));
    let unused = site.dial();
    let unshaken = dial(site.addr);
    site.check(); // by now all of them are accepted
    let addr = site.addr;
    std::thread::scope(|scope| {
        // The clients answer the close and must then see an orderly end, although the process ends at once.
        let endings: Vec<_> =
            clients.into_iter().map(|mut client| scope.spawn(move || ending(&mut client).0)).collect();
        site.stop();
        for ending in endings {
            assert_eq!(ending.join().unwrap(), 1001);
        }
    });
    assert_eq!(rest(&unshaken), b"");
    rest(&unused.sock);
    let mut body = String::new();
    idle.read_to_string(&mut body).unwrap();
    assert!(body.starts_with("hello "), "{body}");
    assert!(TcpStream::connect(addr).is_err(), "still listening");
}

#[test]
fn a_slow_reader_uses_its_outbox_without_affecting_others() {
    let site = Secure::start_with(|app| app.hub(|hub| hub.shards(1)), |echo| echo.outbox(64 << 10));
    let slow = site.connect();
    let slow_conn = site.echo.opened(0);
    let mut quick = site.connect();
    // This client never reads. The buffers in between are bounded, and so is its outbox.
    let chunk = vec![b'x'; 32 << 10];
    let mut pushed = 0;
    while slow_conn.push(chunk.clone()).is_queued() {
        pushed += chunk.len();
        check_echo(&mut quick);
        assert!(pushed < 64 << 20, "the outbox is not bounded");
    }
    assert_eq!(site.hub.stats().slow_consumers, 1);
    check_echo(&mut quick);
    drop(slow);
    assert_eq!(site.echo.closed(0), (1013, "slow consumer".to_owned()));
    check_echo(&mut quick);
    drop(quick);
    site.stop();
}

/// A response larger than any socket buffers.
const LARGE: usize = 64 << 20;

#[test]
fn slow_bodies_and_slow_readers_are_cut_over_tls_too() {
    let limit = Duration::from_millis(150);
    let settings = |app: AppBuilder| app.body_timeout(limit).write_timeout(limit).max_http_connections(1);
    let site = Secure::start_with(settings, |echo| echo);
    let mut slow = site.dial();
    slow.write_all(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nx").unwrap();
    let mut answer = String::new();
    let _ = slow.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    drop(slow);
    let mut slow = site.dial();
    slow.write_all(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    site.check(); // the second request gets the only place once the first is cut off
    let mut answer = Vec::new();
    assert!(slow.read_to_end(&mut answer).is_err() && answer.len() < LARGE);
    site.stop();
}

#[test]
fn a_paused_reader_of_an_event_stream_over_tls_receives_everything() {
    let limit = Duration::from_millis(100);
    let site = Secure::start_with(|app| app.write_timeout(limit), |echo| echo);
    let mut stream = site.dial();
    stream.write_all(b"GET /events HTTP/1.0\r\n\r\n").unwrap();
    eventually("the stream is a member", || site.hub.room("r").len_here() == 1);
    let text = "x".repeat(1 << 20);
    for _ in 0..16 {
        assert!(site.hub.room("r").push(text.clone()).is_queued());
    }
    assert!(site.hub.room("r").push("last").is_queued());
    std::thread::sleep(5 * limit);
    let mut got = Vec::new();
    while !got.ends_with(b"data: last\n\n") {
        let mut buffer = [0; 1 << 14];
        let read = stream.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "the stream has ended");
        got.extend_from_slice(&buffer[..read]);
    }
    assert!(got.len() > 16 << 20);
    drop(stream);
    site.stop();
}

// ----- invalid and incomplete input -----

#[test]
fn input_that_is_not_tls_is_closed_without_harm() {
    let site = Secure::start();
    for nonsense in [&b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"[..], b"\0\0\0\0\0\0\0\0", b"SSH-2.0-x\r\n"]
    {
        let mut socket = dial(site.addr);
        socket.write_all(nonsense).unwrap();
        let answer = rest(&socket);
        // At most an alert: a record of type 21.
        assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    }
    // Nor does a client that disconnects during the handshake.
    let hello = client_hello(&site.client);
    for len in [1, 5, hello.len() - 1, hello.len()] {
        let mut socket = dial(site.addr);
        socket.write_all(&hello[..len]).unwrap();
        crate::support::reset(socket);
    }
    // A client that trusts a different authority closes the connection itself.
    let stranger = CertAuthority::new().client(&[&TLS13]);
    let error = shake(site.addr, &stranger).unwrap_err().to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    site.check();
    site.stop();
}

#[test]
fn an_incomplete_client_hello_is_cut_off_without_delaying_others() {
    let limit = Duration::from_millis(150);
    let site = Secure::start_with(|app| app.header_timeout(limit), |echo| echo);
    let hello = client_hello(&site.client);
    for len in [0, 1, 5, hello.len() / 2, hello.len() - 1, hello.len()] {
        let begin = Instant::now();
        let mut socket = dial(site.addr);
        socket.write_all(&hello[..len]).unwrap();
        rest(&socket);
        assert!(begin.elapsed() >= limit, "{len} bytes were cut off early");
    }
    // The time limit of the head starts when the handshake is complete.
    let mut shaken = None;
    eventually("a handshake within the limit, which may take a busy machine several attempts", || {
        let begin = Instant::now();
        shaken = shake(site.addr, &site.client).ok().map(|half| (begin, half));
        shaken.is_some()
    });
    let (begin, mut half) = shaken.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\nho").unwrap();
    let mut answer = Vec::new();
    let _ = half.read_to_end(&mut answer); // cut off, so without the end of TLS
    assert!(begin.elapsed() >= limit);
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    site.stop();

    // With the default limit they are still open while others are served, and do not delay the shutdown.
    let site = Secure::start();
    let half = |n: usize| {
        let mut socket = dial(site.addr);
        socket.write_all(&hello[..n * hello.len() / 50]).unwrap();
        socket
    };
    let halves: Vec<_> = (0..50).map(half).collect();
    site.check();
    site.stop();
    for socket in &halves {
        rest(socket);
    }
}
