//! Pushes to all members but one, and the end of all of a user's connections, on two nodes.

use ripplecast::CloseCode;

use super::{member, nodes};
use crate::{
    clients::wait_until,
    redis::{FLAVOURS, Server},
};

#[test]
fn a_push_except_reaches_the_other_members_on_all_nodes() {
    for flavour in FLAVOURS {
        let redis = Server::setup(flavour).start();
        let [a, b] = nodes(&redis.url());
        let mut sender = member(&redis, &a, "r", 1);
        let mut others = [member(&redis, &a, "r", 1), member(&redis, &b, "r", 2), member(&redis, &b, "r", 2)];
        let conn = a.connection(&mut sender);
        for number in 0..100 {
            let text = number.to_string();
            let room = a.hub.room("r");
            let sent = if number % 2 == 0 { room.push(text) } else { room.push_except(&conn, text) };
            assert!(sent.is_queued());
        }
        assert!(a.hub.room("r").push("end").is_queued());
        for other in &mut others {
            assert_eq!(other.until("end").len(), 100);
        }
        assert_eq!(sender.until("end").len(), 50);
        let remote = b.hub.stats().remote;
        assert_eq!((remote.missed, remote.gaps), (0, 0), "{remote:?}");
    }
}

#[test]
fn a_user_is_disconnected_on_every_node() {
    for flavour in FLAVOURS {
        let redis = Server::setup(flavour).start();
        let [a, b] = nodes(&redis.url());
        let mut tabs = [&a, &b, &b].map(|node| node.scripted("/ws", "identify ann"));
        let mut other = b.scripted("/ws", "identify bob");
        let ann = a.hub.user("ann");
        wait_until("all connections are known", || a.block_on(ann.connections()).unwrap().len() == 3);
        wait_until("their number is known", || a.block_on(ann.push("hello")).unwrap() == 3);
        let code = CloseCode::application(4001).unwrap();
        assert_eq!(a.block_on(ann.disconnect(code, "signed out")).unwrap(), 3);
        for tab in &mut tabs {
            assert!(tab.rest().iter().all(|text| text == "hello"));
            assert_eq!(tab.close, Some((4001, "signed out".to_owned())));
        }
        wait_until("nobody is left", || a.block_on(ann.nodes()).unwrap().is_empty());
        assert_eq!(a.block_on(ann.disconnect(code, "")).unwrap(), 0);
        other.say("own still here");
        assert_eq!(other.text(), "still here");
    }
}

#[test]
fn a_disconnect_without_redis_reaches_this_node_and_fails() {
    let redis = Server::start();
    let [a] = nodes(&redis.url());
    let mut tab = a.scripted("/ws", "identify ann");
    redis.kill();
    let code = CloseCode::application(4001).unwrap();
    let ended = a.block_on(a.hub.user("ann").disconnect(code, "signed out"));
    assert!(matches!(ended, Err(ripplecast::Error::Backend(_))), "{ended:?}");
    assert!(tab.rest().is_empty());
    assert_eq!(tab.close, Some((4001, "signed out".to_owned())));
}
