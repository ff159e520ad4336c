//! Who asks, and for which host, when a proxy stands in front.
//!
//! Anyone can write a forwarding header. It is believed only as far as it was written by trusted proxies: the header is
//! walked from the right, where the nearest proxy wrote. Trusted proxies are named by their networks, and then the first
//! address that is no trusted proxy is the client; or by their number, and then the client is that many entries from the
//! right.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU8,
    str::FromStr,
};

use http::HeaderMap;
use ipnet::{IpNet, Ipv4Net};

use super::{authority::Authority, base_path::is_path};
use crate::Error;

/// The networks that the word `loopback` stands for.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];
/// The networks that the word `private` stands for (RFC 1918 and RFC 4193).
const PRIVATE: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_HOST: &str = "x-forwarded-host";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
const FORWARDED_PREFIX: &str = "x-forwarded-prefix";
const FORWARDED: &str = "forwarded";
/// Bytes of a forwarded path at most. A longer one makes long answers of short requests.
const LONGEST_PREFIX: usize = 256;

/// The proxies whose forwarding headers are believed. None by default.
///
/// Reads a list of addresses and networks, with the words `loopback` and `private` for the usual ones:
///
/// ```
/// use ripplecast::TrustedProxies;
///
/// let proxies: TrustedProxies = "loopback, 10.0.0.0/8, 2001:db8::7".parse()?;
/// assert!(proxies.contains("10.1.2.3".parse().unwrap()));
/// assert!("10.0.0.0/8, proxy.local".parse::<TrustedProxies>().is_err());
/// # Ok::<(), ripplecast::Error>(())
/// ```
///
/// `hops:N` trusts a number of proxies in place of networks, wherever they are; see [`TrustedProxies::hops`].
///
/// A trusted proxy must set `X-Forwarded-For` (or add to it), and set `X-Forwarded-Host` and `X-Forwarded-Proto` or
/// remove them. RFC 7239's `Forwarded` is read when none of the three is there, so a proxy that writes `Forwarded` must
/// remove the others. It must also set or remove `X-Forwarded-Prefix`, the path below which the client sees the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Trusted);

/// How trusted proxies are known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trusted {
    /// By their addresses.
    Networks(Vec<IpNet>),
    /// Each request comes through this many, at least one.
    Hops(NonZeroU8),
}

impl Default for Trusted {
    fn default() -> Self {
        Self::Networks(Vec::new())
    }
}

impl TrustedProxies {
    /// Trusts the last `hops` proxies of each request, whatever their addresses: for proxies whose addresses change, such as a
    /// load balancer of a cloud. 0 trusts none.
    ///
    /// The peer of the socket is the first hop. The client is the entry of `X-Forwarded-For` or `Forwarded` that is `hops`
    /// from the right: with one proxy the last, which that proxy wrote. Where there are fewer, the leftmost is the client;
    /// without any, the peer of the socket is. An entry that is not an address ends the walk at the entry to its right.
    /// `X-Forwarded-Host`, `-Proto` and `-Prefix` are believed as the nearest proxy wrote them.
    ///
    /// **Nothing but those proxies may reach the server's port,** and each way to it must lead through exactly `hops`
    /// proxies: a client that comes through fewer writes the entry that is believed, and so chooses its address.
    ///
    /// ```
    /// use ripplecast::TrustedProxies;
    ///
    /// let builder = ripplecast::App::builder().trusted_proxies(TrustedProxies::hops(2));
    /// assert_eq!("hops:2".parse::<TrustedProxies>()?, TrustedProxies::hops(2));
    /// # let _ = builder; Ok::<(), ripplecast::Error>(())
    /// ```
    pub fn hops(hops: u8) -> Self {
        Self(NonZeroU8::new(hops).map_or_else(Trusted::default, Trusted::Hops))
    }

    /// Whether `addr` is a trusted proxy. An IPv4 address inside an IPv6 one counts as the IPv4 address. With
    /// [`hops`](Self::hops), each peer of a socket is one.
    pub fn contains(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        match &self.0 {
            Trusted::Networks(nets) => nets.iter().any(|net| net.contains(&addr)),
            Trusted::Hops(_) => true,
        }
    }

