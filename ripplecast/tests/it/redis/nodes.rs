//! Several nodes on one Redis: rooms, broadcasts and users span them, and missed messages are counted.

use std::{
    collections::HashSet,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use ripplecast::{App, ConnectionId, NodeId, stats::GapReport};
use tungstenite::{Error as WsError, Message as WsMessage};

use super::{
    Cluster, FLAVOURS, Flavour, Proxy, Server,
    faults::{Fault, node},
};
use crate::{
    clients::{Tab, TestServer, wait_until},
    support::PATIENCE,
};

/// How long a dead node may be counted, according to the documentation.
const SWEPT: Duration = Duration::from_secs(90);

// ----- waiting -----

/// Waits until all nodes report the number of members of a room.
#[track_caller]
fn wait_for_members(nodes: &[&TestServer], room: &str, members: usize) {
    wait_until("all nodes to know the members", || nodes.iter().all(|node| node.len(room) == members));
}

/// Returns whether a message with that prefix arrives within a moment. Discards any others.
fn receives(tab: &mut Tab, beginning: &str) -> bool {
    let moment = Instant::now() + Duration::from_millis(20);
    tab.socket.get_ref().set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut received = false;
    while !received && Instant::now() < moment {
        match tab.socket.read() {
            Ok(WsMessage::Text(text)) => received = text.as_str().starts_with(beginning),
            Ok(_) => {}
            Err(WsError::Io(_)) => break,
            Err(error) => panic!("{error}"),
        }
    }
    tab.socket.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    received
}

/// Waits until a push of one node to a room reaches all of these tabs on all nodes. Discards earlier
/// messages.
#[track_caller]
fn settle(from: &TestServer, room: &str, tabs: &mut [&mut Tab]) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Relaxed);
    let room = from.hub.room(room);
    for tab in &mut *tabs {
        wait_until("a message to arrive", || {
            room.push(format!("is {number} there?")).ignore();
            receives(tab, &format!("is {number} there?"))
        });
    }
    let last = format!("all of {number} are there");
    room.push(last.clone()).ignore();
    for tab in tabs {
        while tab.text() != last {}
    }
}

/// Returns how many messages of other nodes a node has received.
fn received(node: &TestServer) -> u64 {
    node.hub.stats().remote.received
}

/// Creates three nodes with that backend.
fn three(url: &str) -> [TestServer; 3] {
    [(); 3].map(|()| node(App::builder(), url))
}

// ----- across nodes -----

fn check_rooms(url: &str) {
    let [a, b, c] = &three(url);
    let (mut on_a, mut on_b) = (a.scripted("/ws", "join r"), b.scripted("/ws", "join r"));
    let mut second_on_b = b.scripted("/ws", "join r");
    let mut elsewhere = c.scripted("/ws", "join other");
    settle(a, "r", &mut [&mut on_a, &mut on_b, &mut second_on_b]);
    settle(c, "r", &mut [&mut on_a, &mut on_b, &mut second_on_b]);

    // Each node's messages reach every member in order, once.
    let before = [a, b, c].map(received);
    let (room_a, room_c) = (a.hub.room("r"), c.hub.room("r"));
    for i in 0..500 {
        assert!(room_a.push(format!("a {i}")).is_queued());
        room_c.push(format!("c {i}")).ignore();
    }
    for tab in [&mut on_a, &mut on_b, &mut second_on_b] {
        let mut next = [0, 0];
        while next != [500, 500] {
            let text = tab.text();
            let next = &mut next[usize::from(text.starts_with('c'))];
            assert_eq!(text[2..].parse::<usize>().unwrap(), *next, "{text}");
            *next += 1;
        }
    }
    // A message is sent to a node once, however many members it has, and to no node without members.
    let after = [a, b, c].map(received);
    assert_eq!([after[0] - before[0], after[1] - before[1], after[2] - before[2]], [500, 1000, 0]);

    b.hub.broadcast("to all").ignore();
    for tab in [&mut on_a, &mut on_b, &mut second_on_b, &mut elsewhere] {
        assert_eq!(tab.text(), "to all");
    }
}

