//! The address and credentials of Redis, parsed from a URL.

use std::{fmt, path::PathBuf, str::FromStr};

use percent_encoding::percent_decode_str;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion, RedisConnectionInfo};

use crate::{Error, Result};

/// Default port of a server.
const PORT: u16 = 6379;
/// Default port of a sentinel.
const SENTINEL_PORT: u16 = 26379;
/// Default prefix of all keys and channels.
const PREFIX: &str = "ripplecast";
/// Longest prefix in bytes. It is part of every key.
const PREFIX_LEN: usize = 64;
/// Maximum hosts in a URL. A few are enough to find the others.
const HOSTS: usize = 64;
/// The forms of a URL, for error messages.
const FORMS: &str = "redis://[user:password@]host[:6379][/database][?prefix=NAME], rediss:// for TLS, redis+unix:///path, \
    redis-cluster://a,b,c or redis-sentinel://a,b,c/service; valkey means the same as redis";

/// The address and credentials of Redis.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(super) servers: ServerHosts,
    tls: bool,
    login: Credentials,
    sentinel: Credentials,
    database: i64,
    /// Prefix of all keys and channels.
    prefix: String,
}

/// A user and a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    /// `None` for `default`.
    pub(super) user: Option<String>,
    password: Option<String>,
}

/// A host and its port.
pub(super) type RedisHost = (String, u16);

/// One server, or hosts that know the servers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ServerHosts {
    /// A single server.
    One(RedisHost),
    /// A single server, by the path of its socket.
    Unix(PathBuf),
    /// Some servers of a Cluster.
    Cluster(Vec<RedisHost>),
    /// One master of a Cluster; never parsed from a URL.
    Shard(RedisHost),
    /// Sentinels, and the master that they monitor.
    Sentinels {
        hosts: Vec<RedisHost>,
        /// The name of the master.
        service: String,
    },
}

impl Address {
    /// Returns the prefix of all keys and channels.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns whether this is a Cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.servers, ServerHosts::Cluster(_) | ServerHosts::Shard(_))
    }

    /// Returns the address of one master of this Cluster.
    pub(super) fn shard(&self, host: &RedisHost) -> Self {
        Self { servers: ServerHosts::Shard(host.clone()), ..self.clone() }
    }

    /// Returns the connection settings for a host, with this address's credentials.
    pub(super) fn at(&self, (host, port): &RedisHost) -> Result<ConnectionInfo, redis::RedisError> {
        let addr = if self.tls {
            ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host.clone(), *port)
        };
        self.with(addr)
    }

    /// Returns the connection settings for the server at that socket.
    pub(super) fn at_socket(&self, path: &std::path::Path) -> Result<ConnectionInfo, redis::RedisError> {
        self.with(ConnectionAddr::Unix(path.to_owned()))
    }

    /// Returns the connection settings for a sentinel, with the credentials for sentinels.
    pub(super) fn at_sentinel(&self, host: &RedisHost) -> Result<ConnectionInfo, redis::RedisError> {
        Self { login: self.sentinel.clone(), database: 0, ..self.clone() }.at(host)
    }

    /// Returns the credentials for the servers.
    pub(super) fn login(&self) -> &Credentials {
        &self.login
    }

    /// Returns whether connections use TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.tls
    }

    /// Returns the scheme, with or without TLS.
    pub(super) fn scheme(&self, tls: bool) -> &'static str {
        match (&self.servers, tls) {
            (ServerHosts::Unix(_), _) => "redis+unix",
            (ServerHosts::One(_), false) => "redis",
            (ServerHosts::One(_), true) => "rediss",
            (ServerHosts::Cluster(_) | ServerHosts::Shard(_), false) => "redis-cluster",
            (ServerHosts::Cluster(_) | ServerHosts::Shard(_), true) => "rediss-cluster",
            (ServerHosts::Sentinels { .. }, false) => "redis-sentinel",
            (ServerHosts::Sentinels { .. }, true) => "rediss-sentinel",
        }
    }

    /// Returns the connection settings for an address.
    fn with(&self, addr: ConnectionAddr) -> Result<ConnectionInfo, redis::RedisError> {
        let mut settings =
            RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3).set_db(self.database);
        let Credentials { user, password } = &self.login;
        if let Some(user) = user {
            // Without a password the client library does not log in at all and would continue as `default`. A
            // user with `nopass` accepts an empty password, and any other user refuses it.
            settings = settings.set_username(user).set_password(password.as_deref().unwrap_or_default());
        } else if let Some(password) = password {
            settings = settings.set_password(password);
        }
        let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
        Ok(addr.into_connection_info()?.set_redis_settings(settings).set_tcp_settings(tcp))
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self> {
        parse(url).map_err(|reason| Error::setting("backend", redacted(url), reason))
    }
}

