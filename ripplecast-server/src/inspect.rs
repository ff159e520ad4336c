//! The inspector: live connections, rooms and traffic of this node, for its operator.

mod frames;

use std::{
    collections::HashSet,
    future::ready,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Form,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    middleware::from_fn_with_state,
    response::{IntoResponse, Redirect, Response},
    routing::post,
};
use hmac::{Hmac, Mac as _};
use ripplecast::{App, Connection, Hub, Message, Overflow, Request, Result, log, ws, ws::Handler};
use ripplecast_demo::{
    Demos, Seen,
    limit::{Limiter, Rate, key},
    limit_actions,
    sample::Sample,
    visitor::{Visitor, asks_for_loopback},
};
use ripplecast_site::Page;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// The interval between snapshots.
const EVERY: Duration = Duration::from_secs(1);
/// The most connections, and the most rooms, in a snapshot.
const LISTED: usize = 100;
/// The most inspectors at once.
const PEOPLE: usize = 20;
/// The endpoint name of the inspector's own connections.
const INSPECTOR: &str = "inspector";
/// The longest message from the page, in bytes: a request for the frames of a connection.
const MAX_MESSAGE: usize = 256;
/// The cookie of a browser that has sent the token.
const COOKIE: &str = "ripplecast_inspect";
/// The name of the cookie over TLS.
const SECURE_COOKIE: &str = "__Host-ripplecast_inspect";
/// Wrong tokens from one address: enough for a person who mistypes, too few for a program that guesses.
const WRONG_OF_ADDRESS: Rate = Rate { burst: 10.0, per_second: 0.5 };
/// Wrong tokens from all addresses together.
const WRONG_IN_ALL: Rate = Rate { burst: 100.0, per_second: 5.0 };
/// The most addresses remembered for having sent the right token: operators and metrics scrapers.
const KNOWN: usize = 100;

/// Decides who has access. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gate {
    /// Whether the server is reachable only from this machine: it listens on loopback, and has no trusted proxies.
    is_local: bool,
    /// The token that grants access from elsewhere.
    token: Option<Arc<Token>>,
    /// Whether the server itself speaks TLS, so that the cookie can be restricted to TLS.
    tls: bool,
}

/// The token, and the limits on guessing it.
struct Token {
    /// Keyed with the token: computes the cookie and compares tokens.
    key: HmacSha256,
    /// The cookie's value. It is derived from the token, so a stolen cookie does not reveal the token.
    cookie: String,
    /// Limits wrong tokens from one address.
    of_address: Limiter,
    /// Limits wrong tokens from all addresses together, under one key.
    in_all: Limiter,
    /// Addresses that have sent the right token: a flood of wrong ones from elsewhere does not lock them out.
    known: Mutex<HashSet<IpAddr>>,
}

type HmacSha256 = Hmac<Sha256>;

/// The result of checking a request's access.
#[derive(Debug, PartialEq)]
pub(crate) enum Look {
    /// Access is granted.
    Open,
    /// Access is denied: the token is missing or wrong.
    Closed,
    /// Too many wrong tokens were sent, so this one was not checked.
    TooMany,
}

