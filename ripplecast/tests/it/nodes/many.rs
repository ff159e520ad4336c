//! Nodes on a Redis Cluster, and on a master monitored by sentinels.

use super::{
    super::{
        clients::PATIENCE,
        redis::{Cluster, Flavour, Sentinels, Server},
    },
    node, wait_until,
};

/// The key of the nodes; every node needs its master.
const NODES: &str = "ripplecast:leases:{}";

/// Returns names of rooms that are on this master, or are not.
fn rooms(cluster: &Cluster, on: &Server, are: bool, count: usize) -> Vec<String> {
    let names = (0..).map(|number| format!("room-{number}"));
    let is_there =
        |name: &String| cluster.master_of(&format!("ripplecast:room:{{{name}}}")).addr() == on.addr();
    names.filter(|name| is_there(name) == are).take(count).collect()
}

#[test]
fn nodes_share_a_cluster() {
    let cluster = Cluster::start(Flavour::Redis);
    let (a, b) = (node(&cluster.url()), node(&cluster.url()));
    let rooms: Vec<String> = (0..30).map(|number| format!("room-{number}")).collect();
    let (mut on_a, mut on_b) = (a.tab("/ws"), b.tab("/ws"));
    for (node, tab) in [(&a, &mut on_a), (&b, &mut on_b)] {
        let conn = node.connection(tab);
        rooms.iter().for_each(|room| conn.join(room).unwrap());
        node.block_on(conn.identify("ann")).unwrap();
    }
    wait_until("all are counted", || rooms.iter().all(|room| a.len(room) == 2 && b.len(room) == 2));
    let subscribed = || -> i64 {
        let count = |master: &super::super::redis::Server| {
            let channels: Vec<String> = master.ask("PUBSUB SHARDCHANNELS ripplecast:room:*");
            let counts: Vec<(String, i64)> = channels
                .iter()
                .flat_map(|channel| {
                    master.ask::<Vec<(String, i64)>>(&format!("PUBSUB SHARDNUMSUB {channel}"))
                })
                .collect();
            counts.iter().map(|(_, count)| count).sum::<i64>()
        };
        cluster.masters().iter().map(count).sum()
    };
    wait_until("all are subscribed, each on its shard", || subscribed() == 60);
    for round in 0..20 {
        for room in &rooms {
            assert!(a.hub.room(room).push(format!("{room} {round}")).is_queued());
            assert_eq!(on_a.text(), format!("{room} {round}"));
            assert_eq!(on_b.text(), format!("{room} {round}"));
        }
    }
    assert!(b.hub.broadcast("all").is_queued());
    assert_eq!((on_a.text(), on_b.text()), ("all".into(), "all".into()));
    assert_eq!(a.block_on(a.hub.user("ann").push("ann")).unwrap(), 2);
    assert_eq!((on_a.text(), on_b.text()), ("ann".into(), "ann".into()));
    assert_eq!(a.block_on(a.hub.room("room-0").members()).unwrap().len(), 2);
    // The bus: names work; a pattern is rejected with the reason.
    let (sender, receiver) = std::sync::mpsc::channel();
    let _subscription = b.block_on(b.hub.bus().subscribe("orders", move |message| {
        let _ = sender.send(message.payload.to_vec());
        async {}
    }));
    assert_eq!(a.block_on(a.hub.bus().publish("orders", "4711")).unwrap(), 1);
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), b"4711");
    let refused = b.block_on(b.hub.bus().subscribe("orders.*", |_| async {})).unwrap_err().to_string();
    assert!(refused.contains("Cluster") && refused.contains("orders.*"), "{refused}");
    let remote = b.hub.stats().remote;
    assert_eq!((remote.missed, remote.unsent, remote.degraded), (0, 0, false), "{remote:?}");
}

