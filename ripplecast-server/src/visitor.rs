//! Who asks: the address that limits are counted by, and whether it is this very machine.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::ConnectInfo,
    http::{HeaderMap, header::HOST, request::Parts},
};
use ripplecast::Hub;

/// Headers that a proxy adds. With one of them, a peer on loopback is a proxy and not a person at this machine.
const FORWARDING: [&str; 7] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "cf-connecting-ip",
];

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Visitor {
    /// The address, through trusted proxies; `None` when the server does not know it.
    pub(crate) addr: Option<IpAddr>,
    /// Whether the peer is loopback itself and no proxy's header came.
    pub(crate) is_loopback: bool,
}

impl Visitor {
    /// Who sent this request.
    pub(crate) fn of(hub: &Hub, parts: &Parts) -> Self {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_canonical());
        let forwarded = FORWARDING.iter().any(|name| parts.headers.contains_key(*name));
        Self {
            addr: hub.peer_addr(parts),
            is_loopback: peer.is_some_and(|peer| peer.is_loopback()) && !forwarded,
        }
    }
}

/// Whether the request names this machine as its host. A page of somebody else's that was led here by its name server
/// (DNS rebinding) names its own.
pub(crate) fn asks_for_loopback(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    let bare = host.strip_prefix('[').map_or_else(
        || host.rsplit_once(':').map_or(host, |(name, _port)| name),
        |rest| rest.split(']').next().unwrap_or_default(),
    );
    bare.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|addr: IpAddr| addr.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, Request};

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
    async fn only_a_bare_loopback_peer_is_this_machine() {
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

    #[test]
    fn a_host_is_this_machine_by_name_or_address() {
        for (host, expected) in [
            ("localhost", true),
            ("LocalHost:8080", true),
            ("127.0.0.1:8080", true),
            ("[::1]:8080", true),
            ("[::1]", true),
            ("example.org", false),
            ("localhost.example.org:80", false),
            ("127.0.0.1.example.org", false),
            ("192.0.2.7", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
            assert_eq!(asks_for_loopback(&headers), expected, "{host}");
        }
        let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("localhost"))]);
        headers.append(HOST, HeaderValue::from_static("example.org"));
        assert!(!asks_for_loopback(&headers));
        assert!(!asks_for_loopback(&HeaderMap::new()));
    }
}
