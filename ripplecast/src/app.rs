//! The app: routes and endpoints, and the server that runs them.

use std::{
    collections::HashSet,
    convert::Infallible,
    future::{Future, ready},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    Router, extract,
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::MethodRouter,
};
use http::{HeaderValue, header::STRICT_TRANSPORT_SECURITY};
use tokio::net::TcpListener;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    Error, Hub, HubBuilder, Result, Tls, TrustedProxies,
    bridge::check_secret,
    limits::SHARDS,
    log::{cut, limited},
    server::{
        PACE_TIMEOUT_MAX, Server, base_path,
        files::{FileOptions, files},
        tls::{TlsFile, TlsFiles},
    },
    sse,
    ws::IntoEndpoint,
};

/// Routes and endpoints around a [`Hub`]: builds an [`axum::Router`], or runs the server itself.
///
/// ```no_run
/// use ripplecast::{App, Connection, Frame, Result, ws};
///
/// #[tokio::main]
/// async fn main() -> Result<()> {
///     let echo = ws::handlers().on_message(|conn: Connection, frame: Frame| async move { conn.push(frame).ignore() });
///     App::from_env().await?.ws("/echo", echo).run("127.0.0.1:8080").await
/// }
/// ```
#[derive(Debug)]
#[must_use = "an app does nothing until it is run, or made into a router"]
pub struct App {
    /// Rooms, connections, state.
    hub: Hub,
    /// The routes so far.
    router: Router,
    /// The paths that have an endpoint.
    endpoints: HashSet<String>,
    /// The settings of the accept loop.
    server: Server,
    /// The header that keeps browsers to TLS.
    hsts: Option<HeaderValue>,
}

impl App {
    /// Settings for a new app.
    pub fn builder() -> AppBuilder {
        AppBuilder::default()
    }

    /// An app with settings from the environment. Unset or empty variables leave the defaults.
    ///
    /// | variable | what | default |
    /// |---|---|---|
    /// | `RIPPLECAST_BACKEND` | where shared state lives: `memory`, or a Redis; see [`HubBuilder::backend`] | `memory` |
    /// | `RIPPLECAST_BACKEND_OPTIONAL` | `1` starts also while the backend can't be reached | `0` |
    /// | `RIPPLECAST_NODE_SECRET` | signs messages between nodes; see [`HubBuilder::node_secret`] | none |
    /// | `RIPPLECAST_SHARDS` | shards; 0 for one per core | 0 |
    /// | `RIPPLECAST_MAX_CONNECTIONS` | connections at the most | 100000 |
    /// | `RIPPLECAST_MAX_CONNECTIONS_PER_ADDRESS` | from one address at the most, loopback aside | 1000 |
    /// | `RIPPLECAST_IPV6_PREFIX` | leading bits of an IPv6 address that count as one address | 64 |
    /// | `RIPPLECAST_BODY_TIMEOUT` | seconds that a request's body may keep the server waiting; see [`AppBuilder::body_timeout`] | 30 |
    /// | `RIPPLECAST_WRITE_TIMEOUT` | seconds that a response's reader may; see [`AppBuilder::write_timeout`] | 30 |
    /// | `RIPPLECAST_MIN_RATE` | bytes that give a second of both back; see [`AppBuilder::min_rate`] | 500 |
    /// | `RIPPLECAST_TRUSTED_PROXIES` | whose forwarding headers are believed; see [`TrustedProxies`] | none |
    /// | `RIPPLECAST_TLS_CERT`, `RIPPLECAST_TLS_KEY` | PEM files of a certificate and its key; see [`AppBuilder::tls`] | no TLS |
    /// | `RIPPLECAST_HSTS` | seconds for which browsers use TLS alone; see [`AppBuilder::hsts`] | none |
    ///
    /// # Errors
    /// [`Error::Setting`] for a value that can't be used, and those of [`AppBuilder::build`].
    pub async fn from_env() -> Result<Self> {
        AppBuilder::from_env()?.build().await
    }

    /// The hub, to be cloned into any handler.
    pub fn hub(&self) -> Hub {
        self.hub.clone()
    }

    /// The certificate, to have it loaded anew at once; `None` when no TLS is spoken.
    pub fn tls(&self) -> Option<Tls> {
        self.server.certificate().cloned()
    }

