//! The chat: rooms are apart, and who leaves is missed.

use crate::program::{Program, Socket};

fn line(from: &str, text: &str) -> String {
    format!(r#"{{"from":"{from}","text":"{text}"}}"#)
}

#[test]
fn what_is_said_reaches_the_room_and_no_other() {
    let program = Program::start("chat", &[], 1);
    program.check_page();
    let mut ada = program.socket("/rooms/lobby?name=ada");
    assert_eq!(ada.next(), line("ada", "has come in"));
    let mut eve = program.socket("/rooms/cellar?name=eve");
    assert_eq!(eve.next(), line("eve", "has come in"));
    let mut bob = program.socket("/rooms/lobby?name=bob");
    for guest in [&mut ada, &mut bob] {
        assert_eq!(guest.next(), line("bob", "has come in"));
    }

    bob.send("  "); // says nothing
    bob.send("hello <b>");
    for guest in [&mut ada, &mut bob] {
        assert_eq!(guest.next(), line("bob", "hello <b>"));
    }
    drop(bob);
    assert_eq!(ada.next(), line("bob", "has gone"));

    eve.send("alone?");
    assert_eq!(eve.next(), line("eve", "alone?"));
}

#[test]
fn nobody_comes_in_without_a_name() {
    let program = Program::start("chat", &[], 1);
    let long = format!("/rooms/lobby?name={}", "x".repeat(41));
    for path in ["/rooms/lobby", "/rooms/lobby?name=", &long] {
        assert_eq!(Socket::open(&program.addrs[0], path, "").err(), Some(400), "{path}");
    }
}
