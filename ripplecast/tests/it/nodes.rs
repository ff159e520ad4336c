//! Several nodes on one Redis: rooms, broadcasts, users, the registry and the bus, through real sockets.

mod away;
mod confirmed;
mod except;
mod live;
mod many;
mod registry;

use std::collections::BTreeSet;

use ripplecast::{App, Message, Overflow, RoomOptions};

use super::{
    clients::{Script, Tab, TestServer, wait_until},
    redis::{FLAVOURS, Server},
};

/// Starts a node with a few shards on this backend.
fn node(url: &str) -> TestServer {
    let builder = App::builder().backend(url).hub(|hub| hub.shards(2));
    TestServer::start(builder, |app| {
        let hub = app.hub();
        app.ws("/ws", Script(hub)).sse("/events", "r")
    })
}

/// Starts several nodes and waits until each knows all of them.
fn nodes<const N: usize>(url: &str) -> [TestServer; N] {
    let nodes = [(); N].map(|()| node(url));
    for node in &nodes {
        wait_until("the nodes know each other", || {
            node.block_on(node.hub.nodes()).is_ok_and(|nodes| nodes.len() == N)
        });
    }
    nodes
}

/// Returns how many nodes are subscribed to a room.
fn subscribers(redis: &Server, room: &str) -> i64 {
    let (_, count): (String, i64) = redis.ask(&format!("PUBSUB NUMSUB ripplecast:room:{{{room}}}"));
    count
}

/// Opens a tab that is a member of a room and waits until the other nodes can reach it.
fn member(redis: &Server, node: &TestServer, room: &str, subscribed: i64) -> Tab {
    let tab = node.scripted("/ws", &format!("join {room}"));
    wait_until("the room is subscribed", || subscribers(redis, room) == subscribed);
    tab
}

#[test]
fn a_push_reaches_the_members_on_all_nodes_once() {
    for flavour in FLAVOURS {
        let redis = Server::setup(flavour).start();
        let [a, b, c] = nodes(&redis.url());
        let mut tabs = vec![
            member(&redis, &a, "r", 1),
            member(&redis, &a, "r", 1),
            member(&redis, &b, "r", 2),
            member(&redis, &c, "r", 3),
        ];
        let mut stranger = a.scripted("/ws", "join other");
        // Pushes from each node in turn, after all have received the previous push.
        for (number, from) in [&a, &b, &c, &a].iter().enumerate() {
            assert!(from.hub.room("r").push(format!("{number}")).is_queued());
            for tab in &mut tabs {
                assert_eq!(tab.text(), number.to_string());
            }
        }
        assert!(c.hub.broadcast("to all").is_queued());
        for tab in tabs.iter_mut().chain([&mut stranger]) {
            assert_eq!(tab.text(), "to all", "and nothing arrived twice");
        }
        for node in [&a, &b, &c] {
            let remote = node.hub.stats().remote;
            assert_eq!(
                (remote.missed, remote.gaps, remote.unsent, remote.refused),
                (0, 0, 0, 0),
                "{remote:?}"
            );
            assert!(!remote.degraded);
        }
        assert_eq!(a.hub.stats().remote.received, 3, "two pushes and a broadcast, once for all members");
    }
}

#[test]
fn the_order_of_each_node_is_kept_and_nothing_is_lost() {
    const EACH: usize = 2000;
    let redis = Server::start();
    let [a, b] = nodes(&redis.url());
    let tabs = [member(&redis, &a, "r", 1), member(&redis, &b, "r", 2)];
    std::thread::scope(|scope| {
        for (name, node) in [("a", &a), ("b", &b)] {
            scope.spawn(move || {
                let room = node.hub.room("r");
                for number in 0..EACH {
                    assert!(room.push(format!("{name}{number}")).is_queued());
                }
            });
        }
        for mut tab in tabs {
            scope.spawn(move || {
                let (mut from_a, mut from_b) = (0, 0);
                for _ in 0..2 * EACH {
                    let text = tab.text();
                    let (name, number) = text.split_at(1);
                    let next = if name == "a" { &mut from_a } else { &mut from_b };
                    assert_eq!(number, next.to_string());
                    *next += 1;
                }
                assert_eq!((from_a, from_b), (EACH, EACH));
                tab.close();
            });
        }
    });
}

