//! The registry: leases, shutdown, and what a dead node leaves behind.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use super::{
    super::redis::{Flavour, Server},
    node, nodes, wait_until,
};

/// Returns all keys except that of the liveness check.
fn keys(redis: &Server) -> Vec<String> {
    let mut keys: Vec<String> = redis.ask("KEYS *");
    keys.retain(|key| key != "ripplecast:alive");
    keys.sort_unstable();
    keys
}

/// Returns the leases with the heartbeats of each.
fn heartbeats(redis: &Server) -> BTreeMap<String, u64> {
    redis.ask("HGETALL ripplecast:leases:{}")
}

#[test]
fn a_node_that_shuts_down_leaves_nothing_behind() {
    let redis = Server::start();
    let [a, b] = nodes(&redis.url());
    let tab = b.scripted("/ws", "join r; join s; identify ann");
    wait_until("it is known", || a.len("r") == 1 && a.len("s") == 1);
    drop((tab, b));
    assert_eq!(a.block_on(a.hub.nodes()).unwrap(), [a.hub.node()]);
    assert_eq!(a.len("r"), 0);
    assert_eq!(a.block_on(a.hub.user("ann").push("x")).unwrap(), 0);
    drop(a);
    assert_eq!(keys(&redis), [""; 0], "the last node has removed everything");
}

#[test]
fn a_dead_node_does_not_count_after_its_lease_and_is_removed_by_the_others() {
    let redis = Server::start();
    let [a, b] = nodes(&redis.url());
    // The traces of a killed node: a lease without heartbeats, and its entries.
    let lease = "00000000000000aa.00000000000000bb";
    redis.ask::<i64>(&format!("HSET ripplecast:room:{{r}}:nodes {lease} 3"));
    redis.ask::<i64>(&format!("SADD ripplecast:lease:{{{lease}}}:rooms r"));
    redis.ask::<i64>(&format!("HSET ripplecast:user:{{ann}}:nodes {lease} 2"));
    redis.ask::<i64>(&format!("SADD ripplecast:lease:{{{lease}}}:users ann"));
    // While its lease lasts, the node counts.
    let set_count = |count: u64| {
        redis.ask::<i64>(&format!("HSET ripplecast:leases:{{}} {lease} {count}"));
    };
    set_count(7);
    assert_eq!((a.len("r"), b.len("r")), (3, 3));
    assert_eq!(a.block_on(a.hub.nodes()).unwrap().len(), 3);
    // No node receives its messages, so nothing sent to it counts.
    assert_eq!(a.block_on(a.hub.user("ann").push("x")).unwrap(), 0);
    let tab = b.scripted("/ws", "join r; identify ann");
    wait_until("both are counted", || a.len("r") == 4);
    // Marks the lease as expired, as a node that detects it does; detection has its own tests.
    set_count(0);
    wait_until("its lease is over", || a.len("r") == 1);
    wait_until("it is swept", || {
        redis.ask::<Vec<String>>(&format!("KEYS *{lease}*")).is_empty()
            && redis.ask::<Vec<String>>("HKEYS ripplecast:room:{r}:nodes").len() == 1
            && redis.ask::<Vec<String>>("HKEYS ripplecast:user:{ann}:nodes").len() == 1
            && redis.ask::<i64>("HLEN ripplecast:leases:{}") == 2
    });
    // The live nodes have lost nothing.
    assert_eq!(a.len("r"), 1);
    assert_eq!(a.block_on(a.hub.user("ann").push("x")).unwrap(), 1);
    drop(tab);
}

#[test]
fn a_node_that_was_presumed_dead_takes_another_lease() {
    let redis = Server::start();
    let [a, b] = nodes(&redis.url());
    let mut tab = b.scripted("/ws", "join r; identify ann");
    wait_until("it is known", || a.len("r") == 1);
    let leases = || redis.ask::<Vec<String>>("HKEYS ripplecast:leases:{}");
    let old: Vec<_> = leases();
    let lost = old.iter().find(|lease| lease.starts_with(&b.hub.node().to_string())).unwrap();
    // Another node has removed its lease.
    redis.ask::<i64>(&format!("HDEL ripplecast:leases:{{}} {lost}"));
    wait_until("it has another lease", || {
        leases().iter().any(|lease| lease.starts_with(&b.hub.node().to_string()) && lease != lost)
    });
    wait_until("it is known again, once", || a.len("r") == 1);
    wait_until("its user is reached", || a.block_on(a.hub.user("ann").push("back")).unwrap() == 1);
    assert_eq!(tab.text(), "back");
    tab.say("own once");
    assert_eq!(tab.text(), "once");
}

