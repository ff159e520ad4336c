use std::{
    io::Write as _,
    net::TcpStream,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ripplecast::{Connection, Message, Overflow, Sent, ws};
use tungstenite::Message as WsMessage;

use crate::support::{
    BINARY, CLOSE, Echo, PING, SERVERS, Seen, Server, Site, TEXT, alone, check_echo, eventually, frame,
    header, insist, read_close, read_frame, receive, resident,
};

const SIZE: usize = 64 << 10;
const COUNT: u32 = 1024;

/// Returns frame number `n`, with 64 KiB.
fn numbered(n: u32) -> Message {
    Message::binary(n.to_be_bytes().repeat(SIZE / 4))
}

/// Returns the number of a frame, which must be complete.
fn number(payload: &[u8]) -> u32 {
    assert_eq!(payload.len(), SIZE);
    let n = u32::from_be_bytes(payload[..4].try_into().unwrap());
    assert!(
        payload.chunks(4).all(|chunk| chunk == n.to_be_bytes()),
        "frame {n} differs from what was pushed"
    );
    n
}

#[test]
fn a_slow_consumer_is_disconnected_and_the_others_receive_everything() {
    for server in SERVERS {
        for shards in [1, 2] {
            let echo = Echo::default();
            let handler = echo.clone();
            let site = Site::start(
                server,
                |hub| hub.shards(shards),
                |hub, router| {
                    // Readers may lag while their threads are not scheduled, so they get a large outbox.
                    let readers = ws::handlers().on_open(|conn: Connection| async move { conn.join("room") });
                    let readers = ws::endpoint(readers).outbox(128 << 20);
                    router.route("/", hub.ws(handler)).route("/reader", hub.ws(readers))
                },
            );
            let mut slow = site.raw("/");
            let conn = echo.opened(0);
            conn.join("room").unwrap();
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    let mut reader = site.raw("/reader");
                    std::thread::spawn(move || {
                        for n in 0..COUNT {
                            assert_eq!(number(&read_frame(&mut reader).unwrap().1), n);
                        }
                    })
                })
                .collect();
            let room = site.hub.room("room");
            eventually("all to join the room", || site.runtime.block_on(room.len()).unwrap() == 3);
            for n in 0..COUNT {
                insist(|| room.push(numbered(n)));
            }
            eventually("the slow consumer to be detected", || !conn.is_open());
            assert_eq!(site.hub.stats().slow_consumers, 1);
            assert_eq!(conn.push("more"), Sent::Closed);
            // Once it reads, it receives what was in transit, complete, and then the close frame.
            let mut next = 0;
            let (code, reason) = loop {
                let (first, payload) = read_frame(&mut slow).unwrap();
                if first == CLOSE {
                    break (u16::from_be_bytes([payload[0], payload[1]]), payload[2..].to_vec());
                }
                assert_eq!(number(&payload), next);
                next += 1;
            };
            assert!(next < COUNT);
            assert_eq!((code, &reason[..]), (1013, &b"slow consumer"[..]));
            assert_eq!(echo.closed(0), (1013, "slow consumer".to_owned()));
            for reader in readers {
                reader.join().unwrap();
            }
            drop(slow);
            let stats = site.stop();
            assert_eq!(stats.slow_consumers, 1);
            assert!(stats.drops.total() > 0);
        }
    }
}

#[test]
fn with_drop_oldest_a_slow_consumer_stays_and_receives_the_newest() {
    for shards in [1, 2] {
        let echo = Echo::default();
        let handler = ws::endpoint(echo.clone()).overflow(Overflow::DropOldest);
        let site = Site::own(shards, |hub, router| router.route("/", hub.ws(handler)));
        let mut slow = site.raw("/");
        let conn = echo.opened(0);
        conn.join("room").unwrap();
        let room = site.hub.room("room");
        for n in 0..COUNT {
            // Half of them to the room, half to the connection itself: they form one stream.
            insist(|| if n % 2 == 0 { room.push(numbered(n)) } else { conn.push(numbered(n)) });
        }
        assert!(conn.push("that was all").is_queued());
        let mut numbers = Vec::new();
        loop {
            let (first, payload) = read_frame(&mut slow).unwrap();
            if first == TEXT {
                assert_eq!(payload, b"that was all");
                break;
            }
            numbers.push(number(&payload));
        }
        assert!(numbers.is_sorted(), "{numbers:?}");
        assert_eq!(numbers.last(), Some(&(COUNT - 1)), "the newest must arrive");
        assert!(numbers.len() < COUNT as usize, "nothing was dropped");
        let stats = site.hub.stats();
        assert_eq!(stats.drops.outbox_full as usize + numbers.len(), COUNT as usize);
        assert_eq!(stats.slow_consumers, 0);
        slow.write_all(&frame(TEXT, b"still here?")).unwrap();
        assert_eq!(read_frame(&mut slow).unwrap(), (TEXT, b"still here?".to_vec()));
        drop(slow);
        site.stop();
    }
}

