//! Who is where: leases, goodbyes, and what a dead node leaves behind.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{super::redis::Server, node, nodes, wait_until};

/// All keys but that of the liveness check.
fn keys(redis: &Server) -> Vec<String> {
    let mut keys: Vec<String> = redis.ask("KEYS *");
    keys.retain(|key| key != "ripplecast:alive");
    keys.sort_unstable();
    keys
}

#[test]
fn a_node_that_ends_says_goodbye_and_leaves_nothing() {
    let redis = Server::start();
    let [a, b] = nodes(&redis.url());
    let tab = b.scripted("/ws", "join r; join s; identify ann");
    wait_until("it is known", || a.len("r") == 1 && a.len("s") == 1);
    drop((tab, b));
    assert_eq!(a.block_on(a.hub.nodes()).unwrap(), [a.hub.node()]);
    assert_eq!(a.len("r"), 0);
    assert_eq!(a.block_on(a.hub.client("ann").push("x")).unwrap(), 0);
    drop(a);
    assert_eq!(keys(&redis), [""; 0], "the last one has removed all");
}

#[test]
fn a_dead_node_counts_no_more_after_its_lease_and_is_swept_by_the_others() {
    let redis = Server::start();
    let [a, b] = nodes(&redis.url());
    // What a node that was killed leaves: a seat whose lease is over, and its entries.
    let seat = "00000000000000aa.00000000000000bb";
    redis.ask::<i64>(&format!("HSET ripplecast:room:{{r}}:nodes {seat} 3"));
    redis.ask::<i64>(&format!("SADD ripplecast:seat:{{{seat}}}:rooms r"));
    redis.ask::<i64>(&format!("HSET ripplecast:client:{{ann}}:nodes {seat} 2"));
    redis.ask::<i64>(&format!("SADD ripplecast:seat:{{{seat}}}:clients ann"));
    // While its lease lasts, it counts.
    let lease = |ms: u64| {
        let (seconds, _): (u64, u64) = redis.ask("TIME");
        redis.ask::<i64>(&format!("ZADD ripplecast:nodes:{{}} {} {seat}", seconds * 1000 + ms));
    };
    lease(60_000);
    assert_eq!((a.len("r"), b.len("r")), (3, 3));
    assert_eq!(a.block_on(a.hub.nodes()).unwrap().len(), 3);
    // But nobody listens at its seat: nothing that is sent to it counts.
    assert_eq!(a.block_on(a.hub.client("ann").push("x")).unwrap(), 0);
    let tab = b.scripted("/ws", "join r; identify ann");
    wait_until("both are counted", || a.len("r") == 4);
    lease(0);
    wait_until("its lease is over", || a.len("r") == 1);
    wait_until("it is swept", || {
        redis.ask::<Vec<String>>(&format!("KEYS *{seat}*")).is_empty()
            && redis.ask::<Vec<String>>("HKEYS ripplecast:room:{r}:nodes").len() == 1
            && redis.ask::<Vec<String>>("HKEYS ripplecast:client:{ann}:nodes").len() == 1
            && redis.ask::<i64>("ZCARD ripplecast:nodes:{}") == 2
    });
    // Those who are alive have lost nothing.
    assert_eq!(a.len("r"), 1);
    assert_eq!(a.block_on(a.hub.client("ann").push("x")).unwrap(), 1);
    drop(tab);
}

#[test]
fn a_node_that_was_taken_for_dead_takes_another_seat() {
    let redis = Server::start();
    let [a, b] = nodes(&redis.url());
    let mut tab = b.scripted("/ws", "join r; identify ann");
    wait_until("it is known", || a.len("r") == 1);
    let seats = || redis.ask::<Vec<String>>("ZRANGE ripplecast:nodes:{} 0 -1");
    let old: Vec<_> = seats();
    let lost = old.iter().find(|seat| seat.starts_with(&b.hub.node().to_string())).unwrap();
    // Somebody else swept it.
    redis.ask::<i64>(&format!("ZREM ripplecast:nodes:{{}} {lost}"));
    wait_until("it has another seat", || {
        seats().iter().any(|seat| seat.starts_with(&b.hub.node().to_string()) && seat != lost)
    });
    wait_until("it is known again, once", || a.len("r") == 1);
    wait_until("its client is reached", || a.block_on(a.hub.client("ann").push("back")).unwrap() == 1);
    assert_eq!(tab.text(), "back");
    tab.say("own once");
    assert_eq!(tab.text(), "once");
}

#[test]
fn members_who_come_and_go_without_end_do_not_cost_the_lease() {
    let redis = Server::start();
    let a = node(&redis.url());
    wait_until("it is registered", || a.block_on(a.hub.nodes()).is_ok_and(|nodes| nodes.len() == 1));
    let lease = || -> (String, u64) {
        let mut seats: Vec<(String, f64)> = redis.ask("ZRANGE ripplecast:nodes:{} 0 -1 WITHSCORES");
        let (seat, until) = seats.pop().unwrap();
        (seat, until as u64)
    };
    let mut tab = a.tab("/ws");
    let conn = a.connection(&mut tab);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in (0..1000).cycle() {
                if done.load(Relaxed) {
                    break;
                }
                let _ = conn.join(&format!("{number}")); // refused now and then, as it is too much
                conn.leave(&format!("{}", (number + 500) % 1000));
            }
        });
        let (seat, until) = lease();
        wait_until("it is renewed meanwhile, twice", || lease().1 >= until + 9_000);
        assert_eq!(lease().0, seat);
        done.store(true, Relaxed);
    });
}

#[test]
fn what_is_written_under_a_seat_that_was_removed_is_removed_too() {
    let redis = Server::start();
    let a = node(&redis.url());
    let _tab = a.scripted("/ws", "join r");
    wait_until("it is counted", || redis.ask::<i64>("HLEN ripplecast:room:{r}:nodes") == 1);
    let seats = || redis.ask::<Vec<String>>("ZRANGE ripplecast:nodes:{} 0 -1");
    let lost = seats().pop().unwrap();
    // Others take it for dead and remove it; then it writes once more, before it has noticed.
    redis.ask::<i64>(&format!("ZREM ripplecast:nodes:{{}} {lost}"));
    redis.ask::<i64>(&format!("HSET ripplecast:room:{{late}}:nodes {lost} 1"));
    redis.ask::<i64>(&format!("SADD ripplecast:seat:{{{lost}}}:rooms late"));
    wait_until("nothing is left of it", || {
        seats().iter().all(|seat| *seat != lost)
            && !seats().is_empty()
            && redis.ask::<i64>("EXISTS ripplecast:room:{late}:nodes") == 0
            && redis.ask::<Vec<String>>(&format!("KEYS *{lost}*")).is_empty()
    });
}

#[test]
fn what_makes_no_sense_is_counted_and_harms_nothing() {
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
