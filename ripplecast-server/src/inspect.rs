//! The inspector: what goes on in this node, for whoever runs it.

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
use ripplecast::{App, Connection, Frame, Hub, Overflow, Request, Result, log, ws, ws::Handler};
use ripplecast_site::Page;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::{
    demos::{
        Demos,
        limit::{Limiter, Rate, key},
        limit_actions,
    },
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
/// The cookie of a browser that has sent the token.
const COOKIE: &str = "ripplecast_inspect";
/// The same over TLS.
const SECURE_COOKIE: &str = "__Host-ripplecast_inspect";
/// Wrong tokens from one address: a person who mistypes, not a program that guesses.
const WRONG_OF_ADDRESS: Rate = Rate { burst: 10.0, per_second: 0.5 };
/// Wrong tokens in all.
const WRONG_IN_ALL: Rate = Rate { burst: 100.0, per_second: 5.0 };
/// Addresses that are remembered to have given the right token: operators, and what reads the metrics.
const KNOWN: usize = 100;

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
    token: Option<Arc<Token>>,
    /// Whether the server speaks TLS itself, so that the cookie may be kept to it.
    tls: bool,
}

/// The token, and who has tried to guess it.
struct Token {
    /// A key that only the token leads to.
    key: HmacSha256,
    /// What the cookie holds: derived from the token, so that a stolen cookie does not give the token away.
    cookie: String,
    /// Wrong tokens of one address.
    of_address: Limiter,
    /// Wrong tokens in all, all at one place.
    in_all: Limiter,
    /// Addresses that have given the right one: a flood of wrong ones from elsewhere does not keep them out.
    known: Mutex<HashSet<IpAddr>>,
}

type HmacSha256 = Hmac<Sha256>;

/// Whether a request may see the inspector.
#[derive(Debug, PartialEq)]
pub(crate) enum Look {
    /// They may.
    Open,
    /// They may not: they gave no token, or a wrong one.
    Closed,
    /// There were too many wrong tokens, so that this one was not even looked at.
    TooMany,
}

/// What a request gives as its token.
enum Given<'a> {
    Nothing,
    /// As a bearer token.
    Bearer(&'a str),
    /// As the cookie's value.
    Cookie(&'a str),
    /// Several, of which one may be right: that is guessing.
    Several,
}

impl Gate {
    /// Whoever is at this machine may look, if the server is reached from nowhere else; and whoever has the token.
    pub(crate) fn new(is_local: bool, token: Option<&str>, tls: bool) -> Self {
        Self { is_local, token: token.map(|token| Arc::new(Token::new(token))), tls }
    }

    /// Whether the sender of a request may look.
    pub(crate) fn opens(&self, hub: &Hub, parts: &Parts) -> bool {
        self.look(hub, parts) == Look::Open
    }

    /// Whether the sender of a request may look; counts a wrong token.
    fn look(&self, hub: &Hub, parts: &Parts) -> Look {
        let visitor = Visitor::of(hub, parts);
        if self.is_local && visitor.is_loopback && asks_for_loopback(hub, parts) {
            return Look::Open;
        }
        let Some(token) = &self.token else { return Look::Closed };
        match given(&parts.headers, self.cookie_name(&parts.headers)) {
            Given::Nothing => Look::Closed,
            Given::Bearer(given) => token.judge(visitor, || token.is(given)),
            Given::Cookie(given) => token.judge(visitor, || is_same(given, &token.cookie)),
            Given::Several => token.judge(visitor, || false),
        }
    }

    /// Whether the browser keeps a cookie of ours to TLS.
    fn is_secure(&self, headers: &HeaderMap) -> bool {
        self.tls || came_over_tls(headers)
    }

    /// The cookie's name. Over TLS, browsers take one with this prefix from this very host alone.
    fn cookie_name(&self, headers: &HeaderMap) -> &'static str {
        if self.is_secure(headers) { SECURE_COOKIE } else { COOKIE }
    }

    /// The response to those who may not look; none if they may.
    pub(crate) fn refusal(&self, hub: &Hub, parts: &Parts) -> Option<Response> {
        match self.look(hub, parts) {
            Look::Open => None,
            Look::Closed => Some((StatusCode::FORBIDDEN, self.advice()).into_response()),
            Look::TooMany => Some(too_many()),
        }
    }

    /// What to tell those who may not.
    fn advice(&self) -> &'static str {
        if self.token.is_some() {
            "This is for whoever has the token of --inspect-token: send it as `Authorization: Bearer TOKEN`.\n"
        } else {
            "This is open on the server's own machine only, while it listens on loopback and is \
             told of no proxy. To open it to others, start the server with --inspect-token.\n"
        }
    }
}