#[test]
fn subscriptions_follow_a_slot_that_moves_to_another_master() {
    let cluster = Cluster::start(Flavour::Redis);
    let (a, b) = (node(&cluster.url()), node(&cluster.url()));
    let (sender, receiver) = std::sync::mpsc::channel();
    let _subscription = b.block_on(b.hub.bus().subscribe("orders", move |message| {
        let _ = sender.send(message.payload.to_vec());
        async {}
    }));
    assert_eq!(a.block_on(a.hub.bus().publish("orders", "before")).unwrap(), 1);
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), b"before");
    let from = cluster.master_of("ripplecast:bus:{orders}");
    let to = cluster.masters().iter().find(|master| master.addr() != from.addr()).unwrap();
    let slot: u16 = from.ask("CLUSTER KEYSLOT ripplecast:bus:{orders}");
    let (source, target): (String, String) = (from.ask("CLUSTER MYID"), to.ask("CLUSTER MYID"));
    to.ask::<()>(&format!("CLUSTER SETSLOT {slot} IMPORTING {source}"));
    for master in [to].into_iter().chain(cluster.masters().iter().filter(|master| master.addr() != to.addr()))
    {
        master.ask::<()>(&format!("CLUSTER SETSLOT {slot} NODE {target}"));
    }
    wait_until("it is subscribed where its slot is now", || {
        a.block_on(a.hub.bus().publish("orders", "after")).is_ok_and(|nodes| nodes == 1)
    });
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), b"after");
}

#[test]
fn a_hanging_shard_does_not_delay_the_others() {
    const ROUNDS: usize = 200;
    let cluster = Cluster::start(Flavour::Redis);
    cluster.go_on_without_others();
    let [a, b] = super::nodes(&cluster.url());
    let of_nodes = cluster.master_of(NODES);
    let other = cluster.masters().iter().find(|master| master.addr() != of_nodes.addr()).unwrap();
    // A master that all nodes need, and one that only some rooms do.
    for victim in [of_nodes, other] {
        let hung = &rooms(&cluster, victim, true, 1)[0];
        let going = rooms(&cluster, victim, false, 6);
        let (mut on_hung, mut on_going) = (b.tab("/ws"), b.tab("/ws"));
        b.connection(&mut on_hung).join(hung).unwrap();
        let conn = b.connection(&mut on_going);
        going.iter().for_each(|room| conn.join(room).unwrap());
        wait_until("all are counted", || going.iter().chain([hung]).all(|room| a.len(room) == 1));
        a.hub.room(hung).push("before").ignore();
        assert_eq!(on_hung.text(), "before");
        for node in [&a, &b] {
            wait_until("all shards work", || !node.hub.stats().remote.degraded);
        }

        let all_well = || {
            cluster.wait_until_ok();
            for node in [&a, &b] {
                wait_until("all is well again", || !node.hub.stats().remote.degraded);
            }
            wait_until("all are counted", || {
                going
                    .iter()
                    .chain([hung])
                    .all(|room| a.block_on(a.hub.room(room).len()).is_ok_and(|len| len == 1))
            });
        };
        let round = |number: usize, on_going: &mut super::Tab| {
            a.hub.room(hung).push(format!("hung {number}")).ignore();
            for room in &going {
                assert!(a.hub.room(room).push(format!("{room} {number}")).is_queued());
            }
            // Each room keeps its order; there is none between shards.
            let mut came: Vec<String> = going.iter().map(|_| on_going.text()).collect();
            let mut wanted: Vec<String> = going.iter().map(|room| format!("{room} {number}")).collect();
            came.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(came, wanted);
        };
        // The messages arrive while those for the hanging shard are still in transit. If they waited for it,
        // it would be given up first, each time. On a busy machine that may happen even without waiting, so
        // this may take more than one attempt.
        let mut missed = 0;
        wait_until("a try in which the others are not held up", || {
            missed = b.hub.stats().remote.missed;
            let unsent = a.hub.stats().remote.unsent;
            victim.pause();
            (0..5).for_each(|number| round(number, &mut on_going));
            if a.hub.stats().remote.unsent == unsent {
                return true;
            }
            victim.resume();
            all_well();
            false
        });
        // Both before and after the node detects it.
        (5..ROUNDS).for_each(|number| round(number, &mut on_going));
        for node in [&a, &b] {
            wait_until("the nodes say so", || node.hub.stats().remote.degraded);
        }
        (ROUNDS..2 * ROUNDS).for_each(|number| round(number, &mut on_going));
        if victim.addr() == other.addr() {
            // Registering and counting continue, too.
            let mut late = a.tab("/ws");
            a.connection(&mut late).join(&going[0]).unwrap();
            let room = b.hub.room(&going[0]);
            wait_until("it is counted", || b.block_on(room.len()).is_ok_and(|len| len == 2));
            late.close();
            wait_until("it is counted no more", || b.block_on(room.len()).is_ok_and(|len| len == 1));
        }
        assert_eq!(b.hub.stats().remote.missed, missed, "nothing of the others was missed");

        victim.resume();
        all_well();
        let received = b.hub.stats().remote.received;
        wait_until("its room goes on", || {
            a.hub.room(hung).push("after").ignore();
            b.hub.stats().remote.received > received
        });
        while on_hung.text() != "after" {}
        round(2 * ROUNDS, &mut on_going);
        on_hung.close();
        on_going.close();
        wait_until("the rooms are empty", || going.iter().chain([hung]).all(|room| a.len(room) == 0));
    }
}

