//! A handle to a node in its own process.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    options::Url,
    protocol::{BusReport, Counts, Request, Response},
};
use crate::load::measure::Process;
use crate::result::Result;

/// The time a node has for a graceful exit.
const END: Duration = Duration::from_secs(5);

/// A node in its own process. It stops when this is dropped, or when this process ends.
pub(super) struct Peer {
    process: Child,
    /// The node's standard input, or `None` once it is to stop.
    requests: Option<ChildStdin>,
    /// The node's standard output.
    answers: BufReader<ChildStdout>,
    /// The address of its WebSocket endpoint.
    pub(super) addr: SocketAddr,
}

impl Peer {
    /// Starts a node.
    pub(super) fn start(backend: &Url, prefix: &str) -> Result<Self> {
        let failed = |error: io::Error| format!("failed to start a node: {error}");
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args(["bench", "backend", "--backend", backend.as_str(), "--node", prefix]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // A separate process group: the terminal's Ctrl-C is for the run, which then stops
        // the node.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command.spawn().map_err(failed)?;
        let (Some(requests), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("a node has no standard input and output".to_owned());
        };
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut peer = Self { process, requests: Some(requests), answers: BufReader::new(answers), addr };
        match peer.answer()? {
            Response::Ready { addr } => peer.addr = addr,
            other => return Err(strange(&other)),
        }
        Ok(peer)
    }

    /// Returns its process, for measurements.
    pub(super) fn process(&self) -> Process {
        Process::of(self.process.id())
    }

    /// Sends messages from this node. All of them must be accepted.
    pub(super) fn load(&mut self, request: &Request) -> Result<()> {
        let wanted = match request {
            Request::Publish(load) | Request::Push(load) => load.count,
            _ => 0,
        };
        match self.ask(request)? {
            Response::Done { taken } if taken == wanted => Ok(()),
            Response::Done { taken } => Err(format!("a node accepted {taken} of {wanted} messages")),
            other => Err(strange(&other)),
        }
    }

    /// Subscribes on the bus.
    pub(super) fn listen(&mut self, run: u32) -> Result<()> {
        self.load(&Request::Listen { run })
    }

    /// Returns what it has received on the bus.
    pub(super) fn report(&mut self) -> Result<BusReport> {
        match self.ask(&Request::Received)? {
            Response::Received(report) => Ok(report),
            other => Err(strange(&other)),
        }
    }

    /// Returns its counters.
    pub(super) fn counts(&mut self) -> Result<Counts> {
        match self.ask(&Request::Counts)? {
            Response::Counts(counts) => Ok(counts),
            other => Err(strange(&other)),
        }
    }

    /// Sends a command, and waits for the response.
    fn ask(&mut self, request: &Request) -> Result<Response> {
        let line = serde_json::to_string(request)
            .map_err(|error| format!("failed to encode a command: {error}"))?
            + "\n";
        if let Some(requests) = &mut self.requests {
            requests
                .write_all(line.as_bytes())
                .map_err(|error| format!("failed to send a command to a node: {error}"))?;
        }
        self.answer()
    }

    /// Returns the next response.
    fn answer(&mut self) -> Result<Response> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => Err("a node has exited; see its output above".to_owned()),
            Ok(_) => match serde_json::from_str(&line) {
                Ok(Response::Failed(error)) => Err(format!("a node reported an error: {error}")),
                Ok(answer) => Ok(answer),
                Err(error) => Err(format!("invalid response {line:?} from a node: {error}")),
            },
            Err(error) => Err(format!("failed to read a node's response: {error}")),
        }
    }
}

/// Describes an unexpected response.
fn strange(answer: &Response) -> String {
    format!("unexpected response from a node: {answer:?}")
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.requests = None;
        let until = Instant::now() + END;
        while Instant::now() < until {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
