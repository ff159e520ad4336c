//! The inspector: what goes on in this node, for whoever runs it.

mod frames;

use std::{
    future::ready,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Form,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use ripplecast::{App, Connection, Frame, Hub, Overflow, Request, Result, ws, ws::Handler};
use ripplecast_site::Page;
use serde::{Deserialize, Serialize};

use crate::{
    demos::Demos,
    sample::Sample,
    visitor::{Visitor, asks_for_loopback},
};

/// Time between two pictures.
const EVERY: Duration = Duration::from_secs(1);
/// Connections and rooms that are listed.
const LISTED: usize = 100;
/// Those who look at once.
const PEOPLE: usize = 20;
/// What the connections of the inspector itself are of.
const INSPECTOR: &str = "inspector";
/// The longest message that the page may send, in bytes: it asks for the frames of a connection.
const MAX_MESSAGE: usize = 256;
/// The cookie that holds the token of whoever has given it.
const COOKIE: &str = "ripplecast_inspect";

/// What a connection is of, and since when; kept with each.
pub(crate) struct Seen {
    /// What it is of, in a word.
    pub(crate) what: &'static str,
    /// When it was opened.
    since: Instant,
}

impl Seen {
    /// A connection that is being opened.
    pub(crate) fn now(what: &'static str) -> Self {
        Self { what, since: Instant::now() }
    }
}

/// Decides who may look. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gate {
    /// Whether the server is reached from this machine alone: it listens on loopback, and knows of no proxy.
    is_local: bool,
    /// What others have to know.
    token: Option<Arc<str>>,
    /// Whether the server speaks TLS itself, so that the cookie may be kept to it.
    tls: bool,
}

impl Gate {
    /// Whoever is at this machine may look, if the server is reached from nowhere else; and whoever has the token.
    pub(crate) fn new(is_local: bool, token: Option<String>, tls: bool) -> Self {
        Self { is_local, token: token.map(Into::into), tls }
    }

    /// Whether the sender of a request may look.
    pub(crate) fn opens(&self, hub: &Hub, parts: &Parts) -> bool {
        let is_here = self.is_local && Visitor::of(hub, parts).is_loopback && asks_for_loopback(hub, parts);
        is_here || given(&parts.headers).any(|given| self.is_token(given))
    }

    /// Whether this is the token. Of the token, the time that it takes tells the length and no more.
    fn is_token(&self, given: &str) -> bool {
        let Some(token) = &self.token else { return false };
        let differences = token.bytes().zip(given.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
        token.len() == given.len() && differences == 0
    }

    /// What to tell those who may not.
    pub(crate) fn advice(&self) -> &'static str {
        if self.token.is_some() {
            "This is for whoever has the token of --inspect-token: send it as `Authorization: Bearer TOKEN`.\n"
        } else {
            "This is open on the server's own machine only, while it listens on loopback and is \
             told of no proxy. To open it to others, start the server with --inspect-token.\n"
        }
    }
}

/// The tokens that a request gives: as a bearer token, and as a cookie.
fn given(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    ripplecast::bearer_token(headers).into_iter().chain(ripplecast::cookie(headers, COOKIE))
}