    /// Returns who asks, and for which host, by the forwarding headers where a trusted proxy wrote them. Otherwise the
    /// address is the socket's, and the host is not known here.
    pub(crate) fn peer(&self, socket_peer: Option<IpAddr>, headers: &HeaderMap) -> ForwardedPeer {
        let addr = socket_peer.map(|addr| addr.to_canonical());
        match addr {
            Some(addr) if self.contains(addr) => {
                ForwardedPeer { prefix: prefix(headers), ..self.forwarded(addr, headers) }
            }
            _ => ForwardedPeer { addr, ..ForwardedPeer::default() },
        }
    }

    /// What the trusted proxy at `nearest` says.
    fn forwarded(&self, nearest: IpAddr, headers: &HeaderMap) -> ForwardedPeer {
        if [FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO].iter().any(|name| headers.contains_key(*name)) {
            let hops = from_the_right(headers, FORWARDED_FOR).map(|entry| node(entry?));
            return ForwardedPeer {
                addr: Some(self.client(nearest, hops)),
                is_forwarded: headers.contains_key(FORWARDED_FOR),
                host: rightmost(headers, FORWARDED_HOST).and_then(host),
                https: rightmost(headers, FORWARDED_PROTO).and_then(https),
                prefix: None,
            };
        }
        let hops = from_the_right(headers, FORWARDED).map(|hop| node(&parameter(hop?, "for")?));
        let said = |name| parameter(rightmost(headers, FORWARDED)?, name);
        ForwardedPeer {
            addr: Some(self.client(nearest, hops)),
            is_forwarded: headers.contains_key(FORWARDED),
            host: said("host").and_then(|value| host(&value)),
            https: said("proto").and_then(|value| https(&value)),
            prefix: None,
        }
    }

    /// Walks from the nearest proxy outwards to the client, or to the last readable address.
    fn client(&self, nearest: IpAddr, entries: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
        let mut entries = entries.map_while(|entry| entry);
        match self.0 {
            Trusted::Hops(hops) => entries.take(hops.get().into()).last().unwrap_or(nearest),
            Trusted::Networks(_) => {
                let mut client = nearest;
                while self.contains(client)
                    && let Some(addr) = entries.next()
                {
                    client = addr;
                }
                client
            }
        }
    }
}

impl FromStr for TrustedProxies {
    type Err = Error;

    fn from_str(list: &str) -> Result<Self, Error> {
        /// What stands before a number of proxies.
        const HOPS: &str = "hops:";
        if let Some(hops) = list.trim().strip_prefix(HOPS) {
            let reason = "expected hops:N with N from 1 to 255, and nothing beside it";
            let hops = hops.parse().map_err(|_| Error::setting("trusted_proxies", list, reason))?;
            return Ok(Self(Trusted::Hops(hops)));
        }
        let mut nets = Vec::new();
        for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            match entry {
                "loopback" => nets.extend(LOOPBACK.iter().filter_map(|net| network(net))),
                "private" => nets.extend(PRIVATE.iter().filter_map(|net| network(net))),
                _ => nets.push(network(entry).ok_or_else(|| bad_entry(entry, list))?),
            }
        }
        Ok(Self(Trusted::Networks(nets)))
    }
}

/// Who asks, as far as it can be known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ForwardedPeer {
    /// The client's address; `None` when the server didn't say who is at the other end of the socket.
    pub(crate) addr: Option<IpAddr>,
    /// Whether the address comes from a proxy's header and not from the socket.
    pub(crate) is_forwarded: bool,
    /// The host that the client asked for.
    pub(crate) host: Option<Authority>,
    /// Whether the client came over TLS; `None` when nobody said.
    pub(crate) https: Option<bool>,
    /// The path below which the client sees the server, without a slash at its end; empty for the root.
    pub(crate) prefix: Option<Box<str>>,
}

/// The error for an entry that is neither an address, nor a network, nor a word.
fn bad_entry(entry: &str, list: &str) -> Error {
    Error::setting(
        "trusted_proxies",
        list,
        format!(
            "{entry:?} is not an address or a network; write 10.0.0.1, 10.0.0.0/8, ::1, loopback or private; or hops:N \
             alone, for the last N proxies wherever they are"
        ),
    )
}

/// A network, or an address as the network of itself alone.
fn network(entry: &str) -> Option<IpNet> {
    /// Bits of an IPv6 address that come before the IPv4 address inside.
    const MAPPED: u8 = 96;
    let net = entry.parse().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from)).ok()?;
    match (net.addr().to_canonical(), net) {
        (IpAddr::V4(addr), IpNet::V6(net)) => {
            let prefix = net.prefix_len().checked_sub(MAPPED)?;
            Ipv4Net::new(addr, prefix).ok().map(IpNet::V4)
        }
        (_, net) => Some(net),
    }
}

