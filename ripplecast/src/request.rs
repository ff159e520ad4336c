//! The request behind a connection, for the hook that accepts or refuses it.

use std::{any::Any, net::IpAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, FromRequestParts, Query, RawPathParams, rejection::RawPathParamsRejection},
    response::Response,
};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Uri, header, request::Parts};
use serde::de::DeserializeOwned;

use crate::{
    Authority, Error, Hub, Result,
    engine::{Permit, Refused, is_loopback},
    headers::{BadAuthority, BasePath, ForwardedPeer},
    log::limited,
    response::{STOPPING, plain},
    server::OverTls,
};

/// The request that asks for a WebSocket or an event stream: everything of it, before anything is accepted.
#[derive(Debug)]
pub struct Request {
    /// Method, address, headers and extensions.
    parts: Parts,
    /// The parts of the path that the route names.
    params: Vec<(String, String)>,
    /// Who asks, as far as it can be known.
    pub(crate) peer: ForwardedPeer,
}

impl Request {
    /// Reads what the route knows about a request.
    ///
    /// # Errors
    /// 400 if a part of the path is not valid UTF-8: if it were treated as missing, a hook might admit it by a default.
    pub(crate) async fn new(peer: ForwardedPeer, mut parts: Parts) -> Result<Self, Response> {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let params = match RawPathParams::from_request_parts(&mut parts, &()).await {
            Ok(params) => params.iter().map(owned).collect(),
            Err(RawPathParamsRejection::InvalidUtf8InPathParam(_)) => {
                return Err(plain(400, "A part of the path is not valid UTF-8.\n"));
            }
            Err(_) => Vec::new(), // the endpoint is on no route of a router, so that there are none
        };
        Ok(Self { parts, params, peer })
    }

    /// Its headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// Its address.
    pub fn uri(&self) -> &Uri {
        &self.parts.uri
    }

    /// Returns the part of the path that the route calls `name`, decoded: with the route `/rooms/{room}`, `param("room")`.
    /// `None` only if the route has no such name. A request with a part that is not valid UTF-8 gets 400 and reaches no hook.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The query, read into a struct.
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

    /// The address of the client: through trusted proxies the one that they forward, else the socket's. `None` under a
    /// server that does not say, such as `axum::serve` without `into_make_service_with_connect_info`.
    pub fn peer_addr(&self) -> Option<IpAddr> {
        self.peer.addr
    }

    /// Returns the host that the client asked for, as [`Hub::authority`] does. `None` if it came with HTTP/1.0 and named no
    /// host.
    pub fn authority(&self) -> Option<&Authority> {
        self.peer.host.as_ref()
    }

    /// Returns the path below which the client sees the server, as [`Hub::base_path`] does.
    pub fn base_path(&self) -> &str {
        base_path(&self.peer, &self.parts)
    }

    /// Method, address, headers and extensions, such as what a middleware has put there.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }
}

/// Returns the value of the first cookie of this name, as it was sent. `None` if there is none, or its value is not valid
/// UTF-8. Other cookies don't matter, whatever bytes they hold.
///
/// ```
/// use axum::http::{HeaderMap, HeaderValue, header};
///
/// let mut headers = HeaderMap::new();
/// headers.insert(header::COOKIE, HeaderValue::from_bytes("name=Jos\u{e9}; session=abc".as_bytes()).unwrap());
/// assert_eq!(ripplecast::cookie(&headers, "session"), Some("abc"));
/// ```
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b';')).map(<[u8]>::trim_ascii);
    let value = pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")).next()?;
    std::str::from_utf8(value).ok()
}

/// Returns the token of `Authorization: Bearer TOKEN` (RFC 6750). The scheme's case does not matter. `None` if there is no
/// such header, there are several, or the token is empty or holds anything but visible ASCII.
///
/// ```
/// use axum::http::{HeaderMap, HeaderValue, header};
///
/// let mut headers = HeaderMap::new();
/// headers.insert(header::AUTHORIZATION, HeaderValue::from_static("bearer abc"));
/// assert_eq!(ripplecast::bearer_token(&headers), Some("abc"));
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
    /// The address of the client behind a plain HTTP request, as [`Request::peer_addr`] has it for an upgrade: through
    /// [trusted proxies](crate::HubBuilder::trusted_proxies) the one that they forward, else the socket's.
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

    /// Returns the host that a request is for, validated: through [trusted proxies](crate::HubBuilder::trusted_proxies) the
    /// one that they forward, otherwise the one of the request's target, otherwise that of the header `Host`.
    ///
    /// Use this instead of the header: in `GET http://evil.example/ HTTP/1.1` the target counts, whatever `Host`
    /// contains (RFC 9112, section 3.2.2). `None` only for an HTTP/1.0 request that names no host, which that version
    /// allows. Treat such a request as one for an unknown host.
    ///
    /// # Errors
    /// [`Error::BadRequest`], which is answered with 400: `Host` is missing (required since HTTP/1.1), there are several, or
    /// the host is not valid. Ripplecast's own server has refused such a request before any route sees it; under another
    /// server the endpoints of a hub refuse it, and other routes see it.
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

    /// Returns the path below which the client sees the server, such as `/rt`, without a slash at its end; empty for the root.
    ///
    /// Put it before a path that you write from the root: where a cookie is valid, where a redirect leads. Addresses on a page
    /// are better relative, which needs no such path.
    ///
    /// It is what a [trusted proxy](crate::HubBuilder::trusted_proxies) says in `X-Forwarded-Prefix`, otherwise the
    /// [base path](crate::App::base_path) that the request came below. The header is ignored unless there is exactly one, it
    /// has at most 256 bytes, and it is a path that [`App::base_path`](crate::App::base_path) takes, with or without a slash at
    /// its end.
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

