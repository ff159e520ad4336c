use std::{
    fmt,
    future::pending,
    io::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::Router;
use ripplecast::{
    App, Close, CloseCode, Connection, Error, Hub, HubBuilder, LiveCounter, Message, Result, ws, ws::Handler,
    ws::OriginPolicy,
};
use tokio::{task::spawn_blocking, time::timeout};
use tungstenite::Message as WsMessage;

use crate::support::{
    BINARY, CLOSE, Echo, PATIENCE, PING, SERVERS, Seen, Server, Site, TEXT, alone, check_echo, close_frame,
    connect, dial, ending, eventually, frame, head, read_close, read_frame, request, resident, text,
};

/// Starts a server with one shard on the current runtime.
async fn serve_here(threads: bool, routes: impl FnOnce(&Hub) -> Router) -> (SocketAddr, Hub) {
    let app = App::builder().hub(|hub| hub.shards(1).dedicated_threads(threads)).build().await.unwrap();
    let hub = app.hub();
    let bound = app.merge(routes(&hub)).bind("127.0.0.1:0").await.unwrap();
    let addr = bound.local_addr();
    tokio::spawn(bound.serve_with_shutdown(pending()));
    (addr, hub)
}

fn one_shard(hub: HubBuilder) -> HubBuilder {
    hub.shards(1)
}

fn current_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_message_type_the_endpoint_does_not_accept_closes_with_1003() {
    for server in SERVERS {
        let echo = Echo::default();
        let site = Site::start(server, one_shard, |hub, router| {
            let texts = hub.ws(ws::endpoint(echo.clone()).text_only());
            let binaries = hub.ws(ws::endpoint(echo.clone()).binary_only());
            router.route("/text", texts).route("/binary", binaries)
        });
        for (n, (path, good, bad)) in
            [("/text", TEXT, BINARY), ("/binary", BINARY, TEXT)].into_iter().enumerate()
        {
            let mut raw = site.raw(path);
            raw.write_all(&[frame(good, b"good"), frame(bad, b"bad"), frame(good, b"late")].concat())
                .unwrap();
            assert_eq!(read_frame(&mut raw).unwrap(), (good, b"good".to_vec()));
            let (code, reason) = read_close(&mut raw);
            assert_eq!(code, 1003, "{server:?} {path}: {reason}");
            drop(raw);
            assert_eq!(echo.closed(n), (1003, reason));
        }
        assert_eq!(site.stop().messages, 2, "a rejected message reaches no handler");
    }
}

#[test]
fn codes_that_must_not_be_sent_are_not_sent() {
    for server in SERVERS {
        let echo = Echo::default();
        let site =
            Site::start(server, |hub| hub.shards(1), |hub, router| router.route("/", hub.ws(echo.clone())));
        let cases = [(CloseCode::ABNORMAL, &b"\x03\xe9x"[..]), (CloseCode::NO_STATUS, b"")];
        for (n, (code, on_the_wire)) in cases.into_iter().enumerate() {
            let mut raw = site.raw("/");
            assert!(echo.opened(n).close(code, "x").is_queued());
            assert_eq!(read_frame(&mut raw).unwrap(), (CLOSE, on_the_wire.to_vec()), "{server:?} {code}");
            drop(raw);
            assert_eq!(echo.closed(n).0, code.get());
        }
        site.stop();
    }
}

/// Pushes in `on_open`, as the path tells it to.
struct Greets;

impl Handler for Greets {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        let path = conn.state::<String>().unwrap();
        match path.as_str() {
            "/join" | "/fail" => conn.join("r")?,
            "/wait" => tokio::task::yield_now().await,
            _ => {}
        }
        conn.push("reason").ignore();
        if *path == "/fail" { Err(Error::other("a test: on_open fails")) } else { Ok(()) }
    }
}

fn greeting(server: Server) -> Site {
    Site::start(server, one_shard, |hub, router| {
        let endpoint = ws::endpoint(Greets).on_upgrade(|request: ripplecast::Request| async move {
            Ok::<_, ()>(ripplecast::Accept::new().state(request.uri().path().to_owned()))
        });
        router.route("/{how}", hub.ws(endpoint))
    })
}

#[test]
fn pushes_of_a_failing_on_open_arrive_before_the_close_frame() {
    for server in SERVERS {
        let site = greeting(server);
        let mut client = site.connect("/fail");
        assert_eq!(text(&mut client), "reason");
        assert_eq!(ending(&mut client).0, 1011);
        site.stop();
    }
}

