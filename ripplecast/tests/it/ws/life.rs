use std::{collections::HashSet, time::Duration};

use ripplecast::{Connection, Message, Overflow, Request, Sent, ws};
use tungstenite::Message as WsMessage;

use crate::support::{
    Client, Echo, SERVERS, Seen, Server, Site, check_echo, dial, ending, eventually, head, request, text,
};

/// Sends an upgrade request with additional headers. Returns the status of the response and the socket.
fn ask(site: &Site, path: &str, headers: &str) -> (u16, std::net::TcpStream) {
    use std::io::Write as _;
    let mut stream = dial(site.addr);
    stream.write_all(request(path, headers).as_bytes()).unwrap();
    let status = head(&mut stream).split(' ').nth(1).unwrap().parse().unwrap();
    (status, stream)
}

#[test]
fn ids_are_never_reused_and_an_old_id_reaches_nothing() {
    for (server, shards) in [(Server::Own, 1), (Server::Own, 2), (Server::Axum, 2)] {
        let (site, echo) = Site::echo(server, |hub| hub.shards(shards));
        let mut ids = HashSet::new();
        let mut old: Vec<Connection> = Vec::new();
        for n in 0..1000 {
            let mut client = site.connect("/");
            let conn = echo.opened(n);
            assert!(ids.insert(conn.id()), "{} was reused", conn.id());
            assert_eq!(site.hub.connection(conn.id()), Some(conn.clone()));
            // Handles to earlier connections of this slot stay closed, whatever is called on them.
            for old in old.iter().rev().take(20) {
                assert!(!old.is_open());
                assert_eq!(old.push("for somebody else"), Sent::Closed);
                assert!(old.close(ripplecast::CloseCode::NORMAL, "").is_closed());
                assert!(old.join("room").is_err() && !old.leave("room"));
                assert!(old.state::<u8>().is_none() && old.set_state(1_u8).is_err());
                assert!(site.hub.connection(old.id()).is_none());
            }
            check_echo(&mut client);
            client.close(None).unwrap();
            ending(&mut client);
            echo.closed_of(conn.id());
            old.push(conn);
        }
        let slots: HashSet<String> = ids.iter().map(|id| id.to_string()[17..25].to_owned()).collect();
        assert!(slots.len() < 100, "the slots were not reused, so nothing was tested: {}", slots.len());
        assert_eq!(site.stop().opened, 1000);
    }
}

#[test]
fn a_push_in_transit_does_not_reach_the_next_connection_of_its_slot() {
    let (site, echo) = Site::echo(Server::Own, |hub| hub.shards(1));
    for n in 0..200 {
        let client = site.connect("/");
        let conn = echo.opened(n);
        let pusher = std::thread::spawn(move || while !conn.push(format!("{n}")).is_closed() {});
        drop(client);
        pusher.join().unwrap();
        let mut next = site.connect("/");
        check_echo(&mut next);
        next.close(None).unwrap();
        ending(&mut next);
        // The next connection in the loop is also the next in `opened`.
        echo.0.with(|calls| calls.opened.truncate(n + 1));
    }
    site.stop();
}

#[test]
fn max_connections_is_enforced_and_released_places_are_reused() {
    for server in SERVERS {
        let site = Site::start(
            server,
            |hub| hub.shards(2).max_connections(3),
            |hub, router| {
                let refuses = ws::endpoint(Echo::default())
                    .on_upgrade(|_: Request| async { Err(axum::http::StatusCode::FORBIDDEN) });
                router.route("/", hub.ws(Echo::default())).route("/refuses", hub.ws(refuses))
            },
        );
        for _ in 0..3 {
            let mut clients = [site.connect("/"), site.connect("/"), site.connect("/")];
            assert_eq!(ask(&site, "/", "").0, 503);
            clients.iter_mut().for_each(check_echo);
            drop(clients);
            eventually("their places to be released", || ask(&site, "/refuses", "").0 == 403);
            eventually("all places to be released", || site.hub.stats().closed.is_multiple_of(3));
            // A rejection by the hook and a failed handshake keep no place.
            for _ in 0..5 {
                assert_eq!(ask(&site, "/refuses", "").0, 403);
                assert_eq!(ask(&site, "/", "Origin: https://evil.example\r\n").0, 403);
            }
        }
        site.stop();
    }
}

