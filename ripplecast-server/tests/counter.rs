//! The counter that all open tabs share, in the real program: HTTP, WebSocket and event stream.

#[path = "support/program.rs"]
mod program;
#[path = "support/server.rs"]
mod server;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    thread,
};

use program::PATIENCE;
use server::Server;
use tungstenite::{Message, WebSocket};

const TAB: &str = "/ws/counter-demo";

/// A keep-alive connection for many requests, as in a browser, or for an event stream.
struct Http(BufReader<TcpStream>);

impl Http {
    fn to(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, addr: &str, request: &str) {
        write!(self.0.get_mut(), "{request} HTTP/1.1\r\nhost: {addr}\r\ncontent-length: 0\r\n\r\n").unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the connection has ended");
        line
    }

    /// Returns the body of the next response, which must be a 200.
    fn body(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head += &self.line().to_lowercase();
        }
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        let length = head.split_once("content-length: ").unwrap().1;
        let mut body = vec![0; length.split("\r\n").next().unwrap().parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }

    /// Returns the data of the next event.
    fn event(&mut self) -> String {
        loop {
            if let Some(data) = self.line().strip_prefix("data: ") {
                return data.trim_end().to_owned();
            }
        }
    }
}

/// Returns the value in a message, or `None` for other messages.
fn value(text: &str) -> Option<i64> {
    text.strip_prefix(r#"{"value":"#)?.strip_suffix('}')?.parse().ok()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// Returns the value that the server reports.
fn shown(server: &Server) -> i64 {
    value(body(&server.get("/api/counter", &[]))).unwrap()
}

/// Returns the result of `read` for the next message of a tab for which it returns one.
fn next<T>(tab: &mut WebSocket<TcpStream>, read: impl Fn(&str) -> Option<T>) -> T {
    loop {
        if let Message::Text(text) = tab.read().unwrap()
            && let Some(found) = read(&text)
        {
            return found;
        }
    }
}

#[test]
fn two_tabs_and_a_stream_follow_every_change() {
    let server = Server::start(&[]);
    let post = |path: &str| server.send(&format!("POST {path}"), &[], "");
    assert_eq!(shown(&server), 0);
    let (mut one, mut two) = (server.open(TAB), server.open(TAB));
    let mut stream = Http::to(&server.addr);
    stream.send(&server.addr, "GET /events/counter");
    let mut shows = |wanted: i64| {
        assert_eq!([next(&mut one, value), next(&mut two, value)], [wanted; 2]);
        assert_eq!(value(&stream.event()), Some(wanted));
    };
    shows(0);
    for n in 1..=3 {
        let answer = post("/api/counter/bump");
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains("\r\ncontent-type: application/json\r\n")
        );
        assert_eq!(value(body(&answer)), Some(n));
        shows(n);
    }
    assert_eq!(shown(&server), 3);
    assert_eq!(value(body(&post("/api/counter/reset"))), Some(0));
    shows(0);
    assert!(server.get("/api/counter/bump", &[]).starts_with("HTTP/1.1 405 "));
    for wrong in ["/api/counter", TAB] {
        assert!(post(wrong).starts_with("HTTP/1.1 405 "), "{wrong}");
    }
    one.send(Message::text("ping")).unwrap();
    assert_eq!(next(&mut one, |text| (text == "pong").then_some("pong")), "pong");
}

#[test]
fn the_number_of_tabs_is_pushed_to_subscribers() {
    let server = Server::start(&[]);
    let mut one = server.open(TAB);
    for message in ["what?", "tabs"] {
        one.send(Message::text(message)).unwrap();
    }
    let mut shows = |wanted: &str| {
        next(&mut one, |text| (text == wanted).then_some(()));
    };
    shows(r#"{"tabs":1}"#);
    let mut two = server.open(TAB);
    shows(r#"{"tabs":2}"#);
    two.close(None).unwrap();
    shows(r#"{"tabs":1}"#);
    let three = server.open(TAB);
    shows(r#"{"tabs":2}"#);
    drop(three); // without a close frame
    shows(r#"{"tabs":1}"#);
}

#[test]
fn the_counter_stays_right_under_64_concurrent_bumpers() {
    const BUMPERS: i64 = 64;
    const BUMPS: i64 = 8;
    const LAST: i64 = BUMPERS * BUMPS;
    let server = Server::start(&[]);
    let mut answers: Vec<i64> = thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    follow(&mut server.open(TAB), LAST);
                }
            });
        }
        let bump = || {
            let mut http = Http::to(&server.addr);
            let mut bump = || {
                http.send(&server.addr, "POST /api/counter/bump");
                value(&http.body()).unwrap()
            };
            (0..BUMPS).map(|_| bump()).collect::<Vec<_>>()
        };
        let bumpers: Vec<_> = (0..BUMPERS).map(|_| scope.spawn(bump)).collect();
        bumpers.into_iter().flat_map(|bumper| bumper.join().unwrap()).collect()
    });
    answers.sort_unstable();
    assert!(answers.into_iter().eq(1..=LAST), "each bump has its own value");
    assert_eq!(shown(&server), LAST);
}

/// Follows the values on a tab that opens in the middle, and checks that it receives each one
/// from its first on.
fn follow(tab: &mut WebSocket<TcpStream>, last: i64) {
    let mut shown = next(tab, value);
    while shown < last {
        let then = next(tab, value);
        assert_eq!(then, shown + 1);
        shown = then;
    }
}
