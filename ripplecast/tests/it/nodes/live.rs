//! Counters and tables that publish their changes on several nodes. A tab never sees a value go backwards,
//! wherever it is and whoever changes the value. Changes that a node missed reach its tabs once the node has
//! recovered.

mod epochs;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    thread,
    time::Duration,
};

use ripplecast::{App, Connection, Counter, LiveCounter, LiveTable, ws};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    super::{
        clients::{PATIENCE, Tab},
        redis::{Cluster, FLAVOURS, Flavour, Proxy, Server},
    },
    TestServer, wait_until,
};

/// A row.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
struct Player {
    name: String,
    points: u64,
}

fn player(points: u64) -> Player {
    Player { name: "Ada".into(), points }
}

/// A node whose counter and table are joined by its tabs.
struct Node {
    server: TestServer,
    counter: LiveCounter,
    table: LiveTable<Player>,
}

impl Node {
    fn start(url: &str) -> Self {
        Self::start_with(url, false)
    }

    /// Starts a node that may start without Redis.
    fn start_with(url: &str, optional: bool) -> Self {
        let builder = App::builder().backend(url);
        let builder = builder.hub(|hub| hub.shards(2).backend_optional(optional));
        let mut both = None;
        let server = TestServer::start(builder, |app| {
            let hub = app.hub();
            let counter = hub.counter("demo").publish_to(&hub.room("counter")).unwrap();
            let table = hub.table::<Player>("players", 100).unwrap().publish_to(&hub.room("table"));
            both = Some((counter.clone(), table.clone()));
            let count = ws::handlers()
                .with_state(counter)
                .on_open(async |counter: LiveCounter, conn| counter.join(&conn).await);
            let play = ws::handlers()
                .with_state(table)
                .on_open(async |table: LiveTable<Player>, conn| table.join(&conn).await);
            app.ws("/counter", count).ws("/table", play)
        });
        let (counter, table) = both.unwrap();
        Self { server, counter, table }
    }

    fn do_it<T>(&self, operation: impl Future<Output = ripplecast::Result<T>>) -> T {
        self.server.block_on(operation).unwrap()
    }
}

/// Receives a value in a tab.
fn value(tab: &mut Tab) -> i64 {
    serde_json::from_str::<Value>(&tab.text()).unwrap()["value"].as_i64().unwrap()
}

/// Receives the message of a row in a tab, and skips the marks of snapshots.
fn row(tab: &mut Tab) -> Value {
    loop {
        let message: Value = serde_json::from_str(&tab.text()).unwrap();
        if message["snapshot"].is_null() {
            assert_eq!(message["table"], "players");
            return message;
        }
    }
}

/// Receives the change of a row in a tab: its version, key and row.
fn change(tab: &mut Tab) -> (u64, String, Value) {
    let mut change = row(tab);
    (change["version"].as_u64().unwrap(), change["key"].as_str().unwrap().to_owned(), change["row"].take())
}

#[test]
fn tabs_on_all_nodes_see_each_value_of_a_counter_in_order() {
    const EACH: i64 = 100;
    let servers = FLAVOURS.map(|flavour| Server::setup(flavour).start());
    let cluster = format!("{}?prefix=live-counter", Cluster::shared().url());
    for url in servers.iter().map(Server::url).chain([cluster]) {
        let [a, b] = [(); 2].map(|()| Node::start(&url));
        let tabs = [&a, &b].map(|node| {
            let mut tab = node.server.tab("/counter");
            assert_eq!(value(&mut tab), 0);
            tab
        });
        thread::scope(|scope| {
            for node in [&a, &b, &a, &b] {
                scope.spawn(|| {
                    for _ in 0..EACH {
                        node.do_it(node.counter.increment());
                    }
                });
            }
            for mut tab in tabs {
                scope.spawn(move || {
                    for expected in 1..=4 * EACH {
                        assert_eq!(value(&mut tab), expected);
                    }
                });
            }
        });
        for node in [&a, &b] {
            assert_eq!(value(&mut node.server.tab("/counter")), 4 * EACH, "a later tab starts there");
        }
    }
}

