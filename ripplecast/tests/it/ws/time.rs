use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use crate::support::{
    Echo, PING, PONG, SERVERS, Seen, Site, TEXT, check_echo, dial, frame, head, header, read_any, read_close,
    read_frame, request,
};
use ripplecast::{Connection, Frame, ws};

const PING_INTERVAL: Duration = Duration::from_millis(100);
const MESSAGE_TIMEOUT: Duration = Duration::from_millis(200);

#[test]
fn who_answers_pings_stays() {
    /// Long enough for a busy machine: who does not answer for three of these is gone.
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
                // A client of somebody else's answers by itself, as long as it reads.
                let mut client = site.connect("/");
                let begun = Instant::now();
                for _ in 0..12 {
                    assert!(client.read().unwrap().is_ping());
                }
                assert!(begun.elapsed() >= INTERVAL * 11, "pings came too fast: {:?}", begun.elapsed());
                check_echo(&mut client);
                echo.0.with(|calls| assert_eq!(calls.closed.len(), 0));
                drop(client);
                site.stop();
            });
        }
    });
}

#[test]
fn who_answers_no_ping_is_gone() {
    for server in SERVERS {
        let echo = Echo::default();
        let endpoint = ws::endpoint(echo.clone()).ping_interval(PING_INTERVAL);
        let site =
            Site::start(server, |hub| hub.shards(1), |hub, router| router.route("/", hub.ws(endpoint)));
        let begun = Instant::now();
        let silent = site.raw("/");
        let (code, _) = echo.closed(0);
        assert_eq!(code, 1006);
        assert!(begun.elapsed() >= PING_INTERVAL * 3, "two pings may be missed, each for an interval");
        drop(silent);
        site.stop();
    }
}

#[test]
fn without_an_interval_there_are_no_pings() {
    let site = Site::own(1, |hub, router| {
        let quick = ws::endpoint(Echo::default()).ping_interval(PING_INTERVAL);
        let none = ws::endpoint(Echo::default()).ping_interval(Duration::ZERO);
        router.route("/quick", hub.ws(quick)).route("/none", hub.ws(none))
    });
    let mut none = site.raw("/none");
    // One that has to answer pings is gone meanwhile.
    let mut quick = site.raw("/quick");
    while let Ok((first, _)) = read_any(&mut quick) {
        assert_eq!(first, PING);
    }
    none.write_all(&frame(TEXT, b"x")).unwrap();
    assert_eq!(read_any(&mut none).unwrap(), (TEXT, b"x".to_vec()), "the first frame that comes is the echo");
    drop((none, quick));
    site.stop();
}

#[test]
fn timers_pause_while_a_handler_waits() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let waits = gate.clone();
    let begun = Seen::<bool>::default();
    let tell = begun.clone();
    let site = Site::own(1, |hub, router| {
        let handler = ws::handlers().on_message(move |conn: Connection, frame: Frame| {
            let (gate, tell) = (waits.clone(), tell.clone());
            async move {
                tell.with(|begun| *begun = true);
                gate.acquire().await.unwrap().forget();
                conn.push(frame).ignore();
            }
        });
        let paused = ws::endpoint(handler).ping_interval(PING_INTERVAL).message_timeout(MESSAGE_TIMEOUT);
        router.route("/", hub.ws(paused))
    });
    let mut raw = dial(site.addr);
    let half = frame(TEXT, b"the second");
    // The second message is half there, and stays so for as long as the handler of the first waits. All is sent at once: the
    // connection must not be gone, for its silence, before the first is there.
    let messages = [&frame(TEXT, b"the first")[..], &half[..8]].concat();
    raw.write_all(&[request("/", "").as_bytes(), &messages].concat()).unwrap();
    assert!(head(&mut raw).starts_with("http/1.1 101 "));
    begun.wait("the handler", |begun| begun.then_some(()));
    // No race is waited for here: time has to pass, in which nothing must happen.
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
fn an_unfinished_message_is_cut_and_others_notice_nothing() {
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
fn a_drip_of_bytes_does_not_keep_a_message_unfinished() {
    let echo = Echo::default();
    let endpoint = ws::endpoint(echo.clone()).message_timeout(MESSAGE_TIMEOUT);
    let site = Site::own(1, |hub, router| router.route("/", hub.ws(endpoint)));
    let mut raw = site.raw("/");
    let mut reader = raw.try_clone().unwrap();
    let drip = std::thread::spawn(move || {
        // It ends when the server has gone: a write to a socket that nobody has fails, at the second at the latest.
        for byte in frame(TEXT, &[b'x'; 60_000]) {
            if raw.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("60,000 bytes were taken, one at a time");
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
        // Each answer brings the next ping: as fast as it goes, and the message is cut all the same.
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
