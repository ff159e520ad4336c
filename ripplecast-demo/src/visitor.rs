//! The visitor who sends a request: the address that limits count by, and whether it is this machine.

use std::net::{IpAddr, SocketAddr};

use axum::{extract::ConnectInfo, http::request::Parts};
use ripplecast::Hub;

/// Headers that a proxy adds. With any of them, a loopback peer is a proxy, not a person at this machine.
const FORWARDING: [&str; 8] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-prefix",
    "x-real-ip",
    "cf-connecting-ip",
];

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visitor {
    /// The address, as reported by trusted proxies; `None` if unknown.
    pub addr: Option<IpAddr>,
    /// The network that limits count this address under.
    pub network: Option<IpAddr>,
    /// Whether the peer is on loopback and sent no forwarding header.
    pub is_loopback: bool,
}

impl Visitor {
    /// Returns the sender of a request.
    pub fn of(hub: &Hub, parts: &Parts) -> Self {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_canonical());
        let forwarded = FORWARDING.iter().any(|name| parts.headers.contains_key(*name));
        let addr = hub.peer_addr(parts);
        Self {
            addr,
            network: addr.map(|addr| hub.network_of(addr)),
            is_loopback: peer.is_some_and(|peer| peer.is_loopback()) && !forwarded,
        }
    }
}

/// Returns whether the request addresses this machine. A page of another site whose name resolves to this machine (DNS
/// rebinding) names a different host.
pub fn asks_for_loopback(hub: &Hub, parts: &Parts) -> bool {
    matches!(hub.authority(parts), Ok(Some(authority)) if authority.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, Request, header::HOST};

    use super::*;

    fn parts(peer: &str, headers: &[(&'static str, &'static str)]) -> Parts {
        let mut parts = Request::new(()).into_parts().0;
        let peer: SocketAddr = peer.parse().unwrap();
        parts.extensions.insert(ConnectInfo(peer));
        for (name, value) in headers {
            parts.headers.append(*name, HeaderValue::from_static(value));
        }
        parts
    }

    #[tokio::test]
    async fn only_a_loopback_peer_without_a_proxy_is_this_machine() {
        let hub = Hub::builder().build().unwrap();
        for (peer, headers, expected) in [
            ("127.0.0.1:5", &[][..], true),
            ("[::1]:5", &[], true),
            ("[::ffff:127.0.0.1]:5", &[], true),
            ("192.0.2.7:5", &[], false),
            ("127.0.0.1:5", &[("x-forwarded-for", "192.0.2.7")], false),
            ("127.0.0.1:5", &[("forwarded", "for=127.0.0.1")], false),
            ("127.0.0.1:5", &[("via", "1.1 somewhere")], false),
        ] {
            let visitor = Visitor::of(&hub, &parts(peer, headers));
            assert_eq!(visitor.is_loopback, expected, "{peer} {headers:?}");
        }
    }

    #[tokio::test]
    async fn a_visitor_counts_under_its_home_network() {
        let hub = Hub::builder().build().unwrap();
        let network = |peer| Visitor::of(&hub, &parts(peer, &[])).network;
        assert_eq!(network("[2001:db8:1:2:3::4]:5"), network("[2001:db8:1:2::9]:5"));
        assert_ne!(network("[2001:db8:1:2::4]:5"), network("[2001:db8:1:3::4]:5"));
        assert_eq!(network("[::ffff:192.0.2.1]:5"), network("192.0.2.1:5"));
    }

    #[tokio::test]
    async fn asks_for_loopback_checks_the_requested_host() {
        let hub = Hub::builder().build().unwrap();
        let asks = |target: &str, hosts: &[&'static str]| {
            let mut request = Request::get(target).body(()).unwrap();
            for host in hosts {
                request.headers_mut().append(HOST, HeaderValue::from_static(host));
            }
            asks_for_loopback(&hub, &request.into_parts().0)
        };
        assert!(asks("/metrics", &["127.0.0.1:8080"]) && asks("/metrics", &["localhost"]));
        assert!(!asks("/metrics", &["example.org"]) && !asks("/metrics", &[]));
        assert!(!asks("/metrics", &["localhost", "localhost"]));
        assert!(!asks("http://evil.example/metrics", &["127.0.0.1"]), "the target counts, not the header");
    }
}
