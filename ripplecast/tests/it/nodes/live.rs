//! Counters and tables that publish their changes, on several nodes: what a tab sees never goes backwards, wherever it is and
//! whoever changes them, and what a node missed reaches its tabs when it is back.

use std::{thread, time::Duration};

use ripplecast::{App, LiveCounter, LiveTable, ws};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    super::{
        clients::Tab,
        redis::{Cluster, FLAVOURS, Proxy, Server},
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

/// A node whose counter and table are published where its tabs open.
struct Node {
    server: TestServer,
    counter: LiveCounter,
    table: LiveTable<Player>,
}

impl Node {
    fn start(url: &str) -> Self {
        let builder = App::builder().backend(url).unwrap().hub(|hub| hub.shards(2));
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

/// The value that a tab is told of.
fn value(tab: &mut Tab) -> i64 {
    serde_json::from_str::<Value>(&tab.text()).unwrap()["value"].as_i64().unwrap()
}

/// The change of a row that a tab is told of: its version, key and row.
fn change(tab: &mut Tab) -> (u64, String, Value) {
    let mut change: Value = serde_json::from_str(&tab.text()).unwrap();
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
            assert_eq!(value(&mut node.server.tab("/counter")), 4 * EACH, "who comes later begins there");
        }
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
    assert!(a.server.block_on(a.table.increment("ada", "name", 1)).is_err(), "what is refused is no change");
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
fn an_expiry_that_any_node_notices_reaches_all_tabs() {
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
    // And one that is gone from Redis, as it is a minute after it expired.
    redis.ask::<()>("FLUSHALL");
    assert_eq!(a.do_it(a.counter.get()), 0);
    tabs.iter_mut().for_each(|tab| assert_eq!(value(tab), 0));
}

#[test]
fn what_a_node_missed_reaches_its_tabs_when_it_is_back() {
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
    assert_eq!(value(&mut b.server.tab("/counter")), 1, "who joins meanwhile gets the last known value");
    assert_eq!(change(&mut b.server.tab("/table")).1, "changes");

    proxy.heal();
    assert_eq!(value(&mut counted), 8, "the newest value, and none in between");
    let mut missed = [(); 3].map(|()| {
        let (_, key, row) = change(&mut played);
        (key, row)
    });
    missed.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [("changes", json!(player(2))), ("comes", json!(player(3))), ("goes", Value::Null)];
    assert_eq!(missed, expected.map(|(key, row)| (key.to_owned(), row)));
    // Nothing else came, and it goes on as before.
    a.do_it(a.counter.increment());
    a.do_it(a.table.delete("comes"));
    assert_eq!(value(&mut counted), 9);
    assert_eq!(change(&mut played).1, "comes");
}

#[test]
fn what_a_restarted_server_has_lost_is_lost_for_tabs_too() {
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
    assert_eq!(value(&mut counted), 0, "it kept nothing on a disk");
    let (_, key, row) = change(&mut played);
    assert_eq!((key.as_str(), row), ("ada", Value::Null));
    wait_until("operations are done again", || node.server.block_on(node.counter.increment()).is_ok());
    assert_eq!(value(&mut counted), 1);
}

#[test]
fn a_node_that_never_knew_says_so_until_it_does() {
    let redis = Server::start();
    let proxy = Proxy::before(&redis);
    let other = Node::start(&redis.url());
    other.do_it(other.counter.set(3));
    other.do_it(other.table.set("ada", &player(1)));
    proxy.cut();
    let builder = App::builder().backend(&proxy.url()).unwrap();
    let builder = builder.hub(|hub| hub.shards(1).backend_optional(true));
    let server = TestServer::start(builder, |app| {
        let hub = app.hub();
        let counter = hub.counter("demo").publish_to(&hub.room("counter")).unwrap();
        let count = ws::handlers()
            .with_state(counter)
            .on_open(async |counter: LiveCounter, conn| counter.join(&conn).await);
        app.ws("/counter", count)
    });
    let mut refused = server.tab("/counter");
    assert_eq!(refused.next(), None, "the join fails, and with it the connection");
    proxy.heal();
    wait_until("a join succeeds", || {
        let mut tab = server.tab("/counter");
        tab.next().is_some_and(|message| message.to_text().unwrap() == "{\"value\":3}")
    });
}
