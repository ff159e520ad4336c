//! The upgrade: moves a socket from the HTTP server to a shard.

use std::{io, net::TcpStream as StdTcpStream, sync::Arc};

use axum::{
    body::Body,
    extract,
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

/// Answers an upgrade request and passes the socket on.
pub(super) async fn upgrade(gate: Arc<Gate>, mut request: extract::Request) -> Response {
    let handshake = match handshake::check(request.method(), request.version(), request.headers()) {
        Ok(handshake) => handshake,
        Err(refusal) => return refused(refusal, request.uri().path()),
    };
    let source = match request.extensions_mut().remove::<HandOff>() {
        Some(hand_off) => SocketSource::HandOff(hand_off),
        None => SocketSource::Upgrade(hyper::upgrade::on(&mut request)),
    };
    let (parts, _) = request.into_parts();
    let peer = match request::peer(&gate.hub, &parts) {
        Ok(peer) => peer,
        Err(bad) => return bad.into(),
    };
    if !origin_allowed(&gate.origins, &parts.headers, &peer) {
        return refuse_origin(&parts, &peer, "Endpoint::origins");
    }
    // This comes after the origin check, so that another site's page can't cause the work.
    let protocols = match handshake::protocols(&parts.headers) {
        Ok(protocols) => protocols,
        Err(refusal) => return refused(refusal, parts.uri.path()),
    };
    let deflate = if gate.deflate { negotiation::accept(&parts.headers) } else { None };
    let permit = match admit(&gate.hub, &peer) {
        Ok(permit) => permit,
        Err(response) => return response,
    };
    let accept = match &gate.hook {
        None => Accept::new(),
        Some(hook) => {
            let request = match Request::new(peer, parts).await {
                Ok(request) => request,
                Err(response) => return response,
            };
            match decide(&gate.hub, hook, request).await {
                Ok(accept) => accept,
                Err(response) => return response,
            }
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
    response
}

/// Logs why a request can't be upgraded and returns the response.
fn refused(refusal: handshake::Refusal, path: &str) -> Response {
    limited!(DEBUG, ?refusal, path = %cut(path), "a request was not a valid WebSocket upgrade");
    refusal.into_response()
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
