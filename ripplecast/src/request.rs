//! The request behind a connection, for the hook that accepts or rejects it.

pub use crate::headers::Authority;

use std::{any::Any, net::IpAddr, sync::Arc};

use axum::{
    extract::{
        ConnectInfo, FromRequestParts, MatchedPath, OriginalUri, Query, RawPathParams,
        rejection::RawPathParamsRejection,
    },
    response::{IntoResponse, Response},
};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Uri, header, request::Parts};
use serde::de::DeserializeOwned;

use crate::{
    Error, Hub, Result,
    engine::{Permit, Refused, Route, is_loopback},
    headers::{BadAuthority, BasePath, ForwardedPeer, OverTls},
    log::limited,
    response::{STOPPING, plain},
};

/// A request for a WebSocket or an event stream, before it is accepted.
#[derive(Debug)]
pub struct Request {
    parts: Parts,
    /// The path parameters of the route.
    params: Vec<(String, String)>,
    pub(crate) peer: ForwardedPeer,
}

impl Request {
    /// Reads the path parameters of a request.
    ///
    /// # Errors
    /// 400 if a path parameter is not valid UTF-8: if it were treated as missing, a hook might accept the
    /// request by default.
    pub(crate) async fn new(peer: ForwardedPeer, mut parts: Parts) -> Result<Self, Response> {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let params = match RawPathParams::from_request_parts(&mut parts, &()).await {
            Ok(params) => params.iter().map(owned).collect(),
            Err(RawPathParamsRejection::InvalidUtf8InPathParam(_)) => {
                return Err(plain(400, "A part of the path is not valid UTF-8.\n"));
            }
            Err(_) => Vec::new(), // the endpoint is not in a router, so there are none
        };
        Ok(Self { parts, params, peer })
    }

    /// Returns the headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// Returns the URI as the endpoint's router sees it: in a router nested below `/api`, the path has no
    /// `/api`. See [`original_uri`](Self::original_uri).
    pub fn uri(&self) -> &Uri {
        &self.parts.uri
    }

    /// Returns the URI that the server received, before nested routers and
    /// [`base_path`](crate::App::base_path) removed their prefixes.
    ///
    /// ```
    /// use ripplecast::{Accept, Hub, Request, ws};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// let hub = Hub::builder().build()?;
    /// let chat = ws::endpoint(ws::handlers()).on_upgrade(async |request: Request| {
    ///     // For GET /api/chat: "/chat" and "/api/chat"
    ///     println!("{} {}", request.uri().path(), request.original_uri().path());
    ///     Accept::new()
    /// });
    /// let api = axum::Router::new().route("/chat", hub.ws(chat));
    /// # let _: axum::Router =
    /// axum::Router::new().nest("/api", api)
    /// # ; Ok(()) }
    /// ```
    pub fn original_uri(&self) -> &Uri {
        self.parts.extensions.get::<OriginalUri>().map_or(&self.parts.uri, |original| &original.0)
    }

    /// Runs one of axum's extractors, or one of your own: anything that implements [`FromRequestParts`], such
    /// as `Path`, `Query`, `Extension`, a session or a typed header. It sees what middleware has added.
    ///
    /// ```
    /// use axum::{extract::Path, http::StatusCode, response::IntoResponse};
    /// use ripplecast::{Accept, Request, ws};
    ///
    /// let endpoint = ws::endpoint(ws::handlers()).on_upgrade(async |mut request: Request| {
    ///     let Path(room) = request.extract::<Path<u32>>().await?; // 400 unless it is a number
    ///     if room == 0 {
    ///         return Err(StatusCode::NOT_FOUND.into_response());
    ///     }
    ///     Ok(Accept::new().state(room))
    /// });
    /// # let _ = endpoint;
    /// ```
    ///
    /// # Errors
    /// The extractor's rejection, as the response that the client gets if the hook returns it.
    pub async fn extract<T: FromRequestParts<()>>(&mut self) -> Result<T, Response> {
        self.extract_with_state(&()).await
    }

    /// Runs an extractor that needs the state of your application, such as axum's `State`.
    ///
    /// # Errors
    /// Same as [`extract`](Self::extract).
    pub async fn extract_with_state<T: FromRequestParts<S>, S: Sync>(
        &mut self,
        state: &S,
    ) -> Result<T, Response> {
        T::from_request_parts(&mut self.parts, state).await.map_err(IntoResponse::into_response)
    }

