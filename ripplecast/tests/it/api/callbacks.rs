//! No callback runs under a lock that the API takes: every call may be made from every callback.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
    mpsc,
};

use ripplecast::{Close, CloseCode, Connection, Hub, LiveCounter, Message, Result, Table, ws, ws::Handler};
use serde::{Deserialize, Serialize};

use super::super::clients::{PATIENCE, Tab, TestServer};

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Row {
    n: i64,
}

/// The stage of the connection.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Open,
    /// This callback has closed the connection.
    Closing,
    /// In `on_close`.
    Closed,
}

/// Makes every call in each callback and reports it.
struct Everything {
    hub: Hub,
    live: LiveCounter,
    table: Table<Row>,
    sender: mpsc::Sender<&'static str>,
    turn: AtomicUsize,
    /// Whether callbacks wait before and between the calls.
    waits: bool,
}

impl Handler for Everything {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        self.all(&conn, Stage::Open).await?;
        self.sender.send("open").unwrap();
        Ok(())
    }

    async fn on_message(&self, conn: Connection, message: Message) -> Result<()> {
        self.all(&conn, Stage::Open).await?;
        self.sender.send("message").unwrap();
        if message.as_text() == Some("close") {
            assert!(conn.close(CloseCode::NORMAL, "").is_queued());
            assert!(conn.push("late").is_closed());
            self.all(&conn, Stage::Closing).await?;
            self.sender.send("closing").unwrap();
        }
        Ok(())
    }

    async fn on_close(&self, conn: Connection, _: Close) -> Result<()> {
        self.all(&conn, Stage::Closed).await?;
        self.sender.send("close").unwrap();
        Ok(())
    }
}

impl Everything {
    async fn all(&self, conn: &Connection, stage: Stage) -> Result<()> {
        let open = stage == Stage::Open;
        self.pause().await;
        self.on_the_connection(conn, open).await?;
        self.pause().await;
        self.on_the_hub(conn, stage).await?;
        self.pause().await;
        self.on_shared_state(conn, open).await?;
        let other = self.hub.connections().find(|other| other != conn);
        if let Some(other) = other {
            // It may or may not still exist.
            let _ =
                (other.join("r"), other.join_with("r", "snapshot"), other.set_state(3_u8), other.leave("r"));
            let _ =
                (other.push("from another"), other.is_open(), other.user_id(), self.live.join(&other).await);
            let _ = other.identify("somebody").await;
            if !open {
                other.close(CloseCode::RESTART, "").ignore();
            }
        }
        Ok(())
    }

    async fn pause(&self) {
        if self.waits {
            tokio::task::yield_now().await;
        }
    }

    async fn on_the_connection(&self, conn: &Connection, open: bool) -> Result<()> {
        assert_eq!(conn.is_open(), open);
        assert_eq!(conn.push("to itself").is_queued(), open);
        assert_eq!(conn.join("r").is_ok(), open);
        assert_eq!(conn.join_with("s", "a snapshot").is_ok(), open);
        assert_eq!(conn.leave("s"), open);
        assert_eq!(conn.set_state(String::from("state")).is_ok(), open);
        assert_eq!(conn.state::<String>().is_some(), open || conn.state::<String>().is_some());
        assert_eq!(conn.identify("me").await.is_ok(), open);
        assert!(!open || conn.user_id().as_deref() == Some("me"));
        if !open {
            conn.closed().await;
        }
        drop(conn.closed());
        assert!(format!("{conn:?}").contains(&conn.id().to_string()));
        Ok(())
    }

    async fn on_the_hub(&self, conn: &Connection, stage: Stage) -> Result<()> {
        let (hub, room, open) = (&self.hub, self.hub.room("r"), stage == Stage::Open);
        assert!(room.push("to the room").is_queued());
        // Its shard removes it from its rooms, at the latest before `on_close`.
        assert!(stage == Stage::Closing || room.members().await?.contains(&conn.id()) == open);
        let _ = (room.len().await?, room.is_empty().await?, format!("{room:?} {hub:?}"));
        assert!(hub.broadcast("to all").is_queued());
        assert_eq!(hub.connection(conn.id()).is_some(), open);
        assert_eq!(hub.connections().any(|one| one == *conn), open);
        // Pushes to each connection while the list exists.
        hub.connections().for_each(|one| one.push("to each").ignore());
        assert_eq!(hub.user("me").push("to the client").await? > 0, open);
        assert!(stage == Stage::Closing || hub.user("me").connections().await?.is_empty() != open);
        assert!(hub.stats().opened > 0);
        let subscription = hub.bus().subscribe("news", |_| async {}).await?;
        assert!(hub.bus().publish("news", "x").await? > 0);
        subscription.unsubscribe().await;
        Ok(())
    }

    async fn on_shared_state(&self, conn: &Connection, open: bool) -> Result<()> {
        // Each change is pushed to a room of which this connection is a member.
        assert_eq!(self.live.join(conn).await.is_ok(), open);
        self.live.increment().await?;
        self.live.add(2).await?;
        self.live.decrement().await?;
        self.hub.counter("another").increment_bounded(5).await?;
        let n = self.turn.fetch_add(1, SeqCst) as i64;
        self.table.set(conn.id(), &Row { n }).await?;
        let mut rows = self.table.iter();
        assert_eq!(rows.next().await?.unwrap().1, Row { n });
        self.table.increment(conn.id(), "n", 1).await?;
        assert!(self.table.delete(conn.id()).await?);
        self.hub.find_table::<Row>("rows")?;
        Ok(())
    }
}