fn check_members(url: &str) {
    let nodes = three(url);
    let [a, b, c] = &nodes;
    let all = [a, b, c];
    let (on_a, on_b) = (a.scripted("/ws", "join r"), b.scripted("/ws", "join r"));
    let mut tab = b.scripted("/ws", "join r; join other");
    wait_for_members(&all, "r", 3);
    wait_for_members(&all, "other", 1);

    // Every node returns all of them, in the same order, also in pages.
    let members = c.block_on(c.hub.room("r").members()).unwrap();
    assert_eq!(members.iter().collect::<HashSet<_>>().len(), 3);
    assert_eq!(a.block_on(a.hub.room("r").members()).unwrap(), members);
    for limit in 1..=3 {
        let mut paged: Vec<ConnectionId> = Vec::new();
        loop {
            let after = paged.last().copied();
            let page = b.block_on(b.hub.room("r").members_after(after, limit)).unwrap();
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, members);
    }

    on_a.close();
    wait_for_members(&all, "r", 2);
    tab.run("leave r");
    wait_for_members(&all, "r", 1);
    on_b.close();
    wait_for_members(&all, "r", 0);
    wait_for_members(&all, "other", 1);

    let ids: HashSet<NodeId> = all.map(|node| node.hub.node()).into();
    let seen =
        |node: &TestServer| node.block_on(node.hub.nodes()).unwrap().into_iter().collect::<HashSet<_>>();
    wait_until("all nodes to know each other", || all.iter().all(|node| seen(node) == ids));
    tab.close();
    let [a, b, c] = nodes;
    let gone = b.hub.node();
    drop(b);
    wait_until("the other nodes to notice the end", || {
        [&a, &c].iter().all(|node| !seen(node).contains(&gone))
    });
}

fn check_clients(url: &str) {
    let [a, b, c] = &three(url);
    let mut on_a = a.scripted("/ws", "identify ada");
    let (mut on_b, mut second_on_b) = (b.scripted("/ws", "identify ada"), b.scripted("/ws", "identify ada"));
    let mut other = b.scripted("/ws", "identify bob");
    let where_is = |client: &str| c.block_on(c.hub.user(client).nodes()).unwrap();
    let sorted = |mut nodes: Vec<NodeId>| {
        nodes.sort_unstable();
        nodes
    };
    wait_until("the clients to be known", || {
        where_is("ada") == sorted(vec![a.hub.node(), b.hub.node()])
            && where_is("bob") == [b.hub.node()]
            && c.block_on(c.hub.user("ada").connections()).unwrap().len() == 3
    });
    assert_eq!(where_is("nobody"), []);

    for i in 0..100 {
        assert_eq!(c.block_on(c.hub.user("ada").push(format!("{i}"))).unwrap(), 3);
    }
    // Redis has delivered them all, but the node may not have read them yet.
    wait_until("all to be received", || received(a) == 100);
    assert_eq!(c.block_on(c.hub.user("bob").push("for bob")).unwrap(), 1);
    assert_eq!(c.block_on(c.hub.user("nobody").push("lost")).unwrap(), 0);
    assert_eq!(b.block_on(b.hub.user("ada").push("the last")).unwrap(), 3);
    for tab in [&mut on_a, &mut on_b, &mut second_on_b] {
        let came: HashSet<String> = tab.until("the last").into_iter().collect();
        // The last one comes from another node and may overtake others, which still arrive.
        let mut came = came;
        while came.len() < 100 {
            assert!(came.insert(tab.text()), "a message arrived twice");
        }
    }
    assert_eq!(other.text(), "for bob");
    assert_eq!(received(a), 101, "a message for bob is sent only to bob's node");

    on_a.close();
    wait_until("the connection to be removed", || where_is("ada") == [b.hub.node()]);
    assert_eq!(c.block_on(c.hub.user("ada").push("again")).unwrap(), 2);
    assert_eq!((on_b.text(), second_on_b.text()), ("again".into(), "again".into()));
}

