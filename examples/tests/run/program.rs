//! A program that runs for the duration of a test, and clients for it.

use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use tungstenite::{ClientRequestBuilder, Message, WebSocket, http::Uri};
use ureq::{Agent, Body, http::Response};

/// Far longer than anything here takes, so that a hang fails instead of waiting for the test harness.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running example on ports that it has picked, killed on drop.
pub(crate) struct Program {
    /// Its listen addresses, such as `127.0.0.1:40123`.
    pub(crate) addrs: Vec<String>,
    child: Child,
}

impl Program {
    /// Starts an example on free ports, and waits until it has printed `count` addresses.
    pub(crate) fn start(name: &str, args: &[&str], count: usize) -> Self {
        let mut command = Command::new(built(name));
        command.arg("0").args(args);
        Self::run(command, count)
    }

    /// Starts a program, and waits until it has printed `count` addresses.
    pub(crate) fn run(mut command: Command, count: usize) -> Self {
        for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("RIPPLECAST_")) {
            command.env_remove(variable);
        }
        command.env("NO_COLOR", "1").stdout(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("failed to start {command:?}: {error}"));
        let lines = lines(BufReader::new(child.stdout.take().expect("it was piped")));
        let mut program = Self { addrs: Vec::new(), child };
        let deadline = Instant::now() + PATIENCE;
        let mut said = String::new();
        while program.addrs.len() < count {
            let line = lines.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|_| panic!("{command:?} printed no address; its output:\n{said}"));
            program.addrs.extend(addresses(&line));
            said += &format!("{line}\n");
        }
        program
    }

    /// Returns the URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addrs[0])
    }

    /// Returns the body of a page, which must exist.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> String {
        let mut response = agent().get(self.url(path)).call().expect("a response");
        assert_eq!(response.status(), 200, "{path}");
        response.body_mut().read_to_string().expect("a text body")
    }

    /// Submits a form, and returns the response.
    pub(crate) fn post(&self, path: &str, form: &[(&str, &str)], cookie: &str) -> Response<Body> {
        let request = agent().post(self.url(path)).header("cookie", cookie);
        request.send_form(form.iter().copied()).expect("a response")
    }

    /// Checks that a page and each script and stylesheet it names are served, all from this origin.
    #[track_caller]
    pub(crate) fn check_page(&self) {
        let page = self.get("/");
        assert!(page.contains("default-src 'self'"), "the page has no Content-Security-Policy");
        let named = page.split(['"', '\'']).filter(|text| text.ends_with(".js") || text.ends_with(".css"));
        let named: Vec<_> = named.collect();
        assert!(!named.is_empty());
        for path in named {
            assert!(path.starts_with('/'), "{path} is not of this origin");
            assert!(!self.get(path).is_empty(), "{path} is empty");
        }
    }

    /// Opens a WebSocket at the first address.
    pub(crate) fn socket(&self, path: &str) -> Socket {
        Socket::open(&self.addrs[0], path, "")
            .unwrap_or_else(|status| panic!("{path} is rejected with {status}"))
    }

    /// Opens an event stream.
    pub(crate) fn events(&self, path: &str) -> Events {
        let response = agent().get(self.url(path)).call().expect("a response");
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
        Events(lines(BufReader::new(response.into_body().into_reader())))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Creates a client that follows no redirects and accepts any status.
pub(crate) fn agent() -> Agent {
    Agent::config_builder().http_status_as_error(false).max_redirects(0).build().into()
}

/// Returns the path of a built example.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("target/debug");
    let program = profile.join("examples").join(name);
    let how = "cargo build -p ripplecast-examples --examples";
    assert!(program.exists(), "{} does not exist; build it with `{how}`", program.display());
    program
}

/// Returns the addresses in a line, except those with port 0.
fn addresses(line: &str) -> impl Iterator<Item = String> {
    let ports = line.split("127.0.0.1:").skip(1).map(|rest| {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].to_owned()
    });
    ports.filter(|port| port != "0").map(|port| format!("127.0.0.1:{port}"))
}

/// Reads lines in a thread, so that waiting for one can time out.
fn lines(reader: impl BufRead + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in reader.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                // No one needs the line, but a program that cannot write its log would exit.
            }
        }
    });
    receiver
}

/// An event stream and its lines read so far.
pub(crate) struct Events(Receiver<String>);

impl Events {
    /// Returns the data of the next event.
    #[track_caller]
    pub(crate) fn next(&mut self) -> String {
        let mut data = Vec::new();
        loop {
            let line = self.0.recv_timeout(PATIENCE).expect("an event");
            match line.strip_prefix("data: ") {
                Some(text) => data.push(text.to_owned()),
                None if line.is_empty() && !data.is_empty() => return data.join("\n"),
                None => {}
            }
        }
    }

    /// Reads until an event matches.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let event = self.next();
            if wanted(&event) {
                return event;
            }
            assert!(Instant::now() < deadline, "timed out waiting for {what}");
        }
    }
}

pub(crate) struct Socket(WebSocket<TcpStream>);

impl Socket {
    /// Opens a WebSocket, or returns the status of the rejection.
    pub(crate) fn open(addr: &str, path: &str, cookie: &str) -> Result<Self, u16> {
        let stream = TcpStream::connect(addr).expect("the program is listening");
        stream.set_read_timeout(Some(PATIENCE)).expect("a nonzero duration");
        let uri: Uri = format!("ws://{addr}{path}").parse().expect("an address");
        let request = ClientRequestBuilder::new(uri).with_header("cookie", cookie);
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                Err(response.status().as_u16())
            }
            Err(error) => panic!("{path}: {error}"),
        }
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.0.send(Message::text(text)).expect("the WebSocket is open");
    }

    /// Returns the next text message.
    #[track_caller]
    pub(crate) fn next(&mut self) -> String {
        loop {
            match self.0.read().expect("a message") {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Reads until a text contains all of the `parts`.
    #[track_caller]
    pub(crate) fn until(&mut self, parts: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.next();
            if parts.iter().all(|part| text.contains(part)) {
                return text;
            }
            assert!(Instant::now() < deadline, "timed out waiting for {parts:?}");
        }
    }
}
