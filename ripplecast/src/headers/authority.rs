//! The host that a request is for (RFC 9110, section 7.2; RFC 9112, section 3.2).
//!
//! One function determines it, and everything that compares, trusts or repeats a host uses that function: the
//! origin check, the forwarded host, the loopback check of the inspector. If two places parsed it
//! differently, a request could pass a check for one host and be served for another.

use std::{fmt, net::IpAddr, net::Ipv6Addr};

use axum::response::Response;
use http::{HeaderMap, Uri, Version, header, request::Parts};

use crate::{Error, log::limited, response::plain};

/// The host that a request is for, and the port if there is one, in lower case.
///
/// Returned by [`Hub::authority`](crate::Hub::authority) and
/// [`Request::authority`](crate::Request::authority). It is always valid: a name in the form that browsers
/// send, an IPv4 address, or an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    text: Box<str>,
    /// Length of the host, including brackets.
    host: usize,
    port: Option<u16>,
}

impl Authority {
    /// Parses `host` or `host:port`.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        Named::parse(text).map(Self::from)
    }

    /// Returns the authority of a request.
    ///
    /// A host in the target, as in `GET http://example.com/ HTTP/1.1` and in HTTP/2, takes precedence over
    /// the header `Host`. Returns `None` only for an HTTP/1.0 request, which need not have a host.
    pub(crate) fn of(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<Option<Self>, BadAuthority> {
        Ok(Named::of(version, uri, headers)?.map(Self::from))
    }

    /// Checks a request as [`of`](Self::of) does, without allocating.
    pub(crate) fn check(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), BadAuthority> {
        Named::of(version, uri, headers).map(drop)
    }

    /// Like [`of`](Self::of), for the parts of a request.
    pub(crate) fn of_parts(parts: &Parts) -> Result<Option<Self>, BadAuthority> {
        Self::of(parts.version, &parts.uri, &parts.headers)
    }

    /// Returns the host and port as in a URL.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the host; an IPv6 address is in brackets.
    pub fn host(&self) -> &str {
        &self.text[..self.host]
    }

    /// Returns the port if the request has one.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Returns whether the host is this machine: `localhost` or a loopback address. In a DNS rebinding
    /// attack, another site's name resolves to this machine, but the host is still that name.
    pub fn is_loopback(&self) -> bool {
        let host = self.host();
        let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        host == "localhost"
            || address.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
    }
}

impl From<Named<'_>> for Authority {
    fn from(Named { text, host, port }: Named<'_>) -> Self {
        Self { text: text.to_ascii_lowercase().into(), host, port }
    }
}

/// A valid authority as written in the request, in any case.
struct Named<'a> {
    text: &'a str,
    /// Length of the host, including brackets.
    host: usize,
    port: Option<u16>,
}

impl<'a> Named<'a> {
    fn parse(text: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (text, port) = match text.strip_suffix(':') {
            // An empty port is allowed (RFC 3986, section 3.2.3).
            Some(host) => (host, AuthorityHost::parse_with_port(host).filter(|(_, port)| port.is_none())?.1),
            None => (text, AuthorityHost::parse_with_port(text)?.1),
        };
        let host = match port {
            Some(_) => text.bytes().rposition(|byte| byte == b':')?,
            None => text.len(),
        };
        Some(Self { text, host, port })
    }

    /// See [`Authority::of`].
    fn of(version: Version, uri: &'a Uri, headers: &'a HeaderMap) -> Result<Option<Self>, BadAuthority> {
        let read = |text: &'a [u8]| Self::parse(text).ok_or(BadAuthority::Malformed);
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = hosts.next().map(|host| read(host.as_bytes())).transpose()?;
        if hosts.next().is_some() {
            return Err(BadAuthority::Repeated);
        }
        let target = uri.authority().map(|target| read(target.as_str().as_bytes())).transpose()?;
        match (target, host) {
            (_, None) if version == Version::HTTP_11 => Err(BadAuthority::Missing),
            (None, None) if version > Version::HTTP_11 => Err(BadAuthority::Missing),
            (target, host) => Ok(target.or(host)),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a request has no valid authority. Answered with 400 (RFC 9112, section 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BadAuthority {
    Missing,
    Repeated,
    Malformed,
}

impl BadAuthority {
    fn reason(self) -> &'static str {
        match self {
            Self::Missing => "the Host header is missing; send it once, with the host of the URL",
            Self::Repeated => "there are several Host headers; send one, with the host of the URL",
            Self::Malformed => {
                "the host is not valid; send a name or an address, and the port unless it is the default"
            }
        }
    }
}

impl From<BadAuthority> for Error {
    fn from(bad: BadAuthority) -> Self {
        Self::BadRequest { reason: bad.reason().into() }
    }
}

impl From<BadAuthority> for Response {
    fn from(bad: BadAuthority) -> Self {
        limited!(DEBUG, ?bad, "a request had no valid host");
        plain(400, bad.reason())
    }
}

/// A host name or address. `example.com` and `example.com.` differ, as they do for browsers.
#[derive(Debug)]
pub(crate) enum AuthorityHost<'a> {
    /// A name or an IPv4 address, compared case-insensitively.
    Name(&'a str),
    /// An IPv6 address, parsed because it has several spellings.
    V6(Ipv6Addr),
}

impl<'a> AuthorityHost<'a> {
    /// Parses `host` or `host:port`.
    pub(crate) fn parse_with_port(text: &'a str) -> Option<(Self, Option<u16>)> {
        let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
            let (address, port) = bracketed.split_once(']')?;
            (Self::V6(address.parse().ok()?), port)
        } else {
            let (name, port) =
                text.split_at(text.bytes().position(|byte| byte == b':').unwrap_or(text.len()));
            if name.is_empty() || !name.bytes().all(|byte| HOST_BYTES[usize::from(byte)]) {
                return None;
            }
            (Self::Name(name), port)
        };
        match port {
            "" => Some((host, None)),
            _ => Some((host, Some(parse_port(port.strip_prefix(':')?)?))),
        }
    }
}

impl PartialEq for AuthorityHost<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(one), Self::Name(other)) => one.eq_ignore_ascii_case(other),
            (Self::V6(one), Self::V6(other)) => one == other,
            (Self::Name(_), Self::V6(_)) | (Self::V6(_), Self::Name(_)) => false,
        }
    }
}