/// Who asks, and for which host.
pub(crate) fn peer(hub: &Hub, parts: &Parts) -> Result<ForwardedPeer, BadAuthority> {
    let own = Authority::of_parts(parts)?;
    let forwarded = forwarded(hub, parts);
    let https = forwarded.https.or_else(|| parts.extensions.get::<OverTls>().map(|_| true));
    Ok(ForwardedPeer { host: forwarded.host.or(own), https, ..forwarded })
}

/// What the socket and trusted proxies say about who asks.
fn forwarded(hub: &Hub, parts: &Parts) -> ForwardedPeer {
    let socket = parts.extensions.get::<ConnectInfo<std::net::SocketAddr>>();
    hub.trusted_proxies().peer(socket.map(|info| info.0.ip()), &parts.headers)
}

/// What an upgrade hook says of a request that it accepts.
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
    /// What is kept with the connection.
    pub(crate) states: Vec<Arc<dyn Any + Send + Sync>>,
    /// The subprotocol that was chosen, if not by the endpoint's list.
    pub(crate) subprotocol: Option<String>,
}

impl Accept {
    /// Accepts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps a value with the connection; [`Connection::state`](crate::Connection::state) finds it by its type. A second
    /// value of a type replaces the first.
    pub fn state<T: Any + Send + Sync>(mut self, value: T) -> Self {
        self.states.retain(|known| !known.is::<T>());
        self.states.push(Arc::new(value));
        self
    }

    /// Chooses a subprotocol, and not the endpoint's list. It must be one that the client offered.
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

/// An upgrade hook, its types erased.
pub(crate) type Hook = Arc<dyn Fn(Request) -> BoxFuture<'static, Result<Accept, Response>> + Send + Sync>;

/// What an upgrade hook may return: [`Accept`], or a `Result` whose error is any response of axum's.
pub trait IntoAccept {
    /// As acceptance, or the response that refuses.
    #[expect(
        clippy::result_large_err,
        reason = "the response goes straight to the client; a box would be unpacked at once"
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

/// Asks a hook whether it accepts a request. A shutdown that begins before it has decided refuses the request with 503, and
/// drops the hook's future.
pub(crate) async fn decide(hub: &Hub, hook: &Hook, request: Request) -> Result<Accept, Response> {
    let mut stopping = hub.shards().stopping.subscribe();
    tokio::select! {
        biased;
        _ = stopping.wait_for(|&stopping| stopping) => Err(plain(503, STOPPING)),
        decided = hook(request) => decided,
    }
}

/// A place among the connections, or the response that says that there is none.
#[expect(
    clippy::result_large_err,
    reason = "the response goes straight to the client; a box would be unpacked at once"
)]
pub(crate) fn admit(hub: &Hub, peer: &ForwardedPeer) -> Result<Permit, Response> {
    if *hub.shards().stopping.borrow() {
        return Err(plain(503, STOPPING));
    }
    // Any client can put a loopback address into a header.
    let address = peer.addr.filter(|address| peer.is_forwarded || !is_loopback(*address));
    hub.shards().admissions.admit(address).map_err(|refused| match refused {
        Refused::Full { limit } => {
            limited!(WARN, limit, "a connection was refused: there are max_connections already");
            plain(503, "The server has as many connections as it may have; try again later.\n")
        }
        Refused::TooManyFromAddress { limit } => {
            let addr = peer.addr.map(|addr| addr.to_string());
            limited!(
                WARN,
                addr,
                limit,
                "a connection was refused: its address has max_connections_per_address already"
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
    fn a_cookie_is_found_beside_any_bytes() {
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