/// Declares tests for every kind of server. The servers are shared, and each test has its own prefix.
macro_rules! on_every_server {
    ($($test:ident: $check:ident),* $(,)?) => {$(
        #[test]
        fn $test() {
            for flavour in FLAVOURS {
                $check(&format!("{}?prefix={}", Server::shared(flavour).url(), stringify!($test)));
            }
            $check(&format!("{}?prefix={}", Cluster::shared().url(), stringify!($test)));
        }
    )*};
}

on_every_server! {
    rooms_and_broadcasts_span_the_nodes: check_rooms,
    members_are_counted_and_listed_on_all_nodes: check_members,
    clients_are_reached_wherever_they_are: check_clients,
}

#[test]
fn nodes_with_another_prefix_or_database_are_separate() {
    let server = Server::start();
    let url = server.url();
    let a = node(App::builder(), &url);
    let strangers = [format!("{url}?prefix=other"), format!("{url}?prefix=ripplecas"), format!("{url}/1")]
        .map(|url| node(App::builder(), &url));
    let friend = node(App::builder(), &url);
    let mut tabs = strangers.each_ref().map(|stranger| stranger.scripted("/ws", "join r; identify ada"));
    let mut on_friend = friend.scripted("/ws", "join r; identify ada");
    settle(&a, "r", &mut [&mut on_friend]);
    wait_for_members(&[&a, &friend], "r", 1);
    for tab in &mut tabs {
        assert!(!receives(tab, ""), "an unrelated node received the message");
    }
    assert!(strangers.iter().all(|stranger| received(stranger) == 0 && stranger.len("r") == 1));
    assert_eq!(a.block_on(a.hub.nodes()).unwrap().len(), 2);
}

#[test]
fn a_node_without_members_unsubscribes_from_the_room() {
    let server = Server::start();
    let (a, b) = (node(App::builder(), &server.url()), node(App::builder(), &server.url()));
    let mut tab = b.scripted("/ws", "join r");
    settle(&a, "r", &mut [&mut tab]);
    tab.run("leave r");
    wait_until("the subscription to end", || {
        let before = received(&b);
        a.hub.room("r").push("to nobody").ignore();
        a.hub.broadcast("to all").ignore();
        while tab.text() != "to all" {}
        received(&b) - before == 1
    });
    // One connection for commands and one for subscriptions, however many rooms there are.
    tab.run(&(0..100).map(|i| format!("join {i}")).collect::<Vec<_>>().join(";"));
    settle(&a, "99", &mut [&mut tab]);
    let clients: String = server.ask("CLIENT LIST");
    assert_eq!(clients.lines().filter(|line| !line.contains("user=lab")).count(), 4, "{clients}");
}

#[test]
fn a_frame_too_large_for_other_nodes_harms_nobody() {
    let server = Server::start();
    let (a, b) = (node(App::builder(), &server.url()), node(App::builder(), &server.url()));
    let mut tab = b.scripted("/ws", "join r; identify ada");
    settle(&a, "r", &mut [&mut tab]);
    wait_until("the user to be known", || a.block_on(a.hub.user("ada").nodes()).unwrap().len() == 1);
    let unsent = a.hub.stats().remote.unsent;
    let frame = ripplecast::Message::from("x".repeat(17 << 20));
    assert_eq!(a.block_on(a.hub.user("ada").push(frame)).unwrap(), 0);
    assert_eq!(a.hub.stats().remote.unsent, unsent + 1);
    assert_eq!(a.block_on(a.hub.user("ada").push("small")).unwrap(), 1);
    assert_eq!(tab.text(), "small");
    assert_eq!(b.hub.stats().remote.gaps, 0);
}

#[test]
fn members_of_a_resubscribing_node_are_included() {
    let server = Server::start();
    let (a, b) = (node(App::builder(), &server.url()), node(App::builder(), &server.url()));
    let (mut on_a, mut on_b) = (a.scripted("/ws", "join r"), b.scripted("/ws", "join r"));
    settle(&a, "r", &mut [&mut on_a, &mut on_b]);
    wait_for_members(&[&a], "r", 2);
    let channels = || server.ask::<Vec<String>>("PUBSUB CHANNELS").len();
    let all = channels();
    for _ in 0..3 {
        let killed: usize = server.ask("CLIENT KILL TYPE pubsub");
        assert_eq!(killed, 2);
        let asked = Instant::now();
        match a.block_on(a.hub.room("r").members()) {
            // On a busy machine they may return later than the node waits for them.
            Ok(members) => assert!(members.len() == 2 || asked.elapsed() >= Duration::from_millis(500)),
            // The answer may have arrived while the connection of the querying node itself was lost.
            Err(error) => assert!(error.is_timeout() || error.is_unavailable(), "{error}"),
        }
        wait_until("the subscriptions to be restored", || channels() == all);
    }
    drop((on_a, on_b));
}