#[test]
fn a_node_reads_an_observed_counter_once_when_it_starts() {
    let redis = Server::start();
    let other = Node::start(&format!("{}?prefix=other", redis.url()));
    other.do_it(other.counter.increment()); // now Redis knows the script
    let mut monitor = TcpStream::connect(redis.addr()).unwrap();
    monitor.set_read_timeout(Some(PATIENCE)).unwrap();
    monitor.write_all(b"MONITOR\r\n").unwrap();
    let mut commands = BufReader::new(monitor).lines().map(Result::unwrap);
    assert_eq!(commands.next().as_deref(), Some("+OK"));
    // Several, since the two that ask for the first read do so in either order.
    for round in 0..20 {
        let node = Node::start(&format!("{}?prefix=p{round}", redis.url()));
        let mut tab = node.server.tab("/counter");
        assert_eq!(value(&mut tab), 0);
        node.do_it(node.counter.increment());
        assert_eq!(value(&mut tab), 1);
        redis.ask::<String>("ECHO all-done");
        let key = format!("\"p{round}:c:{{demo}}\"");
        let scripts: Vec<_> = commands
            .by_ref()
            .take_while(|command| !command.contains("all-done"))
            .filter(|command| command.contains("\"EVALSHA\"") && command.contains(&key))
            .collect();
        let [read, change] = &scripts[..] else {
            panic!("more or less than a read and a change: {scripts:#?}")
        };
        assert!(read.contains("\"look\"") && change.contains("\"add\""), "{scripts:#?}");
    }
}

#[test]
fn tabs_on_all_nodes_see_each_change_of_a_table_in_order() {
    check_table(&Server::start().url());
}

#[test]
fn tabs_on_all_nodes_of_a_cluster_see_each_change_of_a_table_in_order() {
    check_table(&format!("{}?prefix=live-table", Cluster::shared().url()));
}

fn check_table(url: &str) {
    let [a, b] = [(); 2].map(|()| Node::start(url));
    a.do_it(a.table.set("ada", &player(1)));
    let mut tabs = [&a, &b].map(|node| {
        let mut tab = node.server.tab("/table");
        let (_, key, row) = change(&mut tab);
        assert_eq!((key.as_str(), row), ("ada", json!(player(1))));
        tab
    });
    assert_eq!(b.do_it(b.table.increment("ada", "points", 2)), 3);
    a.do_it(a.table.set_many([("bob", player(5)), ("ada", player(6))]));
    assert!(b.do_it(b.table.compare_and_set("bob", Some(&player(5)), None)));
    assert!(
        a.server.block_on(a.table.increment("ada", "name", 1)).is_err(),
        "a rejected call changes nothing"
    );
    assert_eq!(b.do_it(b.table.increment("eve", "points", 9)), 9);
    assert!(a.do_it(a.table.expire("eve", Duration::from_millis(1))));
    wait_until("the row has expired", || !b.do_it(b.table.exists("eve")));
    assert_eq!(a.do_it(a.table.clear()), 1);
    let made = json!({ "name": "", "points": 9 });
    let expected = [
        ("ada", json!(player(3))),
        ("bob", json!(player(5))),
        ("ada", json!(player(6))),
        ("bob", Value::Null),
        ("eve", made),
        ("eve", Value::Null),
        ("ada", Value::Null),
    ];
    for tab in &mut tabs {
        let mut last = 0;
        for (key, row) in &expected {
            let (version, changed, now) = change(tab);
            assert_eq!((changed.as_str(), &now), (*key, row));
            assert!(version > last, "{key}: {version} after {last}");
            last = version;
        }
    }
}

#[test]
fn an_expiry_detected_by_any_node_reaches_all_tabs() {
    let redis = Server::start();
    let [a, b] = [(); 2].map(|()| Node::start(&redis.url()));
    let mut tabs = [&a, &b].map(|node| node.server.tab("/counter"));
    tabs.iter_mut().for_each(|tab| assert_eq!(value(tab), 0));
    a.do_it(a.counter.set(5));
    a.do_it(a.counter.expire(Duration::from_millis(1)));
    wait_until("the counter has expired", || b.do_it(b.counter.get()) == 0);
    a.do_it(a.counter.increment());
    for tab in &mut tabs {
        assert_eq!([value(tab), value(tab), value(tab)], [5, 0, 1]);
    }
    // A counter that was removed from Redis, as happens a minute after it expires.
    redis.ask::<()>("FLUSHALL");
    assert_eq!(a.do_it(a.counter.get()), 0);
    tabs.iter_mut().for_each(|tab| assert_eq!(value(tab), 0));
}