/// Whether a proxy says that the browser came over TLS. Whoever writes that without one gets a cookie that their browser
/// keeps to itself, so it need not be a trusted proxy's word.
fn came_over_tls(headers: &HeaderMap) -> bool {
    headers.get("x-forwarded-proto").is_some_and(|scheme| scheme.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// What the inspector shows.
#[derive(Serialize)]
struct Picture {
    figures: Sample,
    /// Some of the connections of this node.
    connections: Vec<Open>,
    /// The largest rooms of this node.
    rooms: Vec<Members>,
}

/// An open connection.
#[derive(Serialize)]
struct Open {
    id: String,
    /// What it is of.
    what: &'static str,
    /// The address that it came from.
    addr: Option<String>,
    /// The client that it was identified as.
    client: Option<String>,
    /// Seconds that it has been open.
    seconds: Option<u64>,
}

/// A room.
#[derive(Serialize)]
struct Members {
    name: String,
    members: usize,
}

impl Picture {
    fn take(hub: &Hub) -> Self {
        let open = |conn: Connection| {
            let seen = conn.state::<Seen>();
            Open {
                id: conn.id().to_string(),
                what: seen.as_ref().map_or("counter stream", |seen| seen.what),
                addr: conn.state::<Visitor>().and_then(|visitor| visitor.addr).map(|addr| addr.to_string()),
                client: conn.client_id().map(|client| client.to_string()),
                seconds: seen.map(|seen| seen.since.elapsed().as_secs()),
            }
        };
        let named =
            |room: ripplecast::Room| Members { name: room.name().to_owned(), members: room.len_here() };
        let mut rooms: Vec<Members> = hub.rooms().map(named).collect();
        rooms.sort_by(|a, b| b.members.cmp(&a.members).then_with(|| a.name.cmp(&b.name)));
        rooms.truncate(LISTED);
        Self {
            figures: Sample::take(hub),
            connections: hub.connections().take(LISTED).map(open).collect(),
            rooms,
        }
    }

    fn frame(hub: &Hub) -> Result<Frame> {
        Ok(Frame::json(&Self::take(hub))?.with_key("picture"))
    }
}

/// The inspector's side of the server; cheap to clone.
#[derive(Clone)]
struct Inspector {
    demos: Demos,
    gate: Gate,
    /// The room of this node.
    room: String,
}

impl Handler for Inspector {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        if self.demos.admit(&conn, &self.room, PEOPLE) {
            conn.set_state(frames::Log::default())?;
            conn.join_with(&self.room, Picture::frame(&self.demos.hub)?)?;
        }
        Ok(())
    }

    async fn on_message(&self, conn: Connection, message: Frame) -> Result<()> {
        if self.demos.may_act(&conn) {
            frames::asked(&self.demos.hub, &conn, &message);
        }
        Ok(())
    }
}

/// Pushes pictures while somebody looks.
async fn tick(hub: Hub, room: String) {
    let mut clock = tokio::time::interval(EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let room = hub.room(&room);
        if room.len_here() > 0
            && let Ok(picture) = Picture::frame(&hub)
        {
            room.push(picture).ignore();
        }
    }
}

async fn page(State(inspector): State<Inspector>, parts: Parts) -> Response {
    let Inspector { demos, gate, .. } = &inspector;
    match (gate.opens(&demos.hub, &parts), &gate.token) {
        (true, _) => ripplecast_site::page(Page::Inspector, StatusCode::OK),
        (false, Some(_)) => ripplecast_site::page(Page::InspectorToken, StatusCode::UNAUTHORIZED),
        (false, None) => ripplecast_site::page(Page::InspectorClosed, StatusCode::FORBIDDEN),
    }
}

/// What the form for the token sends.
#[derive(Deserialize)]
struct Given {
    token: String,
}

async fn log_in(State(inspector): State<Inspector>, parts: Parts, Form(given): Form<Given>) -> Response {
    let Inspector { demos, gate, .. } = &inspector;
    if let Err(too_much) = demos.allow(&parts) {
        return too_much.into_response();
    }
    if gate.token.is_none() {
        return ripplecast_site::page(Page::InspectorClosed, StatusCode::FORBIDDEN);
    }
    if !gate.is_token(&given.token) {
        return ripplecast_site::page(Page::InspectorWrongToken, StatusCode::UNAUTHORIZED);
    }
    let secure = if gate.tls || came_over_tls(&parts.headers) { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict{secure}", given.token);
    ([(header::SET_COOKIE, cookie)], Redirect::to("inspect")).into_response()
}

/// Puts the inspector on the app.
pub(crate) fn add(app: App, demos: &Demos, gate: &Gate) -> App {
    let room = format!("inspect:{}", demos.hub.node());
    tokio::spawn(tick(demos.hub.clone(), room.clone()));
    let inspector = Inspector { demos: demos.clone(), gate: gate.clone(), room };
    let at_the_gate = inspector.clone();
    let endpoint = ws::endpoint(inspector.clone()).max_message(MAX_MESSAGE).overflow(Overflow::LatestPerKey);
    let endpoint = endpoint.on_upgrade(move |request: Request| {
        let Inspector { demos, gate, .. } = &at_the_gate;
        let is_open = gate.opens(&demos.hub, request.parts());
        let accept = demos.accept(&request, INSPECTOR);
        ready(if is_open { Ok(accept) } else { Err((StatusCode::FORBIDDEN, gate.advice())) })
    });
    let page = get(page).post(log_in).with_state(inspector).layer(DefaultBodyLimit::max(1024));
    app.ws("/ws/inspect", endpoint).route("/inspect", page)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::{extract::ConnectInfo, http::Request};

    use super::*;

    fn opens(gate: &Gate, peer: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::get("/inspect");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        let peer: SocketAddr = peer.parse().unwrap();
        parts.extensions.insert(ConnectInfo(peer));
        gate.opens(&Hub::builder().build().unwrap(), &parts)
    }

    const HOST: (&str, &str) = ("host", "127.0.0.1:8080");

    #[tokio::test]
    async fn it_is_open_where_listener_peer_and_host_are_loopback() {
        let here = Gate::new(true, None, false);
        assert!(opens(&here, "127.0.0.1:5", &[HOST]));
        assert!(!opens(&here, "192.0.2.7:5", &[HOST]));
        assert!(!opens(&here, "127.0.0.1:5", &[("host", "evil.example")]), "a name that was led here");
        assert!(!opens(&here, "127.0.0.1:5", &[]), "no host");
        assert!(!opens(&here, "127.0.0.1:5", &[HOST, ("x-forwarded-for", "127.0.0.1")]), "a proxy");
        assert!(!opens(&Gate::new(false, None, false), "127.0.0.1:5", &[HOST]), "the listener is not");
    }

    #[tokio::test]
    async fn a_token_opens_it_to_others() {
        let gate = Gate::new(false, Some("open-sesame".into()), false);
        let with =
            |name, value: &str| opens(&gate, "192.0.2.7:5", &[("host", "shop.example"), (name, value)]);
        assert!(with("authorization", "Bearer open-sesame"));
        assert!(with("cookie", "a=b; ripplecast_inspect=open-sesame"));
        for wrong in ["", "open", "open-sesame2", "open-sesamf"] {
            assert!(!with("authorization", &format!("Bearer {wrong}")), "{wrong}");
            assert!(!with("cookie", &format!("ripplecast_inspect={wrong}")), "{wrong}");
        }
        let none = Gate::new(false, None, false);
        assert!(
            !opens(&none, "192.0.2.7:5", &[HOST, ("authorization", "Bearer ")]),
            "no token opens nothing"
        );
    }
}
