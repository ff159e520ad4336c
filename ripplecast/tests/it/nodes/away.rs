//! Outages of Redis of every kind while messages flow.

use std::{collections::BTreeMap, io::ErrorKind, sync::Arc, thread, time::Duration};

use parking_lot::Mutex;
use ripplecast::{App, stats::GapReport, ws};

use super::{
    super::{
        clients::{PATIENCE, Tab},
        redis::{Proxy, Server},
    },
    Script, TestServer, node, subscribers, wait_until,
};

/// Starts a node that records its gap reports.
fn watching(url: &str) -> (TestServer, Arc<Mutex<Vec<GapReport>>>) {
    let gaps: Arc<Mutex<Vec<GapReport>>> = Arc::default();
    let log = gaps.clone();
    let builder = App::builder().backend(url);
    let builder = builder.hub(|hub| hub.shards(2).on_gap(move |gap| log.lock().push(gap)));
    let server = TestServer::start(builder, |app| {
        let hub = app.hub();
        // Nobody reads during the outage, which must not count as a slow consumer.
        app.ws("/ws", ws::endpoint(Script(hub)).outbox(64 << 20))
    });
    (server, gaps)
}

/// Waits until the nodes have recovered everything that these tests need.
fn whole(redis: &Server, nodes: &[&TestServer]) {
    for node in nodes {
        wait_until("the node has recovered", || !node.hub.stats().remote.degraded);
        wait_until("the nodes know each other", || {
            node.block_on(node.hub.nodes()).is_ok_and(|all| all.len() == nodes.len())
        });
    }
    wait_until("the room is subscribed", || subscribers(redis, "r") == nodes.len() as i64);
}

/// Groups the received numbers by node, and checks that they are ascending without repeats.
fn ascending(came: &[String]) -> BTreeMap<char, Vec<u64>> {
    let mut by_node: BTreeMap<char, Vec<u64>> = BTreeMap::new();
    for text in came {
        let number = text[1..].parse().unwrap();
        let numbers = by_node.entry(text.chars().next().unwrap()).or_default();
        assert!(
            numbers.last().is_none_or(|&last| last < number),
            "{text} arrived after {:?}",
            numbers.last()
        );
        numbers.push(number);
    }
    by_node
}

