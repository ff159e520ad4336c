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
    order::{Answer, Counts, Heard, Order},
};
use crate::load::measure::Process;
use crate::result::Result;

/// The time a node has for a graceful exit.
const END: Duration = Duration::from_secs(5);

/// A node in its own process. It stops when this is dropped, or when this process ends.
pub(super) struct Peer {
    process: Child,
    /// The node's standard input, or `None` once it is to stop.
    orders: Option<ChildStdin>,
    /// The node's standard output.
    answers: BufReader<ChildStdout>,
    /// The address of its WebSocket endpoint.
    pub(super) addr: SocketAddr,
}

impl Peer {
    /// Starts a node.
    pub(super) fn start(backend: &Url, prefix: &str) -> Result<Self> {
        let told = |error: io::Error| format!("failed to start a node: {error}");
        let mut command = Command::new(std::env::current_exe().map_err(told)?);
        command.args(["bench", "backend", "--backend", backend.as_str(), "--node", prefix]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // A separate process group: the terminal's Ctrl-C is for the run, which then stops
        // the node.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command.spawn().map_err(told)?;
        let (Some(orders), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("a node has no standard input and output".to_owned());
        };
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut peer = Self { process, orders: Some(orders), answers: BufReader::new(answers), addr };
        match peer.answer()? {
            Answer::Ready { addr } => peer.addr = addr,
            other => return Err(strange(&other)),
        }
        Ok(peer)
    }

    /// Returns its process, for measurements.
    pub(super) fn process(&self) -> Process {
        Process::of(self.process.id())
    }

    /// Sends messages from this node. All of them must be accepted.
    pub(super) fn load(&mut self, order: &Order) -> Result<()> {
        let wanted = match order {
            Order::Publish(load) | Order::Push(load) => load.count,
            _ => 0,
        };
        match self.ask(order)? {
            Answer::Done { taken } if taken == wanted => Ok(()),
            Answer::Done { taken } => Err(format!("a node accepted {taken} of {wanted} messages")),
            other => Err(strange(&other)),
        }
    }

    /// Subscribes on the bus.
    pub(super) fn listen(&mut self, run: u32) -> Result<()> {
        self.load(&Order::Listen { run })
    }

    /// Returns what it has received on the bus.
    pub(super) fn heard(&mut self) -> Result<Heard> {
        match self.ask(&Order::Heard)? {
            Answer::Heard(heard) => Ok(heard),
            other => Err(strange(&other)),
        }
    }

    /// Returns its counters.
    pub(super) fn counts(&mut self) -> Result<Counts> {
        match self.ask(&Order::Counts)? {
            Answer::Counts(counts) => Ok(counts),
            other => Err(strange(&other)),
        }
    }

    /// Sends a command, and waits for the response.
    fn ask(&mut self, order: &Order) -> Result<Answer> {
        let line = serde_json::to_string(order)
            .map_err(|error| format!("failed to encode a command: {error}"))?
            + "\n";
        if let Some(orders) = &mut self.orders {
            orders
                .write_all(line.as_bytes())
                .map_err(|error| format!("failed to send a command to a node: {error}"))?;
        }
        self.answer()
    }

    /// Returns the next response.
    fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => Err("a node has exited; see its output above".to_owned()),
            Ok(_) => match serde_json::from_str(&line) {
                Ok(Answer::Failed(error)) => Err(format!("a node reported an error: {error}")),
                Ok(answer) => Ok(answer),
                Err(error) => Err(format!("invalid response {line:?} from a node: {error}")),
            },
            Err(error) => Err(format!("failed to read a node's response: {error}")),
        }
    }
}

/// Describes an unexpected response.
fn strange(answer: &Answer) -> String {
    format!("unexpected response from a node: {answer:?}")
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.orders = None;
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
