use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    time::{Duration, Instant},
};

use ripplecast::{
    CloseCode, Connection, Error, Message, Sent,
    error::BackendError,
    ws::{self, Handler},
};
use tungstenite::{
    Message as WsMessage,
    protocol::{CloseFrame, frame::coding::CloseCode as Code},
};

use crate::support::{
    CLOSE, Client, Echo, Log, SERVERS, Server, Site, TEXT, check_echo, close_frame, ending, eventually,
    frame, read_close, read_frame, reset, text,
};

/// Serves an endpoint at `/` that records its calls.
fn site(server: Server, shards: usize) -> (Site, Echo) {
    let (site, echo) = Site::echo(server, |hub| hub.shards(shards));
    (site, echo)
}

/// Starts a close from the client.
fn close(client: &mut Client, code: u16, reason: &str) {
    client.close(Some(CloseFrame { code: Code::from(code), reason: reason.into() })).unwrap();
}

#[test]
fn a_close_from_the_client_is_echoed_and_reported_to_on_close() {
    for server in SERVERS {
        for shards in [1, 2] {
            let (site, echo) = site(server, shards);
            let mut client = site.connect("/");
            check_echo(&mut client);
            close(&mut client, 4001, "bye");
            assert_eq!(ending(&mut client), (4001, "bye".to_owned()));
            assert_eq!(echo.closed(0), (4001, "bye".to_owned()));
            // Without a code.
            let mut raw = site.raw("/");
            raw.write_all(&frame(CLOSE, b"")).unwrap();
            assert_eq!(read_frame(&mut raw).unwrap(), (CLOSE, vec![]));
            assert_eq!(raw.read(&mut [0]).unwrap(), 0);
            assert_eq!(echo.closed(1), (1005, String::new()));
            assert_eq!(site.stop().closed, 2);
        }
    }
}

#[test]
fn a_close_from_the_server_is_reported_to_the_client_and_to_on_close() {
    for server in SERVERS {
        for shards in [1, 2] {
            let (site, echo) = site(server, shards);
            let mut client = site.connect("/");
            let conn = echo.opened(0);
            let code = CloseCode::application(4002).unwrap();
            assert!(conn.push("last words").is_queued());
            assert!(conn.close(code, "moved").is_queued());
            // It counts as closed from now on, whatever the peer does.
            assert!(!conn.is_open());
            assert_eq!(conn.push("too late"), Sent::Closed);
            assert_eq!(conn.close(CloseCode::NORMAL, ""), Sent::Closed);
            assert!(conn.join("room").unwrap_err().is_closed());
            assert!(conn.join_with("room", "snapshot").unwrap_err().is_closed());
            assert!(conn.set_state(1_u8).unwrap_err().is_closed());
            assert!(site.runtime.block_on(conn.identify("ann")).unwrap_err().is_closed());
            assert!(site.hub.connection(conn.id()).is_none());
            site.runtime.block_on(conn.closed());
            assert_eq!(text(&mut client), "last words");
            assert_eq!(ending(&mut client), (4002, "moved".to_owned()));
            assert_eq!(echo.closed(0), (4002, "moved".to_owned()));
            site.stop();
        }
    }
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let (site, echo) = site(Server::Own, 1);
    let mut client = site.connect("/");
    assert!(echo.opened(0).close(CloseCode::NORMAL, "\u{20ac}".repeat(60)).is_queued());
    assert_eq!(ending(&mut client), (1000, "\u{20ac}".repeat(41)));
    site.stop();
}

#[test]
fn both_sides_may_close_at_once() {
    let (site, echo) = site(Server::Own, 1);
    for n in 0..50 {
        let mut raw = site.raw("/");
        let conn = echo.opened(n);
        let closer = std::thread::spawn(move || conn.close(CloseCode::NORMAL, "server").ignore());
        raw.write_all(&close_frame(4001, "client")).unwrap();
        let received = read_close(&mut raw);
        closer.join().unwrap();
        drop(raw);
        assert_eq!(echo.closed(n), received, "whichever close was first, both sides report the same code");
    }
    site.stop();
}

