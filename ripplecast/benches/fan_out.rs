//! The time for a push to a room to reach all of its 100 members, over real loopback sockets.
//!
//! A round takes as long as the slowest member: a push, 100 sends, and 100 reads by the measuring thread. It uses one
//! shard, so that the number of cores does not matter. `bench/compare` measures the server's share alone.

use std::{
    io::Read,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ripplecast::{App, Connection, Message, Room, ws};
use tokio::runtime::{Builder, Runtime};
use tungstenite::{Message as WsMessage, WebSocket};

const MEMBERS: usize = 100;

/// Payload sizes in bytes.
const SIZES: [usize; 2] = [64, 4096];

/// Far longer than a frame takes, so that a lost frame fails the bench instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(20);

criterion_group! {
    name = fan_out;
    config = common::quick();
    targets = push
}
criterion_main!(fan_out);

mod common;

fn push(criterion: &mut Criterion) {
    let (runtime, address, room) = serve();
    let mut members: Vec<TcpStream> = (0..MEMBERS).map(|_| connect(address)).collect();
    let mut group = criterion.benchmark_group("fan_out");
    group.throughput(Throughput::Elements(MEMBERS as u64));
    for size in SIZES {
        let message = Message::text("x".repeat(size));
        // The header of a server frame, and the payload.
        let mut buffer = vec![0; size + if size < 126 { 2 } else { 4 }];
        group.bench_function(BenchmarkId::new("push_to_100", size), |bencher| {
            bencher.iter(|| {
                room.push(message.clone()).ignore();
                for member in &mut members {
                    member.read_exact(&mut buffer).expect("the frame arrives");
                }
            });
        });
        assert!(buffer.ends_with(&vec![b'x'; size]), "the frame is the one that was pushed");
    }
    group.finish();
    drop(members);
    runtime.shutdown_background();
}

/// Starts a server whose connections join a room, and receive a message once they have.
fn serve() -> (Runtime, SocketAddr, Room) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let (address, room) = runtime.block_on(async {
        let settings = |hub: ripplecast::HubBuilder| hub.shards(1);
        let app = App::builder().hub(settings).max_connections_per_address(usize::MAX);
        let app = app.build().await.expect("the settings are valid");
        let room = app.hub().room("members");
        let member = ws::handlers().on_open(|conn: Connection| async move {
            conn.join("members")?;
            conn.push(Message::text("joined")).ignore();
            ripplecast::Result::Ok(())
        });
        let endpoint = ws::endpoint(member).ping_interval(Duration::ZERO);
        let bound = app.ws("/", endpoint).bind("127.0.0.1:0").await.expect("a free port");
        let address = bound.local_addr();
        tokio::spawn(bound.serve_with_shutdown(std::future::pending()));
        (address, room)
    });
    (runtime, address, room)
}

/// Connects a client to the room. Only its socket is kept: decoding frames is not measured.
fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).expect("the server listens");
    socket.set_nodelay(true).expect("a socket without delay");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket with a deadline");
    let (mut client, _): (WebSocket<TcpStream>, _) =
        tungstenite::client(format!("ws://{address}/"), socket).expect("the upgrade succeeds");
    assert_eq!(client.read().expect("the client receives a message"), WsMessage::text("joined"));
    client.get_ref().try_clone().expect("a second handle")
}
