//! The real binary: its output, its error messages and its exit codes.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Longer than an orderly shutdown may take, so that a hang fails instead of waiting for the test harness.
const PATIENCE: Duration = Duration::from_secs(60);

/// The binary, without the environment's settings.
fn ripplecast() -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_ripplecast")))
}

fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RIPPLECAST_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command that must end by itself.
fn output(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// Checks that the command refuses to start, with one line on standard error that contains each of `names`.
fn assert_refuses(command: &mut Command, code: i32, names: &[&str]) {
    let output = output(command);
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {line}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{command:?}");
    assert!(line.starts_with("ripplecast: ") && line.ends_with('\n'), "{command:?}: {line:?}");
    assert_eq!(line.lines().count(), 1, "{command:?}: {line}");
    for name in names {
        assert!(line.contains(name), "{command:?}: no {name:?} in {line}");
    }
}

/// A running server, killed on drop.
struct Server {
    process: Child,
    /// Kept open, so that the server can always print.
    out: BufReader<ChildStdout>,
    /// The address in the first line, after `http://`.
    addr: String,
}

impl Server {
    fn start(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let addr = line.trim_end().strip_prefix("Ripplecast listens on http://");
        let addr = addr.unwrap_or_else(|| panic!("the first line is {line:?}")).to_owned();
        Self { process, out, addr }
    }

    /// Returns the whole response to a GET request.
    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.addr).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[cfg(unix)]
    fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args(["-s", name, &self.process.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the exit. Returns the exit code, and the output after the first line.
    fn wait(mut self) -> (Option<i32>, String) {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(begin.elapsed() < PATIENCE, "the server does not stop");
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        (status.code(), rest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn port_0_picks_a_free_one_and_prints_it() {
    let server = Server::start(ripplecast().args(["--port", "0"]));
    assert!(server.addr.starts_with("127.0.0.1:") && !server.addr.ends_with(":0"), "{}", server.addr);
    assert!(server.get("/api/counter").ends_with(r#"{"value":0}"#));
}

#[test]
fn environment_variables_are_used_without_flags() {
    let server = Server::start(ripplecast().env("RIPPLECAST_HOST", "::1").env("RIPPLECAST_PORT", "0"));
    assert!(server.addr.starts_with("[::1]:"), "{}", server.addr);
    let server = Server::start(ripplecast().env("RIPPLECAST_PORT", "abc").args(["--port", "0"]));
    assert!(server.get("/api/counter").contains("200 OK"));
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let mut command = ripplecast();
    for name in ["HOST", "TRUSTED_PROXIES", "LOG"] {
        command.env(format!("RIPPLECAST_{name}"), "");
    }
    let server = Server::start(command.args(["--port", "0"]));
    assert!(server.addr.starts_with("127.0.0.1:"));
    // The port falls back to its default, which is kept taken here, whether by this test or by another
    // program.
    let _taken = TcpListener::bind("127.0.0.1:8080");
    assert_refuses(ripplecast().env("RIPPLECAST_PORT", ""), 1, &["127.0.0.1:8080"]);
}

#[test]
fn a_port_in_use_is_reported() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    assert_refuses(ripplecast().args(["--port", &port]), 1, &[&port, "--port", "another port"]);
}

#[test]
fn an_address_of_another_machine_is_reported() {
    let command = &mut ripplecast();
    assert_refuses(command.args(["--port", "0", "--host", "192.0.2.1"]), 1, &["192.0.2.1", "--host"]);
}

#[test]
fn invalid_settings_are_reported() {
    for (name, value, advice) in [
        ("RIPPLECAST_PORT", "abc", "65535"),
        ("RIPPLECAST_PORT", "65536", "65535"),
        ("RIPPLECAST_PORT", " 80", "65535"),
        ("RIPPLECAST_HOST", "nonsense", "127.0.0.1"),
        ("RIPPLECAST_HOST", "127.0.0.1:80", "127.0.0.1"),
        ("RIPPLECAST_TRUSTED_PROXIES", "10.0.0.0/8,proxy.local", "loopback"),
        ("RIPPLECAST_LOG", "ripplecast=loud", "debug"),
        ("RIPPLECAST_SHARDS", "many", "number"),
        ("RIPPLECAST_BACKEND", "stone", "memory"),
    ] {
        assert_refuses(ripplecast().env(name, value), 2, &[name, value, advice]);
    }
    for (flag, value, advice) in [("--port", "abc", "65535"), ("--host", "nonsense", "127.0.0.1")] {
        assert_refuses(ripplecast().args([flag, value]), 2, &[flag, value, advice]);
    }
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf8_is_rejected() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    assert_refuses(ripplecast().env("RIPPLECAST_PORT", OsStr::from_bytes(b"\xff")), 2, &["UTF-8"]);
}

#[test]
fn unknown_flags_and_commands_are_reported() {
    assert_refuses(ripplecast().arg("--nonsense"), 2, &["--nonsense", "--help"]);
    assert_refuses(ripplecast().arg("nonsense"), 2, &["nonsense", "--help"]);
    assert_refuses(ripplecast().args(["bench", "serve"]), 2, &["--port"]);
    assert_refuses(ripplecast().args(["bench", "serve", "--port", "x"]), 2, &["--port", "x"]);
}

#[test]
fn help_and_version_are_printed() {
    let help = output(ripplecast().arg("--help"));
    assert!(help.status.success() && help.stderr.is_empty());
    let help = String::from_utf8(help.stdout).unwrap();
    for name in [
        "--host",
        "--port",
        "--trusted-proxies",
        "--log",
        "RIPPLECAST_HOST",
        "RIPPLECAST_PORT",
        "RIPPLECAST_TRUSTED_PROXIES",
        "RIPPLECAST_LOG",
        "127.0.0.1",
        "8080",
        "bench",
    ] {
        assert!(help.contains(name), "no {name} in {help}");
    }
    let version = output(ripplecast().arg("--version"));
    assert_eq!(
        String::from_utf8(version.stdout).unwrap().trim(),
        concat!("ripplecast ", env!("CARGO_PKG_VERSION"))
    );
}

#[cfg(unix)]
type Client = tungstenite::WebSocket<TcpStream>;

/// Opens a WebSocket as a tab does, and waits for its first value.
#[cfg(unix)]
fn open_web_socket(server: &Server) -> Client {
    let stream = TcpStream::connect(&server.addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut client, _) =
        tungstenite::client(format!("ws://{}/ws/counter-demo", server.addr), stream).unwrap();
    while client.read().unwrap() != tungstenite::Message::text(r#"{"value":0}"#) {}
    client
}

#[cfg(unix)]
#[test]
fn a_signal_closes_web_sockets_with_1001_and_ends_in_order() {
    use tungstenite::{Message, protocol::frame::coding::CloseCode};

    for signal in ["TERM", "INT"] {
        let server = Server::start(ripplecast().args(["--port", "0"]));
        let mut client = open_web_socket(&server);
        server.signal(signal);
        let close = loop {
            // Skip earlier messages, such as the number of open tabs.
            if let Message::Close(close) = client.read().unwrap() {
                break close.expect("a close with a code");
            }
        };
        assert_eq!(close.code, CloseCode::Away, "{signal}");
        // Answers the close, and finds the connection closed.
        while client.read().is_ok() {}
        assert_eq!(server.wait(), (Some(0), String::new()), "{signal}");
    }
}

#[cfg(unix)]
#[test]
fn a_second_signal_stops_immediately() {
    const GOING_AWAY: [u8; 2] = 1001_u16.to_be_bytes();

    let server = Server::start(ripplecast().args(["--port", "0"]));
    let mut client = open_web_socket(&server);
    server.signal("TERM");
    // The close frame has arrived and stays unanswered, so the orderly shutdown waits for this client.
    let mut got = Vec::new();
    while !got.windows(2).any(|bytes| bytes == GOING_AWAY) {
        let mut byte = [0];
        client.get_mut().read_exact(&mut byte).unwrap();
        got.extend(byte);
    }
    server.signal("TERM");
    assert_eq!(server.wait(), (Some(143), String::new()), "128 plus the number of the signal");
}

#[cfg(unix)]
#[test]
fn the_server_survives_running_out_of_descriptors() {
    let mut command = clean(Command::new("sh"));
    let script = r#"ulimit -n 40 && exec "$0" --port 0"#;
    command.args(["-c", script, env!("CARGO_BIN_EXE_ripplecast")]).stderr(Stdio::piped());
    let mut server = Server::start(&mut command);
    let mut log = BufReader::new(server.process.stderr.take().unwrap());
    let clients: Vec<_> = (0..80).map(|_| TcpStream::connect(&server.addr).unwrap()).collect();
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    assert!(line.contains("ulimit -n"), "{line}");
    drop(clients);
    assert!(server.get("/api/counter").contains("200 OK"));
}

/// The server logs a lot, and nothing reads its log. It keeps serving, and counts the lines it dropped.
#[test]
fn an_unread_log_does_not_stall_the_server() {
    let mut command = ripplecast();
    command.args(["--port", "0", "--log", "trace"]).stderr(Stdio::piped());
    let mut server = Server::start(&mut command);
    let _unread = server.process.stderr.take().unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metrics = server.get("/metrics");
        let dropped =
            metrics.lines().find_map(|line| line.strip_prefix("ripplecast_log_dropped_lines_total "));
        if dropped.unwrap().parse::<u64>().unwrap() > 0 {
            return;
        }
        assert!(Instant::now() < deadline, "no line was dropped");
    }
}
