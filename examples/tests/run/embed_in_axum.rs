//! Inside an axum application: only logged-in users are notified, in all their tabs.

use crate::program::{Program, Socket};

#[test]
fn a_user_who_ordered_is_notified_in_every_tab() {
    let program = Program::start("embed-in-axum", &[], 1);
    program.check_page();
    let login = program.post("/login", &[("user", "ada")], "");
    assert_eq!(login.status(), 303);
    let cookie = login.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.starts_with("user=ada;"));

    let tab = |cookie| Socket::open(&program.addrs[0], "/news", cookie);
    let mut tabs = [tab("user=ada").unwrap(), tab("user=ada").unwrap()];
    let mut bob = tab("user=bob").unwrap();
    // A user's connections are found only after their callbacks have run: place orders until both tabs are notified.
    for tab in &mut tabs {
        assert_eq!(program.post("/orders", &[], "user=ada").status(), 202);
        tab.until(&["Your order is ready."]);
    }
    assert_eq!(program.post("/orders", &[], "user=bob").status(), 202);
    assert_eq!(bob.next(), "We have your order.");
    assert_eq!(bob.next(), "Your order is ready.");
}

#[test]
fn users_without_a_login_receive_nothing() {
    let program = Program::start("embed-in-axum", &[], 1);
    for cookie in ["", "user=", "user=a b", "other=ada"] {
        assert_eq!(Socket::open(&program.addrs[0], "/news", cookie).err(), Some(401), "{cookie}");
        assert_eq!(program.post("/orders", &[], cookie).status(), 401, "{cookie}");
    }
    assert_eq!(program.post("/login", &[("user", "a; Domain=x")], "").status(), 400);
}
