//! The API around rooms: ids, users, state, frames, the bus and shutdown, as an application uses them.

mod app;
mod callbacks;
mod ended;
mod environment;
mod guidelines;
mod logs;

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, mpsc},
};

use ripplecast::{
    Accept, App, Close, CloseCode, Connection, ConnectionId, Error, Hub, Message, Request, Sent, ws,
};

use super::clients::{PATIENCE, Script, Tab, TestServer, wait_until};

fn scripted() -> TestServer {
    TestServer::with_shards(2, false, |app| {
        let hub = app.hub();
        app.ws("/ws", Script(hub))
    })
}

#[test]
fn an_id_can_be_printed_and_parsed_and_is_never_reused() {
    let server = scripted();
    let mut known = HashSet::new();
    for _ in 0..40 {
        let mut tab = server.tab("/ws");
        let conn = server.connection(&mut tab);
        let id = conn.id();
        assert_eq!(id.to_string().parse::<ConnectionId>().unwrap(), id);
        assert_eq!(server.hub.connection(id).unwrap(), conn);
        assert!(known.insert(id), "{id} was reused");
        tab.close();
        wait_until("the connection is closed", || server.hub.connection(id).is_none());
        assert!(!conn.is_open());
        assert_eq!(conn.push("late"), Sent::Closed);
    }
    // The next connection reuses a slot: none of the old handles reaches it.
    let mut tab = server.scripted("/ws", "join r; identify me");
    for id in &known {
        assert!(server.hub.connection(*id).is_none());
    }
    tab.say("own done");
    assert!(tab.until("done").is_empty());
}

#[test]
fn an_id_of_another_node_or_an_unused_one_is_not_found() {
    let (one, two) = (scripted(), scripted());
    let mut tab = one.tab("/ws");
    let id = one.connection(&mut tab).id();
    assert!(two.hub.connection(id).is_none());
    // The same connection on another node, and an unused one on this node.
    let (node, local) = id.to_string().split_once('-').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    for other in [
        format!("0123456789abcdef-{local}"),
        format!("{node}-ffffffffffffffff"),
        format!("{node}-0000000000000000"),
    ] {
        assert!(one.hub.connection(other.parse().unwrap()).is_none(), "{other}");
    }
    for nonsense in [
        "",
        "-",
        "12-34",
        &id.to_string()[1..],
        &format!("{id}0"),
        &id.to_string().replace('-', "+"),
        "+23456789abcdef0-0123456789abcdef",
    ] {
        let error = nonsense.parse::<ConnectionId>().unwrap_err();
        assert!(error.to_string().contains(nonsense), "{error}");
    }
}

#[test]
fn connections_lists_exactly_the_open_connections() {
    for shards in [1, 3] {
        let server = TestServer::with_shards(shards, false, |app| {
            let hub = app.hub();
            app.ws("/ws", Script(hub)).sse("/events", "r")
        });
        assert_eq!(server.hub.connections().count(), 0);
        let mut tabs: Vec<Tab> = (0..20).map(|_| server.tab("/ws")).collect();
        let mut wanted: BTreeSet<_> = tabs.iter_mut().map(|tab| server.connection(tab).id()).collect();
        let ids = || server.hub.connections().map(|conn| conn.id()).collect::<BTreeSet<_>>();
        assert_eq!(ids(), wanted);
        assert_eq!(server.hub.connections().count(), 20, "each of them exactly once");
        for mut tab in tabs.drain(..7) {
            wanted.remove(&server.connection(&mut tab).id());
            tab.close();
        }
        wait_until("seven are gone", || ids() == wanted);
        // An event stream is included. A closing connection is not, even before its peer has answered.
        let stream = server.events("/events");
        wait_until("the stream is listed", || ids().len() == 14);
        let last = server.connection(&mut tabs[0]);
        assert!(last.close(CloseCode::NORMAL, "").is_queued());
        assert!(!ids().contains(&last.id()));
        drop((stream, tabs));
        wait_until("all connections are closed", || ids().is_empty());
    }
}

