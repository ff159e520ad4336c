//! The settings of an app, from code and from the environment.

use std::{collections::HashSet, path::PathBuf, time::Duration};

use axum::Router;
use http::HeaderValue;

use super::App;
use crate::{
    Backend, Error, HubBuilder, Result, TrustedProxies,
    cluster::check_secret,
    limits::SHARDS,
    server::{HttpServer, PACE_TIMEOUT_MAX, Tls, TlsFile, TlsFiles},
};

/// Settings for a new [`App`]. All have safe defaults.
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until it builds"]
pub struct AppBuilder {
    hub: HubBuilder,
    server: HttpServer,
    tls_cert: Option<TlsFile>,
    tls_key: Option<TlsFile>,
    /// How long browsers must use TLS.
    hsts: Option<Duration>,
}

impl AppBuilder {
    /// Creates a builder with settings from the environment; see [`App::from_env`].
    ///
    /// # Errors
    /// [`Error::Setting`] for a value that can't be used.
    pub fn from_env() -> Result<Self> {
        let mut builder = Self::default();
        if let Some(backend) = variable("RIPPLECAST_BACKEND")? {
            let backend = Backend::from(backend);
            backend.kind().map_err(|error| renamed(error, "RIPPLECAST_BACKEND"))?;
            builder = builder.backend(backend);
        }
        if let Some(optional) = variable("RIPPLECAST_BACKEND_OPTIONAL")? {
            let optional = match optional.as_str() {
                "0" | "false" => false,
                "1" | "true" => true,
                _ => return Err(Error::setting("RIPPLECAST_BACKEND_OPTIONAL", optional, "expected 1 or 0")),
            };
            builder = builder.backend_optional(optional);
        }
        if let Some(secret) = variable("RIPPLECAST_NODE_SECRET")? {
            check_secret(secret.as_bytes()).map_err(|error| renamed(error, "RIPPLECAST_NODE_SECRET"))?;
            builder.hub = builder.hub.node_secret(secret);
        }
        if let Some(shards) = number("RIPPLECAST_SHARDS")? {
            if shards > SHARDS {
                let reason = format!("expected at most {SHARDS}");
                return Err(Error::setting("RIPPLECAST_SHARDS", shards, reason));
            }
            builder.hub = builder.hub.shards(shards);
        }
        if let Some(max) = number("RIPPLECAST_MAX_CONNECTIONS")? {
            builder = builder.max_connections(max);
        }
        if let Some(max) = number("RIPPLECAST_MAX_CONNECTIONS_PER_ADDRESS")? {
            builder = builder.max_connections_per_address(max);
        }
        if let Some(bits) = number("RIPPLECAST_IPV6_PREFIX")? {
            let fits = u8::try_from(bits).ok().filter(|bits| (1..=128).contains(bits));
            let wrong = || Error::setting("RIPPLECAST_IPV6_PREFIX", bits, "expected a number from 1 to 128");
            builder = builder.ipv6_prefix(fits.ok_or_else(wrong)?);
        }
        if let Some(time) = seconds("RIPPLECAST_BODY_TIMEOUT", PACE_TIMEOUT_MAX)? {
            builder = builder.body_timeout(time);
        }
        if let Some(time) = seconds("RIPPLECAST_WRITE_TIMEOUT", PACE_TIMEOUT_MAX)? {
            builder = builder.write_timeout(time);
        }
        if let Some(rate) = number("RIPPLECAST_MIN_RATE")? {
            let wrong =
                |_| Error::setting("RIPPLECAST_MIN_RATE", rate, "expected at most 4294967295 bytes a second");
            builder = builder.min_rate(u32::try_from(rate).map_err(wrong)?);
        }
        if let Some(list) = variable("RIPPLECAST_TRUSTED_PROXIES")? {
            let proxies = list.parse().map_err(|error| renamed(error, "RIPPLECAST_TRUSTED_PROXIES"))?;
            builder = builder.trusted_proxies(proxies);
        }
        if let Some(seconds) = number(HSTS)? {
            builder = builder.hsts(Duration::from_secs(seconds as u64));
        }
        builder.tls_cert = variable(TLS_CERT)?.map(|path| TlsFile::new(TLS_CERT, path));
        builder.tls_key = variable(TLS_KEY)?.map(|path| TlsFile::new(TLS_KEY, path));
        Ok(builder)
    }

    /// Sets where shared state lives: `memory`, which is the default, or the URL of a Redis; see
    /// [`HubBuilder::backend`]. Any other text is reported by [`build`](Self::build).
    pub fn backend(mut self, backend: impl Into<Backend>) -> Self {
        self.hub = self.hub.backend(backend);
        self
    }

