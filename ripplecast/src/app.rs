//! The app: routes, endpoints and the server that runs them.

mod builder;

pub use self::builder::AppBuilder;

use std::{
    collections::HashSet,
    convert::Infallible,
    future::{Future, ready},
    net::SocketAddr,
    path::Path,
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
    Error, Hub, Result,
    headers::base_path,
    server::{FileOptions, HttpServer, files},
    sse,
    ws::IntoEndpoint,
};

/// Routes and endpoints around a [`Hub`]. Builds an [`axum::Router`], or runs the server itself.
///
/// ```no_run
/// use ripplecast::{App, Connection, Message, Result, ws};
///
/// #[tokio::main]
/// async fn main() -> Result<()> {
///     let echo = ws::handlers().on_message(|conn: Connection, message: Message| async move { conn.push(message).ignore() });
///     App::from_env().await?.ws("/echo", echo).run("127.0.0.1:8080").await
/// }
/// ```
#[derive(Debug)]
#[must_use = "an app does nothing until it is run or converted into a router"]
pub struct App {
    hub: Hub,
    router: Router,
    /// Paths that already have an endpoint.
    endpoints: HashSet<String>,
    server: HttpServer,
    /// The value of `Strict-Transport-Security`.
    hsts: Option<HeaderValue>,
}

impl App {
    /// Creates a builder with the default settings.
    pub fn builder() -> AppBuilder {
        AppBuilder::default()
    }

    /// Builds an app with settings from the environment. Unset and empty variables keep the defaults.
    ///
    /// | variable | meaning | default |
    /// |---|---|---|
    /// | `RIPPLECAST_BACKEND` | where shared state lives: `memory` or the URL of a Redis; see [`HubBuilder::backend`](crate::HubBuilder::backend) | `memory` |
    /// | `RIPPLECAST_BACKEND_OPTIONAL` | `1` starts even if the backend can't be reached | `0` |
    /// | `RIPPLECAST_NODE_SECRET` | signs messages between nodes; see [`HubBuilder::node_secret`](crate::HubBuilder::node_secret) | none |
    /// | `RIPPLECAST_SHARDS` | shards; 0 for one per core | 0 |
    /// | `RIPPLECAST_MAX_CONNECTIONS` | maximum number of connections | 100000 |
    /// | `RIPPLECAST_MAX_CONNECTIONS_PER_ADDRESS` | maximum from one address, not counting loopback | 1000 |
    /// | `RIPPLECAST_IPV6_PREFIX` | leading bits of an IPv6 address that count as one address | 64 |
    /// | `RIPPLECAST_BODY_TIMEOUT` | seconds that a request's body may keep the server waiting; see [`AppBuilder::body_timeout`] | 30 |
    /// | `RIPPLECAST_WRITE_TIMEOUT` | seconds that a response's reader may keep it waiting; see [`AppBuilder::write_timeout`] | 30 |
    /// | `RIPPLECAST_MIN_RATE` | bytes that restore one second of either; see [`AppBuilder::min_rate`] | 500 |
    /// | `RIPPLECAST_TRUSTED_PROXIES` | proxies whose forwarding headers are trusted; see [`TrustedProxies`](crate::TrustedProxies) | none |
    /// | `RIPPLECAST_TLS_CERT`, `RIPPLECAST_TLS_KEY` | PEM files of a certificate and its key; see [`AppBuilder::tls`] | no TLS |
    /// | `RIPPLECAST_HSTS` | seconds for which browsers use only TLS; see [`AppBuilder::hsts`] | none |
    ///
    /// # Errors
    /// [`Error::Setting`] for a value that can't be used, or any error of [`AppBuilder::build`].
    pub async fn from_env() -> Result<Self> {
        AppBuilder::from_env()?.build().await
    }

    /// Returns the hub, to clone into any handler.
    pub fn hub(&self) -> Hub {
        self.hub.clone()
    }