/// Parses a URL, or returns what is wrong with it.
fn parse(url: &str) -> Result<Address, String> {
    let (written, rest) =
        url.split_once("://").ok_or_else(|| format!("not a backend; expected `memory` or {FORMS}"))?;
    // Schemes are case-insensitive (RFC 3986, section 3.1).
    let scheme = written.to_ascii_lowercase();
    let scheme = match scheme.strip_prefix("valkey") {
        Some(kind) => format!("redis{kind}"),
        None => scheme,
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match rest.find('/') {
        Some(slash) => (&rest[..slash], &rest[slash + 1..]),
        None => (rest, ""),
    };
    if path.contains('@') || query.contains('@') {
        return Err(
            "there is an @ after the host; in a user or password, write / as %2F, ? as %3F and @ as %40"
                .into(),
        );
    }
    let (credentials, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let mut login = Credentials { user: decoded(user)?, password: decoded(password)? };
    let (mut database, mut prefix, mut sentinel) = (None, None, Credentials::default());
    for (name, value) in query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    {
        let place = match name {
            "prefix" => &mut prefix,
            "db" => &mut database,
            "user" => &mut login.user,
            "password" => &mut login.password,
            "sentinel_user" => &mut sentinel.user,
            "sentinel_password" => &mut sentinel.password,
            _ => {
                return Err(format!(
                    "unknown parameter `{name}`; expected prefix, db, user, password, sentinel_user or \
                     sentinel_password"
                ));
            }
        };
        if place.is_some() {
            return Err(format!("the URL sets `{name}` twice"));
        }
        *place = decoded(value)?;
        if place.is_none() && name.ends_with("user") {
            return Err(format!("`{name}` is empty; omit it to log in as `default`"));
        }
    }
    if sentinel != Credentials::default() && !scheme.ends_with("-sentinel") {
        return Err("sentinel_user and sentinel_password are only for redis-sentinel://".into());
    }
    let tls = scheme.starts_with("rediss");
    if tls && !cfg!(feature = "tls") {
        let reason = concat!(
            "TLS to Redis needs the feature `tls` too: ripplecast = { version = \"",
            env!("CARGO_PKG_VERSION"),
            "\", features = [\"redis\", \"tls\"] }"
        );
        return Err(reason.into());
    }
    let servers = match &scheme[..] {
        "redis" | "rediss" => {
            database = database.or(decoded(path)?);
            ServerHosts::One(host(hosts, PORT)?)
        }
        "redis+unix" | "unix" if hosts.is_empty() && !path.is_empty() => {
            ServerHosts::Unix(format!("/{}", decoded(path)?.unwrap_or_default()).into())
        }
        "redis+unix" | "unix" => {
            return Err("expected the absolute path of a socket, as in redis+unix:///run/redis.sock".into());
        }
        "redis-cluster" | "rediss-cluster" if !path.is_empty() || database.is_some() => {
            return Err("a Cluster has one database and no path; omit both".into());
        }
        "redis-cluster" | "rediss-cluster" => ServerHosts::Cluster(self::hosts(hosts, PORT)?),
        "redis-sentinel" | "rediss-sentinel" => {
            let (service, number) = path.split_once('/').unwrap_or((path, ""));
            database = database.or(decoded(number)?);
            let service = decoded(service)?.ok_or(
                "expected the name of the master that the sentinels monitor, as in redis-sentinel://a,b,c/mymaster",
            )?;
            ServerHosts::Sentinels { hosts: self::hosts(hosts, SENTINEL_PORT)?, service }
        }
        _ => return Err(format!("`{written}` is not a backend; expected `memory` or {FORMS}")),
    };
    let database = match database {
        Some(number) => {
            number.parse::<u16>().map_err(|_| format!("`{number}` is not a valid database number"))?
        }
        None => 0,
    };
    let mut prefix = prefix.unwrap_or_else(|| PREFIX.to_owned());
    if prefix.len() > PREFIX_LEN
        || prefix.chars().any(|c| matches!(c, '{' | '}') || c.is_whitespace() || c.is_control())
    {
        return Err(format!("expected a prefix of at most {PREFIX_LEN} bytes without braces and spaces"));
    }
    if database != 0 {
        // Redis channels do not belong to a database, so their names include it. Key names include it, too,
        // for consistency.
        prefix = format!("{prefix}@{database}");
    }
    Ok(Address { servers, tls, login, sentinel, database: database.into(), prefix })
}

/// Percent-decodes a part of a URL; `None` if it is empty.
fn decoded(part: &str) -> Result<Option<String>, String> {
    let decoded = percent_decode_str(part)
        .decode_utf8()
        .map_err(|_| "a part of the URL is not valid UTF-8".to_owned())?;
    Ok(Some(decoded.into_owned()).filter(|decoded| !decoded.is_empty()))
}

/// Parses a comma-separated list of hosts.
fn hosts(list: &str, port: u16) -> Result<Vec<RedisHost>, String> {
    let hosts = list.split(',').map(|item| host(item, port)).collect::<Result<Vec<_>, _>>()?;
    if hosts.len() > HOSTS {
        Err(format!("expected at most {HOSTS} hosts; a few are enough"))
    } else {
        Ok(hosts)
    }
}

/// Parses a host with an optional port. An IPv6 address is in brackets.
fn host(text: &str, port: u16) -> Result<RedisHost, String> {
    let (name, number) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, rest)) => (name, rest.strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(name, number)| (name, Some(number))),
    };
    if name.is_empty() {
        return Err(format!("a host is missing; expected {FORMS}"));
    }
    let port = match number {
        Some(number) => number.parse().map_err(|_| format!("`{number}` is not a valid port"))?,
        None => port,
    };
    Ok((name.to_owned(), port))
}

