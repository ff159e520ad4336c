//! The same over a Redis that is several: a Cluster, and a master that sentinels watch.

use super::{
    super::{
        clients::PATIENCE,
        redis::{Cluster, Flavour, Sentinels},
    },
    node, wait_until,
};

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
    assert_eq!(a.block_on(a.hub.client("ann").push("ann")).unwrap(), 2);
    assert_eq!((on_a.text(), on_b.text()), ("ann".into(), "ann".into()));
    assert_eq!(a.block_on(a.hub.room("room-0").members()).unwrap().len(), 2);
    // The bus: by name; a pattern is refused, and says why.
    let (sender, receiver) = std::sync::mpsc::channel();
    let _subscription = b.block_on(b.hub.subscribe("orders", move |message| {
        let _ = sender.send(message.payload.to_vec());
        async {}
    }));
    assert_eq!(a.block_on(a.hub.publish("orders", "4711")).unwrap(), 1);
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), b"4711");
    let refused = b.block_on(b.hub.subscribe("orders.*", |_| async {})).unwrap_err().to_string();
    assert!(refused.contains("Cluster") && refused.contains("orders.*"), "{refused}");
    let remote = b.hub.stats().remote;
    assert_eq!((remote.missed, remote.unsent, remote.degraded), (0, 0, false), "{remote:?}");
}

#[test]
fn a_slot_that_moves_to_another_master_takes_its_subscriptions_along() {
    let cluster = Cluster::start(Flavour::Redis);
    let (a, b) = (node(&cluster.url()), node(&cluster.url()));
    let (sender, receiver) = std::sync::mpsc::channel();
    let _subscription = b.block_on(b.hub.subscribe("orders", move |message| {
        let _ = sender.send(message.payload.to_vec());
        async {}
    }));
    assert_eq!(a.block_on(a.hub.publish("orders", "before")).unwrap(), 1);
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
        a.block_on(a.hub.publish("orders", "after")).is_ok_and(|nodes| nodes == 1)
    });
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), b"after");
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
    wait_until("its client is reached", || {
        a.block_on(a.hub.client("ann").push("ann")).is_ok_and(|reached| reached == 1)
    });
}
