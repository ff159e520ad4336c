//! A stuck shard: pushes are rejected by all shards or by none, and everything recovers afterwards.

use std::{
    collections::BTreeSet,
    sync::{Mutex, mpsc},
    thread,
};

use serde::{Deserialize, Serialize};

use ripplecast::{CloseCode, Connection, Dropped, Hub, Message, Result, Sent, ws, ws::Handler};

use super::super::clients::{PATIENCE, Script, TestServer};

/// A [`Script`] that blocks its thread, which no application should do, on the message `block`.
struct Blocking {
    script: Script,
    /// Reports that the handler blocks.
    blocked: mpsc::Sender<()>,
    /// Unblocks the handler.
    gate: Mutex<mpsc::Receiver<()>>,
}

impl Handler for Blocking {
    async fn on_message(&self, conn: Connection, message: Message) -> Result<()> {
        if message.as_text() == Some("block") {
            self.blocked.send(()).unwrap();
            let _ = self.gate.lock().unwrap().recv();
            return Ok(());
        }
        self.script.on_message(conn, message).await
    }
}

/// Starts a server with two shards on threads, so that a stuck one stops no task of the runtime, and with
/// outboxes that hold everything.
fn stuck() -> (TestServer, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (blocked, blocking) = mpsc::channel();
    let (open_gate, gate) = mpsc::channel();
    let server = TestServer::with_shards(2, true, |app| {
        let handler = Blocking { script: Script(app.hub()), blocked, gate: Mutex::new(gate) };
        app.ws("/ws", ws::endpoint(handler).outbox(256 << 20))
    });
    (server, blocking, open_gate)
}

const OVERLOADED: Sent = Sent::Dropped(Dropped::Overloaded);

/// Pushes numbers until one is rejected. Returns how many were accepted.
fn fill(hub: &Hub, room: &str) -> usize {
    let room = hub.room(room);
    for n in 0..200_000 {
        match room.push(n.to_string()) {
            Sent::Queued => {}
            refused => {
                assert_eq!(refused, OVERLOADED);
                return n;
            }
        }
    }
    panic!("a full mailbox accepts everything");
}

#[test]
fn a_push_is_rejected_by_all_shards_or_by_none() {
    let (server, blocked, open_gate) = stuck();
    let hub = &server.hub;
    // Connections are assigned in turn: numbers 0 and 2 are on one shard, 1 and 3 on the other.
    let mut tabs: Vec<_> = (0..4).map(|_| server.scripted("/ws", "join r")).collect();
    let connections: Vec<_> = tabs.iter_mut().map(|tab| server.connection(tab)).collect();
    for conn in &connections[1..3] {
        server.block_on(conn.identify("both")).unwrap();
    }
    connections[1].join("healthy").unwrap();
    tabs[0].say("block");
    blocked.recv_timeout(PATIENCE).unwrap();
    for healthy in [1, 3] {
        tabs[healthy].run("own all is well");
    }

    thread::scope(|scope| {
        let [t0, t1, t2, t3] = &mut tabs[..] else { unreachable!() };
        let accepted = {
            // The members read meanwhile.
            let readers = [t1, t3].map(|tab| {
                scope.spawn(move || {
                    let log = tab.until("mark");
                    (tab, log)
                })
            });
            let accepted = fill(hub, "r");
            assert!(
                (1000..=100_000).contains(&accepted),
                "{accepted} commands are queued: is the mailbox bounded?"
            );
            for _ in 0..50 {
                assert_eq!(hub.room("r").push("refused"), OVERLOADED);
                assert_eq!(hub.broadcast("refused"), OVERLOADED);
                assert_eq!(connections[0].push("refused"), OVERLOADED);
            }
            assert!(connections[2].join_with("s", "refused").unwrap_err().is_overloaded());
            assert_eq!(server.len("s"), 0, "a rejected join_with changes nothing");
            // The last of these may briefly find the healthy shard's mailbox full, too.
            for (index, reader) in [1, 3].into_iter().zip(readers) {
                while connections[index].push("mark") == OVERLOADED {
                    thread::yield_now();
                }
                let (tab, log) = reader.join().unwrap();
                assert!(
                    log.iter().map(|text| text.parse::<usize>().unwrap()).eq(0..accepted),
                    "member {index}"
                );
                // The other shard works as before.
                tab.run("own still well");
            }
            accepted
        };
        assert!(hub.room("healthy").push("still here").is_queued());
        assert_eq!(
            server.block_on(hub.user("both").push("hello")).unwrap(),
            1,
            "one of the two shards accepted it"
        );
        assert_eq!(hub.room("r").push("refused"), OVERLOADED);

        // Control commands are accepted: the number of connections bounds them.
        connections[2].join("late").unwrap();
        assert_eq!(server.len("late"), 1);
        assert!(connections[2].leave("late"));
        connections[2].join("late").unwrap();
        assert!(connections[2].close(CloseCode::NORMAL, "bye").is_queued());
        assert_eq!(connections[2].push("closed"), Sent::Closed);

        let readers = [t0, t2].map(|tab| {
            scope.spawn(move || {
                let log: Vec<usize> = (0..accepted).map(|_| tab.text().parse().unwrap()).collect();
                (tab, log)
            })
        });
        open_gate.send(()).unwrap();
        let [t0, t2] = readers.map(|reader| {
            let (tab, log) = reader.join().unwrap();
            assert!(log.into_iter().eq(0..accepted), "a member of the stuck shard");
            tab
        });
        assert!(t2.rest().is_empty());
        assert_eq!(t2.close, Some((1000, "bye".to_owned())));
        t0.say("len late; own done");
        assert_eq!(t0.until("done"), ["len 0"]);
        assert!(hub.room("r").push("again").is_queued());
        assert!(connections[0].push("in order").is_queued());
        assert_eq!([t0.text(), t0.text()], ["again", "in order"]);
    });
    assert_eq!([tabs[1].text(), tabs[1].text(), tabs[1].text()], ["still here", "hello", "again"]);
    assert_eq!(tabs[3].text(), "again");
}