/// Returns a URL without its credentials, for messages.
fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    // A password may contain characters that end a host, so everything before the last @ is hidden.
    let rest = rest.rfind('@').map_or_else(|| rest.to_owned(), |at| format!("…@{}", &rest[at + 1..]));
    let rest = rest.split_once("password=").map_or(rest.clone(), |(before, _)| format!("{before}password=…"));
    format!("{scheme}://{rest}")
}

/// The URL without user and password, for logs.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme(self.tls);
        let list = |hosts: &[RedisHost]| {
            hosts.iter().map(|(name, port)| format!("{name}:{port}")).collect::<Vec<_>>().join(",")
        };
        match &self.servers {
            ServerHosts::One((name, port)) => write!(f, "{scheme}://{name}:{port}/{}", self.database),
            ServerHosts::Shard((name, port)) => write!(f, "{scheme}://{name}:{port}"),
            ServerHosts::Unix(path) => write!(f, "{scheme}://{}", path.display()),
            ServerHosts::Cluster(hosts) => write!(f, "{scheme}://{}", list(hosts)),
            ServerHosts::Sentinels { hosts, service } => {
                write!(f, "{scheme}://{}/{service}", list(hosts))
            }
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Address {
        url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    #[test]
    fn every_form_is_parsed() {
        let local = |port| ServerHosts::One(("127.0.0.1".to_owned(), port));
        assert_eq!(read("redis://127.0.0.1").servers, local(6379));
        assert_eq!(read("redis://127.0.0.1:7000/").servers, local(7000));
        let full = read("rediss://ada:p%40ss@[::1]:1/3?prefix=shop");
        assert_eq!(full.servers, ServerHosts::One(("::1".to_owned(), 1)));
        let Credentials { user, password } = full.login();
        assert_eq!((user.as_deref(), password.as_deref()), (Some("ada"), Some("p@ss")));
        assert_eq!((full.tls, full.database, full.prefix()), (true, 3, "shop@3"));
        let socket = read("redis+unix:///run/redis.sock?db=2&password=x");
        assert_eq!(socket.servers, ServerHosts::Unix("/run/redis.sock".into()));
        assert_eq!((socket.database, socket.login.password.as_deref()), (2, Some("x")));
        let cluster = read("redis-cluster://a,b:7001,c");
        assert!(cluster.is_cluster());
        assert_eq!(cluster.to_string(), "redis-cluster://a:6379,b:7001,c:6379");
        let sentinels = read("redis-sentinel://:secret@a,b/main/1");
        assert_eq!(sentinels.to_string(), "redis-sentinel://a:26379,b:26379/main");
        assert_eq!((sentinels.database, sentinels.login.password.as_deref()), (1, Some("secret")));
        assert!(
            sentinels.sentinel == Credentials::default(),
            "the servers' password is not sent to the sentinels"
        );
        let guarded = read("redis-sentinel://a/main?sentinel_user=eve&sentinel_password=p%40ss");
        assert!(guarded.login == Credentials::default());
        let Credentials { user, password } = guarded.sentinel;
        assert_eq!((user.as_deref(), password.as_deref()), (Some("eve"), Some("p@ss")));
    }

    #[test]
    fn a_scheme_may_be_upper_case_or_of_valkey() {
        for (written, same) in [
            ("REDIS://a", "redis://a"),
            ("Rediss://a", "rediss://a"),
            ("valkey://a", "redis://a"),
            ("VALKEYS://a", "rediss://a"),
            ("valkey+unix:///a", "redis+unix:///a"),
            ("valkey-cluster://a,b", "redis-cluster://a,b"),
            ("valkeys-cluster://a,b", "rediss-cluster://a,b"),
            ("Valkey-Sentinel://a/main?sentinel_user=b", "redis-sentinel://a/main?sentinel_user=b"),
            ("valkeys-sentinel://a/main", "rediss-sentinel://a/main"),
        ] {
            assert_eq!(read(written), read(same), "{written}");
        }
    }

    #[test]
    fn a_user_without_a_password_still_logs_in() {
        let host = ("a".to_owned(), 1);
        for (url, login) in [
            ("redis://lim@a", Some("lim")),
            ("redis://lim:@a", Some("lim")),
            ("redis://l%69m@a", Some("lim")),
            ("redis://a?user=l%69m", Some("lim")),
            ("rediss://lim@a", Some("lim")),
            ("redis-cluster://lim@a,b", Some("lim")),
            ("redis-sentinel://lim@a/main", Some("lim")),
            ("redis+unix://lim@/a", Some("lim")),
            ("redis+unix:///a?user=lim", Some("lim")),
            ("redis://a", None),
            ("redis-sentinel://a/main?sentinel_user=lim", None),
        ] {
            let address = read(url);
            let info = match &address.servers {
                ServerHosts::Unix(path) => address.at_socket(path),
                _ => address.at(&host),
            };
            let info = info.unwrap();
            let settings = info.redis_settings();
            assert_eq!((settings.username(), settings.password()), (login, login.map(|_| "")), "{url}");
        }
        let info = read("redis-sentinel://a/main?sentinel_user=lim").at_sentinel(&host).unwrap();
        let settings = info.redis_settings();
        assert_eq!((settings.username(), settings.password()), (Some("lim"), Some("")));
    }

    #[test]
    fn an_invalid_url_is_named_without_its_password() {
        for (url, said) in [
            ("redis", "not a backend"),
            ("mongodb://a", "`mongodb` is not a backend"),
            ("redis://", "a host is missing"),
            ("redis://u:secret@a:port", "`port` is not a valid port"),
            ("redis://u:secret@a/x", "not a valid database number"),
            ("redis://a?password=secret&pool=3", "unknown parameter `pool`"),
            ("redis://u:se/cret@a", "%2F"),
            ("redis://u:se?cret@a", "%3F"),
            ("redis://a?prefix={b}", "without braces"),
            ("redis+unix://a", "absolute path"),
            ("redis-cluster://a/1", "one database"),
            ("redis://a?sentinel_password=secret", "only for redis-sentinel://"),
            ("redis-sentinel://a/main?sentinel_password=secret&x=1", "unknown parameter `x`"),
            ("redis-sentinel://a,b", "that the sentinels monitor"),
            ("redis://a?user=", "`user` is empty"),
            ("redis-sentinel://a/main?sentinel_user=&sentinel_password=secret", "`sentinel_user` is empty"),
            ("redis://lim:secret@a?user=ada", "sets `user` twice"),
            ("redis://a?user=lim&password=secret&password=secret", "sets `password` twice"),
            ("VALKEY-X://a", "`VALKEY-X` is not a backend"),
        ] {
            let error = url.parse::<Address>().unwrap_err().to_string();
            assert!(
                error.contains(said) && !error.contains("secret") && !error.contains("cret@"),
                "{url}: {error}"
            );
        }
        assert!(!format!("{:?}", read("redis://u:secret@a")).contains("secret"));
    }
}