impl Token {
    fn new(token: &str) -> Self {
        // HMAC takes keys of any length.
        let key = HmacSha256::new_from_slice(token.as_bytes()).expect("a key of any length");
        let cookie = key.clone().chain_update("ripplecast inspector cookie").finalize().into_bytes();
        Self {
            key,
            cookie: cookie.iter().map(|byte| format!("{byte:02x}")).collect(),
            of_address: Limiter::new(WRONG_OF_ADDRESS, true),
            in_all: Limiter::new(WRONG_IN_ALL, true),
            known: Mutex::default(),
        }
    }

    /// Whether this is the token; takes the same time for each wrong one of its length.
    fn is(&self, given: &str) -> bool {
        const QUESTION: &str = "is it the same?";
        let ours = self.key.clone().chain_update(QUESTION).finalize().into_bytes();
        HmacSha256::new_from_slice(given.as_bytes())
            .is_ok_and(|key| key.chain_update(QUESTION).verify_slice(&ours).is_ok())
    }

    /// Has a token looked at, unless there were too many wrong ones; counts and logs it if it is wrong.
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
            tracing::warn!(%address, suppressed, "a wrong token for the inspector was given");
        }
        Look::Closed
    }
}

/// Whether two texts are the same; the time that it takes tells the length and no more.
fn is_same(given: &str, ours: &str) -> bool {
    let differences = ours.bytes().zip(given.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    ours.len() == given.len() && differences == 0
}

/// The token that a request gives: as a bearer token, or as the cookie of that name.
fn given<'a>(headers: &'a HeaderMap, cookie: &str) -> Given<'a> {
    let lines = headers.get_all(header::COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b';')).map(<[u8]>::trim_ascii);
    let mut cookies = pairs.filter_map(|pair| pair.strip_prefix(cookie.as_bytes())?.strip_prefix(b"="));
    let first = cookies.next();
    // A browser that has been given it below two paths sends it twice.
    let others = cookies.any(|other| Some(other) != first);
    let authorizations = headers.get_all(header::AUTHORIZATION).iter().count();
    match (ripplecast::bearer_token(headers), first) {
        _ if authorizations > 1 || others => Given::Several,
        (Some(_), Some(_)) => Given::Several,
        (Some(token), None) => Given::Bearer(token),
        (None, Some(given)) => Given::Cookie(std::str::from_utf8(given).unwrap_or_default()),
        (None, None) => Given::Nothing,
    }
}

/// The response to one more token when there were too many wrong ones.
fn too_many() -> Response {
    let wait = [(header::RETRY_AFTER, "10")];
    (StatusCode::TOO_MANY_REQUESTS, wait, "There were too many wrong tokens; try again in a moment.\n")
        .into_response()
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
    match (gate.look(&demos.hub, &parts), &gate.token) {
        (Look::Open, _) => ripplecast_site::page(Page::Inspector, StatusCode::OK),
        (Look::TooMany, _) => too_many(),
        (Look::Closed, Some(_)) => ripplecast_site::page(Page::InspectorToken, StatusCode::UNAUTHORIZED),
        (Look::Closed, None) => ripplecast_site::page(Page::InspectorClosed, StatusCode::FORBIDDEN),
    }
}

