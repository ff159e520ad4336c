//! Confirmed joins and identities are reachable from all nodes; unconfirmed ones are counted and reported.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use ripplecast::{App, Connection, Error, Reach, Result, stats::GapReport};
use tokio::task::JoinHandle;

use super::{
    super::{
        clients::{PATIENCE, Tab},
        redis::{Cluster, Flavour, Proxy, Server},
    },
    Script, TestServer, node, nodes, wait_until,
};

/// Number of rounds in which a push follows at once.
const ROUNDS: usize = 40;
/// Latency in one direction to a Redis on another machine.
const WAY: Duration = Duration::from_millis(4);

/// A node with its own proxy to Redis, and its gap reports.
struct Far {
    proxy: Proxy,
    node: TestServer,
    gaps: Arc<Mutex<Vec<GapReport>>>,
}

impl Far {
    fn from(redis: &Server) -> Self {
        let proxy = Proxy::before(redis);
        let (node, gaps) = watching(&proxy.url());
        Self { proxy, node, gaps }
    }

    /// Opens a tab. Returns it with the server's side of its connection.
    fn tab(&self) -> (Tab, Connection) {
        let mut tab = self.node.tab("/ws");
        let conn = self.node.connection(&mut tab);
        (tab, conn)
    }

    fn join_confirmed(&self, conn: &Connection, room: &str) -> Result<Reach> {
        self.node.block_on(conn.join_confirmed(room))
    }

    fn identify(&self, conn: &Connection, client: &str) -> Result<Reach> {
        self.node.block_on(conn.identify(client))
    }

    /// Starts a call in a task, after it has been polled once.
    #[expect(clippy::async_yields_async, reason = "the task is awaited later")]
    fn begin(
        &self,
        future: impl Future<Output = Result<Reach>> + Send + 'static,
    ) -> JoinHandle<Result<Reach>> {
        self.node.block_on(async {
            let mut future = Box::pin(future);
            assert!(future.as_mut().now_or_never().is_none(), "the call waits");
            tokio::spawn(future)
        })
    }

    fn unconfirmed(&self) -> usize {
        self.node.hub.stats().remote.unconfirmed
    }

    /// Returns how often a gap of this room was reported.
    fn reports(&self, room: &str) -> usize {
        self.gaps.lock().iter().filter(|gap| gap.room.as_deref() == Some(room)).count()
    }
}

/// Starts a node that records its gap reports.
fn watching(url: &str) -> (TestServer, Arc<Mutex<Vec<GapReport>>>) {
    let gaps = Arc::<Mutex<Vec<GapReport>>>::default();
    let log = gaps.clone();
    let builder = App::builder().backend(url);
    let builder = builder.hub(|hub| hub.shards(2).on_gap(move |gap| log.lock().push(gap)));
    let node = TestServer::start(builder, |app| {
        let hub = app.hub();
        app.ws("/ws", Script(hub))
    });
    (node, gaps)
}

/// Returns the end of a room's channel name in a command that subscribes to it.
fn channel(room: &str) -> String {
    format!("ripplecast:room:{{{room}}}\r\n")
}

#[test]
fn a_push_right_after_a_confirmed_join_arrives() {
    let redis = Server::start();
    let (a, b) = (node(&redis.url()), Far::from(&redis));
    b.proxy.delay(WAY);
    let (mut tab, conn) = b.tab();
    let mut longest = Duration::ZERO;
    for round in 0..ROUNDS {
        let (room, begun) = (format!("r{round}"), Instant::now());
        assert_eq!(b.join_confirmed(&conn, &room).unwrap(), Reach::AllNodes);
        longest = longest.max(begun.elapsed());
        assert!(a.hub.room(&room).push(room.clone()).is_queued());
        assert_eq!(tab.text(), room);
    }
    assert_eq!(b.join_confirmed(&conn, "r0").unwrap(), Reach::AllNodes, "a second call changes nothing");
    assert_eq!(b.unconfirmed(), 0);
    if longest < Duration::from_millis(500) {
        assert_eq!(b.gaps.lock().as_slice(), [], "a first member is no gap");
    }
}