#[test]
fn pushes_of_on_open_arrive_first_even_if_the_peer_s_first_bytes_close_the_connection() {
    for server in SERVERS {
        let site = greeting(server);
        for path in ["/plain", "/join", "/wait"] {
            for (bytes, code) in [(close_frame(4000, ""), 4000), (frame(0x83, b""), 1002)] {
                for behind_the_request in [true, false] {
                    let mut raw = if behind_the_request {
                        let mut raw = dial(site.addr);
                        raw.write_all(&[request(path, "").as_bytes(), &bytes].concat()).unwrap();
                        assert!(head(&mut raw).starts_with("http/1.1 101 "));
                        raw
                    } else {
                        let mut raw = site.raw(path);
                        raw.write_all(&bytes).unwrap();
                        raw
                    };
                    let which = format!("{server:?} {path} {code}, behind the request: {behind_the_request}");
                    assert_eq!(read_frame(&mut raw).unwrap(), (TEXT, b"reason".to_vec()), "{which}");
                    assert_eq!(read_close(&mut raw).0, code, "{which}");
                }
            }
        }
        assert_eq!(site.stop().failed_callbacks, 0);
    }
}

#[test]
fn an_on_close_that_is_cancelled_before_it_first_ran_does_not_hold_up_the_shutdown() {
    // The peers don't answer, so at 3 s one sweep calls both `on_close`: the first blocks the only thread
    // until after the 7.5 s allowed for the second.
    fn check(threads: bool) {
        let runtime = current_thread();
        let hub = runtime.block_on(async {
            let first = Arc::new(AtomicBool::new(true));
            let on_close = move |_: Connection, _: Close| {
                let first = first.swap(false, SeqCst);
                async move {
                    if !first {
                        return pending().await;
                    }
                    if threads {
                        tokio::task::yield_now().await; // continues at the time at which the second one would start
                    }
                    std::thread::sleep(Duration::from_secs(5));
                }
            };
            let routes = |hub: &Hub| Router::new().route("/", hub.ws(ws::handlers().on_close(on_close)));
            let (addr, hub) = serve_here(threads, routes).await;
            let clients = spawn_blocking(move || [connect(addr, "/"), connect(addr, "/")]).await.unwrap();
            while hub.stats().opened < 2 {
                tokio::task::yield_now().await;
            }
            let ended = timeout(PATIENCE, hub.shutdown()).await;
            assert!(ended.is_ok(), "the shutdown did not end; threads: {threads}");
            drop(clients);
            hub
        });
        let stats = hub.stats();
        assert_eq!((stats.opened, stats.closed, stats.connections), (2, 2, 0), "{stats:?}");
        assert_eq!(stats.failed_callbacks, 1, "the second one was cancelled");
    }
    std::thread::scope(|scope| {
        let other = scope.spawn(|| check(true));
        check(false);
        other.join().unwrap();
    });
}

/// Panics when it is dropped.
#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a test: a destructor panics");
    }
}

/// Panics when it is formatted and when it is dropped.
#[derive(Debug)]
struct Unspeakable(Bomb);

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("a test: an error can't be formatted");
    }
}

impl std::error::Error for Unspeakable {}

#[test]
fn a_panic_in_the_destructor_of_state_affects_only_its_connection() {
    for shards in [1, 2] {
        let site = Site::own(shards, |hub, router| {
            let bombs = ws::handlers().on_open(|conn: Connection| async move { conn.set_state(Bomb) });
            router.route("/bomb", hub.ws(bombs)).route("/echo", hub.ws(Echo::default()))
        });
        let mut others = [site.connect("/echo"), site.connect("/echo")];
        for n in 1..=4 {
            let mut client = site.connect("/bomb");
            client.close(None).unwrap();
            assert_eq!(ending(&mut client).0, 1005);
            eventually("on_close", || site.hub.stats().closed == n);
            others.iter_mut().for_each(check_echo);
        }
        let last = site.connect("/bomb"); // and one more at the shutdown
        eventually("on_open", || site.hub.stats().opened == 7);
        drop(others);
        assert_eq!(site.stop().closed, 7);
        drop(last);
    }
}

