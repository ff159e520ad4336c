//! Slow readers under every policy, of endpoints and of rooms, and the limit on all queued bytes.

use std::{
    collections::HashMap,
    io::Write as _,
    net::TcpStream,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use ripplecast::{
    Connection, Dropped, Error, Hub, HubBuilder, Message, Overflow, RoomOptions, Sent,
    stats::{DropReport, Stats},
    ws,
};

use crate::support::{
    BINARY, CLOSE, Echo, PING, SERVERS, Server, Site, TEXT, alone, check_echo, eventually, frame, insist,
    read_close, read_frame, resident, text,
};

const SIZE: usize = 64 << 10;

/// Returns a frame of 64 KiB that starts with a number.
fn numbered(n: u32) -> Message {
    let mut payload = vec![b'.'; SIZE];
    payload[..4].copy_from_slice(&n.to_be_bytes());
    Message::binary(payload)
}

fn number(payload: &[u8]) -> u32 {
    assert_eq!(payload.len(), SIZE);
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

/// Returns the number of accepted frames that were dropped later, without rejected pushes.
fn lost(stats: &Stats) -> u64 {
    stats.drops.total() - stats.drops.overloaded
}

/// Waits until all pushes have been queued, by pushing to one more connection of the only shard. A reader
/// that started earlier could keep up and would not be slow.
fn wait_until_queued(site: &Site, echo: &Echo) {
    let opened = site.hub.stats().opened as usize;
    let mut other = site.connect("/");
    assert!(echo.opened(opened).push("queued").is_queued());
    assert_eq!(text(&mut other), "queued");
}

/// The reports of a hook: frames by connection and reason.
#[derive(Clone, Default)]
struct DropReports(Arc<Mutex<Frames>>);

/// Numbers of frames by connection and reason.
type Frames = HashMap<(Option<String>, Dropped), u64>;

impl DropReports {
    /// Sets the hook on a hub.
    fn by(&self, hub: HubBuilder) -> HubBuilder {
        let reports = self.clone();
        hub.on_drop(move |DropReport { connection, reason, frames, .. }| {
            *reports.0.lock().unwrap().entry((connection.map(|id| id.to_string()), reason)).or_default() +=
                frames;
        })
    }

    fn of(&self, conn: &Connection, reason: Dropped) -> u64 {
        let key = (Some(conn.id().to_string()), reason);
        self.0.lock().unwrap().get(&key).copied().unwrap_or_default()
    }

    fn total(&self) -> u64 {
        self.0.lock().unwrap().values().sum()
    }
}

/// Reads up to a text frame with this payload, and returns the binary ones before it.
fn read_to(client: &mut TcpStream, end: &str) -> Vec<Vec<u8>> {
    let mut before = Vec::new();
    loop {
        match read_frame(client).unwrap() {
            (TEXT, payload) if payload == end.as_bytes() => return before,
            (BINARY, payload) => before.push(payload),
            (first, payload) => panic!("{first:x} {:?}", String::from_utf8_lossy(&payload)),
        }
    }
}

#[test]
fn with_latest_per_key_a_slow_reader_receives_the_newest_of_each_key_without_a_backlog() {
    for server in SERVERS {
        for shards in [1, 2] {
            let echo = Echo::default();
            let endpoint = ws::endpoint(echo.clone()).overflow(Overflow::LatestPerKey);
            let reports = DropReports::default();
            let site = Site::start(
                server,
                |hub| reports.by(hub.shards(shards)),
                |hub, router| router.route("/", hub.ws(endpoint)),
            );
            let mut slow = site.raw("/");
            let conn = echo.opened(0);
            conn.join("room").unwrap();
            let room = site.hub.room("room");
            // Two keys of the room, and the same key of the connection itself, which is a different one.
            for n in 0..600 {
                insist(|| room.push(numbered(3 * n).with_key("a")));
                insist(|| room.push(numbered(3 * n + 1).with_key("b")));
                insist(|| conn.push(numbered(3 * n + 2).with_key("a")));
            }
            assert!(conn.push("that was all").is_queued());
            let numbers: Vec<_> = read_to(&mut slow, "that was all").iter().map(|p| number(p)).collect();
            for kind in 0..3 {
                let of_kind: Vec<_> = numbers.iter().filter(|&n| n % 3 == kind).collect();
                assert!(of_kind.is_sorted());
                assert_eq!(of_kind.last(), Some(&&(3 * 599 + kind)), "the newest must arrive");
            }
            assert!(numbers.len() < 1800, "nothing was replaced");
            let stats = site.hub.stats();
            assert_eq!(stats.drops.replaced as usize + numbers.len(), 1800);
            assert_eq!((lost(&stats), stats.slow_consumers), (stats.drops.replaced, 0));
            eventually("the hook to be called", || {
                reports.of(&conn, Dropped::Replaced) == stats.drops.replaced
            });
            eventually("all frames to be written", || site.hub.stats().queued_bytes == 0);
            drop(slow);
            site.stop();
        }
    }
}

#[test]
fn with_latest_per_key_frames_without_a_key_disconnect_a_slow_reader() {
    let echo = Echo::default();
    let endpoint = ws::endpoint(echo.clone()).overflow(Overflow::LatestPerKey);
    let site = Site::own(1, |hub, router| router.route("/", hub.ws(endpoint)));
    let slow = site.raw("/");
    let conn = echo.opened(0);
    let mut n = 0;
    eventually("the slow reader to be detected", || {
        n += 1;
        conn.push(numbered(n)).is_closed()
    });
    assert_eq!(echo.closed(0), (1013, "slow consumer".to_owned()));
    drop(slow);
    assert!(site.stop().drops.slow_consumer > 0);
}

#[test]
fn a_live_counter_needs_no_backlog() {
    let echo = Echo::default();
    let endpoint = ws::endpoint(echo.clone()).outbox(4 * SIZE).overflow(Overflow::LatestPerKey);
    let site = Site::own(1, |hub, router| router.route("/", hub.ws(endpoint)));
    let mut slow = site.raw("/");
    let conn = echo.opened(0);
    let render = |value: i64| {
        Message::binary(
            vec![b'x'; SIZE - 4].into_iter().chain((value as u32).to_be_bytes()).collect::<Vec<_>>(),
        )
    };
    let counter = site.hub.counter("clicks").publish_with(&site.hub.room("clicks"), render).unwrap();
    site.runtime.block_on(counter.join(&conn)).unwrap();
    for _ in 0..600 {
        site.runtime.block_on(counter.increment()).unwrap();
    }
    let last = |payload: &[u8]| u32::from_be_bytes(payload[SIZE - 4..].try_into().unwrap());
    wait_until_queued(&site, &echo);
    let mut values = Vec::new();
    while values.last() != Some(&600) {
        values.push(last(&read_frame(&mut slow).unwrap().1));
    }
    assert!(values.is_sorted() && values.len() < 601, "{values:?}");
    let stats = site.hub.stats();
    assert!(stats.drops.replaced > 0);
    assert_eq!(stats.slow_consumers, 0);
    drop(slow);
    site.stop();
}

#[test]
fn a_room_can_have_its_own_policy() {
    let echo = Echo::default();
    let reports = DropReports::default();
    let handler = echo.clone();
    let site = Site::start(
        Server::Own,
        |hub| {
            let hub = reports.by(hub.shards(1));
            let hub = hub.rooms("feed:*", RoomOptions::new().overflow(Overflow::DropOldest));
            hub.rooms("feed:strict", RoomOptions::new().overflow(Overflow::Disconnect))
                .rooms("cursors", RoomOptions::new().overflow(Overflow::LatestPerKey))
        },
        |hub, router| router.route("/", hub.ws(handler)),
    );
    let mut slow = site.raw("/");
    let conn = echo.opened(0);
    // The first pattern that matches applies, even if a later one is exactly the name.
    for room in ["feed:1", "feed:strict", "cursors"] {
        conn.join(room).unwrap();
    }
    for n in 0..300 {
        insist(|| site.hub.room("feed:1").push(numbered(n)));
        insist(|| site.hub.room("feed:strict").push(numbered(1000 + n)));
        insist(|| site.hub.room("cursors").push(numbered(2000 + n).with_key("ada")));
    }
    // Frames that the endpoint's policy does not allow to be dropped are still delivered: the rooms have not
    // used up their space.
    assert!(conn.push("that was all").is_queued());
    wait_until_queued(&site, &echo);
    let numbers: Vec<_> = read_to(&mut slow, "that was all").iter().map(|p| number(p)).collect();
    assert!(numbers.contains(&2299), "the newest of a key");
    let stats = site.hub.stats();
    assert_eq!(stats.slow_consumers, 0);
    assert!(stats.drops.outbox_full > 0 && stats.drops.replaced > 0, "{:?}", stats.drops);
    assert_eq!(lost(&stats) as usize + numbers.len(), 900);
    eventually("the hook to be called", || reports.total() == stats.drops.total());
    // In a room without a policy, that of the endpoint applies.
    conn.join("plain").unwrap();
    let plain = site.hub.room("plain");
    eventually("the slow reader to be detected", || {
        plain.push(numbered(1)).ignore();
        !conn.is_open()
    });
    drop(slow);
    let stats = site.stop();
    assert_eq!(stats.slow_consumers, 1);
    assert!(reports.of(&conn, Dropped::SlowConsumer) > 0);
    assert_eq!(reports.of(&conn, Dropped::SlowConsumer), stats.drops.slow_consumer);
}

/// 64 MiB to ten members that never read: the queued bytes are bounded and shared, and the other member is
/// not affected.
#[test]
fn sixty_four_mebibytes_for_ten_stuck_readers_use_little_memory() {
    const OUTBOX: usize = 1 << 20;
    alone("ws::slow::sixty_four_mebibytes_for_ten_stuck_readers_use_little_memory", || {
        for overflow in [Overflow::DropOldest, Overflow::Disconnect] {
            let echo = Echo::default();
            let stuck = ws::endpoint(echo.clone()).outbox(OUTBOX).overflow(overflow);
            let site = Site::own(1, |hub, router| {
                let reads = ws::handlers().on_open(|conn: Connection| async move { conn.join("room") });
                let reads = ws::endpoint(reads).outbox(128 << 20);
                router.route("/stuck", hub.ws(stuck)).route("/reads", hub.ws(reads))
            });
            let stuck: Vec<_> = (0..10)
                .map(|n| {
                    let client = site.raw("/stuck");
                    echo.opened(n).join("room").unwrap();
                    client
                })
                .collect();
            let mut reader = site.raw("/reads");
            let room = site.hub.room("room");
            eventually("all to join the room", || site.runtime.block_on(room.len()).unwrap() == 11);
            let before = resident();
            let (mut most_queued, mut most_resident) = (0, 0);
            for n in 0..1024 {
                insist(|| room.push(numbered(n)));
                // The reader is served as if the others did not exist: it receives each frame before the next
                // is pushed.
                assert_eq!(number(&read_frame(&mut reader).unwrap().1), n);
                most_queued = most_queued.max(site.hub.stats().queued_bytes);
                most_resident = most_resident.max(resident());
            }
            // All ten lag about equally and hold the same frames.
            assert!(most_queued > OUTBOX / 2, "no reader was stuck: {most_queued}");
            assert!(most_queued < 3 * OUTBOX, "{most_queued} bytes wait");
            let grown = most_resident.saturating_sub(before);
            assert!(grown < 16 << 20, "memory has grown by {grown}");
            let stats = site.hub.stats();
            assert!(stats.drops.total() > 0);
            assert_eq!(stats.slow_consumers, if overflow == Overflow::Disconnect { 10 } else { 0 });
            drop((stuck, reader));
            eventually("the queues to empty", || site.hub.stats().queued_bytes == 0);
            site.stop();
        }
    });
}

/// A reader that never reads uses its outbox and one frame, even if frames are coalesced.
#[test]
fn one_stuck_reader_uses_its_outbox_and_a_frame() {
    let echo = Echo::default();
    let endpoint = ws::endpoint(echo.clone()).outbox(10_000).overflow(Overflow::DropOldest);
    let site = Site::own(1, |hub, router| router.route("/", hub.ws(endpoint)));
    let slow = site.raw("/");
    let conn = echo.opened(0);
    conn.join("room").unwrap();
    let room = site.hub.room("room");
    while site.hub.stats().drops.outbox_full < 100 {
        for n in 0..20 {
            room.push(numbered(n)).ignore();
        }
        std::thread::yield_now();
    }
    // A partly written frame, and one that alone is larger than the outbox; their buffers hold at most one
    // burst.
    eventually("the rooms to finish", || site.hub.stats().queued_bytes < 20 * (SIZE + 1000));
    drop(slow);
    site.stop();
}

/// Queued bytes of a connection that never reads, with frames of its own.
fn burden(conn: &Connection, bytes: usize) {
    for n in 0..bytes / SIZE {
        insist(|| conn.push(numbered(n as u32)));
    }
}

#[test]
fn above_the_limit_of_the_hub_the_slowest_are_closed_first() {
    const LIMIT: usize = 32 << 20;
    for shards in [1, 3] {
        let echo = Echo::default();
        let endpoint = ws::endpoint(echo.clone()).outbox(64 << 20);
        let reports = DropReports::default();
        let site = Site::start(
            Server::Own,
            |hub| reports.by(hub.shards(shards).max_queued_bytes(LIMIT)),
            |hub, router| router.route("/", hub.ws(endpoint)),
        );
        // One after the other: shards open connections in any order.
        let (mut clients, conns): (Vec<_>, Vec<_>) = (0..4).map(|n| (site.raw("/"), echo.opened(n))).unzip();
        for (n, mebibytes) in [(0, 4), (2, 6), (3, 8)] {
            burden(&conns[n], mebibytes << 20);
        }
        // All of that is still within the limit. When the limit is reached, the second has the most queued
        // bytes.
        eventually("the slowest to be shed", || {
            conns[1].push(numbered(0)).ignore();
            !conns[1].is_open()
        });
        let open: Vec<_> = conns.iter().map(Connection::is_open).collect();
        assert_eq!(open, [true, false, true, true]);
        assert_eq!(echo.closed(0), (1013, "slow consumer".to_owned()));
        let stats = site.hub.stats();
        assert!(stats.queued_bytes <= LIMIT, "{stats:?}");
        assert_eq!((stats.slow_consumers, lost(&stats)), (1, stats.drops.shed), "{:?}", reports.0);
        assert!(reports.of(&conns[1], Dropped::Shed) > 0);
        // The others receive all of their frames.
        for n in 0..(4 << 20) / SIZE {
            assert_eq!(number(&read_frame(&mut clients[0]).unwrap().1), n as u32);
        }
        clients[0].write_all(&frame(TEXT, b"still here?")).unwrap();
        assert_eq!(read_to(&mut clients[0], "still here?"), Vec::<Vec<u8>>::new());
        drop(clients);
        site.stop();
    }
}

#[test]
fn above_the_limit_droppable_frames_are_dropped_and_nobody_is_closed() {
    let echo = Echo::default();
    let endpoint = ws::endpoint(echo.clone()).outbox(64 << 20).overflow(Overflow::DropOldest);
    let site = Site::start(
        Server::Own,
        |hub| hub.shards(2).max_queued_bytes(4 << 20),
        |hub, router| router.route("/", hub.ws(endpoint)),
    );
    let (mut clients, conns): (Vec<_>, Vec<_>) = (0..2).map(|n| (site.raw("/"), echo.opened(n))).unzip();
    for conn in &conns {
        burden(conn, 32 << 20);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        // The last frame may be dropped like any other, so it is pushed until it has arrived.
        let (conn, (open_gate, gate)) = (echo.opened(n), mpsc::channel::<()>());
        let end = std::thread::spawn(move || {
            while gate.recv_timeout(Duration::from_millis(20)) == Err(mpsc::RecvTimeoutError::Timeout) {
                conn.push("that was all").ignore();
            }
        });
        read_to(client, "that was all");
        drop(open_gate);
        end.join().unwrap();
    }
    let stats = site.hub.stats();
    assert!(stats.drops.shed > 0);
    assert_eq!((stats.slow_consumers, lost(&stats)), (0, stats.drops.shed));
    drop(clients);
    site.stop();
}

#[test]
fn a_limit_that_is_too_small_fails_the_build() {
    let site = Site::own(1, |_, router| router);
    let built = site.runtime.block_on(async { Hub::builder().max_queued_bytes(1000).build() });
    let error = built.unwrap_err();
    assert!(matches!(error, Error::Setting { .. }));
    assert!(error.to_string().contains("max_queued_bytes"), "{error}");
    site.stop();
}

#[test]
fn a_rejected_push_is_reported_and_a_panicking_hook_does_no_harm() {
    let echo = Echo::default();
    let handler = ws::endpoint(echo.clone()).outbox(1000);
    let site = Site::start(
        Server::Own,
        |hub| hub.shards(1).on_drop(|_| panic!("a fault of the application")),
        |hub, router| router.route("/", hub.ws(handler)),
    );
    let mut other = site.connect("/");
    check_echo(&mut other);
    let mut slow = site.raw("/");
    let conn = echo.opened(1);
    let huge = Message::binary(vec![0; 65 << 20]);
    let mut refused = 0;
    eventually("a push to be rejected, and the slow reader to be detected", || {
        refused += u64::from(conn.push(huge.clone()) == Sent::Dropped(Dropped::Overloaded));
        refused > 0 && !conn.is_open()
    });
    while read_frame(&mut slow).is_ok_and(|(first, _)| first != CLOSE) {}
    check_echo(&mut other);
    drop((slow, other));
    let stats = site.stop();
    assert_eq!(stats.drops.overloaded, refused);
    assert!(stats.drops.slow_consumer > 0);
}

#[test]
fn a_slow_reader_that_was_shed_receives_the_reason_once_it_reads() {
    let echo = Echo::default();
    let endpoint = ws::endpoint(echo.clone()).outbox(64 << 20);
    let site = Site::start(
        Server::Own,
        |hub| hub.shards(1).max_queued_bytes(1 << 20),
        |hub, router| router.route("/", hub.ws(endpoint)),
    );
    let mut slow = site.raw("/");
    let conn = echo.opened(0);
    eventually("the slow reader to be shed", || {
        conn.push(vec![7; 1000]).ignore();
        !conn.is_open()
    });
    assert_eq!(read_close(&mut slow).0, 1013);
    drop(slow);
    assert!(site.stop().drops.shed > 0);
}

#[test]
fn a_connection_with_only_a_partly_written_frame_can_be_shed() {
    const LIMIT: usize = 4 << 20;
    let echo = Echo::default();
    let site = Site::start(
        Server::Own,
        |hub| hub.shards(1).max_queued_bytes(LIMIT),
        |hub, router| router.route("/", hub.ws(echo.clone())),
    );
    let clients: Vec<_> = (0..8).map(|_| site.raw("/")).collect();
    for n in 0..8 {
        // Longer than the outbox, which accepts it; the kernel takes some of it.
        assert!(echo.opened(n).push(vec![n as u8; 2 << 20]).is_queued());
    }
    eventually("the limit to be kept", || {
        let stats = site.hub.stats();
        stats.slow_consumers >= 6 && stats.queued_bytes <= LIMIT
    });
    assert!(site.hub.stats().slow_consumers < 8, "more connections were closed than necessary");
    drop(clients);
    site.stop();
}

#[test]
fn a_feed_that_fills_the_outbox_makes_space_for_frames_that_must_not_be_lost() {
    let (site, echo) = Site::echo(Server::Own, |hub| {
        hub.shards(1).rooms("feed", RoomOptions::new().overflow(Overflow::DropOldest))
    });
    let mut slow = site.raw("/");
    let conn = echo.opened(0);
    conn.join("feed").unwrap();
    for n in 0..300 {
        insist(|| site.hub.room("feed").push(numbered(n)));
    }
    eventually("the outbox to be full", || site.hub.stats().drops.outbox_full > 0);
    // A pong, and a message under the endpoint's own policy that is longer than any space left by the feed.
    slow.write_all(&frame(PING, b"")).unwrap();
    let last = "that was all ".repeat(10_000);
    assert!(conn.push(last.clone()).is_queued());
    wait_until_queued(&site, &echo);
    let mut before = Vec::new();
    loop {
        match read_frame(&mut slow).unwrap() {
            (TEXT, payload) => break assert!(payload == last.as_bytes()),
            (first, _) => before.push(first),
        }
    }
    assert!(conn.is_open() && before.len() < 301);
    drop(slow);
    assert_eq!(site.stop().slow_consumers, 0);
}

#[test]
fn a_newer_value_does_not_overtake_a_snapshot() {
    let echo = Echo::default();
    let endpoint = ws::endpoint(echo.clone()).overflow(Overflow::LatestPerKey);
    let site = Site::own(1, |hub, router| router.route("/", hub.ws(endpoint)));
    let mut slow = site.raw("/");
    let conn = echo.opened(0);
    conn.join("room").unwrap();
    let room = site.hub.room("room");
    for n in 0..300 {
        insist(|| room.push(numbered(n).with_key("value")));
    }
    // A snapshot need not have a key.
    conn.join_with("room", numbered(300)).unwrap();
    insist(|| room.push(numbered(301).with_key("value")));
    insist(|| room.push(numbered(302).with_key("value")));
    assert!(conn.push("that was all").is_queued());
    wait_until_queued(&site, &echo);
    let numbers: Vec<_> = read_to(&mut slow, "that was all").iter().map(|p| number(p)).collect();
    assert!(numbers.is_sorted() && numbers.len() < 303, "{numbers:?}");
    // 301 may already be in transit; nothing older may follow it.
    assert!(numbers.contains(&300) && numbers.last() == Some(&302), "{numbers:?}");
    drop(slow);
    site.stop();
}