#[test]
fn changes_missed_by_a_node_reach_its_tabs_after_it_recovers() {
    let redis = Server::start();
    let proxy = Proxy::before(&redis);
    let (a, b) = (Node::start(&redis.url()), Node::start(&proxy.url()));
    a.do_it(a.counter.set(1));
    a.do_it(a.table.set_many([("stays", player(1)), ("changes", player(1)), ("goes", player(1))]));
    wait_until("the node knows it", || value(&mut b.server.tab("/counter")) == 1);
    let mut counted = b.server.tab("/counter");
    assert_eq!(value(&mut counted), 1);
    let mut played = b.server.tab("/table");
    let mut keys = [(); 3].map(|()| change(&mut played).1);
    keys.sort();
    assert_eq!(keys, ["changes", "goes", "stays"]);

    proxy.cut();
    a.do_it(a.counter.set(7));
    a.do_it(a.counter.set(8));
    a.do_it(a.table.set("changes", &player(2)));
    a.do_it(a.table.set("comes", &player(3)));
    a.do_it(a.table.delete("goes"));
    wait_until("the node knows that it is alone", || b.server.hub.stats().remote.degraded);
    assert!(b.server.block_on(b.counter.increment()).is_err_and(|error| error.is_unavailable()));
    assert_eq!(
        value(&mut b.server.tab("/counter")),
        1,
        "a tab that joins meanwhile receives the last known value"
    );
    assert_eq!(change(&mut b.server.tab("/table")).1, "changes");

    proxy.heal();
    assert_eq!(value(&mut counted), 8, "the newest value and none in between");
    let mut missed = [(); 3].map(|()| {
        let (_, key, row) = change(&mut played);
        (key, row)
    });
    missed.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [("changes", json!(player(2))), ("comes", json!(player(3))), ("goes", Value::Null)];
    assert_eq!(missed, expected.map(|(key, row)| (key.to_owned(), row)));
    // Nothing else arrived, and later changes arrive as before.
    a.do_it(a.counter.increment());
    a.do_it(a.table.delete("comes"));
    assert_eq!(value(&mut counted), 9);
    assert_eq!(change(&mut played).1, "comes");
}

#[test]
fn tabs_follow_a_restarted_server_that_has_lost_its_data() {
    let redis = Server::start();
    let node = Node::start(&redis.url());
    node.do_it(node.counter.set(5));
    node.do_it(node.table.set("ada", &player(1)));
    let (mut counted, mut played) = (node.server.tab("/counter"), node.server.tab("/table"));
    wait_until("the tab has the value", || value(&mut counted) == 5);
    assert_eq!(change(&mut played).1, "ada");
    redis.kill();
    wait_until("the node knows", || node.server.hub.stats().remote.degraded);
    redis.restart();
    assert_eq!(value(&mut counted), 0, "the server has no data on disk");
    let (_, key, row) = change(&mut played);
    assert_eq!((key.as_str(), row), ("ada", Value::Null));
    wait_until("operations succeed again", || node.server.block_on(node.counter.increment()).is_ok());
    assert_eq!(value(&mut counted), 1);
}

/// Waits until the node knows this value of the counter, shortly after it was set.
fn knows(node: &Node, wanted: i64) {
    wait_until("the node knows it", || value(&mut node.server.tab("/counter")) == wanted);
}

/// Receives a counter's value in a tab, with the epoch if there is one.
fn next_value(tab: &mut Tab) -> (i64, Option<String>) {
    let message: Value = serde_json::from_str(&tab.text()).unwrap();
    (message["value"].as_i64().unwrap(), message["epoch"].as_str().map(str::to_owned))
}

#[test]
fn what_somebody_else_publishes_is_settled_by_reading() {
    let redis = Server::start();
    let node = Node::start(&redis.url());
    node.do_it(node.counter.set(5));
    node.do_it(node.table.set("ada", &player(1)));
    knows(&node, 5);
    let (mut counted, mut played) = (node.server.tab("/counter"), node.server.tab("/table"));
    let (first, epoch) = next_value(&mut counted);
    assert_eq!(first, 5);
    assert_eq!(change(&mut played).1, "ada");
    let epoch = epoch.unwrap();
    let mut writer = redis.connect().unwrap();
    let mut publish = |channel: &str, message: &str| {
        let receivers: i64 = redis::cmd("PUBLISH").arg(channel).arg(message).query(&mut writer).unwrap();
        assert_eq!(receivers, 1);
    };
    for message in [
        "18446744073709551615 666",
        "ffffffffffffffff 18446744073709551615 666",
        &format!("{epoch} 18446744073709551615 666"),
        &format!("{epoch} 1 666"),
        "?",
        "",
        "x",
    ] {
        publish("ripplecast:c:{demo}", message);
    }
    for message in [
        "S20:184467440737095516153:ada6:points3:666",
        "ffffffffffffffff 18446744073709551615 C",
        &format!("{epoch} 18446744073709551615 C"),
        "?",
        "C",
    ] {
        publish("ripplecast:t:{players}", message);
    }
    for value in 6..=8 {
        node.do_it(node.counter.increment());
        assert_eq!(next_value(&mut counted), (value, None), "no forged value arrived");
        node.do_it(node.table.set("ada", &player(value.unsigned_abs())));
        assert_eq!(change(&mut played).2, json!(player(value.unsigned_abs())));
    }
    // The worst effect of a message: it remains until the next change.
    let number: u64 = redis.ask("HGET ripplecast:c:{demo} n");
    publish("ripplecast:c:{demo}", &format!("{epoch} {} 666", number + 1));
    assert_eq!(value(&mut counted), 666);
    node.do_it(node.counter.increment());
    // A read caused by an earlier message may arrive first, with the true value.
    let after = value(&mut counted);
    assert!(after == 9 || (after == 8 && value(&mut counted) == 9), "{after}");
}