#[test]
fn the_server_does_not_wait_for_a_close_frame_it_has_received() {
    let site = Site::own(1, |hub, router| {
        let room = hub.room("all");
        let endpoint = ws::handlers().with_state(room).on_open(async |_, conn| conn.join("all")).on_message(
            async |room, conn, frame| {
                room.push("still sent").ignore(); // so that the close waits for a message
                if frame.as_text() == Some("fail") {
                    return Err(std::io::Error::other("as asked").into());
                }
                conn.close(CloseCode::NORMAL, "ours").ignore();
                Ok(())
            },
        );
        router.route("/", hub.ws(endpoint))
    });
    for (message, received) in [("close", (4001, "theirs")), ("fail", (1011, ""))] {
        // The server must not wait for a close frame that has already arrived; it would wait for 5 s.
        let quickest = (0..5).map(|_| {
            let mut raw = site.raw("/");
            let sent = [frame(TEXT, message.as_bytes()), close_frame(4001, "theirs")].concat();
            let begin = Instant::now();
            raw.write_all(&sent).unwrap();
            assert_eq!(read_frame(&mut raw).unwrap(), (TEXT, b"still sent".to_vec()));
            let (code, reason) = read_close(&mut raw);
            assert!(code == received.0 && reason.starts_with(received.1), "{code} {reason}");
            assert_eq!(raw.read(&mut [0]).unwrap(), 0);
            begin.elapsed()
        });
        assert!(quickest.min().unwrap() < Duration::from_secs(4), "{message}");
    }
    assert_eq!(site.stop().protocol_errors, 0);
}