#[test]
fn skipped_changes_of_live_state_are_published_afterwards() {
    #[derive(Serialize, Deserialize)]
    struct Row {
        n: u64,
    }
    let (server, blocked, open_gate) = stuck();
    let hub = &server.hub;
    let room = hub.room("r");
    let mut tab = server.scripted("/ws", "join r");
    let table = hub.table::<Row>("rows", 1000).unwrap().publish_to(&room);
    let counter = hub.counter("c").publish_to(&room).unwrap();
    let set = |key: &str, n| server.block_on(table.set(key, &Row { n })).unwrap();
    set("gone", 1);
    tab.until(r#"{"table":"rows","key":"gone","row":{"n":1},"version":1}"#);
    tab.say("block");
    blocked.recv_timeout(PATIENCE).unwrap();
    let accepted = fill(hub, "r");
    for n in 0..500 {
        set(&(n % 100).to_string(), n);
    }
    assert!(server.block_on(table.delete("gone")).unwrap());
    assert_eq!(server.block_on(counter.add(7)).unwrap(), 7);
    open_gate.send(()).unwrap();
    for n in 0..accepted {
        assert_eq!(tab.text(), n.to_string());
    }
    // In any order: each row once, in its current state, and the deleted one as deleted.
    let mut wanted: BTreeSet<String> =
        (400..500).map(|n| format!(r#""{}","row":{{"n":{n}}}"#, n % 100)).collect();
    wanted.extend([r#""gone","row":null"#.to_owned(), r#"{"value":7}"#.to_owned()]);
    while !wanted.is_empty() {
        let text = tab.text();
        let what =
            text.strip_prefix(r#"{"table":"rows","key":"#).and_then(|row| row.rsplit_once(r#","version""#));
        let what = what.map_or(&*text, |(row, _)| row);
        assert!(wanted.remove(what), "{text}");
    }
    set("gone", 2);
    assert!(tab.text().contains(r#""gone","row":{"n":2}"#), "then changes arrive as before");
}

#[test]
fn a_mailbox_is_bounded_in_bytes() {
    const MIB: usize = 1 << 20;
    let (server, blocked, open_gate) = stuck();
    let mut tab = server.scripted("/ws", "join r");
    let conn = server.connection(&mut tab);
    tab.say("block");
    blocked.recv_timeout(PATIENCE).unwrap();
    let message = Message::binary(vec![7; MIB]);
    let accepted = (0..1000).take_while(|n| {
        let sent =
            if n % 2 == 0 { conn.push(message.clone()) } else { server.hub.room("r").push(message.clone()) };
        sent == Sent::Queued
    });
    let accepted = accepted.count();
    assert!((16..=128).contains(&accepted), "{accepted} MiB wait");
    // A rejected push uses no space: a small one still fits, if any bytes are left.
    assert_eq!(conn.push(message.clone()), OVERLOADED);
    open_gate.send(()).unwrap();
    for _ in 0..accepted {
        assert_eq!(tab.next().unwrap().into_data().len(), MIB);
    }
    assert!(conn.push(message).is_queued());
    assert_eq!(tab.next().unwrap().into_data().len(), MIB);
    assert_eq!(server.hub.stats().slow_consumers, 0);
}
