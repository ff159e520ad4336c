//! The upgrade: moves a socket from the HTTP server to a shard.

use std::{borrow::Cow, io, net::TcpStream as StdTcpStream, sync::Arc};

use axum::{
    body::Body,
    extract::{self, OriginalUri},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header, request::Parts};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{handshake, negotiation};
use crate::{
    Accept, Hub, Request,
    engine::{Encoding, Route, tune},
    hand_off::{HandOff, PendingConnection},
    headers::{ForwardedPeer, OriginPolicy, origin},
    log::{cut, limited},
    relay,
    request::{self, Authority, Hook, admit, decide},
    response::plain,
};

/// The settings and checks in front of an endpoint.
pub(super) struct Gate {
    pub(super) hub: Hub,
    pub(super) route: Arc<Route>,
    pub(super) deflate: bool,
    pub(super) origins: OriginPolicy,
    /// In order of preference.
    pub(super) subprotocols: Vec<String>,
    pub(super) hook: Option<Hook>,
}

/// Why an upgrade was refused, and the response.
struct RefusedUpgrade {
    reason: Cow<'static, str>,
    response: Response,
}

impl RefusedUpgrade {
    fn new(reason: impl Into<Cow<'static, str>>, response: impl IntoResponse) -> Box<Self> {
        Box::new(Self { reason: reason.into(), response: response.into_response() })
    }

    /// Refuses a request that is not a valid upgrade.
    fn handshake(refusal: handshake::Refusal) -> Box<Self> {
        Self::new(format!("{refusal:?}"), refusal)
    }

    /// Refuses a request for this reason, or because the server is shutting down.
    fn unless_stopping(hub: &Hub, reason: &'static str, response: Response) -> Box<Self> {
        let is_stopping = hub.local_node().is_stopping();
        Self::new(if is_stopping { "the server is shutting down" } else { reason }, response)
    }
}

/// Answers an upgrade request and passes the socket on.
pub(super) async fn upgrade(gate: Arc<Gate>, request: extract::Request) -> Response {
    let path = tracing::enabled!(tracing::Level::DEBUG).then(|| {
        let original = request.extensions().get::<OriginalUri>(); // a nested router has shortened the other
        original.map_or(request.uri(), |original| &original.0).path().to_owned()
    });
    answer(gate, request).await.unwrap_or_else(|refused| {
        let RefusedUpgrade { reason, response } = *refused;
        let (status, path) = (response.status().as_u16(), path.unwrap_or_default());
        limited!(DEBUG, status, %reason, path = %cut(path), "an upgrade was refused");
        response
    })
}

/// Accepts an upgrade request, or returns the response that refuses it.
async fn answer(gate: Arc<Gate>, mut request: extract::Request) -> Result<Response, Box<RefusedUpgrade>> {
    let handshake = handshake::check(request.method(), request.version(), request.headers())
        .map_err(RefusedUpgrade::handshake)?;
    let source = match request.extensions_mut().remove::<HandOff>() {
        Some(hand_off) => SocketSource::HandOff(hand_off),
        None => SocketSource::Upgrade(hyper::upgrade::on(&mut request)),
    };
    let (parts, _) = request.into_parts();
    request::note_path(&gate.route, &parts);
    let peer = request::peer(&gate.hub, &parts)
        .map_err(|bad| RefusedUpgrade::new("its host is not valid", Response::from(bad)))?;
    if !origin_allowed(&gate.origins, &parts.headers, &peer) {
        let response = refuse_origin(&parts, &peer, "Endpoint::origins");
        return Err(RefusedUpgrade::new("its page is of another origin", response));
    }
    // This comes after the origin check, so that another site's page can't cause the work.
    let protocols = handshake::protocols(&parts.headers).map_err(RefusedUpgrade::handshake)?;
    let deflate = if gate.deflate { negotiation::accept(&parts.headers) } else { None };
    let permit = admit(&gate.hub, &peer).map_err(|response| {
        RefusedUpgrade::unless_stopping(&gate.hub, "a limit of connections is reached", response)
    })?;
    let accept = match &gate.hook {
        None => Accept::new(),
        Some(hook) => {
            let request = Request::new(peer, parts)
                .await
                .map_err(|response| RefusedUpgrade::new("the request is not valid", response))?;
            decide(&gate.hub, hook, request).await.map_err(|response| {
                RefusedUpgrade::unless_stopping(&gate.hub, "on_upgrade rejected it", response)
            })?
        }
    };
    let chosen = match &accept.subprotocol {
        Some(own) => protocols.iter().find(|offered| *offered == own).map(String::as_str),
        None => handshake::choose(&protocols, &gate.subprotocols),
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, handshake.accept);
    if let Some(protocol) = chosen.and_then(|protocol| HeaderValue::from_str(protocol).ok()) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    let mut encoding = Encoding::WebSocket;
    if let Some(answer) = deflate {
        encoding = Encoding::Deflate;
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(answer));
    }
    let pending = Box::new(PendingConnection {
        hub: gate.hub.clone(),
        route: gate.route.clone(),
        encoding,
        permit,
        states: accept.states,
    });
    match source {
        SocketSource::HandOff(hand_off) => hand_off.ask(pending),
        SocketSource::Upgrade(on_upgrade) => {
            let arrival = gate.hub.local_node().arrival();
            tokio::spawn(async move {
                hand_off_upgraded(on_upgrade, pending).await;
                drop(arrival);
            });
        }
    }
    Ok(response)
}