/// Reads what has arrived, until nothing more does for a moment.
fn drain(tab: &mut Tab, came: &mut Vec<String>) {
    let wait = |tab: &Tab, time| tab.socket.get_ref().set_read_timeout(Some(time)).unwrap();
    wait(tab, Duration::from_millis(100));
    loop {
        match tab.socket.read() {
            Ok(message) if message.is_text() => came.push(message.to_text().unwrap().to_owned()),
            Ok(_) => {}
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    wait(tab, PATIENCE);
}

/// Lets messages flow on two nodes while `harm` acts on Redis. Afterwards, everything must have recovered,
/// and each message that did not arrive must have been reported.
fn survives(url: &str, redis: &Server, harm: impl FnOnce(&dyn Fn(&str, bool))) {
    let ((a, gaps_of_a), (b, gaps_of_b)) = (watching(url), watching(url));
    let (mut on_a, mut on_b) = (a.scripted("/ws", "join r"), b.scripted("/ws", "join r"));
    whole(redis, &[&a, &b]);
    let mut sent = 0_u64;
    let flow = |sent: &mut u64| {
        for _ in 0..50 {
            assert!(a.hub.room("r").push(format!("a{sent}")).is_queued());
            assert!(b.hub.room("r").push(format!("b{sent}")).is_queued());
            *sent += 1;
        }
    };
    flow(&mut sent);
    // Each has received messages from the other, so it can detect what it misses.
    wait_until("all messages have arrived", || {
        [&a, &b].iter().all(|node| node.hub.stats().remote.received == sent)
    });
    let degraded = |what: &str, wanted: bool| {
        wait_until(what, || {
            a.hub.stats().remote.degraded == wanted && b.hub.stats().remote.degraded == wanted
        });
    };
    let stop = Mutex::new(false);
    thread::scope(|scope| {
        let flowing = scope.spawn(|| {
            while !*stop.lock() {
                flow(&mut sent);
                thread::sleep(Duration::from_millis(5)); // the pace does not affect the result
            }
        });
        harm(&degraded);
        *stop.lock() = true;
        flowing.join().unwrap();
    });
    // Pushes until a message of each node reaches the other again, which also reveals what was missed before.
    let (mut came_a, mut came_b) = (Vec::new(), Vec::new());
    wait_until("both nodes receive each other's messages", || {
        assert!(a.hub.room("r").push(format!("a{sent}")).is_queued());
        assert!(b.hub.room("r").push(format!("b{sent}")).is_queued());
        sent += 1;
        drain(&mut on_a, &mut came_a);
        drain(&mut on_b, &mut came_b);
        came_a.contains(&format!("b{}", sent - 1)) && came_b.contains(&format!("a{}", sent - 1))
    });
    for (came, own, other, gaps, node) in
        [(&came_a, 'a', 'b', &gaps_of_a, &a), (&came_b, 'b', 'a', &gaps_of_b, &b)]
    {
        let by_node = ascending(came);
        assert_eq!(by_node[&own].len() as u64, sent, "local delivery continued");
        let missed = sent - by_node[&other].len() as u64;
        let remote = node.hub.stats().remote;
        assert_eq!(remote.missed, missed, "missed messages were counted: {remote:?}");
        let gaps = gaps.lock();
        let announced: u64 =
            gaps.iter().filter(|gap| gap.room.as_deref() == Some("r")).filter_map(|gap| gap.missed).sum();
        assert_eq!(announced, missed, "missed messages were reported: {gaps:?}");
        wait_until("nothing is queued any more", || node.hub.stats().remote.queued_bytes == 0);
    }
}

#[test]
fn nodes_recover_after_redis_is_killed_and_restarted() {
    let redis = Server::start();
    survives(&redis.url(), &redis, |degraded| {
        redis.kill();
        degraded("both nodes say that it is away", true);
        redis.restart();
        degraded("both nodes are back", false);
    });
}

#[test]
fn nodes_recover_after_redis_is_shut_down_and_restarted() {
    let redis = Server::start();
    survives(&redis.url(), &redis, |degraded| {
        redis.stop();
        degraded("both nodes say that it is away", true);
        redis.restart();
        degraded("both nodes are back", false);
    });
}

#[test]
fn nodes_recover_after_redis_is_paused() {
    let redis = Server::start();
    survives(&redis.url(), &redis, |degraded| {
        redis.pause();
        degraded("both nodes say that it is away", true);
        redis.resume();
        degraded("both nodes are back", false);
    });
}

#[test]
fn nodes_recover_after_the_network_is_cut() {
    let redis = Server::start();
    let proxy = Proxy::before(&redis);
    survives(&proxy.url(), &redis, |degraded| {
        proxy.cut();
        degraded("both nodes say that it is away", true);
        proxy.heal();
        degraded("both nodes are back", false);
    });
}

#[test]
fn nodes_recover_after_the_network_drops_everything_silently() {
    let redis = Server::start();
    let proxy = Proxy::before(&redis);
    survives(&proxy.url(), &redis, |degraded| {
        proxy.stall();
        degraded("both nodes say that it is away", true);
        proxy.heal();
        degraded("both nodes are back", false);
    });
}

#[test]
fn nodes_recover_after_the_network_is_interrupted_repeatedly() {
    let redis = Server::start();
    let proxy = Proxy::before(&redis);
    survives(&proxy.url(), &redis, |degraded| {
        for _ in 0..4 {
            proxy.cut();
            degraded("both nodes say that it is away", true);
            proxy.heal();
            degraded("both nodes are back", false);
        }
    });
}

#[test]
fn calls_that_need_redis_fail_at_once_during_an_outage_and_work_again_afterwards() {
    let redis = Server::start();
    let (a, b) = (node(&redis.url()), node(&redis.url()));
    let mut tab = a.scripted("/ws", "join r; identify ann");
    let mut other = b.scripted("/ws", "join r");
    wait_until("both are counted", || a.len("r") == 2);
    redis.kill();
    wait_until("both know that it is away", || {
        a.hub.stats().remote.degraded && b.hub.stats().remote.degraded
    });
    let hub = &a.hub;
    a.block_on(async {
        assert!(hub.room("r").len().await.unwrap_err().is_unavailable());
        assert!(hub.room("r").members().await.unwrap_err().is_unavailable());
        assert!(hub.nodes().await.unwrap_err().is_unavailable());
        assert!(hub.bus().publish("c", "x").await.unwrap_err().is_unavailable());
        assert!(hub.bus().subscribe("c", |_| async {}).await.unwrap_err().is_unavailable());
        assert!(hub.user("ann").push("to ann").await.unwrap_err().is_unavailable());
    });
    assert_eq!(tab.text(), "to ann", "the connection on this node has received it");
    // Rooms and users change meanwhile. Only the final state must be sent later.
    for round in 0..50 {
        tab.run(&format!("leave r; join r{round}; leave r{round}; join r; identify client {round}"));
        a.hub.room("r").push(format!("{round}")).ignore();
        assert_eq!(tab.text(), round.to_string());
    }
    wait_until("nothing is queued for an unavailable Redis", || a.hub.stats().remote.queued_bytes == 0);
    assert!(a.hub.stats().remote.unsent >= 50);
    redis.restart();
    whole(&redis, &[&a, &b]);
    wait_until("all are counted again", || a.len("r") == 2 && b.len("r") == 2);
    assert_eq!(b.block_on(b.hub.user("ann").push("x")).unwrap(), 0);
    assert_eq!(b.block_on(b.hub.user("client 49").push("to 49")).unwrap(), 1);
    assert_eq!(tab.text(), "to 49");
    a.hub.room("r").push("end").ignore();
    assert!(other.until("end").is_empty(), "pushes made during the outage are not sent late");
    assert_eq!(a.block_on(a.hub.bus().publish("c", "x")).unwrap(), 0);
    let rooms: Vec<String> = redis.ask("KEYS ripplecast:room:*");
    assert_eq!(rooms, ["ripplecast:room:{r}:nodes"]);
}

#[test]
fn a_subscription_to_the_bus_recovers() {
    let redis = Server::start();
    let (a, b) = (node(&redis.url()), node(&redis.url()));
    let (sender, receiver) = std::sync::mpsc::channel();
    let _subscription = a.block_on(a.hub.bus().subscribe("c*", move |message| {
        let _ = sender.send(message.payload.to_vec());
        async {}
    }));
    redis.kill();
    wait_until("both know that it is away", || {
        a.hub.stats().remote.degraded && b.hub.stats().remote.degraded
    });
    redis.restart();
    wait_until("it is subscribed again", || {
        b.block_on(b.hub.bus().publish("channel", "again")).is_ok_and(|nodes| nodes == 1)
    });
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), b"again");
}

