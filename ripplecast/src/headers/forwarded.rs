//! The client's address and the requested host behind proxies.
//!
//! Anyone can send a forwarding header, so it is trusted only as far as trusted proxies wrote it. Entries are
//! read from the right, where the nearest proxy wrote. If trusted proxies are given as networks, the client
//! is the first address that is not a trusted proxy. If they are given as a number of hops, the client is
//! that many entries from the right.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU8,
    str::FromStr,
};

use http::HeaderMap;
use ipnet::{IpNet, Ipv4Net};

use super::{authority::Authority, base_path::is_path};
use crate::Error;

/// The networks of the keyword `loopback`.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];
/// The networks of the keyword `private` (RFC 1918 and RFC 4193).
const PRIVATE: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_HOST: &str = "x-forwarded-host";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
const FORWARDED_PREFIX: &str = "x-forwarded-prefix";
const FORWARDED: &str = "forwarded";
/// Maximum length of a forwarded path in bytes. A longer one would make long responses to short requests.
const LONGEST_PREFIX: usize = 256;

/// The proxies whose forwarding headers are trusted. None by default.
///
/// Parses a list of addresses and networks, with the keywords `loopback` and `private` for common ones:
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
/// `hops:N` trusts a number of proxies instead, whatever their networks; see [`TrustedProxies::hops`].
///
/// A trusted proxy must set or append to `X-Forwarded-For`, and set or remove `X-Forwarded-Host` and
/// `X-Forwarded-Proto`. The standard header `Forwarded` (RFC 7239) is read only if none of these three is
/// present, so a proxy that sends `Forwarded` must remove them. It must also set or remove
/// `X-Forwarded-Prefix`, the path below which the client sees the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Trusted);

/// How trusted proxies are identified.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trusted {
    /// By address.
    Networks(Vec<IpNet>),
    /// By their number: each request passes through this many, at least one.
    Hops(NonZeroU8),
}

impl Default for Trusted {
    fn default() -> Self {
        Self::Networks(Vec::new())
    }
}

impl TrustedProxies {
    /// Trusts the last `hops` proxies of each request, whatever their addresses. Use it for proxies whose
    /// addresses change, such as a cloud load balancer. 0 trusts none.
    ///
    /// The socket's peer is the first hop. The client is the entry of `X-Forwarded-For` or `Forwarded` that
    /// is `hops` from the right: with one proxy the last entry, which that proxy wrote. If there are fewer
    /// entries, the leftmost is the client; without any, the socket's peer is. An entry that is not an
    /// address ends the search at the entry to its right. `X-Forwarded-Host`, `-Proto` and `-Prefix` are
    /// trusted as the nearest proxy wrote them.
    ///
    /// **Only those proxies may reach the server's port,** and each path to it must lead through exactly
    /// `hops` proxies. A client that passes through fewer writes the trusted entry itself and so chooses its
    /// address.
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

    /// Returns whether `addr` is a trusted proxy. An IPv4-mapped IPv6 address counts as the IPv4 address.
    /// With [`hops`](Self::hops), every socket peer is one.
    pub fn contains(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        match &self.0 {
            Trusted::Networks(nets) => nets.iter().any(|net| net.contains(&addr)),
            Trusted::Hops(_) => true,
        }
    }

    /// Returns the client and the requested host from the forwarding headers if a trusted proxy sent them.
    /// Otherwise the address is the socket's, and the host is `None`.
    pub(crate) fn peer(&self, socket_peer: Option<IpAddr>, headers: &HeaderMap) -> ForwardedPeer {
        let addr = socket_peer.map(|addr| addr.to_canonical());
        match addr {
            Some(addr) if self.contains(addr) => {
                ForwardedPeer { prefix: prefix(headers), ..self.forwarded(addr, headers) }
            }
            _ => ForwardedPeer { addr, ..ForwardedPeer::default() },
        }
    }

    /// Returns what the trusted proxy at `nearest` reports.
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