    /// Returns the decoded path parameter `name`: with the route `/rooms/{room}`, `param("room")`. `None`
    /// only if the route has no such parameter. A request with a parameter that is not valid UTF-8 gets 400
    /// and reaches no hook.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Deserializes the query into a struct.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when it does not fit the struct.
    pub fn query<T: DeserializeOwned>(&self) -> Result<T> {
        let Query(query) = Query::try_from_uri(&self.parts.uri)
            .map_err(|error| Error::BadRequest { reason: error.body_text() })?;
        Ok(query)
    }

    /// Returns the value of a cookie as it was sent; see [`cookie`].
    pub fn cookie(&self, name: &str) -> Option<&str> {
        cookie(&self.parts.headers, name)
    }

    /// Returns the token of `Authorization: Bearer TOKEN`; see [`bearer_token`].
    pub fn bearer_token(&self) -> Option<&str> {
        bearer_token(&self.parts.headers)
    }

    /// Returns the client's address: the one forwarded by trusted proxies, otherwise the socket's. `None` if
    /// the server does not provide it, such as `axum::serve` without `into_make_service_with_connect_info`.
    pub fn peer_addr(&self) -> Option<IpAddr> {
        self.peer.addr
    }

    /// Returns the host that the client requested, as [`Hub::authority`] does. `None` if an HTTP/1.0 request
    /// has no host.
    pub fn authority(&self) -> Option<&Authority> {
        self.peer.host.as_ref()
    }

    /// Returns the path below which the client sees the server, as [`Hub::base_path`] does.
    pub fn base_path(&self) -> &str {
        base_path(&self.peer, &self.parts)
    }

    /// Returns the method, URI, headers and extensions, including those added by middleware.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }
}

/// Returns the value of the first cookie called `name`, as it was sent. `None` if there is none, or its value
/// is not valid UTF-8. Other cookies may contain any bytes.
///
/// ```
/// use axum::http::{HeaderMap, HeaderValue, header};
///
/// let mut headers = HeaderMap::new();
/// headers.insert(header::COOKIE, HeaderValue::from_bytes("name=Jos\u{e9}; session=abc".as_bytes()).unwrap());
/// assert_eq!(ripplecast::request::cookie(&headers, "session"), Some("abc"));
/// ```
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b';')).map(<[u8]>::trim_ascii);
    let value = pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")).next()?;
    std::str::from_utf8(value).ok()
}

/// Returns the token of `Authorization: Bearer TOKEN` (RFC 6750). The scheme's case does not matter. `None`
/// if the header is missing or repeated, or the token is empty or contains anything but visible ASCII.
///
/// ```
/// use axum::http::{HeaderMap, HeaderValue, header};
///
/// let mut headers = HeaderMap::new();
/// headers.insert(header::AUTHORIZATION, HeaderValue::from_static("bearer abc"));
/// assert_eq!(ripplecast::request::bearer_token(&headers), Some("abc"));
/// ```
pub fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().filter(|_| values.next().is_none())?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    let token = token.trim_ascii();
    let is_token = scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty();
    std::str::from_utf8(token)
        .ok()
        .filter(|token| is_token && token.bytes().all(|byte| byte.is_ascii_graphic()))
}

impl Hub {
    /// Returns the address of the client of a plain HTTP request, as [`Request::peer_addr`] does for an
    /// upgrade: the one forwarded by [trusted proxies](crate::HubBuilder::trusted_proxies), otherwise the
    /// socket's.
    ///
    /// ```
    /// use axum::http::request::Parts;
    ///
    /// async fn who(hub: ripplecast::Hub, parts: Parts) -> String {
    ///     hub.peer_addr(&parts).map_or("somebody".into(), |addr| addr.to_string())
    /// }
    /// ```
    pub fn peer_addr(&self, parts: &Parts) -> Option<IpAddr> {
        forwarded(self, parts).addr
    }

    /// Returns the validated host of a request: the one forwarded by [trusted
    /// proxies](crate::HubBuilder::trusted_proxies), otherwise the one in the request's target, otherwise the
    /// one in the header `Host`.
    ///
    /// Use this instead of the header: in `GET http://evil.example/ HTTP/1.1` the target counts, whatever
    /// `Host` contains (RFC 9112, section 3.2.2). `None` only for an HTTP/1.0 request without a host, which
    /// that version allows. Treat it as a request for an unknown host.
    ///
    /// # Errors
    /// [`Error::BadRequest`], which is answered with 400, if `Host` is missing (it is required since
    /// HTTP/1.1) or repeated, or the host is not valid. Ripplecast's own server rejects such a request before
    /// it reaches any route. Under another server, the endpoints of a hub reject it, and other routes receive
    /// it.
    ///
    /// ```
    /// use axum::{http::request::Parts, response::Redirect};
    /// use ripplecast::{Hub, Result};
    ///
    /// async fn to_https(hub: Hub, parts: Parts) -> Result<Redirect> {
    ///     let host = hub.authority(&parts)?.map_or("example.com".into(), |authority| authority.host().to_owned());
    ///     Ok(Redirect::permanent(&format!("https://{host}{}", parts.uri.path())))
    /// }
    /// ```
    pub fn authority(&self, parts: &Parts) -> Result<Option<Authority>> {
        Ok(peer(self, parts)?.host)
    }