/// The token in a request.
enum SentToken<'a> {
    Nothing,
    /// A bearer token.
    Bearer(&'a str),
    /// A cookie's value.
    Cookie(&'a str),
    /// Several tokens, one of which may be right: a guessing attempt.
    Several,
}

impl Gate {
    /// Creates a gate. It admits this machine if `is_local`, and everyone who has the token.
    pub(crate) fn new(is_local: bool, token: Option<&str>, tls: bool) -> Self {
        Self { is_local, token: token.map(|token| Arc::new(Token::new(token))), tls }
    }

    /// Returns whether the sender of a request has access.
    pub(crate) fn opens(&self, hub: &Hub, parts: &Parts) -> bool {
        self.look(hub, parts) == Look::Open
    }

    /// Checks the access of a request's sender, and counts a wrong token.
    fn look(&self, hub: &Hub, parts: &Parts) -> Look {
        let visitor = Visitor::of(hub, parts);
        if self.is_local && visitor.is_loopback && asks_for_loopback(hub, parts) {
            return Look::Open;
        }
        let Some(token) = &self.token else { return Look::Closed };
        match sent_token(&parts.headers, self.cookie_name(&parts.headers)) {
            SentToken::Nothing => Look::Closed,
            SentToken::Bearer(given) => token.judge(visitor, || token.is(given)),
            SentToken::Cookie(given) => token.judge(visitor, || is_same(given, &token.cookie)),
            SentToken::Several => token.judge(visitor, || false),
        }
    }

    /// Returns whether the browser restricts our cookie to TLS.
    fn is_secure(&self, headers: &HeaderMap) -> bool {
        self.tls || came_over_tls(headers)
    }

    /// Returns the cookie's name. Over TLS, browsers accept a cookie with this prefix only from this exact host.
    fn cookie_name(&self, headers: &HeaderMap) -> &'static str {
        if self.is_secure(headers) { SECURE_COOKIE } else { COOKIE }
    }

    /// Returns the response to a request without access, or `None` if it has access.
    pub(crate) fn refusal(&self, hub: &Hub, parts: &Parts) -> Option<Response> {
        match self.look(hub, parts) {
            Look::Open => None,
            Look::Closed => Some((StatusCode::FORBIDDEN, self.advice()).into_response()),
            Look::TooMany => Some(too_many()),
        }
    }

    /// Explains how to get access.
    fn advice(&self) -> &'static str {
        if self.token.is_some() {
            "Access requires the token set by --inspect-token: send it as `Authorization: Bearer TOKEN`.\n"
        } else {
            "Access is limited to the server's own machine, when the server listens on loopback and has \
             no trusted proxies. To allow access from elsewhere, start the server with --inspect-token.\n"
        }
    }
}

impl Token {
    fn new(token: &str) -> Self {
        // HMAC accepts keys of any length.
        let key = HmacSha256::new_from_slice(token.as_bytes()).expect("HMAC accepts any key length");
        let cookie = key.clone().chain_update("ripplecast inspector cookie").finalize().into_bytes();
        Self {
            key,
            cookie: cookie.iter().map(|byte| format!("{byte:02x}")).collect(),
            of_address: Limiter::new(WRONG_OF_ADDRESS, true),
            in_all: Limiter::new(WRONG_IN_ALL, true),
            known: Mutex::default(),
        }
    }

    /// Compares `given` with the token. The time taken depends only on the length of `given`.
    fn is(&self, given: &str) -> bool {
        const QUESTION: &str = "is it the same?";
        let ours = self.key.clone().chain_update(QUESTION).finalize().into_bytes();
        HmacSha256::new_from_slice(given.as_bytes())
            .is_ok_and(|key| key.chain_update(QUESTION).verify_slice(&ours).is_ok())
    }

    /// Checks a token, unless too many wrong ones were sent. Counts and logs a wrong one.
    fn judge(&self, visitor: Visitor, is_right: impl FnOnce() -> bool) -> Look {
        static WRONG: log::Limit = log::Limit::new();
        const IN_ALL: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let (address, now) = (key(visitor), Instant::now());
        let is_known = || self.known.lock().is_ok_and(|known| known.contains(&address));
        if self.of_address.check_at(address, now).is_err()
            || (self.in_all.check_at(IN_ALL, now).is_err() && !is_known())
        {
            return Look::TooMany;
        }
        if is_right() {
            if let Ok(mut known) = self.known.lock()
                && known.len() < KNOWN
            {
                known.insert(address);
            }
            return Look::Open;
        }
        let _ = self.of_address.take_at(address, now);
        let _ = self.in_all.take_at(IN_ALL, now);
        if let Some(suppressed) = WRONG.admit() {
            tracing::warn!(%address, suppressed, "wrong inspector token");
        }
        Look::Closed
    }
}

