//! Limits of connections per address.

use super::*;

/// Starts a server behind a proxy on this machine that admits three connections from each address.
fn counting(prefix: u8) -> Site {
    Site::start(
        Server::Own,
        |hub| {
            let hub = hub.shards(1).trusted_proxies("loopback".parse().unwrap());
            hub.max_connections_per_address(3).ipv6_prefix(prefix)
        },
        |hub, router| router.route("/echo", hub.ws(Echo::default())),
    )
}

/// Sends an upgrade request with each of these headers, and returns the admitted connections.
fn admitted(site: &Site, headers: impl Iterator<Item = String>) -> Vec<TcpStream> {
    let answers: Vec<_> = headers.map(|header| upgrade(site, "/echo", &format!("{header}\r\n"))).collect();
    assert!(answers.iter().all(|(status, _)| [101, 429].contains(status)), "{answers:?}");
    answers.into_iter().filter(|(status, _)| *status == 101).map(|(_, stream)| stream).collect()
}

#[test]
fn connections_of_one_ipv6_network_count_together() {
    for (prefix, expected) in [(64, 3), (128, 20)] {
        let site = counting(prefix);
        let headers = (1..=20).map(|n| format!("X-Forwarded-For: 2001:db8:1:2:{n:x}::{n:x}"));
        let kept = admitted(&site, headers);
        assert_eq!(kept.len(), expected, "/{prefix}");
        assert_eq!(
            status(&site, "/echo", "X-Forwarded-For: 2001:db8:1:3::1\r\n"),
            101,
            "a different network"
        );
        site.stop();
    }
}

#[test]
fn a_forwarded_address_of_loopback_is_counted() {
    for header in ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: nonsense", "Forwarded: for=\"[::1]:80\""] {
        let site = counting(64);
        let kept = admitted(&site, (0..8).map(|_| header.to_owned()));
        assert_eq!(kept.len(), 3, "{header}");
        let direct = admitted(&site, (0..8).map(|_| "X-Other: 1".to_owned()));
        assert_eq!(direct.len(), 8, "connections from this machine itself are not counted");
        site.stop();
    }
}