#[test]
fn frames_arrive_unchanged() {
    let redis = Server::start();
    let [a, b] = nodes(&redis.url());
    let mut tab = member(&redis, &b, "r", 1);
    use tungstenite::Message as WsMessage;
    let large = "ripple, ".repeat(100_000);
    let frames = [
        (Message::text("ünïcödé"), WsMessage::text("ünïcödé")),
        (Message::binary(vec![0, 255, 10]), WsMessage::binary(vec![0, 255, 10])),
        (Message::text(""), WsMessage::text("")),
        (Message::text(large.clone()).with_key("large"), WsMessage::text(large)),
    ];
    for (frame, wanted) in frames {
        assert!(a.hub.room("r").push(frame).is_queued());
        assert_eq!(tab.next(), Some(wanted));
    }
}

#[test]
fn unusual_names_are_separate_rooms() {
    let redis = Server::start();
    let [a, b] = nodes(&redis.url());
    let long = "x".repeat(255);
    let names = ["", "a}b", "a%7Db", "{a}", "*", "ö 1", "room:x", &long];
    let mut tabs: Vec<Tab> = names
        .iter()
        .map(|name| {
            let mut tab = b.tab("/ws");
            let conn = b.connection(&mut tab);
            conn.join(name).unwrap();
            tab
        })
        .collect();
    wait_until("all are subscribed", || names.iter().all(|name| a.len(name) == 1));
    for name in names {
        wait_until("it is subscribed", || {
            let channels: Vec<String> = redis.ask("PUBSUB CHANNELS ripplecast:room:*");
            channels.len() == names.len()
        });
        assert!(a.hub.room(name).push(format!("for {name}")).is_queued());
    }
    for (tab, name) in tabs.iter_mut().zip(names) {
        assert_eq!(tab.text(), format!("for {name}"));
        tab.say("own nothing else");
        assert_eq!(tab.text(), "nothing else");
    }
}

#[test]
fn only_nodes_with_members_receive_a_push() {
    let redis = Server::start();
    let [a, b, c] = nodes(&redis.url());
    let one = member(&redis, &b, "r", 1);
    let mut two = member(&redis, &b, "r", 1);
    for number in 0..10 {
        a.hub.room("r").push(format!("{number}")).ignore();
        assert_eq!(two.text(), number.to_string());
    }
    assert_eq!((b.hub.stats().remote.received, c.hub.stats().remote.received), (10, 0));
    one.close();
    assert_eq!(subscribers(&redis, "r"), 1, "one member is left");
    two.close();
    wait_until("nobody is left", || subscribers(&redis, "r") == 0);
    // The room can be joined again.
    let mut three = member(&redis, &c, "r", 1);
    a.hub.room("r").push("again").ignore();
    assert_eq!(three.text(), "again");
}

#[test]
fn the_policy_of_a_room_applies_to_pushes_of_other_nodes() {
    let redis = Server::start();
    let latest = RoomOptions::new().overflow(Overflow::LatestPerKey);
    let builder = App::builder().backend(redis.url()).hub(|hub| hub.rooms("r", latest));
    let b = TestServer::start(builder, |app| {
        let hub = app.hub();
        app.ws("/ws", Script(hub))
    });
    let a = node(&redis.url());
    let mut slow = member(&redis, &b, "r", 1);
    // Far more than the kernel and the outbox of a stuck reader can hold: newer messages replace queued ones.
    let large = "x".repeat(60_000);
    for number in 0..400 {
        wait_until("there is space", || a.hub.stats().remote.queued_bytes < 1 << 20);
        assert!(a.hub.room("r").push(Message::text(format!("{number} {large}")).with_key("k")).is_queued());
    }
    wait_until("all frames have arrived", || b.hub.stats().remote.received == 400);
    wait_until("some were replaced", || b.hub.stats().drops.replaced > 0);
    a.hub.room("r").push("end").ignore();
    let came = slow.until("end");
    assert!(came.len() < 400, "{} of 400 came", came.len());
    assert!(came.last().unwrap().starts_with("399 "), "the newest arrived");
}

