use std::{
    collections::HashMap,
    future::pending,
    io::Write as _,
    time::{Duration, Instant},
};

use ripplecast::{Close, Connection, ConnectionId, Error, Hub, Message, Result, Sent, ws, ws::Handler};
use tungstenite::Message as WsMessage;

use crate::support::{
    CLOSE, PATIENCE, SERVERS, Seen, Server, Site, TEXT, close_frame, frame, header, read_frame, reset,
};

/// Stored with each connection and checked in `on_close`.
#[derive(PartialEq, Debug)]
struct Kept(ConnectionId);

/// How often each connection was opened and closed, and with which code.
#[derive(Default)]
struct Ends {
    opened: HashMap<ConnectionId, u32>,
    closed: HashMap<ConnectionId, Vec<u16>>,
    /// Errors detected by `on_close`, with the code.
    wrong: Vec<(&'static str, u16)>,
}

/// A handler that fails as a message tells it to, or as the path does for `on_open`.
struct Fails {
    hub: Hub,
    ends: Seen<Ends>,
}

/// What the path tells it to do in `on_open` and `on_close`.
#[derive(Clone, Copy, PartialEq)]
enum Do {
    Nothing,
    PanicInOpen,
    PanicInOpenLater,
    FailInOpen,
    PanicInClose,
    PanicInCloseLater,
    FailInClose,
}

impl Handler for Fails {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        self.ends.with(|ends| *ends.opened.entry(conn.id()).or_default() += 1);
        conn.set_state(Kept(conn.id()))?;
        conn.join("room")?;
        conn.identify("everybody").await?;
        match *conn.state::<Do>().unwrap() {
            Do::PanicInOpen => panic!("a test: on_open panics"),
            Do::PanicInOpenLater => {
                tokio::task::yield_now().await;
                panic!("a test: on_open panics later");
            }
            Do::FailInOpen => Err(Error::other("a test: on_open fails")),
            _ => Ok(()),
        }
    }

    async fn on_message(&self, _conn: Connection, message: Message) -> Result<()> {
        match message.as_text() {
            Some("panic") => panic!("a test: on_message panics"),
            Some("panic later") => {
                tokio::task::yield_now().await;
                panic!("a test: on_message panics later");
            }
            Some("fail") => Err(Error::other("a test: on_message fails")),
            Some("hang") => pending().await,
            Some("wait") => {
                tokio::task::yield_now().await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn on_close(&self, conn: Connection, close: Close) -> Result<()> {
        // Recorded instead of asserted: a panic would be one of those that the test causes.
        let wrong = [
            ("the connection is open", conn.is_open()),
            ("its state is missing", conn.state::<Kept>().is_none_or(|kept| kept.0 != conn.id())),
            ("a push was accepted", conn.push("too late") != Sent::Closed),
            ("it could join", conn.join("room").is_ok()),
            ("it is found by its id", self.hub.connection(conn.id()).is_some()),
            ("it is in a room", self.hub.room("room").members().await?.contains(&conn.id())),
        ];
        let code = close.code.get();
        self.ends.with(|ends| {
            ends.wrong.extend(wrong.iter().filter(|(_, wrong)| *wrong).map(|(what, _)| (*what, code)));
            ends.closed.entry(conn.id()).or_default().push(code);
        });
        match *conn.state::<Do>().unwrap() {
            Do::PanicInClose => panic!("a test: on_close panics"),
            Do::PanicInCloseLater => {
                tokio::task::yield_now().await;
                panic!("a test: on_close panics later");
            }
            Do::FailInClose => Err(Error::other("a test: on_close fails")),
            _ => Ok(()),
        }
    }
}

fn site(server: Server, shards: usize) -> (Site, Seen<Ends>) {
    let ends = Seen::default();
    let site = Site::start(
        server,
        |hub| hub.shards(shards),
        |hub, router| {
            let endpoint = ws::endpoint(Fails { hub: hub.clone(), ends: ends.clone() })
                .max_message(1000)
                .on_upgrade(|request: ripplecast::Request| async move {
                    Ok::<_, ()>(ripplecast::Accept::new().state(match request.uri().path() {
                        "/panic-in-open" => Do::PanicInOpen,
                        "/panic-in-open-later" => Do::PanicInOpenLater,
                        "/fail-in-open" => Do::FailInOpen,
                        "/panic-in-close" => Do::PanicInClose,
                        "/panic-in-close-later" => Do::PanicInCloseLater,
                        "/fail-in-close" => Do::FailInClose,
                        _ => Do::Nothing,
                    }))
                });
            router.route("/{what}", hub.ws(endpoint))
        },
    );
    (site, ends)
}

/// Runs one client, which ends in the way given by `n`. Returns the code that its `on_close` receives.
fn come_and_go(site: &Site, n: usize) -> u16 {
    let path = match n % 15 {
        0 => "/panic-in-open",
        1 => "/panic-in-open-later",
        2 => "/fail-in-open",
        3 => "/panic-in-close",
        4 => "/panic-in-close-later",
        5 => "/fail-in-close",
        _ => "/plain",
    };
    let mut raw = site.raw(path);
    let mut end = |bytes: Vec<u8>, code: u16| {
        // If the server closes first, what the client is still sending may be reset: an error here is
        // expected.
        let _ = raw.write_all(&bytes);
        // A peer that disconnects without answering the close frame.
        while read_frame(&mut raw).is_ok_and(|(first, _)| first != CLOSE) {}
        code
    };
    match n % 15 {
        0..=2 => end(vec![], 1011),
        3..=5 => end(close_frame(4000, ""), 4000),
        6 => end(frame(TEXT, b"panic"), 1011),
        7 => end(frame(TEXT, b"panic later"), 1011),
        8 => end(frame(TEXT, b"fail"), 1011),
        9 => end(frame(TEXT, &[b'x'; 1001]), 1009),
        10 => end(vec![0xff; 100], 1002),
        11 => end([frame(TEXT, b"wait"), close_frame(4001, "")].concat(), 4001),
        12 => {
            reset(raw);
            1006
        }
        13 => {
            raw.write_all(&header(TEXT, 500)).unwrap();
            drop(raw);
            1006
        }
        _ => {
            raw.write_all(&frame(TEXT, b"wait")).unwrap();
            drop(raw);
            1006
        }
    }
}

#[test]
fn each_open_has_exactly_one_close() {
    const THREADS: usize = 8;
    const EACH: usize = 45;
    for server in SERVERS {
        for shards in [1, 2] {
            let (site, ends) = site(server, shards);
            let expected = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..THREADS)
                    .map(|_| scope.spawn(|| (0..EACH).map(|n| come_and_go(&site, n)).collect::<Vec<_>>()))
                    .collect();
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
            });
            ends.wait("every on_close", |ends| (ends.closed.len() == THREADS * EACH).then_some(()));
            let stats = site.stop();
            assert_eq!(stats.opened, (THREADS * EACH) as u64);
            let count = |codes: &[u16], code| codes.iter().filter(|&&known| known == code).count();
            ends.with(|ends| {
                assert!(ends.opened.values().all(|&times| times == 1));
                assert!(ends.closed.values().all(|codes| codes.len() == 1));
                let codes: Vec<u16> = ends.closed.values().flatten().copied().collect();
                assert_eq!(ends.wrong, [], "faults detected in on_close");
                for code in [1002, 1006, 1009, 1011, 4000, 4001] {
                    assert_eq!(count(&codes, code), count(&expected, code), "{code}: {codes:?}");
                }
            });
            // Nine of the fifteen ways are panics and errors of the three callbacks.
            assert_eq!(stats.failed_callbacks, (THREADS * EACH * 9 / 15) as u64);
        }
    }
}

