//! Joining and receiving the current value is atomic, whatever is pushed at the same time.

use std::{
    sync::{Arc, Mutex},
    thread,
};

use ripplecast::{Connection, Hub, LiveCounter, LiveTable, Room, Table, ws};

use super::{
    super::clients::{Tab, TestServer},
    scripted,
};

const SHAPES: [(usize, bool); 4] = [(1, false), (2, false), (4, false), (2, true)];
const BUMPERS: i64 = 64;
const BUMPS: i64 = 20;

#[test]
fn what_a_tab_shows_never_goes_backwards_under_64_bumpers() {
    for (shards, threads) in SHAPES {
        let mut counter = None;
        let server = TestServer::with_shards(shards, threads, |app| {
            let hub = app.hub();
            let live = hub.counter("demo").publish_to(&hub.room("demo")).unwrap();
            counter = Some(live.clone());
            let open = |live: LiveCounter, conn: Connection| async move { live.join(&conn).await };
            app.ws("/ws", ws::handlers().with_state(live).on_open(open))
        });
        let counter = counter.unwrap();
        let last = BUMPERS * BUMPS;
        thread::scope(|scope| {
            let bumpers: Vec<_> = (0..BUMPERS)
                .map(|_| {
                    let counter = counter.clone();
                    server.runtime().spawn(async move {
                        for _ in 0..BUMPS {
                            counter.increment().await.unwrap();
                            tokio::task::yield_now().await;
                        }
                    })
                })
                .collect();
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..6 {
                        watch(&mut server.tab("/ws"), last);
                    }
                });
            }
            for bumper in bumpers {
                server.block_on(bumper).unwrap();
            }
        });
        assert_eq!(server.block_on(counter.get()).unwrap(), last);
        let mut late = server.tab("/ws");
        assert_eq!(value(&late.text()), last, "the current value arrives at once");
    }
}

/// A tab that opens meanwhile: from its first value on, it receives each one, to the last.
fn watch(tab: &mut Tab, last: i64) {
    let mut shown = value(&tab.text());
    while shown < last {
        let next = value(&tab.text());
        assert_eq!(next, shown + 1);
        shown = next;
    }
}