#[test]
fn a_room_is_counted_and_listed_across_all_nodes() {
    let redis = Server::start();
    let [a, b, c] = nodes(&redis.url());
    let mut tabs = Vec::new();
    let mut wanted = BTreeSet::new();
    for (node, members) in [(&a, 3), (&b, 5), (&c, 2)] {
        for _ in 0..members {
            let mut tab = node.scripted("/ws", "join r");
            wanted.insert(node.connection(&mut tab).id());
            tabs.push(tab);
        }
    }
    for node in [&a, &b, &c] {
        wait_until("all are counted", || node.len("r") == 10);
        let listed = node.block_on(node.hub.room("r").members()).unwrap();
        assert!(listed.iter().copied().eq(wanted.iter().copied()), "each once, in order");
        // In pages of every size.
        for limit in [1, 3, 10, 11] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = node.block_on(node.hub.room("r").members_after(after, limit)).unwrap();
                assert!(page.len() <= limit);
                let Some(&last) = page.last() else { break };
                after = Some(last);
                seen.extend(page);
            }
            assert!(seen.iter().copied().eq(wanted.iter().copied()), "pages of {limit}: {seen:?}");
        }
    }
    drop(tabs);
    wait_until("all have left", || a.len("r") == 0);
    assert!(a.block_on(a.hub.room("r").members()).unwrap().is_empty());
}

#[test]
fn a_user_is_reached_on_every_node() {
    let redis = Server::start();
    let [a, b, c] = nodes(&redis.url());
    let mut tabs =
        [&a, &b, &b].map(|node| node.scripted("/ws", "identify ann")).into_iter().collect::<Vec<_>>();
    let mut bob = c.scripted("/ws", "identify bob");
    let client = |node: &TestServer| node.hub.user("ann");
    for node in [&a, &b, &c] {
        wait_until("both nodes are known", || {
            node.block_on(client(node).nodes()).unwrap().len() == 2
                && node.block_on(client(node).connections()).unwrap().len() == 3
        });
        let mut owners = [a.hub.node(), b.hub.node()];
        owners.sort_unstable();
        assert_eq!(node.block_on(client(node).nodes()).unwrap(), owners);
        assert_eq!(node.block_on(client(node).push("hello ann")).unwrap(), 3);
        for tab in &mut tabs {
            assert_eq!(tab.text(), "hello ann");
        }
    }
    assert_eq!(
        a.hub.stats().remote.received + b.hub.stats().remote.received,
        4,
        "each push once per node, and only on nodes with a connection of hers"
    );
    // An id contains the node of its connection; other nodes have no connection with it.
    let listed = c.block_on(client(&c).connections()).unwrap();
    for id in &listed {
        assert!(id.node() == a.hub.node() || id.node() == b.hub.node());
        assert!(c.hub.connection(*id).is_none());
    }
    // The user disconnects from one node after the other.
    tabs.remove(0).close();
    wait_until("one node is left", || c.block_on(client(&c).nodes()).unwrap() == [b.hub.node()]);
    tabs.into_iter().for_each(Tab::close);
    wait_until("it is gone", || c.block_on(client(&c).push("nobody")).unwrap() == 0);
    bob.say("own only this");
    assert_eq!(bob.text(), "only this");
}

#[test]
fn the_bus_spans_nodes_and_reports_the_number_of_receivers() {
    let redis = Server::start();
    let [a, b] = nodes(&redis.url());
    let listen = |node: &TestServer, pattern: &str| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let subscription = node.block_on(node.hub.bus().subscribe(pattern, move |message| {
            let _ = sender.send((message.topic.to_string(), message.payload.to_vec()));
            async {}
        }));
        (subscription.unwrap(), receiver)
    };
    let publish = |node: &TestServer, channel: &str, text: &str| {
        node.block_on(node.hub.bus().publish(channel, text.to_owned().into_bytes())).unwrap()
    };
    assert_eq!(publish(&a, "orders.new", "nobody"), 0);
    let (first, one) = listen(&a, "orders.new");
    let (second, two) = listen(&b, "orders.new");
    let (_third, three) = listen(&b, "orders.*");
    let (_other, other) = listen(&b, "orders.[n]ew}%");
    let (_odd, odd) = listen(&b, "*}%");
    assert_eq!(publish(&a, "orders.new", "4711"), 3, "two by name and one by pattern");
    for receiver in [&one, &two, &three] {
        let (channel, payload) = receiver.recv_timeout(super::clients::PATIENCE).unwrap();
        assert_eq!((channel.as_str(), &payload[..]), ("orders.new", &b"4711"[..]));
    }
    // Characters that are special in Redis patterns have no meaning in a name.
    assert_eq!(publish(&b, "orders.[n]ew}%", "odd"), 3);
    for receiver in [&three, &other, &odd] {
        assert_eq!(receiver.recv_timeout(super::clients::PATIENCE).unwrap().0, "orders.[n]ew}%");
    }
    // Dropping a node's last subscription to a channel unsubscribes the node.
    b.block_on(second.unsubscribe());
    wait_until("one node is left", || publish(&b, "orders.new", "x") == 2);
    drop(first);
    wait_until("the pattern is left", || publish(&b, "orders.new", "x") == 1);
    // A detached subscription lasts as long as the hub.
    let (kept, still) = listen(&a, "kept");
    kept.detach();
    assert_eq!(publish(&b, "kept", "on"), 1);
    assert_eq!(still.recv_timeout(super::clients::PATIENCE).unwrap().1, b"on");
}