/// What the form for the token sends.
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
    // The prefix of its name in TLS requires the root (RFC 6265bis, section 4.1.3.2). Otherwise the cookie stays with the site.
    let (path, secure) = match gate.is_secure(&parts.headers) {
        true => (String::new(), "; Secure"),
        false => (demos.hub.base_path(&parts), ""),
    };
    let cookie = format!("{name}={}; Path={path}/; HttpOnly; SameSite=Strict{secure}", token.cookie);
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
        // One for all: a test may look thousands of times.
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
    async fn it_is_open_where_listener_peer_and_host_are_loopback() {
        let here = Gate::new(true, None, false);
        assert!(opens(&here, "127.0.0.1:5", &[HOST]));
        assert!(!opens(&here, "192.0.2.7:5", &[HOST]));
        assert!(!opens(&here, "127.0.0.1:5", &[("host", "evil.example")]), "a name that was led here");
        assert!(!opens(&here, "127.0.0.1:5", &[]), "no host");
        assert!(!opens(&here, "127.0.0.1:5", &[HOST, ("x-forwarded-for", "127.0.0.1")]), "a proxy");
        assert!(!opens(&Gate::new(false, None, false), "127.0.0.1:5", &[HOST]), "the listener is not");
    }

    const TOKEN: &str = "open-sesame";

    #[tokio::test]
    async fn a_token_opens_it_to_others() {
        let gate = Gate::new(false, Some(TOKEN), false);
        let cookie = gate.token.as_ref().unwrap().cookie.clone();
        let with =
            |name, value: &str| opens(&gate, "192.0.2.7:5", &[("host", "shop.example"), (name, value)]);
        assert!(with("authorization", "Bearer open-sesame"));
        assert!(with("cookie", &format!("a=b; ripplecast_inspect={cookie}")));
        assert!(!with("cookie", "ripplecast_inspect=open-sesame"), "the token itself is in no cookie");
        assert!(!with("authorization", &format!("Bearer {cookie}")), "a cookie is no token");
        assert!(with("authorization", "bearer open-sesame"), "the case of the scheme does not matter");
        assert!(with("cookie", &format!("name=Jos\u{e9}; ripplecast_inspect={cookie}")), "beside any bytes");
        let twice = format!("ripplecast_inspect={cookie}; ripplecast_inspect={cookie}");
        assert!(with("cookie", &twice), "of two paths");
        for wrong in ["", "open", "open-sesame2", "open-sesamf"] {
            assert!(!with("authorization", &format!("Bearer {wrong}")), "{wrong}");
        }
        let none = Gate::new(false, None, false);
        assert!(
            !opens(&none, "192.0.2.7:5", &[HOST, ("authorization", "Bearer ")]),
            "no token opens nothing"
        );
    }

    #[tokio::test]
    async fn over_tls_the_cookie_is_this_host_s_own() {
        let gate = Gate::new(false, Some(TOKEN), true);
        let cookie = gate.token.as_ref().unwrap().cookie.clone();
        let with = |name: &str| opens(&gate, "192.0.2.7:5", &[("cookie", &format!("{name}={cookie}"))]);
        assert!(with(SECURE_COOKIE));
        assert!(!with(COOKIE), "any subdomain could have set it");
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
    async fn guesses_are_limited_by_address_and_in_all() {
        let gate = Gate::new(false, Some(TOKEN), false);
        let try_from = |address: &str, token: &str| {
            look(&gate, &format!("{address}:5"), &[("authorization", &format!("Bearer {token}"))])
        };
        assert_eq!(try_from("203.0.113.1", TOKEN), Look::Open);
        // One address: ten, and then not even the right one is looked at.
        let looked = (0..1_000).filter(|_| try_from("192.0.2.7", "wrong") == Look::Closed).count();
        assert!((10..20).contains(&looked), "{looked} of 1,000 guesses were looked at");
        assert_eq!(try_from("192.0.2.7", TOKEN), Look::TooMany);
        // Requests without a token guess nothing.
        assert_eq!(look(&gate, "192.0.2.7:5", &[]), Look::Closed);
        // Many addresses: a hundred.
        let many = |n: u32| try_from(&Ipv4Addr::from_bits(0x0a00_0000 + n).to_string(), "wrong");
        let looked = (0..5_000).filter(|&n| many(n) == Look::Closed).count();
        assert!((80..150).contains(&looked), "{looked} of 5,000 guesses were looked at");
        assert_eq!(try_from("203.0.113.2", TOKEN), Look::TooMany);
        assert_eq!(try_from("203.0.113.1", TOKEN), Look::Open, "who had it before is not kept out");
    }
}
