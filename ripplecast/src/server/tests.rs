use std::{future::ready, net::SocketAddr};

use axum::{body::Body, response::Response, routing::get};
use http::{StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Notify, oneshot},
    task::JoinHandle,
};

use super::*;

/// A server on a free loopback port.
struct RunningServer {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl RunningServer {
    async fn start(server: HttpServer, router: Router) -> Self {
        Self::start_with(server, router, ready(())).await
    }

    async fn start_with(
        server: HttpServer,
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

/// Reads until `text` has arrived.
async fn read_until(client: &mut TcpStream, text: &str) -> String {
    let mut got = Vec::new();
    while !String::from_utf8_lossy(&got).contains(text) {
        let read = client.read_buf(&mut got).await.unwrap();
        assert_ne!(read, 0, "closed after {:?}", String::from_utf8_lossy(&got));
    }
    String::from_utf8(got).unwrap()
}

#[tokio::test]
async fn an_upgrade_hands_over_the_raw_socket_and_releases_its_place() {
    async fn upgrade(mut request: axum::extract::Request) -> Response {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let parts = upgrade.await.unwrap().downcast::<TokioIo<pace::Paced<TcpStream>>>().unwrap();
            let mut stream = parts.io.into_inner().into_inner();
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
    let server = RunningServer::start(HttpServer::default().max_connections(1), router).await;
    let mut upgraded = server.client().await;
    let head = "GET /echo HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nearly";
    upgraded.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut upgraded, "\r\n\r\nearly").await;

    // The only place is free again while the upgraded socket stays open.
    let mut plain = server.client().await;
    plain.write_all(GET).await.unwrap();
    read_until(&mut plain, "hello").await;
    drop(plain);

    upgraded.write_all(b"late").await.unwrap();
    assert_eq!(read_until(&mut upgraded, "late").await, "late");
    server.stop().await;
}

#[tokio::test]
async fn connections_above_the_limit_wait_for_a_place() {
    let router = Router::new().route("/", get(async || "hello"));
    let server = RunningServer::start(HttpServer::default().max_connections(2), router).await;
    let mut first = server.client().await;
    let mut second = server.client().await;
    for client in [&mut first, &mut second] {
        client.write_all(GET).await.unwrap();
        read_until(client, "hello").await;
    }
    let mut third = server.client().await;
    third.write_all(GET).await.unwrap();
    // The two accepted ones continue to work until one of them closes.
    first.write_all(GET).await.unwrap();
    read_until(&mut first, "hello").await;
    let mut byte = [0];
    let early = timeout(Duration::from_millis(50), third.peek(&mut byte)).await;
    assert!(early.is_err(), "served above the limit");
    drop(second);
    read_until(&mut third, "hello").await;
    server.stop().await;
}

#[tokio::test]
async fn neither_a_request_nor_the_hub_can_block_shutdown() {
    let router = Router::new().route("/", get(async || pending::<()>().await));
    let server = HttpServer { drain_limit: Duration::from_millis(50), ..HttpServer::default() };
    let begun = Arc::new(Notify::new());
    let router = router.layer(axum::middleware::from_fn({
        let begun = Arc::clone(&begun);
        move |request, next: axum::middleware::Next| {
            begun.notify_one();
            next.run(request)
        }
    }));
    let server = RunningServer::start_with(server, router, pending()).await;
    let mut client = server.client().await;
    client.write_all(GET).await.unwrap();
    begun.notified().await;
    server.stop().await;
    assert_eq!(client.read(&mut [0; 16]).await.unwrap_or(0), 0, "the connection is dropped");
}

#[tokio::test]
async fn the_hub_is_drained_while_requests_finish() {
    let drained = Arc::new(Notify::new());
    let begun = Arc::new(Notify::new());
    let (wait, begin) = (Arc::clone(&drained), Arc::clone(&begun));
    // The request ends only when the hub is drained, and draining starts only at shutdown: one after the
    // other would hang.
    let handler = async move || {
        begin.notify_one();
        wait.notified().await;
        "hello"
    };
    let router = Router::new().route("/", get(handler));
    let server =
        RunningServer::start_with(HttpServer::default(), router, async move { drained.notify_one() }).await;
    let mut client = server.client().await;
    client.write_all(GET).await.unwrap();
    begun.notified().await;
    server.stop().await;
    read_until(&mut client, "hello").await;
    assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
}

#[tokio::test]
async fn dropping_the_server_drops_its_connections() {
    let server =
        RunningServer::start(HttpServer::default(), Router::new().route("/", get(async || "hello"))).await;
    let mut client = server.client().await;
    client.write_all(GET).await.unwrap();
    read_until(&mut client, "hello").await;
    server.ended.abort();
    assert_eq!(client.read(&mut [0; 16]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn one_address_cannot_take_all_places() {
    let server = HttpServer { counts_loopback: true, max_per_address: 2, ..HttpServer::default() };
    let router = Router::new().route("/", get(async || "hello"));
    let server = RunningServer::start(server, router.clone()).await;
    let greeted = async |server: &RunningServer| {
        let mut client = server.client().await;
        client.write_all(GET).await.unwrap();
        read_until(&mut client, "hello").await;
        client
    };
    let (one, _two) = (greeted(&server).await, greeted(&server).await);
    let mut three = server.client().await;
    assert_eq!(three.read(&mut [0; 16]).await.unwrap_or(0), 0, "the connection is closed");
    drop(one);
    // Until the server notices the disconnect, further connections are closed.
    loop {
        let mut next = server.client().await;
        if next.write_all(GET).await.is_ok() && next.read(&mut [0; 16]).await.is_ok_and(|n| n > 0) {
            break;
        }
    }
    server.stop().await;

    let trusted = HttpServer {
        trusted: "127.0.0.1".parse().unwrap(),
        counts_loopback: true,
        max_per_address: 2,
        ..HttpServer::default()
    };
    let server = RunningServer::start(trusted, router).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(greeted(&server).await);
    }
    server.stop().await;
}

#[test]
fn sockets_of_one_ipv6_network_count_together() {
    let admitted = |server: HttpServer| {
        let admissions = server.admissions();
        let addresses = (1..=20).map(|n| format!("2001:db8:1:2::{n:x}").parse().unwrap());
        let permits: Vec<_> = addresses.map(|address| server.admit(&admissions, address)).collect();
        permits.iter().filter(|permit| permit.is_ok()).count()
    };
    let server = HttpServer { max_per_address: 3, ..HttpServer::default() };
    assert_eq!(admitted(server.clone()), 3);
    assert_eq!(admitted(HttpServer { ipv6_prefix: 128, ..server }), 20);
}