// ----- missed messages -----

/// A node behind its own proxy that records its gaps.
struct Fragile {
    proxy: Proxy,
    node: TestServer,
    gaps: Arc<Mutex<Vec<GapReport>>>,
}

impl Fragile {
    fn new(server: &Server) -> Self {
        let proxy = Proxy::before(server);
        let gaps = Arc::<Mutex<Vec<GapReport>>>::default();
        let into = gaps.clone();
        let builder = App::builder().hub(move |hub| hub.on_gap(move |gap| into.lock().unwrap().push(gap)));
        let node = node(builder, &proxy.url());
        Self { proxy, node, gaps }
    }

    /// Returns how many messages it reports as missed.
    fn missed(&self) -> u64 {
        self.node.hub.stats().remote.missed
    }

    #[track_caller]
    fn wait_until_degraded(&self, degraded: bool) {
        wait_until("the node to notice", || self.node.hub.stats().remote.degraded == degraded);
    }
}

#[test]
fn messages_missed_during_a_cut_are_counted_and_reported() {
    let server = Server::start();
    let (a, b) = (node(App::builder(), &server.url()), Fragile::new(&server));
    let mut tab = b.node.scripted("/ws", "join r");
    settle(&a, "r", &mut [&mut tab]);
    assert_eq!((b.missed(), b.gaps.lock().unwrap().len()), (0, 0));
    b.proxy.cut();
    b.wait_until_degraded(true);
    wait_until("earlier pushes to be counted", || a.hub.stats().remote.queued_bytes == 0);
    let sent = a.hub.stats().remote.sent;
    for i in 0..7 {
        a.hub.room("r").push(format!("missed {i}")).ignore();
    }
    wait_until("the messages to be sent", || a.hub.stats().remote.sent == sent + 7);
    b.proxy.heal();
    // The first message to arrive again reveals how many did not. More are missed until the subscription is
    // active.
    let mut tries = 0;
    wait_until("a message to arrive", || {
        a.hub.room("r").push(format!("try {tries}")).ignore();
        tries += 1;
        receives(&mut tab, "try")
    });
    wait_until("the gap to be counted", || b.missed() >= 7);
    let gaps = b.gaps.lock().unwrap().clone();
    assert!(gaps.iter().any(|gap| gap.room.as_deref() == Some("r") && gap.missed.is_none()), "{gaps:?}");
    let reported: u64 = gaps.iter().filter_map(|gap| gap.missed).sum();
    assert_eq!(reported, b.missed(), "{gaps:?}");
    assert!(gaps.iter().filter(|gap| gap.missed.is_some()).all(|gap| gap.node == Some(a.hub.node())));
    assert!(b.node.hub.stats().remote.gaps >= 1);
}

#[test]
fn a_short_stall_loses_nothing() {
    let server = Server::start();
    let (a, b) = (node(App::builder(), &server.url()), Fragile::new(&server));
    let mut tab = b.node.scripted("/ws", "join r");
    settle(&a, "r", &mut [&mut tab]);
    b.proxy.stall();
    for i in 0..100 {
        a.hub.room("r").push(format!("{i}")).ignore();
    }
    b.proxy.heal();
    for i in 0..100 {
        assert_eq!(tab.text(), i.to_string());
    }
    assert_eq!((b.missed(), b.gaps.lock().unwrap().len()), (0, 0));
}

/// Pushes numbered messages to a room until reported to stop. Returns how many.
fn publish(from: &TestServer, stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let (room, stop) = (from.hub.room("r"), stop.clone());
    std::thread::spawn(move || {
        let mut number = 0;
        while !stop.load(Relaxed) {
            room.push(format!("n {number}")).ignore();
            number += 1;
            std::thread::sleep(Duration::from_micros(500));
        }
        number
    })
}