#[test]
fn an_error_that_wraps_a_backend_error_closes_with_1013_and_logs_few_lines() {
    #[derive(Debug, thiserror::Error)]
    #[error("the order can't be saved")]
    struct NotSaved(#[source] Error);

    struct Failing;

    impl Handler for Failing {
        async fn on_message(&self, _: Connection, message: Message) -> ripplecast::Result<()> {
            let backend = BackendError::Unavailable { reason: "it restarts".into() };
            Err(match message.as_text() {
                Some("wrapped") => Error::other(backend),
                Some("a cause") => Error::other(NotSaved(backend.into())),
                _ => backend.into(),
            })
        }
    }

    let log = Log::keep();
    let site = Site::own(1, |hub, router| router.route("/orders", hub.ws(Failing)));
    let mut failed = 0;
    let mut fail = |message: &str| {
        let mut raw = site.raw("/orders");
        raw.write_all(&[frame(TEXT, message.as_bytes()), close_frame(1000, "")].concat()).unwrap();
        assert_eq!(read_close(&mut raw).0, 1013, "{message}");
        failed += 1;
    };
    ["as it is", "wrapped", "a cause"].iter().cycle().take(60).for_each(|message| fail(message));
    // Lines of this kind are limited for the whole process, so another test may take the place of one.
    let own = || log.lines("a callback needed the backend; its connection is closed with 1013 path=/orders ");
    eventually("a line names the path", || {
        fail("a cause");
        !own().is_empty()
    });
    assert!(own().iter().all(|line| line.contains("it restarts")), "{:?}", own());
    assert_eq!(site.stop().failed_callbacks, failed);
    log.check_limited("a callback needed the backend");
}

#[test]
fn messages_that_arrive_after_our_close_frame_are_not_handled() {
    let (site, echo) = site(Server::Own, 1);
    let mut raw = site.raw("/");
    echo.opened(0).close(CloseCode::NORMAL, "").ignore();
    assert_eq!(read_frame(&mut raw).unwrap(), (CLOSE, b"\x03\xe8".to_vec()));
    raw.write_all(&frame(0x81, b"did not know yet")).unwrap();
    raw.write_all(&frame(0x89, b"ping")).unwrap();
    raw.write_all(&close_frame(1000, "")).unwrap();
    assert_eq!(raw.read(&mut [0]).unwrap(), 0, "nothing may follow a close frame");
    assert_eq!(echo.closed(0), (1000, String::new()));
    assert_eq!(site.stop().messages, 0);
}

#[test]
fn a_peer_that_never_answers_our_close_frame_is_dropped() {
    for server in SERVERS {
        let (site, echo) = site(server, 1);
        let begun = Instant::now();
        let mut raw = site.raw("/");
        echo.opened(0).close(CloseCode::NORMAL, "").ignore();
        assert_eq!(read_frame(&mut raw).unwrap(), (CLOSE, b"\x03\xe8".to_vec()));
        assert_eq!(raw.read(&mut [0]).unwrap(), 0);
        assert!(begun.elapsed() >= Duration::from_secs(5), "the peer had 5 s to answer");
        assert_eq!(echo.closed(0), (1000, String::new()));
        site.stop();
    }
}

#[test]
fn a_lost_connection_is_reported_as_1006() {
    for server in SERVERS {
        for shards in [1, 2] {
            let (site, echo) = site(server, shards);
            let client = site.connect("/");
            let conn = echo.opened(0);
            reset(client.get_ref().try_clone().unwrap());
            drop(client);
            assert_eq!(echo.closed(0), (1006, String::new()));
            assert_eq!(conn.push("anybody there?"), Sent::Closed, "a disconnected peer is not an error");
            // The stream ends without a close frame.
            drop(site.connect("/"));
            assert_eq!(echo.closed(1), (1006, String::new()));
            // A half-closed stream: a peer that sends no more can't answer a close frame, either.
            let raw = site.raw("/");
            raw.shutdown(Shutdown::Write).unwrap();
            assert_eq!(echo.closed(2), (1006, String::new()));
            // The stream ends in the middle of a frame.
            let mut raw = site.raw("/");
            raw.write_all(&frame(0x81, b"cut off")[..9]).unwrap();
            drop(raw);
            assert_eq!(echo.closed(3), (1006, String::new()));
            assert_eq!(site.stop().messages, 0);
        }
    }
}

#[test]
fn messages_before_the_end_are_handled_and_answered() {
    for shards in [1, 2] {
        let (site, echo) = site(Server::Own, shards);
        let mut raw = site.raw("/");
        let messages: Vec<u8> = (0..1000).flat_map(|n| frame(0x81, format!("{n}").as_bytes())).collect();
        raw.write_all(&messages).unwrap();
        raw.write_all(&close_frame(1000, "that was all")).unwrap();
        for n in 0..1000 {
            assert_eq!(read_frame(&mut raw).unwrap().1, format!("{n}").as_bytes());
        }
        assert_eq!(read_close(&mut raw), (1000, "that was all".to_owned()));
        assert_eq!(echo.closed(0).0, 1000);
        let handled = echo.0.with(|calls| calls.messages.len());
        assert_eq!(handled, 1000);
        site.stop();
    }
}

#[test]
fn a_third_party_client_receives_everything_pushed_before_the_close() {
    let (site, echo) = site(Server::Own, 2);
    let mut client = site.connect("/");
    let conn = echo.opened(0);
    conn.join("room").unwrap();
    let room = site.hub.room("room");
    for n in 0..500 {
        assert!(if n % 2 == 0 { conn.push(format!("{n}")) } else { room.push(format!("{n}")) }.is_queued());
    }
    conn.close(CloseCode::NORMAL, "done").ignore();
    for n in 0..500 {
        assert_eq!(text(&mut client), format!("{n}"));
    }
    assert_eq!(ending(&mut client), (1000, "done".to_owned()));
    assert!(client.send(WsMessage::text("?")).is_err());
    site.stop();
}