/// How the socket is obtained.
enum SocketSource {
    /// From our own server, before it answers.
    HandOff(HandOff),
    /// From another server, after it has answered.
    Upgrade(OnUpgrade),
}

/// Returns whether the request comes from a page that may connect, or from no page at all.
pub(crate) fn origin_allowed(policy: &OriginPolicy, headers: &http::HeaderMap, peer: &ForwardedPeer) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let origin = origins.next();
    if origins.next().is_some() {
        return *policy == OriginPolicy::Any;
    }
    origin::allowed(policy, origin, peer.host.as_ref(), peer.https == Some(true))
}

/// Logs that a page of another origin was rejected, and returns the response. `setting` is the method that
/// allows origins.
pub(crate) fn refuse_origin(parts: &Parts, peer: &ForwardedPeer, setting: &str) -> Response {
    let origin = parts.headers.get(header::ORIGIN).map_or(&[][..], HeaderValue::as_bytes);
    limited!(
        WARN,
        origin = %cut(origin.escape_ascii()),
        host = %cut(peer.host.as_ref().map_or("", Authority::as_str)),
        path = %cut(parts.uri.path()),
        "a page of another origin was rejected; if it is yours, allow it with {setting}"
    );
    plain(403, "The server does not allow requests from this page's origin.\n")
}

/// Hands the socket to a shard once hyper has released it.
async fn hand_off_upgraded(on_upgrade: OnUpgrade, pending: Box<PendingConnection>) {
    let upgraded = match on_upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            limited!(DEBUG, %error, "a peer disconnected during its upgrade");
            return;
        }
    };
    match into_socket(upgraded) {
        Ok((wire, rest)) => pending.begin(wire, rest, Vec::new()),
        Err(error) => limited!(WARN, %error, "can't hand off the socket of an upgraded connection"),
    }
}

/// Returns the raw socket with the bytes already read from it, or a relayed one if there is no raw socket.
fn into_socket(upgraded: Upgraded) -> io::Result<(StdTcpStream, Bytes)> {
    // `axum::serve` goes through hyper-util's server, which wraps the socket; others may serve it directly.
    let upgraded = match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => return Ok((raw(parts.io)?, parts.read_buf)),
        Err(upgraded) => upgraded,
    };
    match hyper_util::server::conn::auto::upgrade::downcast::<TokioIo<TcpStream>>(upgraded) {
        Ok(parts) => Ok((raw(parts.io)?, parts.read_buf)),
        Err(upgraded) => Ok((relay::relay(TokioIo::new(upgraded))?, Bytes::new())),
    }
}

/// Removes a socket from tokio, which releases the wakers of hyper's finished task.
fn raw(socket: TokioIo<TcpStream>) -> io::Result<StdTcpStream> {
    let socket = socket.into_inner();
    tune(&socket);
    socket.into_std()
}
