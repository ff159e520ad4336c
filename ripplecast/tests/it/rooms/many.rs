//! A thousand connections in one room.

use std::thread;

use ripplecast::{App, Connection, ws};

use super::super::clients::{Tab, TestServer};

const CONNECTIONS: usize = 1000;
const PUBLISHERS: usize = 4;
const MESSAGES: usize = 300;

#[test]
fn a_thousand_connections_receive_three_hundred_messages_in_one_order() {
    // Both ends are in this process.
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    assert!(limit > 2 * CONNECTIONS as u64 + 200, "only {limit} open files are allowed");
    let server = TestServer::start(App::builder().hub(|hub| hub.shards(2)), |app| {
        let open = |conn: Connection| async move {
            conn.join("r")?;
            conn.push("in").ignore();
            Ok::<_, ripplecast::Error>(())
        };
        app.ws("/ws", ws::handlers().on_open(open))
    });
    let open = || -> Vec<Tab> { (0..CONNECTIONS / 4).map(|_| server.tab("/ws")).collect() };
    let mut tabs: Vec<Tab> = thread::scope(|scope| {
        let openers: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
        openers.into_iter().flat_map(|opener| opener.join().unwrap()).collect()
    });
    for tab in &mut tabs {
        assert_eq!(tab.text(), "in");
    }
    assert_eq!((server.len("r"), server.hub.stats().connections), (CONNECTIONS, CONNECTIONS));

    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let room = server.hub.room("r");
            server.runtime().spawn(async move {
                for n in 0..MESSAGES / PUBLISHERS {
                    assert!(room.push(format!("{publisher} {n}")).is_queued());
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    // Unread messages wait in the sockets and the outboxes, far below their limits.
    let mut whole = Vec::new();
    for (index, tab) in tabs.iter_mut().enumerate() {
        let log: Vec<_> = (0..MESSAGES).map(|_| tab.text()).collect();
        if index == 0 {
            whole = log;
        } else {
            assert_eq!(log, whole, "connection {index}");
        }
    }
    for publisher in publishers {
        server.block_on(publisher).unwrap();
    }
    for publisher in 0..PUBLISHERS {
        let prefix = format!("{publisher} ");
        let own =
            whole.iter().filter_map(|text| text.strip_prefix(&prefix)).map(|n| n.parse::<usize>().unwrap());
        assert!(own.eq(0..MESSAGES / PUBLISHERS), "publisher {publisher}");
    }
    // And nothing else.
    assert!(server.hub.broadcast("over").is_queued());
    for tab in &mut tabs {
        assert_eq!(tab.text(), "over");
    }
    let stats = server.hub.stats();
    assert_eq!((stats.drops.total(), stats.slow_consumers, stats.failed_callbacks), (0, 0, 0));
}
