//! The behaviour of an application if Redis is not usable at the start, or becomes unavailable later.

mod start;

use std::{
    process::Command,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ripplecast::{App, AppBuilder, Error, Hub, Result, bus::Subscription};
use serde::{Deserialize, Serialize};

use super::{
    Cluster, Flavour, Proxy, Sentinels, Server,
    sentinels::{SENTINELS_PASSWORD, SERVERS_PASSWORD, WATCHER},
    server::free_port,
};
use crate::{
    clients::{Script, TestServer, wait_until},
    support::{Dir, PATIENCE},
    tls::CertAuthority,
};

/// The documentation limits an operation to two seconds. The rest is for a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
/// A call that fails at once does not wait for these two seconds.
const AT_ONCE: Duration = Duration::from_millis(1500);

// ----- at the start -----

// ----- while running -----

/// A kind of outage.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// Redis was told to stop.
    Stopped,
    /// Redis crashed.
    Killed,
    /// Redis hangs.
    Paused,
    /// The network drops everything, and neither side is notified.
    Stalled,
    /// The network resets and refuses connections.
    Cut,
}

impl Fault {
    pub(super) fn strike(self, server: &Server, proxy: &Proxy) {
        match self {
            Self::Stopped => server.stop(),
            Self::Killed => server.kill(),
            Self::Paused => server.pause(),
            Self::Stalled => proxy.stall(),
            Self::Cut => proxy.cut(),
        }
    }

    pub(super) fn mend(self, server: &Server, proxy: &Proxy) {
        match self {
            Self::Stopped | Self::Killed => server.restart(),
            Self::Paused => server.resume(),
            Self::Stalled | Self::Cut => proxy.heal(),
        }
    }
}

/// A row of the table used in these tests.
#[derive(Serialize, Deserialize)]
struct Row {
    value: u32,
}

/// Creates a node with that backend.
pub(super) fn node(builder: AppBuilder, url: &str) -> TestServer {
    TestServer::start(builder.backend(url), |app| {
        let hub = app.hub();
        app.ws("/ws", Script(hub))
    })
}

/// Runs every operation that needs Redis concurrently. Returns the name and result of each.
async fn operations(hub: &Hub) -> Vec<(&'static str, Result<()>)> {
    let (counter, room, client) = (hub.counter("tried"), hub.room("r"), hub.user("somebody"));
    let table = match hub.table::<Row>("tried", 10) {
        Ok(table) => table,
        Err(error) => return vec![("table", Err(error))],
    };
    let subscribe = async { hub.bus().subscribe("tried.for.a.moment", |_| async {}).await.map(drop) };
    let (increment, get, set, row, len, publish, subscribe, members, count, nodes, push, of_client) = tokio::join!(
        async { counter.increment().await.map(drop) },
        async { counter.get().await.map(drop) },
        async { table.set("key", &Row { value: 1 }).await },
        async { table.get("key").await.map(|row| row.is_some_and(|row| row.value > 0)).map(drop) },
        async { table.len().await.map(drop) },
        async { hub.bus().publish("tried", "message").await.map(drop) },
        subscribe,
        async { room.members().await.map(drop) },
        async { room.len().await.map(drop) },
        async { hub.nodes().await.map(drop) },
        async { client.push("frame").await.map(drop) },
        async { client.connections().await.map(drop) },
    );
    vec![
        ("counter.increment", increment),
        ("counter.get", get),
        ("table.set", set),
        ("table.get", row),
        ("table.len", len),
        ("publish", publish),
        ("subscribe", subscribe),
        ("room.members", members),
        ("room.len", count),
        ("nodes", nodes),
        ("client.push", push),
        ("client.connections", of_client),
    ]
}

/// Checks that every operation fails in time with an error that allows a retry. Returns the time it took.
#[track_caller]
fn check_all_fail(node: &TestServer) -> Duration {
    let begin = Instant::now();
    let outcomes = node.block_on(operations(&node.hub));
    let took = begin.elapsed();
    for (name, outcome) in outcomes {
        let error = outcome.expect_err(name);
        assert!(error.is_unavailable(), "{name}: {error}");
    }
    assert!(took < LIMIT, "the operations took {took:?}");
    took
}

/// Checks that no operation waits before it fails. If one did, even the quickest of ten tries would take as
/// long.
#[track_caller]
fn check_all_fail_at_once(node: &TestServer) {
    let quickest = (0..10).map(|_| check_all_fail(node)).min().unwrap();
    assert!(quickest < AT_ONCE, "the quickest of ten tries took {quickest:?}");
}

