//! Two processes of the real binary as nodes on one Redis, and startup without one.

mod support;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use support::{PATIENCE, Redis, free_port, ripplecast};
use tungstenite::Message;

/// The time for other nodes to notice a dead node: its lease, and then the next check of the list.
const SWEPT: Duration = Duration::from_secs(60);
/// The live nodes, including dead ones whose lease has not expired.
const NODES: &str = "ripplecast:leases:{}";

/// Waits until a condition holds.
#[track_caller]
fn eventually(what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < patience, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running node, killed on drop.
struct Node {
    process: Child,
    /// Kept open, so that the node can always print.
    _out: BufReader<ChildStdout>,
    addr: String,
}

impl Node {
    #[track_caller]
    fn start(command: &mut Command) -> Self {
        let mut process = command.args(["--port", "0"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let addr = line.trim_end().strip_prefix("Ripplecast listens on http://");
        let addr = addr.unwrap_or_else(|| panic!("the first line is {line:?}")).to_owned();
        Self { process, _out: out, addr }
    }

    /// Starts a node on a Redis.
    #[track_caller]
    fn on(redis: &Redis) -> Self {
        Self::start(ripplecast().args(["--backend", &redis.url()]))
    }

    /// Returns the status line and the body.
    fn request(&self, method: &str, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\n", self.addr);
        write!(stream, "{head}connection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    /// Adds one, and returns the value.
    #[track_caller]
    fn bump(&self, value: i64) {
        let (status, body) = self.request("POST", "/api/counter/bump");
        assert_eq!((status.as_str(), body), ("HTTP/1.1 200 OK", format!(r#"{{"value":{value}}}"#)));
    }

    /// Opens a tab, and waits for its value.
    #[track_caller]
    fn tab(&self, value: i64) -> Tab {
        let stream = TcpStream::connect(&self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, _) = tungstenite::client(format!("ws://{}/ws/counter-demo", self.addr), stream).unwrap();
        let mut tab = Tab(socket);
        assert_eq!(tab.next(), value);
        tab
    }

    /// Kills the process immediately.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A WebSocket that behaves like a browser tab.
struct Tab(tungstenite::WebSocket<TcpStream>);

impl Tab {
    /// Returns the next value received.
    #[track_caller]
    fn next(&mut self) -> i64 {
        loop {
            if let Message::Text(text) = self.0.read().unwrap()
                && let Some(rest) = text.strip_prefix(r#"{"value":"#)
            {
                // The value sent on joining also carries the epoch.
                return rest.split([',', '}']).next().unwrap().parse().unwrap();
            }
        }
    }
}

#[test]
fn an_increment_reaches_the_tabs_of_both_nodes_and_one_survives_the_other() {
    let redis = Redis::start();
    let (mut first, second) = (Node::on(&redis), Node::on(&redis));
    let (mut here, mut there) = (first.tab(0), second.tab(0));
    for value in 1..=20 {
        let node = if value % 2 == 0 { &first } else { &second };
        node.bump(value);
        assert_eq!((here.next(), there.next()), (value, value));
    }
    eventually("both nodes to be known", PATIENCE, || redis.ask::<u64>(&["HLEN", NODES]) == 2);

    first.kill();
    second.bump(21);
    assert_eq!(there.next(), 21, "the other node continues");
    eventually("the dead node to be swept", SWEPT, || redis.ask::<u64>(&["HLEN", NODES]) == 1);
    second.bump(22);
    assert_eq!(there.next(), 22);

    // A new node takes over the dead node's value.
    let third = Node::on(&redis);
    let mut newcomer = third.tab(22);
    third.bump(23);
    assert_eq!((there.next(), newcomer.next()), (23, 23));
}

#[test]
fn the_metrics_report_an_unavailable_redis() {
    let redis = Redis::start();
    let node = Node::on(&redis);
    let says = |value: u8| {
        let (_, body) = node.request("GET", "/metrics");
        body.lines().any(|line| line == format!("ripplecast_degraded {value}"))
    };
    eventually("the node to report that it is healthy", PATIENCE, || says(0));
    drop(redis);
    eventually("the node to report that Redis is unavailable", PATIENCE, || says(1));
}

#[test]
fn startup_warns_when_messages_are_not_signed() {
    let redis = Redis::start();
    let says = |secret: Option<&str>| {
        let mut command = ripplecast();
        command.args(["--backend", &redis.url()]).stderr(Stdio::piped()).env_remove("RIPPLECAST_NODE_SECRET");
        command.envs(secret.map(|secret| ("RIPPLECAST_NODE_SECRET", secret)));
        let mut node = Node::start(&mut command);
        let mut err = node.process.stderr.take().unwrap();
        node.kill();
        let mut text = String::new();
        err.read_to_string(&mut text).unwrap();
        text
    };
    let text = says(None);
    assert!(text.contains("not signed") && text.contains("RIPPLECAST_NODE_SECRET"), "{text}");
    assert!(!says(Some("0123456789abcdef")).contains("not signed"));
    let refused = ripplecast()
        .args(["--backend", &redis.url()])
        .env("RIPPLECAST_NODE_SECRET", "secret")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("RIPPLECAST_NODE_SECRET"), "{text}");
}

#[test]
fn two_nodes_share_the_counter_over_tls() {
    let redis = Redis::start_tls();
    let node = || {
        let mut command = ripplecast();
        command.args(["--backend", &redis.url()]).env("SSL_CERT_FILE", redis.authority());
        Node::start(&mut command)
    };
    let (first, second) = (node(), node());
    let (mut here, mut there) = (first.tab(0), second.tab(0));
    for value in 1..=20 {
        let node = if value % 2 == 0 { &first } else { &second };
        node.bump(value);
        assert_eq!((here.next(), there.next()), (value, value));
    }
    eventually("both nodes to be known", PATIENCE, || redis.ask::<u64>(&["HLEN", NODES]) == 2);
    let plain = redis.url().replace("rediss://", "redis://");
    assert_refuses(ripplecast().args(["--backend", &plain]), &["--backend:", "can't be reached"]);
}

#[test]
fn an_untrusted_redis_certificate_ends_startup() {
    let (redis, other) = (Redis::start_tls(), Redis::start_tls());
    let url = redis.url();
    let names = ["--backend:", &url, "certificate"];
    // Neither the system nor the other certificate authority has signed it.
    assert_refuses(ripplecast().args(["--backend", &url]).env_remove("SSL_CERT_FILE"), &names);
    assert_refuses(ripplecast().args(["--backend", &url]).env("SSL_CERT_FILE", other.authority()), &names);
}

/// Checks that the command refuses to start, with a last line on standard error that contains each of
/// `names`.
#[track_caller]
fn assert_refuses(command: &mut Command, names: &[&str]) {
    let output = command.args(["--port", "0"]).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{command:?}: {err}");
    assert!(output.stdout.is_empty(), "{command:?}: it printed an address");
    let line = err.lines().last().unwrap_or_default();
    assert!(line.starts_with("ripplecast: "), "{command:?}: {err}");
    for name in names {
        assert!(line.contains(name), "{command:?}: no {name:?} in {line}");
    }
}

#[test]
fn an_invalid_url_ends_startup() {
    for (url, advice) in
        [("reddis://127.0.0.1", "redis://"), ("redis://", "host"), ("redis://127.0.0.1?prefixx=a", "prefix")]
    {
        assert_refuses(ripplecast().args(["--backend", url]), &["--backend", url, advice]);
        assert_refuses(ripplecast().env("RIPPLECAST_BACKEND", url), &["RIPPLECAST_BACKEND", url, advice]);
    }
}

#[test]
fn an_unreachable_redis_ends_startup() {
    let url = format!("redis://127.0.0.1:{}", free_port());
    let advice = ["Start it", "--backend-optional"];
    let names = |setting| [&["ripplecast: setting", setting, &url], &advice[..]].concat();
    assert_refuses(ripplecast().args(["--backend", &url]), &names("--backend:"));
    assert_refuses(ripplecast().env("RIPPLECAST_BACKEND", &url), &names("RIPPLECAST_BACKEND:"));
}

#[test]
fn an_optional_redis_can_become_available_later() {
    let port = free_port();
    let node = Node::start(ripplecast().args([
        "--backend",
        &format!("redis://127.0.0.1:{port}"),
        "--backend-optional",
    ]));
    assert!(node.request("GET", "/learn/websocket").0.contains("200"), "the page is served");
    let (status, _) = node.request("POST", "/api/counter/bump");
    assert!(status.contains(" 503 "), "the counter is not available yet: {status}");
    let (status, health) = node.request("GET", "/health");
    assert!(status.contains("200") && health == r#"{"status":"degraded"}"#, "{status}: {health}");

    let redis = Redis::start_at(port).expect("the port is still free");
    eventually("the node to join", PATIENCE, || redis.ask::<u64>(&["HLEN", NODES]) == 1);
    let other = Node::on(&redis);
    let mut tab = other.tab(0);
    eventually("the counter to be available", PATIENCE, || {
        node.request("GET", "/api/counter").1 == r#"{"value":0}"#
    });
    node.bump(1);
    assert_eq!(tab.next(), 1);
}
