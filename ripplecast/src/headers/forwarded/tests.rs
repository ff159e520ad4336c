//! Tests which client the forwarding headers yield, and when they are trusted.

use http::{HeaderName, HeaderValue};

use super::*;

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        headers.append(HeaderName::from_static(name), value);
    }
    headers
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Socket peer, header lines, expected client; the proxies are loopback and 10/8.
type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str);

fn check(cases: &[Case]) {
    let proxies: TrustedProxies = "loopback, 10.0.0.0/8, 2001:db8:ffff::/48".parse().unwrap();
    for (socket, lines, expected) in cases {
        let peer = proxies.peer(Some(addr(socket)), &headers(lines));
        assert_eq!(peer.addr, Some(addr(expected)), "{socket} {lines:?}");
    }
}

#[test]
fn the_client_is_the_first_untrusted_address_from_the_right() {
    check(&[
        ("127.0.0.1", &[], "127.0.0.1"),
        ("127.0.0.1", &[("x-forwarded-for", "192.0.2.7")], "192.0.2.7"),
        ("127.0.0.1", &[("x-forwarded-for", "192.0.2.7, 10.0.0.9")], "192.0.2.7"),
        ("127.0.0.1", &[("x-forwarded-for", "192.0.2.7,10.0.0.9 ,\t10.0.0.8")], "192.0.2.7"),
        // If all are trusted, the farthest one is the client, a machine of our own.
        ("127.0.0.1", &[("x-forwarded-for", "10.0.0.9, 10.0.0.8")], "10.0.0.9"),
        // Repeated headers form one list; later lines are nearer to us.
        ("::1", &[("x-forwarded-for", "192.0.2.7"), ("x-forwarded-for", "10.0.0.9")], "192.0.2.7"),
        ("::1", &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.7")], "192.0.2.7"),
    ]);
}

#[test]
fn a_client_cannot_choose_its_address() {
    check(&[
        // The socket's peer is not a proxy, so nothing it sends is trusted.
        ("198.51.100.4", &[("x-forwarded-for", "192.0.2.7")], "198.51.100.4"),
        ("198.51.100.4", &[("x-forwarded-for", "127.0.0.1")], "198.51.100.4"),
        ("198.51.100.4", &[("forwarded", "for=192.0.2.7")], "198.51.100.4"),
        // The client wrote the left part; the proxy appended what it saw.
        ("127.0.0.1", &[("x-forwarded-for", "6.6.6.6, 192.0.2.7")], "192.0.2.7"),
        ("127.0.0.1", &[("x-forwarded-for", "127.0.0.1, 10.0.0.1, 192.0.2.7, 10.0.0.9")], "192.0.2.7"),
        // A second header from the client, next to the proxy's.
        ("127.0.0.1", &[("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=6.6.6.6")], "192.0.2.7"),
        ("127.0.0.1", &[("forwarded", "for=6.6.6.6"), ("x-forwarded-proto", "https")], "127.0.0.1"),
        // An unclosed quote does not swallow what follows it.
        ("127.0.0.1", &[("forwarded", "for=\"6.6.6.6, for=192.0.2.7")], "192.0.2.7"),
        ("127.0.0.1", &[("forwarded", "for=\"6.6.6.6, for=\"[2001:db8::1]:80\"")], "2001:db8::1"),
        ("127.0.0.1", &[("forwarded", "for=\"6.6.6.6, for=192.0.2.7;ext=\"x\"")], "192.0.2.7"),
        ("127.0.0.1", &[("forwarded", "for=6.6.6.6;a=\"\\, for=192.0.2.7;ext=\"x,y\"")], "192.0.2.7"),
        ("127.0.0.1", &[("x-forwarded-for", "\"6.6.6.6, 192.0.2.7")], "192.0.2.7"),
        ("127.0.0.1", &[("x-forwarded-for", "\", 192.0.2.7")], "192.0.2.7"),
        // If a client's quote pairs with one that the proxy forwarded unescaped, it hides the proxy's entry:
        // no entry is trusted.
        ("127.0.0.1", &[("forwarded", "for=6.6.6.6;x=\", for=192.0.2.7;host=a\"")], "127.0.0.1"),
        ("127.0.0.1", &[("forwarded", "for=\"192.0.2.7\"x")], "127.0.0.1"),
        ("127.0.0.1", &[("forwarded", "for=192.0.2.7;for=6.6.6.6")], "127.0.0.1"),
        ("127.0.0.1", &[("forwarded", "host=\"a;for=6.6.6.6\";proto=http, for=192.0.2.7")], "192.0.2.7"),
    ]);
}

#[test]
fn garbage_ends_the_search_at_the_last_valid_address() {
    check(&[
        ("127.0.0.1", &[("x-forwarded-for", "unknown")], "127.0.0.1"),
        ("127.0.0.1", &[("x-forwarded-for", "")], "127.0.0.1"),
        ("127.0.0.1", &[("x-forwarded-for", "6.6.6.6, , 10.0.0.9")], "10.0.0.9"),
        ("127.0.0.1", &[("x-forwarded-for", "6.6.6.6, <script>, 10.0.0.9")], "10.0.0.9"),
        ("127.0.0.1", &[("x-forwarded-for", "6.6.6.6, 1.2.3, 10.0.0.9")], "10.0.0.9"),
        ("127.0.0.1", &[("x-forwarded-for", "6.6.6.6, 300.1.1.1")], "127.0.0.1"),
        ("127.0.0.1", &[("x-forwarded-for", "6.6.6.6, 1.2.3.4:99999")], "127.0.0.1"),
        ("127.0.0.1", &[("x-forwarded-for", "6.6.6.6, fe80::1%eth0")], "127.0.0.1"),
        ("127.0.0.1", &[("x-forwarded-for", "6.6.6.6, [::1")], "127.0.0.1"),
        ("127.0.0.1", &[("x-forwarded-for", "\u{fc}, 192.0.2.7")], "192.0.2.7"),
        ("127.0.0.1", &[("forwarded", "for=6.6.6.6, for=_hidden, for=10.0.0.9")], "10.0.0.9"),
        ("127.0.0.1", &[("forwarded", "for=6.6.6.6, for=unknown")], "127.0.0.1"),
        ("127.0.0.1", &[("forwarded", "for=6.6.6.6, proto=https")], "127.0.0.1"),
        ("127.0.0.1", &[("forwarded", "for=6.6.6.6, for")], "127.0.0.1"),
    ]);
}

#[test]
fn with_hops_the_client_is_that_many_entries_from_the_right() {
    // Number of hops, header lines, expected client; the socket's peer is 198.51.100.4.
    type Lines = &'static [(&'static str, &'static str)];
    let cases: &[(u8, Lines, &str)] = &[
        (1, &[], "198.51.100.4"),
        (1, &[("x-forwarded-for", "192.0.2.7")], "192.0.2.7"),
        // Entries that the client wrote are further left.
        (1, &[("x-forwarded-for", "127.0.0.1, 192.0.2.7")], "192.0.2.7"),
        (2, &[("x-forwarded-for", "127.0.0.1, 192.0.2.7, 10.0.0.9")], "192.0.2.7"),
        (2, &[("x-forwarded-for", "127.0.0.1, 192.0.2.7"), ("x-forwarded-for", "10.0.0.9")], "192.0.2.7"),
        (3, &[("x-forwarded-for", "192.0.2.7, 203.0.113.5, 10.0.0.9")], "192.0.2.7"),
        // Private addresses are clients like any others.
        (1, &[("x-forwarded-for", "127.0.0.1, 10.5.5.6")], "10.5.5.6"),
        // With fewer entries than hops, the leftmost is the client.
        (3, &[("x-forwarded-for", "192.0.2.7, 10.0.0.9")], "192.0.2.7"),
        (255, &[("x-forwarded-for", "192.0.2.7")], "192.0.2.7"),
        // An entry that is not an address ends the search.
        (1, &[("x-forwarded-for", "192.0.2.7, unknown")], "198.51.100.4"),
        (2, &[("x-forwarded-for", "192.0.2.7, unknown, 10.0.0.9")], "10.0.0.9"),
        (2, &[("x-forwarded-for", "unknown, 192.0.2.7, 10.0.0.9")], "192.0.2.7"),
        (2, &[("x-forwarded-for", "192.0.2.7, , 10.0.0.9")], "10.0.0.9"),
        (1, &[("forwarded", "for=6.6.6.6, for=192.0.2.7;proto=https")], "192.0.2.7"),
        (2, &[("forwarded", "for=6.6.6.6, for=\"[2001:db8::1]:80\", for=10.0.0.9")], "2001:db8::1"),
        (2, &[("forwarded", "for=192.0.2.7, for=_hidden")], "198.51.100.4"),
        (1, &[("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=6.6.6.6")], "192.0.2.7"),
        (0, &[("x-forwarded-for", "192.0.2.7")], "198.51.100.4"),
    ];
    for (hops, lines, expected) in cases {
        let peer = TrustedProxies::hops(*hops).peer(Some(addr("198.51.100.4")), &headers(lines));
        assert_eq!(peer.addr, Some(addr(expected)), "{hops} {lines:?}");
        assert_eq!(peer.is_forwarded, *hops > 0 && !lines.is_empty(), "{hops} {lines:?}");
    }
    let lines = headers(&[("x-forwarded-host", "evil, shop.example"), ("x-forwarded-proto", "http, https")]);
    let peer = TrustedProxies::hops(2).peer(Some(addr("198.51.100.4")), &lines);
    let host = peer.host.as_ref().map(Authority::as_str);
    assert_eq!((host, peer.https), (Some("shop.example"), Some(true)), "as the nearest proxy reports");
    let none = TrustedProxies::hops(0);
    assert_eq!(none, TrustedProxies::default());
    assert_eq!(none.peer(Some(addr("198.51.100.4")), &lines).host, None);
    assert_eq!(TrustedProxies::hops(1).peer(None, &lines), ForwardedPeer::default());
}

#[test]
fn hops_cannot_be_combined_with_other_entries() {
    for (list, hops) in [("hops:1", 1), (" hops:2 ", 2), ("hops:255", 255)] {
        assert_eq!(list.parse::<TrustedProxies>().unwrap(), TrustedProxies::hops(hops), "{list}");
    }
    for list in [
        "hops:",
        "hops:0",
        "hops:256",
        "hops:-1",
        "hops:two",
        "hops:2, 10.0.0.0/8",
        "loopback, hops:2",
        "hops",
        "2",
    ] {
        let error = list.parse::<TrustedProxies>().unwrap_err().to_string();
        assert!(error.contains("trusted_proxies") && error.contains("hops:N"), "{list}: {error}");
    }
}

#[test]
fn addresses_are_parsed_in_every_common_form() {
    check(&[
        ("127.0.0.1", &[("x-forwarded-for", "192.0.2.7:4711")], "192.0.2.7"),
        ("127.0.0.1", &[("x-forwarded-for", "2001:db8::17")], "2001:db8::17"),
        ("127.0.0.1", &[("x-forwarded-for", "[2001:db8::17]")], "2001:db8::17"),
        ("127.0.0.1", &[("x-forwarded-for", "[2001:db8::17]:4711")], "2001:db8::17"),
        ("127.0.0.1", &[("x-forwarded-for", "192.0.2.7, 2001:db8:ffff::1")], "192.0.2.7"),
        ("127.0.0.1", &[("x-forwarded-for", "\"[2001:db8::17]:4711\"")], "2001:db8::17"),
        ("127.0.0.1", &[("x-forwarded-for", "6.6.6.6, \"192.0.2.7\", \"10.0.0.9:80\"")], "192.0.2.7"),
        ("127.0.0.1", &[("forwarded", "for=\"[2001:db8::17]:_hidden\"")], "2001:db8::17"),
        ("127.0.0.1", &[("forwarded", "for=\"192.0.2\\.7\"")], "192.0.2.7"),
        ("127.0.0.1", &[("forwarded", "for=192.0.2.7;host=\"a,b\";proto=http")], "192.0.2.7"),
        (
            "127.0.0.1",
            &[("forwarded", "secret=\"a,b;c\\\",\";for=192.0.2.7, for=10.0.0.9;ext=\",\"")],
            "192.0.2.7",
        ),
        ("127.0.0.1", &[("forwarded", "for=192.0.2.7; proto=http;by=10.0.0.1")], "192.0.2.7"),
        ("127.0.0.1", &[("forwarded", "For=\"[2001:db8:cafe::17]:4711\"")], "2001:db8:cafe::17"),
        ("127.0.0.1", &[("forwarded", "for=192.0.2.7, FOR=\"10.0.0.9:80\"")], "192.0.2.7"),
        // IPv4-mapped IPv6 addresses: on the socket, as a hop and as the client.
        ("::ffff:127.0.0.1", &[("x-forwarded-for", "192.0.2.7")], "192.0.2.7"),
        ("127.0.0.1", &[("x-forwarded-for", "192.0.2.7, ::ffff:10.0.0.9")], "192.0.2.7"),
        ("127.0.0.1", &[("x-forwarded-for", "::ffff:192.0.2.7")], "192.0.2.7"),
        ("127.0.0.1", &[("x-forwarded-for", "[::ffff:192.0.2.7]:1")], "192.0.2.7"),
        ("::ffff:198.51.100.4", &[("x-forwarded-for", "192.0.2.7")], "198.51.100.4"),
    ]);
}

#[test]
fn a_prefix_must_be_a_path_from_a_trusted_proxy() {
    let proxies: TrustedProxies = "loopback".parse().unwrap();
    let prefix = |socket: &str, lines: &[(&'static str, &str)]| {
        proxies.peer(Some(addr(socket)), &headers(lines)).prefix.map(String::from)
    };
    let name = "x-forwarded-prefix";
    let longest = "/".to_owned() + &"x".repeat(LONGEST_PREFIX - 1);
    for (line, expected) in
        [("/rt", "/rt"), ("/rt/", "/rt"), ("/a/b-c_d.e~1", "/a/b-c_d.e~1"), ("/", ""), (&longest, &longest)]
    {
        assert_eq!(prefix("127.0.0.1", &[(name, line)]).as_deref(), Some(expected), "{line}");
        assert_eq!(prefix("198.51.100.4", &[(name, line)]), None, "not from a trusted proxy");
        let beside = [(name, line), ("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "https")];
        assert_eq!(prefix("127.0.0.1", &beside).as_deref(), Some(expected), "{line}");
    }
    let too_long = longest + "x";
    for wrong in [
        "",
        "rt",
        "//evil.example",
        "//",
        "/rt//",
        "/a//b",
        "/..",
        "/rt/../x",
        "/./x",
        "/a/.",
        "https://evil.example/",
        "/a;Domain=evil.example",
        "/a, /b",
        "/a b",
        "/a\t",
        "/a\"",
        "/<x>",
        "/%0d%0a",
        "/a?b",
        "/a#b",
        "/\\evil.example",
        "/\u{fc}",
        &too_long,
    ] {
        assert_eq!(prefix("127.0.0.1", &[(name, wrong)]), None, "{wrong:?}");
    }
    assert_eq!(prefix("127.0.0.1", &[(name, "/a"), (name, "/a")]), None, "one header only");
}

#[test]
fn host_and_scheme_come_from_the_nearest_proxy() {
    type HostCase =
        (&'static str, &'static [(&'static str, &'static str)], Option<&'static str>, Option<bool>);
    let cases: &[HostCase] = &[
        ("127.0.0.1", &[("host", "Inner:8080")], None, None),
        (
            "127.0.0.1",
            &[("host", "inner"), ("x-forwarded-host", "Shop.example"), ("x-forwarded-proto", "HTTPS")],
            Some("shop.example"),
            Some(true),
        ),
        (
            "127.0.0.1",
            &[("host", "inner"), ("x-forwarded-host", "evil.example, shop.example:8443")],
            Some("shop.example:8443"),
            None,
        ),
        (
            "127.0.0.1",
            &[("x-forwarded-host", "evil.example"), ("x-forwarded-host", "shop.example")],
            Some("shop.example"),
            None,
        ),
        ("127.0.0.1", &[("x-forwarded-proto", "https, http")], None, Some(false)),
        ("127.0.0.1", &[("x-forwarded-proto", "gopher")], None, None),
        ("127.0.0.1", &[("x-forwarded-proto", "wss")], None, Some(true)),
        (
            "127.0.0.1",
            &[("host", "inner"), ("forwarded", "for=192.0.2.7;host=\"shop.example:8443\";proto=https")],
            Some("shop.example:8443"),
            Some(true),
        ),
        // Host and scheme from an untrusted peer are ignored.
        (
            "198.51.100.4",
            &[("host", "shop.example"), ("x-forwarded-host", "evil"), ("x-forwarded-proto", "https")],
            None,
            None,
        ),
        ("198.51.100.4", &[("host", "shop"), ("forwarded", "host=evil;proto=https")], None, None),
        // An invalid host is ignored.
        ("127.0.0.1", &[("host", "inner"), ("x-forwarded-host", "a b")], None, None),
        ("127.0.0.1", &[("x-forwarded-host", "user@evil")], None, None),
        ("127.0.0.1", &[("x-forwarded-host", "[::1]:8080")], Some("[::1]:8080"), None),
    ];
    let proxies: TrustedProxies = "loopback".parse().unwrap();
    for (socket, lines, host, https) in cases {
        let peer = proxies.peer(Some(addr(socket)), &headers(lines));
        let found = peer.host.as_ref().map(Authority::as_str);
        assert_eq!((found, peer.https), (*host, *https), "{socket} {lines:?}");
    }
}

#[test]
fn without_proxies_or_a_known_socket_nothing_is_trusted() {
    let lines = headers(&[("x-forwarded-for", "192.0.2.7"), ("x-forwarded-host", "evil"), ("host", "shop")]);
    let none = TrustedProxies::default().peer(Some(addr("127.0.0.1")), &lines);
    let seen = Some(addr("127.0.0.1"));
    assert_eq!(none, ForwardedPeer { addr: seen, ..ForwardedPeer::default() });
    let all: TrustedProxies = "0.0.0.0/0, ::/0".parse().unwrap();
    assert_eq!(all.peer(None, &lines), ForwardedPeer::default());
}

#[test]
fn the_list_accepts_addresses_networks_and_keywords() {
    let cases = [
        ("", "127.0.0.1", false),
        (" , ", "127.0.0.1", false),
        ("127.0.0.1", "127.0.0.1", true),
        ("127.0.0.1", "127.0.0.2", false),
        ("127.0.0.1, 10.0.0.0/8", "10.255.0.1", true),
        ("10.1.2.3/8", "10.9.9.9", true),
        ("loopback", "127.8.8.8", true),
        ("loopback", "::1", true),
        ("loopback", "10.0.0.1", false),
        ("private", "172.31.255.255", true),
        ("private", "172.32.0.0", false),
        ("private", "192.168.1.1", true),
        ("private", "fd00::1", true),
        ("private", "127.0.0.1", false),
        ("private", "::ffff:10.0.0.1", true),
        ("::ffff:10.0.0.0/104", "10.0.0.1", true),
        ("::ffff:10.0.0.1", "10.0.0.1", true),
        ("2001:db8::/32", "2001:db8:1::1", true),
    ];
    for (list, address, expected) in cases {
        let proxies: TrustedProxies = list.parse().unwrap();
        assert_eq!(proxies.contains(addr(address)), expected, "{list:?} {address}");
    }
}

#[test]
fn the_error_contains_the_invalid_entry() {
    for (list, entry) in [
        ("127.0.0.1, proxy.local", "proxy.local"),
        ("10.0.0.0/33", "10.0.0.0/33"),
        ("10.0.0.0/8 127.0.0.1", "10.0.0.0/8 127.0.0.1"),
        ("Loopback", "Loopback"),
        ("::ffff:10.0.0.0/64, ::1", "::ffff:10.0.0.0/64"),
    ] {
        let error = list.parse::<TrustedProxies>().unwrap_err().to_string();
        assert!(error.contains(&format!("{entry:?}")), "{error}");
    }
}