#[test]
fn the_bus_ends_with_its_hub_even_while_handles_are_held() {
    let redis = Server::start();
    let a = node(&redis.url());
    let listen = || a.block_on(a.hub.bus().subscribe("orders", |_| async {})).unwrap();
    let channels = || redis.ask::<Vec<String>>("PUBSUB CHANNELS ripplecast:bus:*").len();
    let before = listen();
    assert_eq!(channels(), 1);
    a.block_on(a.hub.shutdown());
    let after = listen();
    wait_until("the node has unsubscribed from Redis", || channels() == 0);
    a.block_on(before.unsubscribe());
    a.block_on(after.unsubscribe());
}

#[test]
fn messages_of_one_publisher_keep_their_order_on_every_node() {
    const MESSAGES: u32 = 1000;
    let redis = Server::start();
    let [a, b] = nodes(&redis.url());
    let mut receivers = Vec::new();
    for node in [&a, &b] {
        let (sender, receiver) = std::sync::mpsc::channel();
        let subscription = node.block_on(node.hub.bus().subscribe("numbers", move |message| {
            let _ = sender.send(u32::from_be_bytes(message.payload[..].try_into().unwrap()));
            async {}
        }));
        receivers.push((subscription.unwrap(), receiver));
    }
    a.block_on(async {
        for number in 0..MESSAGES {
            assert_eq!(a.hub.bus().publish("numbers", number.to_be_bytes().to_vec()).await.unwrap(), 2);
        }
    });
    for (_subscription, receiver) in &receivers {
        for number in 0..MESSAGES {
            assert_eq!(receiver.recv_timeout(super::clients::PATIENCE).unwrap(), number);
        }
    }
}

#[test]
fn prefixes_keep_applications_apart() {
    let redis = Server::start();
    let ours = node(&redis.url());
    let theirs = node(&format!("{}?prefix=other*", redis.url()));
    let mut tab = theirs.scripted("/ws", "join r; identify ann");
    wait_until("it is counted there", || theirs.len("r") == 1);
    assert_eq!(ours.len("r"), 0);
    assert_eq!(ours.block_on(ours.hub.nodes()).unwrap(), [ours.hub.node()]);
    assert_eq!(ours.block_on(ours.hub.user("ann").push("x")).unwrap(), 0);
    ours.hub.broadcast("not for them").ignore();
    ours.hub.room("r").push("not for them").ignore();
    let mut own = ours.scripted("/ws", "join r");
    wait_until("the push is sent", || ours.hub.stats().remote.sent == 2);
    theirs.hub.broadcast("for us").ignore();
    assert_eq!(tab.text(), "for us");
    ours.hub.room("r").push("for ours").ignore();
    assert_eq!(own.text(), "for ours");
}