#[test]
fn a_user_is_reached_right_after_identify_returns() {
    let redis = Server::start();
    let (a, b) = (node(&redis.url()), Far::from(&redis));
    b.proxy.delay(WAY);
    let (mut tab, conn) = b.tab();
    let push = |client: &str| a.block_on(a.hub.user(client).push(client.to_owned())).unwrap();
    for round in 0..ROUNDS {
        let client = format!("c{round}");
        assert_eq!(b.identify(&conn, &client).unwrap(), Reach::AllNodes);
        assert_eq!(push(&client), 1);
        assert_eq!(tab.text(), client);
    }
    assert_eq!(b.identify(&conn, "c39").unwrap(), Reach::AllNodes, "a second call changes nothing");
    assert_eq!(push("c39"), 1);
    assert_eq!(tab.text(), "c39");
    let mut tabs: Vec<_> = (0..ROUNDS).map(|_| b.tab()).collect();
    let each = tabs.iter().enumerate().map(|(number, (_, conn))| {
        let conn = conn.clone();
        async move { conn.identify(&format!("d{}", number / 2)).await }
    });
    let reached = b.node.block_on(futures_util::future::join_all(each));
    assert!(reached.iter().all(|reach| matches!(reach, Ok(Reach::AllNodes))), "{reached:?}");
    for (number, (tab, _)) in tabs.iter_mut().enumerate() {
        let client = format!("d{}", number / 2);
        if number % 2 == 0 {
            assert_eq!(push(&client), 2);
        }
        assert_eq!(tab.text(), client);
    }
}

#[test]
fn on_a_cluster_a_confirmed_connection_is_reached_at_once() {
    let url = format!("{}?prefix=confirmed", Cluster::shared().url());
    let [a, b] = nodes(&url);
    let mut tab = b.tab("/ws");
    let conn = b.connection(&mut tab);
    for round in 0..ROUNDS {
        let name = format!("n{round}");
        assert_eq!(b.block_on(conn.join_confirmed(&name)).unwrap(), Reach::AllNodes);
        assert!(a.hub.room(&name).push(name.clone()).is_queued());
        assert_eq!(tab.text(), name);
        assert_eq!(b.block_on(conn.identify(&name)).unwrap(), Reach::AllNodes);
        assert_eq!(a.block_on(a.hub.user(&name).push("to it")).unwrap(), 1);
        assert_eq!(tab.text(), "to it");
    }
}

#[test]
fn a_subscription_to_the_bus_receives_messages_published_right_after_it() {
    let redis = Server::start();
    let (a, b) = (node(&redis.url()), Far::from(&redis));
    b.proxy.delay(WAY);
    let (sender, receiver) = std::sync::mpsc::channel();
    for round in 0..ROUNDS {
        let name = if round % 2 == 0 { format!("c{round}") } else { format!("c{round}*") };
        let sender = sender.clone();
        let _subscription = b.node.block_on(b.node.hub.bus().subscribe(name, move |message| {
            let _ = sender.send(message.topic.to_string());
            async {}
        }));
        assert_eq!(a.block_on(a.hub.bus().publish(format!("c{round}"), "x")).unwrap(), 1);
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), format!("c{round}"));
    }
}

#[test]
fn a_node_that_has_started_is_listed_and_receives_broadcasts() {
    let redis = Server::start();
    let a = node(&redis.url());
    let proxy = Proxy::before(&redis);
    proxy.delay(5 * WAY);
    for round in 0..3 {
        let (b, _) = watching(&proxy.url());
        assert!(a.block_on(a.hub.nodes()).unwrap().contains(&b.hub.node()), "round {round}");
        let mut tab = b.scripted("/ws", "yield");
        assert!(a.hub.broadcast("to all").is_queued());
        assert_eq!(tab.text(), "to all");
    }
}

