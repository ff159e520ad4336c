use std::{
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

use crate::support::{
    Echo, PING, PONG, SERVERS, Seen, Site, TEXT, check_echo, dial, frame, head, header, read_any, read_close,
    read_frame, request,
};
use ripplecast::{Connection, Message, ws};

const PING_INTERVAL: Duration = Duration::from_millis(100);
const PONG_TIMEOUT: Duration = Duration::from_millis(200);
const MESSAGE_TIMEOUT: Duration = Duration::from_millis(200);

#[test]
fn a_peer_that_answers_pings_stays() {
    const INTERVAL: Duration = Duration::from_millis(400);
    std::thread::scope(|scope| {
        for server in SERVERS {
            scope.spawn(move || {
                let echo = Echo::default();
                let endpoint = ws::endpoint(echo.clone()).ping_interval(INTERVAL);
                let site = Site::start(
                    server,
                    |hub| hub.shards(1),
                    |hub, router| router.route("/", hub.ws(endpoint)),
                );
                // A third-party client answers by itself, as long as it reads.
                let mut client = site.connect("/");
                let begun = Instant::now();
                for _ in 0..5 {
                    assert!(client.read().unwrap().is_ping());
                }
                // Each may be sent early by one sweep, which is a quarter of the interval here.
                assert!(begun.elapsed() >= INTERVAL * 3, "pings arrived too fast: {:?}", begun.elapsed());
                check_echo(&mut client);
                echo.0.with(|calls| assert_eq!(calls.closed.len(), 0));
                drop(client);
                site.stop();
            });
        }
    });
}

#[test]
fn a_peer_that_answers_no_ping_is_closed() {
    for server in SERVERS {
        let echo = Echo::default();
        let endpoint = ws::endpoint(echo.clone()).ping_interval(PING_INTERVAL).pong_timeout(PONG_TIMEOUT);
        let site =
            Site::start(server, |hub| hub.shards(1), |hub, router| router.route("/", hub.ws(endpoint)));
        let begun = Instant::now();
        let mut silent = site.raw("/");
        let (code, reason) = echo.closed(0);
        assert_eq!((code, &*reason), (1006, "the peer did not answer a ping"));
        assert!(begun.elapsed() >= PONG_TIMEOUT, "closed after {:?}", begun.elapsed());
        assert_eq!(read_any(&mut silent).unwrap(), (PING, Vec::new()));
        read_any(&mut silent).expect_err("one ping was enough");
        site.stop();
    }
}

#[test]
fn without_a_pong_timeout_pings_continue() {
    let echo = Echo::default();
    let endpoint = ws::endpoint(echo.clone()).ping_interval(PING_INTERVAL).pong_timeout(Duration::ZERO);
    let site = Site::own(1, |hub, router| router.route("/", hub.ws(endpoint)));
    let mut silent = site.raw("/");
    for _ in 0..6 {
        assert_eq!(read_any(&mut silent).unwrap().0, PING);
    }
    echo.0.with(|calls| assert_eq!(calls.closed.len(), 0));
    drop(silent);
    site.stop();
}

/// The answer to a ping need not be a pong.
#[test]
fn anything_a_peer_sends_is_a_sign_of_life() {
    /// Long enough for a busy machine.
    const PONG_TIMEOUT: Duration = Duration::from_millis(1200);
    let echo = Echo::default();
    let endpoint = ws::endpoint(echo.clone()).ping_interval(PING_INTERVAL).pong_timeout(PONG_TIMEOUT);
    let site = Site::own(1, |hub, router| router.route("/", hub.ws(endpoint)));
    let begun = Instant::now();
    let mut raw = site.raw("/");
    // During the whole time, fragments of one message.
    raw.write_all(&frame(0x01, b"begun")).unwrap();
    while begun.elapsed() < PONG_TIMEOUT * 2 {
        assert_eq!(read_any(&mut raw).unwrap().0, PING);
        raw.write_all(&frame(0x00, b", and on")).unwrap();
    }
    echo.0.with(|calls| assert_eq!(calls.closed.len(), 0));
    drop(raw);
    site.stop();
}

/// A ping that waits behind a backlog can't be answered yet.
#[test]
fn a_slow_reader_that_makes_progress_is_not_dead() {
    /// Long enough for a busy machine.
    const PONG_TIMEOUT: Duration = Duration::from_millis(2000);
    const BACKLOG: usize = 24 << 20;
    for server in SERVERS {
        let gone = Seen::<Option<u16>>::default();
        let recorder = gone.clone();
        let handler = ws::handlers()
            .on_open(async |conn: Connection| conn.push(Message::binary(vec![0; BACKLOG])).ignore())
            .on_close(move |_: Connection, close: ripplecast::Close| {
                recorder.with(|gone| *gone = Some(close.code.get()));
                async {}
            });
        let endpoint =
            ws::endpoint(handler).outbox(2 * BACKLOG).ping_interval(PING_INTERVAL).pong_timeout(PONG_TIMEOUT);
        let site =
            Site::start(server, |hub| hub.shards(1), |hub, router| router.route("/", hub.ws(endpoint)));
        let begun = Instant::now();
        let mut raw = site.raw("/");
        let mut left = BACKLOG;
        let mut part = vec![0; 256 << 10];
        // Slow enough for the backlog to outlast the timeout twice.
        while left > 0 {
            let due = (PONG_TIMEOUT * 2).mul_f64(1.0 - left as f64 / BACKLOG as f64);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
            match raw.read(&mut part[..left.min(256 << 10)]) {
                Ok(n) if n > 0 => left -= n,
                ended => panic!("{server:?}: {ended:?} with {left} bytes missing"),
            }
        }
        gone.with(|gone| assert_eq!(*gone, None, "{server:?}"));
        drop(raw);
        assert_eq!(gone.wait("the end", |gone| *gone), 1006);
        site.stop();
    }
}

/// Pongs that are unread because the shard was blocked are signs of life.
#[test]
fn peers_are_not_dead_because_the_server_was_blocked() {
    /// Long enough for a busy machine.
    const PONG_TIMEOUT: Duration = Duration::from_millis(4000);
    /// More than the shard reads in one turn.
    const PEERS: usize = 400;
    let (held, gate) = (Seen::<bool>::default(), std::sync::Arc::new(std::sync::Barrier::new(2)));
    let (recorder, wait) = (held.clone(), gate.clone());
    let closed = Seen::<usize>::default();
    let count = closed.clone();
    let site = Site::own(1, |hub, router| {
        let handler = ws::handlers().on_close(move |_: Connection, _: ripplecast::Close| {
            count.with(|closed| *closed += 1);
            async {}
        });
        let peer = ws::endpoint(handler).ping_interval(PING_INTERVAL).pong_timeout(PONG_TIMEOUT);
        let holder = ws::handlers().on_message(move |_: Connection, _: Message| {
            recorder.with(|held| *held = true);
            wait.wait(); // on purpose: blocks its shard
            async {}
        });
        router.route("/peer", hub.ws(peer)).route("/holder", hub.ws(holder))
    });
    let mut holder = site.raw("/holder");
    let mut peers: Vec<_> = (0..PEERS).map(|_| site.raw("/peer")).collect();
    for peer in &mut peers {
        assert_eq!(read_any(peer).unwrap().0, PING);
    }
    holder.write_all(&frame(TEXT, b"hold")).unwrap();
    held.wait("the handler", |held| held.then_some(()));
    for peer in &mut peers {
        peer.write_all(&frame(PONG, b"")).unwrap();
    }
    // Time must pass in which the shard does nothing.
    std::thread::sleep(PONG_TIMEOUT);
    gate.wait();
    for peer in &mut peers {
        assert_eq!(read_any(peer).unwrap().0, PING, "each is pinged again");
    }
    closed.with(|closed| assert_eq!(*closed, 0));
    drop((holder, peers));
    site.stop();
}

#[test]
fn without_an_interval_there_are_no_pings() {
    let site = Site::own(1, |hub, router| {
        let quick = ws::endpoint(Echo::default()).ping_interval(PING_INTERVAL).pong_timeout(PONG_TIMEOUT);
        let none = ws::endpoint(Echo::default()).ping_interval(Duration::ZERO);
        router.route("/quick", hub.ws(quick)).route("/none", hub.ws(none))
    });
    let mut none = site.raw("/none");
    // A connection that must answer pings is closed meanwhile.
    let mut quick = site.raw("/quick");
    while let Ok((first, _)) = read_any(&mut quick) {
        assert_eq!(first, PING);
    }
    none.write_all(&frame(TEXT, b"x")).unwrap();
    assert_eq!(read_any(&mut none).unwrap(), (TEXT, b"x".to_vec()), "the first frame received is the echo");
    drop((none, quick));
    site.stop();
}

#[test]
fn timers_pause_while_a_handler_waits() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let waits = gate.clone();
    let begun = Seen::<bool>::default();
    let recorder = begun.clone();
    let site = Site::own(1, |hub, router| {
        let handler = ws::handlers().on_message(move |conn: Connection, message: Message| {
            let (gate, recorder) = (waits.clone(), recorder.clone());
            async move {
                recorder.with(|begun| *begun = true);
                gate.acquire().await.unwrap().forget();
                conn.push(message).ignore();
            }
        });
        let paused = ws::endpoint(handler)
            .ping_interval(PING_INTERVAL)
            .pong_timeout(PONG_TIMEOUT)
            .message_timeout(MESSAGE_TIMEOUT);
        router.route("/", hub.ws(paused))
    });
    let mut raw = dial(site.addr);
    let half = frame(TEXT, b"the second");
    // The second message stays incomplete while the handler of the first waits. All is sent at once: the
    // connection must not be closed for silence before the first has arrived.
    let messages = [&frame(TEXT, b"the first")[..], &half[..8]].concat();
    raw.write_all(&[request("/", "").as_bytes(), &messages].concat()).unwrap();
    assert!(head(&mut raw).starts_with("http/1.1 101 "));
    begun.wait("the handler", |begun| begun.then_some(()));
    // This waits for no race: time must pass in which nothing happens.
    std::thread::sleep(PING_INTERVAL * 10);
    assert_eq!(site.hub.stats().closed, 0);
    raw.write_all(&half[8..]).unwrap();
    gate.add_permits(2);
    for expected in [b"the first".to_vec(), b"the second".to_vec()] {
        assert_eq!(read_frame(&mut raw).unwrap(), (TEXT, expected));
    }
    drop(raw);
    site.stop();
}