    /// Follows the entries from the nearest proxy to the client, or to the last valid address.
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
        const HOPS: &str = "hops:";
        if let Some(hops) = list.trim().strip_prefix(HOPS) {
            let reason = "expected hops:N with N from 1 to 255, and nothing else";
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

/// The client of a request, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ForwardedPeer {
    /// The client's address; `None` if the server did not provide the socket's peer.
    pub(crate) addr: Option<IpAddr>,
    /// Whether the address comes from a proxy's header instead of the socket.
    pub(crate) is_forwarded: bool,
    /// The host that the client requested.
    pub(crate) host: Option<Authority>,
    /// Whether the client uses TLS; `None` if unknown.
    pub(crate) https: Option<bool>,
    /// The path below which the client sees the server, without a trailing slash; empty for the root.
    pub(crate) prefix: Option<Box<str>>,
}

/// Returns the error for an invalid entry.
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

/// Parses a network, or an address as a network of one address.
fn network(entry: &str) -> Option<IpNet> {
    /// Length of the prefix before the IPv4 address in an IPv4-mapped IPv6 address.
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

/// Returns the entries of a list header from right to left; `None` for one that is not valid UTF-8.
///
/// A comma between quotes belongs to its entry (RFC 7239, section 4). Quotes are paired from the right, too,
/// so a client's unclosed quote can't hide the entries of proxies.
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

/// Finds the last comma outside quotes.
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

/// Returns the last entry of a list header, which the nearest proxy wrote.
fn rightmost<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    from_the_right(headers, name).next().flatten()
}

/// Returns the value of a parameter in one hop of a `Forwarded` header; `None` if it is missing or repeated,
/// or the hop's quotes are malformed.
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
        // If a proxy forwards a quote unescaped, a client's own quote can pair with it and swallow the
        // proxy's entry.
        if value.contains(',') && value.to_ascii_lowercase().contains("for=") {
            return None;
        }
        if key.eq_ignore_ascii_case(name) && found.replace(value).is_some() {
            return None;
        }
    }
    found
}

/// Parses a quoted string after its first quote. Returns its content and what follows; `None` if it does not
/// end.
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

/// Parses the address in an entry: plain, in brackets, with a port, or in quotes.
fn node(entry: &str) -> Option<IpAddr> {
    let quoted = || entry.strip_prefix('"')?.strip_suffix('"');
    let entry = quoted().unwrap_or(entry);
    // A port may be obfuscated (RFC 7239, section 6.3).
    let entry = entry.rsplit_once(":_").map_or(entry, |(address, _)| address);
    let bracketed = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    entry
        .parse()
        .ok()
        .or_else(|| entry.parse().ok().map(|addr: SocketAddr| addr.ip()))
        .or_else(bracketed)
        .map(|addr| addr.to_canonical())
}

/// Parses a host with or without a port; `None` if it is not valid.
fn host(value: &str) -> Option<Authority> {
    Authority::parse(value.as_bytes())
}

/// Returns the path that a proxy reports to have removed; `None` if it is not valid or the header is
/// repeated. A proxy that appends its header to the client's has validated neither.
fn prefix(headers: &HeaderMap) -> Option<Box<str>> {
    let mut lines = headers.get_all(FORWARDED_PREFIX).iter();
    let line = lines.next().filter(|_| lines.next().is_none())?.to_str().ok()?;
    let path = line.strip_suffix('/').unwrap_or(line);
    let is_valid = line == "/" || (path.len() <= LONGEST_PREFIX && is_path(path));
    is_valid.then(|| path.into())
}

/// Returns whether a scheme is secure; `None` if it is unknown.
fn https(scheme: &str) -> Option<bool> {
    const SECURE: [&str; 2] = ["https", "wss"];
    const PLAIN: [&str; 2] = ["http", "ws"];
    let is = |names: [&str; 2]| names.iter().any(|name| scheme.eq_ignore_ascii_case(name));
    if is(SECURE) { Some(true) } else { is(PLAIN).then_some(false) }
}

#[cfg(test)]
mod tests;