#[test]
fn a_join_is_counted_until_it_is_confirmed() {
    let redis = Server::start();
    let (a, b) = (node(&redis.url()), Far::from(&redis));
    let mut tabs: Vec<_> = (0..4).map(|_| b.tab()).collect();
    b.proxy.hold(channel("r"));
    tabs[0].1.join("r").unwrap();
    tabs[1].1.join("r").unwrap();
    assert_eq!(b.unconfirmed(), 2);
    let conn = tabs[2].1.clone();
    let joining = b.begin(async move { conn.join_confirmed("r").await });
    let conn = tabs[3].1.clone();
    b.begin(async move { conn.join_confirmed("r").await }).abort();
    assert_eq!(b.node.hub.room("r").len_here(), 4, "a caller that stops waiting is still a member");
    assert_eq!(b.unconfirmed(), 4);
    tabs[1].1.leave("r");
    assert_eq!(b.unconfirmed(), 3);
    // Redis has not received any of them.
    a.hub.room("r").push("early").ignore();
    wait_until("the connection has left", || a.hub.stats().remote.sent == 1);
    b.proxy.heal();
    // If all of this took more than 2 s, as it may on a busy machine, the call has stopped waiting.
    let _ = a.block_on(joining).unwrap().unwrap();
    wait_until("the join is confirmed", || b.unconfirmed() == 0);
    assert_eq!(b.join_confirmed(&tabs[0].1, "r").unwrap(), Reach::AllNodes);
    a.hub.room("r").push("later").ignore();
    for number in [0, 2, 3] {
        assert_eq!(tabs[number].0.text(), "later", "earlier pushes are missed");
    }
}

#[test]
fn a_join_with_a_late_confirmation_is_reported_once() {
    let redis = Server::start();
    let (a, b) = (node(&redis.url()), Far::from(&redis));
    let (mut tab, conn) = b.tab();
    b.proxy.hold(channel("r"));
    conn.join("r").unwrap();
    wait_until("it is reported", || b.reports("r") == 1);
    let of_room = |gap: &&GapReport| gap.room.as_deref() == Some("r");
    let report = b.gaps.lock().iter().find(of_room).cloned().unwrap();
    assert_eq!((report.node, report.missed), (None, None));
    assert_eq!(b.unconfirmed(), 1);
    assert!(b.node.hub.stats().remote.gaps >= 1);
    b.proxy.heal();
    wait_until("the join is confirmed", || b.unconfirmed() == 0);
    a.hub.room("r").push("later").ignore();
    assert_eq!(tab.text(), "later");
    assert_eq!(b.reports("r"), 1, "{:?}", b.gaps.lock());
}

#[test]
fn a_room_rejected_by_redis_is_reported_without_affecting_others() {
    let rules = "~ripplecast:* &ripplecast:* +@all";
    let redis = Server::setup(Flavour::Redis).user("app", "secret", rules).start();
    let a = node(&redis.url());
    let (b, gaps) = watching(&redis.url_as("app", "secret"));
    redis.ask::<()>(
        "ACL SETUSER app resetchannels &ripplecast:all:* &ripplecast:lease:* &ripplecast:room:{open*}",
    );
    let mut tab = b.tab("/ws");
    let conn = b.connection(&mut tab);
    // In one command with other rooms.
    for room in ["open", "closed", "open too", "closed too"] {
        conn.join(room).unwrap();
    }
    let join = |room: &str| b.block_on(conn.join_confirmed(room)).unwrap();
    assert_eq!([join("open"), join("open too")], [Reach::AllNodes; 2]);
    assert_eq!([join("closed"), join("closed too")], [Reach::ThisNode; 2]);
    wait_until("both are reported", || gaps.lock().len() == 2);
    for gap in gaps.lock().iter() {
        assert!(gap.room.as_ref().is_some_and(|room| room.starts_with("closed")), "{gap:?}");
        assert_eq!((gap.node, gap.missed), (None, None));
    }
    let remote = b.hub.stats().remote;
    assert_eq!((remote.unconfirmed, remote.gaps, remote.degraded), (2, 2, false), "{remote:?}");
    let error = b.block_on(b.hub.bus().subscribe("orders", |_| async {})).unwrap_err();
    assert!(!error.is_unavailable() && error.to_string().contains("ACL SETUSER"), "{error}");
    a.hub.room("open").push("open").ignore();
    assert_eq!(tab.text(), "open");
    // The subscription is retried.
    redis.ask::<()>("ACL SETUSER app &ripplecast:room:*");
    wait_until("both are confirmed", || b.hub.stats().remote.unconfirmed == 0);
    a.hub.room("closed").push("no longer").ignore();
    assert_eq!(tab.text(), "no longer");
    assert_eq!(gaps.lock().len(), 2);
}