#[test]
fn an_unfinished_message_is_cut_off_without_affecting_others() {
    for server in SERVERS {
        let echo = Echo::default();
        let endpoint = ws::endpoint(echo.clone()).message_timeout(MESSAGE_TIMEOUT);
        let site =
            Site::start(server, |hub| hub.shards(1), |hub, router| router.route("/", hub.ws(endpoint)));
        let mut other = site.connect("/");
        let long = header(TEXT, 100_000);
        let unfinished = [
            ("half a header", long[..1].to_vec()),
            ("a header without its mask", long[..10].to_vec()),
            ("a header without a payload", long.clone()),
            ("half a payload", [&long[..], b"so far"].concat()),
            ("a message without its last fragment", [frame(0x01, b"a"), frame(0x00, b"b")].concat()),
            ("half a ping", header(PING, 5)),
        ];
        for (n, (what, bytes)) in unfinished.into_iter().enumerate() {
            let begun = Instant::now();
            let mut raw = site.raw("/");
            raw.write_all(&bytes).unwrap();
            assert_eq!(read_close(&mut raw).0, 1008, "{server:?}: {what}");
            assert!(begun.elapsed() >= MESSAGE_TIMEOUT, "{what}");
            drop(raw);
            assert_eq!(echo.closed(n).0, 1008, "{what}");
            check_echo(&mut other);
        }
        drop(other);
        site.stop();
    }
}