    /// Puts a WebSocket endpoint on a path: [handlers](crate::ws::handlers), a [`Handler`](crate::ws::Handler), or an
    /// [`Endpoint`](crate::ws::Endpoint) with settings and hooks.
    ///
    /// # Panics
    /// As [`axum::Router::route`]: when the path is taken, or can't be a path. It happens at the start or never.
    #[track_caller]
    pub fn ws(self, path: &str, endpoint: impl IntoEndpoint) -> Self {
        let endpoint = self.hub.ws(endpoint);
        self.endpoint(path, endpoint)
    }

    /// Puts an event stream on a path: of a room by its name, of a [`LiveCounter`](crate::LiveCounter), or an
    /// [`Endpoint`](crate::sse::Endpoint) with settings and hooks.
    ///
    /// # Panics
    /// As [`App::ws`].
    #[track_caller]
    pub fn sse(self, path: &str, endpoint: impl Into<sse::Endpoint>) -> Self {
        let endpoint = self.hub.sse(endpoint);
        self.endpoint(path, endpoint)
    }

    /// Puts an endpoint on a path that has none. Two on one path are a mistake that axum has no clear word for.
    #[track_caller]
    fn endpoint(mut self, path: &str, endpoint: MethodRouter) -> Self {
        assert!(
            self.endpoints.insert(path.to_owned()),
            "`{path}` has an endpoint already: give this one another path, or let one endpoint do both"
        );
        self.route(path, endpoint)
    }

    /// Puts a plain HTTP route on a path, as axum does.
    ///
    /// # Panics
    /// As [`App::ws`].
    #[track_caller]
    pub fn route(mut self, path: &str, methods: MethodRouter) -> Self {
        self.router = self.router.route(path, methods);
        self
    }

    /// Adds all routes of another router.
    ///
    /// # Panics
    /// As [`App::ws`].
    #[track_caller]
    pub fn merge(mut self, router: impl Into<Router>) -> Self {
        self.router = self.router.merge(router);
        self
    }

    /// Serves the files below a directory at all paths below `prefix`. Never a file outside of it, whatever the path says
    /// and wherever a symbolic link leads; never a list of a directory. Names that begin with a dot (except `.well-known`) and
    /// editors' backups are 404; [`App::files_with`] can allow them.
    ///
    /// # Errors
    /// When `root` is no directory.
    ///
    /// # Panics
    /// As [`App::ws`].
    pub fn files(self, prefix: &str, root: impl AsRef<Path>) -> Result<Self> {
        self.files_with(prefix, root, FileOptions::new())
    }

    /// Serves files as [`App::files`] does, with options.
    ///
    /// # Errors
    /// As [`App::files`].
    ///
    /// # Panics
    /// As [`App::ws`].
    pub fn files_with(mut self, prefix: &str, root: impl AsRef<Path>, options: FileOptions) -> Result<Self> {
        self.router = self.router.nest_service(prefix, files(root.as_ref(), options)?);
        Ok(self)
    }

    /// Also serves all routes added so far below a path such as `/rt`, for a proxy that passes the path on unchanged. A
    /// proxy that removes the path doesn't need this, as long as the pages use relative addresses.
    ///
    /// Handlers see the path without the prefix. `/rt` redirects to `/rt/` (308), since relative addresses of its page
    /// would otherwise lead outside it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// use ripplecast::App;
    ///
    /// let app = App::builder().build().await?.sse("/events", "news").base_path("/rt")?; // also at /rt/events
    /// # let _ = app; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Setting`] when it is not a path: it begins with `/`, does not end with one, and each part between them is of
    /// letters, digits, `-`, `.`, `_` and `~`, and not `.` or `..`.
    pub fn base_path(mut self, path: &str) -> Result<Self> {
        self.router = base_path::below(path, self.router)?;
        Ok(self)
    }

    /// Wraps all routes added so far in a tower layer.
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<axum::routing::Route> + Clone + Send + Sync + 'static,
        L::Service: Service<extract::Request> + Clone + Send + Sync + 'static,
        <L::Service as Service<extract::Request>>::Response: IntoResponse + 'static,
        <L::Service as Service<extract::Request>>::Error: Into<Infallible> + 'static,
        <L::Service as Service<extract::Request>>::Future: Send + 'static,
    {
        self.router = self.router.layer(layer);
        self
    }

    /// The routes as a plain router, for a server of your own. The settings of the accept loop stay behind.
    pub fn into_router(self) -> Router {
        self.router
    }

