//! A running server, and a client that is not a browser.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, ChildStdout, Stdio},
};

use tungstenite::client::IntoClientRequest as _;

use crate::program::{PATIENCE, ripplecast};

/// A running server, killed on drop.
pub(crate) struct Server {
    process: Child,
    /// Kept open, so that the server can always print.
    _out: BufReader<ChildStdout>,
    /// Its listen address.
    pub(crate) addr: String,
}

impl Server {
    /// Starts a server with these arguments, on a port that it picks.
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut command = ripplecast();
        let command = command.args(["--port", "0"]).args(args).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let addr = line.trim_end().rsplit("http://").next().unwrap().replace("0.0.0.0", "127.0.0.1");
        Self { process, _out: out, addr }
    }

    /// Returns the whole response to a request with additional headers and a body.
    pub(crate) fn send(&self, request: &str, headers: &[&str], body: &str) -> String {
        let mut stream = TcpStream::connect(&self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let host = if headers.iter().any(|header| header.starts_with("host:")) { "" } else { &self.addr };
        let host = if host.is_empty() { String::new() } else { format!("host: {host}\r\n") };
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let length = body.len();
        write!(
            stream,
            "{request} HTTP/1.1\r\n{host}{headers}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Returns the whole response to a GET request.
    pub(crate) fn get(&self, path: &str, headers: &[&str]) -> String {
        self.send(&format!("GET {path}"), headers, "")
    }

    #[allow(dead_code, reason = "only some of the tests need it")]
    pub(crate) fn open(&self, path: &str) -> tungstenite::WebSocket<TcpStream> {
        let stream = TcpStream::connect(&self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("ws://{}{path}", self.addr).into_client_request().unwrap();
        tungstenite::client(request, stream).unwrap().0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
