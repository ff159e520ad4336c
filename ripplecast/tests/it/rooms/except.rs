//! Pushes to all members but one, and the end of all of a user's connections.

use ripplecast::CloseCode;

use super::scripted;

/// Pushes in which the excepted member takes part, alternating with those in which it does not.
const PUSHES: usize = 1000;

#[test]
fn all_members_but_one_receive_a_push_in_order() {
    for (shards, threads) in [(1, false), (3, false), (2, true)] {
        let server = scripted(shards, threads);
        let room = server.hub.room("r");
        let mut sender = server.scripted("/ws", "join r");
        let mut others: Vec<_> = (0..6).map(|_| server.scripted("/ws", "join r")).collect();
        let conn = server.connection(&mut sender);
        for number in 0..PUSHES {
            let text = number.to_string();
            let sent = if number % 2 == 0 { room.push(text) } else { room.push_except(&conn, text) };
            assert!(sent.is_queued());
        }
        assert_eq!(server.len("r"), 7, "the excepted connection stays a member");
        assert!(room.push("end").is_queued());
        let all: Vec<_> = (0..PUSHES).map(|number| number.to_string()).collect();
        for other in &mut others {
            assert_eq!(other.until("end"), all);
        }
        let even: Vec<_> = (0..PUSHES).step_by(2).map(|number| number.to_string()).collect();
        assert_eq!(sender.until("end"), even);
    }
}

#[test]
fn a_push_that_excepts_the_only_member_or_a_stranger_is_no_special_case() {
    let server = scripted(2, false);
    let room = server.hub.room("r");
    let (mut only, mut stranger) = (server.scripted("/ws", "join r"), server.scripted("/ws", "join other"));
    let (member, other) = (server.connection(&mut only), server.connection(&mut stranger));
    assert!(room.push_except(&member, "to nobody").is_queued());
    assert!(room.push_except(&other, "to the member").is_queued());
    assert_eq!(only.text(), "to the member");
    only.run("leave r");
    assert!(room.push_except(&member, "to nobody").is_queued());
    only.run("join r");
    assert!(room.push("again").is_queued());
    assert_eq!(only.text(), "again");
    assert!(member.close(CloseCode::NORMAL, "").is_queued());
    assert!(room.push_except(&member, "to nobody").is_queued());
    assert_eq!(only.next(), None);
    assert_eq!(server.len("r"), 0);
}

#[test]
fn a_member_that_closes_while_it_is_excepted_leaves_the_room() {
    let server = scripted(1, false);
    let room = server.hub.room("r");
    let mut rest = server.scripted("/ws", "join r");
    for _ in 0..50 {
        let mut tab = server.scripted("/ws", "join r");
        let conn = server.connection(&mut tab);
        for _ in 0..20 {
            assert!(room.push_except(&conn, "x").is_queued());
        }
        assert!(conn.close(CloseCode::NORMAL, "").is_queued());
        for _ in 0..20 {
            assert!(room.push_except(&conn, "x").is_queued());
        }
        assert_eq!(tab.next(), None);
    }
    assert!(room.push("end").is_queued());
    assert_eq!(rest.until("end").len(), 50 * 40);
    assert_eq!(server.len("r"), 1);
}

#[test]
fn a_user_is_disconnected_with_a_code_behind_earlier_messages() {
    let server = scripted(2, false);
    let mut tabs: Vec<_> = (0..3).map(|_| server.scripted("/ws", "identify ann")).collect();
    let mut other = server.scripted("/ws", "identify bob");
    let ann = server.hub.user("ann");
    assert_eq!(server.block_on(ann.push("last words")).unwrap(), 3);
    let code = CloseCode::application(4001).unwrap();
    assert_eq!(server.block_on(ann.disconnect(code, "signed out")).unwrap(), 3);
    for tab in &mut tabs {
        assert_eq!(tab.rest(), ["last words"]);
        assert_eq!(tab.close, Some((4001, "signed out".to_owned())));
    }
    assert_eq!(server.block_on(ann.disconnect(code, "signed out")).unwrap(), 0);
    other.say("own still here");
    assert_eq!(other.text(), "still here");
}