/// The entries of a list header from the last of the last line to the first; `None` for one that is no text.
///
/// A comma between quotes belongs to its entry (RFC 7239, section 4). Quotes are paired from the right as well: entries
/// of proxies are read first, so that a client's unclosed quote can't hide them.
fn from_the_right<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = Option<&'a str>> + use<'a> {
    let lines = headers.get_all(name).iter().rev();
    lines.flat_map(|line| {
        let mut rest = Some(line.as_bytes());
        std::iter::from_fn(move || {
            let line = rest?;
            let comma = last_comma(line);
            rest = comma.map(|comma| &line[..comma]);
            let entry = &line[comma.map_or(0, |comma| comma + 1)..];
            Some(std::str::from_utf8(entry).ok().map(str::trim))
        })
    })
}

/// The last comma outside quotes.
fn last_comma(line: &[u8]) -> Option<usize> {
    let is_escaped = |at: usize| line[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1;
    let mut quoted = false;
    for (at, byte) in line.iter().enumerate().rev() {
        match byte {
            b'"' if !is_escaped(at) => quoted = !quoted,
            b',' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// The last entry of a list header: what the nearest proxy wrote.
fn rightmost<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    from_the_right(headers, name).next().flatten()
}

/// The value of a parameter in one hop of a `Forwarded` header; `None` if it is missing or doubled, or the hop is badly quoted.
fn parameter(hop: &str, name: &str) -> Option<String> {
    let mut found = None;
    let mut rest = hop;
    while let Some(at) = rest.find(['=', ';']) {
        let (key, behind) = (rest[..at].trim(), &rest[at + 1..]);
        if rest[at..].starts_with(';') {
            rest = behind;
            continue;
        }
        let behind = behind.trim_start();
        let (value, behind) = match behind.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let (value, behind) = behind.split_at(behind.find(';').unwrap_or(behind.len()));
                (value.trim_end().to_owned(), behind)
            }
        };
        let behind = behind.trim_start();
        rest = if behind.is_empty() { behind } else { behind.strip_prefix(';')? };
        // Where a proxy passes a quote on as it came, a client's own quote can pair with it and swallow the proxy's entry.
        if value.contains(',') && value.to_ascii_lowercase().contains("for=") {
            return None;
        }
        if key.eq_ignore_ascii_case(name) && found.replace(value).is_some() {
            return None;
        }
    }
    found
}

/// Reads a quoted string behind its first quote; what it holds, and what follows it. `None` if it does not end.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((value, &quoted[at + 1..])),
            (_, '\\') => value.push(characters.next()?.1),
            (_, character) => value.push(character),
        }
    }
}

/// The address in an entry: plain, in brackets, with a port, or in quotes.
fn node(entry: &str) -> Option<IpAddr> {
    let quoted = || entry.strip_prefix('"')?.strip_suffix('"');
    let entry = quoted().unwrap_or(entry);
    // A port may be hidden (RFC 7239, section 6.3).
    let entry = entry.rsplit_once(":_").map_or(entry, |(address, _)| address);
    let bracketed = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    entry
        .parse()
        .ok()
        .or_else(|| entry.parse().ok().map(|addr: SocketAddr| addr.ip()))
        .or_else(bracketed)
        .map(|addr| addr.to_canonical())
}

/// A host with or without a port; `None` if it is not valid.
fn host(value: &str) -> Option<Authority> {
    Authority::parse(value.as_bytes())
}

/// The path that a proxy says it has removed. `None` if it is not valid, or there are several: a proxy that adds a header
/// beside that of its client vouches for neither.
fn prefix(headers: &HeaderMap) -> Option<Box<str>> {
    let mut lines = headers.get_all(FORWARDED_PREFIX).iter();
    let line = lines.next().filter(|_| lines.next().is_none())?.to_str().ok()?;
    let path = line.strip_suffix('/').unwrap_or(line);
    let is_valid = line == "/" || (path.len() <= LONGEST_PREFIX && is_path(path));
    is_valid.then(|| path.into())
}

/// Whether a scheme is a secure one.
fn https(scheme: &str) -> Option<bool> {
    const SECURE: [&str; 2] = ["https", "wss"];
    const PLAIN: [&str; 2] = ["http", "ws"];
    let is = |names: [&str; 2]| names.iter().any(|name| scheme.eq_ignore_ascii_case(name));
    if is(SECURE) { Some(true) } else { is(PLAIN).then_some(false) }
}

