//! The upgrade: moves a socket from the HTTP server to a shard.

use std::{io, net::TcpStream as StdTcpStream, os::fd::AsFd, sync::Arc};

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
    Accept, Authority, Hub, Request,
    engine::{Dialect, Route},
    hand_off::{Accepted, Takeover},
    headers::{ForwardedPeer, OriginPolicy, origin},
    limits::{PING_INTERVAL, UNSENT_BYTES},
    log::{cut, limited},
    relay,
    request::{self, Hook, admit, decide},
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
    let way = match request.extensions_mut().remove::<Takeover>() {
        Some(takeover) => Way::Takeover(takeover),
        None => Way::Upgrade(hyper::upgrade::on(&mut request)),
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
    let mut dialect = Dialect::WebSocket;
    if let Some(answer) = deflate {
        dialect = Dialect::Deflate;
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(answer));
    }
    let accepted = Box::new(Accepted {
        hub: gate.hub.clone(),
        route: gate.route.clone(),
        dialect,
        permit,
        states: accept.states,
    });
    match way {
        Way::Takeover(takeover) => takeover.ask(accepted),
        Way::Upgrade(on_upgrade) => {
            let arrival = gate.hub.shards().arrival();
            tokio::spawn(async move {
                take_over(on_upgrade, accepted).await;
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
enum Way {
    /// From our own server, before it answers.
    Takeover(Takeover),
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
async fn take_over(on_upgrade: OnUpgrade, accepted: Box<Accepted>) {
    let upgraded = match on_upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            limited!(DEBUG, %error, "a peer disconnected during its upgrade");
            return;
        }
    };
    match take_socket(upgraded) {
        Ok((wire, rest)) => accepted.begin(wire, rest, Vec::new()),
        Err(error) => limited!(WARN, %error, "can't take over the socket of an upgraded connection"),
    }
}

/// Returns the raw socket with the bytes already read from it, or a relayed one if there is no raw socket.
fn take_socket(upgraded: Upgraded) -> io::Result<(StdTcpStream, Bytes)> {
    // `axum::serve` goes through hyper-util's server, which wraps the socket; others may serve it directly.
    let upgraded = match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => return Ok((raw(parts.io)?, parts.read_buf)),
        Err(upgraded) => upgraded,
    };
    match hyper_util::server::conn::auto::upgrade::downcast::<TokioIo<TcpStream>>(upgraded) {
        Ok(parts) => Ok((raw(parts.io)?, parts.read_buf)),
        Err(upgraded) => Ok((relay::drive(TokioIo::new(upgraded))?, Bytes::new())),
    }
}

/// Sets the options of a connection's socket. On Linux, accepted sockets inherit them from the listener,
/// which saves the system calls per connection.
///
/// `TCP_NODELAY`: frames are already coalesced, so waiting for more only adds delay.
///
/// `TCP_USER_TIMEOUT`: the kernel drops a connection whose peer acknowledges nothing for three ping
/// intervals. Our own pings detect a WebSocket's dead peer earlier. An event stream has no other way, and by
/// default the kernel would retry for a quarter of an hour.
///
/// `TCP_NOTSENT_LOWAT`: the kernel buffers no more than it can soon send. What a slow reader has to wait for
/// stays in its outbox, where it is counted and can still be replaced or dropped.
pub(crate) fn tune(socket: &impl AsFd) {
    let socket = socket2::SockRef::from(socket);
    // Errors are ignored: a socket that its peer has reset fails at its first read, and a kernel that does
    // not support an option has its own limits.
    let _ = socket.set_tcp_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        let _ = socket.set_tcp_user_timeout(Some(PING_INTERVAL * 3));
        let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES);
    }
}

/// Removes a socket from tokio, which releases the wakers of hyper's finished task.
fn raw(socket: TokioIo<TcpStream>) -> io::Result<StdTcpStream> {
    let socket = socket.into_inner();
    tune(&socket);
    socket.into_std()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn accepted_sockets_inherit_the_options_of_the_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        tune(&listener);
        let _client = StdTcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = socket2::SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(PING_INTERVAL * 3));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT_BYTES);
    }
}