/// Waits until every operation succeeds.
#[track_caller]
fn check_all_work(node: &TestServer) {
    let begin = Instant::now();
    loop {
        let outcomes = node.block_on(operations(&node.hub));
        let failed: Vec<_> = outcomes.into_iter().filter(|(_, outcome)| outcome.is_err()).collect();
        if failed.is_empty() {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "these operations do not work again: {failed:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Checks that what one tab pushes to a shared room reaches both tabs.
#[track_caller]
fn check_local_push(tabs: &mut [crate::clients::Tab; 2]) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let text = format!("local {}", NEXT.fetch_add(1, Relaxed));
    tabs[0].say(format!("room r {text}"));
    for tab in tabs {
        while tab.text() != text {}
    }
}

/// What a subscription has received.
type Received = Arc<Mutex<Vec<String>>>;

/// Subscribes to a topic of the bus.
fn listen(node: &TestServer, topic: &str) -> (Subscription, Received) {
    let received = Received::default();
    let into = received.clone();
    let subscription = node.block_on(node.hub.bus().subscribe(topic, move |message| {
        into.lock().unwrap().push(String::from_utf8_lossy(&message.payload).into_owned());
        async {}
    }));
    (subscription.unwrap(), received)
}

/// Tests an outage of Redis and the recovery from it.
fn check(fault: Fault) {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let node = node(App::builder(), &proxy.url());
    let mut tabs = [node.scripted("/ws", "join r"), node.scripted("/ws", "join r")];
    let (_subscription, received) = listen(&node, "news");
    check_all_work(&node);
    check_local_push(&mut tabs);

    fault.strike(&server, &proxy);
    check_all_fail(&node);
    check_local_push(&mut tabs);
    wait_until("the node to report that Redis is unavailable", || node.hub.stats().remote.degraded);
    // Once both connections are closed, no caller waits any more.
    wait_until("every operation to fail at once", || check_all_fail(&node) < AT_ONCE);
    check_all_fail_at_once(&node);
    check_nothing_grows(&node, &mut tabs);

    fault.mend(&server, &proxy);
    check_all_work(&node);
    wait_until("the node to report that Redis is available", || !node.hub.stats().remote.degraded);
    check_local_push(&mut tabs);
    // The earlier subscription is active again, exactly once.
    wait_until("the bus to deliver a message", || {
        node.block_on(node.hub.bus().publish("news", "again")).is_ok_and(|nodes| nodes > 0)
            && !received.lock().unwrap().is_empty()
    });
    node.block_on(node.hub.bus().publish("news", "the last")).unwrap();
    wait_until("the last", || received.lock().unwrap().last().is_some_and(|last| last == "the last"));
    assert_eq!(received.lock().unwrap().iter().filter(|text| *text == "the last").count(), 1);
}

/// Checks that neither callers nor messages wait while Redis is unavailable.
#[track_caller]
fn check_nothing_grows(node: &TestServer, tabs: &mut [crate::clients::Tab; 2]) {
    let before = node.hub.stats().remote;
    let room = node.hub.room("elsewhere");
    let frame = ripplecast::Message::from("x".repeat(10_000));
    for _ in 0..1000 {
        room.push(frame.clone()).ignore();
    }
    let begin = Instant::now();
    node.block_on(async {
        for _ in 0..10 {
            let callers = (0..1000).map(|_| async { node.hub.counter("tried").increment().await });
            let outcomes = futures_util::future::join_all(callers).await;
            assert!(outcomes.iter().all(Result::is_err));
        }
    });
    assert!(begin.elapsed() < LIMIT, "10,000 callers waited {:?}", begin.elapsed());
    wait_until("no message to wait for Redis", || node.hub.stats().remote.queued_bytes == 0);
    let after = node.hub.stats().remote;
    assert!(after.unsent >= before.unsent + 1000, "{before:?}, {after:?}");
    check_local_push(tabs);
}

#[test]
fn redis_is_stopped() {
    check(Fault::Stopped);
}

#[test]
fn redis_is_killed() {
    check(Fault::Killed);
}

#[test]
fn redis_is_paused() {
    check(Fault::Paused);
}

#[test]
fn the_connection_to_redis_is_stalled() {
    check(Fault::Stalled);
}

#[test]
fn the_connection_to_redis_is_cut() {
    check(Fault::Cut);
}

#[test]
fn redis_flaps_and_every_call_ends() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let node = node(App::builder(), &proxy.url());
    let mut tabs = [node.scripted("/ws", "join r"), node.scripted("/ws", "join r")];
    let counter = node.hub.counter("flapping");
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let counter = counter.clone();
            node.runtime().spawn(async move {
                let (mut done, mut unknown) = (0, 0);
                for _ in 0..200 {
                    let begin = Instant::now();
                    match counter.increment().await {
                        Ok(_) => done += 1,
                        Err(error) => {
                            assert!(error.is_unavailable(), "{error}");
                            unknown += 1;
                        }
                    }
                    assert!(begin.elapsed() < LIMIT, "the operation took {:?}", begin.elapsed());
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                (done, unknown)
            })
        })
        .collect();
    for fault in
        [Fault::Cut, Fault::Stalled, Fault::Cut, Fault::Paused, Fault::Cut, Fault::Stalled, Fault::Cut]
    {
        fault.strike(&server, &proxy);
        check_local_push(&mut tabs);
        fault.mend(&server, &proxy);
        check_local_push(&mut tabs);
    }
    let (mut done, mut unknown) = (0, 0);
    for caller in callers {
        let (its_done, its_unknown) = node.block_on(caller).unwrap();
        done += its_done;
        unknown += its_unknown;
    }
    check_all_work(&node);
    let value = node.block_on(counter.get()).unwrap();
    assert!(
        (done..=done + unknown).contains(&value),
        "{done} succeeded, {unknown} may have, and the value is {value}"
    );
}