#[cfg(test)]
mod tests {
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

    /// Socket peer, header lines, the client that must come out; the proxies are loopback and 10/8.
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
            // All of them are trusted: the farthest is the client, a machine of our own.
            ("127.0.0.1", &[("x-forwarded-for", "10.0.0.9, 10.0.0.8")], "10.0.0.9"),
            // Repeated headers are one list, the later line nearer to us.
            ("::1", &[("x-forwarded-for", "192.0.2.7"), ("x-forwarded-for", "10.0.0.9")], "192.0.2.7"),
            ("::1", &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.7")], "192.0.2.7"),
        ]);
    }

    #[test]
    fn a_client_cannot_choose_its_address() {
        check(&[
            // The socket's own peer is no proxy, so nothing it says counts.
            ("198.51.100.4", &[("x-forwarded-for", "192.0.2.7")], "198.51.100.4"),
            ("198.51.100.4", &[("x-forwarded-for", "127.0.0.1")], "198.51.100.4"),
            ("198.51.100.4", &[("forwarded", "for=192.0.2.7")], "198.51.100.4"),
            // The client wrote the left part, the proxy added what it saw.
            ("127.0.0.1", &[("x-forwarded-for", "6.6.6.6, 192.0.2.7")], "192.0.2.7"),
            ("127.0.0.1", &[("x-forwarded-for", "127.0.0.1, 10.0.0.1, 192.0.2.7, 10.0.0.9")], "192.0.2.7"),
            // A second header of the client's, beside the one that the proxy writes.
            ("127.0.0.1", &[("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=6.6.6.6")], "192.0.2.7"),
            ("127.0.0.1", &[("forwarded", "for=6.6.6.6"), ("x-forwarded-proto", "https")], "127.0.0.1"),
            // A quote left open swallows nothing that comes behind it.
            ("127.0.0.1", &[("forwarded", "for=\"6.6.6.6, for=192.0.2.7")], "192.0.2.7"),
            ("127.0.0.1", &[("forwarded", "for=\"6.6.6.6, for=\"[2001:db8::1]:80\"")], "2001:db8::1"),
            ("127.0.0.1", &[("forwarded", "for=\"6.6.6.6, for=192.0.2.7;ext=\"x\"")], "192.0.2.7"),
            ("127.0.0.1", &[("forwarded", "for=6.6.6.6;a=\"\\, for=192.0.2.7;ext=\"x,y\"")], "192.0.2.7"),
            ("127.0.0.1", &[("x-forwarded-for", "\"6.6.6.6, 192.0.2.7")], "192.0.2.7"),
            ("127.0.0.1", &[("x-forwarded-for", "\", 192.0.2.7")], "192.0.2.7"),
            // If a client's quote pairs with one that the proxy passed on unescaped, it hides the proxy's entry: no
            // entry is trusted.
            ("127.0.0.1", &[("forwarded", "for=6.6.6.6;x=\", for=192.0.2.7;host=a\"")], "127.0.0.1"),
            ("127.0.0.1", &[("forwarded", "for=\"192.0.2.7\"x")], "127.0.0.1"),
            ("127.0.0.1", &[("forwarded", "for=192.0.2.7;for=6.6.6.6")], "127.0.0.1"),
            ("127.0.0.1", &[("forwarded", "host=\"a;for=6.6.6.6\";proto=http, for=192.0.2.7")], "192.0.2.7"),
        ]);
    }

    #[test]
    fn garbage_ends_the_walk_at_the_last_good_address() {
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
    fn with_hops_the_client_is_so_many_entries_from_the_right() {
        // Number of hops, header lines, the client that must come out; the socket's peer is 198.51.100.4.
        type Lines = &'static [(&'static str, &'static str)];
        let cases: &[(u8, Lines, &str)] = &[
            (1, &[], "198.51.100.4"),
            (1, &[("x-forwarded-for", "192.0.2.7")], "192.0.2.7"),
            // What the client wrote itself stands further left.
            (1, &[("x-forwarded-for", "127.0.0.1, 192.0.2.7")], "192.0.2.7"),
            (2, &[("x-forwarded-for", "127.0.0.1, 192.0.2.7, 10.0.0.9")], "192.0.2.7"),
            (2, &[("x-forwarded-for", "127.0.0.1, 192.0.2.7"), ("x-forwarded-for", "10.0.0.9")], "192.0.2.7"),
            (3, &[("x-forwarded-for", "192.0.2.7, 203.0.113.5, 10.0.0.9")], "192.0.2.7"),
            // Private addresses are clients as others are.
            (1, &[("x-forwarded-for", "127.0.0.1, 10.5.5.6")], "10.5.5.6"),
            // Fewer than there should be: the leftmost.
            (3, &[("x-forwarded-for", "192.0.2.7, 10.0.0.9")], "192.0.2.7"),
            (255, &[("x-forwarded-for", "192.0.2.7")], "192.0.2.7"),
            // What is not an address ends the walk.
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
        let lines =
            headers(&[("x-forwarded-host", "evil, shop.example"), ("x-forwarded-proto", "http, https")]);
        let peer = TrustedProxies::hops(2).peer(Some(addr("198.51.100.4")), &lines);
        let host = peer.host.as_ref().map(Authority::as_str);
        assert_eq!((host, peer.https), (Some("shop.example"), Some(true)), "the nearest proxy's word");
        let none = TrustedProxies::hops(0);
        assert_eq!(none, TrustedProxies::default());
        assert_eq!(none.peer(Some(addr("198.51.100.4")), &lines).host, None);
        assert_eq!(TrustedProxies::hops(1).peer(None, &lines), ForwardedPeer::default());
    }

    #[test]
    fn hops_stand_alone_in_the_list() {
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
    fn addresses_are_read_in_every_usual_form() {
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
            // IPv4 inside IPv6, on the socket, as a hop and as the client.
            ("::ffff:127.0.0.1", &[("x-forwarded-for", "192.0.2.7")], "192.0.2.7"),
            ("127.0.0.1", &[("x-forwarded-for", "192.0.2.7, ::ffff:10.0.0.9")], "192.0.2.7"),
            ("127.0.0.1", &[("x-forwarded-for", "::ffff:192.0.2.7")], "192.0.2.7"),
            ("127.0.0.1", &[("x-forwarded-for", "[::ffff:192.0.2.7]:1")], "192.0.2.7"),
            ("::ffff:198.51.100.4", &[("x-forwarded-for", "192.0.2.7")], "198.51.100.4"),
        ]);
    }

    #[test]
    fn a_prefix_is_a_trusted_proxys_word_and_a_path() {
        let proxies: TrustedProxies = "loopback".parse().unwrap();
        let prefix = |socket: &str, lines: &[(&'static str, &str)]| {
            proxies.peer(Some(addr(socket)), &headers(lines)).prefix.map(String::from)
        };
        let name = "x-forwarded-prefix";
        let longest = "/".to_owned() + &"x".repeat(LONGEST_PREFIX - 1);
        for (line, expected) in [
            ("/rt", "/rt"),
            ("/rt/", "/rt"),
            ("/a/b-c_d.e~1", "/a/b-c_d.e~1"),
            ("/", ""),
            (&longest, &longest),
        ] {
            assert_eq!(prefix("127.0.0.1", &[(name, line)]).as_deref(), Some(expected), "{line}");
            assert_eq!(prefix("198.51.100.4", &[(name, line)]), None, "a stranger's word");
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
    fn host_and_scheme_are_the_nearest_proxys_word() {
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
            // What a stranger says about host and scheme counts for nothing.
            (
                "198.51.100.4",
                &[("host", "shop.example"), ("x-forwarded-host", "evil"), ("x-forwarded-proto", "https")],
                None,
                None,
            ),
            ("198.51.100.4", &[("host", "shop"), ("forwarded", "host=evil;proto=https")], None, None),
            // A host that is none is not passed on.
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
    fn without_proxies_or_a_known_socket_nothing_is_believed() {
        let lines =
            headers(&[("x-forwarded-for", "192.0.2.7"), ("x-forwarded-host", "evil"), ("host", "shop")]);
        let none = TrustedProxies::default().peer(Some(addr("127.0.0.1")), &lines);
        let seen = Some(addr("127.0.0.1"));
        assert_eq!(none, ForwardedPeer { addr: seen, ..ForwardedPeer::default() });
        let all: TrustedProxies = "0.0.0.0/0, ::/0".parse().unwrap();
        assert_eq!(all.peer(None, &lines), ForwardedPeer::default());
    }

    #[test]
    fn the_list_takes_addresses_networks_and_words() {
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
    fn a_bad_entry_is_named() {
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
}