#[test]
fn constant_joining_and_leaving_does_not_lose_the_lease() {
    let redis = Server::start();
    let a = node(&redis.url());
    wait_until("it is registered", || a.block_on(a.hub.nodes()).is_ok_and(|nodes| nodes.len() == 1));
    let lease = || heartbeats(&redis).pop_first().unwrap();
    let mut tab = a.tab("/ws");
    let conn = a.connection(&mut tab);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in (0..1000).cycle() {
                if done.load(Relaxed) {
                    break;
                }
                let _ = conn.join(&format!("{number}")); // rejected from time to time under this load
                conn.leave(&format!("{}", (number + 500) % 1000));
            }
        });
        let (name, count) = lease();
        wait_until("it is renewed meanwhile, twice", || lease().1 >= count + 2);
        assert_eq!(lease().0, name);
        done.store(true, Relaxed);
    });
}

#[test]
fn entries_written_under_a_removed_lease_are_removed_too() {
    let redis = Server::start();
    let a = node(&redis.url());
    let _tab = a.scripted("/ws", "join r");
    wait_until("it is counted", || redis.ask::<i64>("HLEN ripplecast:room:{r}:nodes") == 1);
    let leases = || redis.ask::<Vec<String>>("HKEYS ripplecast:leases:{}");
    let lost = leases().pop().unwrap();
    // The others presume the node dead and remove it. It then writes once more before it detects that.
    redis.ask::<i64>(&format!("HDEL ripplecast:leases:{{}} {lost}"));
    redis.ask::<i64>(&format!("HSET ripplecast:room:{{late}}:nodes {lost} 1"));
    redis.ask::<i64>(&format!("SADD ripplecast:lease:{{{lost}}}:rooms late"));
    wait_until("nothing is left of it", || {
        leases().iter().all(|lease| *lease != lost)
            && !leases().is_empty()
            && redis.ask::<i64>("EXISTS ripplecast:room:{late}:nodes") == 0
            && redis.ask::<Vec<String>>(&format!("KEYS *{lost}*")).is_empty()
    });
}

#[test]
fn invalid_messages_are_counted_and_do_no_harm() {
    let redis = Server::start();
    let a = node(&redis.url());
    let mut tab = a.scripted("/ws", "join r");
    wait_until("the room is subscribed", || super::subscribers(&redis, "r") == 1);
    for nonsense in ["x", "\"\"", "\"\\x01aaaaaaaa\\x66\"", "\"\\x02\""] {
        redis.ask::<i64>(&format!("PUBLISH ripplecast:room:{{r}} {nonsense}"));
        redis.ask::<i64>(&format!("PUBLISH ripplecast:all:{{}} {nonsense}"));
    }
    wait_until("all are counted", || a.hub.stats().remote.refused == 8);
    assert!(a.hub.room("r").push("still here").is_queued());
    assert_eq!(tab.text(), "still here");
}

#[test]
fn setting_redis_s_clock_loses_no_lease() {
    let redis = Server::setup(Flavour::Valkey8).own_clock().start();
    let [a, b] = nodes(&redis.url());
    let mut tab = b.scripted("/ws", "join r; identify ann");
    wait_until("it is known", || {
        a.len("r") == 1 && a.block_on(a.hub.user("ann").push("first")).is_ok_and(|reached| reached == 1)
    });
    assert_eq!(tab.text(), "first");
    let mut pushes = 0;
    for seconds in [40, -3600, 0] {
        let before = heartbeats(&redis);
        redis.set_clock(seconds);
        // Waits until both nodes have sent a heartbeat and checked the other's, at each time.
        wait_until("both have sent another heartbeat", || {
            assert_eq!((a.len("r"), b.len("r")), (1, 1), "{seconds}");
            assert_eq!(a.block_on(a.hub.nodes()).unwrap().len(), 2, "{seconds}");
            assert_eq!(a.block_on(a.hub.user("ann").nodes()).unwrap(), [b.hub.node()], "{seconds}");
            assert_eq!(a.block_on(a.hub.user("ann").push("x")).unwrap(), 1, "{seconds}");
            pushes += 1;
            let now = heartbeats(&redis);
            assert!(now.keys().eq(before.keys()), "{seconds}: a node has taken another lease");
            now.iter().zip(before.values()).all(|((_, now), before)| now > before)
        });
    }
    (0..pushes).for_each(|_| assert_eq!(tab.text(), "x"));
}

#[test]
fn an_expired_lease_is_removed_and_one_with_heartbeats_is_not() {
    let redis = Server::start();
    let a = node(&redis.url());
    wait_until("it is registered", || heartbeats(&redis).len() == 1);
    // Two leases that this node sees for the first time. One of them receives heartbeats.
    let (dead, alive) = ("00000000000000aa.00000000000000bb", "00000000000000ab.00000000000000bb");
    let send_heartbeat = |lease: &str| redis.ask::<u64>(&format!("HINCRBY ripplecast:leases:{{}} {lease} 1"));
    send_heartbeat(dead);
    let mut nodes = Vec::new();
    wait_until("the lease of the dead one is over", || {
        send_heartbeat(alive);
        nodes = a.block_on(a.hub.nodes()).unwrap();
        nodes.len() == 2
    });
    wait_until("it is swept", || {
        send_heartbeat(alive);
        !heartbeats(&redis).contains_key(dead)
    });
    assert!(heartbeats(&redis)[alive] > 1 && a.block_on(a.hub.nodes()).unwrap().len() == 2);
}
