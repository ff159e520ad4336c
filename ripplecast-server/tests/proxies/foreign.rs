//! Event streams, read by clients in other languages, directly and through each proxy.

use std::{
    io::Read as _,
    process::{Child, Command, Stdio},
};

use axum::routing::get;
use ripplecast::{App, CloseCode, Connection, sse};

use crate::{
    client::Client,
    program::PATIENCE,
    proxy::{Kind, Proxy},
    server::Server,
};

/// The directory in which `cargo xtask test` installs the Python packages of tests/python.txt.
const PACKAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python/packages");
/// The required packages and their versions.
const WANTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python.txt");
/// The proxies tested with event streams. All of them keep connections to the server alive.
const PROXIES: [Kind; 3] = [Kind::Nginx, Kind::Haproxy, Kind::Caddy];

#[test]
fn event_streams_reach_clients_in_other_languages_immediately() {
    let server = Server::start(&[]);
    check(&server.addr, &server.addr);
}

#[test]
fn event_streams_reach_clients_in_other_languages_through_proxies() {
    for kind in PROXIES {
        let server = Server::start(&["--trusted-proxies", "loopback"]);
        let proxy = Proxy::start(kind, &server.addr);
        check(&proxy.addr, &Client::of(&proxy.addr).host);
    }
}

/// Checks that each client receives each value of the counter immediately.
#[track_caller]
fn check(addr: &str, host: &str) {
    let base = format!("http://{addr}");
    python(&base, host);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/proxies/fetch.mjs");
    let said = said(Command::new("node").args([script, &format!("http://{host}")]), "Install Node.js.");
    assert_eq!(said.trim(), "fetch");
    let mut client = Client::of(addr);
    host.clone_into(&mut client.host);
    for version in ["--http1.1", "--http1.0"] {
        let mut curl = Curl::start(&[version, "--no-buffer", &format!("{base}/events/counter")], host);
        let first = curl.value();
        for value in first + 1..first + 4 {
            assert!(client.post("/api/counter/bump").contains(" 200 "));
            assert_eq!(curl.value(), value, "curl {version}");
        }
    }
}

#[track_caller]
fn python(base: &str, host: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/proxies/clients.py");
    let install = format!(
        "Run `cargo xtask test` once, or: python3 -m pip install --target {PACKAGES} --requirement {WANTED}"
    );
    let mut python = Command::new("python3");
    let said = said(python.env("PYTHONPATH", PACKAGES).args([script, base, host]), &install);
    let clients: Vec<_> = said.lines().collect();
    assert_eq!(clients, ["requests, sseclient", "requests, iter_lines", "httpx-sse", "aiohttp"]);
}

/// Returns the output of a program that must succeed.
#[track_caller]
fn said(command: &mut Command, install: &str) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}. {install}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("ModuleNotFoundError"), "{errors}\n{install}");
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs curl without the user's settings. It gives up before the tests do.
fn curl(args: &[&str], host: &str) -> Command {
    let mut command = Command::new("curl");
    command.args(["--disable", "--silent", "--show-error", "--fail", "--fail-early", "--noproxy", "*"]);
    command.args(["--max-time", &PATIENCE.as_secs().to_string()]);
    command.args(["--header", &format!("Host: {host}")]).args(args);
    command
}

/// A running curl, killed on drop.
struct Curl {
    process: Child,
    written: String,
}

impl Curl {
    fn start(args: &[&str], host: &str) -> Self {
        let mut command = curl(args, host);
        let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let process = process.unwrap_or_else(|error| panic!("curl does not start ({error}): install it"));
        Self { process, written: String::new() }
    }

    /// Returns the next value of the counter in its output.
    #[track_caller]
    fn value(&mut self) -> i64 {
        loop {
            if let Some((event, rest)) = self.written.split_once("\n\n") {
                let value = event
                    .split_once("data: {\"value\":")
                    .and_then(|(_, value)| value.split(['}', ',']).next()?.parse().ok());
                self.written = rest.to_owned();
                if let Some(value) = value {
                    return value;
                }
                continue;
            }
            let mut piece = [0; 1024];
            let length = self.process.stdout.as_mut().unwrap().read(&mut piece).unwrap();
            assert!(length > 0, "curl has ended: {}", self.written);
            self.written += std::str::from_utf8(&piece[..length]).unwrap();
        }
    }
}

impl Drop for Curl {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// When the server ends a stream, the stream is complete. The next request can reuse both the client's connection to
/// the proxy and the proxy's to the server.
#[test]
fn a_finished_stream_is_complete_and_its_connection_is_reused_through_proxies() {
    const TIMES: usize = 8;
    const EVENTS: &str = "retry: 3000\n\ndata: one\n\ndata: two\n\n";
    const HEALTH: &str = r#"{"status":"ok"}"#;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bound = runtime.block_on(async {
        let stream = sse::room("r").on_open(async |conn: Connection| {
            conn.push("one").ignore();
            conn.push("two").ignore();
            conn.close(CloseCode::NORMAL, "that is all").ignore();
        });
        let app = App::builder().build().await.unwrap();
        app.sse("/events", stream).route("/health", get(async || HEALTH)).bind("127.0.0.1:0").await.unwrap()
    });
    let server = bound.local_addr().to_string();
    runtime.spawn(bound.serve_with_shutdown(std::future::pending()));
    let ask = |addr: &str, host: &str| {
        for version in ["--http1.1", "--http1.0"] {
            let urls = [format!("http://{addr}/events"), format!("http://{addr}/health")];
            let mut args = vec![version];
            args.extend(urls.iter().map(String::as_str).cycle().take(2 * TIMES));
            let said = said(&mut curl(&args, host), "Install curl.");
            assert_eq!(said, [EVENTS, HEALTH].concat().repeat(TIMES), "{version}");
        }
    };
    ask(&server, &server);
    for kind in PROXIES {
        let proxy = Proxy::start(kind, &server);
        ask(&proxy.addr, &Client::of(&proxy.addr).host);
    }
}
