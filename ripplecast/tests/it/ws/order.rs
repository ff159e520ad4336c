use std::{
    io::{ErrorKind, Write as _},
    net::Shutdown,
    sync::{Arc, mpsc},
    time::Duration,
};

use ripplecast::{Close, Connection, ConnectionId, Message, Result, Sent, ws, ws::Handler};
use tokio::sync::Semaphore;
use tungstenite::Message as WsMessage;

use crate::support::{
    PATIENCE, SERVERS, Seen, Site, TEXT, check_echo, close_frame, frame, read_frame, reset, text,
};

/// The calls of a [`Gated`] handler.
#[derive(Default)]
struct Done {
    conns: Vec<Connection>,
    begun: Vec<String>,
    /// Connections whose handler has started but not ended.
    waiting: Vec<ConnectionId>,
    ended: Vec<String>,
    /// Whether a waiting callback saw its connection close.
    noticed: bool,
    closes: Vec<u16>,
}

/// A handler whose `on_message` waits for the gate, except for the message of [`check_echo`].
#[derive(Clone)]
struct Gated {
    gate: Arc<Semaphore>,
    done: Seen<Done>,
}

impl Gated {
    fn new() -> Self {
        Self { gate: Arc::new(Semaphore::new(0)), done: Seen::default() }
    }

    fn site(&self, shards: usize) -> Site {
        Site::own(shards, |hub, router| {
            let endpoint = ws::endpoint(self.clone()).outbox(128 << 20); // the test's client must not count as slow
            router.route("/", hub.ws(endpoint))
        })
    }

    #[track_caller]
    fn wait_begun(&self, n: usize) {
        self.done.wait("a handler to start", |done| (done.begun.len() == n).then_some(()));
    }

    #[track_caller]
    fn wait_ended(&self, n: usize) {
        self.done.wait("a handler to end", |done| (done.ended.len() == n).then_some(()));
    }

    #[track_caller]
    fn wait_closed(&self) -> u16 {
        self.done.wait("on_close", |done| done.closes.first().copied())
    }
}

impl Handler for Gated {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        self.done.with(|done| done.conns.push(conn));
        Ok(())
    }

    async fn on_message(&self, conn: Connection, message: Message) -> Result<()> {
        let name = message.as_text().unwrap_or("binary").to_owned();
        self.done.with(|done| {
            done.begun.push(name.clone());
            done.waiting.push(conn.id());
        });
        if name == "wait for the end" {
            conn.closed().await;
            self.done.with(|done| done.noticed = !conn.is_open());
        }
        if name != "still here?" {
            self.gate.acquire().await.unwrap().forget();
        }
        conn.push(message).ignore();
        self.done.with(|done| {
            done.ended.push(name);
            done.waiting.retain(|waiting| *waiting != conn.id());
        });
        Ok(())
    }

    async fn on_close(&self, conn: Connection, close: Close) -> Result<()> {
        self.done.with(|done| {
            let overlaps = done.waiting.contains(&conn.id());
            done.closes.push(if overlaps { 0 } else { close.code.get() });
        });
        Ok(())
    }
}

#[test]
fn messages_are_handled_in_order_however_long_each_takes() {
    const MESSAGES: usize = 2000;
    for server in SERVERS {
        for shards in [1, 2] {
            let site = Site::start(
                server,
                |hub| hub.shards(shards),
                |hub, router| {
                    let uneven = ws::handlers().on_message(|conn: Connection, message: Message| async move {
                        let n: u64 = message.as_text().unwrap().parse().unwrap();
                        // Some wait, before or after their push, and some don't.
                        for _ in 0..n * 2_654_435_761 % 4 {
                            tokio::task::yield_now().await;
                        }
                        conn.push(message.clone()).ignore();
                        for _ in 0..n * 40_503 % 3 {
                            tokio::task::yield_now().await;
                        }
                        conn.push(message).ignore();
                    });
                    router.route("/", hub.ws(uneven))
                },
            );
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let mut raw = site.raw("/");
                        let mut reader = raw.try_clone().unwrap();
                        let writer = scope.spawn(move || {
                            for n in 0..MESSAGES {
                                raw.write_all(&frame(TEXT, n.to_string().as_bytes())).unwrap();
                            }
                        });
                        for n in 0..2 * MESSAGES {
                            let (_, payload) = read_frame(&mut reader).unwrap();
                            assert_eq!(payload, (n / 2).to_string().as_bytes());
                        }
                        writer.join().unwrap();
                    });
                }
            });
            site.stop();
        }
    }
}

#[test]
fn while_one_handler_waits_other_connections_are_served() {
    for shards in [1, 2] {
        let gated = Gated::new();
        let site = gated.site(shards);
        let mut waits = site.connect("/");
        waits.send(WsMessage::text("wait")).unwrap();
        gated.wait_begun(1);
        // Some of these are on the same shard.
        for _ in 0..4 {
            let mut other = site.connect("/");
            check_echo(&mut other);
        }
        gated.done.with(|done| assert!(!done.ended.contains(&"wait".to_owned())));
        gated.gate.add_permits(1);
        assert_eq!(text(&mut waits), "wait");
        drop(waits);
        site.stop();
    }
}