#[test]
fn single_bytes_do_not_keep_a_message_unfinished() {
    let echo = Echo::default();
    let endpoint = ws::endpoint(echo.clone()).message_timeout(MESSAGE_TIMEOUT);
    let site = Site::own(1, |hub, router| router.route("/", hub.ws(endpoint)));
    let mut raw = site.raw("/");
    let mut reader = raw.try_clone().unwrap();
    let drip = std::thread::spawn(move || {
        // The loop ends when the server has closed the socket: at the latest the second write then fails.
        for byte in frame(TEXT, &[b'x'; 60_000]) {
            if raw.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("60,000 bytes were accepted, one at a time");
    });
    assert_eq!(read_close(&mut reader).0, 1008);
    assert_eq!(echo.closed(0).0, 1008);
    drip.join().unwrap();
    site.stop();
}

#[test]
fn pings_between_fragments_do_not_keep_a_message_unfinished() {
    let endpoint = ws::endpoint(Echo::default()).message_timeout(MESSAGE_TIMEOUT);
    let site = Site::own(1, |hub, router| router.route("/", hub.ws(endpoint)));
    let mut raw = site.raw("/");
    raw.write_all(&frame(0x01, b"begun")).unwrap();
    let close = loop {
        // Each answer triggers the next ping, as fast as possible, and the message is still cut off.
        let _ = raw.write_all(&frame(PING, b""));
        let (first, payload) = read_frame(&mut raw).unwrap();
        if first != PONG {
            break (first, u16::from_be_bytes([payload[0], payload[1]]));
        }
    };
    assert_eq!(close, (0x88, 1008));
    drop(raw);
    site.stop();
}
