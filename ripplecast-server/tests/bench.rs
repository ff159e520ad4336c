//! `ripplecast bench load` against `ripplecast bench serve` and against faulty servers; `ripplecast bench hostile`.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command, Output, Stdio},
    thread,
};

use serde_json::Value;

/// Connections in each run.
const CONNECTIONS: u64 = 50;

/// The binary, without the environment's settings.
fn ripplecast() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ripplecast"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RIPPLECAST_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// A running `bench serve`, killed on drop.
struct Server {
    process: Child,
    /// Kept open, so that the server can always print.
    _out: BufReader<ChildStdout>,
    addr: String,
}

impl Server {
    fn start() -> Self {
        let mut command = ripplecast();
        let mut process =
            command.args(["bench", "serve", "--port", "0"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let addr = line.trim_end().strip_prefix("Ripplecast measures on http://");
        let addr = addr.unwrap_or_else(|| panic!("the first line is {line:?}")).to_owned();
        Self { process, _out: out, addr }
    }

    /// Creates a load of a few connections.
    fn load(&self, path: &str, args: &[&str]) -> Command {
        let mut command = load(&format!("ws://{}{path}", self.addr));
        command.args(["--server-pid", &self.process.id().to_string()]).args(args);
        command
    }

    /// Returns the report of a load that must succeed.
    fn measure(&self, path: &str, args: &[&str]) -> Value {
        let output = self.load(path, &[&["--json"], args].concat()).output().unwrap();
        let (out, err) = texts(&output);
        assert!(output.status.success() && err.is_empty(), "{args:?}: {err}");
        assert_eq!(out.lines().count(), 1, "{args:?}: {out}");
        let report: Value = serde_json::from_str(&out).unwrap();
        let zero = Value::from(0);
        for check in ["lost", "order_errors", "dead", "missing"] {
            assert_eq!(report["checks"][check], zero, "{args:?}: {report}");
        }
        assert_eq!(report["connect"]["opened"], CONNECTIONS, "{args:?}: {report}");
        assert_eq!(report["connect"]["handshake_us"]["count"], CONNECTIONS, "{args:?}: {report}");
        report
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn load(url: &str) -> Command {
    let mut command = ripplecast();
    command.args(["bench", "load", url, "--connections", &CONNECTIONS.to_string()]);
    command
}

fn texts(output: &Output) -> (String, String) {
    (String::from_utf8(output.stdout.clone()).unwrap(), String::from_utf8(output.stderr.clone()).unwrap())
}

/// Checks that a load fails with one line on standard error that contains each of `names`.
fn assert_fails(command: &mut Command, code: i32, names: &[&str]) -> String {
    let output = command.output().unwrap();
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {err}");
    assert!(err.starts_with("ripplecast: ") && err.lines().count() == 1, "{command:?}: {err:?}");
    for name in names {
        assert!(err.contains(name), "{command:?}: no {name:?} in {err}");
    }
    out
}

/// Checks that the percentiles are in order and the number of values is `count`.
fn assert_times(times: &Value, count: u64) {
    assert_eq!(times["count"], count, "{times}");
    let at = |name: &str| times[name].as_f64().unwrap();
    let all = ["p50", "p90", "p99", "p999", "max"].map(at);
    assert!(all.is_sorted() && all[0] > 0.0, "{times}");
}

/// Starts a server that reads a request, sends `answer`, and continues with `serve`.
fn impostor(serve: impl Fn(TcpStream, String) + Send + Sync + Clone + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/bc", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (serve, mut stream) = (serve.clone(), stream.unwrap());
            thread::spawn(move || {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read(&mut byte).unwrap_or(0) == 0 {
                        return;
                    }
                    request.extend(byte);
                }
                serve(stream, String::from_utf8(request).unwrap());
            });
        }
    });
    url
}

/// Returns the response that upgrades a request to a WebSocket.
fn upgrade(request: &str) -> String {
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
    )
}