#[test]
fn a_connection_is_not_read_while_its_handler_waits_and_nothing_is_lost() {
    const SIZE: usize = 1 << 20;
    const COUNT: usize = 64;
    for shards in [1, 2] {
        let gated = Gated::new();
        let site = gated.site(shards);
        let mut raw = site.raw("/");
        let bytes: Vec<u8> = (0..COUNT).flat_map(|n| frame(0x82, &vec![n as u8; SIZE])).collect();
        // The peer is slowed down: the socket buffers fill up, and then no more is accepted.
        raw.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut sent = 0;
        let stalled = loop {
            match raw.write(&bytes[sent..]) {
                Ok(n) => sent += n,
                // Until the handler waits, a stall only means that the server has not been scheduled.
                Err(error) if gated.done.with(|done| !done.begun.is_empty()) => break error.kind(),
                Err(_) => gated.wait_begun(1),
            }
            assert!(sent < bytes.len(), "64 MiB were read while the handler waited");
        };
        assert!(matches!(stalled, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{stalled:?}");
        // Other connections are still served.
        check_echo(&mut site.connect("/"));
        gated.gate.add_permits(COUNT);
        raw.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut reader = raw.try_clone().unwrap();
        let writer = std::thread::spawn(move || raw.write_all(&bytes[sent..]).unwrap());
        for n in 0..COUNT {
            let (first, payload) = read_frame(&mut reader).unwrap();
            assert_eq!((first, payload.len()), (0x82, SIZE));
            assert!(payload.iter().all(|&byte| byte == n as u8), "message {n} differs from what was sent");
        }
        writer.join().unwrap();
        drop(reader);
        site.stop();
    }
}

#[test]
fn a_disconnect_while_a_handler_waits_is_detected_and_the_messages_are_handled() {
    for shards in [1, 2] {
        for by_reset in [false, true] {
            let gated = Gated::new();
            let site = gated.site(shards);
            let mut raw = site.raw("/");
            raw.write_all(&frame(TEXT, b"wait for the end")).unwrap();
            gated.wait_begun(1);
            for n in 0..100 {
                raw.write_all(&frame(TEXT, format!("{n}").as_bytes())).unwrap();
            }
            if by_reset {
                reset(raw);
            } else {
                drop(raw);
            }
            gated.gate.add_permits(1);
            gated.done.wait("the handler to detect the disconnect", |done| done.noticed.then_some(()));
            let conn = gated.done.with(|done| done.conns[0].clone());
            assert!(!conn.is_open());
            assert_eq!(conn.push("anybody there?"), Sent::Closed);
            site.runtime.block_on(conn.closed());
            gated.gate.add_permits(100);
            assert_eq!(gated.wait_closed(), 1006);
            gated.done.with(|done| {
                // A reset may destroy what has not been read. What is handled is handled in order.
                let rest: Vec<String> = (0..100).map(|n| n.to_string()).collect();
                let handled = &done.ended[1..];
                assert!(rest.starts_with(handled), "{handled:?}");
                assert!(by_reset || handled.len() == 100, "{handled:?}");
            });
            site.stop();
            gated.done.with(|done| assert_eq!(done.closes.len(), 1));
        }
    }
}

#[test]
fn on_close_receives_the_code_of_a_close_frame_after_waiting_messages() {
    let gated = Gated::new();
    let site = gated.site(1);
    let mut raw = site.raw("/");
    raw.write_all(&frame(TEXT, b"wait for the end")).unwrap();
    gated.wait_begun(1);
    raw.write_all(&[frame(TEXT, b"one more"), close_frame(4001, "bye")].concat()).unwrap();
    drop(raw);
    gated.gate.add_permits(2);
    assert_eq!(gated.wait_closed(), 4001);
    gated.wait_ended(2);
    site.stop();
}

/// The shard finds a message and the end of the stream at once. The end must be detected although the
/// message's handler started to wait before the end was read.
#[test]
fn a_handler_detects_an_end_that_arrived_with_its_message() {
    for end in ["half", "whole", "reset"] {
        let gated = Gated::new();
        let (blocks, go_on) = (Seen::<bool>::default(), Arc::new(std::sync::Mutex::new(None)));
        let site = Site::own(1, |hub, router| {
            let (blocked, wait) = (blocks.clone(), go_on.clone());
            // Blocks the only shard, so that the other connection's message and end have both arrived when it
            // continues.
            let blocking = ws::handlers().on_message(move |_: Connection, _: Message| {
                let receiver: Option<mpsc::Receiver<()>> = wait.lock().unwrap().take();
                blocked.with(|blocked| *blocked = true);
                let _ = receiver.map(|receiver| receiver.recv());
                async {}
            });
            router.route("/block", hub.ws(blocking)).route("/", hub.ws(gated.clone()))
        });
        let (release, receiver) = mpsc::channel::<()>();
        *go_on.lock().unwrap() = Some(receiver);
        let mut raw = site.raw("/");
        gated.done.wait("on_open", |done| done.conns.first().cloned());
        let mut blocks_it = site.connect("/block");
        blocks_it.send(WsMessage::text("block")).unwrap();
        blocks.wait("the shard to be blocked", |blocked| blocked.then_some(()));
        raw.write_all(&frame(TEXT, b"wait for the end")).unwrap();
        // With "half", the peer could still read, so it is kept until the end.
        let kept = match end {
            "half" => {
                raw.shutdown(Shutdown::Write).unwrap();
                Some(raw)
            }
            "whole" => {
                drop(raw);
                None
            }
            _ => {
                reset(raw);
                None
            }
        };
        release.send(()).unwrap();
        gated.wait_begun(1);
        gated.gate.add_permits(1);
        gated.done.wait("the handler to detect the disconnect", |done| done.noticed.then_some(()));
        assert_eq!(gated.wait_closed(), 1006);
        drop((blocks_it, kept));
        site.stop();
    }
}
