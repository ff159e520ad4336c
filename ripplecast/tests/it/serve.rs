//! `ripplecast::serve`, and a shutdown that waits for nobody.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use axum::Router;
use ripplecast::{Connection, Hub, Message, ws};
use tokio::{net::TcpListener, sync::oneshot, time::timeout};

use crate::support::{Echo, Log, PATIENCE, Server, Site, connect, dial, ending, eventually, head, text};

/// Serves with [`ripplecast::serve_with_shutdown`] in a runtime of its own.
fn serving(
    hub: &Hub,
    router: Router,
) -> (std::net::SocketAddr, oneshot::Sender<()>, std::thread::JoinHandle<()>) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let hub = hub.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let shutdown = async { drop(stopped.await) };
            let served = ripplecast::serve_with_shutdown(listener, router, &hub, shutdown);
            timeout(PATIENCE, served).await.expect("the server did not stop").unwrap();
        });
    });
    (receiver.recv().unwrap(), stop, thread)
}

#[test]
fn serve_ends_with_an_open_stream_and_socket() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _entered = runtime.enter();
    let hub = Hub::builder().shards(1).build().unwrap();
    let greeting = ws::handlers().on_open(async |conn: Connection| {
        let address = conn.state::<std::net::IpAddr>().map(|address| address.to_string());
        conn.push(Message::text(address.unwrap_or_default()))
    });
    let endpoint = ws::endpoint(greeting).on_upgrade(|request: ripplecast::Request| async move {
        let accept = ripplecast::Accept::new();
        match request.peer_addr() {
            Some(address) => accept.state(address),
            None => accept,
        }
    });
    let router = Router::new().route("/ws", hub.ws(endpoint)).route("/events", hub.sse("news"));
    let (addr, stop, thread) = serving(&hub, router);

    let mut socket = crate::support::connect(addr, "/ws");
    assert_eq!(text(&mut socket), "127.0.0.1", "the address is known");
    let mut stream = dial(addr);
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: here\r\nAccept: text/event-stream\r\n\r\n").unwrap();
    assert!(head(&mut stream).starts_with("http/1.1 200 "));
    eventually("both to be open", || hub.stats().connections == 2);
    stop.send(()).unwrap();
    assert_eq!(ending(&mut socket).0, 1001);
    stream.read_to_end(&mut Vec::new()).unwrap(); // until the stream ends
    thread.join().unwrap();
    assert_eq!(hub.stats().connections, 0);
}

#[test]
fn a_server_without_addresses_is_logged_once() {
    let lines = Log::of_this_thread("does not provide the addresses of clients", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let hub = Hub::builder().shards(1).build().unwrap();
            let router = Router::new().route("/", hub.ws(Echo::default()));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
            let clients = [(); 2].map(|()| tokio::task::spawn_blocking(move || connect(addr, "/")));
            for client in clients {
                client.await.unwrap();
            }
            hub.shutdown_now().await;
        });
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("ripplecast::serve"), "{lines:?}");
}

#[test]
fn a_shutdown_can_wait_for_nobody() {
    for server in [Server::Own, Server::Axum] {
        let (begin, mut begun) = tokio::sync::mpsc::unbounded_channel();
        let closed = crate::support::Seen::<Vec<u16>>::default();
        let noted = closed.clone();
        let hangs = move |_: Connection, _: Message| {
            begin.send(()).unwrap();
            std::future::pending::<()>()
        };
        let handlers =
            ws::handlers().on_message(hangs).on_close(move |_: Connection, close: ripplecast::Close| {
                noted.with(|closed| closed.push(close.code.get()));
                async {}
            });
        let site =
            Site::start(server, |hub| hub.shards(1), |hub, router| router.route("/", hub.ws(handlers)));
        let (mut silent, mut hanging) = (site.connect("/"), site.connect("/"));
        hanging.send(tungstenite::Message::text("hang")).unwrap();
        assert_eq!(begun.blocking_recv(), Some(()));
        // The client does not answer the close frame before this returns: nobody reads here.
        // A shutdown would wait 3 s for the peer's answer, and 5 s for the callback.
        let at_once = async { timeout(Duration::from_secs(3), site.hub.shutdown_now()).await };
        site.runtime.block_on(at_once).expect("it waited for the peer or the callback");
        closed.with(|closed| assert_eq!(*closed, [1001, 1001]));
        assert_eq!(site.hub.stats().connections, 0);
        let received = silent.read().unwrap();
        let tungstenite::Message::Close(Some(close)) = received else { panic!("{received:?}") };
        assert_eq!(u16::from(close.code), 1001);
        site.stop();
    }
}