#[test]
fn a_node_may_start_before_its_redis() {
    let redis = Server::start();
    redis.stop();
    let builder = App::builder().backend(redis.url()).backend_optional(true);
    let a = TestServer::start(builder, |app| {
        let hub = app.hub();
        app.ws("/ws", Script(hub))
    });
    assert!(a.hub.stats().remote.degraded);
    let mut tab = a.scripted("/ws", "join r");
    assert!(a.hub.room("r").push("alone").is_queued());
    assert_eq!(tab.text(), "alone");
    redis.restart();
    let b = node(&redis.url());
    let other = b.scripted("/ws", "join r");
    whole(&redis, &[&a, &b]);
    b.hub.room("r").push("together").ignore();
    assert_eq!(tab.text(), "together");
    drop(other);
}

#[test]
fn pushes_before_the_shutdown_arrive() {
    const FRAMES: usize = 4_000; // some eight round trips, more than leaving takes
    let redis = Server::start();
    let [a, b] = super::nodes(&redis.url());
    let mut tab = super::member(&redis, &b, "r", 1);
    let room = a.hub.room("r");
    for number in 0..FRAMES {
        assert!(room.push(number.to_string()).is_queued());
    }
    a.block_on(a.hub.shutdown());
    // Everything has been sent by the time it returns.
    let remote = a.hub.stats().remote;
    assert_eq!((remote.sent, remote.unsent, remote.queued_bytes), (FRAMES as u64, 0, 0), "{remote:?}");
    drop(a);
    for number in 0..FRAMES {
        assert_eq!(tab.text(), number.to_string());
    }
}

#[test]
fn a_shutdown_does_not_wait_for_a_redis_that_hangs() {
    let redis = Server::start();
    let a = node(&redis.url());
    redis.pause();
    a.hub.room("r").push("stuck").ignore();
    let begin = std::time::Instant::now();
    a.block_on(a.hub.shutdown());
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed()); // 2 s, and a busy machine
    redis.resume();
}