    /// Listens on an address, such as `"127.0.0.1:8080"`; port 0 picks a free one.
    ///
    /// # Errors
    /// [`Error::Setting`] when it is no address; [`Error::Listen`] when it can't be listened on.
    pub async fn bind(self, addr: impl ListenAddr) -> Result<Bound> {
        let addr = addr.listen_addr()?;
        let listener = listen(addr).map_err(|source| Error::Listen { addr, source })?;
        let local_addr = listener.local_addr()?;
        Ok(Bound { app: self, listener, local_addr })
    }

    /// Listens on an address and serves until Ctrl-C or SIGTERM: then it stops accepting, closes every connection with
    /// 1001, waits for every `on_close`, and returns within 10 s. A second signal ends the process at once.
    ///
    /// # Errors
    /// As [`App::bind`].
    pub async fn run(self, addr: impl ListenAddr) -> Result<()> {
        self.bind(addr).await?.serve().await
    }
}

/// Something that says where to listen: a socket address, its text, or an address and a port.
pub trait ListenAddr {
    /// The address.
    ///
    /// # Errors
    /// [`Error::Setting`] when it is none.
    fn listen_addr(self) -> Result<SocketAddr>;
}

impl ListenAddr for SocketAddr {
    fn listen_addr(self) -> Result<SocketAddr> {
        Ok(self)
    }
}

impl ListenAddr for (std::net::IpAddr, u16) {
    fn listen_addr(self) -> Result<SocketAddr> {
        Ok(self.into())
    }
}

impl ListenAddr for &str {
    fn listen_addr(self) -> Result<SocketAddr> {
        let text = match self.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => self.to_owned(),
        };
        text.parse().map_err(|_| {
            Error::setting("address", self, "an IP address and a port are wanted, such as 127.0.0.1:8080")
        })
    }
}

impl ListenAddr for String {
    fn listen_addr(self) -> Result<SocketAddr> {
        self.as_str().listen_addr()
    }
}

/// Listens with a queue that holds a storm of reconnecting clients.
fn listen(addr: SocketAddr) -> std::io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    const QUEUE: i32 = 4096;
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?; // a restart need not wait for the last run's sockets to time out
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(QUEUE)?;
    TcpListener::from_std(socket.into())
}

/// An app that listens, and serves as soon as it is told to.
#[derive(Debug)]
#[must_use = "a bound app answers nothing until it serves"]
pub struct Bound {
    /// The app.
    app: App,
    /// Its socket.
    listener: TcpListener,
    /// Where it listens.
    local_addr: SocketAddr,
}

impl Bound {
    /// The address, with the port that was picked.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The hub.
    pub fn hub(&self) -> Hub {
        self.app.hub.clone()
    }

    /// Serves until Ctrl-C or SIGTERM, and ends as [`App::run`] does, which is [`App::bind`] and this.
    ///
    /// ```no_run
    /// # async fn example(app: ripplecast::App) -> ripplecast::Result<()> {
    /// let bound = app.bind("127.0.0.1:0").await?;
    /// println!("open http://{}", bound.local_addr());
    /// bound.serve().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] when the signals can't be watched.
    pub async fn serve(self) -> Result<()> {
        let signal = crate::shutdown_signal()?;
        tracing::info!(addr = %self.local_addr, "listening");
        self.serve_with_shutdown(signal).await
    }

    /// Serves until `shutdown` ends; then as at the end of [`App::run`]. Dropping the future drops all plain HTTP
    /// connections; what was upgraded belongs to the hub and stays until [`Hub::shutdown`].
    ///
    /// # Errors
    /// None so far: trouble with accepting is logged, and does not end it.
    pub async fn serve_with_shutdown(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let Self { app: App { hub, router, server, hsts, .. }, listener, .. } = self;
        let router = match hsts {
            Some(value) => router.layer(map_response(move |mut response: Response| {
                response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, value.clone());
                ready(response)
            })),
            None => router,
        };
        server.serve(listener, router, shutdown, hub.shutdown()).await;
        Ok(())
    }
}

/// Settings for a new [`App`]. All have safe defaults.
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until it builds"]
pub struct AppBuilder {
    /// The settings of the hub.
    hub: HubBuilder,
    /// The settings of the accept loop.
    server: Server,
    /// The file of the certificate.
    tls_cert: Option<TlsFile>,
    /// The file of its key.
    tls_key: Option<TlsFile>,
    /// How long browsers are kept to TLS.
    hsts: Option<Duration>,
}

