//! Rooms: membership, delivery and order.

mod except;
mod many;
mod order;
mod overload;
mod snapshot;

use std::sync::mpsc;

use ripplecast::{App, Close, CloseCode, Connection, Error, Message, Sent, ws};

use super::clients::{PATIENCE, Script, TestServer, wait_until};

/// Starts a server with a [`Script`] at `/ws`.
fn scripted(shards: usize, threads: bool) -> TestServer {
    TestServer::with_shards(shards, threads, |app| {
        let hub = app.hub();
        app.ws("/ws", ws::endpoint(Script(hub)))
    })
}

#[test]
fn a_join_takes_effect_at_once_and_a_second_join_changes_nothing() {
    let server = scripted(2, false);
    let mut first = server.scripted("/ws", "own here");
    first.say("join r; len r; join r; len r; own done");
    assert_eq!(first.until("done"), ["len 1", "len 1"]);
    let mut second = server.tab("/ws");
    second.say("len r; join r; len r; own done");
    assert_eq!(second.until("done"), ["len 1", "len 2"]);
    assert_eq!(server.len("r"), 2);

    second.say("room r once; own done");
    assert_eq!(second.until("done"), ["once"]);
    first.say("own done");
    assert_eq!(first.until("done"), ["once"], "it has joined twice and receives everything once");
}

#[test]
fn on_open_sees_its_own_join() {
    let server = TestServer::with_shards(4, false, |app| {
        let hub = app.hub();
        app.ws(
            "/ws",
            ws::handlers().on_open(move |conn: Connection| {
                let room = hub.room("r");
                async move {
                    conn.join("r")?;
                    let (len, members) = (room.len().await?, room.members().await?);
                    conn.push(format!("{len} {} {}", members.len(), members.contains(&conn.id()))).ignore();
                    Ok::<_, Error>(())
                }
            }),
        )
    });
    let mut tabs = Vec::new();
    for n in 1..=9 {
        let mut tab = server.tab("/ws");
        assert_eq!(tab.text(), format!("{n} {n} true"));
        tabs.push(tab);
    }
}

#[test]
fn leaving_ends_membership_and_earlier_pushes_arrive() {
    let server = scripted(1, false);
    let mut tab = server.scripted("/ws", "join r");
    tab.say("room r 1; room r 2; leave r; leave r; len r; room r 3; own done");
    assert_eq!(tab.until("done"), ["1", "2", "left true", "left false", "len 0"]);
    tab.say("leave never; join r; room r 4; own done");
    assert_eq!(tab.until("done"), ["left false", "4"]);
}

#[test]
fn a_push_before_a_join_does_not_arrive_even_if_it_is_still_queued() {
    for (shards, threads) in [(1, false), (2, false), (2, true)] {
        let server = scripted(shards, threads);
        let mut member = server.scripted("/ws", "join r");
        let mut joiner = server.scripted("/ws", "join s");
        for n in 0..20 {
            // All in one callback, so that the shard finds these commands together in one turn.
            joiner.say(format!("room r before{n}; join r; room r {n}"));
            assert_eq!(joiner.text(), n.to_string());
            assert_eq!([member.text(), member.text()], [format!("before{n}"), n.to_string()]);
            joiner.say(format!("room r {n}; leave r; room r after{n}; own done"));
            assert_eq!(joiner.until("done"), [n.to_string(), "left true".to_owned()]);
            assert_eq!([member.text(), member.text()], [n.to_string(), format!("after{n}")]);
        }
    }
}