/// Cuts, stalls and kills while messages flow from one node to the other. Each message arrives once and in
/// order, or is counted as missed.
#[test]
fn every_message_arrives_once_or_is_counted() {
    let server = Server::start();
    let (a, b) = (Fragile::new(&server), Fragile::new(&server));
    let mut tab = b.node.scripted("/ws", "join r");
    settle(&a.node, "r", &mut [&mut tab]);
    assert_eq!(b.missed(), 0);
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = publish(&a.node, &stop);
    let reader = std::thread::spawn(move || (tab.until_beginning("end "), tab));
    for (fault, of_publisher) in [
        (Fault::Cut, false),
        (Fault::Cut, true),
        (Fault::Stalled, false),
        (Fault::Stalled, true),
        (Fault::Paused, false),
        (Fault::Killed, false),
        (Fault::Cut, false),
        (Fault::Stopped, true),
        (Fault::Cut, true),
    ] {
        let proxy = if of_publisher { &a.proxy } else { &b.proxy };
        let before = received(&b.node);
        fault.strike(&server, proxy);
        (if of_publisher { &a } else { &b }).wait_until_degraded(true);
        fault.mend(&server, proxy);
        wait_until("messages to arrive again", || received(&b.node) > before + 20);
    }
    stop.store(true, Relaxed);
    let mut pushed = publisher.join().unwrap();
    wait_until("the end to arrive", || {
        a.node.hub.room("r").push(format!("end {pushed}")).ignore();
        pushed += 1;
        std::thread::sleep(Duration::from_millis(20));
        reader.is_finished()
    });
    let (came, _tab) = reader.join().unwrap();
    let numbers: Vec<u64> =
        came.iter().map(|text| text[text.find(' ').unwrap() + 1..].parse().unwrap()).collect();
    assert!(numbers.windows(2).all(|two| two[0] < two[1]), "a message arrived twice or out of order");
    let last = *numbers.last().unwrap();
    let missed = b.missed();
    assert_eq!(numbers.len() as u64 + missed, last + 1, "{missed} of {} were missed", last + 1);
    assert!(missed > 0 && numbers.len() > 200, "{missed} missed, {} received", numbers.len());
    let reported: u64 = b.gaps.lock().unwrap().iter().filter_map(|gap| gap.missed).sum();
    assert_eq!(reported, missed);
}

// ----- dead nodes -----

/// A node in a separate process, and a tab connected to it.
struct Stranger {
    process: Child,
    addr: std::net::SocketAddr,
    id: NodeId,
}

/// Set in a child process: its backend.
const CHILD: &str = "RIPPLECAST_TEST_NODE";