#[test]
fn a_frame_larger_than_the_outbox_still_arrives() {
    let echo = Echo::default();
    let endpoint = ws::endpoint(echo.clone()).outbox(1000);
    let site = Site::own(1, |hub, router| router.route("/", hub.ws(endpoint)));
    let mut client = site.connect("/");
    assert!(echo.opened(0).push(vec![7; 8 << 20]).is_queued());
    assert_eq!(receive(&mut client), WsMessage::binary(vec![7; 8 << 20]));
    drop(client);
    site.stop();
}

#[test]
fn a_flood_of_pings_with_unread_pongs_is_bounded() {
    alone("ws::overload::a_flood_of_pings_with_unread_pongs_is_bounded", || {
        let (site, echo) = Site::echo(Server::Own, |hub| hub.shards(1));
        let mut other = site.connect("/");
        check_echo(&mut other);
        let before = resident();
        let mut flood = site.raw("/");
        let pings = frame(PING, &[0x55; 125]).repeat(1000);
        flood.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut sent = 0;
        // At some point nothing more is accepted. That may only mean that the server has not been scheduled,
        // so continue until it has decided.
        eventually("the flood to be stopped", || {
            while let Ok(n) = flood.write(&pings[sent % pings.len()..]) {
                sent += n;
                assert!(sent < 1 << 30, "a gigabyte of pings was accepted");
            }
            site.hub.stats().slow_consumers == 1
        });
        assert_eq!(echo.closed(0).0, 1013);
        let grown = resident().saturating_sub(before);
        assert!(grown < 32 << 20, "memory has grown by {grown}");
        check_echo(&mut other);
        drop((flood, other));
        assert_eq!(site.stop().slow_consumers, 1);
    });
}

/// Peers that leave messages unfinished hold no more than the hub's budget, and those that hold the most are
/// closed first.
#[test]
fn unfinished_messages_are_counted_and_the_greediest_peer_goes_first() {
    const PART: usize = 64 << 10;
    for shards in [1, 2] {
        let (site, echo) = Site::echo(Server::Own, |hub| hub.shards(shards).max_queued_bytes(2 << 20));
        let queued = || site.hub.stats().queued_bytes;
        let begin = |bytes: usize| {
            let mut raw = site.raw("/");
            raw.write_all(&[header(BINARY, 1 << 20), vec![0; bytes]].concat()).unwrap();
            raw
        };
        let mut greedy = begin(900 << 10);
        let conn = echo.opened(0);
        eventually("the greedy peer's bytes to be counted", || queued() >= 900 << 10);
        let mut modest = Vec::new();
        while conn.is_open() {
            assert!(modest.len() < 100, "{} bytes are held", queued());
            let before = queued();
            modest.push(begin(PART));
            eventually("its bytes to be counted", || queued() >= before + PART || !conn.is_open());
        }
        assert_eq!(
            read_close(&mut greedy),
            (1013, "the server holds too many unfinished messages".to_owned())
        );
        assert!((1..=modest.len()).all(|n| echo.opened(n).is_open()), "peers that hold less stay");
        // Completed messages and closed connections are no longer counted.
        let mut last = modest.pop().unwrap();
        drop(modest);
        eventually("the others to disconnect", || queued() < 4 * PART);
        last.write_all(&vec![0; (1 << 20) - PART]).unwrap();
        assert_eq!(read_frame(&mut last).unwrap(), (BINARY, vec![0; 1 << 20]));
        eventually("the count to return to zero", || queued() == 0);
        drop((greedy, last));
        site.stop();
    }
}

/// A peer that sends as much and as fast as it can does not keep the shard from reading the others.
#[test]
fn a_peer_that_crowds_its_shard_is_read_less_than_the_others() {
    const MESSAGES: usize = 200_000;
    let handled = Arc::new(AtomicUsize::new(0));
    let (held, gate) = (Seen::<bool>::default(), Arc::new(Barrier::new(2)));
    let when = Seen::<Option<usize>>::default();
    let site = Site::own(1, |hub, router| {
        let (recorder, wait) = (held.clone(), gate.clone());
        let holder = ws::handlers().on_message(move |_: Connection, _: Message| {
            recorder.with(|held| *held = true);
            wait.wait(); // on purpose: blocks its shard
            async {}
        });
        let count = handled.clone();
        // Each message becomes a command.
        let crowd = ws::handlers().on_message(move |conn: Connection, _: Message| {
            count.fetch_add(1, Ordering::Relaxed);
            let done = if conn.leave("room") { Ok(()) } else { conn.join("room") };
            async { done }
        });
        let (recorder, count) = (when.clone(), handled.clone());
        let other = ws::handlers().on_message(move |_: Connection, _: Message| {
            recorder.with(|when| *when = Some(count.load(Ordering::Relaxed)));
            async {}
        });
        router.route("/hold", hub.ws(holder)).route("/crowd", hub.ws(crowd)).route("/", hub.ws(other))
    });
    let (mut holder, mut crowd, mut other) = (site.raw("/hold"), site.raw("/crowd"), site.raw("/"));
    holder.write_all(&frame(TEXT, b"hold")).unwrap();
    held.wait("the handler to run", |held| held.then_some(()));
    // The crowd sends first.
    let messages = frame(TEXT, b"x").repeat(MESSAGES);
    let sent = crowd.write(&messages).unwrap();
    other.write_all(&frame(TEXT, b"x")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| crowd.write_all(&messages[sent..]).unwrap());
        gate.wait();
        let before = when.wait("the other peer's message to arrive", |when| *when);
        assert!(before < MESSAGES / 10, "the other peer was read after {before} messages of the crowd");
    });
    eventually("all to be handled", || handled.load(Ordering::Relaxed) == MESSAGES);
    drop((holder, crowd, other));
    site.stop();
}