#[test]
fn every_broadcast_reaches_everyone() {
    let server = Server::start();
    for (args, messages) in [
        (&["--messages", "40"][..], 40),
        (&["--messages", "500", "--window", "64", "--size", "1000"], 500),
        (&["--messages", "90", "--publishers", "3", "--window", "6"], 90),
        (&["--messages", "20", "--rate", "200"], 20),
        (&["--messages", "20", "--ramp", "500", "--spin"], 20),
        (&["--messages", "3", "--size", "200000"], 3),
    ] {
        let report = server.measure("/bc", args);
        let traffic = &report["traffic"];
        assert_eq!(traffic["messages"], messages, "{args:?}");
        assert_eq!(traffic["deliveries"], messages * CONNECTIONS, "{args:?}");
        let size = report["size"].as_u64().unwrap();
        assert_eq!(traffic["payload_bytes"], messages * CONNECTIONS * size, "{args:?}");
        assert_times(&traffic["latency_us"], messages * CONNECTIONS);
        assert_times(&traffic["last_us"], messages);
    }
}

#[test]
fn a_run_can_end_after_a_duration() {
    let report = Server::start().measure("/bc", &["--duration", "0.3", "--rate", "100"]);
    assert_eq!(report["traffic"]["messages"], 30);
    assert_eq!(report["traffic"]["deliveries"], 30 * CONNECTIONS);
}