#[test]
fn members_lists_joined_connections_and_closing_leaves_the_room() {
    for (shards, threads) in [(1, false), (3, false), (2, true)] {
        let server = scripted(shards, threads);
        let mut ids = Vec::new();
        let mut tabs = Vec::new();
        for _ in 0..7 {
            let mut tab = server.scripted("/ws", "join r; join s");
            ids.push(server.connection(&mut tab).id());
            tabs.push(tab);
        }
        let members = |room: &str| {
            let mut members = server.block_on(server.hub.room(room).members()).unwrap();
            members.sort();
            members
        };
        ids.sort();
        assert_eq!(members("r"), ids);
        assert_eq!(members("s"), ids);
        tabs[2].run("leave s");
        assert_eq!(members("s").len(), 6);
        assert_eq!(members("r"), ids);
        assert!(!server.block_on(server.hub.room("r").is_empty()).unwrap());
        assert_eq!(server.hub.stats().rooms, 2);

        // One closes with the handshake, one is lost, one is closed by the server, the others are dropped.
        tabs.pop().unwrap().close();
        tabs.pop().unwrap().socket.get_ref().shutdown(std::net::Shutdown::Both).unwrap();
        let mut closed = tabs.pop().unwrap();
        closed.say("close enough");
        assert!(closed.rest().is_empty());
        assert_eq!(closed.close, Some((1000, "enough".to_owned())));
        wait_until("three have left", || members("r").len() == 4);
        drop(tabs);
        wait_until("all have left", || members("r").is_empty() && members("s").is_empty());
        wait_until("the rooms are forgotten", || server.hub.stats().rooms == 0);
    }
}

#[test]
fn a_room_lives_while_it_has_members_or_handles() {
    let server = scripted(2, false);
    assert_eq!(server.hub.stats().rooms, 0);
    let handle = server.hub.room("r");
    assert!(handle.push("to nobody").is_queued());
    assert_eq!((handle.name(), server.hub.stats().rooms), ("r", 1));
    let mut tab = server.scripted("/ws", "join r");
    drop(handle);
    assert_eq!(server.hub.stats().rooms, 1, "the room has a member");
    for n in 0..100 {
        tab.run(&format!("join room{n}; room room{n} x; leave room{n}"));
    }
    tab.run("leave r");
    wait_until("unused rooms are forgotten", || server.hub.stats().rooms == 0);
    tab.say("join r; room r again; own done");
    assert_eq!(tab.until("done"), ["again"]);
}

#[test]
fn a_closed_connection_cannot_join_a_room() {
    let (sender, receiver) = mpsc::channel();
    let server = TestServer::with_shards(2, false, |app| {
        app.ws(
            "/ws",
            ws::handlers()
                .on_open(|conn: Connection| async move {
                    conn.join("r")?;
                    conn.push("in").ignore();
                    Ok::<_, Error>(())
                })
                .on_close(move |conn: Connection, close: Close| {
                    let sender = sender.clone();
                    async move {
                        let _ = sender.send((
                            conn.clone(),
                            close.code,
                            conn.join("s").map_err(|e| e.is_closed()),
                        ));
                    }
                }),
        )
    });
    let mut tab = server.tab("/ws");
    assert_eq!(tab.text(), "in");
    tab.close();
    let (conn, code, joined) = receiver.recv_timeout(PATIENCE).unwrap();
    assert_eq!((code, joined), (CloseCode::NO_STATUS, Err(true)));

    assert!(!conn.is_open());
    assert!(conn.join("s").unwrap_err().is_closed());
    assert!(conn.join_with("s", "snapshot").unwrap_err().is_closed());
    assert!(conn.set_state(7_u8).unwrap_err().is_closed());
    assert!(server.block_on(conn.identify("me")).unwrap_err().is_closed());
    assert_eq!(conn.push("late"), Sent::Closed);
    assert_eq!(conn.close(CloseCode::NORMAL, ""), Sent::Closed);
    assert!(!conn.leave("r"));
    server.block_on(conn.closed());
    assert_eq!((server.len("r"), server.len("s")), (0, 0));
    assert_eq!(server.block_on(server.hub.user("me").push("x")).unwrap(), 0);
}

#[test]
fn a_connection_cannot_join_more_rooms_than_allowed() {
    let limited = App::builder().hub(|hub| hub.shards(1).max_rooms_per_connection(3));
    let server = TestServer::start(limited, |app| {
        let script = Script(app.hub());
        app.ws("/ws", script)
    });
    for _ in 0..2 {
        // The second connection has its own count, although it may reuse the slot of the first.
        let mut tab = server.scripted("/ws", "join a");
        let conn = server.connection(&mut tab);
        conn.join("b").unwrap();
        conn.join_with("c", "here").unwrap();
        for refused in [conn.join("d"), conn.join_with("d", "never")] {
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::TooManyRooms { limit: 3 }), "{error:?}");
            assert!(error.to_string().contains("HubBuilder::max_rooms_per_connection"), "{error}");
        }
        assert_eq!(server.len("d"), 0, "a rejected join changes nothing");
        conn.join("a").unwrap(); // joining again does not count
        assert!(conn.leave("b") && !conn.leave("b"));
        conn.join("d").unwrap();
        conn.join("b").unwrap_err();
        assert_eq!((server.len("a"), server.len("b"), server.len("d")), (1, 0, 1));
        tab.close();
        wait_until("the connection to close", || server.len("a") == 0);
    }

    let server = scripted(1, false);
    let mut tab = server.tab("/ws");
    let conn = server.connection(&mut tab);
    (0..1000).for_each(|n| conn.join(&n.to_string()).unwrap());
    assert!(matches!(conn.join("one more"), Err(Error::TooManyRooms { limit: 1000 })));
}