#[test]
fn an_error_that_panics_when_formatted_closes_only_its_own_connection() {
    for shards in [1, 2] {
        let site = Site::own(shards, |hub, router| {
            let fails = ws::handlers().on_message(|_: Connection, message: Message| async move {
                if message.as_text() == Some("later") {
                    tokio::task::yield_now().await;
                }
                Err::<(), _>(Error::other(Unspeakable(Bomb)))
            });
            router.route("/fails", hub.ws(fails)).route("/echo", hub.ws(Echo::default()))
        });
        let mut others = [site.connect("/echo"), site.connect("/echo")];
        for how in ["at once", "later"] {
            let mut client = site.connect("/fails");
            client.send(WsMessage::text(how)).unwrap();
            assert_eq!(ending(&mut client).0, 1011, "{how}");
            others.iter_mut().for_each(check_echo);
        }
        drop(others);
        assert_eq!(site.stop().failed_callbacks, 2);
    }
}

#[test]
fn a_flood_of_empty_pings_uses_no_more_memory_than_its_outbox() {
    alone("ws::review::a_flood_of_empty_pings_uses_no_more_memory_than_its_outbox", || {
        let echo = Echo::default();
        let handler = ws::endpoint(echo.clone()).outbox(1 << 20);
        let site = Site::own(1, |hub, router| router.route("/", hub.ws(handler)));
        let mut other = site.connect("/");
        check_echo(&mut other);
        let mut flood = site.raw("/");
        let pings = frame(PING, b"").repeat(10_000);
        flood.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        let before = resident();
        let mut sent = 0;
        eventually("the flood to be stopped", || {
            for _ in 0..16 {
                let Ok(n) = flood.write(&pings[sent % pings.len()..]) else { break };
                sent += n;
            }
            let grown = resident().saturating_sub(before);
            assert!(grown < 24 << 20, "memory has grown by {grown} after {sent} bytes of pings");
            site.hub.stats().slow_consumers == 1
        });
        assert_eq!(echo.closed_of(echo.opened(1).id()).0, 1013);
        check_echo(&mut other);
        drop((flood, other));
        assert_eq!(site.stop().slow_consumers, 1);
    });
}

#[test]
fn a_live_counter_under_load_ends_with_its_last_value() {
    const LAST: i64 = 100_000;
    let seen = Seen::<Vec<i64>>::default();
    current_thread().block_on(async {
        let mut live = None;
        let (addr, hub) = serve_here(false, |hub| {
            let counter = hub.counter("hurry").publish_to(&hub.room("hurry")).unwrap();
            live = Some(counter.clone());
            let tabs = ws::handlers()
                .with_state(counter)
                .on_open(|live: LiveCounter, conn: Connection| async move { live.join(&conn).await });
            // A slow tab is a different case.
            Router::new().route("/", hub.ws(ws::endpoint(tabs).outbox(64 << 20)))
        })
        .await;
        let live = live.unwrap();
        let values = seen.clone();
        let reader = std::thread::spawn(move || {
            let mut tab = connect(addr, "/");
            loop {
                let text = text(&mut tab);
                if text == "end" {
                    return;
                }
                let value = text.trim_start_matches(r#"{"value":"#).trim_end_matches('}').parse().unwrap();
                values.with(|values| values.push(value));
            }
        });
        let until = async |last: i64| {
            while seen.with(|values| values.last() != Some(&last)) {
                tokio::time::sleep(Duration::from_millis(1)).await; // the reader is not a task
            }
        };
        timeout(PATIENCE, until(0)).await.expect("the tab to join");
        for n in 1..=LAST {
            assert_eq!(live.increment().await.unwrap(), n);
        }
        let came = timeout(PATIENCE, until(LAST)).await;
        assert!(came.is_ok(), "the last value was {:?}", seen.with(|values| values.last().copied()));
        assert!(live.room().push("end").is_queued());
        spawn_blocking(|| reader.join().unwrap()).await.unwrap();
        hub.shutdown().await;
    });
    seen.with(|values| {
        assert!(values.is_sorted(), "a value went backwards");
        assert_eq!(values.last(), Some(&LAST));
        assert!(values.len() < LAST as usize, "the node was not overloaded, so nothing was tested");
    });
}

#[test]
fn a_mistake_in_a_list_of_origins_is_an_error_of_the_crate() {
    fn endpoint(origin: &str) -> Result<ws::Endpoint<Echo>> {
        Ok(ws::endpoint(Echo::default()).origins(OriginPolicy::list([origin])?))
    }
    assert!(endpoint("https://example.com").is_ok());
    let error = endpoint("https://example.com/").unwrap_err();
    assert!(matches!(&error, Error::Setting { value, .. } if value == "https://example.com/"), "{error}");
    assert!(format!("{error:?}").ends_with(&error.to_string()), "{error:?}");
}