/// Whether browsers keep a byte in a host name; excludes bytes that end or divide an address. A table,
/// because every byte of every request's host is checked.
const HOST_BYTES: [bool; 256] = {
    let (mut table, more) = ([false; 256], b"-._~!$&'()+;=");
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < more.len() {
        table[more[at] as usize] = true;
        at += 1;
    }
    table
};

/// Parses a port in decimal digits, without a sign.
fn parse_port(digits: &str) -> Option<u16> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    fn of(version: Version, target: &str, hosts: &[&str]) -> Result<Option<String>, BadAuthority> {
        let mut request = Request::builder().version(version).uri(target).body(()).unwrap();
        for host in hosts {
            request.headers_mut().append(header::HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap());
        }
        let authority = Authority::of_parts(&request.into_parts().0)?;
        Ok(authority.map(|authority| authority.to_string()))
    }

    #[test]
    fn the_target_takes_precedence_over_the_header() {
        let found = |target, hosts: &[&str]| of(Version::HTTP_11, target, hosts).unwrap().unwrap();
        assert_eq!(found("/", &["Here.example"]), "here.example");
        assert_eq!(found("/", &["here.example:"]), "here.example");
        assert_eq!(found("*", &["[::1]:8080"]), "[::1]:8080");
        assert_eq!(found("http://Evil.example/metrics", &["127.0.0.1"]), "evil.example");
        assert_eq!(found("http://evil.example:8080/metrics", &["127.0.0.1:80"]), "evil.example:8080");
        assert_eq!(of(Version::HTTP_2, "https://here.example/", &[]), Ok(Some("here.example".into())));
        assert_eq!(of(Version::HTTP_10, "http://here.example/", &[]), Ok(Some("here.example".into())));
    }

    #[test]
    fn exactly_one_valid_host_is_required() {
        use BadAuthority::{Malformed, Missing, Repeated};
        let bad = |target, hosts: &[&str]| of(Version::HTTP_11, target, hosts).unwrap_err();
        assert_eq!(bad("/", &[]), Missing);
        assert_eq!(bad("http://here.example/", &[]), Missing, "HTTP/1.1 always requires the header");
        assert_eq!(of(Version::HTTP_2, "/", &[]), Err(Missing));
        assert_eq!(bad("/", &["a", "b"]), Repeated);
        assert_eq!(bad("/", &["a", "a"]), Repeated);
        assert_eq!(bad("http://here.example/", &["a", "a"]), Repeated);
        let malformed = [
            "",
            ":",
            "::",
            ":80",
            "a b",
            "a,b",
            "a/b",
            "a?b",
            "a#b",
            "user@a",
            "user:word@a",
            "a:80:80",
            "a:x",
            "a:-1",
            "a:+1",
            "a:65536",
            "a:80:",
            "[::1",
            "::1",
            "[::1]a",
            "[::1]::",
            "[1.2.3.4]",
            "[fe80::1%eth0]",
            "a%2eb",
            "\u{e9}",
            "http://a",
            "a\\b",
            "a\"b",
            "<a>",
        ];
        for host in malformed {
            assert_eq!(bad("/", &[host]), Malformed, "{host:?}");
            assert_eq!(bad("http://here.example/", &[host]), Malformed, "{host:?}");
            assert_eq!(of(Version::HTTP_10, "/", &[host]), Err(Malformed), "{host:?}");
        }
        assert_eq!(bad("http://user@here.example/", &["here.example"]), Malformed);
    }

    #[test]
    fn an_http_1_0_request_needs_no_host() {
        assert_eq!(of(Version::HTTP_10, "/", &[]), Ok(None));
        assert_eq!(of(Version::HTTP_10, "/", &["a", "a"]), Err(BadAuthority::Repeated));
    }

    #[test]
    fn host_and_port_are_separated() {
        for (text, host, port) in [
            ("example.com", "example.com", None),
            ("example.com:80", "example.com", Some(80)),
            ("[::1]", "[::1]", None),
            ("[::1]:8080", "[::1]", Some(8080)),
            ("[2001:DB8::1]:", "[2001:db8::1]", None),
        ] {
            let authority = Authority::parse(text.as_bytes()).unwrap();
            assert_eq!((authority.host(), authority.port()), (host, port), "{text}");
        }
    }

    #[test]
    fn loopback_hosts_are_recognized() {
        for (host, expected) in [
            ("localhost", true),
            ("LocalHost:8080", true),
            ("127.0.0.1:8080", true),
            ("127.9.9.9", true),
            ("[::1]:8080", true),
            ("[::1]", true),
            ("[0:0::1]", true),
            ("[::ffff:127.0.0.1]", true),
            ("example.org", false),
            ("localhost.example.org:80", false),
            ("127.0.0.1.example.org", false),
            ("192.0.2.7", false),
            ("[2001:db8::1]", false),
        ] {
            let authority = Authority::parse(host.as_bytes()).unwrap();
            assert_eq!(authority.is_loopback(), expected, "{host}");
        }
    }
}
