//! A shutdown returns whatever the state of the runtime that built the hub.

use std::{net::SocketAddr, time::Duration};

use ripplecast::{Connection, Hub, Sent, ws};
use tokio::{net::TcpListener, runtime::Builder, time::timeout};

use crate::{
    redis::{Flavour, Server},
    support::{PATIENCE, connect},
};

/// Builds a hub with a connection, a subscription and a stream handler that never ends.
async fn busy(backend: &str, dedicated_threads: bool) -> (Hub, SocketAddr) {
    let builder = Hub::builder().shards(2).dedicated_threads(dedicated_threads).backend(backend);
    let hub = builder.connect().await.unwrap();
    hub.bus().subscribe("news", async |_| std::future::pending().await).await.unwrap().detach();
    hub.queue("orders").subscribe("bills", async |_| std::future::pending().await).await.unwrap().detach();
    hub.queue("orders").publish("4711").await.unwrap();
    let endpoint = hub.ws(ws::handlers().on_open(async |conn: Connection| conn.join("room")));
    let router = axum::Router::new().route("/ws", endpoint);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await.unwrap();
    });
    (hub, addr)
}

/// Shuts a hub down in another runtime, whose clock the test advances.
fn shut_down(hub: &Hub, start_paused: bool) {
    let runtime = Builder::new_current_thread().enable_all().start_paused(start_paused).build().unwrap();
    let patience = if start_paused { Duration::from_secs(10) } else { PATIENCE };
    runtime.block_on(async {
        timeout(patience, hub.shutdown()).await.expect("the shutdown did not end");
        // A second call returns at once.
        timeout(patience, hub.shutdown()).await.expect("the second shutdown did not end");
    });
}

#[test]
fn a_shutdown_returns_when_the_runtime_of_the_hub_has_ended() {
    let redis = Server::shared(Flavour::Redis).url() + "?prefix=ended";
    for (backend, dedicated_threads) in [("memory", false), ("memory", true), (&*redis, false)] {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (hub, addr) = runtime.block_on(busy(backend, dedicated_threads));
        let client = connect(addr, "/ws");
        let conn = loop {
            if let Some(conn) = hub.connections().next() {
                break conn;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        drop(runtime);
        shut_down(&hub, false);
        assert!(hub.connections().next().is_none(), "{backend}, threads: {dedicated_threads}");
        assert_eq!((conn.push("late"), conn.is_open()), (Sent::Closed, false));
        drop(client);
    }
}

#[test]
fn a_shutdown_returns_when_nothing_polls_the_runtime_of_the_hub() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (hub, _) = runtime.block_on(busy("memory", false));
    shut_down(&hub, true);
    drop(runtime);
}