#[test]
fn every_call_may_be_made_from_every_callback() {
    for (shards, threads, waits) in [(1, false, false), (1, true, true), (2, false, true), (2, true, false)] {
        let (sender, receiver) = mpsc::channel();
        let server = TestServer::with_shards(shards, threads, |app| {
            let hub = app.hub();
            let live = hub.counter("demo").publish_to(&hub.room("demo")).unwrap();
            let table = hub.table::<Row>("rows", 64).unwrap();
            let turn = AtomicUsize::new(0);
            app.ws("/ws", Everything { hub, live, table, sender, turn, waits })
                .ws("/bystander", ws::handlers())
        });
        let expect =
            |what| assert_eq!(receiver.recv_timeout(PATIENCE).expect("a callback did not return"), what);
        // One after the other, so that what each callback sees of the user is known; next to an unrelated
        // connection.
        for round in 0..4 {
            let mut bystander = server.tab("/bystander");
            // Its upgrade is answered before its shard receives it, and the others close every connection
            // they find.
            super::wait_until("it is there", || server.hub.connections().count() == 1);
            let mut tab = server.tab("/ws");
            expect("open");
            tab.say(if round % 2 == 0 { "close" } else { "stay" });
            expect("message");
            if round % 2 == 0 {
                expect("closing");
                tab.rest();
            } else {
                tab.close();
            }
            expect("close");
            assert!(!bystander.rest().is_empty());
            assert_eq!(bystander.close.map(|(code, _)| code), Some(1012));
        }
        assert_eq!(server.hub.stats().failed_callbacks, 0);
    }
}

/// Many connections on all shards push to each other, join rooms for each other and close each other from
/// their callbacks.
#[test]
fn callbacks_of_different_shards_do_not_wait_for_each_other() {
    struct Crowd(Hub);
    impl Handler for Crowd {
        async fn on_open(&self, conn: Connection) -> Result<()> {
            conn.join("r")
        }

        async fn on_message(&self, conn: Connection, message: Message) -> Result<()> {
            let room = self.0.room("r");
            for id in room.members().await? {
                let Some(other) = self.0.connection(id) else { continue };
                other.push(message.clone()).ignore();
                let (_, _) = (other.join("s"), other.leave("s"));
                let _ = other.identify("crowd").await;
            }
            self.0.user("crowd").push("crowd").await?;
            room.push("room").ignore();
            conn.push("done").ignore();
            Ok(())
        }
    }
    for threads in [false, true] {
        let server = TestServer::with_shards(4, threads, |app| {
            let hub = app.hub();
            app.ws("/ws", Crowd(hub))
        });
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut tab = server.tab("/ws");
                    for _ in 0..20 {
                        tab.say("hello");
                        while tab.text() != "done" {}
                    }
                    tab.close();
                });
            }
        });
        assert_eq!(server.hub.stats().failed_callbacks, 0);
    }
}

#[test]
fn a_callback_may_shut_the_hub_down() {
    struct Last(Hub);
    impl Handler for Last {
        async fn on_message(&self, _: Connection, _: Message) -> Result<()> {
            let hub = self.0.clone();
            drop(tokio::spawn(async move { hub.shutdown().await }));
            Ok(())
        }
    }
    let server = TestServer::with_shards(2, false, |app| {
        let hub = app.hub();
        app.ws("/ws", Last(hub))
    });
    let mut tabs: Vec<Tab> = (0..4).map(|_| server.tab("/ws")).collect();
    super::wait_until("all are open", || server.hub.stats().connections == 4);
    tabs[0].say("that is all");
    for tab in &mut tabs {
        assert!(tab.rest().is_empty());
        assert_eq!(tab.close.as_ref().map(|(code, _)| *code), Some(1001));
    }
}

/// The destructors of a callback's values run outside all locks, too.
#[test]
fn a_destructor_may_use_the_hub() {
    struct Nosy(Hub, Connection, Arc<AtomicUsize>);
    impl Drop for Nosy {
        fn drop(&mut self) {
            let _ = (self.1.push("dropped"), self.1.is_open(), self.1.state::<u8>(), self.1.join("r"));
            let _ =
                (self.0.broadcast("dropped"), self.0.room("r").push("dropped"), self.0.connections().count());
            self.2.fetch_add(1, SeqCst);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    struct Keeps(Hub, Arc<AtomicUsize>);
    impl Handler for Keeps {
        async fn on_open(&self, conn: Connection) -> Result<()> {
            conn.set_state(Nosy(self.0.clone(), conn.clone(), self.1.clone()))?;
            conn.set_state(Nosy(self.0.clone(), conn.clone(), self.1.clone()))
        }
    }
    let server = TestServer::with_shards(1, false, |app| {
        let hub = app.hub();
        app.ws("/ws", Keeps(hub, dropped.clone()))
    });
    let mut tab = server.tab("/ws");
    for _ in 0..3 {
        assert_eq!(tab.text(), "dropped");
        if dropped.load(SeqCst) == 1 {
            break;
        }
    }
    tab.close();
    super::wait_until("both are dropped", || dropped.load(SeqCst) == 2);
}
