//! Inside an axum application: only who is logged in is told, and in all tabs.

use crate::program::{Program, Socket};

#[test]
fn who_has_ordered_is_told_in_every_tab() {
    let program = Program::start("embed-in-axum", &[], 1);
    program.check_page();
    let login = program.post("/login", &[("user", "ada")], "");
    assert_eq!(login.status(), 303);
    let cookie = login.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.starts_with("user=ada;"));

    let tab = |cookie| Socket::open(&program.addrs[0], "/news", cookie);
    let mut tabs = [tab("user=ada").unwrap(), tab("user=ada").unwrap()];
    let mut bob = tab("user=bob").unwrap();
    // A client is known by its connections only when their callbacks have run: ask for an order until both are told.
    for tab in &mut tabs {
        assert_eq!(program.post("/orders", &[], "user=ada").status(), 202);
        tab.until(&["Your order is ready."]);
    }
    assert_eq!(program.post("/orders", &[], "user=bob").status(), 202);
    assert_eq!(bob.next(), "We have your order.");
    assert_eq!(bob.next(), "Your order is ready.");
}

#[test]
fn strangers_get_nothing() {
    let program = Program::start("embed-in-axum", &[], 1);
    for cookie in ["", "user=", "user=a b", "other=ada"] {
        assert_eq!(Socket::open(&program.addrs[0], "/news", cookie).err(), Some(401), "{cookie}");
        assert_eq!(program.post("/orders", &[], cookie).status(), 401, "{cookie}");
    }
    assert_eq!(program.post("/login", &[("user", "a; Domain=x")], "").status(), 400);
}