#[test]
fn a_failover_is_followed_without_a_restart() {
    let sentinels = Sentinels::start(Flavour::Redis);
    let node = node(App::builder(), &sentinels.url());
    let mut tabs = [node.scripted("/ws", "join r"), node.scripted("/ws", "join r")];
    let (_subscription, received) = listen(&node, "news");
    check_all_work(&node);
    let before = node.block_on(node.hub.counter("kept").increment()).unwrap();
    let (master, _) = sentinels.master_and_other();
    assert_eq!(master.ask::<u32>("WAIT 1 10000"), 1);
    sentinels.failover();
    check_local_push(&mut tabs);
    check_all_work(&node);
    let after = node.block_on(node.hub.counter("kept").increment()).unwrap();
    assert_eq!(after, before + 1, "the new master has what the replica had");
    wait_until("the bus to deliver a message", || {
        node.block_on(node.hub.bus().publish("news", "again")).is_ok_and(|nodes| nodes > 0)
            && !received.lock().unwrap().is_empty()
    });
    let (heir, _) = sentinels.master_and_other();
    assert!(heir.ask::<String>("CLIENT LIST").lines().filter(|line| !line.contains("user=lab")).count() >= 2);
}

#[test]
fn a_master_that_hangs_while_sentinels_are_slow_is_detected() {
    let sentinels = Sentinels::start(Flavour::Redis);
    let node = node(App::builder(), &sentinels.url());
    check_all_work(&node);
    let (master, _) = sentinels.master_and_other();
    let looks = || {
        let stats: String = master.ask("INFO commandstats");
        let set = stats.lines().find_map(|line| line.strip_prefix("cmdstat_set:calls=")?.split(',').next());
        set.map_or(0, |calls| calls.parse::<u64>().unwrap())
    };
    // Two of three sentinels hang, so a query to them takes two seconds. The node must still check the
    // master.
    sentinels.sentinels()[..2].iter().for_each(Server::pause);
    let (mut before, mut since, mut seen) = (looks(), Instant::now(), 0);
    // Waits until the node has queried the sentinels. If no ping arrives, it is waiting for them now, and the
    // next server it pings hangs.
    while seen < 5 && since.elapsed() < AT_ONCE {
        if looks() > before {
            (before, since, seen) = (looks(), Instant::now(), seen + 1);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    master.pause();
    wait_until("commands to fail at once", || {
        let begin = Instant::now();
        assert!(node.block_on(node.hub.counter("tried").get()).is_err());
        begin.elapsed() < AT_ONCE
    });
    sentinels.sentinels()[..2].iter().for_each(Server::resume);
    master.resume();
    check_all_work(&node);
}

#[test]
fn a_permanent_refusal_is_a_separate_error() {
    let server = Server::start();
    let node = node(App::builder(), &server.url());
    check_all_work(&node);
    // From now on writes are refused, because there is no memory for them.
    server.ask::<()>("CONFIG SET maxmemory 1");
    let begin = Instant::now();
    // For longer than a check of the connection takes: Redis is available, so operations that need no memory
    // still work.
    while begin.elapsed() < Duration::from_secs(3) {
        let error = node.block_on(node.hub.counter("tried").increment()).unwrap_err();
        assert!(!error.is_unavailable(), "{error}");
        assert!(matches!(&error, Error::Backend(_)) && error.to_string().contains("OOM"), "{error}");
        node.block_on(node.hub.bus().publish("tried", "message")).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    server.ask::<()>("CONFIG SET maxmemory 0");
    check_all_work(&node);
}
