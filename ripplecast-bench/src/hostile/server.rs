//! The server under attack: this program with its default settings, in a separate process.

use std::{
    io::{self, BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
};

use crate::load::random::Random;
use crate::result::Result;

/// A running server, killed on drop.
pub(super) struct Server {
    process: Child,
    pub(super) addr: SocketAddr,
    /// Kept open, so that the server can always print.
    _out: BufReader<ChildStdout>,
}

impl Server {
    /// Starts a server on a port that it picks. Its limits also apply to loopback, as they do to strangers, and its
    /// inspector has a token to guess.
    pub(super) fn start() -> Result<Self> {
        let failed = |error: io::Error| format!("failed to start the server: {error}");
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        // Do not inherit the environment's settings: a configured backend would be attacked with the server.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RIPPLECAST_") {
                command.env_remove(name);
            }
        }
        let mut random = Random::new(Random::fresh_seed());
        command.env("RIPPLECAST_INSPECT_TOKEN", format!("{:016x}{:016x}", random.next(), random.next()));
        command.args(["--port", "0", "--demo-limits"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().map_err(failed)?;
        let mut line = String::new();
        let mut out = process.stdout.take().map(BufReader::new).ok_or("the server has no output")?;
        let read = out.read_line(&mut line);
        let addr = line.trim_end().rsplit("http://").next().and_then(|addr| addr.parse().ok());
        match (read, addr) {
            (Ok(_), Some(addr)) => Ok(Self { process, addr, _out: out }),
            _ => {
                let _ = process.kill();
                let _ = process.wait();
                Err("the server did not start; run `ripplecast --port 0` to see why".to_owned())
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