    /// Sets whether the app starts even if its backend can't be reached; default false. See
    /// [`HubBuilder::backend_optional`].
    pub fn backend_optional(mut self, optional: bool) -> Self {
        self.hub = self.hub.backend_optional(optional);
        self
    }

    /// Changes settings of the hub that have no method here.
    pub fn hub(mut self, settings: impl FnOnce(HubBuilder) -> HubBuilder) -> Self {
        self.hub = settings(self.hub);
        self
    }

    /// Sets the maximum number of connections; see [`HubBuilder::max_connections`].
    pub fn max_connections(mut self, max: usize) -> Self {
        self.hub = self.hub.max_connections(max);
        self
    }

    /// Sets the maximum number of connections from one address; see
    /// [`HubBuilder::max_connections_per_address`].
    pub fn max_connections_per_address(mut self, max: usize) -> Self {
        self.hub = self.hub.max_connections_per_address(max);
        self
    }

    /// Sets how many leading bits of an IPv6 address identify its network in limits per address; see
    /// [`HubBuilder::ipv6_prefix`].
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.hub = self.hub.ipv6_prefix(bits);
        self
    }

    /// Sets the proxies whose forwarding headers are trusted; see [`HubBuilder::trusted_proxies`].
    pub fn trusted_proxies(mut self, proxies: TrustedProxies) -> Self {
        self.hub = self.hub.trusted_proxies(proxies);
        self
    }

    /// Sets the longest request head, in bytes; default 16 KiB. A longer one gets 431, as does one with more
    /// than 100 header fields.
    pub fn max_header(mut self, bytes: usize) -> Self {
        self.server.max_header = bytes;
        self
    }

    /// Sets how long a request head may take to arrive, and before it the TLS handshake; default 10 s each.
    /// After that the connection is closed.
    pub fn header_timeout(mut self, time: Duration) -> Self {
        self.server.header_timeout = time;
        self
    }

    /// Sets how long the body of a request may keep the server waiting; default 30 s, at most one day, zero
    /// for no limit. After that the connection is closed, and the request gets 408 unless its response has
    /// begun.
    ///
    /// Received bytes restore the time, up to the full amount: one second for every
    /// [`min_rate`](Self::min_rate) bytes. A body that arrives at that rate may take any time, and one that
    /// stalls is cut off after this time. Only time in which a handler waits for the body counts.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let builder = ripplecast::App::builder()
    ///     .body_timeout(Duration::from_secs(10))
    ///     .write_timeout(Duration::from_secs(60))
    ///     .min_rate(2_000); // bytes a second
    /// # let _ = builder;
    /// ```
    pub fn body_timeout(mut self, time: Duration) -> Self {
        self.server = self.server.body_timeout(time);
        self
    }

    /// Sets how long the reader of a response may keep the server waiting; default 30 s, at most one day,
    /// zero for no limit. After that the connection is reset. Bytes restore the time as in
    /// [`body_timeout`](Self::body_timeout).
    ///
    /// Only time in which bytes wait for the socket counts, not time in which a handler works or its stream
    /// has nothing to send. WebSockets and this crate's event streams are not affected: their readers have an
    /// outbox. The system reports a reader's progress in steps, on Linux of up to 128 KiB, so the reader of a
    /// long response must read some 5 KB/s.
    pub fn write_timeout(mut self, time: Duration) -> Self {
        self.server = self.server.write_timeout(time);
        self
    }

    /// Sets how many bytes restore one second of [`body_timeout`](Self::body_timeout) and
    /// [`write_timeout`](Self::write_timeout); default 500. With zero, bytes restore nothing, and a whole
    /// body must arrive within that time.
    pub fn min_rate(mut self, bytes: u32) -> Self {
        self.server = self.server.min_rate(bytes);
        self
    }

    /// Sets the maximum number of sockets in plain HTTP; default 65,536. Further ones wait until one closes.
    /// Upgraded WebSockets do not count.
    pub fn max_http_connections(mut self, max: usize) -> Self {
        self.server = self.server.max_connections(max);
        self
    }

    /// Sets the maximum number of such sockets from one address; default 1,000. Further ones are closed at
    /// once. Loopback and [trusted proxies](Self::trusted_proxies) are not counted. Behind a trusted proxy,
    /// the limit applies to the requests in progress from one forwarded address, and further ones get 429. A
    /// request is in progress until its response has been handed to the socket.
    pub fn max_http_connections_per_address(mut self, max: usize) -> Self {
        self.server.max_per_address = max;
        self
    }

    /// Serves TLS 1.2 and 1.3: `https://` and `wss://` instead of `http://` and `ws://`. By default TLS is
    /// off.
    ///
    /// Both are PEM files and may be the same file: the certificate followed by its chain, and its
    /// unencrypted private key in PKCS #8, PKCS #1 or SEC 1. They are loaded when the app is built, and again
    /// within seconds of a change. Open connections keep their certificate. If a new file can't be used, this
    /// is logged and the old certificate stays in use.
    ///
    /// ```no_run
    /// # async fn example() -> ripplecast::Result<()> {
    /// let app = ripplecast::App::builder().tls("fullchain.pem", "privkey.pem").build().await?;
    /// app.run("0.0.0.0:443").await
    /// # }
    /// ```
    ///
    /// See `docs/tls.md` for the cost, and for when a proxy in front is better.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls(mut self, cert_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        self.tls_cert = Some(TlsFile::new("tls_cert", cert_file));
        self.tls_key = Some(TlsFile::new("tls_key", key_file));
        self
    }

    /// Sends `Strict-Transport-Security` with every response: a browser that has received it uses only
    /// `https` and `wss` for this host and port during this time. By default it is not sent, because browsers
    /// can't reach a host that returns to plain HTTP until the time has passed. Start with an hour, then
    /// increase it to a year. Requires [`AppBuilder::tls`]; behind a proxy that terminates TLS, let the proxy
    /// send it.
    ///
    /// ```no_run
    /// # async fn example() -> ripplecast::Result<()> {
    /// use std::time::Duration;
    ///
    /// let builder = ripplecast::App::builder().tls("fullchain.pem", "privkey.pem");
    /// let app = builder.hsts(Duration::from_secs(3_600)).build().await?;
    /// # Ok(()) }
    /// ```
    pub fn hsts(mut self, max_age: Duration) -> Self {
        self.hsts = Some(max_age);
        self
    }

    /// Connects to the backend, builds the app, and starts its hub.
    ///
    /// # Errors
    /// Same as [`HubBuilder::connect`]; [`Error::Setting`] when the certificate or its key can't be used, or one is set
    /// without the other.
    pub async fn build(self) -> Result<App> {
        let Self { hub, mut server, tls_cert, tls_key, hsts } = self;
        if let (Some(max_age), None) = (hsts, &tls_cert) {
            return Err(Error::setting(HSTS, max_age.as_secs(), "requires a certificate: set tls as well"));
        }
        let hsts = hsts.map(|max_age| HeaderValue::try_from(format!("max-age={}", max_age.as_secs())));
        let hsts = hsts.transpose().map_err(Error::other)?;
        let tls = match (tls_cert, tls_key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(Tls::load(TlsFiles::new(cert, key))?),
            (Some(_), None) => return Err(missing(TLS_KEY, TLS_CERT)),
            (None, Some(_)) => return Err(missing(TLS_CERT, TLS_KEY)),
        };
        let hub = hub.connect().await?;
        server.tls = tls;
        server.trusted = hub.trusted_proxies().clone();
        server.ipv6_prefix = hub.ipv6_prefix();
        Ok(App { hub, router: Router::new(), endpoints: HashSet::new(), server, hsts })
    }
}