#[test]
fn a_user_is_reached_on_all_connections() {
    let server = scripted();
    let push =
        |client: &str, text: &str| server.block_on(server.hub.user(client).push(text.to_owned())).unwrap();
    assert_eq!(push("ann", "nobody"), 0);
    let mut ann: Vec<Tab> = (0..3).map(|_| server.scripted("/ws", "identify ann; identify ann")).collect();
    let mut bob = server.scripted("/ws", "identify bob");
    let mut nobody = server.scripted("/ws", "own hello");
    assert_eq!(push("ann", "for ann"), 3);
    for tab in &mut ann {
        assert_eq!(tab.text(), "for ann");
    }
    let mut connections: Vec<_> = ann.iter_mut().map(|tab| server.connection(tab)).collect();
    let mut ids: Vec<_> = connections.iter().map(Connection::id).collect();
    let mut listed = server.block_on(server.hub.user("ann").connections()).unwrap();
    ids.sort();
    listed.sort();
    assert_eq!(ids, listed);
    assert_eq!(connections[0].user_id().as_deref(), Some("ann"));
    assert_eq!(server.connection(&mut nobody).user_id(), None);

    // With another identity, the first one no longer reaches it.
    ann[0].run("identify bob");
    assert_eq!((push("ann", "two"), push("bob", "two")), (2, 2));
    assert_eq!((ann[0].text(), bob.text(), ann[1].text()), ("two".into(), "two".into(), "two".into()));
    assert_eq!(connections[0].user_id().as_deref(), Some("bob"));

    // Closing, by either side, removes it.
    connections.truncate(2);
    assert!(connections[1].close(CloseCode::NORMAL, "").is_queued());
    assert_eq!(push("ann", "one"), 1);
    assert!(server.block_on(connections[1].identify("ann")).unwrap_err().is_closed());
    ann.drain(1..).for_each(Tab::close);
    wait_until("ann is disconnected", || push("ann", "gone") == 0);
    assert!(server.block_on(server.hub.user("ann").connections()).unwrap().is_empty());
    // A new connection in a slot of ann's has no identity.
    let mut stranger = server.tab("/ws");
    assert_eq!(server.connection(&mut stranger).user_id(), None);
    nobody.run("own received nothing");
}