fn value(text: &str) -> i64 {
    text.strip_prefix(r#"{"value":"#).unwrap().strip_suffix('}').unwrap().parse().unwrap()
}

#[test]
fn only_a_reset_makes_the_value_smaller() {
    let mut counter = None;
    let server = TestServer::with_shards(2, false, |app| {
        let hub = app.hub();
        let live = hub.counter("demo").publish_to(&hub.room("demo")).unwrap();
        counter = Some(live.clone());
        app.ws(
            "/ws",
            ws::handlers()
                .with_state(live)
                .on_open(|live: LiveCounter, conn| async move { live.join(&conn).await }),
        )
    });
    let counter = counter.unwrap();
    let mut tab = server.tab("/ws");
    assert_eq!(tab.text(), r#"{"value":0}"#);
    server.block_on(async {
        // Also through another handle with the same name.
        server.hub.counter("demo").add(41).await.unwrap();
        counter.increment().await.unwrap();
        counter.reset().await.unwrap();
        counter.decrement().await.unwrap();
    });
    assert_eq!([tab.text(), tab.text(), tab.text(), tab.text()].map(|text| value(&text)), [41, 42, 0, -1]);
}

#[test]
fn the_snapshot_arrives_first_and_nothing_older_follows() {
    for (shards, threads) in SHAPES {
        let server = scripted(shards, threads);
        let room = server.hub.room("r");
        // Pushes and snapshots are made under one lock, as the documentation of `join_with` requires.
        let latest = Arc::new(Mutex::new(0));
        let pushers: Vec<_> = (0..8)
            .map(|_| {
                let (room, latest) = (room.clone(), latest.clone());
                server.runtime().spawn(async move {
                    for _ in 0..100 {
                        {
                            let mut latest = latest.lock().unwrap();
                            *latest += 1;
                            assert!(room.push(latest.to_string()).is_queued());
                        }
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        let mut tabs: Vec<(Tab, i64)> = Vec::new();
        for round in 0..30 {
            let mut tab = server.tab("/ws");
            let conn = server.connection(&mut tab);
            if round % 3 == 0 {
                conn.join("another").unwrap(); // so that some are in two rooms
            }
            let latest = latest.lock().unwrap();
            conn.join_with("r", format!("snapshot {latest}")).unwrap();
            tabs.push((tab, *latest));
        }
        for pusher in pushers {
            server.block_on(pusher).unwrap();
        }
        for (tab, snapshot) in &mut tabs {
            assert_eq!(tab.text(), format!("snapshot {snapshot}"));
            for n in *snapshot + 1..=800 {
                assert_eq!(tab.text(), n.to_string(), "{shards} shards, threads: {threads}");
            }
        }
        // The second time it is already a member and receives only the snapshot, in order.
        let (tab, _) = &mut tabs[0];
        let conn = server.connection(tab);
        assert!(room.push("before").is_queued());
        conn.join_with("r", "once more").unwrap();
        assert!(room.push("after").is_queued());
        assert_eq!([tab.text(), tab.text(), tab.text()], ["before", "once more", "after"]);
        assert_eq!(server.len("r"), 30);
    }
}

/// A room for each path, published when a tab opens, without keeping a handle, as one would write it first.
#[test]
fn repeated_publishing_pushes_once_and_lasts_while_a_tab_is_open() {
    struct Published(ripplecast::Hub);

    impl ripplecast::ws::Handler for Published {
        async fn on_open(&self, conn: ripplecast::Connection) -> ripplecast::Result<()> {
            self.0.counter("c").publish_to(&self.0.room("r"))?.join(&conn).await
        }
    }

    let server = TestServer::with_shards(2, false, |app| {
        let hub = app.hub();
        app.ws("/ws", Published(hub))
    });
    let mut tabs: Vec<_> = (0..3).map(|_| server.tab("/ws")).collect();
    for tab in &mut tabs {
        assert_eq!(tab.text(), r#"{"value":0}"#);
    }
    for value in 1..=3 {
        server.block_on(server.hub.counter("c").increment()).unwrap();
        for tab in &mut tabs {
            assert_eq!(tab.text(), format!(r#"{{"value":{value}}}"#));
        }
    }
}

#[test]
fn integers_beyond_2_to_the_53_can_be_published_as_text() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Wide {
        signed: i64,
        unsigned: u64,
        short: u32,
        flag: bool,
    }
    let mut both = None;
    let server = TestServer::with_shards(2, false, |app| {
        let hub = app.hub();
        let counter = hub.counter("wide").publish_text_to(&hub.room("counter")).unwrap();
        let table = hub.table::<Wide>("wide", 2).unwrap().publish_text_to(&hub.room("table"));
        both = Some((counter.clone(), table.clone()));
        let count = ws::handlers()
            .with_state(counter)
            .on_open(async |counter: LiveCounter, conn| counter.join(&conn).await);
        let rows = ws::handlers()
            .with_state(table)
            .on_open(async |table: LiveTable<Wide>, conn| table.join(&conn).await);
        app.ws("/counter", count).ws("/table", rows)
    });
    let (counter, table) = both.unwrap();
    let row = Wide { signed: i64::MIN, unsigned: u64::MAX, short: 7, flag: true };
    server.block_on(table.set("a", &row)).unwrap();
    let (mut counted, mut played) = (server.tab("/counter"), server.tab("/table"));
    assert_eq!(counted.text(), r#"{"value":"0"}"#);
    server.block_on(counter.set(9_007_199_254_740_993)).unwrap();
    assert_eq!(counted.text(), r#"{"value":"9007199254740993"}"#);
    let row = r#"{"signed":"-9223372036854775808","unsigned":"18446744073709551615","short":7,"flag":true}"#;
    assert_eq!(played.text(), r#"{"table":"wide","snapshot":"begin"}"#);
    assert_eq!(played.text(), format!(r#"{{"table":"wide","key":"a","row":{row},"version":1}}"#));
    assert_eq!(played.text(), r#"{"table":"wide","snapshot":"end"}"#);
    server.block_on(table.increment("a", "short", 1)).unwrap();
    let sent = played.text();
    assert!(sent.contains(r#""unsigned":"18446744073709551615","short":8"#), "{sent}");
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Visitor {
    name: String,
    session: String,
    is_away: bool,
}

impl Visitor {
    fn new(name: &str, is_away: bool) -> Self {
        Self { name: name.into(), session: format!("secret of {name}"), is_away }
    }
}

/// Starts a server whose `/ws` joins two tables in one room. `declare` publishes the visitors.
fn visitors(
    declare: impl Fn(&Hub) -> LiveTable<Visitor>,
) -> (TestServer, LiveTable<Visitor>, LiveTable<Visitor>) {
    let mut both = None;
    let server = TestServer::with_shards(2, false, |app| {
        let hub = app.hub();
        let staff = hub.table::<Visitor>("staff", 100).unwrap();
        let staff = staff.publish_with(&hub.room("hall"), |_, staff| Some(staff.name));
        let tables = (declare(&hub), staff);
        both = Some(tables.clone());
        let join = ws::handlers().with_state(tables).on_open(
            async |(visitors, staff): (LiveTable<Visitor>, LiveTable<Visitor>), conn: Connection| {
                visitors.join(&conn).await?;
                staff.join(&conn).await
            },
        );
        app.ws("/ws", join)
    });
    let (visitors, staff) = both.unwrap();
    (server, visitors, staff)
}

#[test]
fn private_columns_are_never_sent() {
    let declare = |hub: &Hub| {
        hub.table_builder::<Visitor>("visitors", 100).private("session").private("is_away").build().unwrap()
    };
    type Publish = fn(Table<Visitor>, &Room) -> LiveTable<Visitor>;
    let ways: [Publish; 2] =
        [|table, room| table.publish_to(room), |table, room| table.publish_text_to(room)];
    for publish in ways {
        let (server, visitors, _staff) = visitors(move |hub| publish(declare(hub), &hub.room("hall")));
        server.block_on(visitors.set(1, &Visitor::new("Ada", false))).unwrap();
        let mut tab = server.tab("/ws");
        assert_eq!(tab.text(), r#"{"table":"visitors","snapshot":"begin"}"#);
        assert_eq!(tab.text(), r#"{"table":"visitors","key":"1","row":{"name":"Ada"},"version":1}"#);
        assert_eq!(tab.text(), r#"{"table":"visitors","snapshot":"end"}"#);
        assert_eq!([tab.text(), tab.text()], ["begin", "end"].map(staff_mark));
        server.block_on(visitors.set(1, &Visitor::new("Bob", false))).unwrap();
        assert_eq!(tab.text(), r#"{"table":"visitors","key":"1","row":{"name":"Bob"},"version":2}"#);
        let read = server.block_on(visitors.get(1)).unwrap().unwrap();
        assert_eq!(read.session, "secret of Bob", "the server still reads it");
    }
}

#[test]
fn a_function_that_chooses_what_is_sent_does_not_see_private_columns() {
    let (server, visitors, _staff) = visitors(|hub| {
        let table = hub.table_builder::<Visitor>("visitors", 100).private("session").private("is_away");
        let table = table.build().unwrap();
        table.publish_with(&hub.room("hall"), |key, visitor| Some((key.to_owned(), visitor)))
    });
    server.block_on(visitors.set(1, &Visitor::new("Ada", true))).unwrap();
    let mut tab = server.tab("/ws");
    tab.until_beginning(r#"{"table":"staff","snapshot":"end"}"#);
    server.block_on(visitors.set(1, &Visitor::new("Bob", true))).unwrap();
    let row = r#"["1",{"name":"Bob","session":"","is_away":false}]"#;
    assert_eq!(tab.text(), format!(r#"{{"table":"visitors","key":"1","row":{row},"version":2}}"#));
}

#[test]
fn a_row_that_cannot_be_published_is_hidden_and_fails_no_join() {
    /// Can be written as JSON unless it is `Bad`.
    struct Shown(String);
    impl serde::Serialize for Shown {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match &*self.0 {
                "Bad" => Err(serde::ser::Error::custom("it is bad")),
                name => name.serialize(serializer),
            }
        }
    }
    let (server, visitors, _staff) = visitors(|hub| {
        let table = hub.table::<Visitor>("visitors", 100).unwrap();
        table.publish_with(&hub.room("hall"), |_, visitor| Some(Shown(visitor.name)))
    });
    let set = |name| server.block_on(visitors.set(1, &Visitor::new(name, false))).unwrap();
    set("Ada");
    let mut tab = server.tab("/ws");
    tab.until_beginning(r#"{"table":"staff","snapshot":"end"}"#);
    set("Bad");
    assert_eq!(tab.text(), r#"{"table":"visitors","key":"1","row":null,"version":2}"#);
    let mut late = server.tab("/ws");
    assert_eq!(late.text(), r#"{"table":"visitors","snapshot":"begin"}"#);
    assert_eq!(late.text(), r#"{"table":"visitors","snapshot":"end"}"#);
}

#[test]
fn an_unknown_column_cannot_be_private() {
    let server = TestServer::with_shards(1, false, |app| app);
    let builder = server.hub.table_builder::<Visitor>("visitors", 1).private("sessions");
    let error = server.block_on(async { builder.build() }).unwrap_err().to_string();
    assert!(error.contains("`sessions`") && error.contains("name, session, is_away"), "{error}");
}

fn staff_mark(mark: &str) -> String {
    format!(r#"{{"table":"staff","snapshot":"{mark}"}}"#)
}

#[test]
fn a_hidden_row_is_not_sent_and_one_that_becomes_hidden_is_deleted() {
    let (server, visitors, staff) = visitors(|hub| {
        let table = hub.table::<Visitor>("visitors", 100).unwrap();
        table.publish_with(&hub.room("hall"), |key, visitor| {
            (!visitor.is_away).then(|| format!("{} ({key})", visitor.name))
        })
    });
    let set = |key: &str, name, is_away| {
        server.block_on(visitors.set(key, &Visitor::new(name, is_away))).unwrap();
    };
    set("secret key", "Eve", true);
    set("1", "Ada", false);
    let mut tab = server.tab("/ws");
    assert_eq!(tab.text(), r#"{"table":"visitors","snapshot":"begin"}"#);
    assert_eq!(tab.text(), r#"{"table":"visitors","key":"1","row":"Ada (1)","version":2}"#);
    assert_eq!(tab.text(), r#"{"table":"visitors","snapshot":"end"}"#);
    assert_eq!([tab.text(), tab.text()], ["begin", "end"].map(staff_mark));

    set("secret key", "Eve", true);
    server.block_on(visitors.delete("secret key")).unwrap();
    set("1", "Ada", true);
    assert_eq!(tab.text(), r#"{"table":"visitors","key":"1","row":null,"version":5}"#);
    set("1", "Ada", true);
    server.block_on(visitors.delete("1")).unwrap();
    set("1", "Ada", false);
    assert_eq!(tab.text(), r#"{"table":"visitors","key":"1","row":"Ada (1)","version":8}"#);
    server.block_on(staff.set("1", &Visitor::new("Sid", false))).unwrap();
    assert_eq!(tab.text(), r#"{"table":"staff","key":"1","row":"Sid","version":1}"#);
}

/// A tab that was away learns which rows were deleted meanwhile: those that the snapshot does not contain.
#[test]
fn a_snapshot_has_an_end_even_without_rows() {
    let (server, visitors, _staff) =
        visitors(|hub| hub.table("visitors", 100).unwrap().publish_to(&hub.room("hall")));
    server.block_on(visitors.set(1, &Visitor::new("Ada", false))).unwrap();
    server.block_on(visitors.clear()).unwrap();
    let mut tab = server.tab("/ws");
    assert_eq!(tab.text(), r#"{"table":"visitors","snapshot":"begin"}"#);
    assert_eq!(tab.text(), r#"{"table":"visitors","snapshot":"end"}"#);
}