/// Replaces the name in a setting's error with the one that the user set it by.
fn renamed(error: Error, name: &'static str) -> Error {
    match error {
        Error::Setting { value, reason, .. } => Error::setting(name, value, reason),
        other => other,
    }
}

const TLS_CERT: &str = "RIPPLECAST_TLS_CERT";
const TLS_KEY: &str = "RIPPLECAST_TLS_KEY";
const HSTS: &str = "RIPPLECAST_HSTS";

/// Returns the error for a variable that is missing while its counterpart is set.
fn missing(name: &'static str, other: &str) -> Error {
    Error::setting(name, "", format!("not set, but {other} is; set both or neither"))
}

/// Reads an environment variable; `None` if it is unset or empty.
fn variable(name: &'static str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(value)) => {
            Err(Error::setting(name, value.to_string_lossy(), "not valid UTF-8"))
        }
    }
}

/// Reads an environment variable that holds a number of seconds.
fn seconds(name: &'static str, most: Duration) -> Result<Option<Duration>> {
    let Some(seconds) = number(name)? else { return Ok(None) };
    let time = Duration::from_secs(seconds as u64);
    if time > most {
        let reason = format!("expected a number of seconds from 0 to {}", most.as_secs());
        return Err(Error::setting(name, seconds, reason));
    }
    Ok(Some(time))
}

/// Reads an environment variable that holds a whole number.
fn number(name: &'static str) -> Result<Option<usize>> {
    let Some(value) = variable(name)? else { return Ok(None) };
    value.parse().map(Some).map_err(|_| Error::setting(name, value, "expected a whole number"))
}