#[test]
fn nodes_with_a_secret_accept_only_messages_of_each_other() {
    let redis = Server::start();
    let secret = |secret: &'static str| {
        let builder = App::builder().backend(redis.url()).hub(|hub| hub.shards(2).node_secret(secret));
        TestServer::start(builder, |app| {
            let hub = app.hub();
            app.ws("/ws", Script(hub))
        })
    };
    let (a, b) = (secret("one secret of all"), secret("one secret of all"));
    let (stranger, other) = (node(&redis.url()), secret("a secret of others"));
    let mut tab = member(&redis, &b, "r", 1);
    tab.run("identify ann");
    let (sender, receiver) = std::sync::mpsc::channel();
    let _subscription = b.block_on(b.hub.bus().subscribe("c*", move |message| {
        let _ = sender.send(message.payload.to_vec());
        async {}
    }));
    wait_until("she is known", || a.block_on(a.hub.user("ann").nodes()).unwrap() == [b.hub.node()]);
    // Copies the nodes' messages, to replay them.
    let mut listener = redis.connect().unwrap();
    let mut copies = listener.as_pubsub();
    copies.psubscribe("ripplecast:*").unwrap();
    for from in [&stranger, &other] {
        from.hub.room("r").push("forged").ignore();
        from.hub.broadcast("forged").ignore();
        from.block_on(from.hub.user("ann").push("forged")).unwrap();
        from.block_on(from.hub.bus().publish("c", "forged")).unwrap();
    }
    wait_until("all are rejected", || b.hub.stats().remote.refused == 8);
    assert!(a.hub.room("r").push("1").is_queued());
    assert!(a.hub.broadcast("2").is_queued());
    assert_eq!((tab.text(), tab.text()), ("1".into(), "2".into()));
    assert_eq!(a.block_on(a.hub.user("ann").push("3")).unwrap(), 1);
    assert_eq!(tab.text(), "3");
    assert_eq!(a.block_on(a.hub.bus().publish("c", "4")).unwrap(), 2, "the node and the copying subscriber");
    assert_eq!(receiver.recv_timeout(super::clients::PATIENCE).unwrap(), b"4");
    assert_eq!(
        a.block_on(a.hub.room("r").members()).unwrap().len(),
        1,
        "questions and answers are signed too"
    );
    // Replays all of it: every message is rejected, whether unsigned or replayed.
    let before = b.hub.stats().remote.refused;
    let mut said = redis.connect().unwrap();
    let mut again = 0;
    while again < 12 {
        let copy = copies.get_message().unwrap();
        let channel = copy.get_channel_name().to_owned();
        if !channel.contains(":lease:") || channel.contains(&b.hub.node().to_string()) {
            let _: i64 =
                redis::cmd("PUBLISH").arg(&channel).arg(copy.get_payload_bytes()).query(&mut said).unwrap();
            again += 1;
        }
    }
    wait_until("all are refused again", || b.hub.stats().remote.refused >= before + 12);
    tab.say("own nothing else arrived");
    assert_eq!(tab.text(), "nothing else arrived");
    assert!(receiver.try_recv().is_err());
}

#[test]
fn what_was_signed_for_one_prefix_is_refused_on_another() {
    let redis = Server::start();
    let secret = "one secret of both";
    let on = |prefix: &str| {
        let url = format!("{}?prefix={prefix}", redis.url());
        let builder = App::builder().backend(&url).hub(|hub| hub.shards(2).node_secret(secret));
        TestServer::start(builder, |app| {
            let hub = app.hub();
            app.ws("/ws", Script(hub))
        })
    };
    let (staging, prod) = (on("staging"), on("prod"));
    let mut tab = prod.scripted("/ws", "join r");
    let (sender, receiver) = std::sync::mpsc::channel();
    let _subscriptions = ["c", "c*"].map(|pattern| {
        let sender = sender.clone();
        let subscribed = prod.hub.bus().subscribe(pattern, move |message| {
            let _ = sender.send(message.payload.to_vec());
            async {}
        });
        prod.block_on(subscribed).unwrap()
    });
    let room = "PUBSUB NUMSUB prod:room:{r} prod:all:{}";
    wait_until("all is subscribed", || {
        let (_, members, _, all): (String, i64, String, i64) = redis.ask(room);
        (members, all) == (1, 1)
    });
    let mut listener = redis.connect().unwrap();
    let mut copies = listener.as_pubsub();
    copies.psubscribe("staging:*").unwrap();
    staging.hub.room("r").push("replayed").ignore();
    staging.hub.broadcast("replayed").ignore();
    staging.block_on(staging.hub.bus().publish("c", "replayed")).unwrap();
    let mut said = redis.connect().unwrap();
    for _ in 0..3 {
        let copy = copies.get_message().unwrap();
        let channel = copy.get_channel_name().replacen("staging", "prod", 1);
        let publish =
            redis::cmd("PUBLISH").arg(&channel).arg(copy.get_payload_bytes()).query::<i64>(&mut said);
        assert!(publish.unwrap() > 0, "{channel}");
    }
    wait_until("all are rejected", || prod.hub.stats().remote.refused == 4);
    tab.say("own nothing came");
    assert_eq!(tab.text(), "nothing came");
    prod.block_on(prod.hub.bus().publish("c", "its own")).unwrap();
    for _ in 0..2 {
        assert_eq!(receiver.recv_timeout(super::clients::PATIENCE).unwrap(), b"its own");
    }
}