#[test]
fn a_master_that_returns_empty_is_registered_with_again() {
    let cluster = Cluster::start(Flavour::Redis);
    let [a, b] = super::nodes(&cluster.url());
    let victim = cluster.master_of(NODES);
    let victim = cluster.masters().iter().find(|master| master.addr() != victim.addr()).unwrap();
    let room = &rooms(&cluster, victim, true, 1)[0];
    let mut on_b = b.scripted("/ws", &format!("join {room}"));
    wait_until("it is counted", || a.len(room) == 1);
    victim.kill();
    wait_until("they say so", || a.hub.stats().remote.degraded && b.hub.stats().remote.degraded);
    victim.restart();
    cluster.wait_until_ok();
    let is_counted = || a.block_on(a.hub.room(room).len()).is_ok_and(|len| len == 1);
    wait_until("it is counted again", is_counted);
    let received = b.hub.stats().remote.received;
    wait_until("its room goes on", || {
        a.hub.room(room).push("after").ignore();
        b.hub.stats().remote.received > received
    });
    assert_eq!(on_b.text(), "after");
}

#[test]
fn nodes_follow_a_failover_inside_a_cluster() {
    let cluster = Cluster::start(Flavour::Redis);
    let master = cluster.master_of(NODES);
    let _replica = cluster.replica_of(master);
    let [a, b] = super::nodes(&cluster.url());
    let room = &rooms(&cluster, master, true, 1)[0];
    let mut on_b = b.scripted("/ws", &format!("join {room}; identify ann"));
    wait_until("it is counted", || a.len(room) == 1);
    master.kill();
    wait_until("they say so", || a.hub.stats().remote.degraded && b.hub.stats().remote.degraded);
    wait_until("both are at the new master", || {
        [&a, &b].iter().all(|node| {
            !node.hub.stats().remote.degraded
                && node.block_on(node.hub.nodes()).is_ok_and(|all| all.len() == 2)
        })
    });
    wait_until("it is counted again", || a.block_on(a.hub.room(room).len()).is_ok_and(|len| len == 1));
    let received = b.hub.stats().remote.received;
    wait_until("its room goes on", || {
        a.hub.room(room).push("after").ignore();
        b.hub.stats().remote.received > received
    });
    while on_b.text() != "after" {}
    wait_until("its user is reached", || {
        a.block_on(a.hub.user("ann").push("ann")).is_ok_and(|reached| reached == 1)
    });
}

#[test]
fn nodes_follow_the_sentinels_to_another_master() {
    let sentinels = Sentinels::start(Flavour::Redis);
    let (a, b) = (node(&sentinels.url()), node(&sentinels.url()));
    let mut on_b = b.scripted("/ws", "join r; identify ann");
    wait_until("it is counted", || a.len("r") == 1);
    wait_until("pushes arrive", || {
        a.hub.room("r").push("before").ignore();
        b.hub.stats().remote.received > 0
    });
    sentinels.failover();
    wait_until("both are at the new master", || {
        let whole = |node: &super::TestServer| {
            !node.hub.stats().remote.degraded
                && node.block_on(node.hub.nodes()).is_ok_and(|all| all.len() == 2)
        };
        whole(&a) && whole(&b)
    });
    wait_until("it is counted again", || a.block_on(a.hub.room("r").len()).is_ok_and(|len| len == 1));
    let received = b.hub.stats().remote.received;
    wait_until("pushes arrive again", || {
        a.hub.room("r").push("after").ignore();
        b.hub.stats().remote.received > received
    });
    while on_b.text() != "after" {}
    wait_until("its user is reached", || {
        a.block_on(a.hub.user("ann").push("ann")).is_ok_and(|reached| reached == 1)
    });
}