    /// Returns the path below which the client sees the server, such as `/rt`, without a trailing slash;
    /// empty for the root.
    ///
    /// Prefix it to absolute paths, such as a cookie's path or a redirect's target. Addresses on a page are
    /// better relative, which needs no prefix.
    ///
    /// It is the `X-Forwarded-Prefix` of a [trusted proxy](crate::HubBuilder::trusted_proxies), otherwise the
    /// [base path](crate::App::base_path) that the request was received below. The header is ignored if it is
    /// repeated, longer than 256 bytes, or not a path that [`App::base_path`](crate::App::base_path) accepts,
    /// with or without a trailing slash.
    ///
    /// ```
    /// use axum::{http::{header::SET_COOKIE, request::Parts}, response::IntoResponse};
    ///
    /// async fn log_in(hub: ripplecast::Hub, parts: Parts) -> impl IntoResponse {
    ///     let cookie = format!("session=abc; Path={}/; HttpOnly", hub.base_path(&parts));
    ///     [(SET_COOKIE, cookie)]
    /// }
    /// ```
    pub fn base_path(&self, parts: &Parts) -> String {
        base_path(&forwarded(self, parts), parts).to_owned()
    }
}

/// See [`Hub::base_path`].
fn base_path<'a>(peer: &'a ForwardedPeer, parts: &'a Parts) -> &'a str {
    let own = || parts.extensions.get::<BasePath>().map(|base| &*base.0);
    peer.prefix.as_deref().or_else(own).unwrap_or_default()
}

/// Returns the client of a request and the requested host.
pub(crate) fn peer(hub: &Hub, parts: &Parts) -> Result<ForwardedPeer, BadAuthority> {
    let own = Authority::of_parts(parts)?;
    let forwarded = forwarded(hub, parts);
    let https = forwarded.https.or_else(|| parts.extensions.get::<OverTls>().map(|_| true));
    Ok(ForwardedPeer { host: forwarded.host.or(own), https, ..forwarded })
}

/// Returns what the socket and trusted proxies report about the client.
fn forwarded(hub: &Hub, parts: &Parts) -> ForwardedPeer {
    let socket = parts.extensions.get::<ConnectInfo<std::net::SocketAddr>>();
    hub.trusted_proxies().peer(socket.map(|info| info.0.ip()), &parts.headers)
}

/// Accepts a request, as returned by an upgrade hook.
///
/// ```
/// use ripplecast::{Accept, Request, ws};
/// use axum::http::StatusCode;
///
/// struct User(String);
///
/// let endpoint = ws::endpoint(ws::handlers()).on_upgrade(|request: Request| async move {
///     let Some(session) = request.cookie("session") else { return Err(StatusCode::UNAUTHORIZED) };
///     Ok(Accept::new().state(User(session.to_owned())))
/// });
/// # let _ = endpoint;
/// ```
#[derive(Default)]
#[must_use]
pub struct Accept {
    /// Values to store with the connection.
    pub(crate) states: Vec<Arc<dyn Any + Send + Sync>>,
    /// Overrides the endpoint's choice.
    pub(crate) subprotocol: Option<String>,
}

impl Accept {
    /// Accepts the request.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores a value with the connection. [`Connection::state`](crate::Connection::state) returns it by its
    /// type. A second value of the same type replaces the first.
    pub fn state<T: Any + Send + Sync>(mut self, value: T) -> Self {
        self.states.retain(|known| !known.is::<T>());
        self.states.push(Arc::new(value));
        self
    }

    /// Selects a subprotocol instead of the endpoint's list. It must be one that the client offered.
    pub fn subprotocol(mut self, protocol: impl Into<String>) -> Self {
        self.subprotocol = Some(protocol.into());
        self
    }
}

impl std::fmt::Debug for Accept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accept").field("subprotocol", &self.subprotocol).finish_non_exhaustive()
    }
}

/// A type-erased upgrade hook.
pub(crate) type Hook = Arc<dyn Fn(Request) -> BoxFuture<'static, Result<Accept, Response>> + Send + Sync>;

/// A value that an upgrade hook may return: [`Accept`], or a `Result` whose error is any axum response.
pub trait IntoAccept {
    /// Converts into the acceptance or the rejecting response.
    #[expect(
        clippy::result_large_err,
        reason = "the response goes straight to the client; a box would be unboxed at once"
    )]
    fn into_accept(self) -> Result<Accept, Response>;
}