#[test]
fn connections_per_address_are_limited_and_only_trusted_proxies_are_believed() {
    for server in SERVERS {
        let site = Site::start(
            server,
            |hub| hub.shards(1).max_connections_per_address(2).trusted_proxies("loopback".parse().unwrap()),
            |hub, router| {
                let endpoint = ws::handlers();
                let endpoint = ws::endpoint(endpoint).on_upgrade(|request: Request| async move {
                    let addr = request.peer_addr().unwrap();
                    let own = request.headers().get("x-own").is_some();
                    if own || addr.to_string().starts_with("203.0.113.") {
                        Ok(ripplecast::Accept::new())
                    } else {
                        Err(())
                    }
                });
                router.route("/", hub.ws(endpoint))
            },
        );
        let office = "X-Forwarded-For: 203.0.113.7\r\n";
        let forged = "X-Forwarded-For: 1.2.3.4, 203.0.113.7\r\n";
        let (first, second) = (ask(&site, "/", office), ask(&site, "/", forged));
        assert_eq!((first.0, second.0), (101, 101));
        assert_eq!(ask(&site, "/", office).0, 429);
        assert_eq!(ask(&site, "/", forged).0, 429, "only the address seen by the proxy counts");
        assert_eq!(ask(&site, "/", "X-Forwarded-For: 203.0.113.8\r\n").0, 101);
        drop(first);
        eventually("its place to be released", || ask(&site, "/", office).0 == 101);
        drop(second);
        site.stop();

        // No proxy is trusted by default: all of these connect from loopback, which is not counted.
        let site = Site::start(
            server,
            |hub| hub.shards(1).max_connections_per_address(1),
            |hub, router| router.route("/", hub.ws(Echo::default())),
        );
        let many = [ask(&site, "/", office), ask(&site, "/", office), ask(&site, "/", office)];
        assert!(many.iter().all(|(status, _)| *status == 101));
        drop(many);
        site.stop();
    }
}

#[test]
fn shutdown_notifies_every_client_and_calls_every_on_close() {
    for server in SERVERS {
        for shards in [1, 2] {
            let (site, echo) = Site::echo(server, |hub| hub.shards(shards));
            let addr = site.addr;
            let clients: Vec<Client> = (0..100).map(|_| site.connect("/")).collect();
            echo.opened(99);
            let hub = site.hub.clone();
            let threads: Vec<_> = clients
                .into_iter()
                .map(|mut client| std::thread::spawn(move || ending(&mut client)))
                .collect();
            let stats = site.stop();
            for thread in threads {
                assert_eq!(thread.join().unwrap().0, 1001);
            }
            assert_eq!(stats.closed, 100);
            echo.0.with(|calls| {
                assert_eq!(calls.closed.len(), 100);
                assert!(calls.closed.iter().all(|(_, close)| close.code.get() == 1001));
            });
            assert!(std::net::TcpStream::connect(addr).is_err(), "the server is still listening");
            // Handles outlive the hub and report that it has shut down.
            assert!(hub.connections().next().is_none());
            assert!(echo.opened(0).push("?").is_closed());
            assert!(!hub.room("room").push("?").is_queued() || hub.stats().connections == 0);
        }
    }
}

#[test]
fn an_upgrade_during_shutdown_is_rejected() {
    let site = Site::own(1, |hub, router| router.route("/", hub.ws(Echo::default())));
    site.runtime.block_on(site.hub.shutdown());
    assert_eq!(ask(&site, "/", "").0, 503);
    site.runtime.block_on(site.hub.shutdown()); // a second call returns at once
    assert_eq!(site.stop().opened, 0);
}

#[test]
fn each_shard_can_run_on_its_own_thread() {
    for server in SERVERS {
        for shards in [1, 2] {
            let echo = Echo::default();
            let handler = echo.clone();
            let names = Seen::<HashSet<String>>::default();
            let recorded = names.clone();
            let site = Site::start(
                server,
                |hub| hub.shards(shards).dedicated_threads(true),
                |hub, router| {
                    let whose = ws::handlers().on_open(move |_: Connection| {
                        let name = std::thread::current().name().unwrap_or_default().to_owned();
                        recorded.with(|names| names.insert(name));
                        async {}
                    });
                    router.route("/", hub.ws(handler)).route("/whose", hub.ws(whose))
                },
            );
            let mut clients: Vec<Client> = (0..4).map(|_| site.connect("/")).collect();
            clients.iter_mut().for_each(check_echo);
            for n in 0..4 {
                echo.opened(n).join("room").unwrap();
            }
            // One at a time, so that the threads sleep in between.
            for n in 0..200 {
                assert!(site.hub.room("room").push(format!("{n}")).is_queued());
                for client in &mut clients {
                    assert_eq!(text(client), format!("{n}"));
                }
            }
            drop(site.connect("/whose"));
            names.wait("on_open", |names| names.contains("ripplecast-shard").then_some(()));
            let threads: Vec<_> = clients
                .into_iter()
                .map(|mut client| std::thread::spawn(move || ending(&mut client)))
                .collect();
            site.stop();
            for thread in threads {
                assert_eq!(thread.join().unwrap().0, 1001);
            }
        }
    }
}

#[test]
fn a_blocking_handler_is_counted_and_a_waiting_one_is_not() {
    let site = Site::own(1, |hub, router| {
        let handler = ws::handlers().on_message(|conn: Connection, message: Message| async move {
            if message.as_text() == Some("block") {
                std::thread::sleep(Duration::from_millis(30)); // the fault to detect
            } else {
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            conn.push(message).ignore();
        });
        router.route("/", hub.ws(ws::endpoint(handler).overflow(Overflow::Disconnect)))
    });
    let mut client = site.connect("/");
    for message in ["wait", "wait", "block", "wait", "block"] {
        client.send(WsMessage::text(message)).unwrap();
        assert_eq!(text(&mut client), message);
    }
    let counted = site.hub.stats().slow_callbacks;
    // At least those: a busy machine may preempt a shard in the middle of any callback.
    assert!(counted >= 2, "{counted}");
    drop(client);
    site.stop();
}