impl AppBuilder {
    /// Settings from the environment; see [`App::from_env`].
    ///
    /// # Errors
    /// [`Error::Setting`] for a value that can't be used.
    pub fn from_env() -> Result<Self> {
        let mut builder = Self::default();
        if let Some(backend) = variable("RIPPLECAST_BACKEND")? {
            builder = builder.backend(&backend).map_err(|error| renamed(error, "RIPPLECAST_BACKEND"))?;
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
                let reason = format!("at most {SHARDS} are possible");
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

    /// Where shared state lives: `memory`, which is the default, or the URL of a Redis; see [`HubBuilder::backend`].
    ///
    /// # Errors
    /// [`Error::Setting`] for any other.
    pub fn backend(mut self, backend: &str) -> Result<Self> {
        self.hub = self.hub.backend(backend)?;
        Ok(self)
    }

    /// Whether the app starts also while its backend can't be reached; default false.
    pub fn backend_optional(mut self, optional: bool) -> Self {
        self.hub = self.hub.backend_optional(optional);
        self
    }

    /// Settings of the hub that the app does not repeat.
    pub fn hub(mut self, settings: impl FnOnce(HubBuilder) -> HubBuilder) -> Self {
        self.hub = settings(self.hub);
        self
    }

    /// Connections at the most; see [`HubBuilder::max_connections`].
    pub fn max_connections(mut self, max: usize) -> Self {
        self.hub = self.hub.max_connections(max);
        self
    }

    /// Connections from one address at the most; see [`HubBuilder::max_connections_per_address`].
    pub fn max_connections_per_address(mut self, max: usize) -> Self {
        self.hub = self.hub.max_connections_per_address(max);
        self
    }

    /// Leading bits of an IPv6 address that count as one address, for every limit by address; see
    /// [`HubBuilder::ipv6_prefix`].
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.hub = self.hub.ipv6_prefix(bits);
        self
    }

    /// The proxies whose forwarding headers are believed; see [`HubBuilder::trusted_proxies`].
    pub fn trusted_proxies(mut self, proxies: TrustedProxies) -> Self {
        self.hub = self.hub.trusted_proxies(proxies);
        self
    }

    /// Longest head of a request, in bytes; default 16 KiB. A longer one gets 431, as does one with more than 100 header
    /// fields.
    pub fn max_header(mut self, bytes: usize) -> Self {
        self.server = self.server.max_header(bytes);
        self
    }

    /// Time in which the whole head of a request must come, and before it the TLS handshake; default 10 s each. After
    /// that its connection is closed.
    pub fn header_timeout(mut self, time: Duration) -> Self {
        self.server = self.server.header_timeout(time);
        self
    }

    /// Time that the body of a request may keep the server waiting; default 30 s, at most a day, zero for no limit. Then the
    /// request gets 408, unless its response has begun, and the connection is closed.
    ///
    /// Each byte gives some of the time back, up to the whole: a second for every [`min_rate`](Self::min_rate) bytes. So a body
    /// that comes at that rate may take for as long as it likes, and one that stops is cut after this time. Only time in which
    /// a handler waits for the body counts; one that drops the body is not held up by it.
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

    /// Time that the reader of a response may keep the server waiting; default 30 s, at most a day, zero for no limit. Then the
    /// connection is reset. Bytes give time back as for [`body_timeout`](Self::body_timeout).
    ///
    /// Only time in which bytes wait for the socket counts, not time in which a handler thinks or its stream has nothing to
    /// send. WebSockets and this crate's event streams are not affected: their readers have an outbox. The system reports
    /// what a reader takes in steps, on Linux of up to 128 KiB: the reader of a long response must take some 5 KB a second.
    pub fn write_timeout(mut self, time: Duration) -> Self {
        self.server = self.server.write_timeout(time);
        self
    }

    /// Bytes that give a second of [`body_timeout`](Self::body_timeout) and [`write_timeout`](Self::write_timeout) back;
    /// default 500. With zero none do, and a whole body must come within that time.
    pub fn min_rate(mut self, bytes: u32) -> Self {
        self.server = self.server.min_rate(bytes);
        self
    }

    /// Sockets that may speak plain HTTP at once; default 65,536. Upgraded WebSockets do not count.
    pub fn max_http_connections(mut self, max: usize) -> Self {
        self.server = self.server.max_connections(max);
        self
    }

    /// The same from one address; default 1,000. More are closed at once. Loopback and [trusted proxies](Self::trusted_proxies)
    /// are not counted. Behind a trusted proxy it is the number of requests in progress from one forwarded address, of which
    /// more get 429; a request is in progress until its response has been handed to the socket.
    pub fn max_http_connections_per_address(mut self, max: usize) -> Self {
        self.server = self.server.max_per_address(max);
        self
    }

    /// Speaks TLS 1.2 and 1.3: `https://` and `wss://` in place of `http://` and `ws://`. Default: no TLS.
    ///
    /// Both are PEM files, and may be the same one: the certificate followed by those that lead to its root, and its
    /// private key in PKCS #8, PKCS #1 or SEC 1, not encrypted. They are loaded when the app is built, and again within
    /// seconds of a change; connections that are open go on as they are. A new file that can't be used is logged, and the
    /// old certificate stays.
    ///
    /// ```no_run
    /// # async fn example() -> ripplecast::Result<()> {
    /// let app = ripplecast::App::builder().tls("fullchain.pem", "privkey.pem").build().await?;
    /// app.run("0.0.0.0:443").await
    /// # }
    /// ```
    ///
    /// What it costs, and when a proxy in front is better, is in `docs/tls.md`.
    pub fn tls(mut self, cert_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        self.tls_cert = Some(TlsFile::new("tls_cert", cert_file));
        self.tls_key = Some(TlsFile::new("tls_key", key_file));
        self
    }

    /// Sends `Strict-Transport-Security` with every response: a browser that has seen it uses only `https` and `wss`
    /// for this host and port, for this time. Default: not sent, since browsers can't reach a host that returns to
    /// plain HTTP until the time has passed. Start with an hour, then increase it to a year. Needs [`AppBuilder::tls`];
    /// behind a proxy that speaks TLS, let the proxy send it.
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
    /// Those of [`HubBuilder::connect`]; [`Error::Setting`] when the certificate or its key can't be used, or one is set
    /// without the other.
    pub async fn build(self) -> Result<App> {
        let Self { hub, server, tls_cert, tls_key, hsts } = self;
        if let (Some(max_age), None) = (hsts, &tls_cert) {
            return Err(Error::setting(HSTS, max_age.as_secs(), "it needs a certificate: set tls as well"));
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
        let server = server.tls(tls).trusted(hub.trusted_proxies().clone()).ipv6_prefix(hub.ipv6_prefix());
        Ok(App { hub, router: Router::new(), endpoints: HashSet::new(), server, hsts })
    }
}

/// The error of a setting, under the name by which the user set it.
fn renamed(error: Error, name: &'static str) -> Error {
    match error {
        Error::Setting { value, reason, .. } => Error::setting(name, value, reason),
        other => other,
    }
}

/// The variable that names the certificate.
const TLS_CERT: &str = "RIPPLECAST_TLS_CERT";
/// The variable that names its key.
const TLS_KEY: &str = "RIPPLECAST_TLS_KEY";
/// The variable that keeps browsers to TLS.
const HSTS: &str = "RIPPLECAST_HSTS";

/// One of two variables that go together is missing.
fn missing(name: &'static str, other: &str) -> Error {
    Error::setting(name, "", format!("{other} is set, and neither is of use without the other"))
}

/// An environment variable; `None` when it is unset or empty.
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

/// An environment variable that is a number of seconds.
fn seconds(name: &'static str, most: Duration) -> Result<Option<Duration>> {
    let Some(seconds) = number(name)? else { return Ok(None) };
    let time = Duration::from_secs(seconds as u64);
    if time > most {
        let reason = format!("expected a number of seconds from 0 to {}", most.as_secs());
        return Err(Error::setting(name, seconds, reason));
    }
    Ok(Some(time))
}

/// An environment variable that is a number.
fn number(name: &'static str) -> Result<Option<usize>> {
    let Some(value) = variable(name)? else { return Ok(None) };
    value.parse().map(Some).map_err(|_| Error::setting(name, value, "expected a whole number"))
}

/// Lets a route return the crate's [`Result`]: an invalid request is 400; something closed or overloaded, or a backend
/// that is unavailable or does not answer, is 503 with `Retry-After`; any other error is logged and 500.
impl IntoResponse for Error {
    fn into_response(self) -> axum::response::Response {
        if let Self::BadRequest { reason } = &self {
            return (axum::http::StatusCode::BAD_REQUEST, format!("{reason}\n")).into_response();
        }
        if self.is_timeout() {
            return crate::request::plain(
                503,
                "The server got no answer in time; this may have been done or not.\n",
            );
        }
        if self.is_closed() || self.is_overloaded() || self.is_unavailable() {
            return crate::request::plain(503, "The server can't do this now; try again later.\n");
        }
        limited!(ERROR, error = %cut(&self), "a route failed");
        crate::request::plain(500, "The server failed at this; its log says why.\n")
    }
}