#[test]
fn without_redis_a_connection_is_reached_on_its_node_and_later_on_all() {
    let redis = Server::start();
    let (a, b) = (node(&redis.url()), Far::from(&redis));
    let (mut tab, conn) = b.tab();
    assert_eq!(b.join_confirmed(&conn, "before").unwrap(), Reach::AllNodes);
    redis.kill();
    wait_until("the outage is detected", || {
        b.node.hub.stats().remote.degraded && a.hub.stats().remote.degraded
    });
    wait_until("the room is lost", || b.reports("before") == 1);
    assert_eq!(b.unconfirmed(), 1);
    let begun = Instant::now();
    assert_eq!(b.join_confirmed(&conn, "r").unwrap(), Reach::ThisNode);
    assert_eq!(b.identify(&conn, "ann").unwrap(), Reach::ThisNode);
    assert!(begun.elapsed() < PATIENCE / 3, "{:?}", begun.elapsed()); // 4 s at most, and a busy machine
    b.node.hub.room("r").push("here").ignore();
    assert_eq!(tab.text(), "here");
    assert!(b.node.block_on(b.node.hub.user("ann").push("ann")).unwrap_err().is_unavailable());
    assert_eq!(tab.text(), "ann");
    assert_eq!(b.unconfirmed(), 2);
    wait_until("the confirmation is late", || b.reports("r") == 1);
    redis.restart();
    wait_until("both rooms are confirmed", || b.unconfirmed() == 0);
    wait_until("the client is registered", || {
        a.block_on(a.hub.user("ann").push("back")).is_ok_and(|reached| reached == 1)
    });
    assert_eq!(tab.text(), "back");
    assert_eq!(b.join_confirmed(&conn, "r").unwrap(), Reach::AllNodes);
    assert_eq!(b.identify(&conn, "ann").unwrap(), Reach::AllNodes);
    a.hub.room("r").push("again").ignore();
    assert_eq!(tab.text(), "again");
}

#[test]
fn a_hanging_redis_delays_calls_only_briefly() {
    let redis = Server::start();
    let (a, b) = (node(&redis.url()), Far::from(&redis));
    let (mut tab, conn) = b.tab();
    b.proxy.stall();
    let begun = Instant::now();
    assert_eq!(b.join_confirmed(&conn, "r").unwrap(), Reach::ThisNode);
    assert_eq!(b.identify(&conn, "ann").unwrap(), Reach::ThisNode);
    assert!(begun.elapsed() < PATIENCE / 3, "{:?}", begun.elapsed());
    b.proxy.heal();
    wait_until("the room is confirmed", || b.unconfirmed() == 0);
    wait_until("the client is registered", || {
        a.block_on(a.hub.user("ann").push("back")).is_ok_and(|reached| reached == 1)
    });
    assert_eq!(tab.text(), "back");
}

#[test]
fn a_connection_that_closes_during_the_wait_returns_an_error() {
    let redis = Server::start();
    let b = Far::from(&redis);
    let closed = |outcome: Result<Reach>| assert!(matches!(outcome, Err(Error::Closed)), "{outcome:?}");
    b.proxy.hold(channel("r"));
    let (tab, conn) = b.tab();
    let joining = b.begin({
        let conn = conn.clone();
        async move { conn.join_confirmed("r").await }
    });
    tab.close();
    closed(b.node.block_on(joining).unwrap());
    b.proxy.heal();
    b.proxy.hold("ripplecast:user:{ann}:nodes\r\n");
    let (tab, conn) = b.tab();
    let identifying = b.begin({
        let conn = conn.clone();
        async move { conn.identify("ann").await }
    });
    tab.close();
    wait_until("it is closed", || !conn.is_open());
    b.proxy.heal();
    closed(b.node.block_on(identifying).unwrap());
    closed(b.join_confirmed(&conn, "r"));
    closed(b.identify(&conn, "ann"));
}
