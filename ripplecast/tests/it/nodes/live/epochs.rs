//! Versions and epochs: what tabs see when Redis loses its data, fails over, or has its clock moved.

use super::*;

/// Starts a replica and waits until it has all of the server's data.
fn replica_of(master: &Server) -> Server {
    let port = master.addr().port();
    let setup = Server::setup(Flavour::Redis).line(format!("replicaof 127.0.0.1 {port}"));
    let replica = setup.line("repl-diskless-sync-delay 0").start();
    let field = |server: &Server, field: &str| {
        let info: String = server.ask("INFO replication");
        info.lines().find_map(|line| Some(line.strip_prefix(field)?.trim().to_owned()))
    };
    wait_until("the replica has a copy", || {
        field(&replica, "master_link_status:").as_deref() == Some("up")
            && field(&replica, "slave_repl_offset:") == field(master, "master_repl_offset:")
    });
    replica
}

#[test]
fn after_a_failover_tabs_show_the_new_master_s_state_with_a_new_epoch() {
    let master = Server::setup(Flavour::Redis).line("repl-diskless-sync-delay 0").start();
    let proxy = Proxy::before(&master);
    let [a, b] = [(); 2].map(|()| Node::start(&proxy.url()));
    a.do_it(a.counter.set(10));
    a.do_it(a.table.set("ada", &player(1)));
    [&a, &b].into_iter().for_each(|node| knows(node, 10));
    let mut counted = [&a, &b].map(|node| node.server.tab("/counter"));
    let mut played = [&a, &b].map(|node| node.server.tab("/table"));
    let first: Vec<_> = counted.iter_mut().map(next_value).collect();
    assert!(first.iter().all(|value| *value == (10, first[0].1.clone())) && first[0].1.is_some());
    played.iter_mut().for_each(|tab| assert_eq!(change(tab).1, "ada"));

    let replica = replica_of(&master);
    replica.ask::<()>("REPLICAOF NO ONE"); // from now on the replica misses the master's changes
    for value in [11, 12, 13] {
        a.do_it(a.counter.set(value));
        a.do_it(a.table.set("ada", &player(value.unsigned_abs())));
    }
    for tab in &mut counted {
        assert_eq!(
            [next_value(tab), next_value(tab), next_value(tab)],
            [11, 12, 13].map(|value| (value, None))
        );
    }
    let before = played.each_mut().map(|tab| [(); 3].map(|()| change(tab).0)[2]);

    proxy.cut();
    proxy.lead_to(&replica);
    proxy.heal();
    for tab in &mut counted {
        let (value, epoch) = next_value(tab);
        assert_eq!(value, 10, "the three writes are lost");
        assert!(epoch.is_some() && epoch != first[0].1, "an epoch that is new to the tab");
    }
    for (tab, before) in played.iter_mut().zip(before) {
        let message = row(tab);
        assert_eq!((message["key"].as_str(), &message["row"]), (Some("ada"), &json!(player(1))));
        assert!(message["epoch"].is_string() && message["version"].as_u64().unwrap() > before);
    }
    // Later values arrive in each tab exactly once.
    wait_until("the write succeeds", || a.server.block_on(a.counter.set(20)).is_ok());
    a.do_it(a.counter.increment());
    for tab in &mut counted {
        let (mut value, mut epoch) = next_value(tab);
        while value != 21 {
            assert!(value == 20 || value == 10, "{value}");
            (value, epoch) = next_value(tab);
        }
        assert!(epoch.is_some(), "values carry the epoch from now on, so that no tab misses it");
    }
    for node in [&a, &b] {
        assert_eq!(next_value(&mut node.server.tab("/counter")).0, 21);
    }
}

/// The order of changes does not depend on Redis's clock: versions increase by one.
#[test]
fn versions_do_not_depend_on_the_clock() {
    let redis = Server::start();
    let node = Node::start(&redis.url());
    let mut tab = node.server.tab("/counter");
    assert_eq!(value(&mut tab), 0);
    let number_of_counter = || redis.ask::<u64>("HGET ripplecast:c:{demo} n");
    let number_of_table = || {
        let history: String = redis.ask("GET ripplecast:t:{players}:n");
        history.split_once(' ').unwrap().1.parse::<u64>().unwrap()
    };
    node.do_it(node.table.set("ada", &player(0)));
    let (of_counter, of_table) = (number_of_counter(), number_of_table());
    for (n, value) in (1..).zip([5, 0, 0, 7]) {
        node.do_it(node.counter.set(value));
        node.do_it(node.table.set("ada", &player(value.unsigned_abs())));
        node.do_it(node.counter.get());
        assert_eq!((number_of_counter(), number_of_table()), (of_counter + n, of_table + n));
    }
    node.do_it(node.table.clear());
    node.do_it(node.table.set_many([("ada", player(1)), ("bob", player(1))]));
    assert_eq!(number_of_table(), of_table + 7, "even after it was empty");
}