/// Compares two texts. The time taken depends only on their lengths.
fn is_same(given: &str, ours: &str) -> bool {
    let differences = ours.bytes().zip(given.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    ours.len() == given.len() && differences == 0
}

/// Returns the token in a request: a bearer token, or the cookie named `cookie`.
fn sent_token<'a>(headers: &'a HeaderMap, cookie: &str) -> SentToken<'a> {
    let lines = headers.get_all(header::COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b';')).map(<[u8]>::trim_ascii);
    let mut cookies = pairs.filter_map(|pair| pair.strip_prefix(cookie.as_bytes())?.strip_prefix(b"="));
    let first = cookies.next();
    // A browser that received the cookie under two paths sends it twice.
    let others = cookies.any(|other| Some(other) != first);
    let authorizations = headers.get_all(header::AUTHORIZATION).iter().count();
    match (ripplecast::request::bearer_token(headers), first) {
        _ if authorizations > 1 || others => SentToken::Several,
        (Some(_), Some(_)) => SentToken::Several,
        (Some(token), None) => SentToken::Bearer(token),
        (None, Some(given)) => SentToken::Cookie(std::str::from_utf8(given).unwrap_or_default()),
        (None, None) => SentToken::Nothing,
    }
}

/// Returns the response to a token after too many wrong ones.
fn too_many() -> Response {
    let wait = [(header::RETRY_AFTER, "10")];
    (StatusCode::TOO_MANY_REQUESTS, wait, "Too many wrong tokens; try again in a moment.\n").into_response()
}

/// Returns whether a proxy reports that the browser used TLS. The header need not come from a trusted proxy: a client
/// that forges it only gets a cookie that its browser will not send.
fn came_over_tls(headers: &HeaderMap) -> bool {
    headers.get("x-forwarded-proto").is_some_and(|scheme| scheme.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// A snapshot for the inspector.
#[derive(Serialize)]
struct Picture {
    figures: Sample,
    /// Up to [`LISTED`] connections of this node.
    connections: Vec<Open>,
    /// The largest rooms of this node.
    rooms: Vec<Members>,
}

#[derive(Serialize)]
struct Open {
    id: String,
    /// Its endpoint.
    what: &'static str,
    /// The address of the peer.
    addr: Option<String>,
    /// The user that it was identified as.
    client: Option<String>,
    /// How long it has been open, in seconds.
    seconds: Option<u64>,
}

/// A room and its local member count.
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
                client: conn.user_id().map(|client| client.to_string()),
                seconds: seen.map(|seen| seen.seconds()),
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

    fn frame(hub: &Hub) -> Result<Message> {
        Ok(Message::json(&Self::take(hub))?.with_key("picture"))
    }
}

/// The endpoint of the inspector; cheap to clone.
#[derive(Clone)]
struct Inspector {
    demos: Demos,
    gate: Gate,
    /// This node's room of inspectors.
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

    async fn on_message(&self, conn: Connection, message: Message) -> Result<()> {
        if self.demos.may_act(&conn) {
            frames::asked(&self.demos.hub, &conn, &message);
        }
        Ok(())
    }
}

/// Pushes snapshots while anyone is watching.
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
    match (gate.look(&demos.hub, &parts), &gate.token) {
        (Look::Open, _) => ripplecast_site::page(Page::Inspector, StatusCode::OK),
        (Look::TooMany, _) => too_many(),
        (Look::Closed, Some(_)) => ripplecast_site::page(Page::InspectorToken, StatusCode::UNAUTHORIZED),
        (Look::Closed, None) => ripplecast_site::page(Page::InspectorClosed, StatusCode::FORBIDDEN),
    }
}

/// The submitted token form.
#[derive(Deserialize)]
struct LogIn {
    token: String,
}