#[derive(Debug, PartialEq)]
struct User(&'static str);

#[test]
fn a_connection_keeps_one_value_of_each_type_until_on_close_has_returned() {
    let (sender, receiver) = mpsc::channel();
    let witness = Arc::new(());
    let count = Arc::downgrade(&witness);
    let server = TestServer::with_shards(1, false, |app| {
        let handlers = ws::handlers()
            .on_open(|conn: Connection| async move {
                let from_hook = (conn.state::<User>().map(|user| user.0), conn.state::<u8>().map(|n| *n));
                conn.push(format!("{from_hook:?}")).ignore();
            })
            .on_close(move |conn: Connection, _: Close| {
                let sender = sender.clone();
                async move {
                    let refused = conn.set_state(9_u8).is_err();
                    let _ = sender.send((conn.clone(), conn.state::<u8>().map(|n| *n), refused));
                }
            });
        let hook = move |_: Request| {
            let witness = witness.clone();
            async move { Ok::<_, ripplecast::Error>(Accept::new().state(User("ann")).state(1_u8).state(witness)) }
        };
        app.ws("/ws", ws::endpoint(handlers).on_upgrade(hook))
    });
    let mut tab = server.tab("/ws");
    assert_eq!(tab.text(), r#"(Some("ann"), Some(1))"#);
    let conn = server.hub.connections().next().unwrap();
    assert_eq!(conn.state::<u16>(), None);
    let held = conn.state::<u8>().unwrap();
    conn.set_state(2_u8).unwrap();
    conn.set_state(300_u16).unwrap();
    conn.set_state(String::from("text")).unwrap();
    assert_eq!((*held, *conn.state::<u8>().unwrap(), *conn.state::<u16>().unwrap()), (1, 2, 300));
    assert_eq!(*conn.state::<User>().unwrap(), User("ann"));
    assert_eq!(*conn.state::<String>().unwrap(), "text");
    assert!(conn.state::<Arc<()>>().is_some());
    // Another connection has no such value.
    let mut other = server.tab("/ws");
    other.text();
    let other_conn = server.hub.connections().find(|other| *other != conn).unwrap();
    assert_eq!(other_conn.state::<u16>(), None);
    other.close();
    receiver.recv_timeout(PATIENCE).unwrap();

    tab.close();
    let (conn, kept, refused) = receiver.recv_timeout(PATIENCE).unwrap();
    assert_eq!((kept, refused), (Some(2), true));
    wait_until("the value is dropped", || conn.state::<u8>().is_none() && count.strong_count() == 1);
}

#[test]
fn closed_completes_when_the_connection_closes() {
    let server = scripted();
    let mut tab = server.tab("/ws");
    let conn = server.connection(&mut tab);
    let waiting: Vec<_> = (0..3).map(|_| server.runtime().spawn(conn.closed())).collect();
    server.block_on(tokio::task::yield_now());
    assert!(waiting.iter().all(|task| !task.is_finished()), "the connection is still open");
    tab.close();
    for task in waiting {
        server.block_on(task).unwrap();
    }
    server.block_on(conn.closed());
}

#[test]
fn frames_report_their_content() {
    assert_eq!(Message::from("text"), Message::text("text"));
    assert_eq!(Message::from(String::from("text")), Message::text("text"));
    assert_eq!(Message::from(vec![1, 2]), Message::binary(vec![1, 2]));
    assert_ne!(Message::text("12"), Message::binary("12".as_bytes().to_vec()));
    let json = Message::json(&("é", [1.5], None::<u8>)).unwrap();
    assert_eq!((json.as_text(), json.is_text(), json.len()), (Some(r#"["é",[1.5],null]"#), true, 17));
    let binary = Message::binary(vec![255, 0]);
    assert_eq!((binary.as_text(), binary.is_text(), binary.as_bytes()), (None, false, &[255, 0][..]));
    assert_eq!(&binary.into_bytes()[..], [255, 0]);
    assert!(Message::text("").is_empty());
    let not_json = std::collections::HashMap::from([((1, 2), 3)]);
    assert!(matches!(Message::json(&not_json), Err(Error::Json(_))));
}

#[test]
fn every_push_accepts_text_and_bytes() {
    let server = scripted();
    let mut tab = server.scripted("/ws", "join r; identify me");
    let conn = server.connection(&mut tab);
    assert!(conn.push("text").is_queued());
    assert!(server.hub.room("r").push(vec![0, 159]).is_queued());
    assert!(server.hub.broadcast(String::from("ünïcödé")).is_queued());
    assert_eq!(server.block_on(server.hub.user("me").push(Message::binary(vec![]))).unwrap(), 1);
    assert!(conn.push(Message::json(&[1, 2]).unwrap()).is_queued());
    use tungstenite::Message as WsMessage;
    let wanted = [
        WsMessage::text("text"),
        WsMessage::binary(vec![0, 159]),
        WsMessage::text("ünïcödé"),
        WsMessage::binary(vec![]),
        WsMessage::text("[1,2]"),
    ];
    for message in wanted {
        assert_eq!(tab.next(), Some(message));
    }
}

#[test]
fn close_codes_that_must_not_be_sent_are_rejected() {
    for code in [1000, 1001, 1003, 1007, 1011, 1014, 3000, 3999, 4000, 4999] {
        assert_eq!(CloseCode::application(code).unwrap().get(), code);
    }
    for code in [0, 999, 1002, 1004, 1005, 1006, 1015, 1016, 1999, 2000, 2999, 5000, u16::MAX] {
        let error = CloseCode::application(code).unwrap_err();
        assert!(matches!(error, Error::CloseCode(refused) if refused == code));
        assert!(error.to_string().contains(&code.to_string()), "{error}");
    }
    assert_eq!(CloseCode::RESTART.to_string(), "1012");
}

#[test]
fn a_close_reason_is_cut_to_the_bytes_that_fit() {
    let server = scripted();
    let mut tab = server.tab("/ws");
    let conn = server.connection(&mut tab);
    // 123 bytes fit, and the 62nd letter would be split.
    assert!(conn.close(CloseCode::application(4000).unwrap(), "é".repeat(100)).is_queued());
    assert_eq!(conn.close(CloseCode::NORMAL, "again"), Sent::Closed);
    assert!(tab.rest().is_empty());
    assert_eq!(tab.close, Some((4000, "é".repeat(61))));
}

#[test]
fn the_bus_works_from_callbacks_and_into_rooms() {
    let server = TestServer::with_shards(2, false, |app| {
        let hub = app.hub();
        let handlers = ws::handlers()
            .with_state(hub)
            .on_open(|_: Hub, conn: Connection| async move { conn.join("news") })
            .on_message(|hub: Hub, conn: Connection, message: Message| async move {
                let text = message.as_text().unwrap_or_default().to_owned();
                if text == "listen" {
                    // A subscription for one connection; it ends with the state stored with the connection.
                    let to = conn.clone();
                    let subscription = hub.bus().subscribe("news.*", move |message| {
                        let to = to.clone();
                        async move {
                            to.push(Message::text(String::from_utf8_lossy(&message.payload).into_owned()))
                                .ignore();
                        }
                    });
                    conn.set_state(subscription.await?)?;
                    conn.push("listening").ignore();
                } else {
                    let took = hub.bus().publish("news.local", text).await?;
                    conn.push(format!("took {took}")).ignore();
                }
                Ok::<_, Error>(())
            });
        app.ws("/ws", handlers)
    });
    let room = server.hub.room("news");
    let into_room = server.block_on(server.hub.bus().subscribe("news.local", move |message| {
        let room = room.clone();
        async move { room.push(format!("room: {}", String::from_utf8_lossy(&message.payload))).ignore() }
    }));
    let into_room = into_room.unwrap();
    let (mut one, mut two) = (server.tab("/ws"), server.tab("/ws"));
    one.say("listen");
    assert_eq!(one.text(), "listening");
    two.say("hello");
    let sorted = |mut texts: Vec<String>| {
        texts.sort();
        texts
    };
    assert_eq!(sorted(vec![two.text(), two.text()]), ["room: hello", "took 2"]);
    assert_eq!(sorted(vec![one.text(), one.text()]), ["hello", "room: hello"]);
    one.close();
    wait_until("the subscription has ended", || {
        server.block_on(server.hub.bus().publish("news.x", "x")).unwrap() == 0
    });
    server.block_on(into_room.unsubscribe());
    two.say("nobody listens");
    assert_eq!(two.text(), "took 0");
}

#[test]
fn a_hub_that_is_shut_down_rejects_and_ends_everything() {
    let server = TestServer::under_axum(|hub| {
        axum::Router::new().route("/ws", hub.ws(Script(hub.clone()))).route("/events", hub.sse("r"))
    });
    let mut tab = server.scripted("/ws", "join r");
    let conn = server.connection(&mut tab);
    let mut stream = server.events("/events");
    wait_until("both are members", || server.len("r") == 2);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.block_on(server.hub.shutdown()));
        assert!(tab.rest().is_empty());
        assert_eq!(tab.close.as_ref().map(|(code, _)| *code), Some(1001));
        assert_eq!(stream.event(), None);
        first.join().unwrap();
    });
    server.block_on(server.hub.shutdown()); // a second call returns at once

    for _ in 0..2 {
        let refused = Tab::open(server.addr, "/ws", &[]).err().expect("an upgrade during shutdown");
        assert_eq!(refused.status(), 503);
        let refused = server.http("GET", "/events");
        assert_eq!(refused.status, 503);
        assert!(refused.head.contains("retry-after:"), "{}", refused.head);
    }
    // Nothing hangs, and every call reports that the hub is shut down.
    assert_eq!(conn.push("late"), Sent::Closed);
    assert!(conn.join("r").unwrap_err().is_closed());
    assert_eq!((server.len("r"), server.hub.connections().count()), (0, 0));
    assert_eq!(server.hub.stats().opened, 2);
}

#[test]
fn a_hub_needs_a_runtime_and_a_valid_number_of_shards() {
    assert!(matches!(Hub::builder().build(), Err(Error::NoRuntime)));
    let server = TestServer::start(App::builder(), |app| app);
    server.block_on(async {
        let error = Hub::builder().shards(256).build().unwrap_err();
        assert!(error.to_string().contains("shards") && error.to_string().contains("255"), "{error}");
        let hub = Hub::builder().shards(255).build().unwrap();
        hub.shutdown().await;
    });
}
