//! The counter that every open tab shares, through the endpoints of the page: HTTP, WebSocket, event stream.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
};

use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use ripplecast::{App, Close, Connection, Frame, LiveCounter, Result, ws::Handler};
use serde::Serialize;

use super::clients::{Tab, TestServer, connect, wait_until};

/// As in `ripplecast-server/src/counter.rs`, whose shape this is.
#[derive(Serialize)]
struct Value {
    value: i64,
}

struct CounterDemo {
    counter: LiveCounter,
    tabs: LiveCounter,
}

impl Handler for CounterDemo {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        self.tabs.increment().await?;
        self.counter.join(&conn).await
    }

    async fn on_message(&self, conn: Connection, frame: Frame) -> Result<()> {
        match frame.as_text() {
            Some("ping") => conn.push("pong").ignore(),
            Some("tabs") => self.tabs.join(&conn).await?,
            _ => {}
        }
        Ok(())
    }

    async fn on_close(&self, _conn: Connection, _close: Close) -> Result<()> {
        self.tabs.decrement().await?;
        Ok(())
    }
}

fn routes(app: App) -> App {
    let hub = app.hub();
    let counter = hub.counter("demo").publish_to(&hub.room("counter-demo")).unwrap();
    let render = |tabs| Frame::text(format!(r#"{{"tabs":{tabs}}}"#));
    let tabs = hub.counter("tabs").publish_with(&hub.room("counter-demo:tabs"), render).unwrap();
    let api = Router::new()
        .route("/api/counter", get(current))
        .route("/api/counter/bump", post(bump))
        .route("/api/counter/reset", post(reset))
        .with_state(counter.clone());
    app.ws("/ws/counter-demo", CounterDemo { counter: counter.clone(), tabs })
        .sse("/events/counter", &counter)
        .merge(api)
}

async fn current(State(counter): State<LiveCounter>) -> Result<Json<Value>> {
    Ok(Json(Value { value: counter.get().await? }))
}

async fn bump(State(counter): State<LiveCounter>) -> Result<Json<Value>> {
    Ok(Json(Value { value: counter.increment().await? }))
}

async fn reset(State(counter): State<LiveCounter>) -> Result<Json<Value>> {
    counter.reset().await?;
    Ok(Json(Value { value: 0 }))
}

/// Many requests over one connection, as a browser makes them.
struct Http {
    addr: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Http {
    fn new(addr: SocketAddr) -> Self {
        Self { addr, stream: BufReader::new(connect(addr)) }
    }

    /// The body of the answer, which is a 200.
    fn post(&mut self, path: &str) -> String {
        let request = format!("POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\n\r\n", self.addr);
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.stream.read_line(&mut head).unwrap(), 0);
        }
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let length = head.to_lowercase();
        let length = length.split_once("content-length: ").unwrap().1.split_once("\r\n").unwrap().0;
        let mut body = vec![0; length.parse().unwrap()];
        self.stream.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }
}

fn value(text: &str) -> i64 {
    text.strip_prefix(r#"{"value":"#).unwrap().strip_suffix('}').unwrap().parse().unwrap()
}

#[test]
fn two_tabs_and_a_stream_follow_every_change() {
    let server = TestServer::start(App::builder(), routes);
    assert_eq!(server.http("GET", "/api/counter").body, r#"{"value":0}"#);
    let (mut one, mut two) = (server.tab("/ws/counter-demo"), server.tab("/ws/counter-demo"));
    let mut stream = server.events("/events/counter");
    assert_eq!([one.text(), two.text(), stream.data()], [r#"{"value":0}"#; 3]);
    for n in 1..=3 {
        let wanted = format!(r#"{{"value":{n}}}"#);
        let reply = server.http("POST", "/api/counter/bump");
        assert_eq!((reply.status, &reply.body), (200, &wanted));
        assert!(reply.head.contains("content-type: application/json"), "{}", reply.head);
        assert_eq!([one.text(), two.text(), stream.data()], [&*wanted; 3]);
    }
    assert_eq!(server.http("GET", "/api/counter").body, r#"{"value":3}"#);
    one.say("ping");
    assert_eq!(one.text(), "pong");
    assert_eq!(server.http("POST", "/api/counter/reset").body, r#"{"value":0}"#);
    assert_eq!([one.text(), two.text(), stream.data()], [r#"{"value":0}"#; 3]);
    for (method, path) in
        [("GET", "/api/counter/bump"), ("POST", "/api/counter"), ("POST", "/ws/counter-demo")]
    {
        assert_eq!(server.http(method, path).status, 405, "{method} {path}");
    }
}

#[test]
fn the_number_of_tabs_is_told_to_those_who_ask() {
    let server = TestServer::start(App::builder(), routes);
    let mut one = server.tab("/ws/counter-demo");
    assert_eq!(one.text(), r#"{"value":0}"#);
    one.say("what?");
    one.say("tabs");
    assert_eq!(one.text(), r#"{"tabs":1}"#);
    let two = server.tab("/ws/counter-demo");
    assert_eq!(one.text(), r#"{"tabs":2}"#);
    two.close();
    assert_eq!(one.text(), r#"{"tabs":1}"#);
    drop(one);
    let tabs = server.hub.counter("tabs");
    wait_until("both are gone", || server.block_on(tabs.get()).unwrap() == 0);
}

#[test]
fn the_counter_stays_right_under_64_concurrent_bumpers() {
    const BUMPERS: i64 = 64;
    const BUMPS: i64 = 8;
    const LAST: i64 = BUMPERS * BUMPS;
    let server = TestServer::start(App::builder().hub(|hub| hub.shards(2)), routes);
    let addr = server.addr;
    let mut answers: Vec<i64> = thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    follow(&mut server.tab("/ws/counter-demo"), LAST);
                }
            });
        }
        let bumpers: Vec<_> = (0..BUMPERS)
            .map(|_| {
                scope.spawn(move || {
                    let mut http = Http::new(addr);
                    (0..BUMPS).map(|_| value(&http.post("/api/counter/bump"))).collect::<Vec<_>>()
                })
            })
            .collect();
        bumpers.into_iter().flat_map(|bumper| bumper.join().unwrap()).collect()
    });
    answers.sort_unstable();
    assert!(answers.into_iter().eq(1..=LAST), "each bump has its own answer");
    assert_eq!(value(&server.http("GET", "/api/counter").body), LAST);
}

/// A tab that opens in the middle of it sees each value from its first one on.
fn follow(tab: &mut Tab, last: i64) {
    let mut shown = value(&tab.text());
    while shown < last {
        let next = value(&tab.text());
        assert_eq!(next, shown + 1);
        shown = next;
    }
}