    /// Returns the certificate, to [reload](crate::Tls::reload) it; `None` without TLS.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls(&self) -> Option<crate::Tls> {
        self.server.tls.clone()
    }

    /// Serves a WebSocket endpoint on a path: [handlers](crate::ws::handlers), a
    /// [`Handler`](crate::ws::Handler), or an [`Endpoint`](crate::ws::Endpoint) with settings and hooks.
    ///
    /// # Panics
    /// If the path is taken or invalid, like [`axum::Router::route`]. This can happen only at startup.
    #[track_caller]
    pub fn ws(self, path: &str, endpoint: impl IntoEndpoint) -> Self {
        let endpoint = self.hub.ws(endpoint);
        self.endpoint(path, endpoint)
    }

    /// Serves an event stream on a path: that of a room by its name, of a
    /// [`LiveCounter`](crate::LiveCounter), or of an [`Endpoint`](crate::sse::Endpoint) with settings and
    /// hooks.
    ///
    /// # Panics
    /// Same as [`App::ws`].
    #[track_caller]
    pub fn sse(self, path: &str, endpoint: impl Into<sse::Endpoint>) -> Self {
        let endpoint = self.hub.sse(endpoint);
        self.endpoint(path, endpoint)
    }

    /// Serves an endpoint on a path that has none. Checks this here, because axum's own message for two endpoints
    /// on one path is unclear.
    #[track_caller]
    fn endpoint(mut self, path: &str, endpoint: MethodRouter) -> Self {
        assert!(
            self.endpoints.insert(path.to_owned()),
            "`{path}` already has an endpoint: choose another path, or let one endpoint do both"
        );
        self.route(path, endpoint)
    }

    /// Adds a plain HTTP route, as axum does.
    ///
    /// # Panics
    /// Same as [`App::ws`].
    #[track_caller]
    pub fn route(mut self, path: &str, methods: MethodRouter) -> Self {
        self.router = self.router.route(path, methods);
        self
    }

    /// Adds all the routes of another router.
    ///
    /// # Panics
    /// Same as [`App::ws`].
    #[track_caller]
    pub fn merge(mut self, router: impl Into<Router>) -> Self {
        self.router = self.router.merge(router);
        self
    }

    /// Serves the files in `root` at the paths below `prefix`. A file outside `root` is never served,
    /// whatever the path or its symbolic links lead to, and directories are never listed. Names that begin
    /// with a dot (except `.well-known`) and editors' backups are 404; [`App::files_with`] can allow them.
    ///
    /// # Errors
    /// [`Error::Setting`] when `root` is not a directory that can be read.
    ///
    /// # Panics
    /// Same as [`App::ws`].
    pub fn files(self, prefix: &str, root: impl AsRef<Path>) -> Result<Self> {
        self.files_with(prefix, root, FileOptions::new())
    }

    /// Serves files as [`App::files`] does, with options.
    ///
    /// # Errors
    /// Same as [`App::files`].
    ///
    /// # Panics
    /// Same as [`App::ws`].
    pub fn files_with(mut self, prefix: &str, root: impl AsRef<Path>, options: FileOptions) -> Result<Self> {
        self.router = self.router.nest_service(prefix, files(root.as_ref(), options)?);
        Ok(self)
    }

    /// Also serves all routes added so far below a path such as `/rt`, for a proxy that forwards the path
    /// unchanged. A proxy that removes the prefix doesn't need this, as long as the pages use relative
    /// addresses.
    ///
    /// Handlers see the path without the prefix. `/rt` redirects to `/rt/` (308), because relative addresses
    /// on that page would otherwise resolve outside the prefix.
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
    /// [`Error::Setting`] unless the path starts with `/`, does not end with `/`, and consists of parts of
    /// letters, digits, `-`, `.`, `_` and `~` other than `.` and `..`.
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

    /// Converts the app into a plain router for your own server. The settings of the accept loop do not apply
    /// there.
    pub fn into_router(self) -> Router {
        self.router
    }

    /// Listens on an address such as `"127.0.0.1:8080"`. Port 0 picks a free port.
    ///
    /// # Errors
    /// [`Error::Setting`] when it is not an address; [`Error::Listen`] when listening on it fails.
    pub async fn bind(self, addr: impl ListenAddr) -> Result<Bound> {
        let addr = addr.listen_addr()?;
        let listener = listen(addr).map_err(|source| Error::Listen { addr, source })?;
        let local_addr = listener.local_addr()?;
        Ok(Bound { app: self, listener, local_addr })
    }

    /// Listens on an address and serves until Ctrl-C or SIGTERM. Then it stops accepting, closes every
    /// connection with 1001, waits for every `on_close`, and returns within 10 s. A second signal ends the
    /// process at once.
    ///
    /// # Errors
    /// Same as [`App::bind`].
    pub async fn run(self, addr: impl ListenAddr) -> Result<()> {
        self.bind(addr).await?.serve().await
    }
}

/// An address to listen on: a socket address, its text, or an IP address and a port.
pub trait ListenAddr {
    /// Converts into a socket address.
    ///
    /// # Errors
    /// [`Error::Setting`] when it is not an address.
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
            Error::setting("address", self, "expected an IP address and a port, such as 127.0.0.1:8080")
        })
    }
}

impl ListenAddr for String {
    fn listen_addr(self) -> Result<SocketAddr> {
        self.as_str().listen_addr()
    }
}

/// Listens with a backlog that is large enough for many clients reconnecting at once.
fn listen(addr: SocketAddr) -> std::io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    const QUEUE: i32 = 4096;
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?; // a restart need not wait for the previous run's sockets to time out
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(QUEUE)?;
    TcpListener::from_std(socket.into())
}

/// An app that is listening but not yet serving.
#[derive(Debug)]
#[must_use = "a bound app does not answer until it serves"]
pub struct Bound {
    app: App,
    listener: TcpListener,
    local_addr: SocketAddr,
}

impl Bound {
    /// Returns the address, with the actual port.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Returns the hub.
    pub fn hub(&self) -> Hub {
        self.app.hub.clone()
    }

    /// Serves until Ctrl-C or SIGTERM, and shuts down as [`App::run`] does. [`App::run`] is [`App::bind`]
    /// followed by this.
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

    /// Serves until `shutdown` completes, and shuts down as [`App::run`] does. Dropping the future drops all
    /// plain HTTP connections; upgraded ones belong to the hub and stay open until [`Hub::shutdown`].
    ///
    /// # Errors
    /// None at present: errors while accepting are logged and do not stop the server.
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
