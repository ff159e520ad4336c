//! The chat: rooms are separate, and departures are announced.

use crate::program::{Program, Socket};

fn line(from: &str, text: &str) -> String {
    format!(r#"{{"from":"{from}","text":"{text}"}}"#)
}

#[test]
fn messages_reach_only_their_room() {
    let program = Program::start("chat", &[], 1);
    program.check_page();
    let mut ada = program.socket("/rooms/lobby?name=ada");
    assert_eq!(ada.next(), line("ada", "joined"));
    let mut eve = program.socket("/rooms/cellar?name=eve");
    assert_eq!(eve.next(), line("eve", "joined"));
    let mut bob = program.socket("/rooms/lobby?name=bob");
    for guest in [&mut ada, &mut bob] {
        assert_eq!(guest.next(), line("bob", "joined"));
    }

    bob.send("  "); // is ignored
    bob.send("hello <b>");
    for guest in [&mut ada, &mut bob] {
        assert_eq!(guest.next(), line("bob", "hello <b>"));
    }
    drop(bob);
    assert_eq!(ada.next(), line("bob", "left"));

    eve.send("alone?");
    assert_eq!(eve.next(), line("eve", "alone?"));
}

#[test]
fn a_guest_without_a_name_is_rejected() {
    let program = Program::start("chat", &[], 1);
    let long = format!("/rooms/lobby?name={}", "x".repeat(41));
    for path in ["/rooms/lobby", "/rooms/lobby?name=", &long] {
        assert_eq!(Socket::open(&program.addrs[0], path, "").err(), Some(400), "{path}");
    }
}