#[test]
fn a_handler_that_never_ends_is_cancelled_at_shutdown_and_on_close_runs() {
    for server in SERVERS {
        for shards in [1, 2] {
            let (site, ends) = site(server, shards);
            let mut clients: Vec<_> = (0..20).map(|_| site.connect("/plain")).collect();
            for client in clients.iter_mut().take(10) {
                client.send(WsMessage::text("hang")).unwrap();
            }
            crate::support::eventually("the messages to arrive", || site.hub.stats().messages == 10);
            crate::support::eventually("all connections to open", || site.hub.stats().opened == 20);
            // One peer whose handler hangs has already disconnected.
            drop(clients.remove(0));
            let begun = Instant::now();
            let stats = site.stop();
            assert!(begun.elapsed() >= Duration::from_secs(5), "handlers have 5 s to finish");
            assert!(begun.elapsed() < PATIENCE / 2, "no handler can block the shutdown");
            ends.with(|ends| {
                assert_eq!((ends.opened.len(), ends.closed.len()), (20, 20));
                for codes in ends.closed.values() {
                    assert!(*codes == [1001] || *codes == [1006], "{codes:?}");
                }
            });
            assert_eq!(stats.failed_callbacks, 10, "each handler was cancelled");
            drop(clients);
        }
    }
}

#[test]
fn an_on_close_that_never_ends_is_cancelled_at_shutdown_too() {
    let closes = Seen::<u32>::default();
    let called = closes.clone();
    let site = Site::own(1, |hub, router| {
        let endpoint = ws::handlers().on_close(move |_: Connection, _: Close| {
            called.with(|closes| *closes += 1);
            pending::<()>()
        });
        router.route("/", hub.ws(endpoint))
    });
    let clients = [site.connect("/"), site.connect("/")];
    drop(clients);
    closes.wait("both on_close", |closes| (*closes == 2).then_some(()));
    let client = site.connect("/");
    crate::support::eventually("the third connection to open", || site.hub.stats().opened == 3);
    let begun = Instant::now();
    drop(client);
    assert_eq!(site.stop().opened, 3);
    assert!(begun.elapsed() < PATIENCE / 2);
    closes.with(|closes| assert_eq!(*closes, 3));
}

#[test]
fn a_failing_handler_closes_only_its_own_connection() {
    for shards in [1, 2] {
        let (site, ends) = site(Server::Own, shards);
        let mut other = site.connect("/plain");
        for message in ["panic", "panic later", "fail"] {
            let mut client = site.connect("/plain");
            client.send(WsMessage::text(message)).unwrap();
            assert_eq!(
                crate::support::ending(&mut client),
                (1011, "the handler failed".to_owned()),
                "{message}"
            );
        }
        other.send(WsMessage::Ping("?".into())).unwrap();
        assert_eq!(other.read().unwrap(), WsMessage::Pong("?".into()));
        assert_eq!(site.hub.stats().failed_callbacks, 3);
        drop(other);
        site.stop();
        ends.with(|ends| assert_eq!(ends.closed.len(), 4));
    }
}