impl IntoAccept for Accept {
    fn into_accept(self) -> Result<Accept, Response> {
        Ok(self)
    }
}

impl<R: axum::response::IntoResponse> IntoAccept for Result<Accept, R> {
    fn into_accept(self) -> Result<Accept, Response> {
        self.map_err(axum::response::IntoResponse::into_response)
    }
}

/// Notes the path on which an endpoint is served, for logs.
pub(crate) fn note_path(route: &Route, parts: &Parts) {
    if let Some(path) = parts.extensions.get::<MatchedPath>() {
        route.path.found(path.as_str());
    }
}

/// Erases the types of an upgrade hook.
pub(crate) fn hook<F, Fut>(hook: F) -> Hook
where
    F: Fn(Request) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: IntoAccept> + Send + 'static,
{
    Arc::new(move |request| {
        let accepted = hook(request);
        Box::pin(async move { accepted.await.into_accept() })
    })
}

/// Calls a hook. If a shutdown begins before the hook has decided, the hook's future is dropped and the
/// request is rejected with 503.
pub(crate) async fn decide(hub: &Hub, hook: &Hook, request: Request) -> Result<Accept, Response> {
    tokio::select! {
        biased;
        () = hub.local_node().stopping() => Err(plain(503, STOPPING)),
        decided = hook(request) => decided,
    }
}

/// Counts a connection, or returns the response that rejects it.
#[expect(
    clippy::result_large_err,
    reason = "the response goes straight to the client; a box would be unboxed at once"
)]
pub(crate) fn admit(hub: &Hub, peer: &ForwardedPeer) -> Result<Permit, Response> {
    if hub.local_node().is_stopping() {
        return Err(plain(503, STOPPING));
    }
    if peer.addr.is_none() {
        hub.warn_without_addresses();
    }
    // Any client can put a loopback address into a header.
    let address = peer.addr.filter(|address| peer.is_forwarded || !is_loopback(*address));
    hub.local_node().admissions().admit(address).map_err(|refused| match refused {
        Refused::Full { limit } => {
            limited!(WARN, limit, "a connection was rejected: the limit max_connections is reached");
            plain(503, "The server has reached its limit of connections; try again later.\n")
        }
        Refused::TooManyFromAddress { limit } => {
            let addr = peer.addr.map(|addr| addr.to_string());
            limited!(
                WARN,
                addr,
                limit,
                "a connection was rejected: its address has reached max_connections_per_address"
            );
            plain(429, "Too many connections from your address; close some, or try again later.\n")
        }
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(name: &http::HeaderName, lines: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_bytes(line).unwrap());
        }
        headers
    }

    #[test]
    fn a_cookie_is_found_next_to_any_bytes() {
        let cases: [(&[&[u8]], Option<&str>); 12] = [
            (&[b"session=abc"], Some("abc")),
            (&["name=Jos\u{e9}; session=abc".as_bytes()], Some("abc")),
            (&[b"name=Jos\xe9; session=abc"], Some("abc")),
            (&[b"session=abc; name=\xff\xfe"], Some("abc")),
            (&[b"name=\xff", b"a=b;session=abc "], Some("abc")),
            (&["session=Jos\u{e9}".as_bytes()], Some("Jos\u{e9}")),
            (&[b"session=\xff"], None),
            (&[b"session=a=b"], Some("a=b")),
            (&[b"session="], Some("")),
            (&[b"session=1; session=2"], Some("1")),
            (&[b"session", b"; ;", b"sessions=1; xsession=2; session =3"], None),
            (&[], None),
        ];
        for (lines, expected) in cases {
            assert_eq!(cookie(&headers(&header::COOKIE, lines), "session"), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_bearer_token_is_found_whatever_the_case_of_its_scheme() {
        let cases: [(&[&[u8]], Option<&str>); 11] = [
            (&[b"Bearer abc"], Some("abc")),
            (&[b"bearer abc"], Some("abc")),
            (&[b"BEARER   a.b-c_d~e+f/g== "], Some("a.b-c_d~e+f/g==")),
            (&[b"Bearer"], None),
            (&[b"Bearer "], None),
            (&[b"Bearerabc"], None),
            (&[b"Basic abc"], None),
            (&[b"Bearer a b"], None),
            (&[b"Bearer a\xff"], None),
            (&[b"Bearer abc", b"Bearer abc"], None),
            (&[], None),
        ];
        for (lines, expected) in cases {
            assert_eq!(bearer_token(&headers(&header::AUTHORIZATION, lines)), expected, "{lines:?}");
        }
    }
}
