//! The accept loop from outside: slow, large and malformed request heads, keep-alive, and shutdown.

use std::{
    future::pending,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{ConnectInfo, Path},
    routing::{get, post},
};
use bytes::Bytes;
use ripplecast::{App, AppBuilder};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Notify, oneshot},
    task::JoinHandle,
};

const GET: &[u8] = b"GET /hello HTTP/1.1\r\nhost: here\r\n\r\n";
/// Far longer than anything here takes, so that a hang fails the test before the harness stops it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server with some routes: `/hello` reports its client, `/slow` answers when released, `/pieces` starts
/// its response and continues when released, `/large/{len}` answers with that many bytes, and `/body` counts
/// the bytes of its request.
struct Server {
    addr: SocketAddr,
    /// Notified when `/slow` has started.
    begun: Arc<Notify>,
    /// Lets `/slow` answer.
    go_on: Arc<Notify>,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Server {
    async fn start(settings: impl FnOnce(AppBuilder) -> AppBuilder) -> Self {
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (begin, wait) = (Arc::clone(&begun), Arc::clone(&go_on));
        let slow = async move || {
            begin.notify_one();
            wait.notified().await;
            "slow"
        };
        let hello = async |ConnectInfo(peer): ConnectInfo<SocketAddr>| format!("hello {peer}");
        let app = settings(App::builder()).build().await.unwrap();
        let large = async |Path(len): Path<usize>| "x".repeat(len);
        let count = async |body: Bytes| body.len().to_string();
        let wait = Arc::clone(&go_on);
        let pieces = async move || {
            let wait = Arc::clone(&wait);
            Body::from_stream(futures_util::stream::unfold(0, move |piece| {
                let wait = Arc::clone(&wait);
                async move {
                    match piece {
                        0 => {}
                        1 => wait.notified().await,
                        _ => return None,
                    }
                    Some((Ok::<_, std::io::Error>(format!("piece {piece};")), piece + 1))
                }
            }))
        };
        let app = app.route("/hello", get(hello)).route("/slow", get(slow)).route("/large/{len}", get(large));
        let app = app.route("/body", post(count)).route("/pieces", get(pieces));
        let bound = app.bind(("127.0.0.1".parse().unwrap(), 0)).await.unwrap();
        let addr = bound.local_addr();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let ended = tokio::spawn(async { bound.serve_with_shutdown(shutdown).await.unwrap() });
        Self { addr, begun, go_on, stop, ended }
    }

    async fn client(&self) -> Client {
        Client(TcpStream::connect(self.addr).await.unwrap())
    }

    /// Checks that the server still answers.
    async fn check(&self) {
        let mut client = self.client().await;
        client.send(GET).await;
        assert!(client.answer().await.contains("\r\n\r\nhello"));
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        patiently(self.ended).await.unwrap();
    }
}

struct Client(TcpStream);

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Reads exactly one response.
    async fn answer(&mut self) -> String {
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\n") {
            got.push(patiently(self.0.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(got).unwrap();
        let length = head.split_once("content-length: ").unwrap().1.split_once("\r\n").unwrap().0;
        let mut body = vec![0; length.parse().unwrap()];
        patiently(self.0.read_exact(&mut body)).await.unwrap();
        head + std::str::from_utf8(&body).unwrap()
    }

    /// Reads until the server closes or resets the connection.
    async fn rest(mut self) -> String {
        let mut got = Vec::new();
        while let Ok(1..) = patiently(self.0.read_buf(&mut got)).await {}
        String::from_utf8(got).unwrap()
    }
}

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("the future did not complete")
}

#[tokio::test]
async fn an_incomplete_head_is_cut_off_after_the_header_timeout() {
    let limit = Duration::from_millis(150);
    let server = Server::start(|app| app.header_timeout(limit)).await;
    for part in ["", "G", "GET /hello HTTP/1.1\r\n", "GET /hello HTTP/1.1\r\nhost: here\r\n"] {
        let begin = Instant::now();
        let mut client = server.client().await;
        client.send(part.as_bytes()).await;
        assert!(!client.rest().await.contains("200 OK"), "{part:?}");
        assert!(begin.elapsed() >= limit, "{part:?} was cut off early");
    }
    server.check().await;
    server.stop().await;
}

#[tokio::test]
async fn single_bytes_do_not_extend_the_header_timeout() {
    let server = Server::start(|app| app.header_timeout(Duration::from_millis(150))).await;
    let (mut read, mut write) = server.client().await.0.into_split();
    let drip = tokio::spawn(async move {
        while write.write_all(b"x-drip: 1\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut got = Vec::new();
    while let Ok(1..) = patiently(read.read_buf(&mut got)).await {}
    patiently(drip).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_rejected() {
    let server = Server::start(|app| app.max_header(4096)).await;
    let head = |filler: usize| {
        let filler = "a".repeat(filler);
        format!("GET /hello HTTP/1.1\r\nhost: here\r\nx-filler: {filler}\r\n\r\n").into_bytes()
    };
    let mut client = server.client().await;
    client.send(&head(4096)).await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // The server closes before it has read all of this, and the reset may overtake its response.
    let mut client = server.client().await;
    let _ = client.0.write_all(&head(1_000_000)).await;
    let answer = client.rest().await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // Never finished: nothing is stored above the limit.
    let mut client = server.client().await;
    client.send(b"GET /hello HTTP/1.1\r\nx-filler: ").await;
    while client.0.write_all(&[b'a'; 1024]).await.is_ok() {}

    let mut client = server.client().await;
    client.send(&head(3900)).await;
    assert!(client.answer().await.contains("\r\n\r\nhello"));
    server.stop().await;
}

#[tokio::test]
async fn a_head_of_many_small_fields_is_accepted_up_to_the_limit() {
    let server = Server::start(|app| app).await;
    for (fields, status) in [(99, "200"), (100, "200"), (101, "431")] {
        let more = "x:1\r\n".repeat(fields - 1);
        let mut client = server.client().await;
        client.send(format!("GET /hello HTTP/1.1\r\nhost: here\r\n{more}\r\n").as_bytes()).await;
        client.0.shutdown().await.unwrap();
        let answer = client.rest().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{fields}: {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_half_closes_after_its_request_receives_the_whole_response() {
    const LEN: usize = 3 << 20; // far more than socket buffers hold
    let server = Server::start(|app| app.header_timeout(Duration::from_secs(3600))).await;
    for _ in 0..50 {
        let mut client = server.client().await;
        client.send(GET).await;
        client.0.shutdown().await.unwrap();
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\r\n\r\nhello"), "{answer}");
    }
    let mut client = server.client().await;
    client.send(format!("GET /large/{LEN} HTTP/1.1\r\nhost: here\r\n\r\n").as_bytes()).await;
    client.0.shutdown().await.unwrap();
    let answer = client.rest().await;
    assert_eq!(answer.split_once("\r\n\r\n").unwrap().1.len(), LEN);
    // The client half-closes while the handler waits.
    let mut client = server.client().await;
    client.send(b"GET /slow HTTP/1.1\r\nhost: here\r\n\r\n").await;
    server.begun.notified().await;
    client.0.shutdown().await.unwrap();
    server.check().await;
    server.go_on.notify_one();
    assert!(client.rest().await.ends_with("slow"));
    // A connection without a pending response ends with its client's side.
    let mut client = server.client().await;
    client.send(GET).await;
    assert!(client.answer().await.contains("hello"));
    client.0.shutdown().await.unwrap();
    assert_eq!(client.rest().await, "");
    server.stop().await;
}

#[tokio::test]
async fn a_connection_serves_many_requests_and_reports_its_peer() {
    let server = Server::start(|app| app).await;
    let mut client = server.client().await;
    let hello = format!("hello {}", client.0.local_addr().unwrap());
    for _ in 0..3 {
        client.send(GET).await;
        assert!(client.answer().await.ends_with(&hello));
    }
    // Two at once, answered in order.
    client.send(&[GET, GET].concat()).await;
    for _ in 0..2 {
        assert!(client.answer().await.ends_with(&hello));
    }
    client.send(b"GET /hello HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").await;
    assert!(client.rest().await.ends_with(&hello));
    server.stop().await;
}

#[tokio::test]
async fn aborted_connections_and_invalid_requests_do_no_harm() {
    let server = Server::start(|app| app).await;
    for _ in 0..50 {
        let client = server.client().await;
        // Closed with a reset, before or after it was accepted.
        client.0.set_zero_linger().unwrap();
        drop(client);
        let mut client = server.client().await;
        client.send(b"GET /slow HTT").await;
        client.0.set_zero_linger().unwrap();
    }
    for nonsense in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"\0\0\0\0\r\n\r\n", b"SSH-2.0-x\r\n\r\n"]
    {
        let mut client = server.client().await;
        client.send(nonsense).await;
        let answer = client.rest().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    server.check().await;
    server.stop().await;
}

#[tokio::test]
async fn shutdown_lets_requests_finish_and_closes_idle_connections() {
    let server = Server::start(|app| app).await;
    let mut busy = server.client().await;
    busy.send(b"GET /slow HTTP/1.1\r\nhost: here\r\n\r\n").await;
    server.begun.notified().await;

    let mut idle = server.client().await;
    idle.send(GET).await;
    assert!(idle.answer().await.contains("\r\n\r\nhello"));
    let mut half = server.client().await;
    half.send(b"GET /hello HTTP/1.1\r\nho").await;
    let mut second_half = server.client().await;
    second_half.send(GET).await;
    assert!(second_half.answer().await.contains("\r\n\r\nhello"));
    second_half.send(b"GET /hello HTTP/1.1\r\nho").await;
    let silent = server.client().await;
    // By now the loop has accepted all of them.
    server.check().await;

    let (addr, go_on) = (server.addr, Arc::clone(&server.go_on));
    let stopping = tokio::spawn(server.stop());
    // These end although the request in flight still delays the shutdown.
    for client in [idle, half, second_half, silent] {
        assert_eq!(client.rest().await, "");
    }
    assert!(TcpStream::connect(addr).await.is_err(), "still listening");
    assert!(!stopping.is_finished(), "the shutdown did not wait for the request in flight");
    go_on.notify_one();
    let answer = busy.rest().await;
    assert!(answer.contains("connection: close") && answer.ends_with("slow"), "{answer}");
    patiently(stopping).await.unwrap();
}

#[tokio::test]
async fn a_panicking_handler_closes_only_its_own_connection() {
    let app = App::builder().build().await.unwrap();
    let app = app
        .route("/panic", get(async || -> () { panic!("a test's own panic") }))
        .route("/hello", get("hello"));
    let bound = app.bind(("127.0.0.1".parse().unwrap(), 0)).await.unwrap();
    let addr = bound.local_addr();
    let serving = tokio::spawn(bound.serve_with_shutdown(pending()));
    let mut client = Client(TcpStream::connect(addr).await.unwrap());
    client.send(b"GET /panic HTTP/1.1\r\nhost: here\r\n\r\n").await;
    assert_eq!(client.rest().await, "");
    let mut client = Client(TcpStream::connect(addr).await.unwrap());
    client.send(GET).await;
    assert!(client.answer().await.contains("\r\n\r\nhello"));
    serving.abort();
}

#[tokio::test]
async fn a_connection_above_the_limit_waits_until_another_ends() {
    let server = Server::start(|app| app.max_http_connections(1)).await;
    let mut first = server.client().await;
    first.send(GET).await;
    assert!(first.answer().await.contains("200 OK"));
    let mut second = server.client().await;
    second.send(GET).await;
    first.send(GET).await;
    assert!(first.answer().await.contains("200 OK"), "an open connection is kept while others wait");
    assert!(second.0.try_read(&mut [0]).is_err(), "the second has no place yet");
    drop(first);
    assert!(second.answer().await.contains("200 OK"));
    drop(second);
    server.stop().await;
}

/// A limit for tests that wait until it expires.
const SHORT: Duration = Duration::from_millis(150);

#[tokio::test]
async fn a_body_that_comes_too_slowly_gets_408_and_the_connection_ends() {
    let server = Server::start(|app| app.body_timeout(SHORT)).await;
    for rest in [
        "content-length: 10\r\n\r\n",
        "content-length: 10\r\n\r\nx",
        "transfer-encoding: chunked\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "content-length: 10\r\nexpect: 100-continue\r\n\r\n",
    ] {
        let begin = Instant::now();
        let mut client = server.client().await;
        client.send(format!("POST /body HTTP/1.1\r\nhost: here\r\n{rest}").as_bytes()).await;
        let answer = client.rest().await;
        let answer = answer.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(&answer);
        assert!(answer.starts_with("HTTP/1.1 408 "), "{rest:?}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert!(begin.elapsed() >= SHORT, "{rest:?} was cut off early");
    }
    server.check().await;
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_drips_is_cut() {
    let server = Server::start(|app| app.body_timeout(SHORT)).await;
    let mut client = server.client().await;
    client.send(b"POST /body HTTP/1.1\r\nhost: here\r\ncontent-length: 1000000\r\n\r\n").await;
    let (mut reader, mut writer) = client.0.split();
    let mut answer = Vec::new();
    let drip = async {
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // Bytes that are still arriving may reset the connection before the response is read.
    let read = async {
        let _ = reader.read_to_end(&mut answer).await;
    };
    patiently(async { tokio::join!(drip, read) }).await;
    assert!(!String::from_utf8(answer).unwrap().contains("200 OK"));
    server.check().await;
    server.stop().await;
}

#[tokio::test]
async fn a_reader_that_takes_too_little_is_cut_and_gives_its_place_back() {
    let server = Server::start(|app| app.write_timeout(SHORT).max_http_connections(1)).await;
    for reads in [false, true] {
        let mut client = server.client().await;
        client.send(format!("GET /large/{LARGE} HTTP/1.1\r\nhost: here\r\n\r\n").as_bytes()).await;
        // It holds the only place until it is cut off.
        let cut = server.check();
        if reads {
            // An occasional byte. What arrived before the connection is cut off can still be read.
            let drip = async {
                while let Ok(1) = client.0.read(&mut [0]).await {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                pending::<()>().await;
            };
            tokio::select! {
                () = drip => {}
                () = cut => {}
            }
        } else {
            cut.await;
        }
        assert!(client.rest().await.len() < LARGE, "the whole response arrived");
    }
    server.stop().await;
}

/// A response larger than any socket buffers.
const LARGE: usize = 64 << 20;

#[tokio::test]
async fn a_slow_application_is_not_cut_off() {
    let server = Server::start(|app| app.body_timeout(SHORT).write_timeout(SHORT)).await;
    let mut slow = server.client().await;
    slow.send(b"GET /slow HTTP/1.1\r\nhost: here\r\n\r\n").await;
    patiently(server.begun.notified()).await;
    tokio::time::sleep(3 * SHORT).await;
    server.go_on.notify_one();
    assert!(slow.answer().await.ends_with("slow"));
    let mut pieces = server.client().await;
    pieces.send(b"GET /pieces HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").await;
    tokio::time::sleep(3 * SHORT).await;
    server.go_on.notify_one();
    let answer = pieces.rest().await;
    assert!(answer.contains("piece 0;") && answer.contains("piece 1;"), "{answer}");
    drop(slow);
    server.stop().await;
}

#[tokio::test]
async fn requests_behind_a_proxy_count_for_the_address_that_it_forwards() {
    let server = Server::start(|app| {
        app.trusted_proxies("127.0.0.1".parse().unwrap()).max_http_connections_per_address(2)
    })
    .await;
    let ask = async |path: String, from: &str| {
        let mut client = server.client().await;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: here\r\nx-forwarded-for: 9.9.9.9, {from}\r\n\r\n");
        client.send(request.as_bytes()).await;
        client
    };
    // One request that its handler holds, and one that its reader does not read.
    let mut held = ask("/slow".into(), "192.0.2.7").await;
    patiently(server.begun.notified()).await;
    let unread = ask(format!("/large/{LARGE}"), "192.0.2.7").await;
    patiently(unread.0.readable()).await.unwrap();
    let refused = ask("/hello".into(), "192.0.2.7").await.answer().await;
    assert!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("from your address"), "{refused}");
    assert!(ask("/hello".into(), "192.0.2.8").await.answer().await.contains("200 OK"), "a different address");
    // The proxy's own requests are not counted.
    server.check().await;
    server.go_on.notify_one();
    assert!(held.answer().await.ends_with("slow"));
    let mut again = ask("/hello".into(), "192.0.2.7").await;
    assert!(
        again.answer().await.contains("200 OK"),
        "the place is free again, and a connection is not a request"
    );
    drop((held, again, unread));
    server.stop().await;
}