async fn log_in(State(inspector): State<Inspector>, parts: Parts, Form(given): Form<LogIn>) -> Response {
    let Inspector { demos, gate, .. } = &inspector;
    let Some(token) = &gate.token else {
        return ripplecast_site::page(Page::InspectorClosed, StatusCode::FORBIDDEN);
    };
    match token.judge(Visitor::of(&demos.hub, &parts), || token.is(&given.token)) {
        Look::Open => {}
        Look::Closed => return ripplecast_site::page(Page::InspectorWrongToken, StatusCode::UNAUTHORIZED),
        Look::TooMany => return too_many(),
    }
    let name = gate.cookie_name(&parts.headers);
    // Over TLS, the cookie's name prefix requires the root path (RFC 6265bis, section 4.1.3.2). Otherwise the cookie is
    // limited to the site's path.
    let (path, secure) = match gate.is_secure(&parts.headers) {
        true => (String::new(), "; Secure"),
        false => (demos.hub.base_path(&parts), ""),
    };
    let cookie = format!("{name}={}; Path={path}/; HttpOnly; SameSite=Strict{secure}", token.cookie);
    ([(header::SET_COOKIE, cookie)], Redirect::to("inspect")).into_response()
}

/// Adds the inspector to the app.
pub(crate) fn add(app: App, demos: &Demos, gate: &Gate) -> App {
    let room = format!("inspect:{}", demos.hub.node());
    tokio::spawn(tick(demos.hub.clone(), room.clone()));
    let inspector = Inspector { demos: demos.clone(), gate: gate.clone(), room };
    let at_the_gate = inspector.clone();
    let endpoint = ws::endpoint(inspector.clone()).max_message(MAX_MESSAGE).overflow(Overflow::LatestPerKey);
    let endpoint = endpoint.on_upgrade(move |request: Request| {
        let Inspector { demos, gate, .. } = &at_the_gate;
        let accept = demos.accept(&request, INSPECTOR);
        ready(gate.refusal(&demos.hub, request.parts()).map_or(Ok(accept), Err))
    });
    let limit = from_fn_with_state(demos.clone(), limit_actions);
    let page = post(log_in).layer(DefaultBodyLimit::max(1024)).layer(limit).get(page).with_state(inspector);
    app.ws("/ws/inspect", endpoint).route("/inspect", page)
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::LazyLock};

    use axum::{extract::ConnectInfo, http::Request};

    use super::*;

    fn look(gate: &Gate, peer: &str, headers: &[(&str, &str)]) -> Look {
        // Shared by all checks: a test may make thousands.
        static HUB: LazyLock<Hub> = LazyLock::new(|| Hub::builder().build().unwrap());
        let mut request = Request::get("/inspect");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        let peer: SocketAddr = peer.parse().unwrap();
        parts.extensions.insert(ConnectInfo(peer));
        gate.look(&HUB, &parts)
    }

    fn opens(gate: &Gate, peer: &str, headers: &[(&str, &str)]) -> bool {
        look(gate, peer, headers) == Look::Open
    }

    const HOST: (&str, &str) = ("host", "127.0.0.1:8080");

    #[tokio::test]
    async fn access_is_open_if_listener_peer_and_host_are_loopback() {
        let here = Gate::new(true, None, false);
        assert!(opens(&here, "127.0.0.1:5", &[HOST]));
        assert!(!opens(&here, "192.0.2.7:5", &[HOST]));
        assert!(
            !opens(&here, "127.0.0.1:5", &[("host", "evil.example")]),
            "a name that resolves to this machine"
        );
        assert!(!opens(&here, "127.0.0.1:5", &[]), "no host");
        assert!(!opens(&here, "127.0.0.1:5", &[HOST, ("x-forwarded-for", "127.0.0.1")]), "a proxy");
        assert!(
            !opens(&Gate::new(false, None, false), "127.0.0.1:5", &[HOST]),
            "the listener is not on loopback"
        );
    }

    const TOKEN: &str = "open-sesame";

    #[tokio::test]
    async fn a_token_grants_access_to_others() {
        let gate = Gate::new(false, Some(TOKEN), false);
        let cookie = gate.token.as_ref().unwrap().cookie.clone();
        let with =
            |name, value: &str| opens(&gate, "192.0.2.7:5", &[("host", "shop.example"), (name, value)]);
        assert!(with("authorization", "Bearer open-sesame"));
        assert!(with("cookie", &format!("a=b; ripplecast_inspect={cookie}")));
        assert!(
            !with("cookie", "ripplecast_inspect=open-sesame"),
            "the cookie does not hold the token itself"
        );
        assert!(!with("authorization", &format!("Bearer {cookie}")), "a cookie's value is not a token");
        assert!(with("authorization", "bearer open-sesame"), "the case of the scheme does not matter");
        assert!(
            with("cookie", &format!("name=Jos\u{e9}; ripplecast_inspect={cookie}")),
            "next to arbitrary bytes"
        );
        let twice = format!("ripplecast_inspect={cookie}; ripplecast_inspect={cookie}");
        assert!(with("cookie", &twice), "one cookie from each of two paths");
        for wrong in ["", "open", "open-sesame2", "open-sesamf"] {
            assert!(!with("authorization", &format!("Bearer {wrong}")), "{wrong}");
        }
        let none = Gate::new(false, None, false);
        assert!(
            !opens(&none, "192.0.2.7:5", &[HOST, ("authorization", "Bearer ")]),
            "without a configured token, none is accepted"
        );
    }

    #[tokio::test]
    async fn over_tls_the_cookie_is_bound_to_the_host() {
        let gate = Gate::new(false, Some(TOKEN), true);
        let cookie = gate.token.as_ref().unwrap().cookie.clone();
        let with = |name: &str| opens(&gate, "192.0.2.7:5", &[("cookie", &format!("{name}={cookie}"))]);
        assert!(with(SECURE_COOKIE));
        assert!(!with(COOKIE), "any subdomain could have set this cookie");
    }

    #[tokio::test]
    async fn one_request_guesses_one_token() {
        let gate = Gate::new(false, Some(TOKEN), false);
        let cookie = gate.token.as_ref().unwrap().cookie.clone();
        let wrong = "ripplecast_inspect=wrong; ".repeat(380);
        let several = [
            vec![("cookie", format!("{wrong}ripplecast_inspect={cookie}"))],
            vec![
                ("cookie", format!("ripplecast_inspect={cookie}")),
                ("cookie", "ripplecast_inspect=x".into()),
            ],
            vec![("authorization", "Bearer open-sesame".into()), ("authorization", "Bearer x".into())],
            vec![("authorization", "Bearer open-sesame".into()), ("cookie", "ripplecast_inspect=x".into())],
        ];
        for headers in several {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(look(&gate, "192.0.2.7:5", &headers), Look::Closed);
        }
    }

    #[tokio::test]
    async fn guesses_are_limited_per_address_and_in_total() {
        let gate = Gate::new(false, Some(TOKEN), false);
        let try_from = |address: &str, token: &str| {
            look(&gate, &format!("{address}:5"), &[("authorization", &format!("Bearer {token}"))])
        };
        assert_eq!(try_from("203.0.113.1", TOKEN), Look::Open);
        // One address gets ten guesses. After that, not even the right token is checked.
        let looked = (0..1_000).filter(|_| try_from("192.0.2.7", "wrong") == Look::Closed).count();
        assert!((10..20).contains(&looked), "{looked} of 1,000 guesses were checked");
        assert_eq!(try_from("192.0.2.7", TOKEN), Look::TooMany);
        // Requests without a token are not guesses.
        assert_eq!(look(&gate, "192.0.2.7:5", &[]), Look::Closed);
        // Many addresses together get a hundred.
        let many = |n: u32| try_from(&Ipv4Addr::from_bits(0x0a00_0000 + n).to_string(), "wrong");
        let looked = (0..5_000).filter(|&n| many(n) == Look::Closed).count();
        assert!((80..150).contains(&looked), "{looked} of 5,000 guesses were checked");
        assert_eq!(try_from("203.0.113.2", TOKEN), Look::TooMany);
        assert_eq!(try_from("203.0.113.1", TOKEN), Look::Open, "a known operator is not locked out");
    }
}