impl Stranger {
    fn start(url: &str) -> Self {
        let (_, module) = module_path!().split_once("::").unwrap();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{module}::a_dead_node_is_swept_by_the_others"), "--nocapture"])
            .env(CHILD, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let line = out.lines().map_while(Result::ok).find(|line| line.contains("serves at "));
        let line = line.expect("the other process prints its address");
        let mut words = line.rsplit_once("serves at ").unwrap().1.split(' ');
        let mut next = || words.next().unwrap();
        Self { process, addr: next().parse().unwrap(), id: next().parse().unwrap() }
    }

    fn tab(&self, steps: &str) -> Tab {
        let mut tab = Tab::open(self.addr, "/ws", &[]).unwrap();
        tab.run(steps);
        tab
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves until its input ends, at the latest when the process that started it ends.
fn be_the_stranger(url: &str) {
    let node = node(App::builder(), url);
    println!("serves at {} {}", node.addr, node.hub.node());
    let _ = std::io::stdin().lines().count();
    std::process::exit(0);
}

#[test]
fn a_dead_node_is_swept_by_the_others() {
    if let Ok(url) = std::env::var(CHILD) {
        return be_the_stranger(&url);
    }
    let server = Server::start();
    let (a, b) = (node(App::builder(), &server.url()), Stranger::start(&server.url()));
    let c = node(App::builder(), &server.url());
    let mut on_a = a.scripted("/ws", "join r; identify ada");
    let (mut on_b, mut second_on_b) = (b.tab("join r; identify ada"), b.tab("join r"));
    settle(&a, "r", &mut [&mut on_a, &mut on_b, &mut second_on_b]);
    second_on_b.say("room r from another process");
    assert_eq!(on_a.text(), "from another process");
    wait_for_members(&[&a, &c], "r", 3);
    wait_until("the user to be known on both", || {
        c.block_on(c.hub.user("ada").nodes()).unwrap().contains(&b.id)
    });
    assert_eq!(c.block_on(c.hub.user("ada").push("to ada")).unwrap(), 2);

    let id = b.id;
    drop(b);
    let died = Instant::now();
    assert_eq!(on_a.text(), "to ada");
    // Nothing is delivered to it from now on, and it affects nobody.
    assert_eq!(c.block_on(c.hub.user("ada").push("once more")).unwrap(), 1);
    assert_eq!(on_a.text(), "once more");
    let swept = || {
        [&a, &c].iter().all(|node| {
            node.len("r") == 1
                && node.block_on(node.hub.user("ada").nodes()).unwrap() == [a.hub.node()]
                && !node.block_on(node.hub.nodes()).unwrap().contains(&id)
        })
    };
    while !swept() {
        assert!(died.elapsed() < SWEPT, "the dead node is not swept");
        std::thread::sleep(Duration::from_millis(50));
    }
    // None of its entries remain in Redis.
    let left = || {
        server.ask::<Vec<String>>("KEYS *").into_iter().filter(|key| key.contains(&id.to_string())).count()
    };
    while left() > 0 {
        assert!(died.elapsed() < SWEPT, "keys of the dead node remain");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_node_that_returns_after_its_lease_expired_is_counted_once() {
    let server = Server::start();
    let (a, b) = (node(App::builder(), &server.url()), Fragile::new(&server));
    let mut tab = b.node.scripted("/ws", "join r; identify ada");
    settle(&a, "r", &mut [&mut tab]);
    wait_for_members(&[&a], "r", 1);
    b.proxy.stall();
    let begin = Instant::now();
    while a.len("r") > 0 {
        assert!(begin.elapsed() < SWEPT, "the node is still counted");
        std::thread::sleep(Duration::from_millis(50));
    }
    b.proxy.heal();
    wait_for_members(&[&a, &b.node], "r", 1);
    wait_until("the user to be known", || a.block_on(a.hub.user("ada").push("to ada")).unwrap() == 1);
    while tab.text() != "to ada" {}
    settle(&a, "r", &mut [&mut tab]);
    let nodes = a.block_on(a.hub.nodes()).unwrap();
    assert_eq!(nodes.iter().collect::<HashSet<_>>().len(), nodes.len());
    assert_eq!(nodes.len(), 2, "{nodes:?}");
}

#[test]
fn nodes_find_each_other_again_after_redis_lost_everything() {
    let server = Server::setup(Flavour::Redis).start();
    let (a, b) = (node(App::builder(), &server.url()), node(App::builder(), &server.url()));
    let (mut on_a, mut on_b) = (a.scripted("/ws", "join r"), b.scripted("/ws", "join r; identify ada"));
    settle(&a, "r", &mut [&mut on_a, &mut on_b]);
    wait_for_members(&[&a, &b], "r", 2);
    server.kill();
    server.restart();
    wait_until("the members to be known again", || {
        [&a, &b].iter().all(|node| node.block_on(node.hub.room("r").len()).is_ok_and(|len| len == 2))
    });
    settle(&a, "r", &mut [&mut on_a, &mut on_b]);
    settle(&b, "r", &mut [&mut on_a, &mut on_b]);
    wait_until("the user to be known again", || {
        a.block_on(a.hub.user("ada").push("x")).is_ok_and(|n| n == 1)
    });
    // Also after the data is flushed while they run.
    server.ask::<()>("FLUSHALL");
    wait_until("the members to be known again", || {
        [&a, &b].iter().all(|node| node.block_on(node.hub.room("r").len()).is_ok_and(|len| len == 2))
    });
}