/// Sets a server's clock to an offset in seconds from the system's.
fn set_back(redis: &Server, seconds: i64) {
    let clock = || redis.ask::<(u64, u64)>("TIME").0;
    let before = clock();
    redis.set_clock(seconds);
    wait_until("the server has looked at its clock", || clock() < before);
}

/// A clock that is set back hides no change, even if the counter was 0 and nothing else is stored about it.
#[test]
fn a_clock_that_is_set_back_hides_no_change_of_a_counter() {
    let redis = Server::setup(Flavour::Valkey9).own_clock().start();
    let [a, b] = [(); 2].map(|()| Node::start(&redis.url()));
    let mut tab = b.server.tab("/counter");
    let (zero, epoch) = next_value(&mut tab);
    assert!(zero == 0 && epoch.is_some());
    a.do_it(a.counter.set(5));
    assert_eq!(next_value(&mut tab), (5, None));
    for seconds in [-10, -3600] {
        a.do_it(a.counter.reset());
        assert_eq!(next_value(&mut tab), (0, None), "{seconds}");
        set_back(&redis, seconds);
        for value in 1..=13 {
            a.do_it(a.counter.increment());
            assert_eq!(next_value(&mut tab), (value, None), "{seconds}: each change, in the same epoch");
        }
    }
    assert_eq!(next_value(&mut b.server.tab("/counter")), (13, epoch));
}

/// After a loss, the new history has a new epoch, even if its clock is behind.
#[test]
fn a_lost_history_gets_a_new_epoch_whatever_the_clock() {
    let redis = Server::setup(Flavour::Valkey9).own_clock().start();
    let [a, b] = [(); 2].map(|()| Node::start(&redis.url()));
    redis.set_clock(7200);
    a.do_it(a.counter.set(10));
    knows(&b, 10);
    let mut tab = b.server.tab("/counter");
    let (_, first) = next_value(&mut tab);
    // Everything is deleted, and the clock set back.
    set_back(&redis, 3600);
    redis.ask::<()>("FLUSHALL");
    a.do_it(a.counter.set(4));
    let (value, second) = next_value(&mut tab);
    assert!(value == 4 && second.is_some() && second != first, "{value} {second:?}");
    // The server restarts without data and with the system's clock, which is an hour behind.
    redis.kill();
    wait_until("the nodes know", || [&a, &b].iter().all(|node| node.server.hub.stats().remote.degraded));
    redis.restart();
    let (value, third) = next_value(&mut tab);
    assert!(value == 0 && third.is_some() && ![&first, &second].contains(&&third), "{value} {third:?}");
    wait_until("the write succeeds", || a.server.block_on(a.counter.set(7)).is_ok());
    let (value, epoch) = next_value(&mut tab);
    assert_eq!((value, epoch), (7, third), "values carry the epoch from now on, so that no tab misses it");
}

#[test]
fn a_counter_that_returns_to_0_keeps_its_epoch_and_is_forgotten_later() {
    let redis = Server::start();
    let node = Node::start(&redis.url());
    let mut tab = node.server.tab("/counter");
    let (zero, epoch) = next_value(&mut tab);
    assert!(zero == 0 && epoch.is_some());
    for value in [3, 0, 4] {
        node.do_it(node.counter.set(value));
        assert_eq!(next_value(&mut tab), (value, None), "the same epoch");
    }
    let lives: i64 = redis.ask("PTTL ripplecast:c:{demo}");
    assert_eq!(lives, -1, "the value is not 0");
    node.do_it(node.counter.reset());
    assert_eq!(value(&mut tab), 0);
    let lives: i64 = redis.ask("PTTL ripplecast:c:{demo}");
    assert!((1..=900_000).contains(&lives), "the counter must expire: {lives}");
    assert_eq!(next_value(&mut node.server.tab("/counter")), (0, epoch));
    // A forgotten counter that is used again has a new epoch, which the tab receives.
    redis.ask::<()>("DEL ripplecast:c:{demo}");
    node.do_it(node.counter.set(7));
    let (value, other) = next_value(&mut tab);
    assert!(value == 7 && other.is_some());
}