#[test]
fn every_message_is_echoed() {
    let server = Server::start();
    for args in [
        &["--mode", "echo", "--messages", "1000"][..],
        &["--mode", "echo", "--messages", "1000", "--window", "4"],
        &["--mode", "echo", "--messages", "1000", "--rate", "5000"],
    ] {
        let report = server.measure("/echo", args);
        assert_eq!(report["traffic"]["deliveries"], 1000, "{args:?}");
        assert_times(&report["traffic"]["latency_us"], 1000);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_servers_own_figures_are_reported() {
    let server = Server::start();
    let report = server.measure("/bc", &["--messages", "200"]);
    assert!(report["traffic"]["server_cpu_seconds_per_million"].as_f64().unwrap() > 0.0, "{report}");
    assert!(report["connect"]["server_cpu_us_each"].as_f64().unwrap() > 0.0, "{report}");
    let memory = &report["memory"];
    assert!(memory["before_kib"].as_u64().unwrap() > 0, "{report}");
    assert!(memory["after_message_kib_per_connection"].is_number(), "{report}");
    assert!(memory["peak_kib"].as_u64() >= memory["idle_kib"].as_u64(), "{report}");
    let report = server.measure("/bc", &["--mode", "idle", "--duration", "0.2"]);
    assert!(report["idle"]["server_cpu_percent"].is_number() && report["traffic"].is_null(), "{report}");
    assert_fails(load("ws://127.0.0.1:1/").args(["--server-pid", "4294967295"]), 1, &["--server-pid"]);
}

#[test]
fn dropped_connections_reconnect() {
    let args =
        ["--mode", "jitter", "--duration", "1", "--rate", "100", "--cut-every", "0.3", "--pause", "0.1"];
    let report = Server::start().measure("/bc", &[&args[..], &["--seed", "7"]].concat());
    let jitter = &report["jitter"];
    let cuts = jitter["cuts"].as_u64().unwrap();
    assert!(cuts > 20, "{report}");
    assert!(jitter["recovered"].as_u64().unwrap() <= cuts, "{report}");
    assert!(jitter["missed"].as_u64().unwrap() > 0, "{report}");
    assert!(jitter["recovery_us"]["max"].as_f64() > jitter["reconnect_us"]["p50"].as_f64(), "{report}");
    assert_eq!((&report["seed"], &report["traffic"]["messages"]), (&Value::from(7), &Value::from(100)));
}

#[test]
fn all_connections_return_after_a_storm() {
    let report = Server::start().measure("/bc", &["--mode", "storm"]);
    assert_eq!(report["storm"]["reconnected"], CONNECTIONS);
    assert_times(&report["storm"]["back_us"], CONNECTIONS);
    assert!(
        report["storm"]["all_receive_seconds"].as_f64() >= report["storm"]["seconds"].as_f64(),
        "{report}"
    );
}

#[test]
fn slow_readers_are_counted_separately() {
    let server = Server::start();
    for bytes in ["0", "100000"] {
        let args =
            ["--mode", "slow", "--messages", "20", "--slow-share", "0.2", "--slow-bytes-per-second", bytes];
        let report = server.measure("/bc", &args);
        assert_eq!(report["traffic"]["deliveries"], 20 * (CONNECTIONS - 10), "{report}");
        assert_eq!(report["slow"]["connections"], 10);
        assert_eq!(report["slow"]["read"].as_u64() > Some(0), bytes != "0", "{report}");
        assert_eq!(report["slow"]["closed_by_server"], 0, "{report}");
    }
}

#[test]
fn without_json_the_report_is_a_table() {
    let output = Server::start().load("/bc", &["--messages", "20"]).output().unwrap();
    let (out, err) = texts(&output);
    assert!(output.status.success() && err.is_empty(), "{err}");
    for part in ["fanout", "50 connections", "1,000 in", "p99.9", "lost 0", "latency", "handshake"] {
        assert!(out.contains(part), "no {part:?} in {out}");
    }
}

#[test]
fn an_unreachable_server_is_reported_in_one_line() {
    // Port 1 is never assigned by the kernel.
    let out = assert_fails(load("ws://127.0.0.1:1/bc").arg("--json"), 1, &["refused", "running"]);
    assert_eq!(out, "");
}

#[test]
fn a_wrong_path_is_reported_in_one_line() {
    let server = Server::start();
    assert_fails(&mut server.load("/nothing", &[]), 1, &["404", "/nothing", "101"]);
    // The endpoint exists, but does something else.
    assert_fails(&mut server.load("/echo", &["--messages", "5"]), 1, &["49 of 50", "--mode echo"]);
}

#[test]
fn wrong_settings_are_reported_in_one_line() {
    assert_fails(ripplecast().args(["bench", "load"]), 2, &["URL"]);
    assert_fails(&mut load("wss://127.0.0.1/"), 2, &["wss://127.0.0.1/", "TLS"]);
    assert_fails(&mut load("127.0.0.1:80"), 2, &["ws://"]);
    assert_fails(load("ws://127.0.0.1:1/").args(["--mode", "flood"]), 2, &["flood", "storm"]);
    assert_fails(load("ws://127.0.0.1:1/").args(["--publishers", "51"]), 2, &["--publishers", "50"]);
    assert_fails(load("ws://127.0.0.1:1/").args(["--source", "::1"]), 1, &["--source"]);
}

#[cfg(unix)]
#[test]
fn a_limit_on_open_files_is_explained() {
    let mut command = Command::new("sh");
    let script = r#"ulimit -n 100 && exec "$0" bench load ws://127.0.0.1:1/ --connections 50"#;
    command.args(["-c", script, env!("CARGO_BIN_EXE_ripplecast")]);
    assert_fails(&mut command, 1, &["ulimit -n 114", "--connections"]);
}

#[test]
fn a_wrong_accept_key_is_rejected() {
    let url = impostor(|mut stream, _| {
        let _ =
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: nonsense\r\n\r\n");
        let _ = stream.read(&mut [0]);
    });
    assert_fails(&mut load(&url), 1, &["Sec-WebSocket-Accept"]);
}

/// Starts a load against a server that echoes the first `good` frames to its only connection, and then does `bad`.
fn unreliable(good: usize, bad: impl Fn(&mut TcpStream, &[u8]) + Send + Sync + Clone + 'static) -> Command {
    let url = impostor(move |mut stream, request| {
        stream.write_all(upgrade(&request).as_bytes()).unwrap();
        for count in 0.. {
            // A masked text frame with 64 bytes of payload.
            let mut frame = [0; 2 + 4 + 64];
            if stream.read_exact(&mut frame).is_err() {
                return;
            }
            let mut back = vec![0x81, 64];
            back.extend((0..64).map(|i| frame[6 + i] ^ frame[2 + i % 4]));
            if count < good {
                stream.write_all(&back).unwrap();
            } else {
                bad(&mut stream, &back);
            }
        }
    });
    let mut command = ripplecast();
    command.args(["bench", "load", &url, "--connections", "1", "--messages", "20", "--json"]);
    command
}

#[test]
fn a_lost_message_is_a_failure() {
    // Nothing more arrives: the load waits, and gives up.
    let out = assert_fails(&mut unreliable(10, |_, _| {}), 1, &["1 deliveries were lost"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["checks"]["lost"], &report["traffic"]["deliveries"]), (&1.into(), &7.into()));
}

#[test]
fn a_duplicate_message_is_a_failure() {
    let twice = |stream: &mut TcpStream, back: &[u8]| stream.write_all(&[back, back].concat()).unwrap();
    assert_fails(&mut unreliable(10, twice), 1, &["out of order or twice"]);
}

#[test]
fn a_failed_connection_is_a_failure() {
    let close = |stream: &mut TcpStream, _: &[u8]| stream.write_all(&[0x88, 2, 0x03, 0xF3]).unwrap();
    assert_fails(&mut unreliable(10, close), 1, &["1 connections died", "1011"]);
    let end = |stream: &mut TcpStream, _: &[u8]| stream.shutdown(std::net::Shutdown::Both).unwrap();
    assert_fails(&mut unreliable(10, end), 1, &["1 connections died", "closed it"]);
    let nonsense = |stream: &mut TcpStream, _: &[u8]| stream.write_all(&[0xFF; 8]).unwrap();
    assert_fails(&mut unreliable(10, nonsense), 1, &["1 connections died", "extension"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_shows_the_results_so_far() {
    let server = Server::start();
    let args = ["--json", "--rate", "100", "--duration", "600"];
    let mut load = server.load("/bc", &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The load is running once another member of the room receives a broadcast.
    let stream = TcpStream::connect(&server.addr).unwrap();
    let (mut member, _) = tungstenite::client(format!("ws://{}/bc", server.addr), stream).unwrap();
    for _ in 0..20 {
        member.read().unwrap();
    }
    assert!(Command::new("kill").args(["-s", "INT", &load.id().to_string()]).status().unwrap().success());
    let status = load.wait().unwrap();
    let mut out = String::new();
    load.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    let report: Value = serde_json::from_str(&out).unwrap();
    assert!(status.success(), "{report}");
    assert_eq!((&report["interrupted"], &report["checks"]["lost"]), (&Value::from(true), &Value::from(0)));
    assert!(report["traffic"]["deliveries"].as_u64() > Some(0), "{report}");
}

#[cfg(unix)]
#[test]
fn everyone_receives_a_close_when_the_server_stops() {
    let mut server = Server::start();
    let stream = TcpStream::connect(&server.addr).unwrap();
    let (mut member, _) = tungstenite::client(format!("ws://{}/bc", server.addr), stream).unwrap();
    let pid = server.process.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
    let message = member.read().unwrap();
    let tungstenite::Message::Close(Some(close)) = message else {
        panic!("expected a close, got {message:?}")
    };
    assert_eq!(u16::from(close.code), 1001);
    // Answers the close, and finds the connection closed.
    while member.read().is_ok() {}
    assert!(server.process.wait().unwrap().success());
}

#[test]
fn help_names_every_mode_and_setting() {
    let output = ripplecast().args(["bench", "load", "--help"]).output().unwrap();
    let (help, err) = texts(&output);
    assert!(output.status.success() && err.is_empty(), "{err}");
    for name in [
        "URL",
        "idle",
        "fanout",
        "echo",
        "jitter",
        "storm",
        "slow",
        "--connections",
        "--ramp",
        "--messages",
        "--duration",
        "--size",
        "--window",
        "--rate",
        "--publishers",
        "--server-pid",
        "--json",
        "--spin",
        "--source",
        "--slow-share",
        "--slow-bytes-per-second",
        "--cut-every",
        "--pause",
        "--seed",
        "Ctrl-C",
    ] {
        assert!(help.contains(name), "no {name} in {help}");
    }
}

/// The kinds of attack.
const ATTACKS: [&str; 10] = [
    "protocols",
    "origins",
    "bodies",
    "readers",
    "unfinished",
    "rooms",
    "messages",
    "events",
    "tokens",
    "forwarded",
];

/// A short attack on a server that `bench hostile` starts. Waiting times are not checked: the machine may be busy.
#[test]
fn every_kind_of_attack_runs_and_is_reported() {
    let args = ["bench", "hostile", "--connections", "25", "--clients", "2", "--duration", "0.5"];
    let output = ripplecast().args(args).args(["--max-ratio", "1e9", "--json"]).output().unwrap();
    let (out, err) = texts(&output);
    assert!(output.status.success() && err.is_empty(), "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["interrupted"], false, "{report}");
    assert_eq!(report["low_priority"], cfg!(target_os = "linux"), "{report}");
    let waits = report["waits"].as_array().unwrap();
    for (wait, what) in waits.iter().zip(["round trip", "new WebSocket", "page"]) {
        assert_eq!(wait["what"], what, "{report}");
        assert_times(&wait["alone_us"], 20); // before and after
        assert_times(&wait["attacked_us"], 10);
        assert!(wait["ratio"].as_f64().unwrap() > 0.0, "{report}");
        assert_eq!((&wait["alone_failed"], &wait["attacked_failed"]), (&0.into(), &0.into()), "{report}");
    }
    let attacks = report["attacks"].as_array().unwrap();
    assert_eq!((waits.len(), attacks.len()), (3, ATTACKS.len()), "{report}");
    for (index, (attack, name)) in attacks.iter().zip(ATTACKS).enumerate() {
        assert_eq!(attack["attack"], name, "{report}");
        let connections = if index < 5 { 3 } else { 2 };
        assert_eq!(attack["connections"], connections, "{report}");
        assert!(attack["opened"].as_u64().unwrap() >= connections, "{report}");
        if ["protocols", "origins", "tokens"].contains(&name) {
            assert!(attack["refused"].as_u64().unwrap() > 0, "{name}: {report}");
        }
    }
}

#[test]
fn only_loopback_is_attacked() {
    for elsewhere in ["192.0.2.1:80", "[2001:db8::1]:80", "0.0.0.0:80"] {
        assert_fails(ripplecast().args(["bench", "hostile", elsewhere]), 2, &["ADDRESS", "loopback"]);
    }
    // Port 1 is never assigned by the kernel.
    let mut nobody = ripplecast();
    nobody.args(["bench", "hostile", "127.0.0.1:1", "--duration", "0.3", "--clients", "1"]);
    assert_fails(&mut nobody, 1, &["without attackers"]);
}

#[test]
fn help_names_every_attack() {
    let output = ripplecast().args(["bench", "hostile", "--help"]).output().unwrap();
    let (help, err) = texts(&output);
    assert!(output.status.success() && err.is_empty(), "{err}");
    for name in
        ["ADDRESS", "--connections", "--only", "--clients", "--duration", "--max-ratio", "--json", "Ctrl-C"]
    {
        assert!(help.contains(name), "no {name} in {help}");
    }
    for name in ATTACKS {
        assert!(help.contains(&format!("- {name}:")), "no {name} in {help}");
    }
}
