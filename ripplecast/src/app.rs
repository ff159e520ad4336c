//! The app: routes and endpoints, and the server that runs them.

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
    Error, Hub, Result, Tls,
    headers::base_path,
    log::{cut, limited},
    server::{FileOptions, Server, files},
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
    /// | `RIPPLECAST_BACKEND` | where shared state lives: `memory`, or a Redis; see [`HubBuilder::backend`](crate::HubBuilder::backend) | `memory` |
    /// | `RIPPLECAST_BACKEND_OPTIONAL` | `1` starts also while the backend can't be reached | `0` |
    /// | `RIPPLECAST_NODE_SECRET` | signs messages between nodes; see [`HubBuilder::node_secret`](crate::HubBuilder::node_secret) | none |
    /// | `RIPPLECAST_SHARDS` | shards; 0 for one per core | 0 |
    /// | `RIPPLECAST_MAX_CONNECTIONS` | connections at the most | 100000 |
    /// | `RIPPLECAST_MAX_CONNECTIONS_PER_ADDRESS` | from one address at the most, loopback aside | 1000 |
    /// | `RIPPLECAST_IPV6_PREFIX` | leading bits of an IPv6 address that count as one address | 64 |
    /// | `RIPPLECAST_BODY_TIMEOUT` | seconds that a request's body may keep the server waiting; see [`AppBuilder::body_timeout`] | 30 |
    /// | `RIPPLECAST_WRITE_TIMEOUT` | seconds that a response's reader may; see [`AppBuilder::write_timeout`] | 30 |
    /// | `RIPPLECAST_MIN_RATE` | bytes that give a second of both back; see [`AppBuilder::min_rate`] | 500 |
    /// | `RIPPLECAST_TRUSTED_PROXIES` | whose forwarding headers are believed; see [`TrustedProxies`](crate::TrustedProxies) | none |
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

/// Lets a route return the crate's [`Result`]: an invalid request is 400; something closed or overloaded, or a backend
/// that is unavailable or does not answer, is 503 with `Retry-After`; any other error is logged and 500.
impl IntoResponse for Error {
    fn into_response(self) -> axum::response::Response {
        if let Self::BadRequest { reason } = &self {
            return (axum::http::StatusCode::BAD_REQUEST, format!("{reason}\n")).into_response();
        }
        if self.is_timeout() {
            return crate::response::plain(
                503,
                "The server got no answer in time; this may have been done or not.\n",
            );
        }
        if self.is_closed() || self.is_overloaded() || self.is_unavailable() {
            return crate::response::plain(503, "The server can't do this now; try again later.\n");
        }
        limited!(ERROR, error = %cut(&self), "a route failed");
        crate::response::plain(500, "The server failed at this; its log says why.\n")
    }
}