#[test]
fn a_claimed_length_uses_no_memory() {
    alone("ws::overload::a_claimed_length_uses_no_memory", || {
        for (server, shards) in [(Server::Own, 1), (Server::Axum, 2)] {
            let site = Site::start(
                server,
                |hub| hub.shards(shards),
                |hub, router| {
                    let endpoint = ws::endpoint(Echo::default()).max_message(1 << 30);
                    router.route("/", hub.ws(Echo::default())).route("/large", hub.ws(endpoint))
                },
            );
            let mut other = site.connect("/");
            check_echo(&mut other);
            let before = resident();
            for len in [1 << 63, u64::MAX, 1 << 62, 1 << 40, (1 << 20) + 1] {
                for first in [TEXT, BINARY, 0x01, 0x02] {
                    let mut raw = site.raw("/");
                    raw.write_all(&header(first, len)).unwrap();
                    let code = read_close(&mut raw).0;
                    assert_eq!(code, if len >> 63 == 1 { 1002 } else { 1009 }, "{len}");
                }
            }
            // Allowed lengths are not trusted, either: these messages stay unfinished.
            let half_sent: Vec<TcpStream> = (0..200)
                .map(|n| {
                    let mut raw = site.raw("/large");
                    let (first, so_far) = if n % 2 == 0 { (BINARY, 1000) } else { (0x01, 0) };
                    raw.write_all(&header(first, 1 << 29)).unwrap();
                    raw.write_all(&vec![b'x'; so_far]).unwrap();
                    raw
                })
                .collect();
            check_echo(&mut other);
            eventually("the unfinished messages to be read", || site.hub.stats().opened == 221);
            let grown = resident().saturating_sub(before);
            assert!(grown < 64 << 20, "memory has grown by {grown}");
            check_echo(&mut other);
            drop((half_sent, other));
            site.stop();
        }
    });
}

#[test]
fn memory_of_many_unfinished_messages_is_bounded() {
    alone("ws::overload::memory_of_many_unfinished_messages_is_bounded", || {
        let (site, _) = Site::echo(Server::Own, |hub| hub.shards(2));
        let mut other = site.connect("/");
        let before = resident();
        // 200 times half a message of 200,000 bytes: 20 MB, and not much more.
        let half_sent: Vec<TcpStream> = (0..200)
            .map(|_| {
                let mut raw = site.raw("/");
                raw.write_all(&header(BINARY, 200_000)).unwrap();
                raw.write_all(&[7; 100_000]).unwrap();
                // A ping in the middle of a fragmented message would be answered; here the next byte is payload.
                raw
            })
            .collect();
        check_echo(&mut other);
        let grown = resident().saturating_sub(before);
        assert!(grown < 96 << 20, "memory has grown by {grown}");
        // All of them can be completed, each with its own content.
        for mut raw in half_sent {
            raw.write_all(&[7; 100_000]).unwrap();
            assert_eq!(read_frame(&mut raw).unwrap(), (BINARY, vec![7; 200_000]));
        }
        drop(other);
        site.stop();
    });
}

#[test]
fn a_peer_that_sends_much_at_once_is_slowed_down_and_loses_nothing() {
    const MESSAGES: u32 = 200_000;
    for server in SERVERS {
        let site = Site::start(
            server,
            |hub| hub.shards(1),
            |hub, router| {
                let echo = async |conn: Connection, message: Message| conn.push(message);
                router.route("/", hub.ws(ws::handlers().on_message(echo)))
            },
        );
        let mut raw = site.raw("/");
        let mut writer = raw.try_clone().unwrap();
        let writes = std::thread::spawn(move || {
            let all: Vec<u8> = (0..MESSAGES).flat_map(|n| frame(BINARY, &n.to_be_bytes())).collect();
            writer.write_all(&all).unwrap();
        });
        let mut reader = std::io::BufReader::new(&mut raw);
        for n in 0..MESSAGES {
            assert_eq!(read_frame(&mut reader).unwrap(), (BINARY, n.to_be_bytes().to_vec()));
        }
        writes.join().unwrap();
        drop(raw);
        let stats = site.stop();
        assert_eq!((stats.messages, stats.slow_consumers), (u64::from(MESSAGES), 0));
    }
}