#[test]
fn forged_messages_cause_few_reads() {
    const MESSAGES: usize = 200;
    let redis = Server::start();
    let node = Node::start(&redis.url());
    let mut tab = node.server.tab("/counter");
    assert_eq!(value(&mut tab), 0);
    let calls = || {
        let stats: String = redis.ask("INFO commandstats");
        let calls = |line: &str| line.split_once("calls=")?.1.split_once(',')?.0.parse::<usize>().ok();
        stats.lines().filter(|line| line.starts_with("cmdstat_evalsha")).filter_map(calls).sum::<usize>()
    };
    let before = calls();
    let mut writer = redis.connect().unwrap();
    for number in 0..MESSAGES {
        let mut publish = redis::cmd("PUBLISH");
        let message = format!("ffffffffffffffff {} 666", number + 1);
        publish.arg("ripplecast:c:{demo}").arg(message).exec(&mut writer).unwrap();
        // A separate script, with time for the node to read after each message if it did so.
        node.do_it(node.counter.get());
    }
    node.do_it(node.counter.set(1));
    assert_eq!(value(&mut tab), 1);
    let reads = calls() - before - MESSAGES - 1;
    assert!(reads < MESSAGES / 4, "{reads} reads for {MESSAGES} forged messages");
}

#[test]
fn keys_of_an_older_format_are_migrated() {
    let redis = Server::start();
    redis.ask::<()>("HSET ripplecast:c:{demo} v 41 n 1764507226000000");
    redis.ask::<()>("SET ripplecast:t:{players}:n 1764507226000000");
    redis.ask::<()>("ZADD ripplecast:t:{players}:i 1764507226000000 ada");
    redis.ask::<()>("HSET ripplecast:t:{players}:r:ada name Ada points 1");
    let node = Node::start(&redis.url());
    let (mut counted, mut played) = (node.server.tab("/counter"), node.server.tab("/table"));
    assert_eq!(value(&mut counted), 41);
    assert_eq!(change(&mut played).2, json!(player(1)));
    assert_eq!(node.do_it(node.counter.increment()), 42);
    assert_eq!(value(&mut counted), 42);
    node.do_it(node.table.set("bob", &player(2)));
    assert_eq!(change(&mut played).1, "bob");
    let page = node.do_it(node.table.scan(None, 1));
    assert_eq!(page.rows[0].0, "ada");
    let page = node.do_it(node.table.scan(page.next, 1));
    assert_eq!((page.rows[0].0.as_str(), page.next), ("bob", None));
}

#[test]
fn a_tab_that_joins_before_the_node_knows_the_state_receives_it_later() {
    let redis = Server::start();
    let proxy = Proxy::before(&redis);
    let other = Node::start(&redis.url());
    other.do_it(other.counter.set(3));
    other.do_it(other.table.set("ada", &player(1)));
    proxy.cut();
    let node = Node::start_with(&proxy.url(), true);
    let (mut counted, mut played) = (node.server.tab("/counter"), node.server.tab("/table"));
    wait_until("both have joined", || {
        let len = |room: &str| node.server.hub.room(room).len_here();
        len("counter") == 1 && len("table") == 1
    });
    proxy.heal();
    let (value, epoch) = next_value(&mut counted);
    assert!(value == 3 && epoch.is_some(), "as if the tab had joined now");
    assert_eq!(change(&mut played).2, json!(player(1)));
    other.do_it(other.counter.increment());
    other.do_it(other.table.set("ada", &player(2)));
    assert_eq!(next_value(&mut counted), (4, None));
    assert_eq!(change(&mut played).2, json!(player(2)));
}

#[test]
fn a_callback_that_needs_an_unavailable_redis_closes_with_1013() {
    let redis = Server::start();
    let proxy = Proxy::before(&redis);
    let builder = App::builder().backend(proxy.url()).hub(|hub| hub.shards(1));
    let server = TestServer::start(builder, |app| {
        let counter = app.hub().counter("demo");
        let open = ws::handlers().with_state(counter).on_open(async |counter: Counter, conn: Connection| {
            counter.increment().await.map(|value| conn.push(value.to_string()).ignore())
        });
        app.ws("/ws", open)
    });
    assert_eq!(server.tab("/ws").text(), "1");
    proxy.cut();
    wait_until("the node knows", || server.hub.stats().remote.degraded);
    let mut tab = server.tab("/ws");
    assert_eq!(tab.next(), None);
    assert_eq!(tab.close.as_ref().map(|(code, _)| *code), Some(1013));
}
