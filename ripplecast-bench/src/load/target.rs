//! The server's address, and the addresses to connect from.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _},
    time::Duration,
};

use axum::http::Uri;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// The number of connections for which the ports of one address suffice.
const PER_SOURCE: usize = 20_000;
/// The fewest source addresses once one is not enough.
const SOURCES: usize = 4;
/// The receive buffer of a slow reader, small so that the kernel does not buffer for it.
const SMALL_BUFFER: usize = 4 << 10;

/// A parsed `ws://` URL.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Url {
    /// The whole URL, for messages.
    written: String,
    /// The value of the Host header.
    host: String,
    /// The path and query.
    path: String,
    /// The host name, without brackets.
    name: String,
    port: u16,
}

impl Url {
    /// Parses a URL. An error says what is accepted.
    pub(crate) fn parse(written: &str) -> Result<Self, String> {
        let uri: Uri = written.parse().map_err(|_| "not a valid URL; use ws://HOST:PORT/PATH".to_owned())?;
        match uri.scheme_str() {
            Some("ws") => {}
            Some("wss") => {
                return Err("TLS is not supported; measure the server behind the proxy with ws://".to_owned());
            }
            _ => return Err("expected ws://HOST:PORT/PATH".to_owned()),
        }
        let Some(host) = uri.host().filter(|host| !host.is_empty()) else {
            return Err("the URL has no host; use ws://HOST:PORT/PATH".to_owned());
        };
        let authority = uri.authority().map_or(host, |authority| authority.as_str());
        let authority = authority.rsplit('@').next().unwrap_or(authority);
        Ok(Self {
            written: written.to_owned(),
            host: authority.to_owned(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            name: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.port_u16().unwrap_or(80),
        })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.written
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Resolves the host name.
    fn resolve(&self) -> Result<SocketAddr, String> {
        let found = (self.name.as_str(), self.port).to_socket_addrs();
        let mut found = found.map_err(|error| format!("{} has no address: {error}", self.name))?;
        found.next().ok_or_else(|| format!("{} has no address", self.name))
    }
}

/// Creates sockets that are connecting to the server.
#[derive(Debug)]
pub(super) struct Target {
    addr: SocketAddr,
    /// Addresses to connect from, in turn. If empty, the system chooses.
    sources: Vec<IpAddr>,
}

impl Target {
    /// Resolves `url`. `sources` are used in turn; without any, several are chosen if loopback would run out
    /// of ports.
    pub(super) fn new(url: &Url, sources: &[IpAddr], connections: usize) -> Result<Self, String> {
        let addr = url.resolve()?;
        let mut sources = sources.to_vec();
        if let Some(other) = sources.iter().find(|source| source.is_ipv4() != addr.is_ipv4()) {
            return Err(format!("--source {other} and {addr} are not both IPv4 or both IPv6"));
        }
        let loopback = matches!(addr.ip(), IpAddr::V4(ip) if ip.is_loopback());
        if sources.is_empty() && loopback && connections > PER_SOURCE {
            let needed = connections.div_ceil(PER_SOURCE).clamp(SOURCES, 250) as u8;
            sources = (1..=needed).map(|last| Ipv4Addr::new(127, 0, 0, last).into()).collect();
        }
        Ok(Self { addr, sources })
    }

    pub(super) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Creates a connecting socket. Closing it resets the connection, so that its port is not kept in
    /// TIME_WAIT.
    pub(super) fn connect(&self, index: usize, slow: bool) -> io::Result<mio::net::TcpStream> {
        let socket = Socket::new(Domain::for_address(self.addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        if slow {
            socket.set_recv_buffer_size(SMALL_BUFFER)?;
        }
        if !self.sources.is_empty() {
            let source = self.sources[index % self.sources.len()];
            socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
        }
        match socket.connect(&SockAddr::from(self.addr)) {
            Err(error) if !is_pending(&error) => Err(error),
            _ => Ok(mio::net::TcpStream::from_std(socket.into())),
        }
    }
}

/// Returns whether the connection is in progress.
fn is_pending(error: &io::Error) -> bool {
    // `io::ErrorKind::InProgress` is not stable yet.
    #[cfg(unix)]
    if error.raw_os_error() == Some(libc::EINPROGRESS) {
        return true;
    }
    error.kind() == io::ErrorKind::WouldBlock
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed() {
        let url = Url::parse("ws://localhost:8080/bc?room=1").unwrap();
        assert_eq!((url.host(), url.path()), ("localhost:8080", "/bc?room=1"));
        assert_eq!((url.name.as_str(), url.port), ("localhost", 8080));
        let url = Url::parse("ws://[::1]/").unwrap();
        assert_eq!((url.host(), url.name.as_str(), url.port), ("[::1]", "::1", 80));
        for (wrong, advice) in
            [("wss://a/", "TLS"), ("http://a/", "ws://"), ("a:1", "ws://"), ("", "ws://"), ("/bc", "ws://")]
        {
            let line = Url::parse(wrong).unwrap_err();
            assert!(line.contains(advice), "{wrong}: {line}");
        }
    }

    #[test]
    fn many_connections_to_loopback_use_several_addresses() {
        let sources = |written: &str, connections| {
            Target::new(&Url::parse(written).unwrap(), &[], connections).unwrap().sources.len()
        };
        assert_eq!(sources("ws://127.0.0.1:1/", 20_000), 0);
        assert_eq!(sources("ws://127.0.0.1:1/", 20_001), 4);
        assert_eq!(sources("ws://127.0.0.1:1/", 100_001), 6);
        assert_eq!(sources("ws://192.0.2.1:1/", 100_001), 0);
        let six = ["::1".parse().unwrap()];
        assert!(Target::new(&Url::parse("ws://127.0.0.1:1/").unwrap(), &six, 1).is_err());
    }
}