#[test]
fn closing_ends_membership_even_if_the_peer_does_not_answer() {
    let server = scripted(2, false);
    let mut tab = server.scripted("/ws", "join r");
    let conn = server.connection(&mut tab);
    assert!(server.hub.room("r").push("before").is_queued());
    assert!(conn.close(CloseCode::application(4007).unwrap(), "that is all").is_queued());
    assert!(conn.join("s").unwrap_err().is_closed());
    assert!(server.hub.room("r").push("after").is_queued());
    assert_eq!(tab.rest(), ["before"], "the close follows earlier pushes and ends the connection");
    assert_eq!(tab.close, Some((4007, "that is all".to_owned())));
    wait_until("the connection is not a member", || server.len("r") == 0);
}

#[test]
fn names_that_are_too_long_are_rejected() {
    let (long, longest) = ("é".repeat(128), "n".repeat(255));
    let server = scripted(1, false);
    let mut tab = server.scripted("/ws", "own hello");
    let conn = server.connection(&mut tab);
    let is_refused = |result: Result<(), Error>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::NameTooLong { len: 256, limit: 255, .. }), "{error}");
        assert!(error.to_string().contains("255"), "{error}");
    };
    is_refused(conn.join(&long));
    is_refused(conn.join_with(&long, "snapshot"));
    is_refused(server.block_on(conn.identify(&long)).map(|_| ()));
    conn.join(&longest).unwrap();
    server.block_on(conn.identify(&longest)).unwrap();
    assert!(server.hub.room(&longest).push("the room exists").is_queued());
    assert_eq!(tab.text(), "the room exists");
    assert!(conn.leave(&longest));
    wait_until("the room is forgotten", || server.hub.stats().rooms == 0);
}

#[test]
fn a_frame_is_encoded_once_per_shard() {
    let server = scripted(2, false);
    let mut tabs: Vec<_> = (0..20).map(|_| server.scripted("/ws", "join r")).collect();
    let before = server.hub.stats().encoded_frames;
    assert!(server.hub.room("r").push(Message::binary(vec![1, 2, 3])).is_queued());
    for tab in &mut tabs {
        assert_eq!(tab.next().unwrap().into_data(), vec![1, 2, 3]);
    }
    wait_until("the frame is counted", || server.hub.stats().encoded_frames >= before + 2);
    assert_eq!(server.hub.stats().encoded_frames, before + 2);
}

#[test]
fn two_hubs_in_one_process_are_independent() {
    let (one, two) = (scripted(2, false), scripted(2, false));
    let mut in_one = one.scripted("/ws", "join r; identify me");
    let mut in_two = two.scripted("/ws", "join r; identify me");
    let foreign = one.connection(&mut in_one).id();
    assert!(two.hub.connection(foreign).is_none());
    in_one.run("room r x; all y; own z");
    assert_eq!(one.block_on(one.hub.user("me").push("mine")).unwrap(), 1);
    in_two.say("own done");
    assert!(in_two.until("done").is_empty());
    assert_eq!(in_one.text(), "mine");
}

#[test]
fn an_app_has_one_hub() {
    let server = TestServer::start(App::builder(), |app| {
        let (one, two) = (app.hub(), app.hub());
        app.ws("/one", Script(one)).ws("/two", Script(two))
    });
    let mut one = server.scripted("/one", "join r");
    let mut two = server.scripted("/two", "join r");
    one.run("room r hello");
    assert_eq!(two.text(), "hello");
}
